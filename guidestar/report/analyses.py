"""What `guidestar probe` found in the runs of a report: its sentences, pictures and tables, read from `probes/`."""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from guidestar.store import runs_in

FOLDER = "probes"  # in the run's folder
MOST_PICTURES = 12  # in one page: each is some 100 kB
MOST_ROWS = 60  # of a table in the page
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Analysis:
    """One probe of one run. pictures: data URIs and widths in CSS pixels. header, rows: of its table, as text. more: what is not on the page."""

    run: str
    probe: str
    sentences: Sequence[str]
    pictures: Sequence[tuple[str, int]]
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    more: Sequence[str]


def analyses(folder: Path) -> list[Analysis]:
    """The probes of a run folder, or of all runs of an experiment folder, by run and name; empty if none was made.

    A file that cannot be read is said to be so, since it can be made again.
    """
    probes: list[Analysis] = []
    shown = 0
    for place in runs_in(folder):
        for file in sorted((place / FOLDER).glob("*.json")):
            probes.append(_read(place, file, MOST_PICTURES - shown))
            shown += len(probes[-1].pictures)
    return probes


def _read(place: Path, file: Path, room: int) -> Analysis:
    name = file.stem
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
        sentences = [str(line) for line in facts["sentences"]]
        pictures = [_picture(path) for path in sorted(file.parent.glob(f"{name}[.-]*")) if path.suffix == ".png"]
        header, rows = _table(file.with_suffix(".csv"))
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        line = f"{FOLDER}/{file.name} or a file beside it cannot be read; guidestar probe {place.name} {name} makes it again."
        return Analysis(place.resolve().name, name, [line], [], [], [], [])
    more = []
    if len(pictures) > room:
        more.append(f"A page holds at most {MOST_PICTURES} such pictures; the others lie in {place.name}/{FOLDER}.")
    if len(rows) > MOST_ROWS:
        more.append(f"The first {MOST_ROWS} of {len(rows)} rows; all are in {place.name}/{FOLDER}/{name}.csv.")
    return Analysis(place.resolve().name, name, sentences, pictures[:room], header, rows[:MOST_ROWS], more)


def _table(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a CSV file with its numbers shortened; nothing if there is none."""
    if not path.exists():
        return [], []
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    return header, [[_short(cell) for cell in row] for row in rows]


def _short(cell: str) -> str:
    """A number with four digits, other text as it is, – for nothing.

    >>> [_short(cell) for cell in ("0.72123015", "200000", "star", "")]
    ['0.7212', '200000', 'star', '–']
    """
    if not cell:
        return "–"
    try:
        number = float(cell)
    except ValueError:
        return cell
    return cell if cell.lstrip("-").isdigit() else f"{number:.4g}"


def _picture(path: Path) -> tuple[str, int]:
    """A PNG file inside the page, which loads nothing from elsewhere, and the width to show it in: a third of its own, as
    figures have 300 dots an inch. Raises ValueError if it is none."""
    content = path.read_bytes()
    if not content.startswith(_PNG):
        raise ValueError(f"{path}: not a PNG file")
    width = int.from_bytes(content[16:20], "big")  # of the header, which comes first
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii"), max(1, width // 3)
