"""What a notebook shows of runs: the answer, its curve and its table, in the page's own words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from guidestar.errors import GuidestarError, needed
from guidestar.metrics.statistics import LEVEL
from guidestar.records import Label, Skip
from guidestar.report import pictures
from guidestar.report.answer import answer, read_all, score_rows
from guidestar.report.charts import svg
from guidestar.report.compare import compared
from guidestar.report.facts import plain
from guidestar.report.read import path_of, read_runs
from guidestar.report.style import COLOURS, GRID, MUTED
from guidestar.report.summary import summarise

_COLOURS = ";".join([f"--grid:{GRID}", f"--muted:{MUTED}", *(f"--series-{i}:{c}" for i, c in enumerate(COLOURS))])


class Shown(dict[str, Any]):
    """Facts that are JSON-able, and that a notebook shows as the answer of the folders that they are about."""

    def __init__(self, facts: Mapping[str, Any], folders: Sequence[Path]) -> None:
        super().__init__(facts)
        self._folders = folders

    def _repr_html_(self) -> str:
        return "".join(map(html_of, self._folders))


def summary(folder: Path | str) -> Shown:
    """The experiment in `folder` as JSON-able data; the keys are the fields of `facts.Summary` and of the records in it.

    Raises GuidestarError if there is no run, StoreError if one cannot be read.
    """
    place = path_of(folder, "the folder of a run or an experiment")
    return Shown(plain(summarise(place, read_runs(place))), [place])


def compare(
    folders: Path | str | Sequence[Path | str],
    *,
    control: str | None = None,
    target: float | None = None,
    level: float = LEVEL,
) -> Shown:
    """`compared` as JSON-able data, for one folder or several; the keys are the fields of `Comparisons` and of the records
    in it. Raises as `compared` does."""
    given = [folders] if isinstance(folders, (str, Path)) or not isinstance(folders, Iterable) else list(folders)
    places = [path_of(folder, "the folder of an experiment") for folder in given]
    comparisons = compared(places, control=control, target=target, level=level)
    return Shown(plain(comparisons), [Path(data.folder) for data in comparisons.datasets])


def html_of(folder: Path) -> str:
    """The answer about the runs of a folder as an element of a page; without the curve where matplotlib is missing.

    Raises GuidestarError if there is no run.
    """
    known = read_all(folder)
    said, curve = answer(known), pictures.learning_curve(known.facts.runs, known.facts)
    try:
        drawing = svg(curve.drawing, f"Learning curve of {known.facts.name}") if curve else ""
    except GuidestarError:
        drawing = ""
    header = ("", "labels", "accuracy (95 % interval)", "cost of a run")
    rows = [header, *score_rows(said)] if said.scores else []
    cells = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    lines = "".join(f"<p>{escape(line)}</p>" for line in said.cautions)
    return (
        f'<div class="guidestar" style="max-width:36rem;{_COLOURS}"><p><b>{escape(said.sentence)}</b></p>{lines}{drawing}'
        f"<table>{cells}</table></div>"
    )


def frame_of(folder: Path) -> Any:
    """A pandas DataFrame with a row for each example that the run of a folder asked for, in that order.

    Columns: the example's fields; "id", "round", "score" (NaN at random), "label" and "annotator" (None while it waits),
    "skipped" (the reason), "said" (what a model that had not seen the label answered). A field with one of these names
    has "field_" before it. Raises GuidestarError if pandas is not installed.
    """
    pd = needed("pandas", "a data frame", error=GuidestarError)
    run = read_runs(folder)[0]
    rows = []
    for query in run.queries:
        for pick in query.picks:
            answered, said = run.answers.get(pick.id), run.unseen.get(pick.id)
            given = answered.answer if isinstance(answered, Label) else None
            own = {
                "id": pick.id, "round": query.round, "score": pick.score, "label": given,
                "annotator": answered.annotator if answered else None,
                "skipped": answered.reason if isinstance(answered, Skip) else None,
                "said": said.answer if said else None,
            }  # fmt: skip
            fields = run.examples[pick.id].fields.items()
            rows.append({f"field_{name}" if name in own else name: text for name, text in fields} | own)
    return pd.DataFrame(rows)
