"""The neutral record between a run and any file format, and what every format needs to read and write it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from guidestar.errors import DataError
from guidestar.records import Suggestion
from guidestar.tasks.multi_label import JOINT, NONE
from guidestar.words import shortened

KEY = "guidestar"  # the one key that we add to another tool's records; tools hand unknown keys back as they came
FIELD = "fields."  # stands before the name of a field that is also one of a format's own names

Record = Mapping[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Given:
    """What one annotator said of an example, as a file has it.

    annotator: "" where the file names nobody. answer: None for a skip, whose `reason` may be empty.
    at: when it was said, in the words of its tool, see `moment`; "" where that is not known.
    """

    annotator: str
    answer: str | None
    reason: str = ""
    at: str = ""


@dataclass(frozen=True)
class Row:
    """One example and all that annotators say of it. A file may have several rows about one example.

    id: the example's id, "" where a file has none.
    fields: column -> text. text: the only text of tools that show one, else "".
    answers: in the order given. final: the answer that counts. verdict: what was settled on.
    flags: annotators who flag it. notes: annotator -> remark; both may name "" when read from a file.
    rejected: the file says what the answer is not, and more than one other is left.
    where: file and line, for messages.
    """

    id: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)
    text: str = ""
    prompt: str = ""
    round: int | None = None
    score: float | None = None
    answers: tuple[Given, ...] = ()
    final: Given | None = None
    verdict: Given | None = None
    flags: tuple[str, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)
    suggestion: Suggestion | None = None
    rejected: bool = False
    where: str = ""

    @property
    def says_something(self) -> bool:
        """Whether an annotator is heard in it."""
        return bool(self.answers or self.verdict or self.flags or self.notes)


@dataclass(frozen=True)
class About:
    """What a format must know of the run and of the user's wish.

    labels: those of which exactly one is an answer, or any number (several); () where answers are texts. fields: names of the examples' fields.
    columns: column of the user's files -> field, where the names differ. answer: the column with answers there.
    question: the question, control or column to use where a file has several.
    """

    labels: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    answer: str | None = None
    question: str | None = None
    several: bool = False


@dataclass(frozen=True)
class Format:
    """One file format.

    doc: what it is, for lists. container: how its records lie in a file, a name of `CONTAINERS`.
    write: the records of one row. read: the row of one record; raises DataError if it cannot be used.
    mine: whether a record looks like this tool's own, so that a file can be recognised; None for our own formats, which are
    told by the file's extension.
    hint: what the user must set up in the tool, in its own words.
    """

    doc: str
    container: str
    write: Callable[[Row, About], list[dict[str, Any]]]
    read: Callable[[Record, About, str], Row]
    mine: Callable[[Record], bool] | None = None
    hint: Callable[[About], str] | None = None


_COMPACT = re.compile(r"((?:19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:[0-2][0-9]|3[01]))([0-2][0-9][0-5][0-9][0-5][0-9])?")


def moment(at: str) -> datetime | None:
    """A tool's time: ISO 8601, UTC where it names no zone; or seconds, milli-, micro- or nanoseconds since 1970. None for
    anything else.

    >>> moment("2024-06-01T12:00:00+02:00") == moment("2024-06-01T10:00:00Z") == moment("1717236000")
    True
    """
    at = at.strip().removesuffix(" UTC")
    if date := _COMPACT.fullmatch(at):  # 20240601 is a date and no number of seconds
        at = f"{date[1]}T{date[2] or '000000'}"
    try:
        number = float(at)
    except ValueError:
        try:
            time = datetime.fromisoformat(at)
            return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
        except (ValueError, OverflowError):
            return None
    scale = next((scale for scale in (1.0, 1e3, 1e6, 1e9) if abs(number) < 1e11 * scale), None)
    try:
        return None if scale is None else datetime.fromtimestamp(number / scale, UTC)
    except (ValueError, OverflowError, OSError):  # before the year 1
        return None


# --- names of fields ----------------------------------------------------------------------------


def columns_of(fields: Mapping[str, str], own: Collection[str]) -> dict[str, str]:
    """Fields under names that are none of a format's `own`.

    >>> columns_of({"text": "a", "id": "b", "fields.id": "c"}, {"id"})
    {'text': 'a', 'fields.id': 'b', 'fields.fields.id': 'c'}
    """
    return {FIELD + k if k in own or k.startswith(FIELD) else k: v for k, v in fields.items()}


def fields_in(record: Record, about: About, own: Collection[str]) -> tuple[dict[str, str], dict[str, Any]]:
    """(the fields in a record, the rest): the way back from `columns_of`, also for the user's own files.

    A name of the format's own is a field if the run has a field of that name and it stands under no other.
    """
    fields: dict[str, str] = {}
    rest: dict[str, Any] = {}
    for column, value in record.items():
        name = column.removeprefix(FIELD) if column.startswith(FIELD) else about.columns.get(column, column)
        taken = column in own and (column not in about.fields or FIELD + column in record)
        if name in about.fields and not taken and isinstance(value, str):
            fields[name] = value
        else:
            rest[column] = value
    return fields, rest


def fields_or_none(record: Record, about: About, own: Collection[str]) -> dict[str, str]:
    """The fields of a tool that shows one text, if all are there; else its `text` is not the field of that name."""
    fields, _ = fields_in(record, about, own)
    return fields if fields.keys() == set(about.fields) else {}


def shown(row: Row) -> str:
    """The one text for tools that show one: the only field, else the filled template."""
    return next(iter(row.fields.values())) if len(row.fields) == 1 else row.prompt


# --- our own part of a record -------------------------------------------------------------------


def kept(row: Row) -> dict[str, Any]:
    """All of a row but fields, prompt and suggestion, as plain data without empty parts; `from_kept` reads it."""
    parts = {
        "id": row.id,
        "round": row.round,
        "score": row.score,
        "answers": [plain_given(given) for given in row.answers],
        "final": plain_given(row.final) if row.final else None,
        "verdict": plain_given(row.verdict) if row.verdict else None,
        "flags": list(row.flags),
        "notes": [{"annotator": who, "text": text} for who, text in row.notes.items()],
    }
    return {name: value for name, value in parts.items() if value not in (None, "", [])}


def from_kept(kept: Any, where: str) -> Row:
    """The row of `kept`, also from its JSON text. Raises DataError if it is not of that form."""
    record = as_object(kept, f"{where}: {KEY}")
    said = {name: nested(record.get(name)) for name in ("answers", "final", "verdict", "flags", "notes")}
    round = str(record.get("round"))
    final, verdict = (given(said[name], f"{where}: {name}") if said[name] else None for name in ("final", "verdict"))
    return Row(
        id=text_of(record.get("id"), f"{where}: id"),
        round=int(round) if round.lstrip("-").isdecimal() else None,
        answers=tuple(given(item, f"{where}: answers") for item in as_list(said["answers"], f"{where}: answers")),
        final=final,
        verdict=verdict,
        flags=tuple(text_of(who, f"{where}: flags") for who in as_list(said["flags"], f"{where}: flags")),
        notes=_notes(said["notes"], f"{where}: notes"),
        where=where,
    )


def plain_given(given: Given) -> dict[str, str]:
    """A `Given` as plain data; a skip has the key `skip`, with its reason, in place of `answer`."""
    said = {"skip": given.reason} if given.answer is None else {"answer": given.answer}
    return {"annotator": given.annotator, **said, **({"at": given.at} if given.at else {})}


def given(data: Any, where: str) -> Given:
    """The way back from `plain_given`."""
    record = as_object(data, where)
    annotator, at = text_of(record.get("annotator"), where), text_of(record.get("at"), where)
    if (answer := record.get("answer")) is not None:
        return Given(annotator, text_of(answer, where), at=at)
    if (reason := record.get("skip")) is None:
        raise DataError(f"{where}: found neither 'answer' nor 'skip' in {shortened(repr(data), 60)}; one is needed")
    return Given(annotator, None, text_of(reason, where), at)


def merged(native: Sequence[Given], ours: Sequence[Given]) -> tuple[Given, ...]:
    """What a tool says, filled in from what we had given it; where they differ, the tool is right.

    Reasons and times, which tools drop, come back, and so do annotators whom the tool does not name. Another answer with
    our own time was given at a time that the tool does not say.
    """
    known: list[Given] = []
    for given in ours:
        theirs = [other for other in native if other.annotator == given.annotator]
        theirs = [other if moment(other.at) != moment(given.at) else replace(other, at="") for other in theirs]
        known += [given if other.answer == given.answer else other for other in theirs] or [given]
    before = {given.annotator for given in ours}
    return (*known, *(given for given in native if given.annotator not in before))


def _notes(data: Any, where: str) -> dict[str, str]:
    if isinstance(data, Mapping):
        return {str(who): text_of(text, where) for who, text in data.items()}
    return {text_of(item.get("annotator"), where): text_of(item.get("text"), where) for item in objects(data, where)}


# --- values of other people's files -------------------------------------------------------------


def nested(value: Any) -> Any:
    """A list or object that a table holds as its JSON text."""
    if isinstance(value, str) and value[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def as_list(value: Any, where: str) -> list[Any]:
    """A list; nothing is an empty one. Raises DataError for anything else."""
    return _shaped(value, list, "a list", where)


def as_object(value: Any, where: str) -> Record:
    """An object; nothing is an empty one. Raises DataError for anything else."""
    return _shaped(value, dict, "an object", where)


def objects(value: Any, where: str) -> list[Record]:
    """A list of objects. Raises DataError for anything else."""
    return [as_object(item, where) for item in as_list(value, where)]


def _shaped(value: Any, kind: type[T], what: str, where: str) -> T:
    value = nested(value)
    if value is None or value == "":
        return kind()
    if not isinstance(value, kind):
        raise DataError(f"{where}: found {shortened(repr(value), 60)}, expected {what}")
    return value


def text_of(value: Any, where: str) -> str:
    """A text, or a number or truth value as JSON writes it; "" for nothing. Raises DataError for the rest."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, int, float)):
        return json.dumps(value)
    raise DataError(f"{where}: found {shortened(repr(value), 60)}, expected a text")


