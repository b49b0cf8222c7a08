"""Did it pay? The strategies of one or several experiments beside their random control, in facts and in plain words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from guidestar.errors import ConfigError, allowed
from guidestar.metrics import savings, statistics
from guidestar.metrics.curve import auc
from guidestar.metrics.savings import Pair, Saving
from guidestar.metrics.statistics import LEVEL, Floats, Interval, holm
from guidestar.metrics.verdict import (
    Kind,
    area_by_seed,
    can_claim,
    decide,
    few_seeds,
    judge,
    reached,
    win_tie_loss,
)
from guidestar.report.compare_text import compare_text
from guidestar.report.read import RunRecord, read_runs
from guidestar.report.summary import strategy_names
from guidestar.rng import generator
from guidestar.store import Store
from guidestar.store.store import DATABASE

__all__ = ["compare", "compare_text"]


@dataclass(frozen=True)
class _Dataset:
    """The finished runs of one experiment. correct: run -> (points, examples), where all of them are known."""

    name: str
    folder: Path
    runs: Mapping[tuple[str, int], RunRecord]
    control: str
    correct: Mapping[str, Floats]
    left_out: Sequence[str]
    warm_starts: Mapping[str, bool]

    @property
    def strategies(self) -> list[str]:
        """All but the control, in the configuration's order."""
        return [name for name in strategy_names(list(self.runs.values())) if name != self.control]


def compare(
    folders: Sequence[Path], *, control: str | None = None, target: float | None = None, level: float = LEVEL
) -> dict[str, Any]:
    """Every strategy beside the control, over the seeds that both have finished, as JSON-able facts.

    folders: experiment folders, one for each dataset; run folders of one experiment count as one. control: the
    strategy to compare with; the random one if not given. target: an accuracy for which savings are wanted. level: of
    the intervals.

    Keys: "level", "target", "comparisons" (how many p values Holm's correction counts); "datasets", each with "name",
    "folder", "control", "test" (examples), "labels" of the points, "left_out" and "notes" (sentences),
    "shared_warm_start" (seed -> whether all strategies began with the same picks) and "comparisons", see `_facts`;
    "wins", strategy -> strategy -> [wins, ties, losses] over the datasets, Holm-corrected for all its pairs, or None
    where there is only one pair.
    Accuracies, areas and shares are fractions; None stands for what cannot be given, in an interval for an open end.

    Raises GuidestarError if there is no run, StoreError if one cannot be read, ConfigError if the control is not there
    or target or level are no fractions.
    """
    for name, value in (("level", level), ("target", target)):
        if value is not None and not 0 < value < 1:
            raise ConfigError(f"{name} is {value}; allowed: a fraction between 0 and 1")
    datasets = [_dataset(name, group, control) for name, group in _groups(folders)]
    pairs = {(i, name): _pair(data, name, data.control) for i, data in enumerate(datasets) for name in data.strategies}
    tested = {key: savings.area_p(found) for key, found in pairs.items() if found and can_claim(found.seeds, level)}
    corrected = dict(zip(tested, holm(list(tested.values())).tolist(), strict=True))
    facts = []
    for i, data in enumerate(datasets):
        rows = [
            _facts(data, name, pairs[i, name], corrected.get((i, name)), len(tested), target, level)
            for name in data.strategies
        ]
        facts.append(_about(data, rows, level))
    return {
        "level": level,
        "target": target,
        "comparisons": len(tested),
        "datasets": facts,
        "wins": _wins(datasets, level),
    }


# --- reading --------------------------------------------------------------------------------------


def _groups(folders: Sequence[Path]) -> list[tuple[Path, list[Path]]]:
    """(experiment folder, its folders to read): run folders that lie in one folder belong together."""
    groups: dict[Path, list[Path]] = {}
    for folder in dict.fromkeys(folders):
        home = folder.resolve().parent if (folder / DATABASE).is_file() else folder.resolve()
        groups.setdefault(home, []).append(folder)
    return list(groups.items())


def _dataset(home: Path, folders: Sequence[Path], control: str | None) -> _Dataset:
    found = {run.name: (run, folder) for folder in folders for run in read_runs(folder)}
    runs = [run for run, _ in found.values()]
    names = strategy_names(runs)
    if control is None:
        control = next((run.strategy for run in runs if run.is_random), None)
        if control is None:
            raise ConfigError(f"{home}: has no random strategy to compare with; name one: {allowed(names)}")
    elif control not in names:
        raise ConfigError(f"{home}: has no strategy {control!r} to compare with; {allowed(names, control)}")
    whole = [run for run in runs if run.curve and (run.finished or len(run.curve) == run.rounds)]
    left_out = [_why_left_out(run) for run in runs if run.name not in {one.name for one in whole}]
    places = {name: folder if (folder / DATABASE).is_file() else folder / name for name, (_, folder) in found.items()}
    correct = {run.name: known for run in whole if (known := _correct(places[run.name], run)) is not None}
    return _Dataset(
        str(runs[0].facts.get("name") or home.name), home, {(run.strategy, run.seed): run for run in whole}, control,
        correct, left_out, _warm_starts(whole),
    )  # fmt: skip


