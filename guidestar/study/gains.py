"""What each strategy adds to the control under every adapter, and on average over the adapters, seed by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from guidestar.metrics import statistics
from guidestar.study.results import Result
from guidestar.words import hundredths, markdown_table

Seeds = dict[int, float]  # seed -> area of a strategy − area of the control


@dataclass(frozen=True)
class Above:
    """A mean over seeds, fractions, and the ends of its 95 % t interval, None for one seed."""

    mean: float
    low: float | None
    high: float | None
    seeds: int


@dataclass(frozen=True)
class Gain:
    """What strategies add under one adapter of a dataset and model; peft None: the mean over so many adapters. above:
    strategy -> what it adds, None where it has no seed in common with the control."""

    dataset: str
    model: str
    peft: str | None
    adapters: int
    above: Mapping[str, Above | None]


def gains(results: Sequence[Result], strategies: Sequence[str], control: str | None) -> list[Gain]:
    """Differences of the area under the curve, strategy − control, over the seeds that both have with the same points.

    One for every adapter of every dataset and model, and one for the mean over the adapters where there are several: first
    the mean of each seed that all of them have, then over the seeds, for the adapters of a seed share their examples.
    """
    every = added(results, control)
    names = [name for name in strategies if any(name in one for one in every.values())]
    rows = []
    for dataset, model in dict.fromkeys(group[:2] for group in every):
        mine = {group[2]: every[group] for group in every if group[:2] == (dataset, model)}
        groups: list[tuple[str | None, list[dict[str, Seeds]]]] = [(peft, [by]) for peft, by in mine.items()]
        for peft, adapters in groups + ([(None, list(mine.values()))] if len(mine) > 1 else []):
            above = {name: _above([by.get(name, {}) for by in adapters]) for name in names}
            rows.append(Gain(dataset, model, peft, len(adapters), above))
    return rows


def added(results: Sequence[Result], control: str | None) -> dict[tuple[str, str, str], dict[str, Seeds]]:
    """Dataset, model and adapter -> strategy -> area − the control's, of each seed that both have with the same points."""
    found: dict[tuple[str, str, str], dict[str, Seeds]] = {}
    own = {(one.group, one.method, one.seed): one for one in results}
    for (group, method, seed), one in own.items():
        base = own.get((group, control or "", seed))
        if method != control and base and one.curve and [at for at, _ in one.curve] == [at for at, _ in base.curve]:
            found.setdefault(group, {}).setdefault(method, {})[seed] = one.area - base.area
    return found


def _above(adapters: Sequence[Seeds]) -> Above | None:
    """Of the mean over the adapters, for each seed that all have."""
    common = set.intersection(*(set(one) for one in adapters))
    values = [float(np.mean([one[seed] for one in adapters])) for seed in sorted(common)]
    if len(values) < 2:
        return Above(values[0], None, None, 1) if values else None
    ends = statistics.t_interval(values)
    return Above(float(np.mean(values)), ends.low, ends.high, len(values))


def markdown(rows: Sequence[Gain], control: str | None) -> str:
    """The rows as a Markdown table, in points (hundredths) of the area; empty where there is none."""
    if not rows:
        return ""
    names = list(rows[0].above)
    lines = []
    for row in rows:
        of = row.peft or f"**mean of {row.adapters} adapters**"
        lines.append([f"{row.dataset}, {row.model}, {of}", *(_points_of(row.above.get(name)) for name in names)])
    return markdown_table([f"AUC above {control}, points", *names], lines)


def _points_of(value: Above | None) -> str:
    if value is None:
        return "–"
    ends = f" ({hundredths(value.low, 1)} to {hundredths(value.high, 1)})" if value.low is not None else ""
    return hundredths(value.mean, 1, sign=True) + ends
