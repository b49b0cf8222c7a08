"""The noise floor: how far accuracy moves when the same labels are trained on again, in another order, from another start."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from guidestar.asking import Lesson, evaluate
from guidestar.data.pool import Split
from guidestar.errors import ConfigError
from guidestar.metrics.scores import right_of
from guidestar.metrics.statistics import t_quantile
from guidestar.records import Example
from guidestar.rng import generator, phase_seed
from guidestar.study.probes.run import Answer, Arrays, Figure, Subject, at_least, chosen_round


def noise(subject: Subject, *, seeds: int = 5, round: int | None = None) -> Answer:
    """Accuracy of adapters trained on one round's labels with other seeds: order, dropout and the adapter's start differ.

    seeds: trainings, the run's own not counted. round: whose labels, default the last measured one. Each training
    takes what the run's own took, without `tapt` and pseudo-labels; one that is done stays done.
    Raises ConfigError for fewer than 2 seeds, a round that was not measured, or a run without a test set.
    """
    at_least(2, seeds=seeds)
    measured = {m.round: m for m in subject.finished()}
    chosen = chosen_round(round, measured)
    test = subject.bench.fitting.test
    if test is None:
        raise ConfigError(f"{subject.folder}: the run has no test set, and this probe compares test accuracies")
    labelled = subject.store.annotations.answered(chosen)
    config = subject.bench.config
    without = [key for key, used in (("tapt", config.tapt), ("pseudo-labels", config.train.pseudo_weight)) if used]
    right = [_trained_again(subject, test, labelled, chosen, seed) for seed in range(seeds)]
    values = np.asarray([float(one.mean()) for one in right])
    spread = float(values.std(ddof=1))
    changed = [float((a != b).mean()) for i, a in enumerate(right) for b in right[i + 1 :]]
    facts = {
        "round": chosen, "labels": len(labelled), "examples": len(test), "seeds": seeds,
        "own": measured[chosen].values.get("accuracy"), "accuracies": values.tolist(), "mean": float(values.mean()),
        "sd": spread, "floor": float(t_quantile(seeds - 1)) * math.sqrt(2) * spread, "flipped": float(np.mean(changed)),
        "without": without,
    }  # fmt: skip
    return Answer(facts, _sentences(facts), [Figure(["training", "accuracy"], list(enumerate(values)))])


def _trained_again(
    subject: Subject, test: Split, labelled: Sequence[tuple[Example, str]], r: int, number: int
) -> np.ndarray:
    """(n,) whether the answers to the test set are right after a training with another seed."""
    seed = phase_seed(subject.seed, r, f"probe/noise/{number}")
    config = subject.bench.config
    asked = subject.asked_to_train(labelled, seed) | {"test": [e.id for e in test.examples]}

    def compute() -> Arrays:
        bench, engine = subject.bench, subject.engine
        validation = bench.fitting.validation
        previous = subject.store.adapter(r - 1) if r and config.train.start == "previous" else None
        lesson = Lesson(
            labelled=labelled, seed=seed, previous=previous,
            validation=validation.answered() if config.train.patience and validation is not None else [],
            start=None if previous is not None else bench.head_start(labelled, generator(seed, r, "head start")),
        )  # fmt: skip
        with tempfile.TemporaryDirectory(prefix="guidestar-") as folder:
            with subject.progress.phase(f"training {number + 1}") as tick:
                engine.trainer(config, bench.dataset.hash)(lesson, Path(folder), tick)
            with subject.progress.phase("evaluating") as tick:
                arrays = evaluate(engine.scorer(Path(folder)), test, bench.fitting.task, tick)[1]
        return {"right": np.asarray(right_of(arrays), dtype=np.uint8)}

    return np.asarray(subject.cached("noise", asked, compute)["right"], dtype=bool)


def _sentences(facts: Mapping[str, Any]) -> list[str]:
    values = facts["accuracies"]
    lines = [
        f"Trained {facts['seeds']} times on the same {facts['labels']} labels, the accuracy on {facts['examples']} test "
        f"examples is {min(values):.3f} to {max(values):.3f}, standard deviation {facts['sd']:.3f}; two such models give "
        f"{facts['flipped']:.1%} of the examples another verdict.",
        f"Two runs that end less than {facts['floor']:.3f} apart may differ by training alone (95 %, for one training each; "
        "means over several seeds are sharper).",
    ]
    if facts["without"]:
        lines.append(f"These trainings leave out what the run's own had besides: {' and '.join(facts['without'])}.")
    if facts["own"] is not None and facts["sd"] > 0:
        away = (facts["own"] - facts["mean"]) / facts["sd"]
        own = f"The run's own training gave {facts['own']:.3f}"
        lines.append(f"{own}, {away:+.1f} standard deviations from their mean.")
    return lines
