"""The report: one self-contained HTML file. Everything is computed here; `page.html` only lays it out."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from guidestar.config import flat
from guidestar.metrics.scores import ece, reliability
from guidestar.query.measures import entropy
from guidestar.records import Label, Query
from guidestar.report import charts
from guidestar.report.charts import Chart, Line
from guidestar.report.read import RunRecord, read_runs
from guidestar.report.summary import seconds_by_phase, strategy_names, summarise
from guidestar.store import files

REPORT = "report.html"
_BINS = 20  # of the histograms
_MOST_CLASSES = 20  # bars; what is rarer is summed
_LONG = 600  # characters of a text that are shown


def build_report(folder: Path) -> Path:
    """Write `report.html` into an experiment folder or a run folder, from its stores alone.

    The same stores give the same bytes. Raises GuidestarError if there is no run or matplotlib is missing,
    StoreError if a store cannot be read or the file cannot be written.
    """
    runs = read_runs(folder)
    facts = summarise(folder, runs)
    here = Path(__file__).parent
    pages = Environment(
        loader=FileSystemLoader(here),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {"number": number, "percent": percent, "spread": _spread}
    page = pages.get_template("page.html").render(
        css=(here / "page.css").read_text(encoding="utf-8"),
        facts=facts,
        curve=_learning_curve(runs, facts),
        answers=[chart for chart in (_class_balance(runs), *_test_charts(runs)) if chart is not None],
        time=_time(runs),
        runs=[(run, [_round(run, query) for query in run.queries]) for run in runs],
        data=_data(runs[0].facts),
        configuration=_configuration(runs),
    )
    path = folder / REPORT
    files.write_bytes(path, page.encode())
    return path


# --- charts ---------------------------------------------------------------------------------------


def _learning_curve(runs: Sequence[RunRecord], facts: Mapping[str, Any]) -> Chart | None:
    """Mean accuracy of each strategy over the compared seeds, with one standard deviation to each side."""
    shown = [run for run in runs if run.curve and run.seed in facts["compared"]["seeds"]]
    if not shown:
        return None
    lines = []
    for style, name in enumerate(strategy_names(runs)):
        values: dict[int, list[float]] = {}
        for run in shown:
            for labels, accuracy in run.curve if run.strategy == name else ():
                values.setdefault(labels, []).append(accuracy)
        at = sorted(values)
        spread = [statistics.stdev(values[x]) if len(values[x]) > 1 else 0.0 for x in at]
        if at:
            y = [statistics.fmean(values[x]) for x in at]
            lines.append(Line(name, at, y, style, spread if any(spread) else None))
    levels = {}
    if facts["majority"]:
        levels[f"always {facts['majority']['label']!r}"] = facts["majority"]["share"]
    if facts["base"] is not None:
        levels["untuned model"] = facts["base"]
    seeds = facts["compared"]["seeds"]
    curves = [dict(run.curve) for run in runs if run.curve]
    return Chart(
        "Learning curve",
        "Accuracy on the test set after each round. "
        + (
            f"Lines are means over {len(seeds)} seeds, bands one standard deviation." if len(seeds) > 1 else "One seed."
        ),
        charts.curve_svg(lines, levels, "Learning curve"),
        ["labels", *(run.name for run in runs if run.curve)],
        [[x, *(_accuracy(curve.get(x)) for curve in curves)] for x in sorted(set().union(*curves))],
    )


def _class_balance(runs: Sequence[RunRecord]) -> Chart | None:
    """Shares of the classes in the pool and among what each strategy picked after the warm start."""
    pool = Counter((runs[0].facts.get("data") or {}).get("classes") or {})
    picked = {name: Counter[str]() for name in strategy_names(runs)}
    for run in runs:
        for query in run.queries[1:]:
            answers = (run.answers.get(pick.id) for pick in query.picks)
            picked[run.strategy].update(a.answer for a in answers if isinstance(a, Label))
    if not pool.total() or not any(count.total() for count in picked.values()):
        return None
    common = [name for name, _ in pool.most_common(_MOST_CLASSES)]
    names = [name for name in pool if name in common]
    shares = {"pool": pool, **picked}
    rows = [[name, *(_share(count[name], count.total()) for count in shares.values())] for name in names]
    if len(pool) > len(names):
        rest = (count.total() - sum(count[name] for name in names) for count in shares.values())
        rows.append(["all other classes", *(_share(n, c.total()) for n, c in zip(rest, shares.values(), strict=True))])
    whole, *parts = ((name, [row[i] for row in rows]) for i, name in enumerate(shares, 1))
    return Chart(
        "Class balance of the picks",
        "Bars: the whole pool. Points: what each strategy asked for after the warm start.",
        charts.shares_svg([row[0] for row in rows], whole, parts, "Class balance of the picks"),
        ["class", *shares],
        [[row[0], *map(percent, row[1:])] for row in rows],
    )


def _test_charts(runs: Sequence[RunRecord]) -> Iterable[Chart]:
    """Confidence, entropy and calibration on the test set, the first round against the last."""
    series = _test_series(runs)
    if not series:
        return
    labels = series[0].log_probs.shape[1]
    for title, xlabel, caption, top, values in (
        (
            "Confidence", "probability of the answer given",
            "How sure the model is of its answers on the test set, before and after the picks.",
            1.0, [np.exp(s.log_probs.max(axis=1)) for s in series],
        ),
        (
            "Entropy", "entropy over the labels, nats",
            f"How undecided the model is on the test set; {math.log(labels):.2f} is a blind guess.",
            math.log(labels), [entropy(s.log_probs) for s in series],
        ),
    ):  # fmt: skip
        edges = np.linspace(0, top, _BINS + 1)
        heights = [np.histogram(np.clip(v, 0, top), edges)[0] / len(v) for v in values]
        shares = [(s.name, h, s.style) for s, h in zip(series, heights, strict=True)]
        rows = [[f"{edges[i]:.2f} to {edges[i + 1]:.2f}", *(percent(h[i]) for h in heights)] for i in range(_BINS)]
        svg = charts.histogram_svg(edges, shares, xlabel, title)
        yield Chart(title, caption, svg, [xlabel, *(s.name for s in series)], rows)
    curves = [(s.name, reliability(s.log_probs, s.gold), s.style) for s in series]
    errors = "; ".join(f"{s.name} {ece(s.log_probs, s.gold):.3f}" for s in series)
    yield Chart(
        "Calibration",
        "Below the diagonal the model is surer than it is right; large points hold many examples. "
        f"Expected calibration error: {errors}.",
        charts.reliability_svg(curves, "Calibration"),
        ["confidence", *(f"{name}: {what}" for name, _, _ in curves for what in ("accuracy", "examples"))],
        [
            [
                f"{curves[0][1].edges[i]:.2f} to {curves[0][1].edges[i + 1]:.2f}",
                *(cell for _, c, _ in curves for cell in (number(c.accuracy[i]), int(c.count[i]))),
            ]
            for i in range(len(curves[0][1].count))
        ],
    )


@dataclass(frozen=True)
class _Series:
    """Test predictions of some runs together. log_probs: (n, labels) float64. gold: (n,)."""

    name: str
    style: int | None
    log_probs: np.ndarray
    gold: np.ndarray


def _test_series(runs: Sequence[RunRecord]) -> list[_Series]:
    """Round 0 of all runs, then the last round of each strategy, its seeds together; choices only."""
    groups: list[tuple[str, int | None, list[Any]]] = [
        ("all, round 0", None, [run.test["first"] for run in runs if "first" in run.test])
    ]
    for style, name in enumerate(strategy_names(runs)):
        later = [run for run in runs if run.strategy == name and len(run.metrics) > 1 and "last" in run.test]
        groups.append((f"{name}, last round", style, [run.test["last"] for run in later]))
    return [
        _Series(
            name, style,
            np.concatenate([arrays["log_probs"] for arrays in found]).astype(np.float64),
            np.concatenate([arrays["gold"] for arrays in found]),
        )
        for name, style, found in groups
        if found and all("log_probs" in arrays for arrays in found)
    ]  # fmt: skip


def _time(runs: Sequence[RunRecord]) -> Chart | None:
    """Seconds of each phase; bars are means over the seeds, the table has every run."""
    spent = [(run, seconds_by_phase(run)) for run in runs if run.timings]
    if not spent:
        return None
    names = list(dict.fromkeys(run.strategy for run, _ in spent))
    phases = list(dict.fromkeys(phase for _, seconds in spent for phase in seconds))
    parts = [
        (
            phase,
            [statistics.fmean(s.get(phase, 0.0) for run, s in spent if run.strategy == name) for name in names],
        )
        for phase in phases
    ]
    rows = []
    for run, seconds in spent:
        for phase, total in seconds.items():
            count = sum(n for _, p, _, n in run.timings if p == phase)
            rows.append([run.name, phase, f"{total:.1f}", count, f"{count / total:.1f}" if total else "–"])
    return Chart(
        "Time",
        "Seconds of each phase over all rounds" + (", mean over seeds." if len(spent) > len(names) else "."),
        charts.stacked_svg(names, parts, "Time"),
        ["run", "phase", "seconds", "items", "items a second"],
        rows,
    )


# --- what was picked ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Round:
    """One round for the page. line: what happened; notes: more of it. columns: the scores' parts."""

    number: int
    line: str
    notes: Sequence[str]
    columns: Sequence[str]
    picks: Sequence[Mapping[str, Any]]


