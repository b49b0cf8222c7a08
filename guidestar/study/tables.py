"""How the rows of a study stand: areas beside the control's with intervals, verdicts, and what was printed elsewhere."""

from __future__ import annotations

import math
import statistics as means
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from guidestar.metrics import savings
from guidestar.metrics.statistics import Floats, Interval
from guidestar.metrics.verdict import Decision, can_claim, decide, judge
from guidestar.report.facts import Spread
from guidestar.report.pairing import Both, Curve, side_by_side
from guidestar.study.compose import Row
from guidestar.study.drawing import csv_text
from guidestar.study.results import Place, Result
from guidestar.words import hundredths, markdown_table, number, percent, share

FEW_SHOT = "few-shot"  # the method's name of the base model with demonstrations
NOTE = (
    "± and brackets: standard deviation over the seeds, and 95 % intervals. AUC's speak of new seeds and this test set, "
    "those of RIPL and of the difference from the control, and the verdicts, of new test examples too where each one's "
    "results are on this machine's disk. Verdicts are paired by seed and corrected for all comparisons of the page."
)

Key = tuple[str, Place, str, str]  # a group of results, where, the runs of a row and of the row beside it
Sides = tuple[tuple[str, str], Mapping[int, Result], Mapping[int, Result]]  # labels of two rows; seed -> result of each
Answers = Callable[[Result], Floats | None]  # (points, test examples), 1 where one was answered rightly
Floor = Callable[[Sequence[Result]], float | None]


@dataclass(frozen=True)
class Beside:
    """A row beside its control, over the seeds that both have and the points that all their curves have.

    difference: of the areas; ripl: of the mean areas; both fractions. verdict: a word. sentence: the verdict in full,
    empty where the seeds cannot claim anything.
    """

    seeds: tuple[int, ...]
    difference: Interval
    ripl: Interval | None
    verdict: str
    sentence: str = ""


@dataclass(frozen=True)
class Line:
    """A row of a table. control: whether others are set beside it. row: its name in the study, strategy: in the results.
    largest_class: share of a chosen batch that its most frequent class has, the mean over rounds and seeds. published:
    AUC and RIPL printed elsewhere, per cent."""

    dataset: str
    model: str
    peft: str
    strategy: str
    label: str
    control: bool = False
    row: str = ""
    seeds: tuple[int, ...] = ()
    auc: Spread | None = None
    final: Spread | None = None
    beside: Beside | None = None
    note: str = ""
    largest_class: float | None = None
    published: tuple[float | None, float | None] = (None, None)

    def plain(self) -> dict[str, Any]:
        """As JSON-able data."""
        data = asdict(self)
        beside = data.pop("beside") and self.beside
        return data | {
            "seeds": list(self.seeds),
            "published": list(self.published),
            "ripl": beside.ripl.plain() if beside and beside.ripl else None,
            "difference": beside.difference.plain() if beside else None,
            "verdict": beside.verdict if beside else None,
        }


# --- numbers --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """Lines in the order of their study, pairs of rows that were asked for besides, and rows that are one run."""

    lines: tuple[Line, ...]
    pairs: tuple[tuple[Place, str, str, Beside], ...] = ()
    same: tuple[tuple[Place, str, str], ...] = ()


@dataclass(frozen=True)
class Asked:
    """What a table is made of: the rows of a study, for every dataset and model that has a result with a test set. runs: see
    `Study`; without it each row has runs of its own. beside: more pairs of rows to compare, by name. group: tables of one
    page whose results are of different kinds have different ones."""

    rows: Sequence[Row]
    results: Sequence[Result]
    runs: Mapping[tuple[str, str, str], str] | None = None
    beside: Sequence[Sequence[str]] = ()
    group: str = ""


def tables(asked: Sequence[Asked], answers: Answers | None = None, floor: Floor | None = None) -> list[Table]:
    """The tables of one page, whose verdicts are corrected for all comparisons of the page, each counted once.

    answers: which test examples a run answered rightly, if that is known. floor: how far two trainings of some runs may
    be apart by chance.
    """
    sides: dict[Key, Sides] = {}
    drafts = [_draft(one, sides) for one in asked]
    compared = _compared(sides, answers or (lambda result: None), floor or (lambda results: None))
    return [
        Table(
            tuple(replace(line, beside=compared.get(key)) for line, key in lines),
            tuple((*pair, compared[key]) for pair, key in pairs if key in compared),
            tuple(same),
        )
        for lines, pairs, same in drafts
    ]


