"""Any number of some labels: several may hold at once, or none."""

from __future__ import annotations

import ast
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from guidestar.errors import ConfigError, DataError
from guidestar.tasks.choice import Choice
from guidestar.tasks.common import ANSWER, MOST_LABELS, Settings, Task, distinct, label_key, labels_and_words

JOINT = "; "  # between the labels of one answer
NONE = "[]"  # the answer that no label holds; an empty cell is no answer at all
SEPARATORS = (";", "|", "\n", ",")  # in files, the surest first


def answer_of(labels: Sequence[str], held: Iterable[object]) -> str:
    """The canonical answer that says of each label whether it holds.

    >>> answer_of(["a", "b", "c"], [1, 0, 1]), answer_of(["a"], [False])
    ('a; c', '[]')
    """
    return JOINT.join(label for label, holds in zip(labels, held, strict=True) if holds) or NONE


@dataclass(frozen=True)
class MultiLabel(Task):
    """Any number of some labels. The canonical answer names those that hold in the order of `labels`, "billing; delivery",
    or is "[]" where none does.

    A model answers for each label alone: an encoder by a head of one sigmoid a label, a language model by yes or no to one
    question a label (`asking/each.py`).
    """

    kind: ClassVar[str] = "multi_label"
    about: ClassVar[str] = "any number of some labels"
    family: ClassVar[str] = "multi_label"
    reads_labels: ClassVar[bool] = True
    labels: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    response: str = ANSWER
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        _ = self._one  # says what is wrong with the labels
        for name in (*self.labels, *self.words):
            if ";" in name or name.strip() == NONE:
                raise ConfigError(
                    f"task.labels: found {name!r}, but a semicolon stands between the labels of one answer, and {NONE} for none; "
                    "name it otherwise (labels: {label: word})"
                )

    @classmethod
    def build(cls, config: Settings, cells: Sequence[str], response: str) -> MultiLabel:
        """Labels from the configuration, or else the sorted set of those found in the data."""
        labels, words = labels_and_words(config) or (parts_in(cells),) * 2
        return cls(labels, words, response, config.max_new_tokens or cls.max_new_tokens)

    @property
    def described(self) -> str:
        return f"any number of the labels {', '.join(f'`{label}`' for label in self.labels)}"

    @property
    def asked(self) -> str:
        return (
            f"Answer with all of these that hold, separated by semicolons, and nothing else: {', '.join(self.words)}. If none "
            f"holds, answer {NONE}."
        )

    def response_text(self, answer: str) -> str:
        """The response template with the words of the labels. Raises DataError for an unknown label."""
        return self.response.replace(ANSWER, JOINT.join(map(self._one.response_text, self.parts(answer))) or NONE)

    def parse_gold(self, raw: str, where: str) -> str:
        """The labels of a cell: a list as JSON or Python writes it, one label, or several between semicolons, bars, line ends or
        commas.

        Raises DataError naming the place and the label that is none.

        >>> MultiLabel(("a", "b"), ("a", "b")).parse_gold("B, a", "x"), MultiLabel(("a", "b"), ("a", "b")).parse_gold("['b']", "x")
        ('a; b', 'b')
        """
        problems = [DataError(f"{where}: the answer is empty; write {NONE} where no label holds")]
        ways = ([raw], split(raw), *(split(raw, s) for s in SEPARATORS if s in raw)) if raw.strip() else ()
        for parts in ways:
            try:
                return self.canonical({self._one.parse_gold(part, where) for part in parts})
            except DataError as error:
                problems.append(error)
        raise problems[:4][-1]  # that of the surest separator names the label

    def canonical(self, held: set[str]) -> str:
        """The answer that these labels hold and no others."""
        return answer_of(self.labels, [label in held for label in self.labels])

    def parse(self, text: str) -> str | None:
        """The labels that a response names, None for anything else."""
        try:
            return None if (named := super().parse(text)) is None else self.parse_gold(named, "response")
        except DataError:
            return None

    def parts(self, answer: str) -> tuple[str, ...]:
        return () if answer == NONE else tuple(answer.split(JOINT))

    def measures(self, predicted: Sequence[str | None], gold: Sequence[str]) -> dict[str, float]:
        """F1 = 2 TP / (2 TP + FP + FN): "micro_f1" over all decisions, "macro_f1" as the mean over the labels. A label that
        neither occurs nor is predicted is left out of the mean; where there is none at all, F1 is 1. The accuracy beside
        them is that of whole answers (subset accuracy).

        >>> MultiLabel(("a", "b"), ("a", "b")).measures(["a", "a; b"], ["a", "b"])
        {'micro_f1': 0.8, 'macro_f1': 0.8333333333333333}
        """
        hits, either = Counter[str](), Counter[str]()
        for one, other in zip(predicted, gold, strict=True):
            ours, theirs = self.parts(NONE if one is None else one), self.parts(other)
            hits.update(set(ours) & set(theirs))
            either.update((*ours, *theirs))
        if not either:
            return {"micro_f1": 1.0, "macro_f1": 1.0}
        each = [2 * hits[label] / count for label, count in either.items()]
        return {"micro_f1": 2 * hits.total() / either.total(), "macro_f1": math.fsum(each) / len(each)}

    def read_reply(self, text: str) -> str:
        """The whole reply or its last line must name labels. Raises DataError otherwise."""
        lines = [line for line in text.splitlines() if line.strip()] or [""]
        for part in (text, lines[-1]):
            if (answer := self.parse(part.strip().rstrip("."))) is not None:
                return answer
        raise DataError(f"{' '.join(text.split())[:80]!r} names no labels, nor {NONE} for none")

    @cached_property
    def _one(self) -> Choice:
        return Choice(self.labels, self.words)


