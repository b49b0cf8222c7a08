"""Files that are whole or absent: written under a temporary name, flushed, then renamed.

A power cut, SIGKILL or a full disk leaves at most a temporary (`.tmp-…`). Who writes one holds a lock on it, which the
system gives back when the process ends, however it ends: so the next write in the same folder recognises what will never be finished, and
removes it. Every durable step of the store, here and in the database, passes through `step`, so that a test can crash at
each of them in turn. A lock is of one machine, so a temporary and `run.lock` name theirs.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import platform
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from guidestar.errors import ConfigError, StoreError

DATABASE = "run.sqlite"
TEMPORARY = ".tmp-"
HOST = platform.node()
ABANDONED = 7 * 86400.0  # seconds after which another machine's temporary counts as left over
# In a run folder, beside run.sqlite and its own.
_KEPT = {"adapters", "arrays", "annotations.count", "endpoint.jsonl", "start.json"}
_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission is denied",
    errno.EPERM: "permission is denied",
}


def step(name: str) -> None:
    """Does nothing. It stands before and after everything durable; a test replaces it to crash there."""


def write_bytes(path: Path, data: bytes) -> str:
    """Replace the file at `path` in one step; its folder is made. Returns the SHA-256 (hex) of `data`.

    Raises StoreError if it cannot be written; an earlier file at `path` is then untouched.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)
    return sha256_of_bytes(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place to write a file to; at the end it is flushed and takes the place of `path`, on an error nothing is left of it."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        clean(path.parent)
        temporary = _temporary(path)
        # What ends the process otherwise would not tidy up either, and `clean` does.
        try:
            step(f"write {path.name}")
            with temporary.open("xb") as held:
                _claim(held.fileno(), temporary)
                yield temporary
                flush(held.fileno())
                step(f"rename {path.name}")
                temporary.replace(path)
        except (Exception, KeyboardInterrupt, SystemExit):
            temporary.unlink(missing_ok=True)
            raise
        step(f"renamed {path.name}")
        flush_folder(path.parent)


def private_folders(*folders: Path) -> None:
    """Make those of some folders that are not there, for their owner alone: texts and answers lie in them."""
    for folder in folders:
        if not folder.exists():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def arrays_as_bytes(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> bytes:
    """The content of a safetensors file; equal input gives equal bytes in every process. The metadata is one JSON text under
    "guidestar".

    One text, because safetensors writes several metadata keys in a random order, and the hash of the file
    would then differ between two equal runs.
    """
    text = json.dumps(dict(metadata or {}), sort_keys=True, ensure_ascii=False)
    return save({name: np.ascontiguousarray(a) for name, a in arrays.items()}, {"guidestar": text})


def read_json(path: Path, keys: Set[str], what: str, mend: str) -> dict[str, Any]:
    """The object in a JSON file, which has these keys at least. what: it is. mend: what to do where it is not.

    Raises StoreError if it is not, or cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read as a {what} ({error}); {mend}") from error
    if not isinstance(content, dict) or not keys <= content.keys():
        raise StoreError(f"{path}: is no {what}; {mend}")
    return content


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file. Raises StoreError if it cannot be read."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise StoreError(f"{path}: cannot be read as a safetensors file: {error}") from error


def check_output(path: Path, earlier: Callable[[Path], bool], what: str) -> None:
    """Raise ConfigError if writing to `path` would destroy something.

    What may be replaced is an earlier output of the same command alone. earlier: whether the file or folder at a path is
    one. what: the name of such an output, for the message.
    """
    for place in (path, *path.parents):
        if (place.parent / DATABASE).exists() and (place.name.startswith("run.") or place.name in _KEPT):
            raise ConfigError(f"{path}: is the place of what the run itself keeps; choose another name")
    if path.is_symlink() or (path.exists() and not earlier(path)):
        raise ConfigError(
            f"{path}: exists and is not {what} as it was written here; choose another name, or move it away"
        )


def publish_folder(final: Path, fill: Callable[[Path], object]) -> str:
    """Make the folder `final` with what `fill` writes into the empty folder it is given.

    The folder appears under its final name only when every file in it is flushed. Something that already
    lies there is replaced: the caller knows that it was never recorded. Returns `sha256` of the folder.
    Raises StoreError if something cannot be written.
    """
    with writing(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        clean(final.parent)
        temporary, claim = _temporary(final), None
        try:
            step(f"make {final.name}")
            temporary.mkdir()
            claim = os.open(temporary, os.O_RDONLY)
            _claim(claim, temporary)
            fill(temporary)
            step(f"flush {final.name}")
            for folder, _, names in os.walk(temporary, topdown=False):
                for name in names:
                    with open(os.path.join(folder, name), "rb") as file:
                        flush(file.fileno())
                flush_folder(Path(folder))
            digest = sha256(temporary)
            step(f"rename {final.name}")
            if final.exists():
                shutil.rmtree(final)
                step(f"removed the leftover {final.name}")
            temporary.rename(final)
        except Exception:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        finally:
            if claim is not None:
                os.close(claim)
        step(f"renamed {final.name}")
        flush_folder(final.parent)
    return digest


def sha256_of_bytes(data: bytes) -> str:
    """SHA-256 (hex) of what a file would hold."""
    return hashlib.sha256(data).hexdigest()


def sha256(path: Path) -> str:
    """SHA-256 (hex) of a file; of a folder, that of the output of `sha256sum` for its files by name.

    Raises StoreError if something cannot be read.
    """
    try:
        if not path.is_dir():
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        names = sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
        listing = "".join(f"{sha256(path / name)}  {name}\n" for name in names)
        return sha256_of_bytes(listing.encode())
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {_reason(error)}") from error


def runs_in(folder: Path) -> list[Path]:
    """The run folders of an experiment folder, by name; or `folder` alone if it is one itself."""
    return [folder] if (folder / DATABASE).is_file() else sorted(p.parent for p in folder.glob(f"*/{DATABASE}"))


def find_run(folder: Path) -> Path:
    """The run folder that a user means: `folder` itself, or the only run inside it.

    Raises StoreError if there is none, or several to choose from.
    """
    if not folder.is_dir():
        raise StoreError(f"{folder}: no such folder")
    runs = runs_in(folder)
    if not runs:
        raise StoreError(
            f"{folder}: found no run; expected a folder with {DATABASE}, or one with folders like star-seed0"
        )
    if len(runs) > 1:
        raise StoreError(f"{folder}: holds {len(runs)} runs; name one of: {', '.join(map(str, runs))}")
    return runs[0]


@contextmanager
def running(folder: Path) -> Iterator[None]:
    """Hold `run.lock` in a folder. Raises StoreError if another process holds it, or this one already."""
    path = folder / "run.lock"
    with writing(path):
        file = path.open("a+", encoding="utf-8")
    with file:
        with writing(path):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder, _, host = file.read().strip().partition(" ")
                if (holder, host) == (str(os.getpid()), HOST):
                    raise StoreError(
                        f"{folder}: is open in this process already; close() the earlier Run, or use `with`"
                    ) from None
                by = f"process {holder}" if holder else "another process"
                by += f" of {host}" if host and host != HOST else ""
                raise StoreError(f"{folder}: is in use by {by}; wait for its end or stop it") from None
            file.truncate(0)
            file.write(f"{os.getpid()} {HOST}")
            file.flush()
        yield


def run_elsewhere(folder: Path) -> bool:
    """Whether another machine was the last to run in a folder, where it may be at work now."""
    try:
        host = (folder / "run.lock").read_text(encoding="utf-8").partition(" ")[2].strip()
    except OSError:
        return False
    return host not in ("", HOST)


def hold(file: int, *, wait: bool = True) -> bool:
    """Lock an open file until it is closed; False if another process has it. On a file system without locks always True:
    nothing that several machines share relies on it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
            raise
    return True


def clean(folder: Path) -> None:
    """Remove the temporaries in `folder` whose process is gone; those that are being written stay, and so do those of another
    machine for a week."""
    with writing(folder):
        for leftover in folder.glob(f"{TEMPORARY}*"):
            try:
                host = leftover.name.rpartition("@")[2] if "@" in leftover.name else HOST
                if host != HOST and time.time() - leftover.stat().st_mtime < ABANDONED:
                    continue
                descriptor = os.open(leftover, os.O_RDONLY)
            except OSError:  # finished or removed meanwhile, or somebody else's
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if leftover.is_dir():
                    shutil.rmtree(leftover, ignore_errors=True)
                else:
                    leftover.unlink(missing_ok=True)
            except OSError:  # held, or nobody can tell
                continue
            finally:
                os.close(descriptor)


def _claim(descriptor: int, temporary: Path) -> None:
    """Hold a temporary that was just made. Raises FileNotFoundError in the moment's chance that `clean` was faster."""
    hold(descriptor)
    if not temporary.exists():
        raise FileNotFoundError(errno.ENOENT, "another process took it for a leftover", str(temporary))


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an error of the operating system into a StoreError about `path`, in plain words."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise StoreError(
            f"{path}: cannot be written: {_reason(error)}. Nothing recorded is lost; "
            "run the same command again when that is put right"
        ) from error


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return _REASONS.get(error.errno, error.strerror or str(error))
    return str(error)


def _temporary(path: Path) -> Path:
    return path.with_name(f"{TEMPORARY}{path.name}-{secrets.token_hex(4)}@{HOST}")


def flush(descriptor: int) -> None:
    """fsync; on macOS with the call that also empties the drive's own cache."""
    full: int | None = getattr(fcntl, "F_FULLFSYNC", None)
    if full is None:
        os.fsync(descriptor)
    else:
        fcntl.fcntl(descriptor, full)


def flush_folder(folder: Path) -> None:
    """Make the names in a folder durable, as `flush` does for content."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        flush(descriptor)
    finally:
        os.close(descriptor)
