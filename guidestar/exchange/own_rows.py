"""A user's own rows back: all their columns in their order, blank rows included, with what is known of each beside them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from guidestar.config import RunConfig
from guidestar.data.presets import apply_preset
from guidestar.data.stream import parts_of, survey
from guidestar.errors import ConfigError, DataError, allowed
from guidestar.exchange.containers import INSTALL, load
from guidestar.records import Label, Skip
from guidestar.store import Store, files, find_run

Rows = Iterable[Mapping[str, Any]]
PART = 1024  # rows of a file that are held at once
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


def labelled_rows(
    run: Path, config: RunConfig, source: str | None = None
) -> tuple[list[str], Iterator[dict[str, Any]]]:
    """(columns, rows) of a data file with the answer that counts of each, who gave it, the reason of a skip, and the round.

    source: the file; None is the pool. Raises ConfigError without one, DataError for a row that cannot be used.
    """
    source = source or apply_preset(config.data, config.task)[0].pool
    if source is None:
        raise ConfigError("the configuration names no data.pool; give the file whose rows are wanted")
    found = survey(source, blank_rows_kept(config), lambda answer, where: None)
    with Store.open(find_run(run)) as store:
        answers = store.annotations.answers()
        rounds = {pick.id: r for r in range(store.rounds()) for pick in store.query(r).picks}
    names = beside(found.columns, LABELLED)

    def rows() -> Iterator[dict[str, Any]]:
        for part in parts_of(found, PART):
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

    return [*found.columns, *names.values()], rows()


# --- files ----------------------------------------------------------------------------------------


def write_rows(columns: Sequence[str], rows: Rows, out: Path, names: Iterable[str], source: object = None) -> int:
    """Write rows one by one as .csv, .jsonl or .parquet, by the extension; returns how many.

    The file appears when it is complete. names: what this package puts beside a user's columns; a file without these that
    lies at `out` is not written over, nor the source of the rows, if that is a file. Raises ConfigError for another extension, and where something else lies there.
    """
    if out.suffix not in WRITERS:
        raise ConfigError(f"--out {out}: found the extension {out.suffix!r}; {allowed(WRITERS, out.suffix)}")
    read = Path(source).expanduser() if isinstance(source, str) else None
    if read is not None and read.exists() and out.exists() and out.samefile(read):
        raise ConfigError(f"--out {out}: is the file that is read; choose another name")
    files.check_output(out, lambda path: _is_ours(path, names), "a table")
    count = 0
    with files.replacing(out) as part, ExitStack() as stack:
        write = WRITERS[out.suffix](stack, part, columns)
        for row in rows:
            write(row)
            count += 1
    return count


def _is_ours(path: Path, names: Iterable[str]) -> bool:
    try:
        record = next((value for _, value in load(path)), None)
    except DataError:
        return False
    return isinstance(record, dict) and all(name in record or f"guidestar_{name}" in record for name in names)


def csv_writer(file: IO[str], columns: Sequence[str]) -> Callable[[Mapping[str, Any]], object]:
    """Writes the header now and a line for each row it is called with."""
    writer = csv.writer(file, lineterminator="\r\n")
    writer.writerow(columns)
    return lambda row: writer.writerow([_text(row.get(column)) or "" for column in columns])


def json_line(row: Mapping[str, Any]) -> str:
    """One object as a line."""
    return json.dumps(row, ensure_ascii=False, default=str)


def _csv(stack: ExitStack, path: Path, columns: Sequence[str]) -> Callable[[Mapping[str, Any]], object]:
    return csv_writer(stack.enter_context(path.open("w", encoding="utf-8", newline="")), columns)


def _jsonl(stack: ExitStack, path: Path, columns: Sequence[str]) -> Callable[[Mapping[str, Any]], object]:
    file = stack.enter_context(path.open("w", encoding="utf-8"))
    return lambda row: file.write(json_line(row) + "\n")


def _parquet(stack: ExitStack, path: Path, columns: Sequence[str]) -> Callable[[Mapping[str, Any]], object]:
    """Texts, but for numbers that this package gives: a file's own rows need not agree on a type."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(f"{path}: Parquet files need pyarrow; {INSTALL}") from error
    kinds = {"probability": pa.float64(), "round": pa.int64()}
    schema = pa.schema([(name, kinds.get(name.removeprefix("guidestar_"), pa.string())) for name in columns])
    kept: list[dict[str, Any]] = []
    writer = stack.enter_context(parquet.ParquetWriter(path, schema))

    def flush() -> None:
        if kept:
            writer.write_table(pa.Table.from_pylist(kept, schema=schema))
            kept.clear()

    def write(row: Mapping[str, Any]) -> None:
        own = {field.name: row.get(field.name) for field in schema}
        kept.append({c: v if schema.field(c).type != pa.string() else _text(v) for c, v in own.items()})
        if len(kept) == PART:
            flush()

    stack.callback(flush)
    return write


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) or value is None else json_line(value)


WRITERS: dict[str, Callable[[ExitStack, Path, Sequence[str]], Callable[[Mapping[str, Any]], object]]] = {
    ".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet,
}  # fmt: skip
