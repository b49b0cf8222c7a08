"""Training dynamics: forgetting events and dataset cartography, from what a model said epoch by epoch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from guidestar.errors import DataError
from guidestar.records import Array

NEVER = 1000  # forgetting events of an example that was never right


def forgetting(correct: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Transitions from right to wrong of each example; `NEVER` for one that was never right.

    correct: (epochs, n). Returns (n,). 0 is an unforgettable example: learnt, and never lost.
    Source: Toneva et al. 2019; the sentinel is that of Jukić and Šnajder's code.
    >>> forgetting(np.array([[0, 1, 0, 1, 0], [0, 0, 0, 0, 0], [0, 1, 1, 1, 1]], dtype=bool).T)
    array([   2, 1000,    0])
    """
    correct = np.asarray(correct, dtype=bool)
    if correct.ndim != 2:
        raise DataError(f"correctness has shape {correct.shape}, expected (epochs, examples)")
    events = (correct[:-1] & ~correct[1:]).sum(axis=0)
    return np.where(correct.any(axis=0), events, NEVER).astype(np.intp)


@dataclass(frozen=True)
class DataMap:
    """Where examples lie on a data map; every array is (n,).

    confidence: mean probability of the true label. variability: its standard deviation over the epochs. correctness:
    share of epochs with a right prediction. threshold_closeness: confidence (1 − confidence), largest at ½.
    """

    confidence: Array
    variability: Array
    correctness: Array
    threshold_closeness: Array

    def regions(self) -> NDArray[np.str_]:
        """ "easy", "hard" or "ambiguous" for each example: the most confident third of them, the least, and the third
        of highest variability, which comes first."""
        n = len(self.confidence)
        found = np.full(n, "other", dtype="<U9")
        third = n // 3
        by_confidence = np.argsort(self.confidence, kind="stable")
        found[by_confidence[:third]] = "hard"
        found[by_confidence[n - third :]] = "easy"
        found[np.argsort(-self.variability, kind="stable")[:third]] = "ambiguous"
        return found


def data_map(true_probability: Array, correct: NDArray[np.bool_]) -> DataMap:
    """Dataset cartography of examples that a model met epoch by epoch.

    true_probability: (epochs, n), of the true label. correct: (epochs, n).
    Raises DataError if the shapes differ.
    Source: Swayamdipta et al. 2020.
    >>> data_map(np.array([[0.5], [1.0]]), np.array([[False], [True]])).variability
    array([0.25])
    """
    true_probability, correct = np.asarray(true_probability, dtype=np.float64), np.asarray(correct, dtype=bool)
    if true_probability.shape != correct.shape or correct.ndim != 2:
        raise DataError(
            f"probabilities have shape {true_probability.shape} and correctness {correct.shape}; expected (epochs, "
            "examples) twice"
        )
    confidence = true_probability.mean(axis=0)
    return DataMap(confidence, true_probability.std(axis=0), correct.mean(axis=0), confidence * (1.0 - confidence))
