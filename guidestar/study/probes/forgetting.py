"""What did a model forget again while it was trained, and where on that map do the picks lie?

From what each training recorded (`model/dynamics.py`); with `pool` from one training on the whole pool, which is the same
map for all strategies. Regions are those of `analyses.dynamics.DataMap`.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from guidestar.asking import Lesson
from guidestar.bench import Bench
from guidestar.errors import ConfigError, StoreError
from guidestar.metrics.dynamics import NAME, Dynamics, from_arrays
from guidestar.progress import Progress
from guidestar.records import Array
from guidestar.rng import phase_seed
from guidestar.store import Store
from guidestar.store.store import DATABASE
from guidestar.study.analyses.dynamics import NEVER, DataMap, data_map, forgetting
from guidestar.study.drawing import save_figure
from guidestar.study.probes.maps import draw_map
from guidestar.study.probes.run import Arrays, Probe, Subject, number, opened

REGIONS = ("easy", "ambiguous", "hard", "other")
MOST_EVENTS = 4  # more are counted together
WARM = "warm start"


def forgetting_probe(
    run: Path,
    bench: Bench | None = None,
    *,
    round: int | None = None,
    pool: bool = False,
    progress: Progress | None = None,
) -> Probe:
    """Forgetting events and the data map of a training, and where the picks of each round and strategy lie.

    round: whose training to look at, the last by default. pool: train once on the gold answers of the whole pool instead,
    for the same number of epochs, so that the picks of all strategies are compared on one map; simulations only.
    Raises StoreError if no training was recorded, ConfigError for `round` together with `pool`, a round that is not
    there, or a pool without gold answers.
    """
    if pool and round is not None:
        raise ConfigError("a map of the whole pool belongs to no round; give either round or pool")
    with opened(run, bench, progress) as subject:
        chosen = None if pool else _round(subject, round)
        said = _of_pool(subject) if chosen is None else from_arrays(subject.store.arrays(chosen, NAME))
        if not len(said.log_probs):
            raise StoreError(
                f"{subject.folder}: no epoch of the training came to every example, so nothing can be said"
            )
        frame = data_map(np.exp(said.log_probs), said.correct)
        events = forgetting(said.correct)
        groups = dict(_groups(subject, said, frame, events, chosen))
        facts = {
            **subject.about("forgetting"),
            "on": "pool" if chosen is None else "labels",
            "round": chosen,
            "epochs": len(said.log_probs),
            "examples": len(said.ids),
            "over": said.over,
            "continued": subject.facts["config"]["train"]["start"] == "previous",
            "events": _histogram(events),
            "groups": groups,
        }
        shown = [name for name in groups if groups[name]["regions"] is not None]
        shares = [[groups[name]["regions"][region] for region in REGIONS] for name in shown]
        written = save_figure(
            subject.place / "forgetting",
            draw_map(frame, facts["events"], shown, np.array(shares, dtype=float), REGIONS),
            *_rows(facts),
            height=3.0 + 0.12 * max(len(shown) - 6, 0),
        )
        return subject.finish("forgetting", facts, _sentences(facts), written)


def _round(subject: Subject, asked: int | None) -> int:
    """The round to look at: the one asked for, or the last with a recorded training."""
    there = [r for r in range(subject.store.rounds()) if subject.store.has_arrays(r, NAME)]
    if not there:
        raise StoreError(
            f"{subject.folder}: no training has kept what the model said to its examples; a run begun by this version does, "
            "and one whose adapter folder is deleted trains it again"
        )
    if asked is not None and asked not in there:
        raise ConfigError(f"round is {asked}; allowed: {', '.join(map(str, there))}")
    return there[-1] if asked is None else asked


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
    seed = phase_seed(int(subject.facts.get("seed", 0)), 0, "probe/forgetting")
    asked = subject.question | {
        "seed": seed, "peft": config.peft, "train": config.train.model_dump(mode="json"),
        "labels": [(e.id, answer) for e, answer in labelled], "what": "dynamics",
    }  # fmt: skip

    def compute() -> Arrays:
        plain = config.model_copy(update={"train": config.train.model_copy(update={"patience": 0})})
        trainer = subject.engine.trainer(plain, bench.dataset.hash)
        with tempfile.TemporaryDirectory(prefix="guidestar-") as place, subject.progress.phase("training") as tick:
            trained = trainer(Lesson(labelled=labelled, seed=seed), Path(place), tick)
        assert trained.dynamics is not None
        return trained.dynamics.arrays()

    return from_arrays(subject.cached("forgetting", asked, compute))


# --- groups -------------------------------------------------------------------------------------


def _groups(
    subject: Subject, said: Dynamics, frame: DataMap, events: np.ndarray, chosen: int | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is said of the warm start, of each round's picks, and of all later picks of each strategy of this seed.

    Another strategy's picks lie on its own map where the map is that of a run's labels: its numbers can be compared, its
    regions, which are thirds of each map, cannot.
    """
    mine = str(subject.facts.get("strategy"))
    rounds = _asked(subject.store)
    yield "all", _described(said, frame, events, said.ids)
    yield WARM, _described(said, frame, events, rounds[0])
    for r, ids in enumerate(rounds[1:], start=1):
        if ids and (chosen is None or r <= chosen):
            yield f"round {r}", _described(said, frame, events, ids)
    yield mine, _described(said, frame, events, [id for ids in _until(rounds, chosen) for id in ids])
    with _others(subject) as others:
        for name, store in others:
            ids = [id for one in _until(_asked(store), chosen) for id in one]
            if chosen is None:
                yield name, _described(said, frame, events, ids)
            elif store.has_arrays(chosen, NAME):
                own = from_arrays(store.arrays(chosen, NAME))
                if len(own.log_probs):
                    on_own = data_map(np.exp(own.log_probs), own.correct)
                    found = _described(own, on_own, forgetting(own.correct), ids)
                    yield name, {**found, "regions": None}


