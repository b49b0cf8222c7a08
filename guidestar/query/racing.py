"""Racing: the k highest means over K Monte-Carlo passes without making all passes for all examples.

After two passes most examples are clearly in or clearly out; further passes are made for the others alone. In the end
every example near the threshold has all K passes. What is aimed at is the picks that K passes over all would give,
so the uncertainty of a mean after j passes is that of the K − j passes not yet made, and is nothing after K.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from guidestar.errors import ConfigError
from guidestar.records import Array

Positions = NDArray[np.intp]

FIRST = 2  # passes before anything is decided: a spread needs two
_PRIOR = 4.0  # degrees of freedom lent by the neighbours' spread
_NEIGHBOURS = 101


@dataclass(frozen=True)
class Race:
    """The outcome of a race. picks: (k,) positions, highest mean first; means: (n,) over the passes made; passes: (n,)
    how many those were; total: how many all would have been."""

    picks: Positions
    means: Array
    passes: NDArray[np.intp]
    total: int

    @property
    def saved(self) -> float:
        """How many times as many passes over all examples would have been."""
        return float(self.total * len(self.passes) / self.passes.sum())


def race(draw: Callable[[int, Positions], Array], n: int, k: int, passes: int, *, failure: float = 0.1) -> Race:
    """The k examples with the highest mean over `passes` values, by successive elimination and acceptance.

    draw: called with the number of a pass and positions; returns the values of that pass for them.
    failure: an example that all passes would pick is lost with at most this probability, if its values are spread
    normally and the threshold (the k-th largest mean so far, one of many and hardly noisy) is right. It is divided
    evenly among the looks (Bonferroni). Most picks are far from the threshold and in no danger, so the share of picks
    that differ is much smaller (`tests/test_racing.py` measures it).

    Raises ConfigError for fewer than three passes or a failure outside (0, 1).
    Source: successive elimination with acceptance, Even-Dar, Mannor, Mansour 2006; Bubeck, Wang, Viswanathan 2013. The
    intervals are Student's for a finite population, each example's variance shrunk towards its neighbours'.
    >>> exact = np.array([3.0, 1.0, 2.0, 0.0])
    >>> finished = race(lambda j, rows: exact[rows] + 0.01 * (-1) ** (j + rows), 4, 2, 10)
    >>> finished.picks, finished.passes
    (array([0, 2]), array([ 2,  2, 10,  2]))
    """
    if passes <= FIRST:
        raise ConfigError(f"racing needs more than {FIRST} passes, found {passes}")
    if not 0 < failure < 1:
        raise ConfigError(f"racing: the failure rate is {failure}; it must lie between 0 and 1")
    k = min(k, n)
    open_ = np.ones(n, dtype=bool)
    accepted = np.zeros(n, dtype=bool)
    counts, sums, squares = np.zeros(n, dtype=np.intp), np.zeros(n), np.zeros(n)
    for j in range(passes):
        rows = np.flatnonzero(open_)
        if len(rows) == 0:
            break
        values = np.asarray(draw(j, rows), dtype=np.float64)
        counts[rows] += 1
        sums[rows] += values
        squares[rows] += values**2
        if FIRST <= j + 1 < passes:
            low, high = intervals(counts, sums, squares, passes, failure / (passes - FIRST))
            threshold = np.partition(sums / counts, -k)[-k]
            accepted |= open_ & (low > threshold)
            open_ &= (low <= threshold) & (high >= threshold)
    means = sums / counts
    rank = np.lexsort((-means, ~accepted, ~(accepted | open_)))  # accepted, still open, out; each by its mean
    picks = rank[:k]
    return Race(picks[np.argsort(-means[picks], kind="stable")], means, counts, passes)


def intervals(counts: NDArray[np.intp], sums: Array, squares: Array, total: int, failure: float) -> tuple[Array, Array]:
    """Where the mean over all `total` passes lies, given the first `counts` of them: (low, high), (n,) each.

    Each side is missed with probability `failure` for normal values. After all passes both are the mean.
    """
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    means = sums / counts
    freedom = counts - 1
    variances = np.maximum(squares - counts * means**2, 0.0) / np.maximum(freedom, 1)
    order = np.argsort(means, kind="stable")  # the spread of an entropy depends on its size: none at 0
    near = _running_mean(variances[order], _NEIGHBOURS)
    prior = np.empty_like(near)
    prior[order] = near
    shrunk = (_PRIOR * prior + freedom * variances) / (_PRIOR + freedom)
    reach = -stdtrit(_PRIOR + freedom, failure) * np.sqrt(shrunk * np.maximum(1 / counts - 1 / total, 0.0))
    return means - reach, means + reach


def _running_mean(values: Array, width: int) -> Array:
    """Means of the nearest `width` values around each, fewer at the ends."""
    half = width // 2
    sums = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    first, last = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)
