"""What a run remembers: one folder, one database, and files that are whole or absent."""

from guidestar.store.annotations import Annotations, Entry
from guidestar.store.store import Store, find_run, runs_in

__all__ = ["Annotations", "Entry", "Store", "find_run", "runs_in"]
