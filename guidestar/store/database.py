"""One SQLite file: how it is opened, transactions that are on the disk when they end, and errors in plain words."""

from __future__ import annotations

import json
import math
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from guidestar.errors import LostRecord, StoreError
from guidestar.store import files
from guidestar.store.migrations import applied, migrate

WAIT = 30.0  # seconds that a write waits for another process's write

WAL = "-wal"  # behind the name of a database: what is written and not yet in the file itself
COUNT = "annotations.count"  # beside the database: how many annotations were recorded, at least
_SETTINGS = ("journal_mode = WAL", "synchronous = FULL", "fullfsync = ON", "foreign_keys = ON")


class Database:
    """A connection to the database of a run folder. It belongs to the thread that opened it.

    Raises StoreError, with the path and the reason, for whatever SQLite reports.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, places: ExitStack) -> None:
        """Use `Database.open`."""
        self.path = path
        self.folder = path.parent
        self.connection = connection
        self._places = places

    @classmethod
    def open(cls, path: Path, *, create: bool = False, read: bool = False) -> Database:
        """The database at `path`, its schema brought up to date and its pages checked. With `create`, made if it is
        missing, readable by its owner alone.

        One that cannot be written is read from a copy, made with its WAL in a temporary folder; writing then raises
        StoreError. So is, with `read`, one that another machine may be writing: a WAL is for one machine. Raises LostRecord where files beside it show that it once held more.
        """
        with _plain_words(path), ExitStack() as places:
            if create:
                with files.writing(path):
                    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            apart = read and files.run_elsewhere(path.parent)
            try:
                connection = None if apart else _connected(path, path.parent)
            except sqlite3.OperationalError as error:
                if create or not any(sign in str(error) for sign in ("readonly", "unable to open")):
                    raise
                connection = None
            if connection is None:
                copy = Path(places.enter_context(tempfile.TemporaryDirectory(prefix="guidestar-"))) / path.name
                for end in ("", WAL):
                    if os.access(f"{path}{end}", os.R_OK):
                        shutil.copyfile(f"{path}{end}", f"{copy}{end}")
                connection = _connected(copy, path.parent)
                connection.execute("PRAGMA query_only = ON")
            return cls(path, connection, places.pop_all())

    def close(self) -> None:
        """Close the connection."""
        with _plain_words(self.path), self._places:
            self.connection.close()

    def count_annotations(self, number: int) -> None:
        """Note beside the database that it holds annotations up to `number`. Not flushed: what is noted is never more
        than what is on the disk."""
        with files.writing(self.folder / COUNT):
            descriptor = os.open(self.folder / COUNT, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                os.pwrite(descriptor, f"{number:<19}\n".encode(), 0)
            finally:
                os.close(descriptor)

    def checkpoint(self) -> None:
        """Bring what was written into the database file itself, so that a copy without its WAL lacks as little as can be.
        It does not wait: what another process is reading stays in the WAL until the next checkpoint."""
        self.rows("PRAGMA wal_checkpoint(PASSIVE)")

    @contextmanager
    def transaction(self, name: str, *, checkpoint: bool = False) -> Iterator[None]:
        """All or nothing of what is inside; when it ends, it is on the disk; with `checkpoint`, in the database file
        itself. name: for `files.step`."""
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
        if checkpoint:
            self.checkpoint()

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

    def number(self, sql: str, *values: object) -> int:
        """The one number that a query gives."""
        return int(self.rows(sql, *values)[0][0])


def json_of(value: Any) -> str:
    """JSON-able data as the database holds it."""
    return json.dumps(value, ensure_ascii=False)


def numbers_as_json(values: Mapping[str, float]) -> str:
    """Name -> number as strict JSON; nan and the infinities are the texts "nan", "inf", "-inf"."""
    return json_of({k: float(v) if math.isfinite(v) else repr(float(v)) for k, v in values.items()})


def numbers_of(text: str) -> dict[str, float]:
    """What `numbers_as_json` wrote."""
    return {name: float(value) for name, value in json.loads(text).items()} if text != "{}" else {}


_checked: set[tuple[str, int, int, int]] = set()  # what this process has read from end to end and found whole


def _connected(path: Path, home: Path) -> sqlite3.Connection:
    """A connection to a database that is whole and up to date. home: the run folder that it belongs to."""
    connection = sqlite3.connect(path, timeout=WAIT, isolation_level=None)
    try:
        applied(connection, str(home / path.name))  # what is not ours is left as it is
        _refuse_loss(connection, home)
        for setting in _SETTINGS:
            connection.execute(f"PRAGMA {setting}")
        migrate(connection, str(home / path.name))
        content = (str(path), (stat := path.stat()).st_ino, stat.st_mtime_ns, stat.st_size)
        if content not in _checked and connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError("malformed")
        _checked.add(content)
        connection.execute("BEGIN IMMEDIATE")  # a folder that cannot be written is found out here
        connection.execute("ROLLBACK")
    except BaseException:
        connection.close()
        raise
    return connection


def _refuse_loss(connection: sqlite3.Connection, folder: Path) -> None:
    """Raise LostRecord if a folder shows that its database once held more than it does: before anything is written, so
    that a WAL which is brought back still fits."""
    kept, tables = 0, connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    with suppress(sqlite3.OperationalError):  # no such table yet
        kept = connection.execute("SELECT max(number) FROM annotations").fetchone()[0] or 0
    try:
        once = int((folder / COUNT).read_text(encoding="ascii"))
    except (OSError, ValueError):  # of an older version, or never annotated
        once = 0
    if once > kept:
        what, anew = f"{kept} of at least {once} annotations are in it", f"to go on without them, delete {COUNT}"
    elif not tables and (beside := [name for name in ("run.lock", "adapters", "arrays") if (folder / name).exists()]):
        what, anew = f"nothing is in it, though {', '.join(beside)} of a run lie beside it", "or use another folder"
    else:
        return
    raise LostRecord(
        f"{folder / 'run.sqlite'}: the record is not whole: {what}. Most likely the folder was copied without "
        f"run.sqlite{WAL}: bring that file from where it was copied; {anew}"
    )


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
