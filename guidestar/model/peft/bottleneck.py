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
from typing import Any, ClassVar, cast

import torch
from peft.config import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import nn

NAME = "BOTTLENECK"
ACTIVATIONS = {"swish": nn.SiLU, "relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}


@dataclass
class BottleneckConfig(PeftConfig):
    """A bottleneck adapter's keys. Raises ValueError for a value that is not allowed."""

    target_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Names of linear layers, a regular expression, or all-linear."}
    )
    exclude_modules: list[str] | str | None = field(default=None, metadata={"help": "Names to leave out."})
    layers_to_transform: list[int] | int | None = field(default=None, metadata={"help": "Numbers of the blocks."})
    layers_pattern: list[str] | str | None = field(default=None, metadata={"help": "Name of the list of blocks."})
    r: int = field(default=16, metadata={"help": "Width of the bottleneck."})
    placement: str = field(default="series", metadata={"help": "series or parallel."})
    activation: str = field(default="swish", metadata={"help": "swish, relu, gelu or tanh."})
    scaling: float = field(default=1.0, metadata={"help": "Factor s of what the adapter adds."})
    bottleneck_bias: bool = field(default=True, metadata={"help": "Whether D and U have a bias."})
    bottleneck_dropout: float = field(default=0.0, metadata={"help": "Dropout on the adapter's input."})
    modules_to_save: list[str] | None = field(default=None, metadata={"help": "Modules trained beside the adapter."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = NAME
        if self.r < 1:
            raise ValueError(f"r is {self.r}; allowed: 1 or more")
        if self.placement not in ("series", "parallel"):
            raise ValueError(f"placement is {self.placement!r}; allowed: series, parallel")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation is {self.activation!r}; allowed: {', '.join(ACTIVATIONS)}")
        if not 0 <= self.bottleneck_dropout < 1:
            raise ValueError(f"bottleneck_dropout is {self.bottleneck_dropout}; allowed: from 0 to below 1")
        for key in ("target_modules", "exclude_modules"):
            if isinstance(getattr(self, key), list):
                setattr(self, key, set(getattr(self, key)))


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


class BottleneckLayer(nn.Module, BaseTunerLayer):
    """A linear layer with one bottleneck for each adapter."""

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")
    other_param_names = ("bottleneck_dropout",)
    get_base_layer: Any  # PEFT's, which type checkers take for submodules
    set_adapter: Any
    active_adapters: Any
    _move_adapter_to_device_of_base_layer: Any

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: BottleneckConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.bottleneck_down = nn.ModuleDict({})
        self.bottleneck_up = nn.ModuleDict({})
        self.bottleneck_dropout = nn.ModuleDict({})
        self.bottleneck_config: dict[str, BottleneckConfig] = {}
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: BottleneckConfig) -> None:
        """Add an adapter; it becomes the active one where the others were none."""
        base = self.get_base_layer()
        source = base.out_features if config.placement == "series" else base.in_features
        down, up = new_bottleneck(source, config.r, base.out_features, config.bottleneck_bias)
        self.bottleneck_down[adapter_name], self.bottleneck_up[adapter_name] = down, up
        rate = config.bottleneck_dropout
        self.bottleneck_dropout[adapter_name] = nn.Dropout(rate) if rate else nn.Identity()
        self.bottleneck_config[adapter_name] = config
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """(..., in) -> (..., out). Several active adapters each see the layer's own output."""
        plain: torch.Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return plain
        result = plain
        for name in self.active_adapters:
            if name in self.bottleneck_down:
                config = self.bottleneck_config[name]
                source = plain if config.placement == "series" else x
                down, up = (cast(nn.Linear, part[name]) for part in (self.bottleneck_down, self.bottleneck_up))
                added = squeezed(source, down, up, self.bottleneck_dropout[name], config.activation)
                result = result + (config.scaling * added).to(plain.dtype)
        return result

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Raises ValueError: what an adapter with a bend adds is no matrix."""
        raise ValueError("a bottleneck adapter is not linear and cannot be merged into the weights")

    def unmerge(self) -> None:
        """Nothing is ever merged."""

    def get_delta_weight(self, adapter_name: str) -> torch.Tensor:
        """Raises ValueError, as `merge` does."""
        raise ValueError("a bottleneck adapter is not linear and has no weight to add")

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """No."""
        return False


class BottleneckModel(BaseTuner):
    """A model whose linear layers carry bottleneck adapters."""

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLayer
    target_module_mapping: ClassVar[dict[str, list[str]]] = {}

    def _create_and_replace(
        self, peft_config: BottleneckConfig, adapter_name: str, target: nn.Module, target_name: str,
        parent: nn.Module, current_key: str, **optional: Any,
    ) -> None:  # fmt: skip
        if isinstance(target, BottleneckLayer):
            target.update_layer(adapter_name, peft_config)
            return
        if not isinstance(target, nn.Linear):
            raise TypeError(f"{current_key} is a {type(target).__name__}; a bottleneck adapter needs a linear layer")
        layer = BottleneckLayer(target, adapter_name, peft_config)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        setattr(parent, child_name, new_module)  # PEFT's own asks a head of several layers for its weight
