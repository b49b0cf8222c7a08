"""Selectors and filters: pure functions from scores or points to positions, best first, no repeats.

Everywhere: k larger than the pool returns every position, k = 0 none. Ties are broken by `rng`, never by
position. Points are (n, width) embeddings. More of them: `batches`, `coverage`; the table of all: `table`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from guidestar.errors import ModelError
from guidestar.query.distances import chunks, directions, finite_points, nearest, quiet_fit, to_each
from guidestar.records import Array
from guidestar.rng import generator

Positions = NDArray[np.intp]

_BLOCK = 256  # rows compared at once for near-duplicates
ALL_PAIRS = 16_384  # points up to which each is compared with all others
_TABLES, _BITS, _RECALL = 24, (12, 26), 0.99  # of the hashes for more of them


def top(scores: Array, k: int, rng: np.random.Generator) -> Positions:
    """The k highest scores, highest first.

    scores: (n,). Returns (min(k, n),) positions.
    Raises ModelError if a score is not finite.
    >>> top(np.array([0.1, 0.9, 0.5]), 2, np.random.default_rng(0))
    array([1, 2])
    """
    scores = finite_scores(scores)
    return np.lexsort((rng.random(len(scores)), -scores))[:k]


def finite_scores(scores: Array) -> Array:
    """The scores in float64. Raises ModelError if one is not finite."""
    scores = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(scores).all():
        raise ModelError(f"score at position {int(np.argmin(np.isfinite(scores)))} is not finite")
    return scores


def random(n: int, k: int, rng: np.random.Generator) -> Positions:
    """k of n positions, uniformly and without replacement, in random order.

    >>> sorted(random(3, 5, np.random.default_rng(0)).tolist())
    [0, 1, 2]
    """
    return rng.permutation(n)[:k].astype(np.intp)


def k_center(
    points: Array, labelled_points: Array | None, k: int, rng: np.random.Generator, scores: Array | None = None
) -> Positions:
    """Greedy k-centre: again and again the point farthest from everything labelled or chosen so far.

    points: (n, width). labelled_points: (m, width) or None; with none, the first choice is the highest score,
        or random. scores: (n,) or None; breaks ties of distance.
    Returns (min(k, n),) positions in the order of choosing.
    Raises ModelError if an embedding is not finite.
    Source: Sener and Savarese 2018, algorithm 1.
    >>> line = np.array([[0.0], [1.0], [4.0], [10.0]])
    >>> k_center(line, np.array([[0.0]]), 2, np.random.default_rng(0))
    array([3, 2])
    """
    order = shuffled_order(len(points), scores, rng)  # the first of equals is then the best of equals
    ordered = finite_points(points)[order]
    chosen: list[int] = []
    if labelled_points is not None and len(labelled_points):
        distance = nearest(ordered, finite_points(labelled_points), 1)[1][:, 0]
    else:
        distance = np.full(len(ordered), np.inf, dtype=np.float32)
    for _ in range(min(k, len(ordered))):
        here = int(np.argmax(distance))
        chosen.append(here)
        np.minimum(distance, to_each(ordered, ordered[here]), out=distance)
        distance[here] = -1.0  # never again, even where all that is left are copies
    return order[np.asarray(chosen, dtype=np.intp)]


def k_means(points: Array, k: int, rng: np.random.Generator, weights: Array | None = None) -> Positions:
    """The point nearest to each of k centroids; clusters that come out empty are filled up by weight.

    points: (n, width). weights: (n,) not negative, or None for equal weights.
    Returns (min(k, n),) positions, heaviest first.
    Raises ModelError if an embedding is not finite or a weight is negative.
    Source: Lloyd 1982, k-means++ start of Arthur and Vassilvitskii 2007.
    >>> sorted(k_means(np.array([[0.0], [0.1], [0.2], [9.0]]), 2, np.random.default_rng(0)).tolist())
    [1, 3]
    """
    from sklearn.cluster import KMeans

    order = shuffled_order(len(points), weights, rng)
    ordered = finite_points(points)[order]
    seed = int(rng.integers(2**31))
    k = min(k, len(ordered))
    if k == 0:
        return order[:0]
    heavy = None if weights is None else np.asarray(weights, dtype=np.float64)[order]
    if heavy is not None and (heavy < 0).any():
        raise ModelError(f"k-means weights must not be negative, found {heavy.min()}")
    if heavy is not None and not heavy.any():
        heavy = None  # k-means cannot weigh by zeros alone
    with quiet_fit():
        fitted = KMeans(k, n_init=1, random_state=seed).fit(ordered, sample_weight=heavy)
    distance = ((ordered - fitted.cluster_centers_[fitted.labels_]) ** 2).sum(axis=1)
    close = np.lexsort((distance, fitted.labels_))  # stable: the heavier of equals comes first
    clusters, first = np.unique(fitted.labels_[close], return_index=True)
    chosen = np.sort(close[first])
    spare = np.setdiff1d(np.arange(len(ordered)), chosen)[: k - len(clusters)]
    return order[np.concatenate([chosen, spare])]


def drop_near_duplicates(
    points: Array, order: Sequence[int] | Positions, threshold: float, k_needed: int, enough: int | None = None
) -> Positions:
    """Walk along `order` and leave out points whose cosine with one already kept is `threshold` or more.

    The cosine is taken after the mean of the points in `order` is subtracted: the hidden states of a language
    model share one large direction, which makes different texts look alike.
    points: (n, width). order: positions, best first. k_needed: if fewer are distinct, the best of those left
    out are appended until there are this many, so that a batch is never short. enough: stop looking after
    this many distinct points. Returns positions in order.
    Above `ALL_PAIRS` points, where that many may be kept, a point is compared with those alone that share one of 24 hashes
    with it (`Near`): the cost then grows with the points and not with their square, copies are always found, and of the
    points at just the threshold one in a hundred may be missed. Below a threshold of about 0.92 all are compared.
    Raises ModelError if an embedding is not finite.
    >>> points = np.array([[1.0, 0.0], [1.0, 0.01], [0.0, 1.0]])  # the second is nearly the first
    >>> drop_near_duplicates(points, [0, 1, 2], 0.98, k_needed=2)
    array([0, 2])
    """
    order = np.asarray(order, dtype=np.intp)
    enough = len(order) if enough is None else max(enough, k_needed)
    unit = directions(finite_points(points)[order])
    limit = np.float32(threshold - 1e-6)  # rounding: a copy has a cosine of 1 within 1e-6
    kept: list[int] = []
    left_out: list[int] = []
    distinct = np.empty_like(unit)
    near = Near.of(unit, threshold) if min(len(order), enough) > ALL_PAIRS else None
    for start in range(0, len(order), _BLOCK):
        block = unit[start : start + _BLOCK]
        if near is None:
            similar = np.any(block @ distinct[: len(kept)].T >= limit, axis=1)
        else:
            hits = [np.any(distinct[near.kept_at(start + i)] @ one >= limit) for i, one in enumerate(block)]
            similar = np.array(hits)
        within = block @ block.T >= limit
        for i in range(len(block)):
            if similar[i]:
                left_out.append(start + i)
            elif len(kept) < enough:
                distinct[len(kept)] = block[i]
                if near is not None:
                    near.keep(start + i, len(kept))
                kept.append(start + i)
                similar |= within[i]
        if len(kept) >= enough:
            break
    return order[np.asarray(kept + left_out[: max(0, k_needed - len(kept))], dtype=np.intp)]


@dataclass(frozen=True)
class Near:
    """Which of the points kept so far may lie near a point: those on the same side of as many random planes through the
    origin, in one of several draws of planes.

    keys: (tables, n), -1 for a point that shares its hash with no other. Source: Charikar 2002 (SimHash).
    """

    keys: NDArray[np.int32]
    buckets: tuple[dict[int, list[int]], ...]

    @classmethod
    def of(cls, unit: Array, threshold: float) -> Near | None:
        """For unit vectors, with as many planes as find two points whose cosine is `threshold` with probability 0.99; None
        where these are so few that most points would share a hash."""
        one = 1.0 - math.acos(min(threshold, 1.0)) / math.pi  # that a plane leaves both on one side
        least, most = _BITS
        share = 1.0 - (1.0 - _RECALL) ** (1.0 / _TABLES)
        bits = most if one >= 1.0 else min(most, int(math.log(share) / math.log(one)))
        if bits < least:
            return None
        rng, powers = generator(0, 0, "near-duplicates"), 1 << np.arange(bits, dtype=np.int32)
        keys = np.empty((_TABLES, len(unit)), dtype=np.int32)
        for table in keys:
            planes = rng.standard_normal((unit.shape[1], bits), dtype=np.float32)
            for part in chunks(len(unit), bits):
                table[part] = (unit[part] @ planes > 0) @ powers
            _, place, count = np.unique(table, return_inverse=True, return_counts=True)
            table[count[place] == 1] = -1
        return cls(keys, tuple({} for _ in keys))

    def kept_at(self, i: int) -> list[int]:
        """What was kept under a hash of point i."""
        keys = zip(self.buckets, self.keys[:, i].tolist(), strict=True)
        return list({place for bucket, key in keys if key >= 0 for place in bucket.get(key, ())})

    def keep(self, i: int, place: int) -> None:
        """Point i is kept, at a place among the kept."""
        for bucket, key in zip(self.buckets, self.keys[:, i].tolist(), strict=True):
            if key >= 0:
                bucket.setdefault(key, []).append(place)


def clip_outliers(scores: Array, share: float, at_least: int = 1) -> Positions:
    """All positions but the `share` of highest scores; equal scores stay or go together, and rather stay.

    scores: (n,). share: in [0, 1), rounded down to a count. at_least: keep this many whatever the share.
    Returns positions, rising.
    >>> clip_outliers(np.array([1.0, 9.0, 2.0, 3.0]), 0.25)
    array([0, 2, 3])
    """
    n = len(scores)
    drop = min(int(share * n + 1e-9), n - at_least)
    if drop <= 0:
        return np.arange(n)
    return np.flatnonzero(scores <= np.sort(scores)[n - drop - 1])


def balance(
    predicted_classes: Positions, order: Sequence[int] | Positions, labelled_counts: Sequence[int] | Positions, k: int
) -> Positions:
    """k of the positions in `order`: each time the best of the class with the fewest examples so far.

    predicted_classes: (n,) class indices. order: positions, best first. labelled_counts: (classes,) labels so
    far; each choice counts for its predicted class. Equal classes: the one whose best comes first in `order`.
    Returns (min(k, len(order)),) positions.
    >>> balance(np.array([0, 0, 0, 1]), [0, 1, 2, 3], [5, 4], 2)
    array([3, 0])
    """
    counts = np.array(labelled_counts, dtype=np.int64)
    waiting: dict[int, list[int]] = {}  # class -> places in `order`, best last
    for place in reversed(range(len(order))):
        waiting.setdefault(int(predicted_classes[order[place]]), []).append(place)
    chosen: list[int] = []
    while waiting and len(chosen) < k:
        rarest = min(waiting, key=lambda c: (counts[c], waiting[c][-1]))
        chosen.append(waiting[rarest].pop())
        counts[rarest] += 1
        if not waiting[rarest]:
            del waiting[rarest]
    return np.asarray(order, dtype=np.intp)[np.asarray(chosen, dtype=np.intp)]


def shuffled_order(n: int, scores: Array | None, rng: np.random.Generator) -> Positions:
    """All positions, best first where there are scores; equals, or all without scores, in random order."""
    return random(n, n, rng) if scores is None else top(scores, n, rng)
