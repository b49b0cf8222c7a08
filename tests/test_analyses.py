"""The analyses beside slow literal twins: CKA, training dynamics, Besov smoothness, picks."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guidestar.errors import DataError
from guidestar.metrics import smoothness
from guidestar.metrics.dynamics import Dynamics
from guidestar.study.probes import forgetting as dynamics
from guidestar.study.probes import picks
from guidestar.study.probes.inside import cka


def rng(seed=0):
    return np.random.default_rng(seed)


# --- CKA ------------------------------------------------------------------------------------------


def literal_hsic(k, ell):
    """tr(K H L H) with H = I − 11ᵀ/n, written out."""
    n = len(k)
    h = np.eye(n) - np.ones((n, n)) / n
    return np.trace(k @ h @ ell @ h)


def literal_rbf(points):
    apart = [[math.dist(a, b) ** 2 for b in points] for a in points]
    sigma = math.sqrt(np.median([d for row in apart for d in row if d > 0]))
    return np.array([[math.exp(-d / (2 * sigma**2)) for d in row] for row in apart])


@pytest.mark.parametrize("seed", range(3))
def test_cka_equals_the_traces(seed):
    one, other = rng(seed).normal(size=(20, 5)), rng(seed + 9).normal(size=(20, 7))
    for rbf, literal in ((False, lambda x: x @ x.T), (True, literal_rbf)):
        k, ell = literal(one), literal(other)
        expected = literal_hsic(k, ell) / math.sqrt(literal_hsic(k, k) * literal_hsic(ell, ell))
        assert cka(one, other, rbf=rbf) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("rbf", [False, True])
def test_cka_does_not_see_rotations_shifts_and_factors(rbf):
    x = rng(1).normal(size=(40, 6))
    turn, _ = np.linalg.qr(rng(2).normal(size=(6, 6)))
    assert cka(x, 3 * x @ turn + 100, rbf=rbf) == pytest.approx(1.0)
    assert cka(x, rng(3).normal(size=(40, 6)), rbf=rbf) < 0.5
    assert 0 <= cka(x, x**2, rbf=rbf) <= 1


def test_cka_of_nothing_to_compare():
    assert math.isnan(cka(np.ones((5, 2)), rng().normal(size=(5, 2))))
    assert math.isnan(cka(np.ones((5, 2)), np.ones((5, 2)), rbf=True))


# --- forgetting, cartography ----------------------------------------------------------------------


def literal_forgetting(sequence):
    events, learnt = 0, False
    for before, after in itertools.pairwise(sequence):
        events += before and not after
    learnt = any(sequence)
    return events if learnt else dynamics.NEVER


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=8))
def test_forgetting_equals_its_literal_version(rows):
    found = dynamics.forgetting_events(np.array(rows, dtype=bool))
    assert found.tolist() == [literal_forgetting(column) for column in zip(*rows, strict=True)]


def test_forgetting_of_the_spec():
    assert dynamics.forgetting_events(np.array([[0, 1, 0, 1, 0]], dtype=bool).T).tolist() == [2]
    assert dynamics.forgetting_events(np.zeros((5, 1), dtype=bool)).tolist() == [dynamics.NEVER]


def test_a_data_map_holds_means_and_spreads():
    p, right = rng(5).random((6, 30)), rng(6).random((6, 30)) > 0.4
    found = dynamics.DataMap.of(Dynamics(tuple(map(str, range(30))), np.log(p), right, "labels"))
    for i in range(30):
        mean = sum(p[:, i]) / 6
        assert found.confidence[i] == pytest.approx(mean)
        assert found.variability[i] == pytest.approx(math.sqrt(sum((x - mean) ** 2 for x in p[:, i]) / 6))
        assert found.correctness[i] == sum(right[:, i]) / 6
    regions = found.regions()
    assert (regions == "ambiguous").sum() == 10
    assert found.variability[regions == "ambiguous"].min() >= found.variability[regions != "ambiguous"].max()
    easy, hard = found.confidence[regions == "easy"], found.confidence[regions == "hard"]
    assert easy.min() > hard.max()


# --- smoothness -----------------------------------------------------------------------------------


def literal_errors(points, targets, seed):
    """The m-term errors node by node, from the fitted trees' own thresholds."""
    from sklearn.ensemble import RandomForestRegressor

    forest = RandomForestRegressor(n_estimators=smoothness.TREES, max_depth=smoothness.DEPTH, random_state=seed)
    forest.fit(points, targets)
    terms = []

    def walk(tree, samples, node, parent_mean, box):
        mean = tree.value[node].reshape(-1)
        volume = math.prod(high - low for low, high in box)
        terms.append((np.linalg.norm(mean - parent_mean) * math.sqrt(volume), samples, mean - parent_mean))
        if tree.children_left[node] < 0:
            return
        at, cut = tree.feature[node], tree.threshold[node]
        for child, keep, part in (
            (tree.children_left[node], [i for i in samples if points[i, at] <= cut], (box[at][0], cut)),
            (tree.children_right[node], [i for i in samples if points[i, at] > cut], (cut, box[at][1])),
        ):
            walk(tree, keep, child, mean, [*box[:at], part, *box[at + 1 :]])

    for one in forest.estimators_:
        root = np.zeros(targets.shape[1])
        walk(one.tree_, list(range(len(points))), 0, root, [(0.0, 1.0)] * points.shape[1])
    terms.sort(key=lambda term: -term[0])
    total, found = np.zeros_like(targets), []
    for m, (_, samples, step) in enumerate(terms, start=1):
        total[samples] += step / smoothness.TREES
        if m in smoothness.TERMS:
            found.append((m, ((targets - total) ** 2).sum(axis=1).mean()))
    return found


