"""Charts as inline SVG or as files, each with its numbers: readable on light and dark paper, the same bytes every time.

matplotlib draws with the colours of light paper. On the page they are replaced by the page's own (`currentColor`, CSS
variables), so that one drawing follows the reader's light or dark setting; in a file they stay.
"""

from __future__ import annotations

import itertools
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from guidestar.metrics.scores import Reliability
from guidestar.report.style import COLOURS, GRID, MUTED, TEXT, look, render
from guidestar.store import files
from guidestar.words import shortened

_CSS = {TEXT: "currentColor", GRID: "var(--grid)", MUTED: "var(--muted)"}
_CSS |= {colour: f"var(--series-{i})" for i, colour in enumerate(COLOURS)}
_MOST_TICKS = 10  # on the axis of labels; with more points the axis chooses
_WIDTH = 5.0  # inches, 360 units of the drawing: a phone shows it at its own size
FORMATS = ("pdf", "png")  # of files

Row = Sequence[object]


@dataclass(frozen=True)
class Drawing:
    """What is to be drawn, before it is known on what. draw: takes matplotlib's axes. height: inches, without the legend.
    legend: how many entries it has."""

    draw: Callable[[Any], None]
    height: float
    legend: int


@dataclass(frozen=True)
class Chart:
    """A drawing and the numbers behind it."""

    title: str
    caption: str
    drawing: Drawing
    header: Row
    rows: Sequence[Row]

    @property
    def svg(self) -> str:
        """Markup that is safe to insert."""
        return svg(self.drawing, self.title)


@dataclass(frozen=True)
class Line:
    """One series of points. style: index of its look; None is a reference without colour. band: (low, high) of each point."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: int | None
    band: Sequence[tuple[float, float]] | None = None


def mean_line(
    name: str,
    curves: Iterable[Sequence[Sequence[float]]],
    style: int,
    band: Callable[[Sequence[float]], tuple[float, float]] | None,
) -> Line:
    """The mean of (labels, accuracy) curves at every number of labels. band: (low, high) of the values there."""
    values: dict[float, list[float]] = {}
    for x, y in itertools.chain.from_iterable(curves):
        values.setdefault(x, []).append(y)
    at = sorted(values)
    ends = None if band is None else [band(values[x]) for x in at]
    return Line(name, at, [statistics.fmean(values[x]) for x in at], style, ends)


def curve(
    lines: Sequence[Line], levels: Mapping[str, float], ylabel: str = "accuracy on the test set", xlabel: str = "labels"
) -> Drawing:
    """A value against labels, by default accuracy. levels: names and heights of horizontal reference lines. xlabel: what
    it is drawn against; other things than labels need not be whole."""

    def draw(axes: Any) -> None:
        for line in lines:
            style = look(line.style)
            axes.plot(line.x, line.y, label=line.name, **style)
            if line.band is not None:
                axes.fill_between(line.x, *zip(*line.band, strict=True), color=style["color"], alpha=0.18, linewidth=0)
        for (name, height), dashes in zip(levels.items(), [(0, (4, 2)), (0, (1, 1.5))], strict=False):
            axes.axhline(height, color=MUTED, linestyle=dashes, linewidth=1.2, label=name)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        if xlabel != "labels":
            return
        axes.xaxis.get_major_locator().set_params(integer=True)
        measured = sorted({x for line in lines for x in line.x})
        if len(measured) <= _MOST_TICKS:
            axes.set_xticks(_apart(measured))

    return Drawing(draw, 3.3, len(lines) + len(levels))


def calibration(curves: Sequence[tuple[str, Reliability, int | None]]) -> Drawing:
    """Accuracy against confidence, with the diagonal of perfect calibration.

    The larger a point, the more examples are in its bin; empty bins are left out.
    """

    def draw(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (1, 1.5)), label="perfectly calibrated")
        for name, curve, style in curves:
            some = curve.count > 0
            shape = look(style) | {"markersize": 0, "linewidth": 1}
            axes.plot(curve.confidence[some], curve.accuracy[some], label=name, **shape)
            areas = 120 * curve.count[some] / curve.count.sum()
            points = {"s": np.maximum(areas, 3), "color": shape["color"], "marker": shape["marker"]}
            axes.scatter(curve.confidence[some], curve.accuracy[some], linewidths=0, **points)
        axes.set_xlim(0, 1.03)
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlabel("confidence of the answer")
        axes.set_ylabel("accuracy")

    return Drawing(draw, 3.3, len(curves) + 1)


def shares(
    names: Sequence[str], whole: tuple[str, Sequence[float]], parts: Sequence[tuple[str, Sequence[float]]]
) -> Drawing:
    """One row for each name: a bar for its share of the whole, a point for its share of each part.

    whole, parts: (legend, share of each name).
    """

    def draw(axes: Any) -> None:
        axes.barh(range(len(names)), whole[1], height=0.62, color=MUTED, alpha=0.45, label=whole[0])
        for i, (label, each) in enumerate(parts):
            shape = look(i) | {"linestyle": "", "markersize": 5.5, "clip_on": False}
            at = np.arange(len(names)) + 0.5 * ((i + 0.5) / len(parts) - 0.5)  # equal shares stay apart
            axes.plot(each, at, label=label, **shape)
        axes.set_yticks(range(len(names)), [shortened(name, 22, 9) for name in names])
        axes.invert_yaxis()
        axes.set_xlim(left=0)
        axes.set_xlabel("share")

    return Drawing(draw, 1.0 + 0.24 * len(names), 1 + len(parts))


def _apart(ticks: Sequence[float]) -> list[float]:
    """Without those whose numbers would run into the last one's: nearer than a twentieth of the axis."""
    kept = [ticks[-1]] if ticks else []
    for tick in reversed(ticks[:-1]):
        if kept[-1] - tick >= (ticks[-1] - ticks[0]) / 20:
            kept.append(tick)
    return kept[::-1]


# --- the drawing ----------------------------------------------------------------------------------


def save(chart: Chart, path: Path) -> None:
    """Write a chart on white paper; the suffix says the format, one of `FORMATS`."""
    files.write_bytes(path, _rendered(chart.drawing, path.suffix.removeprefix(".")))


def _rendered(drawing: Drawing, form: str) -> bytes:
    columns = 2
    above = 0.21 * -(-drawing.legend // columns)  # the legend stands above the axes and hides no point

    def draw(figure: Any) -> None:
        drawing.draw(figure.add_subplot())
        figure.legend(loc="outside upper left", ncols=columns, borderaxespad=0.2)

    return render(draw, [form], width=_WIDTH, height=drawing.height + above, type_size=9)[form]


def svg(drawing: Drawing, title: str) -> str:
    """A drawing as an element of an HTML page, which gives its colours and its font; ids are its own."""
    file = _rendered(drawing, "svg").decode()
    body = file[file.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>\s*", "", body, flags=re.DOTALL)
    body = re.sub(r'<style type="text/css">.*?</style>', "", body, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->\s*", "", body, flags=re.DOTALL)
    body = re.sub(r"<svg [^>]*?(viewBox=\"[^\"]*\")[^>]*>", rf'<svg role="img" aria-label="{title}" \1>', body, count=1)
    body = body.replace("xlink:href", "href")
    for colour, css in _CSS.items():
        body = body.replace(colour, css)
    body = re.sub(r"font: ([0-9.]+px)[^;\"]*", r"font-size: \1", body)
    own = re.sub(r"[^a-z]+", "-", title.lower())
    return re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{own}-", body)
