"""The labelling page over HTTP: what it does for its own browser, and what it refuses to everybody else."""

from __future__ import annotations

import asyncio
import json
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from page_help import LABELS, QUESTIONS, TOKEN, ask, examples, free_port, make_run
from starlette.testclient import TestClient

from guidestar.errors import ConfigError, GuidestarError, StoreError
from guidestar.people.page import create_app, serve
from guidestar.people.page import server as page_server
from guidestar.people.page.app import run_identity
from guidestar.people.page.guard import HEADERS, LIMIT
from guidestar.records import Flag, Label, Metrics, Note, Skip, Suggestion, Undo, Verdict
from guidestar.store import Store, files

HOST = "127.0.0.1:8000"
WRITE = {"X-Guidestar": "1", "Origin": f"http://{HOST}", "Content-Type": "application/json"}
IDS = list(examples(QUESTIONS))


class Clock:
    """Real time, and more on demand."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def open_page(clock: Clock) -> Iterator[Callable[..., TestClient]]:
    """Opens the page of a run: a client with the cookie."""
    opened: list[TestClient] = []

    def page(run: Path, *, enter: bool = True, **options: Any) -> TestClient:
        app = create_app(run, **({"token": TOKEN, "trainer": None, "hosts": {HOST}, "clock": clock} | options))
        client = TestClient(app, base_url=f"http://{HOST}", follow_redirects=False)
        client.__enter__()
        opened.append(client)
        if enter:
            assert client.get(f"/?token={TOKEN}").status_code == 303
        return client

    yield page
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture
def page(run: Path, open_page: Callable[..., TestClient]) -> TestClient:
    return open_page(run)


def post(page: TestClient, name: str, body: dict[str, Any], status: int = 200) -> Any:
    answer = page.post(f"/api/{name}", content=json.dumps(body), headers=WRITE)
    assert answer.status_code == status, answer.text
    return answer.json() if answer.headers["content-type"] == "application/json" else answer.text


_made = iter(range(10**9))


def decision(id: str, kind: str = "label", text: str = "", **more: Any) -> dict[str, Any]:
    return {"decision": f"decision-{next(_made):08d}", "id": id, "kind": kind, "text": text, **more}


def save(page: TestClient, *decisions: dict[str, Any], annotator: str = "ann") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = post(page, "save", {"annotator": annotator, "decisions": decisions})["results"]
    return found


def following(page: TestClient, annotator: str = "ann", want: int = 3, **more: Any) -> Any:
    return post(page, "next", {"annotator": annotator, "want": want, **more})


def ids_of(reply: Any) -> list[str]:
    return [example["id"] for example in reply["examples"]]


def label_all(run: Path, labels: list[str], annotator: str = "ann", round: int = 0) -> None:
    with Store.open(run) as store:
        for e, label in zip(store.annotations.unanswered(round), labels, strict=False):
            store.annotations.add(e.id, Label(label, annotator))


# --- the door -------------------------------------------------------------------------------------


def test_the_link_becomes_a_cookie_that_no_script_and_no_other_site_gets(
    run: Path, open_page: Callable[..., TestClient]
) -> None:
    page = open_page(run, enter=False)
    assert page.get("/").status_code == 403, "without the token there is nothing"
    answer = page.get(f"/review?x=1&token={TOKEN}&y=%2F")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/review?x=1&y=%2F", "the token leaves the address"
    assert re.fullmatch(
        rf"guidestar-[0-9a-f]{{12}}={TOKEN}; Path=/; HttpOnly; SameSite=Strict", answer.headers["set-cookie"]
    )
    assert page.get("/review").status_code == 200
    assert TOKEN not in page.get("/").text


@pytest.mark.parametrize("token", ["", "x", TOKEN[:-1], TOKEN + "t", TOKEN.upper(), "ü", "%00", "a" * 5000])
def test_a_wrong_token_is_refused_even_with_the_cookie(page: TestClient, token: str) -> None:
    answer = page.get("/", params={"token": token})
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("path", ["/", "/review", "/static/page.css", "/static/label.js", "/nothing"])
def test_without_the_cookie_nothing_is_served(run: Path, open_page: Callable[..., TestClient], path: str) -> None:
    page = open_page(run, enter=False)
    for cookie in ("", "guidestar=x", f"guidestar-000000000000={TOKEN}", f"{cookie_name(page)}=wrong"):
        assert page.get(path, headers={"cookie": cookie} if cookie else {}).status_code == 403
    assert (
        page.get(path, headers={"cookie": f"a=b; {cookie_name(page)}=wrong; {cookie_name(page)}={TOKEN}"}).status_code
        != 403
    )


def cookie_name(page: TestClient) -> str:
    name = str(page.get(f"/?token={TOKEN}").headers["set-cookie"]).partition("=")[0]
    page.cookies.clear()
    return name


def test_two_runs_on_one_machine_have_cookies_of_their_own(
    tmp_path: Path, open_page: Callable[..., TestClient]
) -> None:
    """A browser sends the cookies of 127.0.0.1 to every port of it."""
    names = {cookie_name(open_page(make_run(tmp_path, experiment=n), token=t * 43)) for n, t in (("a", "t"),)}
    other = open_page(make_run(tmp_path, experiment="b"), token="u" * 43, enter=False)
    names.add(str(other.get(f"/?token={'u' * 43}").headers["set-cookie"]).partition("=")[0])
    assert len(names) == 2


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "127.0.0.1", "127.0.0.1:8001", "localhost:8000", "127.0.0.1:8000.evil", ""],
)
def test_another_host_is_refused_whatever_else_is_right(page: TestClient, host: str) -> None:
    """DNS rebinding: a foreign name that resolves to this machine."""
    for path in ("/", "/static/label.js", f"/?token={TOKEN}"):
        assert page.get(path, headers={"host": host}).status_code == 403
    body = json.dumps({"annotator": "ann"})
    assert page.post("/api/state", content=body, headers=WRITE | {"host": host}).status_code == 403


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "https://127.0.0.1:8000", "http://127.0.0.1:8001", "http://127.0.0.1:8000.evil"],
)
def test_another_origin_is_refused_on_every_request(page: TestClient, origin: str) -> None:
    for path in ("/", "/review", "/static/label.js", f"/?token={TOKEN}"):
        assert page.get(path, headers={"origin": origin}).status_code == 403
    body = json.dumps({"annotator": "ann"})
    assert page.post("/api/state", content=body, headers=WRITE | {"Origin": origin}).status_code == 403


def test_a_browser_that_says_another_site_asks_is_refused(page: TestClient) -> None:
    body = json.dumps({"annotator": "ann"})
    for site in ("cross-site", "same-site", "none"):
        headers = {"Sec-Fetch-Site": site}
        assert page.post("/api/state", content=body, headers=WRITE | headers).status_code == 403
        assert page.get("/static/label.js", headers=headers).status_code == 403
        assert page.get("/", headers=headers).status_code == 200, "a link may be followed from anywhere"
    assert page.post("/api/state", content=body, headers=WRITE | {"Sec-Fetch-Site": "same-origin"}).status_code == 200


DOORS = ["save", "next", "state", "example", "history", "review", "retry"]


@pytest.mark.parametrize("name", DOORS)
def test_a_write_needs_its_header_its_origin_and_json(page: TestClient, name: str) -> None:
    body = json.dumps({"annotator": "ann"})
    for missing, status in (("X-Guidestar", 403), ("Origin", 403), ("Content-Type", 415)):
        headers = {key: value for key, value in WRITE.items() if key != missing}
        assert page.post(f"/api/{name}", content=body, headers=headers).status_code == status
    for wrong in (
        {"X-Guidestar": "0"},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
    ):
        assert page.post(f"/api/{name}", content=body, headers=WRITE | wrong).status_code in (403, 415)
    assert page.get(f"/api/{name}", headers=WRITE).status_code == 405
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        assert page.request(method, f"/api/{name}", content=body, headers=WRITE).status_code == 405


def test_every_answer_carries_the_strict_headers(
    page: TestClient, run: Path, open_page: Callable[..., TestClient]
) -> None:
    stranger = open_page(run, enter=False)
    answers = [
        page.get("/"), page.get("/review"), page.get("/static/page.css"), page.get("/nothing"), stranger.get("/"),
        page.get("/", headers={"host": "evil"}), page.get(f"/?token={TOKEN}"), page.request("PUT", "/"),
        page.post("/api/state", content=b'{"annotator": "ann"}', headers=WRITE),
        page.post("/api/state", content=b"{", headers=WRITE),
        page.post("/api/state", content=b" " * (LIMIT + 1), headers=WRITE),
    ]  # fmt: skip
    assert [a.status_code for a in answers] == [200, 200, 200, 404, 403, 403, 303, 405, 200, 422, 413]
    for answer in answers:
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
        assert "access-control-allow-origin" not in answer.headers
    policy = HEADERS["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy


def test_an_error_of_ours_is_a_plain_500_with_the_same_headers(
    page: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from guidestar.people.page import views

    monkeypatch.setattr(views, "state", lambda *a: 1 / 0)
    answer = page.post("/api/state", content=b'{"annotator": "ann"}', headers=WRITE)
    assert answer.status_code == 500
    assert "ZeroDivision" not in answer.text
    assert answer.headers["content-security-policy"] == HEADERS["content-security-policy"]
    assert "ZeroDivisionError" in caplog.text


# --- bodies ---------------------------------------------------------------------------------------


def test_a_body_may_have_64_kib_whether_or_not_it_says_its_length(page: TestClient) -> None:
    body = json.dumps({"annotator": "ann"}).encode()
    fits = body + b" " * (LIMIT - len(body))
    large = fits + b" "
    assert page.post("/api/state", content=fits, headers=WRITE).status_code == 200
    assert page.post("/api/state", content=large, headers=WRITE).status_code == 413
    assert page.post("/api/state", content=body, headers=WRITE | {"Content-Length": "9" * 30}).status_code == 413
    assert page.post("/api/state", content=body, headers=WRITE | {"Content-Length": "-1"}).status_code == 413

    def parts(data: bytes) -> Iterator[bytes]:
        yield from (data[i : i + 1000] for i in range(0, len(data), 1000))

    assert page.post("/api/state", content=parts(fits), headers=WRITE).status_code == 200
    assert page.post("/api/state", content=parts(large), headers=WRITE).status_code == 413


GOOD = {"annotator": "ann", "decisions": [{"decision": "d" * 8, "id": IDS[0], "kind": "label", "text": "HUM"}]}


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b"1", b'"x"', b"\xff\xfe", b"{} {}", b"[" * 20_000, b'{"a":' * 5_000,
        b'{"annotator": "a\\ud800"}', b'{"annotator": NaN}',
    ],
)  # fmt: skip
def test_what_is_no_json_object_is_refused(page: TestClient, body: bytes) -> None:
    for name in DOORS:
        answer = page.post(f"/api/{name}", content=body, headers=WRITE)
        assert answer.status_code == 422, (name, body[:20], answer.text)
        assert set(answer.json()) == {"error"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unknown": 1}, "unknown"),
        ({"annotator": 1}, "annotator"),
        ({"annotator": None}, "annotator"),
        ({"decisions": "x"}, "decisions"),
        ({"decisions": []}, "decisions"),
        ({"decisions": [GOOD["decisions"][0]] * 101}, "decisions"),  # type: ignore[index]
    ],
)
def test_wrong_types_and_unknown_keys_are_named(page: TestClient, change: dict[str, Any], message: str) -> None:
    assert message in post(page, "save", GOOD | change, 422)["error"]


@pytest.mark.parametrize(
    "change",
    [
        {"id": 1}, {"id": "../../etc/passwd"}, {"id": ""}, {"id": "x" * 65}, {"kind": "delete"}, {"kind": ["label"]},
        {"text": 1}, {"text": "x" * 10_001}, {"text": None}, {"on": 1}, {"on": "true"}, {"seen": "yes"},
        {"decision": "short"}, {"decision": "d" * 65}, {"decision": "a b c d e f g"}, {"annotator": "ben"},
        {"source": "oracle"}, {"at": "2020"}, {"__proto__": {}},
    ],
)  # fmt: skip
def test_a_wrong_decision_is_refused_and_nothing_of_its_request_is_stored(
    page: TestClient, run: Path, change: dict[str, Any]
) -> None:
    wrong = GOOD["decisions"][0] | change  # type: ignore[operator]
    post(page, "save", {"annotator": "ann", "decisions": [decision(IDS[1], text="LOC"), wrong]}, 422)
    with Store.open(run) as store:
        assert store.annotations.history() == []


@pytest.mark.parametrize(
    "name",
    ["", " ", "a" * 41, "a\n", "<b>", "a/b", "..", "ann ", " ann", "a\u202eb", "oracle", "Oracle", "a:b", "\u0301"],
)
def test_names_of_annotators_are_restricted(page: TestClient, name: str) -> None:
    post(page, "state", {"annotator": name}, 422)
    with pytest.raises(ConfigError, match=r"annotator: found .*at most 40 characters"):
        page_server.checked_name(name)


@pytest.mark.parametrize("name", ["ann", "Åsa Öberg", "李雷", "ann.b@example-1+x_", "7", "a" * 40, "José"])
def test_ordinary_names_are_not(page: TestClient, name: str) -> None:
    assert post(page, "state", {"annotator": name})["ready"]
    assert page_server.checked_name(name) == name


def test_two_spellings_of_one_name_are_one_person(page: TestClient) -> None:
    save(page, decision(IDS[0], text="HUM"), annotator="Jose\u0301")
    assert [line["id"] for line in post(page, "history", {"annotator": "Jos\u00e9"})["lines"]] == [IDS[0]]


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static/%2e%2e%2fapp.py", "/static/.",
        "/static//etc/passwd", "/static/%2fetc%2fpasswd", "/static/..\\app.py", "/static/", "/static", "/static/page.css/",
        "/static/page.css%00", "/../app.py", "//etc/passwd", "/label.token", "/run.sqlite", "/static/label.html",
    ],
)  # fmt: skip
def test_no_path_of_a_request_reaches_the_file_system(page: TestClient, path: str) -> None:
    answer = page.get(path)
    assert answer.status_code in (404, 307), path
    if answer.status_code == 307:
        assert answer.headers["location"].startswith(f"http://{HOST}/")
    assert "import" not in answer.text


@pytest.mark.parametrize(
    "path", ["/static/../app.py", "/static/../../../../etc/passwd", "/static//etc/passwd", "/../label.token"]
)
def test_a_path_that_no_client_has_tidied_up_reaches_nothing_either(run: Path, path: str) -> None:
    """As a raw request has it: the client of the other tests resolves dots before it sends them."""
    app = create_app(run, token=TOKEN, trainer=None, hosts={HOST})
    headers = [(b"host", HOST.encode()), (b"cookie", f"guidestar-{run_identity(TOKEN)}={TOKEN}".encode())]
    sent: list[Any] = []

    async def request() -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http", "http_version": "1.1", "method": "GET", "scheme": "http", "path": path, "query_string": b"",
            "raw_path": path.encode(), "root_path": "", "headers": headers, "server": ("127.0.0.1", 8000),
        }  # fmt: skip
        await app(scope, receive, send)

    asyncio.run(request())
    assert sent[0]["status"] == 404
    assert sent[1]["body"] == b"Not Found"


def test_the_static_files_are_those_of_the_package(page: TestClient) -> None:
    from guidestar.people.page.app import HERE

    for path in (HERE / "static").iterdir():
        answer = page.get(f"/static/{path.name}")
        assert answer.content == path.read_bytes()
        assert answer.headers["content-type"].startswith({".js": "text/javascript", ".css": "text/css"}[path.suffix])


def test_nothing_of_the_page_comes_from_elsewhere() -> None:
    """No CDN, no inline script or style, no HTML made of texts."""
    from guidestar.people.page.app import HERE

    sources = {
        path.name: path.read_text(encoding="utf-8")
        for path in HERE.rglob("*")
        if path.suffix in (".js", ".css", ".html")
    }
    assert len(sources) > 8
    for name, text in sources.items():
        bare = text.replace("http://www.w3.org/2000/svg", "")
        assert "//" not in re.sub(r"^\s*//.*$|\s// .*$", "", bare, flags=re.M), f"{name} names another server"
        for danger in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "Function(",
            "DOMParser",
            "| safe",
            "|safe",
        ):
            assert danger not in text, f"{name}: {danger}"
        if name.endswith(".html"):
            assert not re.search(r"\son\w+=|style=|<style|javascript:", text), name
            assert all('src="/static/' in tag for tag in re.findall(r"<script[^>]*>", text)), name


# --- texts are texts ------------------------------------------------------------------------------

INJECTIONS = [
    "<script>window.pwned=1</script>", "<img src=x onerror=window.pwned=1>", "</script><script>window.pwned=1</script>",
    "<svg/onload=window.pwned=1>", "javascript:window.pwned=1", "'\"><script>window.pwned=1</script>",
    "{{ 7*7 }}{% raw %}", "${window.pwned=1}", "<!--<script>", "&lt;script&gt;window.pwned=1&lt;/script&gt;",
    "<iframe srcdoc='<script>parent.pwned=1</script>'>", "\u202egnp.exe", "<base href=//evil.example>",
    "<a href=javascript:window.pwned=1>x</a>", "\x00\x08\x1b[31m", "<meta http-equiv=refresh content=0>",
    "<style>*{display:none}</style>", "</textarea><script>window.pwned=1</script>", "\u2028a\u2029", "__proto__",
]  # fmt: skip


def injected_run(folder: Path) -> Path:
    """A run whose texts, labels, guidelines and suggestions are all attacks."""
    guide = folder / "guide.md"
    guide.write_text("\n".join(INJECTIONS), encoding="utf-8")
    labels = {f"{text} {i}": f"{text} word {i}" for i, text in enumerate(INJECTIONS[:12])}
    said = {f"{i:016x}": Suggestion(label, {label: 0.9}, -1) for i, label in enumerate(labels)}
    return make_run(folder, INJECTIONS, labels=labels, people={"guidelines": str(guide)}, suggestions=said)


def test_attacks_in_texts_come_back_as_texts(tmp_path: Path, open_page: Callable[..., TestClient]) -> None:
    page = open_page(injected_run(tmp_path))
    shown = page.get("/")
    assert shown.headers["content-type"] == "text/html; charset=utf-8"
    assert shown.text.count("<script") == 1
    assert "<img" not in shown.text
    assert "&lt;script&gt;window.pwned=1&lt;/script&gt;" in shown.text, "the guidelines are there, as text"
    assert "{{ 7*7 }}" in shown.text, "and no template"
    reply = following(page, want=10)
    assert [e["fields"][0]["text"] for e in reply["examples"]] == INJECTIONS[:10]
    label = reply["state"]["task"]["labels"][0]["label"]
    results = save(
        page, decision(IDS[0], text=label), *(decision(IDS[0], "note", text) for text in INJECTIONS), annotator="ann"
    )
    assert not any(result["refused"] for result in results)
    answer = page.post("/api/example", content=json.dumps({"annotator": "ann", "id": IDS[0]}), headers=WRITE)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["note"] == INJECTIONS[-1]
    assert answer.json()["answer"] == {"kind": "label", "text": label}


def test_a_foreign_name_of_the_folder_is_text_too(tmp_path: Path, open_page: Callable[..., TestClient]) -> None:
    shown = open_page(make_run(tmp_path, experiment="<script>x <b>")).get("/").text
    assert "<script>x" not in shown
    assert "&lt;script&gt;x &lt;b&gt;" in shown


# --- saving ---------------------------------------------------------------------------------------


def test_what_is_saved_is_in_the_store_with_its_maker_and_its_source(page: TestClient, run: Path) -> None:
    results = save(
        page, decision(IDS[0], text="HUM"), decision(IDS[1], text="LOC", seen=True), decision(IDS[2], "skip", "unclear"),
        decision(IDS[1], "flag"), decision(IDS[2], "note", " why? "), decision(IDS[0], "undo"),
        decision(IDS[3], "verdict", "DESC"), decision(IDS[1], "flag", on=False),
    )  # fmt: skip
    assert all(result["new"] and not result["refused"] for result in results)
    with Store.open(run) as store:
        assert [(e.id, e.annotation, e.source) for e in store.annotations.history()] == [
            (IDS[0], Label("HUM", "ann"), "page"),
            (IDS[1], Label("LOC", "ann"), "page+suggestion"),
            (IDS[2], Skip("unclear", "ann"), "page"),
            (IDS[1], Flag("ann"), "page"),
            (IDS[2], Note("why?", "ann"), "page"),
            (IDS[0], Undo("ann"), "page"),
            (IDS[3], Verdict("DESC", "ann"), "page"),
            (IDS[1], Flag("ann", on=False), "page"),
        ]
        assert [e.decision for e in store.annotations.history()] == [r["decision"] for r in results]


def test_a_decision_that_comes_again_is_stored_once(page: TestClient, run: Path) -> None:
    one, two = decision(IDS[0], text="HUM"), decision(IDS[0], text="LOC")
    assert [r["new"] for r in save(page, one, one, two)] == [True, False, True]
    assert [r["new"] for r in save(page, one, two)] == [False, False]
    changed = one | {"text": "NUM"}
    moved = one | {"id": IDS[1]}
    results = save(page, changed, moved, one | {"kind": "skip"}) + save(page, one, annotator="ben")
    assert all("recorded with other content" in r["refused"] for r in results)
    fresh = decision(IDS[2], text="HUM")
    assert "other content" in save(page, fresh, fresh | {"text": "LOC"})[1]["refused"]
    with Store.open(run) as store:
        assert [e.annotation for e in store.annotations.history()] == [
            Label("HUM", "ann"),
            Label("LOC", "ann"),
            Label("HUM", "ann"),
        ]


def test_one_wrong_decision_does_not_hold_up_the_others(page: TestClient, run: Path) -> None:
    results = save(
        page, decision(IDS[0], text="HUM"), decision("f" * 16, text="HUM"), decision(IDS[1], text="PERSON"),
        decision(IDS[2], text="LOC"),
    )  # fmt: skip
    assert [bool(r["refused"]) for r in results] == [False, True, True, False]
    assert "not one of this run" in results[1]["refused"]
    assert "'PERSON' is not one of: ABBR, DESC" in results[2]["refused"]
    with Store.open(run) as store:
        assert store.annotations.answers() == {IDS[0]: Label("HUM", "ann"), IDS[2]: Label("LOC", "ann")}


def test_numbers_and_texts_are_read_as_the_task_reads_them(
    tmp_path: Path, open_page: Callable[..., TestClient]
) -> None:
    numbers = make_run(tmp_path, kind="number", experiment="numbers")
    page = open_page(numbers)
    results = save(
        page, decision(IDS[0], text=" 1,018 "), decision(IDS[1], text="none"), decision(IDS[2], text="2+2\n#### 4")
    )
    assert "no number in the answer 'none'" in results[1]["refused"]
    with Store.open(numbers) as store:
        assert [a.answer for a in store.annotations.answers().values() if isinstance(a, Label)] == [
            "#### 1018",
            "2+2\n#### 4",
        ]
    texts = make_run(tmp_path, kind="text", experiment="texts")
    page = open_page(texts)
    results = save(page, decision(IDS[0], text="  The Seine \n"), decision(IDS[1], text="   "))
    assert "the answer is empty" in results[1]["refused"]
    with Store.open(texts) as store:
        assert store.annotations.answers() == {IDS[0]: Label("The Seine", "ann")}


def test_saves_that_wait_together_are_flushed_together_and_each_is_answered_for_itself(
    page: TestClient, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one transaction is written, seven other requests wait; they make one further transaction."""
    commits: list[str] = []
    first, waiting = threading.Event(), threading.Event()

    def step(name: str) -> None:
        if name.startswith("commit annotate"):
            commits.append(name)
            first.set()
            assert waiting.wait(20)

    monkeypatch.setattr(files, "step", step)
    answers: dict[int, Any] = {}

    def send(i: int) -> None:
        text = "HUM" if i % 2 else "no label"
        answers[i] = save(page, decision(IDS[0], text="HUM"), decision(IDS[i], text=text), annotator=f"p{i}")

    threads = [threading.Thread(target=send, args=(i,)) for i in range(8)]
    threads[0].start()
    assert first.wait(20)
    for thread in threads[1:]:
        thread.start()
    time.sleep(0.3)
    waiting.set()
    for thread in threads:
        thread.join()
    assert len(commits) == 2, commits
    assert [[bool(r["refused"]) for r in answers[i]] for i in range(8)] == [[False, i % 2 == 0] for i in range(8)]
    with Store.open(run) as store:
        assert len(store.annotations.by_annotator()[IDS[0]]) == 8


