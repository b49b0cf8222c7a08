"""The one place that remembers: everything a run has asked, learned and measured, and the only SQL."""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from guidestar.errors import ConfigMismatch, StoreError
from guidestar.records import Example, Label, Metrics, Pick, Query, Skip, Stop
from guidestar.store import files
from guidestar.store.migrations import migrate, timestamp

DATABASE = "run.sqlite"
_WAIT = 30.0  # seconds that a write waits for another process's write


@dataclass(frozen=True)
class Entry:
    """One row of the history of answers. `at` is UTC, ISO 8601."""

    id: str
    answer: Label | Skip
    at: str


class Store:
    """One run folder: `run.sqlite` and the files it has recorded under `adapters/` and `arrays/`.

    Contract of every method:

    - A method that writes has done so durably when it returns, and not at all when it raises: the database
      in one transaction, files whole or absent and recorded only after they are in place. A process killed
      at any moment loses no more than the call it was in.
    - What a restarted run repeats may be repeated: the same content again does nothing, other content for
      what is already recorded raises StoreError.
    - Several processes may have the folder open and read, and add answers; only the holder of `lock` may
      do the rest. A Store object belongs to the thread that opened it.
    - Raises StoreError, with the path and the reason, if the folder cannot be read or written, if the
      database or a file is damaged, or if a round or an example is asked for that was never recorded.
    """

    def __init__(self, folder: Path, db: sqlite3.Connection) -> None:
        """Use `Store.open`."""
        self.folder = folder
        self._db = db

    # --- opening ----------------------------------------------------------------------------------

    @classmethod
    def open(cls, folder: Path, *, create: bool = False) -> Store:
        """The store of a run folder, its schema brought up to date. With `create`, made if it is missing."""
        path = folder / DATABASE
        if create:
            with files.writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
        elif not folder.is_dir():
            raise StoreError(f"{folder}: no such folder")
        elif not path.is_file():
            raise StoreError(f"{folder}: is not a run folder; it has no {DATABASE}")
        with _plain_words(path):
            db = sqlite3.connect(path, timeout=_WAIT, isolation_level=None)
            try:
                for setting in (
                    "journal_mode = WAL",
                    "synchronous = FULL",
                    "fullfsync = ON",
                    "foreign_keys = ON",
                ):
                    db.execute(f"PRAGMA {setting}")
                migrate(db, str(path))
                if db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                    raise sqlite3.DatabaseError("malformed")
                db.execute("BEGIN IMMEDIATE")  # a folder that cannot be written is found out here
                db.execute("ROLLBACK")
            except BaseException:
                db.close()
                raise
        return cls(folder, db)

    def close(self) -> None:
        """Close the database. The store cannot be used any more."""
        with _plain_words(self.folder / DATABASE):
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the one process that runs in this folder; leftovers of a crashed one are removed.

        The operating system gives the lock back when the process ends, however it ends. Adding answers
        needs no lock. Raises StoreError if another process holds it.
        """
        path = self.folder / "run.lock"
        with files.writing(path):
            file = path.open("a+", encoding="utf-8")
        with file:
            with files.writing(path):
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    file.seek(0)
                    holder = file.read().strip()
                    if holder == str(os.getpid()):
                        raise StoreError(
                            f"{self.folder}: is open in this process already; close() the earlier Run, or use `with`"
                        ) from None
                    by = f"process {holder}" if holder else "another process"
                    raise StoreError(f"{self.folder}: is in use by {by}; wait for its end or stop it") from None
                file.truncate(0)
                file.write(str(os.getpid()))
                file.flush()
            for name in ("adapters", "arrays"):
                files.clean(self.folder / name)
            yield

    # --- what the run is --------------------------------------------------------------------------

    def begin(self, key: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Record what the run is, or check that it is still the same.

        key: flat, JSON-able; what must not change. facts: JSON-able; kept from the first time.
        Raises ConfigMismatch that names every key that differs.
        """
        key, facts = _through_json(key), _through_json(facts)
        with self._transaction("begin"):
            row = self._row("SELECT key FROM run")
            if row is None:
                self._db.execute("INSERT INTO run VALUES (1, ?, ?, ?)", (_json(key), _json(facts), timestamp()))
                return
            begun = json.loads(row[0])
            differences = [
                f"{name}: begun {_found(begun, name)}, now {_found(key, name).removeprefix('with ')}"
                for name in dict.fromkeys([*begun, *key])
                if name not in begun or name not in key or begun[name] != key[name]
            ]
            if differences:
                raise ConfigMismatch(
                    f"{self.folder}: this run was begun with another configuration or other data:\n"
                    + "\n".join(f"  {line}" for line in differences)
                    + "\nPut these back to continue it, or choose another folder for a new run"
                )

    @property
    def begun(self) -> bool:
        """Whether `begin` has recorded what the run is."""
        return self._row("SELECT 1 FROM run") is not None

    @property
    def key(self) -> dict[str, Any]:
        """What `begin` recorded first."""
        return self._begun(0)

    @property
    def facts(self) -> dict[str, Any]:
        """The facts that the first `begin` recorded."""
        return self._begun(1)

    def _begun(self, column: int) -> dict[str, Any]:
        row = self._row("SELECT key, facts FROM run")
        if row is None:
            raise StoreError(f"{self.folder}: nothing was recorded yet; the run has not begun")
        value: dict[str, Any] = json.loads(row[column])
        return value

    def finish(self, stop: Stop) -> None:
        """Record why the run ended."""
        with self._transaction("finish"):
            before = self._finished()
            if before not in (None, stop):
                raise StoreError(f"{self.folder}: the run ended before, with {before.name}; found {stop.name} now")
            self._db.execute("INSERT OR IGNORE INTO finish VALUES (1, ?, ?)", (stop.name, timestamp()))

    def finished(self) -> Stop | None:
        """Why the run ended, None while it has not."""
        return self._finished()

    def _finished(self) -> Stop | None:
        row = self._row("SELECT stop FROM finish")
        return None if row is None else Stop[row[0]]

    # --- queries and answers ----------------------------------------------------------------------

    def current_round(self) -> int:
        """The first round without metrics."""
        return int(self._rows("SELECT count(*) FROM metrics")[0][0])

    def rounds(self) -> int:
        """Number of rounds that have a query."""
        return int(self._rows("SELECT count(*) FROM queries")[0][0])

    def has_query(self, round: int) -> bool:
        """Whether the examples of a round are chosen."""
        return self._row("SELECT 1 FROM queries WHERE round = ?", round) is not None

    def add_query(self, query: Query, examples: Mapping[str, Example]) -> None:
        """Record the picks of the next round in the order of asking, with the examples they name."""
        picks = [(pick.id, _real(pick.score), _numbers(pick.details)) for pick in query.picks]
        with self._transaction(f"add_query {query.round}"):
            if self.has_query(query.round):
                if self._picks(query.round) != picks:
                    raise StoreError(f"{self.folder}: round {query.round} already has a query, with other picks")
                return
            if query.round != self.rounds():
                raise StoreError(
                    f"{self.folder}: found a query for round {query.round}; the next round is {self.rounds()}"
                )
            self._db.execute("INSERT INTO queries VALUES (?, ?)", (query.round, timestamp()))
            for position, (id, score, details) in enumerate(picks):
                asked = self._row("SELECT round FROM picks WHERE example = ?", id)
                if asked is not None:
                    raise StoreError(
                        f"{self.folder}: round {query.round} asks for example {id} again; "
                        f"round {asked[0]} has asked for it"
                    )
                example = examples[id]
                self._db.execute(
                    "INSERT INTO examples VALUES (?, ?, ?, ?)",
                    (id, _json(dict(example.fields)), example.prompt, example.where),
                )
                self._db.execute(
                    "INSERT INTO picks VALUES (?, ?, ?, ?, ?)", (query.round, position, id, score, details)
                )

    def query(self, round: int) -> Query:
        """The picks of a round in the order of asking."""
        self._need_query(round)
        return Query(
            round,
            tuple(
                Pick(id, math.nan if score is None else score, _from_numbers(details))
                for id, score, details in self._picks(round)
            ),
        )

    def _picks(self, round: int) -> list[tuple[str, float | None, str]]:
        return self._rows("SELECT example, score, details FROM picks WHERE round = ? ORDER BY position", round)

    def example(self, id: str) -> Example:
        """An example that was asked for."""
        row = self._row("SELECT id, fields, prompt, source FROM examples WHERE id = ?", id)
        if row is None:
            raise StoreError(f"{self.folder}: example {id} was never asked for")
        return _example(row)

    def asked(self) -> set[str]:
        """Ids of all examples that were asked for, answered or not."""
        return {id for (id,) in self._rows("SELECT example FROM picks")}

    def add_answer(self, id: str, answer: Label | Skip) -> bool:
        """Append an answer to the history; the last one of an example counts.

        Returns False, with nothing stored, if it equals the answer that counts already.
        Raises StoreError if the example was never asked for.
        """
        with self._transaction(f"add_answer {id}"):
            if self._row("SELECT 1 FROM picks WHERE example = ?", id) is None:
                raise StoreError(f"{self.folder}: example {id} was never asked for, so it cannot be answered")
            kind, text = ("label", answer.answer) if isinstance(answer, Label) else ("skip", answer.reason)
            last = self._row(
                "SELECT kind, answer, annotator FROM answers WHERE example = ? ORDER BY number DESC LIMIT 1",
                id,
            )
            if last == (kind, text, answer.annotator):
                return False
            self._db.execute(
                "INSERT INTO answers (example, kind, answer, annotator, answered_at) VALUES (?, ?, ?, ?, ?)",
                (id, kind, text, answer.annotator, timestamp()),
            )
            return True

    def unanswered(self, round: int) -> list[Example]:
        """The examples of a round that have no answer yet, in the order of asking."""
        self._need_query(round)
        rows = self._rows(
            "SELECT id, fields, prompt, source FROM picks JOIN examples ON id = example WHERE round = ? "
            "AND NOT EXISTS (SELECT 1 FROM answers WHERE answers.example = id) ORDER BY position",
            round,
        )
        return [_example(row) for row in rows]

    def answers(self) -> dict[str, Label | Skip]:
        """Example id -> the answer that counts, in the order of asking."""
        return {example.id: answer for example, answer in self._answered(None)}

    def labelled(self, round: int | None = None) -> list[tuple[Example, Label]]:
        """The labelled examples of all rounds up to `round`, in the order of asking; without skipped ones."""
        return [(example, answer) for example, answer in self._answered(round) if isinstance(answer, Label)]

    def _answered(self, round: int | None) -> list[tuple[Example, Label | Skip]]:
        rows = self._rows(
            "SELECT id, fields, prompt, source, kind, answer, annotator FROM picks "
            "JOIN examples ON id = picks.example JOIN answers ON answers.example = id "
            "WHERE number = (SELECT max(number) FROM answers WHERE answers.example = id) "
            "AND round <= ? ORDER BY round, position",
            self.rounds() if round is None else round,
        )
        return [(_example(row[:4]), _answer(*row[4:])) for row in rows]

    def history(self) -> list[Entry]:
        """Every answer ever given, in the order given."""
        rows = self._rows("SELECT example, kind, answer, annotator, answered_at FROM answers ORDER BY number")
        return [Entry(id, _answer(kind, text, annotator), at) for id, kind, text, annotator, at in rows]

    # --- adapters and arrays ----------------------------------------------------------------------

    def add_adapter(self, round: int, fill: Callable[[Path], None]) -> Path:
        """Publish `adapters/round-003/` with what `fill` writes into the folder it is given.

        Does nothing if the adapter is there. One whose folder was deleted is recorded anew.
        """
        self._need_query(round)
        if self.has_adapter(round):
            return self.adapter(round)
        # The old record goes first: a crash below then leaves an unrecorded folder, not a wrong one.
        self._forget("adapters", "round = ?", round)
        path = self._adapter_path(round)
        digest = files.publish_folder(path, fill)
        with self._transaction(f"add_adapter {round}"):
            self._db.execute("INSERT INTO adapters VALUES (?, ?, ?)", (round, digest, timestamp()))
        return path

    def has_adapter(self, round: int) -> bool:
        """Whether a round's adapter is recorded and its folder, damaged or not, is still there."""
        recorded = self._row("SELECT 1 FROM adapters WHERE round = ?", round) is not None
        return recorded and self._adapter_path(round).exists()

    def adapter(self, round: int) -> Path:
        """The folder of a round's adapter, its content checked against the record."""
        path = self._adapter_path(round)
        row = self._row("SELECT sha256 FROM adapters WHERE round = ?", round)
        if row is None:
            raise StoreError(f"{self.folder}: round {round} has no adapter")
        if not path.exists() or files.sha256(path) != row[0]:
            raise StoreError(
                f"{path}: the adapter is truncated, changed or gone since it was recorded; "
                "delete the folder and run again: it is then trained once more from the recorded labels"
            )
        return path

    def add_arrays(
        self,
        round: int,
        name: str,
        arrays: Mapping[str, np.ndarray],
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Publish `arrays/round-003-NAME.safetensors`. Other content replaces what was recorded before.

        It may be added before the round's query. name: letters, digits, - and _.
        """
        path = self._arrays_path(round, name)
        content = files.arrays_as_bytes(arrays, metadata or {})
        row = self._row("SELECT sha256 FROM arrays WHERE round = ? AND name = ?", round, name)
        if row is not None and path.exists() and row[0] == files.sha256_of_bytes(content):
            return
        self._forget("arrays", "round = ? AND name = ?", round, name)
        digest = files.write_bytes(path, content)
        with self._transaction(f"add_arrays {round} {name}"):
            self._db.execute("INSERT INTO arrays VALUES (?, ?, ?, ?)", (round, name, digest, timestamp()))

    def has_arrays(self, round: int, name: str) -> bool:
        """Whether arrays of this name are recorded and their file, damaged or not, is still there."""
        recorded = self._row("SELECT 1 FROM arrays WHERE round = ? AND name = ?", round, name) is not None
        return recorded and self._arrays_path(round, name).exists()

    def arrays(self, round: int, name: str) -> dict[str, np.ndarray]:
        """The arrays of a round, checked against the record."""
        path = self._arrays_path(round, name)
        row = self._row("SELECT sha256 FROM arrays WHERE round = ? AND name = ?", round, name)
        if row is None:
            raise StoreError(f"{self.folder}: round {round} has no arrays called {name!r}")
        if not path.exists() or files.sha256(path) != row[0]:
            raise StoreError(
                f"{path}: the file is truncated, changed or gone since it was recorded; "
                "bring it back from a copy, or delete it to go on without it"
            )
        return files.read_arrays(path)

    def _adapter_path(self, round: int) -> Path:
        return self.folder / "adapters" / f"round-{round:03d}"

    def _arrays_path(self, round: int, name: str) -> Path:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise StoreError(f"{self.folder}: {name!r} cannot name arrays; allowed: letters, digits, - and _")
        return self.folder / "arrays" / f"round-{round:03d}-{name}.safetensors"

    def _forget(self, table: str, condition: str, *values: object) -> None:
        with self._transaction(f"forget {table}"):
            self._db.execute(f"DELETE FROM {table} WHERE {condition}", values)  # noqa: S608 - our own words

    # --- measurements -----------------------------------------------------------------------------

    def add_metrics(self, metrics: Metrics) -> None:
        """Record what was measured after a round; the round is then over."""
        row = (metrics.labels, _numbers(metrics.values))
        with self._transaction(f"add_metrics {metrics.round}"):
            before = self._row('SELECT labels, "values" FROM metrics WHERE round = ?', metrics.round)
            if before is not None:
                if before != row:
                    raise StoreError(f"{self.folder}: round {metrics.round} already has metrics, with other values")
                return
            if metrics.round != self.current_round():
                raise StoreError(
                    f"{self.folder}: found metrics for round {metrics.round}; "
                    f"the first round without them is {self.current_round()}"
                )
            self._need_query(metrics.round)
            self._db.execute("INSERT INTO metrics VALUES (?, ?, ?, ?)", (metrics.round, *row, timestamp()))

    def has_metrics(self, round: int) -> bool:
        """Whether a round is over."""
        return self._row("SELECT 1 FROM metrics WHERE round = ?", round) is not None

    def metrics(self) -> list[Metrics]:
        """What was measured, by round."""
        rows = self._rows('SELECT round, labels, "values" FROM metrics ORDER BY round')
        return [Metrics(round, labels, _from_numbers(values)) for round, labels, values in rows]

    def add_timing(self, round: int, phase: str, seconds: float, count: int) -> None:
        """Record how long a phase took for `count` items; an earlier record of that phase is replaced."""
        with self._transaction(f"add_timing {round} {phase}"):
            self._db.execute(
                "INSERT INTO timings VALUES (?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET seconds = excluded.seconds, count = excluded.count",
                (round, phase, seconds, count),
            )

    def timings(self) -> list[tuple[int, str, float, int]]:
        """(round, phase, seconds, count) by round, within a round in the order first recorded."""
        return self._rows("SELECT round, phase, seconds, count FROM timings ORDER BY round, rowid")

    def dump(self) -> dict[str, Any]:
        """All that must be equal between an interrupted and an uninterrupted run; no clock is in it.

        Scores are hexadecimal texts, so that equal means equal to the last bit.
        """
        stop = self.finished()
        return {
            "queries": [
                [(id, None if score is None else score.hex(), details) for id, score, details in self._picks(r)]
                for r in range(self.rounds())
            ],
            "examples": self._rows("SELECT * FROM examples ORDER BY id"),
            "answers": [(entry.id, entry.answer) for entry in self.history()],
            "adapters": self._rows("SELECT round, sha256 FROM adapters ORDER BY round"),
            "arrays": self._rows("SELECT round, name, sha256 FROM arrays ORDER BY round, name"),
            "metrics": self._rows('SELECT round, labels, "values" FROM metrics ORDER BY round'),
            "finished": stop and stop.name,
        }

    # --- SQL --------------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self, name: str) -> Iterator[None]:
        """All or nothing of what is inside; when it ends, it is on the disk."""
        with _plain_words(self.folder / DATABASE):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                files.step(f"commit {name}")
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        files.step(f"committed {name}")

    def _rows(self, sql: str, *values: object) -> list[Any]:
        with _plain_words(self.folder / DATABASE):
            return self._db.execute(sql, values).fetchall()

    def _row(self, sql: str, *values: object) -> Any:
        return next(iter(self._rows(sql, *values)), None)

    def _need_query(self, round: int) -> None:
        if not self.has_query(round):
            raise StoreError(f"{self.folder}: round {round} has no query; rounds with one: {self.rounds()}")


@contextmanager
def _plain_words(path: Path) -> Iterator[None]:
    """Turn an error of SQLite into a StoreError that says what to do."""
    try:
        yield
    except sqlite3.Error as error:
        text = str(error)
        for sign, reason in _SQLITE_REASONS.items():
            if sign in text:
                text = reason
                break
        raise StoreError(f"{path}: {text}") from error


_SQLITE_REASONS = {
    "is full": "cannot be written: the disk is full. Nothing recorded is lost; make room and run again",
    "readonly": "cannot be written: the file or its folder is read-only. Nothing recorded is lost",
    "locked": f"cannot be written: another process has been writing for {_WAIT:.0f} seconds. "
    "Nothing recorded is lost; run again",
    "unable to open": "cannot be opened; it and its folder must be readable and writable",
    "disk I/O": "cannot be read or written: the disk reports an error",
    "not a database": "is not an SQLite database, or its head is damaged; bring it back from a copy",
    "malformed": "the database is damaged; bring it back from a copy",
}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _through_json(value: Mapping[str, Any]) -> dict[str, Any]:
    """As it comes back from the database: tuples are lists, keys are texts."""
    plain: dict[str, Any] = json.loads(_json(dict(value)))
    return plain


def _found(mapping: Mapping[str, Any], name: str) -> str:
    return f"with {mapping[name]!r}" if name in mapping else "without it"


def _real(score: float) -> float | None:
    """A score for a REAL column; nan, "none", is NULL."""
    return None if math.isnan(score) else float(score)


def _numbers(values: Mapping[str, float]) -> str:
    """Name -> number as strict JSON; nan and the infinities are the texts "nan", "inf", "-inf"."""
    return _json({k: float(v) if math.isfinite(v) else repr(float(v)) for k, v in values.items()})


def _from_numbers(text: str) -> dict[str, float]:
    return {name: float(value) for name, value in json.loads(text).items()}


def _example(row: tuple[str, str, str, str]) -> Example:
    id, fields, prompt, source = row
    return Example(id, json.loads(fields), prompt, source)


def _answer(kind: str, text: str, annotator: str) -> Label | Skip:
    return Label(text, annotator) if kind == "label" else Skip(text, annotator)
