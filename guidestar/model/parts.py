"""Predictions for a large pool, part by part: what is in memory beside the examples is one part's work and a few
numbers an example, and a process that dies goes on at the part it was in.

A pool of at most one part is predicted as ever, and no file is written.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from guidestar.config import fingerprint
from guidestar.errors import StoreError
from guidestar.model import arrays as arrays_room
from guidestar.model.load import BaseModel
from guidestar.progress import Tick, behind
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
    labels: tuple[str, ...] = task.classes
    asked = {
        "needs": sorted(needs),
        "task": repr(task),
        "model": base.fingerprint,
        "dtype": str(base.dtype),
        **question,
    }
    asked |= {name: value for name, value in options.items() if isinstance(value, (int, float, str, bool, type(None)))}

    def make(start: int, own: int) -> Mapping[str, np.ndarray]:
        some = examples[start : start + part]
        told = behind(tick, start, n)
        return arrays_room.predict(base, model, some, needs, task, seed=own, tick=told, **options).arrays

    for start in range(0, n, part):
        some = examples[start : start + part]
        own = seed if options.get("one_model") else seed + start
        found = kept_part(folder, start, {**asked, "seed": own, "ids": [e.id for e in some]}, partial(make, start, own))
        for name, array in found.items():
            if name not in whole:
                whole[name] = np.empty((array.shape[0], n, *array.shape[2:]), dtype=array.dtype)
            whole[name][:, start : start + len(some)] = array
        tick(start + len(some), n)
    return Predictions(tuple(e.id for e in examples), whole, labels)


def kept_part(
    folder: Path, start: int, question: Mapping[str, Any], make: Callable[[], Mapping[str, np.ndarray]]
) -> Mapping[str, np.ndarray]:
    """The arrays of the part that begins at `start`: read if they were made for the same question, else made and kept.

    Raises StoreError for a damaged part.
    """
    path = folder / f"part-{start:09d}-{fingerprint(dict(question))[:16]}.safetensors"
    if path.exists():
        return read_part(path)
    found = make()
    files.write_arrays(path, {**found, _HASH: _digest(found)}, {})
    return found


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