def _until(rounds: Sequence[Sequence[str]], chosen: int | None) -> Sequence[Sequence[str]]:
    """The picks after the warm start, up to a round."""
    return rounds[1:] if chosen is None else rounds[1 : chosen + 1]


def _asked(store: Store) -> list[list[str]]:
    return [[pick.id for pick in store.query(r).picks] for r in range(store.rounds())]


@contextmanager
def _others(subject: Subject) -> Iterator[list[tuple[str, Store]]]:
    """The runs of other strategies beside this one with the same data and seed, open."""
    found: list[tuple[str, Store]] = []
    try:
        for place in sorted(subject.folder.absolute().parent.glob(f"*/{DATABASE}")):
            if place.parent.samefile(subject.folder):
                continue
            store = Store.open(place.parent)
            found.append(("", store))
            if store.begun and all(store.facts.get(key) == subject.facts.get(key) for key in ("data_hash", "seed")):
                found[-1] = (str(store.facts.get("strategy")), store)
        yield [(name, store) for name, store in found if name]
    finally:
        for _, store in found:
            store.close()


def _described(said: Dynamics, frame: DataMap, events: np.ndarray, ids: Collection[str]) -> dict[str, Any]:
    """Facts of a group: those of its examples that are on the map."""
    wanted = set(ids)
    rows = np.array([i for i, id in enumerate(said.ids) if id in wanted], dtype=np.intp)
    regions, own = frame.regions()[rows], events[rows]
    learnt = own[own != NEVER]
    shares = {region: number(_mean(regions == region)) for region in REGIONS}
    return {
        "examples": len(rows),
        "regions": shares if len(rows) else None,
        "confidence": number(_mean(frame.confidence[rows])),
        "variability": number(_mean(frame.variability[rows])),
        "correctness": number(_mean(frame.correctness[rows])),
        "unforgettable": number(_mean(own == 0)),
        "forgotten": number(_mean((own > 0) & (own != NEVER))),
        "never": number(_mean(own == NEVER)),
        "events": number(_mean(learnt)),
    }


def _mean(values: Array | np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _histogram(events: np.ndarray) -> dict[str, int]:
    """Examples by the number of forgetting events; "never" are those that were never right."""
    found = {str(k): int((events == k).sum()) for k in range(MOST_EVENTS)}
    found[f"{MOST_EVENTS}+"] = int(((events >= MOST_EVENTS) & (events != NEVER)).sum())
    return found | {"never": int((events == NEVER).sum())}


# --- words --------------------------------------------------------------------------------------


def _rows(facts: Mapping[str, Any]) -> tuple[list[str], list[Sequence[object]]]:
    columns = ("examples", "confidence", "variability", "correctness", "unforgettable", "forgotten", "never", "events")
    rows: list[Sequence[object]] = [
        [name, *(group[c] for c in columns), *((group["regions"] or {}).get(region) for region in REGIONS)]
        for name, group in facts["groups"].items()
    ]
    return ["group", *columns, *REGIONS], rows


def _sentences(facts: Mapping[str, Any]) -> list[str]:
    groups, everything = facts["groups"], facts["groups"]["all"]
    where = "in a training on the whole pool" if facts["on"] == "pool" else f"in the training of round {facts['round']}"
    said = [
        f"Of {facts['examples']} examples met in {facts['epochs']} epochs {where}, {everything['unforgettable']:.0%} were "
        f"learnt and never lost, {everything['forgotten']:.0%} were forgotten at least once and {everything['never']:.0%} "
        "were never right."
    ]
    mine = str(facts["strategy"])
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
        if group["regions"] is not None:
            shares = group["regions"]
            line += f"; {shares['ambiguous']:.0%} ambiguous, {shares['hard']:.0%} hard, {shares['easy']:.0%} easy"
        said.append(line + ".")
    if facts["epochs"] < 4:
        said.append(
            f"In {facts['epochs']} epochs an example can be forgotten {facts['epochs'] // 2} times at most; longer trainings "
            "say more (train.epochs)."
        )
    if facts["continued"]:
        said.append("Training went on from the last round's adapter, so earlier examples had been met before.")
    if facts["over"] == "response":
        said.append("An answer counts as right where each token of the right response was the likeliest.")
    return said
