"""What a report knows: the stores of one experiment, read once. Nothing else is looked at."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from guidestar.config import QueryConfig, shared_keys
from guidestar.errors import GuidestarError
from guidestar.metrics.chosen import NAME as CHOSEN
from guidestar.metrics.savings import auc
from guidestar.records import Example, Label, Metrics, Query, Skip, Stop, Suggestion
from guidestar.store import Store, runs_in
from guidestar.store.store import DATABASE
from guidestar.words import shortened

Arrays = Mapping[str, np.ndarray]


def is_random(facts: Mapping[str, Any]) -> bool:
    """Whether a run's strategy draws at random, so that every pick is a random one."""
    recipe = facts.get("recipe") or {}
    return bool(recipe.get("select") == "random" and recipe.get("measure") is None)


@dataclass(frozen=True)
class RunRecord:
    """One strategy with one seed, as its store holds it.

    name: of its folder. finished: why it ended, None while it goes on. unanswered: examples that wait, those asked ahead too.
    test: what was predicted on the test set, at most "base" (untuned), "first" and "last" (measured round).
    scores: round -> scores of all its candidates. unseen: example -> what a tuned model said before it was trained on it.
    adapters: round -> SHA-256 of its adapter. budgets: (labels in all, round from which on), more than one if it was raised.
    given: labels that may be trained on by now. apart: the examples whose labels are set aside as the test set. learnt: see
    `Annotations.learnt`.
    due: the round that has all its answers and no model yet.
    since: the first round on the present labels; with other labels a score is another score.
    chosen: what the last training chose beside its weights (`metrics/chosen.py`).
    """

    name: str
    facts: Mapping[str, Any]
    queries: tuple[Query, ...]
    examples: Mapping[str, Example]
    answers: Mapping[str, Label | Skip]
    metrics: tuple[Metrics, ...]
    timings: tuple[tuple[int, str, float, int], ...]
    finished: Stop | None
    unanswered: int
    test: Mapping[str, Arrays]
    scores: Mapping[int, Arrays]
    unseen: Mapping[str, Suggestion]
    adapters: Mapping[int, str]
    budgets: tuple[tuple[int, int], ...]
    given: int
    apart: tuple[Example, ...]
    learnt: Mapping[str, int]
    due: int | None = None
    since: int = 0
    chosen: Arrays = field(default_factory=dict)

    @property
    def strategy(self) -> str:
        """The strategy's name in the configuration."""
        return str(self.facts.get("strategy", self.name))

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.facts.get("seed", 0))

    @property
    def held_out(self) -> int:
        """Labels that are set aside as the test set."""
        return len(self.apart)

    @property
    def is_random(self) -> bool:
        """Whether it draws at random and can be the control."""
        return is_random(self.facts if self.facts.get("recipe") else {"recipe": {"select": self.strategy}})

    @property
    def configured(self) -> int | None:
        """Rounds that the configuration asks for, None if it is not known."""
        query = (self.facts.get("config") or {}).get("query")
        return QueryConfig.model_construct(**query).rounds if query else None

    @property
    def planned(self) -> int | None:
        """Rounds of the whole run: all there were once the budget or the pool is spent, for labels that came from a file save
        rounds and skips are made up for."""
        if self.finished in (Stop.BUDGET, Stop.EMPTY):
            return len(self.metrics)
        return self.configured and max(self.configured, len(self.queries))

    @property
    def labels(self) -> int:
        """That the last model was trained on."""
        return self.metrics[-1].labels if self.metrics else 0

    @property
    def final(self) -> float | None:
        """The last accuracy."""
        return self.curve[-1][1] if self.curve else None

    @property
    def seconds(self) -> dict[str, float]:
        """Of each phase over all rounds, in the order first met."""
        spent: dict[str, float] = {}
        for _, phase, seconds, _ in self.timings:
            spent[phase] = spent.get(phase, 0.0) + seconds
        return spent

    def plain(self) -> dict[str, Any]:
        """What `guidestar status` says of it, JSON-able. rounds: complete ones. seconds: by phase."""
        values = [value for _, value in self.curve]
        return {
            "run": self.name, "strategy": self.strategy, "seed": self.seed, "rounds": len(self.metrics),
            "planned_rounds": self.planned, "labels": self.labels, "given": self.given, "held_out": self.held_out,
            "curve": [list(point) for point in self.curve], "auc": auc(values) if values else None, "final": self.final,
            "seconds": self.seconds, "finished": self.finished and self.finished.value, "unanswered": self.unanswered,
            "due": self.due,
        }  # fmt: skip

    @property
    def curve(self) -> list[tuple[int, float]]:
        """(labels, accuracy) of every round measured on the present labels; empty without a test set."""
        return [(m.labels, m.values["accuracy"]) for m in self.present if "accuracy" in m.values]

    @property
    def present(self) -> tuple[Metrics, ...]:
        """What was measured on the present labels."""
        return tuple(m for m in self.metrics if m.round >= self.since)


