"""Every array that a strategy can ask for, whoever computes it: `predict`, sampled models, gradients."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from guidestar.model import predict as passes_room
from guidestar.model.consistency import sampled_answers
from guidestar.model.gradients import representation_gradient
from guidestar.model.load import BaseModel
from guidestar.model.samples import predict_samples
from guidestar.progress import Tick
from guidestar.records import Example, Predictions

GRADIENT = frozenset({"representation_gradient"})
SAMPLED = frozenset({"sampled_answer"})
ARRAYS = passes_room.ARRAYS | GRADIENT | SAMPLED


def predict(
    base: BaseModel,
    model: Any,
    examples: Sequence[Example],
    needs: Collection[str],
    task: Any,
    *,
    passes: int = 0,
    seed: int = 0,
    gold: Mapping[str, str] | None = None,
    tick: Tick = lambda done, total: None,
    one_model: bool = False,
    b_dropout: float | None = None,
    whole_dropout: bool = False,
    samples: int = 0,
    temperature: float = 1.0,
) -> Predictions:
    """As `predict.predict`, for any names of `ARRAYS`.

    one_model: pass k is one and the same model for all examples (see `samples`), with dropout of rate b_dropout before
    LoRA's B. whole_dropout: see `predict.predict`. Gradients and sampled answers are of the plain model, whatever `passes` is.
    samples, temperature: of the responses behind "sampled_answer", (samples, n).
    """
    wanted = frozenset(needs)
    plain = wanted - GRADIENT - SAMPLED
    if one_model and passes:
        found = predict_samples(
            base, model, examples, plain, task, passes=passes, seed=seed, b_dropout=b_dropout, gold=gold, tick=tick
        )
    elif plain or not wanted:
        found = passes_room.predict(
            base, model, examples, plain, task, passes=passes, seed=seed, gold=gold, tick=tick,
            whole_dropout=whole_dropout,
        )  # fmt: skip
    else:
        labels = task.classes
        found = Predictions(tuple(e.id for e in examples), {}, labels)
    if wanted & GRADIENT:
        gradient = {"representation_gradient": representation_gradient(base, model, examples, tick)[None]}
        found = Predictions(found.ids, {**found.arrays, **gradient}, found.labels)
    if wanted & SAMPLED:
        codes = sampled_answers(
            base, model, examples, task, samples=samples, temperature=temperature, seed=seed, tick=tick
        )
        found = Predictions(found.ids, {**found.arrays, "sampled_answer": codes}, found.labels)
    return found
