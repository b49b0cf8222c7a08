"""Base models: from the cache, a package, a folder, a GGUF file or the hub; always safetensors.

A name is resolved to a local folder first, and only folders are loaded. Remote code is off unless the
configuration switches it on with a pinned revision.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from guidestar.config import ModelConfig
from guidestar.errors import ConfigError, ModelError, StoreError
from guidestar.model import device as devices
from guidestar.model import heads, quantized, ranks, traits
from guidestar.model.heads import Model
from guidestar.model.sources import Say, cache_folder, reading, resolve
from guidestar.store.files import write_bytes

UNPADDED = "guidestar_unpadded"  # an attribute of a transformers model whose texts must not be padded


@dataclass
class BaseModel:
    """A frozen model with its tokenizer: a causal language model, or one with a classification head (see `heads`).

    name: what an adapter's config names as its base (the hub name where there is one).
    fingerprint: changes when weights, config or tokenizer change.
    eos: ids that end a response; none with a classification head. pad: any id; padding is always masked.
    max_length: context in tokens.
    rendered: prompts are already in the form of the chat template (`chat` must be on).
    labels: what a classification head tells apart, in the order of its outputs; empty for a causal language model.
    several: any number of them may hold, so that each output has a sigmoid of its own.
    encoder: every token sees every other, and the model was made to fill masked ones.
    pooling: whose state stands for a text: the first token's, the last one's, or the mean over all.
    normalized: that state is given length 1, as a sentence-transformers model says of itself.
    closing: what the tokenizer puts behind a text, from an end token on; it is taken off, for a response follows the prompt.
    vocabulary: rows of the input embeddings, above every token id; None: not known.
    batch_tokens, written_tokens: padded tokens of a batch that is read, and of one whose responses are generated.
    quantize: what bitsandbytes packed it in, "nf4" or "int8"; None for a model as its files have it.
    spread: each process of a training has a part of its weights alone (`ranks`).
    """

    model: Model
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
    normalized: bool = False
    closing: tuple[int, ...] = ()
    vocabulary: int | None = None
    several: bool = False
    quantize: str | None = None
    spread: bool = False


def load(
    config: ModelConfig, say: Say = lambda text: None, labels: Sequence[str] = (), several: bool = False,
    spread: bool = False,
) -> BaseModel:  # fmt: skip
    """Load the base model of a configuration, frozen, in eval mode.

    labels: those of the task, for a classification head (`model.head`); the head itself is untrained. several: more than one
        of them may hold. spread: each process of a training keeps a part of it alone (`ranks.Ranks.spread`).
    Raises ModelError when weights or tokenizer are missing or unusable, ConfigError for an unknown device, and for a
    head that does not fit the model or the task.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    options = reading(config)
    folder, name = resolve(config, say)
    device = devices.named(config.device)
    dtype = devices.precision_of(config.dtype, device)
    devices.prepare(device)
    traits.refuse_adapter(folder)
    kind, what, head = AutoModelForCausalLM, "causal language model", {}
    try:
        settings = AutoConfig.from_pretrained(folder, **options)
        encoder, classifies = is_encoder(settings), classifies_with_head(config, settings)
        if classifies:
            kind, what = AutoModelForSequenceClassification, "model with a classification head"
            head = head_options(labels, several)
        how = _placed(config, torch.device("cpu") if spread else device)
        how |= quantized.options(config, settings, encoder, dtype)
        with devices.seeded(0, device):  # of the untrained head, so that loading is repeatable
            tokenizer = AutoTokenizer.from_pretrained(folder, **options)
            safe = {"dtype": dtype, "use_safetensors": True, "output_loading_info": True}
            model, told = kind.from_pretrained(folder, **safe, **options, **head, **how)
    except ConfigError:
        raise
    except Exception as error:  # transformers, tokenizers and safetensors raise many kinds
        said = str(error).partition("\nModel type should be one of")[0]  # a hundred names follow
        raise ModelError(f"{folder}: cannot be loaded as a {what}: {said}") from error
    heads.add(model, traits.drawn(model, told["missing_keys"], folder))
    model.requires_grad_(False).eval()
    if "device_map" not in how and not spread:
        model.to(device)
    limit, known = traits.context(model, config.max_length), traits.vocabulary(model)
    limit = min(limit, tokenizer.model_max_length) if classifies else limit
    eos, pad = _ends(model, tokenizer, folder, known, classifies)
    if config.chat:
        traits.check_template(tokenizer)
    read, written = batch_sizes(config, device)
    if config.batch_tokens is None and device.type == "cuda" and not spread:
        read = devices.largest_worth(devices.timed_pass(model, device), read)
        written = max(written, read)
    auto = "mean" if config.head == "auto" and encoder and traits.pooling(folder, encoder) == "mean" else None
    if what_it_reads := auto or (config.head if config.head in ("mean", "features") else None):
        heads.read(model, what_it_reads, encoder, tokenizer)
    if spread:
        ranks.here().spread(model, device)
        model.to(device)
    return BaseModel(
        model, tokenizer, name, _fingerprint(folder, config.quantize), device, dtype, eos,
        pad=pad, max_length=int(limit), chat=config.chat, batch_tokens=read, written_tokens=written,
        labels=tuple(labels) if classifies else (), encoder=encoder,
        pooling=(config.pooling or traits.pooling(folder, encoder)) if classifies else "last",
        normalized=classifies and traits.normalized(folder), closing=() if classifies else traits.closing(tokenizer, eos),
        vocabulary=known, several=classifies and several, quantize=config.quantize, spread=spread,
    )  # fmt: skip


