"""A run as other processes see it: started as a command, looked at without disturbing it; and all that its store holds."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path
from typing import Any

from guidestar.store import Store

COMMAND = [sys.executable, "-m", "guidestar"]
TABLES = ("queries", "annotations", "adapters", "arrays", "metrics", "timings")


def recorded(folder: Path, *tables: str) -> int:
    """Rows in some tables (all that grow, by default) of the runs of an experiment; 0 while there is no run."""
    total = 0
    for place in folder.glob("*/run.sqlite"):
        try:
            db = sqlite3.connect(f"file:{place}?mode=ro", uri=True)
        except sqlite3.Error:
            continue
        try:
            total += sum(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables or TABLES)
        except sqlite3.Error:  # its tables are not made yet
            continue
        finally:
            db.close()
    return total


def dump(store: Store) -> dict[str, Any]:
    """All that must be equal between an interrupted and an uninterrupted run; no clock is in it.

    Scores are hexadecimal texts, so that equal means equal to the last bit.
    """
    rows, stop = store._db.rows, store.finished()
    return {
        "queries": [
            [(id, None if score is None else score.hex(), details) for id, score, details in store._picks(r)]
            for r in range(store._db.row("SELECT count(*) FROM queries")[0])
        ],
        "examples": rows("SELECT * FROM examples ORDER BY id"),
        "extras": rows("SELECT example, round FROM extras ORDER BY number"),
        "annotations": [(e.id, e.annotation, e.source, e.decision) for e in store.annotations.history()],
        "suggestions": rows("SELECT round, example, adapter, answer, probabilities FROM suggestions ORDER BY rowid"),
        "adapters": store._adapters.rows(),
        "arrays": store._arrays.rows(),
        "metrics": rows('SELECT round, labels, "values" FROM metrics ORDER BY round'),
        "budgets": store._raised(),
        "relabels": rows("SELECT names, key, facts, round, after FROM relabels ORDER BY number"),
        "finished": stop and stop.name,
    }
