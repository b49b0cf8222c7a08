"""Scores of one model on one test set. Probabilities come as natural logs, (n, labels)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from guidestar.errors import ModelError
from guidestar.records import Array
from guidestar.words import listed, number

Indices = NDArray[np.intp]

BINS = 15  # of the calibration error, as in Guo et al. 2017


def accuracy(predicted: ArrayLike, gold: ArrayLike) -> float:
    """Share of equal entries; predicted, gold: (n,).

    Raises ValueError if there are none or the lengths differ.
    >>> accuracy([0, 1, 1, 2], [0, 1, 2, 2])
    0.75
    """
    predicted, gold = np.asarray(predicted), np.asarray(gold)
    if predicted.shape != gold.shape or not predicted.size:
        raise ValueError(f"found {predicted.shape} predictions for {gold.shape} gold answers")
    return float((predicted == gold).mean())


def macro_f1(predicted: ArrayLike, gold: ArrayLike, labels: int) -> float:
    """Mean over the labels of F1 = 2 TP / (2 TP + FP + FN).

    predicted, gold: (n,) label indices below `labels`. A label that neither occurs nor is predicted has no F1
    and is left out of the mean.
    >>> round(macro_f1([0, 1, 1, 1], [0, 0, 1, 1], labels=2), 4)
    0.7333
    """
    predicted, gold = np.asarray(predicted), np.asarray(gold)
    hits = np.bincount(gold[predicted == gold], minlength=labels)
    either = np.bincount(gold, minlength=labels) + np.bincount(predicted, minlength=labels)
    return float((2 * hits[either > 0] / either[either > 0]).mean())


def brier(log_probs: Array, gold: Indices) -> float:
    """(1/n) Σ_i Σ_c (p_ic − [c = y_i])²: the sum over all labels, so 0 is best and 2 worst.

    log_probs: (n, labels). gold: (n,) label indices. Source: Brier 1950.
    >>> round(brier(np.log([[0.75, 0.25]]), np.array([0])), 4)
    0.125
    """
    errors = np.exp(log_probs)
    errors[np.arange(len(gold)), gold] -= 1.0
    return float((errors**2).sum(axis=1).mean())


def nll(log_probs: Array, gold: Indices) -> float:
    """(1/n) Σ_i −ln p(y_i), in nats; infinite if a gold label has probability 0.

    log_probs: (n, labels). gold: (n,) label indices.
    >>> round(nll(np.log([[0.5, 0.5]]), np.array([1])), 4)
    0.6931
    """
    return float(-log_probs[np.arange(len(gold)), gold].mean())


@dataclass(frozen=True)
class Reliability:
    """The reliability diagram: bins of equal width over the confidence of the likeliest label.

    edges: (bins + 1,); bin j holds confidences in (edges[j], edges[j+1]].
    count: (bins,) examples. confidence, accuracy: (bins,) their means, NaN in an empty bin.
    """

    edges: Array
    count: Indices
    confidence: Array
    accuracy: Array


def reliability(log_probs: Array, gold: Indices, bins: int = BINS) -> Reliability:
    """Mean confidence and accuracy in bins of equal width. log_probs: (n, labels); gold: (n,).

    Source: Niculescu-Mizil and Caruana 2005; Guo et al. 2017.
    >>> reliability(np.log([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 0]), bins=2).accuracy
    array([nan, 0.5])
    """
    confidence = np.exp(log_probs.max(axis=1))
    right = log_probs.argmax(axis=1) == gold
    bin_of = np.clip(np.ceil(confidence * bins).astype(np.intp) - 1, 0, bins - 1)
    count = np.bincount(bin_of, minlength=bins)
    divisor = np.where(count > 0, count, np.nan)
    means = (np.bincount(bin_of, weights=values, minlength=bins) / divisor for values in (confidence, right))
    return Reliability(np.linspace(0.0, 1.0, bins + 1), count, *means)


def ece(log_probs: Array, gold: Indices, bins: int = BINS) -> float:
    """Expected calibration error, Σ_j (n_j/n) |accuracy_j − confidence_j| over 15 bins of equal width.

    log_probs: (n, labels). gold: (n,) label indices. Source: Naeini et al. 2015; Guo et al. 2017.
    >>> round(ece(np.log([[0.9, 0.1], [0.9, 0.1]]), np.array([0, 1])), 4)
    0.4
    """
    curve = reliability(log_probs, gold, bins)
    return float(np.nansum(curve.count * np.abs(curve.accuracy - curve.confidence)) / len(gold))


def majority_baseline(gold: ArrayLike) -> float:
    """Accuracy of always answering with the most frequent gold answer. gold: (n,) indices or texts.

    >>> majority_baseline(["yes", "no", "yes"])
    0.6666666666666666
    """
    _, counts = np.unique(np.asarray(gold), return_counts=True)
    return float(counts.max() / counts.sum())


def not_above_majority(reached: Mapping[str, float | None], majority: Mapping[str, Any] | None) -> list[str]:
    """A warning where accuracies are at or below the majority baseline, for everything that shows a result; else nothing.

    reached: whose accuracy it is -> the accuracy, None if it is not known. majority: the test set's most frequent
    "label" and its "share", None where the task has none.
    >>> not_above_majority({"star": 0.4, "random": 0.9}, {"label": "yes", "share": 0.5})[0]
    "WARNING: star (0.400) is not above 0.500, which always answering 'yes' gives: such a model has learnt nothing that \
helps. Train it longer (train.epochs, train.learning_rate) or give it more labels before it is used."
    >>> not_above_majority({"star": 0.6}, {"label": "yes", "share": 0.5})
    []
    """
    if majority is None:
        return []
    share = majority["share"]
    low = [f"{name} ({number(value)})" for name, value in reached.items() if value is not None and value <= share]
    if not low:
        return []
    more = [] if len(low) <= 6 else [f"{len(low) - 5} more"]
    whose = f"{listed(low[: 5 if more else 6] + more)} {'is' if len(low) == 1 else 'are'}"
    return [
        f"WARNING: {whose} not above {number(share)}, which always answering {majority['label']!r} gives: such a "
        "model has learnt nothing that helps. Train it longer (train.epochs, train.learning_rate) or give it more labels "
        "before it is used."
    ]


def choice_metrics(log_probs: Array, gold: Sequence[int] | Indices) -> dict[str, float]:
    """Accuracy, macro F1, ECE, Brier, NLL and the majority baseline of a choice task.

    log_probs: (n, labels) natural logs. gold: (n,) label indices. Of equal probabilities the first label is
    taken as the answer.
    Raises ModelError if a log-probability is NaN, ValueError if there are no examples or the lengths differ.
    >>> choice_metrics(np.log([[0.75, 0.25], [0.5, 0.5]]), [0, 1])["accuracy"]
    0.5
    """
    log_probs, gold = np.asarray(log_probs, dtype=np.float64), np.asarray(gold, dtype=np.intp)
    bad = np.any(np.isnan(log_probs), axis=1)
    if bad.any():
        raise ModelError(f"label log-probabilities are NaN for {int(bad.sum())} of {len(bad)} examples")
    predicted = log_probs.argmax(axis=1)
    return {
        "accuracy": accuracy(predicted, gold),
        "macro_f1": macro_f1(predicted, gold, log_probs.shape[1]),
        "ece": ece(log_probs, gold),
        "brier": brier(log_probs, gold),
        "nll": nll(log_probs, gold),
        "majority": majority_baseline(gold),
    }


def right_of(arrays: Mapping[str, Array]) -> NDArray[np.bool_] | None:
    """Which answers were right, (n,), by the arrays that a run keeps of a measurement; None where they do not say.

    >>> right_of({"log_probs": np.log([[0.75, 0.25], [0.5, 0.5]]), "gold": np.array([0, 1])})
    array([ True, False])
    """
    if "correct" in arrays:
        return np.asarray(arrays["correct"], dtype=bool)
    return arrays["log_probs"].argmax(axis=1) == arrays["gold"] if {"log_probs", "gold"} <= arrays.keys() else None


def exact_metrics(correct: Sequence[bool] | NDArray[np.bool_]) -> dict[str, float]:
    """Accuracy of a number or text task. correct: (n,) whether each answer matched.

    >>> exact_metrics([True, False])
    {'accuracy': 0.5}
    """
    correct = np.asarray(correct, dtype=bool)
    return {"accuracy": accuracy(correct, np.ones_like(correct))}


# --- examples that models get wrong: the hardest, and those whose given label may be the mistake ------

DOUBT = 0.1  # highest mean probability of the given label of a suspect
SURE = 0.8  # lowest mean probability of the other one


def hardest(log_probs: Array, gold: Indices) -> tuple[Indices, Array]:
    """Examples by the mean loss −ln p(gold) over the models, the highest first, and that loss by example.

    log_probs: (models, n, labels), natural logs. gold: (n,). Ties keep their order.
    >>> order, loss = hardest(np.log([[[0.9, 0.1], [0.2, 0.8]]]), np.array([0, 0]))
    >>> order.tolist(), loss.round(2).tolist()
    ([1, 0], [0.11, 1.61])
    """
    loss = -log_probs[:, np.arange(len(gold)), gold].mean(axis=0)
    return np.argsort(-loss, kind="stable"), loss


def contradicted(log_probs: Array, given: Indices) -> Indices:
    """Examples for which all models are sure of one and the same other label; the clearest contradiction first.

    log_probs: (models, n, labels), natural logs, of models that were not trained on these labels. given: (n,). A
    suspect has a mean p(given) <= DOUBT and a mean p(other) >= SURE, and every model answers with the other.
    Source: the confident off-diagonal of Northcutt et al. 2021, with fixed thresholds.
    >>> contradicted(np.log([[[0.05, 0.95], [0.05, 0.95], [0.5, 0.5]]]), np.array([0, 1, 0])).tolist()
    [0]
    """
    chances = np.exp(log_probs.astype(np.float64)).mean(axis=0)
    rows, other = np.arange(len(given)), chances.argmax(axis=1)
    p_given, p_other = chances[rows, given], chances[rows, other]
    agreed = (log_probs.argmax(axis=2) == other).all(axis=0)
    suspects = np.flatnonzero(agreed & (other != given) & (p_given <= DOUBT) & (p_other >= SURE))
    return suspects[np.argsort((p_given - p_other)[suspects], kind="stable")]
