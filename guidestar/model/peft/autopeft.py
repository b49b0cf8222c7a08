"""A bottleneck in series, one in parallel and a prefix in the same layers, each of a size of its own, as a PEFT type:
`peft_type: AUTOPEFT`. It is what `guidestar search` looks for the sizes and the layers of.

    feed-forward   y = h + U_s f(D_s h) + U_p f(D_p x),   h = W x the block's last linear layer
    attention      y = attention(x) + W_o [drop(softmax(q Kᵀ/√d)) V]

A size of 0 leaves a part out. Both U and V start at 0, so that the adapter starts as the identity. The paper's parallel
adapter reads the input of the whole feed-forward network and its prefix shares the softmax of the text's keys; here the
parallel one reads the input of its last layer, and the prefix has a softmax of its own (docs/deviations.md).
Source: Zhou, Wan, Vulić, Korhonen 2024 (AutoPEFT).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from guidestar.model.peft.bottleneck import ACTIVATIONS, new_bottleneck, squeezed
from guidestar.model.peft.common import BlockConfig, OwnLayer, OwnModel, dropout, plus
from guidestar.model.peft.prefix import Attention, attended, attention_of, looked_up, projected
from guidestar.model.peft.unipelt import _WHERE

SIZES = ("series", "parallel", "prefix")


@dataclass
class AutoPeftConfig(BlockConfig):
    """Its keys; `target_modules` are attention modules, and the linear layers that end a feed-forward network."""

    NAME = "AUTOPEFT"
    RATE = "autopeft_dropout"
    CHOICES = {"activation": ACTIVATIONS}  # noqa: RUF012 - a ClassVar

    target_modules: list[str] | str | None = field(default=_WHERE)
    series: int = field(default=48, metadata={"help": "Width of the bottleneck in series; 0: none."})
    parallel: int = field(default=48, metadata={"help": "Width of the one in parallel; 0: none."})
    prefix: int = field(default=12, metadata={"help": "Keys and values of each attention; 0: none."})
    activation: str = field(default="swish", metadata={"help": "swish, relu, gelu or tanh."})
    autopeft_dropout: float = field(default=0.0, metadata={"help": "Dropout on what enters D, and on the prefix."})

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = [getattr(self, name) for name in SIZES]
        if min(sizes) < 0 or not any(sizes):
            raise ValueError(f"{', '.join(SIZES)} are {sizes}; allowed: 0 or more, and not all 0")


class _Bottlenecks(nn.Module):
    """What both bottlenecks add to a linear layer."""

    def __init__(self, base: nn.Linear, config: AutoPeftConfig) -> None:
        super().__init__()
        sources = {"series": base.out_features, "parallel": base.in_features}
        made = {name: new_bottleneck(source, getattr(config, name), base.out_features, bias=True)
                for name, source in sources.items() if getattr(config, name)}  # fmt: skip
        self.down = nn.ModuleDict({name: down for name, (down, _) in made.items()})
        self.up = nn.ModuleDict({name: up for name, (_, up) in made.items()})
        self.drop, self.activation = dropout(config.autopeft_dropout), config.activation

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> list[torch.Tensor]:
        given = {"series": h, "parallel": x}
        return [squeezed(given[k], self.down[k], self.up[k], self.drop, self.activation) for k in self.down]  # type: ignore[arg-type]


class _Prefix(nn.Module):
    """Keys and values beside an attention's own."""

    def __init__(self, attention: Attention, config: AutoPeftConfig) -> None:
        super().__init__()
        shape = (attention.groups, config.prefix, attention.size)
        self.keys, self.values = nn.Parameter(torch.randn(shape)), nn.Parameter(torch.zeros(shape))
        self.attention, self.drop = attention, dropout(config.autopeft_dropout)

    def forward(self, x: torch.Tensor, base: Any) -> torch.Tensor:
        heads = looked_up(getattr(base, self.attention.query)(x), self.keys, self.values, self.drop)
        return projected(heads, base, self.attention)


class AutoPeftLayer(OwnLayer):
    """An attention module or a linear layer with the parts of each adapter."""

    UNMERGED = "an AutoPEFT adapter is not linear and"
    adapter_layer_names = ("autopeft",)

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: AutoPeftConfig, where: str) -> None:
        super().__init__(base_layer, adapter_name)
        self.where = where
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: AutoPeftConfig) -> None:
        """Add an adapter. Raises TypeError for a module that is neither an attention nor a linear layer."""
        base = self.get_base_layer()
        linear = isinstance(base, nn.Linear)
        part = _Bottlenecks(base, config) if linear else _Prefix(attention_of(base, self.where), config)
        like = next(p for p in base.parameters())
        self.autopeft[adapter_name] = part.to(like.device, like.dtype if like.is_floating_point() else None)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the layer's own; what the parts add goes into it, or into the first thing it returns."""
        out, base = self.base_layer(*args, **kwargs), self.get_base_layer()
        for part in (self.autopeft[name] for name in self.names()):
            prefix = isinstance(part, _Prefix)
            out = plus(out, [part(attended(args, kwargs), base)] if prefix else part(args[0], out))
        return out


class AutoPeftModel(OwnModel):
    """A model whose attention modules and feed-forward networks carry such parts."""

    prefix = "autopeft"
    tuner_layer_cls = AutoPeftLayer

    def _create_and_replace(
        self, peft_config: Any, adapter_name: str, target: nn.Module, *names: Any, **optional: Any
    ) -> None:
        linear = isinstance(getattr(target, "base_layer", target), nn.Linear)
        if peft_config.series or peft_config.parallel if linear else peft_config.prefix:
            super()._create_and_replace(peft_config, adapter_name, target, *names, **optional)

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        return key.replace(f".autopeft.{adapter_name}.", ".autopeft.")
