"""How records lie in files: JSON lines, one JSON array, CSV, Parquet, a folder of `datasets`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guidestar.data import formats
from guidestar.data.textfile import parse_json
from guidestar.errors import DataError, allowed

Placed = Iterator[tuple[str, Any]]  # (file and line, what stands there)
Records = list[dict[str, Any]]

# A spreadsheet reads a cell as a formula if it begins with one of these, spaces before it or not.
_FORMULA = tuple("=+-@＝＋－＠")
_CONTROL = tuple("\t\r\n")
SAFE = "spreadsheet_safe"  # the column whose presence says that such cells carry an apostrophe
INSTALL = "install it with: pip install 'guidestar[data]'"


@dataclass(frozen=True)
class Container:
    """A kind of file. dump: its bytes; None for a folder, which `fill` writes. text: whether a terminal can show it."""

    suffix: str
    dump: Callable[[Records], bytes] | None
    fill: Callable[[Records, Path], None] | None = None
    text: bool = True


# --- writing ------------------------------------------------------------------------------------


def dump_jsonl(records: Records) -> bytes:
    """One object a line."""
    return "".join(f"{_json(record)}\n" for record in records).encode()


def dump_json(records: Records) -> bytes:
    """One array, an object a line."""
    return ("[\n" + ",\n".join(map(_json, records)) + "\n]\n").encode()


def dump_csv(records: Records) -> bytes:
    """A header and a line for each record; values are texts or None."""
    names = list(dict.fromkeys(name for record in records for name in record))
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\r\n")  # with "\n" alone Python leaves cells that hold "\r" unquoted
    writer.writerow(names)
    writer.writerows([_cell(record.get(name)) for name in names] for record in records)
    return out.getvalue().encode()


def dump_safe_csv(records: Records) -> bytes:
    """CSV in which no cell is a formula, and which Excel takes for UTF-8; reading it gives the same cells back.

    A cell that a spreadsheet could take for a formula, or that begins with an apostrophe, gets an apostrophe in
    front. The column `spreadsheet_safe` says so to the reader.
    """
    safe = [{_guarded(k): _guarded(_cell(v)) for k, v in {**record, SAFE: "yes"}.items()} for record in records]
    return b"\xef\xbb\xbf" + dump_csv(safe)


def dump_parquet(records: Records) -> bytes:
    """A Parquet file with nested columns."""
    pyarrow = _import("pyarrow")
    from pyarrow import parquet

    out = pyarrow.BufferOutputStream()
    parquet.write_table(_table(pyarrow, records), out)
    return bytes(out.getvalue().to_pybytes())


def fill_datasets(records: Records, folder: Path) -> None:
    """What `save_to_disk` of `datasets` writes."""
    datasets, pyarrow = _import("datasets"), _import("pyarrow")
    quiet = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        datasets.Dataset(_table(pyarrow, records)).save_to_disk(folder)
    finally:
        if not quiet:
            datasets.enable_progress_bars()


def _table(pyarrow: Any, records: Records) -> Any:
    """An Arrow table; columns that are none of ours are texts."""
    text, whole = pyarrow.string(), pyarrow.int64()

    def struct(**types: Any) -> Any:
        return pyarrow.struct(list(types.items()))

    given = struct(annotator=text, answer=text, skip=text, at=text)
    chance = struct(label=text, probability=pyarrow.float64())
    types = {
        "round": whole,
        "score": pyarrow.float64(),
        "answers": pyarrow.list_(given),
        "verdict": given,
        "flags": pyarrow.list_(text),
        "notes": pyarrow.list_(struct(annotator=text, text=text)),
        "suggestion": struct(answer=text, round=whole, probabilities=pyarrow.list_(chance)),
    }
    names = dict.fromkeys(name for record in records for name in record)
    return pyarrow.Table.from_pylist(records, pyarrow.schema([(name, types.get(name, text)) for name in names]))


def _import(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DataError(f"this format needs the package {name}; {INSTALL}") from error


def _json(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False)


def _cell(value: Any) -> str:
    return "" if value is None else str(value)


def _guarded(cell: str) -> str:
    formula = cell.startswith(("'", *_CONTROL)) or cell.lstrip().startswith(_FORMULA)
    return f"'{cell}" if formula else cell


# --- reading ------------------------------------------------------------------------------------


def load(path: Path) -> Placed:
    """The records of a file, each with its place.

    Raises DataError if the file is missing, empty, of an unknown kind or damaged. Records that are damaged alone
    come as the error that names them, so that a caller can list all of them.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if path.is_dir():
        return _rows(path)
    suffix = path.suffix.lower()
    if suffix not in LOADERS:
        raise DataError(f"{path}: found the extension {suffix!r}; {allowed(LOADERS, suffix)}, or a folder of datasets")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty")
    return LOADERS[suffix](path)


def _jsonl(path: Path) -> Placed:
    with _reading(path), path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            where = f"{path} line {number}"
            try:
                line = _decoded(raw, where)
                if line.strip():
                    yield where, _checked(parse_json(line, where), where)
            except DataError as error:
                yield where, error


def _array(path: Path) -> Placed:
    """The elements of a JSON array; an object alone is an array of one."""
    with _reading(path):
        value = parse_json(_decoded(path.read_bytes(), str(path)), str(path))
    for number, item in enumerate(value if isinstance(value, list) else [value], 1):
        where = f"{path} item {number}"
        yield where, _checked(item, where)


def _checked(value: Any, where: str) -> Any:
    """The record, or the error that says what is wrong with it."""
    if not isinstance(value, dict):
        kinds = {list: "an array", str: "a string", bool: "a truth value", type(None): "null"}
        return DataError(f"{where}: found {kinds.get(type(value), 'a number')}, expected an object {{…}}")
    try:
        _json(value).encode()
    except UnicodeEncodeError as error:
        half = ord(error.object[error.start])
        return DataError(f"{where}: holds half of a character (\\u{half:x}), which cannot be stored")
    return value


def _decoded(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start)
        place = f"{where} line {line + 1}" if line else where
        raise DataError(
            f"{place}: found the byte 0x{raw[error.start]:02x}, which is not UTF-8; save the file as UTF-8"
        ) from error


def _rows(path: Path) -> Placed:
    """CSV, Parquet and folders, as pools are read; an apostrophe that `dump_safe_csv` added is taken off."""
    for row in formats.read_rows(str(path)):
        values: dict[str, Any] = {**row.values, **dict.fromkeys(row.nulls)}
        if SAFE in values and path.suffix.lower() == ".csv":
            values = {k.removeprefix("'"): v.removeprefix("'") for k, v in values.items() if k != SAFE}
        yield row.where, values


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


LOADERS: dict[str, Callable[[Path], Placed]] = {".jsonl": _jsonl, ".json": _array, ".csv": _rows, ".parquet": _rows}

CONTAINERS: dict[str, Container] = {
    "jsonl": Container(".jsonl", dump_jsonl),
    "json": Container(".json", dump_json),
    "csv": Container(".csv", dump_csv),
    "parquet": Container(".parquet", dump_parquet, text=False),
    "datasets": Container("", None, fill_datasets, text=False),
}