def _draft(
    asked: Asked, sides: dict[Key, Sides]
) -> tuple[list[tuple[Line, Key | None]], list[tuple[tuple[Place, str, str], Key]], list[tuple[Place, str, str]]]:
    """The lines, the pairs and the equal rows of a table before they are compared; what is to be compared comes into `sides`."""
    runs: dict[Place, dict[str, dict[int, Result]]] = {}
    for one in asked.results:
        if one.curve:
            runs.setdefault(one.place, {}).setdefault(one.row, {})[one.seed] = one
    named = {row.name: row for row in asked.rows}
    lines: list[tuple[Line, Key | None]] = []
    pairs: list[tuple[tuple[Place, str, str], Key]] = []
    same: list[tuple[Place, str, str]] = []
    for place, methods in runs.items():
        run_of = {name: name if asked.runs is None else asked.runs.get((*place, name), "") for name in named}
        own = {name: dict(sorted(methods.get(run, {}).items())) for name, run in run_of.items()}

        def compare(a: str, b: str, place: Place = place, run_of: Any = run_of, own: Any = own) -> Key:
            key = (asked.group, place, run_of[a], run_of[b])
            sides[key] = (named[a].label, named[b].label), own[a], own[b]
            return key

        shown: dict[str, Row] = {}
        for row in asked.rows:
            run = run_of[row.name]
            if run in shown:
                same += [(place, row.label, shown[run].label)] if row.name != row.control else []
            elif run and (own[row.name] or not row.peft):
                shown[run] = row
                beside = row.control in named and row.name != row.control
                key = compare(row.name, row.control or "") if beside else None
                lines.append((_line(place, row, list(own[row.name].values())), key))
        pairs += [((place, a, b), compare(a, b)) for a, b in asked.beside if a in named and b in named]
    return lines, pairs, same


def _spread(values: Sequence[float]) -> Spread | None:
    return Spread.of(values) if values else None


def _line(place: Place, row: Row, own: Sequence[Result]) -> Line:
    batches = [p["picked"].values() for one in own for p in one.rounds if p["round"] and p.get("picked")]
    shares = [max(counts) / sum(counts) for counts in batches if sum(counts)]
    printed = [*row.published.get(place[0], ()), None, None]
    return Line(
        *place, row.peft, row.method, row.label, row.name == row.control, row.name,
        tuple(one.seed for one in own), _spread([one.area for one in own]),
        _spread([one.final for one in own if one.final is not None]), None, row.note, means.fmean(shares) if shares else None,
        (printed[0], printed[1]),
    )  # fmt: skip


def _compared(sides: Mapping[Key, Sides], answers: Answers, floor: Floor) -> dict[Key | None, Beside]:
    """Each pair over its common seeds; pairs without one, or without a common point, are left out."""
    made = {key: side_by_side(_curves(own, answers), _curves(other, answers)) for key, (_, own, other) in sides.items()}
    made = {key: both for key, both in made.items() if both.points}
    floors = {key: floor([side[s] for s in both.seeds for side in sides[key][1:]]) for key, both in made.items()}
    decided = decide({key: both.comparison(floors[key]) for key, both in made.items()})
    return {key: _beside(sides[key][0], both, decided[key], floors[key]) for key, both in made.items()}


def _curves(results: Mapping[int, Result], answers: Answers) -> dict[int, Curve]:
    return {seed: Curve(one.curve, answers(one), one.data.get("hash")) for seed, one in results.items()}


def _beside(names: tuple[str, str], both: Both, decision: Decision, floor: float | None) -> Beside:
    own, top = (float(areas.mean()) for areas in both.areas)
    if both.pair is None:
        ripl = Interval((own - top) / (1 - top), -math.inf, math.inf) if top < 1 else None
        return Beside(both.seeds, Interval(own - top, -math.inf, math.inf), ripl, decision.word)
    claims = can_claim(len(both.seeds))
    sentence = judge(both.pair, decision, names, floor=floor).sentence if claims else ""
    gain = savings.ripl_interval(both.pair)
    ripl = gain if math.isfinite(gain.estimate) else None
    return Beside(both.seeds, savings.area_difference(both.pair), ripl, decision.word, sentence)


