"""What choosing labels is worth: two learning curves paired by seed, their areas, and the labels that one saves.

Every number here is a weighted sum of the curves' points or a ratio of two, so that `statistics.Moments` gives its
interval. Between the points and against their noise a curve is read off a local quadratic in log(labels), fitted with
a Gaussian kernel of 0.15 of the curve's range. A line through the points themselves, isotonic or not, was tried: its
intervals were wider by half and covered up to 100 % in place of 95 %, for noise crosses any height many times; one
cubic, quadratic or power law for the whole curve covered as little as 90, 53 and 30 % where the curve had another
shape.

Intervals of savings are inverted tests: they hold all numbers of labels at which the two curves are not significantly
apart, so that they end at the edge of what was measured, openly, where nothing beyond it was seen.

Sources: Jukić and Šnajder 2023, arXiv 2305.14576 (the area); Zhang, Wu, Zhou, Xu 2024, arXiv 2403.01165, eq. 8 (RIPL); Baram, El-Yaniv and Luz 2004, JMLR 5 (deficiency); Fan and
Gijbels 1996 (local polynomials).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from guidestar.metrics import statistics
from guidestar.metrics.statistics import LEVEL, Floats, Interval, Moments, interval_of, ratio_interval

BANDWIDTH = 0.15  # of the kernel, as a share of the curve's range of log(labels)
_GRID = 256  # places at which a curve is read

Bound = Literal["at least", "at most"]


@dataclass(frozen=True)
class Pair:
    """A strategy's curves and the control's, over the same seeds.

    strategy: (seeds, points) accuracies, control: (seeds, control points). labels, control_labels: how many labels
    each point had; the shorter is the beginning of the longer. moments: of the strategy's points, the control's and
    the number 1.
    """

    strategy: Floats
    control: Floats
    labels: Floats
    control_labels: Floats
    moments: Moments

    @cached_property
    def shared(self) -> int:
        """The points that both curves have."""
        return min(len(self.labels), len(self.control_labels))

    @property
    def seeds(self) -> int:
        """How many seeds both have."""
        return len(self.strategy)

    @property
    def examples(self) -> int | None:
        """How many test examples, if each one's results are known."""
        return self.moments.m if self.moments.examples is not None else None

    def weigh(self, strategy: ArrayLike = 0.0, control: ArrayLike = 0.0, constant: float = 0.0) -> Floats:
        """Weights (..., k) of the quantities in `moments`. strategy: (..., points), control: (..., control points);
        a shorter one weighs the first points."""
        parts = [_padded(strategy, len(self.labels)), _padded(control, len(self.control_labels)), np.array([constant])]
        lead = np.broadcast_shapes(*(part.shape[:-1] for part in parts))
        return np.concatenate([np.broadcast_to(part, (*lead, part.shape[-1])) for part in parts], axis=-1)


def _padded(weights: ArrayLike, points: int) -> Floats:
    padded = np.atleast_1d(np.asarray(weights, dtype=np.float64))
    missing = [(0, 0)] * (padded.ndim - 1) + [(0, points - padded.shape[-1])]
    return np.pad(padded, missing)


def pair(strategy: ArrayLike, control: ArrayLike, labels: ArrayLike, control_labels: ArrayLike | None = None) -> Pair:
    """Two sets of learning curves, paired by seed.

    strategy, control: (seeds, points) accuracies, or (seeds, points, examples) with 1 where a test example was
    answered rightly: then every interval speaks of new test examples too. labels: (points,), rising.
    Raises ValueError if the shapes do not fit, a value is no fraction, or there are fewer than two seeds.
    """
    own, other = np.asarray(strategy, dtype=np.float64), np.asarray(control, dtype=np.float64)
    at = np.asarray(labels, dtype=np.float64)
    beside = at if control_labels is None else np.asarray(control_labels, dtype=np.float64)
    if own.ndim != other.ndim or own.ndim not in (2, 3) or own.shape[0] != other.shape[0]:
        raise ValueError(f"curves are (seeds, points) of the same seeds, found {own.shape} and {other.shape}")
    if own.shape[1:2] != at.shape or other.shape[1:2] != beside.shape or own.shape[2:] != other.shape[2:]:
        raise ValueError(f"found {own.shape} and {other.shape} values for {at.shape} and {beside.shape} labels")
    shared = min(len(at), len(beside))
    if not shared or (at[:shared] != beside[:shared]).any() or (np.diff(at) <= 0).any() or (np.diff(beside) <= 0).any():
        raise ValueError(f"labels rise from point to point and are those of the control, found {at} and {beside}")
    if min(own.min(), other.min()) < 0 or max(own.max(), other.max()) > 1:
        raise ValueError("values of a learning curve are fractions from 0 to 1")
    stacked = np.concatenate([own, other, np.ones_like(own[:, :1])], axis=1)
    all_moments = statistics.moments(stacked if stacked.ndim == 2 else stacked.transpose(0, 2, 1))
    flat = [values if values.ndim == 2 else values.mean(axis=2) for values in (own, other)]
    return Pair(flat[0], flat[1], at, beside, all_moments)


