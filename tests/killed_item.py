"""A work for workers that tests kill; their processes import this alone, and quickly."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any


def write(common: Any, item: Any) -> str | None:
    """A work for tests: a file per item, that is whole or absent. One that is to be killed is so before and after."""
    place = Path(common["place"])
    if (tries := item.get("killed", 0)) and len(list(place.glob(f"{item['name']}-try*"))) < tries:
        (place / f"{item['name']}-try{time.monotonic_ns()}").touch()
        if item.get("late"):
            (place / item["name"]).write_text(item["text"])
        os.kill(os.getpid(), item.get("by", signal.SIGKILL))
    if item.get("raises"):
        raise ValueError(item["raises"])
    print("printed by a library")
    (place / item["name"]).write_text(item["text"])
    return item.get("says")
