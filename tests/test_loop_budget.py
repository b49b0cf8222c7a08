"""A budget that is raised on the way: the run goes on, and says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from loops import SMALL, MakeConfig, dumps, nothing_stays  # noqa: F401 - fixtures

from guidestar import loop
from guidestar.config import PeopleConfig, RunConfig
from guidestar.errors import ConfigMismatch, StoreError
from guidestar.loop import Run
from guidestar.people.page.app import _work
from guidestar.people.page.board import Board
from guidestar.query import mixing
from guidestar.records import Finished, Stop
from guidestar.report import build_report, summary
from guidestar.report.advice import advise
from guidestar.report.read import differing, read_runs
from guidestar.store import Store, runs_in
from guidestar.study.plan import plan_run, truth_of


def of(budget: int, **others: Any) -> dict[str, Any]:
    """A small configuration with this budget: 12 labels to begin with, 2 a round."""
    return SMALL | {"query": {**SMALL["query"], "budget": budget}} | others


def test_a_raised_run_ends_as_one_with_that_budget_from_the_start(make_config: MakeConfig, tmp_path: Path) -> None:
    """Where no λ depends on it: raised after the end, and raised again in the middle of a round."""
    common: dict[str, Any] = {"strategies": ["random", "entropy"]}
    loop.run(make_config(**of(18, **common), out=str(tmp_path / "whole")))
    raised = str(tmp_path / "raised")
    loop.run(make_config(**of(14, **common), out=raised))
    assert loop.run(make_config(**of(16, **common), out=raised)) == {
        "random-seed0": Finished(Stop.BUDGET),
        "entropy-seed0": Finished(Stop.BUDGET),
    }
    for strategy in ("random", "entropy"):
        with Run(make_config(**of(18, **common), out=raised), strategy=strategy) as run:
            assert run.store.finished() is None
            assert len(run.ask()) == 2
    loop.run(make_config(**of(18, **common), out=raised))
    found, expected = dumps(raised), dumps(tmp_path / "whole")
    for name in expected:
        assert found[name].pop("budgets") == [(16, 2), (18, 3)]
        assert expected[name].pop("budgets") == []
    assert found == expected
    again = dumps(raised)
    loop.run(make_config(**of(18, **common), out=raised))
    assert dumps(raised) == again, "the same budget once more changes nothing"


def test_lambda_stays_on_the_schedule_of_the_first_budget(make_config: MakeConfig) -> None:
    loop.run(make_config(**of(16, strategies=["star"])))
    loop.run(make_config(**of(22, strategies=["star"])))
    with Run(make_config(**of(22, strategies=["star"]))) as run:
        lambdas = [run.store.query(r).picks[0].details["lambda"] for r in range(1, 6)]
    assert lambdas == [pytest.approx(mixing.linear(t, 3)) for t in range(5)]
    assert lambdas[2:] == [0.0, 0.0, 0.0], "the base model's part, once gone, does not come back"


def test_with_anything_else_changed_nothing_is_raised(make_config: MakeConfig, tmp_path: Path) -> None:
    loop.run(make_config(**of(14, strategies=["random"])))
    before = dumps(tmp_path / "run")
    longer = {**SMALL["train"], "epochs": 2}
    with pytest.raises(ConfigMismatch, match=r"train\.epochs: begun with 1, now 2") as caught:
        loop.run(make_config(**of(16, strategies=["random"], train=longer)))
    assert "budget" not in str(caught.value)
    with pytest.raises(ConfigMismatch, match=r"query\.budget: begun with 14, now 13"):
        loop.run(make_config(**of(13, strategies=["random"])))
    with pytest.raises(ConfigMismatch, match=r"query\.budget: begun with 14, now 16"):
        Run(make_config(**of(16, strategies=["random"])), may_grow=False)
    assert dumps(tmp_path / "run") == before
    loop.run(make_config(**of(16, strategies=["random"])))
    with pytest.raises(ConfigMismatch, match=r"query\.budget: begun with 16, now 14"):
        loop.run(make_config(**of(14, strategies=["random"])))


def test_a_schedule_of_ones_own_is_not_asked_beyond_its_rounds(make_config: MakeConfig) -> None:
    asked = []

    def falling(t: int, rounds: int) -> float:
        asked.append((t, rounds))
        return 1 - (t + 1) / rounds

    for budget in (16, 22):
        with Run(make_config(**of(budget, strategies=["star"])), schedule=falling) as run:
            run.run(loop.oracle(run.bench.dataset))
            assert run.store.finished() is Stop.BUDGET
    assert {rounds for _, rounds in asked} == {3}
    assert max(t for t, _ in asked) == 2


def test_a_smaller_budget_than_a_neighbours_is_refused_before_anything(make_config: MakeConfig, tmp_path: Path) -> None:
    """Or the folder's copy of the configuration would stop the raised run from being continued."""
    loop.run(make_config(**of(14, strategies=["random", "entropy"])))
    loop.run(make_config(**of(16, strategies=["entropy"])))
    before = (tmp_path / "run" / "config.yaml").read_text()
    with pytest.raises(
        ConfigMismatch, match=r"entropy-seed0: has a budget of 16 labels, found 14 now; .*query\.budget=16"
    ):
        loop.run(make_config(**of(14, strategies=["random", "entropy"])))
    assert (tmp_path / "run" / "config.yaml").read_text() == before
    loop.run(make_config(**of(16, strategies=["random", "entropy"])))


