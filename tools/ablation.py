"""What each part of the recipe for few labels is worth: all-MiniLM-L6-v2 on TREC-6 and SUBJ, trained once, at 50 labels.

`python -m tools.ablation FOLDER FILE 10,11,12 [ROW …]` adds these seeds to FILE; FOLDER is that of a preset's files, and is called
as the preset is. A cell that is there is not made again. The labels are chosen in three rounds (10, 20, 20) as a run of the same seed chooses them, which
needs no adapter; so a cell costs one training.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from guidestar.asking import LABELS, Ask, Lesson, Probed
from guidestar.beginning import hardware, versions
from guidestar.bench import Bench, read_config
from guidestar.metrics.statistics import t_interval
from guidestar.metrics.verdict import comparison, decide
from guidestar.query import probe
from guidestar.query.strategies import STRATEGIES, Context, choose
from guidestar.query.table import WARM_STARTS
from guidestar.records import Example
from guidestar.rng import generator, phase_seed
from guidestar.store.files import write_bytes
from guidestar.study.tables import points_of
from guidestar.words import percent
from tools.pages import table

FILE = Path("statistics") / "lean-ablation.json"  # below `results`
ROUNDS = (10, 20, 20)  # labels asked for
SETS: Mapping[str, Mapping[str, Any]] = {"trec-6": {}, "subj": {"test_limit": 1000}}  # preset -> what its studies set

_LORA = {"peft_type": "LORA", "r": 16, "lora_alpha": 32, "lora_dropout": 0.1, "target_modules": "all-linear"}
_BOTTLENECK = {"peft_type": "BOTTLENECK", "r": 24, "bottleneck_dropout": 0.1, "target_modules": ["output.dense"]}
_FULL = {"peft_type": "FULL"}
_HERDING = "herding"
_WEIGHTED = {"head": "features", "views": "weighted"}


@dataclass(frozen=True)
class Row:
    """A way to choose and train. start: how the first labels are chosen, None at random. last: the frozen features, and so the
    head, are the mean of the last layer alone."""

    about: str
    strategy: str = "random"
    start: str | None = None
    model: Mapping[str, Any] = field(default_factory=lambda: {"head": "features"})
    train: Mapping[str, Any] = field(default_factory=lambda: {"recipe": "lean"})
    peft: Mapping[str, Any] = field(default_factory=lambda: _LORA)
    last: bool = False


ROWS = {
    "plain": Row("random, default training of an encoder (R0)", model={"head": "classifier"}, train={}),
    "floor": Row("R0 with a floor of 260 steps", model={"head": "classifier"}),
    "r1": Row("and a head on features, 130 steps (R1)"),
    "start": Row("and a herding start", start=_HERDING),
    "lean": Row("and herding of the doubt (`lean`)", "lean", _HERDING),
    "pseudo": Row("`lean` with pseudo-labels", "lean", _HERDING, train={"recipe": "lean", "pseudo_labels": 0.3}),
    "weighted": Row("`lean` with weighted views", "lean", _HERDING, model=_WEIGHTED),
    "r1-weighted": Row("R1 with weighted views", model=_WEIGHTED),
    "last": Row("`lean` on the last layer's mean alone", "lean", _HERDING, last=True),
    "r1-last": Row("R1 on the last layer's mean alone", last=True),
    "bottleneck": Row("`lean`, bottleneck adapter", "lean", _HERDING, peft=_BOTTLENECK),
    "r1-bottleneck": Row("R1, bottleneck adapter", peft=_BOTTLENECK),
    "full": Row("`lean`, fully tuned", "lean", _HERDING, peft=_FULL),
    "r1-full": Row("R1, fully tuned", peft=_FULL),
}

# Who serves, by the name of its accuracy.
SERVED = {"accuracy": "adapter", "frozen_accuracy": "regression", "mean_accuracy": "their mean"}

# What is set beside what: (row, who serves), of each side.
BESIDE = [
    *((one, "accuracy", other, "accuracy") for one, other in (
        ("floor", "plain"), ("r1", "floor"), ("start", "r1"), ("lean", "start"), ("lean", "r1"), ("pseudo", "lean"),
        ("weighted", "lean"), ("weighted", "r1-weighted"), ("r1-weighted", "r1"), ("lean", "last"), ("last", "r1-last"), ("bottleneck", "r1-bottleneck"), ("full", "r1-full"),
    )),
    ("lean", "frozen_accuracy", "lean", "accuracy"), ("lean", "mean_accuracy", "lean", "accuracy"),
]  # fmt: skip


# --- one cell -----------------------------------------------------------------------------------


def picked(bench: Bench, row: Row, seed: int, rounds: Sequence[int] = ROUNDS) -> list[tuple[Example, str]]:
    """The labels that a run of this seed would have, in the order of asking. rounds: how many each asks for."""
    recipe, task, frozen = STRATEGIES[row.strategy], bench.fitting.task, bench.frozen
    labelled: list[tuple[Example, str]] = []
    for r, k in enumerate(rounds):
        free = bench.pool.without({e.id for e, _ in labelled})
        if r == 0:
            rng = generator(seed, 0, "warm_start")
            start = (
                WARM_STARTS[row.start](frozen.points(free), k, rng) if row.start else rng.choice(len(free), k, False)
            )
            ids = [free[i].id for i in start]
        else:
            full = known = None
            if recipe.model == "frozen":
                scorer = Probed.of(frozen, labelled, task, generator(seed, r, "probe"))
                full = scorer(free, Ask.of(["label_log_probs", "embedding"]))
                known = scorer([e for e, _ in labelled], Ask.of(["embedding"]))
            context = Context(t=r - 1, rounds=len(rounds), kind="choice", full=full, labelled=known)
            picks = choose(recipe, list(free.ids), context, k, generator(seed, r, "query")).picks
            ids = [pick.id for pick in picks]
        labelled += [(e, bench.dataset.gold[e.id]) for e in free.named(ids).values()]
    return labelled


def bench_of(row: Row, data: Path, place: Path) -> Bench:
    """A bench for a row with every text read by the frozen model. place: a folder for what is kept between cells."""
    preset = data.name.lower()
    bench = Bench(read_config({
        "out": str(place / f"{preset}-{row.model['head']}{'-last' * row.last}"), "strategies": [row.strategy], "annotator": "oracle",
        "data": {"preset": preset, "folder": str(data), "template": "{text}", **SETS[preset]},
        "model": {"name": "all-minilm-l6-v2", "dtype": "float32", **row.model}, "peft": dict(row.peft), "train": dict(row.train),
        "query": {"warm_start": ROUNDS[0], "batch": ROUNDS[1], "budget": sum(ROUNDS)},
    }))  # fmt: skip
    bench.check()
    assert bench.fitting.test is not None
    bench.frozen.read(bench.standing)
    bench.frozen.read(bench.fitting.test.examples)
    return bench


def trained(
    bench: Bench, row: Row, labelled: Sequence[tuple[Example, str]], seed: int, r: int, place: Path
) -> dict[str, Any]:
    """One training of round r and three ways of serving it: accuracies of the adapter, the regression and their mean."""
    test, task = bench.fitting.test, bench.fitting.task
    assert test is not None
    weight, rng = row.train.get("pseudo_labels"), generator(seed, r, "pseudo-labels")
    lesson = Lesson(
        labelled=labelled, seed=phase_seed(seed, r, "train"),
        extra=bench.frozen.pseudo_labels(bench.pool, labelled, task, rng, weight) if weight else (),
        start=bench.head_start(labelled, generator(seed, r, "head start")),
    )  # fmt: skip
    folder = place / "adapter"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    bench.engine.trainer(bench.config, bench.dataset.hash)(lesson, folder)
    with bench.engine.scorer(folder) as scorer:
        tuned = scorer(test.examples, LABELS).arrays["label_log_probs"][0]
    probed = Probed.of(bench.frozen, labelled, task, generator(seed, r, "baselines"))
    frozen = probed(test.examples, LABELS).arrays["label_log_probs"][0]
    gold = np.array([task.classes.index(answer) for _, answer in test.answered()])
    right = [said.argmax(axis=1) == gold for said in (tuned, frozen, np.logaddexp(tuned, frozen))]
    hits = [bench.dataset.gold[e.id] == answer for e, answer, _ in lesson.extra]
    return {
        "classes": len({answer for _, answer in labelled}), "pseudo": len(hits), "pseudo_purity": float(np.mean(hits)) if hits else None,
        **{key: float(one.mean()) for key, one in zip(SERVED, right, strict=True)},
        "nll": probe.log_loss(tuned, gold), "frozen_nll": probe.log_loss(frozen, gold),
    }  # fmt: skip


def cell(data: Path, name: str, seed: int, place: Path) -> dict[str, Any]:
    """One line of the file."""
    row = ROWS[name]
    if row.last:
        _last_layer_alone()
    bench = bench_of(row, data, place)
    told = trained(bench, row, picked(bench, row, seed), seed, len(ROUNDS) - 1, place)
    return {"data": data.name.lower(), "row": name, "seed": seed, **told}


def _last_layer_alone() -> None:
    """Make one view of six, for the rest of this process; no key of a configuration does that, because nobody would want it."""
    from guidestar.model import states, views

    six = views.views
    views.BLOCKS = states.BLOCKS = 1
    views.views = states.views = lambda *told: six(*told)[:, 2:3]


# --- the file and its page -----------------------------------------------------------------------


def section(file: Path) -> list[str]:
    """The file's part of docs/comparisons.md as Markdown lines."""
    told = json.loads(file.read_text(encoding="utf-8"))
    lines = [
        "", "## What each part of `lean` is worth", "",
        f"all-MiniLM-L6-v2, {sum(ROUNDS)} labels, trained once; each row changes one thing. Accuracy in per cent, mean ± standard "
        "deviation of the seeds, by who serves: the adapter, the regression on frozen features that its "
        f"head starts as, and the mean of both's probabilities. torch {told['versions']['torch']}, peft {told['versions']['peft']}, "
        f"{told['hardware']['machine']} (`python -m tools.ablation`).",
    ]  # fmt: skip
    for preset in SETS:
        cells = {(line["row"], line["seed"]): line for line in told["rows"] if line["data"] == preset}
        if cells:
            lines += _of_set(preset, cells)
    return lines


