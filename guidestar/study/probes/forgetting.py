"""What did a model forget again while it was trained, and where on that map do the picks lie?

From what each training recorded (`model/dynamics.py`); with `pool` from one training on the whole pool, which is the same
map for all strategies.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guidestar.asking import Lesson
from guidestar.errors import ConfigError, StoreError
from guidestar.metrics.dynamics import NAME, Dynamics, from_arrays
from guidestar.records import Array
from guidestar.rng import generator, phase_seed
from guidestar.study.probes.figures import draw_map
from guidestar.study.probes.run import Answer, Arrays, Figure, Rows, Subject, chosen_round, number

NEVER = 1000  # forgetting events of an example that was never right
REGIONS = ("easy", "ambiguous", "hard", "other")
MOST_EVENTS = 4  # more are counted together
WARM = "warm start"
_COLUMNS = ("examples", "confidence", "variability", "correctness", "unforgettable", "forgotten", "never", "events")


def forgetting(subject: Subject, *, round: int | None = None, pool: bool = False) -> Answer:
    """Forgetting events and the data map of a training, and where the picks of each round and strategy lie.

    round: whose training to look at, the last by default. pool: train once on the gold answers of the whole pool instead,
    for the same number of epochs, so that the picks of all strategies are compared on one map; simulations only.
    Raises StoreError if no training was recorded, ConfigError for `round` together with `pool`, a round that is not
    there, or a pool without gold answers.
    """
    if pool and round is not None:
        raise ConfigError("a map of the whole pool belongs to no round; give either round or pool")
    chosen = None if pool else _round(subject, round)
    said = _of_pool(subject) if chosen is None else from_arrays(subject.store.arrays(chosen, NAME))
    if not len(said.log_probs):
        raise StoreError(f"{subject.folder}: no epoch of the training came to every example, so nothing can be said")
    whole = DataMap.of(said)
    groups = dict(_groups(subject, whole, chosen))
    events = whole.events
    counts = {str(k): int((events == k).sum()) for k in range(MOST_EVENTS)}
    counts[f"{MOST_EVENTS}+"] = int(((events >= MOST_EVENTS) & (events != NEVER)).sum())
    facts = {
        "on": "pool" if chosen is None else "labels", "round": chosen, "epochs": len(said.log_probs),
        "examples": len(said.ids), "over": said.over,
        "continued": subject.facts["config"]["train"]["start"] == "previous",
        "events": counts | {"never": int((events == NEVER).sum())}, "groups": groups,
    }  # fmt: skip
    shown = [name for name, group in groups.items() if group["regions"] is not None]
    shares = np.array([[groups[name]["regions"][region] for region in REGIONS] for name in shown], dtype=float)
    rows: Rows = [
        [name, *(group[c] for c in _COLUMNS), *((group["regions"] or {}).get(region) for region in REGIONS)]
        for name, group in groups.items()
    ]
    figure = Figure(
        ["group", *_COLUMNS, *REGIONS], rows, draw_map(whole, facts["events"], shown, shares, REGIONS),
        height=3.0 + 0.12 * max(len(shown) - 6, 0),
    )  # fmt: skip
    return Answer(facts, _sentences(facts, subject.strategy), [figure])


def _round(subject: Subject, asked: int | None) -> int:
    """The round to look at: the one asked for, or the last with a recorded training."""
    there = [r for r in range(subject.store.rounds()) if subject.store.has_arrays(r, NAME)]
    if not there:
        raise StoreError(
            f"{subject.folder}: no training has kept what the model said to its examples; a run begun by this version does, "
            "and one whose adapter folder is deleted trains it again"
        )
    return chosen_round(asked, there)


def _of_pool(subject: Subject) -> Dynamics:
    """What a training on the whole pool recorded."""
    bench = subject.bench
    data, config = bench.fitting, bench.config
    labelled = [(e, data.gold[e.id]) for e in data.pool if e.id in data.gold]
    if len(labelled) < len(data.pool):
        raise ConfigError(
            f"a map of the pool needs the gold answer of every example, and {len(data.pool) - len(labelled)} of "
            f"{len(data.pool)} have none; leave --pool out to look at the labelled examples"
        )
    seed = phase_seed(subject.seed, 0, "probe/forgetting")
    asked = subject.asked_to_train(labelled, seed) | {"what": "dynamics"}

    def compute() -> Arrays:
        plain = config.model_copy(update={"train": config.train.model_copy(update={"patience": 0})})
        trainer = subject.engine.trainer(plain, bench.dataset.hash)
        start = bench.head_start(labelled, generator(seed, 0, "head start"))
        with tempfile.TemporaryDirectory(prefix="guidestar-") as place, subject.progress.phase("training") as tick:
            trained = trainer(Lesson(labelled=labelled, seed=seed, start=start), Path(place), tick)
        assert trained.dynamics is not None
        return trained.dynamics.arrays()

    return from_arrays(subject.cached("forgetting", asked, compute))


# --- groups -------------------------------------------------------------------------------------


def _mean(values: NDArray[Any]) -> float | None:
    return number(float(np.mean(values)) if len(values) else math.nan)


def _groups(subject: Subject, whole: DataMap, chosen: int | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is said of the warm start, of each round's picks, and of all later picks of each strategy of this seed.

    Another strategy's picks lie on its own map where the map is that of a run's labels: its numbers can be compared, its
    regions, which are thirds of each map, cannot.
    """
    end = None if chosen is None else chosen + 1  # the picks of later rounds were not there yet
    warm, *rounds = subject.queries()[:end]
    yield "all", whole.of_group(whole.ids)
    yield WARM, whole.of_group(warm)
    yield from ((f"round {r}", whole.of_group(ids)) for r, ids in enumerate(rounds, start=1) if ids)
    yield subject.strategy, whole.of_group([id for ids in rounds for id in ids])
    with subject.others() as others:
        for name, store in others.items():
            picked = [id for ids in subject.queries(store)[1:end] for id in ids]
            if chosen is None:
                yield name, whole.of_group(picked)
            elif store.has_arrays(chosen, NAME):
                own = from_arrays(store.arrays(chosen, NAME))
                if len(own.log_probs):
                    yield name, {**DataMap.of(own).of_group(picked), "regions": None}


