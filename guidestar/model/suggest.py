"""The model's own answers, as people see them beside an example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from guidestar.model.load import BaseModel
from guidestar.model.predict import Tick, predict, respond
from guidestar.records import Example, Suggestion
from guidestar.tasks import Text


def suggest(
    base: BaseModel,
    model: Any,
    examples: Sequence[Example],
    task: Any,
    round: int,
    tick: Tick = lambda done, total: None,
) -> dict[str, Suggestion]:
    """Example id -> what `model`, the adapter of round `round`, would answer.

    A choice gives the likeliest label and the probability of each; the other kinds a greedy response without the
    words of the response template, "" where the model writes nothing.
    """
    if not task.classes:
        bare = Text(task.response)
        texts = respond(base, model, examples, task, tick).texts
        return {e.id: Suggestion(bare.parse(text) or "", {}, round) for e, text in zip(examples, texts, strict=True)}
    log_probs = predict(base, model, examples, {"label_log_probs"}, task, tick=tick).arrays["label_log_probs"][0]
    return {
        e.id: Suggestion(task.labels[int(row.argmax())], dict(zip(task.labels, map(float, row), strict=True)), round)
        for e, row in zip(examples, np.exp(log_probs), strict=True)
    }
