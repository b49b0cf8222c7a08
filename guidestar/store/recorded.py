"""Files that the database knows by their hash: of each kind a folder, and a table with one row a file or folder."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from guidestar.errors import StoreError
from guidestar.store import files
from guidestar.store.database import Database
from guidestar.store.migrations import timestamp


class Recorded:
    """What was published of one kind, "adapters" or "arrays". A key is (round,), or (round, name)."""

    def __init__(self, db: Database, table: str, keys: tuple[str, ...], ending: str, what: str, advice: str) -> None:
        """table: also the folder's name. keys: its columns. what, advice: for the message about a damaged one."""
        self._db, self.table, self._keys, self._ending = db, table, keys, ending
        self._what, self._advice = what, advice
        self._where = " AND ".join(f"{key} = ?" for key in keys)

    def path(self, round: int, *name: str) -> Path:
        """Where it lies. Raises StoreError for a name that may not be part of a file's."""
        if name and not re.fullmatch(r"[A-Za-z0-9_-]+", name[0]):
            raise StoreError(f"{self._db.folder}: {name[0]!r} cannot name arrays; allowed: letters, digits, - and _")
        return self._db.folder / self.table / ("-".join([f"round-{round:03d}", *name]) + self._ending)

    def sha256(self, round: int, *name: str) -> str | None:
        """The hash in the record, None where there is none."""
        row = self._db.row(f"SELECT sha256 FROM {self.table} WHERE {self._where}", round, *name)  # noqa: S608
        return None if row is None else str(row[0])

    def has(self, round: int, *name: str) -> bool:
        """Whether it is recorded and, damaged or not, still there."""
        return self.sha256(round, *name) is not None and self.path(round, *name).exists()

    def get(self, missing: str, round: int, *name: str) -> Path:
        """Its path, the content checked against the record. missing: the message where nothing is recorded."""
        path, sha256 = self.path(round, *name), self.sha256(round, *name)
        if sha256 is None:
            raise StoreError(f"{self._db.folder}: {missing}")
        if not path.exists() or files.sha256(path) != sha256:
            raise StoreError(
                f"{path}: the {self._what} is truncated, changed or gone since it was recorded; {self._advice}"
            )
        return path

    def add(self, step: str, publish: Callable[[Path], str], round: int, *name: str) -> Path:
        """Publish it, in the place of what may lie there, and record the hash that `publish` returns. step: for
        `files.step`."""
        path = self.path(round, *name)
        # The old record goes first: a crash below then leaves an unrecorded folder, not a wrong one.
        with self._db.transaction(f"forget {self.table}"):
            self._db.execute(f"DELETE FROM {self.table} WHERE {self._where}", round, *name)  # noqa: S608
        digest = publish(path)
        with self._db.transaction(step):
            marks = ", ".join("?" * (len(self._keys) + 2))
            self._db.execute(f"INSERT INTO {self.table} VALUES ({marks})", round, *name, digest, timestamp())  # noqa: S608
        return path

    def rows(self) -> list[tuple[Any, ...]]:
        """(round, …, SHA-256) of everything, in the order of the keys."""
        keys = ", ".join(self._keys)
        return self._db.rows(f"SELECT {keys}, sha256 FROM {self.table} ORDER BY {keys}")  # noqa: S608 - our own words