def _round(run: RunRecord, query: Query) -> Round:
    columns = list(dict.fromkeys(name for pick in query.picks for name in pick.details if name != "lambda"))
    answers = [run.answers.get(pick.id) for pick in query.picks]
    rows = [
        {
            "fields": [(name, _clipped(text)) for name, text in run.examples[pick.id].fields.items()],
            "where": run.examples[pick.id].where,
            "answer": answer.answer if isinstance(answer, Label) else None,
            "skipped": None if answer is None or isinstance(answer, Label) else answer.reason or "no reason given",
            "annotator": answer.annotator if answer is not None else None,
            "score": number(pick.score),
            "details": [number(pick.details.get(name)) for name in columns],
        }
        for pick, answer in zip(query.picks, answers, strict=True)
    ]
    line = f"{len(rows)} asked for" + (" at random, the warm start" if query.round == 0 else "")
    measured = next((m for m in run.metrics if m.round == query.round), None)
    if measured is not None and "accuracy" in measured.values:
        line += f"; accuracy afterwards {_accuracy(measured.values['accuracy'])}"
    return Round(query.round, line, list(_round_notes(run, query)), columns, rows)


def _round_notes(run: RunRecord, query: Query) -> Iterable[str]:
    """The answers given, and where the picks' scores came from."""
    answers = [run.answers.get(pick.id) for pick in query.picks]
    given = Counter(answer.answer for answer in answers if isinstance(answer, Label))
    if 0 < len(given) <= _MOST_CLASSES:
        yield "answers: " + ", ".join(f"{label} {count}" for label, count in given.most_common())
    for weight in sorted({pick.details["lambda"] for pick in query.picks if "lambda" in pick.details}):
        yield f"λ = {number(weight)}: the weight of the base model's uncertainty in the score"
    scores = run.scores.get(query.round, {})
    for name in ("score", "base", "full"):
        if name in scores:
            low, middle, high = np.quantile(scores[name], [0.0, 0.5, 1.0])
            reach = f"{number(low)} to {number(high)}, median {number(middle)}"
            yield f"{name} of all {len(scores[name])} candidates: {reach}"


