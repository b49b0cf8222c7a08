"""What `lean` gains or loses beside random on pools that were made for choosing to win, tie or lose.

`python -m tools.lean_pools 10 FILE` makes pools 0 to 9 of each kind of `tools.verdicts` and chooses 10 to 100 labels from each.
The learner is the classifier that `lean` asks, so that a pool takes seconds; no adapter is trained.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from guidestar.metrics.statistics import t_interval
from guidestar.metrics.verdict import comparison, decide
from guidestar.study.tables import points_of
from tools.ablation import keep
from tools.frozen_curves import accuracies
from tools.pages import table
from tools.verdicts import WORLDS, Pool

FILE = Path("statistics") / "lean-pools.json"  # below `results`
LABELS = (10, 20, 30, 40, 50, 60, 80, 100)
_LENGTH = 6**0.5  # of the points: as long as six blocks of unit length, which the classifier's strength was set for


def area(pool: Pool, seed: int, strategy: str) -> float:
    """The area under the accuracies of one run, fraction."""
    centre = pool.x.mean(axis=0)
    scale = _LENGTH / np.sqrt(((pool.x - centre) ** 2).sum(axis=1).mean())
    x, test = (pool.x - centre) * scale, (pool.test_x - centre) * scale
    right = accuracies(x, pool.given, test, pool.gold, pool.classes, strategy, seed, LABELS)
    return float(np.trapezoid(right, LABELS)) / (LABELS[-1] - LABELS[0])


def measured(pools: int) -> Iterator[dict[str, Any]]:
    """Every kind of pool: the differences of the areas, lean − random, one for each pool."""
    for name, world in WORLDS.items():
        made = [(world.make(np.random.default_rng([n, 7])), n) for n in range(pools)]
        yield {
            "pool": name, "why": world.why, "meant": world.truth,
            "differences": [round(area(pool, n, "lean") - area(pool, n, "random"), 5) for pool, n in made],
        }  # fmt: skip


def section(file: Path) -> list[str]:
    """The file's part of docs/comparisons.md as Markdown lines."""
    rows: list[Mapping[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["rows"]
    said = decide({row["pool"]: comparison(row["differences"]) for row in rows})
    ends = {row["pool"]: t_interval(row["differences"]) for row in rows}
    meant = {"gain": "win", "no evidence": "tie", "harm": "lose"}
    below = [name for name, one in ends.items() if one.high < 0]
    return [
        "", "## Pools made to win, tie and lose: `lean`", "",
        f"Points instead of texts, {len(rows[0]['differences'])} pools of each kind, {LABELS[0]} to {LABELS[-1]} labels, the classifier that "
        "`lean` asks as the learner, its own start beside a random one; no adapter (`python -m tools.lean_pools`). Points of AUC "
        "beside random, 95 % interval, and the verdict over all kinds. Where annotators are wrong near the border, a strategy that asks "
        "there is bound to lose.",
        "",
        *table(
            ["pool", "because", "highest entropy must", "AUC above random, points", "verdict"],
            [
                [name, row["why"], meant[row["meant"]], points_of(ends[name], 1), said[name].word]
                for row in rows if (name := row["pool"])
            ],
        ),
        "", f"Below random, if each kind is looked at alone: {', '.join(below) or 'none'}.",
    ]  # fmt: skip


def main(pools: int, path: Path) -> None:
    """Write the measurement as JSON."""
    keep(path, list(measured(pools)), pools=pools, labels=list(LABELS))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
