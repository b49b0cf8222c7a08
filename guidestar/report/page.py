"""The report: one self-contained HTML file. Everything is computed here; `page.html` only lays it out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from guidestar.config import flat, kept_in
from guidestar.report import charts, pictures
from guidestar.report.advice import advise
from guidestar.report.analyses import analyses
from guidestar.report.charts import Chart
from guidestar.report.compare import beside_control
from guidestar.report.evidence import evidence
from guidestar.report.facts import Compared, Summary
from guidestar.report.picks import rounds_of
from guidestar.report.read import RunRecord, read_runs
from guidestar.report.spending import spending
from guidestar.report.summary import strategy_names, summarise
from guidestar.store import files
from guidestar.words import bounded, chance, number, paired, percent, plain, share, significant, spread

REPORT, FIGURES = "report.html", "figures"


def build_report(folder: Path, figures: Sequence[str] = (), out: Path | None = None) -> Path:
    """Write `report.html` into an experiment folder or a run folder, from its stores.

    The same stores give the same bytes. Only the texts of hard test examples come from the data files, where these are
    still what the run was made on, and what was spent from costs.json, where `keep_costs` has left one. figures: "pdf", "png" or both; every chart is written into `figures` in that format
    too. out: another file; where the folder cannot be written, NAME-report.html in the working folder if not given.
    Raises GuidestarError if there is no run or matplotlib is missing, StoreError if a store cannot be read or a file
    cannot be written.
    """
    if out is not None:
        files.check_output(out, _is_report, "a report")
    runs = read_runs(folder)
    facts = summarise(folder, runs)
    compared = beside_control(folder)
    curves = [pictures.learning_curve(runs, facts), pictures.difference(runs, compared)]
    behaviour, time = [pictures.class_balance(runs), *pictures.test_charts(runs)], pictures.time_spent(runs)
    spent = spending(folder, runs)
    here = Path(__file__).parent
    pages = Environment(
        loader=FileSystemLoader(here),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {
        "number": significant, "percent": percent, "spread": lambda one, digits: spread(vars(one), digits), "fixed": number,
        "signed": paired, "part": share, "chance": chance, "bounded": bounded,
    }  # fmt: skip
    page = pages.get_template("page.html").render(
        css=(here / "page.css").read_text(encoding="utf-8"),
        facts=facts,
        compared=compared,
        warnings=facts.warnings,
        answer=[*(compared.sentences if compared else ()), facts.sentence],
        notes=_notes(facts, compared),
        curves=_there(curves),
        answers=_there(behaviour),
        doubts=evidence(runs, folder),
        analyses=analyses(folder),
        advice=_advice(folder),
        time=time,
        spent=spent,
        runs=[(run, rounds_of(run)) for run in runs],
        data=_data(runs[0].facts),
        repeat=_repeat(runs, folder),
        configuration=_configuration(runs),
    )
    path = out or (folder / REPORT if os.access(folder, os.W_OK) else Path(f"{folder.resolve().name}-{REPORT}"))
    files.write_bytes(path, page.encode())
    for chart in _there([*curves, *behaviour, time, spent.chart if spent else None]) if figures else ():
        name = "-".join("".join(c if c.isalnum() else " " for c in chart.title.lower()).split())
        for form in figures:
            charts.save(chart, path.parent / FIGURES / f"{name}.{form}")
    return path


def _is_report(path: Path) -> bool:
    return path.is_file() and b"guidestar" in path.read_bytes()[:4000].lower()


def _there(found: Sequence[Chart | None]) -> list[Chart]:
    return [chart for chart in found if chart is not None]


# --- the answer -----------------------------------------------------------------------------------


def _notes(facts: Summary, compared: Compared | None) -> list[str]:
    """What a reader must know before believing the sentences, each once."""
    return list(dict.fromkeys([*facts.notes, *(compared.notes if compared else ())]))


def _advice(folder: Path) -> list[tuple[str, list[str]]]:
    """(run, sentences) of what is said about going on, for runs where something is."""
    found = []
    for one in advise(folder):
        said = [line for part in ("control", "stop") for line in (one[part] or {}).get("sentences", ())]
        if said:
            found.append((one["run"], said))
    return found


# --- to repeat it ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Repeat:
    """What it takes to run the same again. configuration: YAML. runs: (run, seed, labels, last adapter's SHA-256)."""

    configuration: str
    runs: Sequence[tuple[str, int, int, str]]


def _repeat(runs: Sequence[RunRecord], folder: Path) -> Repeat:
    copy, config = kept_in(folder), runs[0].facts.get("config") or {}
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True) if config else ""
    if copy is not None:  # shorter, and with the places of the data files
        text = copy.read_text(encoding="utf-8")
    rows = [
        (run.name, run.seed, run.metrics[-1].labels if run.metrics else 0, run.adapters.get(len(run.metrics) - 1, "–"))
        for run in runs
    ]
    return Repeat(text, rows)


# --- data and configuration -----------------------------------------------------------------------

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
    "label_warnings": "labels that the pool never has",
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
