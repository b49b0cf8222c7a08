"""The slow, literal twin of `data.stream`: a whole file as lists."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from guidestar.config import RunConfig
from guidestar.data.pool import walk_examples
from guidestar.records import Example


def read_examples(source: str, config: RunConfig) -> tuple[list[Example], list[str | None]]:
    """The examples of a file and their answer cells; repeated rows have ids of their own: ID, ID-2, ID-3, …"""
    seen, examples, answers = Counter[str](), list[Example](), list[str | None]()
    for _, example, answer in walk_examples(source, config):
        if example is not None:
            seen[example.id] += 1
            count = seen[example.id]
            examples.append(replace(example, id=f"{example.id}-{count}") if count > 1 else example)
            answers.append(answer)
    return examples, answers
