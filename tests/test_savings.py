"""Areas, savings and verdicts of paired learning curves: literal versions, special cases, and simulations of known truth."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from simulation import WORLDS, Noise, World, accuracies, answers, coverage, power_law, truths, unknown_answers

from guidestar.metrics.savings import (
    BANDWIDTH,
    area_difference,
    area_p,
    auc,
    deficiency_interval,
    final_difference,
    pair,
    ripl,
    ripl_interval,
    saving_at,
    saving_at_the_end,
    saving_on_average,
    smoother,
    steps,
)
from guidestar.metrics.statistics import t_interval
from guidestar.metrics.verdict import (
    Decision,
    Verdict,
    comparison,
    comparison_of,
    decide,
    few_seeds,
    judge,
    reached,
    win_tie_loss,
)

LABELS = np.array([100, 150, 200, 300, 400])
RISING = np.array([0.6, 0.7, 0.76, 0.8, 0.82])
QUIET = Noise(seed=0.01, own=0.004, examples=20_000)


NAMES = ("the strategy", "random")


def verdict(
    own: Any, other: Any, labels: Any, names: tuple[str, str] = NAMES, level: float = 0.95, **more: Any
) -> Verdict:
    """The verdict on one strategy beside a control; of a single seed, which has no pair, too."""
    if len(own) < 2:
        return few_seeds([float(a) for a in (np.asarray(own) - np.asarray(other)) @ steps(len(labels))], names)
    found = pair(own, other, labels)
    return judge(found, decide({0: comparison_of(found)}, level)[0], names, level=level, **more)


def simulated(seed=0, seeds=5, speed=1.5, noise=QUIET, world="power law"):
    rng = np.random.default_rng(seed)
    own, other = accuracies(replace(WORLDS[world], speed=speed), seeds, rng, noise)
    return own, other, WORLDS[world].labels


def wobble(curve, seeds=5, size=0.004):
    """A curve for each seed: the same shape, a little higher or lower."""
    return np.asarray(curve) + size * np.linspace(-1, 1, seeds)[:, None]


# --- areas ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("points", [1, 2, 5])
def test_steps_are_the_weights_of_the_area(points):
    curve = np.random.default_rng(points).random(points)
    assert steps(points) @ curve == pytest.approx(auc(curve))


def test_differences_are_the_t_intervals_of_the_seeds():
    own, other, labels = simulated()
    found = pair(own, other, labels)
    areas = np.array([auc(a) - auc(b) for a, b in zip(own, other, strict=True)])
    for ours, theirs in (
        (area_difference(found), t_interval(areas)),
        (final_difference(found), t_interval(own[:, -1] - other[:, -1])),
    ):
        assert (ours.estimate, ours.low, ours.high) == pytest.approx((theirs.estimate, theirs.low, theirs.high))
    assert area_p(found) == pytest.approx(stats.ttest_1samp(areas, 0).pvalue)


def test_ripl_is_that_of_the_mean_areas_and_its_interval_an_inverted_t_test():
    own, other, labels = simulated()
    a, b = (np.array([auc(curve) for curve in side]) for side in (own, other))
    found = ripl_interval(pair(own, other, labels))
    assert found.estimate == pytest.approx(ripl(float(a.mean()), float(b.mean())))
    for end in (found.low, found.high):
        assert stats.ttest_1samp(a - b - end * (1 - b), 0).pvalue == pytest.approx(0.05)


def test_deficiency_is_the_share_of_the_controls_missing_area():
    own, other, labels = simulated()
    a, b = (np.array([auc(curve) for curve in side]) for side in (own, other))
    found = pair(own, other, labels)
    end = other[:, -1]
    said = deficiency_interval(found)
    assert said.estimate == pytest.approx((end - a).mean() / (end - b).mean())
    for limit in (said.low, said.high):
        assert stats.ttest_1samp(end - a - limit * (end - b), 0).pvalue == pytest.approx(0.05)
    assert deficiency_interval(pair(other, other, labels)).estimate == pytest.approx(1.0)


def test_known_answers_give_the_same_estimates_and_wider_intervals():
    rng = np.random.default_rng(0)
    world = replace(WORLDS["power law"], speed=2.0)
    right = answers(world, 6, rng, Noise(seed=0.0, own=0.002, examples=150))
    known = pair(right[0], right[1], world.labels)
    blind = pair(*right.mean(axis=3), world.labels)
    assert known.examples == 150
    assert blind.examples is None
    for measure in (area_difference, final_difference, ripl_interval, saving_on_average):
        assert measure(known).estimate == pytest.approx(measure(blind).estimate)
    spans = [area_difference(found).high - area_difference(found).low for found in (known, blind)]
    assert spans[0] > 1.3 * spans[1], "new test examples are more uncertain than these"
    at, same = saving_at_the_end(known), saving_at_the_end(blind)
    assert at is not None
    assert same is not None
    assert at.labels == pytest.approx(same.labels)
    assert (at.share.low, at.share.high) != (same.share.low, same.share.high)


# --- savings --------------------------------------------------------------------------------------


def literal_saving_on_average(own, other, labels):
    """By small steps of accuracy: the labels that each curve needs, an unreached accuracy needing the last label."""
    grid = np.linspace(other[0], max(own[-1], other[-1]), 400_001)
    needs = [np.where(grid <= curve[-1], np.interp(grid, curve, labels), labels[-1]) for curve in (own, other)]
    return float((needs[1] - needs[0]).mean() / needs[1].mean())


@pytest.mark.parametrize("ahead", [True, False])
def test_saving_on_average_is_the_mean_over_all_accuracies(ahead):
    own, other = np.array([0.6, 0.74, 0.79, 0.82, 0.84]), RISING
    if not ahead:
        own, other = other, own
    found = pair(wobble(own), wobble(other), LABELS)
    assert saving_on_average(found).estimate == pytest.approx(literal_saving_on_average(own, other, LABELS), rel=1e-4)


def test_saving_on_average_has_the_sign_of_the_area():
    for seed, speed in ((0, 1.5), (1, 1.0), (2, 0.7), (3, 1.0), (4, 1.2)):
        own, other, labels = simulated(seed, speed=speed, noise=Noise())
        found = pair(own, other, np.arange(100, 101 + 50 * (len(labels) - 1), 50))
        share, difference = saving_on_average(found), area_difference(found)
        if math.isfinite(share.low):
            assert (share.low > 0) == (difference.low > 0)
            assert (share.high < 0) == (difference.high < 0)


def test_smoother_is_a_local_weighted_quadratic():
    x, at = np.log(LABELS), np.array([100.0, 130, 333, 400])
    width = BANDWIDTH * (x[-1] - x[0])
    y = RISING + 0.01 * np.array([1, -1, 1, -1, 1])
    literal = []
    for place in np.log(at):
        root = np.exp(-(((x - place) / width) ** 2) / 4)  # polyfit squares its weights
        literal.append(np.polyval(np.polyfit(x - place, y, 2, w=root), 0.0))
    assert smoother(LABELS, at) @ y == pytest.approx(literal)


@pytest.mark.parametrize("points", [2, 3, 5, 40])
def test_smoother_reads_quadratics_in_log_labels_without_error(points):
    labels = np.geomspace(50, 3000, points)
    at = np.geomspace(50, 3000, 17)
    degree = min(2, points - 1)

    def curve(n):
        return 0.2 + 0.1 * np.log(n) - (0.005 * np.log(n) ** 2 if degree == 2 else 0)

    assert smoother(labels, at) @ curve(labels) == pytest.approx(curve(at), abs=1e-9)
    assert smoother(labels, at).sum(axis=1) == pytest.approx(np.ones(17))


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("speed", [0.6, 1.0, 1.8])
def test_without_noise_the_saving_is_the_true_one(world, speed):
    truth = replace(WORLDS[world], speed=speed)
    own, other = truth.curves
    target = 0.3 * other[0] + 0.7 * min(own[-1], other[-1])
    found = pair(wobble(own, size=0.01), wobble(other, size=0.01), truth.labels)
    at_the_end, at = saving_at_the_end(found), saving_at(found, target)
    assert at_the_end is not None
    assert at is not None
    assert at_the_end.share.estimate == pytest.approx(truth.saved(), abs=0.03)
    assert at_the_end.accuracy == pytest.approx(min(own[-1], other[-1]), abs=0.002)
    assert at.share.estimate == pytest.approx(truth.saved(target), abs=0.03)
    assert (at.labels, at.control_labels) == pytest.approx(truth.needs(target), rel=0.03)
    assert saving_on_average(found).estimate == pytest.approx(truths(truth, target)["saved on average"])


def test_equal_curves_save_nothing():
    found = pair(wobble(RISING), wobble(RISING)[::-1], LABELS)
    at = saving_at_the_end(found)
    assert at is not None
    assert at.share.estimate == pytest.approx(0.0, abs=1e-6)
    assert at.share.low < 0 < at.share.high
    assert saving_on_average(found).estimate == pytest.approx(0.0, abs=1e-9)


def test_the_reverse_comparison_says_the_same_from_the_other_side():
    """A share s of the control's labels saved is s/(1 − s) more labels on the other side, interval included."""
    own, other, labels = simulated(3)
    there, back = (saving_at_the_end(found) for found in (pair(own, other, labels), pair(other, own, labels)))
    assert there is not None
    assert back is not None
    assert (there.labels, there.control_labels) == pytest.approx((back.control_labels, back.labels))
    ends = [
        (there.share.estimate, back.share.estimate),
        (there.share.low, back.share.high),
        (there.share.high, back.share.low),
    ]
    for one, two in ends:
        assert (1 - one) * (1 - two) == pytest.approx(1.0, rel=2e-3)


