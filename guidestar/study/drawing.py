"""Figures for paper: one drawing as PNG and PDF, and the numbers behind it as CSV.

The look is for print: small type, colours that the colour-blind tell apart, and lines that differ by dashes and
markers too, so that a grey copy can be read. Equal drawings give equal bytes.
"""

from __future__ import annotations

import csv
import io
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from guidestar.errors import GuidestarError
from guidestar.store import files

COLUMN, PAGE = 3.4, 7.0  # inches: a figure of one column, and of the width of the text
DPI = 300

# Okabe and Ito 2008, in an order in which neighbours differ in lightness.
COLOURS = ("#0072B2", "#E69F00", "#000000", "#CC79A7", "#009E73", "#56B4E9", "#D55E00")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
MARKERS = "osD^vPX*"
GREY, GRID = "#6b6b6b", "#dddddd"

_SETTINGS = {
    "font.family": "sans-serif", "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "legend.fontsize": 7.5,
    "xtick.labelsize": 7.5, "ytick.labelsize": 7.5, "text.parse_math": False, "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6, "lines.linewidth": 1.4,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": GRID, "grid.linewidth": 0.5,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "legend.frameon": False, "legend.handlelength": 2.6,
    "pdf.fonttype": 42, "savefig.dpi": DPI, "savefig.facecolor": "white",
}  # fmt: skip


def look(i: int) -> dict[str, Any]:
    """Colour, dashes and marker of series i, for `Axes.plot`.

    >>> look(0)["color"], look(1)["marker"]
    ('#0072B2', 's')
    """
    return {
        "color": COLOURS[i % len(COLOURS)],
        "linestyle": DASHES[i % len(DASHES)],
        "marker": MARKERS[i % len(MARKERS)],
        "markersize": 3.5,
    }


def save_figure(
    stem: Path,
    draw: Callable[[Any], None],
    header: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    width: float = PAGE,
    height: float = 3.0,
) -> list[Path]:
    """Draw one figure and write STEM.png, STEM.pdf and STEM.csv, each whole or not at all.

    draw: is given an empty `matplotlib.figure.Figure` with constrained layout, in the house's settings. header,
    rows: what is drawn, in numbers; see `write_csv`. width, height: inches.
    Raises GuidestarError if matplotlib is not installed, StoreError if a file cannot be written.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise GuidestarError(
            "figures need matplotlib, which is not installed: pip install 'guidestar[report]'"
        ) from error
    images: dict[str, bytes] = {}
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **_SETTINGS}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a name in letters that the font lacks
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        for kind, unsaid in (
            ("png", {"Software": None}),
            ("pdf", {"Creator": None, "Producer": None, "CreationDate": None}),
        ):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, metadata=unsaid)
            images[kind] = buffer.getvalue()
    written = []
    for kind, content in images.items():
        path = _path(stem, kind)
        files.write_bytes(path, content)
        written.append(path)
    return [*written, write_csv(_path(stem, "csv"), header, rows)]


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    """A CSV file with one header line; numbers in full precision, None and NaN as empty cells."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_cell(value) for value in row] for row in rows)
    files.write_bytes(path, text.getvalue().encode())
    return path


def _path(stem: Path, kind: str) -> Path:
    return stem.with_name(f"{stem.name}.{kind}")  # a name may hold dots


def _cell(value: object) -> object:
    """A NumPy number as the Python number it holds, so that its text is the shortest exact one."""
    item = value.item() if hasattr(value, "item") else value
    return "" if item is None or (isinstance(item, float) and math.isnan(item)) else item
