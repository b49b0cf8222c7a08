"""What a run remembers: one folder, one database, and files that are whole or absent."""

from guidestar.store.annotations import Annotations, Entry
from guidestar.store.files import find_run, runs_in
from guidestar.store.store import Store

__all__ = ["Annotations", "Entry", "Store", "find_run", "runs_in"]
