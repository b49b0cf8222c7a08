"""What a random share of the picks tells about a pool: accuracy, class shares, and how hard the chosen examples are.

In round r the random share is a simple random sample S_r without replacement of U_r, the N_r examples that were
unlabelled then. What is known, and why:

- The model of round r − 1 was not trained on S_r. The mean of "right" over S_r is therefore an unbiased estimate of
  that model's accuracy on U_r (each example of U_r is in S_r with probability n_r / N_r, whatever the scores are).
  Answers of later models to S_r are not: they were trained on it.
- Over several rounds the mean estimates the mean accuracy of several models, each on what was unlabelled in its time.
- What does not change with the round, such as an example's class, is known for the labelled examples and sampled for
  the rest: t_r = known_r + N_r · mean(S_r) is unbiased for the total over the whole pool in every round, the t_r are
  uncorrelated, and so is their mean with weights fixed in advance unbiased (Des Raj 1956; R_PURE and R_LURE of
  Farquhar et al. 2021 have the same form).

Picks that a strategy made by the highest score have no probability: no weight can turn them into a sample. Where every
pick of a round was drawn with a known probability and every example left had a chance, `lure_weights` do.

Intervals are Clopper and Pearson's (1934) with the effective sample size of the design (Korn and Graubard 1998), the
difference Newcombe's (1998, method 10). Both are made for few examples and keep to [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from guidestar.metrics.statistics import LEVEL, Floats, Interval, wilson


@dataclass(frozen=True)
class Draw:
    """The random sample of one round.

    hits, n: how many of its n examples have the property. population: N, the unlabelled examples it was drawn from.
    known, labelled: how many of the examples labelled before have the property, and how many they are.
    """

    hits: int
    n: int
    population: int
    known: int = 0
    labelled: int = 0


def proportion(hits: float, n: float, *, population: int | None = None) -> Interval:
    """Share of hits in a sample of n, with an interval for the population it was drawn from without replacement.

    n may be an effective size and need not be whole. population: its size; None is as good as infinite.
    Raises ValueError unless 0 ≤ hits ≤ n and n > 0.
    Source: Clopper and Pearson 1934; Korn and Graubard 1998.
    >>> share = proportion(8, 10)
    >>> share.estimate, round(share.low, 3), round(share.high, 3)
    (0.8, 0.444, 0.975)
    """
    from scipy.special import betaincinv  # type: ignore[import-untyped]

    if n <= 0 or not 0 <= hits <= n:
        raise ValueError(f"found {hits} hits in a sample of {n}")
    share = hits / n
    if population is not None:
        if n >= population:  # everything was looked at
            return Interval(share, share, share)
        n = n * (population - 1) / (population - n)
        hits = share * n
    tail = (1 - LEVEL) / 2
    low = float(betaincinv(hits, n - hits + 1, tail)) if hits > 0 else 0.0
    high = float(betaincinv(hits + 1, n - hits, 1 - tail)) if hits < n else 1.0
    return Interval(share, min(low, share), max(high, share))


def mean_share(draws: Sequence[Draw]) -> Interval:
    """Mean share over rounds, weighted by their samples: the mean accuracy of the models that were sampled.

    The hits of a round may depend on the model of that round, so that the share differs from round to round. The
    interval is then rather too wide (Hoeffding 1956).
    >>> mean_share([Draw(3, 4, 100), Draw(5, 6, 90)]).estimate
    0.8
    """
    used = _used(draws)
    population = used[0].population if len(used) == 1 else None
    return proportion(sum(draw.hits for draw in used), sum(draw.n for draw in used), population=population)


def pool_share(draws: Sequence[Draw]) -> Interval:
    """Share of the whole pool with a property that does not change: labelled examples are known, the rest is sampled.

    Every draw is of the same pool, population + labelled. Weights are the sizes of the samples.
    Source: Des Raj 1956, Some estimators in sampling with varying probabilities without replacement.
    >>> pool_share([Draw(hits=2, n=10, population=100), Draw(hits=1, n=5, population=50, known=40, labelled=50)])
    ... # doctest: +ELLIPSIS
    Interval(estimate=0.3, low=0.1..., high=0.5...)
    """
    used = _used(draws)
    total = sum(draw.n for draw in used)
    estimate, inverse = 0.0, 0.0  # inverse: of the effective sample size
    for draw in used:
        pool = draw.population + draw.labelled
        weight, rest = draw.n / total, draw.population / pool
        estimate += weight * (draw.known / pool + rest * draw.hits / draw.n)
        inverse += (weight * rest) ** 2 * (1 - draw.n / draw.population) / draw.n
    estimate = min(max(estimate, 0.0), 1.0)
    if inverse <= 0:
        return Interval(estimate, estimate, estimate)
    return proportion(estimate / inverse, 1 / inverse)


def rest_share(draw: Draw) -> Interval:
    """Share of right answers in the whole pool if the model answers what is unlabelled and labels count as right.

    >>> rest_share(Draw(hits=8, n=10, population=100, known=100, labelled=100)).estimate
    0.9
    """
    part = proportion(draw.hits, draw.n, population=draw.population)
    pool = draw.population + draw.labelled
    low, middle, high = ((draw.labelled + draw.population * x) / pool for x in (part.low, part.estimate, part.high))
    return Interval(middle, low, high)


def difference(chosen: Sequence[tuple[int, int]], random: Sequence[tuple[int, int]]) -> Interval:
    """Share of hits among chosen examples minus that among random ones, round by round.

    chosen, random: (hits, n) of each round. Rounds in which one of them is empty are left out; the rest counts by the
    number of chosen examples, so that both shares are of the same models in the same proportions.
    Raises ValueError if no round has both.
    Source: Newcombe 1998, method 10, with effective sample sizes.
    >>> difference([(5, 10), (5, 10)], [(1, 5), (1, 5)]).estimate
    0.3
    """
    both = [(c, r) for c, r in zip(chosen, random, strict=True) if c[1] and r[1]]
    if not both:
        raise ValueError("no round has chosen and random examples")
    chosen_hits, chosen_n, random_hits, random_n = np.array([(*c, *r) for c, r in both], dtype=np.float64).T
    weights = chosen_n / chosen_n.sum()
    of_chosen, of_random = float(chosen_hits.sum() / chosen_n.sum()), float(weights @ (random_hits / random_n))
    effective = 1.0 / float((weights**2 / random_n).sum())
    low_c, high_c = wilson(of_chosen, float(chosen_n.sum()))
    low_r, high_r = wilson(of_random, effective)
    middle = of_chosen - of_random
    below, above = math.hypot(of_chosen - low_c, high_r - of_random), math.hypot(high_c - of_chosen, of_random - low_r)
    return Interval(round(middle, 12), middle - below, middle + above)


def _used(draws: Sequence[Draw]) -> list[Draw]:
    used = [draw for draw in draws if draw.n]
    if not used:
        raise ValueError("there is no random example")
    return used


# --- picks with probabilities ---------------------------------------------------------------------


def lure_weights(probabilities: ArrayLike, population: int) -> Floats:
    """Weights v_m with which the mean of v_m L_m over M picks is unbiased for the mean of L over the pool.

    v_m = 1 + (N − M) / (N − m) · (1 / ((N − m + 1) q_m) − 1), m = 1 … M

    probabilities: (M,) q_m, the probability with which the m-th pick was drawn from the N − m + 1 examples then left,
    given the picks before it. Every example left must have had one above 0.
    Raises ValueError for probabilities outside (0, 1] or more picks than examples.
    Source: Farquhar, Gal and Rainforth 2021, On statistical bias in active learning, R_LURE.
    >>> lure_weights([1 / 4, 1 / 3], 4)
    array([1., 1.])
    """
    q = np.asarray(probabilities, dtype=np.float64)
    if len(q) > population or not np.all((q > 0) & (q <= 1)):
        raise ValueError(f"found {len(q)} picks of {population}, with probabilities from {q.min()} to {q.max()}")
    m = np.arange(1, len(q) + 1)
    left = np.maximum(population - m, 1)  # with N = m the factor in front is 0
    return 1 + (population - len(q)) / left * (1 / ((population - m + 1) * q) - 1)


@dataclass(frozen=True)
class Drawn:
    """The picks of one round in the order of drawing, each drawn with a known probability from all that was left.

    hits: (M,) 1 for a pick with the property, 0 without, NaN where nobody knows. probabilities: (M,) at each turn.
    population: N, the examples they were drawn from.
    """

    hits: Floats
    probabilities: Floats
    population: int


def lure_share(rounds: Sequence[Drawn]) -> Interval:
    """Share of hits among all that the picks were drawn from, as if all had been looked at: the mean over the rounds,
    weighted by their picks, of mean(v_m hit_m), see `lure_weights`.

    Unbiased if no hit is unknown; unknown ones are left out of the weights too, and the share is then that of what can
    be known. The interval counts Kish's effective number of picks, (Σv)² / Σv²: fewer, the more the weights differ.
    Raises ValueError if there is no known hit.
    Source: Farquhar, Gal and Rainforth 2021; Kish 1965.
    >>> even = Drawn(np.array([1.0, 0.0, 0.0, 0.0]), np.array([1 / 8, 1 / 7, 1 / 6, 1 / 5]), 8)
    >>> lure_share([even]).estimate
    0.25
    """
    weights = np.concatenate([lure_weights(one.probabilities, one.population) for one in rounds])
    hits = np.concatenate([one.hits for one in rounds])
    known = ~np.isnan(hits)
    if not known.any():
        raise ValueError("there is no pick with a known probability and an answer")
    whole = float(len(hits)) if known.all() else float(weights[known].sum())
    estimate = min(max(float((weights[known] * hits[known]).sum()) / whole, 0.0), 1.0)
    effective = effective_number(weights[known])
    return proportion(estimate * effective, effective)


def effective_number(weights: ArrayLike) -> float:
    """Kish's effective number of examples with unequal weights.

    >>> effective_number([1, 1, 2, 0])
    2.6666666666666665
    """
    w = np.asarray(weights, dtype=np.float64)
    return float(w.sum() ** 2 / (w**2).sum())