def _of_set(preset: str, cells: Mapping[tuple[str, int], Mapping[str, Any]]) -> list[str]:
    """The two tables of one data set: what came out, and what is told apart."""
    seeds = sorted({seed for _, seed in cells})
    reached = [
        [name, row.about, len(own), *(spread([line[key] for line in own]) for key in SERVED)]
        for name, row in ROWS.items()
        if (own := [cells[name, seed] for seed in seeds if (name, seed) in cells])
    ]
    pairs = {
        pair: [cells[pair[0], seed][pair[1]] - cells[pair[2], seed][pair[3]] for seed in seeds
               if {(pair[0], seed), (pair[2], seed)} <= cells.keys()]
        for pair in BESIDE
    }  # fmt: skip
    said = decide({pair: comparison(differences) for pair, differences in pairs.items() if len(differences) > 1})
    beside = [
        [*(f"{name}{'' if by == 'accuracy' else f', {SERVED[by]}'}" for name, by in (pair[:2], pair[2:])),
         points_of(t_interval(pairs[pair]), 1), len(pairs[pair]), decision.word]
        for pair, decision in said.items()
    ]  # fmt: skip
    return [
        "", f"### {preset}", "", *table(["row", "what it is", "seeds", *SERVED.values()], reached), "",
        f"Differences in points, 95 % interval, paired by seed; verdicts after correction for all {len(said)}.", "",
        *table(["row", "beside", "points", "seeds", "verdict"], beside),
    ]  # fmt: skip


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation in per cent; of one value itself."""
    apart = f" ± {100 * float(np.std(values, ddof=1)):.1f}" if len(values) > 1 else ""
    return f"{100 * float(np.mean(values)):.1f}{apart}"


def _cells(
    data: Path, names: Sequence[str], seeds: Sequence[int], place: Path, done: set[tuple[str, str, int]]
) -> Iterator[dict[str, Any]]:
    """Each cell in a process of its own, since one of them changes what features are."""
    for seed in seeds:
        for name in names:
            if (data.name.lower(), name, seed) not in done:
                yield in_a_process("ablation", data, name, seed, place)


def in_a_process(tool: str, data: Path, name: str, seed: int, place: Path) -> Any:
    """What `python -m tools.TOOL cell …` prints last, as JSON. Raises CalledProcessError if it fails."""
    program = [sys.executable, "-m", f"tools.{tool}", "cell", str(data), name, str(seed), str(place)]
    said = subprocess.run(program, stdout=subprocess.PIPE, text=True, check=True).stdout  # noqa: S603 - ours
    return json.loads(said.strip().splitlines()[-1])


def kept(path: Path) -> list[dict[str, Any]]:
    """The cells of a file; none without it."""
    return json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []


def keep(path: Path, rows: Sequence[Mapping[str, Any]], **about: Any) -> None:
    """Write a file of cells, a line each, with the versions and the machine that made them, and what else is said `about` all."""
    joined = ",\n".join(map(json.dumps, rows))
    head = json.dumps({"versions": versions(), "hardware": hardware(), **about}).removesuffix("}")
    write_bytes(path, f'{head}, "rows": [\n{joined}\n]}}\n'.encode())


def main(data: Path, path: Path, seeds: Sequence[int], names: Sequence[str]) -> None:
    """Add what is missing to the file; it is written after every cell."""
    rows = kept(path)
    done = {(line["data"], line["row"], line["seed"]) for line in rows}
    for line in _cells(data, names, seeds, path.with_suffix(""), done):
        rows.append(line)
        keep(path, rows)
        print(f"{line['data']} {line['row']} seed {line['seed']}: {percent(line['accuracy'])}", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "cell":
        print(json.dumps(cell(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), Path(sys.argv[5]))))
    else:
        main(Path(sys.argv[1]), Path(sys.argv[2]), [*map(int, sys.argv[3].split(","))], sys.argv[4:] or [*ROWS])
