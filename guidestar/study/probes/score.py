"""Does the score know anything? On validation data: wrong answers, the base model's view, length, classes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from guidestar.asking import LABELS
from guidestar.bench import Bench
from guidestar.data.pool import Split
from guidestar.errors import ConfigError, StoreError
from guidestar.metrics import diagnostics
from guidestar.progress import Progress
from guidestar.query.measures import MEASURES, evaluate_measure
from guidestar.records import Array, Predictions
from guidestar.report.style import look
from guidestar.rng import phase_seed
from guidestar.study.drawing import save_figure
from guidestar.study.probes.run import Arrays, Probe, Subject, number, opened
from guidestar.tasks import Task

TOP = 0.1  # share of the most uncertain examples whose classes are looked at
_PASSES = "passes_log_probs"


def score_probe(
    run: Path, bench: Bench | None = None, *, passes: int | None = None, progress: Progress | None = None
) -> Probe:
    """What each measure knows, by the untuned model and by every round's adapter.

    AUROC and rank correlation with being wrong, area under the risk–coverage curve, rank correlation with the base
    model's score and with the prompt's length, and the classes of the most uncertain tenth. For a choice the measures
    over its labels, one plain pass, and with dropout passes too; else those over the generated response and over its
    answer tokens apart.

    passes: dropout passes for a choice; default the strategy's own, 0 for none.
    Raises ConfigError for a run without validation or test set, StoreError for one without an adapter.
    """
    if passes is not None and passes < 0:
        raise ConfigError(f"passes is {passes}; allowed: 0 or more")
    with opened(run, bench, progress) as subject:
        split, where = _split(subject)
        task = subject.bench.fitting.task
        if passes is None:
            passes = int((subject.facts.get("recipe") or {}).get("passes") or 0)
        passes = passes if task.classes and passes > 1 else 0
        rounds = [m for m in subject.store.metrics() if subject.store.has_adapter(m.round)]
        if not rounds:
            raise StoreError(f"{subject.folder}: no adapter is there, so there is no tuned model to probe")
        gold = np.asarray([task.classes.index(a) for _, a in split.answered()]) if task.classes else None
        lengths = [len(e.prompt) for e, _ in split.answered()]
        models: dict[str, dict[str, Any]] = {}
        scores: dict[str, dict[str, Array]] = {}
        errors: dict[str, np.ndarray] = {}
        for name, r, labels in [("base", -1, 0), *((f"round {m.round}", m.round, m.labels) for m in rounds)]:
            arrays = _said(subject, split, where, r, passes)
            wrong = arrays["log_probs"].argmax(axis=1) != gold if gold is not None else arrays["correct"] == 0
            scores[name], errors[name] = _scores(arrays, task.family), np.asarray(wrong)
            found = {
                measure: _known(values, errors[name], lengths, gold, task, scores["base"].get(measure), name == "base")
                for measure, values in scores[name].items()
            }
            models[name] = {"labels": labels, "accuracy": float(1 - wrong.mean()), "measures": found}
        facts = {
            **subject.about("score"), "on": where, "examples": len(lengths), "passes": passes, "models": models,
            "chance": diagnostics.correlation_limit(len(lengths)),
        }  # fmt: skip
        last = f"round {rounds[-1].round}"
        curves = {m: diagnostics.risk_coverage(v, errors[last]) for m, v in scores[last].items()}
        written = save_figure(subject.place / "score", _drawing(models, curves, last), *_rows(models), height=2.8)
        return subject.finish("score", facts, _sentences(facts, last, curves), written)


def _split(subject: Subject) -> tuple[Split, str]:
    fitting = subject.bench.fitting
    for split, where in ((fitting.validation, "validation set"), (fitting.test, "test set")):
        if split is not None:
            return split, where
    raise ConfigError(f"{subject.folder}: this probe needs answered examples that chose nothing: give data.validation")


def _said(subject: Subject, split: Split, where: str, r: int, passes: int) -> Arrays:
    """What the base model (r = −1) or the adapter of round r says to the split, from the disk if it was asked before."""
    adapter = subject.store.adapter(r) if r >= 0 else None
    recorded = {title: sha256 for kind, _, title, sha256 in subject.store.recorded() if kind == "adapters"}
    asked = subject.question | {
        "on": where, "examples": [e.id for e, _ in split.answered()], "passes": passes if r >= 0 else 0,
        "adapter": recorded[adapter.name] if adapter else None,
    }  # fmt: skip
    return subject.cached("score", asked, lambda: _predicted(subject, split, r, adapter, passes))


def _predicted(subject: Subject, split: Split, r: int, adapter: Path | None, passes: int) -> Arrays:
    bench, pairs = subject.bench, split.answered()
    task, examples = bench.fitting.task, [e for e, _ in pairs]
    name = "base model" if adapter is None else f"round {r}"
    scorer = subject.engine.scorer(adapter, b_dropout=bench.config.train.b_dropout if adapter else None)
    with scorer, subject.progress.phase(name) as tick:
        if not task.classes:
            said = scorer.respond(examples, None, tick)
            right = [task.correct(task.parse(t), a) for t, (_, a) in zip(said.texts, pairs, strict=True)]
            return {"correct": np.asarray(right, dtype=np.uint8)} | {k: np.asarray(v) for k, v in said.arrays.items()}
        arrays = {"log_probs": scorer(examples, LABELS, tick).arrays["label_log_probs"][0]}
        if passes and adapter is not None:
            seed = phase_seed(int(subject.facts.get("seed", 0)), r, "probe/score")
            drawn = scorer(examples, replace(LABELS, passes=passes, seed=seed), tick)
            arrays[_PASSES] = drawn.arrays["label_log_probs"]
        return arrays


def _scores(arrays: Arrays, kind: str) -> dict[str, Array]:
    """Measure -> (n,), for each that the arrays allow and that reads no answer; those over passes are marked."""
    if "log_probs" in arrays:
        forms = {"": arrays["log_probs"][np.newaxis]} | ({" of passes": arrays[_PASSES]} if _PASSES in arrays else {})
        given = {form: {"label_log_probs": array} for form, array in forms.items()}
    else:
        given = {"": {name: array[np.newaxis] for name, array in arrays.items() if name != "correct"}}
    found = {}
    for form, at_hand in given.items():
        count = len(next(iter(at_hand.values())))
        ids = tuple(str(i) for i in range(next(iter(at_hand.values())).shape[1]))
        for name, measure in MEASURES.items():
            fits = kind in measure.tasks and not measure.oracle and set(measure.needs) <= set(at_hand)
            single = count == 1 and not measure.over_passes  # over one pass they are the plain ones
            if fits and (single or count >= max(measure.min_passes, 2)):
                found[name + form] = evaluate_measure(name, Predictions(ids, at_hand))
    return found


def _known(
    values: Array, wrong: np.ndarray, lengths: Sequence[int], gold: np.ndarray | None, task: Task, base: Array | None,
    is_base: bool,
) -> dict[str, Any]:  # fmt: skip
    area = diagnostics.auroc(values, wrong)
    found: dict[str, Any] = {
        "auroc": {name: number(value) for name, value in vars(area).items()},
        "rank_with_wrong": number(diagnostics.spearman(values, wrong)),
        "aurc": diagnostics.aurc(values, wrong),
        "aurc_best": diagnostics.best_aurc(wrong),
        "aurc_blind": float(np.mean(wrong)),
        "rank_with_length": number(diagnostics.spearman(values, lengths)),
        "rank_with_base": None if base is None or is_base else number(diagnostics.spearman(values, base)),
    }
    if gold is not None:
        kinds = len(task.labels)
        shares = np.bincount(gold, minlength=kinds) / len(gold)
        top = diagnostics.top_share(values, gold, kinds, TOP)
        found["classes"] = {
            label: {"all": float(shares[i]), "top": float(top[i])} for i, label in enumerate(task.labels)
        }
    return found


# --- what is said and written ---------------------------------------------------------------------


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
    lines.append(
        f"{best} {verdict} after {last}: AUROC {area['estimate']:.2f} (95 % interval {area['low']:.2f} to {area['high']:.2f}, "
        f"{facts['examples']} examples, the best of {len(known)} measures); 0.5 knows nothing."
    )
    half = float(curves[best][max(len(curves[best]) // 2 - 1, 0)])
    lines.append(
        f"The model is wrong on {1 - tuned['accuracy']:.1%} of all, and on {half:.1%} of the half that {best} is surest of."
    )
    before = base["measures"].get(best, {}).get("auroc", {}).get("estimate")
    if before is not None and (rank := known[best]["rank_with_base"]) is not None:
        lines.append(
            f"The untuned model's {best} has an AUROC of {before:.2f} for its own errors, and a rank correlation of "
            f"{rank:+.2f} with the tuned one's."
        )
    length = known[best]["rank_with_length"]
    if length is not None and abs(length) > max(facts["chance"], 0.1):
        which = "longer" if length > 0 else "shorter"
        lines.append(f"A length bias: {which} prompts get a higher {best} (rank correlation {length:+.2f}).")
    lines += _class_sentences(known[best], best)
    return lines


def _class_sentences(found: Mapping[str, Any], measure: str) -> list[str]:
    """The class that the most uncertain tenth holds most of beyond its share."""
    classes = found.get("classes") or {}
    if not classes:
        return []
    label = max(classes, key=lambda name: classes[name]["top"] - classes[name]["all"])
    share = classes[label]
    return [
        f"The tenth with the highest {measure} holds {share['top']:.0%} of {label!r}, which is {share['all']:.0%} of all: the "
        "class most over-represented there."
    ]


def _rows(models: Mapping[str, Any]) -> tuple[list[str], list[list[object]]]:
    header = ["model", "labels", "accuracy", "measure", "auroc", "auroc_low", "auroc_high", "rank_with_wrong", "aurc",
              "aurc_best", "aurc_blind", "rank_with_length", "rank_with_base"]  # fmt: skip
    rows: list[list[object]] = [
        [name, one["labels"], one["accuracy"], measure, *found["auroc"].values(), *(found[key] for key in header[7:])]
        for name, one in models.items()
        for measure, found in one["measures"].items()
    ]
    return header, rows


def _drawing(models: Mapping[str, Any], curves: Mapping[str, Array], last: str) -> Any:
    """AUROC over the rounds, and the risk–coverage curves of the last one."""

    def draw(figure: Any) -> None:
        left, right = figure.subplots(1, 2)
        rounds = [name for name in models if name != "base"]
        for i, (measure, curve) in enumerate(curves.items()):
            style = look(i)
            areas = [models[name]["measures"].get(measure, {}).get("auroc", {}).get("estimate") for name in rounds]
            left.plot(
                [models[name]["labels"] for name in rounds], [math.nan if a is None else a for a in areas], label=measure,
                **style,
            )  # fmt: skip
            right.plot(np.arange(1, len(curve) + 1) / len(curve), curve, **{**style, "marker": ""})
        left.axhline(0.5, color="#6b6b6b", linewidth=0.8)
        left.set(xlabel="labels", ylabel="AUROC of being wrong")
        right.set(xlabel="share answered, surest first", ylabel=f"share wrong, {last}", ylim=(0, None))
        figure.legend(loc="outside lower center", ncols=3)

    return draw
