"""What is asked before its round is chosen: a reserve of the next examples, and those of it that people were shown.

A model needs minutes to train and seconds to load; who labels waits for neither. The loop prepares the reserve, and
whoever has nothing else to ask takes from it. What was taken belongs to the next round's query, which is open until
the loop has chosen the rest of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from guidestar.records import Example, Pick
from guidestar.store.annotations import CHOSEN_ROUNDS, append_pick, example_row, pick_row
from guidestar.store.database import Database


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
                self._db.execute(
                    "INSERT INTO reserve (round, example, fields, prompt, source, score, details) VALUES (?, ?, ?, ?, ?, ?, ?)",
                    round, *example_row(examples[pick.id]), *pick_row(pick)[1:],
                )  # fmt: skip

    def __len__(self) -> int:
        """How many can be taken."""
        return self._db.number(f"SELECT count(*) FROM reserve WHERE {_FREE}")  # noqa: S608 - our own words

    def take(self, count: int) -> list[str]:
        """Ask for up to `count` examples of the reserve, as the first of the next round. Returns their ids."""
        if count < 1 or not len(self):
            return []
        with self._db.transaction("ask ahead"):
            columns = "number, round, example, fields, prompt, source, score, details"
            sql = f"SELECT {columns} FROM reserve WHERE {_FREE} ORDER BY number LIMIT ?"  # noqa: S608 - our own words
            rows = self._db.rows(sql, count)
            for number, round, id, fields, prompt, where, score, details in rows:
                self._db.execute("INSERT INTO examples VALUES (?, ?, ?, ?)", id, fields, prompt, where)
                append_pick(self._db, round, id, score, details)
                self._db.execute("DELETE FROM reserve WHERE number = ?", number)
        return [row[2] for row in rows]


# Of the next round, and not asked or added in the meantime.
_FREE = f"round = ({CHOSEN_ROUNDS}) AND example NOT IN (SELECT id FROM examples)"  # noqa: S608 - our own words
