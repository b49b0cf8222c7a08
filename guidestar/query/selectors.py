"""Selectors and filters: pure functions from scores or points to positions, best first, no repeats.

Everywhere: k larger than the pool returns every position, k = 0 none. Ties are broken by `rng`, never by
position. Points are (n, width) embeddings; distances are computed in float32 and in chunks, so that
memory grows with n but never with n × n.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from guidestar.errors import ModelError
from guidestar.records import Array

Positions = NDArray[np.intp]
Points = NDArray[np.float32]

_CHUNK = 1 << 22  # numbers in the largest temporary array, 16 MiB in float32
_BLOCK = 256  # rows compared at once for near-duplicates


def top(scores: Array, k: int, rng: np.random.Generator) -> Positions:
    """The k highest scores, highest first.

    scores: (n,). Returns (min(k, n),) positions.
    Raises ModelError if a score is not finite.
    >>> top(np.array([0.1, 0.9, 0.5]), 2, np.random.default_rng(0))
    array([1, 2])
    """
    scores = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(scores).all():
        raise ModelError(f"score at position {int(np.argmin(np.isfinite(scores)))} is not finite")
    return np.lexsort((rng.random(len(scores)), -scores))[:k]


def random(n: int, k: int, rng: np.random.Generator) -> Positions:
    """k of n positions, uniformly and without replacement, in random order.

    >>> sorted(random(3, 5, np.random.default_rng(0)).tolist())
    [0, 1, 2]
    """
    return rng.permutation(n)[:k].astype(np.intp)


def k_center(
    points: Array,
    labelled_points: Array | None,
    k: int,
    rng: np.random.Generator,
    scores: Array | None = None,
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
    order = _order(len(points), scores, rng)  # the first of equals is then the best of equals
    ordered = _points(points)[order]
    chosen: list[int] = []
    if labelled_points is not None and len(labelled_points):
        distance = _to_nearest(ordered, _points(labelled_points))
    else:
        distance = np.full(len(ordered), np.inf, dtype=np.float32)
    for _ in range(min(k, len(ordered))):
        here = int(np.argmax(distance))
        chosen.append(here)
        np.minimum(distance, _to_each(ordered, ordered[here]), out=distance)
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
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    order = _order(len(points), weights, rng)
    ordered = _points(points)[order]
    seed = int(rng.integers(2**31))
    k = min(k, len(ordered))
    if k == 0:
        return order[:0]
    heavy = None if weights is None else np.asarray(weights, dtype=np.float64)[order]
    if heavy is not None and (heavy < 0).any():
        raise ModelError(f"k-means weights must not be negative, found {heavy.min()}")
    if heavy is not None and not heavy.any():
        heavy = None  # k-means cannot weigh by zeros alone
    with warnings.catch_warnings(), threadpool_limits(limits=1):  # threads would sum in a changing order
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points than clusters
        fitted = KMeans(k, n_init=1, random_state=seed).fit(ordered, sample_weight=heavy)
    distance = ((ordered - fitted.cluster_centers_[fitted.labels_]) ** 2).sum(axis=1)
    nearest = np.lexsort((distance, fitted.labels_))  # stable: the heavier of equals comes first
    clusters, first = np.unique(fitted.labels_[nearest], return_index=True)
    chosen = np.sort(nearest[first])
    spare = np.setdiff1d(np.arange(len(ordered)), chosen)[: k - len(clusters)]
    return order[np.concatenate([chosen, spare])]


def drop_near_duplicates(
    points: Array,
    order: Sequence[int] | Positions,
    threshold: float,
    k_needed: int,
    enough: int | None = None,
) -> Positions:
    """Walk along `order` and leave out points whose cosine with one already kept is `threshold` or more.

    The cosine is taken after the mean of the points in `order` is subtracted: the hidden states of a language
    model share one large direction, which makes different texts look alike.
    points: (n, width). order: positions, best first. k_needed: if fewer are distinct, the best of those left
    out are appended until there are this many, so that a batch is never short. enough: stop looking after
    this many distinct points. Returns positions in order.
    Raises ModelError if an embedding is not finite.
    >>> points = np.array([[1.0, 0.0], [1.0, 0.01], [0.0, 1.0]])  # the second is nearly the first
    >>> drop_near_duplicates(points, [0, 1, 2], 0.98, k_needed=2)
    array([0, 2])
    """
    order = np.asarray(order, dtype=np.intp)
    enough = len(order) if enough is None else max(enough, k_needed)
    directions = _directions(_points(points)[order])
    limit = np.float32(threshold - 1e-6)  # rounding: a copy has a cosine of 1 within 1e-6
    kept: list[int] = []
    left_out: list[int] = []
    distinct = np.empty_like(directions)
    for start in range(0, len(order), _BLOCK):
        block = directions[start : start + _BLOCK]
        similar = np.any(block @ distinct[: len(kept)].T >= limit, axis=1)
        within = block @ block.T >= limit
        for i in range(len(block)):
            if similar[i]:
                left_out.append(start + i)
            elif len(kept) < enough:
                distinct[len(kept)] = block[i]
                kept.append(start + i)
                similar |= within[i]
        if len(kept) >= enough:
            break
    return order[np.asarray(kept + left_out[: max(0, k_needed - len(kept))], dtype=np.intp)]


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
    predicted_classes: NDArray[np.intp],
    order: Sequence[int] | Positions,
    labelled_counts: Sequence[int] | NDArray[np.intp],
    k: int,
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


def _order(n: int, scores: Array | None, rng: np.random.Generator) -> Positions:
    return random(n, n, rng) if scores is None else top(scores, n, rng)


def _points(points: Array) -> Points:
    found: Points = np.asarray(points, dtype=np.float32)
    if found.ndim != 2:
        raise ModelError(f"embeddings have shape {found.shape}, expected (examples, width)")
    finite = np.isfinite(found).all(axis=1)
    if not finite.all():
        raise ModelError(f"embedding at position {int(np.argmin(finite))} is not finite")
    return found


def _directions(points: Points) -> Points:
    """Unit vectors along the centred points. (n, width) -> (n, width + 1).

    One more coordinate, the same for all and a thousandth of a typical length, gives points that lie on the
    mean a common direction, where rounding would give each its own.
    """
    if not len(points):
        return points
    middle = points.mean(axis=0, dtype=np.float64)
    typical = float(np.sqrt((points.astype(np.float64) ** 2).sum(axis=1).mean()))
    anchor = np.full((len(points), 1), 1e-3 * typical or 1.0)
    moved = np.hstack([points - middle, anchor])
    return (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)


def _to_each(points: Points, centre: Points) -> Points:
    """Squared distance of every point to one centre; exact 0 for copies. (n, width), (width,) -> (n,)."""
    rows = max(1, _CHUNK // max(1, points.shape[1]))
    found = np.empty(len(points), dtype=np.float32)
    for i in range(0, len(points), rows):
        found[i : i + rows] = ((points[i : i + rows] - centre) ** 2).sum(axis=1)
    return found


def _to_nearest(points: Points, centres: Points) -> Points:
    """Squared distance of every point to its nearest centre. (n, width), (m, width) -> (n,).

    The nearest is found by ‖c‖² − 2 x·c, which is fast; its distance is then taken literally, because the
    expanded square loses digits where points lie close together.
    """
    middle = centres.mean(axis=0)
    moved = centres - middle
    norms = (moved**2).sum(axis=1)
    rows = max(1, _CHUNK // max(len(centres), points.shape[1]))
    found = np.empty(len(points), dtype=np.float32)
    for i in range(0, len(points), rows):
        chunk = points[i : i + rows]
        nearest = np.argmin(norms - 2.0 * ((chunk - middle) @ moved.T), axis=1)
        found[i : i + rows] = ((chunk - centres[nearest]) ** 2).sum(axis=1)
    return found
