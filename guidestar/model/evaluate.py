"""Accuracy and calibration of a model on a split. Nothing here is used to choose anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from guidestar.data.demonstrations import BLANK_LINE, Demonstration, choose_demonstrations, with_demonstrations
from guidestar.data.pool import Split
from guidestar.errors import ConfigError
from guidestar.metrics.scores import choice_metrics, exact_metrics
from guidestar.model.batches import conversation, too_long
from guidestar.model.load import BaseModel
from guidestar.model.predict import Tick, fits, predict, respond
from guidestar.records import Example

Measured = tuple[dict[str, float], dict[str, np.ndarray]]


def evaluate(
    base: BaseModel,
    model: Any,
    split: Split,
    task: Any,
    tick: Tick = lambda done, total: None,
    *,
    stop: str | None = None,
) -> Measured:
    """Metrics of `model` on the answered examples of a split, and the arrays behind them.

    stop: a text that ends a generated response, beside the end token.

    A choice gives accuracy, macro_f1, ece, brier, nll, and arrays "log_probs" (n, labels) float32 and "gold"
    (n,) int64. The other kinds give the accuracy of the parsed response, and "correct" (n,) uint8.
    """
    pairs = split.answered()
    examples, answers = [e for e, _ in pairs], [a for _, a in pairs]
    if task.classes:
        log_probs = predict(base, model, examples, {"label_log_probs"}, task, tick=tick).arrays["label_log_probs"][0]
        return choice_values(log_probs, answers, task)
    texts = respond(base, model, examples, task, tick, stop=stop).texts
    parsed = [task.parse(text) for text in texts]
    correct = np.asarray([task.correct(p, a) for p, a in zip(parsed, answers, strict=True)], dtype=bool)
    return exact_metrics(correct) | task.measures(parsed, answers), {"correct": correct.astype(np.uint8)}


def choice_values(log_probs: np.ndarray, answers: list[str], task: Any) -> Measured:
    """The choice metrics of log-probabilities (n, labels) against the labels' names."""
    gold = np.asarray([task.labels.index(a) for a in answers], dtype=np.int64)
    return choice_metrics(log_probs, gold), {"log_probs": log_probs.astype(np.float32), "gold": gold}


def few_shot(
    base: BaseModel,
    labelled: Sequence[Demonstration],
    split: Split,
    task: Any,
    *,
    shots: int,
    seed: int,
    tick: Tick = lambda done, total: None,
) -> Measured:
    """`evaluate` for the bare base model with demonstrations before every prompt: the paper's "Few-shot" control.

    The same demonstrations for every example: `choose_demonstrations` of `labelled` by `seed`, and of those as many
    as fit the context before the longest prompt. With `model.chat` they are earlier turns of the conversation.

    Returns what `evaluate` does, and "shots", the number of demonstrations left, in the metrics and as an array (1,).
    Raises ConfigError for less than one shot, DataError without a labelled example.
    Source: Zhang, Wu, Zhou, Xu 2024, section 3; Brown et al. 2020.
    """
    if base.labels:
        raise ConfigError(f"{base.name} answers with a classification head and cannot go on from demonstrations")
    shown = choose_demonstrations(labelled, shots, np.random.default_rng(seed), task)
    room = fits(base, task)
    prompted, inside = _demonstrated(base, split.examples, shown, task)
    while shown and too_long(prompted, inside, room):
        shown = shown[:-1]
        prompted, inside = _demonstrated(base, split.examples, shown, task)
    # Untuned, a model writes on after its answer: a blank line and a question of its own. That ends its response,
    # unless an answer may hold a blank line itself.
    ends = not base.chat and not any(BLANK_LINE in task.response_text(answer) for _, answer in shown)
    asked = replace(split, examples=tuple(inside))
    values, arrays = evaluate(prompted, base.model, asked, task, tick, stop=BLANK_LINE if ends else None)
    return values | {"shots": float(len(shown))}, arrays | {"shots": np.asarray([len(shown)], dtype=np.int64)}


def _demonstrated(
    base: BaseModel, examples: Sequence[Example], shown: Sequence[Demonstration], task: Any
) -> tuple[BaseModel, list[Example]]:
    """The examples behind the demonstrations, and the base model that reads them."""
    if not base.chat:
        return base, with_demonstrations(examples, shown, task)
    turns = [text for example, answer in shown for text in (example.prompt, task.response_text(answer))]
    inside = [replace(e, prompt=conversation(base, [*turns, e.prompt])) for e in examples]
    return replace(base, rendered=True), inside
