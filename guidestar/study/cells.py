"""The engine of a study: many runs, each a cell with a result file of its own, resumable at every point.

A cell is one strategy with one seed. It knows nothing of the other cells, so several processes may work on the
same study: each takes the next cell that nobody holds. Cells of one model and one dataset share what is dear to
make: the loaded base model, the data, and the base model's scores on disk. Cells whose configurations differ in
the strategy alone belong into the same `out`, where the loop shares the warm start's adapter between them.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from guidestar.bench import Bench
from guidestar.config import CONFIG_FILE, RunConfig, fingerprint
from guidestar.data.presets import apply_preset
from guidestar.errors import ConfigError, DataError, GuidestarError, StoreError
from guidestar.loop import Run, oracle
from guidestar.metrics.savings import auc
from guidestar.metrics.scores import right_of
from guidestar.progress import Progress
from guidestar.query.table import warm_start_of
from guidestar.store import files
from guidestar.study.results import (
    Result,
    config_fingerprint,
    made_with,
    portable,
    read_result,
    recipe,
    result_path,
    short,
    write_result,
)

State = Literal["done", "kept", "failed", "elsewhere"]


@dataclass(frozen=True)
class Cell:
    """One strategy with one seed.

    name: "boolq/me-star/seed0": the place of its result file. tags: what it is, for tables ("dataset", "method",
    "seed", …). config: with one strategy and one seed. adapters: which rounds' adapters stay on the disk: "all",
    or "last", the newest and the warm start's.
    """

    name: str
    tags: Mapping[str, str | int]
    config: RunConfig
    adapters: Literal["all", "last"] = "all"

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that decides what the cell measures, but the content of files."""
        return config_fingerprint(self.config)


@dataclass(frozen=True)
class CellResult:
    """What became of a cell. state: "done" now, "kept" from before, "failed", or "elsewhere": another process
    works on it. result: the content of its file, None where there is none. error: why it failed."""

    cell: Cell
    state: State
    result: Result | None = None
    error: str | None = None


def run_cells(
    cells: Sequence[Cell], out: Path, shared: Shared, after: Callable[[CellResult], None] = lambda done: None
) -> list[CellResult]:
    """Run every cell that has no result yet, in the order given; the results are in `out/results`.

    A cell that was begun goes on where it stopped. A cell that fails is reported and the others go on. A cell that
    another process holds is left to it. after: called with each cell that is done.
    """
    results: list[CellResult] = []
    for cell in cells:
        results.append(run_cell(cell, cells, out, shared))
        if results[-1].state == "done":
            after(results[-1])
    return results


def run_cell(cell: Cell, cells: Sequence[Cell], out: Path, shared: Shared, *, apart: bool = False) -> CellResult:
    """Run one of a study's cells unless its result is there. apart: on this machine's own disk, from where the run is
    published when it is finished: `out` may be on a file system that several machines share, where SQLite cannot work."""
    if (one := kept(cell, out)) is None:
        shared.progress.say(f"cell {cells.index(cell) + 1} of {len(cells)}: {cell.name}")
        one = _attempt(cell, cells, out, shared, apart)
    if one.error:
        shared.progress.say(f"{cell.name} failed: {one.error}")
    return one


def group_of(cell: Cell) -> tuple[tuple[str, str | int], ...]:
    """All tags but the method: what is alike in cells that share a warm start."""
    return tuple(sorted((key, value) for key, value in cell.tags.items() if key != "method"))


def kept(cell: Cell, out: Path) -> CellResult | None:
    """The cell's result if it is there and made with the same configuration; "failed" if it cannot be read."""
    path = result_path(out, cell.name)
    if not path.is_file():
        return None
    try:
        result = read_result(path)
    except StoreError as error:
        return CellResult(cell, "failed", error=str(error))
    return CellResult(cell, "kept", result) if made_with(result, cell.config) else None


# --- one cell -----------------------------------------------------------------------------------


class Shared:
    """What cells have in common: one base model at a time, one dataset at a time, one cache."""

    def __init__(self, cache: Path, progress: Progress) -> None:
        self.cache, self.progress = cache, progress
        self._kept: dict[str, tuple[str, Any]] = {}  # part of a bench -> its key and itself

    def bench(self, config: RunConfig) -> Bench:
        """A bench with everything that an earlier one has made already."""
        plain = config.plain()
        model, data = fingerprint(plain["model"]), fingerprint({k: plain[k] for k in ("data", "task", "query")})
        bench = Bench(config, self.progress, cache=self.cache)
        self._shared(bench, "dataset", data)
        known = self._kept.get("base")
        if known is None or known[0] != model or known[1].labels not in ((), bench.dataset.task.classes):
            self._kept = {"dataset": self._kept["dataset"]}
        del known  # its memory must be free before the next model is loaded
        self._shared(bench, "base", model)
        self._shared(bench, "fitting", model + data)
        return bench

    def _shared(self, bench: Bench, part: str, key: str) -> None:
        """Give a bench a part that is there under this key; else have it make its own, and keep that."""
        if self._kept.get(part, ("",))[0] == key:
            setattr(bench, part, self._kept[part][1])
        self._kept[part] = key, getattr(bench, part)

    def forget(self) -> None:
        """Load the model anew: after a failure nobody knows what is left on it."""
        self._kept = {}


