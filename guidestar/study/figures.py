"""Learning curves of a study, in the style of the paper's figures 1 and 5: PNG, PDF, and the data as CSV."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guidestar.report.style import MUTED, look
from guidestar.study.compose import Row, Study
from guidestar.study.drawing import PAGE, save_figure
from guidestar.study.results import Result
from guidestar.study.tables import Place, place_of, row_of

MOST_LINES = 6  # of a panel; more are a tangle
MOST_TICKS = 6
COLUMNS = 3
MAJORITY = "majority class"
BLACK = 2  # the style in black, which is the control's
REFERENCE = "me-star"  # the row that stands in every panel of a study of many rows, where there is one

Panels = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Curve:
    """One line: mean over the seeds that have every point. spread: standard deviations, None for one seed."""

    labels: tuple[int, ...]
    means: tuple[float, ...]
    spread: tuple[float, ...] | None


@dataclass(frozen=True)
class Panel:
    """One pair of axes. curves: (style, name in the legend, curve). level: the majority baseline."""

    title: str
    curves: tuple[tuple[int, str, Curve], ...]
    level: float | None


def curve_of(results: Sequence[Result]) -> Curve | None:
    """The mean learning curve of one row over the seeds that are as long as the longest; None without any."""
    longest = max((len(one["curve"]) for one in results), default=0)
    whole = [one["curve"] for one in results if len(one["curve"]) == longest]
    if not longest:
        return None
    points = list(zip(*whole, strict=True))
    means = tuple(statistics.fmean(value for _, value in point) for point in points)
    spread = tuple(statistics.stdev(value for _, value in point) for point in points) if len(whole) > 1 else None
    return Curve(tuple(point[0][0] for point in points), means, spread)


def panels_of(rows: Sequence[Row], given: Panels) -> Panels:
    """Which rows share a pair of axes: those given; those of one adapter; all where they are few; else each beside its
    control and the reference."""
    if given:
        return given
    if rows and rows[0].peft:
        return {
            peft: [row.name for row in rows if row.peft == peft] for peft in dict.fromkeys(row.peft for row in rows)
        }
    if len(rows) <= MOST_LINES:
        return {"": [row.name for row in rows]}
    reference = [row.name for row in rows if row.name == REFERENCE]
    return {
        row.label: list(dict.fromkeys([*([row.control] if row.control else []), *reference, row.name]))
        for row in rows
        if row.name != row.control and row.name not in reference and not row.name.startswith("random")
    }


def learning_curves(study: Study, results: Sequence[Result]) -> list[Path]:
    """Draw the curves that there are, a figure for each dataset and model; returns the files, none if there is no curve."""
    panels = panels_of(study.rows, study.config.panels)
    looks = _looks(study.rows, panels)
    rows = {row.name: row for row in study.rows}
    written: list[Path] = []
    for place in dict.fromkeys(map(place_of, results)):
        runs: dict[str, list[Result]] = {}
        for one in results:
            if place_of(one) == place and one["curve"]:
                runs.setdefault(row_of(one["tags"]), []).append(one)
        level = next((one["data"]["majority"]["share"] for some in runs.values() for one in some
                      if one["data"].get("majority")), None)  # fmt: skip
        drawn = []
        for title, names in panels.items():
            curves = [(name, curve_of(runs.get(study.runs.get((*place, name), ""), ()))) for name in names]
            drawn.append(Panel(title, tuple((*looks[title, name], curve) for name, curve in curves if curve), level))
        drawn = [panel for panel in drawn if panel.curves or len(panels) <= COLUMNS]
        if any(panel.curves for panel in drawn):
            grid = [drawn[i : i + COLUMNS] for i in range(0, len(drawn), COLUMNS)]
            stem = study.place / "-".join(("curves", *filter(None, place)))
            note = f"{', '.join(filter(None, place))}. {' '.join(study.config.notes)}"
            written += save_panels(stem, grid, _points(study, rows, place, runs), note)
    return written


def _looks(rows: Sequence[Row], panels: Panels) -> dict[tuple[str, str], tuple[int, str]]:
    """(panel, row) -> its style and its name in the legend. A strategy looks alike in all panels; where each row has a
    panel of its own, a style says what it is there. The third style, which is black, is the control's."""
    by_name = {row.name: row for row in rows}
    alone = len(panels) > COLUMNS and not any(row.peft for row in rows)
    if alone:
        return {
            (panel, name): _ROLES[_role(by_name[name], panel, rows)]
            for panel, names in panels.items()
            for name in names
        }
    methods = dict.fromkeys(row.method for row in rows)
    black = next((row.method for row in rows if row.name == row.control), None)
    free = iter(i for i in range(len(methods) + 1) if i != BLACK)
    styles = {method: BLACK if method == black else next(free) for method in methods}
    return {
        (panel, name): (styles[by_name[name].method], by_name[name].label)
        for panel, names in panels.items()
        for name in names
    }


def _role(row: Row, panel: str, rows: Sequence[Row]) -> str:
    if any(other.control == row.name for other in rows) and row.label != panel:
        return "control"
    return "reference" if row.label != panel else "own"


_ROLES = {"control": (BLACK, "control"), "reference": (0, "ME with STAR"), "own": (1, "the panel's row")}


def save_panels(stem: Path, grid: Sequence[Sequence[Panel]], rows: Sequence[Sequence[object]], note: str) -> list[Path]:
    """Draw a grid of panels; returns STEM.png, STEM.pdf and STEM.csv. rows: dataset, row, label, method, seed,
    round, labels, accuracy of every point."""
    columns = max(len(line) for line in grid)
    header = ["dataset", "row", "label", "method", "seed", "round", "labels", "accuracy"]
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
        figure.text(0.005, 0.0, f"{note} {_BANDS}".strip(), fontsize=6.5, color=MUTED, va="bottom")
        figure.get_layout_engine().set(rect=(0, low, 1, 1 - low))

    return draw


def _fill(axes: Any, panel: Panel, title: str) -> None:
    for style, name, curve in panel.curves:
        _line(axes, style, name, curve)
    if panel.level is not None:
        axes.axhline(100 * panel.level, color=MUTED, linewidth=0.9, linestyle=(0, (1, 2)), label=MAJORITY)
    axes.set_title(title)
    axes.set_xlabel("labels")
    if not panel.curves:
        axes.text(0.5, 0.5, "no finished run", ha="center", va="center", color=MUTED, transform=axes.transAxes)
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


def _points(
    study: Study, rows: Mapping[str, Row], place: Place, runs: Mapping[str, Sequence[Result]]
) -> list[list[object]]:
    """Every point of every seed, as measured."""
    return [
        [place[0], name, row.label, one["tags"]["method"], one["tags"]["seed"], r, *point]
        for name, row in rows.items()
        for one in runs.get(study.runs.get((*place, name), ""), ())
        for r, point in enumerate(one["curve"])
    ]
