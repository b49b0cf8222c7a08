"""What is asked before its round is chosen: a reserve of the next examples, and those of it that people were shown.

A model needs minutes to train and seconds to load; who labels waits for neither. The loop prepares the reserve, and
whoever has nothing else to ask takes from it. What was taken belongs to the next round's query, which is open until
the loop has chosen the rest of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

from guidestar.records import Example, Pick
from guidestar.store.database import Database, numbers_as_json
from guidestar.store.migrations import timestamp


class Ahead:
    """The reserve of one run; `Store.ahead`. Any process may take from it, only the holder of the lock prepares it."""

    def __init__(self, database: Database) -> None:
        """Use `Store.ahead`."""
        self._db = database

    def prepare(self, round: int, picks: Sequence[Pick], examples: Mapping[str, Example]) -> None:
        """Replace the reserve: examples that round `round` may be asked for before it is chosen, in that order. details of
        a pick: under which model it was chosen."""
        with self._db.transaction(f"prepare {round}"):
            self._db.execute("DELETE FROM reserve")
            for pick in picks:
                e = examples[pick.id]
                self._db.execute(
                    "INSERT INTO reserve (round, example, fields, prompt, source, score, details) VALUES (?, ?, ?, ?, ?, ?, ?)",
                    round, e.id, json.dumps(dict(e.fields), ensure_ascii=False), e.prompt, e.where,
                    None if math.isnan(pick.score) else float(pick.score), numbers_as_json(pick.details),
                )  # fmt: skip

    def __len__(self) -> int:
        """How many can be taken."""
        return int(self._db.rows(f"SELECT count(*) FROM reserve WHERE {_FREE}")[0][0])  # noqa: S608 - our own words

    def take(self, count: int) -> list[str]:
        """Ask for up to `count` examples of the reserve, as the first of the next round. Returns their ids."""
        if count < 1 or not len(self):
            return []
        with self._db.transaction("ask ahead"):
            rows = self._db.rows(
                f"SELECT number, round, example, fields, prompt, source, score, details FROM reserve WHERE {_FREE} "  # noqa: S608
                "ORDER BY number LIMIT ?",
                count,
            )
            for number, round, id, fields, prompt, where, score, details in rows:
                self._db.execute(
                    "INSERT OR IGNORE INTO queries (round, asked_at, open) VALUES (?, ?, 1)", round, timestamp()
                )
                place = self._db.row("SELECT count(*) FROM picks WHERE round = ?", round)[0]
                self._db.execute("INSERT INTO examples VALUES (?, ?, ?, ?)", id, fields, prompt, where)
                self._db.execute("INSERT INTO picks VALUES (?, ?, ?, ?, ?)", round, place, id, score, details)
                self._db.execute("DELETE FROM reserve WHERE number = ?", number)
        return [row[2] for row in rows]


# Of the next round, and not asked or added in the meantime.
_FREE = "round = (SELECT count(*) FROM queries WHERE NOT open) AND example NOT IN (SELECT id FROM examples)"
