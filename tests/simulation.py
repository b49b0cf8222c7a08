"""Learning curves whose truth is known, to count how often an interval holds it and a test raises a false alarm.

`python tests/simulation.py 1000 results/statistics/coverage.json` repeats the whole study, which
docs/statistics.md shows; the suite runs a smaller part of it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import stats

from guidestar.metrics.savings import (
    Pair,
    area_difference,
    area_p,
    deficiency_interval,
    final_difference,
    pair,
    ripl_interval,
    saving_at,
    saving_at_the_end,
    saving_on_average,
)
from guidestar.metrics.statistics import (
    Interval,
    holm,
    sign_flip_test,
    t_interval,
    t_test,
)
from guidestar.metrics.verdict import comparison_of, decide

Curve = Callable[[np.ndarray], np.ndarray]


def power_law(ceiling: float, drop: float, power: float) -> Curve:
    return lambda labels: ceiling - drop * np.asarray(labels, dtype=float) ** -power


def s_shaped(low: float, high: float, middle: float, steep: float) -> Curve:
    """No power law: flat, a rise at `middle` labels, flat."""
    return lambda labels: low + (high - low) / (1 + (np.asarray(labels, dtype=float) / middle) ** -steep)


@dataclass(frozen=True)
class World:
    """A control's true curve, and a strategy whose labels after the warm start are worth `speed` random ones each."""

    control: Curve
    labels: np.ndarray
    speed: float

    def strategy(self, labels: np.ndarray) -> np.ndarray:
        start = self.labels[0]
        return self.control(start + (np.asarray(labels, dtype=float) - start) * self.speed)

    @property
    def curves(self) -> tuple[np.ndarray, np.ndarray]:
        return self.strategy(self.labels), self.control(self.labels)

    def needs(self, accuracy: float) -> tuple[float, float]:
        """Labels that strategy and control need, by bisection over far more labels than are measured."""
        found = []
        for curve in (self.strategy, self.control):
            low, high = float(self.labels[0]), 1e6
            for _ in range(80):
                middle = (low + high) / 2
                low, high = (middle, high) if curve(np.array(middle)) < accuracy else (low, middle)
            found.append(high)
        return found[0], found[1]

    def saved(self, accuracy: float | None = None) -> float:
        """The true share saved to reach an accuracy, the lower of the two ends if none is given."""
        if accuracy is None:
            accuracy = float(min(values[-1] for values in self.curves))
        own, other = self.needs(accuracy)
        return 1 - own / other


@dataclass(frozen=True)
class Noise:
    """seed: shared by both curves of a seed; own: of a run, correlated along the curve by `along` a step; examples: of
    the test set, drawn anew for each point; skewed: own noise with a skewness of 1 instead of normal noise."""

    seed: float = 0.015
    own: float = 0.012
    along: float = 0.8
    examples: int = 500
    skewed: bool = False


def heights(world: World, seeds: int, rng: np.random.Generator, noise: Noise, strategies: int = 1) -> np.ndarray:
    """True accuracy of every model, (strategies + 1, seeds, points), the control last. All curves of a seed begin
    with the same model."""
    points = len(world.labels)
    size = (strategies + 1, seeds, points)
    steps = (rng.gamma(4, size=size) - 4) / 2 if noise.skewed else rng.normal(size=size)
    runs = steps.copy()
    for k in range(1, points):
        runs[..., k] = noise.along * runs[..., k - 1] + np.sqrt(1 - noise.along**2) * steps[..., k]
    runs += (runs[-1:, :, :1] - runs[..., :1]) * noise.along ** np.arange(points)
    own, other = world.curves
    truth = np.stack([own] * strategies + [other])[:, None]
    return np.clip(truth + noise.seed * rng.normal(size=(seeds, 1)) + noise.own * runs, 0, 1)


def accuracies(
    world: World, seeds: int, rng: np.random.Generator, noise: Noise = Noise(), strategies: int = 1
) -> np.ndarray:
    """Measured accuracies (strategies + 1, seeds, points), the control last, with binomial noise of the test set."""
    found = rng.binomial(noise.examples, heights(world, seeds, rng, noise, strategies)) / noise.examples
    found[..., 0] = found[-1, :, 0]
    return found


