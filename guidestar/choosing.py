"""How a run chooses: candidates, what the tuned and the base model say to them, and the strategy's picks.

It reads the store and adds a round's arrays to it; asking, training and measuring are the loop's.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from guidestar.asking import LABELS, Ask, Probed, Raced, Scorer, label_places
from guidestar.beginning import given_in
from guidestar.bench import PARTS, Bench
from guidestar.config import QueryConfig, StrategyConfig
from guidestar.data.table import Pool, ids_of
from guidestar.query import mixing, strategies
from guidestar.query.herding import CANDIDATES
from guidestar.query.mixing import Schedule
from guidestar.query.probe import prototype_log_probs
from guidestar.query.recipes import SUBPOOL_SIZE, Recipe
from guidestar.query.strategies import Context, Selection
from guidestar.query.subpool import subpool
from guidestar.query.table import WARM_STARTS, warm_start_of
from guidestar.records import Array, Example, Pick, Predictions
from guidestar.rng import generator, phase_seed, places
from guidestar.store.annotations import TEST
from guidestar.store.store import Store
from guidestar.tuning import Tuning

AHEAD = "ahead"  # in the details of a pick: it was asked before its round was chosen
UNSEEN = "unseen"  # arrays of a round: what the tuned model said of its picks, from which it had not learned yet
STATES = Ask.of(["embedding"])


@dataclass(frozen=True, kw_only=True)
class Chooser:
    """Chooses the examples of a run's rounds, from predictions alone.

    random_share: of the picks after the warm start.
    """

    tuning: Tuning
    random_share: float
    schedule: Schedule | None
    _ranking: dict[str, float] = field(default_factory=dict)  # example -> its score in the round chosen last

    @property
    def _bench(self) -> Bench:
        return self.tuning.bench

    @property
    def _store(self) -> Store:
        return self.tuning.store

    @property
    def _recipe(self) -> Recipe:
        return self.tuning.recipe

    def picks(self, r: int, free: Pool, k: int) -> tuple[Pick, ...]:
        """k of the examples that nobody was asked for yet; the scores of the candidates are stored."""
        if r == 0:
            rng = generator(self.tuning.seed, 0, "warm_start")  # the strategy's name is no part: the same for all
            by = warm_start_of(self._bench.config.query.warm_start_by, self._recipe.warm_start)
            if by == "random":
                rows = rng.choice(len(free), size=k, replace=False)
            else:
                free = self._candidates(self._read(free, k), max(k, CANDIDATES), r)
                rows = WARM_STARTS[by](self.tuning.features(r).points(free), k, rng)
            return tuple(Pick(free[i].id, float("nan")) for i in rows)
        if k == 0:
            return ()
        free = self._read(free, k) if self._recipe.by_probe else free
        most = CANDIDATES if self._recipe.by_probe else len(free)  # more of them would choose no better
        block = self._candidates(free, max(k, self._bench.config.query.candidates or most), r)
        candidates, drawn = self._subpool(block, k, r)
        selection = self._select(candidates, block, k - len(drawn), r, 0 if drawn else self._random_picks(r, k))
        if selection.scores:
            self._store.add_arrays(r, "scores", selection.scores, {"ids": "\n".join(e.id for e in candidates)})
            self._ranking.clear()
            scored = zip(candidates, selection.scores["score"], strict=True)
            self._ranking.update((e.id, float(score)) for e, score in scored)
        picks = (*drawn, *selection.picks)
        self._keep_states(r, picks)
        return picks

    def to_hold_out(self) -> list[Pick]:
        """The picks of round 0 whose labels are set aside as the test set: a random sample of what has no label yet, drawn
        without any model."""
        bench, notes = self._bench, self._store.annotations
        given = notes.extras() - notes.grouped()
        size = self._first_query.held_out(sum(e.id in given for e, _ in notes.labelled()))
        if not size or bench.simulation:
            return []
        pool = bench.pool if bench.config.data.too_long == "drop" else bench.dataset.pool  # else they are the same
        free = pool.without([e.id for e in given_in(bench.dataset)])
        rows = generator(self.tuning.seed, 0, "hold out").permutation(len(free))[: min(size, len(free) - 1)]
        return [Pick(id, float("nan"), {TEST: 1.0}) for id in free.take(rows).ids]

    def ahead(self, free: Pool, k: int, r: int) -> Iterator[list[Pick]]:
        """k examples that round r may ask for before it is chosen, the first to ask first; what costs nothing comes first and
        may be followed by something better.

        Chosen by what needs no training: the classifier on frozen features where they cost little, else the scores of the
        round before, else at random. r: the round to come; 0 needs no model.
        """
        answers = Counter(answer for _, answer in self.tuning.labelled()) if r and k else Counter[str]()
        by_features = len(answers) > 1 and self.tuning.cheap_features
        chosen = r > 0 and len(self._store.ahead) >= self._bench.config.query.batch  # by a process that ended since
        if not chosen and not (by_features and self._bench.frozen.ready):
            yield self._at_no_cost(free, k, r)
        if by_features:
            some = self._candidates(self._read(free, k), max(k, CANDIDATES), r)
            yield self._by_features(some, k, r, answers)

    def _at_no_cost(self, free: Pool, k: int, r: int) -> list[Pick]:
        if ranked := free.only(self._ranking).ids:
            ranked = sorted(ranked, key=lambda id: -self._ranking[id])[:k]
            return [Pick(id, self._ranking[id], {AHEAD: 1.0, "ranking": 1.0}) for id in ranked]
        rows = generator(self.tuning.seed, r, "ahead").choice(len(free), size=min(k, self._by_chance(r)), replace=False)
        return [Pick(free[i].id, float("nan"), {AHEAD: 1.0, "random": 1.0} if r else {AHEAD: 1.0}) for i in rows]

    def _by_chance(self, r: int) -> int:
        """How many questions up to round r may still be asked that nothing chose: up to half of the budget that people answer and
        train on, and at least the warm start. Who is faster than the model waits for it then."""
        query, given = self._bench.config.query, len(self._store.annotations.extras())
        if self._recipe.select == "random" and self._recipe.measure is None:
            return query.budget
        asked = [pick.details for i in range(r + 1) for pick in self._store.query(i).picks]
        before = sum(AHEAD in details and not {"ranking", "frozen"} & details.keys() for details in asked)
        half = (query.budget - given - self._first_query.held_out(given)) // 2
        return max(half - before, 0 if r else query.warm_start - given - before, 0)

    def _by_features(self, candidates: Sequence[Example], k: int, r: int, answers: Counter[str]) -> list[Pick]:
        """k candidates that the strategy chooses, or `lean` in its place, with the classifier on frozen features."""
        recipe = self._recipe if self._recipe.model == "frozen" else strategies.resolve(StrategyConfig(use="lean"))
        fast = replace(self, tuning=replace(self.tuning, recipe=recipe))
        family = self._bench.fitting.task.family
        self._bench.frozen.read(self._bench.standing)
        context = Context(t=r - 1, rounds=self._first_query.rounds, kind=family, labelled_classes=answers)
        context = fast._probed(candidates, strategies.needs(recipe, family)[0], context, r)
        rng = generator(self.tuning.seed, r, "ahead")
        selection = strategies.choose(recipe, [e.id for e in candidates], context, k, rng)
        return [Pick(pick.id, pick.score, {AHEAD: 1.0, "frozen": 1.0, **pick.details}) for pick in selection.picks]

    def clean(self) -> None:
        """Remove what a stopped process would have gone on with: the round's picks are stored."""
        shutil.rmtree(self._store.folder / PARTS, ignore_errors=True)

    # --- who is a candidate ---

    def _random_picks(self, r: int, k: int) -> int:
        """How many of the k picks of round r are drawn at random: the share of all picks so far, rounded, less those
        of the rounds before and those asked ahead, so that a share of 0.1 is kept with batches of 3 too."""
        before = sum(len(self._store.query(i).picks) for i in range(1, r))
        ahead = self._store.query(r).picks
        share = round(self.random_share * (before + len(ahead) + k)) - round(self.random_share * before)
        return min(k, max(0, share - sum("random" in pick.details for pick in ahead)))

    def _candidates(self, free: Pool, size: int, r: int) -> Pool:
        if size >= len(free):
            return free
        return free.take(places(len(free), size, self.tuning.seed, r, "candidates"))

    def _read(self, free: Pool, k: int) -> Pool:
        """Those whose frozen features are read, if that leaves k of them."""
        standing = self._bench.standing
        some = free if standing is self._bench.pool else free.only(standing.ids)
        return some if len(some) >= k else free

    def _subpool(self, block: Pool, k: int, r: int) -> tuple[Sequence[Example], tuple[Pick, ...]]:
        """The candidates that are scored, and the picks drawn at random: from all, for a part would be no sample of
        the pool. Without a sub-pool all are scored, and `choose` draws."""
        recipe = self._recipe
        if recipe.subpool is None:
            return block, ()
        share = self._random_picks(r, k)
        rng = generator(self.tuning.seed, r, "control")
        rows = set(rng.choice(len(block), size=share, replace=False).tolist())
        drawn = tuple(
            Pick(block[i].id, float("nan"), {"random": 1.0, "probability": 1.0 / (len(block) - turn)})
            for turn, i in enumerate(sorted(rows))
        )
        if share == k:
            return block.take([i for i in range(len(block)) if i not in rows]), drawn
        points = self._base_of(block, block, r).arrays["embedding"][0]
        known = self._base_labelled(r, STATES).arrays["embedding"][0]
        answers = [answer for _, answer in self.tuning.labelled()]
        size = max(k, recipe.subpool_size or SUBPOOL_SIZE) + share
        kept = subpool(recipe.subpool, points, known, answers, size, generator(self.tuning.seed, r, "subpool"))
        return [block[i] for i in kept if i not in rows], drawn

    # --- what the models say to them ---

    def _select(self, candidates: Sequence[Example], block: Pool, k: int, r: int, at_random: int) -> Selection:
        """Choose k of the candidates, some of them at random. block: what the candidates are a part of."""
        if k == 0:
            return Selection((), {})
        recipe, family = self._recipe, self._bench.fitting.task.family
        needs, needs_base = strategies.needs(recipe, family)
        of_labelled_base = strategies.labelled_needs(recipe)[1]
        context = Context(
            t=r - 1, rounds=self._first_query.rounds, kind=family, schedule=self.schedule,
            base=self._base_of(candidates, block, r) if needs_base else None,
            labelled_base=self._base_labelled(r, Ask(of_labelled_base)) if of_labelled_base else None,
            labelled_classes=Counter(answer for _, answer in self.tuning.labelled()),
        )  # fmt: skip
        if tuned := recipe.by_tuned(needs):
            context = self._scored(candidates, tuned, context, k, r)
        by_tuned = {} if context.full is None else context.full.arrays
        said = by_tuned["label_log_probs"][0] if recipe.model == "mixed" and "label_log_probs" in by_tuned else None
        if recipe.by_probe:
            context = self._probed(candidates, needs & recipe.by_probe, context, r)
        if said is not None:
            context = self._mixed(said, context, r)
        classes = self._bench.fitting.task.classes
        if self._bench.watched and classes and context.full is not None and "label_log_probs" in context.full.arrays:
            self._keep_answers(r, context.full)
        ids = candidates.names if isinstance(candidates, Pool) else ids_of(candidates)
        rng = generator(self.tuning.seed, r, "query")
        selection = strategies.choose(recipe, ids, context, k, rng, random_share=at_random / k)
        if said is not None:
            picked = [pick.id for pick in selection.picks]
            place = {id: i for i, id in enumerate(ids_of(candidates))}
            rows = self._bench.pool.places(picked).astype(np.int64)
            self._store.add_arrays(r, UNSEEN, {"row": rows, "log_probs": said[[place[id] for id in picked]]})
        bounds = {name: array[0] for name, array in by_tuned.items() if name.endswith("_bound")}
        return replace(selection, scores={**selection.scores, **bounds}) if bounds else selection

    def _scored(
        self, candidates: Sequence[Example], needs: frozenset[str], context: Context, k: int, r: int
    ) -> Context:
        """The context with what the tuned models say to the candidates and, where it is read, to the labelled examples."""
        recipe = self._recipe
        of_labelled = strategies.labelled_needs(recipe)[0] - recipe.by_probe
        plain = Ask(
            needs, passes=recipe.committee or recipe.passes, seed=phase_seed(self.tuning.seed, r, "score"),
            dropout="model" if recipe.dropout == "model" else "adapter", gold=self._gold(needs),
        )  # fmt: skip
        ask = replace(
            plain, one_model=recipe.selector.one_model, samples=recipe.sampled, temperature=recipe.temperature or 1.0
        )
        scorer = self.tuning.scoring(r - 1)
        with scorer, self.tuning.clock(r, "score", len(candidates)) as tick:
            if recipe.racing:
                full, race = Raced(scorer, strategies.race_value(recipe, context), k).race(candidates, ask, tick)
            else:
                full, race = scorer(candidates, ask, tick), None
            if not of_labelled:
                return replace(context, full=full, race=race)
            known = [example for example, _ in self.tuning.labelled()]
            return replace(context, full=full, race=race, labelled=scorer(known, replace(plain, needs=of_labelled)))

    def _probed(self, candidates: Sequence[Example], needs: frozenset[str], context: Context, r: int) -> Context:
        """The context with what the classifier on frozen features says, beside what the tuned model said."""
        labelled = self.tuning.labelled()
        of_labelled = strategies.labelled_needs(self._recipe)[0] & self._recipe.by_probe
        frozen, task = self.tuning.features(r), self._bench.fitting.task
        pairs = labelled if "label_log_probs" in needs | of_labelled else []
        scorer = Probed.of(frozen, pairs, task, generator(self.tuning.seed, r, "probe"))

        def said(examples: Sequence[Example], needs: frozenset[str], others: Predictions | None) -> Predictions | None:
            if not needs:
                return others
            predicted, beside = scorer(examples, Ask(needs)), {} if others is None else others.arrays
            return Predictions(predicted.ids, {**beside, **predicted.arrays}, task.labels)

        known = said([e for e, _ in labelled], of_labelled, context.labelled)
        return replace(context, full=said(candidates, needs, context.full), labelled=known)

    def _mixed(self, tuned: Array, context: Context, r: int) -> Context:
        """The context with the classifier's label probabilities mixed with the tuned model's, (n, labels) natural logs.

        λ is that of the least log-loss on the labels of earlier rounds: what the tuned model of the time said of their picks,
        and the classifier out of fold.
        """
        assert context.full is not None
        store, pool = self._store, self._bench.pool
        rounds = [i for i in range(store.relabels.since + 1, r) if store.has_arrays(i, UNSEEN)]
        kept = [store.arrays(i, UNSEEN) for i in rounds]
        said = {pool[row].id: logs for a in kept for row, logs in zip(a["row"], a["log_probs"], strict=True)}
        answers = self.tuning.labelled()
        known, task = [i for i, (e, _) in enumerate(answers) if e.id in said], self._bench.fitting.task
        own = self.tuning.features(r).unseen(answers, task, generator(self.tuning.seed, r, "unseen"))[known]
        theirs = np.array([said[answers[i][0].id] for i in known]).reshape(own.shape)
        right = label_places(task, [answers[i][1] for i in known])
        lam = mixing.measured(own, theirs, right)
        self._bench.progress.say(f"  λ of the classifier beside the tuned model: {lam:.2f}, by {len(known)} labels")
        both = mixing.mixed(context.full.arrays["label_log_probs"][0], tuned, lam)[None]
        return replace(context, full=replace(context.full, arrays={**context.full.arrays, "label_log_probs": both}))

    def _base_of(self, examples: Sequence[Example], block: Pool, r: int) -> Predictions:
        """The base model's arrays for some examples of a block, which are predicted in one fixed order whatever else is
        known: the whole pool once, or this round's candidates."""
        dataset, scorer = self._bench.fitting, self._scoring_base
        needs = strategies.needs(self._recipe, dataset.task.family)[1]
        headed = "label_log_probs" in needs and not scorer.can(LABELS)
        if headed:
            needs = needs - LABELS.needs | STATES.needs
        block = dataset.pool if self._bench.config.query.candidates is None else block
        with self.tuning.clock(r, "score base", len(block)) as tick:
            said = scorer(block, Ask(needs, gold=self._gold(needs)), tick)
        said = said.rows(block.places(e.id for e in examples))
        return self._with_labels(said, examples, r) if headed else said

    def _with_labels(self, said: Predictions, examples: Sequence[Example], r: int) -> Predictions:
        """The base model's arrays with what stands in for its label probabilities: an untrained head has none."""
        recipe, task = self._recipe, self._bench.fitting.task
        if recipe.mix is not None and recipe.mix.base == "head":
            head = self.tuning.engine.scorer(self.tuning.adapter(r - 1), head_alone=True)
            with self.tuning.clock(r, "score base", len(examples)) as tick:
                log_probs = head(examples, LABELS, tick).arrays["label_log_probs"]
        else:
            known = self._base_labelled(r, STATES).arrays["embedding"][0]
            classes = label_places(task, [answer for _, answer in self.tuning.labelled()])
            log_probs = prototype_log_probs(said.arrays["embedding"][0], known, classes, len(task.labels))[None]
        return Predictions(said.ids, {**said.arrays, "label_log_probs": log_probs}, task.labels)

    def _base_labelled(self, r: int, ask: Ask) -> Predictions:
        known = [example for example, _ in self.tuning.labelled()]
        with self.tuning.clock(r, "score base labelled", len(known)) as tick:
            return self._scoring_base(known, ask, tick)

    @property
    def _scoring_base(self) -> Scorer:
        return self.tuning.base(self._bench.config.model.score_dtype)

    def _gold(self, needs: frozenset[str]) -> dict[str, str] | None:
        return dict(self._bench.fitting.gold) if any(name.startswith("gold_") for name in needs) else None

    @property
    def _first_query(self) -> QueryConfig:
        """With the budget that the run was begun with: more rounds, by a larger one, must not make λ rise again."""
        return self._bench.config.query.model_copy(update={"budget": self._store.budgets()[0][0]})

    # --- what advice reads later ---

    def _keep_answers(self, r: int, full: Predictions) -> None:
        """What the model says to the candidates, so that consecutive models can be compared without labels."""
        chances = np.exp(full.arrays["label_log_probs"].astype(np.float64)).mean(axis=0)
        answers = {
            "row": self._bench.pool.places(full.ids).astype(np.int64),
            "label": chances.argmax(axis=1).astype(np.int64),
            "confidence": chances.max(axis=1).astype(np.float32),
        }
        self._store.add_arrays(r, "answers", answers)

    def _keep_states(self, r: int, picks: Sequence[Pick]) -> None:
        """The states of a round's picks by the model that does not know their labels yet: how smooth these are over them
        is a sign of when to stop (`metrics/smoothness.py`)."""
        if not (self._bench.watched and self._bench.dataset.task.classes) or self._store.has_arrays(r, "picks"):
            return
        examples = list(self._bench.pool.named([pick.id for pick in picks]).values())
        tuned = self.tuning.tuned(r - 1)
        with tuned, self.tuning.clock(r, "watch", len(picks)) as tick:
            states = tuned(examples, STATES, tick).arrays["embedding"][0].astype(np.float32)
        self._store.add_arrays(r, "picks", {"embedding": states}, {"ids": "\n".join(pick.id for pick in picks)})
