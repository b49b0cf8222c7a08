"""Forecasts of the learning curve on curves with a known truth; and the criteria that need no labels."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from guidestar.metrics.agreement import cohen_kappa
from guidestar.metrics.forecast import decide, falling, fit_curve, gain, hold_back, next_value, settled

LABELS = np.arange(100, 451, 50)
TEST = 400


def _truths(rng: np.random.Generator, count: int) -> list[tuple[float, float, float]]:
    """(a, b, c) of curves as fine-tuning gives them: from 0.4 to 0.8 at the start, plateaus between 0.75 and 1."""
    found = []
    while len(found) < count:
        a, start, c = rng.uniform(0.75, 1.0), rng.uniform(0.4, 0.8), np.exp(rng.uniform(np.log(0.2), np.log(1.5)))
        if start < a:
            found.append((a, (a - start) * 100.0**c, c))
    return found


def test_intervals_of_the_gain_and_of_the_next_round_hold() -> None:
    """90 % intervals: the true gain lies in at least 88 % of them, and the next measurement too."""
    rng, gains, nexts = np.random.default_rng(0), [], []
    for a, b, c in _truths(rng, 300):
        rounds = rng.integers(4, len(LABELS))
        truth = a - b * LABELS**-c
        noise = rng.uniform(0.5, 1.5)  # the share of the binomial's: one test set, but another training each time
        measured = np.clip(truth + noise * np.sqrt(truth * (1 - truth) / TEST) * rng.standard_normal(len(LABELS)), 0, 1)
        curve = fit_curve(LABELS[:rounds], measured[:rounds], TEST)
        added, _ = gain(curve, LABELS[rounds - 1], LABELS[rounds])
        gains.append(truth[rounds] - truth[rounds - 1] in added)
        nexts.append(measured[rounds] in next_value(curve, LABELS[rounds]))
    assert np.mean(gains) >= 0.88
    assert np.mean(nexts) >= 0.86


def test_a_clear_curve_is_found_again() -> None:
    labels = np.arange(50, 1050, 50)
    curve = fit_curve(labels, 0.9 - 3.0 * labels**-0.7, 100_000)
    assert curve.plateau().estimate == pytest.approx(0.9, abs=0.02)
    truth = 3.0 * (1000**-0.7 - 1050**-0.7)
    added, chance = gain(curve, 1000, 1050, least=0.0005)
    assert truth in added
    assert 0 < added.high - added.low < 0.0002
    assert chance > 0.5


def test_a_flat_curve_promises_little_and_a_steep_one_much() -> None:
    flat, little = gain(fit_curve(LABELS, np.full(len(LABELS), 0.9), 2000), 450, 500, least=0.005)
    steep, much = gain(fit_curve(LABELS, np.linspace(0.4, 0.8, len(LABELS)), 2000), 450, 500, least=0.005)
    assert flat.high < 0.005
    assert little < 0.05
    assert steep.low > 0.005
    assert much > 0.95


def test_more_noise_gives_wider_intervals() -> None:
    values = 0.9 - 3.0 * LABELS**-0.6
    sure, unsure = (gain(fit_curve(LABELS, values, n), 450, 500)[0] for n in (5000, 50))
    assert unsure.high - unsure.low > sure.high - sure.low


def test_a_round_measured_on_few_examples_counts_for_less() -> None:
    values = np.full(len(LABELS), 0.8)
    values[3] = 0.2
    few = np.full(len(LABELS), 200.0)
    few[3] = 2
    trusting, wary = (next_value(fit_curve(LABELS, values, n), 500, 200) for n in (200, few))
    assert wary.high - wary.low < trusting.high - trusting.low


def test_forecasts_are_made_from_the_rounds_before_alone() -> None:
    values = [0.5, 0.6, 0.66, 0.7, 0.72, 0.1]
    held = hold_back(LABELS[:6], values, TEST)
    assert [h.labels for h in held] == [300, 350]
    assert [h.held for h in held] == [True, False], "the last round fell out of the curve"
    assert held[0].predicted == hold_back(LABELS[:5], values[:5], TEST)[0].predicted


@pytest.mark.parametrize(
    ("labels", "values"),
    [([1, 2, 3], [0.1, 0.2, 0.3]), ([1, 2, 2, 3], [0.1] * 4), ([1, 2, 3, 4], [0.1, 0.2, 0.3, 1.2])],
)
def test_what_is_no_curve_is_refused(labels: list[float], values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"at least 4 rounds|labels must rise"):
        fit_curve(labels, values, 100)


def test_kappa_is_the_known_one() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        before, after = rng.integers(0, 4, 50), rng.integers(0, 4, 50)
        after[:30] = before[:30]
        kappa = cohen_kappa(before.tolist(), after.tolist())
        assert kappa == pytest.approx(cohen_kappa_score(before, after))
    assert cohen_kappa([0] * 5, [0] * 5) is None
    assert cohen_kappa([0], [1]) == 0.0
    with pytest.raises(ValueError, match="shorter"):
        cohen_kappa([0] * 5, [0] * 4)


def test_advice_needs_two_signals() -> None:
    assert decide({"gain": True, "agreement": None, "confidence": None}) == "unknown"
    assert decide({"gain": True, "agreement": False}) == "go on"
    assert decide({"gain": False, "agreement": True, "confidence": True}) == "stop"
    assert decide({"gain": True, "agreement": True}) == "stop"
    assert settled([], 0.99, 1) is None
    assert falling([0.9, 0.9, 0.9, 0.9], 3) is False
