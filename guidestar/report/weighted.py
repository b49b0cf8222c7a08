"""What a batch drawn by chance with known probabilities says about the pool, once its weights are put right.

Stochastic strategies (`power`, `gibbs`, `soft_rank`) draw hard examples more often, but every example has a chance, and
the chance is recorded with the pick. So all picks of a round speak for the pool, not only its random share: the model of
the round before, which was not trained on them, is judged on all of them, and R_LURE corrects for how they were drawn
(`metrics/sample.py`). Errors are weighed and not right answers: a measure that knows anything seldom draws what is
right, so that right answers have the large weights and errors the small ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from guidestar.metrics.sample import Drawn, effective_number, lure_share, lure_weights
from guidestar.records import Label, Skip, Suggestion
from guidestar.store import Store

LEAST_EFFECTIVE = 5.0  # effective picks below which one pick decides the estimate, and nothing is said
Judge = Callable[[Suggestion, Label], bool]


@dataclass(frozen=True)
class DrawnRound:
    """A complete round whose picks were all drawn with known probabilities. hits: 1 where the model was wrong."""

    round: int
    drawn: Drawn

    @property
    def answers(self) -> int:
        """Picks with an answer."""
        return int((~np.isnan(self.drawn.hits)).sum())


def drawn_rounds(store: Store, right: Judge) -> list[DrawnRound]:
    """The rounds whose picks all have a probability and that the model of the round before was asked about."""
    answers, said, complete = store.annotations.answers(), store.suggestions(), len(store.metrics())
    rounds = []
    for r in range(1, min(store.rounds(), complete + 1)):
        picks = store.query(r).picks
        if not picks or not all(pick.id in answers for pick in picks):
            continue
        chances = np.array([pick.details.get("probability", 0.0) for pick in picks])
        if not chances.all() or not all(pick.id in said and said[pick.id].round == r - 1 for pick in picks):
            continue
        wrong = np.array([_wrong(said[pick.id], answers[pick.id], right) for pick in picks])
        population = _population(store, r)
        if population is not None and len(picks) <= population:
            rounds.append(DrawnRound(r, Drawn(wrong, chances, population)))
    return rounds


def _population(store: Store, r: int) -> int | None:
    """How many candidates a round drew from, exactly: as many as were scored, or as the first random pick's probability
    says; None if neither is known. The pool's size would not do: prompts that do not fit the model are no candidates."""
    if store.has_arrays(r, "scores"):
        return len(store.arrays(r, "scores")["score"])
    first = store.query(r).picks[0]
    return round(1 / first.details["probability"]) if "random" in first.details else None


def _wrong(said: Suggestion, answer: Label | Skip, right: Judge) -> float:
    return float(not right(said, answer)) if isinstance(answer, Label) else float("nan")


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


def corrected(rounds: list[DrawnRound], window: int) -> Corrected | None:
    """By the newest rounds that hold `window` answers together; None without any, or where weights differ so much that few
    picks decide."""
    count, start = 0, len(rounds)
    while start and count < window:
        start -= 1
        count += rounds[start].answers
    newest = rounds[start:]
    if not count:
        return None
    hits = np.concatenate([one.drawn.hits for one in newest])
    weights = np.concatenate([lure_weights(one.drawn.probabilities, one.drawn.population) for one in newest])
    effective = effective_number(weights[~np.isnan(hits)])
    if effective < LEAST_EFFECTIVE:
        return None
    errors = lure_share([one.drawn for one in newest])
    return Corrected(
        1 - errors.estimate, 1 - errors.high, 1 - errors.low, 1 - float(np.nanmean(hits)), count, effective,
        (newest[0].round, newest[-1].round),
    )  # fmt: skip


def corrected_sentence(facts: Corrected) -> str:
    """Both numbers, and what the correction rests on."""
    first, last = facts.rounds
    when = f"round {last}" if first == last else f"rounds {first} to {last}"
    estimate, low, high, plain = (100 * x for x in (facts.estimate, facts.low, facts.high, facts.uncorrected))
    return (
        f"All {facts.answers} picks of {when}, corrected for how probable each was to be drawn, put the accuracy on the "
        f"unlabelled pool at about {estimate:.0f} % (95 % interval {low:.0f} to {high:.0f} %, as many as "
        f"{facts.effective:.0f} random picks tell); uncorrected they would say {plain:.0f} %."
    )
