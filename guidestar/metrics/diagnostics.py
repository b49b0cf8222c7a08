"""Does an uncertainty score know anything? How well it tells wrong answers from right ones, and what else it follows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from guidestar.metrics.statistics import LEVEL, Floats, Interval
from guidestar.records import Array

LEAST = 3  # examples below which a correlation says nothing


def pearson(one: Array, other: Array) -> float:
    """Pearson's r; NaN for fewer than three examples or a constant. Source: Pearson 1896."""
    if len(one) < LEAST or np.ptp(one) == 0 or np.ptp(other) == 0:
        return math.nan
    a, b = one - one.mean(), other - other.mean()
    a, b = a / np.abs(a).max(), b / np.abs(b).max()  # entropies of a sure model may be so small that squares vanish
    return float(np.clip((a @ b) / math.sqrt(float(a @ a) * float(b @ b)), -1.0, 1.0))


def spearman(one: ArrayLike, other: ArrayLike) -> float:
    """Spearman's ρ, ties by mean ranks; NaN for fewer than three examples or a constant.

    >>> spearman([1, 2, 3, 4], [1, 4, 9, 16])
    1.0
    """
    from scipy.stats import rankdata  # type: ignore[import-untyped]

    return pearson(rankdata(one), rankdata(other))


def auroc(scores: ArrayLike, wrong: ArrayLike) -> Interval:
    """Probability that a wrong answer scores higher than a right one, ties counted half; 0.5 knows nothing.

    scores: (n,), larger is more uncertain. wrong: (n,) booleans. The interval is DeLong's on the logit scale; NaN
    throughout where all answers are right or all wrong. Without any overlap the interval starts where one more example
    of each kind, in the wrong order, would put the estimate.
    Source: DeLong, DeLong and Clarke-Pearson 1988; the logit: Pepe 2003.
    >>> auroc([0.1, 0.2, 0.3, 0.9], [False, True, False, True]).estimate
    0.75
    """
    from scipy.special import expit, ndtri  # type: ignore[import-untyped]
    from scipy.stats import rankdata

    x, bad = np.asarray(scores, dtype=np.float64), np.asarray(wrong, dtype=bool)
    if x.shape != bad.shape or x.ndim != 1:
        raise ValueError(f"found {x.shape} scores for {bad.shape} answers")
    m, n = int(bad.sum()), int((~bad).sum())
    if not m or not n:
        return Interval(math.nan, math.nan, math.nan)
    together, above, below = rankdata(x), rankdata(x[bad]), rankdata(x[~bad])
    of_wrong = (together[bad] - above) / n  # for each wrong answer the share of right ones that it is above
    of_right = 1 - (together[~bad] - below) / m
    estimate = float(of_wrong.mean())
    if min(m, n) < 2:
        return Interval(estimate, 0.0, 1.0)
    variance = float(of_wrong.var(ddof=1) / m + of_right.var(ddof=1) / n)
    if estimate in (0.0, 1.0) or variance <= 0:
        edge = m * n / ((m + 1) * (n + 1))
        return Interval(estimate, min(estimate, edge), max(estimate, 1 - edge))
    middle = math.log(estimate / (1 - estimate))
    half = float(ndtri((1 + LEVEL) / 2)) * math.sqrt(variance) / (estimate * (1 - estimate))
    return Interval(estimate, float(expit(middle - half)), float(expit(middle + half)))


def risk_coverage(scores: ArrayLike, wrong: ArrayLike) -> Floats:
    """Share of errors among the k surest answers, k = 1 … n. (n,) -> (n,); equal scores count with their mean.

    Source: El-Yaniv and Wiener 2010; Geifman and El-Yaniv 2017.
    >>> risk_coverage([0.3, 0.1, 0.2], [True, False, False])
    array([0.        , 0.        , 0.33333333])
    """
    x, bad = np.asarray(scores, dtype=np.float64), np.asarray(wrong, dtype=np.float64)
    _, group, size = np.unique(x, return_inverse=True, return_counts=True)
    mean = np.bincount(group, weights=bad) / size
    order = np.argsort(x, kind="stable")
    return np.cumsum(mean[group][order]) / np.arange(1, len(x) + 1)


def aurc(scores: ArrayLike, wrong: ArrayLike) -> float:
    """Area under the risk–coverage curve: the mean of it. A score that knows nothing gives the share of errors.

    >>> aurc([0.1, 0.2, 0.3, 0.4], [False, False, True, True])
    0.20833333333333331
    """
    return float(risk_coverage(scores, wrong).mean())


def best_aurc(wrong: ArrayLike) -> float:
    """The area of a score that puts every wrong answer behind every right one.

    >>> best_aurc([True, False]), best_aurc([False, False])
    (0.25, 0.0)
    """
    return aurc(np.asarray(wrong, dtype=np.float64), wrong)


def top_share(scores: ArrayLike, groups: Sequence[int] | NDArray[np.intp], kinds: int, share: float = 0.1) -> Floats:
    """Shares of the groups among the most uncertain `share` of the examples. groups: (n,) in 0 … kinds − 1 -> (kinds,).

    >>> top_share([0.9, 0.8, 0.1, 0.2], [0, 0, 1, 1], 2, share=0.5)
    array([1., 0.])
    """
    x = np.asarray(scores, dtype=np.float64)
    k = max(1, round(share * len(x)))
    top = np.argsort(-x, kind="stable")[:k]
    return np.bincount(np.asarray(groups, dtype=np.intp)[top], minlength=kinds) / k


def correlation_limit(n: int) -> float:
    """|ρ| that n unrelated pairs stay below with a probability of 95 % (normal approximation).

    >>> round(correlation_limit(100), 3)
    0.197
    """
    from scipy.special import ndtri

    return float(ndtri((1 + LEVEL) / 2)) / math.sqrt(max(n - 1, 1))
