"""The labelling page over HTTP: what it does for its own browser, and what it refuses to everybody else."""

from __future__ import annotations

import asyncio
import json
import re
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from page_client import GOOD, HOST, IDS, WRITE, decision, following, post, save
from page_help import LABELS, SECRET, TOKEN, free_port, make_run
from starlette.testclient import TestClient

from guidestar.errors import ConfigError, GuidestarError, StoreError
from guidestar.people.page import server as page_server
from guidestar.people.page.app import create_app
from guidestar.people.page.guard import HEADERS, LIMIT, Keys
from guidestar.people.page.server import serve
from guidestar.records import Label, Suggestion
from guidestar.store import Store

# --- the door -------------------------------------------------------------------------------------


def test_the_link_becomes_a_cookie_that_no_script_and_no_other_site_gets(
    run: Path, open_page: Callable[..., TestClient]
) -> None:
    page = open_page(run, enter=False)
    assert page.get("/").status_code == 403, "without the token there is nothing"
    answer = page.get(f"/review?x=1&token={TOKEN}&y=%2F")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/review?x=1&y=%2F", "the token leaves the address"
    assert re.fullmatch(r"guidestar-8000=[0-9a-f]{64}; Path=/; HttpOnly; SameSite=Strict", answer.headers["set-cookie"])
    assert page.get("/review").status_code == 200
    assert not {TOKEN, SECRET} & set(re.findall(r"\w+", page.get("/").text))


def test_a_link_lets_one_browser_in_and_is_no_cookie(run: Path, open_page: Callable[..., TestClient]) -> None:
    links: list[str] = []
    keys = Keys(SECRET, 8000, token=TOKEN, renewed=links.append)
    page = open_page(run, enter=False, keys=keys)
    assert page.head(f"/?token={TOKEN}").status_code == 403, "a look at the link does not use it up"
    assert page.get(f"/?token={TOKEN}").status_code == 303
    assert page.get(f"/?token={TOKEN}").status_code == 403
    assert links == [keys.token] != [TOKEN]
    assert page.get("/").status_code == 200, "who is in stays in"
    page.cookies.clear()
    for value in (TOKEN, keys.token, SECRET, Keys(SECRET, 8001).value):
        assert page.get("/", headers={"cookie": f"guidestar-8000={value}"}).status_code == 403
        assert value == keys.token or page.get(f"/?token={value}").status_code == 403
    assert page.get(f"/?token={keys.value}").status_code == 403, "nor is the cookie a link"
    assert page.get(f"/?token={keys.token}").status_code == 303


def test_the_cookie_is_the_same_after_a_restart(run: Path, open_page: Callable[..., TestClient]) -> None:
    first = open_page(run)
    again = open_page(run, enter=False, keys=Keys(SECRET, 8000))
    assert again.get("/", headers={"cookie": f"guidestar-8000={first.cookies['guidestar-8000']}"}).status_code == 200


def test_who_comes_from_a_file_is_sent_on_by_the_page_itself(run: Path, open_page: Callable[..., TestClient]) -> None:
    """The browser keeps a strict cookie from every request of a chain that another site began."""
    page = open_page(run, enter=False)
    answer = page.get(f'/review?x="&token={TOKEN}', headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 200
    assert 'content="0;url=/review?x=%22"' in answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert page.get("/review").status_code == 200


@pytest.mark.parametrize("token", ["", "x", TOKEN[:-1], TOKEN + "t", TOKEN.upper(), "ü", "%00", "a" * 5000])
def test_a_wrong_token_is_refused_even_with_the_cookie(page: TestClient, token: str) -> None:
    answer = page.get("/", params={"token": token})
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("path", ["/", "/review", "/static/page.css", "/static/label.js", "/nothing"])
def test_without_the_cookie_nothing_is_served(run: Path, open_page: Callable[..., TestClient], path: str) -> None:
    page = open_page(run, enter=False)
    ours = Keys(SECRET, 8000)
    for cookie in ("", "guidestar=x", f"guidestar-8001={ours.value}", f"{ours.cookie}=wrong", f"{ours.cookie}={TOKEN}"):
        assert page.get(path, headers={"cookie": cookie} if cookie else {}).status_code == 403
    answer = page.get(path, headers={"cookie": f"a=b; {ours.cookie}=wrong; {ours.cookie}={ours.value}"})
    assert answer.status_code != 403


def test_two_pages_on_one_machine_have_cookies_of_their_own() -> None:
    """A browser sends the cookies of 127.0.0.1 to every port of it."""
    keys = [Keys(secret, port) for secret in ("a", "b") for port in (8000, 8001)]
    assert len({k.value for k in keys}) == 4
    assert len({k.cookie for k in keys}) == 2


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
        page.get("/", headers={"host": "evil"}), stranger.get(f"/?token={TOKEN}"), page.request("PUT", "/"),
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

    monkeypatch.setattr(views, "state", lambda *a, **options: 1 / 0)
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
    keys = Keys(SECRET, 8000)
    app = create_app(run, keys=keys, trainer=None, hosts={HOST})
    headers = [(b"host", HOST.encode()), (b"cookie", f"{keys.cookie}={keys.value}".encode())]
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
    label = post(page, "state", {"annotator": "ann"})["task"]["labels"][0]["label"]
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


def test_the_secret_is_long_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "label.token"
    token = page_server.read_secret(path)
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", token)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    assert page_server.read_secret(path) == token
    assert stat.S_IMODE(path.stat().st_mode) == 0o600, "closed again"
    path.write_text("cut sh")
    other = page_server.read_secret(path)
    assert other != token
    assert page_server.read_secret(path) == other
    assert [p.name for p in tmp_path.iterdir()] == ["label.token"]


def test_two_pages_that_start_at_once_take_one_secret(tmp_path: Path) -> None:
    path, found = tmp_path / "label.token", []
    threads = [threading.Thread(target=lambda: found.append(page_server.read_secret(path))) for _ in range(8)]
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
