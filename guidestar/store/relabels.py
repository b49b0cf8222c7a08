"""A run's labels may change while it lasts: what is recorded of a change, and what it does to the rest of the record.

The log of annotations stays as it was said; a change has its place in it, and `Replay` reads what stands before that place
in the new labels. What was trained and measured with other labels stays, for the report, and is used for nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from guidestar.errors import StoreError
from guidestar.records import Label
from guidestar.store.annotations import CHOSEN_ROUNDS, CURRENT_ROUND, Annotations, append_pick
from guidestar.store.database import Database, json_of
from guidestar.store.migrations import timestamp

_MEASURED = "('test', 'test_base', 'validation', 'dynamics', 'training')"  # arrays that follow a training


class Relabels:
    """The changes of one run's labels; `Store.relabels`."""

    def __init__(self, database: Database, annotations: Annotations) -> None:
        """Use `Store.open`."""
        self._db = database
        self._annotations = annotations

    @property
    def since(self) -> int:
        """The first round that is trained on the present labels; 0 if they never changed. What earlier rounds trained and
        measured is of other labels."""
        return self._db.number("SELECT coalesce(max(round), 0) FROM relabels")

    def __len__(self) -> int:
        return self._db.number("SELECT count(*) FROM relabels")

    def tasks(self) -> list[dict[str, Any]]:
        """The `task` sections of the configuration that the run had, the present one last."""
        first = self._db.row("SELECT facts FROM run")
        rows = [*([first] if first else []), *self._db.rows("SELECT facts FROM relabels ORDER BY number")]
        return [(json.loads(facts).get("config") or {}).get("task") or {} for (facts,) in rows]

    def key(self, begun: Mapping[str, Any]) -> dict[str, Any]:
        """A run's key as it was begun, with what the last change has made of it."""
        return dict(begun) | self._last("key")

    def facts(self, begun: Mapping[str, Any]) -> dict[str, Any]:
        """A run's facts as they were when it began, with what the last change has made of them."""
        new = self._last("facts")
        nested: dict[str, Any] = {n: {**(begun.get(n) or {}), **new[n]} for n in ("config", "data") if n in new}
        return {**begun, **new, **nested}

    def _last(self, column: str) -> dict[str, Any]:
        row = self._db.row(f"SELECT {column} FROM relabels ORDER BY number DESC LIMIT 1")  # noqa: S608 - our own words
        return json.loads(row[0]) if row else {}

    def record(self, names: Mapping[str, str | None], key: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Change the labels. names: former label -> what it is called now, None where its examples are asked again.
        key, facts: the parts of the run's that are others now.

        What was trained in the current round is forgotten, for its labels are others now, and an end of the run, too.
        An example that came from a file is asked again with the next round. Only the holder of `Store.lock` may do this.
        """
        with self._db.transaction("relabel", checkpoint=True):
            if self._db.row("SELECT 1 FROM run") is None:
                raise StoreError(f"{self._db.folder}: nothing was recorded yet; the run has not begun")
            round = self._db.number(CURRENT_ROUND)
            extras = self._annotations.extras()
            last = self._db.number("SELECT coalesce(max(number), 0) FROM annotations")
            gone = {name for name, now in names.items() if now is None}
            said = [(id, answer) for id, answer in self._annotations.answers().items() if id in extras]
            again = [id for id, answer in said if isinstance(answer, Label) and answer.answer in gone]
            self._db.execute(
                "INSERT INTO relabels (names, key, facts, round, after, changed_at) VALUES (?, ?, ?, ?, ?, ?)",
                json_of(dict(names)), json_of(dict(key)), json_of(dict(facts)), round, last, timestamp(),
            )  # fmt: skip
            self._db.execute("DELETE FROM adapters WHERE round >= ?", round)
            chosen, others = self._db.number(CHOSEN_ROUNDS), f"(name IN {_MEASURED} OR round >= ?)"
            self._db.execute(f"DELETE FROM arrays WHERE round >= ? AND {others}", round, chosen)  # noqa: S608 - our own words
            self._db.execute("DELETE FROM finish")
            for id in again:  # in the next round, behind what was asked ahead; picks are asked again in their own
                append_pick(self._db, chosen, id)