def test_the_errors_of_the_wavelet_sums_equal_a_walk_through_the_trees():
    points = rng(7).random((40, 3)).astype(np.float32).astype(np.float64)  # what the trees themselves compare
    targets = np.eye(2)[(points[:, 0] > 0.5).astype(int) ^ (rng(8).random(40) < 0.15)]
    found, expected = smoothness.errors(points, targets, 3), literal_errors(points, targets, 3)
    assert [m for m, _ in found] == [m for m, _ in expected]
    assert len(found) > 5
    # terms of equal norm may change places, which moves an error a little
    np.testing.assert_allclose([e for _, e in found], [e for _, e in expected], rtol=0.05, atol=1e-3)
    assert found[0][1] == pytest.approx(expected[0][1], abs=1e-9)
    assert found[-1][1] < found[0][1]


def test_a_label_that_follows_the_points_is_smoother_than_chance():
    g = rng(9)
    points = g.normal(size=(150, 6))
    follows = (points[:, 0] > 0).astype(int)
    alpha = [smoothness.smoothness(points, classes) for classes in (follows, g.permutation(follows))]
    assert alpha[0] > 1.5 * alpha[1]
    assert smoothness.smoothness(1000 * points + 5, follows) == pytest.approx(alpha[0], rel=0.05), "scaled to [0, 1]"
    assert smoothness.smoothness(points, follows) == alpha[0], "the seed fixes the forest"
    with pytest.raises(DataError, match="found 3 points and 2 labels"):
        smoothness.smoothness(np.ones((3, 1)), np.array([0, 1]))


def test_beast_stops_one_epoch_after_the_middle_outweighs_the_end():
    late = np.tile(np.r_[np.zeros(8), np.ones(4)], (9, 1))
    middle = np.tile(np.r_[np.zeros(4), np.ones(4), np.zeros(4)], (3, 1))
    assert smoothness.beast_stop(late) is None
    assert smoothness.beast_stop(np.concatenate([late, middle])) == 11
    assert smoothness.beast_stop(middle) is None, "not in the first five epochs"
    assert smoothness.beast_stop(np.concatenate([middle, middle])) == 7


# --- picks ----------------------------------------------------------------------------------------


def test_overlap_by_chance():
    pool = [str(i) for i in range(200)]
    g = rng(10)
    drawn = [set(g.choice(pool, 60, replace=False)) for _ in range(200)]
    found = np.mean([picks.jaccard(a, b) for a, b in itertools.pairwise(drawn)])
    assert found == pytest.approx(picks.expected_jaccard(60, 60, 200), abs=0.01)
    assert picks.jaccard(pool, pool) == 1.0
    assert math.isnan(picks.jaccard([], []))


def test_distinct_equals_its_literal_version():
    texts = ["the cat sat on the mat", "the cat ran", "a"]
    for n, everything in ((1, 10), (2, 7), (3, 5)):
        grams = [tuple(picks.words(t)[i : i + n]) for t in texts for i in range(len(picks.words(t)) - n + 1)]
        assert len(grams) == everything
        assert picks.distinct(texts, n) == len(set(grams)) / everything
    assert math.isnan(picks.distinct(["a"], 2))


@given(st.lists(st.text("abc ", max_size=12), max_size=8), st.integers(1, 9))
def test_moving_type_token_equals_its_literal_version(texts, window):
    tokens = [w for t in texts for w in picks.words(t)]
    found = picks.moving_type_token(texts, window)
    if not tokens:
        assert math.isnan(found)
        return
    width = min(window, len(tokens))
    windows = [tokens[i : i + width] for i in range(len(tokens) - width + 1)]
    assert found == pytest.approx(sum(len(set(w)) / width for w in windows) / len(windows))


def test_diversity_falls_when_texts_repeat():
    g = rng(11)
    words = [f"w{i}" for i in range(400)]
    varied = [" ".join(g.choice(words, 12)) for _ in range(60)]
    same = [varied[i % 3] for i in range(60)]
    assert picks.moving_type_token(varied) > picks.moving_type_token(same)
    assert picks.mean_similarity(varied) < 0.1 < 0.3 < picks.mean_similarity(same)
    more = varied + [" ".join(g.choice(words, 12)) for _ in range(300)]
    assert picks.distinct(more, 1) < 0.6 * picks.distinct(varied, 1), "the plain share falls with the sample"
    assert picks.moving_type_token(more) == pytest.approx(picks.moving_type_token(varied), abs=0.03)