def test_a_damaged_neighbour_does_not_stop_a_raise(make_config: MakeConfig, tmp_path: Path) -> None:
    loop.run(make_config(**of(12, strategies=["random", "entropy"])))
    (tmp_path / "run" / "entropy-seed0" / "run.sqlite").write_bytes(b"no database" * 100)
    assert loop.run(make_config(**of(14, strategies=["random"]))) == {"random-seed0": Finished(Stop.BUDGET)}


def test_the_plan_of_a_raise_counts_what_is_left(make_config: MakeConfig, tmp_path: Path) -> None:
    loop.run(make_config(**of(14, strategies=["random", "entropy"])))
    plan = plan_run(RunConfig.model_validate(make_config(**of(20, strategies=["random", "entropy"]))))
    assert (plan.runs, plan.done) == (["random-seed0", "entropy-seed0"], [])
    assert (plan.work.rounds, plan.work.labels) == (6, 12), "three rounds of two labels in each run"
    loop.run(make_config(**of(20, strategies=["random", "entropy"])))
    told = truth_of(tmp_path / "run")
    assert told is not None
    assert told.finished
    trained = told.rows["seconds, train"].actual
    with Store.open(tmp_path / "run" / "entropy-seed0") as store:
        every = sum(s for _, phase, s, _ in store.timings() if phase == "train")
        assert trained > 0
        assert every > sum(s for r, phase, s, _ in store.timings() if phase == "train" and r >= 2)
    assert plan_run(RunConfig.model_validate(make_config(**of(20, strategies=["random", "entropy"])))).work.rounds == 0


def test_the_page_sees_a_budget_that_is_raised_while_it_is_open(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(**of(14, strategies=["random"]))
    loop.run(config)
    with Store.open(tmp_path / "run" / "random-seed0") as store:
        board = Board(store, PeopleConfig(), lambda: 0.0)
        assert board.query.budget == 14
        assert _work(board) is None
        assert _work(board, 14) is None
        assert _work(board, 18) is not None, "the configuration asks for more: the trainer is to start a run"
        assert (store.ended(14), store.ended(18)) == (Stop.BUDGET, None)
        with Store.open(tmp_path / "run" / "random-seed0") as other:
            other.raise_budget(18)
        board.refresh()
        assert (board.query.budget, board.query.rounds) == (18, 4)


def test_what_is_said_of_it(make_config: MakeConfig, tmp_path: Path) -> None:
    out = tmp_path / "run"
    loop.run(make_config(**of(14, strategies=["star", "random"])))
    (spent, _) = advise(out)
    assert spent.stop is not None
    assert spent.stop.sentences[-1] == "The budget of 14 labels is spent; a larger query.budget goes on from here."
    loop.run(make_config(**of(16, strategies=["star", "random"])))
    notes = [note for note in summary(out)["notes"] if "raised" in note]
    assert notes == [
        "The budget was raised on the way: star-seed0 from 14 to 16 labels at round 2 and random-seed0 from 14 to 16 "
        "labels at round 2. λ keeps the schedule of the first budget."
    ]
    assert notes[0] in build_report(out).read_text(encoding="utf-8")
    assert differing(read_runs(out)) == []
    assert len(runs_in(out)) == 2
    # A second seed that had the larger budget from the start chose by another λ.
    loop.run(make_config(**of(16, strategies=["star"], seeds=[0, 1])))
    assert differing(read_runs(out)) == ["query.budget at the start of star: 14 and 16"]


def test_one_process_raises_what_another_reads(tmp_path: Path) -> None:
    with Store.open(tmp_path / "run", create=True) as store:
        with pytest.raises(StoreError, match="has not begun"):
            store.raise_budget(5)
        store.begin({"query.budget": 5, "seed": 0}, {"config": {"query": {"budget": 5, "batch": 2}}, "seed": 0})
        for budget in (5, 4):
            with pytest.raises(StoreError, match=f"found a budget of {budget} labels; allowed: more than 5"):
                store.raise_budget(budget)
        store.finish(Stop.EMPTY)
        store.raise_budget(6)
        assert store.finished() is Stop.EMPTY, "more budget makes no pool larger"
        with Store.open(tmp_path / "run") as other:
            assert other.budgets() == [(5, 0), (6, 0)]
            assert other.key == {"query.budget": 6, "seed": 0}
            assert other.facts == {"config": {"query": {"budget": 6, "batch": 2}}, "seed": 0}
