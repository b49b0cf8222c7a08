"""From a run to a file: every example with all that annotators say of it, or the whole log."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from guidestar.errors import ConfigError, DataError
from guidestar.exchange import containers, tables
from guidestar.exchange.rows import KEY, About, Given, Row
from guidestar.exchange.table import format_of
from guidestar.records import Label, Skip
from guidestar.store import Store, files, find_run
from guidestar.tasks import recorded_task, scored_labels, several

_LOG = {"number", "kind", "source", "decision", "at"}  # in every line of a log


def export_run(
    run: Path,
    format: str | None = None,
    out: Path | None = None,
    *,
    log: bool = False,
    safe: bool = False,
    suggestions: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Path | str:
    """Write what annotators did in a run, and return the path; without `out`, return the text.

    run: the folder of a run, or one with a single run in it. format: a name of `FORMATS`, with the tool's question or
    control behind a colon where it is not to be called "answer"; if not given, what the ending of `out` says, else jsonl.
    Examples stand in the order of asking, then those
    that were added; unanswered ones are in it too, so that another tool can be used to label them.
    log: instead, every change ever made, as JSON lines. safe: CSV in which no cell is a formula to a spreadsheet.
    suggestions: give other tools the model's answers, which may sway whoever labels there; our own formats have them
    always.

    Raises ConfigError for an unknown format or options that do not go together, DataError if a file is needed and
    not given or a folder is in the way, ConfigError if something else lies there, StoreError if the run cannot be read or the file not written.
    """
    if format is None:
        format = (not log and out and containers.container_of(out)) or "jsonl"
    chosen, question = format_of("jsonl" if log else format)
    if log and format != "jsonl":
        raise ConfigError(f"format is {format!r}, but the log is written as jsonl only")
    if safe and chosen.container != "csv":
        raise ConfigError(f"safe is for csv, which spreadsheets open; format is {format!r}")
    with Store.open(find_run(run)) as store:
        if log:
            return _write(log_of(store), "jsonl", out)
        rows = rows_of(store)
        about = dataclasses.replace(about_run(store, rows), question=question)
    if chosen.mine is not None and not suggestions:
        rows = [dataclasses.replace(row, suggestion=None) for row in rows]
    records = [record for row in rows for record in chosen.write(row, about)]
    if chosen.hint is not None:
        say(chosen.hint(about))
    return _write(records, chosen.container, out, safe)


def _write(records: list[dict[str, Any]], name: str, out: Path | None, safe: bool = False) -> Path | str:
    container = containers.CONTAINERS[name]
    write = containers.write_safe_csv if safe else container.write
    if out is None:
        if write is None or not container.text:
            raise DataError(f"the format {name} cannot be shown as text; give a file or folder to write to")
        return containers.dumped(records, write).decode()
    if write is not None and out.is_dir():
        raise DataError(f"{out}: is a folder; give the name of a file")
    files.check_output(out, _is_export, "an export")
    if write is not None:
        files.write_bytes(out, containers.dumped(records, write))
    elif (fill := container.fill) is not None:
        files.publish_folder(out, lambda folder: fill(records, folder, containers.columns_in(records)))
    return out


def _is_export(path: Path) -> bool:
    """Whether a file or a folder is one that `export_run` wrote, by its first record; an empty one holds nothing to lose."""
    if path.is_dir() and any(not p.name.startswith(("dataset_info", "state", "data-")) for p in path.iterdir()):
        return False
    if path.is_file() and path.stat().st_size <= 4 and not path.read_bytes().strip(b"[] \r\n"):
        return True
    try:
        record = next((value for _, value in containers.load(path)), None)
    except DataError:
        return False
    if not isinstance(record, dict):
        return False
    return any(marks <= record.keys() for marks in (*tables.MARKS, _LOG)) or any(
        KEY in place for place in (record, *record.values()) if isinstance(place, (dict, str))
    )


# --- what there is to write ---------------------------------------------------------------------


def rows_of(store: Store) -> list[Row]:
    """All examples of a run in the order of asking, those that were added last."""
    notes = store.annotations
    picks = [(r, pick) for r in range(store.rounds() + 1) for pick in store.query(r).picks]  # and asked ahead
    asked = {pick.id: (r, None if math.isnan(pick.score) else pick.score) for r, pick in picks}
    extras = notes.extras()
    answered = [id for id in notes.answers() if id in extras]
    ids = {**asked, **dict.fromkeys((*answered, *sorted(extras)), (None, None))}
    order = {  # (example, annotator) -> (number in the log, time) of the last label or skip
        (entry.id, entry.annotation.annotator): (entry.number, entry.at)
        for entry in notes.history()
        if isinstance(entry.annotation, (Label, Skip))
    }
    current, counts, verdicts = notes.by_annotator(), notes.answers(), notes.verdicts()
    flags, remarks, suggestions = notes.flags(), notes.notes(), store.suggestions()
    rows, examples = list[Row](), store.examples()
    for id, (round, score) in ids.items():
        example = examples[id]
        given = [(order[id, who], answer) for who, answer in current.get(id, {}).items()]
        rows.append(
            Row(
                id=id,
                fields=example.fields,
                prompt=example.prompt,
                round=round,
                score=score,
                answers=tuple(_given(answer, at) for (_, at), answer in sorted(given, key=lambda item: item[0])),
                final=_given(counts[id]) if id in counts else None,
                verdict=_given(verdicts[id]) if id in verdicts else None,
                flags=tuple(sorted(flags.get(id, ()))),
                notes=remarks.get(id, {}),
                suggestion=suggestions.get(id),
                where=example.where,
            )
        )
    return rows


def _given(answer: Label | Skip, at: str = "") -> Given:
    if isinstance(answer, Label):
        return Given(answer.annotator, answer.answer, at=at)
    return Given(answer.annotator, None, answer.reason, at)


def about_run(store: Store, rows: list[Row]) -> About:
    """What the formats must know of a run."""
    fields = tuple(dict.fromkeys(name for row in rows for name in row.fields))
    task = recorded_task(store.facts)
    return About(scored_labels(task), fields, several=several(task))


def log_of(store: Store) -> list[dict[str, Any]]:
    """Every change ever made, in that order, as plain data, with the texts of its example."""
    examples = store.examples()
    return [
        {
            "number": entry.number,
            "id": entry.id,
            "kind": type(entry.annotation).__name__.lower(),
            **dataclasses.asdict(entry.annotation),
            "source": entry.source,
            "decision": entry.decision,
            "at": entry.at,
            "fields": dict(examples[entry.id].fields),
        }
        for entry in store.annotations.history()
    ]
