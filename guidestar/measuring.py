"""What a run keeps of its models' answers: measured on the test and validation sets, and suggested to people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from guidestar.asking import LABELS, Ask, baselines, choice_values, evaluate, suggest
from guidestar.errors import GuidestarError
from guidestar.query.probe import prototype_log_probs
from guidestar.records import Example, Metrics, Pick, Suggestion
from guidestar.rng import generator
from guidestar.tuning import Tuning


def measure(tuning: Tuning, r: int) -> Metrics:
    """Measure the adapter of round r, and in round 0 the untuned model; all is stored."""
    bench, store = tuning.bench, tuning.store
    splits = {"test": ("evaluate", "", tuning.test)}
    if not bench.simulation or bench.config.stop.mode == "stop":  # the test set stays for the curve
        splits["validation"] = ("validate", "validation_", bench.fitting.validation)
    there = {name: (phase, prefix, split) for name, (phase, prefix, split) in splits.items() if split is not None}
    if r == 0:
        measure_base(tuning)
    values = dict[str, float]()
    if there:
        with tuning.tuned(r) as scorer:
            for name, (phase, prefix, split) in there.items():
                with tuning.clock(r, phase, len(split)) as tick:
                    said, arrays = evaluate(scorer, split, bench.dataset.task, tick)
                store.add_arrays(r, name, arrays)
                values |= {prefix + measured: value for measured, value in said.items()}
    metrics = Metrics(r, store.trained_on(r), values | untrained(tuning, r))
    store.add_metrics(metrics)
    return metrics


def untrained(tuning: Tuning, r: int) -> dict[str, float]:
    """What needs no training, with the labels of round r (`asking.baselines`); empty where its features would cost more
    than they tell."""
    test = tuning.test
    if test is None or not tuning.cheap_features:
        return {}
    features, task = tuning.features(r, "measure features"), tuning.bench.fitting.task
    features.read(test.examples)
    return baselines(features, tuning.labelled(r), test.answered(), task, generator(tuning.seed, r, "baselines"))


def in_turn(tuning: Tuning, picks: Sequence[Pick]) -> tuple[Pick, ...]:
    """The picks of round 0 in the order of asking: where guesses are wanted, the guessed labels in turn, the surest of each
    first, so that the first answers meet every label; those without a guess come last."""
    said = first_guess(tuning, list(tuning.bench.pool.named([pick.id for pick in picks]).values()))
    sure = sorted(said, key=lambda id: -max(said[id].probabilities.values(), default=0.0))
    met, turns = Counter[str](), dict[str, int]()
    for id in sure:
        turns[id] = met[said[id].answer]
        met[said[id].answer] += 1
    return tuple(sorted(picks, key=lambda pick: turns.get(pick.id, len(picks))))


def first_guess(tuning: Tuning, examples: Sequence[Example]) -> dict[str, Suggestion]:
    """What the untuned model or the endpoint takes some examples for, as suggestions of round -1, each asked once; {} where
    no guesses are wanted (`people.first_guess`)."""
    config, new = tuning.bench.config.people, [e for e in examples if e.id not in tuning.guesses]
    if tuning.bench.simulation or config.suggestions == "off" or not config.first_guess:
        return {}
    if config.first_guess == "endpoint":
        tuning.guesses.update(_guess_of_endpoint(tuning, new) if new else {})
    elif new and tuning.bench.fitting.task.classes:
        tuning.guesses.update(_guess_of_model(tuning, new))
    return {e.id: tuning.guesses[e.id] for e in examples if e.id in tuning.guesses}


def _guess_of_endpoint(tuning: Tuning, examples: Sequence[Example]) -> dict[str, Suggestion]:
    """Its answers, without probabilities. One that cannot be had is said, and people are asked without."""
    said = dict[str, Suggestion]()
    try:
        with tuning.clock(0, "suggest", len(examples)) as tick:
            for id, answer in tuning.asked_of_endpoint(examples, tick):
                said[id] = Suggestion(answer, {}, -1)
    except GuidestarError as error:
        tuning.bench.progress.say(f"warning: no further first guess: {error}")
    return said


def _guess_of_model(tuning: Tuning, examples: Sequence[Example]) -> dict[str, Suggestion]:
    """By the labels' words, and where the model has none (an encoder) by which label's name and description its own
    embeddings put nearest."""
    task, base = tuning.bench.fitting.task, tuning.base()
    with tuning.clock(0, "suggest", len(examples)) as tick:
        if base.can(LABELS):
            return suggest(base, examples, task, -1, tick)
        means = tuning.bench.config.people.descriptions
        pairs = zip(task.labels, task.words, strict=True)
        said = [f"{word}: {means[label]}" if means.get(label) else word for label, word in pairs]
        names = [Example(f"label {i}", {}, text) for i, text in enumerate(said)]
        points = base([*names, *examples], Ask.of(["embedding"]), tick).arrays["embedding"][0].astype(np.float64)
    points /= np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
    known, classes = points[: len(names)], np.arange(len(names))
    chances = np.exp(prototype_log_probs(points[len(names) :], known, classes, len(names)))
    return {
        e.id: Suggestion(task.labels[int(row.argmax())], dict(zip(task.labels, map(float, row), strict=True)), -1)
        for e, row in zip(examples, chances, strict=True)
    }


def measure_base(tuning: Tuning) -> None:
    """The untuned model on the test set, for the report: choices only, where it costs one short pass."""
    task, test, store, base = tuning.bench.fitting.task, tuning.test, tuning.store, tuning.base()
    if test is None or not task.classes or store.has_arrays(0, "test_base"):
        return
    if not base.can(LABELS):  # an untrained head is noise
        return
    pairs = test.answered()
    with tuning.clock(0, "evaluate base", len(pairs)) as tick:
        said = base([example for example, _ in pairs], LABELS, tick)
    _, arrays = choice_values(said.arrays["label_log_probs"][0], [a for _, a in pairs], task)
    store.add_arrays(0, "test_base", arrays)


def keep_suggestions(tuning: Tuning, r: int) -> None:
    """Keep what the model of the last round says to the examples of this one, which it was not trained on, and
    for a choice also to the labelled ones. Once, when the round is first asked.

    Round 0 has none, because the base model has not learned the task, unless its guesses are wanted (`people.first_guess`).
    Where nobody is shown any, those to the round's examples are still kept if some were drawn at random, since
    they estimate the model's accuracy (`metrics/sample.py`).
    """
    bench, store = tuning.bench, tuning.store
    unseen = bench.simulation or bench.config.people.suggestions == "off"
    if store.has_suggestions(r):
        return
    if r == 0 and (said := first_guess(tuning, [store.example(pick.id) for pick in store.query(r).picks])):
        store.add_suggestions(r, said)
    if r <= store.relabels.since:  # no model has learned the present labels
        return
    if unseen and not any("random" in pick.details for pick in store.query(r).picks):
        return
    task = bench.dataset.task
    examples = [store.example(pick.id) for pick in store.query(r).picks]
    if task.classes and not unseen:
        picked = {e.id for e in examples}
        examples += [e for e, _ in tuning.labelled() if e.id not in picked]
    with tuning.tuned(r - 1) as scorer, tuning.clock(r, "suggest", len(examples)) as tick:
        suggestions = suggest(scorer, examples, task, r - 1, tick)
    store.add_suggestions(r, suggestions)