def _why_left_out(run: RunRecord) -> str:
    if not run.curve and run.metrics:
        return f"{run.name} is left out: it has no test set, so no accuracy is known."
    of = f" of {run.rounds}" if run.rounds else ""
    return f"{run.name} is left out: it is not finished, it has measured {len(run.metrics)}{of} rounds."


def _correct(place: Path, run: RunRecord) -> Floats | None:
    """Which test examples were answered rightly after each round, (points, examples); None if it is not all known."""
    if not (place / DATABASE).is_file():
        return None
    found = []
    with Store.open(place) as store:
        for metrics in run.metrics:
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
            found.append(np.asarray(right, dtype=np.float64))
    return np.stack(found) if len({len(right) for right in found}) == 1 else None


def _warm_starts(runs: Sequence[RunRecord]) -> dict[str, bool]:
    """Seed -> whether all its runs began with the same examples, where there are several."""
    starts: dict[int, list[frozenset[str]]] = {}
    for run in runs:
        starts.setdefault(run.seed, []).append(frozenset(pick.id for pick in run.queries[0].picks))
    return {str(seed): len(set(found)) == 1 for seed, found in sorted(starts.items()) if len(found) > 1}


# --- pairing --------------------------------------------------------------------------------------


def _seeds(data: _Dataset, row: str, column: str) -> list[int]:
    """The seeds that both have finished."""
    return sorted(seed for name, seed in data.runs if name == row and (column, seed) in data.runs)


def _labels(runs: Iterable[RunRecord]) -> list[int]:
    """The numbers of labels that all curves have in common from the start."""
    common = []
    for points in zip(*(run.curve for run in runs), strict=False):
        if len({labels for labels, _ in points}) > 1:
            break
        common.append(points[0][0])
    return common


def _grids(data: _Dataset, row: str, column: str, seeds: Sequence[int]) -> tuple[list[int], list[int]]:
    """Numbers of labels of the points of both; one is the beginning of the other."""
    own, other = (_labels([data.runs[name, seed] for seed in seeds]) for name in (row, column))
    shared = min(len(own), len(other))
    if own[:shared] != other[:shared]:
        own = other = _labels([data.runs[name, seed] for name in (row, column) for seed in seeds])
    return own, other


def _pair(data: _Dataset, row: str, column: str) -> Pair | None:
    """The curves of two strategies; None for fewer than two seeds or without a common point."""
    seeds = _seeds(data, row, column)
    own, other = _grids(data, row, column, seeds) if len(seeds) > 1 else ([], [])
    if not own:
        return None
    runs = [data.runs[name, seed] for name in (row, column) for seed in seeds]
    known = all(run.name in data.correct for run in runs) and len({data.correct[r.name].shape[1] for r in runs}) == 1
    known = known and len({run.facts.get("data_hash") for run in runs}) == 1  # one test set in one order
    sides = []
    for name, labels in ((row, own), (column, other)):
        chosen = [data.runs[name, seed] for seed in seeds]
        sides.append(
            np.stack([data.correct[run.name][: len(labels)] for run in chosen])
            if known
            else _accuracies(chosen, labels)
        )
    return savings.pair(sides[0], sides[1], own, other)


def _accuracies(runs: Sequence[RunRecord], labels: Sequence[int]) -> Floats:
    return np.array([[value for _, value in run.curve[: len(labels)]] for run in runs], dtype=np.float64)


def _wins(datasets: Sequence[_Dataset], level: float) -> dict[str, dict[str, list[int]]] | None:
    """All strategies beside each other over the datasets."""
    pairs = {
        (i, row, column): found
        for i, data in enumerate(datasets)
        for row, column in combinations([*data.strategies, data.control], 2)
        if (found := _pair(data, row, column)) is not None and can_claim(found.seeds, level)
    }
    if len(pairs) < 2:
        return None
    corrected = holm([savings.area_p(found) for found in pairs.values()])
    kinds: list[dict[tuple[str, str], Kind]] = [{} for _ in datasets]
    for ((i, row, column), found), p in zip(pairs.items(), corrected.tolist(), strict=True):
        kinds[i][row, column] = decide(found, p, level)
    return {row: {column: list(n) for column, n in found.items()} for row, found in win_tie_loss(kinds).items()}


