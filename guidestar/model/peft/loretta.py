"""LoRETTA, adapters and LoRA of tensor trains, as a PEFT type: `peft_type: LORETTA`.

    mode adp    y = h + U f(D drop(h)),  h = W x
    mode rep    y = W x + s · B A drop(x)

D and A make r numbers, U and B the layer's output of them. Each of these matrices is a tensor train: reshaped to k_1 … k_n
it is G_1 G_2 … G_n, core G_i of (rank, k_i, rank) and the ranks at both ends 1: Σ rank_{i−1} k_i rank_i numbers. The last
core of U and B starts at 0, so that the adapter starts as the identity; it is STAR's "B". The mode rep can be merged. The
paper's starts at random, and trains norms and a tensorised head besides (docs/deviations.md).
Source: Yang, Zhou, Wong, Zhang 2024 (LoRETTA).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from guidestar.model.peft.common import ACTIVATIONS, HOULSBY, BlockConfig, PartModel, dropout, linear

CORES = 5  # as the paper's shapes have


@dataclass
class LorettaConfig(BlockConfig):
    """LoRETTA's keys; `target_modules` are linear layers: by default those of Houlsby's adapters, with `rep` query and value."""

    NAME = "LORETTA"
    COUNTS = ("r", "tensor_rank")
    CHOICES = {"mode": ("adp", "rep")}  # noqa: RUF012 - a ClassVar

    mode: str = field(default="adp", metadata={"help": "adp, a bottleneck adapter, or rep, a LoRA."})
    r: int = field(default=64, metadata={"help": "Width of the bottleneck, or LoRA's rank."})
    tensor_rank: int = field(default=5, metadata={"help": "Rank between the cores of a tensor train."})
    tensor_shape: list[int] | None = field(default=None, metadata={"help": "k_1 … k_n; else five near each other."})
    activation: str = field(default="gelu", metadata={"help": "swish, relu, gelu or tanh; of adp."})
    scaling: float = field(default=1.0, metadata={"help": "Factor s of rep."})
    loretta_dropout: float = field(default=0.0, metadata={"help": "Dropout on what enters D or A."})

    def __post_init__(self) -> None:
        if self.target_modules is None:
            self.target_modules = list(HOULSBY) if self.mode == "adp" else ["q_proj", "v_proj", "query", "value"]
        super().__post_init__()


def split(n: int, cores: int = CORES) -> list[int]:
    """n as a product of so many numbers near each other, the largest first.

    >>> split(768 * 64)
    [12, 8, 8, 8, 8]
    """
    sizes, prime, primes = [1] * cores, 2, []
    while n > 1:
        while n % prime == 0:
            n //= prime
            primes.append(prime)
        prime = prime + 1 if prime * prime <= n else n
    for prime in reversed(primes):
        sizes[sizes.index(min(sizes))] *= prime
    return sorted(sizes, reverse=True)


class TensorTrain(nn.Module):
    """A linear map without bias, (..., source) -> (..., out), whose weight is a tensor train.

    Its numbers spread at the start as those of LoRA's A do. Where `zero` is set the last core is 0, and the others are so large
    that a step moves the weight about as far as it moves the core: else nothing is learned in a hundred steps.
    Raises ValueError if `shape` is given and does not hold the weight.
    """

    def __init__(self, source: int, out: int, rank: int, shape: list[int] | None, zero: bool) -> None:
        super().__init__()
        self.source, self.out = source, out
        sizes, whole = shape or split(source * out), source * out
        if (held := math.prod(sizes)) != whole:
            raise ValueError(f"tensor_shape {shape} holds {held} numbers, but {source} x {out} are {whole}")
        ranks = [1, *[rank] * (len(sizes) - 1), 1]
        spread = (1 / (3 * source) / rank ** (len(sizes) - 1)) ** (0.5 / len(sizes)) if not zero else rank**-0.5
        shapes = zip(ranks[:-1], sizes, ranks[1:], strict=True)
        self.cores = nn.ParameterList(spread * torch.randn(left, k, right) for left, k, right in shapes)
        if zero:
            nn.init.zeros_(self.cores[-1])

    def weight(self) -> torch.Tensor:
        """(out, source)."""
        whole = self.cores[0].flatten(0, 1)
        for core in self.cores[1:]:
            whole = (whole @ core.flatten(1)).view(-1, core.shape[2])
        return whole.reshape(self.out, self.source)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight())


class Train(nn.Module):
    """What an adapter adds to a layer's output. low, high: D and U, or A and B."""

    def __init__(self, config: LorettaConfig, source: int, out: int) -> None:
        super().__init__()
        rank, shape = config.tensor_rank, config.tensor_shape
        self.low = TensorTrain(source, config.r, rank, shape, zero=False)
        self.high = TensorTrain(config.r, out, rank, shape, zero=True)
        self.drop = dropout(config.loretta_dropout)


class Bottleneck(Train):
    """U f(D drop(h))."""

    def __init__(self, config: LorettaConfig, layer: nn.Linear) -> None:
        super().__init__(config, layer.out_features, layer.out_features)
        self.bend = ACTIVATIONS[config.activation]()

    def forward(self, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return self.high(self.bend(self.low(self.drop(out.to(self.low.cores[0].dtype)))))


class Reparametrised(Train):
    """s · B A drop(x)."""

    def __init__(self, config: LorettaConfig, layer: nn.Linear) -> None:
        super().__init__(config, layer.in_features, layer.out_features)
        self.scaling = config.scaling

    def forward(self, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return self.scaling * self.high(self.low(self.drop(x.to(self.low.cores[0].dtype))))

    def delta(self) -> torch.Tensor:
        """What is added to W, (out, in)."""
        return self.scaling * self.high.weight().float() @ self.low.weight().float()


class LorettaModel(PartModel):
    """A model whose linear layers carry tensor trains."""

    UNMERGED = "a LoRETTA adapter of mode adp is not linear and"

    def part(self, config: LorettaConfig, module: Any, where: str) -> Train:
        layer = linear(module, where, "LoRETTA")
        return Bottleneck(config, layer) if config.mode == "adp" else Reparametrised(config, layer)
