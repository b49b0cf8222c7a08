"""Another precision for scoring than for training: `model.score_dtype`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from typing import cast

import torch

from guidestar.errors import ConfigError
from guidestar.model.load import BaseModel


def precision(base: BaseModel, dtype: str | None) -> torch.dtype:
    """The precision that a configuration names; None is the base's own."""
    return base.dtype if dtype is None else cast(torch.dtype, getattr(torch, dtype))


@contextmanager
def computing_in(base: BaseModel, dtype: str | None) -> Iterator[BaseModel]:
    """The bare base model in another precision while the block lasts; an adapter that is loaded inside it takes that
    precision too, from its float32 file.

    dtype: "float32", say, or None for the base's own. The base's own bits are put back afterwards: they stay in memory
    meanwhile.
    Raises ConfigError for a quantised model, whose weights have no other precision.
    """
    wanted = precision(base, dtype)
    if wanted == base.dtype:
        yield base
        return
    if getattr(base.model, "is_quantized", False):
        raise ConfigError(f"model.score_dtype is {dtype}, but the model is quantised; allowed: leave it out")
    before = [(t, t.data) for t in chain(base.model.parameters(), base.model.buffers()) if t.dtype == base.dtype]
    try:
        for tensor, bits in before:
            tensor.data = bits.to(wanted)
        yield replace(base, dtype=wanted)
    finally:
        for tensor, bits in before:
            tensor.data = bits