# --- curves as a whole ----------------------------------------------------------------------------


def auc(values: Sequence[float] | Floats) -> float:
    """Area under the learning curve: trapezoids over the steps, divided by the number of intervals.

    values: the metric at each point, as fractions. The x axis is the step, not the count of labels. A curve
    of one point has that value.
    Raises ValueError if there is no point or a value lies outside [0, 1].
    >>> auc([0.25, 0.5, 0.75])
    0.5
    """
    curve = np.asarray(values, dtype=np.float64)
    if curve.ndim != 1 or not len(curve):
        raise ValueError("a learning curve needs at least one point")
    if not ((curve >= 0) & (curve <= 1)).all():
        raise ValueError(f"values of a learning curve are fractions from 0 to 1, found {curve.tolist()}")
    if len(curve) == 1:
        return float(curve[0])
    return float(((curve[1:] + curve[:-1]) / 2).mean())


def ripl(auc_al: float, auc_random: float) -> float:
    """Relative improvement over passive learning, (AUC_AL − AUC_random)/(1 − AUC_random); a fraction.

    1 closes the whole gap to a perfect curve, 0 is random's level, below 0 is worse than random.
    Raises ValueError if an area lies outside [0, 1], or if random is perfect and leaves nothing to improve.
    >>> round(100 * ripl(0.2883, 0.2737), 2)
    2.01
    """
    if not (0 <= auc_al <= 1 and 0 <= auc_random <= 1):
        raise ValueError(f"areas are fractions from 0 to 1, found {auc_al} and {auc_random}")
    if auc_random == 1:
        raise ValueError("the random curve is perfect, so that no improvement over it is defined")
    return (auc_al - auc_random) / (1 - auc_random)


def steps(points: int) -> Floats:
    """Weights of the points in the area under a curve, as `auc` has it: trapezoids over the steps.

    >>> steps(3)
    array([0.25, 0.5 , 0.25])
    """
    if points == 1:
        return np.ones(1)
    weights = np.full(points, 1.0)
    weights[[0, -1]] = 0.5
    return weights / (points - 1)


def area(curves: Pair) -> Floats:
    """Weights of the difference of the areas, strategy − control, over the points that both have."""
    return curves.weigh(steps(curves.shared), -steps(curves.shared))


def final(curves: Pair) -> Floats:
    """Weights of the difference of accuracy at the last point that both have."""
    last = np.eye(curves.shared)[-1]
    return curves.weigh(last, -last)


def area_difference(curves: Pair, level: float = LEVEL) -> Interval:
    """How much higher the strategy's curve is on average: the difference of the areas, a fraction of accuracy."""
    return interval_of(curves.moments, area(curves), level)


def area_p(curves: Pair) -> float:
    """Two-sided p of the t test that the areas are equal."""
    return statistics.p_of(curves.moments, area(curves))


def final_difference(curves: Pair, level: float = LEVEL) -> Interval:
    """How much higher the strategy ends, at the last point that both have."""
    return interval_of(curves.moments, final(curves), level)


def ripl_interval(curves: Pair, level: float = LEVEL) -> Interval:
    """RIPL of the mean areas, (AUC − AUC_control)/(1 − AUC_control), with Fieller's interval.

    Source: arXiv 2403.01165, eq. 8.
    """
    own = steps(curves.shared)
    return ratio_interval(curves.moments, area(curves), curves.weigh(control=-own, constant=1.0), level)


