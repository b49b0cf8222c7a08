"""Learning curves of an experiment, in the style of the paper's figures 1 and 5: PNG, PDF, and the data as CSV."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guidestar.study.drawing import GREY, PAGE, look, save_figure
from guidestar.study.experiments import Variant
from guidestar.study.results import Result

MOST_LINES = 6  # of a panel; more are a tangle
MOST_TICKS = 6
COLUMNS = 3
MAJORITY = "majority class"
BLACK = 2  # the style in black, which is the control's

Panels = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Curve:
    """One line: mean over the seeds that have every point. spread: standard deviations, None for one seed."""

    variant: str
    labels: tuple[int, ...]
    means: tuple[float, ...]
    spread: tuple[float, ...] | None


@dataclass(frozen=True)
class Panel:
    """One pair of axes. curves: (style, name in the legend, curve). level: the majority baseline."""

    title: str
    curves: tuple[tuple[int, str, Curve], ...]
    level: float | None


def curve_of(variant: str, results: Sequence[Result]) -> Curve | None:
    """The mean learning curve of one method over the seeds that are as long as the longest; None without any."""
    longest = max((len(one["curve"]) for one in results), default=0)
    whole = [one["curve"] for one in results if len(one["curve"]) == longest]
    if not longest:
        return None
    points = list(zip(*whole, strict=True))
    means = tuple(statistics.fmean(value for _, value in point) for point in points)
    spread = tuple(statistics.stdev(value for _, value in point) for point in points) if len(whole) > 1 else None
    return Curve(variant, tuple(point[0][0] for point in points), means, spread)


def panels_of(variants: Sequence[Variant], given: Panels) -> Panels:
    """Which variants share a pair of axes: those given, all where they are few, else each beside its control and
    ME with STAR."""
    if given:
        return given
    if len(variants) <= MOST_LINES:
        return {"": [v.name for v in variants]}
    reference = ["me-star"] if any(v.name == "me-star" for v in variants) else []
    return {
        v.label: list(dict.fromkeys([v.control, *reference, v.name]))
        for v in variants
        if v.name != v.control and v.name not in reference and not v.name.startswith("random")
    }


def learning_curves(
    stem: Path, datasets: Sequence[str], variants: Sequence[Variant], methods: Mapping[tuple[str, str], str],
    results: Sequence[Result], *, panels: Panels, note: str = "",
) -> list[Path]:  # fmt: skip
    """Draw the curves that there are; returns the files, none if there is no curve.

    methods: (dataset, variant's name) -> the method's name in the results. note: written below the drawing.
    Few panels: a row each, a column for each dataset, as in figure 5; side by side for one dataset. Many: a figure for
    each dataset, in which a panel's curves are told apart by what they are to it.
    """
    groups = panels_of(variants, panels)
    looks = _looks(variants, groups)
    found: dict[tuple[str, str], Panel] = {}
    for dataset in datasets:
        mine = [one for one in results if one["tags"]["dataset"] == dataset]
        level = next((one["data"]["majority"]["share"] for one in mine if one["data"].get("majority")), None)
        for group, names in groups.items():
            lines = []
            for name in names:
                here = [one for one in mine if one["tags"]["method"] == methods.get((dataset, name))]
                if curve := curve_of(name, here):
                    lines.append((*looks[group, name], curve))
            title = ": ".join(part for part in (dataset if len(groups) <= COLUMNS else "", group) if part)
            found[group, dataset] = Panel(title, tuple(lines), level)
    rows = _rows(datasets, variants, methods, results)
    if not any(panel.curves for panel in found.values()):
        return []
    if len(groups) <= COLUMNS:
        grid = [[found[group, dataset] for dataset in datasets] for group in groups]
        grid = [[row[0] for row in grid]] if len(datasets) == 1 else grid
        return save_panels(stem, grid, rows, note)
    written = []
    for dataset in datasets:
        drawn = [found[group, dataset] for group in groups if found[group, dataset].curves]
        grid = [drawn[i : i + COLUMNS] for i in range(0, len(drawn), COLUMNS)]
        if grid:
            its_rows = [row for row in rows if row[0] == dataset]
            written += save_panels(stem.with_name(f"{stem.name}-{dataset}"), grid, its_rows, f"{dataset}. {note}")
    return written


def _looks(variants: Sequence[Variant], groups: Panels) -> dict[tuple[str, str], tuple[int, str]]:
    """(panel, variant) -> its style and its name in the legend. A style of its own where the panels are few, else one
    for what it is there. The third style, which is black, is the control's."""
    by_name = {v.name: v for v in variants}
    controls = {v.control for v in variants if v.name == v.control}
    found = {}
    if len(groups) <= COLUMNS:
        black = next((name for name in by_name if name in controls), None)
        free = iter(i for i in range(len(by_name) + 1) if i != BLACK)
        styles = {name: BLACK if name == black else next(free) for name in by_name}
        return {(g, n): (styles[n], by_name[n].label) for g, names in groups.items() for n in names if n in by_name}
    for group, names in groups.items():
        for name in names:
            kind = "control" if name in controls else "reference" if by_name[name].label != group else "own"
            found[group, name] = _ROLES[kind]
    return found


_ROLES = {"control": (2, "random, trained alike"), "reference": (0, "ME with STAR"), "own": (1, "the panel's method")}


def save_panels(stem: Path, grid: Sequence[Sequence[Panel]], rows: Sequence[Sequence[object]], note: str) -> list[Path]:
    """Draw a grid of panels; returns STEM.png, STEM.pdf and STEM.csv. rows: dataset, variant, label, method, seed,
    round, labels, accuracy of every point."""
    columns = max(len(line) for line in grid)
    header = ["dataset", "variant", "label", "method", "seed", "round", "labels", "accuracy"]
    width = PAGE if columns > 1 else 4.2
    shared = len({row[0] for row in rows}) == 1  # the dataset
    named = len({name for line in grid for panel in line for _, name, _ in panel.curves}) + 1
    height = 0.45 + 2.25 * len(grid) + 0.16 * -(-named // 3)
    return save_figure(stem, _drawer(grid, columns, note, shared), header, rows, width=width, height=height)


def _drawer(grid: Sequence[Sequence[Panel]], columns: int, note: str, shared: bool) -> Any:
    """shared: one scale of accuracy for all panels."""

    def draw(figure: Any) -> None:
        for i, line in enumerate(grid):
            for j, panel in enumerate(line):
                alike = figure.axes[0] if shared and figure.axes else None
                axes = figure.add_subplot(len(grid), columns, i * columns + j + 1, sharey=alike)
                _fill(axes, panel, textwrap.fill(panel.title, 36 if columns > 1 else 60))
                if j == 0:
                    axes.set_ylabel("accuracy, %")
        _legend(figure, columns)
        low = 0.18 / figure.get_figheight()
        figure.text(0.005, 0.0, f"{note} {_BANDS}".strip(), fontsize=6.5, color=GREY, va="bottom")
        figure.get_layout_engine().set(rect=(0, low, 1, 1 - low))

    return draw


def _fill(axes: Any, panel: Panel, title: str) -> None:
    for style, name, curve in panel.curves:
        _line(axes, style, name, curve)
    if panel.level is not None:
        axes.axhline(100 * panel.level, color=GREY, linewidth=0.9, linestyle=(0, (1, 2)), label=MAJORITY)
    axes.set_title(title)
    axes.set_xlabel("labels")
    if not panel.curves:
        axes.text(0.5, 0.5, "no finished run", ha="center", va="center", color=GREY, transform=axes.transAxes)
    points = panel.curves[0][2].labels if panel.curves else ()
    if 0 < len(points) <= MOST_TICKS:
        axes.set_xticks(points)


_BANDS = "Bands: ± a standard deviation over the seeds."


def _legend(figure: Any, columns: int) -> None:
    """One legend for all panels; as many names in a line as its width holds."""
    shown: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            shown.setdefault(name, handle)
    names = sorted(shown, key=lambda name: name == MAJORITY)
    wide = max(map(len, names), default=0)
    most = (5 if wide <= 14 else 4 if wide <= 20 else 3) if columns > 1 else (3 if wide <= 14 else 2)
    lines = -(-len(names) // most)
    figure.legend([shown[n] for n in names], names, loc="outside upper left", ncols=-(-len(names) // max(lines, 1)))


def _line(axes: Any, style: int, name: str, curve: Curve) -> None:
    drawn = look(style)
    axes.plot(curve.labels, [100 * value for value in curve.means], label=name, **drawn)
    if curve.spread is not None and all(map(math.isfinite, curve.spread)):
        low = [100 * max(m - s, 0.0) for m, s in zip(curve.means, curve.spread, strict=True)]
        high = [100 * min(m + s, 1.0) for m, s in zip(curve.means, curve.spread, strict=True)]
        axes.fill_between(curve.labels, low, high, color=drawn["color"], alpha=0.13, linewidth=0)


def _rows(
    datasets: Sequence[str], variants: Sequence[Variant], methods: Mapping[tuple[str, str], str], results: Sequence[Result]
) -> list[list[object]]:  # fmt: skip
    """Every point of every seed, as measured."""
    found: list[list[object]] = []
    for dataset in datasets:
        for v in variants:
            for one in results:
                if one["tags"]["dataset"] == dataset and one["tags"]["method"] == methods.get((dataset, v.name)):
                    found += [
                        [dataset, v.name, v.label, one["tags"]["method"], one["tags"]["seed"], r, labels, value]
                        for r, (labels, value) in enumerate(one["curve"])
                    ]
    return found
