"""Labels that change while a run lasts: nothing said is lost or rewritten, and the run goes on."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import LABELS
from forks import Forked
from hypothesis import given, settings
from hypothesis import strategies as st
from loops import (  # noqa: F401 - fixtures
    CHOICE,
    SMALL,
    MakeConfig,
    crash_everywhere,
    nothing_stays,
    unlabelled_data,
)
from page_client import decision, following, ids_of, post, save
from page_help import make_run, served
from test_page_ahead import until

from guidestar.cli.main import main
from guidestar.config import PeopleConfig, TaskConfig, load
from guidestar.errors import ConfigError, DataError, StoreError
from guidestar.loop import Run
from guidestar.people.page.board import Board
from guidestar.people.trainer import Trainer
from guidestar.people.trainer import change_labels as relabelling
from guidestar.records import Annotation, Example, Label, Pick, Query, Skip, Stop, Undo, Verdict
from guidestar.relabel import Change, _changed, _choice, change_labels, labels_of
from guidestar.report import build_report
from guidestar.scoring import predict_file
from guidestar.store import Store
from guidestar.tasks import facts_of, make_task

EXAMPLES = {f"{n:016x}": Example(f"{n:016x}", {"text": str(n)}, str(n), "") for n in range(4)}
IDS = list(EXAMPLES)
NAMES = ("a", "b", "c", "d")
WHO = ("ann", "bob", "cy")

# --- the log, against a literal reading of it -----------------------------------------------------

_said = st.tuples(
    st.sampled_from(IDS),
    st.one_of(
        st.builds(Label, st.sampled_from(NAMES), st.sampled_from(WHO)),
        st.builds(Label, st.sampled_from(NAMES), st.sampled_from(WHO)),
        st.builds(Skip, st.just(""), st.sampled_from(WHO)),
        st.builds(Undo, st.sampled_from(WHO)),
        st.builds(Verdict, st.sampled_from(NAMES), st.sampled_from(WHO)),
    ),
)
_change = st.dictionaries(st.sampled_from(NAMES), st.sampled_from([*NAMES, None]), max_size=3)


def literal(events: list[Any], id: str) -> Label | Skip | None:
    """The answer of an example that counts, from the whole history, by the rules as docs/store.md words them."""
    said: dict[str, tuple[int, Label | Skip]] = {}
    verdict: Label | None = None
    waits = False

    def counts() -> Label | Skip | None:
        if waits:
            return None
        if verdict:
            return verdict
        labels = [(n, a) for n, a in said.values() if isinstance(a, Label)]
        votes = Counter(a.answer for _, a in labels)
        if labels:
            return max(labels, key=lambda pair: (votes[pair[1].answer], pair[0]))[1]
        return max(said.values(), key=lambda pair: pair[0], default=(0, None))[1]

    for number, event in enumerate(events):
        if isinstance(event, dict):
            now = counts()
            waits = waits or (isinstance(now, Label) and now.answer in event and event[now.answer] is None)
            for who, (n, answer) in list(said.items()):
                if isinstance(answer, Label) and answer.answer in event:
                    name = event[answer.answer]
                    said.pop(who)
                    if name is not None:
                        said[who] = (n, Label(name, who))
            if verdict and verdict.answer in event:
                name = event[verdict.answer]
                verdict = None if name is None else Label(name, verdict.annotator)
        elif event[0] == id:
            match event[1]:
                case Label() | Skip() as answer:
                    said[answer.annotator] = (number, answer)
                    waits = False
                case Undo(who):
                    said.pop(who, None)
                case Verdict(answer, who):
                    verdict, waits = Label(answer, who), False
    return counts()


@given(st.lists(st.one_of(_said, _said, _said, _change), max_size=25))
@settings(deadline=None, max_examples=150)
def test_after_any_history_the_labels_are_those_of_a_literal_replay(events: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "run"
        with Store.open(place, create=True) as store:
            store.begin({"seed": 0}, {"task": {"kind": "choice", "labels": list(NAMES)}})
            store.add_query(Query(0, tuple(Pick(id, 0.5) for id in IDS)), EXAMPLES)
            board = Board(store, PeopleConfig(), lambda: 0.0)
            log: list[tuple[str, Annotation]] = []
            for number, event in enumerate(events):
                if isinstance(event, dict):
                    store.relabels.record(event, {}, {"task": {"kind": "choice", "labels": list(NAMES)}})
                else:
                    store.annotations.add(*event, decision=str(number))
                    log.append(event)
                if number % 3 == 0:
                    board.refresh()
                    store.annotations.answers()  # taken in now and then: the parts amount to the same as the whole
            board.refresh()
            with Store.open(place) as fresh:
                for one in (store, fresh):
                    counts = {id: answer for id in IDS if (answer := literal(events, id)) is not None}
                    assert one.annotations.answers() == counts
                    assert [(e.id, e.annotation) for e in one.annotations.history()] == log, "what was said stays"
                assert board.replay.counts == counts, "the page says the same"
                assert board.labels == sum(isinstance(answer, Label) for answer in counts.values())
                assert {i.id for i in board.unanswered()} == set(IDS) - counts.keys()


# --- one change ------------------------------------------------------------------------------------


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    return make_run(tmp_path, labels={"a": "a", "b": "b", "c": "c"})


def record(run: Path, change: Change) -> None:
    """`change_labels` without data and a model, which the run does not have."""
    with Store.open(run) as store:
        names, section = _changed(_choice(store), change, TaskConfig.model_validate(store.relabels.tasks()[-1]))
        facts = {"task": facts_of(make_task(section, [], "{answer}")), "config": {"task": section.model_dump()}}
        store.relabels.record(names, {}, facts)


def test_a_renamed_label_may_be_said_by_either_name_and_the_log_keeps_the_old_one(asked: Path) -> None:
    with Store.open(asked) as store:
        first, second = [pick.id for pick in store.query(0).picks][:2]
        store.annotations.add(first, Label("a", "ann"), decision="1")
        store.annotations.add(second, Label("b", "ann"))
        record(asked, Change.read("rename", "a=alpha"))
        assert store.annotations.answers() == {first: Label("alpha", "ann"), second: Label("b", "ann")}
        assert [e.annotation for e in store.annotations.history() if e.id == first] == [Label("a", "ann")]
        assert not store.annotations.add(first, Label("alpha", "ann"), decision="1"), "the same decision, sent again"
        with pytest.raises(DataError, match="the labels have changed; found 'a', allowed: alpha, b, c"):
            store.annotations.add(second, Label("a", "bob"))  # a process that has not heard of it
        board = Board(store, PeopleConfig(), lambda: 0.0)
        assert board.task.parse_gold("a", "x") == board.task.parse_gold("ALPHA", "x") == "alpha"
        assert labels_of(asked)["labels"] == {"alpha": 1, "b": 1, "c": 0}


def test_a_merge_and_a_rename_back_and_what_cannot_be(asked: Path) -> None:
    record(asked, Change.read("merge", "a,b=ab"))
    record(asked, Change.read("rename", "ab=xy"))
    with Store.open(asked) as store:
        assert store.facts["task"] == {
            "kind": "choice", "labels": ["xy", "c"], "words": ["xy", "c"], "renamed": {"a": "xy", "b": "xy", "ab": "xy"},
        }  # fmt: skip
    record(asked, Change.read("rename", "xy=ab"))
    assert list(labels_of(asked)["labels"]) == ["ab", "c"], "a name may come back to what had it"
    for change, said in (
        ("add a", "'a' was the name of what is 'ab' now"),
        ("add C", "'C' is a label already; to put two together, merge them"),
        ("rename b2=x", "label 'b2' is not one of: ab, c"),
        ("split ab=x", "--split: found 'ab=x'; expected OLD=NEW1,NEW2"),
        ("merge ab=x", "--merge: found 'ab=x'; expected A,B=NEW"),
        ("merge ab,c=x", "a choice needs at least two labels"),
    ):
        with pytest.raises(ConfigError) as caught:
            record(asked, Change.read(*change.split(" ", 1)))
        assert said in str(caught.value)
    assert len(Store.open(asked).relabels) == 3


def test_the_same_word_is_another_label_after_a_split(asked: Path) -> None:
    with Store.open(asked) as store:
        first, second = [pick.id for pick in store.query(0).picks][:2]
        extra = "f" * 16
        store.annotations.add_extra([Example(extra, {"text": "imported"}, "imported")])
        for id in (first, extra):
            store.annotations.add(id, Label("a", "ann"))
        store.annotations.add(second, Label("b", "ann"))
        record(asked, Change.read("split", "a=a,a2"))
        assert store.annotations.answers() == {second: Label("b", "ann")}
        assert store.annotations.asked_again() == [first, extra]
        board = Board(store, PeopleConfig(), lambda: 0.0)
        assert {first, extra} <= set(board.offer("ann", 100, (), ())[0]), "both are asked again, the imported one too"
        assert store.annotations.add(first, Label("a", "ann")), "it is a new answer, though the word is the same"
        assert store.annotations.answers()[first] == Label("a", "ann")
        assert store.annotations.asked_again() == [extra]


# --- the run goes on -------------------------------------------------------------------------------

HEAD = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["query", "value"]}
CHANGES = [("add", "thanks"), ("rename", f"{LABELS[0]}=money"), ("merge", f"{LABELS[0]},{LABELS[1]}=money"),
           ("split", f"{LABELS[0]}=one,two")]  # fmt: skip


def say(run: Run, until: int) -> None:
    """Answer by turns, in the labels that the task has, until there are `until` rounds or the end."""
    while len(run.metrics()) < until and (examples := run.ask()):
        labels = run.bench.dataset.task.labels
        for example in examples:
            if len(run.metrics()) < until:
                run.tell(example.id, labels[int(example.id[:8], 16) % len(labels)])


@pytest.mark.parametrize("model", ["words", "head"])
@pytest.mark.parametrize(("kind", "text"), CHANGES)
def test_a_run_goes_on_after_a_change_in_the_middle_and_at_the_end(
    make_config: MakeConfig, unlabelled: dict[str, Any], tiny_encoder_folder: Path, model: str, kind: str, text: str
) -> None:
    changes: dict[str, Any] = {
        **SMALL,
        "data": unlabelled,
        "task": CHOICE,
        "annotator": "people",
        "strategies": ["margin"],
    }
    changes["train"] = {**SMALL["train"], "start": "previous"}
    if model == "head":
        changes |= {"model": {"name": str(tiny_encoder_folder)}, "peft": HEAD}
    config = make_config(**changes)
    place = Path(config["out"])
    with Run(config) as run:
        say(run, 1)
        run.ask()
        with pytest.raises(StoreError, match="is open in this process already"):
            change_labels(place, Change.read(kind, text))
        folder = run.folder
    before = labels_of(place)["labels"]
    facts = change_labels(place, Change.read(kind, text))
    gone = sum(before[name] for name in before if name not in facts["labels"])
    assert facts["since"] == 1
    assert facts["asked_again"] == (gone if kind == "split" else 0)
    assert sum(facts["labels"].values()) == 12 - facts["asked_again"]
    with Run(config) as run:  # the user's own configuration says the labels as they were
        assert list(run.bench.config.task.labels or ()) == list(facts["labels"])
        waiting = run.ask()
        assert len(waiting) == 2 + facts["asked_again"]
        with pytest.raises(StoreError, match="round 0 was trained on other labels than now; allowed: round 1 or later"):
            run.adapter()
        say(run, 2)
        assert run.tuning.adapter(1).name == "round-001"
        say(run, 99)
        assert run.store.finished() is Stop.BUDGET
        rounds, labels = len(run.metrics()), len(run.store.annotations.labelled())
    name = next(iter(facts["labels"]))
    again = change_labels(folder, Change.read("rename", f"{name}=another"))
    assert again["since"] == rounds
    with Run(place) as run:
        assert run.ask() == [], "nothing new is asked for: what is there is trained on, and the budget is spent"
        assert len(run.metrics()) == rounds + 1
        assert run.metrics()[-1].labels == labels
        assert "another" in run.store.facts["task"]["labels"]
        pool = run.config.data.pool
    said = {row["answer"] for row in predict_file(place, load(place), pool)}
    assert said <= set(again["labels"])
    assert main(["status", str(place)]) == 0
    build_report(place)


@pytest.mark.parametrize(("kind", "text"), CHANGES[:3])
def test_files_may_go_on_saying_the_former_name(make_config: MakeConfig, kind: str, text: str) -> None:
    """A test file and the pool's own answers are read in the new labels; a split of what they say is refused."""
    config = make_config(**{**SMALL, "strategies": ["random"]})
    with Run(config) as run:
        gold = run.bench.dataset.gold
        for example in run.ask():
            run.tell(example.id, gold[example.id])
    with pytest.raises(ConfigError, match=f"of the pool file have the label '{LABELS[0]}'"):
        change_labels(config["out"], Change.read("split", f"{LABELS[0]}=one,two"))
    change_labels(config["out"], Change.read(kind, text))
    with Run(config) as run:
        while examples := run.ask():
            for example in examples:
                run.tell(example.id, gold[example.id])
        assert run.store.finished() is Stop.BUDGET
        assert "accuracy" in run.metrics()[-1].values
    build_report(Path(config["out"]))


