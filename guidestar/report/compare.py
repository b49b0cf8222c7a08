"""Did it pay? The strategies of one or several experiments beside their random control, in facts and in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from guidestar.errors import ConfigError
from guidestar.metrics import savings, statistics
from guidestar.metrics.curve import auc
from guidestar.metrics.savings import Pair, Saving
from guidestar.metrics.scores import not_above_majority
from guidestar.metrics.statistics import LEVEL, Floats, Interval
from guidestar.metrics.verdict import (
    Decision,
    Kind,
    Verdict,
    area_by_seed,
    can_claim,
    comparison_of,
    decide,
    few_seeds,
    judge,
    reached,
    win_tie_loss,
)
from guidestar.report.compare_text import compare_text
from guidestar.report.noise import beside_floor, noise_notes
from guidestar.report.pairing import (
    Dataset,
    accuracies,
    grids,
    groups,
    paired,
    read_dataset,
    shared_labels,
    shared_seeds,
    told_apart,
)
from guidestar.report.read import differing
from guidestar.rng import generator

__all__ = ["compare", "compare_text"]


def compare(
    folders: Sequence[Path], *, control: str | None = None, target: float | None = None, level: float = LEVEL
) -> dict[str, Any]:
    """Every strategy beside the control, over the seeds that both have finished, as JSON-able facts.

    folders: experiment folders, one for each dataset; run folders of one experiment count as one. control: the
    strategy to compare with; the random one if not given. target: an accuracy for which savings are wanted. level: of
    the intervals.

    Keys: "level", "target", "comparisons" (how many p values Holm's correction counts); "datasets", each with "name",
    "folder", "control", "test" (examples), "labels" of the points, "left_out", "warnings" and "notes" (sentences), "noise" (how far
    training alone moves the accuracy: "floor", "sd", "degrees", "runs"; None if no run was probed for it),
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
    datasets = told_apart([read_dataset(name, group, control) for name, group in groups(folders)])
    pairs = {(i, name): paired(data, name, data.control) for i, data in enumerate(datasets) for name in data.strategies}
    page = {key: comparison_of(found, datasets[key[0]].floor) for key, found in pairs.items() if found}
    decided = decide(page, level)
    facts = []
    for i, data in enumerate(datasets):
        rows = [_facts(data, name, pairs[i, name], decided.get((i, name)), target, level) for name in data.strategies]
        facts.append(_about(data, rows, level))
    return {
        "level": level,
        "target": target,
        "comparisons": max((one.comparisons for one in decided.values()), default=0),
        "datasets": facts,
        "wins": _wins(datasets, level),
    }


def beside_control(folder: Path) -> Mapping[str, Any] | None:
    """The one dataset of `compare` for an experiment or run folder; None without a random strategy or anything to set
    beside it."""
    try:
        found: Mapping[str, Any] = compare([folder])["datasets"][0]
    except ConfigError:  # no random strategy
        return None
    return found if any(row["seeds"] for row in found["comparisons"]) else None


def sentences(data: Mapping[str, Any]) -> list[str]:
    """The verdicts on a dataset of `compare`, one sentence each; with the strategy's name where there are several."""
    rows = data["comparisons"]
    named = len(rows) > 1
    return [f"{row['strategy']}: {row['verdict']['sentence']}" if named else row["verdict"]["sentence"] for row in rows]


# --- over the datasets ------------------------------------------------------------------------------


def _wins(datasets: Sequence[Dataset], level: float) -> dict[str, dict[str, list[int]]] | None:
    """All strategies beside each other over the datasets."""
    pairs = {
        (i, row, column): comparison_of(found, data.floor)
        for i, data in enumerate(datasets)
        for row, column in combinations([*data.strategies, data.control], 2)
        if (found := paired(data, row, column)) is not None
        and can_claim(found.seeds, level)
        and _unlike(data, (row, column), shared_seeds(data, row, column)) is None
    }
    if len(pairs) < 2:
        return None
    kinds: list[dict[tuple[str, str], Kind]] = [{} for _ in datasets]
    for (i, row, column), decision in decide(pairs, level).items():
        kinds[i][row, column] = decision.kind
    return {row: {column: list(n) for column, n in found.items()} for row, found in win_tie_loss(kinds).items()}


# --- facts ----------------------------------------------------------------------------------------


def _facts(
    data: Dataset, name: str, found: Pair | None, decision: Decision | None, target: float | None, level: float,
) -> dict[str, Any]:  # fmt: skip
    """One strategy beside the control.

    Keys: "strategy", "seeds"; "points" (for each number of "labels" both means and their "difference"); "auc", "final" (means of "strategy" and "control", and their "difference"), "ripl",
    "deficiency" (intervals); "saved": "on_average" (an interval), "at_the_end", "at_target" (with "accuracy",
    "labels", "control_labels", "share" and "bound"); "effect_size" (d_z of the areas); "p" of the areas: "t", "holm",
    "sign_flips" and the "smallest" it can be, "wilcoxon"; "intervals" of the area by other means: "sign_flips",
    "bootstrap"; "errors": standard errors of "auc" and "final" by "seeds" alone, what the "examples" add, and "both";
    "noise": the difference of the areas beside the noise floor, see `noise.beside_floor`; "verdict": "kind" and "sentence"; "target_sentence". What needs two seeds is None for fewer.
    """
    names, seeds = (name, data.control), shared_seeds(data, name, data.control)
    if found is None or decision is None:
        return _facts_of_few(data, name, seeds, level, target)
    differences, points = area_by_seed(found), found.shared
    last = savings.final(found)
    verdict = judge(found, level=level, target=target, names=names, decision=decision, floor=data.floor)
    verdict = _unlike(data, names, seeds) or verdict
    at_target = None if target is None else savings.saving_at(found, target, level)
    areas = [curves[:, :points] @ savings.steps(points) for curves in (found.strategy, found.control)]
    ends = [curves[:, points - 1] for curves in (found.strategy, found.control)]
    return {
        "strategy": name,
        "seeds": seeds,
        "examples": found.examples,
        "points": _points(found, level),
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
            "holm": decision.p,
            "sign_flips": statistics.sign_flip_test(differences),
            "smallest": statistics.smallest_p(len(seeds)),
            "wilcoxon": statistics.wilcoxon(differences),
        },
        "intervals": _other_intervals(differences, level),
        "errors": {"auc": _errors(found, savings.area(found)), "final": _errors(found, last)},
        "noise": beside_floor(data.noise, float(differences.mean()), len(seeds)),
        "verdict": vars(verdict),
        "target_sentence": None if at_target is None else reached(at_target, found, names, level),
    }


