"""Whether another round is worth it: where the learning curve goes, whether predictions still move, and confidence.

The curve is a − b n^(−c) for n labels: a power law with a plateau. Its three numbers are not estimated as points but
weighed on a grid by how well they explain what was measured, so that the gain of the next round comes with an interval.
What that rests on: the curve rises (b ≥ 0) to a plateau of at most 1, c lies between 0.1 and 2, the noise of the rounds
is normal with one unknown variance, and the next batch is as useful as the ones before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from guidestar.metrics.statistics import Floats, Interval

LEVEL = 0.9  # of the intervals of a forecast
LEAST_ROUNDS = 4  # measured rounds below which three numbers and a variance cannot be told apart
PRIOR_WEIGHT = 2.0  # rounds that the expected noise of the measurement counts for
_GRID = (48, 48, 24)  # heights at the first and the last round, ln c
_CELLS, _ZOOMS, _DRAWS = 500, 8, 4000  # the grid is made finer until the weight lies on so many cells

Advice = Literal["stop", "go on", "unknown"]


@dataclass(frozen=True)
class Curve:
    """Curves that may have given what was measured, as draws in proportion to their weight.

    a, b, c: (draws,) of a − b n^(−c). noise: (draws,) standard deviation of one round's measurement on `examples`.
    """

    a: Floats
    b: Floats
    c: Floats
    noise: Floats
    examples: float

    def at(self, labels: float) -> Floats:
        """(draws,) heights of the curves, without noise."""
        return self.a - self.b * labels**-self.c

    def plateau(self) -> Interval:
        """Where the curve ends with ever more labels of this kind."""
        return _interval(self.a)


def fit_curve(labels: ArrayLike, values: ArrayLike, examples: ArrayLike) -> Curve:
    """Power laws with a plateau through a measured curve, weighed by their likelihood.

    labels: (n,) rising and above 0. values: (n,) accuracies in [0, 1]. examples: how many examples each was measured
    on, one number or (n,); a round on few examples counts for less.
    The noise has variance s² / examples; s² has a scaled inverse χ² prior that expects a binomial's and counts for
    `PRIOR_WEIGHT` rounds. Heights at the first and last round are uniform beforehand, ln c too.
    Raises ValueError for fewer than 4 rounds, or lengths or numbers that do not fit.
    Source: the power law: Viering and Loog 2023, The shape of learning curves; Figueroa et al. 2012.
    """
    n, y = np.asarray(labels, dtype=np.float64), np.asarray(values, dtype=np.float64)
    m = np.broadcast_to(np.asarray(examples, dtype=np.float64), y.shape)
    if n.shape != y.shape or y.ndim != 1 or len(y) < LEAST_ROUNDS:
        raise ValueError(f"found {n.shape} labels and {y.shape} values; a curve needs at least {LEAST_ROUNDS} rounds")
    if (n <= 0).any() or (np.diff(n) <= 0).any() or (m <= 0).any() or (y < 0).any() or (y > 1).any():
        raise ValueError("labels must rise and be above 0, values lie in [0, 1], examples be above 0")
    relative = m / m.mean()
    middle = float(np.average(y, weights=m))
    expected = max(middle * (1 - middle), 1 / m.sum()) / m.mean()
    reach = 4 * np.sqrt(expected / relative.min()) + (y.max() - y.min()) / 2
    height = (max(y.min() - reach, 0.0), min(y.max() + reach, 1.0))
    box = np.array([height, height, np.log((0.1, 2.0))])
    freedom = PRIOR_WEIGHT + len(y)
    for _ in range(_ZOOMS):
        a, b, c, cells = _curves(box, n)
        misfit = np.zeros(len(a))
        for labels_r, value, weight in zip(n, y, relative, strict=True):  # a round at a time: the grid is large enough
            misfit += weight * (value - a + b * labels_r**-c) ** 2
        scale = PRIOR_WEIGHT * expected + misfit
        log_weight = -freedom / 2 * np.log(scale)
        weights = np.exp(log_weight - log_weight.max())
        if weights.sum() ** 2 / (weights**2).sum() > _CELLS:
            break
        box = _closer(box, cells[:, weights > 1e-4])
    rng = np.random.default_rng(0)
    at = rng.choice(len(a), size=_DRAWS, p=weights / weights.sum())
    return Curve(a[at], b[at], c[at], np.sqrt(scale[at] / rng.chisquare(freedom, _DRAWS)), float(m.mean()))


def _curves(box: Floats, n: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """a, b and c of the curves on a grid, and (3, curves) their places: height at the first round and at the last, ln c."""
    axes = [np.linspace(low, high, size) for (low, high), size in zip(box, _GRID, strict=True)]
    cells = np.stack([part.ravel() for part in np.meshgrid(*axes, indexing="ij")])
    cells = cells[:, cells[1] >= cells[0]]
    first, last, c = cells[0], cells[1], np.exp(cells[2])
    b = (last - first) / (n[0] ** -c - n[-1] ** -c)
    a = first + b * n[0] ** -c
    possible = a <= 1
    return a[possible], b[possible], c[possible], cells[:, possible]


def _closer(box: Floats, likely: Floats) -> Floats:
    """The part of the box with the likely cells and one step around them: what is measured well needs a finer grid."""
    step = (box[:, 1] - box[:, 0]) / (np.asarray(_GRID) - 1)
    low, high = likely.min(axis=1) - step, likely.max(axis=1) + step
    return np.stack([np.maximum(low, box[:, 0]), np.minimum(high, box[:, 1])], axis=1)


def gain(curve: Curve, now: float, then: float, least: float = 0.0) -> tuple[Interval, float]:
    """What going from `now` to `then` labels adds to the curve itself, a fraction, the noise of measuring it left out; and
    the probability that it is at least `least`."""
    added = curve.at(then) - curve.at(now)
    return _interval(added), float((added >= least).mean())


def next_value(curve: Curve, labels: float, examples: float | None = None) -> Interval:
    """Where the next measurement will lie, its noise included. examples: how many it is measured on."""
    rng = np.random.default_rng(1)
    spread = curve.noise * np.sqrt(curve.examples / (examples or curve.examples))
    return _interval(curve.at(labels) + spread * rng.standard_normal(len(spread)))


@dataclass(frozen=True)
class Held:
    """A forecast of a round that had happened already, made from the rounds before it."""

    labels: float
    predicted: Interval
    measured: float

    @property
    def held(self) -> bool:
        """Whether the measurement lay in the interval."""
        return self.measured in self.predicted


def hold_back(labels: ArrayLike, values: ArrayLike, examples: ArrayLike) -> list[Held]:
    """Forecasts of every round that has enough rounds before it, beside what was measured then.

    >>> len(hold_back([10, 20, 30, 40, 50], [0.5, 0.6, 0.65, 0.68, 0.7], 100))
    1
    """
    n, y = np.asarray(labels, dtype=np.float64), np.asarray(values, dtype=np.float64)
    m = np.broadcast_to(np.asarray(examples, dtype=np.float64), y.shape)
    return [
        Held(float(n[i]), next_value(fit_curve(n[:i], y[:i], m[:i]), float(n[i]), float(m[i])), float(y[i]))
        for i in range(LEAST_ROUNDS, len(y))
    ]


def _interval(draws: Floats) -> Interval:
    low, middle, high = np.quantile(draws, [(1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2])
    return Interval(float(middle), float(low), float(high))


# --- predictions without labels -------------------------------------------------------------------


def settled(kappas: Sequence[float], cutoff: float, rounds: int) -> bool | None:
    """Whether the mean κ of the last `rounds` pairs of models reaches the cutoff; None with fewer pairs.

    Source: Bloodgood and Vijay-Shanker 2009, stabilizing predictions (cutoff 0.99, the last 3 pairs).
    >>> settled([0.9, 0.99, 1.0, 0.99], 0.99, 3), settled([0.9, 0.99, 1.0, 0.99], 0.99, 4), settled([1.0], 0.99, 3)
    (True, False, None)
    """
    return None if len(kappas) < rounds else float(np.mean(kappas[-rounds:])) >= cutoff


def falling(confidences: Sequence[float], rounds: int) -> bool | None:
    """Whether the mean confidence on unlabelled examples fell in each of the last `rounds` rounds; None with fewer.

    Source: Vlachos 2008, A stopping criterion for active learning: confidence rises, peaks, and falls when new labels
    bring no more.
    >>> falling([0.7, 0.9, 0.8, 0.7, 0.6], 3), falling([0.7, 0.9, 0.8, 0.85, 0.6], 3), falling([0.9, 0.8], 3)
    (True, False, None)
    """
    return None if len(confidences) <= rounds else bool(np.all(np.diff(confidences[-rounds - 1 :]) < 0))


def decide(signals: Mapping[str, bool | None]) -> Advice:
    """ "stop" where two signals or more say so and they outnumber those against; "unknown" with fewer than two known.

    >>> decide({"gain": True, "agreement": True, "confidence": False}), decide({"gain": True, "agreement": None})
    ('stop', 'unknown')
    """
    known = [signal for signal in signals.values() if signal is not None]
    if len(known) < 2:
        return "unknown"
    return "stop" if sum(known) >= 2 and 2 * sum(known) > len(known) else "go on"
