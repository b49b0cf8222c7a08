"""What an answer is: how it is written, read back, and compared. One frozen record for each kind.

Every kind has the same surface:

- `response_text(answer)`: the text that the model is taught to write for a canonical answer;
- `parse_gold(raw, where)`: the canonical answer from a file's cell or an annotator;
- `parse(text)`: the answer in a generated response, None when there is none;
- `answer_span(text)`: where in a response the answer stands, format words left out;
- `correct(predicted, gold)`: whether a parsed answer agrees with a canonical one.
"""

from __future__ import annotations

import re
import string
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import ClassVar, Literal

from guidestar.config import TaskConfig
from guidestar.errors import ConfigError, DataError, allowed

ANSWER = "{answer}"
MOST_LABELS = 64  # above this, a column is more likely free text than a set of labels
Span = tuple[int, int]


def make_task(config: TaskConfig, labels_found: Sequence[str], response: str) -> Choice | Number | Text:
    """The task of a configuration.

    labels_found: answer cells of the data, used for a choice whose labels are not configured.
    response: what the model is taught to write, with {answer} once.
    Raises ConfigError if the kind is missing or the labels cannot be told apart.
    """
    if config.kind is None:
        raise ConfigError(f"task.kind is missing; {allowed(TASKS)}")
    if response.count(ANSWER) != 1:
        raise ConfigError(f"data.response is {response!r}; it must contain {ANSWER} exactly once")
    return TASKS[config.kind].build(config, labels_found, response)


@dataclass(frozen=True)
class Choice:
    """One of some labels. The canonical answer is the label; the model writes the label's word.

    labels, words: in the same order, at least two.
    response: the response template.
    scoring: "first_token" or "sequence", as configured.
    """

    kind: ClassVar[str] = "choice"
    labels: tuple[str, ...]
    words: tuple[str, ...]
    response: str = ANSWER
    scoring: Literal["first_token", "sequence"] = "first_token"
    max_new_tokens: int = 16

    def __post_init__(self) -> None:
        if len(self.labels) < 2:
            found = ", ".join(map(repr, self.labels)) or "none"
            raise ConfigError(f"task.labels: a choice needs at least two labels, found {found}")
        for what, names in (("label", self.labels), ("word", self.words)):
            seen: dict[str, str] = {}
            for name in names:
                if not name.strip():
                    raise ConfigError(f"task.labels: found an empty {what}; every {what} needs some text")
                if (first := seen.get(_folded(name))) is not None:
                    raise ConfigError(
                        f"task.labels: the {what}s {first!r} and {name!r} are the same when case is ignored; "
                        f"make them one in the data"
                    )
                seen[_folded(name)] = name

    @classmethod
    def build(cls, config: TaskConfig, labels_found: Sequence[str], response: str) -> Choice:
        """Labels from the configuration, or else the sorted set of those found in the data."""
        labels: tuple[str, ...]
        words: tuple[str, ...]
        if isinstance(config.labels, dict):
            labels, words = tuple(config.labels), tuple(config.labels.values())
        elif config.labels is not None:
            labels = words = tuple(config.labels)
        else:
            labels = words = _labels_in(labels_found, response)
        return cls(
            tuple(label.strip() for label in labels),
            tuple(word.strip() for word in words),
            response,
            config.scoring,
            config.max_new_tokens or cls.max_new_tokens,
        )

    @property
    def prefix(self) -> str:
        """The part of the response before the answer, "the correct answer is "."""
        return self.response.partition(ANSWER)[0]

    @property
    def suffix(self) -> str:
        """The part of the response after the answer."""
        return self.response.partition(ANSWER)[2]

    def response_text(self, answer: str) -> str:
        """The response template with the label's word. Raises DataError for an unknown label."""
        if answer not in self.labels:
            raise DataError(f"label {answer!r} is not one of: {', '.join(self.labels)}")
        return self.response.replace(ANSWER, self.words[self.labels.index(answer)])

    def parse_gold(self, raw: str, where: str) -> str:
        """The label that a cell names: the label, its word, or the whole response; case does not matter.

        Raises DataError naming the place and the labels.
        """
        for cell in (raw, _bare(raw, self.response)):
            for names in (self.labels, self.words):
                folded = [_folded(name) for name in names]
                if _folded(cell) in folded:
                    return self.labels[folded.index(_folded(cell))]
        known = dict.fromkeys((*self.labels, *self.words))
        near = allowed(known, raw.strip()).partition("allowed: ")[0].strip()  # "did you mean …?" or nothing
        hint = f"; {near}" if near else ""
        raise DataError(f"{where}: label {raw.strip()!r} is not one of: {', '.join(self.labels)}{hint}")

    def parse(self, text: str) -> str | None:
        """The first label word in a response, after the response's own prefix where that occurs.

        Case does not matter, except that a word of one letter is not looked for in running text in
        the other case (the article "a" is no answer A).
        """
        found = self._find(text)
        return None if found is None else self.labels[found[0]]

    def answer_span(self, text: str) -> Span | None:
        """Character positions (start, end) of the label word in a response, None when there is none."""
        found = self._find(text)
        return None if found is None else found[1]

    def correct(self, predicted: str | None, gold: str) -> bool:
        """Whether the labels are the same."""
        return predicted == gold

    def _find(self, text: str) -> tuple[int, Span] | None:
        start = _after_prefix(text, self.prefix)
        alone, inside = self._patterns
        match = alone.fullmatch(text, start) or inside.search(text, start)
        if match is None or match.lastindex is None:
            return None
        return self._by_length[match.lastindex - 1], match.span(match.lastindex)

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
        return (
            re.compile(rf"\W*?(?:{loose})\W*", re.IGNORECASE),
            re.compile(rf"(?<!\w)(?:{strict})(?!\w)"),
        )