def answers(world: World, seeds: int, rng: np.random.Generator, noise: Noise = Noise()) -> np.ndarray:
    """Right (1) or wrong (0) for each test example, (2, seeds, points, examples): the strategy's and the control's
    models, all on one test set.

    How hard an example is holds in part for all models, for one of the two strategies, for one run and for one model.
    A model of height h answers a share h of all possible examples rightly, so the truth is that of `heights`.
    """
    from scipy.special import ndtri

    m, points = noise.examples, len(world.labels)
    hard, found = rng.normal(size=m), []
    for level in heights(world, seeds, rng, noise):
        leaning = 0.6 * hard + 0.4 * rng.normal(size=m)
        run = 0.4 * rng.normal(size=(seeds, 1, m))
        rest = np.sqrt(1 - 0.36 - 0.16 - 0.16) * rng.normal(size=(seeds, points, m))
        found.append((leaning + run + rest < ndtri(level)[:, :, None]).astype(float))
    found[0][:, 0] = found[1][:, 0]
    return np.stack(found)


def unknown_answers(world: World, seeds: int, rng: np.random.Generator, noise: Noise = Noise()) -> np.ndarray:
    """`answers` of which only the accuracies are known, so that the test set's own noise cannot be seen."""
    return answers(world, seeds, rng, noise).mean(axis=3)


# --- counting -------------------------------------------------------------------------------------


def intervals(found: Pair, target: float) -> dict[str, Interval | None]:
    """Every interval of a pair of curves."""
    end, at = saving_at_the_end(found), saving_at(found, target)
    return {
        "area": area_difference(found), "final": final_difference(found), "RIPL": ripl_interval(found),
        "deficiency": deficiency_interval(found), "saved on average": saving_on_average(found),
        "saved at the end": end and end.share, "saved at a target": at and at.share,
    }  # fmt: skip


def truths(world: World, target: float) -> dict[str, float]:
    """What those intervals should hold."""
    own, other = world.curves
    mean, control = (float(((c[1:] + c[:-1]) / 2).mean()) for c in (own, other))
    widths, labels = np.diff(world.labels), world.labels
    under, below = (float((widths * (c[1:] + c[:-1]) / 2).sum()) for c in (own, other))
    needed = labels[-1] * max(own[-1], other[-1]) - labels[0] * other[0] - below
    return {
        "area": mean - control, "final": float(own[-1] - other[-1]), "RIPL": (mean - control) / (1 - control),
        "deficiency": (other[-1] - mean) / (other[-1] - control), "saved on average": (under - below) / needed,
        "saved at the end": world.saved(), "saved at a target": world.saved(target),
    }  # fmt: skip


Draw = Callable[..., np.ndarray]


def coverage(
    world: World, seeds: int, simulations: int, noise: Noise, draw: Draw = accuracies, target: float | None = None,
    seed: int = 0,
) -> dict[str, float]:  # fmt: skip
    """The share of simulations in which each interval held the truth, and in which p of the area was below 0.05: a
    false alarm where the speed is 1, else a difference found."""
    rng = np.random.default_rng(seed)
    own, other = world.curves
    target = float(0.3 * other[0] + 0.7 * min(own[-1], other[-1])) if target is None else target
    truth = truths(world, target)
    counts = dict.fromkeys([*truth, "p < 0.05"], 0)
    for _ in range(simulations):
        found = pair(*draw(world, seeds, rng, noise), world.labels)
        for name, interval in intervals(found, target).items():
            counts[name] += interval is not None and truth[name] in interval
        counts["p < 0.05"] += area_p(found) <= 0.05
    return {name: count / simulations for name, count in counts.items()}


SHAPES: Mapping[str, Callable[[int, np.random.Generator], np.ndarray]] = {
    "normal": lambda n, rng: rng.normal(size=n),
    "skewness 1": lambda n, rng: (rng.gamma(4, size=n) - 4) / 2,
    "heavy tails": lambda n, rng: rng.standard_t(5, size=n) / np.sqrt(5 / 3),
}


