"""STAR's dynamic uncertainty, μ = λ(t) μ_base + (1 − λ(t)) μ_full (eq. 5): schedules of λ, scales, the mix; and a λ that is
measured instead.

t counts the queries after the warm start from 0; `rounds` is the number of points of the learning curve.
Source: Zhang, Wu, Zhou, Xu 2024, arXiv 2403.01165.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from guidestar.config import MixConfig
from guidestar.errors import ConfigError, ModelError, allowed
from guidestar.query.probe import Classes, log_loss
from guidestar.records import Array

Schedule = Callable[[int, int], float]


def linear(t: int, rounds: int) -> float:
    """λ = 1 − (t+1)/T, cut off at 0; with T = 10 it is the 1 − 0.1 (t+1) of STAR's published code (`published`).

    >>> [round(linear(t, 10), 1) for t in (0, 4, 9, 12)]
    [0.9, 0.5, 0.0, 0.0]
    """
    return min(1.0, max(0.0, 1.0 - (t + 1) / rounds))


def cosine(t: int, rounds: int) -> float:
    """λ = ½ (1 + cos(π (t+1)/T)), and 0 from t+1 = T on: slow at both ends.

    >>> [round(cosine(t, 10), 3) for t in (0, 4, 9, 12)]
    [0.976, 0.5, 0.0, 0.0]
    """
    return float(0.5 * (1.0 + np.cos(np.pi * min(1.0, (t + 1) / rounds))))


def exponential(t: int, rounds: int, rate: float = 3.0) -> float:
    """λ = exp(−rate (t+1)/T): fast at first, never quite 0.

    >>> round(exponential(9, 10), 3)
    0.05
    """
    return float(np.exp(-rate * (t + 1) / rounds))


def constant(t: int, rounds: int, value: float = 0.5) -> float:
    """λ = value in every round.

    >>> constant(3, 10, value=0.2)
    0.2
    """
    return value


def published(t: int, rounds: int) -> float:
    """λ = 1 − 0.1 (t+1) whatever T is: the published code's, written for ten rounds and below 0 past them.

    >>> [round(published(t, 20), 1) for t in (0, 4, 9, 12)]
    [0.9, 0.5, 0.0, -0.3]
    """
    return 1.0 - 0.1 * (t + 1)


SCHEDULES: dict[str, Callable[..., float]] = {f.__name__: f for f in (linear, cosine, exponential, constant, published)}


def schedule_for(mix: MixConfig) -> Schedule:
    """The schedule a configuration names, with its parameters filled in.

    >>> schedule_for(MixConfig(schedule="constant", value=0.25))(0, 10)
    0.25
    """
    options = {"exponential": {"rate": mix.rate}, "constant": {"value": mix.value}}
    return partial(SCHEDULES[mix.schedule], **options.get(mix.schedule, {}))


def weight(schedule: Schedule, t: int, rounds: int) -> float:
    """λ(t) of a schedule, which may be a user's function.

    Raises ConfigError if the result is not a number in [0, 1]; `published` alone may fall below 0.
    >>> weight(lambda t, rounds: 1 / (t + 1), 1, 10)
    0.5
    """
    lam = float(schedule(t, rounds))
    if not 0.0 <= lam <= 1.0 and getattr(schedule, "func", schedule) is not published:  # NaN fails too
        name = getattr(schedule, "__name__", "schedule")
        raise ConfigError(f"{name}(t={t}, rounds={rounds}) gave λ = {lam}; allowed: a number from 0 to 1")
    return lam


def raw(values: Array) -> Array:
    """The values as they are, which is the paper's mix.

    >>> raw(np.array([3.0, 1.0]))
    array([3., 1.])
    """
    return values


def minmax(values: Array) -> Array:
    """(x − min)/(max − min), in [0, 1]; all zeros if the values are constant. (n,) -> (n,).

    >>> minmax(np.array([2.0, 4.0, 3.0]))
    array([0. , 1. , 0.5])
    """
    if not len(values):
        return values
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def rank(values: Array) -> Array:
    """Rank from 0 (smallest) to 1 (largest), ties share their average rank. (n,) -> (n,).

    >>> rank(np.array([10.0, 7.0, 7.0, 99.0, 8.0]))
    array([0.75 , 0.125, 0.125, 1.   , 0.5  ])
    """
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    average = np.cumsum(counts) - (counts + 1) / 2
    return average[inverse] / max(len(values) - 1, 1)


Scale = Callable[[Array], Array]
# What the base's and what the full model's values go through. `published` is the published code's: the base's in
# [0, 1], the full model's as they are, so that λ hardly matters where those are sums over many tokens.
SCALES: dict[str, tuple[Scale, Scale]] = {
    "raw": (raw, raw),
    "minmax": (minmax, minmax),
    "rank": (rank, rank),
    "published": (minmax, raw),
}


def mix(base: Array, full: Array, lam: float, scale: str = "raw") -> Array:
    """λ s(μ_base) + (1 − λ) s'(μ_full), with s and s' the two sides of a scale, over the candidates.

    base, full: (n,) uncertainties of the base and of the tuned model. Returns (n,).
    lam: at most 1; below 0 only the published schedule gets.
    Raises ConfigError for an unknown scale or another λ, ModelError if the shapes differ.
    Source: STAR, eq. 5.
    >>> mix(np.array([1.0, 0.0]), np.array([0.0, 4.0]), 0.75)
    array([0.75, 1.  ])
    >>> mix(np.array([9.0, 5.0]), np.array([0.0, 4.0]), 0.75, "published")
    array([0.75, 1.  ])
    """
    if scale not in SCALES:
        raise ConfigError(f"mix.scale is {scale!r}; {allowed(SCALES, scale)}")
    if not -np.inf < lam <= 1.0:
        raise ConfigError(f"λ is {lam}; allowed: a number from 0 to 1 (the published schedule goes below)")
    if base.shape != full.shape:
        raise ModelError(f"base uncertainties have shape {base.shape}, those of the tuned model {full.shape}")
    of_base, of_full = SCALES[scale]
    return lam * of_base(base) + (1.0 - lam) * of_full(full)


def mixed(first: Array, second: Array, lam: float) -> Array:
    """Natural logs of λ p₁ + (1 − λ) p₂, all arrays (n, labels).

    >>> np.exp(mixed(np.log([[0.5, 0.5]]), np.log([[0.9, 0.1]]), 0.25)).round(3).tolist()
    [[0.8, 0.2]]
    """
    with np.errstate(divide="ignore"):
        return np.asarray(np.logaddexp(first + np.log(lam), second + np.log1p(-lam)))


def measured(first: Array, second: Array, classes: Classes) -> float:
    """The λ, in hundredths, whose mix has the least log-loss on labels that neither model had seen; the largest of equals,
    and 1 without any label.

    first, second: (m, labels) natural logs of two models' probabilities. classes: (m,) positions of the right labels.
    Source: stacking (Wolpert 1992); with probabilities: Smyth and Wolpert 1999.
    >>> measured(np.log([[0.9, 0.1], [0.1, 0.9]]), np.log([[0.5, 0.5], [0.5, 0.5]]), np.array([0, 0]))
    0.0
    """
    if not len(classes):
        return 1.0
    grid = np.linspace(1.0, 0.0, 101)
    losses = np.array([log_loss(mixed(first, second, lam), classes) for lam in grid])
    return float(grid[np.argmax(losses <= losses.min() + 1e-9)])
