"""The charts of a report, from the runs it is about."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from guidestar.metrics.scores import Reliability, ece, reliability
from guidestar.records import Label
from guidestar.report import charts
from guidestar.report.answer import band
from guidestar.report.charts import Chart, Line, mean_line
from guidestar.report.facts import Compared, Summary
from guidestar.report.read import RunRecord
from guidestar.report.summary import shared_warm_start, strategy_names
from guidestar.words import number, paired, percent, significant

MOST_CLASSES = 20  # bars; what is rarer is summed


def learning_curve(runs: Sequence[RunRecord], facts: Summary) -> Chart | None:
    """Mean accuracy of each strategy over the compared seeds, with an interval."""
    shown = [run for run in runs if run.curve and run.seed in facts.compared.seeds]
    if not shown:
        return None
    lines = []
    for style, name in enumerate(strategy_names(runs)):
        if own := [run.curve for run in shown if run.strategy == name]:
            lines.append(mean_line(name, own, style, lambda values: band(values, facts.test)))
    levels = {}
    if facts.majority:
        levels[f"always {facts.majority['label']!r}"] = facts.majority["share"]
    if facts.base is not None:
        levels["untuned model"] = facts.base
    curves = [dict(run.curve) for run in runs if run.curve]
    return Chart(
        "Learning curve",
        f"Accuracy on the test set after each round. {_about_bands(len(facts.compared.seeds))}",
        charts.curve(lines, levels),
        ["labels", *(run.name for run in runs if run.curve)],
        [[x, *(number(curve.get(x)) for curve in curves)] for x in sorted(set().union(*curves))],
    )


def _about_bands(seeds: int) -> str:
    if seeds < 2:
        return "One seed; the bands are 95 % intervals for the size of the test set alone, and say nothing about chance in training."
    if seeds == 2:
        return "Lines are means of two seeds, the bands reach from one seed to the other."
    return f"Lines are means over {seeds} seeds, bands 95 % intervals of these means for new seeds."


def difference(runs: Sequence[RunRecord], compared: Compared | None) -> Chart | None:
    """How far each strategy is above the control, paired by seed; for three seeds and more."""
    rows = [row for row in (compared.comparisons if compared else ()) if row.points and len(row.seeds) > 2]
    if compared is None or not rows:
        return None
    names, control = strategy_names(runs), compared.control
    lines = []
    for row in rows:
        ends = ("estimate", "low", "high")
        apart = np.array([[point.difference[end] for end in ends] for point in row.points or ()], dtype=float)
        y, band = apart[:, 0].tolist(), [(low, high) for _, low, high in apart.tolist()]
        lines.append(Line(row.strategy, [p.labels for p in row.points or ()], y, names.index(row.strategy), band))
    about = "new seeds and new test examples" if all(row.examples for row in rows) else "new seeds"
    return Chart(
        f"Difference from {control}",
        f"Accuracy above {control}'s, paired by seed. Bands are 95 % intervals for {about}, each for its own number of labels; "
        "the sentence above judges the whole curve.",
        charts.curve(lines, {"no difference": 0.0}, f"accuracy above {control}"),
        ["strategy", "labels", "accuracy", control, "difference (95 % interval)"],
        [
            [row.strategy, p.labels, number(p.strategy), number(p.control), paired(p.difference)]
            for row in rows
            for p in row.points or ()
        ],
    )


def class_balance(runs: Sequence[RunRecord]) -> Chart | None:
    """Shares of the classes in the pool and among what each strategy picked after the warm start."""
    pool = Counter((runs[0].facts.get("data") or {}).get("classes") or {})
    picked = {name: Counter[str]() for name in strategy_names(runs)}
    for run in runs:
        for query in run.queries[1:]:
            answers = (run.answers.get(pick.id) for pick in query.picks)
            picked[run.strategy].update(a.answer for a in answers if isinstance(a, Label))
    if not pool.total() or not any(count.total() for count in picked.values()):
        return None
    common = [name for name, _ in pool.most_common(MOST_CLASSES)]
    names = [name for name in pool if name in common]
    shares = {"pool": pool, **picked}
    rows = [[name, *(_part(count[name], count.total()) for count in shares.values())] for name in names]
    if len(pool) > len(names):
        rest = (count.total() - sum(count[name] for name in names) for count in shares.values())
        rows.append(["all other classes", *(_part(n, c.total()) for n, c in zip(rest, shares.values(), strict=True))])
    whole, *parts = ((name, [row[i] for row in rows]) for i, name in enumerate(shares, 1))
    return Chart(
        "Class balance of the picks",
        "Bars: the whole pool. Points: what each strategy asked for after the warm start.",
        charts.shares([row[0] for row in rows], whole, parts),
        ["class", *shares],
        [[row[0], *map(percent, row[1:])] for row in rows],
    )


def _part(count: int, total: int) -> float:
    """0 where there is nothing."""
    return count / total if total else 0.0


def calibration(runs: Sequence[RunRecord]) -> Chart | None:
    """Accuracy against confidence on the test set, after the warm start and after the last round."""
    series = _test_series(runs)
    if not series:
        return None
    seeds = max(len(errors) for *_, errors in series)
    over = f", the answers of {seeds} seeds together" if seeds > 1 else ""
    curves = [(name, curve, style) for name, curve, style, _ in series]
    errors = "; ".join(f"{name} {statistics.fmean(own):.3f}" for name, *_, own in series)
    edges = curves[0][1].edges
    return Chart(
        "Calibration",
        f"Below the diagonal the model is surer than it is right; large points hold many examples{over}. "
        f"Expected calibration error of one model{', mean over the seeds' if seeds > 1 else ''}: {errors}.",
        charts.calibration(curves),
        ["confidence", *(f"{name}: {what}" for name, _, _ in curves for what in ("accuracy", "examples"))],
        [
            [
                f"{low:.2f} to {high:.2f}",
                *(cell for _, c, _ in curves for cell in (significant(c.accuracy[i]), int(c.count[i]))),
            ]
            for i, (low, high) in enumerate(pairwise(edges))
        ],
    )


def _test_series(runs: Sequence[RunRecord]) -> list[tuple[str, Reliability, int | None, list[float]]]:
    """The models after the warm start, one a seed, where all strategies of a seed share it; then each strategy's last ones:
    name, reliability of all their answers to the test set together, style, and the calibration error of each model."""
    groups: list[tuple[str, int | None, list[Any]]] = []
    if all(shared_warm_start(runs).values()):
        first = {run.seed: run.test["first"] for run in runs if "first" in run.test}
        groups.append(("after the warm start", None, list(first.values())))
    for style, name in enumerate(strategy_names(runs)):
        later = [run for run in runs if run.strategy == name and len(run.metrics) > 1 and "last" in run.test]
        groups.append((f"{name}, last round", style, [run.test["last"] for run in later]))
    series = []
    for title, of_lines, models in groups:
        if models and all("log_probs" in arrays for arrays in models):
            said = [(arrays["log_probs"].astype(np.float64), arrays["gold"]) for arrays in models]
            log_probs, gold = (np.concatenate(part) for part in zip(*said, strict=True))
            series.append((title, reliability(log_probs, gold), of_lines, [ece(*one) for one in said]))
    return series


def time_spent(runs: Sequence[RunRecord]) -> tuple[list[str], list[list[str]]] | None:
    """A table of the seconds of each phase, over all rounds; means over the runs of a strategy."""
    spent = [(run.strategy, run.seconds) for run in runs if run.timings]
    names = list(dict.fromkeys(name for name, _ in spent))
    phases = list(dict.fromkeys(phase for _, seconds in spent for phase in seconds))
    rows = [
        [phase, *(number(statistics.fmean(s.get(phase, 0.0) for who, s in spent if who == name), 1) for name in names)]
        for phase in phases
    ]
    return (["seconds", *names], rows) if rows else None
