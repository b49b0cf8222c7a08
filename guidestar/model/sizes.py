"""The sizes of a model and of its adapter, counted and not guessed: on a model without weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from guidestar.config import RunConfig
from guidestar.errors import ConfigError, ModelError
from guidestar.metrics.memory import Adapter, Shape


def sizes_of(config: RunConfig) -> tuple[Shape, Adapter]:
    """The sizes of a configuration's model and of its adapter."""
    model, shape = skeleton(config)
    return shape, adapter_of(config, model, shape)


def skeleton(config: RunConfig) -> tuple[Any, Shape]:
    """The configured model without weights, and its sizes.

    Raises ModelError if the model is not there, ConfigError for a device that is not there.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    from guidestar.model import device as devices
    from guidestar.model import load, quantized

    settings = pretrained(config, "AutoConfig")
    headed = load.classifies_with_head(config.model, settings)
    kind = AutoModelForSequenceClassification if headed else AutoModelForCausalLM
    with torch.device("meta"):
        model = _read(config, lambda _, how: kind.from_config(settings, trust_remote_code=how["trust_remote_code"]))
    text = settings.get_text_config()
    heads = int(getattr(text, "num_attention_heads", 1))
    width = int(getattr(text, "head_dim", None) or text.hidden_size // heads)
    keys = int(getattr(text, "num_key_value_heads", None) or heads)
    size = devices.precision_of(config.model.dtype, devices.named(config.model.device)).itemsize
    bits = quantized.bits_of(config.model, settings)
    packed = quantized.packable(model) if bits else []
    shape = Shape(
        parameters=sum(p.numel() for p in model.parameters()), layers=int(text.num_hidden_layers),
        hidden=int(text.hidden_size), inner=int(getattr(text, "intermediate_size", None) or 4 * text.hidden_size),
        queries=heads * width, keys=keys * width, vocabulary=settings.num_labels if headed else int(text.vocab_size), bytes=size,
        words=int(text.vocab_size), packed=sum(packed), bits=bits, largest=max(packed, default=0),
    )  # fmt: skip
    return model, shape


def adapter_of(config: RunConfig, model: Any, shape: Shape) -> Adapter:
    """What the configuration trains, counted on a model without weights, which is changed by it.

    Raises ConfigError for an adapter that does not fit.
    """
    import torch

    from guidestar.model import adapters, full, heads
    from guidestar.model import device as devices

    cuda = devices.named(config.model.device).type == "cuda"
    made = adapters.make_config(config.peft)
    if full.asked_for(config.peft):
        return Adapter(shape.parameters, [], shape.layers, mask=0, full=True)
    from peft import TaskType, get_peft_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    if model.get_output_embeddings() is None:
        made.task_type, made.modules_to_save = TaskType.SEQ_CLS, heads.names(model)
    try:
        with torch.device("meta"), adapters.quiet_peft():
            adapted: Any = get_peft_model(model, made)
    except Exception as error:  # each type raises its own kinds
        raise ConfigError(f"peft: this adapter does not fit the model: {error}") from error
    layers = [(name, m) for name, m in adapted.named_modules() if isinstance(m, BaseTunerLayer)]
    at = [int(match[1]) for name, _ in layers if (match := re.search(r"\.(\d+)\.", name))]
    rank = int(getattr(made, "r", 0) or 0)
    # A GPU's copy of what is folded into is in main memory, and packed weights are not folded into.
    bases = [] if cuda or shape.bits else [m.get_base_layer() for _, m in layers]
    return Adapter(
        numbers=sum(p.numel() for p in adapted.parameters() if p.requires_grad),
        inputs=[(int(getattr(m, "in_features", shape.hidden)), rank) for _, m in layers],
        depth=shape.layers - min(at, default=0),
        mask=(1 if cuda else 4) if any(v for k, v in vars(made).items() if k.endswith("dropout")) else 0,
        folded=sum(base.weight.numel() for base in bases if hasattr(base, "weight")),
    )


def pretrained(config: RunConfig, kind: str) -> Any:
    """The model's "AutoTokenizer" or "AutoConfig"; the weights stay on the disk. Raises ModelError if it cannot be read."""
    import transformers

    transformers.utils.logging.set_verbosity_error()  # a text longer than the context is said in words of our own
    return _read(config, lambda folder, options: getattr(transformers, kind).from_pretrained(folder, **options))


def _read(config: RunConfig, read: Callable[[Any, Mapping[str, Any]], Any]) -> Any:
    """What `read` makes of the model's folder and of the options of reading it."""
    from guidestar.model.sources import reading, resolve

    folder, _ = resolve(config.model)
    try:
        return read(folder, reading(config.model))
    except (OSError, ValueError, KeyError, RuntimeError) as error:  # among others code of its own, which is not run
        raise ModelError(f"{folder}: cannot be read as a language model: {error}") from error
