"""The answer of a run or an experiment: one sentence, one table, what to do next. Terminal, page and notebook show this."""

from __future__ import annotations

import math
import shlex
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guidestar.config import CONFIG_FILE, load
from guidestar.errors import ConfigError
from guidestar.metrics.chosen import sentences
from guidestar.metrics.forecast import LEAST_ROUNDS
from guidestar.metrics.statistics import t_interval, wilson
from guidestar.metrics.verdict import can_claim, least_seeds
from guidestar.records import Stop
from guidestar.report.advice import Advice, Advised, advise
from guidestar.report.compare import beside_control
from guidestar.report.facts import Compared, Ends, Row, Summary
from guidestar.report.read import RunRecord, read_runs
from guidestar.report.spending import current_ledger
from guidestar.report.summary import cautions, state, summarise, waiting
from guidestar.words import NOTHING, count, duration, hundredths, listed, percent

LEAST_TESTS = 20  # test examples below which an accuracy of 50 % is known to ± 20 points at best


@dataclass(frozen=True)
class Known:
    """All that is read of an experiment or run folder. advice: of `advise`, for each run. costs: the ledger, if there is one."""

    folder: Path
    facts: Summary
    compared: Compared | None
    advice: Sequence[Advised]
    costs: Mapping[str, Any] | None


@dataclass(frozen=True)
class Score:
    """A line of the table. labels: that were used. score: accuracy with its interval. cost: of one run, in words."""

    name: str
    labels: int | None
    score: Ends
    cost: str


@dataclass(frozen=True)
class Step:
    """What to do next. command: to type, may be empty."""

    text: str
    command: str


@dataclass(frozen=True)
class Answer:
    """sentence: what came out. cautions: without which it would mislead. scores: the strategies, then what costs no
    training. next: the most useful first."""

    sentence: str
    cautions: Sequence[str]
    scores: Sequence[Score]
    next: Sequence[Step]


def read_all(folder: Path) -> Known:
    """Everything about the runs in a folder. Raises GuidestarError if there is none, StoreError if one cannot be read."""
    runs = read_runs(folder)
    beside, costs = beside_control(folder, runs), current_ledger(folder, runs)
    return Known(folder, summarise(folder, runs), beside, advise(folder), costs)


def answer(known: Known) -> Answer:
    """The answer to what is known."""
    facts = known.facts
    said = [*facts.warnings, *cautions(facts.synthetic, {})]
    if _frozen_is_better(known):
        other = (
            f"A classifier on frozen features reached {percent(_frozen(known))} with the same labels and no fine-tuning"
        )
        said.append(f"{other}: the tuned model has not earned its training yet.")
    open_runs = [run for run in facts.runs if not run.finished]
    if open_runs and len(facts.runs) > 1:
        said.append(f"{len(facts.runs) - len(open_runs)} of {len(facts.runs)} runs are finished; this may change.")
    return Answer(_sentence(known) + _few_tests(facts), said, list(_scores(known)), list(_next(known))[:3])


def answer_lines(known: Known) -> list[str]:
    """The answer for a terminal: the sentence, what must be known with it, where open runs stand, the next command."""
    said = answer(known)
    lines = [*_reached(known), said.sentence, *said.cautions]
    single = len(known.facts.runs) == 1
    lines += [f"{run.name}: {state(run, why=False)}." for run in known.facts.runs if single or not run.finished]
    lines += [f"{run.name}, last training: {line}." for run in known.facts.runs[:1] for line in sentences(run.chosen)]
    return lines + [f"next: {step.text}{f' {step.command}' if step.command else ''}" for step in said.next[:1]]


def _reached(known: Known) -> list[str]:
    """What each strategy reached, where strategies are compared and the sentence is about their difference."""
    rows = list(_scores(known))[: len(known.facts.strategies)]
    if len(rows) < 2 or known.compared is None:
        return []
    values = listed(f"{row.name} {_with_ends(row.score)}" for row in rows)
    tests = f", on {known.facts.test:,} test examples" if known.facts.test else ""
    return [f"After {rows[0].labels:,} labels: {values}{tests}."]


# --- the sentence ---------------------------------------------------------------------------------


