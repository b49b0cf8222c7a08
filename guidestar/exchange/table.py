"""All formats by name, and which of them a file is."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from guidestar.data.textfile import suffix_of
from guidestar.errors import ConfigError, DataError, allowed
from guidestar.exchange import argilla, containers, doccano, label_studio, prodigy, tables
from guidestar.exchange.rows import Format

_PLAIN = (tables.write_nested, tables.read_plain)
FORMATS: dict[str, Format] = {
    "jsonl": Format("JSON lines, one example a line", "jsonl", *_PLAIN),
    "csv": Format("CSV, one line for each annotator of an example", "csv", tables.write_flat, tables.read_plain),
    "parquet": Format("Parquet, one example a row", "parquet", *_PLAIN),
    "datasets": Format("a folder of Hugging Face `datasets`", "datasets", *_PLAIN),
    "label-studio": Format(
        "Label Studio's JSON; reads JSON-MIN too", "json", label_studio.write, label_studio.read, label_studio.mine,
        label_studio.hint,
    ),
    "argilla": Format(
        "Argilla's records (2.x; reads 1.x text classification)", "json", argilla.write, argilla.read, argilla.mine,
        argilla.hint,
    ),
    "prodigy": Format("Prodigy's JSON lines, choice and binary", "jsonl", prodigy.write, prodigy.read, prodigy.mine),
    "doccano": Format("doccano's JSON lines, with the labels of a text", "jsonl", doccano.write, doccano.read, doccano.mine),
}  # fmt: skip
_LOOK = 20  # records looked at


def format_of(name: str) -> tuple[Format, str | None]:
    """(the format, the question named behind a colon): "argilla:topic".

    Raises ConfigError for an unknown name.
    """
    plain, colon, question = name.partition(":")
    if plain not in FORMATS:
        raise ConfigError(f"no format {plain!r}; {allowed(FORMATS, plain)}")
    return FORMATS[plain], question if colon else None


def recognise(file: Path) -> str:
    """The name of a file's format, by its extension and what most of its first records look like.

    Raises DataError if it could be several, or none.
    """
    suffix = "datasets" if file.is_dir() else suffix_of(file).removeprefix(".")
    if suffix in ("datasets", "parquet"):
        return suffix
    records = [value for _, value in itertools.islice(containers.load(file), _LOOK) if isinstance(value, dict)]
    alike = [name for name, one in FORMATS.items() if one.mine and 2 * sum(map(one.mine, records)) > len(records)]
    if len(alike) > 1:
        raise DataError(f"{file}: could be {' or '.join(alike)}; say which with --format")
    if alike:
        return alike[0]
    if suffix != "json":  # other tables are read as CSV files are
        return "jsonl" if suffix == "jsonl" else "csv"
    keys: dict[str, Any] = records[0] if records else {}
    raise DataError(
        f"{file}: not the JSON of a known tool; its records have the keys {', '.join(keys) or '(none)'}. "
        f"Say which format it is with --format; {allowed(FORMATS)}"
    )