def _clipped(text: str) -> str:
    return text if len(text) <= _LONG else f"{text[:_LONG]} … ({len(text)} characters)"


# --- data and configuration -----------------------------------------------------------------------

_COUNTS = {
    "pool_rows": "rows read for the pool",
    "pool_duplicates": "rows of the pool that repeat another",
    "pool_conflicting_labels": "repeats with another answer",
    "pool_without_answer": "pool examples without an answer",
    "shared_with_test": "rows of the pool that also stand in the test set",
    "shared_with_validation": "rows of the pool that also stand in the validation set",
    "validation_shared_with_test": "rows of the validation set that also stand in the test set",
    "pool": "examples in the pool used",
    "test": "examples in the test set used",
    "validation": "examples in the validation set used",
    "budget_exceeds_pool": "budget larger than the pool",
}


def _data(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    data = facts.get("data") or {}
    policy = ((facts.get("config") or {}).get("data") or {}).get("duplicates")
    rows = [(_COUNTS.get(name, name), plain(value)) for name, value in flat(data).items() if value is not None]
    rows += [("what was done with repeats (data.duplicates)", policy)] if policy else []
    rows += [("hash of data, template and labels", facts["data_hash"])] if facts.get("data_hash") else []
    return [("synthetic", "yes: written by a program")] * bool(facts.get("synthetic")) + rows


def _configuration(runs: Sequence[RunRecord]) -> list[tuple[str, list[tuple[str, str]]]]:
    """(title, rows) of everything a result depends on."""
    facts = runs[0].facts
    config = {name: value for name, value in (facts.get("config") or {}).items() if name != "strategies"}
    sections = [("Configuration", config), ("Task", facts.get("task")), ("Model", facts.get("model"))]
    for name in strategy_names(runs):
        recipe = next(run.facts.get("recipe") for run in runs if run.strategy == name)
        sections.append((f"Strategy {name}", recipe))
    sections += [("Versions", facts.get("versions")), ("Hardware", facts.get("hardware"))]
    return [
        (title, [(name, plain(value)) for name, value in flat(found).items()]) for title, found in sections if found
    ]


# --- formats --------------------------------------------------------------------------------------


def number(value: float | None) -> str:
    """Four digits; a dash for none.

    >>> [number(x) for x in (0.123456, 12, None, float("nan"))]
    ['0.1235', '12', '–', '–']
    """
    return "–" if value is None or math.isnan(value) else f"{value:.4g}"


def _accuracy(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def percent(share: float | None) -> str:
    """
    >>> [percent(x) for x in (0.1234, None)]
    ['12.3 %', '–']
    """
    return "–" if share is None else f"{100 * share:.1f} %"


def plain(value: object) -> str:
    """A configured value in words.

    >>> [plain(x) for x in (None, True, ["a", "b"], 0.5, "")]
    ['not set', 'yes', 'a, b', '0.5', '(empty)']
    """
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(plain, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value) or "(empty)"


def _share(count: int, total: int) -> float:
    return count / total if total else 0.0


def _spread(found: Mapping[str, float | None]) -> str:
    """'84.1 ± 0.6' in per cent, the spread left out for one seed."""
    mean, sd = found["mean"], found["sd"]
    return percent(mean) if mean is None or sd is None else f"{100 * mean:.1f} ± {100 * sd:.1f} %"
