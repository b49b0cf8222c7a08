"""Base models in 4 or 8 bits by bitsandbytes (`model.quantize`). The quantised model is the base: one fixed thing.

Source: Dettmers et al. 2023 (QLoRA: NF4 with doubly quantised constants); Dettmers et al. 2022 (LLM.int8).
"""

from __future__ import annotations

import logging
from typing import Any

import torch

from guidestar.config import ModelConfig
from guidestar.errors import ConfigError, needed
from guidestar.model.heads import Model

BITS = {"nf4": 4 + 8 / 64 + 32 / (64 * 256), "int8": 8.0}  # of a packed number, with its share of the constants


def options(config: ModelConfig, settings: Any, encoder: bool, dtype: torch.dtype) -> dict[str, Any]:
    """What `from_pretrained` is told of the quantisation; nothing where none is wanted.

    settings: the model's transformers config. Raises ConfigError for a model that is quantised already, for an encoder, and
    without bitsandbytes.
    """
    if config.quantize is None:
        return {}
    asked = f"model.quantize is {config.quantize}"
    if (own := getattr(settings, "quantization_config", None)) is not None:
        how = own.get("quant_method") if isinstance(own, dict) else getattr(own, "quant_method", own)
        raise ConfigError(f"{asked}, but {config.name} is quantised already ({how}); leave it out")
    if encoder:
        raise ConfigError(
            f"{asked}, but {config.name} is an encoder ({settings.model_type}), whose missing layers are trained with the "
            "head; allowed: a causal language model, or leave it out"
        )
    needed("bitsandbytes", f"model.quantize: {config.quantize}", "large")
    from transformers import BitsAndBytesConfig

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it tells of every layer's casts
    packing: dict[str, Any] = {"load_in_8bit": True}
    if config.quantize == "nf4":
        packing = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
        packing["bnb_4bit_compute_dtype"] = dtype
    return {"quantization_config": BitsAndBytesConfig(**packing)}


def bits_of(config: ModelConfig, settings: Any) -> float:
    """Bits of a packed number of a model that is not loaded, 0 for a plain one. settings: its transformers config."""
    if config.quantize:
        return BITS[config.quantize]
    own: Any = getattr(settings, "quantization_config", None) or {}
    own = own if isinstance(own, dict) else vars(own)
    if own.get("load_in_4bit") or own.get("_load_in_4bit"):
        return BITS["nf4"]
    return BITS["int8"] if own.get("load_in_8bit") or own.get("_load_in_8bit") else float(own.get("bits") or 0.0)


def packable(model: Model) -> list[int]:
    """Numbers of each layer that would be packed: the linear ones below the vocabulary's projection or the head."""
    from transformers.pytorch_utils import Conv1D

    body = model.base_model
    return [m.weight.numel() for m in body.modules() if isinstance(m, (torch.nn.Linear, Conv1D))]


def numbers(model: Model) -> int:
    """The numbers of a model: of a quantised weight those that are packed in it."""
    total = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        total += parameter.numel() if state is None else int(torch.Size(state.shape).numel())
    return total
