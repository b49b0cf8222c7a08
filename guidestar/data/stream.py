"""A file's examples part by part, for files that memory cannot hold.

A file is walked over twice: once to see whether every row can be used and which contents occur more than once, which
takes 8 bytes a row, and once more as the parts are asked for.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from guidestar.config import RunConfig
from guidestar.data.formats import Row
from guidestar.data.pool import walk_examples
from guidestar.records import Example


@dataclass(frozen=True)
class Survey:
    """What the first walk over a file found. rows: examples; answered: those with an answer cell; repeated: ids of contents
    that occur more than once; columns: of all rows, in the order of their first occurrence."""

    source: Any
    config: RunConfig
    rows: int
    answered: int
    repeated: frozenset[str]
    columns: tuple[str, ...]


def survey(source: Any, config: RunConfig, check: Callable[[str, str], object]) -> Survey:
    """Walk over any file that a pool may be, or a DataFrame.

    check: called with every answer cell and its place; it raises where the answer cannot be one.
    Raises DataError for a row that cannot be used.
    """
    ids, answered, columns = array("Q"), 0, dict[str, None]()
    for row, example, answer in walk_examples(source, config):
        columns |= dict.fromkeys(row.columns)
        if example is not None:
            ids.append(int(example.id, 16))
            if answer is not None:
                check(answer, example.where)
                answered += 1
    values = np.frombuffer(ids, dtype=np.uint64)
    values.sort()
    again = np.unique(values[1:][values[1:] == values[:-1]])
    return Survey(source, config, len(ids), answered, frozenset(f"{v:016x}" for v in again.tolist()), tuple(columns))


@dataclass(frozen=True)
class Part:
    """Some rows of a file. start: how many examples came before them. rows: all, each with the place of its example among
    `examples`, None for a blank row that is left out. answers: cells of the examples."""

    start: int
    rows: list[tuple[Row, int | None]]
    examples: list[Example]
    answers: list[str | None]


def parts_of(surveyed: Survey, size: int) -> Iterator[Part]:
    """The file in parts of `size` rows, with ids that differ: ID, ID-2, ID-3, … for repeated rows."""
    walked, seen, start = walk_examples(surveyed.source, surveyed.config), Counter[str](), 0
    while taken := list(islice(walked, size)):
        part = Part(start, [], [], [])
        for row, example, answer in taken:
            part.rows.append((row, None if example is None else len(part.examples)))
            if example is None:
                continue
            if example.id in surveyed.repeated:
                seen[example.id] += 1
                if (count := seen[example.id]) > 1:
                    example = replace(example, id=f"{example.id}-{count}")
            part.examples.append(example)
            part.answers.append(answer)
        yield part
        start += len(part.examples)
