"""What the runs of one configuration share: the data, the base model, the cache, and where news go."""

from __future__ import annotations

import dataclasses
import json
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

import numpy as np

from guidestar import config as configs
from guidestar.asking import Ask, Cached, Engine, Frozen, HeadStart, How, InParts, Labelled, Scorer
from guidestar.asking.shortened import shortened
from guidestar.asking.wrappers import PART
from guidestar.config import CONFIG_FILE, RunConfig, TaskConfig, TrainConfig
from guidestar.data.formats import read_rows
from guidestar.data.pool import Dataset, load_dataset, used
from guidestar.data.presets import apply_preset
from guidestar.data.table import IN_MEMORY, Pool
from guidestar.errors import ConfigError, ConfigMismatch, DataError, StoreError
from guidestar.executors import rank_of, several_processes
from guidestar.progress import Progress, for_library
from guidestar.query import strategies
from guidestar.query.recipes import SAMPLES
from guidestar.records import Example
from guidestar.rng import places
from guidestar.schema import ENCODERS, FEW_LABELS
from guidestar.store import Store, files, runs_in
from guidestar.store.cache import Cache
from guidestar.tasks import TASKS, Task, make_task, scored_labels, several
from guidestar.words import count, percent

if TYPE_CHECKING:  # torch takes seconds to import and is not needed to look at a finished run
    from guidestar.model.load import BaseModel


PARTS = "parts"  # in a run's folder and in the cache: scores of a large pool while they are made
STANDING = 65_536  # examples of a larger pool, drawn once, of which frozen features are read
T = TypeVar("T")
_RESOLVED = "# The resolved configuration of this folder; `guidestar run` on the folder continues it."


