"""An experiment in numbers and one honest sentence: curves, areas, spreads, and what they do not show."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from operator import itemgetter
from pathlib import Path
from typing import Any

from guidestar.metrics.chosen import sentences
from guidestar.metrics.savings import auc, ripl
from guidestar.metrics.scores import not_above_majority, right_of
from guidestar.report.facts import Shared, Spread, StrategyFacts, Summary
from guidestar.report.read import RunRecord, differing
from guidestar.store.store import DATABASE
from guidestar.words import count, duration, listed

Points = Sequence[Sequence[float]]  # (labels, accuracy) of each round of a learning curve


def summarise(folder: str | Path, runs: Sequence[RunRecord]) -> Summary:
    """The experiment of these runs."""
    folder, facts = Path(folder), runs[0].facts
    data = facts.get("data") or {}
    compared, points = _comparable(runs)
    summary = Summary(
        sentence="",
        warnings=(),
        notes=(),
        folder=str(folder),
        name=(facts.get("name") if (folder / DATABASE).is_file() else None) or folder.resolve().name,
        synthetic=bool(facts.get("synthetic")),
        test=data.get("test"),
        majority=data.get("majority"),
        base=_base_accuracy(runs),
        runs=runs,
        compared=Shared(
            sorted({run.seed for run in compared}),
            [labels for labels, _ in compared[0].curve[:points]] if compared else [],
        ),
        control=control_of(compared),
        strategies=_strategies(compared, points),
        shared_warm_start=shared_warm_start(runs),
        config=_without_places(facts.get("config") or {}),
        versions=facts.get("versions"),
        hardware=facts.get("hardware"),
        data_hash=facts.get("data_hash"),
    )
    warnings = unlearnt({run.name: run.final for run in summary.runs}, summary.majority)
    return replace(summary, sentence=_sentence(summary), warnings=warnings, notes=_notes(summary, runs))


def unlearnt(reached: Mapping[str, float | None], majority: Mapping[str, Any] | None) -> list[str]:
    """`not_above_majority`, but silent on a test set of one class: no model can be above 1 there."""
    return [] if majority and majority["share"] >= 1 else not_above_majority(reached, majority)


def status_text(facts: Summary) -> str:
    """A summary for a terminal: a line for each run, then the sentence and the notes."""
    width = max(len(run.name) for run in facts.runs)
    lines = [f"{run.name:<{width}}  {state(run)}" for run in facts.runs]
    others = [row.strategy for row in facts.strategies if row.strategy != facts.control]
    asked = [f"Whether choosing paid: guidestar compare {facts.folder}"] if facts.control and others else []
    return "\n".join([*lines, "", facts.sentence, *facts.notes, *asked])


def _without_places(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without the folders of one machine; the data's hash stands for its files."""
    kept = {key: value for key, value in config.items() if key != "out"}
    places = ("folder", "pool", "test", "validation")
    kept["data"] = {key: value for key, value in kept.get("data", {}).items() if key not in places}
    return kept


def waiting(run: RunRecord) -> str:
    """What an unfinished run waits for; empty if nothing is known of that. Questions asked ahead hold up no training."""
    if run.due is not None:
        return f"round {run.due} has its answers, its training is not finished"
    return f"waits for {count(run.unanswered, 'answer')}" if run.unanswered else ""


def state(run: RunRecord, *, why: bool = True) -> str:
    """Where a run stands: '2 of 5 rounds, 34 labels (4 since the last training); waits for 4 answers'. why: also for which
    reason it is finished."""
    of = f" of {run.planned}" if run.planned else ""
    new = f" ({run.given - run.labels} since the last training)" if run.labels and run.given > run.labels else ""
    new += f", {run.held_out:,} more set aside as the test set" if run.held_out else ""
    reached = f", accuracy {run.final:.3f}" if run.final is not None else ""
    spent = f", {duration(sum(run.seconds.values()))}" if run.seconds else ""
    waits = waiting(run) or "not finished"
    ends = waits
    if run.finished:
        ends = f"finished: {run.finished.value.rstrip('.')}" if why else "finished"
    return f"{len(run.metrics)}{of} rounds, {count(max(run.given, run.labels), 'label')}{new}{reached}{spent}; {ends}"


