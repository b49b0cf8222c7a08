"""Facility location, ProbCover, TypiClust and k-centre on mixed distances; sub-pools; all in chunks."""

from __future__ import annotations

import tracemalloc

import literal_selectors as literal
import numpy as np
import pytest

from guidestar.query import coverage, distances, subpool
from guidestar.query.coverage import View, facility_location, mixed_k_center, prob_cover, pure_radius, typical
from guidestar.query.selectors import k_center
from guidestar.query.subpool import anchor_pool, neighbour_pool


def rng(seed=0):
    return np.random.default_rng(seed)


class Fixed:
    """A generator whose permutation is the identity."""

    def permutation(self, n):
        return np.arange(n)

    def random(self, n):
        return np.linspace(0, 1, n)


def points_of(seed, n=40, width=5, labelled=4):
    """Points in the shape of float32 states, and a few labelled ones."""
    g = rng(seed)
    return g.normal(size=(n, width)).astype(np.float32), g.normal(size=(labelled, width)).astype(np.float32)


# --- beside the literal versions ----------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_facility_location_equals_its_literal_version(seed, monkeypatch):
    monkeypatch.setattr(distances, "CHUNK", 100)
    points, labelled = points_of(seed)
    found = facility_location(points, labelled, 8, Fixed())
    assert found.tolist() == literal.facility_location(points.astype(float), labelled.astype(float), 8)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("radius", [0.4, 0.8])
def test_prob_cover_equals_its_literal_version(seed, radius, monkeypatch):
    monkeypatch.setattr(distances, "CHUNK", 100)
    points, labelled = points_of(seed, width=3)
    found = prob_cover(points, labelled, 8, Fixed(), radius=radius)
    assert found.tolist() == literal.prob_cover(points.astype(float), labelled.astype(float), 8, radius)


@pytest.mark.parametrize("seed", range(4))
def test_typicality_equals_its_literal_version(seed):
    points, _ = points_of(seed, n=25)
    for neighbours in (1, 5, 20):
        found = coverage.typicality(points, neighbours, rng())
        np.testing.assert_allclose(found, literal.typicality(points.astype(float), neighbours), rtol=1e-4)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_k_center_on_mixed_distances_equals_its_literal_version(seed, weight, monkeypatch):
    monkeypatch.setattr(distances, "CHUNK", 64)
    (base, base_known), (full, full_known) = points_of(seed), points_of(seed + 50, width=3)
    found = mixed_k_center([View(base, base_known, weight), View(full, full_known, 1 - weight)], 10, Fixed())
    views = [
        (base.astype(float), base_known.astype(float), weight),
        (full.astype(float), full_known.astype(float), 1 - weight),
    ]
    assert found.tolist() == literal.mixed_k_center(views, 10)


def test_a_mix_with_all_weight_on_one_side_is_plain_k_center():
    (base, base_known), (full, full_known) = points_of(1), points_of(2)
    for weight, points, known in ((1.0, base, base_known), (0.0, full, full_known)):
        mixed = mixed_k_center([View(base, base_known, weight), View(full, full_known, 1 - weight)], 12, rng())
        assert mixed.tolist() == k_center(points, known, 12, rng()).tolist()
    first = mixed_k_center([View(base, None, 0.5), View(full, None, 0.5)], 3, rng(), scores=np.arange(40.0))
    assert first[0] == 39, "with nothing labelled the best score is first"


# --- ProbCover's radius ---------------------------------------------------------------------------


def test_the_radius_is_the_largest_that_is_pure_enough(monkeypatch):
    points, _ = points_of(3, n=60, width=2)
    of = rng(1).integers(0, 3, 60)
    monkeypatch.setattr(coverage, "cluster", lambda points, clusters, rng: of)
    for wanted in (0.9, 0.5, 1.0):
        radius = pure_radius(points, 3, wanted, rng())
        assert literal.purity(points.astype(float), of, radius) >= wanted - 1e-9
        larger = radius * 1.05 + 1e-3
        assert literal.purity(points.astype(float), of, larger) < wanted


def test_one_cluster_alone_is_pure_at_any_radius():
    assert pure_radius(np.zeros((5, 2), np.float32), 3, 0.95, rng()) == np.inf
    assert len(set(prob_cover(np.zeros((5, 2)), None, 5, rng()).tolist())) == 5


