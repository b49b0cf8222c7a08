"""What stands beside the cells of a study: the base model with demonstrations, and probes of single runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from guidestar.config import fingerprint
from guidestar.errors import GuidestarError
from guidestar.progress import Progress
from guidestar.store import Store
from guidestar.study.cells import Cell, Shared, about, claim, run_folder
from guidestar.study.probes import probe
from guidestar.study.results import Result, read_result, result_path, write_result
from guidestar.study.tables import FEW_SHOT


def few_shot(cells: Sequence[Cell], shots: int, out: Path, shared: Shared, progress: Progress) -> list[Result]:
    """The few-shot base model for each dataset and seed, measured once and kept in `out/results`.

    cells: finished ones; of each dataset, model and seed the first is used, for its data, its prompt and its warm start,
    of which the `shots` demonstrations are drawn. One that another process works on is left out.
    """
    results = []
    first: dict[str, Cell] = {}
    for cell in cells:
        first.setdefault(_named(cell, FEW_SHOT), cell)
    for name, cell in first.items():
        key = fingerprint({"cell": cell.fingerprint, "shots": shots})
        path = result_path(out, name)
        with claim(out / "claims" / f"{name}.lock") as mine:
            if not mine:
                continue
            if not path.is_file() or read_result(path).fingerprint != key:
                progress.say(f"{name}: the untuned model with {shots} demonstrations")
                result = _few_shot(cell, shots, shared, progress)
                tags = {key: value for key, value in cell.tags.items() if key != "peft"} | {"method": FEW_SHOT}
                write_result(out, replace(result, name=name, tags=tags, fingerprint=key))
        results.append(read_result(path))
    return results


def _few_shot(cell: Cell, shots: int, shared: Shared, progress: Progress) -> Result:
    bench = shared.bench(cell.config)
    test = bench.fitting.test
    if test is None:
        raise GuidestarError(f"{cell.name}: there is no test set to measure the few-shot model on")
    with Store.open(run_folder(cell), read=True) as store:
        labelled = store.annotations.answered(0)
        facts = store.facts
    start = time.perf_counter()
    with progress.phase("few-shot") as tick:
        values, _ = bench.engine.few_shot(labelled, test, shots=shots, seed=cell.config.seeds[0], tick=tick)
    seconds = {"few-shot": round(time.perf_counter() - start, 3)}
    return replace(about(cell, facts), final=values["accuracy"], metrics=values, seconds=seconds)


def run_probe(
    cell: Cell, name: str, out: Path, shared: Shared, progress: Progress, **options: Any
) -> tuple[Result, tuple[Path, ...]]:
    """A probe of a finished cell's run: its result, kept in `out/results` too, and the files it wrote."""
    progress.say(f"probe {name} of {cell.name}")
    folder = run_folder(cell)
    answer = probe(folder, name, bench=shared.bench(cell.config), progress=progress, **options)
    with Store.open(folder, read=True) as store:
        facts = store.facts
    result = replace(
        about(cell, facts),
        name=_named(cell, f"probe-{name}"),
        tags={**cell.tags, "method": f"probe-{name}", "probed": cell.tags["method"]},
        fingerprint=fingerprint({"cell": cell.fingerprint, "probe": name, "options": options}),
        sentences=list(answer.sentences), facts=dict(answer.facts),
    )  # fmt: skip
    write_result(out, result)
    return result, answer.files


def _named(cell: Cell, what: str) -> str:
    """The name of a result beside a cell's."""
    tags = cell.tags
    return "/".join(str(part) for part in (tags["dataset"], tags.get("model"), what, f"seed{tags['seed']}") if part)