def _base_accuracy(runs: Sequence[RunRecord]) -> float | None:
    right = next((right_of(run.test["base"]) for run in runs if "base" in run.test), None)
    return None if right is None else float(right.mean())


# --- runs beside each other -----------------------------------------------------------------------


def _comparable(runs: Sequence[RunRecord]) -> tuple[list[RunRecord], int]:
    """The runs that may be set beside each other, and over how many points of their curves.

    Seeds that every strategy has finished as far as any run has; if there is none, all measured runs as far
    as they share their numbers of labels.
    """
    measured = [run for run in runs if run.curve]
    longest = max((len(run.curve) for run in measured), default=0)
    whole = {(run.strategy, run.seed) for run in measured if len(run.curve) == longest}
    names = strategy_names(runs)
    seeds = {run.seed for run in runs if all((name, run.seed) in whole for name in names)}
    chosen = [run for run in measured if run.seed in seeds] if seeds else measured
    points = len(shared_labels(run.curve for run in chosen))
    return (chosen, points) if points else ([], 0)


def shared_labels(curves: Iterable[Points]) -> list[float]:
    """The numbers of labels that all curves have in common from the start."""
    points = zip(*curves, strict=False)
    return [at[0][0] for at in takewhile(lambda at: len({labels for labels, _ in at}) == 1, points)]


def strategy_names(runs: Sequence[RunRecord]) -> list[str]:
    """The strategies of some runs, each once, in their order."""
    return list(dict.fromkeys(run.strategy for run in runs))


def _strategies(runs: Sequence[RunRecord], points: int) -> list[StrategyFacts]:
    values = {(run.strategy, run.seed): [v for _, v in run.curve[:points]] for run in runs}
    control = control_of(runs)
    rows = []
    for name in strategy_names(runs):
        seeds = sorted(seed for strategy, seed in values if strategy == name)
        areas, ends = ([of(values[name, seed]) for seed in seeds] for of in (auc, itemgetter(-1)))
        rows.append(StrategyFacts(name, seeds, Spread.of(areas), Spread.of(ends), _ripl(name, control, values)))
    return rows


def control_of(runs: Sequence[RunRecord]) -> str | None:
    """The strategy that draws at random, if there is one."""
    return next((run.strategy for run in runs if run.is_random), None)


def _ripl(name: str, control: str | None, values: Mapping[tuple[str, int], Sequence[float]]) -> float | None:
    """RIPL of the mean areas over the seeds that both have; None for the control itself."""
    if control is None or name == control:
        return None
    seeds = [seed for strategy, seed in values if strategy == name and (control, seed) in values]
    if not seeds:
        return None
    own = statistics.fmean(auc(values[name, seed]) for seed in seeds)
    random = statistics.fmean(auc(values[control, seed]) for seed in seeds)
    return ripl(own, random) if random < 1 else None


def shared_warm_start(runs: Sequence[RunRecord]) -> dict[str, bool]:
    """Seed -> whether all its runs began with the same examples, where there are several."""
    starts: dict[int, list[frozenset[str]]] = {}
    for run in runs:
        if run.queries:
            starts.setdefault(run.seed, []).append(frozenset(pick.id for pick in run.queries[0].picks))
    return {str(seed): len(set(picks)) == 1 for seed, picks in sorted(starts.items()) if len(picks) > 1}


def cautions(synthetic: bool, warm_starts: Mapping[str, bool]) -> list[str]:
    """What must be known before any comparison of runs is believed."""
    said = ["The data are synthetic: a program wrote them, so they say nothing about real texts."] if synthetic else []
    if apart := [seed for seed, same in warm_starts.items() if not same]:
        what = f"The strategies of seed {listed(apart)} did not begin with the same examples"
        said.append(f"{what}, so part of their difference comes from the warm start.")
    return said


# --- words ----------------------------------------------------------------------------------------


