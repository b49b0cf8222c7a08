"""Several labels may hold, and a language model is asked about each alone: one question a label, answered by yes or no.

Whoever scores or trains a choice between yes and no so does for a task with several labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np

from guidestar.asking.scorer import Ask, Scorer, silent
from guidestar.asking.trainer import Lesson, Trained, Trainer
from guidestar.asking.wrappers import Around
from guidestar.data.pool import Split
from guidestar.errors import ConfigError
from guidestar.metrics.dynamics import Dynamics
from guidestar.progress import Tick
from guidestar.records import Array, Example, Predictions
from guidestar.tasks import Choice, Task

LABELS = frozenset({"label_log_probs"})
STATES = frozenset({"embedding", "features", "representation_gradient"})


def _each(task: Task) -> dict[str, Any]:
    """The questions, JSON-able."""
    return {"each": [list(pair) for pair in zip(task.labels, task.words, strict=True)]}


def yes_or_no(task: Task) -> Choice:
    """The task of one question; "no" first, as `Predictions` has the outcomes of a label."""
    return Choice(("no", "yes"), ("no", "yes"), task.response)


def asked(task: Task, example: Example) -> list[Example]:
    """The example with the question for each label behind its prompt.

    >>> task = Choice(("a", "b"), ("anger", "fear"))
    >>> [e.prompt for e in asked(task, Example("1", {}, "Feeling:"))]
    ['Feeling: anger?', 'Feeling: fear?']
    """
    start = example.prompt + ("" if example.prompt[-1:].isspace() else " ")
    return [replace(example, id=f"{example.id}#{i}", prompt=f"{start}{word}?") for i, word in enumerate(task.words)]


def answered(task: Task, example: Example, answer: str) -> list[tuple[Example, str]]:
    """Each question with its answer."""
    held = set(task.parts(answer))
    pairs = zip(asked(task, example), task.labels, strict=True)
    return [(question, "yes" if label in held else "no") for question, label in pairs]


@final
@dataclass(frozen=True)
class EachLabel(Around):
    """A scorer for several labels, of one that tells yes from no. States are those of the prompt without a question."""

    scorer: Scorer
    task: Task

    @property
    def labels(self) -> tuple[str, ...]:
        return self.task.labels

    def __call__(self, examples: Sequence[Example], ask: Ask, tick: Tick = silent) -> Predictions:
        self.check(ask)
        c, arrays = len(self.labels), dict[str, Array]()
        with self.scorer:
            if ask.needs & STATES:
                arrays |= self.scorer(examples, replace(ask, needs=ask.needs & STATES), tick).arrays
            if ask.needs & LABELS:
                every = [question for example in examples for question in asked(self.task, example)]
                said = self.scorer(every, replace(ask, needs=LABELS), lambda done, total: tick(done // c, total // c))
                array = said.arrays["label_log_probs"]
                arrays["label_log_probs"] = array.reshape(len(array), len(examples), c, 2)
        return Predictions(tuple(e.id for e in examples), arrays, self.labels)

    def refusal(self, ask: Ask) -> str | None:
        if other := sorted(ask.needs - STATES - LABELS):
            return (
                f"{other[0]} was asked for, but with task.kind multi_label a language model is asked one question a label and "
                "writes no responses; use a measure over the labels"
            )
        return self.scorer.refusal(ask)

    def plain(self) -> dict[str, Any]:
        return {**self.scorer.plain(), **_each(self.task)}

    def respond(self, examples: Sequence[Example], stop: str | None = None, tick: Tick = silent) -> Any:
        raise ConfigError("a language model that is asked about each label alone writes no responses")

    def too_long(self, examples: Sequence[Example], answers: Mapping[str, str] | None = None) -> dict[str, str]:
        longest = max(range(len(self.task.words)), key=lambda i: len(self.task.words[i]))
        some = [replace(asked(self.task, example)[longest], id=example.id) for example in examples]
        return self.scorer.too_long(some)


@final
@dataclass(frozen=True)
class EachLabelTrainer(Trainer):
    """Trains for several labels, by a trainer of the choice between yes and no."""

    trainer: Trainer
    task: Task

    def __call__(self, lesson: Lesson, folder: Path, tick: Tick = silent) -> Trained:
        trained = self.trainer(self._each(lesson), folder, tick)
        if (one := trained.dynamics) is None:
            return trained
        shape = (len(one.log_probs), -1, len(self.task.labels))
        correct = np.asarray(one.correct.reshape(shape).all(axis=2))
        ids = tuple(example.id for example, _ in lesson.labelled)
        return replace(trained, dynamics=Dynamics(ids, one.log_probs.reshape(shape).sum(axis=2), correct, one.over))

    def plain(self) -> dict[str, Any]:
        return {**self.trainer.plain(), **_each(self.task)}

    def question(self, lesson: Lesson) -> dict[str, Any]:
        return super().question(self._each(lesson))

    def _each(self, lesson: Lesson) -> Lesson:
        task, oracle = self.task, lesson.oracle
        if oracle is not None:
            pairs = [pair for example, answer in oracle.answered() for pair in answered(task, example, answer)]
            oracle = Split(tuple(e for e, _ in pairs), tuple(a for _, a in pairs))
        return replace(
            lesson, oracle=oracle,
            labelled=[pair for example, answer in lesson.labelled for pair in answered(task, example, answer)],
            validation=[pair for example, answer in lesson.validation for pair in answered(task, example, answer)],
            extra=[(e, a, weight) for example, answer, weight in lesson.extra for e, a in answered(task, example, answer)],
        )  # fmt: skip
