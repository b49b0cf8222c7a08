"""All formats by name, and which of them a file is."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from guidestar.errors import ConfigError, DataError, allowed
from guidestar.exchange import argilla, containers, doccano, label_studio, prodigy, tables
from guidestar.exchange.rows import Format

FORMATS: dict[str, Format] = {
    **tables.FORMATS,
    **label_studio.FORMATS,
    **argilla.FORMATS,
    **prodigy.FORMATS,
    **doccano.FORMATS,
}
_LOOK = 20  # records looked at
_PLAIN = {".csv": "csv", ".jsonl": "jsonl"}


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
    if file.is_dir() or file.suffix.lower() == ".parquet":
        return "datasets" if file.is_dir() else "parquet"
    records = [value for _, value in itertools.islice(containers.load(file), _LOOK) if isinstance(value, dict)]
    found = [name for name, format in FORMATS.items() if 2 * sum(map(format.mine, records)) > len(records)]
    if len(found) > 1:
        raise DataError(f"{file}: could be {' or '.join(found)}; say which with --format")
    if found:
        return found[0]
    if (suffix := file.suffix.lower()) in _PLAIN:
        return _PLAIN[suffix]
    keys: dict[str, Any] = records[0] if records else {}
    raise DataError(
        f"{file}: not the JSON of a known tool; its records have the keys {', '.join(keys) or '(none)'}. "
        f"Say which format it is with --format; {allowed(FORMATS)}"
    )
