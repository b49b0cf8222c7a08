"""Pools where choosing must win, tie and lose: the verdict says so. What the whole study found stands in
docs/statistics.md."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from guidestar.errors import StoreError
from guidestar.metrics.savings import area_difference
from guidestar.metrics.verdict import comparison_of, decide, judge
from guidestar.query.strategies import STRATEGIES
from tools import verdicts
from tools.coverage import FILE, statistics_page
from tools.verdicts import WORLDS, experiment, fit, main, predict, run

RESULTS = Path(__file__).parent.parent / "results"


@pytest.mark.parametrize("name", WORLDS)
def test_the_verdict_is_the_truth(name: str) -> None:
    curves = experiment(WORLDS[name], 1)
    found = judge(curves, decide({0: comparison_of(curves)})[0], ("the strategy", "random"))
    assert found.kind == WORLDS[name].truth, found.sentence
    said = {"gain": " saved", "no evidence": "No evidence of a gain", "harm": " more"}[found.kind]
    assert said in found.sentence


def test_leaving_out_copies_repairs_what_copies_break() -> None:
    """The harm is the copies' and not the measure's."""
    without = experiment(WORLDS["duplicates"], 0, replace(STRATEGIES["entropy"], near_duplicates=0.98))
    harm = experiment(WORLDS["duplicates"], 0)
    assert area_difference(without).estimate > area_difference(harm).high
    assert decide({0: comparison_of(without)})[0].kind != "harm"


def test_both_curves_begin_with_the_same_model() -> None:
    pool = WORLDS["redundancy"].make(np.random.default_rng(0))
    own, other = (run(pool, STRATEGIES[name], 5) for name in ("entropy", "random"))
    assert (own[0] == other[0]).all()
    assert (own[1:] != other[1:]).any()
    assert (run(pool, STRATEGIES["entropy"], 5) == own).all(), "the same seed gives the same run"


@pytest.mark.parametrize("classes", [2, 5])
def test_the_learner_is_a_logistic_regression(classes: int) -> None:
    rng = np.random.default_rng(classes)
    x = rng.normal(size=(200, 4))
    y = np.argmax(x @ rng.normal(size=(4, classes)) + rng.gumbel(size=(200, classes)), axis=1)
    logs = predict(fit(x, y, classes), x)
    assert np.exp(logs).sum(axis=1) == pytest.approx(np.ones(200))
    # sklearn adds |w|²/2 to C times the sum of losses, and does not shrink the constant: given as a column, it does
    data = np.concatenate([x, np.ones((200, 1))], axis=1)
    theirs = LogisticRegression(C=1 / (2 * verdicts._PENALTY * 200), fit_intercept=False, tol=1e-8, max_iter=1000)
    wanted = theirs.fit(data, y).predict_proba(data)
    if classes > 2:  # for two classes sklearn has one column of weights, so its penalty is another
        assert np.exp(logs) == pytest.approx(wanted, abs=2e-3)
    else:
        assert np.corrcoef(np.exp(logs)[:, 1], wanted[:, 1])[0, 1] > 0.999


def test_the_study_writes_what_the_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "WORLDS", {name: WORLDS[name] for name in ("saturated", "outliers")})
    monkeypatch.setattr(verdicts, "SEEDS", 5)
    main(2, tmp_path / "pools.json")
    kept = json.loads((tmp_path / "pools.json").read_text(encoding="utf-8"))
    assert (kept["experiments"], kept["seeds"], kept["labels"][0]) == (2, 5, verdicts.WARM_START)
    easy, junk = kept["rows"]
    assert (easy["world"], junk["world"]) == ("saturated", "outliers")
    assert easy["verdicts"]["no evidence"] == 1
    assert junk["difference"]["estimate"] < -0.02


def test_the_kept_study_agrees_with_the_truth() -> None:
    """In at least four of five experiments, and never the opposite word more often than the level allows."""
    kept = json.loads((RESULTS / "statistics" / "pools.json").read_text(encoding="utf-8"))
    assert [row["world"] for row in kept["rows"]] == list(WORLDS)
    assert kept["experiments"] >= 100
    for row in kept["rows"]:
        assert row["truth"] == WORLDS[row["world"]].truth
        assert row["verdicts"][row["truth"]] >= 0.8, row
        opposite = {"gain": "harm", "harm": "gain"}.get(row["truth"])
        assert opposite is None or row["verdicts"][opposite] <= 0.05


def test_the_page_is_that_of_the_kept_results() -> None:
    page = (RESULTS.parent / "docs" / "statistics.md").read_text(encoding="utf-8")
    assert page == statistics_page(RESULTS / FILE), "python -m tools.docs docs writes it anew"
    kept = json.loads((RESULTS / FILE).read_text(encoding="utf-8"))
    assert kept["simulations"] >= 1000
    for row in kept["rows"]:
        if row["about"] == "curves":
            covered = [value for name, value in row["found"].items() if name != "p < 0.05"]
            assert min(covered) >= 0.93, row
            assert row["speed"] != 1 or row["found"]["p < 0.05"] <= 0.05 + 0.02, row


def test_a_missing_study_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"coverage\.json: cannot be read as the results of the simulations"):
        statistics_page(tmp_path / "coverage.json")
