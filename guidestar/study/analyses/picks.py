"""What strategies picked: how far their picks are the same, and how varied the texts are."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from guidestar.records import Array

_WORD = re.compile(r"\w+", re.UNICODE)


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


def overlap(picks: Mapping[str, Collection[str]]) -> tuple[list[str], Array]:
    """Names and `jaccard` of every two strategies' picks, (strategies, strategies).

    >>> overlap({"star": ["a", "b"], "random": ["b", "c"]})[1].round(2)
    array([[1.  , 0.33],
           [0.33, 1.  ]])
    """
    names = list(picks)
    return names, np.array([[jaccard(picks[a], picks[b]) for b in names] for a in names])


def expected_jaccard(one: int, other: int, pool: int) -> float:
    """Jaccard of two sets of these sizes drawn independently from a pool, with the mean intersection one × other / pool.

    The measure to set `overlap` beside: large batches share picks by chance.
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
    counts: dict[str, int] = {}
    total = 0.0
    for i, word in enumerate(tokens):
        counts[word] = counts.get(word, 0) + 1
        if i >= window:
            gone = tokens[i - window]
            counts[gone] -= 1
            if not counts[gone]:
                del counts[gone]
        if i >= window - 1:
            total += len(counts) / window
    return total / (len(tokens) - window + 1)


def mean_similarity(texts: Sequence[str], most: int = 300) -> float:
    """Mean Jaccard of the word sets of every two texts, of the first `most`; high means that a batch repeats itself.

    NaN for fewer than two texts.
    >>> mean_similarity(["a b", "b c", "d"]).__round__(3)
    0.111
    """
    sets = [set(words(text)) for text in texts[:most]]
    pairs = [jaccard(a, b) if a | b else 1.0 for a, b in itertools.combinations(sets, 2)]
    return float(np.mean(pairs)) if pairs else float("nan")
