"""The page does not wait: questions ahead of their round, the labels asked for on the page, failures that stay on it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from page_client import IDS, decision, following, ids_of, label_all, post, save
from page_help import LABELS, QUESTIONS, examples, make_run, until
from starlette.testclient import TestClient

from guidestar import config as configs
from guidestar.cli.main import main
from guidestar.errors import ConfigError
from guidestar.people.page import server
from guidestar.people.page.setup import Setup
from guidestar.people.trainer import Trainer, TrainerState
from guidestar.project import write_config
from guidestar.records import Label, Metrics, Pick, Stop
from guidestar.store import Store

SLEEPS = "import time; print('train 5/20, 1.0/s, 200 s left', flush=True); time.sleep(60)"


def trainer(folder: Path, program: str = SLEEPS) -> Trainer:
    return Trainer(folder, command=[sys.executable, "-c", program])


def reserve(run: Path, round: int, count: int = 10) -> list[str]:
    """Have questions ready for a round."""
    new = examples([f"What is number {n} ?" for n in range(count)], 100 * (round + 1))
    with Store.open(run) as store:
        store.ahead.prepare(round, [Pick(id, 0.5, {"ahead": 1.0, "frozen": 1.0}) for id in new], new)
    return list(new)


# --- never waiting --------------------------------------------------------------------------------


def test_who_has_answered_a_round_is_asked_what_is_ready_for_the_next(
    run: Path, open_page: Callable[..., TestClient]
) -> None:
    new = reserve(run, 1, 20)
    page = open_page(run, trainer=trainer(run.parent))
    assert ids_of(following(page, want=4)) == IDS[:4]
    label_all(run, ["HUM"] * 11)
    assert ids_of(following(page, want=4, hold=IDS[10:])) == [], "not while there are others"
    assert ids_of(following(page, want=1, hold=[IDS[11]])) == new[:1], "with the last one of the round on the screen"
    save(page, decision(IDS[11], text="LOC"))
    until(lambda: following(page, "ben", want=0)["state"]["trainer"]["kind"] == "training")
    assert ids_of(following(page, want=4)) == new[:4]
    assert ids_of(following(page, want=1, hold=new[:4])) == new[4:5], "and then always as many as the page wants"
    state = until(lambda: (s := following(page, want=0)["state"])["trainer"]["line"] and s)
    assert state["training"] == "Next training ready in about 3 min."
    assert all(r["new"] for r in save(page, *(decision(id, text="HUM") for id in new[:5])))
    asked = 12 + 5
    while found := ids_of(following(page, want=4)):
        save(page, *(decision(id, text="HUM") for id in found))
        asked += len(found)
    assert asked == 30 == state["budget"], "never beyond the budget"
    with Store.open(run) as store:
        assert len(store.query(1).picks) == 18
        assert {p.details["frozen"] for p in store.query(1).picks} == {1.0}
        assert store.rounds() == 1


def test_without_a_training_or_at_the_end_nothing_is_asked_ahead(
    run: Path, open_page: Callable[..., TestClient]
) -> None:
    reserve(run, 1)
    label_all(run, ["HUM"] * 12)
    assert following(open_page(run), want=4)["examples"] == [], "nobody trains here"
    with Store.open(run) as store:
        store.finish(Stop.BUDGET)
    assert following(open_page(run, trainer=trainer(run.parent)), want=4)["examples"] == []


def test_a_finished_run_with_a_larger_budget_is_not_called_finished(
    run: Path, open_page: Callable[..., TestClient]
) -> None:
    """Its process needs a while to load the model before it asks again."""
    label_all(run, ["HUM"] * 12)
    with Store.open(run) as store:
        store.add_adapter(0, lambda folder: None)
        store.add_metrics(Metrics(0, 12, {}))
        store.finish(Stop.BUDGET)
    for budget, kind in ((30, "finished"), (40, "training")):
        again = Trainer(run.parent, command=[sys.executable, "-c", SLEEPS], budget=budget)
        idle = following(open_page(run, trainer=again), want=4)["idle"]
        assert idle["kind"] == kind
        assert idle["text"].startswith("There is a larger budget now. The model is being loaded;") == (budget == 40)


def test_what_a_run_reached_before_it_went_on_is_forgotten(
    run: Path, open_page: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    from guidestar.people.page import app

    told = iter([{"sentence": "50 % after 12 labels"}, {}])
    monkeypatch.setattr(app, "status_of", lambda folder: next(told))
    label_all(run, ["HUM"] * 12)
    with Store.open(run) as store:
        store.add_adapter(0, lambda folder: None)
        store.add_metrics(Metrics(0, 12, {}))
        store.finish(Stop.ADVISED)
    page = open_page(run)
    until(lambda: following(page)["idle"]["text"] == "50 % after 12 labels")
    with Store.open(run) as store:
        store.reopen()
    until(lambda: following(page)["state"]["finished"] is None)
    time.sleep(1.2)  # the page looks once a second
    with Store.open(run) as store:
        store.finish(Stop.ADVISED)
    assert following(page)["idle"]["text"].startswith("The run is finished.")


def test_when_a_training_will_be_ready_is_judged_by_the_last(
    tmp_path: Path, open_page: Callable[..., TestClient]
) -> None:
    from guidestar.people.page import views
    from guidestar.people.page.board import Board
    from guidestar.people.page.desk import people_of

    run = make_run(tmp_path)
    label_all(run, ["HUM"] * 12)
    with Store.open(run) as store:
        board = Board(store, people_of(run.parent, store.facts), time.time)

        def said(seconds: float, line: str = "") -> str:
            return views.state(board, "ann", TrainerState("training", line, seconds=seconds))["training"]

        assert said(20) == "The first training is under way, 20 s so far."
        assert said(20, "train 5/20, 1.0/s, 30 s left") == "Next training ready in less than a minute."
        store.add_timing(0, "train", 250.0, 12)
        store.add_timing(0, "evaluate", 40.0, 12)
        store.add_adapter(0, lambda folder: None)
        store.add_metrics(Metrics(0, 12, {}))
        from page_help import ask

        ask(store, 1, examples(["What is new ?"], 50))
        store.annotations.add(f"{50:016x}", Label("HUM", "ann"))
        board.refresh()
        assert said(60) == "Next training ready in about 4 min."
        assert said(290) == "Next training ready in less than a minute."
        assert said(290, "train 5/20, 1.0/s, 215 s left") == "Next training ready in about 4 min.", (
            "slower than the last"
        )


# --- how good is it -------------------------------------------------------------------------------


def test_the_page_says_how_good_the_model_is_on_what_was_set_aside(
    tmp_path: Path, open_page: Callable[..., TestClient]
) -> None:
    run = make_run(tmp_path, QUESTIONS[:2])
    new = examples([f"What is number {n} ?" for n in range(40)], 500)
    with Store.open(run) as store:
        store.add_adapter(0, lambda folder: None)
        store.add_metrics(Metrics(0, 2, {"accuracy": 0.75}))
        from guidestar.records import Query

        store.add_query(Query(1, tuple(Pick(id, 0.0, {"test": 1.0}) for id in new)), new)
        for id in new:
            store.annotations.add(id, Label("HUM", "ann"))
    state = following(open_page(run))["state"]
    assert state["accuracy"] == "accuracy 75 % (95 % interval 60 to 86) on 40 questions set aside"


# --- from a file ----------------------------------------------------------------------------------


@pytest.fixture
def messages(tmp_path: Path) -> Path:
    path = tmp_path / "messages.csv"
    path.write_text("text\n" + "".join(f"where is parcel number {n} of mine ?\n" for n in range(60)), encoding="utf-8")
    return path


def test_one_command_from_a_file_to_the_page(messages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[dict[str, Any]] = []
    monkeypatch.setattr(server, "serve", lambda run, **options: started.append({"run": run, **options}) or 0)
    assert main(["label", str(messages), "--labels", "billing,delivery", "query.budget=20", "--quiet"]) == 0
    config = messages.with_suffix(".yaml")
    assert started[0]["run"] == config
    assert started[0]["train"]
    assert started[0]["overrides"] == ["query.budget=20"]
    assert configs.load(config).task.labels == ["billing", "delivery"]
    written = config.read_bytes()
    assert main(["label", str(messages), "--quiet"]) == 0
    assert config.read_bytes() == written, "what is there is used"
    assert main(["label", str(messages), "--labels", "a,b", "--quiet"]) == 2
    assert main(["label", str(messages.parent), "--quiet"]) == 0
    assert [one["train"] for one in started] == [True, True, False]
    assert main(["label", str(messages), "--no-train", "--quiet"]) == 0
    assert not started[-1]["train"]


def test_the_page_asks_for_the_labels_and_then_begins(messages: Path, open_page: Callable[..., TestClient]) -> None:
    config, found = write_config(messages, None)
    folder = messages.parent / "runs" / "messages"
    folder.mkdir(parents=True)
    begun = messages.parent / "begun"
    program = f"open({str(begun)!r}, 'w').close(); import time; print('data: 60', flush=True); time.sleep(60)"
    page = open_page(folder, trainer=trainer(folder, program), setup=Setup(config, found["notes"]))
    state = post(page, "state", {"annotator": "ann"})
    assert state["setup"]["notes"] == found["notes"]
    time.sleep(0.5)
    assert not begun.exists(), "nothing starts before the labels are known"
    assert "at least two labels" in post(page, "labels", {"annotator": "ann", "labels": ["billing", " "]}, 422)["error"]
    assert "labels" in post(page, "labels", {"annotator": "ann", "labels": ["one"]}, 422)["error"]
    before = config.read_text(encoding="utf-8")
    post(page, "labels", {"annotator": "ann", "labels": ["billing", "né: [x]", "other"]})
    assert configs.load(config).task.labels == ["billing", "né: [x]", "other"]
    changed = [line for line in config.read_text(encoding="utf-8").splitlines() if line not in before.splitlines()]
    assert len(changed) <= 2, "the rest of the file stays as it was"
    assert "put your labels" not in config.read_text(encoding="utf-8")
    state = until(lambda: (s := post(page, "state", {"annotator": "ann"}))["trainer"]["line"] and s)
    assert state["setup"] is None
    assert state["text"].startswith("Getting ready: data: 60. ")
    assert "known already" in post(page, "labels", {"annotator": "ann", "labels": ["a", "b"]}, 422)["error"]


def test_labels_that_cannot_be_written_are_said(tmp_path: Path) -> None:
    config = tmp_path / "a.yaml"
    config.write_text("task:\n  kind: choice\n  labels:\n    []\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"has no line `labels: \[\]`"):
        Setup(config).give(["a", "b"])


# --- failures and sizes ---------------------------------------------------------------------------


def test_a_start_that_fails_says_why_where_its_log_is_and_can_be_tried_again(
    tmp_path: Path, open_page: Callable[..., TestClient]
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    flag = tmp_path / "mended"
    program = (
        f"import os, sys; print('x'); print('guidestar: model.name: no such model'); "
        f"sys.exit(4 if os.path.exists({str(flag)!r}) else 2)"
    )
    page = open_page(folder, trainer=trainer(folder, program))
    state = until(lambda: (s := post(page, "state", {"annotator": "ann"}))["trainer"]["kind"] == "failed" and s)
    assert state["text"] == "The run could not begin."
    assert state["trainer"]["why"] == "model.name: no such model"
    assert Path(state["trainer"]["log"]).read_text(encoding="utf-8").startswith("x\n")
    flag.touch()
    post(page, "retry", {"annotator": "ann"})
    until(lambda: post(page, "state", {"annotator": "ann"})["trainer"]["kind"] == "idle")


def test_what_does_not_change_is_told_once(tmp_path: Path, open_page: Callable[..., TestClient]) -> None:
    many = {f"label number {n} of many": f"word {n}" for n in range(200)}
    run = make_run(tmp_path, labels=many)
    page = open_page(run)
    assert len(post(page, "state", {"annotator": "ann"})["task"]["labels"]) == 200
    answer = post(page, "save", {"annotator": "ann", "decisions": [decision(IDS[0], text="label number 7 of many")]})
    assert "task" not in answer["state"]
    assert len(json.dumps(answer["state"])) < 1000
    assert set(LABELS) & set(json.dumps(answer).split()) == set()