def test_prob_cover_takes_the_middle_of_the_largest_heap():
    g = rng(6)
    heaps = [g.normal(size=(n, 4)) * 0.05 + 3 * np.eye(4)[i] for i, n in enumerate((30, 20, 10))]
    points = np.concatenate(heaps)
    assert [int(np.searchsorted([30, 50, 60], i, side="right")) for i in prob_cover(points, None, 3, rng(), 3)] == [
        0,
        1,
        2,
    ]
    known = heaps[0][:2]
    assert prob_cover(points, known, 1, rng(), 3)[0] >= 30, "a labelled example covers its heap"


# --- TypiClust ------------------------------------------------------------------------------------


def test_typiclust_serves_the_largest_clusters_without_a_label_in_turn():
    g = rng(7)
    middles = 5 * np.eye(4)
    points = np.concatenate([g.normal(size=(n, 4)) * 0.1 + middles[i] for i, n in enumerate((40, 30, 20, 10))])
    bounds = [40, 70, 90, 100]
    of = [int(np.searchsorted(bounds, i, side="right")) for i in typical(points, None, 4, rng())]
    assert sorted(of) == [0, 1, 2, 3]
    known = points[:1] + 0.01
    of = [int(np.searchsorted(bounds, i, side="right")) for i in typical(points, known, 3, rng())]
    assert sorted(of) == [1, 2, 3], "the largest has a label already"


def test_typiclust_takes_the_densest_point_of_a_cluster():
    line = np.array([[np.cos(a), np.sin(a)] for a in np.deg2rad([0, 20, 35, 45, 55, 70, 90, 200, 205])])
    chosen = int(typical(line, None, 1, rng())[0])
    middle = literal.on_the_sphere(line)
    assert chosen == int(np.argmax(literal.typicality(middle, 20)))


def test_typiclust_gives_whole_pools_and_never_repeats():
    for n in (1, 5, 13):
        points = rng(n).normal(size=(n, 3))
        assert sorted(typical(points, None, n + 3, rng()).tolist()) == list(range(n))
    copies = np.ones((12, 3))
    assert len(set(typical(copies, copies[:2], 7, rng()).tolist())) == 7


# --- large pools ----------------------------------------------------------------------------------

LARGE = 20_000


@pytest.fixture(scope="module")
def large():
    g = rng(11)
    heaps = g.normal(size=(30, 16)) * 2
    return (heaps[g.integers(0, 30, LARGE)] + g.normal(size=(LARGE, 16))).astype(np.float32)


@pytest.mark.parametrize(
    "select",
    [
        lambda p, q: facility_location(p, q, 20, rng()),
        lambda p, q: prob_cover(p, q, 20, rng(), 6),
        lambda p, q: typical(p, q, 20, rng()),
        lambda p, q: mixed_k_center([View(p, q, 0.5), View(p, q, 0.5)], 20, rng()),
        lambda p, q: neighbour_pool(p, q, 1000, rng()),
    ],
    ids=["facility_location", "prob_cover", "typical", "mixed_k_center", "neighbour_pool"],
)
def test_a_large_pool_is_never_squared(select, large, monkeypatch):
    """Memory stays far below candidates × audience, and every temporary array below the chunk."""
    monkeypatch.setattr(coverage, "AUDIENCE", 512)
    monkeypatch.setattr(distances, "CHUNK", 1 << 17)
    tracemalloc.start()
    chosen = select(large, large[:60] + 0.01)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(set(chosen.tolist())) == len(chosen) >= 20
    assert peak < LARGE * 512 * 4 / 2, "half of candidates × audience in float32; candidates² would be 80 times that"


def test_the_work_of_a_large_pool_is_bounded(large, monkeypatch):
    """Counted in similarities: stochastic greedy looks at n ln(1/ε) candidates in all, whatever the batch, and
    ProbCover at no example of the audience more than twice."""
    counts = {"facility": 0, "cover": 0}
    similarity, inside = coverage._similarity, coverage._inside

    def counted(points, audience):
        counts["facility"] += len(points)
        return similarity(points, audience)

    def counted_inside(points, others, reach):
        counts["cover"] += len(others)
        return inside(points, others, reach)

    monkeypatch.setattr(coverage, "_similarity", counted)
    monkeypatch.setattr(coverage, "_inside", counted_inside)
    monkeypatch.setattr(coverage, "AUDIENCE", 256)
    for k in (10, 40):
        counts["facility"] = 0
        facility_location(large, None, k, rng())
        assert counts["facility"] < 4.7 * LARGE + 3 * k
    prob_cover(large, None, 30, rng(), radius=0.9)
    assert counts["cover"] <= 2 * 256


