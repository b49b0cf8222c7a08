"""The finished runs of one experiment, and the learning curves of two of its strategies paired by seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from guidestar.errors import ConfigError, allowed
from guidestar.metrics import savings
from guidestar.metrics.savings import Pair
from guidestar.metrics.statistics import Floats
from guidestar.records import Metrics
from guidestar.report.noise import Noise, read_noise
from guidestar.report.read import RunRecord
from guidestar.report.summary import control_of, shared_labels, shared_warm_start, strategy_names
from guidestar.store import Store
from guidestar.store.store import DATABASE


@dataclass(frozen=True)
class Dataset:
    """The finished runs of one experiment. strategies: all but the control, in the configuration's order. correct: run
    -> (points, examples), where all of them are known. noise: of training alone, where a run was probed for it."""

    name: str
    folder: Path
    runs: Mapping[tuple[str, int], RunRecord]
    control: str
    strategies: Sequence[str]
    correct: Mapping[str, Floats]
    left_out: Sequence[str]
    warm_starts: Mapping[str, bool]
    noise: Noise | None = None

    @property
    def floor(self) -> float | None:
        """How far two single trainings may be apart by chance, if that was measured."""
        return None if self.noise is None else self.noise.floor


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
            raise ConfigError(f"{home}: has no random strategy to compare with; name one: {allowed(names)}")
    elif control not in names:
        raise ConfigError(f"{home}: has no strategy {control!r} to compare with; {allowed(names, control)}")
    whole = [run for run in runs if run.curve and (run.finished or len(run.curve) == run.rounds)]
    left_out = [_why_left_out(run) for run in runs if run.name not in {one.name for one in whole}]
    places = {name: folder if (folder / DATABASE).is_file() else folder / name for name, (_, folder) in by_name.items()}
    correct = {run.name: known for run in whole if (known := right_answers(places[run.name], run.present)) is not None}
    return Dataset(
        str(runs[0].facts.get("name") or home.name), home, {(run.strategy, run.seed): run for run in whole}, control,
        [name for name in names if name != control], correct, left_out, shared_warm_start(whole),
        read_noise(list(places.values())),
    )  # fmt: skip


def told_apart(datasets: Sequence[Dataset]) -> list[Dataset]:
    """Folders of the same name get that of the folder above them."""
    names = Counter(data.name for data in datasets)
    return [
        replace(data, name=f"{data.folder.parent.name}/{data.name}") if names[data.name] > 1 else data
        for data in datasets
    ]


def _why_left_out(run: RunRecord) -> str:
    if not run.curve and run.metrics:
        return f"{run.name} is left out: it has no test set, so no accuracy is known."
    of = f" of {run.rounds}" if run.rounds else ""
    return f"{run.name} is left out: it is not finished, it has measured {len(run.metrics)}{of} rounds."


def right_answers(place: Path, measured: Sequence[Metrics]) -> Floats | None:
    """Which test examples a run answered rightly after each round, (points, examples); None if it is not all known."""
    if not (place / DATABASE).is_file():
        return None
    rounds = []
    with Store.open(place, read=True) as store:
        for metrics in measured:
            if "accuracy" not in metrics.values:
                continue
            if not store.has_arrays(metrics.round, "test"):
                return None
            arrays = store.arrays(metrics.round, "test")
            right = arrays.get("correct")
            if right is None and {"log_probs", "gold"} <= arrays.keys():
                right = arrays["log_probs"].argmax(axis=1) == arrays["gold"]
            if right is None or abs(float(np.mean(right)) - metrics.values["accuracy"]) > 1e-6:
                return None  # measured on something else
            rounds.append(np.asarray(right, dtype=np.float64))
    return np.stack(rounds) if len({len(right) for right in rounds}) == 1 else None


# --- pairing --------------------------------------------------------------------------------------


def shared_seeds(data: Dataset, row: str, column: str) -> list[int]:
    """The seeds that both have finished."""
    return sorted(seed for name, seed in data.runs if name == row and (column, seed) in data.runs)


def grids(data: Dataset, row: str, column: str, seeds: Sequence[int]) -> tuple[list[int], list[int]]:
    """Numbers of labels of the points of both; one is the beginning of the other."""
    own, other = (shared_labels([data.runs[name, seed] for seed in seeds]) for name in (row, column))
    shared = min(len(own), len(other))
    if own[:shared] != other[:shared]:
        own = other = shared_labels([data.runs[name, seed] for name in (row, column) for seed in seeds])
    return own, other


def paired(data: Dataset, row: str, column: str) -> Pair | None:
    """The curves of two strategies; None for fewer than two seeds or without a common point."""
    seeds = shared_seeds(data, row, column)
    own, other = grids(data, row, column, seeds) if len(seeds) > 1 else ([], [])
    if not own:
        return None
    runs = [data.runs[name, seed] for name in (row, column) for seed in seeds]
    known = all(run.name in data.correct for run in runs) and len({data.correct[r.name].shape[1] for r in runs}) == 1
    known = known and len({run.facts.get("data_hash") for run in runs}) == 1  # one test set in one order
    sides = []
    for name, labels in ((row, own), (column, other)):
        chosen = [data.runs[name, seed] for seed in seeds]
        sides.append(
            np.stack([data.correct[run.name][: len(labels)] for run in chosen]) if known else accuracies(chosen, labels)
        )
    return savings.pair(sides[0], sides[1], own, other)


def accuracies(runs: Sequence[RunRecord], labels: Sequence[int]) -> Floats:
    return np.array([[value for _, value in run.curve[: len(labels)]] for run in runs], dtype=np.float64)