def _ends(model: Model, tokenizer: Any, folder: Path, known: int, classifies: bool) -> tuple[tuple[int, ...], int]:
    """The ids that end a response, none with a head, and the padding's; the model is told of them. Raises ModelError for a model
    that cannot read a short text."""
    from transformers import GenerationConfig

    if classifies:
        eos: tuple[int, ...] = ()
        pad = traits.padding(tokenizer, [i for i in [tokenizer.eos_token_id] if i is not None], known)
        model.config.pad_token_id = pad  # by which a causal model finds a text's last token
    else:
        contiguous_head(model)
        eos = _eos(model, tokenizer, folder, known)
        pad = traits.padding(tokenizer, eos, known)
        # A model's own defaults, such as a repetition penalty, would act on greedy responses and their entropies.
        model.generation_config = GenerationConfig(eos_token_id=list(eos), pad_token_id=pad)
    try:
        setattr(model, UNPADDED, traits.unpadded(model, pad, known, right=classifies))
    except Exception as error:  # each family raises its own
        raise ModelError(f"{folder}: the model is there, but cannot read a short text: {error}") from error
    return eos, pad


def _placed(config: ModelConfig, device: torch.device) -> dict[str, Any]:
    """How the weights get to their place: straight to a GPU, never through main memory as a whole; and the attention.

    Raises ConfigError for an attention whose package is not there.
    """
    from transformers.utils import is_flash_attn_2_available

    how: dict[str, Any] = {}
    if config.device_map and device.type == "cuda":
        how["device_map"] = config.device_map
    elif device.type != "cpu" or config.quantize:
        how["device_map"] = {"": device}
    if (attention := config.attention or "auto") != "auto":
        how["attn_implementation"] = attention
    if attention == "flash_attention_2" and (device.type != "cuda" or not is_flash_attn_2_available()):
        raise ConfigError(
            f"model.attention is {attention}, which needs the package flash-attn and an NVIDIA GPU, and this model would be on "
            f"{device}; allowed: auto, eager, sdpa"
        )
    return how


def batch_sizes(config: ModelConfig, device: torch.device) -> tuple[int, int]:
    """Padded tokens of a batch that is read, and of one that responses are written for: as configured, else what is fast
    on the device; on a GPU where the probe begins."""
    kind = device.type if device.type in devices.READ else "other"
    return config.batch_tokens or devices.READ[kind], config.batch_tokens or devices.WRITTEN[kind]


def is_encoder(settings: Any) -> bool:
    """Whether a transformers config is that of an encoder, such as BERT: made to fill masked tokens, not to go on."""
    from transformers import MODEL_FOR_MASKED_LM_MAPPING

    return type(settings) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(settings, "is_decoder", False)


def classifies_with_head(config: ModelConfig, settings: Any) -> bool:
    """Whether a choice is answered by a classification head and not by words. settings: the model's transformers config.

    Raises ConfigError for words from an encoder.
    """
    if config.head == "words" and is_encoder(settings):
        raise ConfigError(
            f"model.head is words, but {config.name} is an encoder ({settings.model_type}) and writes none; allowed: classifier, "
            "mean, features"
        )
    if config.head == "mean" and not is_encoder(settings):
        raise ConfigError(
            f"model.head is mean, but {config.name} ({settings.model_type}) is no encoder: only its last token has seen the whole "
            "text; allowed: words, classifier, features"
        )
    return config.head in ("classifier", "mean", "features") or (config.head != "words" and is_encoder(settings))


def head_options(labels: Sequence[str], several: bool = False) -> dict[str, Any]:
    """What transformers must know of a classification head. Raises ConfigError without labels."""
    if not labels:
        raise ConfigError(
            "model.name is read with a classification head, which tells labels apart, and this kind of task has none; allowed: "
            "task.kind choice or multi_label, or a causal language model as model.name, which writes its answers"
        )
    names, kind = dict(enumerate(labels)), {"problem_type": "multi_label_classification"} if several else {}
    return {"num_labels": len(labels), "id2label": names, "label2id": {n: i for i, n in names.items()}, **kind}


