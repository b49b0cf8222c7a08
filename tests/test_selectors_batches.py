"""BADGE, BatchBALD, log-det design, stochastic batches, DAL and CAL beside their literal versions."""

from __future__ import annotations

import math

import literal_selectors as literal
import numpy as np
import pytest

from guidestar.errors import ModelError
from guidestar.query import batches, distances
from guidestar.query.batches import badge, batch_bald, discriminative, gibbs, log_det, power, soft_rank


def rng(seed=0):
    return np.random.default_rng(seed)


def log_probs(g, *shape, sharp=1.5):
    logits = sharp * g.normal(size=shape)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


class Fixed:
    """A generator whose permutation is the identity and whose draws by weight follow given uniform numbers."""

    def __init__(self, uniform=()):
        self.uniform = iter(uniform)

    def permutation(self, n):
        return np.arange(n)

    def choice(self, n, p):
        return np.searchsorted(np.cumsum(p), next(self.uniform), side="right")


# --- BADGE --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("labels", [2, 5])
def test_badge_equals_k_means_plus_plus_on_the_built_gradients(seed, labels):
    g = rng(seed)
    logs, points = log_probs(g, 30, labels), g.normal(size=(30, 6)).astype(np.float32)
    uniform = g.random(11)
    found = badge(logs, points, 12, Fixed(uniform))
    assert found.tolist() == literal.badge(logs, points.astype(np.float64), uniform, 12)


def test_badge_never_builds_a_gradient():
    """Examples × labels × width of these would be 640 MB."""
    import tracemalloc

    g = rng(1)
    logs, points = log_probs(g, 20_000, 50), g.normal(size=(20_000, 80)).astype(np.float32)
    tracemalloc.start()
    chosen = badge(logs, points, 5, rng())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(set(chosen.tolist())) == 5
    assert peak < 20_000 * 50 * 80 * 8 / 10


