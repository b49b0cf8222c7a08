"""A source's rows as they were read, not held in memory: JSON lines on the disk, read when they are asked for, and arrays
of ids and answers, 20 bytes a row. A `Pool` is a sequence of examples over some of the rows; `Gold` has their answers."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import IO, Any, overload

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from guidestar.data.prompts import Template
from guidestar.records import Example, Names

Keep = Callable[[str, Mapping[str, Any], Callable[[Path], object]], Path]  # as `Cache.folder` of the room `store`
Read = tuple[str, str, Sequence[str], str | None]  # id, where, texts of the template's columns, answer cell
Rows = NDArray[np.int64]
IN_MEMORY = 16384  # examples of a pool that are held once they are read: small pools cost no more than a list
_LINES, _ARRAYS, _ABOUT = "rows.jsonl", "rows.safetensors", "about.json"
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(frozen=True, eq=False)
class Table:
    """The rows of a source that have a text, in its order.

    lines: bytes from a start to an end, of a JSON line a row, [where, text, …]. starts: (n + 1,). ids: (n,) the content hashes as numbers. codes: (n,) place
    of the answer in `cells`, -1 without one. cells: the different answers, by their first occurrence. about: JSON-able, of
    whoever read the rows.
    """

    lines: Callable[[int, int], bytes]
    starts: Rows
    ids: NDArray[np.uint64]
    codes: NDArray[np.int32]
    cells: Sequence[str]
    about: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.ids)

    def line(self, row: int) -> list[str]:
        """Where a row stands in the source, and its texts."""
        return json.loads(self.lines(int(self.starts[row]), int(self.starts[row + 1])))

    @classmethod
    def of(cls, read: Iterable[Read], about: Callable[[], Mapping[str, Any]]) -> Table:
        """The table of some rows, in memory. about: called when all are read."""
        with BytesIO() as file:
            arrays, cells = _written(read, file)
            whole = file.getvalue()
            return cls(lambda start, end: whole[start:end], **arrays, cells=cells, about=about())

    @classmethod
    def kept(cls, folder: Path) -> Table:
        """The table that `keep` wrote into a folder."""
        plain = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        return cls(_Lines(folder / _LINES), **load_file(folder / _ARRAYS), cells=plain["cells"], about=plain["about"])


class _Lines:
    """Pieces of a file, which is open as long as this is there."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)

    def __call__(self, start: int, end: int) -> bytes:
        return os.pread(self._descriptor, end - start, start)

    def __del__(self) -> None:
        os.close(self._descriptor)


def keep(folder: Path, read: Iterable[Read], about: Callable[[], Mapping[str, Any]]) -> None:
    """Write the table of some rows into an empty folder, a row at a time."""
    with (folder / _LINES).open("wb") as file:
        arrays, cells = _written(read, file)
    save_file(arrays, folder / _ARRAYS)
    (folder / _ABOUT).write_text(_encode({"cells": cells, "about": about()}), encoding="utf-8")


def _written(read: Iterable[Read], file: IO[bytes]) -> tuple[dict[str, NDArray[Any]], list[str]]:
    starts, ids, codes, cells = array("q", [0]), array("Q"), array("i"), dict[str, int]()
    for id, where, texts, answer in read:
        starts.append(starts[-1] + file.write(f"{_encode([where, *texts])}\n".encode()))
        ids.append(int(id, 16))
        codes.append(-1 if answer is None else cells.setdefault(answer, len(cells)))
    kinds = {"starts": (starts, np.int64), "ids": (ids, np.uint64), "codes": (codes, np.int32)}
    return {name: np.frombuffer(made, kind) for name, (made, kind) in kinds.items()}, list(cells)


