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
from typing import Any, cast

import torch
from torch import nn

from guidestar.model.peft.bottleneck import new_bottleneck, squeezed
from guidestar.model.peft.common import BlockConfig, PartModel, dropout
from guidestar.model.peft.prefix import Prefix
from guidestar.model.peft.unipelt import WHERE

SIZES = ("series", "parallel", "prefix")


@dataclass
class AutoPeftConfig(BlockConfig):
    """Its keys; `target_modules` are attention modules, and the linear layers that end a feed-forward network."""

    NAME = "AUTOPEFT"

    target_modules: list[str] | str | None = field(default=WHERE)
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

    def forward(self, x: torch.Tensor, out: torch.Tensor) -> Any:
        given = {"series": out, "parallel": x}
        down, up = (cast(dict[str, nn.Linear], table) for table in (self.down, self.up))
        return sum(squeezed(given[k], down[k], up[k], self.drop, self.activation) for k in self.down)


class AutoPeftModel(PartModel):
    """A model whose attention modules and feed-forward networks carry such parts."""

    UNMERGED = "an AutoPEFT adapter is not linear and"

    def part(self, config: Any, module: Any, where: str) -> nn.Module | None:
        """As `PartModel` wants it."""
        if isinstance(module, nn.Linear):
            return _Bottlenecks(module, config) if config.series or config.parallel else None
        rate = config.autopeft_dropout
        return Prefix(module, where, config.prefix, rate, gated=False) if config.prefix else None
