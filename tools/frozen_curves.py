"""How many labels `lean`, highest entropy and random need on frozen features: all-MiniLM-L6-v2, TREC-6 and SUBJ, 10 to 200 labels.

`python -m tools.frozen_curves FOLDER FILE 20,21,22` adds the curves of a data set to FILE; FOLDER is that of a preset's files, and is
called as the preset is. A strategy that is there is not made again, and the features are kept beside FILE. The learner is the classifier that `lean` asks, so that a seed takes seconds; no adapter is trained.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from guidestar.asking import Frozen
from guidestar.bench import Bench, read_config
from guidestar.metrics.savings import Pair, area_difference, pair, saving_at
from guidestar.metrics.verdict import comparison_of, decide
from guidestar.query import probe
from guidestar.query.herding import herding
from guidestar.query.measures import entropy, margin
from guidestar.query.probe import Classes
from guidestar.records import Array
from guidestar.rng import generator
from guidestar.study.tables import points_of
from guidestar.words import hundredths, percent
from tools.ablation import SETS, keep, kept
from tools.pages import table

FILE = Path("statistics") / "frozen-curves.json"  # below `results`
LABELS = (10, 20, 30, 40, 50, 60, 80, 100, 120, 140, 160, 180, 200)
# Name -> who chooses, and whether the views count by what they tell (`model.views: weighted`).
STRATEGIES = {
    "lean, weighted views": ("lean", True), "random, weighted views": ("random", True),
    "lean": ("lean", False), "entropy": ("entropy", False), "random": ("random", False),
}  # fmt: skip
_PAIRS = (
    ("lean, weighted views", "random, weighted views"), ("lean, weighted views", "random"), ("lean, weighted views", "lean"),
    ("random, weighted views", "random"), ("lean", "random"), ("entropy", "random"),
)  # fmt: skip
_SHOWN = (10, 20, 50, 100, 200)
_ASKED = (50, 100, 200)  # labels of random


def accuracies(
    x: Array, given: Classes, test_x: Array, gold: Classes, classes: int, strategy: str, seed: int,
    labels: Sequence[int] = LABELS, turn: Callable[[Sequence[int]], Array | None] = lambda rows: None,
) -> list[float]:  # fmt: skip
    """The accuracy with each number of labels, fraction. x: (n, width), given: (n,) what is answered if asked; `lean` has a
    start of its own, the others begin at random with the same examples. turn: what the classifier multiplies points by, for the
    rows that are labelled."""
    labelled: list[int] = []
    right: list[float] = []
    fitted: probe.Probe | None = None
    seen = x
    for r, many in enumerate(labels):
        rng = generator(seed, r, "query")
        free, wanted = np.setdiff1d(np.arange(len(x)), labelled), many - len(labelled)
        said = None if fitted is None else fitted.log_probs(seen[free])
        if strategy == "lean":
            doubt = None if said is None else margin(said)
            new = herding(x[free], x[labelled] if labelled else None, wanted, rng, doubt)
        elif strategy == "random" or said is None:
            new = rng.choice(len(free), wanted, replace=False)
        else:
            new = np.argsort(-entropy(said), kind="stable")[:wanted]
        labelled += free[new].tolist()
        seen, seen_test = (x, test_x) if (by := turn(labelled)) is None else (x @ by, test_x @ by)
        fitted = probe.fit(seen[labelled], given[labelled], classes, generator(seed, r, "probe"))
        right.append(float((fitted.log_probs(seen_test).argmax(axis=1) == gold).mean()))
    return right


def section(file: Path) -> list[str]:
    """The file's part of docs/comparisons.md as Markdown lines."""
    told = json.loads(file.read_text(encoding="utf-8"))
    curves = {(row["data"], row["strategy"]): np.array(row["accuracies"]) for row in told["rows"]}
    shown = [
        [preset, name, len(one), *(hundredths(float(one[:, LABELS.index(n)].mean()), 1) for n in _SHOWN)]
        for preset in SETS
        for name in STRATEGIES
        if (one := curves.get((preset, name))) is not None
    ]
    pairs = {
        (preset, one, other): pair(curves[preset, one], curves[preset, other], LABELS)
        for preset in SETS for one, other in _PAIRS if (preset, one) in curves
    }  # fmt: skip
    said = decide({key: comparison_of(one) for key, one in pairs.items()})
    beside = [
        [*key, points_of(area_difference(curve), 1), said[key].word,
         *(saved(curve, float(curve.control[:, LABELS.index(n)].mean())) for n in _ASKED)]
        for key, curve in pairs.items()
    ]  # fmt: skip
    return [
        "", "## How many labels on frozen features", "",
        f"all-MiniLM-L6-v2, {LABELS[0]} to {LABELS[-1]} labels, the classifier on frozen features that `lean` asks as the learner, no adapter; "
        "`lean` with its own start, the others from the same random one. Accuracy in per cent. "
        f"torch {told['versions']['torch']}, scikit-learn {told['versions']['scikit-learn']}, {told['hardware']['machine']} "
        "(`python -m tools.frozen_curves`).", "",
        *table(["data", "strategy", "seeds", *(f"{n} labels" for n in _SHOWN)], shown), "",
        f"The area under the curve beside a control in points, 95 % interval, the verdict over all {len(said)} rows, and the labels "
        "that reach the control's mean accuracy, with the share saved.", "",
        *table(["data", "strategy", "control", "area", "verdict", *(f"its accuracy with {n}" for n in _ASKED)], beside),
    ]  # fmt: skip


