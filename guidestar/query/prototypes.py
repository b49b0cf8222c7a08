"""Label probabilities from embeddings and a few labels, without training: nearest class means.

What a base model with an untrained classification head can still say about a label: `MixConfig.base`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from guidestar.errors import DataError
from guidestar.query.distances import finite_points
from guidestar.records import Array

_SHARPNESS = np.logspace(-3, 3, 61)  # in units of one over the mean squared distance to the own class's mean


def prototype_log_probs(points: Array, known: Array, classes: NDArray[np.intp], labels: int) -> Array:
    """Natural logs of softmax_c(−s ‖x − m_c‖²) over the labels, m_c the mean of the known points of class c.

    points: (n, width). known: (m, width), of the labelled examples, and classes: (m,) their labels' positions below
    `labels`, or, where several may hold, (m, labels) of 0 and 1. Returns (n, labels), or of each label alone "does not hold"
    and "holds", (n, labels, 2). s is the sharpness of greatest likelihood for the known points, each left out of its
    own class's mean; 1 over the mean squared distance where no class has two. A label without a known point is as far as
    the farthest other.
    Raises DataError without a known point.
    Source: Snell, Swersky, Zemel 2017, prototypical networks, with the embeddings of an untuned model.
    >>> known, classes = np.array([[0.0], [1.0], [4.0], [5.0]]), np.array([0, 0, 1, 1])
    >>> np.exp(prototype_log_probs(np.array([[0.5], [2.5]]), known, classes, 2)).round(2)
    array([[1. , 0. ],
           [0.5, 0.5]])
    """
    if not len(known):
        raise DataError("there is no labelled example to take a class mean of")
    if classes.ndim == 2:
        return np.stack([prototype_log_probs(points, known, column, 2) for column in classes.T], axis=1)
    points, known = (finite_points(part).astype(np.float64) for part in (points, known))
    present = np.unique(classes)
    counts = np.array([(classes == c).sum() for c in present])
    means = np.stack([known[classes == c].mean(axis=0) for c in present])
    apart = _squared(known, means)
    own = np.searchsorted(present, classes)
    rows = np.arange(len(known))
    several = counts[own] > 1
    # ‖x − mean without x‖² = (‖x − mean‖ · n / (n − 1))²
    apart[rows, own] *= np.where(several, (counts[own] / np.maximum(counts[own] - 1, 1)) ** 2, 1.0)
    unit = 1.0 / max(float(apart[rows, own][several].mean()) if several.any() else float(apart.mean()), 1e-12)
    sharpness = unit
    if several.any() and len(present) > 1:
        fits = [
            log_softmax(-s * unit * apart[several])[np.arange(several.sum()), own[several]].sum() for s in _SHARPNESS
        ]
        sharpness = float(_SHARPNESS[int(np.argmax(fits))]) * unit
    near = _squared(points, means)
    distances = np.repeat(near.max(axis=1, keepdims=True), labels, axis=1)
    distances[:, present] = near
    return log_softmax(-sharpness * distances)


def _squared(points: Array, means: Array) -> Array:
    """‖x − m‖², (points, means)."""
    squared = (points**2).sum(1)[:, None] - 2.0 * points @ means.T + (means**2).sum(1)[None]
    return np.maximum(squared, 0.0)


def log_softmax(scores: Array) -> Array:
    """Natural logs of the softmax over the last axis."""
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
