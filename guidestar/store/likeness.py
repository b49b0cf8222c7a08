"""Where the texts of a pool lie by the frozen model's features, kept for who looks for texts alike without a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from guidestar.store.cache import Arrays, Cache


def keep_points(folder: Path, data: str, ids: Sequence[str], points: Callable[[], np.ndarray]) -> None:
    """Keep the points of a pool, once. folder: of the experiment. data: the pool's hash. points: gives (ids, rank)."""

    def make() -> Arrays:
        rows = points()
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        names = np.frombuffer("\n".join(ids).encode(), np.uint8)
        return {"ids": names, "points": (rows / np.maximum(lengths, 1e-12)).astype(np.float16)}

    cache = Cache(folder / "cache")
    if not cache.has("likeness", {"data": data}):
        cache.arrays("likeness", {"data": data}, make)


def kept_points(folder: Path, data: str) -> tuple[list[str], np.ndarray] | None:
    """(ids, (ids, rank) points of length 1, float16) of what was kept; None if nothing was yet."""
    cache = Cache(folder / "cache")
    if not cache.has("likeness", {"data": data}):
        return None
    arrays = cache.arrays("likeness", {"data": data}, dict)
    return arrays["ids"].tobytes().decode().split("\n"), arrays["points"]
