"""How sure is the model where it is wrong (STAR, figure 2)?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from guidestar.bench import Bench
from guidestar.errors import ConfigError, StoreError
from guidestar.progress import Progress
from guidestar.records import Array, Metrics
from guidestar.study.drawing import save_figure, write_csv
from guidestar.study.probes import figures, numbers
from guidestar.study.probes.run import Arrays, Probe, Subject, number, opened

LEAST_WRONG = 10  # wrong predictions below which a density is not drawn
BINS = 100


def confidence_probe(
    run: Path,
    bench: Bench | None = None,
    *,
    shots: int = 4,
    round: int | None = None,
    progress: Progress | None = None,
) -> Probe:
    """Confidence on the test set, apart by right and wrong, of the base model and of a round's adapter.

    shots: demonstrations of the few-shot base model, drawn from the warm start's labels; 0 leaves it out. round: the
    tuned model's, default the last one measured.
    Raises ConfigError for a task that is not a choice, for a run without a test set, and for a round that was not
    measured.
    """
    if shots < 0:
        raise ConfigError(f"shots is {shots}; allowed: 0 or more")
    with opened(run, bench, progress) as subject:
        subject.need_choice("confidence")
        rounds = subject.measured()
        if round is not None and round not in rounds:
            raise ConfigError(f"round is {round}; allowed: {', '.join(map(str, rounds))}")
        chosen = rounds[max(rounds) if round is None else round]
        models: dict[str, tuple[str, Arrays]] = {}
        notes = []
        if shots:
            few = _few_shot(subject, shots)
            if (used := int(few["shots"][0])) < shots:
                notes.append(
                    f"Only {used} of {shots} demonstrations are there or fit the context before the longest prompt."
                )
            if used:
                name = f"base model with {used} {'demonstration' if used == 1 else 'demonstrations'}"
                models["few_shot"] = name, few
        models["zero_shot"] = "base model", subject.zero_shot()
        models["tuned"] = _after(chosen), subject.store.arrays(chosen.round, "test")
        found = {key: numbers.calibration(a["log_probs"], a["gold"]) for key, (_, a) in models.items()}
        names = {key: name for key, (name, _) in models.items()}
        sure = {key: _wrong_confidences(arrays) for key, (_, arrays) in models.items()}
        low = 1.0 / models["tuned"][1]["log_probs"].shape[1]
        facts = {
            **subject.about("confidence"),
            "round": chosen.round,
            "labels": chosen.labels,
            "shots": used if shots else 0,
            "names": names,
            "models": found,
            "differences": _differences(subject, {key: arrays for key, (_, arrays) in models.items()}),
        }
        sentences = [_sure_sentence(names[key], one) for key, one in found.items()]
        sentences += [_compared(names[key], one) for key, one in facts["differences"].items()]
        drawn = [key for key, values in sure.items() if len(values) >= LEAST_WRONG]
        if too_few := [key for key in sure if key not in drawn]:
            those = " and ".join(f"the {names[key]} ({len(sure[key])})" for key in too_few)
            sentences.append(
                f"Not drawn, because fewer than {LEAST_WRONG} predictions are wrong: {those}; "
                "a density of so few would show chance."
            )
        header, rows, curves = _densities({key: sure[key] for key in drawn}, names, low)
        stem = subject.place / "confidence"
        if drawn:
            draw = figures.draw_densities(curves, low)
            written = save_figure(stem, draw, header, rows, width=4.8, height=2.9 + 0.16 * len(curves))
        else:
            written = [write_csv(stem.with_name("confidence.csv"), header, rows)]
        return subject.finish("confidence", facts, sentences + notes, written)


def _wrong_confidences(arrays: Arrays) -> Array:
    return numbers.confidence(arrays["log_probs"])[numbers.wrong(arrays["log_probs"], arrays["gold"])]


def _few_shot(subject: Subject, shots: int) -> Arrays:
    """Test predictions of the base model that reads demonstrations; from the run's folder, if they were asked before.

    "shots", (1,), is how many fitted the context.
    """
    labelled = [(example, label.answer) for example, label in subject.store.annotations.labelled(0)]
    seed = int(subject.facts["seed"])
    known = [(example.id, answer) for example, answer in labelled]
    asked = subject.question | {"shots": shots, "seed": seed, "labelled": known}

    def compute() -> Arrays:
        from guidestar.model.fewshot import few_shot

        base, dataset = subject.base, subject.bench.fitting
        assert dataset.test is not None  # the run has measured on it
        with subject.progress.phase("base, few-shot") as tick:
            return few_shot(base, labelled, dataset.test, dataset.task, shots=shots, seed=seed, tick=tick)[1]

    return subject.cached("few-shot", asked, compute)


def _differences(subject: Subject, models: Mapping[str, Arrays]) -> dict[str, dict[str, float | None]]:
    """Mean confidence of the wrong ones, tuned − base, for each base model; None where one has no wrong ones.

    "difference" is between each model's own wrong predictions, as in the paper; "both_wrong" is over the `both`
    examples that both get wrong, so that it compares the same ones.
    """
    tuned = models["tuned"]
    sure, missed = numbers.confidence(tuned["log_probs"]), numbers.wrong(tuned["log_probs"], tuned["gold"])
    found = {}
    for key, arrays in models.items():
        if key == "tuned":
            continue
        if not np.array_equal(arrays["gold"], tuned["gold"]):
            raise StoreError(
                f"{subject.folder}: the test predictions of base and tuned model are not of the same examples"
            )
        before, wrong = numbers.confidence(arrays["log_probs"]), numbers.wrong(arrays["log_probs"], arrays["gold"])
        both = missed & wrong
        found[key] = {
            "difference": float(sure[missed].mean() - before[wrong].mean()) if missed.any() and wrong.any() else None,
            "standard_error": number(numbers.standard_error(sure[missed], before[wrong])),
            "both": int(both.sum()),
            "both_wrong": float((sure - before)[both].mean()) if both.any() else None,
        }
    return found


def _densities(
    sure: Mapping[str, Array], names: Mapping[str, str], low: float
) -> tuple[list[str], list[list[object]], list[figures.Density]]:
    """Header and rows of the CSV file, and the curves: histogram and kernel density in the same bins."""
    edges = np.linspace(low, 1.0, BINS + 1)
    middles = (edges[1:] + edges[:-1]) / 2
    rows: list[list[object]] = []
    curves = []
    for key, values in sure.items():
        counts, _ = np.histogram(values, edges)
        heights = numbers.density(values, middles, low, 1.0)
        histogram = counts / (len(values) * (edges[1] - edges[0]))
        rows += [list(row) for row in zip([key] * BINS, edges, edges[1:], counts, histogram, heights, strict=False)]
        name = f"{names[key]}: {len(values):,} wrong, mean {values.mean():.2f}"
        curves.append(figures.Density(name, middles, heights, float(values.mean())))
    return ["model", "from", "to", "wrong", "histogram", "density"], rows, curves


def _sure_sentence(name: str, found: Mapping[str, Any]) -> str:
    head = (
        f"{_capital(name)}: accuracy {found['accuracy']:.1%} on {found['examples']} test examples, "
        f"mean confidence {found['confidence']:.2f}, ECE {found['ece']:.3f}"
    )
    if not found["wrong"]["n"]:
        return f"{head}; no prediction is wrong."
    right = f", {found['right']['mean']:.2f} where it is right" if found["right"]["n"] else ""
    return (
        f"{head}; mean confidence {found['wrong']['mean']:.2f} in its {found['wrong']['n']} wrong predictions{right}."
    )


def _compared(name: str, found: Mapping[str, float | None]) -> str:
    difference, error = found["difference"], found["standard_error"]
    if difference is None:
        return f"Tuned model and {name} cannot be compared: one of them has no wrong prediction."
    more = "more" if difference > 0 else "less"
    text = f"Where it is wrong, the tuned model is {abs(difference):.2f} {more} confident than the {name}"
    if error is None:
        return f"{text}; one of them has a single wrong prediction, so this may be chance."
    doubt = "" if abs(difference) > 2 * error else ", which may be chance"
    same = f"; {found['both_wrong']:+.2f} on the {found['both']} that both get wrong" if found["both"] else ""
    return f"{text} (standard error {error:.2f}{doubt}){same}."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _after(metrics: Metrics) -> str:
    return f"tuned model, round {metrics.round} ({metrics.labels:,} labels)"