def _sentence(known: Known) -> str:
    rows = [row for row in known.compared.comparisons if row.seeds] if known.compared else []
    if rows and known.compared is not None:
        best = _best(rows)
        rest = len(rows) - 1
        of_all = f" ({count(rest, 'other strategy')} beside it in the table.)" if rest else ""
        return best.verdict.sentence + of_all
    if len(known.facts.runs) == 1:
        return _standing(known)
    return known.facts.sentence


def _few_tests(facts: Summary) -> str:
    """A sentence where the accuracies rest on few test examples, or on those of one class."""
    if not facts.test or not any(run.curve for run in facts.runs):
        return ""
    majority = facts.majority or {"label": "", "share": 0.0}
    one_class = f", all labelled {majority['label']!r}" if majority["share"] >= 1 else ""
    if facts.test >= LEAST_TESTS and not one_class:
        return ""
    few = "Only " if facts.test < LEAST_TESTS else ""
    more = ", and more labels add none" if any(run.held_out for run in facts.runs) else ""
    return f" {few}{count(facts.test, 'test example')}{one_class}{more}: this says little."


def _best(rows: Sequence[Row]) -> Row:
    """The row that answers "did choosing pay?": the clearest gain, else what came nearest to one."""
    worth = {"gain": 2, "no evidence": 1, "harm": 0}
    return max(rows, key=lambda row: (worth[row.verdict.kind], row.auc.difference["estimate"] or 0.0))


def _standing(known: Known) -> str:
    """One run: accuracy, what the next labels would bring, whether to go on."""
    (run,), facts, stop = known.facts.runs, known.facts, known.advice[0].stop if known.advice else None
    if not run.metrics:
        asked = f"{count(run.unanswered, 'question')} of the first round wait{'s' * (run.unanswered == 1)}"
        waits = asked if run.unanswered and run.due is None else waiting(run) or "it is trained next"
        model = "a model is trained and is measured next" if run.adapters else f"no model yet: {waits}"
        return f"{count(run.given + run.held_out, 'label')} so far, {model}."
    after = f"after {count(run.labels, 'label')}"
    if (known_accuracy := _accuracy(known)) is None:
        why = "there is no test set, and too few random picks are answered to estimate it"
        if not run.present:
            why = "the labels were changed since, and the next training learns the new ones"
        return f"No accuracy is known {after}: {why}{_then(run, stop)}."
    value, low, high, of = known_accuracy
    parts = [f"{around(value, low, high)} {after}, on {of}"]
    if facts.majority:
        always = f"always answering {facts.majority['label']!r} ({percent(facts.majority['share'])})"
        if value <= facts.majority["share"]:
            parts[0] += f", no better than {always}"
        elif low <= facts.majority["share"]:
            parts[0] += f", not clearly better than {always}"
    if stop and stop.gain and run.finished is not Stop.EMPTY:
        parts.append(f"{stop.gain.batch} more labels would bring {_about(stop.gain.estimate)}")
    elif stop and not run.finished:
        parts.append(f"what more labels would bring is known after {LEAST_ROUNDS} rounds")
    return "; ".join(parts) + _then(run, stop) + "."


def _then(run: RunRecord, stop: Advice | None) -> str:
    advised = stop.advice if stop and stop.advice != "unknown" else ""
    if run.finished and run.finished is not Stop.BUDGET:
        return f"; {run.finished.value[0].lower()}{run.finished.value[1:].rstrip('.')}"
    spent = "the budget is spent" if run.finished else ""
    if spent and advised == "go on":
        return f"; {spent}" + (", more labels may still pay" if _may_pay(stop) else "")
    return "".join(f"; {part}" for part in (spent, advised) if part)


def _may_pay(stop: Advice | None) -> bool:
    """Whether more labels are advised, and not forecast to bring less than a point."""
    return stop is not None and stop.advice == "go on" and (stop.gain is None or round(100 * stop.gain.estimate) > 0)


