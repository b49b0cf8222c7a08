"""Selectors that let a batch stand for the pool: facility location, ProbCover, TypiClust, k-centre on mixed distances.

What a batch covers is measured on an audience: all labelled examples and candidates, or a random sample of them when
there are more than `AUDIENCE`. Memory therefore grows with the candidates, never with candidates × candidates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from guidestar.query.distances import Points, chunks, directions_of_both, finite_points, nearest, quiet_fit, to_each
from guidestar.query.selectors import Positions, random, shuffled_order
from guidestar.records import Array

AUDIENCE = 4096  # examples on which coverage is measured
_SHORTFALL = 0.01  # ε of the stochastic greedy choice


def facility_location(points: Array, labelled_points: Array | None, k: int, rng: np.random.Generator) -> Positions:
    """Greedy choice of the batch that every example finds something similar in: Σ_a max_{s ∈ labelled ∪ batch} sim(a, s).

    sim is (1 + cosine)/2 of centred embeddings. With at most `AUDIENCE` candidates every step looks at all of
    them (1 − 1/e of the best batch's value); above that at a random n/k · ln(1/ε) of them (1 − 1/e − ε on average).
    points: (n, width). labelled_points: (m, width) or None. Returns (min(k, n),) positions in the order of choosing.
    Raises ModelError if an embedding is not finite.
    Source: Nemhauser, Wolsey, Fisher 1978; Wei, Iyer, Bilmes 2015 for active learning; Mirzasoleiman et al. 2015.
    >>> points = np.array([[1.0, 0.0], [1.0, 0.1], [1.0, -0.1], [-3.0, 0.0]])
    >>> sorted(facility_location(points, None, 2, np.random.default_rng(0)).tolist())
    [0, 3]
    """
    order = random(len(points), len(points), rng)
    mine, known = directions_of_both(points[order], labelled_points)
    audience = _audience(known, mine, rng)
    covered = np.zeros(len(audience), dtype=np.float32)
    for part in chunks(len(known), len(audience)):
        np.maximum(covered, _similarity(known[part], audience).max(axis=0), out=covered)
    left = np.arange(len(order))
    n, k = len(order), min(k, len(order))
    seen = n if n <= AUDIENCE else max(1, math.ceil(n / max(k, 1) * math.log(1 / _SHORTFALL)))
    chosen: list[int] = []
    for _ in range(k):
        some = left if seen >= len(left) else np.sort(left[random(len(left), seen, rng)])
        gain = np.empty(len(some))
        for part in chunks(len(some), len(audience)):
            more = np.maximum(_similarity(mine[some[part]], audience) - covered, 0.0)
            gain[part] = more.sum(axis=1, dtype=np.float64)
        here = int(some[int(np.argmax(gain))])
        chosen.append(here)
        left = left[left != here]
        np.maximum(covered, _similarity(mine[[here]], audience)[0], out=covered)
    return order[np.asarray(chosen, dtype=np.intp)]


def prob_cover(
    points: Array, labelled_points: Array | None, k: int, rng: np.random.Generator, clusters: int = 2,
    radius: float | None = None, purity: float = 0.95,
) -> Positions:  # fmt: skip
    """Greedy choice of the balls that cover most: each time the candidate with most uncovered examples within `radius`.

    What lies within `radius` of a labelled example is covered from the start. When nothing uncovered is left, the rest
    of the batch is random.
    points: (n, width), made unit vectors after centring. labelled_points: (m, width) or None. clusters: number of
        classes, for the radius. radius: Euclidean, or None for `pure_radius`.
    Returns (min(k, n),) positions in the order of choosing. Raises ModelError if an embedding is not finite.
    Source: Yehuda, Dekel, Hacohen, Weinshall 2022, algorithm 1.
    >>> points = np.array([[1.0, 0.0], [1.0, 0.1], [-1.0, 0.0], [0.0, 3.0]])
    >>> prob_cover(points, None, 1, np.random.default_rng(0), radius=0.5)[0] in (0, 1)
    True
    """
    order = random(len(points), len(points), rng)
    mine, known = directions_of_both(points[order], labelled_points)
    audience = _audience(known, mine, rng)
    if radius is None:
        radius = pure_radius(audience, clusters, purity, rng)
    reach = radius * radius + 1e-6  # rounding: a point must lie in its own ball
    open_ = np.ones(len(audience), dtype=bool)
    if len(known) and len(audience):
        open_ = nearest(audience, known, 1)[1][:, 0] > reach
    gain = _inside(mine, audience[open_], reach)
    chosen: list[int] = []
    for _ in range(min(k, len(order))):
        here = int(np.argmax(gain))
        chosen.append(here)
        newly = open_ & (to_each(audience, mine[here]) <= reach)
        gain -= _inside(mine, audience[newly], reach)  # each of the audience is subtracted once: two passes in all
        open_ &= ~newly
        gain[here] = -np.inf
    return order[np.asarray(chosen, dtype=np.intp)]


def pure_radius(points: Points, clusters: int, purity: float, rng: np.random.Generator) -> float:
    """The largest radius at which a share `purity` of the balls around points holds one k-means cluster only.

    A ball is pure up to the distance of the nearest point of another cluster, so the radius is a quantile of those.
    points: (n, width). Returns a distance, infinity if there is one cluster alone.
    Source: Yehuda et al. 2022, section 3.3.
    >>> pure_radius(np.array([[0.0], [1.0], [10.0], [11.0]], dtype=np.float32), 2, 1.0, np.random.default_rng(0)) < 9
    True
    """
    of = cluster(points, min(clusters, len(points)), rng) if len(points) else np.empty(0, dtype=np.intp)
    radii = np.full(len(points), np.inf)
    for one in np.unique(of):
        inside, outside = of == one, of != one
        if outside.any():
            radii[inside] = np.sqrt(nearest(points[inside], points[outside], 1)[1][:, 0])
    if not np.isfinite(radii).all():
        return math.inf
    # An open ball: just below the distance of the first example that would be impure.
    return float(np.sort(radii)[min(int((1.0 - purity) * len(radii) + 1e-9), len(radii) - 1)]) * (1.0 - 1e-3)


def typical(
    points: Array, labelled_points: Array | None, k: int, rng: np.random.Generator, neighbours: int = 20,
    most_clusters: int = 500,
) -> Positions:  # fmt: skip
    """The most typical candidate of each of the largest clusters that nothing is labelled in.

    Labelled examples and candidates are put into min(m + k, most_clusters) clusters by k-means. Clusters of more than
    5 are served in turn, those with fewest labelled first, then the largest; the smaller ones only when nothing else is
    left. Typicality is one over the mean distance to the min(`neighbours`, half the cluster) nearest candidates of the
    same cluster (of a random `AUDIENCE` of them in a larger one).
    points: (n, width), made unit vectors after centring. labelled_points: (m, width) or None.
    Returns (min(k, n),) positions in the order of choosing. Raises ModelError if an embedding is not finite.
    Source: Hacohen, Dekel, Weinshall 2022 (TypiClust, TPC_RP), with the constants of their code.
    >>> angles = np.deg2rad([0, 20, 35, 45, 55, 70, 90, 200, 205])
    >>> typical(np.stack([np.cos(angles), np.sin(angles)], axis=1), None, 1, np.random.default_rng(0))
    array([2])
    """
    order = random(len(points), len(points), rng)
    mine, known = directions_of_both(points[order], labelled_points)
    k = min(k, len(order))
    if k == 0:
        return order[:0]
    of = cluster(np.concatenate([known, mine]), min(len(known) + k, most_clusters, len(known) + len(mine)), rng)
    taken, of = np.bincount(of[: len(known)], minlength=of.max() + 1), of[len(known) :]
    sizes = np.bincount(of, minlength=len(taken)) + taken
    served = sorted(np.unique(of).tolist(), key=lambda c: (sizes[c] <= 5, taken[c], -sizes[c], c))
    large = [c for c in served if sizes[c] > 5]
    waiting = {c: np.flatnonzero(of == c) for c in served}
    chosen: list[int] = []
    while len(chosen) < k:
        turn = [c for c in large if len(waiting[c])] or [c for c in served if len(waiting[c])]
        for c in turn[: k - len(chosen)]:
            best = int(waiting[c][int(np.argmax(typicality(mine[waiting[c]], neighbours, rng)))])
            chosen.append(best)
            waiting[c] = waiting[c][waiting[c] != best]
    return order[np.asarray(chosen, dtype=np.intp)]


def typicality(points: Points, neighbours: int, rng: np.random.Generator) -> Array:
    """One over the mean distance to the min(neighbours, n // 2) nearest other points; larger is more typical. (n,).

    >>> typicality(np.array([[0.0], [1.0], [3.0], [4.5]], dtype=np.float32), 1, np.random.default_rng(0)).round(1).tolist()
    [1.0, 1.0, 0.7, 0.7]
    """
    n = len(points)
    some = np.arange(n) if n <= AUDIENCE else random(n, AUDIENCE, rng)
    k = min(neighbours, n // 2)
    if k == 0:
        return np.zeros(n)
    places, apart = nearest(points, points[some], k + 1)
    others = some[places] != np.arange(n)[:, None]
    others[np.flatnonzero(others.all(axis=1)), -1] = False  # not in the sample: the k nearest without the farthest
    return np.asarray(1.0 / (np.sqrt(apart.astype(np.float64))[others].reshape(n, -1).mean(axis=1) + 1e-5))


@dataclass(frozen=True)
class View:
    """One way to measure distances: embeddings of the candidates and of the labelled, and the weight of it."""

    points: Array
    labelled: Array | None
    weight: float


def mixed_k_center(views: Sequence[View], k: int, rng: np.random.Generator, scores: Array | None = None) -> Positions:
    """Greedy k-centre on a weighted sum of distances, d = Σ_v w_v ‖x_v − y_v‖; STAR's mix of base and tuned model.

    views: of the same candidates in the same order, with weights that are not negative. scores: (n,) or None; breaks
    ties, and makes the first choice when nothing is labelled. Distances are Euclidean, not squared.
    Returns (min(k, n),) positions in the order of choosing. Raises ModelError if an embedding is not finite.
    Source: Sener and Savarese 2018, algorithm 1; d = λ d_base + (1 − λ) d_full after STAR's eq. 5.
    >>> base, full = np.array([[0.0], [1.0], [9.0]]), np.array([[0.0], [30.0], [2.0]])
    >>> start = np.zeros((1, 1))
    >>> [int(mixed_k_center([View(base, start, w), View(full, start, 1 - w)], 1, np.random.default_rng(0))[0]) for w in (0.9, 0.1)]
    [2, 1]
    """
    order = shuffled_order(len(views[0].points), scores, rng)
    ordered = [finite_points(view.points)[order] for view in views]
    distance = np.full(len(order), np.inf)
    if views[0].labelled is not None and len(views[0].labelled):
        known = [finite_points(view.labelled) for view in views if view.labelled is not None]
        for part in chunks(len(order), len(known[0])):
            parts = zip(views, ordered, known, strict=True)
            apart = sum(view.weight * _euclidean(mine[part], theirs) for view, mine, theirs in parts)
            distance[part] = np.min(apart, axis=1)
    chosen: list[int] = []
    for _ in range(min(k, len(order))):
        here = int(np.argmax(distance))
        chosen.append(here)
        apart = np.zeros(len(order))
        for view, mine in zip(views, ordered, strict=True):
            apart += view.weight * np.sqrt(to_each(mine, mine[here]))
        np.minimum(distance, apart, out=distance)
        distance[chosen] = -1.0
    return order[np.asarray(chosen, dtype=np.intp)]


# --- helpers ------------------------------------------------------------------------------------


def cluster(points: Points, clusters: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """k-means cluster of every point, (n,). In small batches above 50 clusters, as TypiClust's code does."""
    from sklearn.cluster import KMeans, MiniBatchKMeans

    seed = int(rng.integers(2**31))
    kind = KMeans(clusters, n_init=1, random_state=seed)
    if clusters > 50:
        kind = MiniBatchKMeans(clusters, n_init=1, random_state=seed, batch_size=5000)
    with quiet_fit():
        return np.asarray(kind.fit(points).labels_, dtype=np.intp)


def _audience(known: Points, mine: Points, rng: np.random.Generator) -> Points:
    everyone = np.concatenate([known, mine])
    if len(everyone) <= AUDIENCE:
        return everyone
    return everyone[np.sort(random(len(everyone), AUDIENCE, rng))]


def _similarity(points: Points, audience: Points) -> Points:
    return 0.5 + 0.5 * (points @ audience.T)


def _inside(points: Points, others: Points, reach: float) -> Array:
    """How many others lie within the squared distance `reach` of each of the unit vectors. (n,)."""
    counts = np.zeros(len(points))
    for part in chunks(len(points), len(others)):
        counts[part] = (2.0 - 2.0 * (points[part] @ others.T) <= reach).sum(axis=1)
    return counts


def _euclidean(points: Points, centres: Points) -> Array:
    from sklearn.metrics.pairwise import euclidean_distances

    middle = centres.mean(axis=0)  # far from the origin the expanded square would lose its digits
    return np.asarray(euclidean_distances(points - middle, centres - middle), dtype=np.float64)