def deficiency_interval(curves: Pair, level: float = LEVEL) -> Interval:
    """Deficiency: the area between the best accuracy and the strategy's curve, over that of the control. Below 1 the
    strategy is better; below 0 it was above the best accuracy for most of its way. With Fieller's interval.

    The best accuracy is the control's at the last point that both have, as in the source, where the control's end is the
    whole pool. It is unbounded where the control hardly rises.
    Source: Baram, El-Yaniv and Luz 2004, section 5.
    """
    own, last = steps(curves.shared), np.eye(curves.shared)[-1]
    return ratio_interval(curves.moments, curves.weigh(-own, last), curves.weigh(control=last - own), level)


# --- labels saved ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Saving:
    """The share of the control's labels that the strategy does without; below 0 it needs more than the control.

    accuracy: what is to be reached. labels, control_labels: how many labels the mean curves need for it, None where a
    curve does not reach it. share: with its interval; −inf and 1 are its ends where the measured curves do not bound
    it. bound: "at least" or "at most" if the share itself is such, because one curve ends before the accuracy.
    """

    accuracy: float
    labels: float | None
    control_labels: float | None
    share: Interval
    bound: Bound | None = None


def saving_on_average(curves: Pair, level: float = LEVEL) -> Interval:
    """The share of labels saved on average over all accuracies from the warm start to the higher end of the two.

    The area between two rising curves is the same summed over labels or over accuracies: Σ (labels that the control
    needs − labels that the strategy needs) = ∫ (strategy − control). An accuracy that a curve does not reach is
    counted as reached with the last label, so the share is nearer to 0 than the truth. Its numerator is the
    difference of the areas: it and its interval have the same sign, and it is far better known than the saving at
    any single accuracy. Over the points that both curves have; unbounded where they hardly rise.
    """
    at = curves.labels[: curves.shared]
    if len(at) < 2:
        return Interval(math.nan, -math.inf, math.inf)
    widths = np.zeros(len(at))
    widths[1:] += np.diff(at) / 2
    widths[:-1] += np.diff(at) / 2
    first, last = np.eye(len(at))[0], np.eye(len(at))[-1]
    ahead = float(final(curves) @ curves.moments.mean) > 0
    needed = curves.weigh(at[-1] * last * ahead, at[-1] * last * (not ahead) - widths - at[0] * first)
    return ratio_interval(curves.moments, curves.weigh(widths, -widths), needed, level)


def smoother(labels: ArrayLike, at: ArrayLike) -> Floats:
    """Weights (len(at), points) that read a curve at any number of labels: a local quadratic in log(labels).

    Its weights depend on labels alone and sum to 1; a quadratic in log(labels) is read without error.
    >>> smoother([100, 200, 400], [100, 400]).round(6) + 0.0
    array([[1., 0., 0.],
           [0., 0., 1.]])
    """
    x, z = np.log(np.asarray(labels, dtype=np.float64)), np.log(np.asarray(at, dtype=np.float64))
    away = (x - z[:, None]) / max(BANDWIDTH * (x[-1] - x[0]), 1e-9)
    root = np.exp(-(away**2) / 4)
    powers = away[..., None] ** np.arange(min(3, len(x)))
    return np.linalg.pinv(powers * root[..., None])[:, 0] * root


@lru_cache(maxsize=64)
def _on_grid(labels: tuple[float, ...]) -> tuple[Floats, Floats]:
    """The grid of a curve and the weights that read it there; the same for all strategies of an experiment."""
    at = np.geomspace(labels[0], labels[-1], _GRID)
    return at, smoother(labels, at)


def _read(curves: Pair) -> tuple[Floats, Floats, Floats, Floats]:
    """The two mean curves read on a grid of labels: the strategy's labels (grid,) and weights (grid, k), the control's."""
    (own, rows), (other, control_rows) = (_on_grid(tuple(at.tolist())) for at in (curves.labels, curves.control_labels))
    return own, curves.weigh(rows), other, curves.weigh(control=control_rows)


