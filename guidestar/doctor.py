"""What is installed, what the machine can do, whether a run folder is whole; with a fix for each finding."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from guidestar import config as configs
from guidestar.config import CONFIG_FILE
from guidestar.errors import ForeignDatabase, GuidestarError, LostRecord, NewerDatabase, StoreError
from guidestar.metrics.memory import GIB
from guidestar.store import Store, files, runs_in
from guidestar.store.store import DATABASE
from guidestar.study.fit import this_machine
from guidestar.words import count

State = Literal["ok", "note", "problem"]
EXTRAS = {
    "report": "the charts of `guidestar report`",
    "data": "Parquet files and Hugging Face datasets",
    "gguf": "models in GGUF files",
    "label": "the labelling page and endpoints as annotators",
    "excel": "Excel files",
    "ray": "study cells and parts of a pool on a Ray cluster",
    "slurm": "the same as jobs of Slurm",
    "vllm": "pools scored by vLLM, on a GPU",
    "large": "models in 4 and 8 bits",
    "search": "`guidestar search`",
    "site": "the documents as a site",
}
LEAST_MEMORY, LEAST_DISK = 4.0, 2.0  # GiB: SmolLM2-135M trains in 2 to 3, and its copies and adapters take 1


@dataclass(frozen=True)
class Finding:
    """about: what was looked at. state: a problem keeps something from working, a note only limits it. fix: what to do."""

    about: str
    state: State
    what: str
    fix: str = ""


def examine(run: Path | None = None) -> list[Finding]:
    """All findings: packages, the machine, and the runs of a folder if one is given. Nothing in it is changed, except
    that the database of an older release is brought up to date, as every command does."""
    place = run if run is not None and run.is_dir() else Path()
    return [*packages(), *machine(place), *(run_folder(run) if run is not None else ())]


def text(findings: Sequence[Finding]) -> str:
    """The findings for a terminal, each with its fix, and a last line that counts."""
    marks = {"ok": "ok     ", "note": "note   ", "problem": "PROBLEM"}
    width = max(len(f.about) for f in findings)
    lines = []
    for f in findings:
        lines.append(f"{marks[f.state]}  {f.about:<{width}}  {f.what}")
        if f.fix:
            lines.append(f"{'':<{9 + width}}  fix: {f.fix}")
    problems, notes = (sum(f.state == state for f in findings) for state in ("problem", "note"))
    counts = f"{count(problems, 'problem')}, {count(notes, 'note')}"
    return "\n".join([*lines, "", counts if problems or notes else "all is well"])


# --- packages -------------------------------------------------------------------------------------


def packages(
    required: Iterable[str] | None = None, version: Callable[[str], str] = metadata.version
) -> Iterator[Finding]:
    """Each package that is needed or makes an extra, beside the lowest version that will do.

    required: requirements as `importlib.metadata.requires` gives them, those of this package if not given.
    """
    from packaging.requirements import Requirement

    yield Finding("python", "ok", platform.python_version())
    for line in required if required is not None else metadata.requires("guidestar") or []:
        needed = Requirement(line)
        extra = next((e for e in EXTRAS if needed.marker and needed.marker.evaluate({"extra": e})), None)
        if needed.marker is not None and extra is None and not needed.marker.evaluate({"extra": ""}):
            continue  # a tool of the developers, or something for another platform
        package = "guidestar" if extra is None else f"guidestar[{extra}]"
        for_what = "" if extra is None else f" (for {EXTRAS[extra]})"
        missing: State = "problem" if extra is None else "note"
        try:
            installed = version(needed.name)
        except metadata.PackageNotFoundError:
            yield Finding(needed.name, missing, f"is not installed{for_what}", f"pip install '{package}'")
            continue
        if needed.specifier.contains(installed, prereleases=True):
            yield Finding(needed.name, "ok", f"{installed}{for_what}")
        else:
            fix = f"pip install '{needed.name}{needed.specifier}'"
            yield Finding(needed.name, missing, f"{installed}, needs {needed.specifier}{for_what}", fix)


# --- the machine ----------------------------------------------------------------------------------


def machine(place: Path) -> Iterator[Finding]:
    """Cores, precision, accelerator, memory, disk at `place`, the cache of models."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("processor", "ok", f"{cores} cores, {platform.machine()}")
    if importlib.util.find_spec("torch") is not None:  # else it is among the packages that are missing
        yield from _with_torch(cores or 1)
    there = this_machine(place, "cpu")
    if there.memory is not None and there.free is not None:
        short = there.free < LEAST_MEMORY * GIB
        yield Finding(
            "memory", "note" if short else "ok", f"{there.free / GIB:.1f} of {there.memory / GIB:.1f} GiB free",
            "close other programs, or lower model.batch_tokens and train.micro_batch_size" if short else "",
        )  # fmt: skip
    if there.disk is not None:
        short = there.disk < LEAST_DISK * GIB
        yield Finding(
            "disk", "note" if short else "ok", f"{there.disk / GIB:.1f} GiB free at {place.resolve()}",
            "make room: adapters of old rounds may be deleted, they are trained again if they are needed" if short else "",
        )  # fmt: skip


def _with_torch(cores: int) -> Iterator[Finding]:
    import torch

    from guidestar.model.sources import cache_folder

    if (threads := torch.get_num_threads()) > cores:
        what = f"{threads} on {cores} cores: they wait for each other"
        yield Finding("threads", "note", what, f"OMP_NUM_THREADS={cores}")
    yield _accelerator(torch)
    folder = cache_folder()
    if os.access(next(p for p in (folder, *folder.parents) if p.is_dir()), os.W_OK):
        yield Finding("model cache", "ok", str(folder))
    else:
        what, fix = f"{folder} cannot be written", "set GUIDESTAR_CACHE to a folder of yours"
        yield Finding("model cache", "problem", what, fix)


