"""Racing: against a slow twin and against all passes; saved passes; what it refuses; with a model behind it."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asked import train
from scipy.stats import t
from test_predict import PEFT, choice, examples

from benchmarks.racing import simulate
from guidestar.asking import LABELS, InParts, Raced
from guidestar.config import TrainConfig
from guidestar.errors import ConfigError, NoVariance
from guidestar.model import predict as predict_room
from guidestar.model.scorer import OwnScorer
from guidestar.query.measures import entropy, evaluate_measure
from guidestar.query.racing import intervals, race
from guidestar.store.cache import Cache


def slow_intervals(values: list[list[float]], total: int, failure: float) -> list[tuple[float, float]]:
    """The intervals of `racing` for lists of values, one example after the other, with 50 neighbours on each side."""
    means = [statistics.fmean(v) for v in values]
    spreads = [statistics.variance(v) if len(v) > 1 else 0.0 for v in values]
    order = sorted(range(len(values)), key=lambda i: means[i])
    found: list[tuple[float, float]] = [(0.0, 0.0)] * len(values)
    for place, i in enumerate(order):
        near = [spreads[j] for j in order[max(place - 50, 0) : place + 51]]
        freedom = 4.0 + len(values[i]) - 1
        variance = (4.0 * statistics.fmean(near) + (len(values[i]) - 1) * spreads[i]) / freedom
        reach = t.isf(failure, freedom) * math.sqrt(variance * (1 / len(values[i]) - 1 / total))
        found[i] = (means[i] - reach, means[i] + reach)
    return found


def test_intervals_equal_the_slow_twin() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(2, 9, size=170)
    values = [rng.normal(rng.normal(), 0.5, size=c).tolist() for c in counts]
    sums, squares = np.array([sum(v) for v in values]), np.array([sum(x * x for x in v) for v in values])
    low, high = intervals(counts, sums, squares, 10, 0.02)
    np.testing.assert_allclose(np.stack([low, high], 1), slow_intervals(values, 10, 0.02), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("unequal", [0.0, 0.4, 0.8])
@pytest.mark.parametrize(("made", "failure"), [(2, 0.05), (5, 0.05), (2, 0.0125), (6, 0.0125)])
def test_intervals_miss_no_more_often_than_they_say(unequal: float, made: int, failure: float) -> None:
    """Also where examples differ in their spread, lognormally by `unequal`."""
    rng = np.random.default_rng(1)
    values = rng.normal(size=(10, 20_000)) * np.exp(rng.normal(0.0, unequal, size=20_000))
    some = values[:made]
    low, high = intervals(np.full(20_000, made), some.sum(0), (some**2).sum(0), 10, failure)
    every = values.mean(0)
    for missed in ((every < low).mean(), (every > high).mean()):
        assert 0 < missed < 1.1 * failure


def test_after_all_passes_nothing_is_uncertain() -> None:
    low, high = intervals(np.full(5, 4), np.arange(5.0), np.arange(5.0) ** 2, 4, 0.01)
    np.testing.assert_array_equal(low, high)


def test_picks_are_those_of_all_passes_and_passes_are_saved() -> None:
    """The promise: at least 95 % of the same picks with a third of the passes, at a noise of a fifth."""
    found = simulate(5000, 500, 10, noise=0.2, seeds=4)
    assert found["same_least"] >= 0.95
    assert found["saved_least"] >= 3
    calm = simulate(2000, 200, 10, noise=0.0, seeds=1)
    assert calm["same"] == 1.0, "without noise two passes say everything"


@pytest.mark.parametrize("noise", [0.2, 1.0])
def test_losses_stay_below_the_stated_failure(noise: float) -> None:
    found = simulate(3000, 300, 10, noise=noise, seeds=4, failure=0.1)
    assert 1 - found["same"] <= 0.1


def test_the_mean_of_an_undecided_example_is_over_all_passes() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(size=(6, 40)) + np.linspace(0, 2, 40)
    found = race(lambda j, rows: values[j, rows], 40, 10, 6)
    whole = found.passes == 6
    assert whole.any()
    np.testing.assert_allclose(found.means[whole], values.mean(0)[whole])
    for i, c in enumerate(found.passes):
        assert found.means[i] == pytest.approx(values[:c, i].mean())
    assert len(set(found.picks.tolist())) == 10


@pytest.mark.parametrize(("n", "k"), [(3, 5), (5, 5), (1, 1)])
def test_as_many_picks_as_examples(n: int, k: int) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, n))
    assert sorted(race(lambda j, rows: values[j, rows], n, k, 4).picks.tolist()) == list(range(n))


def test_impossible_races_are_refused() -> None:
    with pytest.raises(ConfigError, match="racing needs more than 2 passes, found 2"):
        race(lambda j, rows: np.zeros(len(rows)), 4, 2, 2)
    with pytest.raises(ConfigError, match=r"failure rate is 1\.5; it must lie between 0 and 1"):
        race(lambda j, rows: np.zeros(len(rows)), 4, 2, 5, failure=1.5)


# --- with a model ---


def adapter(base: Any, folder: Path, dropout: float) -> Path:
    labelled = [(e, choice().labels[i % 6]) for i, e in enumerate(examples())]
    peft = {**PEFT, "lora_dropout": dropout}
    train(base, peft, TrainConfig(epochs=3, batch_size=4, learning_rate=1e-2), labelled, choice(), folder, seed=1)
    return folder


def test_a_race_with_a_model_makes_fewer_passes(base: Any, tmp_path: Path) -> None:
    def value(found: Any, rows: Any) -> Any:
        return entropy(found.arrays["label_log_probs"][0])

    scorer = Raced(
        InParts(OwnScorer(base, choice(), adapter(base, tmp_path / "a", 0.1)), Cache(tmp_path / "parts")), value, k=3
    )
    runs = [scorer.race(examples(), replace(LABELS, passes=8, seed=s)) for s in (5, 5, 6)]
    found, race_found = runs[0]
    assert found.arrays["label_log_probs"].shape == (8, 8, 6)
    assert race_found.passes.min() < 8, "every example had every pass"
    np.testing.assert_array_equal(found.arrays["label_log_probs"], runs[1][0].arrays["label_log_probs"])
    assert (found.arrays["label_log_probs"] != runs[2][0].arrays["label_log_probs"]).any()
    i = int(race_found.passes.argmin())
    first = race_found.passes[i]
    np.testing.assert_array_equal(found.arrays["label_log_probs"][first, i], found.arrays["label_log_probs"][0, i])
    values = entropy(found.arrays["label_log_probs"])
    for j in np.flatnonzero(race_found.passes == 8):
        assert race_found.means[j] == pytest.approx(values[:, j].mean())
    np.testing.assert_allclose(evaluate_measure("entropy", found, race_found.passes), race_found.means, rtol=1e-9)
    assert not (tmp_path / "parts").exists(), "a small pool needs no files"


def test_a_race_over_a_large_pool_goes_on_in_the_pass_it_was_in(
    base: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    plain = predict_room.predict

    def counted(base: Any, model: Any, some: Any, *args: Any, **options: Any) -> Any:
        asked.append(len(some))
        if len(asked) == dies_at:
            raise KeyboardInterrupt
        return plain(base, model, some, *args, **options)

    monkeypatch.setattr(predict_room, "predict", counted)
    tuned = OwnScorer(base, choice(), adapter(base, tmp_path / "a", 0.1))

    def go(folder: str) -> Any:
        parts = InParts(tuned, Cache(tmp_path / folder), size=3)
        scorer = Raced(parts, lambda said, rows: entropy(said.arrays["label_log_probs"][0]), k=3)
        return scorer.race(examples(), replace(LABELS, passes=5, seed=5))

    dies_at = 0
    whole, race_whole = go("whole")
    every = len(asked)
    asked.clear()
    dies_at = 6
    with pytest.raises(KeyboardInterrupt):
        go("stopped")
    again, race_again = go("stopped")
    assert len(asked) == every + 1, "a finished part was computed twice, or one was left out"
    np.testing.assert_array_equal(whole.arrays["label_log_probs"], again.arrays["label_log_probs"])
    np.testing.assert_array_equal(race_whole.picks, race_again.picks)


def test_equal_passes_are_refused(base: Any, tmp_path: Path) -> None:
    tuned = OwnScorer(base, choice(), adapter(base, tmp_path / "a", 0.0))
    with pytest.raises(NoVariance, match="first two Monte-Carlo passes are equal"):
        Raced(tuned, lambda said, rows: np.zeros(len(rows)), k=2)(examples(), replace(LABELS, passes=4))
