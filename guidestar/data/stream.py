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

import numpy as np

from guidestar.config import RunConfig
from guidestar.data.pool import walk_examples
from guidestar.records import Example


@dataclass(frozen=True)
class Survey:
    """What the first walk over a file found. rows: how many; answered: those with an answer cell; repeated: ids of
    contents that occur more than once."""

    source: str
    config: RunConfig
    rows: int
    answered: int
    repeated: frozenset[str]


def survey(source: str, config: RunConfig, check: Callable[[str, str], object]) -> Survey:
    """Walk over any file that `read_examples` reads.

    check: called with every answer cell and its place; it raises where the answer cannot be one.
    Raises DataError for a row that cannot be used.
    """
    ids, answered = array("Q"), 0
    for example, answer in walk_examples(source, config):
        ids.append(int(example.id, 16))
        if answer is not None:
            check(answer, example.where)
            answered += 1
    values = np.frombuffer(ids, dtype=np.uint64)
    values.sort()
    again = np.unique(values[1:][values[1:] == values[:-1]])
    return Survey(source, config, len(ids), answered, frozenset(f"{value:016x}" for value in again.tolist()))


def parts_of(found: Survey, size: int) -> Iterator[tuple[int, list[Example], list[str | None]]]:
    """(position of the first row, examples, answer cells) of every `size` rows, with the ids of `read_examples`."""
    rows, seen, start = walk_examples(found.source, found.config), Counter[str](), 0
    while part := list(islice(rows, size)):
        examples = []
        for example, _ in part:
            if example.id in found.repeated:
                seen[example.id] += 1
                if (count := seen[example.id]) > 1:
                    example = replace(example, id=f"{example.id}-{count}")
            examples.append(example)
        yield start, examples, [answer for _, answer in part]
        start += len(part)