# --- facts ----------------------------------------------------------------------------------------


def _facts(
    data: _Dataset, name: str, found: Pair | None, corrected: float | None, comparisons: int, target: float | None,
    level: float,
) -> dict[str, Any]:  # fmt: skip
    """One strategy beside the control.

    Keys: "strategy", "seeds"; "auc", "final" (means of "strategy" and "control", and their "difference"), "ripl",
    "deficiency" (intervals); "saved": "on_average" (an interval), "at_the_end", "at_target" (with "accuracy",
    "labels", "control_labels", "share" and "bound"); "effect_size" (d_z of the areas); "p" of the areas: "t", "holm",
    "sign_flips" and the "smallest" it can be, "wilcoxon"; "intervals" of the area by other means: "sign_flips",
    "bootstrap"; "errors": standard errors of "auc" and "final" by "seeds" alone, what the "examples" add, and "both";
    "verdict": "kind" and "sentence"; "target_sentence". What needs two seeds is None for fewer.
    """
    names, seeds = (name, data.control), _seeds(data, name, data.control)
    if found is None:
        return _facts_of_few(data, name, seeds, level)
    differences, points = area_by_seed(found), found.shared
    last = savings.final(found)
    verdict = judge(found, level=level, target=target, names=names, p=corrected, comparisons=comparisons)
    at_target = None if target is None else savings.saving_at(found, target, level)
    areas = [curves[:, :points] @ savings.steps(points) for curves in (found.strategy, found.control)]
    ends = [curves[:, points - 1] for curves in (found.strategy, found.control)]
    return {
        "strategy": name,
        "seeds": seeds,
        "examples": found.examples,
        "auc": _beside(areas, savings.area_difference(found, level)),
        "final": _beside(ends, savings.final_difference(found, level)),
        "ripl": savings.ripl_interval(found, level).plain(),
        "deficiency": savings.deficiency_interval(found, level=level).plain(),
        "saved": {
            "on_average": savings.saving_on_average(found, level).plain(),
            "at_the_end": _saving(savings.saving_at_the_end(found, level)),
            "at_target": _saving(at_target),
        },
        "effect_size": _effect_size(differences, level),
        "p": {
            "t": savings.area_p(found),
            "holm": corrected,
            "sign_flips": statistics.sign_flip_test(differences),
            "smallest": statistics.smallest_p(len(seeds)),
            "wilcoxon": statistics.wilcoxon(differences),
        },
        "intervals": _other_intervals(differences, level),
        "errors": {"auc": _errors(found, savings.area(found)), "final": _errors(found, last)},
        "verdict": vars(verdict),
        "target_sentence": None if at_target is None else reached(at_target, found, names, level),
    }


def _facts_of_few(data: _Dataset, name: str, seeds: Sequence[int], level: float) -> dict[str, Any]:
    """The same for a strategy with one seed or none in common with the control, or no point."""
    own, other = _grids(data, name, data.control, seeds) if seeds else ([], [])
    points = min(len(own), len(other))
    sides = [_accuracies([data.runs[s, seed] for seed in seeds], own[:points]) for s in (name, data.control)]
    areas = [np.array([auc(curve) for curve in side]) if points else np.array([]) for side in sides]
    ends = [side[:, -1] if points else np.array([]) for side in sides]
    empty = ("ripl", "deficiency", "saved", "effect_size", "p", "intervals", "errors", "target_sentence")
    verdict = few_seeds(areas[0] - areas[1], (name, data.control), level)
    return {
        "strategy": name,
        "seeds": list(seeds),
        "examples": None,
        "auc": _beside(areas, None),
        "final": _beside(ends, None),
        **dict.fromkeys(empty),
        "verdict": vars(verdict),
    }


def _beside(sides: Sequence[Floats], difference: Interval | None) -> dict[str, Any]:
    """Means of both sides over the seeds, and the interval of their difference."""
    own, other = (float(side.mean()) if len(side) else None for side in sides)
    if difference is None:
        apart = own - other if own is not None and other is not None else None
        return {"strategy": own, "control": other, "difference": {"estimate": apart, "low": None, "high": None}}
    return {"strategy": own, "control": other, "difference": difference.plain()}


def _saving(saving: Saving | None) -> dict[str, Any] | None:
    return None if saving is None else {**vars(saving), "share": saving.share.plain()}


def _effect_size(differences: Floats, level: float) -> dict[str, float | None] | None:
    try:
        return statistics.effect_size(differences, level).plain()
    except ValueError:  # too few seeds, or all alike
        return None


