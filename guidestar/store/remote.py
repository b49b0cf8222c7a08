"""A folder that machines without a common file system share: an object store, or whatever else fsspec reaches by a URL."""

from __future__ import annotations

import secrets
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, final

from guidestar.errors import ConfigError, StoreError
from guidestar.store import files


@final
@dataclass(frozen=True)
class Remote:
    """Files at a URL, each whole or absent, so that one written twice is as one written once.

    Every method raises ConfigError where the URL cannot be reached, for want of a package or of rights.
    """

    url: str

    @cached_property
    def _place(self) -> tuple[Any, str]:
        from fsspec.core import url_to_fs

        return url_to_fs(self.url.rstrip("/"), use_listings_cache=False)

    def put(self, name: str, data: bytes) -> None:
        """Write a file under another name, then give it its own."""
        with self._reached() as (system, root):
            temporary = f"{root}/{files.TEMPORARY}{name}-{secrets.token_hex(4)}"
            system.makedirs(root, exist_ok=True)
            system.pipe_file(temporary, data)
            system.mv(temporary, f"{root}/{name}")

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        with self._reached() as (system, root):
            return bool(system.exists(f"{root}/{name}"))

    def get(self, name: str) -> bytes:
        """What a file holds that is there."""
        with self._reached() as (system, root):
            return bytes(system.cat_file(f"{root}/{name}"))

    def remove(self, name: str) -> None:
        """Remove a file that is there."""
        with self._reached() as (system, root):
            system.rm_file(f"{root}/{name}")

    def put_folder(self, folder: Path) -> str:
        """Write a folder as one file, unless it is there; returns its hash, by which `get_folder` gives it back."""
        digest, packed = files.sha256(folder), BytesIO()
        if not self.has(f"{digest}.zip"):
            with zipfile.ZipFile(packed, "w") as archive:
                for path in sorted(p for p in folder.rglob("*") if p.is_file()):
                    archive.write(path, path.relative_to(folder))
            self.put(f"{digest}.zip", packed.getvalue())
        return digest

    def get_folder(self, digest: str, into: Path) -> Path:
        """The folder of a hash, written into the empty folder `into`. Raises StoreError if it is not what was packed."""
        try:
            with zipfile.ZipFile(BytesIO(self.get(f"{digest}.zip"))) as archive:
                archive.extractall(into)  # a name that leads outside is written inside
            whole = files.sha256(into) == digest
        except zipfile.BadZipFile:
            whole = False
        if not whole:
            raise StoreError(
                f"{self.url}: {digest}.zip is not what was written; remove it and run the same command again"
            )
        return into

    @contextmanager
    def _reached(self) -> Iterator[tuple[Any, str]]:
        """The file system and the place in it."""
        try:
            yield self._place
        except (ImportError, ValueError, OSError) as error:
            raise ConfigError(f"engine.score.folder: {self.url} cannot be used: {error}") from error
