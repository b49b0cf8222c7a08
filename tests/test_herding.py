"""Herding: the fast choice against a literal one, its guarantees, and what a sample of the pool costs."""

from __future__ import annotations

import literal_selectors as literal
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guidestar.errors import ModelError
from guidestar.query import herding as room
from guidestar.query.herding import herding


def pool(n, seed=0, groups=7, width=6):
    rng = np.random.default_rng(seed)
    centres = 2.0 * rng.standard_normal((groups, width))
    return centres[rng.integers(0, groups, n)] + rng.standard_normal((n, width)), rng


@given(seed=st.integers(0, 10_000), k=st.integers(1, 6), labelled=st.integers(0, 5), weighted=st.booleans())
@settings(max_examples=15, deadline=None)
def test_equals_the_literal_greedy_choice(seed, k, labelled, weighted):
    points, rng = pool(25, seed)
    known = points[:labelled]
    weights = rng.random(25) if weighted else None
    got = herding(points, known if labelled else None, k, np.random.default_rng(seed), weights)
    gains = literal.herding_gains(points, known, got, np.ones(25) if weights is None else weights)
    for chosen, best in gains:  # which of equals comes first is chance
        assert chosen == pytest.approx(best, rel=1e-4, abs=1e-5)
    assert len(set(got.tolist())) == k


def test_covers_every_group_before_one_twice():
    points = np.repeat(np.eye(5), 10, axis=0) + 1e-3 * np.random.default_rng(0).standard_normal((50, 5))
    got = herding(points, None, 5, np.random.default_rng(0))
    assert sorted(got // 10) == [0, 1, 2, 3, 4]


@given(distinct=st.integers(1, 150), copies=st.integers(1, 90), k=st.integers(1, 120), known=st.booleans())
@settings(max_examples=20, deadline=None)
def test_equals_in_any_number_are_chosen_from_in_the_end(distinct, copies, k, known):
    """Copies, and texts that are all equally far from each other, more than are looked at once."""
    points = np.repeat(np.eye(distinct), copies, axis=0)[:400]
    got = herding(points, points[:3] if known else None, k, np.random.default_rng(k))
    assert len(set(got.tolist())) == len(got) == min(k, len(points))
    if not known:
        kinds = got // copies
        assert len(set(kinds[:distinct].tolist())) == min(k, len(points), len(set(np.arange(len(points)) // copies)))


def test_what_is_labelled_is_covered_already():
    points = np.repeat(np.eye(3), 4, axis=0)
    assert set((herding(points, np.eye(3)[:2], 4, np.random.default_rng(0)) // 4)[:1]) == {2}


def test_doubt_draws_the_choice():
    points, rng = pool(200)
    doubt = np.zeros(200)
    doubt[[3, 50, 120]] = 1.0
    far = herding(points, None, 3, rng, doubt, radius=0.05)  # so narrow that only the doubtful themselves are covered
    assert set(far.tolist()) == {3, 50, 120}


def test_no_doubt_at_all_is_a_random_choice():
    points, _ = pool(50)
    draws = {tuple(herding(points, None, 2, np.random.default_rng(i), np.zeros(50)).tolist()) for i in range(20)}
    assert len(draws) > 10


def test_bad_weights_are_refused():
    points, rng = pool(5)
    for weights in (np.array([1.0, -1, 1, 1, 1]), np.full(5, np.nan), np.ones(4)):
        with pytest.raises(ModelError, match="herding needs 5 weights"):
            herding(points, None, 1, rng, weights)


def test_a_sample_of_the_pool_loses_little(monkeypatch):
    """Coverage of the whole pool by a batch chosen from a quarter of it, on an audience of an eighth."""
    points, rng = pool(1200, groups=40, width=16)
    weights = rng.random(1200) ** 2
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    kernel = np.exp(unit @ unit.T / literal.kernel_radius(points[:200]) ** 2)

    def value(got):
        return float(weights @ kernel[:, got].max(axis=1))

    whole = value(herding(points, None, 20, np.random.default_rng(0), weights))
    chance = np.mean([value(np.random.default_rng(i).choice(1200, 20, replace=False)) for i in range(5)])
    monkeypatch.setattr(room, "AUDIENCE", 150)
    monkeypatch.setattr(room, "CANDIDATES", 300)
    sampled = np.mean([value(herding(points, None, 20, np.random.default_rng(i), weights)) for i in range(5)])
    assert sampled > 0.9 * whole
    assert sampled > chance + 0.5 * (whole - chance)
