"""What SetFit makes of the same labels: all-MiniLM-L6-v2 on TREC-6 and SUBJ, 10 to 50 labels, beside this package's training.

`python -m tools.setfit_curves FOLDER FILE 30,31,32 [ROW …]` adds the curves of a data set to FILE; FOLDER is that of a preset's files, and
is called as the preset is. A curve that is there is not made again. The labels are those of `tools.adapter_curves` with the same
seed; SetFit trains with what its trainer does by default. It is not among this project's packages:
`pip install --no-deps setfit sentence-transformers evaluate`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from guidestar.metrics.statistics import t_interval
from guidestar.metrics.verdict import comparison, decide
from guidestar.model.sources import resolve
from guidestar.records import Example
from guidestar.study.tables import points_of
from tools import adapter_curves
from tools.ablation import ROWS, bench_of, keep, kept, picked, spread

FILE = Path("statistics") / "setfit-curves.json"  # below `results`
CHECKPOINTS = (10, 20, 30, 50)  # labels: with more, SetFit's pairs take minutes
METHODS = {
    "setfit": "r1-weighted",
    "setfit-lean": "weighted",
}  # row -> the row of tools/ablation.py whose labels it has
_ABOUT = {
    "setfit": "SetFit, random labels", "setfit-lean": "SetFit, `lean`'s labels",
    "r1-weighted": "LoRA with `recipe: lean` and weighted views, the same random labels", "weighted": "the same, `lean`'s labels",
}  # fmt: skip
_BESIDE = (("r1-weighted", "setfit"), ("weighted", "setfit"), ("weighted", "setfit-lean"), ("setfit-lean", "setfit"))


def curve(data: Path, name: str, seed: int, place: Path) -> dict[str, Any]:
    """One line of the file: SetFit's accuracy at every checkpoint."""
    bench = bench_of(ROWS[METHODS[name]], data, place)
    labelled = picked(bench, ROWS[METHODS[name]], seed, adapter_curves.ASKED)
    test, classes = bench.fitting.test, list(bench.fitting.task.classes)
    assert test is not None
    folder, gold = resolve(bench.config.model)[0], np.array([classes.index(answer) for _, answer in test.answered()])
    told = [
        float((_answers(folder, labelled[:n], [e.prompt for e in test.examples], classes, seed, place) == gold).mean())
        for n in CHECKPOINTS
    ]
    return {"data": data.name.lower(), "row": name, "seed": seed, "accuracy": told}


def _answers(
    folder: Path,
    labelled: Sequence[tuple[Example, str]],
    texts: Sequence[str],
    classes: Sequence[str],
    seed: int,
    place: Path,
) -> np.ndarray:
    """The numbers of the classes that SetFit, trained from the start, gives to texts."""
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    told = {"text": [e.prompt for e, _ in labelled], "label": [classes.index(answer) for _, answer in labelled]}
    model = SetFitModel.from_pretrained(str(folder), device="cpu")
    arguments = TrainingArguments(
        output_dir=str(place / "setfit"), seed=seed, save_strategy="no", report_to="none", show_progress_bar=False
    )
    Trainer(model=model, args=arguments, train_dataset=Dataset.from_dict(told)).train()
    return np.asarray(model.predict(list(texts), show_progress_bar=False))


def section(file: Path) -> list[str]:
    """The file's part of docs/comparisons.md as Markdown lines; none without the file and that of the curves with an adapter."""
    ours = file.with_name(adapter_curves.FILE.name)
    if not (file.is_file() and ours.is_file()):
        return []
    told = json.loads(file.read_text(encoding="utf-8"))
    places = [adapter_curves.CHECKPOINTS.index(n) for n in CHECKPOINTS]
    own = [{**line, "accuracy": [line["accuracy"][i] for i in places]} for line in kept(ours)]
    lines = [
        "", "## Beside SetFit", "",
        f"SetFit {told['setfit']} with the defaults of its trainer (contrastive pairs, then a logistic regression), the whole encoder tuned, on the "
        "labels that the rows of the curves above have with the same seed. Accuracy in per cent, mean ± standard deviation of the "
        f"seeds. {told['hardware']['machine']} (`python -m tools.setfit_curves`).",
        "", f"| data | row | seeds | {' | '.join(f'{n} labels' for n in CHECKPOINTS)} |", f"|---|---|---|{'---|' * len(CHECKPOINTS)}",
    ]  # fmt: skip
    apart: dict[tuple[str, str, str, int], list[float]] = {}
    for preset in dict.fromkeys(line["data"] for line in told["rows"]):
        cells = {
            (line["row"], line["seed"]): line["accuracy"] for line in [*told["rows"], *own] if line["data"] == preset
        }
        seeds = {seed for name, seed in cells if name in METHODS}
        for name, about in _ABOUT.items():
            if those := [cells[name, seed] for seed in sorted(seeds) if (name, seed) in cells]:
                lines.append(
                    f"| {preset} | {about} | {len(those)} | {' | '.join(map(spread, zip(*those, strict=True)))} |"
                )
        apart |= _apart(preset, cells, sorted(seeds))
    said = decide({key: comparison(each) for key, each in apart.items()})
    lines += [
        "", f"Differences in points, paired by seed, 95 % interval, and the verdict over all {len(said)}.", "",
        "| data | row | beside | labels | points | verdict |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for key, decision in said.items():
        preset, one, other, labels = key
        between = points_of(t_interval(apart[key]), 1)
        lines.append(f"| {preset} | {_ABOUT[one]} | {_ABOUT[other]} | {labels} | {between} | {decision.word} |")
    return lines


def _apart(
    preset: str, cells: Mapping[tuple[str, int], Sequence[float]], seeds: Sequence[int]
) -> dict[tuple[str, str, str, int], list[float]]:
    """(data, row, beside, labels) -> the differences of the seeds that both have."""
    found = {}
    for one, other in _BESIDE:
        both = [seed for seed in seeds if {(one, seed), (other, seed)} <= cells.keys()]
        if len(both) > 1:
            for i, labels in enumerate(CHECKPOINTS):
                found[preset, one, other, labels] = [cells[one, seed][i] - cells[other, seed][i] for seed in both]
    return found


def main(data: Path, path: Path, seeds: Sequence[int], names: Sequence[str]) -> None:
    """Add what is missing to the file; it is written after every curve."""
    import setfit

    rows = kept(path)
    done = {(line["data"], line["row"], line["seed"]) for line in rows}
    for seed in seeds:
        for name in names or METHODS:
            if (data.name.lower(), name, seed) not in done:
                rows.append(curve(data, name, seed, path.with_suffix("")))
                keep(path, rows, setfit=setfit.__version__)
                print(data.name, name, seed, np.round(rows[-1]["accuracy"], 3).tolist(), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [*map(int, sys.argv[3].split(","))], sys.argv[4:])
