"""Did choosing pay? One word and one plain sentence, which claim nothing that the seeds cannot show.

Every verdict of this package is made by `decide`: pages of the paper's tables, studies, reports and `compare` alike.
The areas under the two curves decide, for they use every round; savings are said only after that. A gain or a harm
needs three things: p of the paired difference of the areas, corrected by Holm for all comparisons on the page, within
the level; an exact sign-flip test in the claimed direction that agrees, so that no claim rests on the normal
distribution alone; and five seeds (more where the level asks for it, log₂(1/(1 − level))): with fewer, even seeds that
all agree are no evidence. Where the noise floor is known (how far two trainings on the same labels may end apart by
order and start alone), a difference below the floor of a mean of so many seeds claims nothing either.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from guidestar.metrics import savings
from guidestar.metrics.savings import Pair, Saving, area_difference, steps
from guidestar.metrics.statistics import LEVEL, Floats, Interval, holm, sign_flip_test, t_test
from guidestar.words import hundredths, level_of, number, percent

Kind = Literal["gain", "no evidence", "harm"]
Key = TypeVar("Key")

FEWEST_SEEDS = 5


@dataclass(frozen=True)
class Comparison:
    """What a verdict on a strategy beside its control is made from.

    differences: (seeds,) of the areas under the two curves, strategy − control, one for each seed that both have. p:
    two-sided, that the areas are equal, before correction; None for fewer than two seeds. floor: how far the accuracies
    of two single trainings may be apart by chance, if that was measured.
    """

    differences: Floats
    p: float | None
    floor: float | None = None


def comparison(differences: ArrayLike, floor: float | None = None) -> Comparison:
    """A comparison of which only the difference of each seed is known: p is that of the paired t test."""
    values = np.asarray(differences, dtype=np.float64)
    return Comparison(values, t_test(values) if len(values) > 1 else None, floor)


def comparison_of(curves: Pair, floor: float | None = None) -> Comparison:
    """A comparison of two sets of curves; where the answer to each test example is known, p speaks of new ones too."""
    return Comparison(area_by_seed(curves), savings.area_p(curves), floor)


@dataclass(frozen=True)
class Decision:
    """kind: what may be said. seeds: how many it rests on. p: corrected; None where so few seeds cannot claim anything.
    comparisons: how many p values of the page were corrected together."""

    kind: Kind
    seeds: int
    p: float | None
    comparisons: int

    @property
    def word(self) -> str:
        """The verdict as a table shows it: a direction, "no evidence", or that there are too few seeds to say.

        >>> Decision("no evidence", 3, None, 0).word
        'too few seeds'
        """
        return "too few seeds" if self.p is None else self.kind


def decide(page: Mapping[Key, Comparison], level: float = LEVEL) -> dict[Key, Decision]:
    """The verdict on every comparison of one page.

    >>> star = comparison([0.02, 0.03, 0.02, 0.04, 0.03])
    >>> decide({"star": star})["star"].kind, decide({i: star for i in range(100)})[0].kind
    ('gain', 'no evidence')
    """
    tested = {key: one.p for key, one in page.items() if one.p is not None and can_claim(len(one.differences), level)}
    corrected = dict(zip(tested, holm(list(tested.values())).tolist(), strict=True))
    return {
        key: Decision(_kind(one, corrected.get(key), level), len(one.differences), corrected.get(key), len(tested))
        for key, one in page.items()
    }


def _kind(one: Comparison, p: float | None, level: float) -> Kind:
    """p: corrected."""
    if p is None or below_floor(one.differences, one.floor):
        return "no evidence"
    up = float(one.differences.mean()) > 0
    exact = sign_flip_test(one.differences if up else -one.differences, greater=True)
    if p > 1 - level or exact > 1 - level:
        return "no evidence"
    return "gain" if up else "harm"


@dataclass(frozen=True)
class Verdict:
    """Whether a strategy is better than the control ("gain"), worse ("harm"), or neither can be shown; and the
    sentence that says so."""

    kind: Kind
    sentence: str


def judge(
    curves: Pair, decision: Decision, names: tuple[str, str], *, level: float = LEVEL, target: float | None = None,
    floor: float | None = None,
) -> Verdict:  # fmt: skip
    """The verdict on a pair of curves in words. decision: what `decide` said of it on its page. floor: as in `Comparison`."""
    if decision.p is None:
        return few_seeds(area_by_seed(curves), names, level, floor)
    if decision.kind == "no evidence":
        return Verdict(decision.kind, _nothing(curves, decision, level, names, floor))
    at = savings.saving_at_the_end(curves, level) if target is None else savings.saving_at(curves, target, level)
    return Verdict(decision.kind, _claim(curves, decision, at, level, names))


def floor_of_mean(floor: float, seeds: int) -> float:
    """The noise floor of a mean over seeds, each trained once: that of one training over √seeds.

    An area averages over rounds besides, which would lower its floor further; that is left out, since rounds with fewer
    labels are noisier than the one that was probed.
    >>> floor_of_mean(0.03, 9)
    0.01
    """
    return floor / math.sqrt(seeds)


def below_floor(differences: Sequence[float] | Floats, floor: float | None) -> bool:
    """Whether the mean of the differences, one a seed, is below the noise floor of such a mean; not if that is unknown."""
    return floor is not None and abs(float(np.mean(differences))) < floor_of_mean(floor, len(differences))


def area_by_seed(curves: Pair) -> Floats:
    """The difference of the areas, strategy − control, of each seed: (seeds,)."""
    points = curves.shared
    return (curves.strategy[:, :points] - curves.control[:, :points]) @ steps(points)


def least_seeds(level: float = LEVEL) -> int:
    """The fewest seeds with which a verdict can claim anything: five, or as many as the exact test needs at this level.

    >>> least_seeds(0.8), least_seeds(0.95), least_seeds(0.99)
    (5, 5, 7)
    """
    return max(FEWEST_SEEDS, math.ceil(math.log2(1 / (1 - level)) - 1e-9))


def can_claim(seeds: int, level: float = LEVEL) -> bool:
    """Whether so many seeds could show anything, if all of them agreed.

    >>> can_claim(4), can_claim(5)
    (False, True)
    """
    return seeds >= least_seeds(level)


def win_tie_loss(kinds: Sequence[Mapping[tuple[str, str], Kind]]) -> dict[str, dict[str, tuple[int, int, int]]]:
    """How often each strategy won against, tied with and lost to each other one.

    kinds: for each dataset (row, column) -> the verdict on row beside column, each pair once; its reverse is filled
    in. The p values behind them are to be corrected for all of them.
    >>> win_tie_loss([{("star", "random"): "gain"}, {("star", "random"): "no evidence"}])["random"]["star"]
    (0, 1, 1)
    """
    counts: dict[str, dict[str, list[int]]] = {}
    place = {"gain": 0, "no evidence": 1, "harm": 2}
    for dataset in kinds:
        for (row, column), kind in dataset.items():
            counts.setdefault(row, {}).setdefault(column, [0, 0, 0])[place[kind]] += 1
            counts.setdefault(column, {}).setdefault(row, [0, 0, 0])[2 - place[kind]] += 1
    return {row: {column: (n[0], n[1], n[2]) for column, n in row_counts.items()} for row, row_counts in counts.items()}


# --- words ----------------------------------------------------------------------------------------


def few_seeds(
    differences: Sequence[float] | Floats, names: tuple[str, str], level: float = LEVEL, floor: float | None = None
) -> Verdict:
    """The verdict on too few seeds. differences: of the areas, by seed. floor: as for `judge`."""
    n, needed = len(differences), least_seeds(level)
    if not n:
        return Verdict("no evidence", f"No seed is finished for both {names[0]} and {names[1]}.")
    where = _apart(float(np.mean(differences)), names) + _noise(differences, floor)
    if n == 1:
        alone = f"One seed cannot show a gain: {where}, and nothing tells how much of that is chance."
        return Verdict("no evidence", alone)
    agree = "both agree" if n == 2 else f"all {n} agree"
    return Verdict(
        "no evidence",
        f"{n} seeds cannot show a gain at {level_of(level)}: {where}, but even if {agree}, chance alone does "
        f"that in 1 of {2**n} cases; it takes {needed} seeds.",
    )


def _noise(differences: Sequence[float] | Floats, floor: float | None) -> str:
    """How a difference that was just named stands to the noise floor, where it is below it."""
    if floor is None or not below_floor(differences, floor):
        return ""
    n = len(differences)
    mean = "" if n == 1 else f" of a mean of {n} seeds"
    return f", below the noise floor of {100 * floor_of_mean(floor, n):.1f} points{mean}"


def _nothing(curves: Pair, decision: Decision, level: float, names: tuple[str, str], floor: float | None) -> str:
    difference, differences = area_difference(curves, level), area_by_seed(curves)
    if 0.0 not in difference and below_floor(differences, floor):
        why = "training again on the same labels may move it as far"
    elif 0.0 in difference:
        why = f"as far as they can tell, {names[1]} is as good"
    elif decision.p is not None and decision.p > 1 - level:
        why = f"of {decision.comparisons} comparisons one may look like that by chance"
    else:
        exact = sign_flip_test(differences)
        why = f"but not enough of the seeds agree: without assuming normal differences p is {exact:.2g}"
    return (
        f"No evidence of a gain: {_apart(difference.estimate, names)}{_noise(differences, floor)}, {level_of(level)} interval "
        f"{number(difference.low, sign=True)} to {number(difference.high, sign=True)}, {curves.seeds} seeds; {why}."
    )


def _claim(curves: Pair, decision: Decision, at: Saving | None, level: float, names: tuple[str, str]) -> str:
    """How many labels were saved or spent, in the sharpest form whose own interval agrees."""
    own, control = names
    gain, tested = decision.kind == "gain", decision.comparisons
    several = f", after correction for {tested} comparisons" if tested > 1 else ""
    seeds = f"{curves.seeds} seeds{several}."
    if at is not None and _agrees(at.share, decision.kind):
        amount = f"{'at least ' if at.bound else ''}{percent(abs(at.share.estimate))} {'saved' if gain else 'more'}"
        return f"{_needed(curves, at, names, gain)}: {amount}, {_range(at.share, decision.kind, level)}, {seeds}"
    average = savings.saving_on_average(curves, level)
    if _agrees(average, decision.kind):
        amount = percent(abs(average.estimate))
        did = f"saved {amount} of {control}'s labels" if gain else f"needed {amount} more labels than {control}"
        rest = "" if at is None else f" To reach {at.accuracy:.2f} the number is not settled."
        way = "on average over the accuracies on the way"
        return f"{own} {did} {way}, {_range(average, decision.kind, level)}, {seeds}{rest}"
    difference = area_difference(curves, level)
    low, high = sorted((abs(difference.low), abs(difference.high)))
    return (
        f"On average {own} was {hundredths(abs(difference.estimate), 1)} points {'above' if gain else 'below'} {control}, "
        f"{level_of(level)} interval {hundredths(low, 1)} to {hundredths(high, 1)}, {seeds} What that is in labels is not settled."
    )


def _needed(curves: Pair, at: Saving, names: tuple[str, str], gain: bool) -> str:
    """What both needed for an accuracy: 'lean reached random's 200-label accuracy of 0.84 with 110 labels'."""
    own, control = names
    last = curves.control_labels[-1]
    if gain and at.labels is not None and at.control_labels == last:
        return f"{own} reached {control}'s {last:.0f}-label accuracy of {at.accuracy:.2f} with {at.labels:.0f} labels"
    sides = [
        f"not with {labels[-1]:.0f}" if needed is None else f"with {needed:.0f}"
        for needed, labels in ((at.labels, curves.labels), (at.control_labels, curves.control_labels))
    ]
    return f"{own} reached an accuracy of {at.accuracy:.2f} {sides[0]} labels, {control} {sides[1]}"


