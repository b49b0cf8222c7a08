"""What a run remembers: one folder, one database, and files that are whole or absent."""

from guidestar.store.store import Entry, Store

__all__ = ["Entry", "Store"]
