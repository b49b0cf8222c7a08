"""Rows of text from files, `datasets` folders and the hub; every problem named by its place.

A source is one of

- a `.csv` file, with a header line unless names are given, separated by commas or, as the header shows, by semicolons or
  tabs; a `.tsv` file; a `.jsonl` file, one object a line, or `.json` with an array of them; a `.txt` file, a text a line
  (its column is `text`). All of them also as `.gz`;
- a `.parquet` file (needs pyarrow); the first sheet of an `.xlsx`, `.xls` or `.ods` file (needs python-calamine);
- a folder saved by `datasets` (`save_to_disk`) or one that `datasets.load_dataset` reads, and
  `hub:owner/name` or `hub:owner/name:config`; both take `@split` at the end (need `datasets`);
- `demo:pool`, `demo:test` or `demo:validation`: the package's own synthetic data.
"""

from __future__ import annotations

import csv
import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from guidestar.data import demo
from guidestar.data.textfile import PACKED, parse_json, suffix_of, text_lines
from guidestar.errors import DataError, allowed, needed

HUB, DEMO = "hub:", "demo:"
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}  # of the cells of a .csv file
MOST_COLUMNS = 10_000
_SEP = re.compile(r'"?sep=([;,\t|])"?\s*', re.IGNORECASE)
_LONGEST_CELL = 2**31 - 1  # characters; whether a text fits the model is data.too_long's affair


