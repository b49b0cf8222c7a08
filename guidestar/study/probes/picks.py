"""What did a strategy pick, beside the other strategies of the same seed? From the stores alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from guidestar.bench import Bench
from guidestar.errors import StoreError
from guidestar.progress import Progress
from guidestar.records import Array, Label
from guidestar.store import Store
from guidestar.store.store import DATABASE
from guidestar.study.analyses import picks as numbers
from guidestar.study.drawing import save_figure
from guidestar.study.probes.figures import draw_overlap
from guidestar.study.probes.run import Probe, Subject, number, opened

MOST_CLASSES = 50  # above that the answers are no classes


@dataclass(frozen=True)
class _Picks:
    """What a run asked for after the warm start. rounds: ids of each round. texts, answers: by id."""

    rounds: tuple[tuple[str, ...], ...]
    texts: Mapping[str, str]
    answers: Mapping[str, str]

    @property
    def ids(self) -> list[str]:
        return [id for one in self.rounds for id in one]


def picks_probe(run: Path, bench: Bench | None = None, *, progress: Progress | None = None) -> Probe:
    """Overlap of the picks of all strategies of this seed, the classes among them, and how varied their texts are.

    The runs beside this one with the same data and seed are compared; the warm start, which they share, is left out,
    and so are rounds that not all of them have asked. Chance: the overlap of two draws of these sizes from the pool.
    It computes nothing with a model.
    Raises StoreError for a run that has asked for nothing after the warm start.
    """
    with opened(run, bench, progress) as subject:
        all_found = _beside(subject)
        name = str(subject.facts.get("strategy"))
        if not all_found[name].rounds:
            raise StoreError(f"{subject.folder}: nothing was asked after the warm start yet, so there are no picks")
        found = {key: one for key, one in all_found.items() if one.rounds}
        shared = min(len(one.rounds) for one in found.values())
        found = {key: _Picks(one.rounds[:shared], one.texts, one.answers) for key, one in found.items()}
        names, matrix = numbers.overlap({key: one.ids for key, one in found.items()})
        pool = int((subject.facts.get("data") or {}).get("pool") or 0)
        left = pool - int(subject.facts["config"]["query"]["warm_start"]) if pool else 0
        chance = {
            key: numbers.expected_jaccard(len(found[name].ids), len(one.ids), left) if left else float("nan")
            for key, one in found.items()
        }
        facts = {
            **subject.about("picks"),
            "rounds": shared,
            "strategies": names,
            "overlap": [[number(float(value)) for value in row] for row in matrix],
            "chance": {key: number(value) for key, value in chance.items()},
            "picks": {key: _described(one) for key, one in found.items()},
        }
        written = save_figure(
            subject.place / "picks",
            draw_overlap(names, matrix),
            *_rows(facts),
            width=3.4,
            height=2.6 + 0.1 * len(names),
        )
        return subject.finish("picks", facts, _sentences(facts, name), written)


def _beside(subject: Subject) -> dict[str, _Picks]:
    """This run and those beside it with the same data and seed, by strategy; this one first."""
    mine = subject.facts
    found = {str(mine.get("strategy")): _read(subject.store)}
    for place in sorted(subject.folder.absolute().parent.glob(f"*/{DATABASE}")):
        if place.parent.samefile(subject.folder):
            continue
        with Store.open(place.parent) as store:
            if not store.begun:
                continue
            facts = store.facts
            if all(facts.get(key) == mine.get(key) for key in ("data_hash", "seed")):
                found.setdefault(str(facts.get("strategy")), _read(store))
    return found


def _read(store: Store) -> _Picks:
    rounds = tuple(tuple(pick.id for pick in store.query(r).picks) for r in range(1, store.rounds()))
    ids = [id for one in rounds for id in one]
    texts = {id: " ".join(store.example(id).fields.values()) for id in ids}
    answers = {id: a.answer for id, a in store.annotations.answers().items() if isinstance(a, Label)}
    return _Picks(tuple(one for one in rounds if one), texts, answers)


def _described(one: _Picks) -> dict[str, Any]:
    """Facts of one strategy's picks. balance: entropy of the classes over its largest value, 1 when all are as many.
    similarity: mean Jaccard of two texts of one batch."""
    texts = [one.texts[id] for id in one.ids]
    classes = Counter(one.answers[id] for id in one.ids if id in one.answers)
    batches = [numbers.mean_similarity([one.texts[id] for id in ids]) for ids in one.rounds if len(ids) > 1]
    return {
        "picks": len(texts),
        "classes": dict(sorted(classes.items())) if len(classes) <= MOST_CLASSES else None,
        "balance": number(_balance(np.array(list(classes.values()), dtype=np.float64))),
        "words": number(float(np.mean([len(numbers.words(text)) for text in texts]))),
        "distinct_1": number(numbers.distinct(texts, 1)),
        "distinct_2": number(numbers.distinct(texts, 2)),
        "type_token": number(numbers.moving_type_token(texts)),
        "similarity": number(float(np.mean(batches)) if batches else math.nan),
    }


def _balance(counts: Array) -> float:
    if len(counts) < 2:
        return math.nan
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum() / np.log(len(shares)))


def _rows(facts: Mapping[str, Any]) -> tuple[list[str], list[Sequence[object]]]:
    columns = ("picks", "balance", "words", "distinct_1", "distinct_2", "type_token", "similarity")
    names = facts["strategies"]
    rows: list[Sequence[object]] = [
        [name, *(facts["picks"][name][column] for column in columns), *facts["overlap"][i]]
        for i, name in enumerate(names)
    ]
    return ["strategy", *columns, *(f"overlap with {name}" for name in names)], rows


def _sentences(facts: Mapping[str, Any], name: str) -> list[str]:
    mine, names = facts["picks"][name], facts["strategies"]
    varied = "" if mine["type_token"] is None else f", {mine['type_token']:.0%} different words in a window of 50"
    said = [f"{name} picked {mine['picks']} examples in {facts['rounds']} rounds after the warm start{varied}."]
    i = names.index(name)
    for j, other in enumerate(names):
        if other == name:
            continue
        chance = facts["chance"][other]
        by_chance = "" if chance is None else f"; two random draws of these sizes would share {chance:.0%}"
        theirs = facts["picks"][other]["type_token"]
        beside = "" if theirs is None else f" ({other}: {theirs:.0%} different words)"
        said.append(
            f"{name} and {other} share {facts['overlap'][i][j]:.0%} of all that either picked{by_chance}{beside}."
        )
    if len(names) == 1:
        said.append("No other strategy of this seed lies beside it, so there is no overlap to tell.")
    return said