def _sentences(facts: Mapping[str, Any], mine: str) -> list[str]:
    groups, everything = facts["groups"], facts["groups"]["all"]
    where = "in a training on the whole pool" if facts["on"] == "pool" else f"in the training of round {facts['round']}"
    said = [
        f"Of {facts['examples']} examples met in {facts['epochs']} epochs {where}, {everything['unforgettable']:.0%} were "
        f"learnt and never lost, {everything['forgotten']:.0%} were forgotten at least once and {everything['never']:.0%} "
        "were never right."
    ]
    compared = [mine, *(WARM,) * (mine != WARM)]
    compared += [name for name in groups if name not in compared and name != "all" and not name.startswith("round ")]
    for name in compared:
        group = groups.get(name)
        if group is None or not group["examples"]:
            continue
        title = "The warm start" if name == WARM else f"The {group['examples']} picks of {name}"
        line = (
            f"{title}: mean probability of the right answer {group['confidence']:.2f}, variability "
            f"{group['variability']:.2f}, {group['forgotten']:.0%} forgotten at least once, {group['never']:.0%} never right"
        )
        if (shares := group["regions"]) is not None:
            line += f"; {shares['ambiguous']:.0%} ambiguous, {shares['hard']:.0%} hard, {shares['easy']:.0%} easy"
        said.append(line + ".")
    if facts["epochs"] < 4:
        most = f"In {facts['epochs']} epochs an example can be forgotten {facts['epochs'] // 2} times at most"
        said.append(f"{most}; longer trainings say more (train.epochs).")
    if facts["continued"]:
        said.append("Training went on from the last round's adapter, so earlier examples had been met before.")
    if facts["over"] == "response":
        said.append("An answer counts as right where each token of the right response was the likeliest.")
    return said


# --- forgetting events and the data map ---------------------------------------------------------------


def forgetting_events(correct: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Transitions from right to wrong of each example; `NEVER` for one that was never right.

    correct: (epochs, n). Returns (n,). 0 is an unforgettable example: learnt, and never lost.
    Source: Toneva et al. 2019; the sentinel is that of Jukić and Šnajder's code.
    >>> forgetting_events(np.array([[0, 1, 0, 1, 0], [0, 0, 0, 0, 0], [0, 1, 1, 1, 1]], dtype=bool).T)
    array([   2, 1000,    0])
    """
    events = (correct[:-1] & ~correct[1:]).sum(axis=0)
    return np.where(correct.any(axis=0), events, NEVER).astype(np.intp)


@dataclass(frozen=True)
class DataMap:
    """Where the examples of a training lie on its data map; every array is (n,).

    confidence: mean probability of the true label. variability: its standard deviation over the epochs. correctness:
    share of epochs with a right prediction. events: see `forgetting_events`.
    Source: Swayamdipta et al. 2020.
    """

    ids: tuple[str, ...]
    confidence: Array
    variability: Array
    correctness: Array
    events: NDArray[np.intp]

    @classmethod
    def of(cls, said: Dynamics) -> DataMap:
        """Of what a training recorded."""
        p, correct = np.exp(said.log_probs), said.correct
        return cls(said.ids, p.mean(axis=0), p.std(axis=0), correct.mean(axis=0), forgetting_events(correct))

    def regions(self) -> NDArray[np.str_]:
        """ "easy", "hard" or "ambiguous" for each example: the most confident third of them, the least, and the third
        of highest variability, which comes first; "other" for the rest."""
        n = len(self.confidence)
        names = np.full(n, "other", dtype="<U9")
        third, by_confidence = n // 3, np.argsort(self.confidence, kind="stable")
        names[by_confidence[:third]] = "hard"
        names[by_confidence[n - third :]] = "easy"
        names[np.argsort(-self.variability, kind="stable")[:third]] = "ambiguous"
        return names

    def of_group(self, ids: Collection[str]) -> dict[str, Any]:
        """Facts of a group: those of its examples that are on the map."""
        wanted = set(ids)
        rows = np.array([i for i, id in enumerate(self.ids) if id in wanted], dtype=np.intp)
        regions, events = self.regions()[rows], self.events[rows]
        return {
            "examples": len(rows),
            "regions": {region: _mean(regions == region) for region in REGIONS} if len(rows) else None,
            "confidence": _mean(self.confidence[rows]),
            "variability": _mean(self.variability[rows]),
            "correctness": _mean(self.correctness[rows]),
            "unforgettable": _mean(events == 0),
            "forgotten": _mean((events > 0) & (events != NEVER)),
            "never": _mean(events == NEVER),
            "events": _mean(events[events != NEVER]),
        }
