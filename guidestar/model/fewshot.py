"""The base model with demonstrations before every prompt: the paper's "Few-shot" control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from guidestar.asking import Measured, evaluate, silent
from guidestar.data.demonstrations import BLANK_LINE, Demonstration, choose_demonstrations, with_demonstrations
from guidestar.data.pool import Split
from guidestar.errors import ConfigError
from guidestar.model.batches import conversation
from guidestar.model.load import BaseModel
from guidestar.model.scorer import OwnScorer
from guidestar.progress import Tick
from guidestar.records import Example
from guidestar.tasks import Task


def few_shot(
    base: BaseModel, labelled: Sequence[Demonstration], split: Split, task: Task, *, shots: int, seed: int,
    tick: Tick = silent,
) -> Measured:  # fmt: skip
    """`evaluate` for the bare base model that reads demonstrations before every prompt.

    The same demonstrations for every example: `choose_demonstrations` of `labelled` by `seed`, and of those as many
    as fit the context before the longest prompt. With `model.chat` they are earlier turns of the conversation.

    Returns what `evaluate` does, and "shots", the number of demonstrations left, in the metrics and as an array (1,).
    Raises ConfigError for less than one shot, DataError without a labelled example.
    Source: Zhang, Wu, Zhou, Xu 2024, section 3; Brown et al. 2020.
    """
    if base.labels:
        raise ConfigError(f"{base.name} answers with a classification head and cannot go on from demonstrations")
    shown = choose_demonstrations(labelled, shots, np.random.default_rng(seed), task)
    scorer, inside = _demonstrated(base, split.examples, shown, task)
    while shown and scorer.too_long(inside):
        shown = shown[:-1]
        scorer, inside = _demonstrated(base, split.examples, shown, task)
    # Untuned, a model writes on after its answer: a blank line and a question of its own. That ends its response,
    # unless an answer may hold a blank line itself.
    ends = not base.chat and not any(BLANK_LINE in task.response_text(answer) for _, answer in shown)
    asked = replace(split, examples=tuple(inside))
    values, arrays = evaluate(scorer, asked, task, tick, stop=BLANK_LINE if ends else None)
    return values | {"shots": float(len(shown))}, arrays | {"shots": np.asarray([len(shown)], dtype=np.int64)}


def _demonstrated(
    base: BaseModel, examples: Sequence[Example], shown: Sequence[Demonstration], task: Task
) -> tuple[OwnScorer, list[Example]]:
    """The examples behind the demonstrations, and who reads them."""
    if not base.chat:
        return OwnScorer(base, task), with_demonstrations(examples, shown, task)
    turns = [text for example, answer in shown for text in (example.prompt, task.response_text(answer))]
    inside = [replace(e, prompt=conversation(base, [*turns, e.prompt])) for e in examples]
    return OwnScorer(replace(base, rendered=True), task), inside
