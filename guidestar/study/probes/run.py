"""The run that is probed: its data and model, what was computed for it before, and what a probe says and writes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from guidestar import config as configs
from guidestar.asking import LABELS, Engine, Scorer, choice_values
from guidestar.bench import Bench
from guidestar.errors import ConfigError, ConfigMismatch, StoreError
from guidestar.progress import Progress, Silent, Tick
from guidestar.records import Example, Metrics
from guidestar.rng import generator
from guidestar.store import Store, files, find_run
from guidestar.store.cache import Cache
from guidestar.store.store import DATABASE
from guidestar.study.drawing import PAGE, save_figure, write_csv
from guidestar.tasks import recorded_task

Arrays = Mapping[str, np.ndarray]
Rows = list[Sequence[object]]
Say = Callable[[Engine, Path | None, Tick], Arrays]  # of the engine, an adapter and who hears how far it is

FOLDER = "probes"  # in the run's folder
TEXTS = 100  # that a probe of states or gates looks at


@dataclass(frozen=True)
class Probe:
    """The result of a probe. facts: JSON-able, sentences and names of files included. files: all that it wrote."""

    name: str
    facts: Mapping[str, Any]
    sentences: tuple[str, ...]
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Figure:
    """A table, and its drawing where there is enough to draw. ending: of the files' names, behind the probe's."""

    header: Sequence[str]
    rows: Rows
    draw: Callable[[Any], None] | None = None
    width: float = PAGE
    height: float = 3.0
    ending: str = ""

    def write(self, stem: Path) -> list[Path]:
        """STEM.csv, and STEM.png and STEM.pdf where there is a drawing; returns the files."""
        stem = stem.with_name(stem.name + self.ending)
        if self.draw is None:
            return [write_csv(stem.with_name(f"{stem.name}.csv"), self.header, self.rows)]
        return save_figure(stem, self.draw, self.header, self.rows, width=self.width, height=self.height)


@dataclass(frozen=True)
class Answer:
    """What one probe has to say: JSON-able facts, sentences, and figures to write."""

    facts: Mapping[str, Any]
    sentences: Sequence[str]
    figures: Sequence[Figure]


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
    def strategy(self) -> str:
        """The name of the run's strategy."""
        return str(self.facts.get("strategy"))

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.facts.get("seed", 0))

    @property
    def bench(self) -> Bench:
        """The run's data, which must be what the run was begun with; read when first needed.

        Raises ConfigError if there is no configuration beside the run, ConfigMismatch for other data.
        """
        if not self.benches:
            self.benches.append(Bench(configs.load(self.folder), self.progress))
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
    def untuned(self) -> Scorer:
        """The bare model, from the cache that the runs share: they may have asked the same."""
        _ = self.engine  # the right one
        return self.bench.untuned()

    def need_choice(self, name: str) -> None:
        task = recorded_task(self.facts)
        if not task.classes:
            raise ConfigError(
                f"probe {name} needs the probabilities of labels, and of a task of kind {task.kind} a run keeps only which "
                "answers were correct; allowed: choice. The probe entropy works for every kind"
            )

    # --- rounds -------------------------------------------------------------------------------------

    def finished(self) -> list[Metrics]:
        """The complete rounds. Raises StoreError if there is none."""
        if rounds := self.store.metrics():
            return rounds
        raise StoreError(f"{self.folder}: no round is complete yet, so there is nothing to probe")

    def measured(self) -> dict[int, Metrics]:
        """The complete rounds with predictions of the test set, by number. Raises ConfigError if there is none."""
        rounds = {metrics.round: metrics for metrics in self.finished() if self.store.has_arrays(metrics.round, "test")}
        if not rounds:
            raise ConfigError(f"{self.folder}: the run has no test set, and this probe looks at test predictions")
        return rounds

    def tuned_rounds(self) -> list[Metrics]:
        """The complete rounds whose adapter is still there. Raises StoreError if there is none."""
        rounds = [m for m in self.finished() if self.store.has_adapter(m.round)]
        if not rounds:
            raise StoreError(f"{self.folder}: all their adapters are gone, so there is no tuned model to probe")
        return rounds

    def queries(self, store: Store | None = None) -> list[list[str]]:
        """Ids of the examples that each round asked for. store: of another run than this one."""
        store = store or self.store
        return [[pick.id for pick in store.query(r).picks] for r in range(store.rounds())]

    @contextmanager
    def others(self) -> Iterator[dict[str, Store]]:
        """Strategy -> store, open, of the runs beside this one with the same data and seed."""
        same: dict[str, Store] = {}
        with ExitStack() as stack:
            for place in sorted(self.folder.absolute().parent.glob(f"*/{DATABASE}")):
                if not place.parent.samefile(self.folder):
                    store = stack.enter_context(Store.open(place.parent, read=True))
                    if store.begun and all(store.facts.get(k) == self.facts.get(k) for k in ("data_hash", "seed")):
                        same.setdefault(str(store.facts.get("strategy")), store)
            same.pop(self.strategy, None)
            yield same

    # --- what a model says --------------------------------------------------------------------------

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

    def asked_to_train(self, labelled: Sequence[tuple[Example, str]], seed: int) -> dict[str, Any]:
        """What a training of a probe depends on."""
        config = self.bench.config
        return self.question | {
            "seed": seed, "peft": config.peft, "train": config.train.model_dump(mode="json"),
            "labels": [(e.id, answer) for e, answer in labelled],
        }  # fmt: skip

    def cached(self, name: str, question: Mapping[str, Any], compute: Callable[[], Arrays]) -> Arrays:
        """Arrays from the disk if this question was asked before, else computed and kept."""
        return Cache(self.place).arrays(name, question, lambda: dict(compute()))

    def of_model(self, name: str, r: int | None, asked: Mapping[str, Any], say: Say) -> Arrays:
        """What the base model (None) or a round's adapter says; from the disk where it is. asked: all that it depends on beside
        the run and the adapter."""
        adapter = None if r is None else self.store.adapter(r)
        whose = {} if adapter is None else {"adapter": files.sha256(adapter)}

        def compute() -> Arrays:
            engine = self.engine
            with self.progress.phase("base model" if r is None else f"round {r}") as tick:
                return say(engine, adapter, tick)

        return self.cached(name, {**self.question, **asked, **whose}, compute)

    def inside(self, what: str, r: int | None, examples: Sequence[Example]) -> Arrays:
        """What `Engine.inside` shows of the base model (None) or of a round's adapter."""
        asked = {"ids": [e.id for e in examples], "what": what}
        name = f"{what}-{'base' if r is None else r}"
        return self.of_model(name, r, asked, lambda engine, *on: engine.inside(what, examples, *on))

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
            "probe": name, "run": self.folder.resolve().name, "strategy": facts.get("strategy"), "seed": facts.get("seed"),
            "task": facts["task"], "model": facts["model"]["name"], "synthetic": bool(facts.get("synthetic")),
        }  # fmt: skip

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


# --- options and numbers ----------------------------------------------------------------------------


def at_least(least: int, **options: int | None) -> None:
    """Raise ConfigError for an option below `least`; None is one that was not given."""
    for name, value in options.items():
        if value is not None and value < least:
            raise ConfigError(f"{name} is {value}; allowed: {least} or more")


def chosen_round(asked: int | None, rounds: Collection[int]) -> int:
    """The round that was asked for, by default the last. Raises ConfigError if it is none of `rounds`."""
    if asked is not None and asked not in rounds:
        raise ConfigError(f"round is {asked}; allowed: {', '.join(map(str, rounds))}")
    return max(rounds) if asked is None else asked


def number(value: float) -> float | None:
    """A number that JSON can write: NaN is None."""
    return None if math.isnan(value) else float(value)


def plain(values: np.ndarray | Sequence[Any]) -> Any:
    """Nested lists of `number`."""
    return number(values) if np.ndim(values) == 0 else [plain(one) for one in values]  # type: ignore[arg-type]
