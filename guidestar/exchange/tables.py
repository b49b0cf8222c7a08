"""Our own layouts: one record an example (JSONL, Parquet, `datasets`), one line an annotator (CSV); and plain tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from guidestar.errors import DataError, allowed
from guidestar.exchange import rows
from guidestar.exchange.containers import SAFE
from guidestar.tasks.multi_label import NONE
from guidestar.words import listed

_NESTED = (
    "id", "prompt", "round", "score", "answer", "answers", "verdict", "flags", "notes", "suggestion",
)  # fmt: skip
_FLAT = (
    "id", "annotator", "answer", "skipped", "reason", "flagged", "note", "at", "final", "verdict", "verdict_by", "round",
    "score", "suggestion",
)  # fmt: skip
OWN = frozenset((*_NESTED, *_FLAT, SAFE))
MARKS = (
    {"prompt", "answers", "verdict", "suggestion"},
    {"annotator", "skipped", "final", "verdict_by"},
)  # in all of ours
YES, NO = ("yes", "true", "1", "x"), ("no", "false", "0", "")


def write_nested(row: rows.Row, about: rows.About) -> list[dict[str, Any]]:
    """One record: id, fields, prompt, round, score, `answer` (the one that counts) and who said what."""
    kept, suggestion = rows.kept(row), None
    if (said := row.suggestion) is not None:
        chances = [{"label": label, "probability": p} for label, p in said.probabilities.items()]
        suggestion = {"answer": said.answer, "round": said.round, "probabilities": chances}
    record = {
        "id": row.id,
        **rows.columns_of(row.fields, OWN),
        "prompt": row.prompt,
        "round": row.round,
        "score": row.score,
        "answer": row.final.answer if row.final else None,
        "answers": kept.get("answers", []),
        "verdict": kept.get("verdict"),
        "flags": kept.get("flags", []),
        "notes": kept.get("notes", []),
        "suggestion": suggestion,
    }
    return [record]


def write_flat(row: rows.Row, about: rows.About) -> list[dict[str, Any]]:
    """A record for each annotator who said something, or one without an annotator."""
    said = {given.annotator: given for given in row.answers}
    return [_line(row, said.get(who), who) for who in dict.fromkeys((*said, *row.flags, *row.notes)) or [""]]


def _line(row: rows.Row, given: rows.Given | None, who: str) -> dict[str, Any]:
    skipped = given is not None and given.answer is None
    return {  # texts and answer first, for who reads it in a spreadsheet
        **rows.columns_of(row.fields, OWN),
        "answer": given and given.answer,
        "annotator": who,
        "skipped": "yes" if skipped else "",
        "reason": given.reason if given else "",
        "flagged": "yes" if who in row.flags else "",
        "note": row.notes.get(who, ""),
        "at": given.at if given else "",
        "final": row.final and row.final.answer,
        "verdict": row.verdict and row.verdict.answer,
        "verdict_by": row.verdict and row.verdict.annotator,
        "round": row.round,
        "score": row.score,
        "suggestion": row.suggestion and row.suggestion.answer,
        "id": row.id,
    }


def read_plain(record: rows.Record, about: rows.About, where: str) -> rows.Row:
    """The row of any of our layouts, or of a user's own table with a column of answers."""
    if {"number", "kind", "at"} <= record.keys():
        raise DataError(f"{where}: this is the full log of a run, which is kept and not imported; export without --log")
    fields, rest = rows.fields_in(record, about, OWN)
    read = _read_nested if "answers" in rest else _read_flat
    row = read(rest, about, where)
    return replace(row, fields=fields)


def _read_nested(rest: rows.Record, about: rows.About, where: str) -> rows.Row:
    row = rows.from_kept({name: rest.get(name) for name in _NESTED if name not in ("answer", "prompt")}, where)
    answer = rows.text_of(rest.get("answer"), f"{where}: answer")
    if not answer:
        return row
    final = rows.Given(rows.text_of(rest.get("annotator"), where), answer)
    if row.answers or row.verdict:
        return replace(row, final=final)
    return replace(row, answers=(final,))  # somebody filled in the empty column


def _read_flat(rest: rows.Record, about: rows.About, where: str) -> rows.Row:
    def cell(name: str) -> str:
        return rows.text_of(rest.get(name), f"{where}: {name}")

    who, answer = cell("annotator"), _answer(rest, about, where)
    skipped, flagged = (_truth(rest.get(name), f"{where}: {name}") for name in ("skipped", "flagged"))
    if skipped and answer is not None:
        raise DataError(f"{where}: has an answer, {answer!r}, and is skipped; empty one of the two cells")
    answers = (rows.Given(who, answer, cell("reason") if skipped else "", cell("at")),) if answer or skipped else ()
    return rows.Row(
        id=cell("id"),
        answers=answers,
        final=rows.Given("", cell("final")) if cell("final") else None,
        verdict=rows.Given(cell("verdict_by"), cell("verdict")) if cell("verdict") else None,
        flags=(who,) if flagged else (),
        notes={who: cell("note")} if cell("note") else {},
        where=where,
    )


def _answer(rest: rows.Record, about: rows.About, where: str) -> str | None:
    """The cell with the answer: of the column the user names, else of `answer`, the pool's own one, or `label`."""
    if about.question is not None:
        if about.question not in rest:
            raise DataError(f"{where}: no column {about.question!r}; {allowed(rest, about.question)}")
        return rows.single(rows.labels_in(rest[about.question], about), where, about, NONE)
    columns = [name for name in ("answer", about.answer or "label", "label") if name in rest]
    if not columns and not {"skipped", "flagged", "note", "verdict"} & rest.keys():
        names = listed(map(repr, dict.fromkeys(["answer", about.answer or "label", "label"])), "or")
        raise DataError(
            f"{where}: no column with answers: expected {names}, found beside the texts: {', '.join(rest) or 'nothing'}"
        )
    return rows.single(rows.labels_in(rest[columns[0]], about), where, about, NONE) if columns else None


def _truth(value: Any, where: str) -> bool:
    text = rows.text_of(value, where).strip().lower()
    if text not in (*YES, *NO):
        raise DataError(f"{where}: found {text!r}; allowed: yes, or nothing")
    return text in YES
