"""LoRTA, one tensor for all layers, matrices and heads of the attention, as a PEFT type: `peft_type: LORTA`.

    y_h = W_h x + s · B diag(c_head[h] · c_matrix[m] · c_block[l]) A drop(x)     for each head h of matrix m in block l

A (r, in) and B (entries of a head, r) are the same everywhere, and of the three kinds of factors there are r numbers for each
head, matrix and block: r (d + d/H + H + matrices + blocks) numbers in all. B starts at 0, so that the adapter starts as the
identity; B is STAR's "B". The heads of a matrix follow each other in its output; where keys and values have fewer heads, they
take the first factors (ours; the paper has no such models).
Source: Hounie, Kanatsoulis, Tandon, Ribeiro 2024 (LoRTA).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from guidestar.model.peft.common import BlockConfig, PartModel, Sharing, dropout, linear

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj", "query", "key", "value", "attention.output.dense")


@dataclass
class LortaConfig(BlockConfig):
    """LoRTA's keys; `target_modules` are the attention's linear layers, all four by default."""

    NAME = "LORTA"
    COUNTS = ("r",)

    target_modules: list[str] | str | None = field(default_factory=lambda: list(_ATTENTION))
    r: int = field(default=8, metadata={"help": "Rank of the tensor."})
    scaling: float = field(default=1.0, metadata={"help": "Factor s of what the adapter adds."})
    lorta_dropout: float = field(default=0.0, metadata={"help": "Dropout on what enters A."})


class Tensor(nn.Module):
    """The factors of an adapter. matrices, blocks: by their names and numbers, as far as there are any."""

    def __init__(self, source: int, r: int, heads: int, size: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(source, r, bias=False), nn.Linear(r, size, bias=False)
        nn.init.kaiming_uniform_(self.a.weight, a=math.sqrt(5))
        nn.init.zeros_(self.b.weight)
        self.heads = nn.Parameter(torch.randn(heads, r))
        self.matrices, self.blocks = nn.ParameterDict(), nn.ParameterDict()

    def know(self, matrix: str, block: str) -> None:
        """Make factors for a matrix and a block that are new."""
        for table, key in ((self.matrices, matrix), (self.blocks, block)):
            if key not in table:
                table[key] = nn.Parameter(torch.randn_like(self.heads[0]))


class Slice(Sharing):
    """A matrix' own slice of the tensor. heads: of the matrix."""

    def __init__(self, owned: bool, tensor: Tensor, matrix: str, block: str, heads: int, config: LortaConfig) -> None:
        super().__init__(owned, tensor)
        self.matrix, self.block, self.heads, self.scaling = matrix, block, heads, config.scaling
        self.drop = dropout(config.lorta_dropout)

    def up(self) -> torch.Tensor:
        """s · B diag(c) of all heads below each other, (out, r)."""
        t = self.shared
        factors = self.scaling * t.heads[: self.heads] * t.matrices[self.matrix] * t.blocks[self.block]
        return (factors[:, None, :] * t.b.weight).flatten(0, 1)

    def forward(self, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        a = self.shared.a
        return F.linear(a(self.drop(x.to(a.weight.dtype))), self.up())

    def delta(self) -> torch.Tensor:
        """What is added to W, (out, in)."""
        return self.up().float() @ self.shared.a.weight.float()


class LortaModel(PartModel):
    """A model whose attention carries slices of a tensor."""

    def part(self, config: LortaConfig, module: Any, where: str) -> Slice:
        layer = linear(module, where, "LoRTA")
        text = self.model.config.get_text_config()
        heads = int(text.num_attention_heads)
        size = int(getattr(text, "head_dim", None) or text.hidden_size // heads)
        owned, made = self.share("tensor", lambda: Tensor(layer.in_features, config.r, heads, size))
        tensor: Any = made
        source, own = tensor.a.in_features, layer.out_features // size
        if layer.in_features != source or layer.out_features != own * size or own > heads:
            raise TypeError(
                f"{where} makes {layer.out_features} numbers of {layer.in_features}; LoRTA needs at most {heads} heads of {size} "
                f"made of {source}, as the first of target_modules has"
            )
        number = re.search(r"(?:^|\.)\d+\.", where)
        end = number.end() if number else 0
        block, matrix = (name.replace(".", "_") for name in (where[:end], where[end:]))
        tensor.know(matrix, block)
        return Slice(owned, tensor, matrix, block, own, config)
