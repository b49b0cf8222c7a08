"""Adapters that runs share and that may be deleted: trained once for a question, in a folder named by its hash."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from guidestar.config import TrainConfig, fingerprint
from guidestar.errors import StoreError
from guidestar.model.load import BaseModel
from guidestar.store import files


def kept_adapter(folder: Path, name: str, question: Mapping[str, Any], fill: Callable[[Path], None]) -> Path:
    """The adapter folder for a question, made with `fill` unless it is there. Its hash lies beside it in NAME-….sha256.

    question: all that the adapter depends on; JSON-able. Several processes may ask at once: one makes it, the others wait.
    Raises StoreError for a folder whose content is not what was written.
    """
    path, record = place(folder, name, question)
    with _alone(path):
        if path.exists() and record.exists():
            if files.sha256(path) != record.read_text(encoding="ascii").strip():
                raise StoreError(
                    f"{path}: its content has changed since it was written; delete it, it is trained again"
                )
            return path
        record.unlink(missing_ok=True)  # of a folder that was deleted
        files.write_bytes(record, (files.publish_folder(path, fill) + "\n").encode())
    return path


def place(folder: Path, name: str, question: Mapping[str, Any]) -> tuple[Path, Path]:
    """Where the adapter for a question lies, and the file with its hash."""
    path = folder / f"{name}-{fingerprint(question)[:16]}"
    return path, path.with_name(f"{path.name}.sha256")


def model_facts(base: BaseModel) -> dict[str, Any]:
    """What any training depends on in a base model."""
    return {"model": base.fingerprint, "dtype": str(base.dtype), "chat": base.chat, "max_length": base.max_length}


def training_facts(config: TrainConfig) -> dict[str, Any]:
    """What a training's result depends on in its settings."""
    plain = config.model_dump(mode="json")
    plain.pop("micro_batch_size")  # decides how much memory is used
    return plain


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
