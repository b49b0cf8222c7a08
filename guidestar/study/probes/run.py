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
from guidestar.asking import LABELS, Engine, Scorer, choice_values
from guidestar.bench import Bench
from guidestar.config import CONFIG_FILE
from guidestar.errors import ConfigError, ConfigMismatch, StoreError
from guidestar.progress import Progress, Silent
from guidestar.records import Example, Metrics
from guidestar.rng import generator
from guidestar.store import Store, files
from guidestar.store.cache import Cache
from guidestar.store.store import find_run
from guidestar.tasks import recorded_task

if TYPE_CHECKING:  # a probe that finds all its numbers on the disk needs no torch
    from guidestar.model.load import BaseModel

Arrays = Mapping[str, np.ndarray]

FOLDER = "probes"  # in the run's folder
TEXTS = 100  # that a probe of states or gates looks at


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

    @property
    def bench(self) -> Bench:
        """The run's data, which must be what the run was begun with; read when first needed.

        Raises ConfigError if there is no configuration beside the run, ConfigMismatch for other data.
        """
        if not self.benches:
            place = configs.kept_in(self.folder)
            if place is None:
                raise ConfigError(
                    f"{self.folder}: found no {CONFIG_FILE} in it or in the folder above it, "
                    "which would say where the run's data and model are"
                )
            self.benches.append(Bench(configs.load(place), self.progress))
        bench = self.benches[0]
        if bench.dataset.hash != self.facts["data_hash"]:
            raise ConfigMismatch(
                f"{self.folder}: the data or the template has changed since the run was begun; put it back to probe the run"
            )
        return bench

    @property
    def engine(self) -> Engine:
        """The run's model. Raises ConfigMismatch if its weights or its precision are others."""
        engine = self.bench.engine
        engine.must_be(self.facts["model"], self.folder)
        return engine

    @property
    def base(self) -> BaseModel:
        """The same, for what looks inside it. Raises ConfigError for an engine that is not this package's own."""
        from guidestar.model.engine import OwnEngine

        if not isinstance(self.engine, OwnEngine):
            raise ConfigError(f"{self.folder}: this probe looks inside a model, and the run's engine shows none")
        return self.engine.base

    @property
    def untuned(self) -> Scorer:
        """The bare model, from the cache that the runs share: they may have asked the same."""
        _ = self.engine  # the right one
        return self.bench.untuned()

    def need_choice(self, name: Literal["confidence", "unchanged"]) -> None:
        task = recorded_task(self.facts)
        if not task.classes:
            raise ConfigError(
                f"probe {name} needs the probabilities of labels, and of a task of kind {task.kind} a run keeps only which "
                "answers were correct; allowed: choice. The probe entropy works for every kind"
            )

    def measured(self) -> dict[int, Metrics]:
        """The finished rounds with predictions of the test set, by number."""
        finished = self.store.metrics()
        if not finished:
            raise StoreError(f"{self.folder}: no round is complete yet, so there is nothing to probe")
        found = {metrics.round: metrics for metrics in finished if self.store.has_arrays(metrics.round, "test")}
        if not found:
            raise ConfigError(f"{self.folder}: the run has no test set, and this probe looks at test predictions")
        return found

    def zero_shot(self) -> Arrays:
        """Test predictions of the base model; the run has kept them, unless somebody deleted the file."""
        if self.store.has_arrays(0, "test_base"):
            return self.store.arrays(0, "test_base")
        data = self.bench.fitting
        assert data.test is not None
        pairs = data.test.answered()
        with self.progress.phase("base model") as tick:
            said = self.untuned([e for e, _ in pairs], LABELS, tick)
        return choice_values(said.arrays["label_log_probs"][0], [a for _, a in pairs], data.task)[1]

    @property
    def question(self) -> dict[str, Any]:
        """What any prediction for this run depends on."""
        model, settings = self.facts["model"], self.facts["config"]
        return {
            "data": self.facts["data_hash"], "model": model["fingerprint"], "dtype": model["dtype"],
            "chat": settings["model"]["chat"], "max_length": settings["model"]["max_length"],
            "task": {**settings["task"], **self.facts["task"]},
        }  # fmt: skip

    def cached(self, name: str, question: Mapping[str, Any], compute: Callable[[], Arrays]) -> Arrays:
        """Arrays from the disk if this question was asked before, else computed and kept."""
        return Cache(self.place).arrays(name, question, lambda: dict(compute()))

    def tuned_rounds(self) -> list[Metrics]:
        """The finished rounds whose adapter is still there. Raises StoreError if there is none."""
        rounds = [m for m in self.store.metrics() if self.store.has_adapter(m.round)]
        if not rounds:
            raise StoreError(f"{self.folder}: no adapter is there, so there is no tuned model to probe")
        return rounds

    def texts_of(self, texts: int) -> list[Example]:
        """Examples to look at: of the test set, or of the pool where there is none, drawn by the run's seed."""
        data = self.bench.fitting
        everything = data.test.examples if data.test is not None else data.pool
        rows = generator(int(self.facts["seed"]), 0, "layers").permutation(len(everything))[:texts]
        return [everything[i] for i in sorted(rows)]

    # --- what is written ----------------------------------------------------------------------------

    def about(self, name: str) -> dict[str, Any]:
        facts = self.facts
        return {
            "probe": name,
            "run": self.folder.resolve().name,
            "strategy": facts.get("strategy"),
            "seed": facts.get("seed"),
            "task": facts["task"],
            "model": facts["model"]["name"],
            "synthetic": bool(facts.get("synthetic")),
        }

    def finish(self, name: str, facts: Mapping[str, Any], sentences: Sequence[str], written: Sequence[Path]) -> Probe:
        """The probe with its facts on the disk, and without figures of an earlier one that would contradict it."""
        said = [*sentences, "The data is synthetic: the numbers show that the probe works, and nothing else."]
        said = said if facts["synthetic"] else list(sentences)
        path = self.place / f"{name}.json"
        everything = {**facts, "sentences": said, "files": sorted([*(p.name for p in written), path.name])}
        for old in self.place.glob(f"{name}[.-]*"):
            if old.suffix in (".png", ".pdf", ".csv") and old not in written:
                with files.writing(old):
                    old.unlink()
        files.write_bytes(path, (json.dumps(everything, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())
        return Probe(name, everything, tuple(said), (*written, path))


@contextmanager
def opened(run: Path, bench: Bench | None, progress: Progress | None) -> Iterator[Subject]:
    folder = find_run(Path(run))
    with Store.open(folder) as store:
        news = progress or (bench.progress if bench is not None else Silent())
        yield Subject(folder, store, store.facts, news, [] if bench is None else [bench])


def number(value: float) -> float | None:
    """A number that JSON can write: NaN is None."""
    return None if math.isnan(value) else float(value)
