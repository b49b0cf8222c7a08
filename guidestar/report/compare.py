"""Did it pay? The strategies of one or several experiments beside their random control, in facts and in plain words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np

from guidestar.errors import ConfigError
from guidestar.metrics import savings, statistics
from guidestar.metrics.savings import Pair
from guidestar.metrics.statistics import LEVEL, Floats, Interval
from guidestar.metrics.verdict import (
    Decision,
    Kind,
    Verdict,
    can_claim,
    decide,
    few_seeds,
    judge,
    reached,
    win_tie_loss,
)
from guidestar.report.compare_text import compare_text
from guidestar.report.facts import Beside, Chances, Compared, Comparisons, Point, Row, Saved, StandardErrors
from guidestar.report.noise import beside_floor, noise_notes, small_gain
from guidestar.report.pairing import Both, Dataset, groups, read_dataset, told_apart
from guidestar.report.read import RunRecord, differing, read_runs
from guidestar.report.summary import cautions, unlearnt

__all__ = ["compare_text", "compared"]


def compared(
    folders: Sequence[Path], *, control: str | None = None, target: float | None = None, level: float = LEVEL,
    read: Callable[[Path], Sequence[RunRecord]] = read_runs,
) -> Comparisons:  # fmt: skip
    """Every strategy beside the control, over the seeds that both have finished.

    folders: experiment folders, one for each dataset; run folders of one experiment count as one. control: the
    strategy to compare with; the random one if not given. target: an accuracy for which savings are wanted. level: of
    the intervals. read: gives the runs of a folder. Accuracies, areas and shares are fractions.

    Raises GuidestarError if there is no run, StoreError if one cannot be read, ConfigError if the control is not there
    or target or level are no fractions.
    """
    for name, value in (("level", level), ("target", target)):
        if value is not None and not 0 < value < 1:
            raise ConfigError(f"{name} is {value}; allowed: a fraction between 0 and 1")
    datasets = told_apart([read_dataset(name, group, control, read) for name, group in groups(folders)])
    both = {(i, name): data.beside(name, data.control) for i, data in enumerate(datasets) for name in data.strategies}
    decided = decide({key: one.comparison(datasets[key[0]].floor) for key, one in both.items() if one.pair}, level)
    about = []
    for i, data in enumerate(datasets):
        rows = [_row(data, name, both[i, name], decided.get((i, name)), target, level) for name in data.strategies]
        about.append(_about(data, rows, level))
    comparisons = max((one.comparisons for one in decided.values()), default=0)
    return Comparisons(level, target, comparisons, about, _wins(datasets, level))


def beside_control(folder: Path, runs: Sequence[RunRecord]) -> Compared | None:
    """The one dataset of `compared` for the runs of an experiment or run folder; None without a random strategy or anything
    to set beside it."""
    try:
        data = compared([folder], read=lambda place: runs).datasets[0]
    except ConfigError:  # no random strategy
        return None
    return data if any(row.seeds for row in data.comparisons) else None


# --- over the datasets ------------------------------------------------------------------------------


def _wins(datasets: Sequence[Dataset], level: float) -> dict[str, dict[str, list[int]]] | None:
    """All strategies beside each other over the datasets."""
    pairs = {
        (i, row, column): both.comparison(data.floor)
        for i, data in enumerate(datasets)
        for row, column in combinations([*data.strategies, data.control], 2)
        if (both := data.beside(row, column)).pair
        and can_claim(len(both.seeds), level)
        and _unlike(data, (row, column), both.seeds) is None
    }
    if len(pairs) < 2:
        return None
    kinds: list[dict[tuple[str, str], Kind]] = [{} for _ in datasets]
    for (i, row, column), decision in decide(pairs, level).items():
        kinds[i][row, column] = decision.kind
    return {row: {column: list(n) for column, n in counts.items()} for row, counts in win_tie_loss(kinds).items()}


# --- one strategy beside the control --------------------------------------------------------------


def _row(data: Dataset, name: str, both: Both, decision: Decision | None, target: float | None, level: float) -> Row:
    names, seeds, (own, control) = (name, data.control), list(both.seeds), both.areas
    differences, unlike = own - control, _unlike(data, (name, data.control), both.seeds)
    mean = float(differences.mean()) if len(differences) else None
    row = Row(
        strategy=name, seeds=seeds, examples=None, auc=_beside(both.areas, None), final=_beside(both.ends, None),
        noise=beside_floor(data.noise, mean, len(seeds)),
        verdict=unlike or few_seeds(differences, names, level, data.floor),
        target_sentence=None if target is None
        else f"How many labels an accuracy of {target:g} takes beside {data.control} is said from two seeds on.",
    )  # fmt: skip
    if (pair := both.pair) is None or decision is None:
        return row
    at_target = None if target is None else savings.saving_at(pair, target, level)
    return replace(
        row,
        examples=pair.examples,
        points=_points(pair, level),
        auc=_beside(both.areas, savings.area_difference(pair, level)),
        final=_beside(both.ends, savings.final_difference(pair, level)),
        ripl=savings.ripl_interval(pair, level).plain(),
        deficiency=savings.deficiency_interval(pair, level=level).plain(),
        saved=Saved(savings.saving_on_average(pair, level).plain(), savings.saving_at_the_end(pair, level), at_target),
        p=Chances(
            savings.area_p(pair), decision.p, statistics.sign_flip_test(differences),
            statistics.smallest_p(len(seeds)),
        ),
        errors={"auc": _errors(pair, savings.area(pair)), "final": _errors(pair, savings.final(pair))},
        verdict=unlike or judge(pair, decision, names, level=level, target=target, floor=data.floor),
        target_sentence=None if at_target is None else reached(at_target, pair, names, level),
    )  # fmt: skip


def _unlike(data: Dataset, names: tuple[str, str], seeds: Sequence[int]) -> Verdict | None:
    """The verdict on runs that were not made alike."""
    if apart := differing([data.runs[name, seed] for name in names for seed in seeds]):
        listed = "; ".join(apart[:5]) + (f"; and {len(apart) - 5} more" if len(apart) > 5 else "")
        why = f"{names[0]} and {names[1]} were not made with the same configuration ({listed})"
        return Verdict("no evidence", f"{why}, so their difference is not that of the strategies alone.")
    return None


def _beside(sides: Sequence[Floats], difference: Interval | None) -> Beside:
    """Means of both sides over the seeds, and the interval of their difference."""
    own, other = (float(side.mean()) if len(side) else None for side in sides)
    if difference is not None:
        return Beside(own, other, difference.plain())
    apart = own - other if own is not None and other is not None else None
    return Beside(own, other, {"estimate": apart, "low": None, "high": None})


def _points(pair: Pair, level: float) -> list[Point]:
    """Both mean curves and the interval of their difference at every number of labels."""
    unit, points = np.eye(pair.shared), []
    for k in range(pair.shared):
        apart = statistics.interval_of(pair.moments, pair.weigh(unit[k], -unit[k]), level)
        both = _beside([pair.strategy[:, k], pair.control[:, k]], apart)
        points.append(Point(both.strategy, both.control, both.difference, int(pair.labels[k])))
    return points


def _errors(pair: Pair, weights: Floats) -> StandardErrors:
    error = statistics.errors(pair.moments, weights)
    if pair.examples is None:
        return StandardErrors(float(error.seeds), None, None)
    return StandardErrors(float(error.seeds), float(error.examples), float(error.whole))


# --- one dataset ----------------------------------------------------------------------------------


def _about(data: Dataset, rows: Sequence[Row], level: float) -> Compared:
    runs = list(data.runs.values())
    facts = runs[0].facts if runs else {}
    about = facts.get("data") or {}
    apart = [row.auc.difference["estimate"] or 0.0 for row in rows]
    small = [small_gain(row.strategy, row.verdict.kind, by, row.noise) for row, by in zip(rows, apart, strict=True)]
    noise = noise_notes(data.noise, max((len(row.seeds) for row in rows), default=0))
    return Compared(
        name=data.name,
        folder=str(data.folder),
        control=data.control,
        test=about.get("test"),
        labels=max(([labels for labels, _ in run.curve] for run in runs), key=len, default=[]),
        synthetic=bool(facts.get("synthetic")),
        shared_warm_start=data.warm_starts,
        noise=data.noise,
        left_out=[*data.left_out, *_unpaired(data)],
        warnings=unlearnt({run.name: run.curve[-1][1] for run in runs}, about.get("majority")),
        notes=[*_notes(data, rows, about.get("test"), level), *noise, *(note for notes in small for note in notes)],
        comparisons=rows,
    )


def _unpaired(data: Dataset) -> list[str]:
    """Finished runs whose seed the other side has not finished."""
    sentences = []
    for name, seed in data.runs:
        others = data.strategies if name == data.control else [data.control]
        if not any((other, seed) in data.runs for other in others):
            missing = f"{others[0]} has not" if len(others) == 1 else "no other strategy has"
            sentences.append(f"{data.runs[name, seed].name} is left out: {missing} finished seed {seed}.")
    return sentences


def _notes(data: Dataset, rows: Sequence[Row], test: int | None, level: float) -> list[str]:
    """What a reader must know before believing the sentences."""
    notes = cautions(any(run.facts.get("synthetic") for run in data.runs.values()), data.warm_starts)
    if len({run.facts.get("data_hash") for run in data.runs.values()}) > 1:
        notes.append("The runs were not made on the same data, so part of their difference comes from that.")
    if short := _cut(data):
        notes.append(short)
    counted = [row for row in rows if row.p is not None]
    if counted and all(row.examples for row in counted):
        notes.append(f"Intervals speak of new seeds and of new test examples like these {counted[0].examples}.")
    elif counted:
        notes.append(
            f"Which test examples were answered rightly is not kept for every round, so intervals speak of these "
            f"{test or ''} test examples alone; on others the difference may be another."
        )
    notes += [
        f"{row.strategy}: the test examples blur the difference more than the seeds do (standard errors "
        f"{error.examples:.4f} and {error.seeds:.4f}), so a larger test set would tell more than further seeds."
        for row in counted
        if row.verdict.kind == "no evidence"
        and can_claim(len(row.seeds), level)
        and (error := (row.errors or {})["auc"]).examples is not None
        and error.examples > error.seeds
    ]
    fewest = min((len(row.seeds) for row in counted), default=0)
    smallest = statistics.smallest_p(fewest)
    if counted and can_claim(fewest, level) and smallest > 1 - level:
        least = f"With {fewest} seeds the exact two-sided sign-flip test cannot give a p below {smallest:.4g}"
        notes.append(f"{least}; the intervals rest on the t distribution.")
    return notes


def _cut(data: Dataset) -> str | None:
    """A note if curves are compared over fewer points than they have."""
    for name in data.strategies:
        both = data.beside(name, data.control)
        curves = (data.curves[side][seed] for side in (name, data.control) for seed in both.seeds)
        longest = max((len(curve.points) for curve in curves), default=0)
        if both.points < longest:
            return f"{name} and {data.control} have only their first {both.points} numbers of labels in common, of {longest}."
    return None
