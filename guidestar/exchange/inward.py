"""From a file to a run: every row checked, matched to its example, and stored; all or nothing."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from guidestar import config as configs
from guidestar.config import DataConfig, RunConfig
from guidestar.data.pool import load_dataset, walk_examples
from guidestar.data.presets import apply_preset
from guidestar.data.prompts import answer_column, in_case_of
from guidestar.errors import DataError
from guidestar.exchange import containers
from guidestar.exchange.matching import OURS, Index
from guidestar.exchange.outward import about_run, rows_of
from guidestar.exchange.rows import About, Format, Given, Row, moment
from guidestar.exchange.table import format_of, recognise
from guidestar.exchange.tables import OWN
from guidestar.records import Annotation, Example, Flag, Label, Note, Skip, Undo, Verdict
from guidestar.store import Store, find_run
from guidestar.tasks import Task, recorded_task
from guidestar.words import listed

NOBODY = "import"  # who answers in a file without names, unless the user says
SOURCE = "import"
SHOWN = 20  # problems listed at once
COUNTS = ("new", "unchanged", "changed_since", "not_asked", "without_answer", "rejected", "kept_apart", "unknown")


Slot = tuple[str, str, str]  # example, kind, annotator; a verdict has one slot for all
_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Statement:
    """One thing that a file says. at: when, in the file's words, "" if it does not say."""

    example: Example
    annotation: Annotation
    at: str
    where: str

    @property
    def slot(self) -> Slot:
        """What it is said about and by whom: the newest of a slot counts."""
        return _slot(self.example.id, self.annotation)

    @cached_property
    def time(self) -> datetime | None:
        """`at` as a time."""
        return moment(self.at)

    @property
    def stamp(self) -> str:
        """What tells it from the same thing said at another time, however that time is written."""
        return self.time.isoformat() if self.time else self.at


def import_file(
    run: Path,
    file: Path,
    *,
    format: str | None = None,
    annotator: str | None = None,
    pool: Sequence[Example] | None = None,
    skip_unknown: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, int]:
    """Store what a file says about the examples of a run, or nothing if anything in it cannot be used.

    run: the folder of a run, or one with a single run in it. format: a name of `FORMATS`, with the column, control or
    question that holds the answer behind a colon where it is not plain; recognised if not given. annotator: who gave
    the answers that name nobody. pool: the examples that may be labelled though nobody asked for them; read with the
    configuration beside the run if not given. skip_unknown: leave out rows about texts that are in neither.

    A row is matched by our id, else by its text, else by what the column `data.id` holds. The same file again changes nothing. Of what one annotator says about an
    example, in one file or in several, the newest by its own time counts. Returns counts: `new`, `unchanged` (stand so
    already), `changed_since` (the run has something newer, or it was imported before and has been changed in the run; left
    as they are), `not_asked` (examples added), `without_answer`, `rejected`, `kept_apart` (rows of the test and validation sets,
    which nobody is to label), `unknown` (rows left out).

    Raises DataError with all problems, by file and line; ConfigError for an unknown format.
    """
    name = format or recognise(file)
    if format is None:
        say(f"{file}: read as {name}; another format can be named with --format")
    chosen, question = format_of(name)
    with Store.open(find_run(run)) as store:
        file_of_config = configs.kept_in(store.folder)
        config = None if file_of_config is None else configs.load(file_of_config)
        rows_known = rows_of(store)
        asked = [Example(row.id, row.fields, row.prompt, row.where) for row in rows_known]
        data = cache(lambda: None if config is None else load_dataset(config))  # read when a row needs it, and once
        index = Index(
            asked,
            lambda: pool if pool is not None else all_of.pool if (all_of := data()) else (),
            lambda: (
                [e for s in (all_of.test, all_of.validation) if s for e in s.examples] if (all_of := data()) else []
            ),
        )
        about = replace(_about(about_run(store, rows_known), index, config), question=question)
        problems: list[str] = []
        counts = Counter(dict.fromkeys(COUNTS, 0))
        read = _read(file, chosen, about, problems, _OwnIds(config) if config is not None and config.data.id else None)
        rows = _matched(read, index, problems, counts, skip_unknown)
        statements = _statements(rows, _task(store, config), annotator or NOBODY, problems)
        if problems:
            raise DataError("\n".join(_listed(problems)))
        _store(store, statements, counts, edited=chosen.mine is None)
    if annotator is None and any(
        "" in (*(g.annotator for g in row.answers), *row.flags, *row.notes) for row, _ in rows
    ):
        say(f"answers that name nobody are stored as by {NOBODY!r}; another name can be given with --annotator")
    if counts["changed_since"]:
        say(f"{counts['changed_since']} answers are older than what the run has now, which stays as it is")
    return dict(counts)


# --- the run --------------------------------------------------------------------------------------


def _about(about: About, index: Index, config: RunConfig | None) -> About:
    fields = about.fields or index.field_names
    if config is None:
        return replace(about, fields=fields)
    data, _, _ = apply_preset(config.data, config.task)
    columns = {column: name for name, column in data.columns.items() if name in fields}
    return replace(about, fields=fields, columns=columns, answer=answer_column(data))