def _attempt(cell: Cell, cells: Sequence[Cell], out: Path, shared: Shared, apart: bool) -> CellResult:
    """The cell's result now, or why there is none."""
    lock = _scratch(cell).with_suffix(".lock") if apart else out / "claims" / f"{cell.name}.lock"
    with claim(lock, wait=apart) as mine:
        if not mine:
            return CellResult(cell, "elsewhere")
        if (before_us := kept(cell, out)) is not None:  # finished by another process meanwhile
            return before_us
        before = [
            one for other in cells if other.config.seeds == cell.config.seeds and other is not cell
            and (one := kept(other, out)) is not None
        ]  # fmt: skip
        try:
            result = (_run_apart if apart else _run)(cell, shared, before, cells)
            write_result(out, result)
        except Exception as error:  # torch and PEFT raise many kinds; one cell must not end the others
            shared.forget()
            why = str(error) if isinstance(error, GuidestarError) else f"{type(error).__name__}: {error}"
            return CellResult(cell, "failed", error=why)
    return CellResult(cell, "done", result)


def _scratch(cell: Cell) -> Path:
    """A cell's folder on this machine's own disk, the same for every process of this user."""
    home = Path(tempfile.gettempdir()) / f"guidestar-{os.getuid()}"
    home.mkdir(mode=0o700, exist_ok=True)
    if home.is_symlink() or home.stat().st_uid != os.getuid():
        raise StoreError(f"{home}: belongs to somebody else; set TMPDIR to a folder of your own")
    return home / fingerprint([str(run_folder(cell).absolute()), cell.fingerprint])[:16]


def _run_apart(cell: Cell, shared: Shared, before: Sequence[CellResult], cells: Sequence[Cell]) -> Result:
    """Run a cell in `_scratch` and publish its run. One that is begun again on this machine goes on there, on another
    anew; both end alike."""
    final, place = run_folder(cell), _scratch(cell)
    group = [other for other in cells if other.config.out == cell.config.out]
    moved = [replace(other, config=other.config.model_copy(update={"out": str(place)})) for other in group]
    mine = moved[group.index(cell)]
    own = run_folder(mine)
    if final.is_dir() and not own.is_dir():  # begun by another engine
        files.publish_folder(own, lambda folder: shutil.copytree(final, folder, dirs_exist_ok=True))
    result = _run(mine, shared, before, moved, final.parent)
    left = shutil.ignore_patterns("run.lock", f"{files.TEMPORARY}*")
    files.publish_folder(final, lambda folder: shutil.copytree(own, folder, dirs_exist_ok=True, ignore=left))
    files.write_bytes(final.parent / CONFIG_FILE, (place / CONFIG_FILE).read_bytes())
    shutil.rmtree(place, ignore_errors=True)
    return result


