"""Predictions for a large pool, part by part: what is in memory beside the examples is one part's work and a few
numbers an example, and a process that dies goes on at the part it was in.

A pool of at most one part is predicted as ever, and no file is written.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from guidestar.config import fingerprint
from guidestar.errors import StoreError
from guidestar.model import arrays as arrays_room
from guidestar.model.load import BaseModel
from guidestar.progress import Tick
from guidestar.records import Example, Predictions
from guidestar.store import files

PART = 16384  # examples; long enough for batches of one length, short enough to lose little
_HASH = "sha256"


def predict_in_parts(
    base: BaseModel,
    model: Any,
    examples: Sequence[Example],
    needs: Collection[str],
    task: Any,
    *,
    folder: Path,
    question: Mapping[str, Any],
    part: int = PART,
    seed: int = 0,
    tick: Tick = lambda done, total: None,
    **options: Any,
) -> Predictions:
    """`predict` for all examples. folder: of the finished parts, one safetensors file each; remove it (`forget`) when
    the predictions are in use. question: what they depend on beside the examples, `needs`, the seed and the options
    (the adapter, the round); JSON-able.

    options: further arguments of `predict`. Part i draws its masks with seed + its first position, unless each pass is
    one model for all examples.

    Raises StoreError for a damaged part, and what `predict` does.
    """
    n = len(examples)
    if n <= part:
        return arrays_room.predict(base, model, examples, needs, task, seed=seed, tick=tick, **options)
    whole: dict[str, np.ndarray] = {}
    labels: tuple[str, ...] = tuple(task.labels) if task.kind == "choice" else ()
    asked = {
        "needs": sorted(needs),
        "task": repr(task),
        "model": base.fingerprint,
        "dtype": str(base.dtype),
        **question,
    }
    asked |= {name: value for name, value in options.items() if isinstance(value, (int, float, str, bool, type(None)))}
    for start in range(0, n, part):
        some = examples[start : start + part]
        own = seed if options.get("one_model") else seed + start
        key = fingerprint({**asked, "seed": own, "ids": [e.id for e in some]})[:16]
        path = folder / f"part-{start:09d}-{key}.safetensors"
        if path.exists():
            found = read_part(path)
        else:
            found = dict(
                arrays_room.predict(
                    base, model, some, needs, task, seed=own, tick=_from(tick, start, n), **options
                ).arrays
            )
            files.write_arrays(path, {**found, _HASH: _digest(found)}, {})
        for name, array in found.items():
            if name not in whole:
                whole[name] = np.empty((array.shape[0], n, *array.shape[2:]), dtype=array.dtype)
            whole[name][:, start : start + len(some)] = array
        tick(start + len(some), n)
    return Predictions(tuple(e.id for e in examples), whole, labels)


def read_part(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a finished part. Raises StoreError if they are not what was written."""
    found = files.read_arrays(path)
    if found.pop(_HASH, np.zeros(0)).tobytes() != _digest(found).tobytes():
        raise StoreError(f"{path}: its content has changed since it was written; delete it, it will be computed again")
    return found


def forget(folder: Path) -> None:
    """Remove the finished parts: what they were made for is stored."""
    shutil.rmtree(folder, ignore_errors=True)


def _digest(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return np.frombuffer(digest.digest(), np.uint8)


def _from(tick: Tick, start: int, total: int) -> Tick:
    return lambda done, _: tick(start + done, total)
