"""From a configuration to examples: prompts, ids, splits, gold answers, and what was found on the way.

Gold answers live apart from the examples, in `Dataset.gold` and `Split.answers`; an `Example` has no
field for them, and its template may not use the answer column.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from guidestar.config import DataConfig, RunConfig, TaskConfig, fingerprint
from guidestar.data.formats import Row, read_rows
from guidestar.data.forms import differences
from guidestar.data.messages import opened
from guidestar.data.presets import Normalise, apply_preset
from guidestar.data.prompts import Template, answer_column
from guidestar.errors import ConfigError, DataError, allowed
from guidestar.records import Example
from guidestar.rng import generator
from guidestar.tasks import Task, make_task
from guidestar.tasks.common import doubtful, shown, visible

SHOWN = 20  # problems listed at once
T = TypeVar("T")


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

    pool: tuple[Example, ...]
    gold: Mapping[str, str]
    test: Split | None
    validation: Split | None
    task: Task
    facts: Mapping[str, Any]
    hash: str


@dataclass(frozen=True)
class _Item:
    """An example beside its answer cell (later its canonical answer); never leaves this file."""

    example: Example
    answer: str | None


def template_of(config: RunConfig) -> Template:
    """The prompt template of a configuration or of its preset."""
    data = apply_preset(config.data, config.task)[0]
    return Template(_required(data.template, "template"), data)


def load_dataset(config: RunConfig) -> Dataset:
    """Read, check, split and count the data of a configuration.

    Raises ConfigError for a template or labels that cannot work, DataError for a file, row or label
    that cannot be used and for a pool smaller than the warm start.
    """
    data, task_config, normalise = apply_preset(config.data, config.task)
    if data.test is not None and data.test_share:
        raise ConfigError("data.test and data.test_share are both given; allowed: one of them")
    template = template_of(config)
    pool_source = _required(data.pool, "pool")

    sources = {"pool": pool_source} | {s: v for s in ("test", "validation") if (v := getattr(data, s))}
    coded = _coded(task_config)
    read = {name: _read(source, data, template, normalise, coded) for name, source in sources.items()}
    sets = {name: rows for name, (rows, _, _) in read.items()}
    _check_answer_column(sets, data)
    rows = {name: [item for _, item in found] for name, found in sets.items()}

    cells = [item.answer for items in rows.values() for item in items if item.answer is not None]
    task = make_task(task_config, cells, data.response)
    items = _with_gold(rows, task)

    facts: dict[str, Any] = {"pool_rows": len(items["pool"])} | _spellings(rows, items, task)
    if any(changed for _, changed, _ in read.values()):
        facts["normalised_rows"] = {name: changed for name, (_, changed, _) in read.items()}
    if blank := sum(blank for _, _, blank in read.values()):
        facts["blank_rows"] = blank
    pool, facts["pool_duplicates"], facts["pool_conflicting_labels"] = _without_repeats(items["pool"], data)
    test, validation = items.get("test"), items.get("validation")
    if test and validation:
        validation, facts["validation_shared_with_test"] = _without_shared(validation, test, "test", data)
        if not validation:
            raise DataError(f"{data.validation}: every row also stands in the test set; give other rows")
    for name, other in (("test", test), ("validation", validation)):
        if other is not None:
            pool, facts[f"shared_with_{name}"] = _without_shared(pool, other, name, data)
    if data.test_share:
        pool, test = _split_off(pool, data)

    pool = _limited(pool, data.pool_limit, data.seed, "pool")
    test = test and _limited(test, data.test_limit, data.seed, "test")
    validation = validation and _limited(validation, data.validation_limit, data.seed, "validation")
    if len(pool) < config.query.warm_start:
        raise DataError(
            f"{pool_source}: the pool holds {len(pool)} examples, fewer than the warm start of "
            f"{config.query.warm_start} (query.warm_start)"
        )

    pool = _with_distinct_ids(pool)
    gold = {item.example.id: item.answer for item in pool if item.answer is not None}
    splits = {"test": _split(test), "validation": _split(validation)}
    examples = [item.example for item in pool]
    facts |= used(examples, gold, splits, task, config.query.budget)
    doubts = [] if task_config.labels else [f"{line}; name the labels in task.labels" for line in doubtful(task.labels)]
    if unknown := [*_never_in_pool(gold, splits, task), *doubts]:
        facts["label_warnings"] = unknown
    if found := [d for name, split in splits.items() if split for d in differences(examples, split.examples, name)]:
        facts["form_differences"] = found
    return Dataset(
        pool=tuple(examples),
        gold=gold,
        test=splits["test"],
        validation=splits["validation"],
        task=task,
        facts=facts,
        hash=_hash(pool, splits, template.text, task, (data.cut or "end") if data.too_long == "truncate" else None),
    )


def read_examples(source: str, config: RunConfig) -> tuple[list[Example], list[str | None]]:
    """Any file as examples under the template of a configuration, in the file's order.

    Returns the examples and their answer cells as they stand in the file (`task.parse_gold` makes them
    canonical); None where the file has no answer. Repeated rows stay, with ids of their own.
    """
    walked = walk_examples(source, config)
    items = _with_distinct_ids([_Item(example, answer) for _, example, answer in walked if example is not None])
    return [item.example for item in items], [item.answer for item in items]


def walk_examples(source: Any, config: RunConfig) -> Iterator[tuple[Row, Example | None, str | None]]:
    """Every row of a file or DataFrame, its example and its answer cell, one at a time; None for a blank row that is to be
    left out. Repeated rows have equal ids (`data/stream.py` tells them apart without holding the file in memory)."""
    data, task_config, normalise = apply_preset(config.data, config.task)
    template = template_of(config)
    for row, _, item, _ in _walk(source, data, template, normalise, _coded(task_config)):
        yield (row, None, None) if item is None else (row, item.example, item.answer)


# --- rows ---------------------------------------------------------------------------------------


def _coded(task: TaskConfig) -> bool:
    """Whether the configured labels are numbers, {"0": negative}, so that a label with a name in the file goes by its
    number, too."""
    return bool(task.labels) and all(re.fullmatch("[0-9]+", label.strip()) for label in task.labels or ())


def _read(
    source: str, data: DataConfig, template: Template, normalise: Normalise, coded: bool
) -> tuple[list[tuple[Row, _Item]], int, int]:
    """The rows in the preset's form, how many of them came with other texts for the template, and how many blank ones
    were left out. Raises DataError if nothing is left."""
    found, changed, blank = [], 0, 0
    for _, row, item, other in _walk(source, data, template, normalise, coded):
        if item is None:
            blank += 1
        else:
            found.append((row, item))
        changed += other
    if not found:
        raise DataError(f"{source}: all {blank} rows are blank in the columns of the template")
    return found, changed, blank


def _walk(
    source: Any, data: DataConfig, template: Template, normalise: Normalise, coded: bool
) -> Iterator[tuple[Row, Row, _Item | None, bool]]:
    """Each row as it stands in the file and in the preset's form, its example (None for a blank row that is to be left out), and whether it came with
    other texts for the template."""
    for row in read_rows(source, header=data.header, encoding=data.encoding):
        same = opened(row, data.messages) if data.messages else row
        try:
            same = replace(same, values=normalise(same.values))
        except DataError as error:
            raise DataError(f"{row.where}: {error}") from error
        if data.blank == "drop" and template.blank(same):
            yield row, same, None, False
            continue
        changed = not data.messages and any(_text(same, c) != _text(row, c) for c in template.columns.values())
        yield row, same, _item(same, template, answer_column(data), coded), changed


def _text(row: Row, column: str) -> str:
    return row.values.get(column, "").strip()  # white space at the ends is left out of a prompt anyway


def _item(row: Row, template: Template, answer: str | None, coded: bool) -> _Item:
    fields = template.fields(row)
    cell = row.values.get(answer) if answer is not None else None
    if coded and cell is not None:
        cell = row.codes.get(answer or "", cell)
    example = Example(fingerprint(fields)[:16], fields, template.fill(fields), row.where)
    return _Item(example, cell if cell is not None and visible(cell) else None)


def _check_answer_column(sets: Mapping[str, list[tuple[Row, _Item]]], data: DataConfig) -> None:
    """Refuse a misspelt answer column, and test or validation rows without an answer.

    A pool may lack the column, or some answers: people will give them.
    """
    column = answer_column(data)
    measured = {name: rows for name, rows in sets.items() if name != "pool"}
    if column is None:
        if measured or data.test_share:
            name = next(iter(measured), "test")
            raise ConfigError(f"data.answer is missing; the {name} set is useless without gold answers")
        return
    for rows in measured.values() or sets.values():
        if not any(column in row.columns for row, _ in rows):
            first = rows[0][0]
            found = allowed(first.columns, column)
            raise DataError(f"{first.where}: no answer column {column!r} (data.answer); {found}")
    _raise_all(
        f"{item.example.where}: column {column!r} is empty; every row of the {name} set needs an answer"
        for name, rows in measured.items()
        for _, item in rows
        if item.answer is None
    )


def _with_gold(sets: Mapping[str, list[_Item]], task: Task) -> dict[str, list[_Item]]:
    """The same items with canonical answers. Raises DataError listing the rows whose answer cannot be one."""
    problems: list[str] = []

    def canonical(item: _Item) -> _Item:
        if item.answer is None:
            return item
        try:
            return replace(item, answer=task.parse_gold(item.answer, item.example.where))
        except DataError as error:
            problems.append(str(error))
            return item

    found = {name: [canonical(item) for item in items] for name, items in sets.items()}
    _raise_all(problems)
    return found


def _raise_all(problems: Iterable[str]) -> None:
    if found := list(problems):
        more = [f"… and {len(found) - SHOWN} more rows like these"] if len(found) > SHOWN else []
        raise DataError("\n".join([*found[:SHOWN], *more]))


# --- repeats, splits, limits --------------------------------------------------------------------


def _without_repeats(pool: list[_Item], data: DataConfig) -> tuple[list[_Item], int, int]:
    """(pool by the duplicates policy, repeated rows, those of them with another answer)."""
    first: dict[str, _Item] = {}
    repeats: list[tuple[_Item, _Item]] = []
    for item in pool:
        kept = first.setdefault(item.example.id, item)
        if kept is not item:
            repeats.append((item, kept))
            if kept.answer is None:  # a label must not be lost because its row came second
                first[item.example.id] = replace(kept, answer=item.answer)
    if repeats and data.duplicates == "error":
        _raise_all(
            f"{item.example.where}: the same content as {kept.example.where}; "
            f"data.duplicates is 'error', allowed: drop, keep, error"
            for item, kept in repeats
        )
    conflicts = sum(None not in (i.answer, k.answer) and i.answer != k.answer for i, k in repeats)
    return (pool if data.duplicates == "keep" else list(first.values())), len(repeats), conflicts


def _without_shared(items: list[_Item], other: list[_Item], name: str, data: DataConfig) -> tuple[list[_Item], int]:
    """(items by the duplicates policy, how many of them also stand in the other set)."""
    there = {item.example.id: item.example.where for item in reversed(other)}
    shared = [item for item in items if item.example.id in there]
    if shared and data.duplicates == "error":
        _raise_all(
            f"{item.example.where}: also in the {name} set, {there[item.example.id]}; "
            f"data.duplicates is 'error', allowed: drop, keep, error"
            for item in shared
        )
    kept = items if data.duplicates == "keep" else [item for item in items if item.example.id not in there]
    return kept, len(shared)


def _split_off(pool: list[_Item], data: DataConfig) -> tuple[list[_Item], list[_Item]]:
    """(pool, test): a random share of the answered contents; all copies of a content go the same way."""
    answered = list(dict.fromkeys(item.example.id for item in pool if item.answer is not None))
    size = round(len(answered) * data.test_share)
    if not 0 < size < len(answered):
        raise DataError(
            f"{data.pool}: a test share of {data.test_share} of {len(answered)} answered examples leaves "
            f"{len(answered) - size} for the pool and {size} for the test set; both need at least one"
        )
    chosen = set(_limited(answered, size, data.seed, "test_share"))
    return (
        [item for item in pool if item.example.id not in chosen],
        [item for item in pool if item.example.id in chosen and item.answer is not None],
    )


def _limited(items: list[T], limit: int | None, seed: int, name: str) -> list[T]:
    """A random subset of the size of the limit, in the original order."""
    if limit is None or limit >= len(items):
        return items
    rng = generator(seed, 0, f"limit/{name}")
    return [items[i] for i in sorted(rng.choice(len(items), size=limit, replace=False))]


def _with_distinct_ids(items: list[_Item]) -> list[_Item]:
    """Later copies of a content get the ids ID-2, ID-3, …"""
    seen: Counter[str] = Counter()
    found = []
    for item in items:
        key = item.example.id
        seen[key] += 1
        copy = replace(item.example, id=f"{key}-{seen[key]}") if seen[key] > 1 else item.example
        found.append(replace(item, example=copy))
    return found


def _split(items: list[_Item] | None) -> Split | None:
    if items is None:
        return None
    distinct = _with_distinct_ids(items)
    return Split(tuple(item.example for item in distinct), tuple(item.answer for item in distinct))


# --- facts --------------------------------------------------------------------------------------


def used(
    pool: Sequence[Example], gold: Mapping[str, str], splits: Mapping[str, Split | None], task: Task, budget: int
) -> dict[str, Any]:
    """The facts of a `Dataset` that follow from the examples in use: sizes, classes, the majority baseline."""
    answers = [gold[e.id] for e in pool if e.id in gold]
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
        counts = Counter(label for answer in answers for label in task.parts(answer))
        facts["classes"] = {label: counts[label] for label in task.labels}
    if test:
        label, count = max(Counter(test.answers).items(), key=lambda pair: (pair[1], str(pair[0])))
        facts["majority"] = {"label": label, "share": count / len(test)}
    return facts


def _spellings(rows: Mapping[str, list[_Item]], items: Mapping[str, list[_Item]], task: Task) -> dict[str, Any]:
    """A sentence for each label that the data spell in several ways, under "label_notes", where there is any."""
    found: dict[str, Counter[str]] = {}
    for name in rows:
        for before, after in zip(rows[name], items[name], strict=True):
            if before.answer is not None and after.answer is not None:
                found.setdefault(after.answer, Counter())[before.answer.strip()] += 1
    notes = []
    for label in task.classes:
        ours = {label, task.words[task.labels.index(label)], task.response_text(label)}
        others = [
            f"{shown(name)} ({count} rows)"
            for name, count in found.get(label, Counter()).most_common()
            if name not in ours
        ]
        if others:
            more = f" and {len(others) - 5} more" if len(others) > 5 else ""
            notes.append(f"the label {label!r} is also spelled {', '.join(others[:5])}{more}; they count as one")
    return {"label_notes": notes} if notes else {}


def _never_in_pool(gold: Mapping[str, str], splits: Mapping[str, Split | None], task: Task) -> list[str]:
    """A sentence for each label of a test or validation set that no answered example of the pool has."""
    known = {part for answer in gold.values() for part in task.parts(answer)}
    found = []
    for name, split in splits.items():
        counts = Counter(
            part for answer in (split.answers if split and known else ()) if answer for part in task.parts(answer)
        )
        found += [
            f"{count} of {len(split or ())} rows of the {name} set have the label {shown(label)}, which no answered row of the "
            "pool has, so no model can learn it; is it spelled in another way there?"
            for label, count in sorted(counts.items())
            if label not in known
        ]
    return found


def _hash(pool: Sequence[_Item], splits: Mapping[str, Split | None], template: str, task: Task, cut: str | None) -> str:
    return fingerprint(
        {
            "pool": [(item.example.id, item.answer) for item in pool],
            **{
                name: list(zip((e.id for e in split.examples), split.answers, strict=True))
                for name, split in splits.items()
                if split is not None
            },
            "template": template,
            "response": task.response,
            **({"cut": cut} if cut else {}),
            "labels": list(zip(task.labels, task.words, strict=True)) if task.labels else None,
        }
    )


def _required(value: str | None, key: str) -> str:
    if value is None:
        raise ConfigError(f"data.{key} is missing; give it, or a `preset`")
    return value
