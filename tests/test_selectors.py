"""Selectors and filters: equal to their literal versions, fair with ties, safe with copies."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from guidestar.errors import ModelError
from guidestar.query import distances, selectors
from guidestar.query.selectors import (
    balance,
    clip_outliers,
    drop_near_duplicates,
    k_center,
    k_means,
    random,
    top,
)

POINTS = np.random.default_rng(7).normal(size=(40, 5))
SCORES = np.random.default_rng(8).random(40)
SELECTORS = {
    "top": lambda k, rng: top(SCORES, k, rng),
    "random": lambda k, rng: random(40, k, rng),
    "k_center": lambda k, rng: k_center(POINTS, POINTS[:3] + 1, k, rng, SCORES),
    "k_center from nothing": lambda k, rng: k_center(POINTS, None, k, rng),
    "k_means": lambda k, rng: k_means(POINTS, k, rng),
    "weighted k_means": lambda k, rng: k_means(POINTS, k, rng, SCORES),
}


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("name", SELECTORS)
def test_selectors_give_k_positions_once(name):
    select = SELECTORS[name]
    for k in (0, 1, 7, 40, 99):
        chosen = select(k, rng())
        assert chosen.dtype == np.intp
        assert len(chosen) == len(set(chosen.tolist())) == min(k, 40)
        assert set(chosen.tolist()) <= set(range(40))
        np.testing.assert_array_equal(chosen, select(k, rng()), err_msg="same seed, same answer")


def test_an_empty_pool_gives_nothing():
    nothing = np.empty((0, 3))
    assert not len(top(np.empty(0), 3, rng()))
    assert not len(random(0, 3, rng()))
    assert not len(k_center(nothing, None, 3, rng()))
    assert not len(k_center(nothing, np.ones((2, 3)), 3, rng()))
    assert not len(k_means(nothing, 3, rng()))
    assert not len(drop_near_duplicates(nothing, [], 0.9, 3))
    assert not len(clip_outliers(np.empty(0), 0.5))
    assert not len(balance(np.empty(0, dtype=np.intp), [], [1, 2], 3))


def test_top_is_the_sorted_head_and_breaks_ties_evenly():
    np.testing.assert_array_equal(top(SCORES, 5, rng()), np.argsort(-SCORES)[:5])
    first = [int(top(np.zeros(4), 1, rng(seed))[0]) for seed in range(400)]
    assert np.bincount(first, minlength=4).min() > 60
    tied = top(np.array([1.0, 5.0, 1.0, 0.0]), 2, rng())
    assert tied[0] == 1
    assert tied[1] in (0, 2)


def test_scores_and_points_that_are_not_finite_are_refused():
    with pytest.raises(ModelError, match="score at position 1 is not finite"):
        top(np.array([1.0, np.nan]), 1, rng())
    bad = np.array([[1.0], [np.inf]])
    for use in (
        lambda: k_center(bad, None, 1, rng()),
        lambda: k_means(bad, 1, rng()),
        lambda: drop_near_duplicates(bad, [0, 1], 0.9, 1),
    ):
        with pytest.raises(ModelError, match="embedding at position 1 is not finite"):
            use()
    with pytest.raises(ModelError, match=r"embeddings have shape \(2,\), expected \(examples, width\)"):
        k_center(np.ones(2), None, 1, rng())
    with pytest.raises(ModelError, match="must not be negative, found -1"):
        k_means(np.ones((2, 1)), 1, rng(), np.array([-1.0, 1.0]))


# --- k-centre -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shift", [0.0, 1000.0])
def test_k_center_equals_its_literal_version(seed, shift, monkeypatch):
    """Also far from the origin, where the expanded square would lose all digits in float32, and in chunks."""
    monkeypatch.setattr(distances, "CHUNK", 64)
    points = rng(seed).normal(size=(50, 6)) + shift
    labelled = rng(seed + 100).normal(size=(9, 6)) + shift
    points[3] = labelled[0]
    chosen = k_center(points, labelled, 20, rng())
    assert chosen.tolist() == reference.k_center(points, labelled, 20)


def test_k_center_on_a_line():
    line = np.array([[0.0], [1.0], [4.0], [9.5], [10.0]])
    assert k_center(line, np.array([[0.0]]), 3, rng()).tolist() == [4, 2, 1]
    assert k_center(line, None, 2, rng(), scores=np.array([0, 0, 1, 0, 0])).tolist() == [2, 4], "best score first"


def test_k_center_takes_no_copy_while_anything_else_is_left():
    distinct = rng(1).normal(size=(6, 4))
    copies = np.repeat(distinct, 10, axis=0)
    chosen = k_center(copies, None, 6, rng())
    assert len({int(i) // 10 for i in chosen}) == 6
    chosen = k_center(copies, distinct[:2], 4, rng())
    assert {int(i) // 10 for i in chosen} == {2, 3, 4, 5}
    assert len(set(k_center(np.ones((5, 2)), np.ones((1, 2)), 5, rng()).tolist())) == 5


def test_k_center_never_builds_a_square_matrix(monkeypatch):
    import tracemalloc

    points = rng().normal(size=(6000, 16)).astype(np.float32)
    monkeypatch.setattr(distances, "CHUNK", 1 << 16)
    tracemalloc.start()
    k_center(points, points[:500], 5, rng())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6000 * 500 * 4, "less than candidates × labelled, and far less than candidates squared"


# --- k-means ------------------------------------------------------------------------------------


def test_k_means_takes_one_point_near_the_middle_of_each_cluster():
    middles = np.array([[0.0, 0.0], [20.0, 0.0], [0.0, 20.0]])
    around = np.array([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    points = (middles[:, None] + around).reshape(-1, 2)
    assert sorted(k_means(points, 3, rng()).tolist()) == [0, 5, 10]


def test_k_means_weights_pull_the_centroids():
    line = np.array([[0.0], [1.0], [2.0], [3.0]])
    assert k_means(line, 1, rng(), np.array([0.0, 0.0, 0.1, 5.0])).tolist() == [3]


def test_k_means_fills_up_when_clusters_collapse():
    """Three distinct points, five asked for: one of each first, then the heaviest of the rest."""
    points = np.repeat(np.eye(3), 4, axis=0)
    weights = np.arange(12.0)
    chosen = k_means(points, 5, rng(), weights)
    assert len(set(chosen.tolist())) == 5
    assert {int(i) // 4 for i in chosen} == {0, 1, 2}
    assert {11, 10} <= set(chosen.tolist())
    assert len(k_means(points, 4, rng(), np.zeros(12))) == 4
    few = np.zeros(40)
    few[:2] = 1.0
    assert len(set(k_means(POINTS, 6, rng(), few).tolist())) == 6, "more clusters than points with a weight"


@pytest.mark.parametrize("select", [k_means, lambda p, k, g, s: k_center(p, None, k, g, s)])
def test_diverse_selectors_do_not_depend_on_order(select):
    chosen = select(POINTS, 8, rng(), SCORES)
    shuffled = rng(5).permutation(40)
    moved = select(POINTS[shuffled], 8, rng(), SCORES[shuffled])
    np.testing.assert_array_equal(shuffled[moved], chosen)


# --- filters ------------------------------------------------------------------------------------


def test_a_pool_of_copies_does_not_fill_the_batch():
    distinct = rng(2).normal(size=(6, 8)) + 30  # like hidden states, far from the origin in one direction
    copies = np.repeat(distinct, 20, axis=0) + 1e-5 * rng(3).normal(size=(120, 8))
    kept = drop_near_duplicates(copies, np.arange(120), 0.98, k_needed=6)
    assert kept.tolist() == [0, 20, 40, 60, 80, 100], "the first of each in order"


def test_a_batch_is_filled_up_when_too_few_are_distinct():
    points = np.repeat(np.eye(2), 5, axis=0)
    order = np.arange(10)[::-1]
    assert drop_near_duplicates(points, order, 0.98, k_needed=4).tolist() == [9, 4, 8, 7]
    assert drop_near_duplicates(np.ones((5, 3)), np.arange(5), 0.98, k_needed=1).tolist() == [0]
    assert drop_near_duplicates(np.zeros((5, 3)), np.arange(5), 0.98, k_needed=1).tolist() == [0]


def test_a_pool_of_nothing_but_near_copies_is_one_point():
    """Centred, only noise is left of them; it must not be taken for directions."""
    points = 30 + 1e-5 * rng(6).normal(size=(50, 8))
    assert drop_near_duplicates(points, np.arange(50), 0.98, k_needed=1).tolist() == [0]


def test_near_duplicates_across_blocks_and_with_an_end(monkeypatch):
    points = np.concatenate([POINTS, POINTS])
    for block in (1, 7, 256):
        monkeypatch.setattr(selectors, "_BLOCK", block)
        assert drop_near_duplicates(points, np.arange(80), 1.0, k_needed=5).tolist() == list(range(40))
        assert drop_near_duplicates(points, np.arange(80), 1.0, k_needed=5, enough=9).tolist() == list(range(9))


def test_a_shared_direction_does_not_make_everything_alike():
    points = rng(4).normal(size=(30, 16)) + 100 * np.ones(16)
    assert len(drop_near_duplicates(points, np.arange(30), 0.98, k_needed=1)) == 30


def test_clip_outliers():
    scores = np.arange(10.0)
    assert clip_outliers(scores, 0.2).tolist() == list(range(8))
    assert clip_outliers(scores, 0.19).tolist() == list(range(9))
    assert clip_outliers(scores, 0.0).tolist() == list(range(10))
    assert clip_outliers(scores, 0.99, at_least=4).tolist() == list(range(4))
    assert clip_outliers(np.ones(10), 0.5).tolist() == list(range(10)), "equals are not told apart"
    assert clip_outliers(scores, 0.3, at_least=99).tolist() == list(range(10))


@pytest.mark.parametrize("seed", range(5))
def test_balance_equals_its_literal_version(seed):
    g = rng(seed)
    predicted, counts, order = g.integers(0, 4, 30), g.integers(0, 9, 4), g.permutation(30)[:25]
    for k in (0, 3, 12, 25, 60):
        assert balance(predicted, order, counts, k).tolist() == reference.balance(predicted, order, counts, k)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from([0.95, 0.98, 1.0]), st.integers(1, 40))
def test_near_duplicates_by_hashes_are_those_of_all_pairs(seed: int, threshold: float, needed: int) -> None:
    """Copies are all left out, of the near ones at least nine in ten, and nothing else: the literal way compares all pairs."""
    rng = np.random.default_rng(seed)
    points = rng.standard_normal((300, 24))
    rows, sources = rng.choice(300, 100, replace=False), rng.integers(0, 300, 100)
    points[rows] = points[sources] + rng.choice([0.0, 0.02, 0.05], 100)[:, None] * rng.standard_normal((100, 24))
    order = rng.permutation(300)
    literal = selectors.drop_near_duplicates(points, order, threshold, needed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selectors, "ALL_PAIRS", 50)
        hashed = selectors.drop_near_duplicates(points, order, threshold, needed)
        again = selectors.drop_near_duplicates(points, order, threshold, needed)
    assert np.array_equal(hashed, again)
    left_out, found = set(order) - set(literal), set(order) - set(hashed)
    assert len(found & left_out) >= 0.9 * len(left_out)
    exact = selectors.directions(points.astype(np.float32))
    for i in found:
        assert (exact[i] @ exact[[j for j in hashed if j != i]].T >= threshold - 1e-6).any(), (
            "left out beside nothing near"
        )


def test_few_planes_are_no_help_and_all_pairs_are_compared() -> None:
    unit = selectors.directions(np.random.default_rng(0).standard_normal((60, 8)).astype(np.float32))
    assert selectors.Near.of(unit, 0.5) is None
    assert selectors.Near.of(unit, 0.98) is not None
