"""The nouns: small frozen records that pass between the rooms. No behaviour beyond checks of shape."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Names = NDArray[np.bytes_]  # ids of many examples


@dataclass(frozen=True)
class Example:
    """One row of a pool as people and models see it. It has no field for a label, on purpose.

    id: content hash of the fields that the template uses (16 hex digits).
    fields: column name -> text, the answer column left out.
    prompt: the filled template.
    where: file and line, for messages.
    """

    id: str
    fields: Mapping[str, str]
    prompt: str
    where: str = ""


@dataclass(frozen=True)
class Label:
    """An annotator's answer. For a choice it is one of the labels, else free text."""

    answer: str
    annotator: str = "oracle"


@dataclass(frozen=True)
class Skip:
    """An annotator's refusal to answer; the example is not asked again."""

    reason: str = ""
    annotator: str = "oracle"


@dataclass(frozen=True)
class Undo:
    """An annotator takes back their label or skip, as if they had not answered."""

    annotator: str


@dataclass(frozen=True)
class Flag:
    """An annotator marks an example for a second look, or (`on` false) takes the mark away."""

    annotator: str
    on: bool = True


@dataclass(frozen=True)
class Note:
    """An annotator's remark about an example. Their last one counts; an empty one removes it."""

    text: str
    annotator: str


@dataclass(frozen=True)
class Verdict:
    """The answer settled on after looking at what several annotators said; it counts above all labels."""

    answer: str
    annotator: str


@dataclass(frozen=True)
class Relabel:
    """A change of the labels, for what was said before it. names: former label -> what it is called now; None where the
    examples that had it are asked again."""

    names: Mapping[str, str | None]


Annotation = Label | Skip | Undo | Flag | Note | Verdict


@dataclass(frozen=True)
class Suggestion:
    """The model's own answer to an example.

    answer: the likeliest label of a choice, the likeliest set of several, else a draft text.
    probabilities: label -> probability for a choice; of several labels that of the answer alone; empty otherwise.
    round: whose adapter said it; -1 is the base model.
    """

    answer: str
    probabilities: Mapping[str, float]
    round: int

    def knew(self, label: str, learnt: Mapping[str, int]) -> bool:
        """Whether the model that said it had been trained on such a label: what it says against one that it never met is no
        doubt. learnt: label -> the first round that trained on it (`Annotations.learnt`)."""
        return label in learnt and learnt[label] <= self.round


@dataclass(frozen=True)
class Predictions:
    """What one pass over some examples gave.

    ids: (n,) example ids; arrays below follow this order.
    arrays: name -> (passes, n, ...) float array. `passes` is 1 for a deterministic pass and K for
        Monte-Carlo dropout; "embedding" is always (1, n, width), the mean over passes.
    labels: names of the label space, for "label_log_probs" (passes, n, len(labels)); where several labels may hold at once
        that is (passes, n, len(labels), 2), the logs of "does not hold" and "holds".
    """

    ids: tuple[str, ...]
    arrays: Mapping[str, Array]
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, array in self.arrays.items():
            if array.ndim < 2 or array.shape[1] != len(self.ids):
                raise ValueError(f"array {name!r} has shape {array.shape}, expected (passes, {len(self.ids)}, …)")

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, keep: NDArray[np.intp]) -> Predictions:
        """The same predictions for the examples at positions `keep`, in that order."""
        arrays = {name: array[:, keep] for name, array in self.arrays.items()}
        return Predictions(tuple(self.ids[i] for i in keep), arrays, self.labels)


@dataclass(frozen=True)
class Pick:
    """One chosen example: its position in the pool, its score (nan when none), and why.

    details: what the score was made of, e.g. {"base": 1.2, "full": 0.4, "lambda": 0.9}.
    """

    id: str
    score: float
    details: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Query:
    """The examples one round asks for, in the order of asking."""

    round: int
    picks: tuple[Pick, ...]


@dataclass(frozen=True)
class Metrics:
    """Values measured after one round. `labels` counts the labels trained on."""

    round: int
    labels: int
    values: Mapping[str, float]


class Stop(enum.Enum):
    """Why a run ended; the value is the sentence shown to the user."""

    BUDGET = "The label budget is spent."
    EMPTY = "No unlabelled example is left."
    ADVISED = "More labels are hardly worth it, and stop.mode is stop."


@dataclass(frozen=True)
class Finished:
    """A run that ended, and why."""

    reason: Stop


@dataclass(frozen=True)
class Waiting:
    """A run that waits for people: `unanswered` examples of round `round` have no answer yet."""

    round: int
    unanswered: int