def _unlike(data: Dataset, names: tuple[str, str], seeds: Sequence[int]) -> Verdict | None:
    """The verdict on runs that were not made alike."""
    if apart := differing([data.runs[name, seed] for name in names for seed in seeds]):
        listed = "; ".join(apart[:5]) + (f"; and {len(apart) - 5} more" if len(apart) > 5 else "")
        return Verdict(
            "no evidence",
            f"{names[0]} and {names[1]} were not made with the same configuration ({listed}), so their difference is not "
            "that of the strategies alone.",
        )
    return None


def _facts_of_few(data: Dataset, name: str, seeds: Sequence[int], level: float, target: float | None) -> dict[str, Any]:
    """The same for a strategy with one seed or none in common with the control, or no point."""
    own, other = grids(data, name, data.control, seeds) if seeds else ([], [])
    points = min(len(own), len(other))
    sides = [accuracies([data.runs[s, seed] for seed in seeds], own[:points]) for s in (name, data.control)]
    areas = [np.array([auc(curve) for curve in side]) if points else np.array([]) for side in sides]
    ends = [side[:, -1] if points else np.array([]) for side in sides]
    empty = ("points", "ripl", "deficiency", "saved", "effect_size", "p", "intervals", "errors")
    differences = areas[0] - areas[1]
    names = (name, data.control)
    verdict = _unlike(data, names, seeds) or few_seeds(differences, names, level, data.floor)
    few = (
        f"How many labels an accuracy of {target:g} takes beside {data.control} is said from two seeds on."
        if target
        else None
    )
    return {
        "strategy": name,
        "seeds": list(seeds),
        "examples": None,
        "auc": _beside(areas, None),
        "final": _beside(ends, None),
        **dict.fromkeys(empty),
        "noise": beside_floor(data.noise, float(differences.mean()) if len(differences) else None, len(seeds)),
        "verdict": vars(verdict),
        "target_sentence": few,
    }