@contextmanager
def claim(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Whether this process is the one that works on something; the system gives the claim back when it ends.

    wait: until another process has let go, so that it is always yes.
    """
    with files.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    with file:
        yield files.hold(file.fileno(), wait=wait)


def _run(
    cell: Cell, shared: Shared, before: Sequence[CellResult], cells: Sequence[Cell], starts: Path | None = None
) -> Result:
    bench = shared.bench(cell.config)
    bench.starts = starts
    gold = oracle(bench.dataset)
    with Run(bench.config, bench=bench, may_grow=False) as run:  # a cell is one protocol from its first label on
        _keep_config_of_all(cell, bench, cells)
        while True:
            examples = run.ask()
            check_warm_start(_warm_start(run), before)
            if cell.adapters == "last":
                _prune(run)
            if not examples:
                return _result(cell, run)
            for example in examples:
                if (answer := gold(example)) is None:
                    raise DataError(f"{example.where}: has no gold answer, so that the cell cannot be simulated")
                run.tell(example.id, answer)


def _keep_config_of_all(cell: Cell, bench: Bench, cells: Sequence[Cell]) -> None:
    """The configuration in the cells' common folder names all their strategies and seeds, for its report."""
    there = [other.config for other in cells if other.config.out == cell.config.out]
    titles = {config.strategies[0].title: config.strategies[0] for config in there}
    seeds = sorted({config.seeds[0] for config in there})
    together = bench.config.model_copy(update={"strategies": list(titles.values()), "seeds": seeds})
    Bench(together).keep_config()


def _prune(run: Run) -> None:
    """Remove the adapters that no later round of this run reads; other runs may copy the warm start's."""
    for r in range(1, run.store.current_round() - 1):
        shutil.rmtree(run.folder / "adapters" / f"round-{r:03d}", ignore_errors=True)


def _warm_start(run: Run) -> dict[str, Any]:
    """What must be equal where seed, pool and size are."""
    pool = fingerprint([example.id for example in run.bench.pool])
    picks = [pick.id for pick in run.store.query(0).picks]
    by = warm_start_of(run.config.query.warm_start_by, run.recipe.warm_start)
    return {"pool": pool, "seed": run.seed, "size": len(picks), "by": by, "picks": fingerprint(picks)}


def check_warm_start(mine: Mapping[str, Any], others: Sequence[CellResult]) -> None:
    """Raise StoreError if a cell of the same pool, seed and size began with other examples."""
    same = ("pool", "seed", "size")
    for other in others:
        theirs = other.result and other.result.warm_start
        if not theirs or theirs.get("by", "random") != mine["by"]:  # a strategy may choose a warm start of its own
            continue
        if all(theirs[key] == mine[key] for key in same) and theirs["picks"] != mine["picks"]:
            what = f"the warm start differs from that of {other.cell.name}, though pool, seed and size are the same"
            raise StoreError(f"{what}: they cannot be compared; delete one of the two and run it again")


def _result(cell: Cell, run: Run) -> Result:
    store = run.store
    facts, metrics, timings = store.facts, store.metrics(), store.timings()
    curve = [[m.labels, m.values["accuracy"]] for m in metrics if "accuracy" in m.values]
    seconds: Any = Counter()
    for _, phase, spent, _ in timings:
        seconds[phase] += spent
    finished = store.finished()
    return replace(
        about(cell, facts),
        base=_base(run),
        warm_start=_warm_start(run),
        rounds=[
            {"round": m.round, "labels": m.labels, "metrics": dict(m.values), "picked": _balance(run, m.round)}
            for m in metrics
        ],
        curve=curve,
        auc=auc([value for _, value in curve]) if curve else None,
        final=curve[-1][1] if curve else None,
        seconds={phase: round(spent, 3) for phase, spent in seconds.items()},
        timings=[[r, phase, round(spent, 3), count] for r, phase, spent, count in timings],
        finished=finished.name if finished else None,
    )


def about(cell: Cell, facts: Mapping[str, Any]) -> Result:
    """A result of a cell before anything was measured. facts: of its run."""
    data, _, _ = apply_preset(cell.config.data, cell.config.task)
    return Result(
        name=cell.name,
        tags=dict(cell.tags),
        fingerprint=cell.fingerprint,
        config=portable(cell.config),
        recipe=recipe(cell.config),
        prompt={"template": data.template, "response": data.response},
        model={**facts["model"], "name": short(facts["model"]["name"])},
        versions=facts["versions"],
        hardware={**facts["hardware"], **_device()},
        data={**facts["data"], "hash": facts["data_hash"], "synthetic": facts["synthetic"]},
        task=facts["task"]["kind"],
    )


def _device() -> dict[str, Any]:
    """The processor as far as torch sees it."""
    import torch

    device: dict[str, Any] = {"threads": torch.get_num_threads()}
    return device | ({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {})


def _base(run: Run) -> dict[str, float] | None:
    """The untuned model on the test set, where it was measured."""
    right = right_of(run.store.arrays(0, "test_base")) if run.store.has_arrays(0, "test_base") else None
    return None if right is None else {"accuracy": float(right.mean())}


def _balance(run: Run, r: int) -> dict[str, int] | None:
    """How often each class was picked in a round; None where there are no classes."""
    data = run.bench.dataset
    if not data.task.classes:
        return None
    words = dict(zip(data.task.labels, data.task.words, strict=True))
    counts = dict.fromkeys(words.values(), 0)
    for pick in run.store.query(r).picks:
        counts[words[data.gold[pick.id]]] += 1
    return counts


def run_folder(cell: Cell) -> Path:
    """Where the run of a cell lies."""
    return Path(cell.config.out) / f"{cell.config.strategies[0].title}-seed{cell.config.seeds[0]}"


def part_of(cells: Sequence[Cell], part: str) -> list[Cell]:
    """The cells of part "i/n": whole groups, so that each warm start is trained by one of several processes.

    Raises ConfigError for another form, or a part that is not there.
    """
    if not (match := re.fullmatch(r"([1-9][0-9]*)/([1-9][0-9]*)", part)) or int(match[1]) > int(match[2]):
        raise ConfigError(f"part is {part!r}; allowed: i/n, for example 1/2")
    order = list(dict.fromkeys(map(group_of, cells)))
    return [cell for cell in cells if order.index(group_of(cell)) % int(match[2]) == int(match[1]) - 1]


def tried(progress: Progress, work: Any) -> Any:
    """What `work` returns; None, and the reason said, if it cannot be had: the tables do not hang on it."""
    try:
        return work()
    except GuidestarError as error:
        progress.say(f"left out: {error}")
        return None
