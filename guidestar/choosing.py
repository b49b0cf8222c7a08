"""How a run chooses: candidates, what the tuned and the base model say to them, and the strategy's picks.

It reads the store and adds a round's arrays to it; asking, training and measuring are the loop's.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from guidestar.asking import Ask, Frozen, Probed
from guidestar.bench import Bench
from guidestar.config import RunConfig
from guidestar.progress import Tick
from guidestar.query import strategies
from guidestar.query.mixing import Schedule
from guidestar.query.prototypes import prototype_log_probs
from guidestar.query.recipes import SUBPOOL_SIZE
from guidestar.query.subpool import subpool
from guidestar.query.warm_start import WARM_STARTS
from guidestar.records import Example, Label, Pick, Predictions
from guidestar.rng import generator, phase_seed
from guidestar.store.files import sha256
from guidestar.store.store import Store

if TYPE_CHECKING:  # torch takes seconds to import and is not needed to look at a finished run
    from guidestar.model.load import BaseModel

PROBED = frozenset({"embedding", "label_log_probs"})  # what the classifier on frozen features knows
PARTS = "parts"  # in a run's folder: scores of a large pool while they are made


@dataclass(frozen=True, kw_only=True)
class Chooser:
    """Chooses the examples of a run's rounds, from predictions alone.

    random_share: of the picks after the warm start. base: the base model, loaded when first needed. adapter: round -> the
    folder of its adapter. members: round -> the other members of its committee. labelled: the labelled examples so far.
    timed: (round, phase, examples) -> what measures the phase and gives its tick.
    """

    bench: Bench
    store: Store
    recipe: strategies.Recipe
    seed: int
    folder: Path
    random_share: float
    schedule: Schedule | None
    base: Callable[[], BaseModel]
    adapter: Callable[[int], Path]
    members: Callable[[int], Sequence[Path]]
    labelled: Callable[[], Sequence[tuple[Example, Label]]]
    timed: Callable[[int, str, int], AbstractContextManager[Tick]]

    @property
    def config(self) -> RunConfig:
        """The run's configuration."""
        return self.bench.config

    def picks(self, r: int, free: Sequence[Example], k: int) -> tuple[Pick, ...]:
        """k of the examples that nobody was asked for yet; the scores of the candidates are stored."""
        if r == 0:
            rng = generator(self.seed, 0, "warm_start")  # the strategy's name is no part: the same for all
            by = self.config.query.warm_start_by or self.recipe.warm_start or "random"
            if by == "random":
                rows = rng.choice(len(free), size=k, replace=False)
            else:
                rows = WARM_STARTS[by](self._read(r).points(free), k, rng)
            return tuple(Pick(free[i].id, float("nan")) for i in rows)
        if k == 0:
            return ()
        block = self._candidates(free, max(k, self.config.query.candidates or len(free)), r)
        candidates, lucky = self._subpool(block, k, r)
        selection = self._select(candidates, block, k - len(lucky), r, 0 if lucky else self._random_picks(r, k))
        if selection.scores:
            self.store.add_arrays(r, "scores", selection.scores, {"ids": "\n".join(e.id for e in candidates)})
        picks = (*lucky, *selection.picks)
        self._keep_states(r, picks)
        return picks

    def clean(self) -> None:
        """Remove what a stopped process would have gone on with: the round's picks are stored."""
        shutil.rmtree(self.folder / PARTS, ignore_errors=True)

    def _random_picks(self, r: int, k: int) -> int:
        """How many of the k picks of round r are drawn at random: the share of all picks so far, rounded, less those
        of the rounds before, so that a share of 0.1 is kept with batches of 3 too."""
        before = sum(len(self.store.query(i).picks) for i in range(1, r))
        return min(k, round(self.random_share * (before + k)) - round(self.random_share * before))

    def _candidates(self, free: Sequence[Example], size: int, r: int) -> list[Example]:
        if size >= len(free):
            return list(free)
        rows = generator(self.seed, r, "candidates").choice(len(free), size=size, replace=False)
        return [free[i] for i in sorted(rows)]

    def _subpool(self, block: Sequence[Example], k: int, r: int) -> tuple[Sequence[Example], tuple[Pick, ...]]:
        """The candidates that are scored, and the picks drawn at random: from all, for a part would be no sample of
        the pool. Without a sub-pool all are scored, and `choose` draws."""
        if self.recipe.subpool is None:
            return block, ()
        share = self._random_picks(r, k)
        drawn = set(generator(self.seed, r, "control").choice(len(block), size=share, replace=False).tolist())
        lucky = tuple(
            Pick(block[i].id, float("nan"), {"random": 1.0, "probability": 1.0 / (len(block) - turn)})
            for turn, i in enumerate(sorted(drawn))
        )
        if share == k:
            return [e for i, e in enumerate(block) if i not in drawn], lucky
        points = self._base_of(block, block, r).arrays["embedding"][0]
        labelled = self.labelled()
        known = self._base_labelled(r, frozenset({"embedding"})).arrays["embedding"][0]
        size = max(k, self.recipe.subpool_size or SUBPOOL_SIZE) + share
        rng = generator(self.seed, r, "subpool")
        rows = subpool(self.recipe.subpool, points, known, [label.answer for _, label in labelled], size, rng)
        return [block[i] for i in rows if i not in drawn], lucky

    def _select(
        self, candidates: Sequence[Example], block: Sequence[Example], k: int, r: int, lucky: int
    ) -> strategies.Selection:
        """Choose k of the candidates, `lucky` of them at random. block: what the candidates are a part of."""
        from guidestar.model import adapters
        from guidestar.model.arrays import predict
        from guidestar.model.parts import predict_in_parts
        from guidestar.model.precision import computing_in
        from guidestar.model.race import predict_raced

        if k == 0:
            return strategies.Selection((), {})
        dataset = self.bench.fitting
        task, passes, seed = dataset.task, self.recipe.passes, phase_seed(self.seed, r, "score")
        needs_full, needs_base = strategies.needs(self.recipe, task.family)
        gold = dataset.gold if any(name.startswith("gold_") for name in needs_full | needs_base) else None
        of_labelled, of_labelled_base = strategies.labelled_needs(self.recipe)
        frozen = PROBED if self.recipe.model == "frozen" else frozenset()
        probed, probed_labelled, needs_full = needs_full & frozen, of_labelled & frozen, needs_full - frozen
        of_labelled -= frozen
        whole = self.recipe.dropout == "model"
        full = labelled = race = None
        before = self._base_of(candidates, block, r) if needs_base else None
        labelled_base = self._base_labelled(r, of_labelled_base) if of_labelled_base else None
        counts: dict[str, int] = {}
        for _, label in self.labelled():
            counts[label.answer] = counts.get(label.answer, 0) + 1
        context = strategies.Context(
            t=r - 1,
            rounds=self._rounds,
            base=before,
            labelled_classes=counts,
            kind=task.family,
            schedule=self.schedule,
        )
        if needs_full and self.recipe.committee:
            full, labelled = self._by_committee(candidates, r, needs_full, of_labelled, gold)
        elif needs_full:
            with (
                computing_in(self.base(), self.config.model.score_dtype) as base,
                adapters.adapted(base, self.adapter(r - 1), b_dropout=self.config.train.b_dropout) as model,
                self.timed(r, "score", len(candidates)) as tick,
            ):
                common: dict[str, Any] = {
                    "passes": passes, "seed": seed, "gold": gold, "tick": tick, "b_dropout": self.config.train.b_dropout,
                    "folder": self.folder / PARTS, "question": {"round": r, "adapter": sha256(self.adapter(r - 1))},
                    "whole_dropout": whole,
                }  # fmt: skip
                if self.recipe.racing:
                    value = strategies.race_value(self.recipe, context)
                    full, race = predict_raced(base, model, candidates, needs_full, task, value, k=k, **common)
                else:
                    full = predict_in_parts(
                        base, model, candidates, needs_full, task, one_model=self.recipe.selector.one_model,
                        samples=self.recipe.sampled, temperature=self.recipe.temperature or 1.0, **common,
                    )  # fmt: skip
                if of_labelled:
                    known = [example for example, _ in self.labelled()]
                    labelled = predict(
                        base, model, known, of_labelled, task, passes=passes, seed=seed, whole_dropout=whole
                    )
        if probed:
            full = self._by_probe(candidates, r, probed, full)
        if probed_labelled:
            labelled = self._by_probe([e for e, _ in self.labelled()], r, probed_labelled, labelled)
        if self.bench.watched and full is not None and "label_log_probs" in full.arrays:
            self._keep_answers(r, full)
        context = dataclasses.replace(context, full=full, labelled=labelled, labelled_base=labelled_base, race=race)
        rng = generator(self.seed, r, "query")
        return strategies.choose(
            self.recipe,
            [e.id for e in candidates],
            context,
            k,
            rng,
            random_share=lucky / k,
        )

    def _read(self, r: int) -> Frozen:
        """The frozen features, those of the whole pool read: once, and together whatever is chosen from, because the last
        bits of a feature may depend on its batch."""
        frozen, pool = self.bench.frozen, self.bench.pool
        with self.timed(r, "read features", len(pool)) as tick:
            frozen.read(pool, tick)
        return frozen

    def _by_probe(
        self, examples: Sequence[Example], r: int, needs: frozenset[str], others: Predictions | None
    ) -> Predictions:
        """What the classifier on frozen features says to the examples, beside what the tuned model said."""
        labelled = [(example, label.answer) for example, label in self.labelled()]
        frozen, task = self._read(r), self.bench.fitting.task
        rng = generator(self.seed, r, "probe")
        scorer = Probed.of(frozen, labelled if "label_log_probs" in needs else [], task.classes, rng)
        said = scorer(examples, Ask(needs))
        arrays = {**(others.arrays if others is not None else {}), **said.arrays}
        return Predictions(said.ids, arrays, task.classes)

    @property
    def _rounds(self) -> int:
        """Rounds of the budget that the run was begun with: a larger one must not make λ rise again."""
        first = self.store.budgets()[0][0]
        return self.bench.config.query.model_copy(update={"budget": first}).rounds

    def _by_committee(
        self, candidates: Sequence[Example], r: int, needs: frozenset[str], of_labelled: frozenset[str],
        gold: Mapping[str, str] | None,
    ) -> tuple[Predictions, Predictions | None]:  # fmt: skip
        """What the members say to the candidates and to the labelled examples, a pass of each."""
        from guidestar.model.committee import predict_committee
        from guidestar.model.precision import computing_in

        members = [self.adapter(r - 1), *self.members(r - 1)]
        known = [example for example, _ in self.labelled()]
        with (
            computing_in(self.base(), self.config.model.score_dtype) as base,
            self.timed(r, "score", len(candidates)) as tick,
        ):
            full, labelled = (
                predict_committee(
                    base, members, examples, wanted, self.bench.dataset.task, gold=gold, tick=tick,
                    folder=self.folder / PARTS, question={"round": r},
                ) if wanted else None
                for examples, wanted in ((candidates, needs), (known, of_labelled))
            )  # fmt: skip
        assert full is not None
        return full, labelled

    def _base_of(self, examples: Sequence[Example], block: Sequence[Example], r: int) -> Predictions:
        """The base model's arrays for some examples of a block, which are predicted in one fixed order whatever else is
        known: the whole pool once, or this round's candidates."""
        dataset = self.bench.fitting
        needs = strategies.needs(self.recipe, dataset.task.family)[1]
        headed = bool(self.base().labels) and "label_log_probs" in needs
        if headed:
            needs = needs - {"label_log_probs"} | {"embedding"}
        gold = dataset.gold if any(name.startswith("gold_") for name in needs) else None
        block = dataset.pool if self.config.query.candidates is None else block
        place = {e.id: i for i, e in enumerate(block)}
        found = self.base_predictions(r, "score base", block, needs, gold, self.config.model.score_dtype)
        found = found.rows(np.asarray([place[e.id] for e in examples], dtype=np.intp))
        return self._with_labels(found, examples, r) if headed else found

    def _with_labels(self, found: Predictions, examples: Sequence[Example], r: int) -> Predictions:
        """The base model's arrays with what stands in for its label probabilities: an untrained head has none."""
        from guidestar.model import classify
        from guidestar.model.predict import predict

        base, labels = self.base(), self.base().labels
        if self.recipe.mix is not None and self.recipe.mix.base == "head":
            with (
                classify.head_alone(base, self.adapter(r - 1)) as model,
                self.timed(r, "score base", len(examples)) as tick,
            ):
                said = predict(base, model, examples, {"label_log_probs"}, self.bench.dataset.task, tick=tick)
                log_probs = said.arrays["label_log_probs"]
        else:
            known = self._base_labelled(r, frozenset({"embedding"})).arrays["embedding"][0]
            classes = np.asarray(
                classify.positions(base, [label.answer for _, label in self.labelled()]), dtype=np.intp
            )
            log_probs = prototype_log_probs(found.arrays["embedding"][0], known, classes, len(labels))[None]
        return Predictions(found.ids, {**found.arrays, "label_log_probs": log_probs}, labels)

    def _base_labelled(self, r: int, needs: frozenset[str]) -> Predictions:
        known = [example for example, _ in self.labelled()]
        return self.base_predictions(r, "score base labelled", known, needs, None, self.config.model.score_dtype)

    def base_predictions(
        self, r: int, phase: str, examples: Sequence[Example], needs: frozenset[str],
        gold: Mapping[str, str] | None, dtype: str | None = None,
    ) -> Predictions:  # fmt: skip
        """What the untuned model says, from the cache that the runs share. dtype: None for the model's own."""
        from guidestar.model.basecache import base_predictions

        dataset = self.bench.fitting
        with self.timed(r, phase, len(examples)) as tick:
            return base_predictions(
                self.bench.cache,
                self.base(),
                examples,
                needs,
                dataset.task,
                data_hash=dataset.hash,
                gold=gold,
                dtype=dtype,
                tick=tick,
            )

    def _keep_answers(self, r: int, full: Predictions) -> None:
        """What the model says to the candidates, so that consecutive models can be compared without labels."""
        place = {e.id: i for i, e in enumerate(self.bench.pool)}
        chances = np.exp(full.arrays["label_log_probs"].astype(np.float64)).mean(axis=0)
        answers = {
            "row": np.asarray([place[id] for id in full.ids], dtype=np.int64),
            "label": chances.argmax(axis=1).astype(np.int64),
            "confidence": chances.max(axis=1).astype(np.float32),
        }
        self.store.add_arrays(r, "answers", answers)

    def _keep_states(self, r: int, picks: Sequence[Pick]) -> None:
        """The states of a round's picks by the model that does not know their labels yet: how smooth these are over them
        is a sign of when to stop (`metrics/smoothness.py`)."""
        from guidestar.model import adapters
        from guidestar.model.arrays import predict

        if not (self.bench.watched and self.bench.dataset.task.classes) or self.store.has_arrays(r, "picks"):
            return
        by_id = {e.id: e for e in self.bench.pool}
        examples = [by_id[pick.id] for pick in picks]
        with adapters.adapted(self.base(), self.adapter(r - 1)) as model, self.timed(r, "watch", len(picks)) as tick:
            found = predict(self.base(), model, examples, {"embedding"}, self.bench.dataset.task, tick=tick)
        states = found.arrays["embedding"][0].astype(np.float32)
        self.store.add_arrays(r, "picks", {"embedding": states}, {"ids": "\n".join(pick.id for pick in picks)})
