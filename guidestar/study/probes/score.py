"""Does the score know anything? On validation data: wrong answers, the base model's view, length, classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from guidestar.asking import LABELS, Engine
from guidestar.data.pool import Split
from guidestar.errors import ConfigError
from guidestar.metrics import diagnostics
from guidestar.progress import Tick
from guidestar.query.measures import MEASURES, evaluate_measure
from guidestar.records import Array, Predictions
from guidestar.report.style import look
from guidestar.rng import phase_seed
from guidestar.study.probes.run import Answer, Arrays, Figure, Rows, Subject, at_least, number
from guidestar.tasks import Task

TOP = 0.1  # share of the most uncertain examples whose classes are looked at
_PASSES = "passes_log_probs"


def score(subject: Subject, *, passes: int | None = None) -> Answer:
    """What each measure knows, by the untuned model and by every round's adapter.

    AUROC and rank correlation with being wrong, area under the risk–coverage curve, rank correlation with the base
    model's score and with the prompt's length, and the classes of the most uncertain tenth. For a choice the measures
    over its labels, one plain pass, and with dropout passes too; else those over the generated response and over its
    answer tokens apart.

    passes: dropout passes for a choice; default the strategy's own, 0 for none.
    Raises ConfigError for a run without validation or test set, StoreError for one without an adapter.
    """
    at_least(0, passes=passes)
    data = subject.bench.fitting
    split, where = (data.test, "test set") if data.validation is None else (data.validation, "validation set")
    if split is None:
        needs = "this probe needs answered examples that chose nothing: give data.validation"
        raise ConfigError(f"{subject.folder}: {needs}")
    task, rounds = data.task, subject.tuned_rounds()
    if passes is None:
        passes = int((subject.facts.get("recipe") or {}).get("passes") or 0)
    passes = passes if task.classes and passes > 1 else 0
    gold = np.asarray([task.classes.index(a) for _, a in split.answered()]) if task.classes else None
    lengths = [len(e.prompt) for e, _ in split.answered()]
    models: dict[str, dict[str, Any]] = {}
    base: Mapping[str, Array] = {}
    for name, r, labels in [("base", -1, 0), *((f"round {m.round}", m.round, m.labels) for m in rounds)]:
        arrays = _said(subject, split, where, r, passes)
        wrong = arrays["log_probs"].argmax(axis=1) != gold if gold is not None else arrays["correct"] == 0
        scores = _scores(arrays, task.family)
        known = {key: _known(values, wrong, lengths, gold, task, base.get(key)) for key, values in scores.items()}
        models[name] = {"labels": labels, "accuracy": float(1 - wrong.mean()), "measures": known}
        base = base or scores
    facts = {
        "on": where, "examples": len(lengths), "passes": passes, "models": models,
        "chance": diagnostics.correlation_limit(len(lengths)),
    }  # fmt: skip
    curves = {key: diagnostics.risk_coverage(values, wrong) for key, values in scores.items()}  # of the last round
    header = ["model", "labels", "accuracy", "measure", "auroc", "auroc_low", "auroc_high", "rank_with_wrong", "aurc",
              "aurc_best", "aurc_blind", "rank_with_length", "rank_with_base"]  # fmt: skip
    rows: Rows = [
        [name, one["labels"], one["accuracy"], measure, *known["auroc"].values(), *(known[key] for key in header[7:])]
        for name, one in models.items()
        for measure, known in one["measures"].items()
    ]
    last = f"round {rounds[-1].round}"
    figure = Figure(header, rows, _drawing(models, curves, last), height=2.8)
    return Answer(facts, _sentences(facts, last, curves), [figure])


def _said(subject: Subject, split: Split, where: str, r: int, passes: int) -> Arrays:
    """What the base model (r = −1) or the adapter of round r says to the split, from the disk if it was asked before."""
    pairs, task = split.answered(), subject.bench.fitting.task
    examples, b_dropout = [e for e, _ in pairs], subject.bench.config.train.b_dropout

    def said(engine: Engine, adapter: Path | None, tick: Tick) -> Arrays:
        with engine.scorer(adapter, b_dropout=b_dropout if adapter else None) as scorer:
            if not task.classes:
                answers = scorer.respond(examples, None, tick)
                right = [task.correct(task.parse(t), a) for t, (_, a) in zip(answers.texts, pairs, strict=True)]
                return {"correct": np.asarray(right, dtype=np.uint8), **answers.arrays}
            arrays = {"log_probs": scorer(examples, LABELS, tick).arrays["label_log_probs"][0]}
            if passes and adapter is not None:
                ask = replace(LABELS, passes=passes, seed=phase_seed(subject.seed, r, "probe/score"))
                arrays[_PASSES] = scorer(examples, ask, tick).arrays["label_log_probs"]
            return arrays

    asked = {"on": where, "examples": [e.id for e in examples], "passes": passes if r >= 0 else 0}
    return subject.of_model("score", r if r >= 0 else None, asked, said)


def _scores(arrays: Arrays, kind: str) -> dict[str, Array]:
    """Measure -> (n,), for each that the arrays allow and that reads no answer; those over passes are marked."""
    if "log_probs" in arrays:
        forms = {"": arrays["log_probs"][np.newaxis]} | ({" of passes": arrays[_PASSES]} if _PASSES in arrays else {})
        given = {form: {"label_log_probs": array} for form, array in forms.items()}
    else:
        given = {"": {name: array[np.newaxis] for name, array in arrays.items() if name != "correct"}}
    scores = {}
    for form, at_hand in given.items():
        count, n = next(iter(at_hand.values())).shape[:2]
        for name, measure in MEASURES.items():
            fits = kind in measure.tasks and not measure.oracle and set(measure.needs) <= set(at_hand)
            single = count == 1 and not measure.over_passes  # over one pass they are the plain ones
            if fits and (single or count >= max(measure.min_passes, 2)):
                scores[name + form] = evaluate_measure(name, Predictions(tuple(map(str, range(n))), at_hand))
    return scores


def _known(
    values: Array, wrong: np.ndarray, lengths: Sequence[int], gold: np.ndarray | None, task: Task, base: Array | None
) -> dict[str, Any]:
    """base: the base model's values; None for its own."""
    known: dict[str, Any] = {
        "auroc": {name: number(value) for name, value in vars(diagnostics.auroc(values, wrong)).items()},
        "rank_with_wrong": number(diagnostics.spearman(values, wrong)),
        "aurc": diagnostics.aurc(values, wrong),
        "aurc_best": diagnostics.best_aurc(wrong),
        "aurc_blind": float(np.mean(wrong)),
        "rank_with_length": number(diagnostics.spearman(values, lengths)),
        "rank_with_base": None if base is None else number(diagnostics.spearman(values, base)),
    }
    if gold is not None:
        shares = np.bincount(gold, minlength=len(task.labels)) / len(gold)
        top = diagnostics.top_share(values, gold, len(task.labels), TOP)
        both = zip(task.labels, shares.tolist(), top.tolist(), strict=True)
        known["classes"] = {label: {"all": whole, "top": some} for label, whole, some in both}
    return known


