"""Bottleneck adapters, in series or in parallel with linear layers, as a PEFT type: `peft_type: BOTTLENECK`.

    series     y = h + s · U f(D drop(h)),  h = W x
    parallel   y = W x + s · U f(D drop(x))

D makes r numbers of its input, f is not linear, U starts at 0, so that the adapter starts as the identity. U and its
bias are constant at the start: STAR's "B". Houlsby's adapters are in series behind the attention's and the
feed-forward network's last layer (BERT: `target_modules: ["output.dense"]`; Llama: `["o_proj", "down_proj"]`),
Pfeiffer's behind the latter alone.
Source: Houlsby et al. 2019; Pfeiffer et al. 2021; He, Zhou, Ma, Berg-Kirkpatrick, Neubig 2022 (parallel).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from guidestar.model.peft.common import ACTIVATIONS, BlockConfig, PartModel, dropout, linear


@dataclass
class BottleneckConfig(BlockConfig):
    """A bottleneck adapter's keys; `target_modules` are linear layers, or all-linear."""

    NAME = "BOTTLENECK"
    COUNTS = ("r",)
    CHOICES = {"placement": ("series", "parallel")}  # noqa: RUF012 - a ClassVar

    r: int = field(default=16, metadata={"help": "Width of the bottleneck."})
    placement: str = field(default="series", metadata={"help": "series or parallel."})
    activation: str = field(default="swish", metadata={"help": "swish, relu, gelu or tanh."})
    scaling: float = field(default=1.0, metadata={"help": "Factor s of what the adapter adds."})
    bottleneck_bias: bool = field(default=True, metadata={"help": "Whether D and U have a bias."})
    bottleneck_dropout: float = field(default=0.0, metadata={"help": "Dropout on the adapter's input."})


def new_bottleneck(source: int, r: int, out: int, bias: bool) -> tuple[nn.Linear, nn.Linear]:
    """D (source -> r) and U (r -> out); U and the biases are 0."""
    down, up = nn.Linear(source, r, bias=bias), nn.Linear(r, out, bias=bias)
    nn.init.zeros_(up.weight)
    if bias:
        nn.init.zeros_(up.bias)
        nn.init.zeros_(down.bias)
    return down, up


def squeezed(x: torch.Tensor, down: nn.Linear, up: nn.Linear, drop: nn.Module, activation: str) -> torch.Tensor:
    """U f(D drop(x)): (..., source) -> (..., out), in the dtype of the weights."""
    low = down(drop(x.to(down.weight.dtype)))
    return up(ACTIVATIONS[activation]()(low))


class Bottleneck(nn.Module):
    """U f(D drop(x))."""

    def __init__(self, source: int, r: int, out: int, activation: str, rate: float, bias: bool = True) -> None:
        super().__init__()
        self.down, self.up = new_bottleneck(source, r, out, bias)
        self.activation, self.drop = activation, dropout(rate)

    def squeeze(self, x: torch.Tensor) -> torch.Tensor:
        """(..., source) -> (..., out)."""
        return squeezed(x, self.down, self.up, self.drop, self.activation)


class Placed(Bottleneck):
    """s · U f(D drop(h)) or s · U f(D drop(x))."""

    def __init__(self, config: BottleneckConfig, layer: nn.Linear) -> None:
        series, out = config.placement == "series", layer.out_features
        source, rate = out if series else layer.in_features, config.bottleneck_dropout
        super().__init__(source, config.r, out, config.activation, rate, config.bottleneck_bias)
        self.series, self.scaling = series, config.scaling

    def forward(self, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return self.scaling * self.squeeze(out if self.series else x)


class BottleneckModel(PartModel):
    """A model whose linear layers carry bottleneck adapters."""

    prefix = "bottleneck_part"  # "bottleneck" alone is the name of modules of MobileBERT
    SAVED = "bottleneck_"
    UNMERGED = "a bottleneck adapter is not linear and"

    def part(self, config: BottleneckConfig, module: Any, where: str) -> Placed:
        return Placed(config, linear(module, where, "a bottleneck adapter"))
