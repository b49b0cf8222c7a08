"""Which example a row of a file speaks of: by its id, else by what stands in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from guidestar.errors import DataError
from guidestar.exchange.rows import Row, shown
from guidestar.records import Example
from guidestar.words import shortened

Key = tuple[tuple[str, str], ...]
K = TypeVar("K")


OURS = re.compile(r"[0-9a-f]{16}(-\d+)?")


class Index:
    """The examples of a run, and behind them its pool, which is read only when a row needs it."""

    def __init__(
        self,
        examples: Iterable[Example],
        pool: Callable[[], Sequence[Example]],
        kept_apart: Callable[[], Sequence[Example]] = lambda: (),
    ) -> None:
        """kept_apart: examples of the test and validation sets, which are not to be labelled."""
        self.known = {example.id: example for example in examples}
        self._asked, self._pool, self._apart = _Tables(self.known.values), _Tables(pool), _Tables(kept_apart)

    def find(self, row: Row) -> Example | None:
        """The example of a row, None if there is none.

        Raises DataError if its id and its text are those of different examples, or if its text, but for white
        space, is that of several.
        """
        if OURS.fullmatch(row.id) and row.id not in self.known and row.id in self._pool.by_id:
            return self._pool.find(row)  # a copy of what was asked has an id of its own
        return self._asked.find(row) or self._pool.find(row)

    def is_kept_apart(self, row: Row) -> bool:
        """Whether a row without an example is one of the test or validation set."""
        return self._apart.find(row) is not None

    @property
    def field_names(self) -> tuple[str, ...]:
        """Names of the examples' fields."""
        first = next(iter(self.known.values()), None) or next(iter(self._pool.examples), None)
        return () if first is None else tuple(first.fields)

    def missing(self, row: Row) -> str:
        """What to say of a row that has no example."""
        names = self.field_names
        if not row.text and not row.fields:
            return f"{row.where}: no example has the id {row.id!r}, and there is no text: expected {', '.join(names)}"
        text = shortened(row.text or " · ".join(row.fields.values()), 60)
        return f"{row.where}: not an example of this run or its pool: {text!r}"


@dataclass(frozen=True)
class _Tables:
    """Some examples by what they are known by, read when they are first asked for."""

    read: Callable[[], Iterable[Example]]

    @cached_property
    def examples(self) -> tuple[Example, ...]:
        return tuple(self.read())

    @cached_property
    def by_id(self) -> dict[str, Example]:
        return {example.id: example for example in self.examples}

    @cached_property
    def _by_fields(self) -> dict[Key, list[Example]]:
        return _grouped((_key(example.fields), example) for example in self.examples)

    @cached_property
    def _by_text(self) -> dict[str, list[Example]]:
        return _grouped((_squeezed(_text(example)), example) for example in self.examples)

    def find(self, row: Row) -> Example | None:
        if (example := self.by_id.get(row.id)) is not None:
            self._check(row, example)
            return example
        if row.fields and (alike := self._by_fields.get(_key(row.fields))):
            return _one(row, [e for e in alike if dict(e.fields) == dict(row.fields)] or alike)
        if row.text and (alike := self._by_text.get(_squeezed(row.text))):
            return _one(row, [e for e in alike if _text(e) == row.text] or alike)
        return None

    def _check(self, row: Row, example: Example) -> None:
        pairs = [(name, row.fields[name], example.fields[name]) for name in row.fields.keys() & example.fields.keys()]
        if row.text and not row.fields:
            pairs = [("text", row.text, _text(example))]
        for name, text, known in pairs:
            if _squeezed(text) != _squeezed(known):
                raise DataError(
                    f"{row.where}: {name!r} is not that of example {row.id}; put the text back, or remove the id"
                )


def _one(row: Row, alike: list[Example]) -> Example:
    """The first of copies with the same content. Raises DataError if they only look the same."""
    if len({tuple(sorted(example.fields.items())) for example in alike}) > 1:
        raise DataError(f"{row.where}: its text is that of several examples: {', '.join(e.id for e in alike)}")
    return alike[0]


def _text(example: Example) -> str:
    return shown(Row(fields=example.fields, prompt=example.prompt))


def _key(fields: Mapping[str, str]) -> Key:
    return tuple(sorted((name, _squeezed(text)) for name, text in fields.items()))


def _squeezed(text: str) -> str:
    """White space levelled, which other programs change: line ends, ends of lines, spaces at the ends."""
    return " ".join(text.split())


def _grouped(pairs: Iterable[tuple[K, Example]]) -> dict[K, list[Example]]:
    groups: dict[K, list[Example]] = {}
    for key, example in pairs:
        groups.setdefault(key, []).append(example)
    return groups
