"""The work of a run by phases: one table that the loop's clock, the plan and the bill read.

A phase that is not in it cannot be timed; one that is, is planned and charged.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from guidestar.config import RunConfig
from guidestar.metrics.cost import Spent, operations
from guidestar.model.recipe import epochs, settled
from guidestar.progress import Progress, Silent, Tick, settle
from guidestar.query import strategies
from guidestar.query.recipes import SUBPOOL_SIZE, Recipe
from guidestar.query.table import warm_start_of
from guidestar.store import Store

BASELINE_POOL = 20_000  # examples; the features of a larger pool are not read for baselines alone
FIXED = "fixed"  # the kind of work that every training has once, whatever it is trained on
Amounts = Mapping[str, int]  # kind of work -> examples, passes and epochs multiplied in; of `FIXED` trainings


@dataclass(frozen=True, kw_only=True)
class Course:
    """A run before it is gone through.

    family: of the task's kind. pool, test, validation: sizes; of a validation set only if it is measured every round.
    first: the warm start's training is not another run's. before: labels of the rounds that are complete already, 0 where
    none is. suggested: the model answers, too, before people are asked. watched: its states of the picks are kept for
    advice. head: what its classification head reads; an untuned one is not measured. aside: labels of the budget that are set
    aside as the test set: they stand in the pool, and test counts them.
    """

    config: RunConfig
    family: str
    pool: int
    test: int
    validation: int = 0
    first: bool = True
    before: int = 0
    suggested: bool = False
    watched: bool = False
    head: str = ""
    aside: int = 0

    @cached_property
    def recipe(self) -> Recipe:
        """Of its strategy."""
        return strategies.resolve(self.config.strategies[0])

    @cached_property
    def labels(self) -> tuple[int, ...]:
        """That each round is trained on; where it was begun, from the last complete round on."""
        query, end = self.config.query, min(self.config.query.budget, self.pool) - self.aside
        first = self.before or min(query.warm_start, self.pool - self.aside)
        return (first, *range(first + query.batch, end, query.batch), end) if first < end else (first,)

    def gone_through(self, labels: int) -> int:
        """Examples of one training, passes multiplied in, with as many weak labels as there may be."""
        labels += min(self.config.train.weak_labels or 0, max(self.pool - labels, 0))
        return labels * epochs(settled(self.config.train, self.head, self.config.peft), labels)

    @property
    def trained(self) -> tuple[int, ...]:
        """Labels of each training that is not copied from another run."""
        return self.labels if self.first and not self.before else self.labels[1:]

    @property
    def measured(self) -> int:
        """Rounds that are measured."""
        return len(self.labels) - bool(self.before)

    @property
    def answers(self) -> str:
        """The kind of work behind an answer to one example."""
        return "labels" if self.family in ("choice", "multi_label") else "generated"

    @property
    def candidates(self) -> list[int]:
        """How many of the pool each query chooses from."""
        free = self.pool - self.aside
        return [min(self.config.query.candidates or free, free - known) for known in self.labels[:-1]]


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One kind of work in a round.

    purpose: "choosing", "training" or "measuring"; measuring is no cost of choosing, for a project may do without it.
    over: what its examples are of; "labelled" ones are read with their answers. trains: forward and backward passes, not
    forward ones alone. shared: who does it once: "no" sharing, the strategies of a "seed" (in round 0), or "all" runs.
    walks: each example counts as often as the recipe goes through the candidates. whole: done at once for the whole pool
    where a configuration does not limit the candidates. amounts: how much of it there is in a run.
    """

    purpose: Literal["choosing", "training", "measuring"]
    over: Literal["pool", "test", "validation", "labelled"] = "pool"
    trains: bool = False
    shared: Literal["no", "seed", "all"] = "no"
    walks: bool = False
    whole: bool = False
    amounts: Callable[[Course], Amounts]

    def once(self, config: RunConfig) -> bool:
        """Whether the runs of an experiment share all of it."""
        return self.shared == "all" and not (self.whole and config.query.candidates)

    def spent(self, tokens: float, parameters: float, *, frozen: bool, seconds: float = 0, money: float = 0) -> Spent:
        """What so many tokens take a model of so many parameters. frozen: only an adapter is trained."""
        return Spent(seconds, tokens, operations(parameters, tokens, trains=self.trains, frozen=frozen), money)


def _scored(c: Course) -> Amounts:
    size = c.recipe.subpool_size or SUBPOOL_SIZE
    each = [n if c.recipe.subpool is None else min(n, size) for n in c.candidates]
    kinds = kinds_of(c.recipe.by_tuned(strategies.needs(c.recipe, c.family)[0]))
    return dict.fromkeys(kinds, sum(each) * c.recipe.walks)


def _scored_base(c: Course) -> Amounts:
    count = sum(c.candidates) if c.config.query.candidates else c.pool * (len(c.labels) > 1)
    return {f"base {work}": count for work in kinds_of(strategies.needs(c.recipe, c.family)[1])}


