"""Small parts of a large pool that are worth scoring, found by similarity to the labelled: for rare classes.

Scoring a pool costs a pass of the model over all of it, every round. These functions look at the base model's
embeddings alone, which are computed once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from guidestar.errors import ConfigError, allowed
from guidestar.query.distances import Points, chunks, directions_of_both
from guidestar.query.selectors import Positions
from guidestar.records import Array


def anchor_pool(
    points: Array, labelled_points: Array, labelled_classes: Sequence[str], size: int, rng: np.random.Generator,
    anchors: int = 10, neighbours: int = 50,
) -> Positions:  # fmt: skip
    """The candidates most similar to anchors of every class, the rare ones with as many anchors as the common.

    `anchors` labelled examples of each class are drawn by k-means++; each brings its `neighbours` most similar
    candidates; of those, the `size` with the highest mean similarity to the anchors that brought them are kept.
    Candidates at random fill up what is missing.
    points: (n, width). labelled_points: (m, width). labelled_classes: the m labels. Similarity is the cosine of centred
    embeddings. Returns (min(size, n),) positions, rising. Raises ModelError if an embedding is not finite.
    Source: Lesci and Vlachos 2024 (AnchorAL).
    >>> points = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.0]])
    >>> anchor_pool(points, np.array([[0.0, 2.0]]), ["rare"], 1, np.random.default_rng(0), neighbours=1)
    array([2])
    """
    unit, known = directions_of_both(points, labelled_points)
    chosen: list[int] = []
    for name in sorted(set(labelled_classes)):
        mine = np.flatnonzero([one == name for one in labelled_classes])
        chosen += mine[spread(known[mine], anchors, rng)].tolist()
    total, count = np.zeros(len(unit)), np.zeros(len(unit))
    for anchor in chosen:
        near = unit @ known[anchor]
        close = _highest(near, neighbours)
        total[close] += near[close]
        count[close] += 1
    mean = np.where(count > 0, total / np.maximum(count, 1), -np.inf)
    return _filled(mean, size, rng)


def neighbour_pool(
    points: Array, labelled_points: Array, size: int, rng: np.random.Generator, neighbours: int = 100
) -> Positions:
    """The union of the nearest candidates of every labelled example.

    Each labelled example brings its `neighbours` most similar candidates. Above `size` of them, the ones most similar
    to any labelled example are kept; below it, candidates at random fill up.
    points: (n, width). labelled_points: (m, width). Similarity as in `anchor_pool`.
    Returns (min(size, n),) positions, rising. Raises ModelError if an embedding is not finite.
    Source: Coleman, Chou, Katz-Samuels, Culatana, Bailis, Berg, Nowak, Sumbaly, Zaharia, Yalniz 2022 (SEALS).
    >>> points = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    >>> neighbour_pool(points, np.array([[0.0, 3.0]]), 1, np.random.default_rng(0), neighbours=1)
    array([1])
    """
    unit, known = directions_of_both(points, labelled_points)
    best = np.full(len(unit), -np.inf)
    for part in chunks(len(known), len(unit)):
        near = known[part] @ unit.T
        for row in near:
            close = _highest(row, neighbours)
            np.maximum.at(best, close, row[close])
    return _filled(best, size, rng)


SUBPOOLS: dict[str, str] = {
    "anchors": "candidates most like anchors of every class (AnchorAL)",
    "neighbours": "nearest neighbours of the labelled (SEALS)",
}


def subpool(
    name: str, points: Array, labelled_points: Array, labelled_classes: Sequence[str], size: int,
    rng: np.random.Generator,
) -> Positions:  # fmt: skip
    """The part of the candidates that a name of `SUBPOOLS` stands for; arguments as for its function.

    Raises ConfigError for an unknown name.
    >>> points = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    >>> subpool("anchors", points, points[:1], ["a"], 1, np.random.default_rng(0))
    array([0])
    """
    if name not in SUBPOOLS:
        raise ConfigError(f"subpool {name!r} is unknown; {allowed(SUBPOOLS, name)}")
    if name == "anchors":
        return anchor_pool(points, labelled_points, labelled_classes, size, rng)
    return neighbour_pool(points, labelled_points, size, rng)


def spread(points: Points, k: int, rng: np.random.Generator) -> Positions:
    """k-means++ seeding: min(k, n) positions, the first at random, each further one by its squared distance.

    Source: Arthur and Vassilvitskii 2007.
    >>> sorted(spread(np.array([[0.0], [0.0], [9.0]], dtype=np.float32), 2, np.random.default_rng(0)).tolist())[-1]
    2
    """
    from sklearn.cluster import kmeans_plusplus

    k = min(k, len(points))
    if k == 0:
        return np.empty(0, dtype=np.intp)
    _, chosen = kmeans_plusplus(points.astype(np.float64), k, random_state=int(rng.integers(2**31)), n_local_trials=1)
    distinct = list(dict.fromkeys(chosen.tolist()))  # copies may be drawn twice
    return np.asarray(distinct, dtype=np.intp)


def _highest(values: Array, k: int) -> NDArray[np.intp]:
    """Positions of the k highest values, in no order."""
    return np.arange(len(values)) if k >= len(values) else np.argpartition(-values, k)[:k]


def _filled(scores: Array, size: int, rng: np.random.Generator) -> Positions:
    """The `size` highest scores, rising; −inf are those that nobody asked for, and come in by chance."""
    order = np.lexsort((rng.random(len(scores)), -scores))
    return np.sort(order[:size])
