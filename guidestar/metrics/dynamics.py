"""What a model said to its training examples, epoch by epoch, and the form in which a run keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guidestar.records import Array

NAME = "dynamics"  # of the arrays of a round


@dataclass(frozen=True)
class Dynamics:
    """log_probs: (epochs, n) of the right answer, in nats. correct: (epochs, n) whether it was the likeliest.

    over: "labels", the label space; or "response", where a training pass does not score the other labels or there are
    none: the sum over the tokens of the right response, and whether each of them was the likeliest.
    """

    ids: tuple[str, ...]
    log_probs: Array
    correct: NDArray[np.bool_]
    over: str

    def arrays(self) -> dict[str, NDArray[Any]]:
        """As arrays for a file; ids are lines of text in bytes."""
        return {
            "ids": np.frombuffer("\n".join(self.ids).encode(), np.uint8),
            "log_probs": self.log_probs.astype(np.float32),
            "correct": self.correct.astype(np.uint8),
            "over_labels": np.asarray([self.over == "labels"], dtype=np.uint8),
        }


def from_arrays(arrays: Mapping[str, NDArray[Any]]) -> Dynamics:
    """The dynamics that `Dynamics.arrays` wrote.

    >>> one = Dynamics(("a", "b"), np.zeros((1, 2)), np.ones((1, 2), dtype=bool), "labels")
    >>> from_arrays(one.arrays()).ids
    ('a', 'b')
    """
    ids = tuple(arrays["ids"].tobytes().decode().split("\n"))
    over = "labels" if bool(arrays["over_labels"][0]) else "response"
    return Dynamics(ids, arrays["log_probs"].astype(np.float64), arrays["correct"].astype(bool), over)