def _scored_labelled(c: Course) -> Amounts:
    return {f"base {work}": sum(c.labels[:-1]) for work in kinds_of(strategies.labelled_needs(c.recipe)[1])}


def _suggested(c: Course) -> Amounts:
    asked = sum(after - (0 if c.family == "choice" else known) for known, after in itertools.pairwise(c.labels))
    return {c.answers: asked * c.suggested}


def _read(c: Course) -> Amounts:
    chosen = warm_start_of(c.config.query.warm_start_by, c.recipe.warm_start) != "random"
    read = chosen or c.config.train.pseudo_weight or c.recipe.by_probe or c.head == "features"
    return {"base labels": c.pool if read and not c.before else 0}


def _read_to_measure(c: Course) -> Amounts:
    already = c.before or any(_read(c).values()) or c.answers != "labels"
    return {"base labels": c.pool * (not already and bool(c.head) and c.test > 0 and c.pool <= BASELINE_POOL)}


def _pretrained(c: Course) -> Amounts:
    return {} if c.config.tapt is None or c.before else {"train": c.config.tapt.epochs * c.pool, FIXED: 1}


def _trainings(c: Course, labels: Sequence[int], times: int = 1) -> Amounts:
    return {"train": times * sum(map(c.gone_through, labels)), FIXED: times * len(labels)}


PHASES: dict[str, Phase] = {
    "read features": Phase(purpose="choosing", shared="all", amounts=_read),
    "measure features": Phase(purpose="measuring", shared="all", amounts=_read_to_measure),
    "pretrain": Phase(purpose="training", trains=True, shared="all", amounts=_pretrained),
    "train": Phase(
        purpose="training", over="labelled", trains=True, shared="seed",
        amounts=lambda c: _trainings(c, c.trained),
    ),
    "score": Phase(purpose="choosing", walks=True, amounts=_scored),
    "train committee": Phase(
        purpose="choosing", over="labelled", trains=True,
        amounts=lambda c: _trainings(c, c.labels[:-1], (c.recipe.committee or 1) - 1),
    ),
    "score base labelled": Phase(purpose="choosing", amounts=_scored_labelled),
    "score base": Phase(purpose="choosing", shared="all", whole=True, amounts=_scored_base),
    "evaluate": Phase(purpose="measuring", over="test", amounts=lambda c: {c.answers: c.test * c.measured}),
    "validate": Phase(purpose="measuring", over="validation", amounts=lambda c: {c.answers: c.validation * c.measured}),
    "watch": Phase(
        purpose="choosing",
        amounts=lambda c: {"labels": (c.labels[-1] - c.labels[0]) * (c.watched and c.family == "choice")},
    ),
    "suggest": Phase(purpose="choosing", amounts=_suggested),
    "evaluate base": Phase(
        purpose="measuring", over="test", shared="all",
        amounts=lambda c: {"base labels": c.test * (c.family == "choice" and not c.head and not c.before)},
    ),
}  # fmt: skip


Work = dict[tuple[str, str], int]  # (phase, kind of work) -> amount


def amounts(course: Course) -> Work:
    """The work of all phases that a run has. What a cache may hold is counted in full."""
    return {(name, kind): n for name, phase in PHASES.items() for kind, n in phase.amounts(course).items() if n}


def examples(work: Work) -> Counter[str]:
    """Examples of each phase, passes and epochs multiplied in."""
    return sum((Counter({phase: n}) for (phase, kind), n in work.items() if kind != FIXED), Counter())


def kinds_of(needs: frozenset[str]) -> list[str]:
    """The kinds of work behind some arrays.

    >>> kinds_of(frozenset({"response_entropy", "embedding"}))
    ['generated', 'labels']
    """
    read = {"label_log_probs", "embedding", "representation_gradient"}  # the gradient's backward pass is not counted
    return sorted({"labels" if n in read else "gold" if n.startswith("gold_") else "generated" for n in needs})


class Clock:
    """Times the phases of a run; what one session adds to a phase of a round is recorded as a whole."""

    def __init__(self, store: Store, progress: Progress) -> None:
        self.store, self.progress = store, progress
        self._spent: dict[tuple[int, str], tuple[float, int]] = {}  # (round, phase) -> seconds and items

    @contextmanager
    def __call__(self, r: int, phase: str, count: int, *, quiet: bool = False) -> Iterator[Tick]:
        """Measure a phase of round r over `count` items and record it when the block ends well; yields its tick. quiet: it
        is known to cost nothing now, and nothing is said of it."""
        assert phase in PHASES, f"{phase} has no place in the table"
        start = time.perf_counter()
        with (Silent() if quiet else self.progress).phase(phase) as tick:
            yield tick
        settle()
        seconds, most = self._spent.get((r, phase), (0.0, 0))  # it may come twice, the second time from the cache
        self._spent[r, phase] = seconds + time.perf_counter() - start, max(most, count)
        self.store.add_timing(r, phase, *self._spent[r, phase])
