"""The run that is probed: its data and model, what was computed for it before, and where a probe writes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from guidestar import config as configs
from guidestar.asking import LABELS, Engine, choice_values
from guidestar.bench import Bench
from guidestar.config import CONFIG_FILE
from guidestar.errors import ConfigError, ConfigMismatch, StoreError
from guidestar.progress import Progress, Silent
from guidestar.records import Metrics
from guidestar.store import Store, files
from guidestar.store.cache import Cache
from guidestar.store.store import find_run
from guidestar.tasks import recorded_task

if TYPE_CHECKING:  # a probe that finds all its numbers on the disk needs no torch
    from guidestar.model.load import BaseModel

Arrays = Mapping[str, np.ndarray]

FOLDER = "probes"  # in the run's folder


@dataclass(frozen=True)
class Probe:
    """What a probe found. facts: JSON-able, sentences and names of files included. files: all that it wrote."""

    name: str
    facts: Mapping[str, Any]
    sentences: tuple[str, ...]
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Subject:
    """A run, opened. benches: its data and model, an empty list until they are asked for."""

    folder: Path
    store: Store
    facts: Mapping[str, Any]
    progress: Progress
    benches: list[Bench]

    @property
    def place(self) -> Path:
        """Where the probe writes."""
        return self.folder / FOLDER


@contextmanager
def opened(run: Path, bench: Bench | None, progress: Progress | None) -> Iterator[Subject]:
    folder = find_run(Path(run))
    with Store.open(folder) as store:
        news = progress or (bench.progress if bench is not None else Silent())
        yield Subject(folder, store, store.facts, news, [] if bench is None else [bench])


def bench_of(subject: Subject) -> Bench:
    """The run's data, which must be what the run was begun with; read when first needed.

    Raises ConfigError if there is no configuration beside the run, ConfigMismatch for other data.
    """
    if not subject.benches:
        place = configs.kept_in(subject.folder)
        if place is None:
            raise ConfigError(
                f"{subject.folder}: found no {CONFIG_FILE} in it or in the folder above it, "
                "which would say where the run's data and model are"
            )
        subject.benches.append(Bench(configs.load(place), subject.progress))
    bench = subject.benches[0]
    if bench.dataset.hash != subject.facts["data_hash"]:
        raise ConfigMismatch(
            f"{subject.folder}: the data or the template has changed since the run was begun; put it back to probe the run"
        )
    return bench


def engine_of(subject: Subject) -> Engine:
    """The run's model. Raises ConfigMismatch if its weights or its precision are others."""
    engine = bench_of(subject).engine
    engine.must_be(subject.facts["model"], subject.folder)
    return engine


def base_of(subject: Subject) -> BaseModel:
    """The same, for what looks inside it."""
    engine_of(subject)
    return bench_of(subject).base


def need_choice(subject: Subject, name: Literal["confidence", "unchanged"]) -> None:
    task = recorded_task(subject.facts)
    if not task.classes:
        raise ConfigError(
            f"probe {name} needs the probabilities of labels, and of a task of kind {task.kind} a run keeps only which "
            "answers were correct; allowed: choice. The probe entropy works for every kind"
        )


def measured(subject: Subject) -> dict[int, Metrics]:
    """The finished rounds with predictions of the test set, by number."""
    finished = subject.store.metrics()
    if not finished:
        raise StoreError(f"{subject.folder}: no round is complete yet, so there is nothing to probe")
    found = {metrics.round: metrics for metrics in finished if subject.store.has_arrays(metrics.round, "test")}
    if not found:
        raise ConfigError(f"{subject.folder}: the run has no test set, and this probe looks at test predictions")
    return found


def zero_shot(subject: Subject) -> Arrays:
    """Test predictions of the base model; the run has kept them, unless somebody deleted the file."""
    if subject.store.has_arrays(0, "test_base"):
        return subject.store.arrays(0, "test_base")
    bench, _ = bench_of(subject), engine_of(subject)
    assert bench.fitting.test is not None
    pairs = bench.fitting.test.answered()
    with subject.progress.phase("base model") as tick:
        said = bench.untuned()([e for e, _ in pairs], LABELS, tick)
    return choice_values(said.arrays["label_log_probs"][0], [a for _, a in pairs], bench.fitting.task)[1]


def question(subject: Subject) -> dict[str, Any]:
    """What any prediction for this run depends on."""
    model, settings = subject.facts["model"], subject.facts["config"]
    return {
        "data": subject.facts["data_hash"], "model": model["fingerprint"], "dtype": model["dtype"],
        "chat": settings["model"]["chat"], "max_length": settings["model"]["max_length"],
        "task": {**settings["task"], **subject.facts["task"]},
    }  # fmt: skip


def cached(subject: Subject, name: str, question: Mapping[str, Any], compute: Callable[[], Arrays]) -> Arrays:
    """Arrays from the disk if this question was asked before, else computed and kept."""
    return Cache(subject.place).arrays(name, question, lambda: dict(compute()))


# --- what is written ----------------------------------------------------------------------------


def about(subject: Subject, name: str) -> dict[str, Any]:
    facts = subject.facts
    return {
        "probe": name,
        "run": subject.folder.resolve().name,
        "strategy": facts.get("strategy"),
        "seed": facts.get("seed"),
        "task": facts["task"],
        "model": facts["model"]["name"],
        "synthetic": bool(facts.get("synthetic")),
    }


def finish(
    subject: Subject, name: str, facts: Mapping[str, Any], sentences: Sequence[str], written: Sequence[Path]
) -> Probe:
    """The probe with its facts on the disk, and without figures of an earlier one that would contradict it."""
    said = [*sentences, "The data is synthetic: the numbers show that the probe works, and nothing else."]
    said = said if facts["synthetic"] else list(sentences)
    path = subject.place / f"{name}.json"
    everything = {**facts, "sentences": said, "files": sorted([*(p.name for p in written), path.name])}
    for old in subject.place.glob(f"{name}[.-]*"):
        if old.suffix in (".png", ".pdf", ".csv") and old not in written:
            with files.writing(old):
                old.unlink()
    files.write_bytes(path, (json.dumps(everything, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())
    return Probe(name, everything, tuple(said), (*written, path))


def number(value: float) -> float | None:
    """A number that JSON can write: NaN is None."""
    return None if math.isnan(value) else float(value)
