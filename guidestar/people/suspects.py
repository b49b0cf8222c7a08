"""Likely label errors: where the model, before it was trained on a label, was almost sure of another one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from guidestar.records import Label, Skip, Suggestion

DOUBT = 0.1  # highest probability of the given label
SURE = 0.8  # lowest probability of the other one


@dataclass(frozen=True)
class Suspect:
    """A label that the model contradicts: what was given, what the model says, and both probabilities."""

    id: str
    given: str
    other: str
    p_given: float
    p_other: float


def suspects(
    answers: Mapping[str, Label | Skip],
    suggestions: Mapping[str, Suggestion],
    settled: Collection[str] = (),
    learnt: Mapping[str, int] | None = None,
    *,
    doubt: float = DOUBT,
    sure: float = SURE,
) -> list[Suspect]:
    """The labels with p(given) <= doubt and p(other) >= sure, the clearest contradiction first.

    answers: example -> the answer that counts. suggestions: what the model said before it saw the label; those
    without probabilities (free text) say nothing here. settled: examples with a verdict, left out. learnt: see
    `Suggestion.knew`; None where every model knew every label.
    Source: the confident off-diagonal of Northcutt et al. 2021, with fixed thresholds.
    """
    found = []
    for id, answer in answers.items():
        said = suggestions.get(id)
        if id in settled or said is None or not isinstance(answer, Label) or answer.answer not in said.probabilities:
            continue
        if learnt is not None and not said.knew(answer.answer, learnt):
            continue
        others = {label: p for label, p in said.probabilities.items() if label != answer.answer}
        if not others:
            continue
        other = max(others, key=lambda label: others[label])
        given = said.probabilities[answer.answer]
        if given <= doubt and others[other] >= sure:
            found.append(Suspect(id, answer.answer, other, given, others[other]))
    return sorted(found, key=lambda s: (s.p_given - s.p_other, s.id))
