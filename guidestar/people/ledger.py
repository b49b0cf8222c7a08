"""What asking an endpoint has cost: one JSON line for each reply in `endpoint.jsonl`, only ever added to.

A line is on the disk before the answer is used, so a limit on the cost holds over restarts. It holds no key and no
text, only ids and numbers. What a server charges for requests that it never answered is not known here.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from guidestar.errors import StoreError
from guidestar.store import files
from guidestar.store.migrations import timestamp
from guidestar.words import count

LEDGER = "endpoint.jsonl"


class Ledger:
    """The ledger of a run folder. `add` may be called from several threads."""

    def __init__(self, folder: Path) -> None:
        """Read what is there. Raises StoreError if it is damaged."""
        self._path = folder / LEDGER
        self._lock = threading.Lock()
        lines = read_ledger(folder)
        self.spent = sum(float(line["cost"]) for line in lines)
        self.replies = len(lines)

    def add(self, line: Mapping[str, Any]) -> None:
        """Append one line: id, model, outcome, tokens_in, tokens_out, cost, seconds, tries, and the time."""
        with self._lock:
            add_line(self._path, {"at": timestamp(), **line})
            self.spent += float(line["cost"])
            self.replies += 1


def read_ledger(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run folder's ledger, [] without one. Raises StoreError if it is damaged."""
    return lines_of(folder / LEDGER, ("cost", "outcome"))


def add_line(path: Path, line: Mapping[str, Any]) -> None:
    """Append a JSON line; it is on the disk when this returns. Raises StoreError if it cannot be written."""
    text = json.dumps(line, ensure_ascii=False) + "\n"
    with files.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        new = not path.exists()
        with path.open("ab+") as file:
            if file.tell() and not _ends_whole(file):
                text = "\n" + text  # a process died within its line
            file.write(text.encode())
            file.flush()
            files.flush(file.fileno())
        if new:
            files.flush_folder(path.parent)


def lines_of(path: Path, keys: Sequence[str]) -> list[dict[str, Any]]:
    """The lines of a file that `add_line` wrote, [] without one. A line that a dying process left unfinished is skipped.

    Raises StoreError for a line that is no JSON object with these keys, or a file that cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}") from error
    found = []
    for number, raw in enumerate(content.split(b"\n"), 1):
        if not raw.strip():
            continue
        try:
            line = json.loads(raw)
            [line[key] for key in keys], float(line.get("cost", 0))
        except (ValueError, TypeError, KeyError, AttributeError):
            if not raw.endswith(b"}"):  # unfinished
                continue
            raise StoreError(
                f"{path} line {number}: is not a line of a ledger; bring the file back from a copy"
            ) from None
        found.append(line)
    return found


def endpoint_usage(folder: Path) -> dict[str, Any] | None:
    """Replies, tries, tokens, cost and seconds of a run folder's ledger, in all; None if no endpoint was asked.

    Raises StoreError if the ledger is damaged.
    """
    lines = read_ledger(folder)
    if not lines:
        return None
    return {
        "replies": len(lines),
        "examples": len({line["id"] for line in lines}),
        "unreadable": sum(line["outcome"] == "unreadable" for line in lines),
        "tries": sum(int(line["tries"]) for line in lines),
        "tokens_in": sum(line["tokens_in"] or 0 for line in lines),
        "tokens_out": sum(line["tokens_out"] or 0 for line in lines),
        "cost": sum(float(line["cost"]) for line in lines),
        "seconds": round(sum(float(line["seconds"]) for line in lines), 3),
        "models": sorted({str(line["model"]) for line in lines}),
    }


def usage_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Run -> its `endpoint_usage`, for a run folder or an experiment folder; runs that asked no endpoint are left out.

    Raises StoreError if a ledger is damaged.
    """
    places = [folder] if (folder / LEDGER).exists() else sorted(path.parent for path in folder.glob(f"*/{LEDGER}"))
    found = {place.resolve().name: endpoint_usage(place) for place in places}
    return {name: usage for name, usage in found.items() if usage is not None}


def usage_text(name: str, usage: Mapping[str, Any]) -> str:
    """A line for people about what `endpoint_usage` found.

    >>> usage_text("star-seed0", {"replies": 21, "examples": 20, "unreadable": 1, "tries": 23, "tokens_in": 4200,
    ...     "tokens_out": 60, "cost": 0.0123, "seconds": 9.5, "models": ["m"]})
    'star-seed0: m gave 21 replies for 20 examples, 1 of them unreadable, in 23 tries; tokens: 4,200 read, 60 written; cost: 0.0123'
    >>> usage_text("a", {"replies": 2, "examples": 2, "unreadable": 0, "tries": 2, "tokens_in": 9, "tokens_out": 4, "cost": 0.0, "models": ["m"]})
    'a: m gave 2 replies for 2 examples, 0 of them unreadable, in 2 tries; tokens: 9 read, 4 written'
    """
    models = ", ".join(usage["models"])
    return (
        f"{name}: {models} gave {count(usage['replies'], 'reply')} for {count(usage['examples'], 'example')}, {usage['unreadable']} of "
        f"them unreadable, in {count(usage['tries'], 'try')}; tokens: {usage['tokens_in']:,} read, {usage['tokens_out']:,} "
        "written" + (f"; cost: {usage['cost']:.4f}" if usage["cost"] else "")  # none without prices
    )


def _ends_whole(file: Any) -> bool:
    file.seek(-1, os.SEEK_END)
    return bool(file.read(1) == b"\n")
