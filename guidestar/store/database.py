"""One SQLite file: how it is opened, transactions that are on the disk when they end, and errors in plain words."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from guidestar.errors import StoreError
from guidestar.store import files
from guidestar.store.migrations import migrate

WAIT = 30.0  # seconds that a write waits for another process's write

_SETTINGS = ("journal_mode = WAL", "synchronous = FULL", "fullfsync = ON", "foreign_keys = ON")


class Database:
    """A connection to the database of a run folder. It belongs to the thread that opened it.

    Raises StoreError, with the path and the reason, for whatever SQLite reports.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        """Use `Database.open`."""
        self.path = path
        self.folder = path.parent
        self.connection = connection

    @classmethod
    def open(cls, path: Path) -> Database:
        """The database at `path`, made if it is missing, its schema brought up to date and its pages checked."""
        with _plain_words(path):
            connection = sqlite3.connect(path, timeout=WAIT, isolation_level=None)
            try:
                for setting in _SETTINGS:
                    connection.execute(f"PRAGMA {setting}")
                migrate(connection, str(path))
                if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                    raise sqlite3.DatabaseError("malformed")
                connection.execute("BEGIN IMMEDIATE")  # a folder that cannot be written is found out here
                connection.execute("ROLLBACK")
            except BaseException:
                connection.close()
                raise
        return cls(path, connection)

    def close(self) -> None:
        """Close the connection."""
        with _plain_words(self.path):
            self.connection.close()

    @contextmanager
    def transaction(self, name: str) -> Iterator[None]:
        """All or nothing of what is inside; when it ends, it is on the disk. name: for `files.step`."""
        with _plain_words(self.path):
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                files.step(f"commit {name}")
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise
        files.step(f"committed {name}")

    def execute(self, sql: str, *values: object) -> None:
        """One statement inside `transaction`."""
        self.connection.execute(sql, values)

    def rows(self, sql: str, *values: object) -> list[Any]:
        """All rows of a query."""
        with _plain_words(self.path):
            return self.connection.execute(sql, values).fetchall()

    def row(self, sql: str, *values: object) -> Any:
        """The first row of a query, None if there is none."""
        return next(iter(self.rows(sql, *values)), None)


@contextmanager
def _plain_words(path: Path) -> Iterator[None]:
    """Turn an error of SQLite into a StoreError that says what to do."""
    try:
        yield
    except sqlite3.Error as error:
        text = str(error)
        for sign, reason in _REASONS.items():
            if sign in text:
                text = reason
                break
        raise StoreError(f"{path}: {text}") from error
    except UnicodeEncodeError as error:
        raise StoreError(f"{path}: a text holds half a character (a lone surrogate), which cannot be stored") from error


_REASONS = {
    "is full": "cannot be written: the disk is full. Nothing recorded is lost; make room and run again",
    "readonly": "cannot be written: the file or its folder is read-only. Nothing recorded is lost",
    "locked": f"cannot be written: another process has been writing for {WAIT:.0f} seconds. "
    "Nothing recorded is lost; run again",
    "unable to open": "cannot be opened; it and its folder must be readable and writable",
    "disk I/O": "cannot be read or written: the disk reports an error",
    "not a database": "is not an SQLite database, or its head is damaged; bring it back from a copy",
    "malformed": "the database is damaged; bring it back from a copy",
}
