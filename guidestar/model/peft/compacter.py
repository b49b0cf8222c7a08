"""Compacter, bottleneck adapters of Kronecker products, as a PEFT type: `peft_type: COMPACTER`.

    y = h + U f(D drop(h) + b_D) + b_U,  h = W x;   D and U each Σ_i A_i ⊗ (s_i t_i),  i = 1 … n

The "slow" A_i (n, n) are the same for D and U of all layers; s_i (outputs/n, rank) and t_i (rank, inputs/n) are a matrix's own.
That is n³ numbers and, for each layer of width d with a bottleneck of r, 2 rank (d + r) + d + r. U's s starts at 0, so that
the adapter starts as the identity: it and the biases are STAR's "B". Houlsby's placement by default: behind the last layers of
the attention and the feed-forward network. The paper trains the norms besides (docs/deviations.md).
Source: Karimi Mahabadi, Henderson, Ruder 2021 (Compacter).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from guidestar.model.peft.common import ACTIVATIONS, HOULSBY, BlockConfig, PartModel, Sharing, dropout, linear


@dataclass
class CompacterConfig(BlockConfig):
    """Compacter's keys; `target_modules` are linear layers."""

    NAME = "COMPACTER"
    COUNTS = ("r", "phm_dim", "phm_rank")

    target_modules: list[str] | str | None = field(default_factory=lambda: list(HOULSBY))
    r: int = field(default=24, metadata={"help": "Width of the bottleneck; a multiple of phm_dim."})
    phm_dim: int = field(default=4, metadata={"help": "n, the number of Kronecker products, and the size of each A_i."})
    phm_rank: int = field(default=1, metadata={"help": "Rank of each s_i t_i."})
    activation: str = field(default="gelu", metadata={"help": "swish, relu, gelu or tanh."})
    compacter_dropout: float = field(default=0.0, metadata={"help": "Dropout on the adapter's input."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.r % self.phm_dim:
            raise ValueError(f"r is {self.r}; allowed: multiples of phm_dim, {self.phm_dim}")


class Slow(nn.Module):
    """The A_i, (n, n, n)."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(n, n, n) / n**0.5)


class Kronecker(nn.Module):
    """The s_i, t_i and the bias of one matrix, (..., source) -> (..., out). zero: whether it is 0 at the start."""

    def __init__(self, source: int, out: int, n: int, rank: int, zero: bool) -> None:
        super().__init__()
        self.s = nn.Parameter(torch.zeros(n, out // n, rank) if zero else torch.randn(n, out // n, rank) / rank**0.5)
        wide = rank if zero else (3 * source) ** 0.5  # a step of s moves the weight about as far as s
        self.t = nn.Parameter(torch.randn(n, rank, source // n) / wide)
        self.bias = nn.Parameter(torch.zeros(out))

    def weight(self, a: torch.Tensor) -> torch.Tensor:
        """Σ A_i ⊗ (s_i t_i), (out, source)."""
        return torch.einsum("nab,npr,nrq->apbq", a, self.s, self.t).flatten(2).flatten(0, 1)

    def forward(self, x: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight(a), self.bias)


class Compact(Sharing):
    """U f(D drop(h) + b_D) + b_U."""

    def __init__(self, owned: bool, slow: nn.Module, width: int, config: CompacterConfig) -> None:
        super().__init__(owned, slow)
        n, rank = config.phm_dim, config.phm_rank
        self.down = Kronecker(width, config.r, n, rank, zero=False)
        self.up = Kronecker(config.r, width, n, rank, zero=True)
        self.bend = ACTIVATIONS[config.activation]()
        self.drop = dropout(config.compacter_dropout)

    def forward(self, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        a = self.shared.a
        return self.up(self.bend(self.down(self.drop(out.to(a.dtype)), a)), a)


class CompacterModel(PartModel):
    """A model whose linear layers carry compact adapters."""

    UNMERGED = "a Compacter adapter is not linear and"

    def part(self, config: CompacterConfig, module: Any, where: str) -> Compact:
        width, n = linear(module, where, "Compacter").out_features, config.phm_dim
        if width % n:
            raise ValueError(f"phm_dim is {n}, which does not divide the {width} outputs of {where}")
        return Compact(*self.share("slow", lambda: Slow(n)), width, config)