# A number as people and models write it: sign, currency, thousands, decimals; or a fraction, also mixed.
_NUMBER = re.compile(
    r"""(?<!\w)(?<!\d\.)                 # not inside a word or another number
    (?P<sign>(?<![)%])[-\u2212])?        # a minus after a closing bracket is a subtraction
    (?:[$€£](?P<minus>[-\u2212])?)?      # -$5 and $-5
    (?P<digits>
        (?:\d+\ )?\d+/0*[1-9]\d*         # 3/4, 2 1/2
      | \d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d)
      | \d+(?:\.\d+)?
      | (?<!\.)\.\d+
    )""",
    re.VERBOSE | re.ASCII,
)
_CALCULATOR = re.compile(r"<<[^<>]*>>")  # GSM8K's marks, "<<48/2=24>>"
_ANSWER_IS = re.compile(r"\banswer\s+is\b", re.IGNORECASE)


@dataclass(frozen=True)
class Number:
    """A final number after a worked answer (GSM8K).

    The canonical answer is the worked answer without calculator marks, ending in "#### NUMBER"; the
    number has no thousands commas. Numbers are compared by value: 18 = 18.0 = 18.00.
    """

    kind: ClassVar[str] = "number"
    response: str = ANSWER
    marker: str = "####"
    max_new_tokens: int = 256

    def __post_init__(self) -> None:
        if not self.marker.strip():
            raise ConfigError("task.marker is empty; it must be what stands before the final number, like ####")

    @classmethod
    def build(cls, config: TaskConfig, labels_found: Sequence[str], response: str) -> Number:
        """The same for all data; labels play no part."""
        return cls(response, config.marker, config.max_new_tokens or cls.max_new_tokens)

    def response_text(self, answer: str) -> str:
        """The response template with the worked answer."""
        return self.response.replace(ANSWER, answer)

    def parse_gold(self, raw: str, where: str) -> str:
        """The worked answer of a cell; a bare number becomes "#### NUMBER".

        Raises DataError if there is no number in it.

        >>> Number().parse_gold("He has 2*9=<<2*9=18>>18 eggs.\\n#### 1,018 eggs", "x")
        'He has 2*9=18 eggs.\\n#### 1018'
        """
        text = _CALCULATOR.sub("", raw).strip()
        final = text.rpartition(self.marker)[2]  # a cell with a marker must have its number behind it
        match = self._match(text) if _NUMBER.search(final) else None
        if match is None:
            shown = text if len(text) <= 60 else f"…{text[-60:]}"
            raise DataError(f"{where}: no number in the answer {shown!r}; it must hold one, like '{self.marker} 18'")
        if self.marker in text:
            worked = text.rpartition(self.marker)[0].rstrip()
        elif match.span() == (0, len(text)):
            worked = ""
        else:
            worked = text
        return f"{worked}\n{self.marker} {_plain(match)}".lstrip("\n")

    def parse(self, text: str) -> str | None:
        """The final number of a response as plain text, "1018", "-2.5" or "3/4".

        The first number after the last marker; without one, the first after the last "answer is"; else
        the last number. Currency, thousands commas, per cent signs, units and what follows are dropped.

        >>> Number().parse("So she earns $1,018.50 per week.")
        '1018.50'
        """
        match = self._match(text)
        return None if match is None else _plain(match)

    def answer_span(self, text: str) -> Span | None:
        """Character positions (start, end) of the final number, its sign included, the currency not."""
        match = self._match(text)
        if match is None:
            return None
        sign = match.start("sign")
        return (sign if sign >= 0 else match.start("digits") - bool(match["minus"]), match.end("digits"))

    def correct(self, predicted: str | None, gold: str) -> bool:
        """Whether the numbers are equal in value; `gold` may be the worked answer or a number alone."""
        if predicted is None:
            return False
        found, wanted = self.parse(predicted), self.parse(gold)
        return found is not None and wanted is not None and _value(found) == _value(wanted)

    def _match(self, text: str) -> re.Match[str] | None:
        markers = [m.end() for m in re.finditer(re.escape(self.marker), text)]
        cues = [m.end() for m in _ANSWER_IS.finditer(text)]
        for start in (*reversed(markers), *reversed(cues)):
            if match := _NUMBER.search(text, start):
                return match
        return next(iter(deque(_NUMBER.finditer(text), maxlen=1)), None)


