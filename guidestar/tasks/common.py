"""What the kinds of task share: the response template, and what a configuration says of a task."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from guidestar.errors import ConfigError

ANSWER = "{answer}"
MOST_LABELS = 64  # above this, a column is more likely free text than a set of labels
Span = tuple[int, int]


@dataclass(frozen=True)
class Settings:
    """The `task` section of a configuration, as far as a kind reads it."""

    kind: str
    labels: list[str] | dict[str, str] | None = None
    renamed: dict[str, str] | None = None
    scoring: Literal["first_token", "sequence"] = "first_token"
    max_new_tokens: int | None = None
    marker: str = "####"


class Task(Protocol):
    """What any kind of task can be asked, with what most kinds answer. A canonical answer is one text, whatever it holds.

    kind: its name in configurations and in a run's facts. about: one line for lists of kinds.
    family: "choice", "multi_label", "number" or "text": the kind whose arrays, and so whose measures and strategies, fit it.
    numeric: an answer holds a number. any_text: every text is an answer, so that a command needs a mark of its own.
    reads_labels: labels that are not configured are read off the data.
    response: the response template. max_new_tokens: the limit of a generated response.
    """

    kind: ClassVar[str]
    about: ClassVar[str]
    family: ClassVar[str]
    numeric: ClassVar[bool] = False
    any_text: ClassVar[bool] = False
    reads_labels: ClassVar[bool] = False

    @property
    def response(self) -> str: ...
    @property
    def max_new_tokens(self) -> int: ...

    @classmethod
    def build(cls, config: Settings, cells: Sequence[str], response: str) -> Task:
        """The task of a configuration. cells: the answers in the data. Raises ConfigError for unusable labels."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """The label space that people see; () without one."""
        return ()

    @property
    def words(self) -> tuple[str, ...]:
        """What the model writes for each of the labels."""
        return ()

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels of which exactly one is the answer and to which a model gives probabilities; () where answers are
        generated and parsed. A kind can have labels and no classes: several may hold."""
        return ()

    @property
    def described(self) -> str:
        """What an answer is, for a card: "one of the labels …"."""
        return self.about

    @property
    def asked(self) -> str:
        """One sentence on how an answer is written, for an annotating model."""
        ...

    @property
    def stand_in(self) -> str:
        """An answer that any example could have, for measuring time."""
        return self.labels[0] if self.labels else "1"

    def response_text(self, answer: str) -> str:
        """The text that the model is taught to write for a canonical answer: the response template with it."""
        return self.response.replace(ANSWER, answer)

    def parse_gold(self, raw: str, where: str) -> str:
        """The canonical answer from a file's cell or an annotator. Raises DataError naming the place."""
        ...

    def parse(self, text: str) -> str | None:
        """The answer in a generated response, None when there is none."""
        return None if (span := self.answer_span(text)) is None else text[slice(*span)]

    def answer_span(self, text: str) -> Span | None:
        """Character positions (start, end) of the answer in a response, without the template's words and outer spaces; None
        where nothing is left."""
        prefix, _, suffix = (part.strip() for part in self.response.partition(ANSWER))
        start = after_prefix(text, prefix)
        body = text[start:].rstrip()
        end = len(body) - len(suffix)
        if end >= 0 and body[end:].casefold() == suffix.casefold():
            body = body[:end].rstrip()
        start += len(body) - len(body.lstrip())
        return (start, start + len(body.strip())) if body.strip() else None

    def correct(self, predicted: str | None, gold: str) -> bool:
        """Whether a parsed answer agrees with a canonical one."""
        return predicted is not None and self.compared(predicted) == self.compared(gold)

    def compared(self, answer: str) -> str:
        """What two people's answers have in common when they are the same."""
        return answer

    def parts(self, answer: str) -> tuple[str, ...]:
        """The labels that an answer holds, for counting; () for a kind without labels."""
        return ()

    def measures(self, predicted: Sequence[str | None], gold: Sequence[str]) -> dict[str, float]:
        """Metrics of parsed answers beside their accuracy, in the order of the examples."""
        return {}

    def read_reply(self, text: str) -> str:
        """The canonical answer in an annotating model's reply. Raises DataError for any form but the one asked for."""
        ...


