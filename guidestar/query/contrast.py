"""Selectors that set candidates against what is labelled already: DAL and CAL."""

from __future__ import annotations

import numpy as np

from guidestar.query.distances import Points, finite_points, nearest, quiet_fit
from guidestar.query.selectors import Positions, random, top
from guidestar.records import Array

_FLOOR = 1e-12  # smallest probability of a label, so that a divergence stays finite


def discriminative(
    points: Array, labelled_points: Array | None, k: int, rng: np.random.Generator, sub_batches: int = 10
) -> Positions:
    """Again and again, the candidates that a classifier of labelled against unlabelled finds most unlike the labelled.

    The batch is asked for in `sub_batches` parts. For each part a logistic regression is fitted on the labelled (class
    0) and on a random sample of the candidates, ten times as many (class 1); the sample's highest P(unlabelled) are
    chosen, and count as labelled for the next part. With nothing labelled, the first part is random.
    points: (n, width). labelled_points: (m, width) or None. They are centred and divided by one number, so that the
    regularisation does not depend on the length of hidden states.
    Returns (min(k, n),) positions in the order of choosing. Raises ModelError if an embedding is not finite.
    Source: Gissin and Shalev-Shwartz 2019 (DAL); sample and parts as in Jukić and Šnajder's code (2023).
    >>> discriminative(np.array([[0.0], [0.1], [9.0]]), np.array([[0.0], [0.1]]), 1, np.random.default_rng(0))
    array([2])
    """
    order = random(len(points), len(points), rng)
    ordered = finite_points(points)[order]
    width = ordered.shape[1]
    known = np.empty((0, width), np.float32) if labelled_points is None else finite_points(labelled_points)
    ordered, known = _one_scale(ordered, known)
    left = np.arange(len(order))
    chosen: list[int] = []
    for part in np.array_split(np.arange(min(k, len(order))), max(1, sub_batches)):
        if not len(part):
            continue
        labelled = np.concatenate([known, ordered[chosen]])
        size = min(len(left), max(10 * len(labelled), len(part)))
        sample = left[random(len(left), size, rng)]
        odds = _log_odds(labelled, ordered[sample]) if len(labelled) else np.zeros(len(sample))
        picked = sample[top(odds, len(part), rng)]
        chosen += picked.tolist()
        left = np.setdiff1d(left, picked)
    return order[np.asarray(chosen, dtype=np.intp)]


def _one_scale(points: Points, known: Points) -> tuple[Points, Points]:
    both = np.concatenate([points, known])
    if not len(both):
        return points, known
    middle = both.mean(axis=0, dtype=np.float64).astype(np.float32)
    size = float(np.sqrt(((both - middle) ** 2).sum(axis=1).mean())) or 1.0
    return (points - middle) / size, (known - middle) / size


def _log_odds(labelled: Points, unlabelled: Points) -> Array:
    """ln P(unlabelled)/P(labelled) of each unlabelled point; it orders like P, without its rounding near 1."""
    from sklearn.linear_model import LogisticRegression

    x = np.concatenate([labelled, unlabelled]).astype(np.float64)
    y = np.repeat([0, 1], [len(labelled), len(unlabelled)])
    with quiet_fit():
        fitted = LogisticRegression(solver="lbfgs", max_iter=1000).fit(x, y)
    return np.asarray(fitted.decision_function(unlabelled.astype(np.float64)))


def contrast(
    points: Array, log_probs: Array, labelled_points: Array, labelled_log_probs: Array, neighbours: int = 10
) -> Array:
    """How far a candidate's prediction is from those of its nearest labelled examples: mean KL(p_labelled ‖ p), nats.

    points: (n, width). log_probs: (n, labels) natural logs. labelled_…: the same for the m labelled examples; with
    fewer than `neighbours` of them all count. Probabilities below 1e-12 count as 1e-12.
    Returns (n,) scores, all 0 when nothing is labelled. Raises ModelError if an embedding is not finite.
    Source: Margatina, Vernikos, Barrault, Aletras 2021 (CAL), algorithm 1.
    >>> contrast(np.zeros((1, 1)), np.log([[0.5, 0.5]]), np.zeros((1, 1)), np.log([[0.9, 0.1]])).round(4)
    array([0.3681])
    """
    if not len(labelled_points) or not len(points):
        return np.zeros(len(points))
    close, _ = nearest(finite_points(points), finite_points(labelled_points), neighbours)
    floor = np.log(_FLOOR)
    known = np.maximum(np.asarray(labelled_log_probs, dtype=np.float64), floor)
    mine = np.maximum(np.asarray(log_probs, dtype=np.float64), floor)
    divergence = np.zeros(len(points))
    for j in range(close.shape[1]):
        theirs = known[close[:, j]]
        divergence += (np.exp(theirs) * (theirs - mine)).sum(axis=1)
    return np.maximum(divergence / close.shape[1], 0.0)
