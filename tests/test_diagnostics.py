"""What a score knows: against scikit-learn, scipy and literal counting, and intervals on simulated scores."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from guidestar.metrics.diagnostics import (
    aurc,
    auroc,
    best_aurc,
    correlation_limit,
    risk_coverage,
    spearman,
    top_share,
)


@pytest.mark.parametrize("seed", range(10))
def test_the_numbers_are_those_of_others(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, wrong = rng.normal(size=60).round(1), rng.random(60) < 0.3
    other = scores + rng.normal(size=60).round(1)
    assert auroc(scores, wrong).estimate == pytest.approx(roc_auc_score(wrong, scores))
    assert spearman(scores, other) == pytest.approx(stats.spearmanr(scores, other).statistic)


def test_delong_s_variance_is_that_of_the_structural_components() -> None:
    """The literal double sum over pairs of wrong and right answers."""
    rng = np.random.default_rng(3)
    scores, wrong = rng.normal(size=40), rng.random(40) < 0.4
    high, low = scores[wrong], scores[~wrong]
    pairs = np.array([[float(h > r) + 0.5 * float(h == r) for r in low] for h in high])
    variance = pairs.mean(axis=1).var(ddof=1) / len(high) + pairs.mean(axis=0).var(ddof=1) / len(low)
    a = pairs.mean()
    half = 1.959964 * np.sqrt(variance) / (a * (1 - a))
    expected = 1 / (1 + np.exp(-(np.log(a / (1 - a)) + np.array([-half, half]))))
    found = auroc(scores, wrong)
    assert [found.low, found.high] == pytest.approx(expected.tolist(), rel=1e-5)


def test_intervals_of_the_auroc_hold() -> None:
    rng, inside = np.random.default_rng(0), 0
    truth = stats.norm.cdf(1.0 / np.sqrt(2))
    for _ in range(1000):
        wrong = np.arange(120) < 30
        found = auroc(rng.normal(size=120) + wrong, wrong)
        inside += truth in found
    assert abs(inside / 1000 - 0.95) <= 0.02


def test_the_ends_of_the_scale() -> None:
    perfect = auroc([0.1, 0.2, 0.8, 0.9], [False, False, True, True])
    assert (perfect.estimate, perfect.high) == (1.0, 1.0)
    assert perfect.low < 0.5
    assert np.isnan(auroc([0.1, 0.2], [False, False]).estimate)
    assert auroc([0.5] * 6, [True, False] * 3).estimate == 0.5
    assert (auroc([0.1, 0.9, 0.2], [False, True, False]).low, np.isnan(spearman([1, 1, 1], [1, 2, 3]))) == (0.0, True)
    with pytest.raises(ValueError, match="scores for"):
        auroc([0.1], [True, False])


def test_risk_and_coverage_by_counting() -> None:
    rng = np.random.default_rng(1)
    scores, wrong = rng.permutation(20) / 20.0, rng.random(20) < 0.4
    surest = sorted(range(20), key=lambda i: scores[i])
    expected = [sum(wrong[i] for i in surest[: k + 1]) / (k + 1) for k in range(20)]
    assert risk_coverage(scores, wrong).tolist() == pytest.approx(expected)
    assert risk_coverage(scores, wrong)[-1] == pytest.approx(wrong.mean())
    assert best_aurc(wrong) <= aurc(scores, wrong)
    constant = aurc(np.zeros(20), wrong)
    assert constant == pytest.approx(wrong.mean()), "a score that knows nothing, whatever the order of the examples"


def test_classes_at_the_top_and_the_limit_of_chance() -> None:
    assert top_share(np.arange(100), np.arange(100) // 50, 2).tolist() == [0.0, 1.0]
    rng = np.random.default_rng(2)
    beyond = [abs(spearman(rng.normal(size=80), rng.normal(size=80))) > correlation_limit(80) for _ in range(1000)]
    assert abs(np.mean(beyond) - 0.05) < 0.02