def facts_of(task: Task) -> dict[str, Any]:
    """What a run records of its task."""
    labels = {"labels": list(task.labels), "words": list(task.words)} if task.labels else {}
    renamed = dict(getattr(task, "renamed", ()))
    return {"kind": task.kind, **labels, **({"renamed": renamed} if renamed else {})}


def read_labels(text: str) -> dict[str, str]:
    """Labels as people write them, between commas, semicolons or line ends: label -> what it means, "" where nobody says it.
    Where something is said of one, and semicolons or lines part them, a comma parts none.

    >>> read_labels("billing = money, refunds; other")
    {'billing': 'money, refunds', 'other': ''}
    >>> read_labels("Paris, France =; London =")
    {'Paris, France': '', 'London': ''}
    """
    said = "=" in text and re.search(r"[;\n]", text)  # then a comma may be a part of what is said
    pairs = (part.partition("=") for part in re.split(r"[;\n]" if said else r"[;\n,]", text) if part.strip())
    return {label.strip(): about.strip() for label, _, about in pairs}


def form_of(task: Task) -> dict[str, Any]:
    """What the labelling page must know: {"kind", "labels": [{"label", "word"}], "buttons", "several", "numeric"}.

    buttons: one press of one label is the answer; several: labels are switched on and off; else answers are typed.
    """
    labels = [{"label": label, "word": word} for label, word in zip(task.labels, task.words, strict=True)]
    kinds = {"buttons": bool(scored_labels(task)), "several": several(task), "numeric": task.numeric}
    return {"kind": task.kind, "labels": labels, **kinds}


def several(task: Task) -> bool:
    """Whether a model gives each label a probability of its own, because any number of them may hold."""
    return task.family == "multi_label"


def scored_labels(task: Task) -> tuple[str, ...]:
    """The labels to which a model gives probabilities: of which one is the answer, or any number."""
    return task.labels if several(task) else task.classes


def labels_and_words(config: Settings) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """The configured labels and what the model writes for each, outer spaces left out; None without any."""
    if config.labels is None:
        return None
    words = config.labels.values() if isinstance(config.labels, Mapping) else config.labels
    return tuple(map(str.strip, config.labels)), tuple(map(str.strip, words))


# Fillers; how an emoji is drawn.
_UNSEEN = set("\u034f\u115f\u1160\u2800\u3164\uffa0") | set(map(chr, range(0xFE00, 0xFE10)))
_WHOLE = re.compile(r"([-+]?[0-9]+)\.0*")


def visible(text: str) -> str:
    """A text as it is seen: letters composed (NFC), characters that show nothing and outer white space left out.

    >>> visible("cafe\\u0301\\u200b\\0 ")
    'café'
    """
    if text.isascii() and text.isprintable():
        return text.strip()
    seen = (c for c in text if c.isspace() or (unicodedata.category(c) not in ("Cf", "Cc") and c not in _UNSEEN))
    return unicodedata.normalize("NFC", "".join(seen)).strip()


def label_key(name: str) -> str:
    """What two spellings of one label have in common: what is seen of them, in lower case, with single spaces; digits of any
    script and letters of any width are the plain ones; and a whole number is one with or without a decimal point, as
    tables write it once a cell of the column is empty.

    >>> label_key("Very\\u00a0Good"), label_key("1.0"), label_key("1.5"), label_key("\\uff11")
    ('very good', '1', '1.5', '1')
    """
    seen = visible(name)
    if not seen.isascii():
        seen = "".join(map(_plain, seen))
    seen = unicodedata.normalize("NFC", " ".join(seen.lower().split()))
    number = _WHOLE.fullmatch(seen)
    return number[1] if number else seen


def _plain(c: str) -> str:
    if c == "\u2212":  # minus
        return "-"
    if (digit := unicodedata.decimal(c, None)) is not None:
        return str(digit)
    wide = unicodedata.decomposition(c).startswith(("<wide>", "<narrow>"))
    return unicodedata.normalize("NFKC", c) if wide else c