class Bench:
    """What the runs of one configuration share: the data, the base model, the cache, and where news go."""

    def __init__(
        self, config: RunConfig, progress: Progress | None = None, *,
        cache: Path | None = None, engine: Engine | None = None,
    ) -> None:  # fmt: skip
        """cache: a folder shared with other benches, `cache/` in the run's folder if not given. engine: another than this
        package's own, which works with `base`. Raises ConfigError where a launcher started several processes for one run, and
        in those of them that are to do what the first says (`model/ranks.py`)."""
        if (rank := rank_of(config)) > 0:
            raise ConfigError(
                f"RANK is {rank}, and this command is made by rank 0 alone; allowed with several processes: guidestar run"
            )
        self.config = _settled(with_present_labels(config))
        self.progress = progress or for_library()
        self.folder = Path(config.out)
        self.cache = cache or self.folder / "cache"
        self._checked = False
        self.starts: Path | None = None  # where other runs lie whose warm start may be taken; default: beside each run
        if engine is not None:
            self.engine = engine

    @cached_property
    def dataset(self) -> Dataset:
        """The pool and the splits. Raises DataError and ConfigError for data that cannot be used."""
        dataset = load_dataset(self.config, self._kept)
        counts = dataset.facts
        done = "kept" if self.config.data.duplicates == "keep" else "dropped"
        unlike = counts.get("pool_conflicting_labels")
        self.progress.say(
            f"data: {counts['pool']} in the pool, {counts.get('test') or 0} for the test"
            + (f", {count(counts['blank_rows'], 'blank row')} left out" if counts.get("blank_rows") else "")
            + (f", {count(counts['pool_duplicates'], 'duplicate')} {done}" if counts.get("pool_duplicates") else "")
            + (f", {counts['shared_with_test']} shared with the test {done}" if counts.get("shared_with_test") else "")
        )
        if unlike:
            counts_first = ", which counts" if done == "dropped" else ""
            self.progress.say(
                f"warning: {count(unlike, 'duplicate')} with another answer than the first row with that text{counts_first}"
            )
        for line in counts.get("label_notes", []):
            self.progress.say(f"data: {line}")
        for line in counts.get("label_warnings", []):
            self.progress.say(f"warning: {line}")
        for line in counts.get("form_differences", []):
            self.progress.say(f"warning: the prompts differ in form: {line}")
        return dataset

    def _kept(self, name: str, question: Mapping[str, Any], fill: Callable[[Path], object]) -> Path:
        with files.writing(self.cache):
            files.private_folders(self.folder, self.cache)
        return Cache(self.cache).folder(name, question, fill)

    @cached_property
    def task(self) -> Task:
        """What an answer is; the data are read for it only where they decide the labels."""
        data, section, _ = apply_preset(self.config.data, self.config.task)
        if TASKS[section.kind or ""].reads_labels and section.labels is None:
            return self.dataset.task
        return make_task(section, [], data.response)

    @cached_property
    def base(self) -> BaseModel:
        """The base model, loaded when first needed."""
        from guidestar.model import load, ranks

        with self.progress.phase("loading model"):
            task = self.task
            group = ranks.here()
            spread = self.config.engines.train.use == "fsdp2" and group.count > 1
            how: dict[str, Any] = {"labels": list(scored_labels(task)), "several": several(task), "spread": spread}
            group.tell({"do": "load", "model": self.config.model.model_dump(mode="json"), **how})
            base = load.load(self.config.model, self.progress.say, **how)
        self.progress.say(f"model: {base.name}, {str(base.dtype).removeprefix('torch.')} on {base.device}")
        return base

    @cached_property
    def engine(self) -> Engine:
        """Who scores and trains."""
        from guidestar.model.engine import OwnEngine
        from guidestar.model.vllm import Served

        asks, rank = self.config.engines.score, int(self.config.peft.get("r") or 8)  # PEFT's own r
        served = Served(self.base, self.config.model, rank, asks.options) if asks.use == "vllm" else None
        return OwnEngine(self.base, self.task, served)

    def untuned(self, dtype: str | None = None) -> Scorer:
        """The bare model, its answers from the cache that the runs share. dtype: None for the model's own."""
        return Cached(self.parts(self.cache / PARTS, dtype=dtype), Cache(self.cache))

    def parts(self, place: Path, adapter: Path | None = None, size: int = PART, **how: Unpack[How]) -> Scorer:
        """The model, bare or under an adapter, asked about a large pool part by part, by workers where `engine.score` has some.
        place: where finished parts are kept. size: of a part without `engine.score.part`."""
        from guidestar.model.spread import spread

        scorer = InParts(self.engine.pool_scorer(adapter, **how), Cache(place), self.config.engines.score.part or size)
        return spread(scorer, self.config, self.task, self.progress, adapter, how)

    @cached_property
    def frozen(self) -> Frozen:
        """The features of the bare base model, which all runs share."""
        model = self.config.model
        bare = self.engine.scorer(dtype=model.score_dtype)
        return Frozen(bare, self.standing, Cache(self.cache), weighted=model.views == "weighted")

    def head_start(self, labelled: Labelled, rng: np.random.Generator) -> HeadStart | None:
        """The classifier on frozen features that a new head on features starts as (`model.head: features`); None for other
        heads. labelled: what is trained on. rng: of the folds that its temperature is found on."""
        if self.engine.head != "features":
            return None
        self.frozen.read(self.standing)  # together, as for choosing: the last bits of a feature may depend on its batch
        return self.frozen.head_start(labelled, self.fitting.task, rng)

    @cached_property
    def fitting(self) -> Dataset:
        """The dataset as it fits the model's context with a response, its facts those of what is left: prompts that do not
        are cut (data.too_long: truncate) or left out. A response has the length of its gold answer, where there is one, and
        at least that of the task.

        Raises DataError naming those that do not fit, where data.too_long is error; ConfigError if the model cannot tell the
        label words apart. Both are found here, before anybody is asked for a label.
        """
        whole = self.dataset
        splits = {name: split for name in ("test", "validation") if (split := getattr(whole, name)) is not None}
        held = [e for split in splits.values() for e in split.examples]
        answers: Mapping[str, str] = ChainMap(
            {e.id: answer for split in splits.values() for e, answer in split.answered()},
            whole.gold,  # type: ignore[arg-type]  # nothing is written into it
        )
        prompts, cut, long = dict[int, str](), set[str](), dict[str, str]()

        def changed(examples: Sequence[Example]) -> dict[int, Example]:
            """Place -> the example that was cut. Those that cannot be are put into `long`."""
            made, more = self.shortened(examples, answers)
            long.update(more)
            new = {i: e for i, (e, own) in enumerate(zip(made, examples, strict=True)) if e is not own}
            cut.update(e.id for e in new.values())
            return new

        for start in range(0, len(whole.pool), IN_MEMORY):  # a pool need not fit into memory
            some = whole.pool[start : start + IN_MEMORY]
            prompts |= {start + i: e.prompt for i, e in changed(some).items()}
        for name, split in splits.items():
            new = changed(split.examples)
            fitted = tuple(new.get(i, e) for i, e in enumerate(split.examples))
            splits[name] = dataclasses.replace(split, examples=fitted)
        why = next(iter(long.values()), "")
        for line in self.engine.remarks(chain(whole.pool, held)):
            self.progress.say(f"data: {line}")
        if long and self.config.data.too_long == "error":
            names = [e.where for e in chain(whole.pool, held) if e.id in long]
            raise DataError(
                f"{count(len(long), 'prompt')} cannot be used, because {why}: {', '.join(names[:5])}{' …' if len(names) > 5 else ''}; "
                "shorten the template, or set data.too_long: truncate or drop"
            )
        if cut:
            part, share = self.config.data.cut or "end", percent(len(cut) / (len(whole.pool) + len(held)))
            self.progress.say(
                f"data: {count(len(cut), 'prompt')} ({share}) did not fit the model's context: the {part} of the text was cut"
            )
        if long:
            self.progress.say(f"data: {count(len(long), 'prompt')} dropped for not fitting the model's context")
        pool = whole.pool.with_prompts(prompts).without(long)
        if len(pool) < self.config.query.warm_start:
            raise DataError(
                f"{count(len(pool), 'prompt')} of the pool fit, fewer than the warm start of {self.config.query.warm_start} "
                f"(query.warm_start); of the others, {why}"
            )
        splits = {name: split.without(long) for name, split in splits.items()}
        if empty := [name for name, split in splits.items() if not len(split)]:
            raise DataError(f"no prompt of the {empty[0]} set fits: {why}")
        self.engine.check_answers(chain(pool, *(split.examples for split in splits.values())))
        if not long and not cut:
            return whole
        left = {"test": None, "validation": None} | splits
        facts = dict(whole.facts) | {name: len(n) for name, n in (("too_long", long), ("truncated", cut)) if n}
        facts |= used(pool, whole.gold, left, whole.task, self.config.query.budget)
        return dataclasses.replace(whole, pool=pool, facts=facts, **splits)

    def shortened(
        self, examples: Sequence[Example], answers: Mapping[str, str] | None = None
    ) -> tuple[list[Example], dict[str, str]]:
        """The examples as they fit the model's context, and a sentence for each that does not, by its id."""
        return shortened(self.engine.pool_scorer(), examples, self.config, answers)

    @property
    def pool(self) -> Pool:
        """The pool without the prompts that do not fit the model's context."""
        return self.fitting.pool

    @cached_property
    def standing(self) -> Pool:
        """The part of the pool whose frozen features are read: a random one of `STANDING` examples of a larger pool, the same
        for all runs and rounds."""
        if len(pool := self.pool) <= STANDING:
            return pool
        return pool.take(places(len(pool), STANDING, 0, 0, "standing"))

    def keep_config(self) -> None:
        """A copy of the configuration in the folder, so that the folder alone is enough to continue.

        Raises ConfigError for another configuration of that name that is not such a copy, ConfigMismatch if a run here has
        a larger budget, which one of its neighbours was not yet raised to.
        """
        plain = self.config.model_dump(mode="json", exclude_unset=True)  # a preset fills what nobody set
        plain["data"] = configs.with_absolute_places(plain.get("data", {}))
        if guidelines := plain.get("people", {}).get("guidelines"):
            plain["people"]["guidelines"] = str(Path(guidelines).absolute())
        plain["out"] = "."
        text = f"{_RESOLVED}\n{configs.dump_yaml(plain)}"
        path = self.folder / CONFIG_FILE
        kept = path.read_text(encoding="utf-8") if path.exists() else None
        if kept is not None and not kept.startswith(_RESOLVED):
            self._accept(path)
        elif kept != text:
            self._refuse_less()
            files.write_bytes(path, text.encode())

    def _refuse_less(self) -> None:
        """The copy must go on saying the largest budget, or that run could not be continued from its folder."""
        for place, budgets in _told(self.folder, Store.budgets):
            most = max((budget for budget, _ in budgets), default=0)
            if most > self.config.query.budget:
                raise ConfigMismatch(
                    f"{place}: has a budget of {most} labels, found {self.config.query.budget} now; a budget may be raised and not "
                    f"lowered: give query.budget={most}"
                )

    def _accept(self, path: Path) -> None:
        """Leave a file that somebody wrote in the place of our copy, where it says the same. Raises ConfigError if not."""
        try:
            same = with_present_labels(configs.load(path)).key() == self.config.key()
        except ConfigError:
            same = False
        if not same:
            raise ConfigError(
                f"{path}: is in the way of the copy of the configuration that a run keeps there, and says something else; "
                "rename it, or give `out` another folder"
            )

    @cached_property
    def answered_by(self) -> str:
        """Who answers: "oracle", "people" or "endpoint"; see `annotator` in the configuration."""
        if self.config.annotator != "auto":
            return self.config.annotator
        return "oracle" if len(self.dataset.gold) == len(self.dataset.pool) else "people"

    @property
    def simulation(self) -> bool:
        """Whether the gold answers in the data answer, so that measures may read them."""
        return self.answered_by == "oracle"

    @property
    def watched(self) -> bool:
        """Whether advice needs more than the curve: what models say to the pool and the validation set. A simulation
        has its test set for the curve and no use for advice, unless it is to stop by it."""
        mode = self.config.stop.mode
        return mode == "stop" or not (self.simulation or mode == "off")

    @cached_property
    def training(self) -> TrainConfig:
        """How an adapter is trained, with what its recipe fills in for this kind of model."""
        from guidestar.model.recipe import settled

        return settled(self.config.train, self.engine.head, self.config.peft)

    def check(self) -> None:
        """Raise one ConfigError with every combination of strategy, task, data and adapter that cannot work; then load the
        model and check them with it. Nobody should be asked for labels that cannot be used. It is done once."""
        if self._checked:
            return
        _refuse(self._impossible())
        _ = self.fitting
        _refuse(self._unscorable())
        self.engine.check_adapter(self.config)
        for item in self.config.strategies:
            for line in strategies.remarks(strategies.resolve(item), self.fitting.task.family):
                self.progress.say(f"warning: strategy {item.title}: {line}")
        if (use := self.config.engines.train.use) != "here" and not several_processes():
            self.progress.say(
                f"warning: engine.train.use is {use}, and this is one process, which trains alone; start it with torchrun"
            )
        self._checked = True

    def _impossible(self) -> Iterator[str]:
        """What cannot work, as far as it is known before the model is loaded."""
        from guidestar.model import adapters

        config, dataset, simulation = self.config, self.dataset, self.simulation
        train, rule, task = config.train, config.train.early_stop, dataset.task
        if simulation and (missing := len(dataset.pool) - len(dataset.gold)):
            yield f"annotator is oracle, but {missing} pool rows have no answer (data.answer)"
        for item in config.strategies:
            try:
                recipe = strategies.resolve(item)
                wrong = list(strategies.check(recipe, task.family, simulation, config.peft, train.b_dropout))
            except ConfigError as error:
                yield str(error)
                continue
            if recipe.committee and rule == "oracle_epoch":
                wrong.append("a committee has no train.early_stop: oracle_epoch")
            if recipe.committee and train.start == "previous":
                wrong.append(
                    "the members of a committee start afresh in every round, and train.start is previous, so that they would "
                    "have learned less than the round's own adapter; set it to base"
                )
            yield from (f"strategy {item.title}: {why}" for why in wrong)
        try:
            adapters.make_config(config.peft)
        except ConfigError as error:
            yield str(error)
        if train.patience and dataset.validation is None:  # a preset might have brought one
            yield "train.patience needs a validation set: give data.validation"
        if rule == "oracle_epoch" and not (simulation and dataset.test):
            yield "train.early_stop: oracle_epoch looks at the test set's answers: it needs a simulation with one"
        if rule in ("beast", "smoothest_epoch") and not task.classes:
            yield (
                f"train.early_stop: {rule} asks how smooth classes are, which the task kind {task.kind!r} does not have; "
                "allowed: choice, or no early_stop"
            )
        for key in ("pseudo_labels", "weak_labels"):
            if getattr(train, key) and several(task):
                yield f"train.{key} are of one label a text, and several may hold here; leave it out"
        if train.weak_labels and not scored_labels(task):
            yield f"train.weak_labels are classes, which the task kind {task.kind!r} does not have; leave it out"

    def _unscorable(self) -> Iterator[str]:
        """Strategies that ask a model for what it cannot say."""
        tuned = self.engine.pool_scorer(self.folder / "none-yet")  # it is not asked, only whether it can
        for item in self.config.strategies:
            recipe = strategies.resolve(item)
            needs, of_base = strategies.needs(recipe, self.dataset.task.family)
            needs = recipe.by_tuned(needs)
            passes = 0 if recipe.committee or not needs else recipe.passes
            ask = Ask(needs | of_base, passes=passes, one_model=recipe.selector.one_model, gold={}, samples=SAMPLES)
            if (why := tuned.refusal(ask)) is not None:
                yield f"strategy {item.title}: {why}"