def contiguous_head(model: Model) -> None:
    """Hand the vocabulary projection an input with the strides of a fresh tensor.

    With frozen weights and a slice of the hidden states (logits_to_keep), PyTorch's matmul would otherwise
    copy the whole projection matrix once per row of the batch: 1.5 s of a 2 s batch, measured on SmolLM2. One row's
    slice counts as contiguous and is copied for all the same, so the strides are made anew.
    """
    head = model.get_output_embeddings()
    if head is not None:
        head.register_forward_pre_hook(lambda module, args: (args[0].reshape(-1).view(args[0].shape), *args[1:]))


def _eos(model: Model, tokenizer: Any, folder: Path, known: int) -> tuple[int, ...]:
    own = model.generation_config.eos_token_id if model.generation_config is not None else None
    ids = own if isinstance(own, list) else [own]
    every = [tokenizer.eos_token_id, *ids]
    eos = tuple(dict.fromkeys(int(i) for i in every if i is not None and i < known))
    if not eos:
        beyond = "" if tokenizer.eos_token_id is None else f" within the model's {known} tokens"
        raise ModelError(f"{folder}: the tokenizer has no end-of-text token (eos_token){beyond}; no response would end")
    return eos


def _fingerprint(folder: Path, quantize: str | None = None) -> str:
    """SHA-256 over configs, tokenizer and weights, and what the weights are packed in."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in {".json", ".model", ".jinja", ".safetensors"} and file.name != "generation_config.json":
            digest.update(file.name.encode() + _sha256(file))
    if quantize:
        digest.update(f"quantize {quantize}".encode())
    return digest.hexdigest()


LARGE = 1 << 20  # bytes from which a file's hash is kept
SETTLED = 2.0  # seconds since a file's last change, from which on its time of change tells of the next one
HASHES = "hashes.json"  # in the cache folder: path -> [size, time of change in ns, SHA-256]


def _sha256(file: Path) -> bytes:
    """A file's SHA-256: by its name in the hub's cache, where large files are named by it; else kept by path, size and time
    of change, so that weights are not read again at every start."""
    place = file.resolve()
    if place.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", place.name):
        return bytes.fromhex(place.name)
    stat = place.stat()
    mark = [stat.st_size, stat.st_mtime_ns]
    kept = _kept_hashes() if stat.st_size >= LARGE else {}
    if (known := kept.get(str(place))) and known[:2] == mark:
        return bytes.fromhex(known[2])
    with place.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").digest()
    if stat.st_size >= LARGE and time.time() - stat.st_mtime > SETTLED:
        with suppress(OSError, StoreError):  # a cache that cannot be written costs time alone
            text = json.dumps(_kept_hashes() | {str(place): [*mark, digest.hex()]}, indent=1, sort_keys=True)
            write_bytes(cache_folder() / HASHES, f"{text}\n".encode())
    return digest


def _kept_hashes() -> dict[str, list[Any]]:
    try:
        kept = json.loads((cache_folder() / HASHES).read_bytes())
        return {k: v for k, v in kept.items() if len(v) == 3 and re.fullmatch(r"[0-9a-f]{64}", v[2])}
    except (OSError, ValueError, AttributeError, TypeError):  # none yet, or damaged: it is made again
        return {}


def as_begun(base: BaseModel, begun: Mapping[str, Any]) -> BaseModel:
    """The base model, used as it was when a run began with it: older runs kept the end token of a prompt and did not normalise
    embeddings. begun: what `describe` said then."""
    normalized, closing = base.normalized and "normalized" in begun, base.closing if "closing" in begun else ()
    if (normalized, closing) == (base.normalized, base.closing):
        return base
    return replace(base, normalized=normalized, closing=closing)


def describe(base: BaseModel) -> dict[str, Any]:
    """Facts of a model for the store and the report."""
    told = {
        "pooling": base.labels and base.pooling, "head": heads.reads(base.model), "normalized": base.normalized,
        "quantize": base.quantize, "closing": list(base.closing),
    }  # fmt: skip
    return {
        "name": base.name,
        "fingerprint": base.fingerprint,
        "dtype": str(base.dtype).removeprefix("torch."),
        "device": str(base.device),
        "parameters": quantized.numbers(base.model),
        "max_length": base.max_length,
        **{name: value for name, value in told.items() if value},
        "architecture": json.loads(base.model.config.to_json_string(use_diff=False)).get("architectures"),
    }
