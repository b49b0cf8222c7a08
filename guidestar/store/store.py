"""The one place that remembers: everything a run has asked, learned and measured."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np

from guidestar.errors import ConfigMismatch, LostRecord, StoreError
from guidestar.records import Example, Metrics, Pick, Query, Stop, Suggestion
from guidestar.store import files
from guidestar.store.ahead import Ahead
from guidestar.store.annotations import (
    CHOSEN_ROUNDS,
    CURRENT_ROUND,
    Annotations,
    insert_example,
    need_query,
    pick_row,
    read_examples,
)
from guidestar.store.database import WAL, Database, json_of, numbers_as_json, numbers_of
from guidestar.store.files import DATABASE
from guidestar.store.migrations import timestamp
from guidestar.store.recorded import Recorded
from guidestar.store.relabels import Relabels

BUDGET, DATA = "query.budget", "data_hash"  # in a run's key: the names in it that the store understands
GONE = ("train.head_first", "train.average")  # of older versions; at their defaults they meant nothing
PROVISIONAL = "provisional"  # in a run's facts: true until the model is known


class Store:
    """One run folder: `run.sqlite` and the files it has recorded under `adapters/` and `arrays/`.

    Contract of every method:

    - A method that writes has done so durably when it returns, and not at all when it raises: the database
      in one transaction, files whole or absent and recorded only after they are in place. A process killed
      at any moment loses no more than the call it was in.
    - What a restarted run repeats may be repeated: the same content again does nothing, other content for
      what is already recorded raises StoreError.
    - Several processes may have the folder open and read, and add annotations; only the holder of `lock` may
      do the rest. A Store object belongs to the thread that opened it.
    - Raises StoreError, with the path and the reason, if the folder cannot be read or written, if the
      database or a file is damaged, or if a round or an example is asked for that was never recorded.

    annotations: what annotators did; it is read and written through this attribute alone. ahead: what is asked before its
    round is chosen. relabels: changes of the labels.
    """

    def __init__(self, folder: Path, database: Database) -> None:
        """Use `Store.open`."""
        self.folder = folder
        self.annotations = Annotations(database)
        self.ahead = Ahead(database)
        self.relabels = Relabels(database, self.annotations)
        self._db = database
        self._adapters = Recorded(
            database, "adapters", ("round",), "", "adapter",
            "delete the folder and run again: it is then trained once more from the recorded labels",
        )  # fmt: skip
        self._arrays = Recorded(
            database, "arrays", ("round", "name"), ".safetensors", "file",
            "bring it back from a copy, or delete it to go on without it",
        )  # fmt: skip

    # --- opening ----------------------------------------------------------------------------------

    @classmethod
    def open(cls, folder: Path, *, create: bool = False, read: bool = False) -> Store:
        """The store of a run folder, its schema brought up to date. With `create`, made if it is missing. read: nothing is
        written; a run of another machine is then read from a copy."""
        path = folder / DATABASE
        if create:
            with files.writing(folder):
                files.private_folders(folder.parent, folder)
                folder.mkdir(exist_ok=True)
        elif not folder.is_dir():
            raise StoreError(f"{folder}: no such folder")
        elif not path.is_file():
            raise StoreError(f"{folder}: is not a run folder; it has no {DATABASE}")
        return cls(folder, Database.open(path, create=create, read=read))

    def close(self) -> None:
        """Close the database. The store cannot be used any more."""
        self._db.close()

    def checkpoint(self) -> None:
        """Bring what was recorded into `run.sqlite` itself, out of its WAL; every round does so."""
        self._db.checkpoint()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the one process that runs in this folder; leftovers of a crashed one are removed.

        The operating system gives the lock back when the process ends, however it ends. Adding
        annotations needs no lock. Raises StoreError if another process holds it.
        """
        with files.running(self.folder):
            for name in ("", "adapters", "arrays"):
                files.clean(self.folder / name)
            yield

    # --- what the run is --------------------------------------------------------------------------

    def begin(self, key: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Record what the run is, or check that it is still the same.

        key: flat, JSON-able; what must not change. A missing name is the same as None, so that a setting that
        did not exist when the run was begun is equal to its default. facts: JSON-able; kept from the first time. While
        they say that they are provisional, nothing was trained yet, and key and facts are replaced if the data are the same.
        Raises ConfigMismatch that names every key that differs, LostRecord if files of later rounds lie in the folder.
        """
        # As they come back from the database: tuples are lists, keys are texts.
        key, facts = json.loads(json_of(dict(key))), json.loads(json_of(dict(facts)))
        if beyond := self.beyond():
            raise LostRecord(
                f"{self.folder}: the record in {DATABASE} ends before {beyond[0]}, which lies there: labels and rounds may be "
                f"missing. Bring {DATABASE} and {DATABASE}{WAL} from where the folder was copied; or move adapters and "
                "arrays away to go on from what is recorded"
            )
        with self._db.transaction("begin", checkpoint=True):
            row = self._db.row("SELECT key, facts FROM run")
            if row is None:
                self._db.execute("INSERT INTO run VALUES (1, ?, ?, ?)", json_of(key), json_of(facts), timestamp())
                return
            begun = self._now(json.loads(row[0]))
            if json.loads(row[1]).get(PROVISIONAL) and begun.get(DATA) == key.get(DATA):
                self._db.execute("UPDATE run SET key = ?, facts = ?", json_of(key), json_of(facts))
                return
            differences = [
                f"{name}: begun {_shown(begun, name)}, now {_shown(key, name).removeprefix('with ')}{_meant(name)}"
                for name in dict.fromkeys([*begun, *key])
                if begun.get(name) != key.get(name)
            ]
            if differences:
                raise ConfigMismatch(
                    f"{self.folder}: this run was begun with another configuration or other data:\n"
                    + "\n".join(f"  {line}" for line in differences)
                    + "\nPut these back to continue it, or choose another folder for a new run; its labels come along with "
                    "guidestar export and import"
                )

    @property
    def begun(self) -> bool:
        """Whether `begin` has recorded what the run is."""
        return self._db.row("SELECT 1 FROM run") is not None

    @property
    def key(self) -> dict[str, Any]:
        """What `begin` recorded first, with the budget and the labels as they are now."""
        return self._now(self._begun(0))

    @property
    def facts(self) -> dict[str, Any]:
        """The facts that the first `begin` recorded, with the labels and the configuration's budget as they are now."""
        facts = self.relabels.facts(self._begun(1))
        query = (facts.get("config") or {}).get("query")
        if query and (raised := self._raised()):
            query["budget"] = raised[-1][0]
        return facts

    def budgets(self) -> list[tuple[int, int]]:
        """(labels in all, round from which on) of every budget: the one the run was begun with, and each that was larger.
        Empty for a run whose key names none."""
        first = self._begun(0).get(BUDGET)
        return [] if first is None else [(first, 0), *self._raised()]

    def _raised(self) -> list[tuple[int, int]]:
        return self._db.rows("SELECT budget, round FROM budgets ORDER BY number")

    def _now(self, begun: dict[str, Any]) -> dict[str, Any]:
        begun = {name: value for name, value in begun.items() if value or name not in GONE}
        key, raised = self.relabels.key(begun), self._raised()
        return key | {BUDGET: raised[-1][0]} if raised else key

    def raise_budget(self, budget: int) -> None:
        """Ask for more labels in all than so far. A run that ended because its budget was spent goes on.

        Raises StoreError if it is not more.
        """
        with self._db.transaction("raise_budget"):
            known = self.budgets()
            if not known or budget <= known[-1][0]:
                raise StoreError(
                    f"{self.folder}: found a budget of {budget} labels; allowed: more than {known[-1][0] if known else 'none'}"
                )
            raised = budget, self.rounds(), timestamp()
            self._db.execute("INSERT INTO budgets (budget, round, raised_at) VALUES (?, ?, ?)", *raised)
            self._db.execute("DELETE FROM finish WHERE stop = ?", Stop.BUDGET.name)

    def _begun(self, column: int) -> dict[str, Any]:
        row = self._db.row("SELECT key, facts FROM run")
        if row is None:
            raise StoreError(f"{self.folder}: nothing was recorded yet; the run has not begun")
        return json.loads(row[column])

    def finish(self, stop: Stop) -> None:
        """Record why the run ended."""
        with self._db.transaction("finish", checkpoint=True):
            before = self.finished()
            if before not in (None, stop):
                raise StoreError(f"{self.folder}: the run ended before, with {before.name}; found {stop.name} now")
            self._db.execute("INSERT OR IGNORE INTO finish VALUES (1, ?, ?)", stop.name, timestamp())

    def reopen(self) -> None:
        """Forget that the run ended because that was advised; other ends stay."""
        with self._db.transaction("reopen"):
            self._db.execute("DELETE FROM finish WHERE stop = ?", Stop.ADVISED.name)

    def finished(self) -> Stop | None:
        """Why the run ended, None while it has not."""
        row = self._db.row("SELECT stop FROM finish")
        return None if row is None else Stop[row[0]]

    def ended(self, budget: int) -> Stop | None:
        """`finished` of a run that is to have this budget: None, too, where it spent a smaller one and would go on."""
        why = self.finished()
        return None if why is Stop.BUDGET and any(last < budget for last, _ in self.budgets()[-1:]) else why

    # --- queries ----------------------------------------------------------------------------------

    def current_round(self) -> int:
        """The first round without metrics."""
        return self._db.number(CURRENT_ROUND)

    def rounds(self) -> int:
        """Number of rounds whose examples are all chosen."""
        return self._db.number(CHOSEN_ROUNDS)

    def has_query(self, round: int) -> bool:
        """Whether the examples of a round are all chosen."""
        return self._db.row("SELECT 1 FROM queries WHERE round = ? AND NOT open", round) is not None

    def add_query(self, query: Query, examples: Mapping[str, Example]) -> None:
        """Record the picks of the next round in the order of asking, with the examples they name; those that were asked
        ahead come first, as they are recorded."""
        picks = [pick_row(pick) for pick in query.picks]
        with self._db.transaction(f"add_query {query.round}", checkpoint=True):
            if self.has_query(query.round):
                if self._picks(query.round) != picks:
                    raise StoreError(f"{self.folder}: round {query.round} already has a query, with other picks")
                return
            if query.round != self.rounds():
                raise StoreError(
                    f"{self.folder}: found a query for round {query.round}; the next round is {self.rounds()}"
                )
            known = self._picks(query.round)
            if picks[: len(known)] != known:
                raise StoreError(
                    f"{self.folder}: round {query.round} was asked ahead for other examples than its query has"
                )
            self._db.execute(
                "INSERT INTO queries (round, asked_at) VALUES (?, ?) ON CONFLICT DO UPDATE SET open = 0",
                query.round, timestamp(),
            )  # fmt: skip
            for position, (id, score, details) in enumerate(picks[len(known) :], len(known)):
                asked = self._db.row("SELECT round FROM picks WHERE example = ?", id)
                if asked is not None:
                    raise StoreError(
                        f"{self.folder}: round {query.round} asks for example {id} again; "
                        f"round {asked[0]} has asked for it"
                    )
                insert_example(self._db, examples[id])
                self._db.execute("INSERT INTO picks VALUES (?, ?, ?, ?, ?)", query.round, position, id, score, details)

    def query(self, round: int) -> Query:
        """The picks of a round in the order of asking; of the next round those that were asked ahead."""
        if round != self.rounds():
            need_query(self._db, round)
        picks = (Pick(id, math.nan if s is None else s, numbers_of(d)) for id, s, d in self._picks(round))
        return Query(round, tuple(picks))

    def _picks(self, round: int) -> list[tuple[str, float | None, str]]:
        return self._db.rows("SELECT example, score, details FROM picks WHERE round = ? ORDER BY position", round)

    def example(self, id: str) -> Example:
        """An example that was asked for or added."""
        example = next(read_examples(self._db, [id]), None)
        if example is None:
            raise StoreError(f"{self.folder}: example {id} was never asked for")
        return example

    def examples(self) -> dict[str, Example]:
        """Id -> every example that was asked for or added: one read for all, where `example` makes one for each."""
        return {example.id: example for example in read_examples(self._db)}

    def asked(self) -> set[str]:
        """Ids of all examples that were asked for or added as extras, answered or not; without those of a group that was
        taken back."""
        return {id for (id,) in self._db.rows("SELECT id FROM examples")} - self.annotations.given_back()

    def add_suggestions(self, round: int, suggestions: Mapping[str, Suggestion]) -> None:
        """Record what the model itself answers to examples when a round is asked; once a round."""
        rows = [(id, s.round, s.answer, numbers_as_json(s.probabilities)) for id, s in suggestions.items()]
        with self._db.transaction(f"add_suggestions {round}"):
            need_query(self._db, round)
            sql = "SELECT example, adapter, answer, probabilities FROM suggestions WHERE round = ? ORDER BY rowid"
            if before := self._db.rows(sql, round):
                if before != rows:
                    raise StoreError(f"{self.folder}: round {round} already has suggestions, with other content")
                return
            for row in rows:
                self._db.execute("INSERT INTO suggestions VALUES (?, ?, ?, ?, ?, ?)", round, *row, timestamp())

    def has_suggestions(self, round: int) -> bool:
        """Whether suggestions were recorded when a round was asked."""
        return self._db.row("SELECT 1 FROM suggestions WHERE round = ?", round) is not None

    def suggestions(self, *, trained: bool = False) -> dict[str, Suggestion]:
        """Example -> the newest suggestion that was made before a model was trained on the example.

        Such a suggestion repeats nobody's label, so it may be shown to an annotator, and where it is sure of
        another answer than the label, the label deserves a second look. A model of other labels than now has no say. With `trained`, the newest of all, which
        for examples of earlier rounds come from a model that has seen their labels: what it still does not believe.
        """
        sql = (
            "SELECT example, answer, probabilities, adapter FROM suggestions "
            "LEFT JOIN picks USING (example) LEFT JOIN extras USING (example) "
            "WHERE (? OR adapter < coalesce(picks.round, extras.round)) AND adapter >= ? "
            "ORDER BY suggestions.round, suggestions.rowid"
        )
        rows = self._db.rows(sql, trained, self.relabels.since or -1)
        return {id: Suggestion(answer, numbers_of(odds), adapter) for id, answer, odds, adapter in rows}

    # --- adapters and arrays ----------------------------------------------------------------------

    def add_adapter(self, round: int, fill: Callable[[Path], object]) -> Path:
        """Publish `adapters/round-003/` with what `fill` writes into the folder it is given.

        Does nothing if the adapter is there. One whose folder was deleted is recorded anew.
        """
        need_query(self._db, round)
        if self.has_adapter(round):
            return self.adapter(round)
        return self._adapters.add(f"add_adapter {round}", lambda path: files.publish_folder(path, fill), round)

    def has_adapter(self, round: int) -> bool:
        """Whether a round's adapter is recorded and its folder, damaged or not, is still there."""
        return self._adapters.has(round)

    def adapter(self, round: int) -> Path:
        """The folder of a round's adapter, its content checked against the record."""
        return self._adapters.get(f"round {round} has no adapter", round)

    def add_arrays(
        self, round: int, name: str, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
    ) -> None:
        """Publish `arrays/round-003-NAME.safetensors`. Other content replaces what was recorded before.

        It may be added before the round's query. name: letters, digits, - and _.
        """
        content = files.arrays_as_bytes(arrays, metadata)
        same = self._arrays.sha256(round, name) == files.sha256_of_bytes(content)
        if not (same and self._arrays.path(round, name).exists()):
            step = f"add_arrays {round} {name}"
            self._arrays.add(step, lambda path: files.write_bytes(path, content), round, name)

    def has_arrays(self, round: int, name: str) -> bool:
        """Whether arrays of this name are recorded and their file, damaged or not, is still there."""
        return self._arrays.has(round, name)

    def arrays(self, round: int, name: str) -> dict[str, np.ndarray]:
        """The arrays of a round, checked against the record."""
        return files.read_arrays(self._arrays.get(f"round {round} has no arrays called {name!r}", round, name))

    # --- measurements -----------------------------------------------------------------------------

    def add_metrics(self, metrics: Metrics) -> None:
        """Record what was measured after a round; the round is then over."""
        row = (metrics.labels, numbers_as_json(metrics.values))
        with self._db.transaction(f"add_metrics {metrics.round}", checkpoint=True):
            before = self._db.row('SELECT labels, "values" FROM metrics WHERE round = ?', metrics.round)
            if before is not None:
                if before != row:
                    raise StoreError(f"{self.folder}: round {metrics.round} already has metrics, with other values")
                return
            if metrics.round != self.current_round():
                raise StoreError(
                    f"{self.folder}: found metrics for round {metrics.round}; "
                    f"the first round without them is {self.current_round()}"
                )
            need_query(self._db, metrics.round)
            self._db.execute("INSERT INTO metrics VALUES (?, ?, ?, ?)", metrics.round, *row, timestamp())

    def metrics(self) -> list[Metrics]:
        """What was measured, by round."""
        rows = self._db.rows('SELECT round, labels, "values" FROM metrics ORDER BY round')
        return [Metrics(round, labels, numbers_of(values)) for round, labels, values in rows]

    def add_timing(self, round: int, phase: str, seconds: float, count: int) -> None:
        """Record how long a phase took for `count` items; an earlier record of that phase is replaced."""
        with self._db.transaction(f"add_timing {round} {phase}"):
            self._db.execute(
                "INSERT INTO timings VALUES (?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET seconds = excluded.seconds, count = excluded.count",
                round, phase, seconds, count,
            )  # fmt: skip

    def timings(self) -> list[tuple[int, str, float, int]]:
        """(round, phase, seconds, count) by round, within a round in the order first recorded."""
        return self._db.rows("SELECT round, phase, seconds, count FROM timings ORDER BY round, rowid")

    def trained_on(self, round: int) -> int:
        """Number of labels that a round's adapter was trained on; more may have come in since."""
        row = self._db.row("SELECT count FROM timings WHERE round = ? AND phase = 'train'", round)
        if row is None:
            raise StoreError(f"{self.folder}: round {round} was not trained")
        return int(row[0])

    def recorded(self) -> list[tuple[str, int, str, str]]:
        """("adapters" or "arrays", round, name of the folder or file, SHA-256) of all that should be there."""
        both = (self._adapters, self._arrays)
        return [(kind.table, key[0], kind.path(*key).name, sha256) for kind in both for *key, sha256 in kind.rows()]

    def beyond(self) -> list[str]:
        """Adapters and arrays of rounds that the database has not reached: it once held more than it does."""
        last = self.current_round() if self.begun else -1
        paths = sorted(p for kind in ("adapters", "arrays") for p in (self.folder / kind).glob("round-[0-9]*"))
        return [str(p.relative_to(self.folder)) for p in paths if int(re.findall("[0-9]+", p.name)[0]) > last]

    def damage(self) -> list[str]:
        """What SQLite finds wrong when it reads all of the database; empty for one that is whole."""
        broken = [row[0] for row in self._db.rows("PRAGMA integrity_check") if row[0] != "ok"]
        lost = self._db.rows("PRAGMA foreign_key_check")
        return broken + [f"a row of {row[0]} belongs to nothing in {row[2]}" for row in lost]


def _shown(mapping: Mapping[str, Any], name: str) -> str:
    return "without it" if mapping.get(name) is None else f"with {mapping[name]!r}"


def _meant(name: str) -> str:
    """What a key stands for that no configuration has."""
    if name.startswith("strategy."):
        return " (what the strategy is made of: its entry under `strategies`, or its recipe in another version of Guidestar)"
    return " (a hash of the texts, answers and template of the data)" if name == DATA else ""
