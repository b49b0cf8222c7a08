"""What each round asked for, and why, for the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from guidestar.records import Label, Query
from guidestar.report.evidence import Near, file_of, nearest
from guidestar.report.pictures import MOST_CLASSES
from guidestar.report.read import RunRecord
from guidestar.words import number, significant

_LONG, _NEAR = 600, 160  # characters that are shown of a text, and of its nearest neighbour


@dataclass(frozen=True)
class Round:
    """One round for the page. line: what happened; notes: more of it. columns: the scores' parts."""

    number: int
    line: str
    notes: Sequence[str]
    columns: Sequence[str]
    picks: Sequence[Mapping[str, Any]]


def rounds_of(run: RunRecord) -> list[Round]:
    """All rounds of a run."""
    near = nearest(run)
    return [_round(run, query, near) for query in run.queries]


def _round(run: RunRecord, query: Query, near: Mapping[str, Near]) -> Round:
    columns = list(dict.fromkeys(name for pick in query.picks for name in pick.details if name != "lambda"))
    answers = [run.answers.get(pick.id) for pick in query.picks]
    rows = [
        {
            "fields": [(name, _clipped(text)) for name, text in run.examples[pick.id].fields.items()],
            "where": file_of(run.examples[pick.id].where),
            "answer": answer.answer if isinstance(answer, Label) else None,
            "skipped": None if answer is None or isinstance(answer, Label) else answer.reason or "no reason given",
            "annotator": answer.annotator if answer is not None else None,
            "score": significant(pick.score),
            "near": _near(near.get(pick.id)),
            "details": [significant(pick.details.get(name)) for name in columns],
        }
        for pick, answer in zip(query.picks, answers, strict=True)
    ]
    line = f"{len(rows)} asked for" + (" at random, the warm start" if query.round == 0 else "")
    measured = next((m for m in run.metrics if m.round == query.round), None)
    if measured is not None and "accuracy" in measured.values:
        line += f"; accuracy afterwards {number(measured.values['accuracy'])}"
    notes = list(_round_notes(run, query))
    cosines = [near[pick.id].cosine for pick in query.picks if pick.id in near]
    if cosines:
        notes.append(f"likeness to the nearest earlier pick: median {median(cosines):.2f}, highest {max(cosines):.2f}")
    return Round(query.round, line, notes, columns, rows)


def _near(found: Near | None) -> str | None:
    """The nearest earlier pick in one line."""
    if found is None:
        return None
    text = found.text if len(found.text) <= _NEAR else f"{found.text[:_NEAR]} …"
    return f"{found.cosine:.2f} like “{text}”" + (f" ({found.answer})" if found.answer is not None else "")


def _round_notes(run: RunRecord, query: Query) -> Iterable[str]:
    """The answers given, and where the picks' scores came from."""
    answers = [run.answers.get(pick.id) for pick in query.picks]
    given = Counter(answer.answer for answer in answers if isinstance(answer, Label))
    if 0 < len(given) <= MOST_CLASSES:
        yield "answers: " + ", ".join(f"{label} {count}" for label, count in given.most_common())
    for weight in sorted({pick.details["lambda"] for pick in query.picks if "lambda" in pick.details}):
        yield f"λ = {significant(weight)}: the weight of the base model's uncertainty in the score"
    scores = run.scores.get(query.round, {})
    for name in ("score", "base", "full"):
        if name in scores:
            low, middle, high = np.quantile(scores[name], [0.0, 0.5, 1.0])
            reach = f"{significant(low)} to {significant(high)}, median {significant(middle)}"
            yield f"{name} of all {len(scores[name])} candidates: {reach}"


def _clipped(text: str) -> str:
    return text if len(text) <= _LONG else f"{text[:_LONG]} … ({len(text)} characters)"