def saved(curves: Pair, accuracy: float) -> str:
    """A table's cell: the labels that reach an accuracy, and the share saved with its 95 % interval."""
    saving = saving_at(curves, accuracy)
    if saving is None or saving.labels is None:
        return f"{percent(accuracy)} not reached"
    ends = [percent(end) if np.isfinite(end) else "open" for end in (saving.share.low, saving.share.high)]
    return (
        f"{saving.labels:.0f} labels for {percent(accuracy)}: {percent(saving.share.estimate)} ({ends[0]} to {ends[1]})"
    )


def main(data: Path, path: Path, seeds: Sequence[int]) -> None:
    """Add the curves of a data set to the file."""
    preset = data.name.lower()
    bench = Bench(read_config({
        "out": str(path.with_suffix("") / preset), "strategies": ["lean"], "annotator": "oracle",
        "data": {"preset": preset, "folder": str(data), "template": "{text}", **SETS[preset]},
        "model": {"name": "all-minilm-l6-v2", "dtype": "float32", "head": "features"},
    }))  # fmt: skip
    pool, test, task, frozen = bench.pool, bench.fitting.test, bench.fitting.task, bench.frozen
    assert test is not None
    frozen.read(bench.standing)
    frozen.read(test.examples)
    x, test_x = frozen.points(pool), frozen.points(test.examples)
    given = np.array([task.classes.index(bench.dataset.gold[e.id]) for e in pool])
    gold = np.array([task.classes.index(answer) for _, answer in test.answered()])
    rows = kept(path)
    there = {row["strategy"] for row in rows if row["data"] == preset}
    told = [(e, bench.dataset.gold[e.id]) for e in pool]
    for name, (strategy, weighted) in STRATEGIES.items():
        if name in there:
            continue
        by_name = replace(frozen, weighted=weighted)

        def turn(labelled: Sequence[int], reader: Frozen = by_name) -> Array | None:
            return reader.turn([told[i] for i in labelled], task)

        made = [accuracies(x, given, test_x, gold, len(task.classes), strategy, seed, turn=turn) for seed in seeds]
        rows.append({"data": preset, "strategy": name, "seeds": list(seeds), "accuracies": made})
        print(preset, name, np.round(np.mean(made, axis=0), 3).tolist(), flush=True)
        keep(path, rows, labels=LABELS)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [*map(int, sys.argv[3].split(","))])
