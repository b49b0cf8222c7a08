"""The loop: ask, answer, train, measure, again.

`Run` is one strategy with one seed in one folder; all it knows is in its store, so it can be killed
anywhere and opened again. `run` goes through every strategy and seed of a configuration with an oracle.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from guidestar import config as configs
from guidestar.bench import Bench, hardware, read_config, versions
from guidestar.config import RunConfig, StrategyConfig
from guidestar.data.pool import Dataset
from guidestar.data.tasks import Choice
from guidestar.errors import ConfigError, ConfigMismatch, DataError, StoreError
from guidestar.progress import Progress, Tick
from guidestar.query import strategies
from guidestar.records import Example, Finished, Label, Metrics, Pick, Predictions, Query, Skip, Stop, Waiting
from guidestar.rng import generator, phase_seed
from guidestar.store.store import DATABASE, Store

if TYPE_CHECKING:  # torch takes seconds to import and is not needed to look at a finished run
    from guidestar.model.load import BaseModel

Annotator = Callable[[Example], Label | Skip | str | None]
Outcome = Finished | Waiting


class Run:
    """One strategy and one seed: `ask` for examples, `tell` their answers, and again until `ask` is empty.

    >>> run = Run("config.yaml")                          # doctest: +SKIP
    >>> while examples := run.ask():                      # doctest: +SKIP
    ...     for example in examples:
    ...         run.tell(example.id, annotate(example))
    >>> run.metrics()[-1].values["accuracy"]              # doctest: +SKIP
    """

    def __init__(
        self,
        config: RunConfig | Mapping[str, Any] | str | Path,
        *,
        strategy: str | None = None,
        seed: int | None = None,
        progress: Progress | None = None,
        bench: Bench | None = None,
        schedule: Callable[[int, int], float] | None = None,
    ) -> None:
        """Open the run in its folder, or begin it there.

        config: a RunConfig, plain data, or a YAML file. strategy, seed: the first of the configuration's if
        not given. schedule: a λ(t, rounds) of your own instead of the configured one; its results must be
        in [0, 1] and it must not change between sessions.

        Raises ConfigMismatch if the folder was begun with another configuration, StoreError if another
        process runs there.
        """
        self.bench = bench or Bench(read_config(config), progress)
        self.config = self.bench.config
        self.strategy = _strategy(self.config, strategy)
        self.seed = self.config.seeds[0] if seed is None else seed
        self.recipe = strategies.resolve(self.strategy)
        self.schedule = schedule
        self.folder = self.bench.folder / f"{self.strategy.title}-seed{self.seed}"
        self._stack = ExitStack()
        if not (self.folder / DATABASE).exists():  # what cannot run leaves no folder behind
            self.bench.check()
        with ExitStack() as opening:  # a failure below closes what was opened
            self.store = opening.enter_context(Store.open(self.folder, create=True))
            opening.enter_context(self.store.lock())
            self._begin()
            self._stack = opening.pop_all()

    def close(self) -> None:
        """Give the folder back to other processes."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- what people and programs call ---

    def ask(self) -> list[Example]:
        """Examples that wait for an answer; empty when the run is finished.

        When none waits, the round is completed first (training, evaluation) and the next query is made.
        Everything is stored before it is returned, so asking again gives the same.
        """
        while self.store.finished() is None:
            r = self.store.current_round()
            if not self.store.has_query(r):
                if (reason := self._should_stop()) is not None:
                    self.store.finish(reason)
                    break
                self._query(r)
            if waiting := self.store.unanswered(r):
                return waiting
            if not self.store.has_adapter(r):
                self._train(r)
            self._evaluate(r)
        return []

    def tell(self, id: str, answer: Label | Skip | str) -> bool:
        """Store an answer to an asked example; True when it is new. Telling the same twice is safe.

        Raises DataError for an answer that the task does not allow, StoreError for an id never asked.
        """
        if isinstance(answer, str):
            answer = Label(answer, annotator="person")
        if isinstance(answer, Label):
            canonical = self.bench.dataset.task.parse_gold(answer.answer, f"answer to {id}")
            answer = Label(canonical, answer.annotator)
        return self.store.add_answer(id, answer)

    def run(self, annotator: Annotator) -> Outcome:
        """Ask and tell until the run ends, or until the annotator leaves something unanswered (None)."""
        while examples := self.ask():
            left = 0
            for example in examples:
                answer = annotator(example)
                if answer is None:
                    left += 1
                else:
                    self.tell(example.id, answer)
            if left:
                return Waiting(self.store.current_round(), left)
        reason = self.store.finished()
        assert reason is not None
        return Finished(reason)

    def metrics(self) -> list[Metrics]:
        """What was measured after each round."""
        return self.store.metrics()

    def adapter(self) -> Path:
        """The folder of the newest adapter, its hash checked; PEFT loads it.

        Raises StoreError if none is trained yet.
        """
        if not (done := len(self.store.metrics())):
            raise StoreError(f"{self.folder}: no round is complete yet, so there is no adapter")
        return self._adapter(done - 1)

    # --- the phases ---

    def _begin(self) -> None:
        if not self.store.begun:  # a folder may be there from a process that died before this
            self.bench.check()
        dataset = self.bench.dataset
        key = self.config.key() | {"data_hash": dataset.hash, "seed": self.seed}
        key |= configs.flat({"strategy": _plain(self.recipe)})
        if self.schedule is not None:
            key["schedule"] = getattr(self.schedule, "__qualname__", type(self.schedule).__name__)
        self.store.begin(key, self.store.facts if self.store.begun else self._facts())
        self.bench.keep_config()

    def _facts(self) -> dict[str, Any]:
        dataset, task = self.bench.dataset, self.bench.dataset.task
        return {
            "name": self.bench.folder.name,
            "strategy": self.strategy.title,
            "recipe": _plain(self.recipe),
            "seed": self.seed,
            "task": {"kind": task.kind}
            | ({"labels": list(task.labels), "words": list(task.words)} if isinstance(task, Choice) else {}),
            "data": dict(dataset.facts),
            "data_hash": dataset.hash,
            "synthetic": self.config.data.preset == "demo",
            "model": self.bench.described,
            "config": self.config.plain(),
            "versions": versions(),
            "hardware": hardware(),
        }

    @cached_property
    def _base(self) -> BaseModel:
        """The base model, which must be the one the run was begun with.

        Raises ConfigMismatch if its weights or its precision are others.
        """
        begun, now = self.store.facts["model"], self.bench.described
        for name in ("fingerprint", "dtype"):
            if begun[name] != now[name]:
                raise ConfigMismatch(
                    f"{self.folder}: the model's {name} was {begun[name]} when the run began, now it is {now[name]}; "
                    "use the same model, or another folder"
                )
        return self.bench.base

    def _adapter(self, r: int) -> Path:
        """The adapter of a finished training; one that was deleted is trained again from its labels."""
        if not self.store.has_adapter(r):
            self._train(r)
        return self.store.adapter(r)

    def _should_stop(self) -> Stop | None:
        if len(self.store.labelled()) >= self.config.query.budget:
            return Stop.BUDGET
        return None if len(self.store.asked()) < len(self.bench.pool) else Stop.EMPTY

    def _query(self, r: int) -> None:
        """Choose the examples of round r, from predictions alone, and store them."""
        settings, pool, asked = self.config.query, self.bench.pool, self.store.asked()
        free = [e for e in pool if e.id not in asked]
        if r == 0:
            rng = generator(self.seed, 0, "warm_start")  # the strategy's name is no part: the same for all
            rows = rng.choice(len(free), size=min(settings.warm_start, len(free)), replace=False)
            picks = tuple(Pick(free[i].id, float("nan")) for i in rows)
        else:
            left = settings.budget - len(self.store.labelled())
            k = min(settings.batch, left, len(free))
            if k < min(settings.batch, left):
                self.bench.progress.say(
                    f"only {k} examples are left in the pool; asking for those instead of {settings.batch}"
                )
            candidates = self._candidates(free, max(k, settings.candidates or len(free)), r)
            selection = self._select(candidates, k, r)
            if selection.scores:
                ids = {"ids": "\n".join(e.id for e in candidates)}
                self.store.add_arrays(r, "scores", selection.scores, ids)
            picks = selection.picks
        by_id = {e.id: e for e in free}
        self.store.add_query(Query(r, picks), {p.id: by_id[p.id] for p in picks})

    def _candidates(self, free: Sequence[Example], size: int, r: int) -> list[Example]:
        if size >= len(free):
            return list(free)
        rows = generator(self.seed, r, "candidates").choice(len(free), size=size, replace=False)
        return [free[i] for i in sorted(rows)]

    def _select(self, candidates: Sequence[Example], k: int, r: int) -> strategies.Selection:
        from guidestar.model import adapters
        from guidestar.model.predict import predict

        dataset, base, settings = self.bench.fitting, self._base, self.config.query
        task, passes, seed = dataset.task, self.recipe.passes, phase_seed(self.seed, r, "score")
        needs_full, needs_base = strategies.needs(self.recipe, task.kind)
        gold = dataset.gold if any(name.startswith("gold_") for name in needs_full | needs_base) else None
        full = before = labelled = None
        if needs_base:  # in one fixed order, whatever else is known: the whole pool once, or this round's candidates
            block = dataset.pool if settings.candidates is None else candidates
            place = {e.id: i for i, e in enumerate(block)}
            before = self._base_predictions(r, "score base", block, needs_base, gold)
            before = before.rows(np.asarray([place[e.id] for e in candidates], dtype=np.intp))
        if needs_full:
            with (
                adapters.adapted(base, self._adapter(r - 1)) as model,
                self._timed(r, "score", len(candidates)) as tick,
            ):
                full = predict(
                    base, model, candidates, needs_full, task, passes=passes, seed=seed, gold=gold, tick=tick
                )
                if "embedding" in needs_full:
                    known = [example for example, _ in self.store.labelled()]
                    labelled = predict(base, model, known, {"embedding"}, task, passes=passes, seed=seed)
        counts: dict[str, int] = {}
        for _, label in self.store.labelled():
            counts[label.answer] = counts.get(label.answer, 0) + 1
        context = strategies.Context(
            t=r - 1, rounds=settings.rounds, full=full, base=before, labelled=labelled,
            labelled_classes=counts, kind=task.kind, schedule=self.schedule,
        )  # fmt: skip
        rng = generator(self.seed, r, "query")
        return strategies.choose(
            self.recipe,
            [e.id for e in candidates],
            context,
            k,
            rng,
            random_share=settings.random_share,
        )

    def _base_predictions(
        self, r: int, phase: str, examples: Sequence[Example], needs: frozenset[str], gold: Mapping[str, str] | None
    ) -> Predictions:
        """What the untuned model says, from the cache that the runs share."""
        from guidestar.model.basecache import base_predictions

        dataset = self.bench.fitting
        with self._timed(r, phase, len(examples)) as tick:
            return base_predictions(
                self.bench.cache,
                self._base,
                examples,
                needs,
                dataset.task,
                data_hash=dataset.hash,
                gold=gold,
                tick=tick,
            )

    def _train(self, r: int) -> None:
        """Fine-tune on every label so far. Equal labels and seed give an equal adapter, so the strategies of a
        seed share the warm start's: it is trained once."""
        from guidestar.model.train import train

        labelled = [(example, label.answer) for example, label in self.store.labelled(r)]
        if not labelled:
            raise DataError(
                f"round {r}: every example was skipped, so there is no label to train on; tell at least one of them a label"
            )
        held_out = self.bench.fitting.validation
        validation = held_out.answered() if self.config.train.patience and held_out is not None else []
        seed = phase_seed(self.seed, r, "train")
        previous = self._adapter(r - 1) if r and self.config.train.start == "previous" else None
        base = self._base

        def fill(folder: Path) -> None:
            with self._timed(r, "train", len(labelled)) as tick:
                train(
                    base, self.config.peft, self.config.train, labelled, self.bench.dataset.task, folder,
                    seed=seed, previous=previous, validation=validation, tick=tick,
                )  # fmt: skip

        twin = self._twin(labelled) if r == 0 else None
        if twin is None:
            self.store.add_adapter(r, fill)
            return
        self.bench.progress.say(f"  warm start: the adapter of {twin.parent.parent.name} has the same labels and seed")
        self.store.add_timing(r, "train", 0.0, len(labelled))
        self.store.add_adapter(r, lambda folder: _copy(twin, folder))

    def _twin(self, labelled: Sequence[tuple[Example, str]]) -> Path | None:
        """The warm start's adapter of another strategy with this seed, if all it was made of is the same."""
        ours = _but_strategy(self.store.key)
        for folder in sorted(self.bench.folder.glob(f"*-seed{self.seed}")):
            if folder == self.folder or not (folder / "run.sqlite").is_file():
                continue
            try:
                with Store.open(folder) as other:
                    if not other.begun or not other.has_adapter(0):
                        continue
                    answers = [entry.id for entry in other.history()]
                    if len(answers) > len(set(answers)):  # corrected, maybe after the training
                        continue
                    same_model = self.store.facts["model"] == other.facts["model"]
                    if (
                        ours == _but_strategy(other.key)
                        and same_model
                        and labelled == [(e, a.answer) for e, a in other.labelled(0)]
                    ):
                        return other.adapter(0)
            except StoreError:  # another run's damage is that run's concern; training gives the same adapter
                continue
        return None

    def _evaluate(self, r: int) -> None:
        from guidestar.model import adapters
        from guidestar.model.evaluate import evaluate

        labels = len(self.store.labelled(r))
        values: dict[str, float] = {}
        if (test := self.bench.fitting.test) is not None:
            if r == 0:
                self._evaluate_base()
            with (
                adapters.adapted(self._base, self._adapter(r)) as model,
                self._timed(r, "evaluate", len(test.examples)) as tick,
            ):
                values, arrays = evaluate(self._base, model, test, self.bench.dataset.task, tick)
            self.store.add_arrays(r, "test", arrays, {})
        self.store.add_metrics(Metrics(r, labels, values))
        self.bench.progress.say(self._line(r))

    def _evaluate_base(self) -> None:
        """The untuned model on the test set, for the report: choices only, where it costs one short pass."""
        from guidestar.model.evaluate import choice_values

        dataset = self.bench.fitting
        if dataset.test is None or dataset.task.kind != "choice" or self.store.has_arrays(0, "test_base"):
            return
        pairs = dataset.test.answered()
        found = self._base_predictions(
            0, "evaluate base", [example for example, _ in pairs], frozenset({"label_log_probs"}), None
        )
        _, arrays = choice_values(found.arrays["label_log_probs"][0], [a for _, a in pairs], dataset.task)
        self.store.add_arrays(0, "test_base", arrays, {})

    def _line(self, r: int) -> str:
        """One line for a finished round: labels, accuracy, seconds by phase."""
        last = self.store.metrics()[-1]
        accuracy = f", accuracy {last.values['accuracy']:.3f}" if "accuracy" in last.values else ""
        seconds = ", ".join(f"{phase} {seconds:.1f} s" for at, phase, seconds, _ in self.store.timings() if at == r)
        return f"{self.strategy.title} seed {self.seed} round {r}: {last.labels} labels{accuracy} ({seconds})"

    @contextmanager
    def _timed(self, r: int, phase: str, count: int) -> Iterator[Tick]:
        start = time.perf_counter()
        with self.bench.progress.phase(phase) as tick:
            yield tick
        self.store.add_timing(r, phase, time.perf_counter() - start, count)


