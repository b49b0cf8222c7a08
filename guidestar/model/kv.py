"""Keys and values that are computed once and read again: of a prefix that all prompts share, of a prompt before
each of its labels, of a response while it grows.

A batch's room is taken in steps, so that hardly anything is copied when tokens are added. Used for models whose layers all keep every
key; others (recurrent, sliding windows) and prompt learning go the plain way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from guidestar.model import adapters
from guidestar.model.heads import Model

States = tuple[tuple[torch.Tensor, torch.Tensor], ...]  # of each layer keys and values, (rows, heads, tokens, width)
STEP = 32  # tokens that a block grows by
LEAST = 4  # tokens of a prefix worth a pass of their own


class Room(DynamicLayer):
    """One layer's keys and values in a block that is filled from the front and never longer than `length`.

    whole: the model takes all of the block and masks what is not filled, as with transformers' static caches. The block then
    grows by `STEP` tokens, and is contiguous, without which a product with it takes up to three times as long. Else the
    model sees the filled part alone.
    """

    def __init__(
        self, start: tuple[torch.Tensor, torch.Tensor] | None, rows: int, length: int, whole: bool = False
    ) -> None:
        super().__init__()
        self.rows, self.length, self.whole, self.filled = rows, length, whole, 0
        self.blocks: tuple[torch.Tensor, ...] = ()
        if start is not None:
            self.update(*(part.expand(rows, -1, -1, -1) for part in start))

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Add tokens behind the last one: (rows, heads, new, width) in, all so far out."""
        new = (key_states, value_states)
        end = self.filled + key_states.shape[2]
        if not self.is_initialized:
            self.lazy_initialization(*new)
            self.blocks = tuple(part.new_empty((self.rows, part.shape[1], 0, part.shape[3])) for part in new)
        if (capacity := self._capacity(end)) > self.blocks[0].shape[2]:
            self.blocks = tuple(self._longer(block, capacity) for block in self.blocks)
        for block, part in zip(self.blocks, new, strict=True):
            block[:, :, self.filled : end] = part
        self.show(end)
        return self.keys, self.values

    def _capacity(self, end: int) -> int:
        """Length of the block when `end` tokens are in it; a block that was longer stays so."""
        wanted = min(self.length, -(-end // STEP) * STEP) if self.whole else self.length
        return max(wanted, self.blocks[0].shape[2] if self.blocks else 0)

    def _longer(self, block: torch.Tensor, length: int) -> torch.Tensor:
        longer = block.new_zeros((*block.shape[:2], length, block.shape[3]))  # masked, but 0 × NaN would be NaN
        longer[:, :, : self.filled] = block[:, :, : self.filled]
        return longer

    def get_seq_length(self) -> int:
        """Tokens in it."""
        return self.filled

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys that the model will be given with `query_length` more tokens, and the first one's place."""
        end = self.filled + query_length
        return (self._capacity(end) if self.whole else end), 0

    def show(self, end: int) -> None:
        """Make the first `end` tokens the filled part; what lies behind is written over."""
        self.filled = end
        self.keys, self.values = self.blocks if self.whole else (block[:, :, :end] for block in self.blocks)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows alone, in this order."""
        self.blocks = tuple(block[indices] for block in self.blocks)
        self.rows = len(indices)
        self.show(self.filled)


def common_prefix(rows: Sequence[list[int]]) -> list[int]:
    """The tokens that all rows begin with, at least one of each row left over.

    >>> common_prefix([[5, 6, 7], [5, 6, 8, 9]])
    [5, 6]
    >>> common_prefix([[5], [5, 6]])
    []
    """
    if not rows:
        return []
    first, last = min(rows), max(rows)  # what the smallest and the largest share, all share
    shared = 0
    while shared < min(map(len, rows)) - 1 and first[shared] == last[shared]:
        shared += 1
    return list(first[:shared])


def keeps_every_key(model: Model) -> bool:
    """Whether the model can go on behind keys and values of ours."""
    inner = adapters.inner(model)
    accepted = adapters.accepted(model)
    if adapters.exact_lengths(model) or not {"past_key_values", "position_ids"} <= accepted:
        return False
    try:
        layers = DynamicCache(config=inner.config).layers
    except (AttributeError, KeyError, TypeError, ValueError):  # an architecture that the cache does not know
        return False
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def read(model: Model, tokens: Sequence[int], device: torch.device) -> States | None:
    """Keys and values of one row of tokens, (1, heads, tokens, width) of each layer; None if the model keeps others."""
    ids = torch.tensor([list(tokens)], device=device)
    cache = DynamicCache(config=adapters.inner(model).config)
    keep = {"logits_to_keep": 1} if "logits_to_keep" in adapters.accepted(model) else {}
    model(input_ids=ids, past_key_values=cache, use_cache=True, **keep)
    if any(not layer.is_initialized or layer.get_seq_length() != len(tokens) for layer in cache.layers):
        return None
    return tuple((layer.keys, layer.values) for layer in cache.layers)


def roomy(model: Model, states: States | None, rows: int, length: int) -> Cache:
    """An empty cache for `rows` × `length` tokens, or one that begins with `states` in every row."""
    inner = adapters.inner(model)
    count = len(DynamicCache(config=inner.config).layers)
    # transformers' word for models that take static caches; with ALiBi some take the mask's length for that of the keys
    whole = bool(getattr(inner, "_can_compile_fullgraph", False)) and not getattr(inner.config, "alibi", False)
    return Cache(layers=[Room(states[i] if states else None, rows, length, whole) for i in range(count)])


def rewind(cache: Cache, length: int) -> None:
    """Forget all tokens of every row but the first `length`. What `crop` of transformers takes changed from release to release."""
    for layer in cache.layers:
        layer.show(length)
