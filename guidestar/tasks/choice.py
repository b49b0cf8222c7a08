"""A choice: one of some labels."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Literal

from guidestar.errors import ConfigError, DataError, allowed
from guidestar.tasks.common import (
    ANSWER,
    Settings,
    Span,
    Task,
    after_prefix,
    distinct,
    label_key,
    labels_and_words,
    visible,
)

_AROUND = " \t\r\n*_`\"'“”‘’.,;:!()[]<>#-"
_LEAD = re.compile(r"^(?:the )?(?:final )?(?:answer|label)(?: is)?\s*:?[\s*_]*", re.IGNORECASE)


@dataclass(frozen=True)
class Choice(Task):
    """One of some labels. The canonical answer is the label; the model writes the label's word.

    labels, words: in the same order, at least two.
    response: the response template.
    scoring: "first_token" or "sequence", as configured.
    renamed: (what a label was called before, the label) of each that was; it is read and never written, so no adapter
    depends on it.
    """

    kind: ClassVar[str] = "choice"
    about: ClassVar[str] = "one of some labels"
    family: ClassVar[str] = "choice"
    reads_labels: ClassVar[bool] = True
    labels: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    response: str = ANSWER
    scoring: Literal["first_token", "sequence"] = "first_token"
    max_new_tokens: int = 16
    renamed: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if len(self.labels) < 2:
            given = ", ".join(map(repr, self.labels)) or "none"
            raise ConfigError(f"task.labels: a choice needs at least two labels, found {given}")
        for what, names in (("label", self.labels), ("word", self.words)):
            seen: dict[str, str] = {}
            for name in names:
                if not visible(name):
                    raise ConfigError(f"task.labels: found an empty {what}; every {what} needs some text")
                if (first := seen.get(label_key(name))) is not None:
                    raise ConfigError(
                        f"task.labels: the {what}s {_alike(first, name)}; name one of them, and the data may hold both"
                    )
                seen[label_key(name)] = name
        for before, label in self.renamed:
            if label not in self.labels:
                raise ConfigError(
                    f"task.renamed: {before!r} is said to be {label!r} now, which is not one of: {', '.join(self.labels)}"
                )

    @classmethod
    def build(cls, config: Settings, cells: Sequence[str], response: str) -> Choice:
        """Labels from the configuration, or else the sorted set of those found in the data."""
        labels, words = labels_and_words(config) or (labels_in(cells, response),) * 2
        limit, renamed = config.max_new_tokens or cls.max_new_tokens, tuple((config.renamed or {}).items())
        return cls(labels, words, response, config.scoring, limit, renamed)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.labels

    @property
    def described(self) -> str:
        return f"one of the labels {', '.join(f'`{label}`' for label in self.labels)}"

    @property
    def asked(self) -> str:
        return f"Answer with exactly one of these and nothing else: {', '.join(self.words)}."

    def response_text(self, answer: str) -> str:
        """The response template with the label's word. Raises DataError for an unknown label."""
        if answer not in self.labels:
            raise DataError(f"label {answer!r} is not one of: {', '.join(self.labels)}")
        return self.response.replace(ANSWER, self.words[self.labels.index(answer)])

    def parse_gold(self, raw: str, where: str) -> str:
        """The label that a cell names: the label, its word, or the whole response; spelling differences that
        `label_key` levels do not matter.

        Raises DataError naming the place and the labels.
        """
        for cell in (raw, _bare(raw, self.response)):
            if (label := self._by_key.get(label_key(cell))) is not None:
                return label
        known = dict.fromkeys((*self.labels, *self.words))
        near = allowed(known, raw.strip()).partition("allowed: ")[0].strip()  # "did you mean …?" or nothing
        hint = f"; {near}" if near else ""
        raise DataError(f"{where}: label {raw.strip()!r} is not one of: {', '.join(self.labels)}{hint}")

    def parse(self, text: str) -> str | None:
        """The first label word in a response, after the response's own prefix where that occurs.

        Case does not matter, except that a word of one letter is not looked for in running text in
        the other case (the article "a" is no answer A).
        """
        match = self._find(text)
        return None if match is None else self.labels[match[0]]

    def answer_span(self, text: str) -> Span | None:
        """Character positions (start, end) of the label word in a response, None when there is none."""
        match = self._find(text)
        return None if match is None else match[1]

    def parts(self, answer: str) -> tuple[str, ...]:
        return (answer,)

    def read_reply(self, text: str) -> str:
        """The whole reply, its first or its last line must be a label or its word; marks around it (quotes, stars, a full
        stop, "Answer:") do not count.

        Raises DataError otherwise, and where two labels are named.
        """
        lines = [line for line in text.splitlines() if line.strip()] or [""]
        named = {label for part in (text, lines[0], lines[-1]) if (label := self._label(part)) is not None}
        if len(named) > 1:
            raise DataError(f"it names {' and '.join(sorted(named))}")
        if not named:
            short = " ".join(text.split())
            raise DataError(f"{short[:80] + ' …' if len(short) > 80 else short!r} is not one of the labels")
        return named.pop()

    def _label(self, part: str) -> str | None:
        words = [label_key(word) for word in self.words]
        bare = part.strip(_AROUND)
        for text in (part.strip(), bare, _LEAD.sub("", bare).strip(_AROUND)):
            if label_key(text) in words:  # a word before a label that is spelled the same: words were asked for
                return self.labels[words.index(label_key(text))]
            try:
                return self.parse_gold(text, "reply")
            except DataError:
                continue
        return None

    def _find(self, text: str) -> tuple[int, Span] | None:
        start = after_prefix(text, self.response.partition(ANSWER)[0])
        alone, inside = self._patterns
        match = alone.fullmatch(text, start) or inside.search(text, start)
        if match is None or match.lastindex is None:
            return None
        return self._by_length[match.lastindex - 1], match.span(match.lastindex)

    @cached_property
    def _by_key(self) -> dict[str, str]:
        """Spelling key -> label, of former names, before them of the words and, before these, of the labels."""
        pairs = (*self.renamed, *zip((*self.words, *self.labels), self.labels * 2, strict=True))
        return {label_key(name): label for name, label in pairs}

    @cached_property
    def _by_length(self) -> list[int]:
        """Positions of the words, the longest first, so that "not good" wins over "not"."""
        return sorted(range(len(self.words)), key=lambda i: -len(self.words[i]))

    @cached_property
    def _patterns(self) -> tuple[re.Pattern[str], re.Pattern[str]]:
        """(a word with nothing but punctuation around it, a word in running text); a group for each word."""
        words = [self.words[i] for i in self._by_length]
        loose = "|".join(f"({re.escape(word)})" for word in words)
        strict = "|".join(f"({re.escape(w)})" if len(w) == 1 else f"((?i:{re.escape(w)}))" for w in words)
        return (re.compile(rf"\W*?(?:{loose})\W*", re.IGNORECASE), re.compile(rf"(?<!\w)(?:{strict})(?!\w)"))