def path_of(place: object, what: str) -> Path:
    """A path given as a string or a Path. what: that is expected. Raises GuidestarError for anything else."""
    if isinstance(place, str | os.PathLike) and str(place):
        return Path(place)
    raise GuidestarError(f"expected {what}, as text or a Path; found {shortened(repr(place), 60)}")


def read_runs(folder: Path) -> list[RunRecord]:
    """The runs of an experiment folder, or the one run of a run folder; the configuration's order, by seed.

    Raises GuidestarError if there is none, StoreError if one cannot be read.
    """
    if not folder.is_dir():
        what = "is a file; give the folder of a run or an experiment" if folder.exists() else "no such folder"
        raise GuidestarError(f"{folder}: {what}")
    places = runs_in(folder)
    runs = [run for place in places if (run := _read(place)) is not None]
    if not runs:
        raise GuidestarError(
            f"{folder}: found no run; expected a folder with {DATABASE}, or one with folders like star-seed0"
        )
    return sorted(runs, key=lambda run: (_place(run), run.strategy, run.seed))


def _read(folder: Path) -> RunRecord | None:
    """A run folder's content, None if it was made but not begun."""
    with Store.open(folder, read=True) as store:
        if not store.begun:
            return None
        metrics, examples, since = store.metrics(), store.examples(), store.relabels.since
        present = [m for m in metrics if m.round >= since]
        queries, ahead = tuple(store.query(r) for r in range(store.rounds())), store.query(store.rounds())
        answers = store.annotations.answers()
        names = {} if since else {"base": (0, "test_base")}
        due = len(queries) > len(metrics) and all(pick.id in answers for query in queries for pick in query.picks)
        if present:
            names |= {"first": (present[0].round, "test"), "last": (present[-1].round, "test")}
        return RunRecord(
            name=folder.resolve().name,
            facts=with_test_set(store),
            queries=queries,
            examples={pick.id: examples[pick.id] for query in queries for pick in query.picks},
            answers=answers,
            metrics=tuple(metrics),
            timings=tuple(store.timings()),
            finished=store.finished(),
            unanswered=sum(pick.id not in answers for query in (*queries, ahead) for pick in query.picks),
            test={key: store.arrays(*name) for key, name in names.items() if store.has_arrays(*name)},
            unseen={id: said for id, said in store.suggestions().items() if said.round >= 0},
            adapters={r: sha256 for kind, r, _, sha256 in store.recorded() if kind == "adapters"},
            budgets=tuple(store.budgets()),
            given=len(store.annotations.labelled()),
            apart=tuple(example for example, _ in store.annotations.held_out()),
            learnt=store.annotations.learnt(),
            due=len(metrics) if due else None,
            since=since,
            chosen=store.arrays(last, CHOSEN)
            if present and store.has_arrays(last := present[-1].round, CHOSEN)
            else {},
            scores={q.round: store.arrays(q.round, "scores") for q in queries if store.has_arrays(q.round, "scores")},
        )


def with_test_set(store: Store) -> Mapping[str, Any]:
    """A run's facts; where labels are set aside as the test set, its size and majority are those of these labels."""
    facts, held = store.facts, [label.answer for _, label in store.annotations.held_out()]
    if not held:
        return facts
    test: dict[str, Any] = {"test": len(held)}
    if (facts.get("task") or {}).get("labels"):
        label, times = max(Counter(held).items(), key=lambda pair: (pair[1], pair[0]))
        test["majority"] = {"label": label, "share": times / len(held)}
    return facts | {"data": (facts.get("data") or {}) | test}


def _place(run: RunRecord) -> int:
    """Position of the run's strategy in the configuration; unknown ones go last."""
    listed = (run.facts.get("config") or {}).get("strategies") or []
    titles = [item.get("name") or item.get("use") for item in listed if isinstance(item, Mapping)]
    return titles.index(run.strategy) if run.strategy in titles else len(titles)


def differing(runs: Sequence[RunRecord]) -> list[str]:
    """What runs that are set beside each other do not share though they should: keys of the configuration and facts of the
    base model, each with the values found. Strategies and their random share are left out, and the model's name, for which
    its fingerprint stands. Seeds of one strategy must also have begun with one budget, on which λ depends."""
    facts = []
    for run in runs:
        model = {f"the model's {name}": (run.facts.get("model") or {}).get(name) for name in ("fingerprint", "dtype")}
        facts.append(shared_keys(run.facts.get("config") or {}) | model)
    names = sorted({name for one in facts for name in one} - {"query.random_share", "model.name", "model.revision"})
    values_of = {name: list(dict.fromkeys(str(one.get(name)) for one in facts)) for name in names}
    for strategy in dict.fromkeys(run.strategy for run in runs):
        first = [str(run.budgets[0][0]) for run in runs if run.strategy == strategy and run.budgets]
        values_of[f"query.budget at the start of {strategy}"] = list(dict.fromkeys(first))
    return [f"{name}: {' and '.join(values)}" for name, values in values_of.items() if len(values) > 1]
