"""What was computed once and kept under a hash of the question: arrays and folders that may be deleted at any time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from guidestar.config import fingerprint
from guidestar.errors import StoreError
from guidestar.store import files

Arrays = Mapping[str, np.ndarray]
_ARRAYS = ".safetensors"
_HASH = "sha256"  # an array of 32 bytes beside the others


@dataclass(frozen=True)
class Cache:
    """Answers in `place`, each named after what it is and a hash of its question.

    A question is JSON-able and holds all that the answer depends on. Several processes may ask at once.
    """

    place: Path

    def path(self, name: str, question: Mapping[str, Any], ending: str = "") -> Path:
        """Where the answer lies: a folder, or arrays in a file that ends in .safetensors."""
        return self.place / f"{name}-{fingerprint(dict(question))[:16]}{ending}"

    def arrays(self, name: str, question: Mapping[str, Any], make: Callable[[], Arrays]) -> Arrays:
        """The arrays for a question: read if they are there, else made and kept.

        Raises StoreError for a file whose content is not what was written.
        """
        path = self.path(name, question, _ARRAYS)
        if path.exists():
            return _read(path)
        made = make()
        files.write_bytes(path, files.arrays_as_bytes({**made, _HASH: _digest(made)}))
        return made

    def folder(self, name: str, question: Mapping[str, Any], fill: Callable[[Path], object]) -> Path:
        """The folder for a question: as it is, or made by `fill`, which gets an empty one. Its hash lies beside it.

        One process makes it, others that ask meanwhile wait. Raises StoreError for a folder whose content is not what
        was written.
        """
        path, record = self.path(name, question), self.path(name, question, ".sha256")
        with alone(path):
            if path.exists() and record.exists():
                if files.sha256(path) != record.read_text(encoding="ascii").strip():
                    raise StoreError(
                        f"{path}: its content has changed since it was written; delete it, it is made again"
                    )
                return path
            record.unlink(missing_ok=True)  # of a folder that was deleted
            files.write_bytes(record, (files.publish_folder(path, fill) + "\n").encode())
        return path

    def has(self, name: str, question: Mapping[str, Any]) -> bool:
        """Whether the answer to a question is there."""
        whole = all(self.path(name, question, ending).exists() for ending in ("", ".sha256"))
        return whole or self.path(name, question, _ARRAYS).exists()


def _read(path: Path) -> Arrays:
    arrays = files.read_arrays(path)
    if arrays.pop(_HASH, np.zeros(0)).tobytes() != _digest(arrays).tobytes():
        raise StoreError(f"{path}: its content has changed since it was written; delete it, it will be computed again")
    return arrays


def _digest(arrays: Arrays) -> np.ndarray:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return np.frombuffer(digest.digest(), np.uint8)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the lock beside a path, as the one process that makes what lies there; others wait."""
    with files.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.with_name(f"{path.name}.lock").open("ab")
    with file:
        files.hold(file.fileno())
        yield
