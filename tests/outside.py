"""A run as other processes see it: started as a command, looked at without disturbing it."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

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
