"""How sure is the model where it is wrong (STAR, figure 2), and what happens to it where the prediction stays the same?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from guidestar.errors import StoreError
from guidestar.records import Array
from guidestar.study.probes import figures, numbers
from guidestar.study.probes.run import Answer, Arrays, Figure, Rows, Subject, at_least, chosen_round, number
from guidestar.words import count
from guidestar.words import number as shown

LEAST_WRONG = 10  # wrong predictions below which a density is not drawn
BINS = 100


def confidence(subject: Subject, *, shots: int = 4, round: int | None = None) -> Answer:
    """Confidence on the test set, apart by right and wrong, of the base model and of a round's adapter.

    shots: demonstrations of the few-shot base model, drawn from the warm start's labels; 0 leaves it out. round: the
    tuned model's, default the last one measured.
    Raises ConfigError for a task that is not a choice, for a run without a test set, and for a round that was not
    measured.
    """
    at_least(0, shots=shots)
    subject.need_choice("confidence")
    rounds = subject.measured()
    chosen = rounds[chosen_round(round, rounds)]
    models: dict[str, Arrays] = {}
    names = {"zero_shot": "base model", "tuned": f"tuned model, round {chosen.round} ({chosen.labels:,} labels)"}
    notes, used = [], 0
    if shots:
        few = _few_shot(subject, shots)
        if (used := int(few["shots"][0])) < shots:
            fit = "are there or fit the context before the longest prompt"
            notes.append(f"Only {used} of {shots} demonstrations {fit}.")
        if used:
            models["few_shot"], names = few, {"few_shot": f"base model with {count(used, 'demonstration')}"} | names
    models |= {"zero_shot": subject.zero_shot(), "tuned": subject.store.arrays(chosen.round, "test")}
    tuned = models["tuned"]
    if any(not np.array_equal(arrays["gold"], tuned["gold"]) for arrays in models.values()):
        raise StoreError(f"{subject.folder}: the test predictions of base and tuned model are not of the same examples")
    calibrations = {key: numbers.calibration(a["log_probs"], a["gold"]) for key, a in models.items()}
    differences = {key: _difference(arrays, tuned) for key, arrays in models.items() if key != "tuned"}
    facts = {
        "round": chosen.round, "labels": chosen.labels, "shots": used, "names": names, "models": calibrations,
        "differences": differences,
    }  # fmt: skip
    sentences = [_calibrated(names[key], one) for key, one in calibrations.items()]
    sentences += [_compared(names[key], one) for key, one in differences.items()]
    sure = {key: _sure_and_wrong(arrays) for key, arrays in models.items()}
    of_wrong = {key: confidences[wrong] for key, (confidences, wrong) in sure.items()}
    drawn = {key: values for key, values in of_wrong.items() if len(values) >= LEAST_WRONG}
    if too_few := [key for key in of_wrong if key not in drawn]:
        those = " and ".join(f"the {names[key]} ({len(of_wrong[key])})" for key in too_few)
        why = f"Not drawn, because fewer than {LEAST_WRONG} predictions are wrong"
        sentences.append(f"{why}: {those}; a density of so few would show chance.")
    return Answer(facts, sentences + notes, [_densities(drawn, names, 1.0 / tuned["log_probs"].shape[1])])


def _few_shot(subject: Subject, shots: int) -> Arrays:
    """Test predictions of the base model that reads demonstrations; from the run's folder, if they were asked before.

    "shots", (1,), is how many fitted the context.
    """
    labelled = subject.store.annotations.answered(0)
    known = [(example.id, answer) for example, answer in labelled]
    asked = subject.question | {"shots": shots, "seed": subject.seed, "labelled": known}

    def compute() -> Arrays:
        engine, test = subject.engine, subject.bench.fitting.test
        assert test is not None  # the run has measured on it
        with subject.progress.phase("base, few-shot") as tick:
            return engine.few_shot(labelled, test, shots=shots, seed=subject.seed, tick=tick)[1]

    return subject.cached("few-shot", asked, compute)


def _sure_and_wrong(arrays: Arrays) -> tuple[Array, numbers.Mask]:
    return numbers.confidence(arrays["log_probs"]), arrays["log_probs"].argmax(axis=1) != arrays["gold"]


def _difference(base: Arrays, tuned: Arrays) -> dict[str, float | None]:
    """Mean confidence of the wrong ones, tuned − base; None where one has no wrong ones.

    "difference" is between each model's own wrong predictions, as in the paper; "both_wrong" is over the `both`
    examples that both get wrong, so that it compares the same ones.
    """
    (before, was_wrong), (after, is_wrong) = _sure_and_wrong(base), _sure_and_wrong(tuned)
    one, other, both = after[is_wrong], before[was_wrong], is_wrong & was_wrong
    return {
        "difference": float(one.mean() - other.mean()) if len(one) and len(other) else None,
        "standard_error": number(numbers.standard_error(one, other)),
        "both": int(both.sum()),
        "both_wrong": float((after - before)[both].mean()) if both.any() else None,
    }


def _densities(of_wrong: Mapping[str, Array], names: Mapping[str, str], low: float) -> Figure:
    """Histogram and kernel density of each model's confidences in the same bins. low: the smallest confidence."""
    edges = np.linspace(low, 1.0, BINS + 1)
    middles = (edges[1:] + edges[:-1]) / 2
    rows: Rows = []
    curves = []
    for key, values in of_wrong.items():
        counts, _ = np.histogram(values, edges)
        heights = numbers.density(values, middles, low, 1.0)
        histogram = counts / (len(values) * (edges[1] - edges[0]))
        rows += zip([key] * BINS, edges, edges[1:], counts, histogram, heights, strict=False)
        name = f"{names[key]}: {len(values):,} wrong, mean {values.mean():.2f}"
        curves.append(figures.Density(name, middles, heights, float(values.mean())))
    header = ["model", "from", "to", "wrong", "histogram", "density"]
    draw = figures.draw_densities(curves, low) if curves else None
    return Figure(header, rows, draw, width=4.8, height=2.9 + 0.16 * len(curves))


