"""The models of a run: which labels a round learns from, its training, its adapter, and who answers with it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from guidestar.asking import Committee, Engine, Frozen, HeadStart, Lesson, Scorer, Weighted, kept, part_of
from guidestar.bench import PARTS, Bench
from guidestar.config import fingerprint
from guidestar.data.pool import Split
from guidestar.errors import DataError, StoreError
from guidestar.metrics.chosen import NAME as CHOSEN
from guidestar.metrics.chosen import sentences
from guidestar.metrics.dynamics import NAME as DYNAMICS
from guidestar.phases import BASELINE_POOL, Clock
from guidestar.progress import Tick
from guidestar.query.herding import CANDIDATES
from guidestar.query.recipes import Recipe
from guidestar.records import Array, Example, Suggestion
from guidestar.rng import generator, phase_seed, places
from guidestar.store.cache import Cache
from guidestar.store.files import read_arrays
from guidestar.store.likeness import keep_points
from guidestar.store.same_start import keep_start, same_start
from guidestar.store.store import Store
from guidestar.tasks import scored_labels
from guidestar.words import count


def need_present_labels(store: Store, round: int) -> None:
    """Raise StoreError for a round that was trained before the labels were changed."""
    if round < (since := store.relabels.since):
        raise StoreError(
            f"{store.folder}: the adapter of round {round} was trained on other labels than now; allowed: round {since} or later, "
            "which the next training makes if it is not there"
        )


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """A run's models. recipe: of its strategy. What is not there is made: an adapter is trained when first asked for."""

    bench: Bench
    store: Store
    recipe: Recipe
    seed: int
    clock: Clock
    guesses: dict[str, Suggestion] = field(default_factory=dict, repr=False, compare=False)  # of round 0, by example
    weak: dict[str, str] = field(default_factory=dict, repr=False, compare=False)  # an endpoint's answers, by example

    # --- who answers ---

    @cached_property
    def engine(self) -> Engine:
        """The model, which must be the one the run was begun with. Raises ConfigMismatch if it is another."""
        self.bench.engine.must_be(self.store.facts["model"], self.store.folder)
        return self.bench.engine

    def tuned(self, r: int) -> Scorer:
        """The model under the adapter of round r, as it was trained."""
        return self.engine.scorer(self.adapter(r))

    def scoring(self, r: int) -> Scorer:
        """Who scores candidates with the models of round r: in the precision for scoring, part by part."""
        if not self.recipe.committee:
            return self._in_parts(self.adapter(r))
        return Committee(tuple(map(self._in_parts, [self.adapter(r), *self.members(r)])))

    def base(self, dtype: str | None = None) -> Scorer:
        """The untuned model, from the cache that the runs share. dtype: None for the model's own."""
        _ = self.engine  # the right one
        return self.bench.untuned(dtype)

    def features(self, r: int, phase: str = "read features") -> Frozen:
        """The frozen features, those of the whole pool read: once, and together whatever they are read for, because the
        last bits of a feature may depend on its batch."""
        _ = self.engine  # the right one
        frozen, pool = self.bench.frozen, self.bench.standing
        with self.clock(r, phase, len(pool), quiet=frozen.ready) as tick:
            frozen.read(pool, tick)
        if self.bench.answered_by == "people":
            keep_points(self.bench.folder, self.bench.dataset.hash, [e.id for e in pool], lambda: frozen.points(pool))
        return frozen

    def _in_parts(self, adapter: Path) -> Scorer:
        config = self.bench.config
        alone = None if self.recipe.committee else config.train.b_dropout
        _ = self.engine  # the right one
        return self.bench.parts(self.store.folder / PARTS, adapter, dtype=config.model.score_dtype, b_dropout=alone)

    @property
    def test(self) -> Split | None:
        """The test set: that of the data, else the labels that were set aside."""
        held = self.store.annotations.held_out()
        return Split(tuple(e for e, _ in held), tuple(a.answer for _, a in held)) if held else self.bench.fitting.test

    @property
    def cheap_features(self) -> bool:
        """Whether frozen features of the whole pool cost little beside a training, so that they may be read for more than
        choosing: not where label words answer, nor in a large pool that no strategy reads."""
        dataset = self.bench.fitting
        small = bool(self.engine.head) and len(dataset.pool) <= BASELINE_POOL
        return bool(scored_labels(dataset.task)) and (bool(self.recipe.by_probe) or small)

    # --- what is learned from ---

    def labelled(self, r: int | None = None) -> list[tuple[Example, str]]:
        """The labelled examples up to round r that may be trained on, each with its answer. Of those that came from a file and
        were never in the pool, some are too long for the model, and some stand in a test or validation set."""
        pairs, extras = self.store.annotations.answered(r), self.store.annotations.extras()
        if not extras:
            return pairs
        dataset = self.bench.dataset
        barred = {e.id for split in (dataset.test, dataset.validation) if split is not None for e in split.examples}
        some, long = self.bench.shortened([e for e, _ in pairs if e.id in extras])
        whole = {e.id: e for e in some}
        return [(whole.get(e.id, e), answer) for e, answer in pairs if e.id not in extras & (barred | long.keys())]

    def _lesson(self, r: int, seed: int, previous: Path | None = None) -> Lesson:
        config, held_out = self.bench.config.train, self.bench.fitting.validation
        return Lesson(
            labelled=self.labelled(r), seed=seed, previous=previous, pretrained=self._pretrained(r),
            validation=held_out.answered() if config.patience and held_out is not None else [],
            extra=self._pseudo_labels(r, config.pseudo_weight) if config.pseudo_weight else (),
            start=None if previous is not None else self._head_start(r),
        )  # fmt: skip

    def _head_start(self, r: int) -> HeadStart | None:
        if self.engine.head == "features":
            self.features(r)
        return self.bench.head_start(self.labelled(r), generator(self.seed, r, "head start"))

    def _pseudo_labels(self, r: int, weight: float) -> Sequence[Weighted]:
        """Answers to unlabelled examples of the pool, of at most 16,384 of them, that training may learn from, too: an
        endpoint's, or a classifier's on frozen features."""
        task, rng = self.bench.fitting.task, generator(self.seed, r, "pseudo-labels")
        if not task.classes:
            return ()
        labelled, weak = self.labelled(r), self._weak_labels()
        some, standing = self.bench.pool, self.bench.standing
        if len(some) > CANDIDATES:
            drawn = standing.take(rng.choice(len(standing), CANDIDATES, replace=False))
            some = some.only([*drawn.ids, *(e.id for e, _ in labelled), *weak])
        others = weak if self.bench.config.train.weak_labels else None
        made = self.features(r).pseudo_labels(some, labelled, task, rng, weight, others)
        kind = "pseudo-label" if others is None else "weak label"
        self.bench.progress.say(f"  {count(len(made), kind)} beside {count(len(labelled), 'label')}")
        return made

    def _weak_labels(self) -> dict[str, str]:
        """Example -> class by the endpoint, of a random part of the pool that is the same for all runs; each is asked for once
        (`people/guesses.py`)."""
        bench, pool = self.bench, self.bench.standing
        if (many := bench.config.train.weak_labels) and not self.weak:
            some = pool.take(places(len(pool), min(many, len(pool)), 0, 0, "weak labels"))
            with bench.progress.phase("ask endpoint") as tick:
                self.weak.update(self.asked_of_endpoint(some, tick))
        return self.weak

    def asked_of_endpoint(self, examples: Sequence[Example], tick: Tick) -> Iterator[tuple[str, str]]:
        """(example, canonical answer) as `people/guesses.py` has it from the endpoint."""
        from guidestar.people.guesses import guesses_of

        bench = self.bench
        return guesses_of(bench.config, bench.fitting.task, self.store, bench.cache, examples, bench.progress.say, tick)

    # --- adapters ---

    def adapter(self, r: int) -> Path:
        """The adapter of a finished training; one that was deleted is trained again from its labels. Raises StoreError for a
        round before the labels were changed: it answers with other labels."""
        need_present_labels(self.store, r)
        if not self.store.has_adapter(r):
            self.train(r)
        return self.store.adapter(r)

    def train(self, r: int) -> None:
        """Fine-tune on every label so far. Equal labels and seed give an equal adapter, so the strategies of a
        seed share the warm start's: it is trained once."""
        from guidestar.model.recipe import too_short

        if not (labelled := self.labelled(r)):
            raise DataError(
                f"round {r}: every example was skipped, so there is no label to train on; tell at least one of them a label"
            )
        config = self.bench.config.train
        on = config.start == "previous" and r > self.store.relabels.since  # a head of other labels is no start
        if config.start == "previous" and r and not on:
            self.bench.progress.say("  the labels have changed: this training starts from the base model")
        previous = self.adapter(r - 1) if on else None
        lesson = self._lesson(r, phase_seed(self.seed, r, "train"), previous)
        trainer = self.engine.trainer(self.bench.config, self.bench.dataset.hash)
        asked = fingerprint(trainer.question(lesson)) if r == 0 else ""
        if config.early_stop == "oracle_epoch":
            lesson = replace(lesson, oracle=self.bench.fitting.test)

        def fill(folder: Path) -> None:
            with self.clock(r, "train", len(labelled)) as tick:
                trained = trainer(lesson, folder, tick)
            if trained.dynamics is not None:  # before the adapter: after it nobody would
                self.store.add_arrays(r, DYNAMICS, trained.dynamics.arrays())
            if chosen := {**trained.arrays} | self._overlap(r, folder) | self._of_weak(lesson):
                self.store.add_arrays(r, CHOSEN, chosen)
                for line in sentences(chosen):
                    self.bench.progress.say(f"  {line}")
            if trained.cut:
                self.bench.progress.say(
                    f"  {trained.cut} of {len(labelled)} responses are longer than the model's context and were cut off"
                )

        if short := too_short(self.bench.training, self.engine.head, len(labelled) + len(lesson.extra)):
            self.bench.progress.say(f"  warning: {short}")
        there = same_start(self.store.folder, self.seed, asked, self.bench.starts) if r == 0 else None
        if there is None:
            self.store.add_adapter(r, fill)
        else:
            self._copy_start(*there, len(labelled))
        if r == 0:
            arrays = [f"arrays/round-000-{name}.safetensors" for name in (DYNAMICS, CHOSEN)]
            keep_start(self.store.folder, asked, ["adapters/round-000", *arrays])

    def _copy_start(self, there: Path, names: Sequence[str], labels: int) -> None:
        """Take the warm start of the run in another folder. names: what it consists of."""
        self.bench.progress.say(f"  warm start: the adapter of {there.name} has the same labels and seed")
        self.store.add_timing(0, "train", 0.0, labels)
        for kind in (DYNAMICS, CHOSEN):
            for name in names:
                if name.startswith(f"arrays/round-000-{kind}."):  # a run of an older version has none
                    self.store.add_arrays(0, kind, read_arrays(there / name))
        adapter = there / "adapters" / "round-000"
        self.store.add_adapter(0, lambda folder: shutil.copytree(adapter, folder, dirs_exist_ok=True))

    def _of_weak(self, lesson: Lesson) -> dict[str, Array]:
        """How many weak labels were learned from, how many there are, and in how many of how many labels that were given beside
        them they agree; {} without an endpoint's."""
        if not self.bench.config.train.weak_labels:
            return {}
        both = [answer == self.weak[e.id] for e, answer in lesson.labelled if e.id in self.weak]
        return {"weak_labels": np.array([len(lesson.extra), len(self.weak), sum(both), len(both)])}

    def _overlap(self, r: int, folder: Path) -> dict[str, Array]:
        """How many of SPEFT's entries the round before had, too, where its adapter is still there."""
        kind = str(self.bench.config.peft.get("peft_type")).upper()
        if kind != "SPEFT" or r == 0 or not self.store.has_adapter(r - 1):
            return {}
        from guidestar.model.peft.speft import overlap

        share = overlap(self.store.adapter(r - 1), folder)
        return {} if share is None else {"mask_overlap": np.array([share])}

    def members(self, r: int) -> list[Path]:
        """The members of round r's committee beside the round's own adapter; those that are missing are trained.

        They lie in the cache that runs share, so that strategies of a seed share those of the warm start.
        """
        assert self.recipe.committee is not None
        cache = Cache(self.bench.cache / "members")
        trainer = self.engine.trainer(self.bench.config, self.bench.dataset.hash)
        first = self._lesson(r, 0)
        seeds = [phase_seed(self.seed, r, f"member {k}") for k in range(1, self.recipe.committee)]
        lessons = [replace(first, seed=seed) for seed in seeds]
        missing = sum(not cache.has("member", trainer.question(lesson)) for lesson in lessons)
        with self.clock(r + 1, "train committee", missing * len(first.labelled)) as tick:
            ticks = [part_of(tick, k, len(lessons)) for k in range(len(lessons))]
            return [kept(cache, "member", trainer, *one) for one in zip(lessons, ticks, strict=True)]

    def _pretrained(self, r: int) -> Path | None:
        """The adapter that has read the pool's prompts, if the configuration wants one; trained once for all runs."""
        if (config := self.bench.config.tapt) is None:
            return None
        cache, pool = Cache(self.bench.cache / "tapt"), self.bench.pool
        trainer = self.engine.pretrainer(self.bench.config, self.bench.dataset.hash)
        lesson = Lesson(labelled=[(example, "") for example in pool], seed=config.seed)
        if r and cache.has("tapt", trainer.question(lesson)):
            return kept(cache, "tapt", trainer, lesson)
        with self.clock(r, "pretrain", config.epochs * len(pool)) as tick:
            return kept(cache, "tapt", trainer, lesson, tick)
