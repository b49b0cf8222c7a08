"""λ schedules, scales and the mix of eq. 5."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from guidestar.config import MixConfig
from guidestar.errors import ConfigError, ModelError
from guidestar.query.mixing import (
    SCALES,
    SCHEDULES,
    linear,
    measured,
    minmax,
    mix,
    mixed,
    published,
    rank,
    schedule_for,
    weight,
)


def test_linear_is_the_published_codes_for_ten_rounds():
    for t in range(10):
        assert linear(t, 10) == pytest.approx(reference.published_linear(t), abs=1e-12)
    assert linear(12, 10) == 0.0, "the published code goes below 0 past its ten rounds"


@pytest.mark.parametrize("rounds", [1, 10, 37])
def test_the_published_schedule_knows_no_budget_and_is_not_cut_off(rounds):
    schedule = schedule_for(MixConfig(schedule="published"))
    for t in range(25):
        assert weight(schedule, t, rounds) == pytest.approx(reference.published_linear(t), abs=1e-12)
    assert weight(schedule, 12, rounds) == pytest.approx(-0.3)
    assert weight(published, 12, rounds) == pytest.approx(-0.3), "handed in as a function"


@pytest.mark.parametrize("name", sorted(SCHEDULES.keys() - {"published"}))
@pytest.mark.parametrize("rounds", [1, 2, 10, 37])
def test_schedules_stay_in_range_and_never_rise(name, rounds):
    schedule = schedule_for(MixConfig(schedule=name))
    values = [weight(schedule, t, rounds) for t in range(2 * rounds)]
    assert all(0 <= value <= 1 for value in values)
    assert values == sorted(values, reverse=True)


def test_schedules_take_their_parameters_from_the_configuration():
    assert schedule_for(MixConfig(schedule="exponential", rate=2.0))(4, 10) == pytest.approx(math.exp(-1))
    assert schedule_for(MixConfig(schedule="constant", value=0.1))(4, 10) == 0.1
    assert schedule_for(MixConfig(schedule="cosine"))(1, 6) == pytest.approx(0.75)


@pytest.mark.parametrize("value", [1.5, -0.1, math.nan])
def test_a_users_schedule_must_stay_between_0_and_1(value):
    def mine(t, rounds):
        return value

    with pytest.raises(ConfigError, match=r"^mine\(t=3, rounds=10\) gave λ = .*; allowed: a number from 0 to 1$"):
        weight(mine, 3, 10)


def test_mix_equals_eq_5():
    rng = np.random.default_rng(0)
    base, full = rng.gamma(2, 3, 50), rng.gamma(1, 1, 50)
    for lam in (0.0, 0.3, 1.0):
        np.testing.assert_allclose(mix(base, full, lam), reference.dynamic_uncertainty(base, full, lam))
    np.testing.assert_array_equal(mix(base, full, 1.0), base)
    np.testing.assert_array_equal(mix(base, full, 0.0), full)


def test_scales():
    rng = np.random.default_rng(1)
    for values in (rng.normal(size=20), rng.integers(0, 4, 20).astype(float), np.ones(5), np.array([3.0])):
        np.testing.assert_allclose(rank(values), reference.average_rank(values.tolist()))
        assert minmax(values).min() == 0
    assert minmax(rng.normal(size=9)).max() == 1
    np.testing.assert_array_equal(minmax(np.full(4, 0.1)), np.zeros(4))
    for sides in SCALES.values():
        for scale in sides:
            assert scale(np.empty(0)).shape == (0,)


def test_the_published_scale_leaves_the_tuned_models_values_raw():
    rng = np.random.default_rng(2)
    base, full = rng.gamma(2, 30, 40), 3.0 * rng.permutation(40)
    for lam in (0.9, 0.5, 0.0, -0.4):
        found = mix(base, full, lam, "published")
        np.testing.assert_allclose(found, reference.published_mix(base.tolist(), full.tolist(), lam))
    ranked = [np.argsort(mix(base, full, 0.5, scale)).tolist() for scale in ("published", "raw")]
    assert ranked[0] == np.argsort(full).tolist(), "sums of many nats beside [0, 1]: λ hardly matters"
    assert ranked[1] != ranked[0]


def test_a_scale_makes_the_mix_blind_to_units():
    base, full = np.array([0.0, 1.0, 2.0]), np.array([300.0, 100.0, 200.0])
    assert np.argmax(mix(base, full, 0.9)) == 0, "raw: the larger unit wins"
    for scale in ("minmax", "rank"):
        assert np.argmax(mix(base, full, 0.9, scale)) == 2
        np.testing.assert_allclose(mix(base, full, 0.4, scale), mix(1000 * base + 5, full, 0.4, scale))


def test_a_wrong_mix_is_refused():
    with pytest.raises(ConfigError, match=r"mix\.scale is 'ranks'; did you mean 'rank'"):
        mix(np.ones(2), np.ones(2), 0.5, "ranks")
    for lam in (1.1, math.nan, -math.inf):
        with pytest.raises(ConfigError, match=r"λ is (1\.1|nan|-inf); allowed: a number from 0 to 1"):
            mix(np.ones(2), np.ones(2), lam)
    with pytest.raises(ModelError, match=r"\(2,\), those of the tuned model \(3,\)"):
        mix(np.ones(2), np.ones(3), 0.5)


def likelihoods(seed, m, labels):
    """Natural logs of two models' probabilities, and the right classes."""
    rng = np.random.default_rng(seed)
    first, second = (np.log(rng.dirichlet(np.full(labels, 0.7), size=m)) for _ in range(2))
    return first, second, rng.integers(0, labels, m)


@given(seed=st.integers(0, 10_000), m=st.integers(1, 30), labels=st.integers(2, 5))
@settings(max_examples=25, deadline=None)
def test_a_measured_weight_is_the_best_of_the_literal_ones(seed, m, labels):
    first, second, classes = likelihoods(seed, m, labels)
    best, least = None, math.inf
    for hundredths in range(100, -1, -1):
        lam, loss = hundredths / 100, 0.0
        for one, other, c in zip(np.exp(first), np.exp(second), classes, strict=True):
            loss -= math.log(lam * one[c] + (1 - lam) * other[c]) / m
        if loss < least - 1e-12:
            best, least = lam, loss
    lam = measured(first, second, classes)
    chances = np.exp(mixed(first, second, lam))
    assert chances.sum(axis=1) == pytest.approx(np.ones(m))
    assert -np.log(chances[np.arange(m), classes]).mean() == pytest.approx(least, abs=1e-9)
    assert lam == pytest.approx(best, abs=0.011)


def test_a_measured_weight_goes_to_who_is_right():
    _, second, classes = likelihoods(0, 40, 3)
    knows = np.log(0.02 + 0.94 * np.eye(3)[classes])
    assert measured(knows, second, classes) > 0.9
    assert measured(second, knows, classes) < 0.1
    assert measured(second, second, classes) == 1.0, "of equals the first"
    assert measured(second[:0], knows[:0], classes[:0]) == 1.0, "without evidence the first alone"