def _calibrated(name: str, facts: Mapping[str, Any]) -> str:
    head = f"{name[:1].upper()}{name[1:]}: accuracy {facts['accuracy']:.1%} on {facts['examples']} test examples"
    head += f", mean confidence {facts['confidence']:.2f}, ECE {facts['ece']:.3f}"
    if not facts["wrong"]["n"]:
        return f"{head}; no prediction is wrong."
    right = f", {facts['right']['mean']:.2f} where it is right" if facts["right"]["n"] else ""
    wrong = facts["wrong"]
    return f"{head}; mean confidence {wrong['mean']:.2f} in its {wrong['n']} wrong predictions{right}."


def _compared(name: str, facts: Mapping[str, float | None]) -> str:
    difference, error = facts["difference"], facts["standard_error"]
    if difference is None:
        return f"Tuned model and {name} cannot be compared: one of them has no wrong prediction."
    more = "more" if difference > 0 else "less"
    text = f"Where it is wrong, the tuned model is {abs(difference):.2f} {more} confident than the {name}"
    if error is None:
        return f"{text}; one of them has a single wrong prediction, so this may be chance."
    doubt = "" if abs(difference) > 2 * error else ", which may be chance"
    same = f"; {facts['both_wrong']:+.2f} on the {facts['both']} that both get wrong" if facts["both"] else ""
    return f"{text} (standard error {error:.2f}{doubt}){same}."


# --- where the prediction stays the same --------------------------------------------------------------


def unchanged(subject: Subject) -> Answer:
    """Change of confidence and of entropy on the test set, apart by whether the predicted label changed.

    Each round is set beside the base model, and beside the round before it; right and wrong are after the change.
    It computes nothing with a model, unless the base model's test predictions were deleted.
    Raises ConfigError for a task that is not a choice, and for a run without a test set.
    """
    subject.need_choice("unchanged")
    rounds = list(subject.measured().values())
    arrays = [subject.zero_shot(), *(subject.store.arrays(m.round, "test") for m in rounds)]
    if any(not np.array_equal(one["gold"], arrays[0]["gold"]) for one in arrays):
        raise StoreError(f"{subject.folder}: the test predictions of two rounds are not of the same examples")
    pairs = [(0, i + 1) for i in range(len(rounds))] + [(i, i + 1) for i in range(1, len(rounds))]
    changes: list[dict[str, Any]] = [
        {
            "from": None if a == 0 else rounds[a - 1].round,
            "to": rounds[b - 1].round,
            "labels": rounds[b - 1].labels,
            "groups": numbers.changes(arrays[a]["log_probs"], arrays[b]["log_probs"], arrays[b]["gold"]),
        }
        for a, b in pairs
    ]
    from_base, from_round = changes[: len(rounds)], changes[len(rounds) :]
    columns = [
        (title, [str(one["to"]) for one in some], [one["groups"] for one in some])
        for title, some in (("against the base model", from_base), ("against the round before", from_round))
        if some
    ]
    statistics = ("mean", "std", *(f"q{100 * q:02.0f}" for q in numbers.QUANTILES))
    rows: Rows = [
        ["base" if one["from"] is None else one["from"], one["to"], one["labels"], group, values["n"], values["share"],
         what, *(values[what].get(name) for name in statistics)]
        for one in changes
        for group, values in one["groups"].items()
        for what in ("confidence", "entropy")
    ]  # fmt: skip
    sentences = [_changed("the base model", from_base[-1])]
    if from_round:
        sentences.append(_changed(f"round {from_round[-1]['from']}", from_round[-1]))
        shares = [one["groups"]["unchanged"]["share"] for one in from_round]
        between = f"between {min(shares):.0%} and {max(shares):.0%}"
        sentences.append(f"From one round to the next, {between} of the predictions stay the same.")
    header = ["from", "to", "labels", "group", "n", "share", "change_of", *statistics]
    facts = {"examples": len(arrays[0]["gold"]), "changes": changes}
    drawn = Figure(header, rows, figures.draw_changes(columns), width=3.6 * len(columns), height=4.0)
    return Answer(facts, sentences, [drawn])


def _changed(before: str, one: Mapping[str, Any]) -> str:
    groups = one["groups"]
    parts = [
        f"{groups[name]['n']} {words}: confidence {shown(groups[name]['confidence']['mean'], 2, sign=True)}, "
        f"entropy {shown(groups[name]['entropy']['mean'], 2, sign=True)} nats"
        for name, words in (
            ("unchanged_right", "unchanged and right"),
            ("unchanged_wrong", "unchanged and wrong"),
            ("changed", "changed"),
        )
        if groups[name]["n"]
    ]
    return (
        f"From {before} to round {one['to']} ({one['labels']:,} labels), {groups['unchanged']['share']:.0%} of the test "
        f"predictions stay the same. Mean changes: {'; '.join(parts)}."
    )
