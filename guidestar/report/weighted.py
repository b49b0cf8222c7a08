"""What a batch drawn by chance with known probabilities says about the pool, once its weights are put right.

Stochastic strategies (`power`, `gibbs`, `soft_rank`) draw hard examples more often, but every example has a chance, and
the chance is recorded with the pick. So all picks of a round speak for the pool, not only its random share: the model of
the round before, which was not trained on them, is judged on all of them, and R_LURE corrects for how they were drawn
(`metrics/sample.py`). Errors are weighed and not right answers: a measure that knows anything seldom draws what is
right, so that right answers have the large weights and errors the small ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from guidestar.metrics.sample import Drawn, effective_number, lure_share, lure_weights
from guidestar.records import Label, Pick
from guidestar.store import Store
from guidestar.tasks import recorded_task

LEAST_EFFECTIVE = 5.0  # effective picks below which one pick decides the estimate, and nothing is said


class Judged(NamedTuple):
    """A complete round whose picks were all shown to the model of the round before, which was not trained on them.

    before: examples that earlier rounds asked for. right: id -> whether that model was right, of each pick that is labelled.
    """

    round: int
    before: int
    picks: Sequence[Pick]
    right: Mapping[str, bool]


def judged_rounds(store: Store) -> Iterator[Judged]:
    """All such rounds after the warm start."""
    task, answers, said = recorded_task(store.facts), store.annotations.answers(), store.suggestions()
    asked = 0
    for r in range(min(store.rounds(), len(store.metrics()) + 1)):
        picks, before = store.query(r).picks, asked
        asked += len(picks)
        if r and all(pick.id in answers and pick.id in said and said[pick.id].round == r - 1 for pick in picks):
            labels = [(pick.id, given.answer) for pick in picks if isinstance(given := answers[pick.id], Label)]
            right = {id: task.compared(said[id].answer) == task.compared(label) for id, label in labels}
            yield Judged(r, before, picks, right)


def start_of_window(answers: Sequence[int], least: int) -> int:
    """Where the newest rounds begin that hold `least` answers together; 0 where all of them hold fewer."""
    start = len(answers)
    while start and sum(answers[start:]) < least:
        start -= 1
    return start


def in_rounds(first: int, last: int) -> str:
    """'round 3', 'rounds 1 to 3'."""
    return f"round {last}" if first == last else f"rounds {first} to {last}"


def drawn_rounds(store: Store) -> dict[int, Drawn]:
    """The judged rounds whose picks all have a probability; hits are 1 where the model was wrong."""
    rounds = {}
    for one in judged_rounds(store):
        chances = np.array([pick.details.get("probability", 0.0) for pick in one.picks])
        population = _population(store, one.round) if len(chances) and chances.all() else None
        if population is not None and len(chances) <= population:
            wrong = np.array([float(not one.right[p.id]) if p.id in one.right else np.nan for p in one.picks])
            rounds[one.round] = Drawn(wrong, chances, population)
    return rounds


def _population(store: Store, r: int) -> int | None:
    """How many candidates a round drew from, exactly: as many as were scored, or as the first random pick's probability
    says; None if neither is known. The pool's size would not do: prompts that do not fit the model are no candidates."""
    if store.has_arrays(r, "scores"):
        return len(store.arrays(r, "scores")["score"])
    first = store.query(r).picks[0]
    return round(1 / first.details["probability"]) if "random" in first.details else None


@dataclass(frozen=True)
class Corrected:
    """An accuracy on what was unlabelled. uncorrected: the share of right answers among the picks. effective: Kish's number
    of the answers. rounds: the first and the last."""

    estimate: float
    low: float
    high: float
    uncorrected: float
    answers: int
    effective: float
    rounds: tuple[int, int]


def corrected(rounds: Mapping[int, Drawn], window: int) -> Corrected | None:
    """By the newest rounds that hold `window` answers together; None without any, or where weights differ so much that few
    picks decide."""
    answers = [int((~np.isnan(drawn.hits)).sum()) for drawn in rounds.values()]
    start = start_of_window(answers, window)
    newest, count = list(rounds.items())[start:], sum(answers[start:])
    if not count:
        return None
    hits = np.concatenate([drawn.hits for _, drawn in newest])
    weights = np.concatenate([lure_weights(drawn.probabilities, drawn.population) for _, drawn in newest])
    effective = effective_number(weights[~np.isnan(hits)])
    if effective < LEAST_EFFECTIVE:
        return None
    errors = lure_share([drawn for _, drawn in newest])
    return Corrected(
        1 - errors.estimate, 1 - errors.high, 1 - errors.low, 1 - float(np.nanmean(hits)), count, effective,
        (newest[0][0], newest[-1][0]),
    )  # fmt: skip


def corrected_sentence(facts: Corrected) -> str:
    """Both numbers, and what the correction rests on."""
    estimate, low, high, plain = (100 * x for x in (facts.estimate, facts.low, facts.high, facts.uncorrected))
    return (
        f"All {facts.answers} picks of {in_rounds(*facts.rounds)}, corrected for how probable each was to be drawn, put the accuracy on the "
        f"unlabelled pool at about {estimate:.0f} % (95 % interval {low:.0f} to {high:.0f} %, as many as "
        f"{facts.effective:.0f} random picks tell); uncorrected they would say {plain:.0f} %."
    )
