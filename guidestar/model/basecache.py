"""What the base model says, computed once an example and kept on disk.

One file for each question (model, prompts' form, task, array); rows are found by example id. The adapter
is never on the model when this is filled, so no tuned weight can reach it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from guidestar.config import fingerprint
from guidestar.model.load import BaseModel
from guidestar.model.predict import Tick, predict
from guidestar.records import Example, Predictions
from guidestar.store import files

_IDS = "ids"


def base_predictions(
    folder: Path,
    base: BaseModel,
    examples: Sequence[Example],
    needs: Collection[str],
    task: Any,
    *,
    data_hash: str,
    gold: Mapping[str, str] | None = None,
    tick: Tick = lambda done, total: None,
) -> Predictions:
    """`predict` on the bare base model, from the cache in `folder` where it has the example.

    data_hash: of data and template; with model, dtype, task and `needs` it names the file.
    Raises StoreError for a damaged cache file (delete it; it will be computed again).
    """
    question = {
        "data": data_hash, "model": base.fingerprint, "dtype": str(base.dtype), "chat": base.chat,
        "task": repr(task), "needs": sorted(needs),
    }  # fmt: skip
    path = folder / f"base-{fingerprint(question)[:16]}.safetensors"
    known: dict[str, np.ndarray] = files.read_arrays(path) if path.exists() else {}
    rows = {row.tobytes().decode(): i for i, row in enumerate(known.get(_IDS, np.zeros((0, 1), np.uint8)))}
    missing = [e for e in examples if _key(e.id) not in rows]
    if missing:
        fresh = predict(base, base.model, missing, needs, task, gold=gold, tick=tick)
        ids = np.stack([np.frombuffer(_key(id).encode(), np.uint8) for id in fresh.ids])
        new = {_IDS: ids, **{name: array[0] for name, array in fresh.arrays.items()}}
        known = {name: np.concatenate([known[name], new[name]]) if known else new[name] for name in new}
        files.write_arrays(path, known, {"question": fingerprint(question)})
        rows = {row.tobytes().decode(): i for i, row in enumerate(known[_IDS])}
    at = np.asarray([rows[_key(e.id)] for e in examples], dtype=np.intp)
    arrays = {name: known[name][at][None] for name in needs}
    return Predictions(tuple(e.id for e in examples), arrays, tuple(task.labels) if task.kind == "choice" else ())


def _key(id: str) -> str:
    """An id as text of one width, so that ids stack into an array."""
    return fingerprint(id)[:32]
