"""The engine of `guidestar study` and `guidestar paper`: from a study's plan to its tables and figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from guidestar.errors import ConfigError
from guidestar.executors import EXECUTORS
from guidestar.progress import Plain, Progress, Silent
from guidestar.report.noise import read_noise
from guidestar.report.pairing import right_answers
from guidestar.report.summary import ORACLE_EPOCH
from guidestar.store import files
from guidestar.study import cells as engine
from guidestar.study import extras, figures, gains, plan
from guidestar.study.cells import Cell, CellResult, Shared, run_folder
from guidestar.study.compose import Study, filled, load_study
from guidestar.study.reading import beside, reading, warm_starts
from guidestar.study.results import Result, row_of
from guidestar.study.tables import NOTE, Answers, Asked, Floats, Floor, Table, as_csv, markdown, tables
from guidestar.words import count


@dataclass(frozen=True)
class Order:
    """Which study: what another process needs to make the same. overrides, scale, tables: see `load_study`."""

    path: str
    overrides: tuple[str, ...] = ()
    scale: str | None = None
    tables: str = ""

    def study(self) -> Study:
        """The study, read anew."""
        return load_study(self.path, self.overrides, scale=self.scale, tables=self.tables)


def run_study(
    order: Order | str | Path,
    *,
    part: str | None = None,
    jobs: int | None = None,
    plan_only: bool = False,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], str, int]:
    """Run a study and write its tables and figures into its folder; the same call continues it.

    order: or a study's file. part: "i/n", the share of one of n
    machines: whole groups of rows, so that a warm start is trained once. jobs: cells at one time, in the place of the
    file's `engine.cells.workers`. plan_only: say what would be done and how long it would take.

    Returns facts, a text for a terminal, and the exit code: 1 if a cell failed.
    Raises GuidestarError for what can be known before the first cell.
    """
    order = order if isinstance(order, Order) else Order(str(order))
    news, study = progress or Silent(), order.study()
    engine_of = study.config.engine.cells
    if jobs is not None:
        if jobs < 1:
            raise ConfigError(f"jobs is {jobs}; allowed: 1 or more")
        engine_of = engine_of.model_copy(update={"workers": jobs})
    spread = engine_of.use != "local" or engine_of.workers > 1
    if spread and part is not None:
        raise ConfigError("part and jobs do not go together: a part is one process")
    cells = study.cells if part is None else engine.part_of(study.cells, part)
    shared = Shared(study.out / "cache", news)
    before = _results(cells, study.out)
    planned = plan.make_plan(cells, {one.name for one in before}, shared)
    text = planned.text(title(study), _what_runs(study, cells))
    if spread and planned.done < planned.cells:
        text += f"\nthat is the work of one process; {engine_of.workers} share it"
    if plan_only:
        return {"out": str(study.out), "scale": study.config.scale, **planned.plain()}, text, 0
    news.say(text)
    if spread and planned.cells > planned.done:
        shared.forget()  # the memory is the workers'
        done = {one.name for one in before}
        items = {cell.name: {"cell": cell.name} for cell in cells if cell.name not in done}
        groups = {cell.name: engine.group_of(cell) for cell in cells}
        workers = EXECUTORS[engine_of.use](engine_of, news)
        common = {"order": vars(order), "apart": engine_of.use != "local"}
        failed = workers.run("guidestar.study.grid:work", common, items, groups)
        elsewhere: list[str] = []
    else:
        tried = engine.run_cells(cells, study.out, shared, lambda done: _say_rows(study, done, news))
        failed = {one.cell.name: one.error or "" for one in tried if one.error}
        elsewhere = [one.cell.name for one in tried if one.state == "elsewhere"]
    facts, lines = finish(study, shared, news)
    now = _results(cells, study.out)
    done = {one.name for one in now}
    failed = {name: error for name, error in failed.items() if name not in done}  # another process finished it
    seconds = planned.beside(before, now)
    lines += ["time by phase, of all processes:", *seconds] if seconds else []
    lines += _failures(failed)
    if elsewhere:
        lines.append(f"left to other processes: {', '.join(elsewhere)}; later the same command writes the whole tables")
    facts |= {"failed": failed, "elsewhere": elsewhere, "plan": planned.plain()}
    return facts, "\n".join(lines), int(bool(failed))


def _say_rows(study: Study, one: CellResult, progress: Progress) -> None:
    """How the rows of a finished cell's dataset, model and adapter stand."""
    if one.result and one.result.curve:
        near = [other for other in _results(study.cells, study.out) if other.group == one.result.group]
        progress.say(markdown([line for line in _table(study, near, progress).lines if line.seeds]))


