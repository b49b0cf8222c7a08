"""The finished runs of one experiment, and the learning curves of two of its strategies paired by seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path

import numpy as np

from guidestar.errors import ConfigError, allowed
from guidestar.metrics import savings
from guidestar.metrics.savings import Pair, auc
from guidestar.metrics.scores import right_of
from guidestar.metrics.statistics import Floats
from guidestar.metrics.verdict import Comparison, comparison, comparison_of
from guidestar.report.noise import Noise, read_noise
from guidestar.report.read import RunRecord
from guidestar.report.summary import Points, control_of, shared_labels, shared_warm_start, strategy_names
from guidestar.store import Store
from guidestar.store.store import DATABASE


@dataclass(frozen=True)
class Dataset:
    """The finished runs of one experiment. strategies: all but the control, in the configuration's order. curves: strategy
    -> seed -> of its run. noise: of training alone, where a run was probed for it."""

    name: str
    folder: Path
    runs: Mapping[tuple[str, int], RunRecord]
    control: str
    strategies: Sequence[str]
    curves: Mapping[str, Mapping[int, Curve]]
    left_out: Sequence[str]
    warm_starts: Mapping[str, bool]
    noise: Noise | None = None

    @property
    def floor(self) -> float | None:
        """How far two single trainings may be apart by chance, if that was measured."""
        return None if self.noise is None else self.noise.floor

    def beside(self, row: str, column: str) -> Both:
        """Two of the strategies."""
        return side_by_side(self.curves[row], self.curves[column])


# --- reading --------------------------------------------------------------------------------------


def groups(folders: Sequence[Path]) -> list[tuple[Path, list[Path]]]:
    """(experiment folder, its folders to read): run folders that lie in one folder belong together."""
    homes: dict[Path, list[Path]] = {}
    for folder in dict.fromkeys(folders):
        home = folder.resolve().parent if (folder / DATABASE).is_file() else folder.resolve()
        homes.setdefault(home, []).append(folder)
    return list(homes.items())


def read_dataset(
    home: Path, folders: Sequence[Path], control: str | None, read: Callable[[Path], Sequence[RunRecord]]
) -> Dataset:
    by_name = {run.name: (run, folder) for folder in folders for run in read(folder)}
    runs = [run for run, _ in by_name.values()]
    names = strategy_names(runs)
    if control is None:
        control = control_of(runs)
        if control is None:
            mend = f"name one: {allowed(names)}" if len(names) > 1 else f"it ran {names[0]} alone; run random beside it"
            raise ConfigError(f"{home}: has no random strategy to compare with; {mend}")
    elif control not in names:
        raise ConfigError(f"{home}: has no strategy {control!r} to compare with; {allowed(names, control)}")
    whole = [run for run in runs if run.curve and (run.finished or len(run.curve) == run.configured)]
    left_out = [_why_left_out(run) for run in runs if run.name not in {one.name for one in whole}]
    places = {name: folder if (folder / DATABASE).is_file() else folder / name for name, (_, folder) in by_name.items()}
    curves: dict[str, dict[int, Curve]] = {name: {} for name in names}
    for run in whole:
        correct = right_answers(places[run.name], run.since)
        curves[run.strategy][run.seed] = Curve(run.curve, correct, run.facts.get("data_hash"))
    return Dataset(
        str(runs[0].facts.get("name") or home.name), home, {(run.strategy, run.seed): run for run in whole}, control,
        [name for name in names if name != control], curves, left_out, shared_warm_start(whole),
        read_noise(list(places.values())),
    )  # fmt: skip


def told_apart(datasets: Sequence[Dataset]) -> list[Dataset]:
    """Folders of the same name get that of the folder above them."""
    names = Counter(data.name for data in datasets)
    return [replace(d, name=f"{d.folder.parent.name}/{d.name}") if names[d.name] > 1 else d for d in datasets]


def _why_left_out(run: RunRecord) -> str:
    if not run.curve and run.metrics:
        return f"{run.name} is left out: it has no test set, so no accuracy is known."
    of = f" of {run.configured}" if run.configured else ""
    return f"{run.name} is left out: it is not finished, it has measured {len(run.metrics)}{of} rounds."


def right_answers(place: Path, since: int = 0) -> Floats | None:
    """Which test examples a run answered rightly after each round from `since` on, (points, examples); None if it is not all
    known."""
    if not (place / DATABASE).is_file():
        return None
    rounds = []
    with Store.open(place, read=True) as store:
        for metrics in store.metrics():
            if metrics.round < since or "accuracy" not in metrics.values:
                continue
            if not store.has_arrays(metrics.round, "test"):
                return None
            right = right_of(store.arrays(metrics.round, "test"))
            if right is None or abs(float(np.mean(right)) - metrics.values["accuracy"]) > 1e-6:
                return None  # measured on something else
            rounds.append(np.asarray(right, dtype=np.float64))
    return np.stack(rounds) if len({len(right) for right in rounds}) == 1 else None


# --- pairing --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """A learning curve. correct: (points, examples), 1 where a test example was answered rightly; None where that is not
    known of all. data: what it was measured on; on the same data in the same order, answers are paired, too."""

    points: Points
    correct: Floats | None = None
    data: str | None = None


@dataclass(frozen=True)
class Both:
    """Two strategies over the seeds that both have. points: numbers of labels that all these curves have in common from the
    start. pair: their curves; None for fewer than two seeds or without a common point. areas, ends: (seeds,) of either, over
    the common points."""

    seeds: tuple[int, ...]
    points: int
    pair: Pair | None
    areas: tuple[Floats, Floats]
    ends: tuple[Floats, Floats]

    def comparison(self, floor: float | None) -> Comparison:
        """What a verdict is made from. floor: see `Comparison`."""
        if self.pair is None:
            return comparison(self.areas[0] - self.areas[1], floor)
        return comparison_of(self.pair, floor)


def side_by_side(own: Mapping[int, Curve], other: Mapping[int, Curve]) -> Both:
    """Two strategies, whose curves are given by seed. One may be longer than the other, if it begins alike."""
    seeds = tuple(sorted(own.keys() & other.keys()))
    sides = [[one[seed] for seed in seeds] for one in (own, other)]
    labels = [shared_labels(curve.points for curve in side) for side in sides]
    points = min(map(len, labels))
    if labels[0][:points] != labels[1][:points]:
        labels = [shared_labels(curve.points for side in sides for curve in side)] * 2
        points = len(labels[0])
    pair = None
    if len(seeds) > 1 and points:
        curves = [*sides[0], *sides[1]]
        sizes = {None if curve.correct is None else curve.correct.shape[1] for curve in curves}
        known = None not in sizes and len(sizes) == 1 and len({curve.data for curve in curves}) == 1
        heights = [[_heights(curve, len(at), known) for curve in side] for side, at in zip(sides, labels, strict=True)]
        pair = savings.pair(*map(np.stack, heights), *labels)
    plain = [[_heights(curve, points) for curve in side] for side in sides]
    whole = plain if pair is None else [list(pair.strategy), list(pair.control)]
    kept = [[values[:points] for values in side if points] for side in whole]
    areas, ends = ([np.array([of(values) for values in side]) for side in kept] for of in (auc, itemgetter(-1)))
    return Both(seeds, points, pair, (areas[0], areas[1]), (ends[0], ends[1]))


def _heights(curve: Curve, points: int, known: bool = False) -> Floats:
    """(points,) accuracies, or (points, examples) where single answers are known."""
    if known and curve.correct is not None:
        return curve.correct[:points]
    return np.array([value for _, value in curve.points[:points]], dtype=np.float64)
