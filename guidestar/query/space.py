"""The space that a frozen model's features span: blocks centred and of unit length, turned to their main directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guidestar.query.distances import Points, chunks, quiet_fit
from guidestar.records import Array

RANK = 256  # main directions kept; on TREC-6 a classifier lost nothing against all 2,304 (LOG.md, 2026-11-30)
SAMPLE = 4096  # features that the directions are found from


@dataclass(frozen=True)
class Space:
    """Centres of the blocks, (blocks, width), and the directions kept, (blocks × width, rank)."""

    centres: Points
    directions: Points

    def points(self, features: NDArray[np.floating[Any]]) -> Points:
        """Where some texts lie, (n, blocks, width) -> (n, rank) float32."""
        made = np.empty((len(features), self.directions.shape[1]), dtype=np.float32)
        for part in chunks(len(features), len(self.directions)):
            made[part] = _blocks(features[part], self.centres) @ self.directions
        return made

    def views(self, points: Points) -> Points:
        """Each block's part of some points, (n, rank) -> (blocks, n, width)."""
        blocks, width = self.centres.shape
        return points @ self.directions.reshape(blocks, width, -1).transpose(0, 2, 1)

    def weighing(self, weights: Array) -> Points:
        """What points are multiplied by, (rank, rank), so that they lie as if each block's squared distances counted so much."""
        width = self.centres.shape[1]
        rows = np.repeat(np.sqrt(weights), width)[:, None] * self.directions.astype(np.float64)
        lengths, axes = np.linalg.eigh(rows.T @ rows)
        return np.asarray(axes * np.sqrt(np.maximum(lengths, 0.0)), dtype=np.float32)


def space_of(features: NDArray[np.floating[Any]], rng: np.random.Generator, rank: int = RANK) -> Space:
    """The space of a pool: every block centred and each text's part of it of unit length, so that no block and no long
    vector counts for more; then the `rank` directions that hold most of the squared length.

    features: (n, blocks, width), n ≥ 1; the directions are found from a random 4,096 of them.
    >>> space = space_of(np.array([[[3.0, 0.0]], [[-1.0, 0.0]], [[1.0, 6.0]]]), np.random.default_rng(0))
    >>> abs(space.points(np.array([[[9.0, 2.0]]]))).round(2).tolist()
    [[0.0, 1.0]]
    """
    from sklearn.utils.extmath import randomized_svd

    n = len(features)
    some = features if n <= SAMPLE else features[np.sort(rng.choice(n, SAMPLE, replace=False))]
    centres = np.asarray(some, dtype=np.float32).mean(axis=0)
    blocks = _blocks(some, centres)
    kept, seed = min(rank, *blocks.shape), int(rng.integers(2**31))
    with quiet_fit():
        rows = randomized_svd(blocks, kept, n_iter=3, random_state=seed)[2]
    return Space(centres, np.ascontiguousarray(rows.T, dtype=np.float32))


def _blocks(features: Array, centres: Points) -> Points:
    """Centred blocks of unit length side by side, (n, blocks × width)."""
    moved = np.asarray(features, dtype=np.float32) - centres
    lengths = np.linalg.norm(moved, axis=2, keepdims=True)
    return np.asarray(moved / np.where(lengths > 0, lengths, 1.0), dtype=np.float32).reshape(len(moved), -1)
