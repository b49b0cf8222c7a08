"""Examples that models get wrong: the hardest, and those whose given label may be the mistake."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from guidestar.records import Array

Indices = NDArray[np.intp]

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