def test_the_interval_of_a_saving_ends_where_the_curves_become_significantly_apart():
    own, other, labels = simulated(1, seeds=6)
    at = saving_at_the_end(pair(own, other, labels))
    assert at is not None
    end = other @ smoother(labels, [labels[-1]]).T
    for share in (at.share.low, at.share.high):
        assert 0 < share < 1, "this example stays on one side"
        there = own @ smoother(labels, [(1 - share) * labels[-1]]).T
        assert stats.ttest_rel(there[:, 0], end[:, 0]).pvalue == pytest.approx(0.05, abs=0.005)


def test_an_accuracy_that_one_or_both_do_not_reach():
    better = np.array([0.6, 0.76, 0.84, 0.88, 0.9])
    found = pair(wobble(better), wobble(RISING), LABELS)
    at = saving_at(found, 0.86)
    assert at is not None
    assert at.control_labels is None
    assert at.bound == "at least"
    assert at.labels is not None
    assert 200 < at.labels < 300
    assert at.share.estimate == pytest.approx(1 - at.labels / 400)
    assert at.share.high == 1.0
    assert at.share.low > 0.2

    worse = saving_at(pair(wobble(RISING), wobble(better), LABELS), 0.86)
    assert worse is not None
    assert worse.labels is None
    assert worse.bound == "at most"
    assert worse.share.estimate == pytest.approx(1 - 400 / at.labels)
    assert worse.share.low == -math.inf
    assert worse.share.high < -0.2

    neither = saving_at(found, 0.99)
    assert neither is not None
    assert neither.labels is neither.control_labels is None
    assert neither.share.plain() == {"estimate": None, "low": None, "high": 1.0}