def reached(at: Saving, curves: Pair, names: tuple[str, str], level: float = LEVEL) -> str:
    """What both curves needed to reach an accuracy, in one sentence."""
    goal, share = f"to reach {at.accuracy:g}", at.share.estimate
    (own, other), last, control_last = names, curves.labels[-1], curves.control_labels[-1]
    if at.labels is not None and at.control_labels is not None:
        needed = f"{own} needed {at.labels:.0f} labels {goal} and {other} {at.control_labels:.0f}"
    elif at.labels is not None:
        needed = f"{own} needed {at.labels:.0f} labels {goal}, which {other} did not with {control_last:.0f}"
    elif at.control_labels is not None:
        needed = f"{other} needed {at.control_labels:.0f} labels {goal}, which {own} did not with {last:.0f}"
    else:
        return f"Neither {own} nor {other} reached {at.accuracy:g}."
    bound = "" if at.bound is None else "at least " if (at.bound == "at least") == (share >= 0) else "at most "
    low = "any number more" if math.isinf(at.share.low) else _fewer(at.share.low)
    high = "any number fewer" if at.share.high >= 1 else _fewer(at.share.high)
    return f"{needed}: {bound}{_fewer(share)}, {level_of(level)} interval {low} to {high}."


def _fewer(share: float) -> str:
    return f"{percent(abs(share))} {'fewer' if share >= 0 else 'more'}"


def _agrees(share: Interval, kind: Kind) -> bool:
    """Whether the whole interval of a share lies on the side of the claim."""
    return share.low > 0 if kind == "gain" else share.high < 0


def _range(share: Interval, kind: Kind, level: float) -> str:
    """The interval as amounts, without a sign; open where the measured curves do not bound it."""
    low, high = (share.low, share.high) if kind == "gain" else (-share.high, -share.low)
    if high >= 1 if kind == "gain" else math.isinf(high):
        return f"{level_of(level)} interval {percent(low)} or more"
    return f"{level_of(level)} interval {hundredths(low, 0)} to {percent(high)}"


def _apart(difference: float, names: tuple[str, str]) -> str:
    if abs(difference) < 0.0005:
        return f"on average {names[0]} was as accurate as {names[1]}"
    where = "above" if difference >= 0 else "below"
    return f"on average {names[0]} was {abs(difference):.3f} {where} {names[1]}'s accuracy"
