"""How every figure looks, on the report's page, in its files and in a study's folder; equal drawings give equal bytes.

Series differ by colour, dashes and marker, so that a grey copy can be read and the colour-blind tell them apart. The
colours are Okabe and Ito's (2008), darkened where they are too pale for a line on white paper.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from guidestar.errors import GuidestarError, needed

COLOURS = ("#0072b2", "#d55e00", "#222222", "#009e73", "#b3559a", "#8c6d00")  # as in `page.css`
TEXT, MUTED, GRID = "#1b1f24", "#69727d", "#d9dde2"
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
MARKERS = "osD^vPX*"
DPI = 300


def look(i: int | None) -> dict[str, Any]:
    """Colour, dashes and marker of series i, for `Axes.plot`; None is a reference without a colour of its own.

    >>> look(0)["color"], look(1)["marker"]
    ('#0072b2', 's')
    """
    if i is None:
        return {"color": MUTED, "linestyle": "-", "marker": ".", "markersize": 3.5}
    colour, dashes, marker = (every[i % len(every)] for every in (COLOURS, DASHES, MARKERS))
    return {"color": colour, "linestyle": dashes, "marker": marker, "markersize": 3.5}


def render(
    draw: Callable[[Any], None], forms: Sequence[str], *, width: float, height: float, type_size: float
) -> dict[str, bytes]:
    """A figure in each of some formats, "png", "pdf" or "svg"; the last without a background.

    draw: is given an empty `matplotlib.figure.Figure` with constrained layout. width, height: inches. type_size: points.
    Raises GuidestarError if matplotlib is not installed.
    """
    matplotlib = needed("matplotlib", "a figure or chart", "report", GuidestarError)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    images = {}
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **_settings(type_size)}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a name in letters that the font lacks
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        for form in forms:
            buffer = io.BytesIO()
            unsaid = dict.fromkeys(_METADATA[form])
            figure.savefig(buffer, format=form, metadata=unsaid, transparent=form == "svg")
            images[form] = buffer.getvalue()
    return images


_METADATA = {  # left out: they differ from time to time or name the version
    "svg": ("Date", "Creator", "Format", "Type"),
    "pdf": ("Creator", "Producer", "CreationDate"),
    "png": ("Software",),
}


def _settings(size: float) -> dict[str, Any]:
    """matplotlib's settings. size: of the type, in points."""
    return {
        "font.family": "sans-serif", "font.size": size, "axes.titlesize": size, "axes.labelsize": size,
        "legend.fontsize": size - 0.5, "xtick.labelsize": size - 0.5, "ytick.labelsize": size - 0.5,
        "text.color": TEXT, "axes.labelcolor": TEXT, "axes.edgecolor": MUTED, "grid.color": GRID,
        "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelcolor": TEXT, "ytick.labelcolor": TEXT,
        "text.parse_math": False, "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False,
        "axes.linewidth": 0.6, "lines.linewidth": 1.5, "axes.grid": True, "axes.axisbelow": True, "grid.linewidth": 0.5,
        "xtick.major.width": 0.6, "ytick.major.width": 0.6, "legend.frameon": False, "legend.handlelength": 2.5,
        "hatch.color": GRID, "pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "guidestar",
        "savefig.dpi": DPI, "savefig.facecolor": "white",
    }  # fmt: skip