def _sentence(summary: Summary) -> str:
    """What came out, with no claim beyond it."""
    rows, compared = summary.strategies, summary.compared
    if not rows:
        if any(run.metrics for run in summary.runs) and not summary.test:
            return "There is no test set, so no accuracy is known."
        if any(run.curve for run in summary.runs):
            return "The runs have no number of labels in common, so they cannot be set beside each other."
        return "Nothing is measured yet."
    around = ["" if row.final.sd is None else f" ± {row.final.sd:.3f}" for row in rows]
    reached = [f"{row.strategy} {row.final.mean:.3f}{apart}" for row, apart in zip(rows, around, strict=True)]
    reached[0] = reached[0].replace(f"{rows[0].strategy} ", f"{rows[0].strategy} reached an accuracy of ", 1)
    where = f" on {summary.test} {'synthetic ' if summary.synthetic else ''}test examples" if summary.test else ""
    seeds = len(compared.seeds)
    spread = f"mean ± standard deviation of {seeds} seeds" if seeds > 1 else "one seed, so no spread can be given"
    return f"With {compared.labels[-1]} labels {listed(reached)}{where}; {spread}."


ORACLE_EPOCH = (
    "Each point is the epoch with the best accuracy on the test set itself (train.early_stop: oracle_epoch), so the curves "
    "are too high; nobody could have chosen so."
)


def _notes(summary: Summary, runs: Sequence[RunRecord]) -> list[str]:
    """What a reader must know before believing the sentence."""
    notes = cautions(summary.synthetic, summary.shared_warm_start)
    if any(((run.facts.get("config") or {}).get("train") or {}).get("early_stop") == "oracle_epoch" for run in runs):
        notes.append(ORACLE_EPOCH)
    notes += [f"In the data {line}." for line in (runs[0].facts.get("data") or {}).get("label_notes", [])]
    notes += _about_chance(summary)
    if majority := summary.majority:
        always = f"Always answering {majority['label']!r}, the test set's most frequent label, gives"
        untuned = f", the untuned model {summary.base:.3f}" if summary.base is not None else ""
        notes.append(f"{always} {majority['share']:.3f}{untuned}.")
    if raised := [run for run in runs if len(run.budgets) > 1]:
        where = [f"{run.name} {_raises(run)}" for run in raised]
        mixes = any((run.facts.get("recipe") or {}).get("mix") for run in raised)
        mixed = " λ keeps the schedule of the first budget." if mixes else ""
        notes.append(f"The budget was raised on the way: {listed(where)}.{mixed}")
    notes += [f"{run.name}, last training: {line}." for run in runs for line in sentences(run.chosen)]
    if unlike := differing(runs):
        notes.append(f"The runs were not made with the same configuration: {'; '.join(unlike[:5])}.")
    seeds = {run.seed for run in summary.runs}
    left_out = sorted(seeds - set(summary.compared.seeds))
    if left_out and summary.strategies:
        notes.append(f"Seed {listed(left_out)} is left out of the comparison: not every strategy is done with it.")
    points = len(summary.compared.labels)
    if points and points < max(len(run.curve) for run in runs):
        notes.append(f"Not every run is as far, so they are compared over their first {points} points alone.")
    for run in summary.runs:
        if not run.finished:
            of = f" of {run.planned}" if run.planned else ""
            waits = f"; {waiting(run)}" if waiting(run) else ""
            notes.append(f"{run.name} is not finished: it has measured {len(run.metrics)}{of} rounds{waits}.")
    return notes


def _raises(run: RunRecord) -> str:
    """'from 400 to 600 labels at round 7', and so on."""
    steps = [f"to {budget} labels at round {at}" for budget, at in run.budgets[1:]]
    return f"from {run.budgets[0][0]} {listed(steps)}"


def _about_chance(summary: Summary) -> list[str]:
    """How far apart accuracies must be to mean something on a test set of this size; whether they are apart is for
    `compare` to say."""
    rows, test = summary.strategies, summary.test
    if not rows or not test:
        return []
    best = max(row.final.mean for row in rows)
    half = 1.96 * math.sqrt(max(best * (1 - best), 1 / (4 * test)) / test)
    return [f"On {test} test examples an accuracy of {best:.3f} is only known to about ± {half:.3f} (95 %)."]
