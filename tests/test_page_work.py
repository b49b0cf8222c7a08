"""Labelling over HTTP: what is saved, what comes next, history and review."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from page_client import GOOD, IDS, WRITE, Clock, decision, following, ids_of, label_all, post, save
from page_help import LABELS, QUESTIONS, ask, examples, make_run, until
from starlette.testclient import TestClient

from guidestar.errors import StoreError
from guidestar.records import Example, Flag, Label, Metrics, Note, Pick, Skip, Stop, Suggestion, Undo, Verdict
from guidestar.store import Store, files

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
        "id": IDS[0], "fields": [{"name": "text", "text": QUESTIONS[0]}], "excerpt": QUESTIONS[0],
        "prompt": f"Question: {QUESTIONS[0]}\nType:", "second": False,
        "answer": None, "note": "", "flagged": False, "suggestion": None,
    }  # fmt: skip
    state = post(page, "state", {"annotator": "ann"})
    labels = [{"label": k, "word": v, "about": ""} for k, v in LABELS.items()]
    assert state["task"] == {"kind": "choice", "labels": labels, "buttons": True, "several": False, "numeric": False}
    assert (state["round"], state["last"], state["asked"], state["done"]) == (0, 4, 12, 0)
    assert (state["labels"], state["budget"], state["finished"], state["accuracy"]) == (0, 30, None, "")


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
    assert reply["state"]["accuracy"] == "validation accuracy 75 %"
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


def test_the_end_of_a_run_is_said(page: TestClient, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a sentence of the page's own until `status` has read the run; also where nobody trains beside the page."""

    said: dict[str, Any] = {}
    monkeypatch.setattr("guidestar.people.page.app.status_of", lambda folder: said)
    label_all(run, ["HUM"] * 12)
    with Store.open(run) as store:
        store.finish(Stop.BUDGET)
    reply = following(page, "ben")
    idle = {"kind": "finished", "text": "The run is finished. The label budget is spent.", "more": [], "command": ""}
    assert reply["idle"] == idle
    step, other = {"text": "publish it:", "command": "guidestar publish a"}, {"text": "think of it.", "command": ""}
    said = {"sentence": "90 % after 12 labels.", "cautions": ["Few."], "next": [other, step, step], "scores": []}
    save(page, decision(IDS[0], text="LOC"))  # what was read before this is of yesterday
    more = ["Few.", "Next: think of it.", "Or: publish it:"]
    then = {"kind": "finished", "text": said["sentence"], "more": more, "command": "guidestar publish a"}
    until(lambda: following(page, "ben")["idle"] == then)


def test_a_run_that_ended_has_no_rounds_to_come(tmp_path: Path, open_page: Callable[..., TestClient]) -> None:
    run = make_run(tmp_path)
    page = open_page(run)
    assert following(page)["state"]["last"] == 4
    save(page, *(decision(id, text="HUM") for id in IDS))
    with Store.open(run) as store:
        store.add_adapter(0, lambda folder: None)
        store.add_metrics(Metrics(0, 12, {}))
        store.finish(Stop.EMPTY)
    state = following(page)["state"]
    assert (state["round"], state["last"]) == (0, 0)


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
    assert (state["round"], state["last"]) == (1, 1), "one was planned"
    save(page, decision(IDS[4], text="HUM"))
    assert following(page)["idle"]["text"].startswith(
        "Round 1 has all its answers. The budget is spent. When the model is trained"
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
        page = open_page(make_run(tmp_path, people=people, suggestions=said, experiment=name))
        reply, state = following(page, want=1), post(page, "state", {"annotator": "ann"})
        modes[name] = (state["suggestions"], reply["examples"][0]["suggestion"])
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


def test_of_conversations_the_history_shows_the_last_turn(tmp_path: Path, open_page: Callable[..., TestClient]) -> None:
    """They often begin with the same words."""
    said = {f"{i + 50:016x}": f"System: Be kind.\n\nUser: Question {i}:\n\nof two parts" for i in range(2)}
    found = {id: Example(id, {"dialogue": text}, text, "chat.jsonl") for id, text in said.items()}
    run = make_run(tmp_path, QUESTIONS[:2])
    with Store.open(run) as store:
        store.ahead.prepare(1, [Pick(id, 0.5) for id in found], found)
        assert len(store.ahead.take(2)) == 2
    page = open_page(run)
    for id in found:
        save(page, decision(id, text="HUM"))
    lines = post(page, "history", {"annotator": "ann", "skip": 0, "only": "all"})["lines"]
    assert [line["text"] for line in lines] == ["Question 1: of two parts", "Question 0: of two parts"]
    assert post(page, "example", {"annotator": "ann", "id": lines[0]["id"]})["excerpt"] == lines[0]["text"]


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
    assert (found["alpha"], found["low"], found["high"], found["compared"]) == (
        expected.alpha,
        expected.low,
        expected.high,
        6,
    )
    assert found["pairs"] == [{"annotators": ["ann", "ben"], "n": 6, "observed": 4 / 6, "kappa": pytest.approx(0.5)}]
    assert set(found["classes"]) == {"HUM", "LOC", "NUM"}


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
        assert found["agreement"]["classes"] == {}


def test_guidelines_that_cannot_be_read_are_said_to_be_so(tmp_path: Path, open_page: Callable[..., TestClient]) -> None:
    page = open_page(make_run(tmp_path, people={"guidelines": str(tmp_path / "gone.md")}))
    assert "gone.md cannot be read: No such file" in page.get("/").text
    guide = tmp_path / "guide.md"
    guide.write_text("a\nb" * 200_000)
    page = open_page(make_run(tmp_path, people={"guidelines": str(guide)}, experiment="long"))
    assert len(page.get("/").text) < 250_000
    assert "the file is longer" in page.get("/").text