def test_more_labels_for_the_control_answer_what_the_same_budget_cannot():
    """At its end the strategy is where the control only comes with twice the labels."""
    world = World(power_law(0.92, 3.0, 0.6), np.arange(100, 301, 50), 2.0)
    longer = np.arange(100, 701, 50)
    found = pair(wobble(world.curves[0]), wobble(world.control(longer)), world.labels, longer)
    at = saving_at_the_end(found)
    assert at is not None
    assert at.labels == 300
    assert at.control_labels == pytest.approx(500, rel=0.02)
    assert at.share.estimate == pytest.approx(0.4, abs=0.01)
    assert found.shared == 5
    shorter = saving_at_the_end(pair(wobble(world.control(longer)), wobble(world.curves[0]), longer, world.labels))
    assert shorter is not None
    assert shorter.share.estimate == pytest.approx(1 - 1 / 0.6, abs=0.03)


def test_a_single_point_has_no_labels_to_save():
    found = pair([[0.6], [0.7]], [[0.5], [0.6]], [100])
    assert saving_at_the_end(found) is None
    assert saving_at(found, 0.6) is None
    assert saving_on_average(found).plain() == {"estimate": None, "low": None, "high": None}
    assert area_difference(found).estimate == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("own", "other", "labels", "message"),
    [
        (np.zeros((2, 3)), np.zeros((3, 3)), [1, 2, 3], "of the same seeds, found (2, 3) and (3, 3)"),
        (np.zeros((2, 3)), np.zeros((2, 3)), [1, 2], "values for (2,) and (2,) labels"),
        (np.zeros((2, 3)), np.zeros((2, 3)), [1, 3, 3], "labels rise from point to point"),
        (np.full((2, 2), 80.0), np.zeros((2, 2)), [1, 2], "fractions from 0 to 1"),
        (np.zeros((1, 2)), np.zeros((1, 2)), [1, 2], "found 1 seeds"),
    ],
)
def test_curves_that_do_not_fit_are_refused(own, other, labels, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        pair(own, other, labels)


# --- verdicts -------------------------------------------------------------------------------------


BETTER = np.array([0.6, 0.76, 0.8, 0.83, 0.85])


def test_a_gain_says_how_many_labels_were_saved():
    found = verdict(wobble(BETTER), wobble(RISING)[::-1], LABELS)
    assert found.kind == "gain"
    assert re.fullmatch(
        r"the strategy reached random's \d+-label accuracy of 0\.82 with \d+ labels: \d+ % saved, 95 % interval \d+ to \d+ %, "
        r"5 seeds\.",
        found.sentence,
    )


def test_a_harm_says_how_many_more_were_needed():
    found = verdict(wobble(RISING), wobble(BETTER)[::-1], LABELS, names=("star", "coin"))
    assert found.kind == "harm"
    assert re.fullmatch(
        r"star reached an accuracy of 0\.82 with \d+ labels, coin with \d+: \d+ % more, 95 % interval \d+ to \d+ %, 5 seeds\.",
        found.sentence,
    )


def test_the_numbers_of_the_sentence_are_those_of_the_saving():
    own, other = wobble(BETTER), wobble(RISING)[::-1]
    at = saving_at_the_end(pair(own, other, LABELS))
    assert at is not None
    numbers = [round(100 * value) for value in (at.share.estimate, at.share.low, at.share.high)]
    sentence = verdict(own, other, LABELS).sentence
    assert [
        int(n) for n in re.findall(r"(\d+)(?: %| to)", sentence.partition(":")[2].replace("95 % interval", ""))
    ] == numbers


def test_an_end_that_is_not_settled_gives_way_to_the_whole_curve():
    """Ahead all the way, equal at the end: the saving to the end is no claim, the one on the way is."""
    own = np.array([0.6, 0.76, 0.8, 0.82, 0.822])
    found = verdict(wobble(own), wobble(RISING)[::-1], LABELS)
    assert found.kind == "gain"
    assert re.fullmatch(
        r"the strategy saved \d+ % of random's labels on average over the accuracies on the way, 95 % interval \d+ to \d+ %, 5 "
        r"seeds\. To reach 0\.82 the number is not settled\.",
        found.sentence,
    )


def test_a_target_that_random_does_not_reach_gives_a_least_saving():
    own, other = wobble(np.array([0.6, 0.78, 0.84, 0.88, 0.9])), wobble(RISING)[::-1]
    found = verdict(own, other, LABELS, target=0.86)
    assert re.fullmatch(
        r"the strategy reached an accuracy of 0\.86 with \d+ labels, random not with \d+: at least \d+ % saved, 95 % interval \d+ % or "
        r"more, 5 seeds\.",
        found.sentence,
    )


def test_no_difference_is_no_evidence():
    own, other, labels = simulated(0, speed=1.0, noise=Noise())
    found = verdict(own, other, labels)
    assert found.kind == "no evidence"
    assert found.sentence.startswith("No evidence of a gain: on average the strategy was 0.00")
    assert found.sentence.endswith("5 seeds; as far as they can tell, random is as good.")
    same = verdict(other, other, labels)
    assert same.kind == "no evidence"
    assert "interval 0.000 to 0.000" in same.sentence


def test_one_seed_cannot_show_a_gain():
    found = verdict([BETTER], [RISING], LABELS, names=("star", "random"))
    assert found.kind == "no evidence"
    assert found.sentence == (
        "One seed cannot show a gain: on average star was 0.036 above random's accuracy, and nothing tells how much "
        "of that is chance."
    )


@pytest.mark.parametrize("seeds", [2, 3, 4])
def test_too_few_seeds_are_no_evidence_however_clear_they_are(seeds):
    own, other = np.full((seeds, 2), 0.9), np.full((seeds, 2), 0.5)
    own[:, 1] += 0.001 * np.arange(seeds)
    found = verdict(own, other, [100, 200])
    assert area_p(pair(own, other, [100, 200])) < 0.05, "the t test alone would claim it"
    assert found.kind == "no evidence"
    assert f"chance alone does that in 1 of {2**seeds} cases; it takes 5 seeds" in found.sentence
    assert verdict(own, other, [100, 200], level=0.8).kind == "no evidence", "five seeds at every level"


def test_seeds_that_disagree_are_no_evidence_even_if_the_t_test_is_sure():
    """One seed against: of five, the exact test can then not reach 0.05."""
    differences = np.array([0.05, 0.06, 0.055, 0.058, -0.001])
    own, other = 0.7 + np.tile(differences[:, None], 3), np.full((5, 3), 0.7)
    found = pair(own, other, [100, 200, 300])
    assert area_p(found) < 0.05
    decision = decide({0: comparison_of(found)})[0]
    assert decision.kind == "no evidence"
    assert judge(found, decision, NAMES).sentence.endswith(
        "not enough of the seeds agree: without assuming normal differences p is 0.12."
    )


def test_correction_for_several_comparisons_can_take_a_gain_back():
    own, other, labels = simulated(2, speed=1.6, noise=Noise(seed=0.01, own=0.008))
    found = pair(own, other, labels)
    assert area_p(found) < 0.05
    assert decide({0: comparison_of(found)})[0].kind == "gain"
    page = {i: comparison([0.01, -0.01, 0.01, -0.01, 0.002]) for i in range(1, 10)}
    decision = decide({0: comparison_of(found)} | page)[0]
    assert decision.p == pytest.approx(10 * area_p(found))
    assert decision.comparisons == 10
    taken = judge(found, decision, NAMES)
    assert taken.kind == "no evidence"
    assert taken.sentence.endswith("5 seeds; of 10 comparisons one may look like that by chance.")
    assert judge(found, Decision("gain", 5, 0.04, 3), NAMES).sentence.endswith(
        ", 5 seeds, after correction for 3 comparisons."
    )


def false_directions(seeds, comparisons=1, pages=2000):
    """The share of pages without any effect on which some comparison gets a direction; and the same by the rule of
    "further apart than the larger standard deviation", for one comparison a page."""
    rng, named, spread = np.random.default_rng(seeds), 0, 0
    for _ in range(pages):
        control = rng.normal(0.8, 0.02, seeds)
        rows = [rng.normal(0.8, 0.02, seeds) for _ in range(comparisons)]
        decided = decide({i: comparison(row - control) for i, row in enumerate(rows)})
        named += any(one.kind != "no evidence" for one in decided.values())
        spread += abs(rows[0].mean() - control.mean()) > max(rows[0].std(ddof=1), control.std(ddof=1))
    return named / pages, spread / pages


@pytest.mark.parametrize(("seeds", "by_spread"), [(2, 0.32), (3, 0.21), (5, 0.09), (10, 0.02)])
def test_without_an_effect_a_direction_is_named_in_at_most_five_of_a_hundred_pages(seeds, by_spread):
    slack = 3 * math.sqrt(0.05 * 0.95 / 2000)
    named, spread = false_directions(seeds)
    assert named <= (0.05 + slack if seeds >= 5 else 0.0)
    assert spread == pytest.approx(by_spread, abs=0.04), "what a rule by the spread names instead"


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_many_comparisons_on_a_page_name_no_more(seeds):
    named, _ = false_directions(seeds, comparisons=8, pages=1000)
    assert named <= (0.05 + 3 * math.sqrt(0.05 * 0.95 / 1000) if seeds >= 5 else 0.0)


@given(st.lists(st.lists(st.floats(-0.3, 0.3), min_size=1, max_size=8), min_size=1, max_size=6))
@settings(deadline=None)
def test_decisions_do_not_depend_on_order_or_side(rows):
    """The verdict on A beside B is that on B beside A turned round, in whatever order a page lists them."""
    page = {i: comparison(row) for i, row in enumerate(rows)}
    decided = decide(page)
    assert decide(dict(reversed(page.items()))) == decided
    turned = decide({i: comparison([-d for d in row]) for i, row in enumerate(rows)})
    other = {"gain": "harm", "harm": "gain", "no evidence": "no evidence"}
    assert {i: other[one.kind] for i, one in turned.items()} == {i: one.kind for i, one in decided.items()}
    assert all(one.word == "too few seeds" for one in decided.values() if one.seeds < 5)


def test_what_both_needed_is_said_in_labels():
    found = pair(wobble(BETTER), wobble(RISING)[::-1], LABELS)

    def said(accuracy):
        at = saving_at(found, accuracy)
        assert at is not None
        return reached(at, found, ("star", "random"))

    assert re.fullmatch(
        r"star needed \d+ labels to reach 0\.8 and random \d+: \d+ % fewer, 95 % interval \d+ % fewer to \d+ % fewer\.",
        said(0.8),
    )
    assert re.fullmatch(
        r"star needed 3\d\d labels to reach 0\.84, which random did not with 400: at least \d+ % fewer, 95 % interval "
        r"\d+ % (fewer|more) to any number fewer\.",
        said(0.84),
    )
    assert said(0.95) == "Neither star nor random reached 0.95."
    back = pair(wobble(RISING), wobble(BETTER)[::-1], LABELS)
    worse = saving_at(back, 0.84)
    assert worse is not None
    assert re.fullmatch(
        r"random needed 3\d\d labels to reach 0\.84, which star did not with 400: at least \d+ % more, 95 % interval "
        r"any number more to \d+ % (fewer|more)\.",
        reached(worse, back, ("star", "random")),
    )


def test_wins_and_losses_mirror_each_other():
    kinds = [
        {("star", "random"): "gain", ("entropy", "random"): "harm", ("star", "entropy"): "gain"},
        {("star", "random"): "no evidence", ("entropy", "random"): "gain"},
    ]
    found = win_tie_loss(kinds)
    assert found["star"] == {"random": (1, 1, 0), "entropy": (1, 0, 0)}
    assert found["random"] == {"star": (0, 1, 1), "entropy": (1, 0, 1)}
    for row, others in found.items():
        for column, counts in others.items():
            assert found[column][row] == counts[::-1]


# --- coverage: a smaller part of tests/simulation.py ----------------------------------------------------


@pytest.mark.parametrize(("world", "speed"), [("power law", 1.5), ("power law", 1.0), ("s-shaped", 1 / 1.5)])
@pytest.mark.parametrize("seeds", [5, 10])
def test_every_interval_covers_the_truth_as_often_as_it_says(world, speed, seeds):
    runs = 150
    found = coverage(replace(WORLDS[world], speed=speed), seeds, runs, Noise(), seed=seeds)
    slack = 0.02 + 3 * math.sqrt(0.95 * 0.05 / runs)
    alarms = found.pop("p < 0.05")
    assert min(found.values()) >= 0.95 - slack, found
    if speed == 1:
        assert alarms <= 0.05 + slack


def test_a_small_test_set_shared_by_all_seeds_is_covered_only_if_its_answers_are_known():
    runs, world = 120, replace(WORLDS["power law"], speed=1.0)
    slack = 0.02 + 3 * math.sqrt(0.95 * 0.05 / runs)
    known, blind = (coverage(world, 10, runs, Noise(examples=200), draw) for draw in (answers, unknown_answers))
    alarms = known.pop("p < 0.05")
    assert min(known.values()) >= 0.95 - slack, known
    assert alarms <= 0.05 + slack
    assert blind["p < 0.05"] > 0.05 + slack, "three in ten found a difference that is not there"


def test_verdicts_are_right_where_the_truth_is_known():
    """A wrong word is rare, and a large true difference is found."""
    runs, words = 60, {}
    for speed in (2.0, 1.0, 0.5):
        rng = np.random.default_rng(0)
        world = replace(WORLDS["slow power law"], speed=speed)
        kinds = [verdict(*accuracies(world, 5, rng), world.labels).kind for _ in range(runs)]
        words[speed] = {kind: kinds.count(kind) for kind in ("gain", "no evidence", "harm")}
    assert words[2.0]["gain"] > 0.8 * runs
    assert words[0.5]["harm"] > 0.8 * runs
    assert words[2.0]["harm"] == words[0.5]["gain"] == 0
    assert words[1.0]["no evidence"] >= 0.95 * runs - 3 * math.sqrt(0.95 * 0.05 * runs)
