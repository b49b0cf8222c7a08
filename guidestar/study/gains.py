"""What each strategy adds to the control under every adapter, and on average over the adapters, seed by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from guidestar.metrics import statistics
from guidestar.study.results import Result, group_of
from guidestar.words import hundredths

Gain = dict[str, Any]
Seeds = dict[int, float]  # seed -> area of a strategy − area of the control


def gains(results: Sequence[Result], strategies: Sequence[str], control: str | None) -> list[Gain]:
    """Differences of the area under the curve, strategy − control, over the seeds that both have with the same points.

    Returns a row for every adapter of every dataset and model, and one with "peft" None for the mean over the adapters
    where there are several: first the mean of each seed that all of them have, then over the seeds, for the adapters of a
    seed share their examples. Keys: "dataset", "model", "peft", "adapters" and "above": strategy -> "mean", "low", "high"
    (fractions; the ends of a 95 % t interval over the seeds, None for one seed) and "seeds", None where no seed is common.
    """
    found: dict[tuple[str, str, str], dict[str, Seeds]] = {}
    if control is None:
        return []
    own = {(group_of(one), str(one["tags"]["method"]), int(one["tags"]["seed"])): one for one in results}
    for (group, method, seed), one in own.items():
        base = own.get((group, control, seed))
        if method != control and base and one["curve"] and _points(one) == _points(base):
            found.setdefault(group, {}).setdefault(method, {})[seed] = one["auc"] - base["auc"]
    names = [name for name in strategies if any(name in one for one in found.values())]
    rows = []
    for dataset, model in dict.fromkeys(group[:2] for group in found):
        mine = {group[2]: found[group] for group in found if group[:2] == (dataset, model)}
        rows += [_row(dataset, model, peft, 1, {name: by.get(name, {}) for name in names}) for peft, by in mine.items()]
        if len(mine) > 1:
            means = {name: _mean([by.get(name, {}) for by in mine.values()]) for name in names}
            rows.append(_row(dataset, model, None, len(mine), means))
    return rows


def _points(one: Result) -> list[float]:
    return [at for at, _ in one["curve"]]


def _mean(adapters: Sequence[Seeds]) -> Seeds:
    """Over the adapters, of each seed that all have."""
    common = set.intersection(*(set(one) for one in adapters))
    return {seed: float(np.mean([one[seed] for one in adapters])) for seed in sorted(common)}


def _row(dataset: str, model: str, peft: str | None, adapters: int, above: Mapping[str, Seeds]) -> Gain:
    found = {name: _summary(list(seeds.values())) for name, seeds in above.items()}
    return {"dataset": dataset, "model": model, "peft": peft, "adapters": adapters, "above": found}


def _summary(values: Sequence[float]) -> dict[str, Any] | None:
    if not values:
        return None
    ends = statistics.t_interval(values) if len(values) > 1 else None
    return {
        "mean": float(np.mean(values)), "low": ends.low if ends else None, "high": ends.high if ends else None,
        "seeds": len(values),
    }  # fmt: skip


def markdown(rows: Sequence[Gain], control: str | None) -> str:
    """The rows as a Markdown table, in points (hundredths) of the area; empty where there is none."""
    if not rows:
        return ""
    names = list(rows[0]["above"])
    lines = [
        [f"{row['dataset']}, {row['model']}, " + (row["peft"] or f"**mean of {row['adapters']} adapters**")]
        + [_points_of(row["above"].get(name)) for name in names]
        for row in rows
    ]
    head = [f"AUC above {control}, points", *names]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines])


def _points_of(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return "–"
    ends = f" ({hundredths(value['low'], 1)} to {hundredths(value['high'], 1)})" if value["low"] is not None else ""
    return hundredths(value["mean"], 1, sign=True) + ends