@dataclass(frozen=True, eq=False)
class Pool(Sequence[Example]):
    """Examples that are made when they are asked for, and then held if they are few. A slice is a tuple of examples.

    rows: their places in the table. copies: for each, whether it is the first, second, … of its content. prompts: row of the
    table -> a prompt in the place of the template's.
    """

    table: Table
    template: Template
    rows: Rows
    copies: NDArray[np.int32]
    prompts: Mapping[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"<Pool of {len(self)} examples>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(Example.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]

    @overload
    def __getitem__(self, at: int) -> Example: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[Example, ...]: ...
    def __getitem__(self, at: int | slice) -> Example | tuple[Example, ...]:
        if len(self) <= IN_MEMORY:
            return self._held[at]
        if isinstance(at, slice):
            return tuple(map(self._made, range(len(self))[at]))
        return self._made(range(len(self))[at])

    def __iter__(self) -> Iterator[Example]:
        return iter(self._held) if len(self) <= IN_MEMORY else map(self._made, range(len(self)))

    @cached_property
    def _held(self) -> tuple[Example, ...]:
        return tuple(map(self._made, range(len(self))))

    def _made(self, place: int) -> Example:
        row = int(self.rows[place])
        where, *texts = self.table.line(row)
        fields = dict(zip(self.template.columns, texts, strict=True))
        prompt = self.prompts.get(row) or self.template.fill(fields)
        return Example(_id(int(self.table.ids[row]), int(self.copies[place])), fields, prompt, where)

    @property
    def ids(self) -> list[str]:
        """The ids of the examples, which are not read for it."""
        return list(map(_id, self.table.ids[self.rows].tolist(), self.copies.tolist()))

    @property
    def names(self) -> Names:
        """The ids as an array of bytes: of a million 16 MB, where the texts take 73."""
        plain = np.frombuffer(self.table.ids[self.rows].astype(">u8").tobytes().hex().encode(), "S16")
        if (again := self.copies > 1).any():
            return np.char.add(plain, np.where(again, np.char.add(b"-", self.copies.astype(np.bytes_)), b""))
        return plain

    def find(self, ids: Iterable[str]) -> NDArray[np.intp]:
        """The places of the examples with some ids, in their order; -1 where there is none."""
        asked = [_content(id) for id in ids]
        keys, copies = np.array([k for k, _ in asked], np.uint64), np.array([c for _, c in asked], np.int64)
        order, values = self._index
        first, last = np.searchsorted(values, keys), np.searchsorted(values, keys, "right")
        places = np.full(len(asked), -1, dtype=np.intp)
        there = np.flatnonzero((first < last) & (copies > 0))
        places[there] = order[first[there]]
        for i in there[self.copies[places[there]] != copies[there]]:  # of several copies another than the first
            same = order[first[i] : last[i]]
            places[i] = next(iter(same[self.copies[same] == copies[i]]), -1)
        return places

    @cached_property
    def _index(self) -> tuple[NDArray[np.intp], NDArray[np.uint64]]:
        mine = self.table.ids[self.rows]
        order = np.argsort(mine, kind="stable")
        return order, mine[order]

    def holding(self, words: Collection[str]) -> Iterator[Example]:
        """The examples whose columns may hold all of some casefolded words: none that do are left out, and few that do not
        are among them. Read block by block, and made only where they may be wanted."""
        sought = [_encode(part)[1:-1].casefold() for word in words for part in word.split()]
        for first in range(0, len(self.table), IN_MEMORY):
            last = min(first + IN_MEMORY, len(self.table))
            places = np.flatnonzero((self.rows >= first) & (self.rows < last)).tolist()
            block = self.table.lines(int(self.table.starts[first]), int(self.table.starts[last])) if places else b""
            lines = block.decode().casefold().split("\n")
            yield from (self[i] for i in places if all(part in lines[self.rows[i] - first] for part in sought))

    def places(self, ids: Iterable[str]) -> NDArray[np.intp]:
        """The places of the examples with some ids, in their order. Raises KeyError for an id that is not here."""
        ids = list(ids)
        at = self.find(ids)
        if (at < 0).any():
            raise KeyError(ids[int(np.argmin(at))])
        return at

    def named(self, ids: Collection[str]) -> dict[str, Example]:
        """Id -> example. Raises KeyError for an id that is not here."""
        return dict(zip(ids, self.take(self.places(ids)), strict=True))

    def take(self, places: NDArray[np.intp] | Sequence[int]) -> Pool:
        """The examples at some places, in that order, still not read."""
        at = np.asarray(places, dtype=np.intp)
        return replace(self, rows=self.rows[at], copies=self.copies[at])

    def only(self, ids: Iterable[str]) -> Pool:
        """Those with some ids, in the order of the pool."""
        at = self.find(ids)
        return self.take(np.unique(at[at >= 0]))

    def without(self, ids: Iterable[str]) -> Pool:
        """All but those with some ids."""
        at = self.find(ids) if (ids := list(ids)) else np.empty(0, dtype=np.intp)
        left = np.delete(np.arange(len(self)), at[at >= 0])
        return self if len(left) == len(self) else self.take(left)

    def with_prompts(self, prompts: Mapping[int, str]) -> Pool:
        """The same examples with other prompts at some places."""
        return replace(self, prompts={int(self.rows[i]): prompt for i, prompt in prompts.items()})


@dataclass(frozen=True, eq=False)
class Gold(Mapping[str, str]):
    """The answers of a pool: id -> canonical answer, for those that have one.

    codes: place in `names` of the answer of every row of the table, -1 without one.
    """

    pool: Pool
    codes: NDArray[np.int32]
    names: Sequence[str]

    def __getitem__(self, id: str) -> str:
        (place,) = self.pool.find([id])
        code = -1 if place < 0 else self.codes[self.pool.rows[place]]
        if code < 0:
            raise KeyError(id)
        return self.names[code]

    def __iter__(self) -> Iterator[str]:
        return iter(self.pool.take(np.flatnonzero(self.codes[self.pool.rows] >= 0)).ids)

    def __len__(self) -> int:
        return int((self.codes[self.pool.rows] >= 0).sum())

    def of(self, pool: Pool) -> list[str]:
        """The answers of a part of the pool, of those that have one, in its order."""
        return [self.names[code] for code in self.codes[pool.rows].tolist() if code >= 0]


def ids_of(examples: Sequence[Example]) -> list[str]:
    """The ids of examples; those of a pool are not read for it."""
    return examples.ids if isinstance(examples, Pool) else [e.id for e in examples]


def copies_of(ids: NDArray[np.uint64]) -> NDArray[np.int32]:
    """For each id how many times it has occurred, itself included.

    >>> copies_of(np.array([7, 5, 7, 7], dtype=np.uint64))
    array([1, 1, 2, 3], dtype=int32)
    """
    order = np.argsort(ids, kind="stable")
    _, starts, counts = np.unique(ids[order], return_index=True, return_counts=True)
    copies = np.empty(len(ids), dtype=np.int32)
    copies[order] = np.arange(len(ids)) - np.repeat(starts, counts) + 1
    return copies


def _content(id: str) -> tuple[int, int]:
    """What `_id` was made of; (0, 0) for an id of another kind."""
    content, _, copy = id.partition("-")
    try:
        made = int(content, 16), int(copy or 1)
    except ValueError:
        return 0, 0
    return made if len(content) == 16 and id == _id(*made) else (0, 0)


def _id(content: int, copy: int) -> str:
    return f"{content:016x}" if copy == 1 else f"{content:016x}-{copy}"
