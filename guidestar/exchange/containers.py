"""How records lie in files: JSON lines, one JSON array, CSV, Parquet, a folder of `datasets`."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

from guidestar.data.formats import read_each
from guidestar.data.textfile import suffix_of
from guidestar.errors import DataError, needed

Records = Iterable[Mapping[str, Any]]
# Writes records one by one into an open file. The mapping: column -> the name of ours that says its type, else it is a text.
Write = Callable[[Records, IO[bytes], Mapping[str, str]], None]

# A spreadsheet reads a cell as a formula if it begins with one of these, spaces before it or not.
_FORMULA = tuple("=+-@＝＋－＠")
_CONTROL = tuple("\t\r\n")
SAFE = "spreadsheet_safe"  # the column whose presence says that such cells carry an apostrophe
PART = 1024  # rows of a file that are held at once


@dataclass(frozen=True)
class Container:
    """A kind of file, or of folder, which `fill` writes. text: whether a terminal can show it."""

    write: Write | None
    fill: Callable[[Records, Path, Mapping[str, str]], None] | None = None
    text: bool = True


# --- writing ------------------------------------------------------------------------------------


def dumped(records: Sequence[Mapping[str, Any]], write: Write) -> bytes:
    """The content of a file with all of some records."""
    with io.BytesIO() as out:
        write(records, out, columns_in(records))
        return out.getvalue()


def columns_in(records: Records) -> dict[str, str]:
    """The columns of records of ours, each of the type of its name."""
    return {name: name for record in records for name in record}


def write_jsonl(records: Records, out: IO[bytes], columns: Mapping[str, str]) -> None:
    """One object a line."""
    out.writelines(f"{_json(record)}\n".encode() for record in records)


def write_json(records: Records, out: IO[bytes], columns: Mapping[str, str]) -> None:
    """One array, an object a line."""
    out.write(("[\n" + ",\n".join(map(_json, records)) + "\n]\n").encode())


def write_csv(records: Records, out: IO[bytes], columns: Mapping[str, str]) -> None:
    """A header and a line for each record; what is no text is written as JSON."""
    text = io.TextIOWrapper(out, encoding="utf-8", newline="")
    writer = csv.writer(text, lineterminator="\r\n")  # with "\n" alone Python leaves cells that hold "\r" unquoted
    writer.writerow(columns)
    writer.writerows([_text(record.get(name)) or "" for name in columns] for record in records)
    text.detach()


def write_safe_csv(records: Records, out: IO[bytes], columns: Mapping[str, str]) -> None:
    """CSV in which no cell is a formula, and which Excel takes for UTF-8; reading it gives the same cells back.

    A cell that a spreadsheet could take for a formula, or that begins with an apostrophe, gets an apostrophe in
    front. The column `spreadsheet_safe` says so to the reader.
    """
    safe = ({_guarded(k): _guarded(_text(v) or "") for k, v in record.items()} | {SAFE: "yes"} for record in records)
    out.write(codecs.BOM_UTF8)
    write_csv(safe, out, dict.fromkeys([*map(_guarded, columns), SAFE], ""))


def write_parquet(records: Records, out: IO[bytes], columns: Mapping[str, str]) -> None:
    """A Parquet file with nested columns."""
    schema, rows = _schema(columns), iter(records)
    with needed("pyarrow.parquet", "a .parquet file", "data", DataError).ParquetWriter(out, schema) as writer:
        while part := list(islice(rows, PART)):
            writer.write_table(_table(part, schema))


def fill_datasets(records: Records, folder: Path, columns: Mapping[str, str]) -> None:
    """What `save_to_disk` of `datasets` writes."""
    datasets = needed("datasets", "a folder of datasets", "data", DataError)
    quiet = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        datasets.Dataset(_table(records, _schema(columns))).save_to_disk(folder)
    finally:
        if not quiet:
            datasets.enable_progress_bars()


def _schema(columns: Mapping[str, str]) -> Any:
    pa = needed("pyarrow", "a .parquet file", "data", DataError)
    text, whole, real = pa.string(), pa.int64(), pa.float64()
    given = pa.struct({"annotator": text, "answer": text, "skip": text, "at": text})
    chance = pa.struct({"label": text, "probability": real})
    types = {
        "round": whole,
        "score": real,
        "probability": real,
        "answers": pa.list_(given),
        "verdict": given,
        "flags": pa.list_(text),
        "notes": pa.list_(pa.struct({"annotator": text, "text": text})),
        "suggestion": pa.struct({"answer": text, "round": whole, "probabilities": pa.list_(chance)}),
    }
    return pa.schema([(column, types.get(name, text)) for column, name in columns.items()])


def _table(records: Records, schema: Any) -> Any:
    """An Arrow table; in a column of texts all else is its JSON, for the rows of a file need not agree on a type."""
    pa = needed("pyarrow", "a .parquet file", "data", DataError)
    texts = {field.name for field in schema if field.type == pa.string()}
    rows = ({c: _text(r.get(c)) if c in texts else r.get(c) for c in schema.names} for r in records)
    return pa.Table.from_pylist(list(rows), schema=schema)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) or value is None else _json(value)


def _guarded(cell: str) -> str:
    formula = cell.startswith(("'", *_CONTROL)) or cell.lstrip().startswith(_FORMULA)
    return f"'{cell}" if formula else cell


CONTAINERS: dict[str, Container] = {
    "jsonl": Container(write_jsonl),
    "json": Container(write_json),
    "csv": Container(write_csv),
    "parquet": Container(write_parquet, text=False),
    "datasets": Container(None, fill_datasets, text=False),
}
ENDINGS = {".csv": "csv", ".jsonl": "jsonl", ".parquet": "parquet"}  # of the tables that are written -> container


def container_of(out: Path) -> str | None:
    """The container that the ending of a file's name says, in upper or lower case; None for one that is no table of ours."""
    return ENDINGS.get(out.suffix.lower())


# --- reading ------------------------------------------------------------------------------------


def load(path: Path) -> Iterator[tuple[str, Any]]:
    """The records of a file of any form that a pool may have, each with its place.

    Raises DataError if the file is missing, empty, of an unknown kind or damaged. Records that are damaged alone
    come as the error that names them, so that a caller can list all of them.
    """
    suffix = suffix_of(path)
    for row in read_each(str(path)):
        if isinstance(row, DataError):
            yield str(path), row
            continue
        values: dict[str, Any] = (
            row.plain() if suffix in (".json", ".jsonl") else {**row.values, **dict.fromkeys(row.nulls)}
        )
        if SAFE in values and suffix == ".csv":  # an apostrophe that `write_safe_csv` added is taken off
            values = {k.removeprefix("'"): v.removeprefix("'") for k, v in values.items() if k != SAFE}
        yield row.where, values
