"""What a file seems to hold: which columns are texts, which one answers, whether its first line is a header. Guesses, which
`guidestar init` says in one line each and writes down as keys that a person can change."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from guidestar.data.formats import first_cells, read_rows
from guidestar.data.messages import CONVERSATION, DIALOGUE, RESPONSE, is_conversation
from guidestar.data.textfile import guess_encoding, other_readings
from guidestar.tasks import ANSWER, MOST_LABELS
from guidestar.tasks.choice import labels_in
from guidestar.tasks.common import label_key, visible
from guidestar.tasks.multi_label import several_in

LOOK = 100_000  # rows looked at
TELLING = {
    "label", "labels", "answer", "class", "category", "categories", "intent", "tag", "tags", "target", "topic", "topics", "y",
}  # fmt: skip
PAIRS = (  # columns of which both must be read, in this order
    ("premise", "hypothesis"), ("sentence1", "sentence2"), ("sentence_a", "sentence_b"), ("question1", "question2"),
    ("text1", "text2"), ("text_a", "text_b"), ("query", "document"), ("query", "passage"), ("question", "context"),
    ("question", "passage"), ("question", "sentence"), ("claim", "evidence"), ("subject", "body"), ("title", "text"),
    ("title", "body"), ("title", "content"), ("title", "description"), ("headline", "text"),
)  # fmt: skip
_ID = re.compile(r"(?:.*[_\s-])?(?:id|key|uuid|guid|index|nr|number)", re.IGNORECASE)
_CHAT = ("messages", "conversations", "conversation")
_INSTRUCTION = ("instruction", "input", "output")
_NUMBER = re.compile(r"[-+]?[\d.,]+%?")


@dataclass(frozen=True)
class Look:
    """What was seen of a file.

    cells: column -> its texts, "" where there is none. header: names of the columns where the file has none. encoding: of a
    text file that is not UTF-8. readings: (encoding, a place that shows it) for the guess and for what else it could be.
    messages: the column that holds conversations.
    """

    cells: Mapping[str, list[str]]
    rows: int
    header: list[str] | None = None
    encoding: str | None = None
    readings: tuple[tuple[str, str], ...] = ()
    messages: str | None = None

    @property
    def columns(self) -> list[str]:
        """The names of all columns."""
        return list(self.cells)


@dataclass(frozen=True)
class Answer:
    """The column with the answers, None without one; the kind of task; the labels, where it has some."""

    column: str | None
    kind: str = "choice"
    labels: tuple[str, ...] = ()


def look(data: Path) -> Look:
    """Read the first 100,000 rows. Raises DataError for a file that cannot be read."""
    encoding = guess_encoding(data) if data.is_file() else None
    header = _missing_header(data, encoding)
    looked = list(islice(read_rows(str(data), header=header, encoding=encoding), LOOK))
    columns = list(dict.fromkeys(c for row in looked for c in row.columns))  # the first may hold nulls
    cells = {c: [str(row.values.get(c) or "") for row in looked] for c in columns}
    readings = other_readings(data, encoding) if encoding else ()
    messages = next((c for c in (*_CHAT, *columns) if c in cells and is_conversation(cells[c])), None)
    return Look(cells, len(looked), header, encoding, readings, messages)


def _missing_header(data: Path, encoding: str | None) -> list[str] | None:
    """Names for the columns of a CSV file whose first line looks like any other of its rows; None for one with a header."""
    first = first_cells(data, encoding)
    if first is None or (len(first) == len(set(first)) and set(map(str.lower, first)) & (TELLING | {"text", "id"})):
        return None
    names = [f"column {i + 1}" for i in range(len(first))]
    rows = [row.values for row in islice(read_rows(str(data), header=names, encoding=encoding), 2000)][1:]
    if len(rows) < 5:
        return None
    columns = [[row[name] for row in rows if row[name].strip()] for name in names]
    alike = [_like_the_rest(cell, values) for cell, values in zip(first, columns, strict=True)]
    if False in alike or True not in alike:
        return None
    longest = max(range(len(names)), key=lambda i: sum(map(len, columns[i])))
    few = [i for i, values in enumerate(columns) if i != longest and 2 <= len(set(values)) <= max(2, len(rows) // 4)]
    names[longest] = "text"
    if len(few) == 1:
        names[few[0]] = "label"
    return names


def _like_the_rest(cell: str, values: Sequence[str]) -> bool | None:
    """Whether the first cell of a column is one of its values: True and False where that is clear."""
    if not values or not cell.strip():
        return None
    numbers = sum(bool(_NUMBER.fullmatch(value.strip())) for value in values) / len(values)
    if numbers > 0.95:
        return bool(_NUMBER.fullmatch(cell.strip()))
    counts = Counter(map(label_key, values))
    if len(counts) <= min(MOST_LABELS, len(values) // 3):
        return label_key(cell) in counts
    words = sum(len(value.split()) for value in values) / len(values)
    return True if words >= 4 and len(cell.split()) >= max(4, words / 4) else None


# --- which column is what -------------------------------------------------------------------------


def answer_of(looked: Look, named: str | None, given: Collection[str]) -> Answer:
    """The column with the answers: one with few short values, or with several of a few labels, a telling name first; else a
    telling name with worked answers ("#### 7") or texts; else none.

    named: the column, where it is known. given: the labels, where they are known: a column that has none of them, or more
    others than those, is no answer.
    """
    if looked.messages is not None and named is None and not given:
        return Answer(RESPONSE, "text")
    cells = {named: looked.cells[named]} if named else looked.cells
    if named is None and {"instruction", "output"} <= looked.cells.keys():
        return Answer("output", "text")
    best: tuple[float, Answer] | None = None
    longest = None if named else max(cells, key=lambda name: sum(map(len, cells[name])))  # the text to be labelled
    wanted = set(map(label_key, given))
    for i, (name, values) in enumerate(cells.items()):
        if name == longest:
            continue
        kinds = Counter(label_key(v) for v in values if visible(v))
        few = 2 <= len(kinds) <= min(MOST_LABELS, max(2, looked.rows // 4)) and all(len(k) <= 40 for k in kinds)
        several = several_in(values)
        names = set(map(label_key, several)) or kinds.keys()
        if not (few or several) or (wanted and not named and 2 * len(wanted & names) < len(names)):
            continue
        rank = (0 if name.lower() in TELLING else 100) + len(names) - i / 1000  # of equals, the later column
        if best is None or rank < best[0]:
            labels = several or labels_in([v for v in values if visible(v)], ANSWER)
            best = (rank, Answer(name, "multi_label" if several else "choice", labels))
    if best is not None:
        return best[1]
    for name, values in cells.items():
        worked = all("####" in v for v in values if v)  # a worked answer may be longer than its question
        kind = "number" if worked or is_numbers(values) else "text"
        if named and any(values):
            return Answer(name, kind)
        telling = name.lower() in TELLING and any(values) and len(cells) > 1 and (worked or name != longest)
        if telling and not given:
            return Answer(name, kind)
    return Answer(None)


def is_numbers(values: Sequence[str]) -> bool:
    """Whether a column holds numbers and nothing else."""
    there = [value.strip() for value in values if value.strip()]
    return bool(there) and all(_NUMBER.fullmatch(value) for value in there)


def texts_of(looked: Look, answer: str | None) -> list[str]:
    """The columns that the model must read: a conversation, an instruction with its input, a pair, or the longest texts."""
    if looked.messages is not None:
        return [CONVERSATION if answer == RESPONSE else DIALOGUE]
    if answer == "output" and "instruction" in looked.cells:
        return [name for name in _INSTRUCTION[:2] if any(looked.cells.get(name, ()))]
    left = {c.lower(): c for c in looked.columns if c != answer and any(looked.cells[c])}
    for first, second in PAIRS:
        if first in left and second in left:
            return [left[first], left[second]]
    if not left:
        return []
    return [max(left.values(), key=lambda c: sum(map(len, looked.cells[c])))]


def id_of(looked: Look, others: Collection[str]) -> str | None:
    """The column that names the rows: called so, short, never blank and never twice the same."""
    for name, values in looked.cells.items():
        short = all(0 < len(value) <= 64 for value in values)
        if name not in others and _ID.fullmatch(name) and short and len(set(values)) == len(values):
            return name
    return None