def _refuse(problems: Iterable[str]) -> None:
    if listed := list(problems):
        raise ConfigError("\n".join(listed))


def read_config(config: RunConfig | Mapping[str, Any] | str | Path) -> RunConfig:
    """A configuration from itself, plain data or a YAML file. In plain data the pool, the test and the validation set may
    be pandas DataFrames, which are written as JSON lines into the folder `out`, so that the run can be continued."""
    if isinstance(config, RunConfig):
        return _with_head(config)
    if not isinstance(config, Mapping):
        return _with_head(configs.load(config))
    given = config.get("data")
    data = dict(given) if isinstance(given, Mapping) else {}
    for name in ("pool", "test", "validation"):
        if hasattr(data.get(name), "itertuples"):
            place = Path(config.get("out") or ".").expanduser() / f"{name}.jsonl"
            lines = [json.dumps(row.plain(), ensure_ascii=False, default=str) for row in read_rows(data[name])]
            files.write_bytes(place, "".join(f"{line}\n" for line in lines).encode())
            data[name] = str(place)
    return _with_head(configs.parse({**config, "data": data} if data else config))


def _with_head(config: RunConfig) -> RunConfig:
    """Where nobody named the head of a known encoder: the one that is best with few labels in a new run, for a new head that
    reads one state answers with a single class after 40 labels; and in a run that was begun the one that it has."""
    if config.model.head is not None or config.model.name not in ENCODERS:
        return config
    begun = [key for _, key in _told(Path(config.out), lambda store: store.key)]
    had = {name: begun[-1].get(f"model.{name}") if begun else value for name, value in FEW_LABELS.items()}
    missing = {name: value for name, value in had.items() if value is not None and getattr(config.model, name) is None}
    return _of_model(config, **missing)