@dataclass(frozen=True)
class Text:
    """Free text, right when it equals the gold answer after normalisation.

    The normal form is SQuAD's (Rajpurkar et al. 2016): lower case, no punctuation, no articles (a, an,
    the), single spaces. Where nothing would be left, as for the answer "the", only case and outer
    spaces are levelled.
    """

    kind: ClassVar[str] = "text"
    response: str = ANSWER
    max_new_tokens: int = 64

    @classmethod
    def build(cls, config: TaskConfig, labels_found: Sequence[str], response: str) -> Text:
        """The same for all data; labels play no part."""
        return cls(response, config.max_new_tokens or cls.max_new_tokens)

    def response_text(self, answer: str) -> str:
        """The response template with the answer."""
        return self.response.replace(ANSWER, answer)

    def parse_gold(self, raw: str, where: str) -> str:
        """The cell without outer spaces. Raises DataError if nothing is left."""
        if not raw.strip():
            raise DataError(f"{where}: the answer is empty; it must hold some text")
        return raw.strip()

    def parse(self, text: str) -> str | None:
        """The response without the template's words and outer spaces, None when nothing is left."""
        span = self.answer_span(text)
        return None if span is None else text[slice(*span)]

    def answer_span(self, text: str) -> Span | None:
        """Character positions (start, end) of the answer in a response, None when it is empty."""
        prefix, _, suffix = self.response.partition(ANSWER)
        start = _after_prefix(text, prefix)
        body = text[start:].rstrip()
        end = len(body) - len(suffix.strip())
        if end >= 0 and body[end:].casefold() == suffix.strip().casefold():
            body = body[:end].rstrip()
        start += len(body) - len(body.lstrip())
        body = body.strip()
        return (start, start + len(body)) if body else None

    def correct(self, predicted: str | None, gold: str) -> bool:
        """Whether the normal forms are equal."""
        if predicted is None:
            return False
        return normal_form(predicted) == normal_form(gold)


Task = Choice | Number | Text
TASKS: dict[str, type[Choice] | type[Number] | type[Text]] = {
    "choice": Choice,
    "number": Number,
    "text": Text,
}


def labels_of(task: Task) -> tuple[str, ...]:
    """The labels of a choice; none for other kinds."""
    return task.labels if isinstance(task, Choice) else ()


def normal_form(text: str) -> str:
    """SQuAD's normalisation of an answer.

    >>> normal_form("  The Eiffel  Tower! ")
    'eiffel tower'
    """
    bare = text.lower().translate(str.maketrans("", "", string.punctuation))
    words = re.sub(r"\b(a|an|the)\b", " ", bare).split()
    return " ".join(words) or text.strip().lower()


def _labels_in(cells: Sequence[str], response: str) -> tuple[str, ...]:
    """The sorted set of labels in some cells, read without the words of the response template."""
    by_fold: dict[str, str] = {}
    for bare, _ in Counter(_bare(cell, response) for cell in cells).most_common():
        by_fold.setdefault(_folded(bare), bare)  # the most frequent spelling
    if len(by_fold) > MOST_LABELS:
        raise ConfigError(
            f"task.kind is 'choice', but the data hold {len(by_fold)} different answers, above the limit of "
            f"{MOST_LABELS}; use kind: text for free answers, or list the labels in task.labels"
        )
    return tuple(by_fold[key] for key in sorted(by_fold))


def _folded(name: str) -> str:
    return name.strip().casefold()


def _bare(cell: str, response: str) -> str:
    """A cell without the words of the response template: 'the correct answer is true' -> 'true'."""
    prefix, _, suffix = (part.strip().casefold() for part in response.partition(ANSWER))
    bare = cell.strip()
    if bare.casefold().startswith(prefix) and bare.casefold().endswith(suffix):
        bare = bare[len(prefix) : len(bare) - len(suffix)]
    return bare.strip()


def _after_prefix(text: str, prefix: str) -> int:
    """Where the answer can begin: behind the first occurrence of the prefix, else at 0."""
    words = prefix.split()
    match = re.search(r"\s+".join(map(re.escape, words)), text, re.IGNORECASE) if words else None
    return match.end() if match else 0


def _plain(match: re.Match[str]) -> str:
    """A matched number without currency and commas, with a plain minus sign."""
    sign = "-" if match["sign"] or match["minus"] else ""
    return sign + match["digits"].replace(",", "")


def _value(number: str) -> Decimal:
    """The value of a plain number; "-2 1/2" is -2.5.

    >>> _value("-2 1/2")
    Decimal('-2.5')
    """
    if "/" not in number:
        return Decimal(number)  # exact, however many digits a model wrote
    sign = -1 if number.startswith("-") else 1
    whole, _, rest = number.lstrip("-").rpartition(" ")
    above, _, below = rest.partition("/")
    return sign * (Decimal(whole or 0) + Decimal(above) / Decimal(below or 1))
