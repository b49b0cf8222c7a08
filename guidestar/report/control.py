"""What the random share of the picks says about a run: a control for projects that nobody can run twice.

The mathematics, and what is unbiased and why, is in `metrics/sample.py`; `docs/control.md` says it for users.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from guidestar.metrics.sample import Draw, difference, mean_share, pool_share, rest_share
from guidestar.metrics.statistics import Interval
from guidestar.records import Label, Pick, Skip
from guidestar.report.read import is_random
from guidestar.report.weighted import (
    Corrected,
    corrected,
    corrected_sentence,
    drawn_rounds,
    in_rounds,
    judged_rounds,
    start_of_window,
)
from guidestar.store import Store
from guidestar.tasks import Task, recorded_task
from guidestar.words import count, hundredths, percent

LEAST = 5  # random answers below which an interval is so wide that nothing is said
WINDOW = 30  # random answers that the newest rounds must hold together for an accuracy of now
_BY_EYE = {"page", "terminal"}  # sources of annotations whose annotators may have seen the model's answer


@dataclass(frozen=True)
class Sampled:
    """A complete round in which some picks were random.

    labels: that the judged model was trained on. random, chosen: whether the model was right, for each pick of the kind
    with an answer. skipped: random picks without one. population, labelled: unlabelled examples before the round, and
    the others.
    """

    round: int
    labels: int
    random: tuple[bool, ...]
    chosen: tuple[bool, ...]
    skipped: int
    population: int
    labelled: int

    @property
    def draw(self) -> Draw:
        """The random picks, with what was labelled before counted as right."""
        return Draw(sum(self.random), len(self.random), self.population, self.labelled, self.labelled)


@dataclass(frozen=True)
class PoolAccuracy:
    """An accuracy on what was unlabelled, by `answers` random picks of the first to the last of `rounds`, of which `right`
    were."""

    estimate: float
    low: float
    high: float
    answers: int
    right: int
    rounds: tuple[int, int]


@dataclass(frozen=True)
class ClassShares:
    """A label's share among the labels, and of the pool by estimate."""

    labelled: float
    pool: Interval


@dataclass(frozen=True)
class Control:
    """What the random picks of a run say, and those drawn with known probabilities. Intervals are 95 %; what cannot be said
    is None.

    answers: to random picks. rounds: "round", "labels", "right" and "answers" of each. accuracy: of the newest rounds.
    pool_right: share of the pool that would be right if the model answered the rest. harder: share of errors among the
    strategy's picks less that among random ones. corrected: accuracy by all picks. sentences: for people.
    """

    answers: int
    skipped: int
    rounds: Sequence[Mapping[str, int]]
    accuracy: PoolAccuracy | None
    pool_right: Interval | None
    harder: Interval | None
    classes: Mapping[str, ClassShares] | None
    corrected: Corrected | None
    sentences: Sequence[str] = ()


def control(store: Store) -> Control | None:
    """What can be said; None where there are no such picks after the warm start."""
    if not store.begun:
        return None
    rounds = sampled(store)
    answered = sum(len(one.random) for one in rounds)
    by_chance = {} if is_random(store.facts) else drawn_rounds(store)
    if not rounds and not by_chance:
        return None
    known = Control(
        answers=answered,
        skipped=sum(one.skipped for one in rounds),
        rounds=[
            {"round": one.round, "labels": one.labels, "right": sum(one.random), "answers": len(one.random)}
            for one in rounds
        ],
        accuracy=_accuracy(rounds) if answered >= LEAST else None,
        pool_right=rest_share(rounds[-1].draw) if rounds and len(rounds[-1].random) >= LEAST else None,
        harder=_harder(rounds) if answered >= LEAST else None,
        classes=class_shares(store),
        corrected=corrected(by_chance, WINDOW),
    )
    return replace(known, sentences=_sentences(known, _swayed(store)))


def sampled(store: Store) -> list[Sampled]:
    """The judged rounds with answered random picks."""
    pool, everything = int((store.facts.get("data") or {}).get("pool") or 0), is_random(store.facts)
    labels = [m.labels for m in store.metrics()]
    rounds = []
    for r, before, picks, right in judged_rounds(store):
        drawn = [pick.id for pick in _at_random(picks, everything)]
        random = tuple(right[id] for id in drawn if id in right)
        chosen = tuple(hit for id, hit in right.items() if id not in drawn)
        population, skipped = max(pool - before, len(drawn)), len(drawn) - len(random)
        if random:
            rounds.append(Sampled(r, labels[r - 1], random, chosen, skipped, population, before))
    return rounds


def _at_random(picks: Sequence[Pick], everything: bool) -> list[Pick]:
    return [pick for pick in picks if everything or "random" in pick.details]


def _accuracy(rounds: Sequence[Sampled]) -> PoolAccuracy:
    """Of the newest rounds that hold `WINDOW` random answers together, or of all."""
    newest = rounds[start_of_window([len(one.random) for one in rounds], WINDOW) :]
    share, right = mean_share([one.draw for one in newest]), sum(sum(one.random) for one in newest)
    count, ends = sum(len(one.random) for one in newest), (newest[0].round, newest[-1].round)
    return PoolAccuracy(share.estimate, share.low, share.high, count, right, ends)