def _told(folder: Path, ask: Callable[[Store], T]) -> Iterator[tuple[Path, T]]:
    """What each run in a folder answers. One that is damaged, or not begun, is left out: that is its own concern."""
    for place in runs_in(folder):
        with suppress(StoreError), Store.open(place, read=True) as store:
            yield place, ask(store)


def with_present_labels(config: RunConfig, folder: Path | None = None) -> RunConfig:
    """A configuration with the labels as the run in its folder has them now (`guidestar labels`), where it has those that
    the run had before; a configuration with other labels stays as it is. folder: of the run, or above it; default `out`."""
    place = folder or Path(config.out)
    for _, known in _told(place, lambda store: store.relabels.tasks() if len(store.relabels) else []):
        tasks = [TaskConfig.model_validate(task) for task in known]
        if config.task.model_dump(exclude={"renamed"}) in [task.model_dump(exclude={"renamed"}) for task in tasks]:
            return config.model_copy(update={"task": tasks[-1]})
    return config


def _settled(config: RunConfig) -> RunConfig:
    """The same with a local model's absolute path: it must name the same folder when the run is continued from
    elsewhere."""
    path = Path(config.model.name).expanduser()
    return _of_model(config, name=str(path.absolute())) if path.exists() else config


def _of_model(config: RunConfig, **values: str) -> RunConfig:
    return config.model_copy(update={"model": config.model.model_copy(update=values)})
