"""A prefix that starts as nothing, as a PEFT type: `peft_type: GATED_PREFIX`.

    y = attention(x) + W_o [g · softmax(q Kᵀ/√d) V],   q = W_q x

(BERT's attention module ends before W_o, and so does what is added to it.) K and V are p trained keys and values of each
attention layer, g one gate for each head, 0 at the start: the adapter starts as the identity, and g is STAR's "B". The prefix has its own softmax and no position. Plain prefix tuning has none
of this: it changes the model before any training, has no dropout, and its keys share the softmax with the text's.
Source: He, Zhou, Ma, Berg-Kirkpatrick, Neubig 2022 (a prefix as a parallel adapter with a gate); Zhang et al. 2023
(LLaMA-Adapter) for the gate that starts at 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from guidestar.model.peft.common import BlockConfig, PartModel, dropout, unwrapped


@dataclass
class GatedPrefixConfig(BlockConfig):
    """A gated prefix's keys; `target_modules` are attention modules."""

    NAME = "GATED_PREFIX"
    COUNTS = ("num_virtual_tokens",)

    target_modules: list[str] | str | None = field(default_factory=lambda: ["self_attn", "attention.self"])
    num_virtual_tokens: int = field(default=30, metadata={"help": "p, keys and values of each layer."})
    gated_prefix_dropout: float = field(default=0.0, metadata={"help": "Dropout on what each prefix token adds."})


class Attention(NamedTuple):
    """What a prefix must know of an attention module: the names of its projections, None where it has no last one, and
    its numbers of heads, of groups of heads that share keys, and of entries of a head."""

    query: str
    key: str
    value: str
    output: str | None
    heads: int
    groups: int
    size: int


_FAMILIES = (  # projections of query, key and value, the last one, and the number of entries of a head
    ("q_proj", "k_proj", "v_proj", "o_proj", "head_dim"),
    ("query", "key", "value", None, "attention_head_size"),
)


def attention_of(module: Any, where: str) -> Attention:
    """An attention module built like Llama's or BERT's. Raises TypeError for any other."""
    for *names, output, size in _FAMILIES:
        if all(hasattr(module, name) for name in (*names, output, size) if name):
            query, key, value = map(str, names)
            width = int(getattr(module, str(size)))
            heads, groups = (unwrapped(getattr(module, name)).out_features // width for name in (query, key))
            return Attention(query, key, value, output, heads, groups, width)
    raise TypeError(
        f"{where} is a {type(module).__name__}; a prefix needs an attention module with "
        + ", or with ".join(", ".join(name for name in family if name) for family in _FAMILIES)
    )


def looked_up(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, drop: nn.Module) -> torch.Tensor:
    """drop(softmax(q Kᵀ/√d)) V for each head, in the dtype of the keys.

    query: (batch, tokens, heads × size). keys, values: (groups, p, size). -> (batch, tokens, groups, heads of each, size).
    """
    groups, _, size = keys.shape
    query = query.to(keys.dtype).unflatten(-1, (groups, -1, size))  # heads of a group share keys
    near = torch.einsum("btghd,gpd->btghp", query, keys) / size**0.5
    return torch.einsum("btghp,gpd->btghd", drop(near.softmax(dim=-1)), values)


def projected(heads: torch.Tensor, module: Any, attention: Attention) -> torch.Tensor:
    """What was looked up, (batch, tokens, groups, heads of each, size), as the attention module gives it out."""
    heads = heads.flatten(2)
    if attention.output is None:
        return heads
    weight = unwrapped(getattr(module, attention.output)).weight
    return F.linear(heads.to(weight.dtype), weight)


class Prefix(nn.Module):
    """W_o [g · softmax(q Kᵀ/√d) V] beside the attention module `base`. Where it is not gated, V starts at 0 in the place of g."""

    def __init__(self, base: nn.Module, where: str, tokens: int, rate: float, gated: bool) -> None:
        super().__init__()
        self.attention, self.base = attention_of(base, where), (base,)  # in a tuple it is no part of this module
        shape = (self.attention.groups, tokens, self.attention.size)
        self.keys = nn.Parameter(torch.randn(shape))
        self.values = nn.Parameter(0.1 * torch.randn(shape) if gated else torch.zeros(shape))
        self.gate = nn.Parameter(0.0 * torch.randn(self.attention.heads)) if gated else None
        self.drop = dropout(rate)

    def forward(self, x: torch.Tensor, out: Any) -> torch.Tensor:
        """(batch, tokens, width) -> (batch, tokens, width)."""
        (base,) = self.base
        heads = looked_up(getattr(base, self.attention.query)(x), self.keys, self.values, self.drop)
        if self.gate is not None:
            heads = heads * self.gate.view(len(self.keys), -1, 1)
        return projected(heads, base, self.attention)


class GatedPrefixModel(PartModel):
    """A model whose attention layers carry gated prefixes."""

    prefix = "gated_prefix_part"
    SAVED = "gated_prefix_"
    UNMERGED = "a gated prefix"

    def part(self, config: GatedPrefixConfig, module: Any, where: str) -> Prefix:
        return Prefix(module, where, config.num_virtual_tokens, config.gated_prefix_dropout, gated=True)
