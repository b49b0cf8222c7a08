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
from typing import Any, cast

import torch
from torch import nn

from guidestar.model.peft.common import BlockConfig, OwnLayer, OwnModel, dropout, linear, plus

ACTIVATIONS = {"swish": nn.SiLU, "relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}


@dataclass
class BottleneckConfig(BlockConfig):
    """A bottleneck adapter's keys; `target_modules` are linear layers, or all-linear."""

    NAME = "BOTTLENECK"
    COUNTS = ("r",)
    RATE = "bottleneck_dropout"
    CHOICES = {"placement": ("series", "parallel"), "activation": ACTIVATIONS}  # noqa: RUF012 - a ClassVar

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
    added: torch.Tensor = up(ACTIVATIONS[activation]()(low))
    return added


class BottleneckLayer(OwnLayer):
    """A linear layer with one bottleneck for each adapter. Raises TypeError for a module of another kind."""

    UNMERGED = "a bottleneck adapter is not linear and"
    adapter_layer_names = ("bottleneck_down", "bottleneck_up")
    other_param_names = ("bottleneck_dropout",)

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: BottleneckConfig, where: str) -> None:
        super().__init__(linear(base_layer, where, "a bottleneck adapter"), adapter_name)
        self.bottleneck_config: dict[str, BottleneckConfig] = {}
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: BottleneckConfig) -> None:
        """Add an adapter; it becomes the active one where the others were none."""
        base = self.get_base_layer()
        source = base.out_features if config.placement == "series" else base.in_features
        down, up = new_bottleneck(source, config.r, base.out_features, config.bottleneck_bias)
        self.bottleneck_down[adapter_name], self.bottleneck_up[adapter_name] = down, up
        self.bottleneck_dropout[adapter_name] = dropout(config.bottleneck_dropout)
        self.bottleneck_config[adapter_name] = config
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """(..., in) -> (..., out). Several active adapters each see the layer's own output."""
        plain = self.base_layer(x, *args, **kwargs)

        def added(name: str) -> torch.Tensor:
            config = self.bottleneck_config[name]
            source = plain if config.placement == "series" else x
            down, up = (cast(nn.Linear, part[name]) for part in (self.bottleneck_down, self.bottleneck_up))
            return config.scaling * squeezed(source, down, up, self.bottleneck_dropout[name], config.activation)

        out: torch.Tensor = plus(plain, map(added, self.names()))
        return out


class BottleneckModel(OwnModel):
    """A model whose linear layers carry bottleneck adapters."""

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLayer
