"""Prodigy: one JSON line for each answer of each annotator, as `db-out` writes it.

A choice has `options` (id and text) and `accept`, the chosen ids; a binary question has a `label`, and `answer`
accepts or rejects it; `answer` is `ignore` for a skipped task. Free text is in `user_input`. `_annotator_id` is
DATASET-NAME in a named session and a time without one. Prodigy adds `_input_hash` and `_task_hash` itself.

Source: prodi.gy/docs/api-loaders (Input data formats); support.prodi.gy/t/1644 (named sessions) and /t/3220 (hashes);
explosion/prodigy-recipes, textcat. The names `user_input` and `flagged` have not been checked against a source.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from guidestar.errors import DataError, allowed
from guidestar.exchange import rows
from guidestar.tasks.multi_label import NONE

_INPUT = "user_input"  # the text_input interface's own default
_OWN = frozenset(
    {
        "text", "meta", "options", "accept", "answer", "label", "flagged", "config", "_input_hash", "_task_hash",
        "_view_id", "_session_id", "_annotator_id", "_timestamp", rows.KEY, _INPUT,
    }
)  # fmt: skip
_UNNAMED = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d")  # a session without a name is called by its time
_ANSWERS = ("accept", "reject", "ignore")


def write(row: rows.Row, about: rows.About) -> list[dict[str, Any]]:
    """A line for each answer, or one without an answer for a source of Prodigy's; the first carries all else."""
    rest = {name: value for name, value in rows.kept(row).items() if name not in ("answers", "final")}
    if len(row.fields) != 1:
        rest["fields"] = rows.columns_of(row.fields, ())  # the text is the filled template then
    choice = bool(about.labels)
    task: dict[str, Any] = {"text": rows.shown(row), "_view_id": "choice" if choice else "text_input"}
    if choice:
        task["options"] = [{"id": label, "text": label} for label in about.labels]
        task |= {"config": {"choice_style": "multiple"}} if about.several else {}
    if row.suggestion is not None:
        task["meta"] = {"suggestion": row.suggestion.answer}
    lines = [_answered(task, given, about, given.annotator in row.flags) for given in row.answers] or [dict(task)]
    for line, ours in zip(lines, [rest, *[{"id": row.id}] * (len(lines) - 1)], strict=True):
        line[rows.KEY] = {**ours, **line.get(rows.KEY, {})}
    return lines


def _answered(task: dict[str, Any], given: rows.Given, about: rows.About, flagged: bool) -> dict[str, Any]:
    line = {**task, "answer": "ignore" if given.answer is None else "accept"}
    if about.labels:
        line["accept"] = rows.parts_of(given.answer, about)
    elif given.answer is not None:
        line[about.question or _INPUT] = given.answer
    ours = {"reason": given.reason, "at": given.at, "said": given.answer if given.at else None}
    return {
        **line,
        **({"flagged": True} if flagged else {}),
        "_annotator_id": given.annotator,
        "_session_id": given.annotator,
        rows.KEY: {name: text for name, text in ours.items() if text},
    }


def read(record: rows.Record, about: rows.About, where: str) -> rows.Row:
    """The row of one line."""
    kept = rows.as_object(record.get(rows.KEY), f"{where}: {rows.KEY}")
    ours = rows.from_kept(kept, where)
    own = {"text": record.get("text"), **rows.as_object(kept.get("fields"), f"{where}: fields")}
    fields = rows.fields_or_none({**record, **own}, about, _OWN - {"text"})
    who = rows.text_of(record.get("_annotator_id") or record.get("_session_id"), where)
    who = "" if _UNNAMED.fullmatch(who) else who
    at = rows.text_of(record.get("_timestamp") or kept.get("at"), where)
    verdict = record.get("answer")
    if verdict is not None and verdict not in _ANSWERS:
        raise DataError(f"{where}: answer is {verdict!r}; {allowed(_ANSWERS, verdict)}")
    answer = None if verdict == "ignore" else _answer(record, about, where)
    rejected = verdict == "reject"
    if rejected:  # only a binary question, accepted or not, says something of another label
        binary = answer is not None and not {"accept", "options"} & record.keys()
        answer = _other(str(answer), about) if binary else None
    if not record.get("_timestamp") and kept.get("said", answer) != answer:
        at = ""  # our time is that of another answer
    said = verdict == "ignore" or (verdict is not None and answer is not None)
    reason = rows.text_of(kept.get("reason"), where)
    return replace(
        ours,
        fields=fields,
        text=rows.text_of(record.get("text"), f"{where}: text"),
        answers=(rows.Given(who, answer, reason, at),) if said else (),
        flags=tuple(dict.fromkeys((*ours.flags, *((who,) if record.get("flagged") else ())))),
        rejected=rejected and answer is None,
    )


def _answer(record: rows.Record, about: rows.About, where: str) -> str | None:
    if "accept" in record:
        chosen = rows.as_list(record["accept"], f"{where}: accept")
        if len(chosen) > 1 and not about.several:
            raise DataError(f"{where}: accept holds {len(chosen)} options, {chosen!r}; exactly one is allowed")
        accepted = record.get("answer") == "accept"
        names = [_option(item, record, about, where) for item in chosen]
        return rows.single(names, where, about, NONE if accepted else None)
    return rows.text_of(record.get(about.question or ("label" if "label" in record else _INPUT)), where) or None


def _option(chosen: Any, record: rows.Record, about: rows.About, where: str) -> str:
    """An option's id if that is a label, else its text: ids may be numbers."""
    id = rows.text_of(chosen, f"{where}: accept")
    options = rows.objects(record.get("options"), f"{where}: options")
    texts = {rows.text_of(option.get("id"), where): rows.text_of(option.get("text"), where) for option in options}
    known = {label.casefold() for label in about.labels}
    return id if id.strip().casefold() in known else texts.get(id) or id


def _other(label: str, about: rows.About) -> str | None:
    """Of two labels, the one that is not rejected; None where several are left."""
    others = [other for other in about.labels if other.casefold() != label.strip().casefold()]
    return others[0] if len(others) == 1 and len(about.labels) == 2 else None


def mine(record: rows.Record) -> bool:
    """Whether a record looks like a line of `db-out` or a task of ours."""
    answered = record.get("answer") in _ANSWERS and bool({"label", "accept", "options", _INPUT} & record.keys())
    return "_task_hash" in record or "_view_id" in record or ("text" in record and answered)