def _accelerator(torch: Any) -> Finding:
    if torch.cuda.is_available():
        names = []
        for i in range(torch.cuda.device_count()):
            size = torch.cuda.get_device_properties(i).total_memory / 2**30
            names.append(f"{torch.cuda.get_device_name(i)} {size:.0f} GiB")
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bfloat16" if bf16 else "float32, it has no bfloat16"
        return Finding("accelerator", "ok", f"{', '.join(names)}; {precision}")
    if torch.backends.mps.is_available():
        return Finding("accelerator", "ok", "Apple GPU (mps); float32")
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    precision = "bfloat16" if native else "float32, the processor has no bfloat16"
    built = torch.version.cuda or getattr(torch.version, "hip", None)
    fix = "check the driver with nvidia-smi" if built and shutil.which("nvidia-smi") else ""
    return Finding("accelerator", "note", f"none, the processor is used in {precision}", fix)


# --- runs -----------------------------------------------------------------------------------------


def run_folder(folder: Path) -> Iterator[Finding]:
    """Whether the runs in a folder are what was recorded: database, adapters, arrays, configuration, leftovers."""
    if not folder.is_dir():
        yield Finding(str(folder), "problem", "no such folder", "name the folder of a run, runs/NAME")
        return
    places = runs_in(folder)
    if not places:
        what = f"holds no run: no {DATABASE} in it or one folder below"
        yield Finding(str(folder), "problem", what, "guidestar run CONFIG")
        return
    yield _configuration(folder)
    for place in places:
        yield from _run(place)


def _configuration(folder: Path) -> Finding:
    file = configs.kept_in(folder)
    if file is None:
        return Finding(
            CONFIG_FILE, "problem", f"is neither in {folder} nor above it, so the run cannot be continued by its folder",
            "guidestar run with the configuration it was begun with writes it again",
        )  # fmt: skip
    try:
        config = configs.load(file)
    except GuidestarError as error:
        what = str(error).splitlines()[0]
        return Finding(CONFIG_FILE, "problem", what, "put it right by hand, or run your own copy again")
    sources = [getattr(config.data, place) for place in configs.DATA_PLACES]
    if gone := [source for source in sources if configs.is_local(source) and not Path(source).exists()]:
        what = f"names {gone[0]}, which is not there"
        return Finding(CONFIG_FILE, "problem", what, f"bring it back, or change {file}")
    return Finding(CONFIG_FILE, "ok", "can be read, and its data are there")


_COPY = "bring run.sqlite and run.sqlite-wal back from a copy"
_FIXES: dict[type[StoreError], str] = {
    LostRecord: "labels and rounds may be missing: bring run.sqlite and run.sqlite-wal from where the folder was copied",
    NewerDatabase: "pip install --upgrade guidestar",
    ForeignDatabase: "this is no run: move the file away, or name another folder",
    StoreError: _COPY,
}


def _run(place: Path) -> Iterator[Finding]:
    name = place.resolve().name
    try:
        with Store.open(place, read=True) as store:
            findings = [*_database(name, store), *_files(name, store)]
    except StoreError as error:
        yield Finding(name, "problem", str(error), _FIXES[type(error)])
        return
    yield from findings


def _database(name: str, store: Store) -> Iterator[Finding]:
    if damage := store.damage():
        yield Finding(name, "problem", f"run.sqlite: {damage[0]}", _COPY)
    if beyond := store.beyond():
        yield Finding(
            name, "problem", f"the record ends before {beyond[0]}, which lies there: labels and rounds may be missing",
            _FIXES[LostRecord],
        )  # fmt: skip
    if not store.begun:
        yield Finding(name, "note", "was made but never begun", "guidestar run continues it; or delete the folder")
        return
    state = f"{len(store.metrics())} rounds, {len(store.annotations.labelled())} labels"
    yield Finding(name, "ok", f"{state}; the database is whole")
    begun, now = store.facts.get("versions") or {}, metadata.version("guidestar")
    if begun.get("guidestar") not in (None, now):
        yield Finding(
            name, "note", f"begun with guidestar {begun['guidestar']}, this is {now}: it may not continue bit for bit",
            f"pip install guidestar=={begun['guidestar']}, where that matters",
        )  # fmt: skip


def _files(name: str, store: Store) -> Iterator[Finding]:
    """Adapters and arrays against their recorded hashes; what nobody recorded."""
    recorded, good, newest = set(), 0, max(store.current_round() - 1, 0)
    for kind, r, title, sha256 in store.recorded():
        path = store.folder / kind / title
        recorded.add(path)
        if not path.exists():
            if kind == "arrays":
                fix = "bring it back from a copy, or go without it"
            elif r < newest:
                fix = "nothing to do: it is trained again from the recorded labels when it is needed"
            else:
                fix = f"guidestar run {store.folder.parent} trains it again from the recorded labels; so do predict, score and publish"
            yield Finding(name, "note", f"{kind}/{title} is gone", fix)
        elif files.sha256(path) != sha256:
            yield Finding(
                name, "problem", f"{kind}/{title} is not what was recorded after round {r}",
                "delete the folder and run again: it is trained once more from the recorded labels" if kind == "adapters"
                else "bring it back from a copy, or delete it to go on without it",
            )  # fmt: skip
        else:
            good += 1
    yield Finding(name, "ok", f"{good} adapters and arrays have their recorded hashes")
    there = {p for kind in ("adapters", "arrays") for p in (store.folder / kind).glob("*")}
    if left := sorted(there - recorded):
        yield Finding(
            name, "note", f"{len(left)} files or folders that nobody recorded, such as {left[0].relative_to(store.folder)}",
            "leftovers of a stopped process: the next run replaces or removes them",
        )  # fmt: skip