def labels_in(value: Any, about: About) -> Any:
    """A label, or the list of them that a table holds as its JSON text; a label may look like one, "[1]"."""
    return nested(value) if about.labels and value not in about.labels else value


def parts_of(answer: str | None, about: About) -> list[str]:
    """The labels of an answer, for tools that list them."""
    if answer is None or (about.several and answer == NONE):
        return []
    return answer.split(JOINT) if about.several else [answer]


def single(value: Any, where: str, about: About, none: str | None = None) -> str | None:
    """The answer that a list of labels makes, or a label alone; None for nothing. none: what an empty list says, where
    several labels may hold.

    Raises DataError for a list of several where an example has one label.
    """
    if isinstance(value, list) and about.several:
        return JOINT.join(text_of(item, where) for item in value) or none
    if isinstance(value, list):
        if len(value) > 1:
            raise DataError(
                f"{where}: found {len(value)} labels, {', '.join(map(repr, value))}; exactly one is allowed"
            )
        value = value[0] if value else None
    return text_of(value, where) or None


def only(names: Iterable[str], about: About, preferred: Sequence[str], where: str, what: str) -> str | None:
    """The question to read: the one the user names, a preferred name, or the only one; None if there is none."""
    there = list(names)
    if about.question is not None:
        return about.question if about.question in there else None
    if name := next((name for name in preferred if name in there), None):
        return name
    if len(there) > 1:
        raise DataError(
            f"{where}: several {what}: {', '.join(map(repr, there))}; name one behind the format, like --format FORMAT:{there[0]}"
        )
    return there[0] if there else None