def _other_intervals(differences: Floats, level: float) -> dict[str, dict[str, float | None] | None]:
    few = len(differences) <= statistics.MOST_SUBSETS
    rng = generator(0, 0, "compare")
    return {
        "sign_flips": statistics.sign_flip_interval(differences, level).plain() if few else None,
        "bootstrap": statistics.bootstrap_interval(differences, rng, level).plain(),
    }


def _errors(found: Pair, weights: Floats) -> dict[str, float | None]:
    error = statistics.errors(found.moments, weights)
    known = found.examples is not None
    return {
        "seeds": float(error.seeds),
        "examples": float(error.examples) if known else None,
        "both": float(error.whole) if known else None,
    }


# --- one dataset ----------------------------------------------------------------------------------


def _about(data: _Dataset, rows: Sequence[dict[str, Any]], level: float) -> dict[str, Any]:
    runs = list(data.runs.values())
    facts = runs[0].facts if runs else {}
    test = (facts.get("data") or {}).get("test")
    points = max((_labels([run]) for run in runs), key=len, default=[])
    return {
        "name": data.name,
        "folder": str(data.folder),
        "control": data.control,
        "test": test,
        "labels": points,
        "synthetic": bool(facts.get("synthetic")),
        "shared_warm_start": data.warm_starts,
        "left_out": [*data.left_out, *_unpaired(data)],
        "notes": _notes(data, rows, test, level),
        "comparisons": list(rows),
    }


def _unpaired(data: _Dataset) -> list[str]:
    """Finished runs whose seed the other side has not finished."""
    found = []
    for name, seed in data.runs:
        others = data.strategies if name == data.control else [data.control]
        if not any((other, seed) in data.runs for other in others):
            found.append(
                f"{data.runs[name, seed].name} is left out: {' and '.join(others) or 'nothing'} has not finished seed {seed}."
            )
    return found


def _notes(data: _Dataset, rows: Sequence[Mapping[str, Any]], test: int | None, level: float) -> list[str]:
    """What a reader must know before believing the sentences."""
    notes = []
    if any(run.facts.get("synthetic") for run in data.runs.values()):
        notes.append("The data are synthetic: a program wrote them, so they say nothing about real texts.")
    if apart := [seed for seed, same in data.warm_starts.items() if not same]:
        notes.append(
            f"The strategies of seed {', '.join(apart)} did not begin with the same examples, so part of their "
            "difference comes from the warm start."
        )
    if len({run.facts.get("data_hash") for run in data.runs.values()}) > 1:
        notes.append("The runs were not made on the same data, so part of their difference comes from that.")
    if short := _cut(data):
        notes.append(short)
    counted = [row for row in rows if row["p"] is not None]
    if counted and all(row["examples"] for row in counted):
        notes.append(f"Intervals speak of new seeds and of new test examples like these {counted[0]['examples']}.")
    elif counted:
        notes.append(
            f"Which test examples were answered rightly is not kept for every round, so intervals speak of these "
            f"{test or ''} test examples alone; on others the difference may be another."
        )
    notes += [
        f"{row['strategy']}: the test examples blur the difference more than the seeds do (standard errors "
        f"{row['errors']['auc']['examples']:.4f} and {row['errors']['auc']['seeds']:.4f}), so a larger test set would "
        "tell more than further seeds."
        for row in counted
        if row["verdict"]["kind"] == "no evidence"
        and can_claim(len(row["seeds"]), level)
        and (row["errors"]["auc"]["examples"] or 0) > row["errors"]["auc"]["seeds"]
    ]
    fewest = min((len(row["seeds"]) for row in counted), default=0)
    smallest = statistics.smallest_p(fewest)
    if counted and can_claim(fewest, level) and smallest > 1 - level:
        notes.append(
            f"With {fewest} seeds the exact two-sided sign-flip test cannot give a p below {smallest:.4g}; the "
            "intervals rest on the t distribution."
        )
    return notes


def _cut(data: _Dataset) -> str | None:
    """A note if curves are compared over fewer points than they have."""
    lengths = {run.name: len(run.curve) for run in data.runs.values()}
    for name in data.strategies:
        seeds = _seeds(data, name, data.control)
        if not seeds:
            continue
        own, other = _grids(data, name, data.control, seeds)
        used = min(len(own), len(other))
        longest = max(lengths[data.runs[side, seed].name] for side in (name, data.control) for seed in seeds)
        if used < longest:
            return f"{name} and {data.control} have only their first {used} numbers of labels in common, of {longest}."
    return None