# What tables write where there is no value.
_EMPTY = {"None", "nan", "NaN", "NULL", "null", "<NA>", "NaT", "N/A", "#N/A"}
_TRUTH = {"true": "1", "yes": "1", "false": "0", "no": "0"}
_SIGNS = str.maketrans(  # dashes, quotes, and the Cyrillic and Greek letters that look like Latin ones
    '\u2010\u2011\u2012\u2013\u2014\u2018\u2019\u201c\u201d"`\u0430\u0441\u0435\u043e\u0440\u0445\u0443\u0456\u0432\u043d\u043a\u043c\u0442\u03bf',
    "-----''''''aceopxyibhkmto",
)
_THOUSANDS = re.compile(r"(?<=[0-9])[,.' _](?=[0-9]{3}(?![0-9]))")


def doubtful(labels: Sequence[str]) -> list[str]:
    """A sentence for each pair of labels that may be one in two spellings, and for each that may be a missing value. To be
    said of labels that were read off data; it merges nothing.

    >>> doubtful(["1,000", "1000", "other"])
    ["the labels '1,000' and '1000' may be one label in several spellings; they count as several"]
    """
    groups: dict[str, list[str]] = {}
    for label in labels:
        groups.setdefault(_resembles(label), []).append(label)
    sentences = [
        f"the labels {' and '.join(map(shown, group))} may be one label in several spellings; they count as several"
        for group in groups.values()
        if len(group) > 1
    ]
    numbers = all(re.fullmatch("-?[0-9]+", label_key(label)) for label in labels)
    sentences += [
        f"the label {label!r} is what tables write where there is no value, and counts as a label"
        for label in labels
        if label in _EMPTY or (numbers and label_key(label) == "-1")
    ]
    return sentences


def _resembles(name: str) -> str:
    """What two labels have in common that a person could take for one: numbers of one value, a truth value as a word and as a number,
    dashes and quotes of another form, letters of another form."""
    seen = unicodedata.normalize("NFKC", label_key(name)).casefold().translate(_SIGNS).strip("'").strip()
    number = _THOUSANDS.sub("", _TRUTH.get(seen, seen)).replace(",", ".")
    if re.fullmatch(r"[-+]?[0-9]{1,40}(\.[0-9]{0,40})?(e[-+]?[0-9]{1,3})?", number):
        return str(float(number) + 0.0)
    return seen


def shown(name: str) -> str:
    """A label in quotes; escapes for what could not be told apart from another spelling.

    >>> shown("café"), shown("cafe\\u0301")
    ("'café'", "'cafe\\\\u0301'")
    """
    return repr(name) if visible(name) == name else ascii(name)


def distinct(cells: Iterable[str], kind: str, what: str, advice: str) -> tuple[str, ...]:
    """The sorted set of labels in some cells of one label each, each in one spelling. kind, what, advice: for the message.

    The spelling that is kept has nothing unseen in it, is a number in ASCII digits without a decimal point, then the most
    frequent, of equals the first in the alphabet, so that the order of the rows plays no part.
    Raises ConfigError for more labels than anybody means.
    """
    counts, spellings = Counter(cells), dict[str, list[str]]()
    for cell in counts:
        spellings.setdefault(label_key(cell), []).append(cell)
    if len(spellings) > MOST_LABELS:
        raise ConfigError(
            f"task.kind is {kind!r}, but the data hold {len(spellings)} different {what}, above the limit of {MOST_LABELS}; "
            f"{advice}list the labels in task.labels"
        )

    def rank(name: str) -> tuple[object, ...]:
        by_a_table = bool(_WHOLE.fullmatch(name)) or (name.isdecimal() and not name.isascii())
        return " ".join(visible(name).split()) != name, by_a_table, -counts[name], name

    best = (min(names, key=rank) for names in spellings.values())
    return tuple(sorted(best, key=lambda name: (name.casefold(), name)))


def after_prefix(text: str, prefix: str) -> int:
    """Where the answer can begin: behind the first occurrence of the prefix, else at 0."""
    words = prefix.split()
    match = re.search(r"\s+".join(map(re.escape, words)), text, re.IGNORECASE) if words else None
    return match.end() if match else 0