def _sentences(facts: Mapping[str, Any], last: str, curves: Mapping[str, Array]) -> list[str]:
    tuned, base = facts["models"][last], facts["models"]["base"]
    lines = []
    if facts["on"] == "test set":
        lines.append("There is no validation set, so the test set is looked at; choose no strategy by these numbers.")
    known = {m: f for m, f in tuned["measures"].items() if f["auroc"]["estimate"] is not None}
    if not known:
        return [*lines, f"After {last} all answers are right, or all wrong: no score can be judged."]
    best = max(known, key=lambda m: known[m]["auroc"]["estimate"])
    area = known[best]["auroc"]
    verdict = "tells wrong from right answers" if area["low"] > 0.5 else "may know nothing about wrong answers"
    half = float(curves[best][max(len(curves[best]) // 2 - 1, 0)])
    lines += [
        f"{best} {verdict} after {last}: AUROC {area['estimate']:.2f} (95 % interval {area['low']:.2f} to {area['high']:.2f}, "
        f"{facts['examples']} examples, the best of {len(known)} measures); 0.5 knows nothing.",
        f"The model is wrong on {1 - tuned['accuracy']:.1%} of all, and on {half:.1%} of the half that {best} is surest of.",
    ]
    before = base["measures"].get(best, {}).get("auroc", {}).get("estimate")
    if before is not None and (rank := known[best]["rank_with_base"]) is not None:
        own = f"The untuned model's {best} has an AUROC of {before:.2f} for its own errors"
        lines.append(f"{own}, and a rank correlation of {rank:+.2f} with the tuned one's.")
    length = known[best]["rank_with_length"]
    if length is not None and abs(length) > max(facts["chance"], 0.1):
        which = "longer" if length > 0 else "shorter"
        lines.append(f"A length bias: {which} prompts get a higher {best} (rank correlation {length:+.2f}).")
    if classes := known[best].get("classes"):
        label, share = max(classes.items(), key=lambda item: item[1]["top"] - item[1]["all"])
        holds = f"holds {share['top']:.0%} of {label!r}, which is {share['all']:.0%} of all"
        lines.append(f"The tenth with the highest {best} {holds}: the class most over-represented there.")
    return lines


def _drawing(models: Mapping[str, Any], curves: Mapping[str, Array], last: str) -> Callable[[Any], None]:
    """AUROC over the rounds, and the risk–coverage curves of the last one."""

    def draw(figure: Any) -> None:
        left, right = figure.subplots(1, 2)
        rounds = [one for name, one in models.items() if name != "base"]
        for i, (measure, curve) in enumerate(curves.items()):
            areas = [one["measures"].get(measure, {}).get("auroc", {}).get("estimate") for one in rounds]
            heights = [math.nan if a is None else a for a in areas]
            left.plot([one["labels"] for one in rounds], heights, label=measure, **look(i))
            right.plot(np.arange(1, len(curve) + 1) / len(curve), curve, **{**look(i), "marker": ""})
        left.axhline(0.5, color="#6b6b6b", linewidth=0.8)
        left.set(xlabel="labels", ylabel="AUROC of being wrong")
        right.set(xlabel="share answered, surest first", ylabel=f"share wrong, {last}", ylim=(0, None))
        figure.legend(loc="outside lower center", ncols=3)

    return draw
