"""The warm start that several runs of one folder share. A file beside each run says what its own was made of, so that nobody
opens another run's database, which may be at work on another machine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from guidestar.errors import StoreError
from guidestar.store import files

START = "start.json"


def keep_start(folder: Path, question: str, names: Sequence[str]) -> None:
    """Say that the warm start of the run in `folder` is the answer to a question (a fingerprint of all that it depends on).
    names: the files and folders in `folder` that it consists of, as far as they are there."""
    made = {name: files.sha256(folder / name) for name in names if (folder / name).exists()}
    files.write_bytes(folder / START, json.dumps({"question": question, "made": made}).encode())


def same_start(folder: Path, seed: int, question: str, beside: Path | None = None) -> tuple[Path, list[str]] | None:
    """The folder of another strategy's run with this seed whose warm start answers the question, and what it consists of.
    folder: of the run that asks. beside: where the others lie; default: beside it."""
    for file in sorted((beside or folder.parent).glob(f"*-seed{seed}/{START}")):
        try:
            said = json.loads(file.read_text(encoding="utf-8"))
            whole = said["question"] == question and file.parent != folder
            if whole and all(files.sha256(file.parent / name) == sha256 for name, sha256 in said["made"].items()):
                return file.parent, list(said["made"])
        except (OSError, ValueError, KeyError, StoreError):  # damaged or gone; training gives the same adapter
            continue
    return None
