"""The random share of the picks: estimates that are right on average, and intervals that hold the truth."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from guidestar.metrics.sample import (
    Draw,
    difference,
    lure_weights,
    mean_share,
    pool_share,
    proportion,
    rest_share,
)
from guidestar.query.batches import gumbel_probabilities

SIMULATIONS = 1000


def test_the_interval_of_a_share_is_clopper_and_pearsons() -> None:
    for hits, n in [(0, 5), (3, 7), (7, 7), (40, 100)]:
        found, expected = proportion(hits, n), stats.binomtest(hits, n).proportion_ci(0.95, "exact")
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_a_sample_of_everything_leaves_no_doubt() -> None:
    found = proportion(3, 4, population=4)
    assert (found.low, found.high) == (0.75, 0.75)
    assert proportion(3, 4, population=5).low > proportion(3, 4, population=500).low > proportion(3, 4).low - 1e-9


@pytest.mark.parametrize(("hits", "n"), [(1, 0), (-1, 3), (4, 3)])
def test_impossible_counts_are_refused(hits: int, n: int) -> None:
    with pytest.raises(ValueError, match="hits in a sample"):
        proportion(hits, n)
    with pytest.raises(ValueError, match="no random example"):
        mean_share([Draw(0, 0, 5)])


def _campaign(
    rng: np.random.Generator, pool: int = 400, rounds: int = 6, random: int = 6, chosen: int = 18
) -> Iterator[tuple[np.ndarray, ...]]:
    """Rounds on a pool in which a strategy takes the examples that the model finds hard, and a class with them.

    Yields (random ids, chosen ids, unlabelled before, right: (pool,) whether this round's model is right).
    """
    hard = rng.random(pool)
    free = np.ones(pool, dtype=bool)
    for r in range(rounds):
        right = rng.random(pool) < np.clip(0.95 - 0.8 * hard + 0.05 * r, 0, 1)
        unlabelled = free.nonzero()[0]
        lucky = rng.choice(unlabelled, size=random, replace=False)
        others = np.setdiff1d(unlabelled, lucky)
        picked = others[np.argsort(-(hard[others] + 0.1 * rng.random(len(others))))][:chosen]
        free[lucky] = free[picked] = False
        yield lucky, picked, unlabelled, right, hard > 0.7


def test_accuracy_on_the_unlabelled_is_unbiased_and_its_interval_holds() -> None:
    """The strategy takes the hardest examples every round; accuracy over all picks would be far too low."""
    rng, inside, errors, naive = np.random.default_rng(0), 0, [], []
    for _ in range(SIMULATIONS):
        draws, truth, n, picked_right = [], 0.0, 0, []
        for lucky, picked, unlabelled, right, _ in _campaign(rng):
            draws.append(Draw(int(right[lucky].sum()), len(lucky), len(unlabelled)))
            truth += len(lucky) * right[unlabelled].mean()
            n += len(lucky)
            picked_right += [*right[lucky], *right[picked]]
        found, truth = mean_share(draws), truth / n
        inside += truth in found
        errors.append(found.estimate - truth)
        naive.append(np.mean(picked_right) - truth)
    assert abs(np.mean(errors)) < 3 * np.std(errors) / SIMULATIONS**0.5
    assert np.mean(naive) < -0.1, "the campaign must be one in which the picks mislead"
    assert inside / SIMULATIONS >= 0.94


def test_a_class_share_is_unbiased_though_the_strategy_hunts_the_class() -> None:
    rng, inside, errors, naive = np.random.default_rng(1), 0, [], []
    for _ in range(SIMULATIONS):
        draws, known = [], np.zeros(0, dtype=np.intp)
        for lucky, picked, unlabelled, _, rare in _campaign(rng):
            draws.append(Draw(int(rare[lucky].sum()), len(lucky), len(unlabelled), int(rare[known].sum()), len(known)))
            known = np.concatenate([known, lucky, picked])
        found = pool_share(draws)
        inside += float(rare.mean()) in found
        errors.append(found.estimate - rare.mean())
        naive.append(rare[known].mean() - rare.mean())
    assert abs(np.mean(errors)) < 3 * np.std(errors) / SIMULATIONS**0.5
    assert np.mean(naive) > 0.2
    assert inside / SIMULATIONS >= 0.94


def test_whether_picks_are_harder_is_found_and_not_imagined() -> None:
    rng, found_harder, false_alarms, inside = np.random.default_rng(2), 0, 0, 0
    for _ in range(SIMULATIONS):
        chosen, random, truth, weight = [], [], 0.0, 0
        for lucky, picked, unlabelled, right, _ in _campaign(rng):
            chosen.append((int((~right[picked]).sum()), len(picked)))
            random.append((int((~right[lucky]).sum()), len(lucky)))
            truth += len(picked) * ((~right[picked]).mean() - (~right[unlabelled]).mean())
            weight += len(picked)
        interval = difference(chosen, random)
        found_harder += interval.low > 0
        inside += truth / weight in interval
        same = [(int((rng.random(18) < 0.3).sum()), 18) for _ in range(6)]
        also = [(int((rng.random(6) < 0.3).sum()), 6) for _ in range(6)]
        alike = difference(same, also)
        false_alarms += alike.low > 0 or alike.high < 0
    assert found_harder / SIMULATIONS > 0.9
    assert inside / SIMULATIONS >= 0.95
    assert false_alarms / SIMULATIONS < 0.07


def test_rounds_without_a_random_example_are_left_out_of_the_difference() -> None:
    assert difference([(9, 9), (1, 2)], [(0, 0), (0, 3)]).estimate == 0.5
    with pytest.raises(ValueError, match="no round has chosen and random"):
        difference([(1, 2)], [(0, 0)])


def test_the_rest_of_the_pool_counts_labels_as_right() -> None:
    found = rest_share(Draw(hits=0, n=5, population=100, known=300, labelled=300))
    assert found.estimate == 0.75
    assert found.low == 0.75
    assert found.high < 0.88


def test_lure_is_unbiased_over_every_order_of_picks() -> None:
    """All ordered draws of 2 or 3 from 4 examples, each with its probability: no simulation, the exact mean."""
    losses, weights = np.array([0.0, 1.0, 5.0, -2.0]), np.array([0.5, 3.0, 1.0, 0.1])
    for count in (1, 2, 3, 4):
        expected = biased = 0.0
        for order in permutations(range(4), count):
            q = gumbel_probabilities(np.log(weights), order)
            chance = float(np.prod(q))
            expected += chance * float((lure_weights(q, 4) * losses[list(order)]).mean())
            biased += chance * float(losses[list(order)].mean())
        assert expected == pytest.approx(losses.mean())
        assert count == 4 or abs(biased - losses.mean()) > 0.1


def test_gumbel_probabilities_are_those_of_drawing_by_added_noise() -> None:
    rng, log_weights = np.random.default_rng(3), np.log([1.0, 2.0, 4.0])
    noisy = log_weights + rng.gumbel(size=(20_000, 3))
    share = float((np.argsort(-noisy, axis=1)[:, :2] == [2, 0]).all(axis=1).mean())
    assert share == pytest.approx(float(np.prod(gumbel_probabilities(log_weights, [2, 0]))), abs=0.01)


def test_weights_of_impossible_probabilities_are_refused() -> None:
    with pytest.raises(ValueError, match="picks of 2"):
        lure_weights([0.5, 0.0], 2)
    with pytest.raises(ValueError, match="picks of 1"):
        lure_weights([0.5, 0.5], 1)