_AT_WORK: dict[str, tuple[Study, Shared]] = {}  # in a worker: of the study whose cells it runs


def work(common: Mapping[str, Any], item: Mapping[str, str]) -> str | None:
    """Run a cell in a worker; None, or why it failed. common: "order", the fields of `Order`; "apart", see `run_cell`.
    item: "cell", its name."""
    key = json.dumps(common["order"])
    if key not in _AT_WORK:
        _AT_WORK.clear()
        study = Order(**common["order"]).study()
        _AT_WORK[key] = study, Shared(study.out / "cache", Plain())
    study, shared = _AT_WORK[key]
    cell = next(cell for cell in study.cells if cell.name == item["cell"])
    one = engine.run_cell(cell, study.cells, study.out, shared, apart=common["apart"])
    if one.state == "done":
        _say_rows(study, one, shared.progress)
    return one.error


def finish(study: Study, shared: Shared, progress: Progress) -> tuple[dict[str, Any], list[str]]:
    """Tables and figures of all results that are there, those of other processes too, and what they say."""
    places = [(cell.tags["dataset"], cell.tags.get("model", ""), cell.tags.get("peft", "")) for cell in study.cells]
    given = (study.datasets, study.models, study.pefts)  # the file's order; cells run model by model
    by_file = sorted(dict.fromkeys(places), key=lambda place: [
        names.index(name) if name in names else -1 for names, name in zip(given, place, strict=True)
    ])  # fmt: skip
    order = {place: i for i, place in enumerate(by_file)}
    results = sorted(_results(study.cells, study.out), key=lambda one: order[one.group])
    runs = len(results)
    more, written = _beside_the_runs(study, shared, progress)
    made = _table(study, results, progress)
    said = _about_starts(study, results) + reading(made, study.rows, results)
    said += [sentence for one in more for sentence in one.sentences]
    above = gains.gains(results, list(dict.fromkeys(row.method for row in study.rows)), study.control)
    notes = [*study.notes, *beside(made, [*results, *more])]
    body = [f"# {title(study)}", "", *([study.config.doc, ""] if study.config.doc else [])]
    body += [markdown(made.lines) if made.lines else "No run with a test set is done yet.", "", NOTE, ""]
    body += [gains.markdown(above, study.control), ""] if len(above) > 1 else []
    body += [*(f"- {note}" for note in notes), *([""] if notes else [])]
    body += ["## What this shows", "", *(f"- {sentence}" for sentence in said), ""]
    written.append(_write(study.place / "table.md", "\n".join(body)))
    written.append(_write(study.place / "table.csv", as_csv(made.lines)))
    written += engine.tried(progress, lambda: figures.learning_curves(study, results)) or []
    facts = {
        "out": str(study.out), "title": title(study), "scale": study.config.scale, "protocol": study.config.protocol,
        "control": study.control, "cells": len(study.cells), "done": runs, "rows": [line.plain() for line in made.lines],
        "above": [asdict(one) for one in above], "notes": notes, "reading": said, "files": sorted(map(str, written)),
    }  # fmt: skip
    _write(study.place / "facts.json", json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    return facts, [*body, f"{runs} of {len(study.cells)} runs are done; written: {study.place}"]


def _beside_the_runs(study: Study, shared: Shared, progress: Progress) -> tuple[list[Result], list[Path]]:
    """The untuned model with demonstrations, and the study's probe on the first finished seed of each dataset."""
    done = [cell for cell in study.cells if engine.kept(cell, study.out) and run_folder(cell).is_dir()]
    results: list[Result] = []
    written: list[Path] = []
    if shots := study.config.shots:
        results += engine.tried(progress, lambda: extras.few_shot(done, shots, study.out, shared, progress)) or []
    if (asked := study.config.probe) is None:
        return results, written
    for part in study.config.datasets:
        runs = {run for (dataset, _, row), run in study.runs.items() if (dataset, row) == (part.name, asked.row)}
        cell = next((c for c in done if c.tags["dataset"] == part.name and row_of(c.tags) in runs), None)
        options = filled(asked.options, study.config.values | part.values, {*study.config.values, *part.values})
        probe = partial(extras.run_probe, cell, asked.name, study.out, shared, progress, **options) if cell else None
        if one := probe and engine.tried(progress, probe):
            results.append(one[0])
            for path in one[1]:
                if path.suffix in (".png", ".pdf", ".csv"):
                    written.append(study.place / f"{part.name}-{path.name}")
                    files.write_bytes(written[-1], path.read_bytes())
    return results, written


def _about_starts(study: Study, results: Sequence[Result]) -> list[str]:
    said = warm_starts(results)
    if not said and results:
        said.append("Every strategy of a seed began with the same examples, and each warm start was trained once.")
    if any(one.config["train"].get("early_stop") == "oracle_epoch" for one in results):
        said.append(ORACLE_EPOCH)
    if study.control is None:
        said.append("There is no random strategy and no `control`, so there is no RIPL.")
    return said


def _failures(failed: Mapping[str, str]) -> list[str]:
    """A line for each reason: an adapter that does not fit fails with every strategy and seed."""
    names: dict[str, list[str]] = {}
    for name, reason in failed.items():
        names.setdefault(reason, []).append(name)
    return [f"failed: {', '.join(cells)}: {reason}" for reason, cells in names.items()]


def title(study: Study) -> str:
    """The study's own title, or its size, in one line."""
    config = study.config
    if config.title:
        return config.title + (f" (scale {config.scale}: {config.scale_doc})" if config.scale else "")
    sizes = [
        (study.datasets, "dataset"), (study.models, "model"), (study.pefts, "adapter"),
        (dict.fromkeys(row.method for row in study.rows), "strategy" if study.pefts else "row"), (study.seeds, "seed"),
    ]  # fmt: skip
    words = [count(len(n), word) for n, word in sizes if n]
    return " × ".join(words) + (f", protocol {config.protocol}" if config.protocol else "")


def _what_runs(study: Study, cells: Sequence[Cell]) -> list[str]:
    methods = ", ".join(dict.fromkeys(row.method for row in study.rows))
    rows = [f"adapters: {', '.join(study.pefts)}; strategies: {methods}" if study.pefts else f"rows: {methods}"]
    for dataset in study.datasets:
        for model in study.models:
            mine = [c for c in cells if (c.tags["dataset"], c.tags.get("model", "")) == (dataset, model)]
            if mine:
                query = mine[0].config.query
                rows.append(
                    f"{', '.join(filter(None, (dataset, model)))}: {len(mine)} runs; {query.warm_start} labels to begin "
                    f"with, {query.batch} a round, {query.budget} in all; {query.candidates or 'all'} candidates scored a "
                    "round"
                )
    return rows


# --- what is there --------------------------------------------------------------------------------


def _results(cells: Sequence[Cell], out: Path) -> list[Result]:
    return [one.result for cell in cells if (one := engine.kept(cell, out)) and one.result]


def _table(study: Study, results: Sequence[Result], progress: Progress) -> Table:
    asked = Asked(study.rows, results, study.runs, study.config.beside)
    return tables([asked], _answers(study, progress), _floor(study, progress))[0]


def _answers(study: Study, progress: Progress) -> Answers:
    """Which test examples each run answered rightly, where it lies on this disk and is the run of the result."""
    folders = {cell.name: run_folder(cell) for cell in study.cells}

    def answers(result: Result) -> Floats | None:
        right: Floats | None = engine.tried(progress, lambda: right_answers(folders[result.name]))
        heights = [value for _, value in result.curve]
        same = right is not None and len(right) == len(heights) and np.allclose(right.mean(axis=1), heights, atol=1e-6)
        return right if same else None

    return answers


def _floor(study: Study, progress: Progress) -> Floor:
    """How far two trainings may be apart by chance, of the runs that lie together with some, where it was measured."""
    cells = {cell.name: cell for cell in study.cells}

    def floor(results: Sequence[Result]) -> float | None:
        homes = {cells[one.name].config.out for one in results}
        places = [run_folder(cell) for cell in study.cells if cell.config.out in homes]
        noise = engine.tried(progress, lambda: read_noise(places))
        return None if noise is None else float(noise.floor)

    return floor


def _write(path: Path, text: str) -> Path:
    files.write_bytes(path, text.encode())
    return path
