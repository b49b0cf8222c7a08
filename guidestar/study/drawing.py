"""Figures for paper: one drawing as PNG and PDF, and the numbers behind it as CSV. Their look: `report/style.py`."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from guidestar.report.style import render
from guidestar.store import files

COLUMN, PAGE = 3.4, 7.0  # inches: a figure of one column, and of the width of the text


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

    draw: is given an empty `matplotlib.figure.Figure` with constrained layout, in the settings of `report/style.py`. header,
    rows: what is drawn, in numbers; see `write_csv`. width, height: inches.
    Raises GuidestarError if matplotlib is not installed, StoreError if a file cannot be written.
    """
    images = render(draw, ["png", "pdf"], width=width, height=height, type_size=8)
    *drawn, table = (stem.with_name(f"{stem.name}.{kind}") for kind in (*images, "csv"))  # a name may hold dots
    for path, content in zip(drawn, images.values(), strict=True):
        files.write_bytes(path, content)
    return [*drawn, write_csv(table, header, rows)]


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    """Write `csv_text`."""
    files.write_bytes(path, csv_text(header, rows).encode())
    return path


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """CSV with one header line; numbers in full precision, None and NaN as empty cells."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _cell(value: object) -> object:
    """A NumPy number as the Python number it holds, so that its text is the shortest exact one."""
    item = value.item() if hasattr(value, "item") else value
    return "" if item is None or (isinstance(item, float) and math.isnan(item)) else item