def baselines(place: Place, results: Sequence[Result]) -> str:
    """The accuracies that take no training, as a sentence; empty where none is known."""
    here = [one for one in results if one.place == place]
    known = []
    if majority := next((one.data["majority"] for one in here if one.data.get("majority")), None):
        known.append(f"majority class {majority['label']!r} {100 * majority['share']:.2f}")
    if base := next((one.base for one in here if one.base), None):
        known.append(f"untuned model {100 * base['accuracy']:.2f}")
    if few := _spread([one.final for one in here if one.method == FEW_SHOT and one.final is not None]):
        known.append(f"untuned model with demonstrations (few-shot) {few}")
    test = next((one.data["test"] for one in here if one.data.get("test")), None)
    return f"Accuracies without training on {test} test examples: {', '.join(known)}." if known else ""


# --- forms ----------------------------------------------------------------------------------------


def markdown(lines: Sequence[Line]) -> str:
    """The lines as a Markdown table, AUC and final accuracy per cent; columns that are empty in all rows are left out."""
    columns: dict[str, list[str]] = {
        "dataset": [line.dataset for line in lines],
        "model": [line.model for line in lines],
        "peft": [line.peft for line in lines],
        "strategy": [line.label + (f" ({line.note})" if line.note else "") for line in lines],
        "seeds": [str(len(line.seeds)) for line in lines],
        "AUC": ["not run" if line.auc is None else line.auc.with_ends() for line in lines],
        "above control, points": [points_of(line.beside.difference) if line.beside else "–" for line in lines],
        "RIPL": [ripl_of(line) for line in lines],
        "final": [str(line.final or "–") for line in lines],
        "verdict": [
            "control" if line.control else line.beside.verdict or "–" if line.beside else "–" for line in lines
        ],
        "published: AUC": [number(line.published[0], 2) for line in lines],
        "published: RIPL": [number(line.published[1], 2) for line in lines],
    }
    shown = {name: cells for name, cells in columns.items() if set(cells) - {"", "–"}}
    return markdown_table(list(shown), list(zip(*shown.values(), strict=True)))


HEADER = (
    "dataset", "model", "peft", "strategy", "label", "seeds", "auc_mean", "auc_sd", "auc_low", "auc_high", "ripl",
    "ripl_low", "ripl_high", "difference", "difference_low", "difference_high", "final_mean", "final_sd", "verdict",
    "published_auc", "published_ripl",
)  # fmt: skip


def as_csv(lines: Sequence[Line]) -> str:
    """The lines as CSV: fractions in full precision, what was published per cent, seeds with spaces between them."""
    rows = []
    for line in lines:
        flat = line.plain()
        for name in ("auc", "final"):
            flat |= {f"{name}_{key}": value for key, value in (flat[name] or {}).items()}
        for name in ("ripl", "difference"):
            ends = flat[name] or {}
            flat |= {name: ends.get("estimate")} | {f"{name}_{end}": ends.get(end) for end in ("low", "high")}
        flat |= {"seeds": " ".join(map(str, line.seeds))}
        flat |= dict(zip(("published_auc", "published_ripl"), line.published, strict=True))
        rows.append([flat.get(key) for key in HEADER])
    return csv_text(HEADER, rows)


def ripl_of(line: Line) -> str:
    """RIPL as text; that of one seed has no interval and is shown all the same, one that nothing bounds is not."""
    if line.beside is None or line.beside.ripl is None:
        return "–"
    if len(line.beside.seeds) == 1:
        return percent(line.beside.ripl.estimate, 1)
    return share(line.beside.ripl.plain())


def points_of(value: Interval, digits: int = 2) -> str:
    """A difference of fractions in points, with its interval where there is one.

    >>> points_of(Interval(0.0222, -0.01, 0.054))
    '+2.22 (−1.00 to +5.40)'
    """
    estimate, low, high = (hundredths(one, digits, sign=True) for one in (value.estimate, value.low, value.high))
    return f"{estimate} ({low} to {high})" if math.isfinite(value.low) else estimate
