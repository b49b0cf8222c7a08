"""The report: one self-contained HTML file. Everything is computed here; `page.html` only lays it out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from guidestar.config import flat, kept_in
from guidestar.report import charts, pictures
from guidestar.report.analyses import analyses
from guidestar.report.answer import answer, read_all, score_rows
from guidestar.report.compare_text import cells
from guidestar.report.evidence import evidence
from guidestar.report.facts import Summary
from guidestar.report.picks import MOST_PICKS, round_of
from guidestar.report.read import RunRecord, path_of
from guidestar.report.spending import spending
from guidestar.store import files
from guidestar.words import filled, percent, plain, spread

REPORT, FIGURES = "report.html", "figures"


def build_report(folder: Path | str, figures: Sequence[str] = (), out: Path | None = None) -> Path:
    """Write `report.html` into an experiment folder or a run folder, from its stores.

    The same stores give the same bytes. Only the texts of hard test examples come from the data files, where these are
    still what the run was made on, and what was spent from costs.json, where `keep_costs` has left one. figures: "pdf",
    "png" or both; every chart is written into `figures` in that format too. out: another file; where the folder cannot
    be written, NAME-report.html in the working folder if not given.
    Raises GuidestarError if there is no run or matplotlib is missing, StoreError if a store cannot be read or a file
    cannot be written.
    """
    folder = path_of(folder, "the folder of a run or an experiment")
    path = out or (folder / REPORT if os.access(folder, os.W_OK) else Path(f"{folder.resolve().name}-{REPORT}"))
    files.check_output(path, _is_report, "a report")
    known = read_all(folder)
    runs, facts, compared = known.facts.runs, known.facts, known.compared
    curve, difference = pictures.learning_curve(runs, facts), pictures.difference(runs, compared)
    behaviour = list(filter(None, [pictures.class_balance(runs), pictures.calibration(runs)]))
    time, spent = pictures.time_spent(runs), spending(known.costs, runs)
    rows, more = (compared.comparisons, compared.notes) if compared else ((), ())
    verdicts = [row.verdict.sentence for row in rows] if len(rows) > 1 else []
    notes = [*verdicts, facts.sentence, *facts.notes, *more]
    shown = max(5, MOST_PICKS // max(1, sum(len(run.queries) for run in runs)))  # a page of many runs stays small
    here = Path(__file__).parent
    page = filled(
        here / "page.html",
        {"percent": percent},
        css=(here / "page.css").read_text(encoding="utf-8"),
        facts=facts,
        compared=compared,
        answer=answer(known),
        scores=score_rows(answer(known)),
        notes=list(dict.fromkeys(notes)),
        curve=curve,
        difference=difference,
        areas=_areas(facts),
        beside=[[row.strategy, *(cells(row)[column] for column in _BESIDE)] for row in rows if row.p is not None],
        behaviour=behaviour,
        doubts=evidence(runs, folder),
        analyses=analyses(folder),
        advice=[(one.run, one.sentences) for one in known.advice if one.sentences],
        time=time,
        spent=spent,
        runs=[(run, [round_of(run, query, shown) for query in run.queries]) for run in runs],
        data=_data(runs[0].facts),
        repeat=_repeat(runs, folder),
    )
    files.write_bytes(path, page.encode())
    for chart in filter(None, [curve, difference, *behaviour] if figures else []):
        name = "-".join("".join(c if c.isalnum() else " " for c in chart.title.lower()).split())
        for form in figures:
            charts.save(chart, path.parent / FIGURES / f"{name}.{form}")
    return path


def _is_report(path: Path) -> bool:
    if not path.is_file():
        return False
    begin = path.read_bytes()[:4000].lstrip()
    return begin.lower().startswith(b"<!doctype html>") and b"Guidestar report</title>" in begin


# --- how sure it is -------------------------------------------------------------------------------


def _areas(facts: Summary) -> list[list[object]]:
    return [
        [row.strategy, spread(vars(row.auc), 1), percent(row.ripl, 1), spread(vars(row.final), 1), len(row.seeds)]
        for row in facts.strategies
    ]


_BESIDE = (
    "seeds", "difference of AUC", "RIPL", "deficiency", "labels saved on average", "at the end", "p", "Holm", "exact p",
)  # fmt: skip


# --- to repeat it ---------------------------------------------------------------------------------


def _repeat(runs: Sequence[RunRecord], folder: Path) -> dict[str, object]:
    """What it takes to run the same again. configuration, facts: YAML, the second of all else that a result depends on.
    runs: (run, seed, labels, last adapter's SHA-256)."""
    copy, facts = kept_in(folder), runs[0].facts
    text = _yaml(facts.get("config"))
    if copy is not None:  # shorter, and with the places of the data files
        text = copy.read_text(encoding="utf-8")
    rows = [
        (run.name, run.seed, run.metrics[-1].labels if run.metrics else 0, run.adapters.get(len(run.metrics) - 1, "–"))
        for run in runs
    ]
    recipes = {f"strategy {run.strategy}": run.facts.get("recipe") for run in runs}
    about = {name: facts.get(name) for name in ("task", "model")} | recipes
    about |= {name: facts.get(name) for name in ("versions", "hardware")}
    return {"configuration": text, "facts": _yaml({name: one for name, one in about.items() if one}), "runs": rows}


def _yaml(data: object) -> str:
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True) if data else ""


# --- data -----------------------------------------------------------------------------------------

_COUNTS = {
    "pool_rows": "rows read for the pool",
    "blank_rows": "rows without text that were left out",
    "pool_duplicates": "rows of the pool that repeat another",
    "pool_conflicting_labels": "repeats with another answer",
    "pool_without_answer": "pool examples without an answer",
    "shared_with_test": "rows of the pool that also stand in the test set",
    "shared_with_validation": "rows of the pool that also stand in the validation set",
    "validation_shared_with_test": "rows of the validation set that also stand in the test set",
    "label_notes": "labels with several spellings",
    "label_warnings": "labels and texts to be looked at",
    "truncated": "prompts that were cut to fit the context",
    "too_long": "prompts that do not fit the context and were left out",
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
