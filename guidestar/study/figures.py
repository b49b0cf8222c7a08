"""Learning curves of a study, in the style of the paper's figures 1 and 5: PNG, PDF, and the data as CSV."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from guidestar.report.charts import Line, curve, mean_line
from guidestar.report.style import MUTED
from guidestar.study.compose import Row, Study
from guidestar.study.drawing import PAGE, save_figure
from guidestar.study.results import Result

MOST_LINES = 6  # of a panel; more are a tangle
MOST_TICKS = 6
COLUMNS = 3
MAJORITY = "majority class"
BLACK = 2  # the style in black, which is the control's
REFERENCE = "me-star"  # the row that stands in every panel of a study of many rows, where there is one

_BANDS = "Bands: ± a standard deviation over the seeds."

Panels = Mapping[str, Sequence[str]]
Panel = tuple[str, list[Line]]  # its title, and its curves


def curve_of(results: Sequence[Result], name: str = "", style: int = 0) -> Line | None:
    """The mean learning curve of one row, ± a standard deviation, over the seeds that are as long as the longest; None
    without any."""
    longest = max((len(one.curve) for one in results), default=0)
    whole = [one.curve for one in results if len(one.curve) == longest]
    if not longest:
        return None
    return mean_line(name, whole, style, _deviation if len(whole) > 1 else None)


def _deviation(values: Sequence[float]) -> tuple[float, float]:
    mean, sd = statistics.fmean(values), statistics.stdev(values)
    return max(mean - sd, 0.0), min(mean + sd, 1.0)


def panels_of(rows: Sequence[Row], given: Panels) -> Panels:
    """Which rows share a pair of axes: those given; those of one adapter; all where they are few; else each beside its
    control and the reference."""
    if given:
        return given
    if rows and rows[0].peft:
        pefts = dict.fromkeys(row.peft for row in rows)
        return {peft: [row.name for row in rows if row.peft == peft] for peft in pefts}
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
    written: list[Path] = []
    for place in dict.fromkeys(one.place for one in results):
        runs: dict[str, list[Result]] = {}
        for one in results:
            if one.place == place and one.curve:
                runs.setdefault(one.row, []).append(one)
        of_row = {row.name: runs.get(study.runs.get((*place, row.name), ""), []) for row in study.rows}
        drawn: list[Panel] = []
        for title, names in panels.items():
            curves = (curve_of(of_row[name], *looks[title, name]) for name in names)
            drawn.append((title, [curve for curve in curves if curve]))
        drawn = [panel for panel in drawn if panel[1] or len(panels) <= COLUMNS]
        if not any(curves for _, curves in drawn):
            continue
        points = [
            [place[0], row.name, row.label, one.method, one.seed, r, *point]
            for row in study.rows
            for one in of_row[row.name]
            for r, point in enumerate(one.curve)
        ]
        majorities = (one.data.get("majority") for some in runs.values() for one in some)
        level = next((majority["share"] for majority in majorities if majority), None)
        note = f"{', '.join(filter(None, place))}. {' '.join(study.config.notes)} {_BANDS}".strip()
        lines, named = -(-len(drawn) // COLUMNS), len({curve.name for _, curves in drawn for curve in curves}) + 1
        written += save_figure(
            study.place / "-".join(("curves", *filter(None, place))), _drawer(drawn, level, note),
            ["dataset", "row", "label", "method", "seed", "round", "labels", "accuracy"], points,
            width=PAGE if len(drawn) > 1 else 4.2, height=0.45 + 2.25 * lines + 0.16 * -(-named // 3),
        )  # fmt: skip
    return written


def _looks(rows: Sequence[Row], panels: Panels) -> dict[tuple[str, str], tuple[str, int]]:
    """(panel, row) -> its name in the legend and its style. A strategy looks alike in all panels; where each row has a
    panel of its own, a style says what it is there. The third style, which is black, is the control's."""
    by_name = {row.name: row for row in rows}
    places = [(panel, name) for panel, names in panels.items() for name in names]
    if len(panels) > COLUMNS and not any(row.peft for row in rows):
        controls = {row.control for row in rows}
        others = {name: ("control", BLACK) if name in controls else ("ME with STAR", 0) for _, name in places}
        return {
            (panel, name): ("the panel's row", 1) if by_name[name].label == panel else others[name]
            for panel, name in places
        }
    methods = dict.fromkeys(row.method for row in rows)
    black = next((row.method for row in rows if row.name == row.control), None)
    free = iter(i for i in range(len(methods) + 1) if i != BLACK)
    styles = {method: BLACK if method == black else next(free) for method in methods}
    return {(panel, name): (by_name[name].label, styles[by_name[name].method]) for panel, name in places}


def _drawer(panels: Sequence[Panel], level: float | None, note: str) -> Callable[[Any], None]:
    """Panels with one scale of accuracy, a legend above and a note below. level: the majority baseline."""
    columns = min(COLUMNS, len(panels))

    def draw(figure: Any) -> None:
        from matplotlib.ticker import MaxNLocator

        for i, (title, curves) in enumerate(panels):
            first = figure.axes[0] if figure.axes else None
            axes = figure.add_subplot(-(-len(panels) // columns), columns, i + 1, sharey=first)
            levels = {} if level is None else {MAJORITY: level}
            curve(curves, levels, "" if i % columns else "accuracy").draw(axes)
            axes.set_title(textwrap.fill(title, 36 if columns > 1 else 60))
            if not curves:
                axes.text(0.5, 0.5, "no finished run", ha="center", va="center", color=MUTED, transform=axes.transAxes)
            elif len(curves[0].x) > MOST_TICKS:
                axes.xaxis.set_major_locator(MaxNLocator(MOST_TICKS, integer=True))
        _legend(figure, columns)
        low = 0.18 / figure.get_figheight()
        figure.text(0.005, 0.0, note, fontsize=6.5, color=MUTED, va="bottom")
        figure.get_layout_engine().set(rect=(0, low, 1, 1 - low))

    return draw


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