def mean_coverage(shape: str, seeds: int, simulations: int, seed: int = 0) -> dict[str, float]:
    """The share of samples whose interval of the mean held the truth, and false alarms of the tests."""
    rng = np.random.default_rng(seed)
    counts = dict.fromkeys(["t", "t p", "sign-flip p", "Wilcoxon p"], 0)
    for _ in range(simulations):
        values = SHAPES[shape](seeds, rng)
        counts["t"] += 0.0 in t_interval(values)
        counts["t p"] += t_test(values) <= 0.05
        counts["sign-flip p"] += sign_flip_test(values) <= 0.05
        counts["Wilcoxon p"] += stats.wilcoxon(values).pvalue <= 0.05
    return {name: count / simulations for name, count in counts.items()}


def family_alarms(strategies: int, seeds: int, simulations: int, seed: int = 0) -> dict[str, float]:
    """The share of experiments with any false alarm, when `strategies` that are random are compared with random."""
    rng, world = np.random.default_rng(seed), replace(WORLDS["power law"], speed=1.0)
    plain = corrected = 0
    for _ in range(simulations):
        *own, other = accuracies(world, seeds, rng, strategies=strategies)
        p = [area_p(pair(curves, other, world.labels)) for curves in own]
        plain += min(p) <= 0.05
        corrected += float(holm(p).min()) <= 0.05
    return {"without Holm": plain / simulations, "with Holm": corrected / simulations}


LABELS = np.arange(100, 501, 50)
WORLDS = {
    "power law": World(power_law(0.92, 3.0, 0.6), LABELS, 1.5),
    "slow power law": World(power_law(0.95, 1.2, 0.3), np.arange(100, 1001, 50), 2.0),
    "s-shaped": World(s_shaped(0.55, 0.9, 220, 2.2), LABELS, 1.5),
}


def words(world: World, seeds: int, simulations: int, noise: Noise = Noise(), seed: int = 0) -> dict[str, float]:
    """How often each verdict was given."""
    rng, counts = np.random.default_rng(seed), dict.fromkeys(("gain", "no evidence", "harm"), 0)
    for _ in range(simulations):
        found = pair(*accuracies(world, seeds, rng, noise), world.labels)
        counts[decide({0: comparison_of(found)})[0].kind] += 1
    return {kind: count / simulations for kind, count in counts.items()}


NOISES = {"smooth": Noise(), "skewed": Noise(skewed=True), "rough": Noise(along=0.0)}


def study(simulations: int) -> Iterator[dict[str, object]]:
    """The whole study, one row after the other: what was simulated and the shares that were found."""
    for shape in SHAPES:
        for n in (3, 4, 5, 6, 7, 10):
            yield {"about": "means", "world": shape, "seeds": n, "found": mean_coverage(shape, n, simulations)}
    for n in (5, 10):
        for name, world in WORLDS.items():
            for speed in (1.0, world.speed, 1 / world.speed):
                for title, noise in NOISES.items():
                    found = coverage(replace(world, speed=speed), n, simulations, noise)
                    yield {"about": "curves", "world": name, "speed": speed, "noise": title, "seeds": n, "found": found}
        for speed in (1.0, 1.5, 1 / 1.5):
            world = replace(WORLDS["power law"], speed=speed)
            for m in (200, 1000):
                for title, draw in (("known", answers), ("not known", unknown_answers)):
                    found = coverage(world, n, simulations, Noise(examples=m), draw)
                    row = {"about": "examples", "answers": title, "examples": m, "speed": speed, "seeds": n}
                    yield {**row, "found": found}
        yield {"about": "families", "strategies": 5, "seeds": n, "found": family_alarms(5, n, simulations)}
        for name, world in WORLDS.items():
            for speed in (1.0, world.speed, 1 / world.speed):
                found = words(replace(world, speed=speed), n, simulations)
                yield {"about": "verdicts", "world": name, "speed": speed, "seeds": n, "found": found}


def main(simulations: int, path: Path) -> None:
    rows = []
    for row in study(simulations):
        print(json.dumps(row), file=sys.stderr, flush=True)
        rows.append(row)
    listed = ",\n".join(json.dumps(row) for row in rows)
    head = f'"simulations": {simulations}, "level": 0.95, "numpy": "{np.__version__}"'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{{{head}, "rows": [\n{listed}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
