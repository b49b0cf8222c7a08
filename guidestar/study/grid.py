"""`guidestar study FILE`: datasets × models × adapters × strategies × seeds, from the plan to tables and figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from guidestar.errors import ConfigError
from guidestar.metrics.verdict import can_claim, least_seeds
from guidestar.progress import Progress, Silent
from guidestar.report.compare import compare, compare_text, sentences
from guidestar.report.summary import ORACLE_EPOCH
from guidestar.store import files
from guidestar.study import cells as engine
from guidestar.study import figures, gains, plan
from guidestar.study.cells import Cell, CellResult, Shared
from guidestar.study.figures import COLUMNS, Panel, curve_of, save_panels
from guidestar.study.jobs import run_jobs
from guidestar.study.paper import chosen_part
from guidestar.study.results import Result
from guidestar.study.standing import NOTE, Group, as_csv, group_of, markdown, standing, warm_starts
from guidestar.study.studyfile import Study, load_study
from guidestar.words import count

Found = tuple[dict[str, Any], str, int]


def run_study(
    path: str | Path,
    *,
    part: str | None = None,
    jobs: int = 1,
    plan_only: bool = False,
    overrides: Sequence[str] = (),
    progress: Progress | None = None,
) -> Found:
    """Run a study's file and write its tables and figures into its folder; the same call continues it.

    part: "i/n", the share of one of n machines: whole groups of strategies, so that a warm start is trained once.
    jobs: processes on this machine, which share its processor's threads and take the next cell that nobody holds.
    plan_only: say what would be done and how long it would take. overrides: key.sub=value texts that change the file.

    Returns facts, a text for a terminal, and the exit code: 1 if a cell failed.
    Raises GuidestarError for what can be found before the first cell.
    """
    news, study = progress or Silent(), load_study(path, overrides)
    if jobs < 1:
        raise ConfigError(f"jobs is {jobs}; allowed: 1 or more")
    if jobs > 1 and part is not None:
        raise ConfigError("part and jobs do not go together: a part is one process")
    cells, shared = chosen_part(study.cells, part), Shared(study.out / "cache", news)
    before = _results(cells, study.out)
    planned = plan.make_plan(cells, {one["name"] for one in before}, shared)
    text = plan.plan_text(planned, title(study), _what_runs(study, cells))
    if jobs > 1 and planned.done < planned.cells:
        text += f"\nthat is the work of one process; {jobs} share it, each with fewer threads"
    if plan_only:
        return {"out": str(study.out), **planned.plain()}, text, 0
    news.say(text)
    left = planned.cells - planned.done
    if jobs > 1 and left:
        shared.forget()  # the memory is the workers'
        failed, ended = run_jobs(path, jobs, overrides, news)
        elsewhere: list[str] = []
    else:
        found = run_part(study, cells, shared, news)
        failed, ended = {one.cell.name: one.error or "" for one in found if one.error}, []
        elsewhere = [one.cell.name for one in found if one.state == "elsewhere"]
    facts, lines = finish(study, news)
    now = _results(cells, study.out)
    done = {one["name"] for one in now}
    failed = {name: error for name, error in failed.items() if name not in done}  # another process had more luck
    missing = len(done) < len(cells)
    seconds = plan.compared(planned, before, now)
    lines += ["time by phase, of all processes:", *seconds] if seconds else []
    lines += _failures(failed)
    lines += [f"{text}; {'the same command continues' if missing else 'the others did its work'}" for text in ended]
    if elsewhere:
        lines.append(f"left to other processes: {', '.join(elsewhere)}; later the same command writes the whole tables")
    facts |= {"failed": failed, "elsewhere": elsewhere, "plan": planned.plain()}
    return facts, "\n".join(lines), int(bool(failed or (ended and missing)))


def run_part(study: Study, cells: Sequence[Cell], shared: Shared, progress: Progress) -> list[CellResult]:
    """Run cells one after the other; after each, how the strategies of its dataset, model and adapter stand."""

    def after(found: Sequence[CellResult]) -> None:
        beside = [cell for cell in study.cells if _group(cell) == _group(found[-1].cell)]
        results = _results(beside, study.out)
        facts = _compared(study, results, progress)
        progress.say(markdown(standing(results, study.strategies, study.control, _by_group(facts))))

    return engine.run_cells(cells, study.out, progress, shared=shared, after=after)


def finish(study: Study, progress: Progress) -> tuple[dict[str, Any], list[str]]:
    """Tables, comparison and figures of all results that are there: those of other processes too."""
    places = list(product(study.datasets, study.models, study.pefts))  # cells run model by model
    results = sorted(_results(study.cells, study.out), key=lambda one: places.index(group_of(one)))
    compared = _compared(study, results, progress)
    rows = standing(results, study.strategies, study.control, _by_group(compared))
    said = warm_starts(results)
    if not said and results:
        said.append("Every strategy of a seed began with the same examples, and each warm start was trained once.")
    if any(one["config"]["train"].get("early_stop") == "oracle_epoch" for one in results):
        said.append(ORACLE_EPOCH)
    if study.control is None:
        said.append("There is no random strategy and no `control`, so there is no RIPL.")
    said += _verdicts(compared["datasets"] if compared else ())
    above = gains.gains(results, study.strategies, study.control)
    body = [f"# {title(study)}", "", markdown(rows) if rows else "No run with a test set is done yet.", "", NOTE, ""]
    body += [gains.markdown(above, study.control), ""] if len(above) > 1 else []
    body += ["## What this shows", "", *[f"- {sentence}" for sentence in said], ""]
    written = [_write(study.out / "table.md", "\n".join(body)), _write(study.out / "table.csv", as_csv(rows))]
    if compared:
        written.append(_write(study.out / "compare.txt", compare_text(compared) + "\n"))
    written += engine.tried(progress, lambda: _draw(study, results)) or []
    facts = {
        "out": str(study.out), "protocol": study.protocol, "control": study.control, "cells": len(study.cells),
        "done": len(results), "rows": rows, "above": above, "reading": said, "files": sorted(map(str, written)),
    }  # fmt: skip
    _write(study.out / "facts.json", json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    return facts, [*body, f"{len(results)} of {len(study.cells)} runs are done; written: {study.out}"]


def _verdicts(datasets: Sequence[Mapping[str, Any]]) -> list[str]:
    """The verdicts of `compare`. Those that have too few seeds for any claim differ in their names alone and are counted."""
    said, few = [], 0
    for data in datasets:
        for row, sentence in zip(data["comparisons"], sentences(data), strict=True):
            if row["seeds"] and not can_claim(len(row["seeds"])):
                few += 1
            else:
                said.append(f"{data['name']}: {sentence}")
    if few:
        said.append(
            f"{few} of {few + len(said)} comparisons have fewer than {least_seeds()} seeds. They cannot show a gain at 95 %, "
            "even if all their seeds agree: what the tables say of them may be chance."
        )
    return said


def _failures(failed: Mapping[str, str]) -> list[str]:
    """A line for each reason: an adapter that does not fit fails with every strategy and seed."""
    names: dict[str, list[str]] = {}
    for name, reason in failed.items():
        names.setdefault(reason, []).append(name)
    return [f"failed: {', '.join(found)}: {reason}" for reason, found in names.items()]


def title(study: Study) -> str:
    """The size of a study in one line."""
    sizes = [
        (study.datasets, "dataset"), (study.models, "model"), (study.pefts, "adapter"),
        (study.strategies, "strategy"), (study.seeds, "seed"),
    ]  # fmt: skip
    words = [count(len(n), word) for n, word in sizes]
    return " × ".join(words) + (f", protocol {study.protocol}" if study.protocol else "")


def _what_runs(study: Study, cells: Sequence[Cell]) -> list[str]:
    rows = [f"adapters: {', '.join(study.pefts)}; strategies: {', '.join(study.strategies)}"]
    for dataset in study.datasets:
        for model in study.models:
            mine = [cell for cell in cells if _group(cell)[:2] == (dataset, model)]
            if mine:
                query = mine[0].config.query
                rows.append(
                    f"{dataset}, {model}: {len(mine)} runs; {query.warm_start} labels to begin with, {query.batch} a "
                    f"round, {query.budget} in all; {query.candidates or 'all'} candidates scored a round"
                )
    return rows


# --- what is there --------------------------------------------------------------------------------


def _group(cell: Cell) -> Group:
    return str(cell.tags["dataset"]), str(cell.tags["model"]), str(cell.tags["peft"])


def _results(cells: Sequence[Cell], out: Path) -> list[Result]:
    return [one.result for cell in cells if (one := engine.kept(cell, out)) and one.result]


def _folder(study: Study, group: Group) -> Path:
    return study.out.joinpath("runs", *group)


def _comparable(study: Study, results: Sequence[Result]) -> list[Group]:
    """Groups with a finished control and another strategy, whose runs lie on this disk."""
    methods: dict[Group, set[str]] = {}
    for one in results:
        if one["curve"]:
            methods.setdefault(group_of(one), set()).add(str(one["tags"]["method"]))
    return [
        group for group, names in methods.items()
        if study.control in names and len(names) > 1 and _folder(study, group).is_dir()
    ]  # fmt: skip


def _compared(study: Study, results: Sequence[Result], progress: Progress) -> dict[str, Any] | None:
    """`compare` of all groups at once, so that its corrections count every comparison; the groups as datasets' names.
    None if there is nothing to compare, or it cannot be read."""
    folders = {str(_folder(study, group).resolve()): group for group in _comparable(study, results)}
    if not folders:
        return None
    facts: dict[str, Any] | None = engine.tried(
        progress, lambda: compare([Path(folder) for folder in folders], control=study.control)
    )
    for data in facts["datasets"] if facts else ():
        data["group"] = folders[data["folder"]]
        data["name"] = ", ".join(data["group"])
    return facts


def _by_group(facts: Mapping[str, Any] | None) -> dict[Group, Mapping[str, Any]]:
    return {data["group"]: data for data in facts["datasets"]} if facts else {}


def _write(path: Path, text: str) -> Path:
    files.write_bytes(path, text.encode())
    return path


# --- figures --------------------------------------------------------------------------------------


def _draw(study: Study, results: Sequence[Result]) -> list[Path]:
    """Learning curves: a figure for each dataset and model, a panel for each adapter, a line for each strategy."""
    written: list[Path] = []
    for dataset in study.datasets:
        for model in study.models:
            mine = [one for one in results if group_of(one)[:2] == (dataset, model) and one["curve"]]
            if mine:
                panels = [
                    _panel(study, peft, [one for one in mine if group_of(one)[2] == peft]) for peft in study.pefts
                ]
                grid = [panels[i : i + COLUMNS] for i in range(0, len(panels), COLUMNS)]
                stem = study.out / f"curves-{dataset}-{model}"
                written += save_panels(stem, grid, _points(study, mine), f"{dataset}, {model}.")
    return written


def _panel(study: Study, peft: str, results: Sequence[Result]) -> Panel:
    level = next((one["data"]["majority"]["share"] for one in results if one["data"].get("majority")), None)
    lines = []
    for name, style in _styles(study).items():
        if curve := curve_of(name, [one for one in results if one["tags"]["method"] == name]):
            lines.append((style, name, curve))
    return Panel(peft, tuple(lines), level)


def _styles(study: Study) -> Mapping[str, int]:
    """A strategy looks alike in all panels; the third style, which is black, is the control's."""
    free = iter(i for i in range(len(study.strategies) + 3) if i != figures.BLACK)
    return {name: figures.BLACK if name == study.control else next(free) for name in study.strategies}


def _points(study: Study, results: Sequence[Result]) -> list[list[object]]:
    """Every point of every seed, as measured."""
    return [
        [
            one["tags"]["dataset"],
            f"{one['tags']['model']}/{one['tags']['peft']}",
            name,
            name,
            one["tags"]["seed"],
            r,
            *point,
        ]
        for name in study.strategies
        for one in results
        if one["tags"]["method"] == name
        for r, point in enumerate(one["curve"])
    ]
