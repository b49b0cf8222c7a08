"""Questions asked ahead of their round, labels that a file has already, and labels set aside as the test set."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

import pytest
from conftest import LABELS
from loops import (  # noqa: F401 - fixtures
    CHOICE,
    SMALL,
    MakeConfig,
    answer_all,
    crash_everywhere,
    nothing_stays,
    picks,
    trained_labels,
    unlabelled_data,
    write_csv,
)
from test_loop_people import PEOPLE

from guidestar.bench import Bench
from guidestar.choosing import Chooser
from guidestar.config import parse
from guidestar.errors import ConfigError, ConfigMismatch, StoreError
from guidestar.loop import Run
from guidestar.records import Example, Label, Pick, Query, Stop
from guidestar.store import Store
from guidestar.study.plan import course_of
from guidestar.tuning import Tuning

HELD = {"warm_start": 6, "batch": 3, "budget": 20, "candidates": 20, "hold_out": 0.2}


def example(number: int) -> Example:
    return Example(f"{number:016x}", {"text": str(number)}, str(number), "pool.csv")


# --- the store ------------------------------------------------------------------------------------


def test_what_is_taken_from_the_reserve_is_asked_once_and_begins_its_rounds_query(tmp_path: Path) -> None:
    some = {e.id: e for e in map(example, range(8))}
    of = [Pick(id, 0.5, {"ahead": 1.0}) for id in some]
    with Store.open(tmp_path, create=True) as store:
        store.ahead.prepare(0, of[:5], some)
        assert store.ahead.take(2) == [p.id for p in of[:2]]
        assert (store.rounds(), store.has_query(0), store.query(0).picks) == (0, False, tuple(of[:2]))
        assert store.annotations.add(of[0].id, Label("x", "ann"))
        assert [e.id for e in store.annotations.unanswered(0)] == [of[1].id]
        store.annotations.add_extra([some[of[2].id]])
        assert store.ahead.take(2) == [of[3].id, of[4].id], "what came in otherwise is not asked again"
        assert store.ahead.take(2) == []
        with pytest.raises(StoreError, match="round 0 was asked ahead for other examples"):
            store.add_query(Query(0, tuple(of[5:])), some)
        whole = (*of[:2], *of[3:5], of[6])
        store.add_query(Query(0, whole), some)
        assert store.has_query(0)
        assert store.query(0).picks == whole
        store.add_query(Query(0, whole), some)
        store.ahead.prepare(0, of[5:6], some)
        assert store.ahead.take(1) == [], "its round is chosen already"
        assert [e.id for e, _ in store.annotations.labelled(0)] == [of[0].id]


def test_two_that_take_at_once_never_get_the_same(tmp_path: Path) -> None:
    some = {e.id: e for e in map(example, range(30))}
    with Store.open(tmp_path, create=True) as one, Store.open(tmp_path) as other:
        one.ahead.prepare(0, [Pick(id, 0.0) for id in some], some)
        rng, got = random.Random(0), list[str]()
        while len(got) < 30:
            got += rng.choice([one, other]).ahead.take(rng.randint(1, 3))
        assert sorted(got) == sorted(some)
        assert [p.id for p in other.query(0).picks] == got


# --- before the model -----------------------------------------------------------------------------


def test_the_first_questions_are_there_before_the_model_is_and_count(
    make_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
    unlabelled: dict[str, Any],
) -> None:
    query = {**SMALL["query"], "budget": 20, "hold_out": 0.2}
    config = make_config(**{**PEOPLE, "query": query, "data": unlabelled, "task": CHOICE})
    with monkeypatch.context() as patch:

        def no_model(self: Bench) -> None:
            raise ConfigError("model: is not here")

        patch.setattr(Bench, "check", no_model)
        with pytest.raises(ConfigError, match="is not here"):
            Run(config)
        assert not Path(config["out"]).exists(), "without the page nothing is left behind"
        with pytest.raises(ConfigError, match="is not here"):
            Run(config, ahead=True)
    run = next(Path(config["out"]).glob("*-seed0"))
    with Store.open(run) as store:
        asked = store.ahead.take(7)
        assert len(asked) == 7
        for id in asked:
            store.annotations.add(id, Label(LABELS[0], "ann"))
        assert not store.facts["model"].get("fingerprint")
    with Run(
        {**config, "train": {**config["train"], "epochs": 2}}, ahead=True
    ) as again:  # mended: nothing is trained yet
        assert again.store.facts["model"]["fingerprint"]
        assert again.store.key["train.epochs"] == 2
        waiting = again.ask()
        picked = again.store.query(0).picks
        assert [p.id for p in picked[:7]] == asked
        assert [e.id for e in waiting] == [p.id for p in picked[7:]]
        assert sum("test" in p.details for p in picked) == 4
        assert len(picked) - 4 == 12, "the warm start is as large as configured"
        while examples := again.ask():
            for e in examples:
                again.tell(e.id, LABELS[int(e.id, 16) % 3])
        labels = again.store.annotations
        assert len(labels.labelled()) + len(labels.held_out()) == 20 == again.config.query.budget
    other = {**config, "data": {**config["data"], "template": "{text} ?"}}
    with pytest.raises(ConfigMismatch):
        Run(other, ahead=True)


# --- while it trains ------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["star", "random", "lean"])
def test_what_is_answered_during_a_training_counts_in_the_next_one(
    make_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
    trained: list[dict[str, str]],
    strategy: str,
) -> None:
    config = make_config(**{**PEOPLE, "strategies": [strategy], "query": {**SMALL["query"], "batch": 5, "budget": 24}})
    ahead: dict[int, list[str]] = {}
    real = Tuning.train

    def meanwhile(self: Tuning, r: int) -> None:
        ahead[r] = self.store.ahead.take(3) if r < 2 else []
        for id in ahead[r][:2]:
            self.store.annotations.add(id, Label(self.bench.dataset.gold[id], "ann"))
        real(self, r)

    monkeypatch.setattr(Tuning, "train", meanwhile)
    with Run(config) as run:
        while examples := run.ask():
            answer_all(run, examples)
        store = run.store
        assert store.finished() is Stop.BUDGET
        for r, ids in ahead.items():
            assert [p.id for p in store.query(r + 1).picks[: len(ids)]] == ids if ids else True
            assert trained[r].keys().isdisjoint(ids)
            assert r + 1 >= len(trained) or set(ids) <= trained[r + 1].keys()
        of = store.query(2).picks[0].details
        assert of["ahead"] == 1.0
        assert ("ranking" if strategy == "star" else "random" if strategy == "random" else "frozen") in of
        every = [p.id for r in range(store.rounds()) for p in store.query(r).picks]
        assert len(every) == len(set(every)) == 24
        assert [len(labels) for labels in trained] == [m.labels for m in store.metrics()]


@pytest.mark.parametrize("strategy", ["star", "lean"])
def test_a_process_that_begins_keeps_what_was_chosen_to_be_asked_next(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    """The page has every round trained by a process of its own, which at its begin knows no ranking and has read no features."""
    config = make_config(**{**PEOPLE, "strategies": [strategy], "query": {**SMALL["query"], "batch": 4, "budget": 40}})
    for _ in range(2):
        with Run(config) as run:
            answer_all(run, run.ask())
    with Run(config) as run:
        examples, seen = run.ask(), list[dict[str, float]]()
        assert examples
        answer_all(run, examples)
    real = Tuning.train

    def look(self: Tuning, r: int) -> None:
        if not seen:
            self.store.ahead.take(3)
            seen.extend(dict(pick.details) for pick in self.store.query(r + 1).picks)
        real(self, r)

    monkeypatch.setattr(Tuning, "train", look)
    with Run(config) as run:
        run.ask()
    assert len(seen) == 3
    assert all("ranking" in details or "frozen" in details for details in seen)


def test_half_of_a_small_budget_is_kept_for_questions_that_are_chosen(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, unlabelled: dict[str, Any]
) -> None:
    query = {**SMALL["query"], "warm_start": 4, "batch": 4, "budget": 30, "hold_out": 0.2}
    config = make_config(**{**PEOPLE, "query": query, "data": unlabelled, "task": CHOICE})
    with monkeypatch.context() as patch:
        patch.setattr(Run, "ask", lambda run: None)
        with Run(config, ahead=True) as run:
            asked = run.store.ahead.take(100)  # somebody who is faster than the model
            picked = run.store.query(0).picks
            assert sum("test" in pick.details for pick in picked) == 6
            assert len(asked) == 6 + (30 - 6) // 2
            for id in asked:
                run.store.annotations.add(id, Label(LABELS[int(id, 16) % 3], "ann"))
    with Run(config, ahead=True) as run:
        assert run.ask()
        assert run.store.rounds() == 2
        later = run.store.query(1).picks
        assert later
        assert not any("ahead" in pick.details for pick in later)


def test_what_is_taken_while_a_round_is_chosen_belongs_to_it_and_makes_it_no_larger(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, unlabelled: dict[str, Any]
) -> None:
    query = {"warm_start": 6, "batch": 4, "budget": 20, "candidates": 12, "hold_out": 0.2}
    real = Chooser.picks

    def meanwhile(self: Chooser, r: int, free: Any, k: int) -> Any:
        found = real(self, r, free, k)
        self.tuning.store.ahead.take(3 if r else 6)
        return found

    monkeypatch.setattr(Chooser, "picks", meanwhile)
    with Run(make_config(**{**PEOPLE, "data": unlabelled, "task": CHOICE, "query": query}), ahead=True) as run:
        while examples := run.ask():
            for e in examples:
                run.tell(e.id, LABELS[int(e.id, 16) % 3])
        rounds = [run.store.query(r).picks for r in range(run.store.rounds())]
        assert [len(picks) for picks in rounds] == [10, 4, 4, 2]
        assert sum("test" in p.details for p in rounds[0]) == 4
        planned = course_of(run.bench, True, 0)
        assert (planned.labels, planned.test, planned.aside) == (tuple(m.labels for m in run.metrics()), 4, 4)
        firsts = {a.answer: r for r, a in reversed([
            (r, run.store.annotations.answers()[p.id]) for r, picks in enumerate(rounds) for p in picks if "test" not in p.details
        ])}  # fmt: skip
        assert run.store.annotations.learnt() == firsts
        assert sum("ahead" in p.details for p in rounds[0]) == 2, "the first four that were taken are set aside"
        assert [sum("ahead" in p.details for p in picks) for picks in rounds[1:]] == [3, 3, 2]
        assert len({p.id for picks in rounds for p in picks}) == 20


def afternoon(config: dict[str, Any]) -> None:
    """People label a run to its end, in every round two examples of the next one, too."""
    with Run(config, ahead=True) as run:
        notes, gold = run.store.annotations, run.bench.dataset.gold
        while examples := run.ask():
            r = run.store.current_round()
            have = [p.id for p in run.store.query(r + 1).picks]
            for id in [*have, *run.store.ahead.take(2 - len(have)), *(e.id for e in examples)]:
                notes.add(id, Label(gold[id], "ann"), decision=f"label-{id}", source="page")


def test_crashes_of_a_run_that_is_asked_ahead_change_nothing(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reserve is made from what was known then, so a crash that loses it may change what is asked ahead: the strategy
    here draws at random, and the reserve of a round is always the same."""

    def some(steps: list[str]) -> list[int]:
        """The last step of each kind that is new with questions asked ahead."""
        kinds = {"".join(c for c in name if not c.isdigit()): i for i, name in enumerate(steps)}
        return sorted(i for name, i in kinds.items() if any(word in name for word in ("ahead", "prepare", "add_query")))

    crash_everywhere(
        make_config, tmp_path, monkeypatch, some, afternoon,
        **{**PEOPLE, "strategies": ["random"], "query": {"warm_start": 4, "batch": 3, "budget": 10}},
    )  # fmt: skip