def _beside(sides: Sequence[Floats], difference: Interval | None) -> dict[str, Any]:
    """Means of both sides over the seeds, and the interval of their difference."""
    own, other = (float(side.mean()) if len(side) else None for side in sides)
    if difference is None:
        apart = own - other if own is not None and other is not None else None
        return {"strategy": own, "control": other, "difference": {"estimate": apart, "low": None, "high": None}}
    return {"strategy": own, "control": other, "difference": difference.plain()}


def _points(found: Pair, level: float) -> list[dict[str, Any]]:
    """Both mean curves and the interval of their difference at every number of labels."""
    unit, rows = np.eye(found.shared), []
    for k in range(found.shared):
        apart = statistics.interval_of(found.moments, found.weigh(unit[k], -unit[k]), level)
        sides = [found.strategy[:, k], found.control[:, k]]
        rows.append({"labels": int(found.labels[k]), **_beside(sides, apart)})
    return rows


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


def _about(data: Dataset, rows: Sequence[dict[str, Any]], level: float) -> dict[str, Any]:
    runs = list(data.runs.values())
    facts = runs[0].facts if runs else {}
    test = (facts.get("data") or {}).get("test")
    points = max((shared_labels([run]) for run in runs), key=len, default=[])
    return {
        "name": data.name,
        "folder": str(data.folder),
        "control": data.control,
        "test": test,
        "labels": points,
        "synthetic": bool(facts.get("synthetic")),
        "shared_warm_start": data.warm_starts,
        "noise": None if data.noise is None else data.noise.plain(),
        "left_out": [*data.left_out, *_unpaired(data)],
        "warnings": not_above_majority(
            {run.name: run.curve[-1][1] for run in runs}, (facts.get("data") or {}).get("majority")
        ),
        "notes": [*_notes(data, rows, test, level), *noise_notes(data.noise, rows)],
        "comparisons": list(rows),
    }


def _unpaired(data: Dataset) -> list[str]:
    """Finished runs whose seed the other side has not finished."""
    found = []
    for name, seed in data.runs:
        others = data.strategies if name == data.control else [data.control]
        if not any((other, seed) in data.runs for other in others):
            missing = f"{others[0]} has not" if len(others) == 1 else "no other strategy has"
            found.append(f"{data.runs[name, seed].name} is left out: {missing} finished seed {seed}.")
    return found


def _notes(data: Dataset, rows: Sequence[Mapping[str, Any]], test: int | None, level: float) -> list[str]:
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


def _cut(data: Dataset) -> str | None:
    """A note if curves are compared over fewer points than they have."""
    lengths = {run.name: len(run.curve) for run in data.runs.values()}
    for name in data.strategies:
        seeds = shared_seeds(data, name, data.control)
        if not seeds:
            continue
        own, other = grids(data, name, data.control, seeds)
        used = min(len(own), len(other))
        longest = max(lengths[data.runs[side, seed].name] for side in (name, data.control) for seed in seeds)
        if used < longest:
            return f"{name} and {data.control} have only their first {used} numbers of labels in common, of {longest}."
    return None