def split(cell: str, separator: str | None = None) -> list[str]:
    """The labels of a cell: those of a list, or what stands between the separators; None: the whole cell."""
    bare = cell.strip()
    if bare[:1] == "[" and bare[-1:] == "]":
        for read in (json.loads, ast.literal_eval):
            try:
                items = read(bare)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
            if isinstance(items, list) and all(isinstance(item, (str, int, float)) for item in items):
                return [str(item) for item in items]
    return [part.strip() for part in (bare.split(separator) if separator else [bare]) if part.strip()]


def separator_of(cells: Sequence[str]) -> str | None:
    """What stands between the labels of some cells: of the usual separators the surest that occurs; None for lists, and
    where none occurs."""
    plain = [cell for cell in cells if not cell.strip().startswith("[")]
    return next((s for s in SEPARATORS if any(s in cell.strip() for cell in plain)), None)


def several_in(cells: Sequence[str]) -> tuple[str, ...]:
    """The labels of a column whose cells hold several of a few short labels that come again and again; () for any other.

    There are at least as many different cells as labels: "News, politics" beside "Sports, other" are two names.
    >>> several_in(["red; big", "red", "big", "red"]), several_in(["News, politics", "Sports, other"] * 9)
    (('big', 'red'), ())
    """
    cells = [cell for cell in cells if cell.strip()]
    separator = separator_of(cells)
    parts = [split(cell, separator) for cell in cells]
    names = Counter(label_key(name) for some in parts for name in some)
    few = 2 <= len(names) <= MOST_LABELS and all(0 < len(name) <= 40 for name in names)
    again = names.total() >= (6 if separator == "," else 2) * len(names)
    mixed = any(len(some) > 1 for some in parts) and len({tuple(sorted(some)) for some in parts}) >= len(names)
    return parts_in(cells) if few and again and mixed else ()


def parts_in(cells: Sequence[str]) -> tuple[str, ...]:
    """The sorted set of labels in some cells. Raises ConfigError for more of them than anybody means."""
    separator = separator_of(cells)
    return distinct((part for cell in cells for part in split(cell, separator)), "multi_label", "labels", "")
