"""What each round asked for, and why, for the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from guidestar.records import Label, Query
from guidestar.report.evidence import clipped, file_of
from guidestar.report.pictures import MOST_CLASSES
from guidestar.report.read import RunRecord
from guidestar.words import number, significant

MOST_PICKS = 600  # in one page, shared by all its rounds


@dataclass(frozen=True)
class Round:
    """One round for the page. line: what happened; notes: more of it. columns: the score and its parts. left_out: a sentence
    about picks that are not shown, may be empty."""

    number: int
    line: str
    notes: Sequence[str]
    columns: Sequence[str]
    picks: Sequence[Mapping[str, Any]]
    left_out: str


def round_of(run: RunRecord, query: Query, shown: int) -> Round:
    """A round of a run. shown: picks, at most."""
    names = dict.fromkeys(name for pick in query.picks for name in pick.details if name != "lambda")
    scored = bool(names) or any(not np.isnan(pick.score) for pick in query.picks)
    columns = ["score", *names] if scored else []
    picks = query.picks[:shown]
    answers = [run.answers.get(pick.id) for pick in picks]
    rows = [
        {
            "fields": clipped(run.examples[pick.id].fields),
            "where": file_of(run.examples[pick.id].where),
            "answer": answer.answer if isinstance(answer, Label) else None,
            "skipped": None if answer is None or isinstance(answer, Label) else answer.reason or "no reason given",
            "annotator": answer.annotator if answer is not None else None,
            "details": [significant({"score": pick.score, **pick.details}.get(name)) for name in columns],
        }
        for pick, answer in zip(picks, answers, strict=True)
    ]
    line = f"{len(query.picks)} asked for" + (", the warm start" if query.round == 0 else "")
    measured = next((m for m in run.metrics if m.round == query.round), None)
    if measured is not None and "accuracy" in measured.values:
        line += f"; accuracy afterwards {number(measured.values['accuracy'])}"
    left = len(query.picks) - len(rows)
    left_out = f"The first {len(rows)} of {len(query.picks)}; `guidestar export` writes all." if left else ""
    return Round(query.round, line, list(_round_notes(run, query)), columns, rows, left_out)


def _round_notes(run: RunRecord, query: Query) -> Iterable[str]:
    """The answers given, and where the picks' scores came from."""
    answers = [run.answers.get(pick.id) for pick in query.picks]
    given = Counter(answer.answer for answer in answers if isinstance(answer, Label))
    if 0 < len(given) <= MOST_CLASSES:
        yield "answers: " + ", ".join(f"{label} ({count})" for label, count in given.most_common())
    for weight in sorted({pick.details["lambda"] for pick in query.picks if "lambda" in pick.details}):
        yield f"λ = {significant(weight)}: the weight of the base model's uncertainty in the score"
    scores = run.scores.get(query.round, {})
    for name in ("score", "base", "full"):
        if name in scores:
            low, middle, high = np.quantile(scores[name], [0.0, 0.5, 1.0])
            reach = f"{significant(low)} to {significant(high)}, median {significant(middle)}"
            yield f"{name} of all {len(scores[name])} candidates: {reach}"
