"""Pools where choosing must win, must tie and must lose: the permanent test of what `verdict` says about a run.

`python -m tools.verdicts 100 FILE` repeats every experiment a hundred times and writes how often each verdict
was given.

The pools are points and not texts, and the learner is a logistic regression, so that an experiment of several seeds takes
a second. Everything else is a run's own: `choose` picks by the recipes of the strategies' table, both curves of a seed
begin with the same warm start, every round fits anew on all labels, and the verdict is made from the answers on one test
set.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from guidestar.metrics.savings import Pair, pair
from guidestar.metrics.statistics import Floats, t_interval
from guidestar.metrics.verdict import Kind, area_by_seed, comparison_of, decide
from guidestar.query.probe import log_softmax
from guidestar.query.strategies import STRATEGIES, Context, Recipe, choose
from guidestar.records import Predictions
from guidestar.rng import generator
from guidestar.store.files import write_bytes

Indices = NDArray[np.intp]

POOL, TEST = 1500, 2000
WARM_START, BATCH, ROUNDS = 20, 10, 9
SEEDS = 8
_PENALTY = 1e-2  # of the squared weights, so that separable classes keep finite ones


@dataclass(frozen=True)
class Pool:
    """Points of a pool and of a test set. x: (pool, width). given: (pool,) the answers that an annotator gives, which
    may be wrong. test_x: (test, width). gold: (test,), always right. classes: how many there are."""

    x: Floats
    given: Indices
    test_x: Floats
    gold: Indices
    classes: int


@dataclass(frozen=True)
class World:
    """A kind of pool. truth: what the verdict on highest entropy beside random must be. why: in one line."""

    truth: Kind
    why: str
    make: Callable[[np.random.Generator], Pool]


# --- pools ------------------------------------------------------------------------------------------


def _halves(rng: np.random.Generator, n: int, width: int) -> tuple[Floats, Indices]:
    """Points of a standard normal distribution, split by a plane through the middle."""
    x = rng.normal(size=(n, width))
    return x, (x[:, 0] > 0).astype(np.intp)


def redundant(rng: np.random.Generator) -> Pool:
    """Nine in ten of the pool are copies of twenty examples, which the warm start has seen."""
    x, y = _halves(rng, POOL, 12)
    copies = rng.random(POOL) < 0.9
    which = rng.integers(0, 20, POOL)
    x[copies], y[copies] = x[which[copies]], y[which[copies]]
    test_x, gold = _halves(rng, TEST, 12)
    return Pool(x, y, test_x, gold, 2)


def imbalanced(rng: np.random.Generator) -> Pool:
    """Two of eight classes are nine tenths of the pool; the test set has as many of each."""
    centres = rng.normal(size=(8, 8)) * 1.6
    shares = np.array([0.45, 0.45, *[0.1 / 6] * 6])
    y, gold = rng.choice(8, POOL, p=shares), rng.integers(0, 8, TEST)
    return Pool(centres[y] + rng.normal(size=(POOL, 8)), y, centres[gold] + rng.normal(size=(TEST, 8)), gold, 8)


def alike(rng: np.random.Generator) -> Pool:
    """Every label tells as much as every other: of its own kind of example, and nothing of the 299 other kinds."""
    x, y = np.eye(300), rng.integers(0, 2, 300)
    return Pool(x, y, np.tile(x, (5, 1)), np.tile(y, 5), 2)


def saturated(rng: np.random.Generator) -> Pool:
    """Four classes far apart: the warm start teaches all there is."""
    centres = np.eye(4, 6) * 6
    y, gold = rng.integers(0, 4, POOL), rng.integers(0, 4, TEST)
    return Pool(centres[y] + rng.normal(size=(POOL, 6)), y, centres[gold] + rng.normal(size=(TEST, 6)), gold, 4)


def pure_noise(rng: np.random.Generator) -> Pool:
    """Answers that have nothing to do with the example."""
    return Pool(
        rng.normal(size=(POOL, 8)), rng.integers(0, 2, POOL), rng.normal(size=(TEST, 8)), rng.integers(0, 2, TEST), 2
    )


def outliers(rng: np.random.Generator) -> Pool:
    """One in seven of the pool is no example of the task: it is like all six classes at once, its answer is a die's, so
    that the model stays in doubt and learns nothing from it. The test set has none."""
    centres = _centres(rng)
    (x, y), (test_x, gold) = _around(centres, rng, POOL), _around(centres, rng, TEST)
    junk = np.flatnonzero(rng.random(POOL) < 0.15)
    x[junk], y[junk] = centres.mean(axis=0) + 0.1 * rng.normal(size=(len(junk), 12)), rng.integers(0, 6, len(junk))
    return Pool(x, y, test_x, gold, 6)


def wrong_labels(rng: np.random.Generator) -> Pool:
    """Annotators are mostly wrong where it is hard: near the border they say the other class."""
    x, y = _halves(rng, POOL, 6)
    slips = (np.abs(x[:, 0]) < 0.6) & (rng.random(POOL) < 0.9)
    test_x, gold = _halves(rng, TEST, 6)
    return Pool(x, np.where(slips, 1 - y, y), test_x, gold, 2)


def duplicates(rng: np.random.Generator) -> Pool:
    """Every example is there ten times, so that the most doubtful batch is one example and its copies."""
    centres = _centres(rng)
    (x, y), (test_x, gold) = _around(centres, rng, POOL // 10), _around(centres, rng, TEST)
    return Pool(np.tile(x, (10, 1)), np.tile(y, 10), test_x, gold, 6)


def _centres(rng: np.random.Generator) -> Floats:
    """Of six classes that overlap in part."""
    centres: Floats = 0.9 * rng.normal(size=(6, 12))
    return centres


def _around(centres: Floats, rng: np.random.Generator, n: int) -> tuple[Floats, Indices]:
    """Points around the centres of their classes, as many of each."""
    y = rng.integers(0, len(centres), n)
    return centres[y] + rng.normal(size=(n, centres.shape[1])), y


WORLDS: dict[str, World] = {
    "redundancy": World("gain", "nine in ten examples are copies of twenty", redundant),
    "imbalance": World("gain", "six of eight classes are rare, and random seldom meets them", imbalanced),
    "alike": World("no evidence", "every label tells as much as every other, and only of its own kind", alike),
    "saturated": World("no evidence", "the warm start teaches all there is", saturated),
    "pure noise": World("no evidence", "there is nothing to learn", pure_noise),
    "outliers": World("harm", "the most doubtful examples are none of the task", outliers),
    "wrong labels": World("harm", "annotators are mostly wrong near the border", wrong_labels),
    "duplicates": World("harm", "the most doubtful batch is one example and its copies", duplicates),
}


# --- an experiment ----------------------------------------------------------------------------------


def fit(x: Floats, y: Indices, classes: int) -> Floats:
    """Weights (width + 1, classes) of a logistic regression with a small penalty, the constant last.

    x: (n, width). y: (n,).
    """
    from scipy.optimize import minimize  # type: ignore[import-untyped]

    data, wanted = _with_constant(x), np.eye(classes)[y]

    def loss(flat: Floats) -> tuple[float, Floats]:
        weights = flat.reshape(-1, classes)
        logs = log_softmax(data @ weights)
        gradient = data.T @ (np.exp(logs) - wanted) / len(data) + 2 * _PENALTY * weights
        return float(-(wanted * logs).sum() / len(data) + _PENALTY * (weights**2).sum()), gradient.ravel()

    found = minimize(loss, np.zeros(data.shape[1] * classes), jac=True, method="L-BFGS-B")
    weights: Floats = found.x.reshape(-1, classes)
    return weights


def predict(weights: Floats, x: Floats) -> Floats:
    """Log-probabilities (n, classes)."""
    return np.asarray(log_softmax(_with_constant(x) @ weights), dtype=np.float64)


def _with_constant(x: Floats) -> Floats:
    return np.concatenate([x, np.ones((len(x), 1))], axis=1)


def run(pool: Pool, recipe: Recipe, seed: int) -> Floats:
    """Which test examples were answered rightly after each round, (rounds, test). The warm start depends on the seed
    alone, the batches on the recipe too."""
    ids = [f"{i:05d}" for i in range(len(pool.x))]
    labels = tuple(str(c) for c in range(pool.classes))
    labelled = generator(seed, 0, "query").choice(len(ids), WARM_START, replace=False).tolist()
    right = []
    for r in range(ROUNDS):
        weights = fit(pool.x[labelled], pool.given[labelled], pool.classes)
        right.append(predict(weights, pool.test_x).argmax(axis=1) == pool.gold)
        left = np.setdiff1d(np.arange(len(ids)), labelled)
        names = tuple(ids[i] for i in left)
        arrays = {"label_log_probs": predict(weights, pool.x[left])[None], "embedding": pool.x[left][None]}
        seen = Predictions(names, arrays, labels)
        context = Context(t=r, rounds=ROUNDS, kind="choice", full=seen, base=seen)
        picks = choose(recipe, names, context, BATCH, generator(seed, r + 1, "query")).picks
        labelled += [int(pick.id) for pick in picks]
    return np.array(right, dtype=np.float64)


def curves(world: World, recipe: Recipe, seeds: int, start: int = 0) -> Floats:
    """The recipe's runs on one pool and test set, (seeds, rounds, test).

    start: number of the experiment; another one has another pool and other seeds.
    """
    pool = world.make(np.random.default_rng([start, 7]))
    return np.array([run(pool, recipe, 1000 * start + seed) for seed in range(seeds)])


def experiment(world: World, number: int = 0, recipe: Recipe = STRATEGIES["entropy"]) -> Pair:
    """A recipe beside random on one pool, paired by seed."""
    own, other = (curves(world, one, SEEDS, number) for one in (recipe, STRATEGIES["random"]))
    return pair(own, other, points())


def points() -> list[int]:
    """The numbers of labels of the curves."""
    return [WARM_START + BATCH * r for r in range(ROUNDS)]


def study(experiments: int) -> Iterator[dict[str, Any]]:
    """Every world: how often each verdict was given, and the difference of the areas over all experiments."""
    for name, world in WORLDS.items():
        found = [experiment(world, number) for number in range(experiments)]
        kinds = [decide({0: comparison_of(one)})[0].kind for one in found]
        yield {
            "world": name, "why": world.why, "truth": world.truth,
            "verdicts": {kind: kinds.count(kind) / experiments for kind in get_args(Kind)},
            "difference": t_interval([float(area_by_seed(one).mean()) for one in found]).plain(),
        }  # fmt: skip


def main(experiments: int, path: Path) -> None:
    """Write the study as JSON."""
    rows = []
    for row in study(experiments):
        print(json.dumps(row), file=sys.stderr, flush=True)
        rows.append(json.dumps(row))
    head = f'"experiments": {experiments}, "seeds": {SEEDS}, "labels": {points()}, "pool": {POOL}, "test": {TEST}'
    joined = ",\n".join(rows)
    write_bytes(path, f'{{{head}, "rows": [\n{joined}\n]}}\n'.encode())


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