def _task(store: Store, config: RunConfig | None) -> Task:
    """The run's task, with the labels that the run has recorded."""
    data, task, _ = (DataConfig(), None, None) if config is None else apply_preset(config.data, config.task)
    return recorded_task(store.facts, data.response, task)


# --- the file -------------------------------------------------------------------------------------


class _OwnIds:
    """The ids that the user's files give to their rows, by the column `data.id`; the files are read when one is looked for."""

    def __init__(self, config: RunConfig) -> None:
        self.config, self.column = config, str(config.data.id)

    @cached_property
    def _ours(self) -> dict[str, str]:
        data, _, _ = apply_preset(self.config.data, self.config.task)
        sources = [source for source in (data.pool, data.test, data.validation) if source is not None]
        walked = [pair for source in sources for pair in walk_examples(source, self.config)]
        return {
            row.values[self.column].strip(): e.id for row, e, _ in reversed(walked) if e and row.values.get(self.column)
        }

    def named(self, row: Row, record: Any, where: str) -> Row:
        """The row with our id, if it has none and no text. Raises DataError for an own id that no row has."""
        own = str(record.get(self.column) or "").strip() if isinstance(record, Mapping) else ""
        if not own or row.text or row.fields or OURS.fullmatch(row.id):
            return row
        if own not in self._ours:
            raise DataError(f"{where}: no row of the data has {own!r} in the column {self.column!r} (data.id)")
        return replace(row, id=self._ours[own])


def _read(file: Path, chosen: Format, about: About, problems: list[str], own: _OwnIds | None) -> list[Row]:
    rows: list[Row] = []
    extra = (about.answer, about.question, own.column if own else None)
    names = {*about.fields, *about.columns, *OWN, "label", *(name for name in extra if name)}
    for where, record in containers.load(file):
        try:
            if isinstance(record, DataError):
                raise record
            if chosen.mine is None and isinstance(record, Mapping):
                spelled = in_case_of(names, record)
                record = {spelled[column]: value for column, value in record.items()}
            row = replace(chosen.read(record, about, where), where=where)
            row = own.named(row, record, where) if own and row.says_something else row
            if row.says_something and not (row.id or row.text or row.fields):
                wanted = listed([*about.fields, *([own.column] if own else []), "id"], "or")
                raise DataError(
                    f"{where}: no id of an example, and no text: expected {wanted}, found {', '.join(record)}"
                )
            rows.append(row)
        except DataError as error:
            problems.append(str(error))
    return rows


def _listed(problems: Sequence[str]) -> list[str]:
    """The first problems, what is wrong with several rows once."""
    rows = Counter(problem.partition(": ")[2] for problem in problems)
    firsts = {problem.partition(": ")[2]: problem.partition(": ")[0] for problem in reversed(problems)}
    lines = [f"{firsts[text]}{f' and {n - 1} more' if n > 1 else ''}: {text}" for text, n in rows.items()]
    more = len(lines) - SHOWN
    return [*lines[:SHOWN], *([f"… and {more} more problems"] if more > 0 else [])]


def _matched(
    rows: Iterable[Row], index: Index, problems: list[str], counts: Counter[str], skip_unknown: bool
) -> list[tuple[Row, Example]]:
    """The rows in which somebody is heard, each with its example."""
    matched: list[tuple[Row, Example]] = []
    for row in rows:
        counts["rejected"] += row.rejected
        if not row.says_something:
            counts["without_answer"] += not row.rejected
            continue
        try:
            example = index.find(row)
        except DataError as error:
            problems.append(str(error))
            continue
        if example is not None:
            matched.append((row, example))
        elif index.is_kept_apart(row):
            counts["kept_apart"] += 1
        elif skip_unknown:
            counts["unknown"] += 1
        else:
            problems.append(index.missing(row))
    return matched


def _statements(rows: Iterable[tuple[Row, Example]], task: Task, nobody: str, problems: list[str]) -> list[Statement]:
    """What the rows say in the task's own terms, in the file's order; of one slot in the order of its times."""
    said: dict[Slot, list[Statement]] = {}
    finals: list[tuple[Example, str, str]] = []
    for row, example in rows:
        try:
            for annotation, at in _annotations(row, task, nobody):
                new = Statement(example, annotation, at, row.where)
                if why := _no_time(new):
                    raise DataError(f"{row.where}: {why}")
                said.setdefault(new.slot, []).append(new)
            if row.final and row.final.answer:
                finals.append((example, task.parse_gold(row.final.answer, row.where), row.where))
        except DataError as error:
            problems.append(str(error))
    statements = [statement for slot in said.values() for statement in _in_order(slot, problems)]
    problems += _without_ground(statements, finals)
    return statements


def _no_time(said: Statement) -> str:
    """What is wrong with a time that is given: as "now" it would replace what is newer, and from the future all that follows."""
    if said.at and said.time is None:
        return f"the time {said.at!r} cannot be read; allowed: ISO 8601, or a number of seconds since 1970"
    if said.time is not None and said.time > datetime.now(UTC) + timedelta(days=1):
        return f"the time {said.at!r} lies in the future"
    return ""