@dataclass(frozen=True)
class Row:
    """One row. where: "pool.csv line 7". values: column -> text. nulls: columns present but null. codes: column -> the
    number that the source stores for a label that has a name (ClassLabel). typed: columns whose text is the JSON of a value
    that is none."""

    where: str
    values: Mapping[str, str]
    nulls: tuple[str, ...] = ()
    codes: Mapping[str, str] = field(default_factory=dict)
    typed: tuple[str, ...] = field(default=(), compare=False)

    def cell(self, column: str) -> str:
        """The text of a column. Raises DataError if there is no such column or it is null."""
        if column in self.values:
            return self.values[column]
        if column in self.nulls:
            raise DataError(f"{self.where}: the column {column!r} is null; it must hold a value")
        raise DataError(f"{self.where}: no column {column!r}; {allowed(self.columns, column)}")

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns of the row."""
        return (*self.values, *self.nulls)

    def plain(self) -> dict[str, Any]:
        """Column -> value as the source has it: a text, a number, a list, …; None where it holds nothing."""
        values: dict[str, Any] = {c: json.loads(text) if c in self.typed else text for c, text in self.values.items()}
        return values | dict.fromkeys(self.nulls)


@dataclass(frozen=True)
class Form:
    """What a text file does not say itself; see `read_rows`."""

    header: list[str] | None = None
    encoding: str | None = None


def read_rows(source: Any, *, header: list[str] | None = None, encoding: str | None = None) -> Iterator[Row]:
    """The rows of a source in their order; at least one. A pandas DataFrame is one, too.

    header: column names of CSV files without a header line; other forms carry their own.
    encoding: of text files that are not UTF-8.
    Raises DataError if the source is missing, empty, of an unknown form, not UTF-8 or damaged.
    """
    for row in read_each(source, header, encoding):
        if isinstance(row, DataError):
            raise row
        yield row


def read_each(source: Any, header: list[str] | None = None, encoding: str | None = None) -> Iterator[Row | DataError]:
    """`read_rows`, with the error that names it in the place of a line or an element of JSON that is damaged alone."""
    try:
        rows = _open(source, Form(header, encoding)) if isinstance(source, str) else _from_frame(source)
        first = next(rows, None)
        if first is None:
            raise DataError(f"{source if isinstance(source, str) else 'the table'}: no rows; at least one is needed")
        yield first
        yield from rows
    except (OSError, EOFError, zlib.error) as error:  # the last two: a damaged .gz
        raise DataError(f"{source}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _open(source: str, form: Form) -> Iterator[Row | DataError]:
    if source.startswith(HUB):
        return _from_hub(source)
    if source.startswith(DEMO):
        return _from_demo(source)
    path = Path(source).expanduser()
    folder, split = _split_of(str(path))
    if Path(folder).is_dir():
        return _from_folder(source, folder, split)
    if not path.exists():
        raise DataError(f"{source}: no such file or folder")
    suffix = suffix_of(path)
    if suffix not in READERS or (suffix in PACKED and path.suffix.lower() == ".gz"):
        found = f"found the extension {path.suffix!r}" if path.suffix else "found no extension"
        raise DataError(f"{source}: {found}; {allowed(READERS, path.suffix)}, the text files also as .gz, or a folder")
    if path.stat().st_size == 0:
        raise DataError(f"{source}: the file is empty")
    return READERS[suffix](source, path, form)


# --- text files ---------------------------------------------------------------------------------


def _from_text(source: str, path: Path, form: Form) -> Iterator[Row]:
    """A text a line; blank lines are none."""
    for number, line in enumerate(text_lines(path, source, form.encoding), 1):
        if line.strip():
            yield Row(f"{source} line {number}", {"text": line.rstrip("\r\n")})


def _from_json(source: str, path: Path, form: Form) -> Iterator[Row | DataError]:
    """An array of objects, or one object; or, as many files are called .json, an object a line."""
    lines = text_lines(path, source, form.encoding)
    first = next((line for line in lines if line.strip()), "")
    if first.strip()[:1] == "{" and first.strip()[-1:] == "}":
        yield from _from_jsonl(source, path, form)
        return
    value = parse_json("".join([first, *lines]), source)
    for number, item in enumerate(value if isinstance(value, list) else [value], 1):
        yield _object(f"{source} item {number}", item)


def _from_jsonl(source: str, path: Path, form: Form) -> Iterator[Row | DataError]:
    for number, line in enumerate(text_lines(path, source, form.encoding), 1):
        if line.strip():
            where = f"{source} line {number}"
            try:
                value = parse_json(line, where)
            except DataError as error:
                yield error
            else:
                yield _object(where, value)


def _object(where: str, value: Any) -> Row | DataError:
    if not isinstance(value, dict):
        kinds = {list: "array", str: "string", bool: "boolean", type(None): "null"}
        return DataError(f"{where}: found a JSON {kinds.get(type(value), 'number')}, expected an object {{…}}")
    try:
        return _row(where, value)
    except DataError as error:
        return error


def _from_csv(source: str, path: Path, form: Form) -> Iterator[Row]:
    lines, header = text_lines(path, source, form.encoding), form.header
    first = next(lines, "")
    told = _SEP.fullmatch(first)  # how Excel is told what separates cells
    tabs = "\t" if suffix_of(path) == ".tsv" else None
    separator = told[1] if told else tabs or ("," if header is not None and len(header) == 1 else _separator(first))
    reader = csv.reader(lines if told else chain([first], lines), strict=True, delimiter=separator)
    names, line = header, 2 if told else 1
    while True:
        limit = csv.field_size_limit(_LONGEST_CELL)  # for this line alone: it is one number for the whole process
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DataError(f"{source} line {line}: not valid CSV: {error}") from error
        finally:
            csv.field_size_limit(limit)
        where, line = f"{source} line {line}", reader.line_num + (2 if told else 1)  # a record can span lines
        if cells is None:
            return
        if not cells:  # a blank line
            continue
        if names is None:
            names = _checked_header(cells, where)
            continue
        if len(cells) != len(names):
            listed = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
            raise DataError(
                f"{where}: cells: found {len(cells)}, expected {len(names)} ({listed}); "
                f"quote cells that hold {SEPARATORS.get(separator, repr(separator))}"
            )
        yield Row(where, dict(zip(names, cells, strict=True)))


def first_cells(path: Path, encoding: str | None = None) -> list[str] | None:
    """The cells of the first line of a .csv or .tsv file; None for any other source, and for a line that is no CSV."""
    if suffix_of(path) not in (".csv", ".tsv") or not path.is_file():
        return None
    try:
        lines = text_lines(path, str(path), encoding)
        first = next(lines, "")
        separator = "\t" if suffix_of(path) == ".tsv" else _separator(first)
        return None if _SEP.fullmatch(first) else next(csv.reader(chain([first], lines), delimiter=separator), None)
    except (csv.Error, DataError, OSError, EOFError, zlib.error):  # whoever reads the rows says what is wrong
        return None


def _separator(first: str) -> str:
    """What separates cells, by the first line: a comma, unless that leaves one cell with a semicolon or a tab in it, as
    spreadsheets write where the comma is the decimal sign."""
    try:
        cells = next(csv.reader([first]), [])
    except csv.Error:
        return ","
    return next((s for s in SEPARATORS if len(cells) == 1 and s in cells[0]), ",")


def _checked_header(cells: list[str], where: str) -> list[str]:
    for i, name in enumerate(cells[: MOST_COLUMNS + 1]):
        if not name.strip():
            hint = "; a table's row numbers? pandas leaves them out with to_csv(index=False)" if i == 0 else ""
            raise DataError(f"{where}: the header has no name for column {i + 1}{hint}")
    return _distinct(cells, f"{where}: the header")


def _distinct(names: list[str], where: str) -> list[str]:
    if len(names) > MOST_COLUMNS:
        raise DataError(f"{where} has {len(names)} columns; allowed: up to {MOST_COLUMNS}")
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise DataError(f"{where} has the column {twice!r} twice; names must differ")
    return names


# --- tables in memory, Parquet and datasets -----------------------------------------------------------------------


def _from_frame(frame: Any) -> Iterator[Row]:
    if not hasattr(frame, "itertuples"):
        raise DataError(f"found a {type(frame).__name__}; allowed: the name of a file, or a pandas DataFrame")
    names = _distinct(list(map(str, frame.columns)), "the table")
    for number, (index, *cells) in enumerate(frame.itertuples(name=None), 1):
        where = f"row {number}" if index == number - 1 else f"row {number} ({index})"
        plain = [cell.tolist() if hasattr(cell, "tolist") else cell for cell in cells]  # NumPy's numbers and arrays
        values = dict(zip(names, plain, strict=True))
        yield _row(where, {c: None if type(v).__name__ in ("NAType", "NaTType") else v for c, v in values.items()})


def _from_parquet(source: str, path: Path, form: Form) -> Iterator[Row]:
    pyarrow, parquet = (needed(name, source, "data", DataError) for name in ("pyarrow", "pyarrow.parquet"))
    try:
        with parquet.ParquetFile(path) as file:
            _distinct(file.schema_arrow.names, f"{source}: the table")
            names = _class_names(_features(file.schema_arrow.metadata or {}))
            number = 0
            for batch in file.iter_batches(batch_size=1024):
                for record in batch.to_pylist():
                    number += 1
                    yield _row(f"{source} row {number}", record, names)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{source}: not readable as Parquet: {error}") from error


def _from_excel(source: str, path: Path, form: Form) -> Iterator[Row]:
    """The first sheet; its first row has the names, unless they are given."""
    calamine = needed("python_calamine", source, "excel", DataError)
    try:
        rows = calamine.load_workbook(str(path)).get_sheet_by_index(0).to_python(skip_empty_area=True)
    except (calamine.CalamineError, OSError) as error:
        raise DataError(f"{source}: not readable as an Excel file: {error}") from error
    names = form.header
    for number, cells in enumerate(rows, 1):
        values = [int(cell) if isinstance(cell, float) and cell.is_integer() else cell for cell in cells]
        if names is None:
            names = _checked_header([str(cell) for cell in values], f"{source} row {number}")
        elif any(cell != "" for cell in values):
            plain = [cell if isinstance(cell, (str, bool, int, float)) else str(cell) for cell in values]
            yield _row(f"{source} row {number}", dict(zip(names, plain, strict=False)))


def _from_folder(source: str, folder: str, split: str | None) -> Iterator[Row]:
    datasets = needed("datasets", source, "data", DataError)
    saved = any((Path(folder) / name).exists() for name in ("dataset_dict.json", "state.json"))
    try:
        load = datasets.load_from_disk if saved else datasets.load_dataset
        yield from _from_datasets(source, split, lambda: load(folder))
    except DataError as error:
        names = sorted(path.name for path in Path(folder).iterdir() if suffix_of(path) in READERS)
        hint = f"name one of its files: {', '.join(names[:5])}" if names else "it holds no file that could be data"
        raise error if saved else DataError(f"{str(error).partition(chr(10))[0]}; {hint}") from error


def _from_hub(source: str) -> Iterator[Row]:
    name, config, split = parse_hub(source)
    datasets = needed("datasets", source, "data", DataError)
    return _from_datasets(source, split, lambda: datasets.load_dataset(name, config))


def _from_datasets(source: str, split: str | None, load: Callable[[], Any]) -> Iterator[Row]:
    try:
        loaded = load()
    except Exception as error:  # many kinds: network, missing names, damaged files; all mean the same here
        raise DataError(f"{source}: cannot be loaded by `datasets`: {error}") from error
    if isinstance(loaded, dict):
        if split is None and len(loaded) == 1:
            split = next(iter(loaded))
        if split not in loaded:
            plain, _ = _split_of(source)
            record = "it has several splits" if split is None else f"no split {split!r}"
            raise DataError(f"{source}: {record}; write {plain}@SPLIT, {allowed(loaded, split)}")
        loaded = loaded[split]
    elif split is not None:
        raise DataError(f"{source}: no split {split!r}; the folder holds one set without splits")
    names = _class_names(getattr(loaded, "features", None) or {})
    for number, record in enumerate(loaded, 1):
        yield _row(f"{source} row {number}", record, names)


def _features(metadata: Mapping[bytes, bytes]) -> Mapping[str, Any]:
    """The features that `datasets` writes into a Parquet file: column -> its description; {} where there are none."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def _class_names(features: Mapping[str, Any]) -> dict[str, list[str]]:
    """Column -> the names of its numbers, for columns of ClassLabel and of lists of them."""
    named = {}
    for column, feature in features.items():
        inner: Any = feature
        for _ in range(2):
            names = inner.get("names") if isinstance(inner, dict) else getattr(inner, "names", None)
            if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
                named[column] = list(names)
                break
            inner = inner.get("feature") if isinstance(inner, dict) else getattr(inner, "feature", None)
    return named


