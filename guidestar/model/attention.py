"""Attention as two batched products and a softmax, for bfloat16 on a CPU.

PyTorch's fused kernel takes 1.5 to 7 times as long there on rows of a prompt's length, and up to 5 times in training
(LOG.md). Heads that share keys and values are one product with them, so keys and values are never repeated.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask

from guidestar.model import adapters
from guidestar.model.load import BaseModel, Model

NAME = "guidestar_products"
LONGEST = 512  # keys up to which the products are faster than the fused kernel whatever the heads
_WIDE = 64  # keys from which a softmax in bfloat16 is faster than one through float32; both sum in float32


@contextmanager
def products(base: BaseModel, model: Model) -> Iterator[None]:
    """The model with this attention while the block lasts, where it is faster: else the model as it is."""
    faster = base.device.type == "cpu" and base.dtype == torch.bfloat16
    with switched(adapters.inner(model)) if faster else nullcontext():
        yield


@contextmanager
def switched(inner: Any) -> Iterator[None]:
    """A transformers model with this attention while the block lasts, if it was loaded with the fused one."""
    before = getattr(inner.config, "_attn_implementation", None)
    if before != "sdpa" or not hasattr(inner, "set_attn_implementation"):
        yield
        return
    inner.set_attn_implementation(NAME)
    try:
        yield
    finally:
        inner.set_attn_implementation(before)


def attend(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: torch.Tensor | None,
    dropout: float = 0.0, scaling: float | None = None, is_causal: bool | None = None, **others: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """softmax(scaling · Q Kᵀ + mask) V, in the form that transformers calls.

    query: (rows, heads, tokens, width); key, value: (rows, heads or a divisor of them, keys, width); attention_mask: added,
    broadcast to (rows, heads, tokens, keys). Returns (rows, tokens, heads, width). What is rare goes to the fused kernel:
    more than `LONGEST` keys, a causal pass without a mask, and whatever else a model asks for.
    """
    rows, heads, tokens, width = query.shape
    shared, keys = key.shape[1], key.shape[2]
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    unmasked = attention_mask is None and causal and tokens > 1
    asked = any(others.get(name) is not None for name in ("softcap", "s_aux", "position_bias", "cache"))
    asked |= attention_mask is not None and attention_mask.dtype == torch.bool
    if unmasked or asked or keys > LONGEST or not query.dtype == key.dtype == value.dtype:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **others
        )
    scaling = width**-0.5 if scaling is None else scaling
    together = (rows * shared, heads // shared * tokens)
    with torch.autocast(query.device.type, enabled=False):  # it would widen the softmax
        scores = torch.bmm(query.reshape(*together, width), key.reshape(rows * shared, keys, width).transpose(1, 2))
        scores = scores.view(rows, heads, tokens, keys)
        scores = scores * scaling if attention_mask is None else torch.add(attention_mask, scores, alpha=scaling)
        wide = torch.float32 if keys < _WIDE and scores.dtype.itemsize == 2 else None
        weights = F.softmax(scores, dim=-1, dtype=wide).to(query.dtype)
        if dropout:
            weights = F.dropout(weights, dropout, training=module.training)
        out = torch.bmm(weights.view(*together, keys), value.reshape(rows * shared, keys, value.shape[-1]))
    return out.view(rows, heads, tokens, -1).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, eager_mask)
