"""PiCa, a projection on the leading singular vectors of each weight, as a PEFT type: `peft_type: PICA`.

    y = W x + M P drop(x)

P holds the r leading right singular vectors of W (out, in), each layer its own and frozen. M (out, r) starts at 0 and is
shared by the layers of one kind, such as the queries of all blocks: r · Σ out numbers, the sum over the kinds. So the adapter
starts as the identity, and M is STAR's "B". P is saved with the adapter: singular vectors that are nearly tied would come
out otherwise on another machine.
Source: Hwang, Cho, Kim 2025 (PiCa).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import nn

from guidestar.model.device import seeded
from guidestar.model.peft.common import BlockConfig, PartModel, Sharing, dropout, linear

_EXACT = 512  # above it a random projection and four passes find the vectors, in a tenth of the time
_known: WeakKeyDictionary[nn.Module, tuple[Any, torch.Tensor]] = WeakKeyDictionary()


@dataclass
class PicaConfig(BlockConfig):
    """PiCa's keys; `target_modules` are linear layers, in the paper query, key, value, up and down projection."""

    NAME = "PICA"
    COUNTS = ("r",)

    r: int = field(default=16, metadata={"help": "Number of singular vectors."})
    pica_dropout: float = field(default=0.0, metadata={"help": "Dropout on what enters P."})


def leading(layer: nn.Linear, r: int) -> torch.Tensor:
    """The r leading right singular vectors of a layer's weight as rows, (r, in), float32. Found once for a base model."""
    weight = layer.weight.detach()
    if weight.is_meta:
        return torch.empty(r, layer.in_features, device="meta")
    key = (r, weight.dtype, weight._version)
    if layer not in _known or _known[layer][0] != key:
        if min(weight.shape) <= _EXACT:
            rows = torch.linalg.svd(weight.float(), full_matrices=False).Vh[:r]
        else:
            with seeded(0, weight.device):
                rows = torch.svd_lowrank(weight.float(), q=min(r + 16, *weight.shape), niter=4)[2].T[:r]
        _known[layer] = key, rows.contiguous()
    return _known[layer][1].clone()


class Projection(Sharing):
    """M P drop(x)."""

    p: torch.Tensor

    def __init__(self, owned: bool, m: nn.Module, p: torch.Tensor, rate: float) -> None:
        super().__init__(owned, m)
        self.register_buffer("p", p)
        self.drop = dropout(rate)

    def forward(self, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        m = self.shared.weight
        return F.linear(F.linear(self.drop(x.to(m.dtype)), self.p.to(m.dtype)), m)

    def delta(self) -> torch.Tensor:
        """What is added to W, (out, in)."""
        return self.shared.weight.float() @ self.p.float()


class PicaModel(PartModel):
    """A model whose linear layers carry projections."""

    def part(self, config: PicaConfig, module: Any, where: str) -> Projection:
        layer = linear(module, where, "PiCa")
        out, source = layer.out_features, layer.in_features
        if layer.weight.shape != (out, source):
            raise TypeError(f"the weight of {where} is packed; PiCa needs it as it is, without quantisation")
        if config.r > min(out, source):
            raise ValueError(f"r is {config.r}, but {where} has {min(out, source)} singular vectors; allowed: no more")

        def make() -> nn.Linear:
            m = nn.Linear(config.r, out, bias=False)
            nn.init.zeros_(m.weight)
            return m

        kind = re.sub(r"(^|\.)\d+(?=\.|$)", "", where)  # the name without the number of the block
        owned, m = self.share((kind, out), make)
        return Projection(owned, m, leading(layer, config.r), config.pica_dropout)
