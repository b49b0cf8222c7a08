"""Finding texts of the pool: by words, or those most like one text, so that a group of them can be answered at once."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from guidestar import config as configs
from guidestar.config import CONFIG_FILE
from guidestar.data.pool import Dataset, load_dataset
from guidestar.records import Example
from guidestar.store.likeness import kept_points

PAGE = 50  # texts of one answer
_WORDS = re.compile(r'"([^"]+)"|(\S+)')
_WORD = re.compile(r"\w+")
_SAME = 0.8  # share of the words of two texts that both have, from which on they are nearly the same


@dataclass
class Finder:
    """The pool of the experiment in `folder`, read when first looked at. One thread at a time may use it.

    Raises DataError or ConfigError, from any method, for data that cannot be read any more.
    """

    folder: Path
    _points: dict[str, tuple[Mapping[str, int], Any]] = field(default_factory=dict)  # kind -> (id -> row, rows)

    @cached_property
    def _dataset(self) -> Dataset:
        return load_dataset(configs.load(self.folder / CONFIG_FILE))

    @cached_property
    def examples(self) -> dict[str, Example]:
        """Id -> example of the pool, in the file's order; no test or validation example is among them."""
        return {e.id: e for e in self._dataset.pool}

    @cached_property
    def _texts(self) -> dict[str, str]:
        return {id: " ".join(e.fields.values()).casefold() for id, e in self.examples.items()}

    def words(self, asked: str, barred: Collection[str], skip: int = 0) -> tuple[list[Example], bool]:
        """The texts with all of some words or "phrases in quotes", in the file's order. barred: ids not to show. skip:
        so many that were shown. Returns at most `PAGE`, and whether there are more."""
        wanted = [(phrase or word).casefold() for phrase, word in _WORDS.findall(asked)]
        found = []
        for id, text in self._texts.items() if wanted else ():
            if id not in barred and all(word in text for word in wanted):
                found.append(self.examples[id])
                if len(found) > skip + PAGE:
                    break
        return found[skip : skip + PAGE], len(found) > skip + PAGE

    def like(self, id: str, barred: Collection[str], skip: int = 0) -> tuple[list[Example], bool]:
        """The texts most like one of the pool, itself first: by the frozen model's features (cosine) where they are known,
        else by their words (cosine of tf-idf). Empty for a text that is not in the pool."""
        for place, rows in self._spaces():
            if (at := place.get(id)) is not None:
                near = _products(rows, at)
                near[at] = np.inf
                ids = list(place)
                order = (ids[i] for i in np.argsort(-near, kind="stable"))
                found = [self.examples[i] for i in order if i not in barred and i in self.examples]
                return found[skip : skip + PAGE], len(found) > skip + PAGE
        return [], False

    def nearly_same(self, id: str, others: Sequence[Example]) -> set[str]:
        """Those of some examples that have nearly all words in common with one."""
        mine = set(re.findall(r"[^\W\d_]+", self._texts.get(id, "")))
        same = set()
        for e in others:
            theirs = set(re.findall(r"[^\W\d_]+", self._texts[e.id]))
            if len(mine & theirs) >= _SAME * len(mine | theirs) and mine:
                same.add(e.id)
        return same

    def _spaces(self) -> Any:
        """(id -> row, rows of length 1): the features, and where a text has none, its words."""
        if "features" not in self._points and (kept := kept_points(self.folder, self._dataset.hash)) is not None:
            self._points["features"] = {id: i for i, id in enumerate(kept[0])}, kept[1]
        if "features" in self._points:
            yield self._points["features"]
        if "words" not in self._points:
            from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

            counts = HashingVectorizer(tokenizer=_WORD.findall, token_pattern=None, alternate_sign=False, norm=None)
            rows = TfidfTransformer(sublinear_tf=True).fit_transform(counts.transform(self._texts.values()))
            self._points["words"] = {id: i for i, id in enumerate(self._texts)}, rows
        yield self._points["words"]


def _products(rows: Any, at: int) -> np.ndarray:
    """The products of one row with all; rows: (n, d), sparse or float16."""
    if not isinstance(rows, np.ndarray):
        return np.asarray((rows @ rows[[at]].T).todense()).ravel()
    one = rows[at].astype(np.float32)
    return np.concatenate([rows[i : i + 8192].astype(np.float32) @ one for i in range(0, len(rows), 8192)])
