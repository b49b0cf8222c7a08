"""Trainings and scorings of a model at hand in one line: by the package's own trainers and scorer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from guidestar.asking import Ask, Labelled, Lesson, Trained, silent
from guidestar.model.pretrain import OwnPretrainer
from guidestar.model.scorer import OwnScorer
from guidestar.model.train import OwnTrainer
from guidestar.records import Example, Predictions


def train(
    base: Any, peft: dict[str, Any], config: Any, labelled: Labelled, task: Any, folder: Path, *, tick: Any = silent,
    **lesson: Any,
) -> Trained:  # fmt: skip
    """lesson: what a `Lesson` has beside the labelled examples."""
    return OwnTrainer(base, task, peft, config)(Lesson(labelled=labelled, **lesson), folder, tick)


def pretrain(
    base: Any, peft: dict[str, Any], config: Any, examples: Sequence[Example], folder: Path, seed: int
) -> list[float]:
    """The losses of reading prompts."""
    lesson = Lesson(labelled=[(example, "") for example in examples], seed=seed)
    return list(OwnPretrainer(base, peft, config)(lesson, folder).losses)


def predict(
    base: Any, model: Any, examples: Sequence[Example], needs: Iterable[str], task: Any, *,
    b_dropout: float | None = None, **asked: Any,
) -> Predictions:  # fmt: skip
    """model: the base's own, or a PEFT model on it. asked: what an `Ask` has beside its needs."""
    return OwnScorer(base, task, live=model, b_dropout=b_dropout)(examples, Ask.of(needs, **asked))


predict_samples = partial(predict, one_model=True)
