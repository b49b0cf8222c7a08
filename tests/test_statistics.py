"""Intervals and tests for a handful of seeds: against literal versions, scipy, statsmodels, and samples of known truth."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from simulation import family_alarms, mean_coverage

from guidestar.metrics.statistics import (
    errors,
    holm,
    interval_of,
    moments,
    ratio_interval,
    sign_flip_test,
    smallest_p,
    t_interval,
    t_quantile,
    t_test,
    wilson,
)


def sample(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.4, 1, shape)


few = st.lists(st.integers(-50, 50), min_size=2, max_size=9).map(lambda values: np.array(values) / 16)


# --- slow, literal versions -----------------------------------------------------------------------


def literal_sign_flips(differences, greater=False):
    total = sum(differences)
    sums = [
        sum(s * d for s, d in zip(signs, differences, strict=True))
        for signs in itertools.product([-1, 1], repeat=len(differences))
    ]
    far = [s >= total - 1e-9 if greater else abs(s) >= abs(total) - 1e-9 for s in sums]
    return sum(far) / len(far)


def literal_holm(p):
    corrected, largest = {}, 0.0
    for place, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        largest = max(largest, min(1.0, p[i] * (len(p) - place)))
        corrected[i] = largest
    return [corrected[i] for i in range(len(p))]


def literal_mean_squares(table):
    """Of seeds, examples and the rest, by loops over a (seeds, examples) table."""
    n, m = table.shape
    mean = sum(table[i, j] for i in range(n) for j in range(m)) / (n * m)
    row = [sum(table[i]) / m for i in range(n)]
    column = [sum(table[:, j]) / n for j in range(m)]
    seeds = m * sum((r - mean) ** 2 for r in row) / (n - 1)
    examples = n * sum((c - mean) ** 2 for c in column) / (m - 1)
    rest = sum((table[i, j] - row[i] - column[j] + mean) ** 2 for i in range(n) for j in range(m)) / ((n - 1) * (m - 1))
    return seeds, examples, rest


# --- means ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 5, 10])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_t_interval_and_test_equal_scipy(n, level):
    values = sample(n, n)
    theirs = stats.ttest_1samp(values, 0.0)
    span = theirs.confidence_interval(level)
    ours = t_interval(values, level)
    assert (ours.low, ours.estimate, ours.high) == pytest.approx((span.low, values.mean(), span.high))
    assert t_test(values) == pytest.approx(theirs.pvalue)
    assert (0.0 in ours) == (t_test(values) > 1 - level)


def test_t_interval_equals_statsmodels():
    weightstats = pytest.importorskip("statsmodels.stats.weightstats")
    values = sample(1, 7)
    ours = t_interval(values, 0.9)
    assert (ours.low, ours.high) == pytest.approx(weightstats.DescrStatsW(values).tconfint_mean(alpha=0.1))


def test_differences_without_spread_give_a_point():
    assert t_test([0.0, 0.0, 0.0]) == 1.0
    assert t_test([0.1, 0.1, 0.1]) == 0.0
    assert t_interval([0.25, 0.25]).plain() == {"estimate": 0.25, "low": 0.25, "high": 0.25}


def test_a_spread_needs_two_of_each():
    with pytest.raises(ValueError, match="found 1 seeds and 1 examples"):
        t_interval([0.1])
    with pytest.raises(ValueError, match="found 3 seeds and 1 examples"):
        t_interval(np.zeros((3, 1)))
    with pytest.raises(ValueError, match="between 0 and 1, found 95"):
        t_interval([0.1, 0.2], 95)


# --- seeds and test examples ----------------------------------------------------------------------


def crossed(seed, n, m, by_seed=1.0, by_example=1.0, rest=1.0):
    rng = np.random.default_rng(seed)
    return by_seed * rng.normal(size=(n, 1)) + by_example * rng.normal(size=m) + rest * rng.normal(size=(n, m))


@pytest.mark.parametrize("seed", range(3))
def test_mean_squares_equal_their_literal_version(seed):
    table = crossed(seed, 4, 7)
    found = moments(table[..., None])
    assert found.examples is not None
    assert found.rest is not None
    ours = [float(matrix[0, 0]) for matrix in (found.seeds, found.examples, found.rest)]
    assert ours == pytest.approx(literal_mean_squares(table))
    seeds, examples, rest = literal_mean_squares(table)
    error = errors(found, [1.0])
    whole = max(seeds + examples - rest, seeds, examples)
    assert float(error.whole) ** 2 == pytest.approx(whole / 28)
    assert float(error.seeds) == pytest.approx(table.mean(axis=1).std(ddof=1) / 2), (
        "seeds alone: the plain standard error"
    )
    freedom = whole**2 / (seeds**2 / 3 + examples**2 / 6 + rest**2 / 18)
    assert float(error.freedom) == pytest.approx(freedom)
    ours = t_interval(table)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(whole / 28)
    assert (ours.low, ours.high) == pytest.approx((table.mean() - half, table.mean() + half))


def test_mean_squares_equal_statsmodels():
    pandas, api = pytest.importorskip("pandas"), pytest.importorskip("statsmodels.formula.api")
    anova = pytest.importorskip("statsmodels.stats.anova")
    table = crossed(5, 5, 8)
    seed, example = np.indices(table.shape)
    rows = pandas.DataFrame({"y": table.ravel(), "seed": seed.ravel(), "example": example.ravel()})
    theirs = anova.anova_lm(api.ols("y ~ C(seed) + C(example)", rows).fit())
    squares = (theirs["sum_sq"] / theirs["df"]).tolist()
    assert squares == pytest.approx(literal_mean_squares(table))


def test_two_way_error_agrees_with_the_bootstrap_over_seeds_and_examples():
    """Drawing seeds and examples again shows the same spread where single answers add little to it (Owen 2007)."""
    table = crossed(2, 24, 40, rest=0.3)
    rng = np.random.default_rng(0)
    drawn = [table[rng.integers(0, 24, 24)][:, rng.integers(0, 40, 40)].mean() for _ in range(4000)]
    both = float(errors(moments(table[..., None]), [1.0]).whole)
    assert np.std(drawn) == pytest.approx(both, rel=0.07)
    assert float(errors(moments(table[..., None]), [1.0]).seeds) < 0.85 * both, "seeds alone hide the examples' part"


def test_many_quantities_at_once_are_the_same_as_each_alone():
    values = np.random.default_rng(3).normal(size=(4, 6, 3))
    weights = np.array([[1.0, 0, 0], [0.5, -1, 2]])
    together = errors(moments(values), weights)
    for row, whole, freedom in zip(weights, together.whole, together.freedom, strict=True):
        alone = errors(moments((values @ row)[..., None]), [1.0])
        assert whole == pytest.approx(float(alone.whole))
        assert freedom == pytest.approx(float(alone.freedom))


@pytest.mark.parametrize("n", [3, 10])
def test_new_seeds_and_new_examples_are_covered(n):
    """Seeds alone miss the truth far too often where one test set served all of them."""
    rng, blind, seeing, runs = np.random.default_rng(n), 0, 0, 400
    for _ in range(runs):
        table = rng.normal(size=(n, 1)) * 0.5 + rng.normal(size=40) * 3 + rng.normal(size=(n, 40))
        blind += 0.0 in t_interval(table.mean(axis=1))
        seeing += 0.0 in t_interval(table)
    assert abs(seeing / runs - 0.95) <= 0.02 + 3 * math.sqrt(0.95 * 0.05 / runs)
    assert blind / runs < 0.9


# --- ratios ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_ratio_interval_holds_what_a_t_test_does_not_reject(seed):
    rng = np.random.default_rng(seed)
    pairs = np.stack([rng.normal(1, 0.3, 6), rng.normal(3, 0.3, 6)], axis=1)
    ours = ratio_interval(moments(pairs), [1, 0], [0, 1], 0.9)

    def p(ratio):
        return stats.ttest_1samp(pairs[:, 0] - ratio * pairs[:, 1], 0).pvalue

    assert p(ours.estimate) == pytest.approx(1.0)
    assert p(ours.low) == pytest.approx(0.1)
    assert p(ours.high) == pytest.approx(0.1)


def test_ratio_interval_with_examples_holds_what_the_two_way_test_does_not_reject():
    """The ends are exact at the degrees of freedom of the estimate."""
    rng = np.random.default_rng(1)
    noise = crossed(1, 5, 30)[..., None] * 0.2
    values = np.concatenate([1 + noise, 3 + 0.1 * rng.normal(size=(5, 30, 1))], axis=2)
    found = moments(values)
    ours = ratio_interval(found, [1, 0], [0, 1])
    freedom = float(errors(found, [1, -ours.estimate]).freedom)
    for end in (ours.low, ours.high):
        weights = np.array([1, -end])
        t = abs(float(weights @ found.mean)) / float(errors(found, weights).whole)
        assert t == pytest.approx(float(t_quantile(freedom)), rel=1e-6)


def test_a_ratio_over_what_may_be_0_is_unbounded():
    values = moments([[1.0, 0.1], [1.1, -0.2], [0.9, 0.2]])
    ours = ratio_interval(values, [1, 0], [0, 1])
    assert (ours.low, ours.high) == (-math.inf, math.inf)
    assert ours.plain()["low"] is None
    nothing = ratio_interval(moments([[1.0, 0.0], [2.0, 0.0]]), [1, 0], [0, 1]).plain()
    assert nothing == {"estimate": None, "low": None, "high": None}


# --- sign flips -----------------------------------------------------------------------------------


@given(few)
@settings(max_examples=60, deadline=None)
def test_sign_flips_equal_their_literal_version(differences):
    assert sign_flip_test(differences) == literal_sign_flips(differences)
    assert sign_flip_test(differences, greater=True) == literal_sign_flips(differences, greater=True)


@pytest.mark.parametrize("n", [3, 6, 9])
def test_sign_flips_equal_scipy(n):
    differences = sample(n, n)
    for greater, alternative in ((False, "two-sided"), (True, "greater")):
        theirs = stats.permutation_test(
            (differences,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative=alternative
        )
        assert sign_flip_test(differences, greater=greater) == pytest.approx(theirs.pvalue)


def test_many_differences_are_counted_exactly_and_very_many_nearly_so():
    differences = np.random.default_rng(0).normal(0.35, 1, 30)
    flips = np.random.default_rng(1).choice([-1.0, 1.0], (200_000, 30)) @ differences
    share = float((np.abs(flips) >= abs(differences.sum())).mean())
    assert sign_flip_test(differences) == pytest.approx(share, rel=0.15)
    many = np.random.default_rng(2).normal(0.2, 1, 60)
    assert sign_flip_test(many) == pytest.approx(stats.ttest_1samp(many, 0).pvalue, rel=0.2)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
def test_the_smallest_p_is_that_of_seeds_that_all_agree(n):
    assert sign_flip_test(np.arange(1, n + 1)) == smallest_p(n)
    assert sign_flip_test(np.arange(1, n + 1), greater=True) == 1 / 2**n
    assert smallest_p(3) == 0.25, "three seeds cannot show anything at a usual level"


# --- Wilson, Holm -------------------------------------------------------------------


@pytest.mark.parametrize(("share", "examples"), [(0.0, 7), (0.5, 40), (0.9, 1000), (1.0, 25)])
def test_wilson_equals_statsmodels(share, examples):
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    theirs = proportion.proportion_confint(share * examples, examples, method="wilson")
    assert wilson(share, examples) == pytest.approx(theirs, abs=1e-12)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_holm_equals_its_literal_version(p):
    assert holm(p).tolist() == pytest.approx(literal_holm(p))


def test_holm_equals_statsmodels():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p = [0.001, 0.2, 0.04, 0.012, 0.04]
    assert holm(p) == pytest.approx(multitest.multipletests(p, method="holm")[1])


# --- properties -----------------------------------------------------------------------------------


@given(few, st.integers(-8, 8), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_intervals_move_and_scale_with_the_differences(differences, shift, scale):
    before, after = t_interval(differences, 0.6), t_interval(scale * differences + shift, 0.6)
    for name in ("estimate", "low", "high"):
        assert getattr(after, name) == pytest.approx(scale * getattr(before, name) + shift)


@given(few, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_tests_know_neither_the_order_of_the_seeds_nor_which_side_is_called_first(differences, random):
    shuffled = list(differences)
    random.shuffle(shuffled)
    for test in (t_test, sign_flip_test):
        assert test(shuffled) == pytest.approx(test(differences))
        assert test(-differences) == pytest.approx(test(differences))


def test_a_weighted_sum_is_the_interval_of_the_weighted_differences():
    values = sample(9, 6, 3)
    weights = [0.5, -1.0, 0.25]
    ours, theirs = interval_of(moments(values), weights), t_interval(values @ weights)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))


# --- coverage: a smaller part of tests/simulation.py -------------------------------------------------


@pytest.mark.parametrize("shape", ["normal", "skewness 1"])
@pytest.mark.parametrize("n", [3, 5, 10])
def test_intervals_cover_and_tests_raise_no_more_false_alarms_than_promised(shape, n):
    runs = 500
    found = mean_coverage(shape, n, runs, seed=n)
    slack = 0.02 + 3 * math.sqrt(0.95 * 0.05 / runs)
    assert abs(found["t"] - 0.95) <= slack
    assert found["t p"] <= 0.05 + slack
    for name in ("sign-flip p", "Wilcoxon p"):
        assert found[name] <= (0.0 if n < 6 else 0.05 + slack), "five seeds cannot reject at 5 %"


def test_plain_bootstraps_do_not_cover_with_few_seeds():
    """Why the t distribution is used: scipy's percentile and BCa intervals of five seeds."""
    rng, runs = np.random.default_rng(0), 200
    values = rng.normal(size=(runs, 5))
    for method in ("percentile", "BCa"):
        found = stats.bootstrap(
            (values,), np.mean, axis=1, method=method, n_resamples=999, rng=np.random.default_rng(1)
        ).confidence_interval
        assert ((found.low <= 0) & (found.high >= 0)).mean() < 0.9


def test_holm_keeps_false_alarms_of_five_strategies_within_the_level():
    runs = 200
    found = family_alarms(5, 5, runs)
    assert found["with Holm"] <= 0.05 + 3 * math.sqrt(0.95 * 0.05 / runs)
    assert found["without Holm"] > 0.1, "five uncorrected comparisons raise more false alarms than one may"
