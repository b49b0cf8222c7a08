"""A budget that is raised on the way: the run goes on, and says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from loops import SMALL, MakeConfig, dumps, nothing_stays, quick  # noqa: F401 - fixtures

from guidestar import loop
from guidestar.errors import ConfigMismatch, StoreError
from guidestar.loop import Run
from guidestar.query import mixing
from guidestar.records import Finished, Stop
from guidestar.report import build_report, summary
from guidestar.report.advice import advise
from guidestar.report.read import differing, read_runs
from guidestar.store import Store


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


def test_what_is_said_of_it(make_config: MakeConfig, tmp_path: Path) -> None:
    out = tmp_path / "run"
    loop.run(make_config(**of(14, strategies=["star", "random"])))
    (spent, _) = advise(out)
    assert (
        spent["stop"]["sentences"][-1] == "The budget of 14 labels is spent; a larger query.budget goes on from here."
    )
    loop.run(make_config(**of(16, strategies=["star", "random"])))
    notes = [note for note in summary(out)["notes"] if "raised" in note]
    assert notes == [
        "The budget was raised on the way: star-seed0 from 14 to 16 labels at round 2 and random-seed0 from 14 to 16 "
        "labels at round 2. λ keeps the schedule of the first budget."
    ]
    assert notes[0] in build_report(out).read_text(encoding="utf-8")
    assert differing(read_runs(out)) == []
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
