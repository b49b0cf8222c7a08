"""What did a strategy pick, beside the other strategies of the same seed? From the stores alone."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from guidestar.errors import StoreError
from guidestar.records import Label
from guidestar.store import Store
from guidestar.study.probes.figures import draw_overlap
from guidestar.study.probes.run import Answer, Figure, Rows, Subject, number, plain

MOST_CLASSES = 50  # above that the answers are no classes
_WORD = re.compile(r"\w+", re.UNICODE)
_COLUMNS = ("picks", "balance", "words", "distinct_1", "distinct_2", "type_token", "similarity")


def picks(subject: Subject) -> Answer:
    """Overlap of the picks of all strategies of this seed, the classes among them, and how varied their texts are.

    The runs beside this one with the same data and seed are compared; the warm start, which they share, is left out,
    and so are rounds that not all of them have asked. Chance: the overlap of two draws of these sizes from the pool.
    It computes nothing with a model.
    Raises StoreError for a run that has asked for nothing after the warm start.
    """
    name = subject.strategy
    with subject.others() as others:
        stores = {name: subject.store, **others}
        asked = {key: [ids for ids in subject.queries(store)[1:] if ids] for key, store in stores.items()}
        if not asked[name]:
            raise StoreError(f"{subject.folder}: nothing was asked after the warm start yet, so there are no picks")
        shared = min(len(rounds) for rounds in asked.values() if rounds)
        rounds = {key: some[:shared] for key, some in asked.items() if some}
        described = {key: _described(stores[key], some) for key, some in rounds.items()}
    ids = {key: [id for one in some for id in one] for key, some in rounds.items()}
    matrix = np.array([[jaccard(ids[a], ids[b]) for b in ids] for a in ids])
    pool = int((subject.facts.get("data") or {}).get("pool") or 0)
    left = pool - int(subject.facts["config"]["query"]["warm_start"]) if pool else 0
    facts = {
        "rounds": shared, "strategies": list(ids), "overlap": plain(matrix),
        "chance": {key: number(expected_jaccard(len(ids[name]), len(one), left)) for key, one in ids.items()},
        "picks": described,
    }  # fmt: skip
    known = {key: [one[column] for column in _COLUMNS] for key, one in described.items()}
    rows: Rows = [[key, *known[key], *shares] for key, shares in zip(ids, facts["overlap"], strict=True)]
    header = ["strategy", *_COLUMNS, *(f"overlap with {key}" for key in ids)]
    figure = Figure(header, rows, draw_overlap(list(ids), matrix), width=3.4, height=2.6 + 0.1 * len(ids))
    return Answer(facts, _sentences(facts, name), [figure])


def _described(store: Store, rounds: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Facts of one strategy's picks. balance: entropy of the classes over its largest value, 1 when all are as many.
    similarity: mean Jaccard of two texts of one batch."""
    batches = [[" ".join(store.example(id).fields.values()) for id in ids] for ids in rounds]
    texts = [text for batch in batches for text in batch]
    answers = {id: a.answer for id, a in store.annotations.answers().items() if isinstance(a, Label)}
    classes = Counter(answers[id] for ids in rounds for id in ids if id in answers)
    alike = [mean_similarity(batch) for batch in batches if len(batch) > 1]
    shares = np.array(list(classes.values()), dtype=np.float64) / max(classes.total(), 1)
    balance = float(-(shares * np.log(shares)).sum() / np.log(len(shares))) if len(shares) > 1 else math.nan
    return {
        "picks": len(texts),
        "classes": dict(sorted(classes.items())) if len(classes) <= MOST_CLASSES else None,
        "balance": number(balance),
        "words": number(float(np.mean([len(words(text)) for text in texts]))),
        "distinct_1": number(distinct(texts, 1)),
        "distinct_2": number(distinct(texts, 2)),
        "type_token": number(moving_type_token(texts)),
        "similarity": number(float(np.mean(alike)) if alike else math.nan),
    }


def _sentences(facts: Mapping[str, Any], name: str) -> list[str]:
    mine, names = facts["picks"][name], facts["strategies"]
    varied = "" if mine["type_token"] is None else f", {mine['type_token']:.0%} different words in a window of 50"
    said = [f"{name} picked {mine['picks']} examples in {facts['rounds']} rounds after the warm start{varied}."]
    for other, overlap in zip(names, facts["overlap"][names.index(name)], strict=True):
        if other == name:
            continue
        chance, theirs = facts["chance"][other], facts["picks"][other]["type_token"]
        by_chance = "" if chance is None else f"; two random draws of these sizes would share {chance:.0%}"
        beside = "" if theirs is None else f" ({other}: {theirs:.0%} different words)"
        said.append(f"{name} and {other} share {overlap:.0%} of all that either picked{by_chance}{beside}.")
    if len(names) == 1:
        said.append("No other strategy of this seed lies beside it, so there is no overlap to tell.")
    return said


# --- sets and texts -----------------------------------------------------------------------------------


def words(text: str) -> list[str]:
    """The words of a text, lower-cased.

    >>> words("Where's my parcel?")
    ['where', 's', 'my', 'parcel']
    """
    return _WORD.findall(text.lower())


def jaccard(one: Collection[str], other: Collection[str]) -> float:
    """Shared over all members of two sets; NaN for two empty ones. Source: Jaccard 1901.

    >>> jaccard("ab", "bc")
    0.3333333333333333
    """
    a, b = set(one), set(other)
    return len(a & b) / len(a | b) if a | b else float("nan")


def expected_jaccard(one: int, other: int, pool: int) -> float:
    """Jaccard of two sets of these sizes drawn independently from a pool, with the mean intersection one × other / pool.

    The measure to set the overlap of picks beside: large batches share picks by chance. NaN for an unknown pool, 0.
    >>> round(expected_jaccard(50, 50, 100), 3)
    0.333
    """
    shared = one * other / pool if pool else float("nan")
    everything = one + other - shared
    return shared / everything if everything else float("nan")


def distinct(texts: Sequence[str], n: int) -> float:
    """Share of the n-grams of words of all texts that differ; NaN where there is none. Longer samples share more.

    Source: Li, Galley, Brockett, Gao, Dolan 2016.
    >>> distinct(["a b a b"], 2)
    0.6666666666666666
    """
    grams = [tuple(w[i : i + n]) for w in map(words, texts) for i in range(len(w) - n + 1)]
    return len(set(grams)) / len(grams) if grams else float("nan")


def moving_type_token(texts: Sequence[str], window: int = 50) -> float:
    """Mean share of different words in every window of `window` words of the texts in their order (MATTR).

    It does not fall with the length of the sample, as the plain ratio does. Fewer words than a window count as one.
    Source: Covington and McFall 2010.
    >>> moving_type_token(["a b", "a c"], window=2)
    1.0
    """
    tokens = [word for text in texts for word in words(text)]
    if not tokens:
        return float("nan")
    window = min(window, len(tokens))
    starts = range(len(tokens) - window + 1)
    return sum(len(set(tokens[i : i + window])) for i in starts) / window / len(starts)


def mean_similarity(texts: Sequence[str], most: int = 300) -> float:
    """Mean Jaccard of the word sets of every two texts, of the first `most`; high means that a batch repeats itself.

    NaN for fewer than two texts.
    >>> mean_similarity(["a b", "b c", "d"]).__round__(3)
    0.111
    """
    sets = [set(words(text)) for text in texts[:most]]
    pairs = [jaccard(a, b) if a | b else 1.0 for a, b in itertools.combinations(sets, 2)]
    return float(np.mean(pairs)) if pairs else float("nan")
