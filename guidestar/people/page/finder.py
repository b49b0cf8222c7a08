"""Finding texts of the pool: by words, or those most like one text, so that a group of them can be answered at once."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guidestar import config as configs
from guidestar.config import CONFIG_FILE
from guidestar.data.pool import Dataset, load_dataset
from guidestar.data.table import Pool
from guidestar.records import Example
from guidestar.store.cache import Cache
from guidestar.store.likeness import kept_points

PAGE = 50  # texts of one answer
_WORDS = re.compile(r'"([^"]+)"|(\S+)')
_WORD = re.compile(r"\w+")
_LETTERS = re.compile(r"[^\W\d_]+")
_SAME = 0.8  # share of the words of two texts that both have, from which on they are nearly the same


@dataclass
class Finder:
    """The pool of the experiment in `folder`, read when first looked at, its texts not held in memory. One thread at a time
    may use it.

    Raises DataError or ConfigError, from any method, for data that cannot be read any more.
    """

    folder: Path
    _points: dict[str, tuple[NDArray[np.intp], Any]] = field(default_factory=dict)  # kind -> (places in the pool, rows)

    @cached_property
    def _dataset(self) -> Dataset:
        cache = self.folder / "cache"  # of the run, which may have read the file already
        return load_dataset(configs.load(self.folder / CONFIG_FILE), Cache(cache).folder if cache.is_dir() else None)

    @property
    def pool(self) -> Pool:
        """The pool, in the file's order; no test or validation example is in it."""
        return self._dataset.pool

    def words(self, asked: str, barred: Collection[str], skip: int = 0) -> tuple[list[Example], bool]:
        """The texts with all of some words or "phrases in quotes", in the file's order. barred: ids not to show. skip:
        so many that were shown. Returns at most `PAGE`, and whether there are more."""
        wanted = [(phrase or word).casefold() for phrase, word in _WORDS.findall(asked)]
        found = []
        for example in self.pool.holding(wanted) if wanted else ():
            if example.id not in barred and all(word in _text(example) for word in wanted):
                found.append(example)
                if len(found) > skip + PAGE:
                    break
        return found[skip : skip + PAGE], len(found) > skip + PAGE

    def like(self, id: str, barred: Collection[str], skip: int = 0) -> tuple[list[Example], bool]:
        """The texts most like one of the pool, itself first: by the frozen model's features (cosine) where they are known,
        else by their words (cosine of tf-idf). Empty for a text that is not in the pool."""
        (wanted,) = self.pool.find([id])
        for places, rows in self._spaces() if wanted >= 0 else ():
            for at in np.flatnonzero(places == wanted).tolist():
                near = _products(rows, at)
                near[at] = np.inf
                best = (self.pool[int(i)] for i in places[np.argsort(-near, kind="stable")] if i >= 0)
                found = list(islice((e for e in best if e.id not in barred), skip, skip + PAGE + 1))
                return found[:PAGE], len(found) > PAGE
        return [], False

    def nearly_same(self, id: str, others: Sequence[Example]) -> set[str]:
        """Those of some examples that have nearly all words in common with one."""
        mine = {word for e in self.pool.only([id]) for word in _LETTERS.findall(_text(e))}
        same = set()
        for e in others:
            theirs = set(_LETTERS.findall(_text(e)))
            if len(mine & theirs) >= _SAME * len(mine | theirs) and mine:
                same.add(e.id)
        return same

    def _spaces(self) -> Iterator[tuple[NDArray[np.intp], Any]]:
        """(places in the pool, a row of length 1 for each): the features, and where a text has none, its words."""
        if "features" not in self._points and (kept := kept_points(self.folder, self._dataset.hash)) is not None:
            self._points["features"] = self.pool.find(kept[0]), kept[1]
        if "features" in self._points:
            yield self._points["features"]
        if "words" not in self._points:
            from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

            counts = HashingVectorizer(
                tokenizer=_WORD.findall, token_pattern=None, alternate_sign=False, norm=None, dtype=np.float32
            ).transform(map(_text, self.pool))
            rows = TfidfTransformer(sublinear_tf=True).fit(counts).transform(counts, copy=False)
            self._points["words"] = np.arange(len(self.pool)), rows
        yield self._points["words"]


def _text(example: Example) -> str:
    return " ".join(example.fields.values()).casefold()


def _products(rows: Any, at: int) -> np.ndarray:
    """The products of one row with all; rows: (n, d), sparse or float16."""
    if not isinstance(rows, np.ndarray):
        return np.asarray((rows @ rows[[at]].T).todense()).ravel()
    one = rows[at].astype(np.float32)
    return np.concatenate([rows[i : i + 8192].astype(np.float32) @ one for i in range(0, len(rows), 8192)])