def _harder(rounds: Sequence[Sampled]) -> Interval | None:
    chosen = [(len(one.chosen) - sum(one.chosen), len(one.chosen)) for one in rounds]
    random = [(len(one.random) - sum(one.random), len(one.random)) for one in rounds]
    if not any(c[1] and r[1] for c, r in zip(chosen, random, strict=True)):
        return None
    return difference(chosen, random)


def class_shares(store: Store) -> dict[str, ClassShares] | None:
    """Label -> its shares, that of the pool from the warm start and the random picks; None for a task without labels, or before the first round is answered."""
    task, pool = recorded_task(store.facts), int((store.facts.get("data") or {}).get("pool") or 0)
    labels = task.labels
    if not labels or not pool:
        return None
    answers, everything = store.annotations.answers(), is_random(store.facts)
    before: Counter[str] = Counter()
    draws: dict[str, list[Draw]] = {label: [] for label in labels}
    asked = 0
    for r in range(store.rounds()):
        picks = store.query(r).picks
        if not all(pick.id in answers for pick in picks):
            break
        drawn = _labels_of(_at_random(picks, everything or r == 0), answers, task)
        for label in labels if drawn.total() else ():
            known = before[label], before.total()
            population = max(pool - asked, drawn.total())
            draws[label].append(Draw(drawn[label], drawn.total(), population, *known))
        before += _labels_of(picks, answers, task)
        asked += len(picks)
    if not before.total() or any(not rounds for rounds in draws.values()):
        return None
    return {label: ClassShares(before[label] / before.total(), pool_share(draws[label])) for label in labels}


def _labels_of(picks: Sequence[Pick], answers: Mapping[str, Label | Skip], task: Task) -> Counter[str]:
    given = (answers[pick.id] for pick in picks)
    return Counter(part for answer in given if isinstance(answer, Label) for part in task.parts(answer.answer))


def _swayed(store: Store) -> bool:
    """Whether annotators could see the model's answer before they gave theirs."""
    people = (store.facts.get("config") or {}).get("people") or {}
    mode = people.get("suggestions", "auto")
    shown = mode == "shown" or (mode == "auto" and not people.get("overlap"))
    return shown and any(entry.source in _BY_EYE for entry in store.annotations.history())


# --- words ----------------------------------------------------------------------------------------


def _sentences(facts: Control, swayed: bool) -> list[str]:
    accuracy = facts.accuracy
    by_chance = [corrected_sentence(facts.corrected)] if facts.corrected else []
    if accuracy is None:
        if not facts.answers and not by_chance:
            said = "The picks were drawn with chances too unequal to say something about the pool from so few of them."
            return [said]
        said = f"Only {count(facts.answers, 'random answer')} so far: too few to estimate the accuracy on the pool."
        return by_chance or [said]
    when = in_rounds(*accuracy.rounds)
    lines = [
        f"Accuracy on the unlabelled pool: about {percent(accuracy.estimate)} (95 % interval {in_percent(accuracy)}), from "
        f"{accuracy.right} of {accuracy.answers} random picks of {when}, each judged before it was trained on."
    ]
    lines += by_chance
    if rest := facts.pool_right:
        then = f"about {percent(rest.estimate)} of the whole pool would be right ({in_percent(rest)})"
        lines.append(f"If the newest judged model answered the rest, {then}, labels counted as right.")
    if facts.harder:
        lines.append(_harder_sentence(facts.harder))
    for label, shares in (facts.classes or {}).items():
        pool = shares.pool
        if shares.labelled not in pool:
            of_pool = f"about {percent(pool.estimate)} of the pool ({in_percent(pool)})"
            of_labels = f"{label!r} is {percent(shares.labelled)} of the labels"
            lines.append(f"{of_labels} and {of_pool}: the labels are no picture of the pool.")
    if facts.skipped:
        lines.append(f"{facts.skipped} random picks were skipped; the estimates are for what people can answer.")
    if swayed:
        lines.append("Annotators saw the model's answers, which may have swayed them: the accuracy may be too high.")
    return lines


def _harder_sentence(harder: Interval) -> str:
    points, low, high = 100 * harder.estimate, 100 * harder.low, 100 * harder.high
    between = f"95 % interval {low:+.0f} to {high:+.0f}"
    if low > 0:
        return f"The strategy's picks are harder than the pool: wrong {points:.0f} points more often ({between})."
    if high < 0:
        return f"The strategy's picks are easier than the pool: wrong {-points:.0f} points less often ({between})."
    return f"Whether the strategy's picks are harder than the pool is not known: {points:+.0f} points of error ({between})."


def in_percent(interval: Interval | PoolAccuracy) -> str:
    """'65 to 89 %'."""
    return f"{hundredths(interval.low, 0)} to {percent(interval.high)}"
