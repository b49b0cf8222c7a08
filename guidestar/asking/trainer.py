"""One way to train: labelled examples in, an adapter folder and what happened out. Where it runs is its own affair."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guidestar.asking.scorer import silent
from guidestar.data.pool import Split
from guidestar.metrics.dynamics import Dynamics
from guidestar.progress import Tick
from guidestar.records import Array, Example
from guidestar.store.cache import Cache
from guidestar.store.files import sha256

Labelled = Sequence[tuple[Example, str]]
Weighted = tuple[Example, str, float]  # an answer, and what it counts beside a label's 1


@dataclass(frozen=True)
class HeadStart:
    """A classifier on frozen features, as the start of a head that reads them (`model.head: features`).

    centres: (blocks, width) of the views. weights: (blocks × width, labels). constants: (labels,).
    """

    centres: Array
    weights: Array
    constants: Array


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What one training learns from.

    labelled: examples with canonical answers. seed: of the adapter's start, the order of examples and the dropout masks.
    previous: an adapter to go on from; None starts afresh. pretrained: where a fresh start is.
    extra: further answers with what each counts, pseudo-labels for instance. A soft answer is several of one example, each
    with its share.
    validation: examples for early stopping; never the test set. oracle: that test set, for `early_stop: oracle_epoch`
    alone. start: of a new head on features; it follows from the labels, the seed and the pool.
    """

    labelled: Labelled
    seed: int
    previous: Path | None = None
    pretrained: Path | None = None
    validation: Labelled = ()
    oracle: Split | None = None
    extra: Sequence[Weighted] = ()
    start: HeadStart | None = None

    def plain(self) -> dict[str, Any]:
        """All that the result depends on beside the trainer, as JSON-able data; ids stand for examples.

        Raises ValueError for a lesson that looks at the test set, whose result nobody may share.
        """
        if self.oracle is not None:
            raise ValueError("a training that looks at the test set cannot be shared")
        asked = {
            "seed": self.seed,
            "labelled": [[e.id, answer] for e, answer in self.labelled],
            "validation": [[e.id, answer] for e, answer in self.validation],
            "pretrained": None if self.pretrained is None else sha256(self.pretrained),
        }
        if self.extra:
            asked["extra"] = [[e.id, answer, weight] for e, answer, weight in self.extra]
        return asked | ({} if self.previous is None else {"previous": sha256(self.previous)})


@dataclass(frozen=True)
class Trained:
    """What a training did. losses: mean nats per answer token of each epoch; steps: optimiser steps; cut: responses
    of which only the beginning fitted the model's context; validation_losses: what was asked after each epoch, for the
    oracle epoch the error on the test set, for the smoothest one minus the smoothness; dynamics: what was said to each
    example in every epoch; arrays: what was chosen or estimated beside, by name (`metrics/chosen.py`)."""

    losses: tuple[float, ...]
    validation_losses: tuple[float, ...] = ()
    steps: int = 0
    best_epoch: int = 0
    cut: int = 0
    dynamics: Dynamics | None = None
    arrays: Mapping[str, Array] = field(default_factory=dict)


class Trainer(ABC):
    """Trains adapters of one kind for one task.

    Contract: equal lessons give equal folders, as far as the machine is repeatable; what the lesson looks at is left as it
    was; a call that raises leaves nothing behind but what it wrote into the folder it was given.
    """

    @abstractmethod
    def __call__(self, lesson: Lesson, folder: Path, tick: Tick = silent) -> Trained:
        """Train and write the adapter into the empty `folder`. tick: called with (steps done, steps in all).

        Raises ModelError when the loss is not finite or there is nothing to train (on).
        """

    @abstractmethod
    def plain(self) -> dict[str, Any]:
        """Who trains and how, as JSON-able data: weights, adapter settings, recipe, task."""

    def question(self, lesson: Lesson) -> dict[str, Any]:
        """All that the adapter depends on: the name under which it can be kept."""
        return {**self.plain(), **lesson.plain()}


def kept(cache: Cache, name: str, trainer: Trainer, lesson: Lesson, tick: Tick = silent) -> Path:
    """The adapter from a cache, trained unless it is there. Raises StoreError for one that has changed since."""
    return cache.folder(name, trainer.question(lesson), lambda folder: trainer(lesson, folder, tick))
