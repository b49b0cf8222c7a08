"""doccano: JSON lines with a text and its labels, for classification and, with texts as labels, sequence to sequence.

A line has `id`, `text`, `label` (a list) and `Comments`; keys of the imported file that doccano does not know come
back as they were. It has one label an example and no name beside it: where people label each on their own, doccano
exports one file a person, NAME.jsonl. Earlier versions wrote `labels` and `username`, or `annotations` with numbers.

Source: backend/data_export (models.py, pipeline/factories.py, pipeline/comments.py) and backend/data_import
(pipeline/catalog.py) of doccano/doccano; issues 46, 113, 1875 and 1960 there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from guidestar.errors import DataError
from guidestar.exchange import rows

_OWN = frozenset({"id", "doc_id", "label", "labels", "Comments", "username", "annotations", "meta", "cats", rows.KEY})
_LABELS = ("label", "labels", "cats")
_TEXTS = ("text", "data")


def write(row: rows.Row, about: rows.About) -> list[dict[str, Any]]:
    """One line, with the answer that counts; who said what is under our own key."""
    ours = rows.kept(row)
    if len(row.fields) != 1:
        ours["fields"] = rows.columns_of(row.fields, ())
    answer = row.final.answer if row.final else None
    suggested = {"suggestion": row.suggestion.answer} if row.suggestion else {}
    return [{"text": rows.shown(row), "label": rows.parts_of(answer, about), **suggested, rows.KEY: ours}]


def read(record: rows.Record, about: rows.About, where: str) -> rows.Row:
    """The row of one line; a label that differs from what we had given doccano is somebody's new answer."""
    kept = rows.as_object(record.get(rows.KEY), f"{where}: {rows.KEY}")
    ours = rows.from_kept(kept, where)
    texts = [rows.text_of(record[name], f"{where}: {name}") for name in _TEXTS if isinstance(record.get(name), str)]
    own = {**({"text": texts[0]} if texts else {}), **rows.as_object(kept.get("fields"), f"{where}: fields")}
    fields = rows.fields_or_none({**record, **own}, about, _OWN)
    answer = _label(record, about, where)
    before = ours.final.answer if ours.final else None
    who = rows.text_of(record.get("username"), where)
    new = () if answer is None or answer == before else (rows.Given(who, answer),)
    comments = [rows.text_of(item, where) for item in rows.as_list(record.get("Comments"), f"{where}: Comments")]
    return replace(
        ours,
        id=ours.id or rows.text_of(record.get("id"), where),
        fields=fields,
        text=texts[0] if texts else "",
        answers=(*ours.answers, *new),
        final=None if new else ours.final,
        notes={**ours.notes, **({who: "\n".join(comments)} if comments else {})},
    )


def _label(record: rows.Record, about: rows.About, where: str) -> str | None:
    names = (about.question,) if about.question else _LABELS
    for name in names:
        if name in record:
            value = rows.labels_in(record[name], about)
            if isinstance(value, list) and value and isinstance(value[0], (list, dict)):
                raise DataError(f"{where}: {name} marks parts of the text; only labels of whole texts can be imported")
            return rows.single(value, f"{where}: {name}", about)
    if record.get("annotations"):
        raise DataError(f"{where}: found 'annotations' with the numbers of labels; export as 'JSONL (Text label)'")
    return None


def mine(record: rows.Record) -> bool:
    """Whether a record looks like a line of doccano's."""
    text = any(isinstance(record.get(name), str) for name in _TEXTS)
    listed = any(isinstance(record.get(name), list) for name in (*_LABELS, "annotations"))
    return text and listed and "answers" not in record