def _accuracy(known: Known) -> tuple[float, float, float, str] | None:
    """(estimate, low, high, of what) of the one run: on the test set, else the validation set, else the pool."""
    run, data = known.facts.runs[0], known.facts.runs[0].facts.get("data") or {}
    for name, split in (("accuracy", "test"), ("validation_accuracy", "validation")):
        value = run.present[-1].values.get(name) if run.present else None
        said = next(iter((run.test.get("last") or {}).values()), ()) if split == "test" else ()
        if value is not None and (
            n := len(said) or data.get(split)
        ):  # of what is set aside, as many as there were then
            return value, *wilson(value, n), f"{n:,} {split} examples"
    if (control := known.advice[0].control if known.advice else None) is None:
        return None
    share = control.accuracy or control.corrected
    of = "random picks" if control.accuracy else "picks, corrected for how they were drawn"
    return None if share is None else (share.estimate, share.low, share.high, f"the pool, by {share.answers} {of}")


def around(value: float, low: float, high: float) -> str:
    """An accuracy and its 95 % interval, as short as is right.

    >>> around(0.86, 0.83, 0.89), around(0.5, 0.2, 0.9)
    ('86 % ± 3', '50 % (20 to 90 %)')
    """
    half = (high - low) / 2
    if abs((high - value) - (value - low)) < 0.01 and value - half >= 0 and value + half <= 1:
        return f"{percent(value)} ± {max(1, math.ceil(100 * half - 0.5))}"
    return f"{percent(value)} ({hundredths(low, 0)} to {percent(high)})"


def _about(gain: float) -> str:
    """A forecast gain: 'about +2 points'."""
    points = round(100 * gain)
    return f"about {points:+d} point{'s' if abs(points) != 1 else ''}" if points > 0 else "less than one point"


# --- the table ------------------------------------------------------------------------------------


def _scores(known: Known) -> Iterator[Score]:
    """Each strategy at its last common point; random, what needs no training, the untuned model and the majority always."""
    facts = known.facts
    for row in facts.strategies:
        ends = [run for run in facts.runs if run.strategy == row.strategy and run.seed in row.seeds]
        values = [accuracy for run in ends for labels, accuracy in run.curve if labels == facts.compared.labels[-1]]
        low, high = band(values, facts.test)
        score = {"estimate": row.final.mean, "low": low, "high": high}
        yield Score(row.strategy, int(facts.compared.labels[-1]), score, _cost(known, row.strategy))
    if facts.strategies and not any(run.is_random for run in known.facts.runs):
        yield Score("random", None, _unknown(None), "")
    if facts.strategies or known.facts.runs[0].metrics:
        yield Score("classifier on frozen features", facts.compared.labels[-1] if facts.compared.labels else None,
                    _unknown(_frozen(known)), "")  # fmt: skip
        yield Score("untuned model", 0, _unknown(facts.base), "")
        if facts.majority:
            yield Score(f"always {facts.majority['label']!r}", 0, _unknown(facts.majority["share"]), "")


def score_rows(answer: Answer) -> list[list[str]]:
    """The table as text; empty columns are dashes."""
    return [
        [
            row.name, NOTHING if row.labels is None else f"{row.labels:,}" if row.labels else "none",
            _with_ends(row.score), row.cost or NOTHING,
        ]
        for row in answer.scores
    ]  # fmt: skip


def _with_ends(score: Ends) -> str:
    if score["estimate"] is None:
        return "not measured"
    ends = "" if score["low"] is None else f" ({hundredths(score['low'], 1)} to {hundredths(score['high'], 1)})"
    return percent(score["estimate"], 1) + ends


def _unknown(value: float | None) -> Ends:
    """A score without an interval."""
    return {"estimate": value, "low": None, "high": None}


def band(values: Sequence[float], examples: int | None) -> tuple[float, float]:
    """The interval around the mean over seeds: Wilson's for the test set of one, the range of two, else Student's."""
    if len(values) == 1:
        return wilson(values[0], examples) if examples else (values[0], values[0])
    if len(values) == 2:
        return min(values), max(values)
    ends = t_interval(values)
    return max(ends.low, 0.0), min(ends.high, 1.0)


def _frozen(known: Known) -> float | None:
    """Mean accuracy of the classifier on frozen features at the last common point; None if it was not measured."""
    at = known.facts.compared.labels[-1:]
    measured = [m for run in known.facts.runs for m in run.present if [m.labels] == at]
    accuracies = [m.values["frozen_accuracy"] for m in measured if "frozen_accuracy" in m.values]
    return statistics.fmean(accuracies) if accuracies else None


def _frozen_is_better(known: Known) -> bool:
    return (_frozen(known) or 0.0) > max((row.final.mean for row in known.facts.strategies), default=1.0)