def saving_at_the_end(curves: Pair, level: float = LEVEL) -> Saving | None:
    """Labels saved to reach the accuracy at which the lower of the two curves ends, the highest that both reach.

    If the strategy ends above, its labels for the control's last accuracy against all of the control's; if below, all
    of its labels against the control's for the strategy's last accuracy. Both cases are one path of candidate shares,
    along which the difference of the two accuracies rises from below 0 to above; the interval holds the shares at
    which a t test over the seeds (and test examples) does not tell it from 0. None if a curve has one point.
    """
    if min(len(curves.labels), len(curves.control_labels)) < 2:
        return None
    own, rows, other, control_rows = _read(curves)
    back = slice(-2, None, -1)
    path = np.concatenate([rows - control_rows[-1], rows[-1] - control_rows[back]])
    at = np.concatenate([own, np.full(_GRID - 1, own[-1])])
    beside = np.concatenate([np.full(_GRID, other[-1]), other[back]])
    place, share = _inverted(curves, path, 1 - at / beside, level)
    needed, against = (float(np.interp(place, np.arange(len(at)), labels)) for labels in (at, beside))
    accuracy = min(float(rows[-1] @ curves.moments.mean), float(control_rows[-1] @ curves.moments.mean))
    bound: Bound | None = "at least" if place <= 0 else "at most" if place >= len(at) - 1 else None
    return Saving(accuracy, needed, against, share, bound)


def saving_at(curves: Pair, accuracy: float, level: float = LEVEL) -> Saving | None:
    """Labels saved to reach a given accuracy.

    The interval starts from the curve that reaches the accuracy with fewer labels, at those labels, and holds all
    numbers of labels of the other at which the two are not significantly apart; it is open where the other curve ends
    before that. None if a curve has one point.
    """
    if min(len(curves.labels), len(curves.control_labels)) < 2:
        return None
    own, rows, other, control_rows = _read(curves)
    mean = curves.moments.mean
    needed, against = _needed(rows @ mean - accuracy, own), _needed(control_rows @ mean - accuracy, other)
    if needed is not None and (against is None or needed <= against):
        there = curves.weigh(smoother(curves.labels, [needed]))
        _, share = _inverted(curves, there - control_rows[::-1], 1 - needed / other[::-1], level)
    elif against is not None:
        there = curves.weigh(control=smoother(curves.control_labels, [against]))
        _, share = _inverted(curves, rows - there, 1 - own / against, level)
    else:
        return Saving(accuracy, None, None, Interval(math.nan, -math.inf, 1.0))
    estimate = 1 - (needed or own[-1]) / (against or other[-1])
    bound: Bound | None = "at least" if against is None else "at most" if needed is None else None
    around = Interval(float(estimate), min(share.low, estimate), max(share.high, estimate))
    return Saving(accuracy, needed, against, around, bound)


def _needed(height: Floats, at: Floats) -> float | None:
    """Where a noisy rising curve crosses 0, None if it stays below; a curve that begins above crosses at its start."""
    rising = _rising(height)
    return None if rising[-1] < 0 else float(np.interp(_crossing(rising), np.arange(len(at)), at))


def _inverted(curves: Pair, rows: Floats, shares: Floats, level: float) -> tuple[float, Interval]:
    """Where a difference of accuracies is 0 along a path of candidate shares, and the shares at which it may be.

    rows: (path, k), weights of the difference strategy − control, which in truth rises along the path. shares:
    (path,), falling. Ends that the path does not bound are 1 and −inf.
    """
    height, error = rows @ curves.moments.mean, statistics.errors(curves.moments, rows)
    half = statistics.t_quantile(error.freedom, level) * error.whole
    places = np.arange(len(shares))
    place, first, last = (_crossing(_rising(line)) for line in (height, height + half, height - half))
    share, high, low = (float(np.interp(at, places, shares)) for at in (place, first, last))
    low = -math.inf if last >= places[-1] else min(low, share)
    return place, Interval(share, low, 1.0 if first <= 0 else max(high, share))


# --- where a noisy rising line crosses 0, as a place on its grid ------------------------------------


def _rising(height: Floats) -> Floats:
    """The middle between the least rising line above and the highest below: monotone, and itself where it rises."""
    above, below = np.maximum.accumulate(height), np.minimum.accumulate(height[::-1])[::-1]
    return (above + below) / 2


def _crossing(rising: Floats) -> float:
    """The place at which a rising line is 0; its first or last place if it lies above or below."""
    if rising[0] >= 0 or rising[-1] < 0:
        return 0.0 if rising[0] >= 0 else len(rising) - 1.0
    i = int((rising >= 0).argmax())
    return i - 1 + float(-rising[i - 1] / (rising[i] - rising[i - 1]))