def test_sampling_costs_little_of_what_the_batch_covers(large, monkeypatch):
    """Stochastic greedy with a sampled audience is worth at least 97 % of the greedy choice over everything."""
    points = large[:3000]
    whole = facility_location(points, None, 20, rng())
    monkeypatch.setattr(coverage, "AUDIENCE", 600)
    sampled = facility_location(points, None, 20, rng())
    unit = distances.directions(points)
    worth = [(0.5 + 0.5 * unit @ unit[chosen].T).max(axis=1).sum() for chosen in (sampled, whole)]
    assert worth[0] > 0.97 * worth[1]


# --- sub-pools --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_anchor_pool_equals_its_literal_version(seed, monkeypatch):
    points, labelled = points_of(seed, n=50, labelled=12)
    classes = ["a"] * 9 + ["b"] * 3
    monkeypatch.setattr(subpool, "spread", lambda points, k, rng: np.arange(min(k, len(points))))
    found = anchor_pool(points, labelled, classes, 10, rng(), anchors=3, neighbours=5)
    scores = literal.anchor_scores(points.astype(float), labelled.astype(float), [0, 1, 2, 9, 10, 11], 5)
    ranked = sorted((i for i in range(50) if scores[i] is not None), key=lambda i: -scores[i])
    assert found.tolist() == sorted(ranked[:10])


def test_neighbour_pool_is_the_union_of_neighbourhoods():
    points, labelled = points_of(4, n=50, labelled=3)
    unit = literal.on_the_sphere(np.concatenate([points, labelled]).astype(float))
    near = unit[50:] @ unit[:50].T
    union = {int(i) for row in near for i in np.argsort(-row)[:4]}
    assert neighbour_pool(points, labelled, len(union), rng(), neighbours=4).tolist() == sorted(union)
    wider = neighbour_pool(points, labelled, 30, rng(), neighbours=4)
    assert len(wider) == 30
    assert union <= set(wider.tolist()), "filled up by chance"
    assert neighbour_pool(points, labelled, 99, rng()).tolist() == list(range(50))


def test_anchors_are_fair_to_rare_classes():
    """400 common candidates and 8 rare ones: a sub-pool of 40 by anchors holds every rare one, a random one hardly any."""
    g = rng(9)
    rare = np.arange(408) >= 400
    points = g.normal(size=(408, 6)) + np.where(rare[:, None], 6.0, 0.0)
    labelled = np.concatenate([g.normal(size=(30, 6)), g.normal(size=(2, 6)) + 6.0])
    classes = ["common"] * 30 + ["rare"] * 2
    found = anchor_pool(points, labelled, classes, 40, rng(), neighbours=20)
    assert rare[found].sum() == 8
    assert rare[neighbour_pool(points, labelled, 40, rng(), neighbours=20)].sum() == 8
    assert rare[rng(1).permutation(408)[:40]].sum() < 4


def recall(some, full):
    """Share of the full pool's picks that were also made from a part of it."""
    return len(full & some) / len(full)


def test_recall_of_the_full_pools_picks():
    """A doubt that lies near the rare class: a tenth of the pool holds what top-k over the whole pool would pick."""
    g = rng(10)
    points = g.normal(size=(2000, 6))
    points[:60] += 5.0
    doubt = 1.0 / (1.0 + np.linalg.norm(points - 4.0, axis=1))
    picks = set(np.argsort(-doubt)[:20].tolist())
    labelled = np.concatenate([g.normal(size=(20, 6)), g.normal(size=(3, 6)) + 5.0])
    part = anchor_pool(points, labelled, ["common"] * 20 + ["rare"] * 3, 200, rng())
    chosen = part[np.argsort(-doubt[part])[:20]]
    assert recall({str(i) for i in chosen}, {str(i) for i in picks}) >= 0.9
    blind = rng(2).permutation(2000)[:200]
    chosen = blind[np.argsort(-doubt[blind])[:20]]
    assert recall({str(i) for i in chosen}, {str(i) for i in picks}) <= 0.3
