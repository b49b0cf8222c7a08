"""A frozen model's features, read once, and the classifier on them: a scorer that costs nothing once they are there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

import numpy as np

from guidestar.asking.answers import label_places
from guidestar.asking.scorer import Ask, Scorer, silent
from guidestar.asking.trainer import HeadStart, Labelled, Weighted
from guidestar.asking.wrappers import PART, question
from guidestar.data.table import ids_of
from guidestar.progress import Tick, behind
from guidestar.query import probe
from guidestar.query.distances import Points
from guidestar.query.space import SAMPLE, Space, space_of
from guidestar.records import Array, Example, Predictions
from guidestar.rng import generator
from guidestar.store.cache import Cache
from guidestar.tasks import Task, several

FEATURES = Ask.of(["features"])
ENOUGH = 10  # labels that can tell one view from another
VIEWS = 2  # counted up where a text's views become others, so that kept ones are not taken for them


@final
@dataclass(frozen=True)
class Frozen:
    """Where texts lie in the space of a pool's features.

    scorer: answers "features"; a bare base model. pool: at most 4,096 of it, the same each time, give the space. weighted: each
    view counts by what it tells of the labels (`probe.view_weights`), once there are `ENOUGH`.
    """

    scorer: Scorer
    pool: Sequence[Example]
    cache: Cache
    weighted: bool = False
    _turns: dict[tuple[tuple[str, str], ...], Points] = field(default_factory=dict, repr=False, compare=False)
    _known: dict[str, Points] = field(default_factory=dict, repr=False, compare=False)
    _space: list[Space] = field(default_factory=list, repr=False, compare=False)  # none or one

    @property
    def ready(self) -> bool:
        """Whether the features of the pool are in memory."""
        return all(id in self._known for id in ids_of(self.pool))

    def read(self, examples: Sequence[Example], tick: Tick = silent) -> None:
        """Read the features of many examples, part by part; they are kept on the disk in half precision, so that a process
        that was stopped goes on at the part it was in."""
        space = self.space(tick)
        new = [i for i, id in enumerate(ids_of(examples)) if id not in self._known]
        if not new:
            return
        mark = hashlib.sha256(space.directions.tobytes() + space.centres.tobytes()).hexdigest()
        asked = {"views": VIEWS, "space": mark}
        for start in range(0, len(new), PART):
            some, heard = [examples[i] for i in new[start : start + PART]], behind(tick, start, len(new))

            def make(some: Sequence[Example] = some, heard: Tick = heard) -> Mapping[str, Array]:
                raw = self.scorer(some, FEATURES, heard).arrays["features"][0]
                return {"points": space.points(raw).astype(np.float16)}

            kept = self.cache.arrays("features", {**question(self.scorer, some, FEATURES), **asked}, make)["points"]
            self._known.update(zip((e.id for e in some), kept, strict=True))
            tick(start + len(some), len(new))

    def points(self, examples: Sequence[Example]) -> Points:
        """Where the examples lie, (n, rank) float32. Those that were not read are read now, each alone, so that its last
        bits do not depend on its company."""
        self.space()
        for one in examples:
            if one.id not in self._known:
                raw = self.scorer([one], FEATURES).arrays["features"][0]
                self._known[one.id] = self.space().points(raw).astype(np.float16)[0]
        width = self.space().directions.shape[1]
        return np.array([self._known[e.id] for e in examples], dtype=np.float32).reshape(-1, width)

    def space(self, tick: Tick = silent) -> Space:
        """The space of the pool."""
        if self._space:
            return self._space[0]
        some = self.pool
        if len(some) > SAMPLE:
            rows = generator(0, 0, "space").choice(len(some), SAMPLE, replace=False)
            some = [some[i] for i in sorted(rows)]

        def make() -> Mapping[str, Array]:
            raw = self.scorer(some, FEATURES, tick).arrays["features"][0]
            made = space_of(raw, generator(0, 0, "directions"))
            return {**vars(made), "points": made.points(raw).astype(np.float16)}

        arrays = self.cache.arrays("space", {**question(self.scorer, some, FEATURES), "views": VIEWS}, make)
        self._known.update(zip((e.id for e in some), arrays["points"], strict=True))
        self._space.append(Space(arrays["centres"], arrays["directions"]))
        return self._space[0]

    def fit(self, labelled: Labelled, task: Task, rng: np.random.Generator) -> probe.Probe | probe.EachProbe:
        """The classifier on these features, fitted to labelled examples; where several labels may hold, one for each of them.
        rng: of the folds that its temperature is found on."""
        points, right = self._turned([e for e, _ in labelled], labelled, task), _right(labelled, task)
        if several(task):
            return probe.fit_each(points, right, rng)
        fitted, turn = probe.fit(points, right, len(task.labels), rng), self.turn(labelled, task)
        return fitted if turn is None else replace(fitted, weights=turn @ fitted.weights)

    def pseudo_labels(
        self, examples: Sequence[Example], labelled: Labelled, task: Task, rng: np.random.Generator, weight: float,
        others: Mapping[str, str] | None = None,
    ) -> list[Weighted]:  # fmt: skip
        """What training may learn from beside labels (`probe.helpful_pseudo_labels`), each counting `weight`.

        examples: the labelled ones and those that may get an answer. others: example -> class by an endpoint, whose answers
        take the place of the classifier's.
        """
        answers, classes = {e.id: answer for e, answer in labelled}, {c: i for i, c in enumerate(task.classes)}

        def told(answers: Mapping[str, str]) -> tuple[probe.Classes, probe.Classes]:
            rows = [i for i, e in enumerate(examples) if e.id in answers]
            said = [classes[answers[examples[i].id]] for i in rows]
            return np.array(rows, dtype=np.intp), np.array(said, dtype=np.intp)

        points, said = self._turned(examples, labelled, task), None if others is None else told(others)
        made = probe.helpful_pseudo_labels(points, *told(answers), len(classes), rng, weight, others=said)
        return [(examples[i], task.classes[c], weight) for i, c in zip(*made, strict=True)]

    def turn(self, labelled: Labelled, task: Task) -> Points | None:
        """What points are multiplied by so that each view counts by what it tells, (rank, rank); None where all count alike. It
        depends on the labels alone, so that all who ask with the same ones read the same."""
        if not self.weighted or several(task) or len(labelled) < ENOUGH:
            return None
        if (key := tuple((e.id, answer) for e, answer in labelled)) not in self._turns:
            points, space = self.points([e for e, _ in labelled]), self.space()
            self._turns[key] = space.weighing(probe.view_weights(space.views(points), _right(labelled, task)))
        return self._turns[key]

    def _turned(self, examples: Sequence[Example], labelled: Labelled, task: Task) -> Points:
        """Where examples lie for a classifier that is fitted to these labels."""
        points, turn = self.points(examples), self.turn(labelled, task)
        return points if turn is None else points @ turn

    def unseen(self, labelled: Labelled, task: Task, rng: np.random.Generator) -> Array:
        """What the classifier says of labelled examples out of fold, (m, labels) natural logs."""
        points, right = self._turned([e for e, _ in labelled], labelled, task), _right(labelled, task)
        scores = probe.out_of_fold(points, right, len(task.labels), rng)
        return probe.smoothed(scores / probe.temperature(scores, right), len(right))

    def head_start(self, labelled: Labelled, task: Task, rng: np.random.Generator) -> HeadStart:
        """The classifier, fitted to labelled examples, as a head on the features themselves."""
        (weights, constants), space = self.fit(labelled, task, rng).head, self.space()
        return HeadStart(space.centres, space.directions @ weights, constants)


def _right(pairs: Labelled, task: Task) -> probe.Classes:
    return label_places(task, [answer for _, answer in pairs])


def baselines(
    frozen: Frozen, labelled: Labelled, test: Labelled, task: Task, rng: np.random.Generator
) -> dict[str, float]:
    """What costs no training: accuracy on a test set of the classifier on frozen features, and of the nearest class mean,
    both fitted to the same labels. A tuned model that is not above them has not earned its training."""
    known, points = (frozen.points([e for e, _ in pairs]) for pairs in (labelled, test))
    given, right = _right(labelled, task), _right(test, task)
    said = {
        "frozen_accuracy": frozen.fit(labelled, task, rng).log_probs(points),
        "class_means_accuracy": probe.prototype_log_probs(points, known, given, len(task.labels)),
    }
    hits = {name: (log_probs.argmax(axis=-1) == right).reshape(len(test), -1) for name, log_probs in said.items()}
    return {name: float(hit.all(axis=1).mean()) for name, hit in hits.items()}


@final
@dataclass(frozen=True)
class Probed(Scorer):
    """A logistic regression on frozen features (`query/probe.py`); without a labelled example it knows the features alone.

    Its embeddings are the points that the features lie at, where all views count alike: to cover a pool by what the labels told
    of the views brought no more (LOG.md, 2026-12-01).
    """

    frozen: Frozen
    fitted: probe.Probe | probe.EachProbe | None
    names: tuple[str, ...]

    @classmethod
    def of(cls, frozen: Frozen, labelled: Labelled, task: Task, rng: np.random.Generator) -> Probed:
        """Fitted to labelled examples; rng: of the folds that its temperature is found on."""
        if not labelled:
            return cls(frozen, None, tuple(task.labels))
        return cls(frozen, frozen.fit(labelled, task, rng), tuple(task.labels))

    @property
    def labels(self) -> tuple[str, ...]:
        return self.names

    def __call__(self, examples: Sequence[Example], ask: Ask, tick: Tick = silent) -> Predictions:
        self.check(ask)
        points = self.frozen.points(examples)
        made: dict[str, Array] = {}
        if "embedding" in ask.needs:
            made["embedding"] = points[None]
        if "label_log_probs" in ask.needs and self.fitted is not None:
            made["label_log_probs"] = self.fitted.log_probs(points)[None]
        tick(len(examples), len(examples))
        return Predictions(tuple(e.id for e in examples), made, self.names)

    def refusal(self, ask: Ask) -> str | None:
        if other := sorted(ask.needs - {"embedding", "label_log_probs"}):
            return f"a classifier on frozen features gives label probabilities and embeddings, not {other[0]}"
        if ask.passes:
            return "a classifier on frozen features has no dropout, so all passes would be equal; allowed: passes 0"
        if "label_log_probs" in ask.needs and self.fitted is None:
            return "the classifier on frozen features has no labelled example yet and knows no label; label some first"
        return None

    def plain(self) -> dict[str, Any]:
        facts = {**self.frozen.scorer.plain(), "probe": None, "labels": list(self.names)}
        if self.fitted is not None:
            each = self.fitted.each if isinstance(self.fitted, probe.EachProbe) else (self.fitted,)
            numbers = b"".join(one.weights.tobytes() + one.constants.tobytes() for one in each)
            facts["probe"] = hashlib.sha256(numbers).hexdigest()
        return facts
