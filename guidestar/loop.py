"""The loop: ask, answer, train, measure, again.

`Run` is one strategy with one seed in one folder; all it knows is in its store, so it can be killed
anywhere and opened again. `run` goes through every strategy and seed of a configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from guidestar import config as configs
from guidestar import trackers
from guidestar.beginning import facts_of, grow, key_of, take_given
from guidestar.bench import Bench, read_config
from guidestar.choosing import Chooser
from guidestar.config import RunConfig, StrategyConfig
from guidestar.errors import ConfigError, StoreError
from guidestar.executors import rank_of, several_processes
from guidestar.measuring import in_turn, keep_suggestions, measure
from guidestar.people.annotators import Annotator, annotator_of, oracle
from guidestar.phases import Clock
from guidestar.progress import Progress
from guidestar.query import strategies
from guidestar.records import Example, Finished, Label, Metrics, Pick, Query, Skip, Stop, Waiting
from guidestar.store import Store, find_run
from guidestar.store.annotations import TEST
from guidestar.store.store import DATABASE, PROVISIONAL
from guidestar.tuning import Tuning, need_present_labels

__all__ = ["Annotator", "Outcome", "Run", "oracle", "run"]

Outcome = Finished | Waiting

RESERVE = 100  # questions, at least, that are had ready for people who would otherwise wait
RANDOM_SHARE = 0.1  # of the picks in a project that no simulation and no second strategy can check


class Run:
    """One strategy and one seed: `ask` for examples, `tell` their answers, and again until `ask` is empty.

    As in::

        run = Run("config.yaml")
        while examples := run.ask():
            for example in examples:
                run.tell(example.id, annotate(example))
        run.metrics()[-1].values["accuracy"]
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
        may_grow: bool = True,
        ahead: bool = False,
    ) -> None:
        """Open the run in its folder, or begin it there.

        config: a RunConfig, plain data, or a YAML file. strategy, seed: the first of the configuration's if
        not given. schedule: a λ(t, rounds) of your own instead of the configured one; its results must be
        in [0, 1] and it must not change between sessions. may_grow: whether a larger `query.budget` than the run has is
        taken on; it then goes on from where it stands, λ on the schedule of its first budget. ahead: where people answer,
        have the first questions ready before the model is loaded; what cannot run is then found out after that.

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
        trackers.check(self.config.tracker)
        ahead = ahead and not self.bench.simulation and self.config.data.too_long != "drop"
        if not ahead and not (self.folder / DATABASE).exists():  # what cannot run leaves no folder behind
            self.bench.check()
        with ExitStack() as opening:  # a failure below closes what was opened
            self.store = opening.enter_context(Store.open(self.folder, create=True))
            opening.enter_context(self.store.lock())
            self._begin(may_grow, ahead)
            self._stack = opening.pop_all()

    def close(self) -> None:
        """Give the folder back to other processes."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    # --- what people and programs call ---

    def ask(self) -> list[Example]:
        """Examples that wait for an answer; empty when the run is finished.

        When none waits, the round is completed first (training, evaluation) and the next query is made.
        Everything is stored before it is returned, so asking again gives the same. So are the model's own
        suggestions, where people or an endpoint answer and the configuration wants them.
        """
        if self.store.finished() is Stop.ADVISED and self.config.stop.mode != "stop":
            self.store.reopen()
        while self.store.finished() is None:
            r = self.store.current_round()
            if not self.store.has_query(r):
                if (reason := self._should_stop()) is not None:
                    self.store.finish(reason)
                    break
                self._query(r)
            if waiting := self.store.annotations.unanswered(r):
                keep_suggestions(self.tuning, r)
                return waiting
            if not self.store.has_adapter(r):
                self._reserve(r + 1)  # with what was learned from the round's labels
                self.tuning.train(r)
            self._told(measure(self.tuning, r))
        return []

    def tell(self, id: str, answer: Label | Skip | str, *, source: str = "python") -> bool:
        """Store an answer to an asked example; True when it is new. Telling the same twice is safe.

        A changed answer counts from the next training on, whatever round the example is of.
        source: what the record says it came from.

        Raises DataError for an answer that the task does not allow, StoreError for an id never asked.
        """
        if isinstance(answer, str):
            answer = Label(answer, annotator="person")
        if isinstance(answer, Label):
            canonical = self.bench.dataset.task.parse_gold(answer.answer, f"answer to {id}")
            answer = Label(canonical, answer.annotator)
        return self.store.annotations.add(id, answer, source=source)

    def run(self, annotator: Annotator) -> Outcome:
        """Ask and tell until the run ends, or until the annotator leaves something unanswered (None).

        An annotator may have two attributes: `prefetch`, called with the examples of a batch before it is asked for
        them one by one, and `source`, as for `tell`.
        """
        source: str = getattr(annotator, "source", "python")
        prefetch: Callable[[Sequence[Example]], None] = getattr(annotator, "prefetch", lambda examples: None)
        while examples := self.ask():
            prefetch(examples)
            for example in examples:
                if (answer := annotator(example)) is not None:
                    self.tell(example.id, answer, source=source)
            r = self.store.current_round()
            if left := len(self.store.annotations.unanswered(r)):
                self.bench.progress.say(
                    f"{self.strategy.title} seed {self.seed}: {left} of {max(left, len(self.store.query(r).picks))} examples of "
                    f"round {r} wait for an answer; guidestar label {self.folder}"
                )
                return Waiting(r, left)
        reason = self.store.finished()
        assert reason is not None
        if self.store.metrics():
            self.adapter()  # one that is gone is trained again
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
        return self.tuning.adapter(done - 1)

    def to_frame(self) -> Any:
        """A pandas DataFrame with a row for each example that was asked for: its fields, round, score and label, and what
        a model that had not seen the label said. Raises GuidestarError if pandas is not installed."""
        from guidestar.report.notebook import frame_of

        return frame_of(self.folder)

    def _repr_html_(self) -> str:
        """What a notebook shows of the run: where it stands, with its curve."""
        from guidestar.report.notebook import html_of

        return html_of(self.folder)

    # --- the phases ---

    def _begin(self, may_grow: bool, ahead: bool) -> None:
        store, bench, about = self.store, self.bench, (self.bench, self.strategy.title, self.recipe, self.seed)
        if not (begun := store.begun) and not ahead:  # a folder may be there from a process that died before this
            bench.check()
        key = key_of(bench, self.recipe, self.seed) | {"query.random_share": self.random_share}
        if self.schedule is not None:
            key["schedule"] = getattr(self.schedule, "__qualname__", type(self.schedule).__name__)
        if may_grow and begun and (news := grow(store, key)):
            bench.progress.say(f"{self.strategy.title} seed {self.seed}: {news}")
        store.begin(key, store.facts if begun else facts_of(*about, provisional=ahead))
        bench.keep_config()
        if not bench.simulation and not store.has_query(0):
            if given := take_given(store, bench.dataset):
                bench.progress.say(f"{given} rows have a label already: they count as the warm start")
            if ahead:
                self._reserve(0)
        if store.facts.get(PROVISIONAL):
            bench.check()
            store.begin(key, facts_of(*about))

    @cached_property
    def random_share(self) -> float:
        """Share of the picks after the warm start that is drawn at random: what is configured, what the run was begun
        with, or the default, which is above 0 only where no other control can be had."""
        if self.config.query.random_share is not None:
            return self.config.query.random_share
        if self.store.begun and (begun := self.store.key.get("query.random_share")) is not None:
            return float(begun)
        all_random = self.recipe.select == "random" and self.recipe.measure is None
        return 0.0 if self.bench.simulation or all_random else RANDOM_SHARE

    @cached_property
    def tuning(self) -> Tuning:
        """The run's models."""
        clock = Clock(self.store, self.bench.progress)
        return Tuning(bench=self.bench, store=self.store, recipe=self.recipe, seed=self.seed, clock=clock)

    @cached_property
    def _chooser(self) -> Chooser:
        return Chooser(tuning=self.tuning, random_share=self.random_share, schedule=self.schedule)

    def _should_stop(self) -> Stop | None:
        labels, measured, asked = len(self.tuning.labelled()), self.store.metrics(), self.store.asked()
        if labels > (measured[-1].labels if measured else 0):  # some came in late, or from a file: train on them
            return None
        if self._relabelled(len(measured)):
            return None
        if labels + len(self.store.annotations.held_out()) >= self.config.query.budget:
            return Stop.BUDGET
        if not self.bench.pool.without(asked):
            return Stop.EMPTY
        if self.config.stop.mode != "stop":
            return None
        from guidestar.report.advice import stop_advice

        advice = stop_advice(self.store, self.config.stop)
        return Stop.ADVISED if advice is not None and advice.advice == "stop" else None

    def _relabelled(self, r: int) -> bool:
        """Whether no model knows the present labels yet when round r begins: it then asks for nothing new, trains on what is
        there, and the rounds after it can choose again."""
        return r > 0 and self.store.relabels.since == r

    def _query(self, r: int) -> None:
        """Choose the examples of round r, from predictions alone, and store them behind those that were asked ahead."""
        pool, ahead, aside = self.bench.pool, self.store.query(r).picks, self._aside(r)
        free, wanted = pool.without({*self.store.asked(), *aside}), self._wanted(r, ahead, aside)
        k = min(wanted, len(free))
        if k == 0 and not ahead:
            why = "in the new set of labels" if self._relabelled(r) else "that came in since the last"
            self.bench.progress.say(f"round {r} asks for nothing; it trains on the labels {why}")
        elif k < wanted:
            self.bench.progress.say(f"only {k} examples are left in the pool; asking for those instead of {wanted}")
        chosen = self._chooser.picks(r, free, k)
        if r == 0:
            chosen = in_turn(self.tuning, chosen)
        if len(self.store.ahead):
            self.store.ahead.prepare(r, [], {})  # what was taken while the round was chosen is all that will be
        late = self.store.query(r).picks[len(ahead) :]
        taken, ahead = {pick.id for pick in late}, (*ahead, *late)
        room = max(k - sum(TEST not in pick.details for pick in late), 0)
        rest = [pick for pick in (*aside.values(), *chosen) if pick.id not in taken]
        picks = (*ahead, *rest[: room + sum(TEST in pick.details for pick in rest)])
        self.store.add_query(Query(r, picks), pool.named([p.id for p in picks[len(ahead) :]]))
        self._chooser.clean()
        self._reserve(r + 1)

    def _wanted(self, r: int, ahead: Sequence[Pick], aside: Collection[str]) -> int:
        """How many examples round r asks for beside those that were asked ahead and those that are set aside."""
        if self._relabelled(r):
            return 0
        settings, notes, labelled = self.config.query, self.store.annotations, self.tuning.labelled()
        extras = notes.extras() - notes.grouped() if r == 0 else ()  # groups are look-alikes, and no warm start
        given = sum(e.id in extras for e, _ in labelled) if extras else 0
        size = (settings.batch if r else settings.warm_start) - given - sum(TEST not in pick.details for pick in ahead)
        return max(min(size, self._left(len(labelled), r, aside)), 0)

    def _reserve(self, r: int) -> None:
        """Have questions of round r ready for people who have answered all others, so that they need not wait for a
        model. In round 0 none is loaded yet."""
        if self.bench.answered_by != "people":
            return
        settings, aside = self.config.query, self._aside(r)
        pool = self.bench.pool if r else self.bench.dataset.pool
        labels = len(self.tuning.labelled() if r else self.store.annotations.labelled())
        most = max(2 * settings.batch, RESERVE) if r else max(settings.warm_start - labels, RESERVE)
        free = pool.without({*self.store.asked(), *aside})
        for chosen in self._chooser.ahead(free, max(0, min(self._left(labels, r, aside), most, len(free))), r):
            picks = [*aside.values(), *chosen]
            self.store.ahead.prepare(r, picks, pool.named([pick.id for pick in picks]))

    def _aside(self, r: int) -> dict[str, Pick]:
        """The picks of round 0 that are set aside as the test set and not asked yet; none in other rounds."""
        asked = self.store.asked() if r == 0 else set()
        return {} if r else {pick.id: pick for pick in self._chooser.to_hold_out() if pick.id not in asked}

    def _left(self, labels: int, r: int, aside: Collection[str]) -> int:
        """What is left of the budget after `labels`, those that are or will be set aside, and questions up to round r that wait."""
        store, answers = self.store, self.store.annotations.answers()
        asked = {pick.id for i in range(store.current_round(), r + 1) for pick in store.query(i).picks}
        waiting = sum(id not in answers for id in asked | set(store.annotations.asked_again()))
        return self.config.query.budget - labels - len(store.annotations.held_out()) - waiting - len(aside)

    @cached_property
    def _tracking(self) -> trackers.Tracking:
        """The configured tracker, begun when there is something to tell it."""
        about = configs.flat(self.config.plain()) | {"strategy": self.strategy.title, "seed": self.seed}
        subject = trackers.Subject(self.bench.folder.resolve().name, self.folder.name, self.folder, about)
        tracking = trackers.start(self.config.tracker, subject, self.bench.progress.say)
        self._stack.callback(tracking.close)
        return tracking

    def _told(self, last: Metrics) -> None:
        """Tell the terminal and the tracker of a finished round: labels, accuracy, seconds by phase, what a race saved."""
        seconds = {phase: spent for at, phase, spent, _ in self.store.timings() if at == last.round}
        measured = [name for name in ("accuracy", "validation_accuracy") if name in last.values]
        accuracy = "".join(f", {name.replace('_', ' ')} {last.values[name]:.3f}" for name in measured)
        line = f"{self.strategy.title} seed {self.seed} round {last.round}: {last.labels} labels{accuracy}"
        line += f" ({', '.join(f'{phase} {value:.1f} s' for phase, value in seconds.items())})"
        if self.recipe.racing and self.store.has_arrays(last.round, "scores"):
            counts = self.store.arrays(last.round, "scores")["passes"]
            made, all_ = int(counts.sum()), self.recipe.passes * len(counts)
            line += f"; racing made {made} of {all_} passes, {all_ / made:.1f} times fewer"
        self.bench.progress.say(line)
        if self.config.tracker != "none":
            spent = {f"seconds/{phase}": value for phase, value in seconds.items()}
            self._tracking.log(last.round, {**last.values, "labels": last.labels, **spent})


