"""What the base model says, computed once and kept on disk.

One file for each question (model, data and template, task, arrays, and the examples in their order). The
examples are predicted together and in that order whatever else is known, because the last bits of a score
may depend on its batch. The adapter is never on the model meanwhile, so no tuned weight can reach a score.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from guidestar.config import fingerprint
from guidestar.errors import ConfigError, StoreError
from guidestar.model.load import BaseModel
from guidestar.model.parts import forget, predict_in_parts
from guidestar.model.precision import computing_in, precision
from guidestar.model.predict import Tick
from guidestar.records import Example, Predictions
from guidestar.store import files

_HASH = "sha256"  # an array of 32 bytes beside the others


def base_predictions(
    folder: Path,
    base: BaseModel,
    examples: Sequence[Example],
    needs: Collection[str],
    task: Any,
    *,
    data_hash: str,
    gold: Mapping[str, str] | None = None,
    dtype: str | None = None,
    tick: Tick = lambda done, total: None,
) -> Predictions:
    """`predict` on the bare base model for exactly these examples, from the cache in `folder` if it is there.

    data_hash: of data and template; with model, dtype, task, `needs` and the ids it names the file.
    dtype: another precision than the model's own to compute in.
    Raises StoreError for a damaged cache file (delete it; it will be computed again), ConfigError for the labels of
    a classification head, which is untrained.
    """
    if base.labels and "label_log_probs" in needs:
        raise ConfigError(
            f"{base.name} answers with a classification head, which is noise before it is trained: the base model alone "
            "says nothing about the labels"
        )
    ids = tuple(e.id for e in examples)
    question = {
        "data": data_hash, "model": base.fingerprint, "dtype": str(precision(base, dtype)), "chat": base.chat,
        "task": repr(task), "needs": sorted(needs), "ids": ids, **({"pooling": base.pooling} if base.labels else {}),
    }  # fmt: skip
    path = folder / f"base-{fingerprint(question)[:16]}.safetensors"
    if path.exists():
        arrays = files.read_arrays(path)
        if arrays.pop(_HASH, np.zeros(0)).tobytes() != _digest(arrays):
            raise StoreError(
                f"{path}: its content has changed since it was written; delete it, it will be computed again"
            )
        tick(len(ids), len(ids))
    else:
        parts = folder / f"parts-{path.stem}"
        with computing_in(base, dtype) as scorer:
            found = predict_in_parts(
                scorer, scorer.model, examples, needs, task, folder=parts, question={}, gold=gold, tick=tick
            )
        arrays = dict(found.arrays)
        files.write_arrays(path, {**arrays, _HASH: np.frombuffer(_digest(arrays), np.uint8)}, {})
        forget(parts)
    return Predictions(ids, arrays, task.classes)


def _digest(arrays: Mapping[str, np.ndarray]) -> bytes:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return digest.digest()
