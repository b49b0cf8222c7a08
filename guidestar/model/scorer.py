"""The own engine as a scorer: a base model in this process, one adapter at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, Self, cast, final

import torch

from guidestar.asking import Ask, Responses, Scorer, silent
from guidestar.errors import ConfigError, ModelError, allowed
from guidestar.model import adapters, batches, classify, predict
from guidestar.model.consistency import sampled_answers
from guidestar.model.load import BaseModel
from guidestar.model.samples import predict_samples
from guidestar.model.states import features, representation_gradient
from guidestar.progress import Tick
from guidestar.records import Example, Predictions
from guidestar.store.files import sha256
from guidestar.tasks import Task, scored_labels

GRADIENT = frozenset({"representation_gradient"})
SAMPLED = frozenset({"sampled_answer"})
FEATURES = frozenset({"features"})
ARRAYS = predict.ARRAYS | GRADIENT | SAMPLED | FEATURES
HEADED = classify.ARRAYS | GRADIENT | FEATURES  # what a classification head answers


@final
class OwnScorer(Scorer):
    """A base model, bare or under a saved adapter; label words, or a classification head.

    Gradients and sampled answers are of the plain model, whatever `passes` is.
    """

    def __init__(
        self, base: BaseModel, task: Task, adapter: Path | None = None, *, dtype: str | None = None,
        b_dropout: float | None = None, head_alone: bool = False, live: Any = None,
    ) -> None:  # fmt: skip
        """dtype to head_alone: as `How` has them. live: a PEFT model on the base that is there already, in training say, in the
        place of `adapter`."""
        self.base, self.task, self.adapter, self.dtype = base, task, adapter, dtype
        self.b_dropout, self.head_alone, self.live = b_dropout, head_alone, live
        self._depth, self._stack, self._open = 0, ExitStack(), (base, live)

    @property
    def labels(self) -> tuple[str, ...]:
        return scored_labels(self.task)

    def __call__(self, examples: Sequence[Example], ask: Ask, tick: Tick = silent) -> Predictions:
        self.check(ask)
        read = replace(ask, needs=ask.needs & predict.ARRAYS)
        predicted, more = Predictions(tuple(e.id for e in examples), {}, self.labels), {}
        with self:
            base, model = self._open
            if ask.one_model and ask.passes:
                predicted = predict_samples(base, model, examples, self.task, read, self.b_dropout, tick)
            elif read.needs or not ask.needs:
                predicted = predict.predict(base, model, examples, self.task, read, tick)
            if ask.needs & GRADIENT:
                more["representation_gradient"] = representation_gradient(base, model, examples, tick)[None]
            if ask.needs & FEATURES:
                more["features"] = features(base, model, examples, tick)[None]
            if ask.needs & SAMPLED:
                more["sampled_answer"] = sampled_answers(base, model, examples, self.task, ask, tick)
        return Predictions(predicted.ids, {**predicted.arrays, **more}, predicted.labels)

    def refusal(self, ask: Ask) -> str | None:
        if unknown := sorted(ask.needs - ARRAYS):
            return f"the array {unknown[0]!r} is unknown; {allowed(sorted(ARRAYS), unknown[0])}"
        if ask.needs & SAMPLED and ask.samples < 2:
            return f"samples is {ask.samples}; allowed: 2 or more"
        if ask.needs & SAMPLED and not ask.temperature > 0:
            return f"temperature is {ask.temperature}; allowed: above 0"
        if ask.passes and ask.dropout == "adapter" and self.adapter is None and self.live is None:
            return (
                "passes were asked for, but there is no adapter on the model, and the base model's own dropout stays off; "
                "allowed: passes 0, an adapter with dropout, or dropout model where the model was trained with some"
            )
        if ask.one_model and ask.passes and ask.dropout == "model":
            return "passes of one model each draw the adapter's masks alone; allowed: dropout adapter"
        if "label_log_probs" in ask.needs and not self.labels:
            return "label_log_probs was asked for, but the task has no labels; allowed: a task of kind choice"
        if ask.needs & GRADIENT and self.base.spread:
            return "a model that is spread over processes computes gradients in training alone; allowed: engine.train.use here, ddp"
        if not self.base.labels:
            return None
        if others := sorted(ask.needs - HEADED):
            return (
                f"{self.base.name} answers with a classification head, which gives label probabilities and embeddings, not "
                f"{', '.join(others)}; use a measure over the labels, or a causal language model"
            )
        if "label_log_probs" in ask.needs and self.adapter is None and self.live is None:
            return (
                f"{self.base.name} answers with a classification head, which is noise before it is trained: the base model "
                "alone says nothing about the labels"
            )
        return None

    def plain(self) -> dict[str, Any]:
        if self.live is not None:
            raise ValueError("a model in training has no name under which its answers could be kept")
        base = self.base
        facts = {
            "model": base.fingerprint, "dtype": str(precision(base, self.dtype)), "chat": base.chat,
            "task": repr(self.task),
        }  # fmt: skip
        others = {
            "adapter": self.adapter and sha256(self.adapter), "b_dropout": self.b_dropout, "head_alone": self.head_alone,
            "rendered": base.rendered, "pooling": base.pooling if base.labels else None, "normalized": base.normalized,
            "closing": list(base.closing),
        }  # fmt: skip
        return facts | {name: value for name, value in others.items() if value}

    def respond(self, examples: Sequence[Example], stop: str | None = None, tick: Tick = silent) -> Responses:
        if self.base.labels:
            return super().respond(examples, stop, tick)
        with self:
            base, model = self._open
            return predict.respond(base, model, examples, self.task, stop, tick)

    def too_long(self, examples: Sequence[Example], answers: Mapping[str, str] | None = None) -> dict[str, str]:
        free = predict.free_tokens(self.base, self.task, examples, answers or {})
        long = batches.too_long(self.base, examples, free)
        return {
            e.id: f"the prompt and a response of {room} tokens do not fit the model's context of {self.base.max_length} tokens"
            for e, room in zip(examples, free, strict=True) if e.id in long
        }  # fmt: skip

    def __enter__(self) -> Self:
        if self._depth == 0 and self.live is None:
            if getattr(self.base.model, "peft_config", None) is not None:
                raise ModelError(
                    f"an adapter is on {self.base.name} already; close the scorer that put it there before asking another"
                )
            with ExitStack() as opening:
                base = opening.enter_context(computing_in(self.base, self.dtype))
                if self.head_alone and self.adapter is not None:
                    model = opening.enter_context(classify.head_alone(base, self.adapter))
                else:
                    model = opening.enter_context(adapters.adapted(base, self.adapter, b_dropout=self.b_dropout))
                self._open, self._stack = (base, model), opening.pop_all()
        self._depth += 1
        return self

    def __exit__(self, *error: Any) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._stack.close()


# --- another precision for scoring than for training: `model.score_dtype` -----------------------------


def precision(base: BaseModel, dtype: str | None) -> torch.dtype:
    """The precision that a configuration names; None is the base's own."""
    return base.dtype if dtype is None else cast(torch.dtype, getattr(torch, dtype))


@contextmanager
def computing_in(base: BaseModel, dtype: str | None) -> Iterator[BaseModel]:
    """The bare base model in another precision while the block lasts; an adapter that is loaded inside it takes that
    precision too, from its float32 file.

    dtype: "float32", say, or None for the base's own. The base's own bits are put back afterwards: they stay in memory
    meanwhile.
    Raises ConfigError for a quantised model, whose weights have no other precision.
    """
    wanted = precision(base, dtype)
    if wanted == base.dtype:
        yield base
        return
    if getattr(base.model, "is_quantized", False):
        raise ConfigError(f"model.score_dtype is {dtype}, but the model is quantised; allowed: leave it out")
    before = [(t, t.data) for t in chain(base.model.parameters(), base.model.buffers()) if t.dtype == base.dtype]
    try:
        for tensor, bits in before:
            tensor.data = bits.to(wanted)
        yield replace(base, dtype=wanted)
    finally:
        for tensor, bits in before:
            tensor.data = bits