def _cost(known: Known, strategy: str) -> str:
    """Means over the strategy's runs: time of computing, and money where something has a price."""
    runs = [run for run in known.facts.runs if run.strategy == strategy and run.seconds]
    text = duration(statistics.fmean(sum(run.seconds.values()) for run in runs)) if runs else "–"
    if known.costs and known.costs.get("priced"):
        ends = {bill["run"]: bill["rounds"][-1]["spent"] for bill in known.costs["runs"] if bill["rounds"]}
        if spent := [ends[run.name] for run in runs if run.name in ends]:
            text += f", {statistics.fmean(spent):,.2f} {known.costs['currency']}".rstrip()
    return text


# --- what to do next ------------------------------------------------------------------------------


def _not_begun(known: Known) -> bool:
    """Whether the configuration that the folder keeps, with the keys of the command line, names a run that is not there."""
    if not (known.folder / CONFIG_FILE).is_file():  # the folder of one run
        return False
    try:
        config = load(known.folder)
    except ConfigError:  # of an older version
        return False
    there = {(run.strategy, run.seed) for run in known.facts.runs}
    return any((strategy.title, seed) not in there for strategy in config.strategies for seed in config.seeds)


def _more(known: Known) -> str:
    """The command that goes on for another batch: on the page where people answer and the configuration is there."""
    run, kept = known.facts.runs[0], known.folder / CONFIG_FILE
    batch = ((known.facts.runs[0].facts.get("config") or {}).get("query") or {}).get("batch", 50)
    budget = run.given + run.held_out + batch
    if run.held_out and kept.is_file():
        return f"guidestar label {shlex.quote(str(kept))} query.budget={budget}"
    return f"guidestar run {shlex.quote(str(known.folder))} query.budget={budget}"


def _next(known: Known) -> Iterator[Step]:
    facts, place = known.facts, shlex.quote(str(known.folder))
    asked = [run for run in facts.runs if run.unanswered and run.due is None and not run.finished]
    single = len(facts.runs) == 1
    not_begun = _not_begun(known)
    if asked:
        run = known.folder if single else known.folder / asked[0].name
        text = f"answer the {count(asked[0].unanswered, 'question')} that wait{'s' * (asked[0].unanswered == 1)}:"
        yield Step(text, f"guidestar label {shlex.quote(str(run))}")
    elif any(not run.finished for run in facts.runs) or not_begun:
        yield Step("go on where it stopped:", f"guidestar run {place}")
    done = all(run.finished for run in facts.runs) and not not_begun
    only = facts.runs[0] if single else None
    untold = done and only is not None and 0 < only.held_out < LEAST_TESTS
    if untold and only is not None and len(only.budgets) < 2:  # a larger budget sets no more aside
        yield Step("label more before it is used:", _more(known))
    weak = bool(facts.warnings) or _frozen_is_better(known)
    if weak and not untold:
        yield Step("train longer or take another model before more is labelled (docs/how-to-choose.md).", "")
        yield Step("look at what it gets wrong:", f"guidestar report {place}")
    rows = known.compared.comparisons if known.compared else ()
    seeds = max((len(row.seeds) for row in rows), default=0)
    if done and rows and not can_claim(seeds):
        wanted = ",".join(map(str, range(least_seeds())))
        text = f"run {least_seeds()} seeds, the fewest that can show a gain:"
        yield Step(text, f"guidestar run {place} 'seeds=[{wanted}]'")
    elif done and facts.strategies and facts.control is None and not single:
        yield Step("put `random` beside it in `strategies`: without it nobody knows whether choosing paid.", "")
    stop = known.advice[0].stop if single and known.advice else None
    if done and stop and _may_pay(stop) and stop.budget.spent and not untold:
        yield Step("label more:", _more(known))
    if done and (untold or not weak) and any(run.metrics for run in facts.runs):
        best = known.folder if single else known.folder / max(facts.runs, key=lambda run: run.final or 0.0).name
        what = "see how good it is on texts whose answers you know" if untold else "let the model answer new texts"
        yield Step(f"{what}:", f"guidestar predict {shlex.quote(str(best))} new.csv --out answers.csv")
        if not weak:
            yield Step("publish it:", f"guidestar publish {shlex.quote(str(best))}")
