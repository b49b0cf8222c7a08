"""The numbers of the probes: confidence of wrong predictions, correlation across rounds, what did not change.

Pure NumPy. Log-probabilities are natural logs over the labels, (n, labels); entropies are in nats.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from guidestar.metrics.diagnostics import pearson as pearson_r
from guidestar.metrics.diagnostics import spearman as spearman_rho
from guidestar.metrics.scores import Indices, ece
from guidestar.query.measures import entropy
from guidestar.records import Array

Mask = NDArray[np.bool_]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


# --- confidence ---------------------------------------------------------------------------------


def confidence(log_probs: Array) -> Array:
    """CF, the probability of the likeliest label; (n, labels) -> (n,), in [1/labels, 1].

    Source: STAR, eq. 4, CF = max(p_true, p_false), for any number of labels.
    >>> confidence(np.log([[0.75, 0.25], [0.5, 0.5]]))
    array([0.75, 0.5 ])
    """
    return np.minimum(np.exp(log_probs.max(axis=1).astype(np.float64)), 1.0)  # rounding may give 1 + 1e-8


def calibration(log_probs: Array, gold: Indices) -> dict[str, Any]:
    """How sure a model is, and how sure it may be: accuracy, ECE, and confidences apart by right and wrong.

    Keys: examples, accuracy, ece, confidence (mean), overconfidence (mean confidence − accuracy), and `right` and
    `wrong`, each a `spread` of confidences.
    """
    sure, missed = confidence(log_probs), log_probs.argmax(axis=1) != gold
    accuracy = float((~missed).mean())
    return {
        "examples": len(gold), "accuracy": accuracy, "ece": ece(log_probs.astype(np.float64), gold),
        "confidence": float(sure.mean()), "overconfidence": float(sure.mean()) - accuracy,
        "right": spread(sure[~missed]), "wrong": spread(sure[missed]),
    }  # fmt: skip


def spread(values: Array) -> dict[str, float]:
    """Number, mean, standard deviation and quantiles; {"n": 0} alone where there is nothing.

    >>> spread(np.array([1.0, 2.0, 3.0]))["q50"]
    2.0
    """
    if not len(values):
        return {"n": 0}
    at = zip(QUANTILES, np.quantile(values, QUANTILES), strict=True)
    quantiles = {f"q{round(100 * q):02d}": float(value) for q, value in at}
    return {"n": len(values), "mean": float(values.mean()), "std": float(values.std()), **quantiles}


def density(values: Array, at: Array, low: float, high: float) -> Array:
    """Gaussian kernel density of values in [low, high], reflected at both ends so that nothing leaks out of them.

    values: (n,), n ≥ 1. at: (m,) places in [low, high]. Returns (m,), whose integral over [low, high] is 1.
    The bandwidth is Silverman's, 0.9 min(σ, IQR/1.34) n^(−1/5), between 1/50 and 1/5 of the range: values that are
    all alike would make it 0.
    Source: Silverman 1986, sections 2.10 (reflection) and 3.4.2 (bandwidth).
    >>> density(np.array([0.5]), np.array([0.5, 1.0]), 0.0, 1.0).round(3)
    array([19.947,  0.   ])
    """
    width = high - low
    quartiles = np.quantile(values, [0.25, 0.75])
    scale = min(float(values.std()), float(quartiles[1] - quartiles[0]) / 1.34)
    h = min(max(0.9 * scale * len(values) ** -0.2, width / 50), width / 5)
    mirrored = np.concatenate([values, 2 * low - values, 2 * high - values])
    heights = np.zeros(len(at))
    for i, x in enumerate(at):  # a place at a time: a test set times a curve need not fit the memory
        heights[i] = np.exp(-0.5 * ((x - mirrored) / h) ** 2).sum()
    return heights / (len(values) * h * np.sqrt(2 * np.pi))


def standard_error(one: Array, other: Array) -> float:
    """Standard error of the difference of two means, of samples that need not have one variance (Welch 1947).

    NaN for a sample of fewer than two.
    >>> round(standard_error(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0])), 4)
    1.1547
    """
    if min(len(one), len(other)) < 2:
        return float("nan")
    return float(np.sqrt(one.var(ddof=1) / len(one) + other.var(ddof=1) / len(other)))


# --- correlation --------------------------------------------------------------------------------


def correlations(values: Array, keep: NDArray[np.bool_] | None = None) -> tuple[Array, Array, NDArray[np.intp]]:
    """Pearson's r, Spearman's ρ and the number of examples between every two rows; each (rows, rows).

    values: (rows, n), for example the base model and every round. keep: (rows, n) or None; the correlation of two
    rows is over the examples that both keep. NaN where fewer than 3 are kept, or where a row is constant on them.
    Source: Pearson 1896; Spearman 1904 (ties share their average rank).
    >>> r, rho, n = correlations(np.array([[1.0, 2.0, 4.0], [1.0, 3.0, 4.0]]))
    >>> r.round(3)[0, 1], rho[0, 1], n[0, 1]
    (np.float64(0.929), np.float64(1.0), np.int64(3))
    """
    rows = len(values)
    pearson, spearman = np.full((rows, rows), np.nan), np.full((rows, rows), np.nan)
    number = np.zeros((rows, rows), dtype=np.intp)
    for i in range(rows):
        for j in range(i, rows):
            both = slice(None) if keep is None else keep[i] & keep[j]
            a, b = values[i, both], values[j, both]
            number[i, j] = number[j, i] = len(a)
            pearson[i, j] = pearson[j, i] = pearson_r(a, b)
            spearman[i, j] = spearman[j, i] = spearman_rho(a, b)
    return pearson, spearman, number


# --- what did not change ------------------------------------------------------------------------

GROUPS = ("unchanged", "unchanged_right", "unchanged_wrong", "changed", "changed_right", "changed_wrong")


def changes(before: Array, after: Array, gold: Indices) -> dict[str, dict[str, Any]]:
    """How confidence and entropy moved from one model to the next, apart by whether the predicted label changed.

    before, after: (n, labels) log-probabilities of the same examples. gold: (n,) label indices.
    Returns for each of `GROUPS` (right and wrong are after the change): n, share of all, and `confidence` and
    `entropy`, each a `spread` of after − before.
    """
    before, after = before.astype(np.float64), after.astype(np.float64)
    moved = {"confidence": confidence(after) - confidence(before), "entropy": entropy(after) - entropy(before)}
    said = after.argmax(axis=1)
    same, missed = before.argmax(axis=1) == said, said != gold
    masks = (same, same & ~missed, same & missed, ~same, ~same & ~missed, ~same & missed)
    return {
        name: {"n": int(mask.sum()), "share": float(mask.mean())}
        | {what: spread(values[mask]) for what, values in moved.items()}
        for name, mask in zip(GROUPS, masks, strict=True)
    }
