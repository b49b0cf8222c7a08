"""Herding: a greedy batch that covers the pool, each example counted by how much the model doubts it.

The objective is Σ_x u(x) max_{s ∈ labelled ∪ batch} K(x, s) with K(x, s) = exp(−‖x − s‖²/(2σ²)) on unit vectors. It is
measured on a random audience of at most `AUDIENCE` candidates, and a pool above `CANDIDATES` is chosen from by a random
part of it; neither grows with the pool, so that a million texts cost no more than their arrays. Temporary arrays grow
with the candidates, never with candidates × candidates.
"""

from __future__ import annotations

import math

import numpy as np

from guidestar.errors import ModelError
from guidestar.query.distances import Points, chunks, finite_points
from guidestar.query.selectors import Positions, random
from guidestar.records import Array

RADIUS = 0.7  # of the kernel, in median distances; 0.3 to 1.0 differ little (LOG.md, 2026-11-30)
# Examples on which coverage is measured; on half of a pool a batch loses 4 to 7 % of its gain (LOG.md, 2026-11-30).
AUDIENCE = 4096
CANDIDATES = 16_384  # of a larger pool, so many are looked at
_AT_ONCE = 64  # gains computed at one time when the best are looked at again


def herding(
    points: Array, labelled_points: Array | None, k: int, rng: np.random.Generator, weights: Array | None = None,
    radius: float = RADIUS,
) -> Positions:  # fmt: skip
    """Greedy choice of the batch that covers most: each time the candidate whose kernel adds most to the coverage.

    points: (n, width), centred by whoever made them; they are made unit vectors here. labelled_points: (m, width) or None.
    weights: (n,) u(x), not negative, or None for 1 each. radius: σ as a share of the median distance of two candidates.
    Gains can only fall as the batch grows, so those that were small before are computed again only when they could
    still win. Where every weight is 0 the choice is random.
    Returns (min(k, n),) positions in the order of choosing. Raises ModelError if a number is not finite or a weight
    negative.
    Source: Bae, Noh, Sutherland 2024 (MaxHerding, arXiv 2407.12212); with weights Bae, Oliveira, Sutherland 2025
    (Uncertainty Herding, arXiv 2412.20644). The bound is Minoux's 1978 (lazy greedy).
    >>> points = np.array([[1.0, 0.0], [1.0, 0.1], [1.0, -0.1], [-1.0, 0.0]])
    >>> herding(points, None, 2, np.random.default_rng(0)).tolist()
    [0, 3]
    """
    order = random(len(points), len(points), rng)
    if not len(order) or k <= 0:
        return order[:0]
    order = order[: max(CANDIDATES, k)]  # the order is random, so a first part of it is a sample
    doubt = _checked(weights, len(points))[order]
    mine = unit(finite_points(np.asarray(points)[order]))
    known = mine[:0] if labelled_points is None else unit(finite_points(labelled_points)).reshape(-1, mine.shape[1])
    audience, u = mine[:AUDIENCE], doubt[:AUDIENCE]
    scale = kernel_scale(audience, radius)
    covered = np.zeros(len(audience), dtype=np.float32)
    for part in chunks(len(known), len(audience)):
        np.maximum(covered, kernel(known[part], audience, scale).max(axis=0), out=covered)
    return order[_greedy(mine, audience, u, covered, scale, min(k, len(order)))]


def _greedy(mine: Points, audience: Points, u: Points, covered: Points, scale: float, k: int) -> Positions:
    """Lazy greedy choice of k rows of `mine`; `covered` is max_s K(x, s) over what is labelled and changed here."""

    def gains(rows: Positions) -> Points:
        gain = kernel(mine[rows], audience, scale)
        gain -= covered
        return np.maximum(gain, 0.0, out=gain) @ u

    bound = np.empty(len(mine), dtype=np.float32)
    for part in chunks(len(mine), len(audience)):
        bound[part] = gains(np.arange(part.start, part.stop))
    chosen: list[int] = []
    current = np.ones(len(mine), dtype=bool)  # whether a bound is the gain itself
    while len(chosen) < k:
        here = int(np.argmax(bound))
        if current[here]:
            chosen.append(here)
            np.maximum(covered, kernel(mine[[here]], audience, scale)[0], out=covered)
            bound[here], current[:] = -math.inf, False
            continue
        best = np.argpartition(-bound, min(_AT_ONCE, len(bound) - 1))[:_AT_ONCE]
        if here not in best:  # more than that are equal, and looking at the same ones again would never end
            best[0] = here
        stale = best[~current[best] & np.isfinite(bound[best])]
        bound[stale], current[stale] = np.minimum(gains(stale), bound[stale]), True
    return np.asarray(chosen, dtype=np.intp)


def unit(points: Points) -> Points:
    """Unit vectors along the points; a point at 0 stays there. (n, width) -> (n, width)."""
    lengths = np.sqrt(np.einsum("ij,ij->i", points, points))
    return np.asarray(points / np.where(lengths > 0, lengths, 1.0)[:, None], dtype=np.float32)


def kernel(points: Points, others: Points, scale: float) -> Points:
    """exp(−‖x − s‖²/(2σ²)) of unit vectors, ‖x − s‖² = 2 − 2 x·s. scale: 1/σ². (n, width), (m, width) -> (n, m)."""
    similar: Points = points @ others.T
    similar -= 1.0
    similar *= scale
    return np.exp(np.minimum(similar, 0.0, out=similar), out=similar)


def kernel_scale(points: Points, radius: float) -> float:
    """1/σ² where σ is `radius` times the median distance between the points, of at most 1,024 of them."""
    some = points[:1024]
    apart = 2.0 - 2.0 * (some @ some.T)[np.triu_indices(len(some), 1)]
    middle = float(np.median(np.maximum(apart, 0.0))) if len(apart) else 0.0
    return 1.0 / (radius * radius * (middle or 1.0))


def _checked(weights: Array | None, n: int) -> Points:
    checked: Points = np.ones(n, dtype=np.float32) if weights is None else np.asarray(weights, dtype=np.float32)
    if len(checked) != n or not np.isfinite(checked).all() or (checked < 0).any():
        raise ModelError(f"herding needs {n} weights that are finite and not negative, found {checked.shape}")
    return checked