# --- labels of the file ---------------------------------------------------------------------------


def half_labelled(folder: Path, demo_data: Path, labelled: int) -> dict[str, Any]:
    with (demo_data / "pool.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    answer = next(name for name in rows[0] if name != "text")
    kept = [{"text": row["text"], "topic": row[answer] if i < labelled else ""} for i, row in enumerate(rows)]
    return {
        "preset": None, "folder": None, "test_limit": None, "pool": str(write_csv(folder / "half.csv", kept)),
        "template": "Message: {text}\nTopic:", "answer": "topic", "pool_limit": None,
    }  # fmt: skip


def test_labels_of_the_file_are_the_warm_start_and_count_in_the_budget(
    make_config: MakeConfig,
    tmp_path: Path,
    demo_data: Path,
    trained: list[dict[str, str]],
) -> None:
    data = half_labelled(tmp_path, demo_data, 30)
    query = {"warm_start": 15, "batch": 4, "budget": 38, "candidates": 20}
    with Run(make_config(**{**PEOPLE, "data": data, "task": CHOICE, "query": query})) as run:
        asked = []
        while examples := run.ask():
            asked += examples
            for e in examples:
                run.tell(e.id, LABELS[0])
        assert len(asked) == 8
        assert all("full" in p.details or "random" in p.details for p in run.store.query(1).picks), "chosen, not drawn"
        assert [len(labels) for labels in trained] == [30, 34, 38]
        assert run.store.finished() is Stop.BUDGET
        counts = run.store.annotations
        assert sum(e.source == "import" for e in counts.history()) == 30


# --- the labels that are set aside ----------------------------------------------------------------


def test_labels_set_aside_are_drawn_at_random_and_only_measured_on(
    make_config: MakeConfig,
    trained: list[dict[str, str]],
    unlabelled: dict[str, Any],
) -> None:
    config = make_config(**{**PEOPLE, "data": unlabelled, "task": CHOICE, "query": HELD})
    with Run(config) as run:
        while examples := run.ask():
            for e in examples:
                run.tell(e.id, LABELS[int(e.id, 16) % 2])
        aside = {e.id for e, _ in run.store.annotations.held_out()}
        assert len(aside) == 4
        assert aside == {p.id for p in run.store.query(0).picks if "test" in p.details}
        assert all(aside.isdisjoint(labels) for labels in trained)
        assert [len(labels) for labels in trained] == [6, 9, 12, 15, 16]
        assert all(0 <= m.values["accuracy"] <= 1 for m in run.metrics())
        assert run.store.facts["data"]["test"] == 4
    drawn = []
    for seed in range(6):
        with Run({**config, "out": f"{config['out']}-{seed}", "seeds": [seed]}) as run:
            drawn.append({p.id for p in run._chooser.to_hold_out()})
    assert len({frozenset(one) for one in drawn}) == 6


def test_labels_are_set_aside_only_where_there_is_no_test_set() -> None:
    base = {"out": "x", "data": {"pool": "a.csv", "template": "{text}", "answer": "y"}, "task": {"kind": "choice"}}
    with pytest.raises(ConfigError, match=r"query\.hold_out is for data without a test set"):
        parse({**base, "data": {**base["data"], "test": "b.csv"}, "query": {**HELD}})  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match=r"query\.hold_out sets 10 of 20 labels aside and leaves less"):
        parse({**base, "query": {**HELD, "warm_start": 15, "hold_out": 0.5}})
