"""Argilla: the records of `Dataset.records.to_json` (2.x); also its API's records and 1.x text classification.

A record has `fields`, `metadata`, `suggestions` (question -> value, score, agent) and `responses` (question -> list
of value and user_id). Users are UUIDs there, so a name is written as a UUID made from it, and the name itself
travels in the metadata. The SDK writes no status of a response: a draft or a discarded one that has a value looks
like an answer. The API's records have the status, and it is heeded.

Source: argilla/records/_resource.py (Record.to_dict, from_dict) and responses.py of argilla-io/argilla 2.8;
docs.argilla.io, "rg.Response" and "Migrate your legacy datasets to Argilla V2".
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from guidestar.exchange import rows
from guidestar.tasks.multi_label import NONE

_QUESTION = "answer"
_NAMES = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")  # RFC 4122's namespace for URLs


def write(row: rows.Row, about: rows.About) -> list[dict[str, Any]]:
    """One record, as `Record.from_dict` takes it; skips are in the metadata, for a response must have a value."""
    question = about.question or _QUESTION
    labels = [(given.annotator, given.answer) for given in row.answers if given.answer is not None]
    responses = [{"value": _value(text, about), "user_id": _user(who), "status": "submitted"} for who, text in labels]
    names = {_user(who): who for who, _ in labels if _user(who) != who}
    suggestions = {}
    if (said := row.suggestion) is not None:
        chance = None if about.several else said.probabilities.get(said.answer)  # of several it is a list there
        suggestions[question] = {"value": _value(said.answer, about), "score": chance, "agent": f"round {said.round}"}
    record = {
        "id": row.id,
        "fields": rows.columns_of(row.fields, ()),
        "metadata": {rows.KEY: json.dumps({**rows.kept(row), "users": names}, ensure_ascii=False)},
        "suggestions": suggestions,
        "responses": {question: responses} if responses else {},
        "vectors": {},
        "status": "completed" if responses else "pending",
    }
    return [record]


def _value(answer: str, about: rows.About) -> str | list[str]:
    return rows.parts_of(answer, about) if about.several else answer


def _user(name: str) -> str:
    with suppress(ValueError):
        if str(uuid.UUID(name)) == name:
            return name
    return str(uuid.uuid5(_NAMES, name))


def hint(about: rows.About) -> str:
    """The dataset's settings that the exported records fit."""
    question = about.question or _QUESTION
    fields = ", ".join(f"rg.TextField(name={name!r})" for name in about.fields)
    if about.labels:
        asked = f"rg.{'Multi' * about.several}LabelQuestion(name={question!r}, labels={list(about.labels)!r})"
    else:
        asked = f"rg.TextQuestion(name={question!r})"
    return (
        f"settings for Argilla: rg.Settings(fields=[{fields}], questions=[{asked}], allow_extra_metadata=True); "
        "responses can be logged only for users that exist there"
    )


def read(record: rows.Record, about: rows.About, where: str) -> rows.Row:
    """The row of a record."""
    metadata = rows.as_object(record.get("metadata"), f"{where}: metadata")
    kept = rows.as_object(metadata.get(rows.KEY), f"{where}: {rows.KEY}")
    ours, names = rows.from_kept(kept, where), rows.as_object(kept.get("users"), f"{where}: users")
    texts = record.get("fields", record.get("inputs")) or {"text": record.get("text")}
    fields, _ = rows.fields_in(rows.as_object(texts, f"{where}: fields"), about, ())
    said = _responses(record, about, where)
    native = [rows.Given(rows.text_of(names.get(g.annotator, g.annotator), where), g.answer, at=g.at) for g in said]
    id = ours.id or rows.text_of(record.get("external_id") or record.get("id"), where)
    return replace(ours, id=id, fields=fields, final=None, answers=rows.merged(native, ours.answers))


def _responses(record: rows.Record, about: rows.About, where: str) -> list[rows.Given]:
    if "annotation" in record:  # 1.x
        return _legacy(record, about, where)
    responses = rows.nested(record.get("responses"))
    said = list(_of_users(responses, where) if isinstance(responses, list) else _of_questions(responses, where))
    asked = dict.fromkeys(question for question, _, _ in said if question)
    question = rows.only(asked, about, (_QUESTION, "label"), where, "questions are answered")
    results: list[rows.Given] = []
    for name, response, value in said:
        if name not in (question, ""):
            continue
        status = rows.text_of(response.get("status"), where)
        user = rows.text_of(response.get("user_id"), f"{where}: user_id")
        user = "" if user == "None" else user  # as the SDK writes it
        at = rows.text_of(response.get("updated_at") or response.get("inserted_at"), where)
        answer = rows.single(value, f"{where}: {question}", about, NONE)
        if status == "discarded":
            results.append(rows.Given(user, None, at=at))
        elif status != "draft" and answer is not None:
            results.append(rows.Given(user, answer, at=at))
    return results


Said = tuple[str, rows.Record, Any]  # question, response, value


def _of_questions(responses: Any, where: str) -> Iterator[Said]:
    """The SDK's form: question -> [{value, user_id, status}]."""
    for question, items in rows.as_object(responses, f"{where}: responses").items():
        for response in rows.objects(items, f"{where}: {question}"):
            yield str(question), response, response.get("value")


def _of_users(responses: Any, where: str) -> Iterator[Said]:
    """The API's form: [{values: question -> {value}, user_id, status, updated_at}]; discarded ones may have no values."""
    for response in rows.objects(responses, f"{where}: responses"):
        values = rows.as_object(response.get("values"), f"{where}: values")
        if not values and response.get("status") == "discarded":
            yield "", response, None
        for question, value in values.items():
            yield str(question), response, value.get("value") if isinstance(value, Mapping) else value


def _legacy(record: rows.Record, about: rows.About, where: str) -> list[rows.Given]:
    """A 1.x record has one `annotation`, by `annotation_agent`, and a `status`."""
    agent = rows.text_of(record.get("annotation_agent"), where)
    if record.get("status") == "Discarded":
        return [rows.Given(agent, None)]
    answer = rows.single(record["annotation"], f"{where}: annotation", about)
    return [] if answer is None else [rows.Given(agent, answer)]


def mine(record: rows.Record) -> bool:
    """Whether a record looks like Argilla's, of 2.x or 1.x."""
    new = "fields" in record and bool({"responses", "suggestions"} & record.keys())
    return new or {"annotation", "annotation_agent", "status"} <= record.keys()
