"""Passes of one sampled model each: pass k has the same dropout masks for every token of every example.

Usual Monte-Carlo dropout draws new masks for each token. That measures an example's own doubt, but pass 3 of one
example and pass 3 of another are then of two different models, and what two labels say together cannot be asked.
Here a mask belongs to an input feature of the adapter, so that a pass is one draw of its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from guidestar.asking import Ask, part_of, silent
from guidestar.asking.wrappers import joined
from guidestar.errors import NoVariance
from guidestar.model import adapters, lora
from guidestar.model.dropout import BitDropout, own_parts
from guidestar.model.load import BaseModel, Model
from guidestar.model.predict import predict
from guidestar.progress import Tick
from guidestar.records import Example, Predictions
from guidestar.tasks import Task


def predict_samples(
    base: BaseModel, model: Model, examples: Sequence[Example], task: Task, ask: Ask, b_dropout: float | None = None,
    tick: Tick = silent,
) -> Predictions:  # fmt: skip
    """As `predict` with passes, but pass k is one model for all examples. b_dropout: rate before LoRA's B, or None.

    Raises NoVariance for an adapter whose dropout is not a module of its own, or when all passes are equal.
    Source: the consistent dropout of Kirsch, van Amersfoort, Gal 2019.
    """
    plain, said = replace(ask, passes=0, one_model=False), list[Predictions]()
    for k in range(ask.passes):
        with one_sample(model, ask.seed + k, b_dropout):
            said.append(predict(base, model, examples, task, plain, part_of(tick, k, ask.passes)))
    return joined(said, "all sampled models are equal: the adapter's dropout does not act on this model")


@contextmanager
def one_sample(model: Model, seed: int, b_dropout: float | None = None) -> Iterator[None]:
    """The adapter with one draw of its dropout masks, for the time of the block; the base model stays in eval mode.

    A module of rate p multiplies its input's features by 0 with probability p, else by 1/(1 − p). For plain LoRA the
    factors go into the columns of A (and B), so that a pass runs as fast as one without dropout.
    Raises NoVariance if the adapter has no dropout module.
    """
    model.eval()
    plain = lora.plain_layers(model)
    undo = _into_weights(plain, seed, b_dropout) if plain else _by_hooks(model, seed)
    if not undo:
        raise NoVariance("the adapter has no dropout module to sample models with; set one in `peft` above 0")
    try:
        with nullcontext() if plain else adapters.dropout_on(model):  # DoRA asks for no dropout in eval mode
            yield
    finally:
        for step in undo:
            step()


def _into_weights(layers: Sequence[Any], seed: int, b_dropout: float | None) -> list[Callable[[], None]]:
    """Multiplies columns of A and B by their factors; returns what puts them back."""
    undo: list[Callable[[], None]] = []
    for i, layer in enumerate(layers):
        (name,) = layer.active_adapters
        rates = (float(getattr(layer.lora_dropout[name], "p", 0.0)), b_dropout or 0.0)
        for part, (matrix, p) in enumerate(zip((layer.lora_A, layer.lora_B), rates, strict=True)):
            if p > 0:
                weight = matrix[name].weight.data
                undo.append(partial(weight.copy_, weight.clone()))
                weight.mul_(_factors(weight.shape[1], p, (seed, i, part)).to(weight))
    return undo


def _by_hooks(model: Model, seed: int) -> list[Callable[[], None]]:
    """Puts a fixed mask in the place of what dropout modules do; returns what takes the hooks off."""
    undo: list[Callable[[], None]] = []
    for _, _, module in own_parts(model):
        if isinstance(module, (nn.Dropout, BitDropout)) and module.p > 0:
            key = (seed, len(undo))
            undo.append(module.register_forward_hook(_masking(module.p, key)).remove)
    return undo


def _masking(p: float, key: tuple[int, ...]) -> Any:
    return lambda module, args, output: args[0] * _factors(output.shape[-1], p, key).to(output)


def _factors(width: int, p: float, key: tuple[int, ...]) -> torch.Tensor:
    """0 with probability p, else 1/(1 − p); the same for the same key. (width,) float32."""
    draw = np.random.default_rng(key).random(width)
    return torch.from_numpy(((draw >= p) / (1.0 - p)).astype(np.float32))
