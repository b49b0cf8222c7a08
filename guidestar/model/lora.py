"""LoRA in scoring: folded into float32 weights for a plain pass, else added in one step.

PEFT computes W x, then B A x, scales it and adds it: six operations where one (folded) or four do. Only plain LoRA on
linear layers is treated so; every other adapter runs as PEFT has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from guidestar.model import adapters
from guidestar.model.dropout import BitDropout, masked, tuner_layers
from guidestar.model.heads import Model


def plain_layers(model: Model) -> list[Any]:
    """The adapter's layers if all are plain LoRA with one active adapter on linear layers of their own, else none."""
    from peft.tuners.lora.layer import Linear

    layers = tuner_layers(model)
    embedded = adapters.inner(model).get_input_embeddings().weight

    def plain(layer: Any) -> bool:
        if type(layer) is not Linear or type(layer.get_base_layer()) is not nn.Linear:
            return False  # quantised, or GPT-2's transposed kind
        names = list(layer.active_adapters)
        return (
            len(names) == 1 and names[0] in layer.lora_A and not layer.merged and not layer.disable_adapters
            and not layer.lora_variant and layer.lora_B[names[0]].bias is None
            and layer.get_base_layer().weight is not embedded  # tied: a fold would change what is read, too
        )  # fmt: skip

    return layers if layers and all(plain(layer) for layer in layers) else []


@contextmanager
def running(layers: list[Any], forward: Callable[[Any], Callable[..., torch.Tensor]]) -> Iterator[None]:
    """Layers with another forward pass of the same meaning while the block lasts. forward: makes that of a layer."""
    try:
        for layer in layers:
            layer.forward = forward(layer)
        yield
    finally:
        for layer in layers:
            del layer.forward


@contextmanager
def merged(model: Model) -> Iterator[None]:
    """W + scaling · B A as weights while the block lasts; the base's own bits are put back after it.

    The sum is made in float32 and rounded once to the base's dtype: in bfloat16, whose steps are larger than most of
    what LoRA adds, that moves predictions. Costs a copy of the adapted weights in main memory.
    """
    layers = plain_layers(model)
    saved = []
    try:
        with torch.no_grad():
            for layer in layers:
                (name,), weight = layer.active_adapters, layer.get_base_layer().weight
                a, b = (part[name].weight.float() for part in (layer.lora_A, layer.lora_B))
                saved.append((weight, weight.detach().to("cpu", copy=True)))
                weight.copy_(torch.addmm(weight.float(), b, a, alpha=layer.scaling[name]))
                layer.merged_adapters.append(name)
        yield
    finally:
        with torch.no_grad():
            for weight, before in saved:
                weight.copy_(before)
        for layer in layers:
            layer.merged_adapters.clear()


@contextmanager
def added(model: Model) -> Iterator[None]:
    """W x + scaling · B A drop(x) with the last product added where W x lies. Without gradients only.

    Left as it is where something hangs on the way into B (`train.b_dropout`).
    """
    layers = plain_layers(model)
    if any(part._forward_pre_hooks for layer in layers for part in layer.lora_B.values()):
        layers = []
    with running(layers, _adding):
        yield


def _adding(layer: Any) -> Callable[..., torch.Tensor]:
    (name,) = layer.active_adapters
    w, a, b = layer.get_base_layer(), layer.lora_A[name].weight, layer.lora_B[name].weight.t()
    drop, scaling = layer.lora_dropout[name], float(layer.scaling[name])

    def forward(x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = w(x)
        alpha = scaling
        if isinstance(drop, BitDropout) and drop.training and drop.cut:
            keep, alpha = drop.draw(x, drop.cut), scaling / (1 - drop.p)
            x = masked(x, keep)
        else:
            x = drop(x)
        low = F.linear(x.to(a.dtype), a)
        if a.dtype != out.dtype:
            return out + (F.linear(low, b.t()) * alpha).to(out.dtype)
        out.view(-1, out.shape[-1]).addmm_(low.view(-1, low.shape[-1]), b, alpha=alpha)
        return out

    return forward