def oracle(dataset: Dataset) -> Annotator:
    """An annotator that knows the gold answers of the pool; None where the data has no answer."""

    def answer(example: Example) -> Label | None:
        return Label(dataset.gold[example.id]) if example.id in dataset.gold else None

    return answer


def run(config: RunConfig | Mapping[str, Any] | str | Path, progress: Progress | None = None) -> dict[str, Outcome]:
    """Every strategy and seed of a configuration, answered by the gold answers in the data.

    Returns the outcome by run name ("star-seed0"). Call it again to continue where it stopped.
    """
    bench = Bench(read_config(config), progress)
    outcomes: dict[str, Outcome] = {}
    for seed in bench.config.seeds:
        for strategy in bench.config.strategies:
            with Run(bench.config, strategy=strategy.title, seed=seed, bench=bench) as one:
                outcomes[one.folder.name] = one.run(oracle(bench.dataset))
    return outcomes


def _strategy(config: RunConfig, name: str | None) -> StrategyConfig:
    if name is None:
        return config.strategies[0]
    for strategy in config.strategies:
        if strategy.title == name:
            return strategy
    raise ConfigError(
        f"strategy {name!r} is not in the configuration; allowed: {', '.join(s.title for s in config.strategies)}"
    )


def _plain(recipe: strategies.Recipe) -> dict[str, Any]:
    """What a recipe does, as JSON-able data; its description is left out."""
    found = {f.name: getattr(recipe, f.name) for f in dataclasses.fields(recipe) if f.name != "doc"}
    return found | {"mix": recipe.mix.model_dump(mode="json") if recipe.mix else None}


def _but_strategy(key: Mapping[str, Any]) -> dict[str, Any]:
    """A run's key without what chooses its queries: what the warm start depends on."""
    return {name: value for name, value in key.items() if not name.startswith("strategy.")}


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, dirs_exist_ok=True)