def test_a_change_that_is_killed_at_any_step_is_not_there_or_whole(
    make_config: MakeConfig, unlabelled: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command dies at each of its durable steps; then the run goes on, and the command is given again if its change is
    not there. The end is that of the run that nothing happened to."""
    wanted = Change.read("split", f"{LABELS[0]}=one,two")

    def go(config: dict[str, Any]) -> None:
        with Run(config) as run:
            if not (done := len(run.store.relabels)):
                say(run, 1)
                run.ask()  # all that comes before the change
        if not done:
            change_labels(config["out"], wanted)
        with Run(config) as run:
            say(run, 99)
            kept = load(Path(config["out"]))
            assert kept.task.labels == run.bench.config.task.labels == ["one", "two", *LABELS[1:]]

    def around(steps: list[str]) -> list[int]:
        at = steps.index("commit relabel")
        return list(range(at - 3, min(at + 12, len(steps))))

    changes = {**SMALL, "query": {**SMALL["query"], "budget": 14}}
    crash_everywhere(
        make_config, tmp_path, monkeypatch, around, go,
        **{**changes, "data": unlabelled, "task": CHOICE, "annotator": "people", "strategies": ["random"]},
    )  # fmt: skip


def test_the_command(make_config: MakeConfig, unlabelled: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    config = make_config(
        **{**SMALL, "data": unlabelled, "task": CHOICE, "annotator": "people", "strategies": ["random"]}
    )
    with Run(config) as run:
        for example in run.ask():
            run.tell(example.id, LABELS[0])
    assert main(["labels", config["out"]]) == 0
    assert f"{LABELS[0]}" in capsys.readouterr().out
    assert main(["labels", config["out"], "--split", f"{LABELS[0]}=one,two", "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["asked_again"] == 12
    assert found["since"] == 0
    assert main(["labels", config["out"], "--rename", "nothing"]) == 2
    assert "--rename: found 'nothing'; expected OLD=NEW" in capsys.readouterr().err


# --- on the page ----------------------------------------------------------------------------------


def test_a_change_on_the_page_ends_the_training_and_starts_it_again(
    make_config: MakeConfig, unlabelled: dict[str, Any], open_page: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", Forked)
    config = make_config(
        **{**SMALL, "data": unlabelled, "task": CHOICE, "annotator": "people", "strategies": ["random"]}
    )
    with Run(config) as run:
        for example in run.ask():
            run.tell(example.id, LABELS[0])
    trainer = Trainer(Path(config["out"]), command=[sys.executable, "-c", "import time; time.sleep(600)"])
    page = open_page(run.folder, trainer=trainer)
    until(lambda: following(page, want=0)["state"]["trainer"]["kind"] == "training")
    first: Any = trainer._process
    version = following(page, want=0)["state"]["version"]
    assert "no such" in relabelling(Path(config["out"]) / "elsewhere", "add", "x")
    change = {"annotator": "ann", "kind": "split", "old": [LABELS[0]], "new": "one,two"}
    found = post(page, "relabel", change)
    assert found["labels"][:2] == [{"label": "one", "count": 0}, {"label": "two", "count": 0}]
    assert found["again"] == 12
    assert post(page, "classes", {"annotator": "ann"}) == found
    assert following(page, want=0)["state"]["version"] == version + 1
    assert first.poll() is not None, "what it learned would be of other labels"
    again = ids_of(following(page, want=10))
    assert len(again) == 10
    save(page, *(decision(e, text="one") for e in again))
    rest = ids_of(following(page, want=10))
    save(page, *(decision(e, text="two") for e in rest))
    until(lambda: following(page, want=0)["state"]["trainer"]["kind"] == "training")


def test_open_pages_show_the_new_labels_by_themselves(asked: Path, enter: Callable[..., Any]) -> None:
    with served(asked) as server:
        page = enter(server)
        page.wait_for_selector("#answers .answer")
        page.click("#labels-open")
        page.wait_for_selector("#labels-list li")
        assert [b.is_disabled() for b in page.locator("#labels-kinds button").all()] == [True] * 4
        page.fill("#labels-new", "x")
        page.locator("#labels-list input").first.check()
        assert [b.is_disabled() for b in page.locator("#labels-kinds button").all()] == [True, False, True, False]
        page.click("#labels-close")
        record(asked, Change.read("rename", "a=first"))
        page.keyboard.press("1")
        page.wait_for_selector("#answers .answer >> text=first")
        page.wait_for_selector("#history-list >> text=first")