def test_a_full_disk_is_an_answer_that_asks_for_another_try_and_nothing_is_stored(
    page: TestClient, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = decision(IDS[0], text="HUM")
    with monkeypatch.context() as patch:

        def full(name: str) -> None:
            if name.startswith("commit"):
                raise StoreError("run.sqlite: cannot be written: the disk is full")

        patch.setattr(files, "step", full)
        answer = post(page, "save", {"annotator": "ann", "decisions": [one]}, 503)
        assert "the disk is full" in answer["error"]
        with Store.open(run) as store:
            assert store.annotations.history() == []
    assert save(page, one) == [{"decision": one["decision"], "refused": "", "new": True}]


# --- what comes next ------------------------------------------------------------------------------


def test_examples_come_in_the_order_of_asking_with_all_that_is_shown(page: TestClient) -> None:
    reply = following(page, want=2)
    assert ids_of(reply) == IDS[:2]
    assert reply["examples"][0] == {
        "id": IDS[0], "fields": [{"name": "text", "text": QUESTIONS[0]}],
        "prompt": f"Question: {QUESTIONS[0]}\nType:", "where": "pool.csv line 2", "round": 0, "second": False,
        "answer": None, "note": "", "flagged": False, "suggestion": None,
    }  # fmt: skip
    state = reply["state"]
    assert state["task"] == {"kind": "choice", "labels": [{"label": k, "word": v} for k, v in LABELS.items()]}
    assert (state["round"], state["rounds"], state["asked"], state["done"]) == (0, 5, 12, 0)
    assert (state["labels"], state["budget"], state["finished"], state["validation"]) == (0, 30, None, None)


def test_two_annotators_get_different_examples_until_a_lease_is_over(page: TestClient, clock: Clock) -> None:
    assert ids_of(following(page, "ann", 3)) == IDS[:3]
    assert ids_of(following(page, "ben", 9)) == IDS[3:]
    save(page, *(decision(id, text="HUM") for id in IDS[3:]), annotator="ben")
    reply = following(page, "ben")
    assert ids_of(reply) == []
    assert reply["idle"] == {
        "kind": "held",
        "text": "3 examples are in front of others. What they leave unanswered comes to you, the first in 15 minutes.",
    }
    clock.ahead = 15 * 60 + 1
    assert ids_of(following(page, "ben", 2)) == IDS[:2]
    lost = following(page, "ann", 0, hold=IDS[:3])
    assert lost["lost"] == IDS[:2], "Ann learns that they are with Ben now"
    assert ids_of(following(page, "ann", 3)) == [IDS[2]], "what was shown to her and nobody took is still hers"


def test_a_page_at_work_keeps_what_it_holds(page: TestClient, clock: Clock) -> None:
    following(page, "ann", 2)
    clock.ahead = 10 * 60
    following(page, "ann", 0, hold=IDS[:2])
    clock.ahead = 20 * 60
    assert ids_of(following(page, "ben", 1)) == [IDS[2]]


def test_a_page_that_was_left_open_holds_nothing_for_longer_than_a_lease(page: TestClient, clock: Clock) -> None:
    following(page, "ann", 2)
    for _ in range(8):  # it goes on asking, and nobody is there
        clock.ahead += 150
        following(page, "ann", 0, hold=IDS[:2], active=False)
    assert ids_of(following(page, "ben", 2)) == IDS[:2]
    assert following(page, "ann", 0, hold=IDS[:2], active=True)["lost"] == IDS[:2], "who comes back learns of it"


def test_claims_outlive_the_server(run: Path, open_page: Callable[..., TestClient]) -> None:
    following(open_page(run), "ann", 3)
    again = open_page(run)
    assert ids_of(following(again, "ben", 1)) == [IDS[3]]
    assert ids_of(following(again, "ann", 3)) == IDS[:3]


def test_what_is_on_its_way_is_not_offered_again(page: TestClient) -> None:
    assert ids_of(following(page, want=3)) == IDS[:3]
    assert ids_of(following(page, want=2, hold=[IDS[1]], have=[IDS[0]])) == [IDS[2], IDS[3]]


def test_an_undo_brings_the_example_back_to_who_took_it_back(page: TestClient) -> None:
    assert ids_of(following(page, want=1)) == IDS[:1]
    save(page, decision(IDS[0], text="HUM"))
    assert ids_of(following(page, want=1)) == [IDS[1]]
    save(page, decision(IDS[0], "undo"))
    assert ids_of(following(page, want=1)) == [IDS[0]]
    assert post(page, "history", {"annotator": "ann"})["lines"] == []


def test_second_opinions_never_hold_up_a_round(tmp_path: Path, open_page: Callable[..., TestClient]) -> None:
    run = make_run(tmp_path, people={"overlap": 1.0})
    page = open_page(run)
    save(page, *(decision(id, text="HUM") for id in IDS))
    reply = following(page, "ann")
    assert (ids_of(reply), reply["idle"]["kind"]) == ([], "complete")
    reply = following(page, "ben", 2)
    assert ids_of(reply) == IDS[:2]
    assert [e["second"] for e in reply["examples"]] == [True, True]
    with Store.open(run) as store:
        store.add_adapter(0, lambda folder: None)
        store.add_metrics(Metrics(0, 12, {"validation_accuracy": 0.75}))
        ask(store, 1, examples(["another ?"], 100))
    fresh = f"{100:016x}"
    reply = following(page, "cem", 2)
    assert ids_of(reply) == [fresh, IDS[2]], "the new round first, then what is open of the earlier one"
    assert reply["state"]["validation"] == 0.75
    assert (reply["state"]["round"], reply["state"]["asked"], reply["state"]["done"]) == (1, 1, 0)


def test_the_work_of_other_processes_shows_up(page: TestClient, run: Path) -> None:
    following(page)
    label_all(run, ["HUM"] * 12, "terminal")
    with Store.open(run) as store:
        store.add_adapter(0, lambda folder: None)
        store.add_metrics(Metrics(0, 12, {}))
        ask(store, 1, examples(["new ?"], 50))
    reply = following(page)
    assert ids_of(reply) == [f"{50:016x}"]
    assert reply["state"]["labels"] == 12


def test_the_end_of_a_run_is_said(page: TestClient, run: Path) -> None:
    from guidestar.records import Stop

    label_all(run, ["HUM"] * 12)
    with Store.open(run) as store:
        store.finish(Stop.BUDGET)
    reply = following(page, "ben")
    assert reply["idle"] == {"kind": "finished", "text": "The run is finished. The label budget is spent."}


def test_what_a_run_has_come_to_is_said_at_its_end(page: TestClient, run: Path) -> None:
    from guidestar.records import Stop

    label_all(run, ["HUM"] * 12)
    with Store.open(run) as store:
        store.add_adapter(0, lambda folder: None)
        store.add_metrics(Metrics(0, 12, {"accuracy": 0.625, "validation_accuracy": 0.5}))
        store.finish(Stop.BUDGET)
    assert following(page)["idle"] == {
        "kind": "finished",
        "text": "The run is finished. The label budget is spent. Accuracy: 62 % on the test set and 50 % on the validation set. "
        "The adapter, trained on 12 labels, lies in:",
        "command": str(run / "adapters" / "round-000"),
    }


def test_a_round_that_makes_up_for_skips_is_counted_and_the_last_one_is_called_so(
    tmp_path: Path, open_page: Callable[..., TestClient]
) -> None:
    run = make_run(tmp_path, QUESTIONS[:4], query={"warm_start": 4, "batch": 5, "budget": 4})
    page = open_page(run)
    save(page, decision(IDS[0], "skip"), *(decision(id, text="HUM") for id in IDS[1:4]))
    assert "before the next round is chosen" in following(page)["idle"]["text"]
    with Store.open(run) as store:
        store.add_adapter(0, lambda folder: None)
        store.add_metrics(Metrics(0, 3, {}))
        ask(store, 1, examples(["one more ?"], 4))
    state = following(page)["state"]
    assert (state["round"], state["rounds"]) == (1, 2), "one was planned"
    save(page, decision(IDS[4], text="HUM"))
    assert following(page)["idle"]["text"].startswith(
        "Round 2 has all its answers. The budget is spent. The model is to"
    )


def test_waiting_for_the_training_does_not_slow_the_pace_down(
    run: Path, open_page: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve answers, ten seconds apart; a training of 90 seconds; two more."""
    start = time.time() - 240
    moments = iter([*(start + 10 * i for i in range(12)), start + 200, start + 210])
    stamp = lambda: datetime.fromtimestamp(next(moments), UTC).isoformat(timespec="milliseconds")  # noqa: E731
    monkeypatch.setattr("guidestar.store.annotations.timestamp", stamp)
    with Store.open(run) as store:
        for id in IDS:
            store.annotations.add(id, Label("HUM", "ann"))
        store.add_adapter(0, lambda folder: None)
        store.add_metrics(Metrics(0, 12, {}))
        ask(store, 1, examples(["one ?", "two ?", "three ?"], 50))
        for i in (50, 51):
            store.annotations.add(f"{i:016x}", Label("HUM", "ann"))
    monkeypatch.undo()
    assert following(open_page(run))["state"]["pace"] == pytest.approx(6.0)


def test_a_suggestion_that_comes_after_its_example_is_brought_along(page: TestClient, run: Path) -> None:
    reply = following(page, want=3)
    assert [e["suggestion"] for e in reply["examples"]] == [None] * 3
    assert reply["suggested"] == {}
    with Store.open(run) as store:
        store.add_suggestions(0, {id: Suggestion("HUM", {"HUM": 0.75, "LOC": 0.25}, -1) for id in IDS[1:6]})
    reply = following(page, want=1, hold=ids_of(reply))
    assert reply["suggested"] == {id: {"text": "HUM", "probability": 0.75} for id in IDS[1:3]}


def test_without_a_run_the_page_waits_and_goes_on_by_itself(
    tmp_path: Path, open_page: Callable[..., TestClient]
) -> None:
    folder = tmp_path / "questions"
    folder.mkdir()
    page = open_page(folder)
    assert page.get("/").status_code == 200
    state = post(page, "state", {"annotator": "ann"})
    assert not state["ready"]
    assert "has not begun" in state["text"]
    assert following(page)["state"] == state
    assert "has not begun" in post(page, "save", GOOD, 503)["error"]
    with Store.open(folder / "star-seed0", create=True):
        assert not post(page, "state", {"annotator": "ann"})["ready"], "made, and not begun"
    make_run(tmp_path)
    assert post(page, "state", {"annotator": "ann"})["ready"]
    assert save(page, GOOD["decisions"][0])[0]["new"]  # type: ignore[index]


def test_an_example_is_found_by_its_id_and_no_other(page: TestClient) -> None:
    assert post(page, "example", {"annotator": "ann", "id": IDS[5]})["fields"][0]["text"] == QUESTIONS[5]
    answer = page.post("/api/example", content=json.dumps({"annotator": "ann", "id": "0" * 15}), headers=WRITE)
    assert answer.status_code == 404


def test_suggestions_are_told_with_the_mode_of_the_configuration(
    tmp_path: Path, open_page: Callable[..., TestClient]
) -> None:
    said = {IDS[0]: Suggestion("HUM", {"HUM": 0.75, "LOC": 0.25}, -1)}
    modes = {}
    for name, people in {
        "shown": {}, "hidden": {"overlap": 0.5}, "off": {"suggestions": "off"}, "asked": {"overlap": 0.5, "suggestions": "shown"},
    }.items():  # fmt: skip
        reply = following(open_page(make_run(tmp_path, people=people, suggestions=said, experiment=name)), want=1)
        modes[name] = (reply["state"]["suggestions"], reply["examples"][0]["suggestion"])
    told = {"text": "HUM", "probability": 0.75}
    assert modes == {
        "shown": ("shown", told),
        "hidden": ("hidden", told),
        "off": ("off", None),
        "asked": ("shown", told),
    }


# --- history and review ---------------------------------------------------------------------------


def test_the_history_is_newest_first_has_its_filters_and_is_ones_own(page: TestClient) -> None:
    save(
        page, decision(IDS[0], text="HUM"), decision(IDS[1], "skip"), decision(IDS[2], text="LOC"), decision(IDS[3], "flag"),
        decision(IDS[0], "note", "hm"), decision(IDS[4], "flag"), decision(IDS[4], "flag", on=False),
    )  # fmt: skip
    save(page, decision(IDS[5], text="NUM"), annotator="ben")

    def lines(**more: Any) -> list[str]:
        return [line["id"] for line in post(page, "history", {"annotator": "ann", **more})["lines"]]

    assert lines() == [IDS[0], IDS[3], IDS[2], IDS[1]]
    assert lines(only="skipped") == [IDS[1]]
    assert lines(only="flagged") == [IDS[3]]
    assert lines(only="noted") == [IDS[0]]
    assert lines(skip=3) == [IDS[1]]
    first = post(page, "history", {"annotator": "ann"})["lines"][0]
    assert (first["answer"], first["noted"], first["text"]) == ({"kind": "label", "text": "HUM"}, True, QUESTIONS[0])


def test_review_lists_disagreements_errors_and_flags_until_a_verdict(
    tmp_path: Path, open_page: Callable[..., TestClient]
) -> None:
    sure = {label: 0.95 if label == "LOC" else 0.01 for label in LABELS}
    run = make_run(tmp_path, people={"overlap": 1.0})
    page = open_page(run)
    save(page, *(decision(id, text="HUM") for id in IDS), decision(IDS[4], "flag"))
    save(page, *(decision(id, text="LOC" if id == IDS[2] else "HUM") for id in IDS[:4]), annotator="ben")
    with Store.open(run) as store:
        store.add_adapter(0, lambda folder: None)
        store.add_metrics(Metrics(0, 12, {}))
        ask(store, 1, examples(["a ?", "b ?"], 50))
        a, b = (f"{i:016x}" for i in (50, 51))
        store.add_suggestions(
            1, {a: Suggestion("LOC", sure, 0), b: Suggestion("LOC", sure, 0), IDS[7]: Suggestion("LOC", sure, 0)}
        )
    save(page, decision(a, text="HUM"), decision(b, text="LOC"))

    def lists() -> dict[str, list[str]]:
        found = post(page, "review", {"annotator": "cem"})["lists"]
        assert all(one["count"] == len(one["cards"]) for one in found.values())
        return {name: [card["id"] for card in one["cards"]] for name, one in found.items()}

    assert lists() == {"disagreements": [IDS[2]], "suspects": [IDS[7], a], "flagged": [IDS[4]], "settled": []}
    found = post(page, "review", {"annotator": "cem"})
    card = found["lists"]["disagreements"]["cards"][0]
    assert card["answers"] == [
        {"annotator": "ann", "kind": "label", "text": "HUM"}, {"annotator": "ben", "kind": "label", "text": "LOC"},
    ]  # fmt: skip
    assert found["lists"]["suspects"]["cards"][0]["doubt"] == {"other": "LOC", "p_given": 0.01, "p_other": 0.95}
    save(
        page,
        decision(IDS[2], "verdict", "LOC"),
        decision(a, "verdict", "HUM"),
        decision(IDS[4], "verdict", "HUM"),
        annotator="cem",
    )
    assert lists() == {"disagreements": [], "suspects": [IDS[7]], "flagged": [], "settled": [IDS[4], a, IDS[2]]}
    with Store.open(run) as store:
        assert store.annotations.answers()[IDS[2]] == Label("LOC", "cem")


def test_review_shows_the_agreement_of_people_as_the_metrics_compute_it(
    tmp_path: Path, open_page: Callable[..., TestClient]
) -> None:
    from guidestar.metrics.agreement import krippendorff_alpha

    run = make_run(tmp_path, people={"overlap": 1.0})
    page = open_page(run)
    assert post(page, "review", {"annotator": "ann"})["agreement"] is None
    ann, ben = ["HUM", "LOC", "HUM", "NUM", "LOC", "NUM"], ["HUM", "LOC", "LOC", "NUM", "LOC", "HUM"]
    save(page, *(decision(id, text=t) for id, t in zip(IDS, ann, strict=False)))
    save(page, *(decision(id, text=t) for id, t in zip(IDS, ben, strict=False)), annotator="ben")
    with Store.open(run) as store:
        for id in IDS[:6]:
            store.annotations.add(id, Label("ABBR", "endpoint:x"), source="endpoint")
    found = post(page, "review", {"annotator": "ann"})["agreement"]
    expected = krippendorff_alpha([{"ann": a, "ben": b} for a, b in zip(ann, ben, strict=True)])
    assert (found["alpha"], found["low"], found["high"], found["units"]) == (
        expected.alpha,
        expected.low,
        expected.high,
        6,
    )
    assert found["pairs"] == [{"a": "ann", "b": "ben", "n": 6, "observed": 4 / 6, "kappa": pytest.approx(0.5)}]
    assert {c["label"] for c in found["classes"]} == {"HUM", "LOC", "NUM"}


def test_numbers_agree_by_value_and_texts_by_their_normal_form(
    tmp_path: Path, open_page: Callable[..., TestClient]
) -> None:
    for kind, ann, ben in (
        ("number", ["18", "4", "1/2"], ["It is 18.00\n#### 18.00", "5", "1/2"]),
        ("text", ["The Seine", "Rome"], ["seine!", "Paris"]),
    ):
        page = open_page(make_run(tmp_path, kind=kind, people={"overlap": 1.0}, experiment=kind))
        save(page, *(decision(id, text=t) for id, t in zip(IDS, ann, strict=False)))
        save(page, *(decision(id, text=t) for id, t in zip(IDS, ben, strict=False)), annotator="ben")
        found = post(page, "review", {"annotator": "ann"})
        assert [card["id"] for card in found["lists"]["disagreements"]["cards"]] == [IDS[1]]
        assert found["agreement"]["observed"] == (len(ann) - 1) / len(ann)
        assert found["agreement"]["classes"] == []


def test_guidelines_that_cannot_be_read_are_said_to_be_so(tmp_path: Path, open_page: Callable[..., TestClient]) -> None:
    page = open_page(make_run(tmp_path, people={"guidelines": str(tmp_path / "gone.md")}))
    assert "gone.md cannot be read: No such file" in page.get("/").text
    guide = tmp_path / "guide.md"
    guide.write_text("a\nb" * 200_000)
    page = open_page(make_run(tmp_path, people={"guidelines": str(guide)}, experiment="long"))
    assert len(page.get("/").text) < 250_000
    assert "the file is longer" in page.get("/").text


# --- many at once ---------------------------------------------------------------------------------


def eight_clients(run: Path, page: TestClient, saves: int, labels: list[str]) -> None:
    """Eight people save at once, each in small requests, and ask for the next examples in between."""
    ids = [e.id for e in stored(run)]
    each = saves // 8
    problems: list[BaseException] = []

    def work(person: int) -> None:
        try:
            for i in range(each):
                id = ids[(person * each + i) % len(ids)]
                [result] = save(page, decision(id, text=labels[(person + i) % len(labels)]), annotator=f"p{person}")
                assert result["new"]
                if i % 25 == 0:
                    following(page, f"p{person}", 1)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(p,)) for p in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems, problems[0]
    with Store.open(run) as store:
        entries = store.annotations.history()
        assert len(entries) == each * 8
        assert len({e.decision for e in entries}) == each * 8
        for p in range(8):
            mine = [e for e in entries if e.annotation.annotator == f"p{p}"]
            assert [(e.id, e.annotation) for e in mine] == [
                (ids[(p * each + i) % len(ids)], Label(labels[(p + i) % len(labels)], f"p{p}")) for i in range(each)
            ]


def stored(run: Path) -> list[Any]:
    with Store.open(run) as store:
        return list(store.annotations.unanswered(0))


def test_saves_of_eight_people_at_once_are_all_there_in_their_order(
    tmp_path: Path, open_page: Callable[..., TestClient]
) -> None:
    run = make_run(tmp_path, [f"text {i}" for i in range(60)], people={"overlap": 1.0})
    eight_clients(run, open_page(run), 400, list(LABELS))


# --- starting and stopping ------------------------------------------------------------------------


def test_the_token_is_secret_long_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "label.token"
    token = page_server.read_token(path)
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", token)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    assert page_server.read_token(path) == token
    assert stat.S_IMODE(path.stat().st_mode) == 0o600, "closed again"
    path.write_text("cut sh")
    other = page_server.read_token(path)
    assert other != token
    assert page_server.read_token(path) == other
    assert [p.name for p in tmp_path.iterdir()] == ["label.token"]


def test_two_pages_that_start_at_once_take_one_token(tmp_path: Path) -> None:
    path, found = tmp_path / "label.token", []
    threads = [threading.Thread(target=lambda: found.append(page_server.read_token(path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(found) == 8


@pytest.mark.parametrize(
    ("bind", "names"),
    [
        ("127.0.0.1", ["127.0.0.1", "localhost"]),
        ("::1", ["[::1]", "localhost"]),
        ("localhost", ["localhost", "127.0.0.1"]),
        ("192.0.2.7", ["192.0.2.7"]),
        ("Lab.Example", ["lab.example"]),
    ],
)
def test_the_page_answers_to_the_names_of_its_address(bind: str, names: list[str]) -> None:
    assert page_server.names_of(bind) == names
    assert page_server.is_loopback(bind) == ("localhost" in names)


def test_every_address_of_this_machine_is_a_name_when_all_are_listened_on() -> None:
    import socket

    names = page_server.names_of("0.0.0.0")
    assert names[0] == socket.gethostname().lower()
    assert {"127.0.0.1", "localhost"} <= set(names)
    assert "0.0.0.0" not in names
    assert not page_server.is_loopback("0.0.0.0")


def test_a_folder_has_its_own_port_and_a_port_in_use_is_said(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert page_server.usual_port(one) == page_server.usual_port(tmp_path / "two" / ".." / "one")
    assert 20_000 <= page_server.usual_port(two) < 30_000
    port = free_port()
    with page_server.listen("127.0.0.1", port, fixed=True):
        with pytest.raises(GuidestarError, match=rf"cannot listen on 127.0.0.1 port {port}: Address already in use"):
            page_server.listen("127.0.0.1", port, fixed=True)
        with page_server.listen("127.0.0.1", port, fixed=False) as other:
            assert other.getsockname()[1] != port
    with pytest.raises(GuidestarError, match="cannot listen on no such host port"):
        page_server.listen("no such host", port, fixed=True)


def test_what_cannot_be_labelled_is_said_before_anything_is_served(tmp_path: Path) -> None:
    def start(folder: Path, **options: Any) -> int:
        return serve(
            folder,
            **(
                {"train": False, "port": 0, "bind": "127.0.0.1", "annotator": None, "open_browser": False, "say": print}
                | options
            ),
        )

    with pytest.raises(StoreError, match=r"no such folder; `guidestar run CONFIG\.yaml` makes one"):
        start(tmp_path / "gone")
    with pytest.raises(StoreError, match="found no run; `guidestar run` begins one"):
        start(tmp_path)
    with pytest.raises(ConfigError, match=r"has no config\.yaml, so there is nothing to train by"):
        start(tmp_path, train=True)
    run = make_run(tmp_path)
    make_run(tmp_path / "questions", experiment="more")
    (tmp_path / "questions" / "more" / "star-seed0").rename(tmp_path / "questions" / "random-seed0")
    with pytest.raises(StoreError, match="holds 2 runs; name one of"):
        start(run.parent)
    with pytest.raises(ConfigError, match="annotator: found '<b>'"):
        start(run, annotator="<b>")


def test_opening_to_others_is_explained(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import uvicorn

    said: list[str] = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: setattr(self, "started", True))
    options: dict[str, Any] = {"train": False, "port": 0, "annotator": None, "open_browser": False, "say": said.append}
    assert serve(run, bind="127.0.0.1", **options) == 0
    assert not any("nothing is encrypted" in line for line in said)
    assert any(re.search(r"http://127\.0\.0\.1:2\d{4}/\?token=[A-Za-z0-9_-]{43}$", line) for line in said)
    said.clear()
    assert serve(run, bind="0.0.0.0", **options) == 0
    assert "The token in the link is the only lock, and nothing is encrypted on the way" in said[0]
