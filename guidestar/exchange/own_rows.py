"""A user's own rows back: all their columns in their order, blank rows included, with what is known of each beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from guidestar.config import RunConfig
from guidestar.data.presets import apply_preset
from guidestar.data.stream import parts_of, survey
from guidestar.errors import ConfigError, DataError, allowed
from guidestar.exchange.containers import CONTAINERS, ENDINGS, PART, Records, container_of, load
from guidestar.records import Label, Skip
from guidestar.store import Store, files, find_run

LABELLED = ("answer", "annotator", "skipped", "round")
PREDICTED = ("answer", "probability", "error")


def beside(columns: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """Name -> under which it stands beside a user's columns: itself, or "guidestar_" before it where that is taken.

    >>> beside(["id", "answer"], ["answer", "error"])
    {'answer': 'guidestar_answer', 'error': 'error'}
    """
    return {name: f"guidestar_{name}" if name in columns else name for name in names}


def blank_rows_kept(config: RunConfig) -> RunConfig:
    """The configuration under which a blank row is one without an example, and no mistake."""
    return config.model_copy(update={"data": config.data.model_copy(update={"blank": "drop"})})


def labelled_rows(run: Path, config: RunConfig, source: str | None = None) -> tuple[list[str], Records]:
    """(columns, rows) of a data file with the answer that counts of each, who gave it, the reason of a skip, and the round.

    source: the file; None is the pool. Raises ConfigError without one, DataError for a row that cannot be used.
    """
    source = source or apply_preset(config.data, config.task)[0].pool
    if source is None:
        raise ConfigError("the configuration names no data.pool; give the file whose rows are wanted")
    surveyed = survey(source, blank_rows_kept(config), lambda answer, where: None)
    with Store.open(find_run(run)) as store:
        answers = store.annotations.answers()
        rounds = {pick.id: r for r in range(store.rounds()) for pick in store.query(r).picks}
    names = beside(surveyed.columns, LABELLED)

    def rows() -> Iterator[dict[str, Any]]:
        for part in parts_of(surveyed, PART):
            for row, place in part.rows:
                id = None if place is None else part.examples[place].id
                given = answers.get(id or "")
                known = {
                    "answer": given.answer if isinstance(given, Label) else None,
                    "annotator": given.annotator if given else None,
                    "skipped": given.reason or "yes" if isinstance(given, Skip) else None,
                    "round": rounds.get(id or ""),
                }
                yield row.plain() | {names[name]: value for name, value in known.items()}

    return [*surveyed.columns, *names.values()], rows()


# --- files ----------------------------------------------------------------------------------------


def write_rows(columns: Sequence[str], rows: Records, out: Path, names: Iterable[str], source: object = None) -> int:
    """Write rows one by one as .csv, .jsonl or .parquet, by the ending of the name; returns how many.

    The file appears when it is complete. names: what this package puts beside a user's columns; a file without these that
    lies at `out` is not written over, nor the source of the rows, if that is a file. Raises ConfigError for another extension, and where something else lies there.
    """
    write = CONTAINERS[kind].write if (kind := container_of(out)) else None
    if write is None:
        raise ConfigError(f"--out {out}: found the extension {out.suffix!r}; {allowed(ENDINGS, out.suffix)}")
    read = Path(source).expanduser() if isinstance(source, str) else None
    if read is not None and read.exists() and out.exists() and out.samefile(read):
        raise ConfigError(f"--out {out}: is the file that is read; choose another name")
    files.check_output(out, lambda path: _is_ours(path, names), "a table")
    ours = {f"guidestar_{name}" if f"guidestar_{name}" in columns else name: name for name in names}
    written = 0

    def counted() -> Iterator[Mapping[str, Any]]:
        nonlocal written
        for written, row in enumerate(rows, 1):  # noqa: B007 - it is the number of rows in the end
            yield row

    with files.replacing(out) as part, part.open("wb") as file:
        write(counted(), file, {column: ours.get(column, "") for column in columns})
    return written


def _is_ours(path: Path, names: Iterable[str]) -> bool:
    try:
        record = next((value for _, value in load(path)), None)
    except DataError:
        return False
    return isinstance(record, dict) and all(name in record or f"guidestar_{name}" in record for name in names)
