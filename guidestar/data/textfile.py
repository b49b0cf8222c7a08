"""From the bytes of a text file to its lines: compression, byte order marks, encodings; and from a text to its JSON."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from guidestar.errors import DataError

PACKED = (".parquet", ".xlsx", ".xls", ".ods")  # compressed already
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_UTF_32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)


def suffix_of(path: Path) -> str:
    """The extension that says the form; ".csv" for pool.csv and for pool.CSV.gz."""
    return (Path(path.stem).suffix if path.suffix.lower() == ".gz" else path.suffix).lower()


def _opened(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix.lower() == ".gz" else path.open("rb")


def _is_utf8(path: Path) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    with _opened(path) as file:
        try:
            while part := file.read(1 << 20):
                decoder.decode(part)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def guess_encoding(path: Path) -> str | None:
    """What a text file seems to be written in, by its first megabyte; None for UTF-8, for UTF-16 with its mark, which are
    read without being told, and where nobody can say."""
    try:
        from charset_normalizer import from_bytes

        with _opened(path) as file:
            start = file.read(1 << 20)
        if suffix_of(path) in PACKED or start.startswith(_UTF_16) or _is_utf8(path):
            return None
    except (ImportError, OSError, EOFError, zlib.error):  # whoever reads the rows says what is wrong
        return None
    best = from_bytes(start).best()
    if best is None:
        return None
    with suppress(UnicodeError):  # of those that read the same text the one that most files are in
        if start.decode("cp1252") == str(best):
            return "cp1252"
    return best.encoding


def other_readings(path: Path, guess: str) -> tuple[tuple[str, str], ...]:
    """The first place that is not ASCII, as the guessed encoding reads it, and as its usual neighbours do where that differs:
    (encoding, text)."""
    with _opened(path) as file:
        start = file.read(1 << 20)
    first = next((i for i, byte in enumerate(start) if byte > 127), None)
    if first is None:
        return ()
    begin = max(start.rfind(b"\n", 0, first), first - 20) + 1
    place, readings = start[begin : first + 30].partition(b"\n")[0], dict[str, str]()
    for name in (guess, "cp1252", "cp1250", "cp1257", "cp1251"):
        with suppress(UnicodeError, LookupError):
            text = place.decode(name).strip()
            if text not in readings.values():
                readings[name] = text
    return tuple(readings.items())


def text_lines(path: Path, source: str, named: str | None) -> Iterator[str]:
    """Text lines with their ends, a byte order mark dropped; old files in which every line ends in a carriage return, too.
    named: the encoding of a file that is not UTF-8.

    Raises DataError at bytes that are no text."""
    with _opened(path) as file:
        start = file.read(1 << 16)
        file.seek(0)
        ends = "\r" if b"\r" in start and b"\n" not in start else ""
        encoding = "utf-32" if start.startswith(_UTF_32) else "utf-16" if start.startswith(_UTF_16) else None
        if encoding is None and named and (b"\0" in start or not _is_utf8(path)):
            encoding = named  # plain letters in UTF-16 are valid UTF-8
        if encoding is None and start.count(b"\0") > len(start) // 5:
            raise DataError(
                f"{source}: every few bytes one is NUL, so it is no UTF-8; a text in UTF-16 without its mark needs "
                "data.encoding: utf-16-le (or utf-16-be)"
            )
        if encoding is None and not ends:
            yield from _utf8_lines(file, source, path)
            return
        try:
            with io.TextIOWrapper(file, encoding=encoding or "utf-8-sig", newline=ends) as text:
                yield from text
        except (ValueError, LookupError) as error:
            raise DataError(f"{source}: not readable as {encoding or 'UTF-8'} (data.encoding): {error}") from error


def _utf8_lines(file: BinaryIO, source: str, path: Path) -> Iterator[str]:
    for number, raw in enumerate(file, 1):
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            guess = guess_encoding(path)
            hint = f", or try data.encoding: {guess}" if guess else ""
            raise DataError(
                f"{source} line {number}: byte {error.start + 1} of the line is 0x{raw[error.start]:02x}, "
                f"which is not UTF-8; save the file as UTF-8{hint}"
            ) from error
        yield line.lstrip("\ufeff") if number == 1 else line


def parse_json(text: str, where: str) -> Any:
    """The value of a JSON text. Raises DataError naming the place of a mistake."""
    try:
        return json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        place = where if error.lineno == 1 else f"{where} line {error.lineno}"
        raise DataError(f"{place}: not valid JSON at character {error.colno}: {error.msg}") from error
    except (ValueError, RecursionError) as error:  # integers of thousands of digits, deep nesting
        raise DataError(f"{where}: not usable JSON: {error}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError(f"a name stands twice in one object: {', '.join(name for name, _ in pairs)[:200]}")
    return made