def _in_order(said: Sequence[Statement], problems: list[str]) -> list[Statement]:
    """What is said in one slot, the newest last; the same thing once. A problem where no time tells what is newest."""
    if len({_content(s.annotation) for s in said}) == 1:
        return [max(said, key=lambda s: s.time or _NEVER)]
    times = [s.time for s in said]
    newest = [s for s in said if None in times or s.time == max(times)]  # type: ignore[type-var]
    conflict = next((s for s in newest if _content(s.annotation) != _content(newest[0].annotation)), None)
    if conflict is not None:
        problems.append(_conflict(newest[0], conflict))
        return [said[0]]
    return sorted(said, key=lambda s: s.time or _NEVER)


def _annotations(row: Row, task: Task, nobody: str) -> Iterable[tuple[Annotation, str]]:
    def name(given: Given) -> str:
        return given.annotator or nobody

    for given in row.answers:
        if given.answer is None:
            yield Skip(given.reason, name(given)), given.at
        else:
            yield Label(task.parse_gold(given.answer, row.where), name(given)), given.at
    if row.verdict is not None and row.verdict.answer is not None:
        yield Verdict(task.parse_gold(row.verdict.answer, row.where), name(row.verdict)), row.verdict.at
    yield from ((Flag(who or nobody), "") for who in row.flags)
    yield from ((Note(text, who or nobody), "") for who, text in row.notes.items() if text)


def _kind(annotation: Annotation) -> str:
    return "answer" if isinstance(annotation, (Label, Skip, Undo)) else type(annotation).__name__.lower()


def _slot(id: str, annotation: Annotation) -> Slot:
    return id, _kind(annotation), "" if isinstance(annotation, Verdict) else annotation.annotator


def _content(annotation: Annotation) -> tuple[str, ...]:
    """What must not differ between two rows; the reason of a skip may."""
    match annotation:
        case Label(answer) | Verdict(answer):
            return ("label", answer)
        case Note(text):
            return ("note", text)
        case _:
            return (type(annotation).__name__,)


def _conflict(before: Statement, new: Statement) -> str:
    who = new.annotation.annotator
    one, other = (_content(s.annotation)[-1] for s in (before, new))
    what = {"answer": "answers", "note": "notes", "verdict": "verdicts"}[_kind(new.annotation)]
    return (
        f"{new.where}: two different {what} of {who} about one example: {other!r} here, {one!r} at "
        f"{before.where.rpartition('/')[2]}, and no time tells which is newer; keep one of them"
    )


def _without_ground(said: Iterable[Statement], finals: Sequence[tuple[Example, str, str]]) -> list[str]:
    """Answers that are said to count though nobody gave them: somebody edited the wrong cell."""
    given: dict[str, set[str]] = {}
    for statement in said:
        if isinstance(statement.annotation, (Label, Verdict)):
            given.setdefault(statement.example.id, set()).add(statement.annotation.answer)
    return [
        f"{where}: {answer!r} is said to count, but no annotator of the row gave it; change an annotator's answer"
        for example, answer, where in finals
        if answer not in given.get(example.id, {answer})
    ]


# --- storing --------------------------------------------------------------------------------------


def _store(store: Store, statements: Sequence[Statement], counts: Counter[str], *, edited: bool) -> None:
    """edited: an answer with the very time of another one that stands was changed by hand."""
    stands: dict[Slot, tuple[Annotation, datetime]] = {}
    for entry in store.annotations.history():
        stands[_slot(entry.id, entry.annotation)] = (entry.annotation, datetime.fromisoformat(entry.at))
    fresh: list[tuple[Statement, bool]] = []  # and whether it changes what stands
    for statement in statements:
        now, since = stands.get(statement.slot, (None, None))
        said = statement.annotation
        same = said == now or (isinstance(said, Skip) and not said.reason and isinstance(now, Skip))
        if edited and not same and statement.time == since:  # in a table of ours, whose times nobody keeps up to date
            statement = replace(statement, at="")
        if not same if statement.time is None or since is None else statement.time > since:
            fresh.append((statement, not same))
            stands[statement.slot] = (statement.annotation, statement.time or datetime.now(UTC))
        else:
            counts["unchanged" if same else "changed_since"] += 1
    counts["not_asked"] += store.annotations.add_extra([statement.example for statement, _ in fresh])
    items = [(s.example.id, s.annotation, _decision(s), SOURCE, s.time) for s, _ in fresh]
    for stored, (_, changes) in zip(store.annotations.add_many(items), fresh, strict=True):
        counts["unchanged" if not changes else "new" if stored else "changed_since"] += 1


def _decision(statement: Statement) -> str:
    """The same for the same thing said at the same time, so that a file can be imported again."""
    said = statement.annotation
    content = [statement.example.id, _kind(said), *_content(said), said.annotator, statement.stamp]
    if isinstance(said, Skip):
        content.append(said.reason)
    return f"import-{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]}"