def run(
    config: RunConfig | Mapping[str, Any] | str | Path, progress: Progress | None = None, *, ahead: bool = False
) -> dict[str, Outcome]:
    """Every strategy and seed of a configuration, answered by whom it says: the gold answers in the data, a model
    behind an endpoint, or people, for whom every run waits.

    Returns the outcome by run name ("star-seed0"). Call it again to continue where it stopped. Of several processes that
    share the training (`engine.train.use`) the first makes the run; the others return nothing.
    """
    config = read_config(config)
    if rank_of(config) > 0:
        from guidestar.model import ranks

        ranks.serve()
        return {}
    bench = Bench(config, progress)
    outcomes: dict[str, Outcome] = {}
    for seed in bench.config.seeds:
        for strategy in bench.config.strategies:
            with (
                Run(bench.config, strategy=strategy.title, seed=seed, bench=bench, ahead=ahead) as one,
                annotator_of(
                    bench.answered_by, bench.config, bench.dataset, one.store, bench.progress.say
                ) as annotator,
            ):
                outcomes[one.folder.name] = one.run(annotator)
    if several_processes():
        from guidestar.model import ranks

        ranks.leave()
    from guidestar.report.notebook import Shown

    return Shown(outcomes, [bench.folder])


def trained(
    run: Path,
    config: RunConfig,
    round: int | None = None,
    *,
    bench: Bench | None = None,
    progress: Progress | None = None,
) -> tuple[Path, int, dict[str, Any]]:
    """A run's adapter, the round that it is of, and the facts of its base model; one whose folder is gone is trained again
    from the recorded labels.

    run: a run's folder, or one that holds a single run. config: that run's. round: None is the last that was trained.
    Raises StoreError if that round was never trained, or if its adapter is damaged.
    """
    folder = find_run(run)
    with Store.open(folder) as store:
        kept = {r for kind, r, _, _ in store.recorded() if kind == "adapters"}
        rounds = sorted(kept | {*range(store.current_round())})
        if not rounds:
            raise StoreError(f"{folder}: no adapter has been trained yet")
        if round is not None and round not in rounds:
            raise StoreError(f"{folder}: round {round} has no adapter; allowed: {', '.join(map(str, rounds))}")
        chosen, facts = rounds[-1] if round is None else round, store.facts
        need_present_labels(store, chosen)
        if store.has_adapter(chosen):
            return store.adapter(chosen), chosen, facts["model"]
    bench = bench or Bench(config, progress)
    bench.progress.say(f"{folder}: the adapter of round {chosen} is gone; it is trained again from the recorded labels")
    with Run(bench.config, strategy=facts["strategy"], seed=facts["seed"], bench=bench) as again:
        return again.tuning.adapter(chosen), chosen, facts["model"]


def _strategy(config: RunConfig, name: str | None) -> StrategyConfig:
    chosen = next((strategy for strategy in config.strategies if name in (None, strategy.title)), None)
    if chosen is None:
        titles = ", ".join(strategy.title for strategy in config.strategies)
        raise ConfigError(f"strategy {name!r} is not in the configuration; allowed: {titles}")
    return chosen