def labels_in(cells: Sequence[str], response: str) -> tuple[str, ...]:
    """The sorted set of labels in some cells, read without the words of the response template."""
    bare = [_bare(cell, response) for cell in cells]
    if (lists := next((cell for cell in bare if _is_list(cell)), None)) is not None:
        raise ConfigError(
            f"task.kind is 'choice', but an answer in the data is a list, {lists!r}; a choice has one label a text, so "
            "keep one of them in the data"
        )
    return distinct(bare, "choice", "answers", "use kind: text for free answers, or ")


def _is_list(cell: str) -> bool:
    if not (cell.startswith("[") and cell.endswith("]")):
        return False
    try:
        items = json.loads(cell)
    except (ValueError, RecursionError):
        return False
    return len(items) != 1 or isinstance(items[0], str)  # "[1]" may be somebody's label


def _alike(first: str, second: str) -> str:
    if first.strip().lower() == second.strip().lower():
        return f"{first!r} and {second!r} are the same when case is ignored"
    if first.isascii() and second.isascii():
        return f"{first!r} and {second!r} are the same but for white space or a decimal point"
    return f"{first!a} and {second!a} look alike (characters that are not seen, or accents composed in another way)"


def _bare(cell: str, response: str) -> str:
    """A cell without the words of the response template: 'the correct answer is true' -> 'true'."""
    prefix, _, suffix = (part.strip() for part in response.partition(ANSWER))
    bare = cell.strip()
    if prefix or suffix:
        match = re.fullmatch(rf"{re.escape(prefix)}(.*?){re.escape(suffix)}", bare, re.IGNORECASE | re.DOTALL)
        bare = match[1] if match else bare
    return bare.strip()
