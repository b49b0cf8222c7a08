"""Label Studio: its JSON (import and export have one form) and its JSON-MIN (export only).

A task has `data`, the fields, and `annotations`, each with a `result`: what one control (`from_name`) says of one
object (`to_name`). Skipped tasks have `was_cancelled`. An import that names people who are no members of the
organisation is refused there, so the annotator's name travels in the `meta` of a result.

Source: labelstud.io/guide/task_format, /guide/tasks (Basic Label Studio JSON format), /guide/export (JSON_MIN);
tasks/serializers.py of HumanSignal/label-studio for what an import takes over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from xml.sax.saxutils import quoteattr

from guidestar.errors import DataError
from guidestar.exchange import rows
from guidestar.tasks.multi_label import NONE

_OWN = frozenset({rows.KEY})
_CONTROL = "answer"
_VALUES = frozenset({"choices", "text", "number", "rating"})
_MIN = frozenset({"id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement", rows.KEY})


def write(row: rows.Row, about: rows.About) -> list[dict[str, Any]]:
    """One task; its annotations in the order given, and the model's answer as a prediction if that is wished."""
    task: dict[str, Any] = {
        "data": {**rows.columns_of(row.fields, _OWN), rows.KEY: rows.kept(row)},
        "annotations": [_annotation(row, about, given) for given in row.answers],
    }
    if (suggestion := row.suggestion) is not None:
        chance = suggestion.probabilities.get(suggestion.answer)
        task["predictions"] = [
            {
                "model_version": f"round {suggestion.round}",
                "result": [_result(row, about, suggestion.answer, "")],
                **({} if chance is None else {"score": chance}),
            }
        ]
    return [task]


def _annotation(row: rows.Row, about: rows.About, given: rows.Given) -> dict[str, Any]:
    return {
        "result": [] if given.answer is None else [_result(row, about, given.answer, given.annotator)],
        "was_cancelled": given.answer is None,
        "ground_truth": False,
        "created_username": given.annotator,
        **({"created_at": given.at} if given.at else {}),
    }


def _result(row: rows.Row, about: rows.About, answer: str, annotator: str) -> dict[str, Any]:
    choice = bool(about.labels)
    return {
        "id": hashlib.sha256(f"{row.id}\n{annotator}\n{answer}".encode()).hexdigest()[:10],
        "from_name": about.question or _CONTROL,
        "to_name": next(iter(rows.columns_of(row.fields, _OWN)), "text"),
        "type": "choices" if choice else "textarea",
        "value": {"choices" if choice else "text": rows.parts_of(answer, about)},
        **({"meta": {"annotator": annotator}} if annotator else {}),
    }


def hint(about: rows.About) -> str:
    """The labelling configuration that the exported file fits."""
    names = list(rows.columns_of(dict.fromkeys(about.fields, ""), _OWN)) or ["text"]
    texts = "".join(f"  <Text name={quoteattr(name)} value={quoteattr('$' + name)}/>\n" for name in names)
    control = f"name={quoteattr(about.question or _CONTROL)} toName={quoteattr(names[0])}"
    if about.labels:
        choices = "".join(f"    <Choice value={quoteattr(label)}/>\n" for label in about.labels)
        answer = f'  <Choices {control} choice="{"multiple" if about.several else "single"}">\n{choices}  </Choices>\n'
    else:
        answer = f'  <TextArea {control} maxSubmissions="1" editable="true"/>\n'
    return f"labelling configuration for Label Studio:\n<View>\n{texts}{answer}</View>"


def read(record: rows.Record, about: rows.About, where: str) -> rows.Row:
    """The row of a task, or of a record of JSON-MIN."""
    if "data" not in record:
        return _read_min(record, about, where)
    fields, rest = rows.fields_in(rows.as_object(record["data"], f"{where}: data"), about, _OWN)
    ours = rows.from_kept(rest.get(rows.KEY), where)
    name = "annotations" if "annotations" in record else "completions"  # their name before version 1.0
    annotations = rows.objects(record.get(name), f"{where}: {name}")
    native = [given for item in annotations if (given := _given(item, about, where)) is not None]
    return replace(ours, fields=fields, final=None, answers=rows.merged(native, ours.answers))


def _given(annotation: rows.Record, about: rows.About, where: str) -> rows.Given | None:
    said = rows.objects(annotation.get("result"), f"{where}: result")
    annotator = _annotator(annotation, said, where)
    at = rows.text_of(annotation.get("updated_at") or annotation.get("created_at"), where)
    if annotation.get("was_cancelled") or annotation.get("skipped"):
        return rows.Given(annotator, None, at=at)
    values = {rows.text_of(r.get("from_name"), where): rows.as_object(r.get("value"), f"{where}: value") for r in said}
    values = {name: value for name, value in values.items() if _VALUES & value.keys()}
    name = rows.only(values, about, (_CONTROL, "label"), where, "controls hold an answer")
    if name is None:
        return None
    value = next(value for key, value in values[name].items() if key in _VALUES)
    answer = rows.single(value, f"{where}: {name}", about, NONE)
    return None if answer is None else rows.Given(annotator, answer, at=at)


def _annotator(annotation: rows.Record, results: list[rows.Record], where: str) -> str:
    """Our own mark first; else the user: an email address, in older exports a number."""
    for result in results:
        if isinstance(meta := result.get("meta"), Mapping) and isinstance(name := meta.get("annotator"), str):
            return name
    user = annotation.get("completed_by")
    if isinstance(user, Mapping):
        user = user.get("email") or user.get("id")
    return rows.text_of(annotation.get("created_username") if user is None else user, f"{where}: completed_by")


def _read_min(record: rows.Record, about: rows.About, where: str) -> rows.Row:
    """JSON-MIN: the fields, what each control says, and the annotation's own keys, all on one level."""
    fields, rest = rows.fields_in(record, about, _MIN)
    name = rows.only(rest.keys() - _MIN, about, (_CONTROL, "label"), where, "keys could be the answer")
    value = rows.labels_in(rest.get(name), about) if name is not None else None
    if isinstance(value, Mapping):
        value = next((text for key, text in value.items() if key in _VALUES), None)
    answer = rows.single(value, f"{where}: {name}", about)
    at = rows.text_of(rest.get("updated_at") or rest.get("created_at"), where)
    native = () if answer is None else (rows.Given(rows.text_of(rest.get("annotator"), where), answer, at=at),)
    ours = rows.from_kept(rest.get(rows.KEY), where)
    if ours.answers:  # each is here as the answer of whoever imported it there
        raise DataError(f"{where}: JSON-MIN does not say which answers came from here; export as JSON")
    return replace(ours, fields=fields, final=None, answers=native)


def mine(record: rows.Record) -> bool:
    """Whether a record looks like a task or a record of JSON-MIN."""
    task = "data" in record and bool({"annotations", "predictions", "completions"} & record.keys())
    return task or {"annotation_id", "lead_time"} <= record.keys()
