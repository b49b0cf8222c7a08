"""The database schema as a list of numbered steps. A released step is never edited; add one below it.

Each step runs in one transaction together with its own row in the table `migrations`, so a database is
always at a whole step. `docs/store.md` describes the tables for readers without this library.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

from guidestar.errors import ForeignDatabase, NewerDatabase
from guidestar.store import files


def m001_tables(db: sqlite3.Connection) -> None:
    """Everything a run records."""
    for statement in (
        """CREATE TABLE run (
            id INTEGER PRIMARY KEY CHECK (id = 1),
            key TEXT NOT NULL, facts TEXT NOT NULL, begun_at TEXT NOT NULL
        ) STRICT""",
        """CREATE TABLE examples (
            id TEXT PRIMARY KEY, fields TEXT NOT NULL, prompt TEXT NOT NULL, source TEXT NOT NULL
        ) STRICT""",
        """CREATE TABLE queries (
            round INTEGER PRIMARY KEY CHECK (round >= 0), asked_at TEXT NOT NULL
        ) STRICT""",
        """CREATE TABLE picks (
            round INTEGER NOT NULL REFERENCES queries (round), position INTEGER NOT NULL,
            example TEXT NOT NULL UNIQUE REFERENCES examples (id), score REAL, details TEXT NOT NULL,
            PRIMARY KEY (round, position)
        ) STRICT""",
        """CREATE TABLE answers (
            number INTEGER PRIMARY KEY AUTOINCREMENT, example TEXT NOT NULL REFERENCES picks (example),
            kind TEXT NOT NULL CHECK (kind IN ('label', 'skip')), answer TEXT NOT NULL,
            annotator TEXT NOT NULL, answered_at TEXT NOT NULL
        ) STRICT""",
        """CREATE INDEX answers_by_example ON answers (example, number)""",
        """CREATE TABLE adapters (
            round INTEGER PRIMARY KEY REFERENCES queries (round),
            sha256 TEXT NOT NULL, recorded_at TEXT NOT NULL
        ) STRICT""",
        """CREATE TABLE arrays (
            round INTEGER NOT NULL, name TEXT NOT NULL, sha256 TEXT NOT NULL, recorded_at TEXT NOT NULL,
            PRIMARY KEY (round, name)
        ) STRICT""",
        """CREATE TABLE metrics (
            round INTEGER PRIMARY KEY REFERENCES queries (round),
            labels INTEGER NOT NULL, "values" TEXT NOT NULL, recorded_at TEXT NOT NULL
        ) STRICT""",
        """CREATE TABLE timings (
            round INTEGER NOT NULL, phase TEXT NOT NULL, seconds REAL NOT NULL, count INTEGER NOT NULL,
            PRIMARY KEY (round, phase)
        ) STRICT""",
    ):
        db.execute(statement)


def m002_finish(db: sqlite3.Connection) -> None:
    """Why and when the run ended; one row at most."""
    db.execute(
        """CREATE TABLE finish (
            id INTEGER PRIMARY KEY CHECK (id = 1), stop TEXT NOT NULL, finished_at TEXT NOT NULL
        ) STRICT"""
    )


def m003_annotations(db: sqlite3.Connection) -> None:
    """All that annotators do, in one append-only table; examples nobody asked for; what was shown to whom."""
    for statement in (
        """CREATE TABLE annotations (
            number INTEGER PRIMARY KEY AUTOINCREMENT, example TEXT NOT NULL REFERENCES examples (id),
            kind TEXT NOT NULL CHECK (kind IN ('label', 'skip', 'undo', 'flag', 'unflag', 'note', 'verdict')),
            text TEXT NOT NULL, annotator TEXT NOT NULL, source TEXT NOT NULL,
            decision TEXT UNIQUE, annotated_at TEXT NOT NULL
        ) STRICT""",
        """CREATE INDEX annotations_by_example ON annotations (example, number)""",
        # Until here, answers came from the oracle or through Python.
        """INSERT INTO annotations
            SELECT number, example, kind, answer, annotator,
                   CASE annotator WHEN 'oracle' THEN 'oracle' ELSE 'python' END, NULL, answered_at
            FROM answers ORDER BY number""",
        """DROP TABLE answers""",
        """CREATE TABLE extras (
            number INTEGER PRIMARY KEY AUTOINCREMENT, example TEXT NOT NULL UNIQUE REFERENCES examples (id),
            round INTEGER NOT NULL CHECK (round >= 0), added_at TEXT NOT NULL
        ) STRICT""",
        """CREATE TABLE claims (
            example TEXT NOT NULL REFERENCES examples (id), annotator TEXT NOT NULL, claimed_at TEXT NOT NULL,
            PRIMARY KEY (example, annotator)
        ) STRICT""",
    ):
        db.execute(statement)


def m004_suggestions(db: sqlite3.Connection) -> None:
    """What the model itself answers, kept when a round is asked."""
    db.execute(
        """CREATE TABLE suggestions (
            round INTEGER NOT NULL REFERENCES queries (round), example TEXT NOT NULL REFERENCES examples (id),
            adapter INTEGER NOT NULL CHECK (adapter >= -1), answer TEXT NOT NULL, probabilities TEXT NOT NULL,
            recorded_at TEXT NOT NULL, PRIMARY KEY (round, example)
        ) STRICT"""
    )


def m005_budgets(db: sqlite3.Connection) -> None:
    """Label budgets larger than the one the run was begun with, and the round from which on each held."""
    db.execute(
        """CREATE TABLE budgets (
            number INTEGER PRIMARY KEY AUTOINCREMENT, budget INTEGER NOT NULL,
            round INTEGER NOT NULL CHECK (round >= 0), raised_at TEXT NOT NULL
        ) STRICT"""
    )


def m006_ahead(db: sqlite3.Connection) -> None:
    """A query may be open: some of its examples were asked ahead, the others are chosen later. What can be asked next."""
    db.execute("ALTER TABLE queries ADD COLUMN open INTEGER NOT NULL DEFAULT 0 CHECK (open IN (0, 1))")
    db.execute(
        """CREATE TABLE reserve (
            number INTEGER PRIMARY KEY AUTOINCREMENT, round INTEGER NOT NULL CHECK (round >= 0),
            example TEXT NOT NULL UNIQUE, fields TEXT NOT NULL, prompt TEXT NOT NULL, source TEXT NOT NULL,
            score REAL, details TEXT NOT NULL
        ) STRICT"""
    )


def m007_relabels(db: sqlite3.Connection) -> None:
    """Changes of the labels while a run lasts, each with its place in the log of annotations."""
    db.execute(
        """CREATE TABLE relabels (
            number INTEGER PRIMARY KEY AUTOINCREMENT, names TEXT NOT NULL, key TEXT NOT NULL, facts TEXT NOT NULL,
            round INTEGER NOT NULL CHECK (round >= 0), after INTEGER NOT NULL, changed_at TEXT NOT NULL
        ) STRICT"""
    )


MIGRATIONS: list[Callable[[sqlite3.Connection], None]] = [
    m001_tables, m002_finish, m003_annotations, m004_suggestions, m005_budgets, m006_ahead,
    m007_relabels,
]  # fmt: skip


def migrate(db: sqlite3.Connection, where: str) -> None:
    """Bring a database to the newest step; does nothing if it is there.

    db: a connection in autocommit mode. where: its path, for messages.
    Raises NewerDatabase if a newer version of this library wrote it, ForeignDatabase if it holds some other program's data.
    """
    done = applied(db, where)
    if done > len(MIGRATIONS):
        raise NewerDatabase(
            f"{where}: found schema {done}, written by a newer version of guidestar; "
            f"allowed: up to {len(MIGRATIONS)}. Install the newer version to read it"
        )
    for number, migration in enumerate(MIGRATIONS[done:], done + 1):
        db.execute("BEGIN IMMEDIATE")
        try:
            if applied(db, where) < number:  # another process may have been faster
                db.execute(
                    "CREATE TABLE IF NOT EXISTS migrations "
                    "(number INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at TEXT NOT NULL) STRICT"
                )
                migration(db)
                db.execute("INSERT INTO migrations VALUES (?, ?, ?)", (number, migration.__name__, timestamp()))
            files.step(f"commit {migration.__name__}")
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        files.step(f"committed {migration.__name__}")


def timestamp() -> str:
    """The time now, UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def applied(db: sqlite3.Connection, where: str) -> int:
    """Number of the last step applied, 0 for an empty database. Raises ForeignDatabase."""
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables:
        return 0
    with suppress(sqlite3.OperationalError):  # no such table or column
        steps = db.execute("SELECT number, name FROM migrations ORDER BY number").fetchall()
        ours = [(number, migration.__name__) for number, migration in enumerate(MIGRATIONS, 1)]
        if steps[: len(ours)] == ours[: len(steps)]:
            return len(steps)
    raise ForeignDatabase(
        f"{where}: is not the database of a guidestar run; found the tables {', '.join(sorted(tables))}"
    )
