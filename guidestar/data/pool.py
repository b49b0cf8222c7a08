"""From a configuration to examples: prompts, ids, splits, gold answers, and what was found on the way.

Gold answers live apart from the examples, in `Dataset.gold` and `Split.answers`; an `Example` has no
field for them, and its template may not use the answer column.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from guidestar.config import DataConfig, RunConfig, TaskConfig, fingerprint
from guidestar.data.formats import Row, read_rows
from guidestar.data.forms import differences, nearly_shared
from guidestar.data.messages import opened
from guidestar.data.parts import SHOWN, Part, limited, raise_all, split_off, without_repeats, without_shared
from guidestar.data.presets import Normalise, apply_preset
from guidestar.data.prompts import Template, answer_column
from guidestar.data.table import IN_MEMORY, Gold, Keep, Pool, Read, Table, keep
from guidestar.errors import ConfigError, DataError, allowed
from guidestar.records import Example
from guidestar.schema import canonical
from guidestar.tasks import Task, make_task
from guidestar.tasks.common import doubtful, shown, visible

KEPT = 1 << 22  # bytes of a file from which on what was read of it is kept; smaller ones are as soon read again
VERSION = 1  # of what is kept; counted up where the same file would be read otherwise


@dataclass(frozen=True)
class Split:
    """A test or validation set. answers: canonical, in the order of `examples`, None where unknown."""

    examples: tuple[Example, ...]
    answers: tuple[str | None, ...]

    def __len__(self) -> int:
        return len(self.examples)

    def answered(self) -> list[tuple[Example, str]]:
        """The examples with a known answer, each with it."""
        return [(e, a) for e, a in zip(self.examples, self.answers, strict=True) if a is not None]

    def without(self, ids: Collection[str]) -> Split:
        """The split without some examples."""
        kept = [i for i, example in enumerate(self.examples) if example.id not in ids]
        return Split(tuple(self.examples[i] for i in kept), tuple(self.answers[i] for i in kept))


@dataclass(frozen=True)
class Dataset:
    """Everything a run knows about its data.

    gold: id of a pool example -> canonical answer; empty when the pool has no answers.
    facts: counts found while loading, for reports: `pool_rows`, `pool_duplicates`, `blank_rows` (left out, if any),
        `pool_conflicting_labels` (duplicates with another answer), `pool_without_answer`,
        `shared_with_test`, `shared_with_validation`, `validation_shared_with_test`, `pool`, `test`,
        `validation` (sizes used), `budget_exceeds_pool`; for a choice also `classes` (label -> count in
        the pool) and `majority` (the test set's most frequent label and its share). Where there are any:
        `normalised_rows` (set -> rows whose text the preset brought to its form) and `form_differences`
        (sentences: pool and test or validation prompts differ in form; see `forms`).
    hash: SHA-256 over ids, answers, template, response and labels.
    """

    pool: Pool
    gold: Mapping[str, str]
    test: Split | None
    validation: Split | None
    task: Task
    facts: Mapping[str, Any]
    hash: str


def load_dataset(config: RunConfig, kept: Keep | None = None) -> Dataset:
    """Read, check, split and count the data of a configuration.

    kept: keeps what was read of a large file, so that the next process need not read it again; the file is known by the hash
    of its bytes.
    Raises ConfigError for a template or labels that cannot work, DataError for a file, row or label
    that cannot be used and for a pool smaller than the warm start.
    """
    data, task_config, normalise = apply_preset(config.data, config.task)
    if data.test is not None and data.test_share:
        raise ConfigError("data.test and data.test_share are both given; allowed: one of them")
    template = Template(data)
    sources = {s: v for s in ("pool", "test", "validation") if (v := getattr(data, s))}
    coded = _coded(task_config)
    tables = {name: _read(source, data, template, normalise, coded, kept) for name, source in sources.items()}
    _check_answer_column(tables, data)

    cells = [table.cells[code] for table in tables.values() for code in table.codes.tolist() if code >= 0]
    task = make_task(task_config, cells, data.response)
    parts, notes = _with_gold(tables, task)

    facts: dict[str, Any] = {"pool_rows": len(parts["pool"])} | notes
    if any(table.about["changed"] for table in tables.values()):
        facts["normalised_rows"] = {name: table.about["changed"] for name, table in tables.items()}
    if blank := sum(table.about["blank"] for table in tables.values()):
        facts["blank_rows"] = blank
    pool, facts["pool_duplicates"], facts["pool_conflicting_labels"] = without_repeats(parts["pool"], data)
    test, validation = parts.get("test"), parts.get("validation")
    if test and validation:
        validation, facts["validation_shared_with_test"] = without_shared(validation, test, "test", data)
        if not validation:
            raise DataError(f"{data.validation}: every row also stands in the test set; give other rows")
    for name, part in (("test", test), ("validation", validation)):
        if part is not None:
            pool, facts[f"shared_with_{name}"] = without_shared(pool, part, name, data)
    if data.test_share:
        pool, test = split_off(pool, data)

    pool = limited(pool, data.pool_limit, data.seed, "pool")
    test = test and limited(test, data.test_limit, data.seed, "test")
    validation = validation and limited(validation, data.validation_limit, data.seed, "validation")
    if len(pool) < config.query.warm_start:
        raise DataError(
            f"{data.pool}: the pool holds {len(pool)} examples, fewer than the warm start of "
            f"{config.query.warm_start} (query.warm_start)"
        )

    examples = pool.pool(template)
    gold = _gold(pool, examples)
    splits = {"test": _split(test, template), "validation": _split(validation, template)}
    facts |= used(examples, gold, splits, task, config.query.budget)
    doubts = [] if task_config.labels else [f"{line}; name the labels in task.labels" for line in doubtful(task.labels)]
    answered = {pool.names[c] for c in np.unique(pool.codes) if c >= 0}
    others = {name: split.examples for name, split in splits.items() if split}
    if warnings := _never_in_pool(answered, splits, task) + doubts + nearly_shared(examples, others):
        facts["label_warnings"] = warnings
    if differing := [line for name, other in others.items() for line in differences(examples, other, name)]:
        facts["form_differences"] = differing
    cut = (data.cut or "end") if data.too_long == "truncate" else None
    digest = _hash(examples, pool, splits, template.text, task, cut)
    return Dataset(pool=examples, gold=gold, task=task, facts=facts, hash=digest, **splits)


def walk_examples(source: Any, config: RunConfig) -> Iterator[tuple[Row, Example | None, str | None]]:
    """Every row of a file or DataFrame, its example and its answer cell, one at a time; None for a blank row that is to be
    left out. Repeated rows have equal ids (`data/stream.py` tells them apart without holding the file in memory)."""
    data, task_config, normalise = apply_preset(config.data, config.task)
    template = Template(data)
    for row, _, fields, answer, _ in _walk(source, data, template, normalise, _coded(task_config)):
        if fields is None:
            yield row, None, None
        else:
            yield row, Example(_id_of(fields), fields, template.fill(fields), row.where), answer


# --- rows ---------------------------------------------------------------------------------------


def _coded(task: TaskConfig) -> bool:
    """Whether the configured labels are numbers, {"0": negative}, so that a label with a name in the file goes by its
    number, too."""
    return bool(task.labels) and all(re.fullmatch("[0-9]+", label.strip()) for label in task.labels or ())


def _read(
    source: str, data: DataConfig, template: Template, normalise: Normalise, coded: bool, kept: Keep | None
) -> Table:
    """The rows in the preset's form. about: how many of them came with other texts for the template (changed), how many blank
    ones were left out, whether one has the answer column, where the first stands and its columns. Raises DataError if
    nothing is left."""
    about: dict[str, Any] = {"changed": 0, "blank": 0, "answered": False, "first": None}
    column = answer_column(data)

    def read() -> Iterator[Read]:
        for row, same, fields, answer, changed in _walk(source, data, template, normalise, coded):
            if fields is None:
                about["blank"] += 1
                continue
            about["changed"] += changed
            about["answered"] = about["answered"] or column in same.columns
            about["first"] = about["first"] or (row.where, same.columns)
            yield _id_of(fields), row.where, list(fields.values()), answer

    def finished() -> Mapping[str, Any]:
        if about["first"] is None:
            raise DataError(f"{source}: all {about['blank']} rows are blank in the columns of the template")
        return about

    path = Path(source).expanduser()
    if kept is None or not path.is_file() or path.stat().st_size < KEPT:
        return Table.of(read(), finished)
    with path.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    deciding = {"preset", "header", "encoding", "messages", "blank", "columns", "answer"}
    question = data.model_dump(include=deciding, mode="json") | {
        "version": VERSION, "content": content, "template": list(template.columns), "coded": coded,
        "source": str(path.absolute()),  # a run's own copy of the configuration has it so, too
    }  # fmt: skip
    return Table.kept(kept("pool", question, lambda folder: keep(folder, read(), finished)))


def _walk(
    source: Any, data: DataConfig, template: Template, normalise: Normalise, coded: bool
) -> Iterator[tuple[Row, Row, dict[str, str] | None, str | None, bool]]:
    """Each row as it stands in the file and in the preset's form, the texts of the template's columns (None for a blank row that
    is to be left out), its answer cell, and whether it came with other texts."""
    column = answer_column(data)
    for row in read_rows(source, header=data.header, encoding=data.encoding):
        same = opened(row, data.messages) if data.messages else row
        try:
            values = normalise(same.values)
        except DataError as error:
            raise DataError(f"{row.where}: {error}") from error
        if values is not same.values:
            same = replace(same, values=values)
        spelled = template.in_case(same)
        if data.blank == "drop" and template.blank(spelled):
            yield row, same, None, None, False
            continue
        others = same is not row and not data.messages
        changed = others and any(_text(same, c) != _text(row, c) for c in template.columns.values())
        cell = same.values.get(column) if column is not None else None
        if coded and cell is not None:
            cell = same.codes.get(column or "", cell)
        yield row, same, template.fields(spelled), cell if cell is not None and visible(cell) else None, changed


def _text(row: Row, column: str) -> str:
    return row.values.get(column, "").strip()  # white space at the ends is left out of a prompt anyway


def _id_of(fields: Mapping[str, str]) -> str:
    return fingerprint(fields)[:16]


def _check_answer_column(tables: Mapping[str, Table], data: DataConfig) -> None:
    """Refuse a misspelt answer column, and test or validation rows without an answer.

    A pool may lack the column, or some answers: people will give them.
    """
    column = answer_column(data)
    measured = {name: table for name, table in tables.items() if name != "pool"}
    if column is None:
        if measured or data.test_share:
            name = next(iter(measured), "test")
            raise ConfigError(f"data.answer is missing; the {name} set is useless without gold answers")
        return
    for table in measured.values() or tables.values():
        if not table.about["answered"]:
            where, columns = table.about["first"]
            raise DataError(f"{where}: no answer column {column!r} (data.answer); {allowed(columns, column)}")
    raise_all(
        f"{table.line(row)[0]}: column {column!r} is empty; every row of the {name} set needs an answer"
        for name, table in measured.items()
        for row in np.flatnonzero(table.codes < 0).tolist()
    )


def _with_gold(tables: Mapping[str, Table], task: Task) -> tuple[dict[str, Part], dict[str, Any]]:
    """The rows with canonical answers, and a sentence for each label that the data spell in several ways ("label_notes"), where
    there is any. Raises DataError listing the rows whose answer cannot be one."""
    places, wrong, spelled = dict[str, int](), list[tuple[Table, int]](), dict[str, Counter[str]]()
    coded = {}
    for name, table in tables.items():
        codes = np.full(len(table.cells) + 1, -1, dtype=np.int32)  # the last is for rows without an answer
        counts = np.bincount(table.codes[table.codes >= 0], minlength=len(table.cells))
        for code, cell in enumerate(table.cells):
            try:
                answer = task.parse_gold(cell, "")
            except DataError:
                wrong += [(table, row) for row in np.flatnonzero(table.codes == code).tolist()]
                continue
            codes[code] = places.setdefault(answer, len(places))
            spelled.setdefault(answer, Counter())[cell.strip()] += int(counts[code])
        coded[name] = codes[table.codes]
    order = list(map(id, tables.values()))

    def problem(table: Table, row: int) -> str:
        where = table.line(row)[0]
        try:
            return task.parse_gold(table.cells[table.codes[row]], where)
        except DataError as error:
            return str(error)

    wrong.sort(key=lambda pair: (order.index(id(pair[0])), pair[1]))
    answered = sum(int((table.codes >= 0).sum()) for table in tables.values())
    if len(wrong) > max(SHOWN, answered // 2):  # the column is no such column: one sentence says more than many
        raise DataError(
            f"{problem(*wrong[0])}; the same holds of {len(wrong)} of {answered} answers, so task.kind {task.kind!r} does not "
            "fit this column (data.answer)"
        )
    raise_all(problem(*one) for one in wrong)
    parts = {n: Part(t, np.arange(len(t)), coded[n], list(places)) for n, t in tables.items()}
    return parts, _spellings(spelled, task)


def _gold(part: Part, examples: Pool) -> Gold:
    codes = np.full(len(part.table), -1, dtype=np.int32)
    codes[part.rows] = part.codes
    return Gold(examples, codes, part.names)


def _split(part: Part | None, template: Template) -> Split | None:
    if part is None:
        return None
    return Split(tuple(part.pool(template)), tuple(part.names[c] if c >= 0 else None for c in part.codes.tolist()))


# --- facts --------------------------------------------------------------------------------------


def used(
    pool: Pool, gold: Mapping[str, str], splits: Mapping[str, Split | None], task: Task, budget: int
) -> dict[str, Any]:
    """The facts of a `Dataset` that follow from the examples in use: sizes, classes, the majority baseline."""
    answers = gold.of(pool) if isinstance(gold, Gold) else [gold[id] for id in pool.ids if id in gold]
    facts: dict[str, Any] = {
        "pool": len(pool),
        **{name: len(split or ()) for name, split in splits.items()},
        "pool_without_answer": len(pool) - len(answers),
        "budget_exceeds_pool": budget > len(pool),
    }
    return facts | (_class_facts(task, answers, splits["test"]) if task.labels else {})


def _class_facts(task: Task, answers: Sequence[str], test: Split | None) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if answers:
        counts = Counter[str]()
        for answer, times in Counter(answers).items():
            counts.update(dict.fromkeys(task.parts(answer), times))
        facts["classes"] = {label: counts[label] for label in task.labels}
    if test:
        label, count = max(Counter(test.answers).items(), key=lambda pair: (pair[1], str(pair[0])))
        facts["majority"] = {"label": label, "share": count / len(test)}
    return facts


def _spellings(spelled: Mapping[str, Counter[str]], task: Task) -> dict[str, Any]:
    """spelled: canonical answer -> its spellings."""
    notes = []
    for label in task.classes:
        ours = {label, task.words[task.labels.index(label)], task.response_text(label)}
        counts = spelled.get(label, Counter()).most_common()
        others = [f"{shown(name)} ({count} rows)" for name, count in counts if name not in ours]
        if others:
            more = f" and {len(others) - 5} more" if len(others) > 5 else ""
            notes.append(f"the label {label!r} is also spelled {', '.join(others[:5])}{more}; they count as one")
    return {"label_notes": notes} if notes else {}


def _never_in_pool(answers: Collection[str], splits: Mapping[str, Split | None], task: Task) -> list[str]:
    """A sentence for each label of a test or validation set that no answered example of the pool has."""
    known = {part for answer in answers for part in task.parts(answer)}
    sentences = []
    for name, split in splits.items():
        theirs = split.answers if split and known else ()
        counts = Counter(part for answer in theirs if answer for part in task.parts(answer))
        sentences += [
            f"{count} of {len(split or ())} rows of the {name} set have the label {shown(label)}, which no answered row of the "
            "pool has, so no model can learn it; is it spelled in another way there?"
            for label, count in sorted(counts.items())
            if label not in known
        ]
    return sentences


def _hash(
    examples: Pool, part: Part, splits: Mapping[str, Split | None], template: str, task: Task, cut: str | None
) -> str:
    """`fingerprint` of all that makes the data, the pool's ids and answers a piece at a time."""
    labels = list(zip(task.labels, task.words, strict=True)) if task.labels else None
    others: dict[str, Any] = {"template": template, "response": task.response, "labels": labels}
    others |= {"cut": cut} if cut else {}
    for name, split in splits.items():
        if split is not None:
            others[name] = list(zip((e.id for e in split.examples), split.answers, strict=True))
    answers = [*map(canonical, part.names), "null"]  # that of -1 is the last
    digest = hashlib.sha256(b"{")
    for name in (names := sorted([*others, "pool"])):
        digest.update(f"{canonical(name)}:{'[' if name == 'pool' else canonical(others[name])}".encode())
        for start in range(0, len(part) if name == "pool" else 0, IN_MEMORY):
            some = np.arange(start, min(start + IN_MEMORY, len(part)))
            pairs = zip(examples.take(some).ids, part.codes[some].tolist(), strict=True)
            text = ",".join(f'["{id}",{answers[code]}]' for id, code in pairs)
            digest.update((f",{text}" if start else text).encode())
        digest.update(("]" if name == "pool" else "").encode() + (b"}" if name == names[-1] else b","))
    return digest.hexdigest()