def test_badge_prefers_long_gradients_and_takes_copies_last():
    logs = np.log([[0.99, 0.01]] * 5 + [[0.5, 0.5]])
    assert badge(logs, np.ones((6, 3)), 1, rng()).tolist() == [5]
    copies = np.repeat(np.eye(4), 5, axis=0)
    chosen = badge(np.log(np.full((20, 2), 0.5)), copies, 4, rng())
    assert {int(i) // 5 for i in chosen} == {0, 1, 2, 3}
    assert len(set(badge(np.log(np.full((20, 2), 0.5)), copies, 20, rng()).tolist())) == 20


# --- BatchBALD ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_batch_bald_equals_the_enumeration_of_all_labelings(seed):
    logs = log_probs(rng(seed), 4, 9, 3)
    chosen = batch_bald(logs, 4, rng(), samples=100_000)
    assert chosen.tolist() == literal.batch_bald(logs, 4)


def test_batch_bald_by_sampling_comes_close_to_the_best_batch():
    """With 3⁷ labelings and 600 samples the batch is worth almost as much as the one found by enumeration."""
    for seed in range(3):
        logs = log_probs(rng(seed), 6, 12, 3, sharp=2.0)
        sampled = batch_bald(logs, 6, rng(), samples=600)
        exact = batch_bald(logs, 6, rng(), samples=100_000)
        worth = [literal.joint_information(logs, batch) for batch in (sampled.tolist(), exact.tolist())]
        assert worth[0] > 0.97 * worth[1]


def test_batch_bald_does_not_take_the_same_information_twice():
    """Ten copies of the most disputed example, and others less disputed: BALD alone would take copies."""
    g = rng(3)
    disputed = np.log([[0.99, 0.01], [0.01, 0.99], [0.99, 0.01], [0.01, 0.99]])[:, None].repeat(10, axis=1)
    others = np.log([[0.8, 0.2], [0.8, 0.2], [0.2, 0.8], [0.2, 0.8]])[:, None].repeat(3, axis=1)
    chosen = batch_bald(np.concatenate([disputed, others], axis=1), 2, g)
    assert chosen[0] < 10 <= chosen[1]


def test_batch_bald_computes_few_gains_of_a_large_pool(monkeypatch):
    """Lazily: after the first step only those candidates are computed again that could still win. As in a real pool,
    the passes agree about most examples."""
    seen = []
    original = batches._best_gain

    def counted(probabilities, alone, posterior, weights, bound):
        before = bound.copy()
        found = original(probabilities, alone, posterior, weights, bound)
        seen.append(int((before != bound).sum()))
        return found

    monkeypatch.setattr(batches, "_best_gain", counted)
    g = rng(4)
    logits = g.normal(size=(20_000, 4)) + 3 * g.random((20_000, 1)) ** 4 * g.normal(size=(4, 20_000, 4))
    logs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    chosen = batch_bald(logs, 6, rng(), samples=256)
    assert len(set(chosen.tolist())) == 6
    assert seen[0] == 20_000
    assert sum(seen[1:]) < 5 * 20_000 / 2


# --- log-det ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ridge", [0.01, 1.0])
def test_log_det_equals_determinants_from_scratch(seed, ridge, monkeypatch):
    monkeypatch.setattr(distances, "CHUNK", 64)
    g = rng(seed)
    points, labelled = g.normal(size=(25, 4)), g.normal(size=(3, 4))
    points, labelled = points.astype(np.float32), labelled.astype(np.float32)
    found = log_det(points, labelled, 12, Fixed(), ridge)
    assert found.tolist() == literal.log_det(points.astype(float), labelled.astype(float), 12, ridge)


def test_log_det_does_not_depend_on_the_unit_of_the_states():
    points = rng(1).normal(size=(30, 5))
    assert log_det(points, None, 8, rng()).tolist() == log_det(1000 * points, None, 8, rng()).tolist()


# --- stochastic batches -------------------------------------------------------------------------


def test_power_draws_in_proportion():
    """The first draw has probability sᵝ/Σ sᵝ."""
    scores = np.array([1.0, 2.0, 5.0])
    for beta in (1.0, 2.0, 0.0):
        g = rng(7)
        first = np.bincount([int(power(scores, 1, g, beta)[0]) for _ in range(6000)], minlength=3) / 6000
        np.testing.assert_allclose(first, scores**beta / (scores**beta).sum(), atol=0.025)


def test_gibbs_and_soft_rank_draw_in_proportion():
    scores = np.array([3.0, 1.0, 2.0])
    g = rng(8)
    first = np.bincount([int(gibbs(scores, 1, g, 2.0)[0]) for _ in range(6000)], minlength=3) / 6000
    weights = np.exp(2.0 * scores / scores.std())
    np.testing.assert_allclose(first, weights / weights.sum(), atol=0.025)
    first = np.bincount([int(soft_rank(scores, 1, g, 1.0)[0]) for _ in range(6000)], minlength=3) / 6000
    weights = 1 / np.array([1.0, 3.0, 2.0])
    np.testing.assert_allclose(first, weights / weights.sum(), atol=0.025)


@pytest.mark.parametrize("draw", [power, gibbs, soft_rank])
def test_a_large_beta_is_the_plain_top(draw):
    scores = rng(2).random(50)
    assert draw(scores, 10, rng(), 1e6).tolist() == np.argsort(-scores)[:10].tolist()
    assert sorted(draw(scores, 99, rng()).tolist()) == list(range(50))
    assert draw(np.empty(0), 3, rng()).tolist() == []
    with pytest.raises(ModelError, match="score at position 1 is not finite"):
        draw(np.array([1.0, np.nan]), 1, rng())


def test_power_refuses_negative_scores():
    with pytest.raises(ModelError, match="must not be negative; found -1"):
        power(np.array([-1.0, 2.0]), 1, rng())


# --- DAL and CAL --------------------------------------------------------------------------------


def test_dal_goes_to_the_far_cluster_first_and_then_on():
    """Labelled examples lie in one of three clusters; the batch comes from the other two, and from both."""
    g = rng(5)
    middles = np.array([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]])
    points = (middles[:, None] + g.normal(scale=0.5, size=(3, 40, 2))).reshape(-1, 2)
    labelled = g.normal(scale=0.5, size=(20, 2))
    chosen = discriminative(points, labelled, 10, rng())
    of = [int(i) // 40 for i in chosen]
    assert set(of) == {1, 2}
    assert len(set(chosen.tolist())) == 10


def test_dal_fits_a_part_at_a_time_on_ten_unlabelled_for_a_labelled(monkeypatch):
    seen = []

    def fake(labelled, unlabelled):
        seen.append((len(labelled), len(unlabelled)))
        return np.zeros(len(unlabelled))

    monkeypatch.setattr(batches, "_log_odds", fake)
    points, labelled = rng(1).normal(size=(100, 3)), rng(2).normal(size=(4, 3))
    assert len(set(discriminative(points, labelled, 7, rng(), sub_batches=3).tolist())) == 7
    assert seen == [(4, 40), (7, 70), (9, 90)]
    seen.clear()
    assert len(discriminative(points, None, 5, rng(), sub_batches=5)) == 5
    assert seen == [(1, 10), (2, 20), (3, 30), (4, 40)], "the first part is random when nothing is labelled"


def test_dal_does_not_depend_on_the_unit_of_the_states():
    points, labelled = rng(3).normal(size=(60, 4)), rng(4).normal(size=(10, 4)) - 1
    found = discriminative(points, labelled, 6, rng())
    assert found.tolist() == discriminative(300 * points + 7, 300 * labelled + 7, 6, rng()).tolist()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("neighbours", [1, 4, 99])
def test_cal_equals_its_literal_version(seed, neighbours, monkeypatch):
    monkeypatch.setattr(distances, "CHUNK", 50)
    g = rng(seed)
    points, known = g.normal(size=(20, 3)), g.normal(size=(8, 3))
    mine, theirs = log_probs(g, 20, 4), log_probs(g, 8, 4)
    found = batches.contrast(points, mine, known, theirs, neighbours)
    np.testing.assert_allclose(found, literal.contrast(points, mine, known, theirs, neighbours), rtol=1e-10)


def test_cal_survives_certain_predictions():
    logs = np.log(np.array([[1.0, 1e-300], [1e-300, 1.0]]))
    with np.errstate(divide="ignore"):
        certain = np.log(np.array([[0.0, 1.0]]))
    found = batches.contrast(np.zeros((2, 1)), logs, np.zeros((1, 1)), certain)
    assert np.isfinite(found).all()
    assert found[0] == pytest.approx(-math.log(1e-12))
    assert found[1] == pytest.approx(0.0, abs=1e-9)
