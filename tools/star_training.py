"""What STAR's regularisers and LoRA's size do to one training: `python -m tools.star_training DATA FILE 0,1,2 [ROW …]`.

The rows are those of the shipped studies `decay`, `dropout`, `regularisers` and `rank-alpha` on TREC-6 at scale small, without
what they choose: each row of a seed is trained once on the same 50 random labels and asked about the same test questions.
That says what a setting does to accuracy, calibration, the gap to the base model's doubt, the noise of dropout passes and
the size of B; it does not say whether it helps to choose. DATA is the folder of the datasets' files. A cell that is in FILE is not made again.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from guidestar.asking import LABELS, Ask, Lesson
from guidestar.bench import Bench
from guidestar.config import RunConfig
from guidestar.metrics import scores
from guidestar.metrics.verdict import comparison, decide
from guidestar.query.measures import entropy
from guidestar.query.mixing import rank
from guidestar.rng import generator, phase_seed
from guidestar.study.compose import load_study
from guidestar.study.paper import order_of
from guidestar.words import hundredths, number
from tools.ablation import keep, kept
from tools.pages import table

FILE = Path("statistics") / "star-training.json"  # below `results`
STUDIES = ("regularisers", "decay", "dropout", "rank-alpha")
CONTROL = "me-star"  # decay of B 0.5, dropout 0.1 on A, rank 16, alpha 32
LABELLED, TEST, PASSES = 50, 200, 3

# Name in the file -> head of the table's column, how it is shown.
COLUMNS = {
    "accuracy": ("accuracy, %", lambda value: hundredths(value, 1)),
    "ece": ("calibration error", lambda value: number(value, 3)),
    "wrong_confidence": ("confidence where wrong", lambda value: number(value, 3)),
    "gap": ("rank correlation of its entropies with the base model's", lambda value: number(value, 2)),
    "noise": ("spread of an entropy over dropout passes, nats", lambda value: number(value, 4)),
    "b_rms": ("root mean square of B", lambda value: number(value, 5)),
}  # fmt: skip


def rows(data: Path | None) -> dict[str, tuple[str, RunConfig]]:
    """Name -> (what it is, a run's configuration), each training once, the control first."""
    every: dict[str, tuple[str, RunConfig]] = {}
    for name in STUDIES:
        given = [f"data.test_limit={TEST}", "model.dtype=float32"]
        order = order_of(name, seeds=1, data=data, datasets=["trec-6"], overrides=given)
        study = load_study(order.path, order.overrides, scale=order.scale)
        labels = {row.name: row.label for row in study.rows}
        for cell in study.cells:
            method = str(cell.tags["method"])
            alike = [c for _, c in every.values() if (c.train, c.peft) == (cell.config.train, cell.config.peft)]
            if not method.startswith("random") and not alike:
                every[method] = (labels[method].removeprefix("ME with STAR, "), cell.config)
    return {CONTROL: every.pop(CONTROL), **every}


def cell(bench: Bench, config: RunConfig, seed: int) -> dict[str, Any]:
    """One training, and what it says about the test questions."""
    test, task = bench.fitting.test, bench.fitting.task
    assert test is not None
    places = generator(seed, 0, "warm_start").choice(len(bench.pool), LABELLED, False)
    labelled = [(bench.pool[int(i)], bench.dataset.gold[bench.pool.ids[int(i)]]) for i in places]
    gold = np.array([task.classes.index(answer) for _, answer in test.answered()])
    base = bench.engine.scorer()(test.examples, LABELS).arrays["label_log_probs"][0]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        bench.engine.trainer(config, bench.dataset.hash)(
            Lesson(labelled=labelled, seed=phase_seed(seed, 0, "train")), place
        )
        weights = [w for name, w in load_file(place / "adapter_model.safetensors").items() if "lora_B" in name]
        with bench.engine.scorer(place, b_dropout=config.train.b_dropout) as scorer:
            tuned = scorer(test.examples, LABELS).arrays["label_log_probs"][0]
            noise = 0.0
            if config.peft["lora_dropout"] or config.train.b_dropout:
                ask = Ask.of(LABELS.needs, passes=PASSES, seed=phase_seed(seed, 0, "score"))
                passes = scorer(test.examples, ask).arrays["label_log_probs"]
                noise = float(np.std(entropy(passes), axis=0, ddof=1).mean())
    wrong = tuned.argmax(axis=1) != gold
    return {
        "accuracy": float(1 - wrong.mean()), "ece": scores.ece(tuned, gold), "nll": scores.nll(tuned, gold),
        "wrong_confidence": float(np.exp(tuned.max(axis=1))[wrong].mean()),
        "gap": float(np.corrcoef(rank(entropy(base)), rank(entropy(tuned)))[0, 1]),
        "noise": noise, "b_rms": float(np.sqrt(np.mean(np.concatenate([w.ravel() for w in weights]) ** 2))),
    }  # fmt: skip


def section(file: Path) -> list[str]:
    """The file's part of docs/reproduction.md as Markdown lines; none without the file."""
    if not file.is_file():
        return []
    told = json.loads(file.read_text(encoding="utf-8"))
    values: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for line in told["rows"]:
        values[line["row"]][line["seed"]] = line
    said = decide({
        (name, key): comparison([line[key] - values[CONTROL][seed][key] for seed, line in own.items() if seed in values[CONTROL]])
        for name, own in values.items() if name != CONTROL for key in COLUMNS
    })  # fmt: skip

    def shown(name: str, key: str) -> str:
        found, show = [line[key] for line in values[name].values()], COLUMNS[key][1]
        spread = f" ± {show(float(np.std(found, ddof=1)))}" if len(found) > 1 else ""
        text = f"{show(float(np.mean(found)))}{spread}"
        return f"**{text}**" if name != CONTROL and said[name, key].kind in ("gain", "harm") else text

    return [
        "", "## One training, setting by setting", "",
        f"{told['rows'][0]['model']} on trec-6: each row trained once on the same {LABELLED} random labels of a seed, asked about "
        f"{TEST} test questions; nothing is chosen. Mean of the seeds ± their standard deviation. A direction beside `{CONTROL}` "
        f"(decay of B 0.5, dropout 0.1 on A, rank 16, α 32) stands in bold where the rule of [statistics.md](statistics.md) names one, "
        f"corrected for all {len(said)} comparisons; it names none below five seeds. torch {told['versions']['torch']}, "
        f"{told['hardware']['machine']} (`python -m tools.star_training`).",
        "",
        *table(
            ["setting", "seeds", *(head for head, _ in COLUMNS.values())],
            [[next(iter(own.values()))["about"], len(own), *(shown(name, key) for key in COLUMNS)] for name, own in values.items()],
        ),
    ]  # fmt: skip


def main(data: Path, path: Path, seeds: Sequence[int], names: Sequence[str]) -> None:
    """Add what is missing to the file; it is written after every cell."""
    every = rows(data)
    bench = Bench(every[CONTROL][1])
    bench.check()
    done = kept(path)
    there = {(line["row"], line["seed"]) for line in done}
    for seed in seeds:
        for name in names or every:
            if (name, seed) not in there:
                about, config = every[name]
                who = {"row": name, "about": about, "seed": seed, "model": bench.engine.facts["name"]}
                done.append(who | cell(bench, config, seed))
                keep(path, done)
                print(json.dumps(done[-1]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [*map(int, sys.argv[3].split(","))], sys.argv[4:])
