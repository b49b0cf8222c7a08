"""Rows of a table beside their answers, while it is decided which of them are used: repeats, shares, limits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guidestar.config import DataConfig
from guidestar.data.prompts import Template
from guidestar.data.table import Pool, Table, copies_of
from guidestar.errors import DataError
from guidestar.rng import places

SHOWN = 20  # problems listed at once


@dataclass(frozen=True, eq=False)
class Part:
    """Some rows of a table beside their answers, places in `names`; never leaves this file."""

    table: Table
    rows: NDArray[np.int64]
    codes: NDArray[np.int32]
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def ids(self) -> NDArray[np.uint64]:
        return self.table.ids[self.rows]

    def where(self, place: int) -> str:
        return self.table.line(int(self.rows[place]))[0]

    def take(self, places: NDArray[Any]) -> Part:
        """The rows at some places, or those that a mask names."""
        return replace(self, rows=self.rows[places], codes=self.codes[places])

    def pool(self, template: Template) -> Pool:
        return Pool(self.table, template, self.rows, copies_of(self.ids))


def raise_all(problems: Iterable[str]) -> None:
    if told := list(problems):
        more = [f"… and {len(told) - SHOWN} more rows like these"] if len(told) > SHOWN else []
        raise DataError("\n".join([*told[:SHOWN], *more]))


def without_repeats(pool: Part, data: DataConfig) -> tuple[Part, int, int]:
    """(pool by the duplicates policy, repeated rows, those of them with another answer)."""
    _, first, content = np.unique(pool.ids, return_index=True, return_inverse=True)
    kept = first[content]  # for each row the first with its content
    repeats = np.flatnonzero(kept != np.arange(len(kept)))
    if data.duplicates == "error":
        raise_all(
            f"{pool.where(i)}: the same content as {pool.where(int(kept[i]))}; "
            f"data.duplicates is 'error', allowed: drop, keep, error"
            for i in repeats.tolist()
        )
    codes, conflicts = pool.codes.copy(), 0
    for i in repeats.tolist():
        mine, other = pool.codes[i], codes[kept[i]]
        conflicts += int(-1 not in (mine, other) and mine != other)
        if other < 0:  # a label must not be lost because its row came second
            codes[kept[i]] = mine
    once = pool if data.duplicates == "keep" else replace(pool, codes=codes).take(np.sort(first))
    return once, len(repeats), conflicts


def without_shared(part: Part, other: Part, name: str, data: DataConfig) -> tuple[Part, int]:
    """(rows by the duplicates policy, how many of them also stand in the other set)."""
    shared = np.isin(part.ids, other.ids)
    if data.duplicates == "error":
        raise_all(
            f"{part.where(i)}: also in the {name} set, {other.where(int(np.argmax(other.ids == part.ids[i])))}; "
            f"data.duplicates is 'error', allowed: drop, keep, error"
            for i in np.flatnonzero(shared).tolist()
        )
    return part if data.duplicates == "keep" else part.take(~shared), int(shared.sum())


def split_off(pool: Part, data: DataConfig) -> tuple[Part, Part]:
    """(pool, test): a random share of the answered contents; all copies of a content go the same way."""
    answered = pool.take(pool.codes >= 0)
    answered = answered.take(np.sort(np.unique(answered.ids, return_index=True)[1]))
    size = round(len(answered) * data.test_share)
    if not 0 < size < len(answered):
        raise DataError(
            f"{data.pool}: a test share of {data.test_share} of {len(answered)} answered examples leaves "
            f"{len(answered) - size} for the pool and {size} for the test set; both need at least one"
        )
    chosen = np.isin(pool.ids, limited(answered, size, data.seed, "test_share").ids)
    return pool.take(~chosen), pool.take(chosen & (pool.codes >= 0))


def limited(part: Part, limit: int | None, seed: int, name: str) -> Part:
    """A random subset of the size of the limit, in the original order."""
    if limit is None or limit >= len(part):
        return part
    return part.take(places(len(part), limit, seed, 0, f"limit/{name}"))
