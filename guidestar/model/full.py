"""Full fine-tuning: every weight of a copy of the base model is trained.

It goes through the same functions as the adapters (`adapters.attach`, `save`, `load_adapter`, …), which hand
over to this file for `peft_type: FULL`. Training works on a copy, so the base model stays untouched and goes on
answering for STAR's μ_base; that costs the memory of a second model. The weights are trained in float32 and
saved in the base model's dtype, in which they are scored.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from guidestar.errors import ConfigError, ModelError
from guidestar.model import heads
from guidestar.model.load import UNPADDED, BaseModel, Model, contiguous_head

FULL = "FULL"  # the peft_type
MARKER = "guidestar.json"  # lies in a saved model's folder and nowhere else
SHARD = "5GB"  # no file of weights is larger


@dataclass(frozen=True)
class _Origin:
    """What a copy must know of the base model that it was made of."""

    name: str
    fingerprint: str
    dtype: torch.dtype
    tokenizer: Any


def asked_for(options: Mapping[str, Any]) -> bool:
    """Whether the `peft:` of a run means full fine-tuning.

    >>> asked_for({"peft_type": "full"}), asked_for({"r": 8})
    (True, False)
    """
    return str(options.get("peft_type", "")).upper() == FULL


def check(options: Mapping[str, Any]) -> None:
    """Raises ConfigError for any key beside peft_type: there is nothing else to set."""
    if unknown := [key for key in options if key != "peft_type"]:
        problems = [f"peft: unknown key {key!r} for {FULL}; allowed: peft_type alone" for key in unknown]
        raise ConfigError("\n".join(problems))


def is_full(model: Model) -> bool:
    """Whether this is a fully fine-tuned copy."""
    return isinstance(getattr(model, "guidestar_origin", None), _Origin)


def is_saved(folder: Path) -> bool:
    """Whether a fully fine-tuned model lies in the folder."""
    return (folder / MARKER).is_file()


def attach(base: BaseModel) -> Any:
    """A float32 copy of the base model with every weight trainable; tied weights stay tied.

    Raises ConfigError for a quantised base model, whose weights cannot be trained.
    """
    if getattr(base.model, "hf_quantizer", None) is not None:
        raise ConfigError(f"peft: {FULL} cannot train the quantised weights of {base.name}; use an adapter")
    return _ready(base, copy.deepcopy(base.model).float(), trainable=True)


def save(model: Model, folder: Path) -> None:
    """Write a transformers model: safetensors in the base's dtype, config, tokenizer; equal weights, equal bytes."""
    origin: _Origin = model.guidestar_origin
    model.save_pretrained(folder, state_dict=_cast(model, origin.dtype), max_shard_size=SHARD)
    origin.tokenizer.save_pretrained(folder)
    name = str(origin.dtype).removeprefix("torch.")
    rewrite(folder / "config.json", {"dtype": name, "_name_or_path": None})
    rewrite(folder / MARKER, {"kind": "full", "base": origin.name, "fingerprint": origin.fingerprint, "dtype": name})


def load(base: BaseModel, folder: Path, *, trainable: bool = False) -> Any:
    """A saved model: in the base's dtype for scoring, float32 when `trainable`.

    Raises ModelError if it was trained from another base model or its files are damaged.
    """
    try:
        begun = json.loads((folder / MARKER).read_text())["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / MARKER}: not readable as the mark of a fully fine-tuned model") from error
    if begun != base.fingerprint:
        raise ModelError(
            f"{folder}: fine-tuned from a model with the fingerprint {begun[:12]}…, but that of {base.name} is "
            f"{base.fingerprint[:12]}…; use the model it was trained from"
        )
    try:
        kind: Any = type(base.model)
        model, told = kind.from_pretrained(
            folder, dtype=torch.float32 if trainable else base.dtype, use_safetensors=True, local_files_only=True,
            output_loading_info=True,
        )  # fmt: skip
    except Exception as error:  # transformers and safetensors raise many kinds for damaged files
        raise ModelError(f"{folder}: the model cannot be loaded: {error}") from error
    reads = heads.reads(base.model)
    if reads == "features":  # transformers knows the head of the architecture alone
        own = f"{heads.answering(model)}."
        heads.read(model, reads, base.encoder, base.tokenizer)
        state: dict[str, torch.Tensor] = {}
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(file, framework="pt") as tensors:  # the head alone: transformers has read the rest
                state |= {name: tensors.get_tensor(name) for name in tensors.keys() if name.startswith(own)}  # noqa: SIM118
        told["missing_keys"] = [k for k in told["missing_keys"] if not k.startswith(own)]
        model.load_state_dict({**model.state_dict(), **state})
    if absent := sorted(map(str, told["missing_keys"])):  # left to itself, transformers draws them at random
        raise ModelError(f"{folder}: the model lacks {len(absent)} of its tensors, first {absent[0]}")
    model.to(base.device)
    if not base.labels:
        contiguous_head(model)
    elif reads == "mean":
        heads.read(model, reads, base.encoder, base.tokenizer)
    return _ready(base, model, trainable).eval()


def _ready(base: BaseModel, model: Model, trainable: bool) -> Any:
    model.requires_grad_(trainable)
    if not base.labels:
        setattr(model, UNPADDED, getattr(base.model, UNPADDED, False))
        model.generation_config = copy.deepcopy(base.model.generation_config)
    heads.add(model, heads.drawn(base.model))
    model.guidestar_origin = _Origin(base.name, base.fingerprint, base.dtype, base.tokenizer)
    return model


def _cast(model: Model, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The state in another dtype. One tensor for all names of a tied weight, so that it is saved once."""
    done: dict[tuple[int, torch.Size], torch.Tensor] = {}
    state = {}
    for name, tensor in model.state_dict().items():
        place = (tensor.data_ptr(), tensor.shape)
        if place not in done:
            done[place] = tensor.to(dtype) if tensor.is_floating_point() else tensor
        state[name] = done[place]
    return state


def rewrite(path: Path, changes: Mapping[str, Any]) -> None:
    """A JSON file with some keys changed (None: left out), sorted."""
    content = json.loads(path.read_text()) if path.is_file() else {}
    kept = {key: value for key, value in {**content, **changes}.items() if value is not None or key not in changes}
    path.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n")