def parse_hub(source: str) -> tuple[str, str | None, str | None]:
    """(name, config, split) of a hub source.

    >>> parse_hub("hub:openai/gsm8k:main@train")
    ('openai/gsm8k', 'main', 'train')
    """
    rest, split = _split_of(source.removeprefix(HUB))
    name, colon, config = rest.partition(":")
    if not name or (colon and not config) or split == "":
        raise DataError(f"{source}: not of the form hub:owner/name, hub:owner/name:config or …@split")
    return name, config or None, split


def _split_of(source: str) -> tuple[str, str | None]:
    """'folder@train' -> ('folder', 'train'); an @ in a parent folder or an existing name is no split."""
    place, at, split = source.rpartition("@")
    if not at or "/" in split or Path(source).exists():
        return source, None
    return place, split


# --- synthetic data -----------------------------------------------------------------------------


def _from_demo(source: str) -> Iterator[Row]:
    splits = demo.make_splits()
    name = source.removeprefix(DEMO)
    if name not in splits:
        raise DataError(f"{source}: no such part of the synthetic data; {allowed(splits, name)}")
    for number, record in enumerate(splits[name], 1):
        yield Row(f"{source} row {number}", record)


# --- values -------------------------------------------------------------------------------------


def _row(where: str, record: Mapping[str, Any], names: Mapping[str, list[str]] | None = None) -> Row:
    """names: column -> the names of its numbers; −1 is how `datasets` writes "not labelled"."""
    codes = {column: str(record[column]) for column in names or {} if isinstance(record.get(column), int)}
    if names:
        record = {c: _named(v, names[c], f"{where}: the column {c!r}") if c in names else v for c, v in record.items()}
    texts = {name: _as_text(value, f"{where}: the column {name!r}") for name, value in record.items()}
    full = {name: text for name, text in texts.items() if text is not None}
    typed = tuple(name for name in full if not isinstance(record[name], (str, bytes)))
    return Row(where, full, tuple(name for name, text in texts.items() if text is None), codes, typed)


def _named(value: Any, names: list[str], where: str) -> Any:
    if isinstance(value, list):
        return [_named(item, names, where) for item in value]
    if not isinstance(value, int) or value == -1:
        return None if value == -1 else value
    if not 0 <= value < len(names):
        raise DataError(f"{where} is {value}; its names are numbered 0 to {len(names) - 1}, and −1 is not labelled")
    return names[value]


def _as_text(value: Any, where: str) -> str | None:
    """Text as it is, all else as JSON writes it: true, 3, 0.5, ["a"]. None for what holds nothing.

    A NaN is how tables write a missing value; bytes are text if they are UTF-8, else (images) nothing.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    try:
        text.encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair, "\ud83d": cannot be stored or tokenized
        raise DataError(f"{where} holds half of a character (\\u{ord(text[error.start]):x})") from error
    return text


READERS: dict[str, Callable[[str, Path, Form], Iterator[Row | DataError]]] = {
    ".csv": _from_csv, ".tsv": _from_csv, ".jsonl": _from_jsonl, ".json": _from_json, ".txt": _from_text,
    ".parquet": _from_parquet, ".xlsx": _from_excel, ".xls": _from_excel, ".ods": _from_excel,
}  # fmt: skip
