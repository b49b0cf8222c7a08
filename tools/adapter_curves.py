"""How many labels `lean` needs with an adapter, beside random: all-MiniLM-L6-v2 with LoRA, TREC-6 and SUBJ, 10 to 200 labels.

`python -m tools.adapter_curves FOLDER FILE 30,31,32 [ROW …]` adds the curves of a data set to FILE; FOLDER is that of a preset's files, and
is called as the preset is. A curve that is there is not made again. The labels are chosen as a run of the same seed chooses them; an
adapter is trained from the start at each of the checkpoints.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from guidestar.metrics.savings import Pair, area_difference, pair
from guidestar.metrics.verdict import comparison_of, decide
from guidestar.study.tables import points_of
from tools.ablation import ROWS, SERVED, bench_of, keep, kept, picked, spread, trained
from tools.frozen_curves import saved
from tools.pages import table

FILE = Path("statistics") / "adapter-curves.json"  # below `results`
CHECKPOINTS = (10, 20, 30, 50, 80, 120, 200)  # labels
ASKED = (10, 10, 10, 10, 10, 10, *[20] * 7)  # labels of each round: smaller while a label says most
METHODS = {
    "weighted": "lean, weighted views", "r1-weighted": "random, same training, weighted views",
    "lean": "lean", "r1": "random, same training (R1)", "plain": "random, default training (R0)",
}  # fmt: skip
_PAIRS = (
    ("weighted", "r1-weighted"), ("weighted", "plain"), ("weighted", "lean"), ("r1-weighted", "r1"),
    ("lean", "r1"), ("lean", "plain"), ("r1", "plain"),
)  # fmt: skip
_CONTROLS = {"weighted": "r1-weighted", "lean": "r1"}  # beside which all who serve are shown
_REACHED = (50, 80, 200)  # labels of the control


def curve(data: Path, name: str, seed: int, place: Path) -> dict[str, Any]:
    """One line of the file: the accuracies at every checkpoint, by who serves."""
    row = ROWS[name]
    bench = bench_of(row, data, place)
    labelled = picked(bench, row, seed, ASKED)
    ends = np.cumsum(ASKED).tolist()
    told = [trained(bench, row, labelled[:n], seed, ends.index(n), place) for n in CHECKPOINTS]
    return {
        "data": data.name.lower(),
        "row": name,
        "seed": seed,
        **{key: [one[key] for one in told] for key in told[0]},
    }


def section(file: Path) -> list[str]:
    """The file's part of docs/comparisons.md as Markdown lines."""
    told = json.loads(file.read_text(encoding="utf-8"))
    sets: dict[str, dict[tuple[str, int], Mapping[str, Any]]] = {}
    for line in told["rows"]:
        sets.setdefault(line["data"], {})[line["row"], line["seed"]] = line
    curves = {
        (preset, one, other, by): pairing
        for preset, cells in sets.items() for one, other in _PAIRS for by in SERVED if by == "accuracy" or other == _CONTROLS.get(one)
        if (pairing := _beside(cells, one, other, by)) is not None
    }  # fmt: skip
    said = decide({key: comparison_of(each) for key, each in curves.items()})
    accuracies = [
        [preset, about, len(own), *map(spread, zip(*own, strict=True))]
        for preset, cells in sets.items()
        for name, about in METHODS.items()
        if (own := [line["accuracy"] for (row, _), line in cells.items() if row == name])
    ]
    beside = [
        [preset, f"{one}, {SERVED[by]}", other, len(each.control), points_of(area_difference(each), 1), said[preset, one, other, by].word,
         *(saved(each, float(each.control[:, CHECKPOINTS.index(n)].mean())) for n in _REACHED)]
        for (preset, one, other, by), each in curves.items()
    ]  # fmt: skip
    return [
        "", "## How many labels with an adapter", "",
        f"all-MiniLM-L6-v2 with LoRA, trained from the start at each of {len(CHECKPOINTS)} checkpoints from {CHECKPOINTS[0]} to "
        f"{CHECKPOINTS[-1]} labels; `lean` chooses from 10 labels on, the controls share their random examples. Accuracy of the adapter "
        "in per cent, mean ± standard deviation of the seeds, which were fixed before looking. "
        f"torch {told['versions']['torch']}, peft {told['versions']['peft']}, {told['hardware']['machine']} (`python -m tools.adapter_curves`).",
        "", *table(["data", "row", "seeds", *(f"{n} labels" for n in CHECKPOINTS)], accuracies), "",
        f"Area under the curve in points beside the control's adapter, 95 % interval, the verdict over all {len(said)} rows, and the "
        "labels that reach the control's mean accuracy.", "",
        *table(["data", "row, who serves", "control", "seeds", "area", "verdict", *(f"its accuracy with {n}" for n in _REACHED)], beside),
    ]  # fmt: skip


def _beside(cells: Mapping[tuple[str, int], Mapping[str, Any]], one: str, other: str, by: str) -> Pair | None:
    """The two rows' curves of the seeds that both have; None below two seeds."""
    seeds = sorted(seed for name, seed in cells if name == one and (other, seed) in cells)
    if len(seeds) < 2:
        return None
    mine = np.array([cells[one, seed][by] for seed in seeds])
    return pair(mine, np.array([cells[other, seed]["accuracy"] for seed in seeds]), CHECKPOINTS)


def main(data: Path, path: Path, seeds: Sequence[int], names: Sequence[str]) -> None:
    """Add what is missing to the file; it is written after every curve."""
    rows = kept(path)
    done = {(line["data"], line["row"], line["seed"]) for line in rows}
    for seed in seeds:
        for name in names or METHODS:
            if (data.name.lower(), name, seed) not in done:
                rows.append(curve(data, name, seed, path.with_suffix("")))
                keep(path, rows, checkpoints=CHECKPOINTS)
                print(data.name, name, seed, np.round(rows[-1]["accuracy"], 3).tolist(), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [*map(int, sys.argv[3].split(","))], sys.argv[4:])
