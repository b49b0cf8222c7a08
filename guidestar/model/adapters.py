"""Adapters by PEFT's own configuration, and the three questions active learning asks of them.

- What does the base model say? It is scored before an adapter is attached, so nothing can leak.
- Which passes are stochastic? Only the adapter's own layers go into train mode, never the base model's.
- Which tensors are STAR's "B"? Those that start as a constant (LoRA's B starts at 0, IA3's scale at 1):
  found by their value at the start, not by their name. They decay towards that start.

Full fine-tuning (`peft_type: FULL`) comes through the same functions; see `full`.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch

from guidestar.errors import ConfigError, ModelError, allowed
from guidestar.model import full, heads, layers
from guidestar.model import peft as own_types
from guidestar.model.device import seeded
from guidestar.model.dropout import cheapen, drop_before_b, tuner_layers
from guidestar.model.load import UNPADDED, BaseModel, Model


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Without the warning of transformers 5 that PEFT's own code asks a model for a property by its former name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


def make_config(options: Mapping[str, Any]) -> Any:
    """PEFT's config object for `peft:` of a run; None for full fine-tuning.

    Raises ConfigError for an unknown type, an unknown key (with the nearest), or values PEFT refuses, and for those that
    change or train the base model's own weights: the base would then be lost.
    """
    from peft import TaskType
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    if full.asked_for(options):
        full.check(options)
        return None
    own_types.register()
    options, _ = layers.split(options)
    name = str(options.pop("peft_type", "LORA")).upper()
    types = {str(getattr(t, "value", t)): cls for t, cls in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    if name not in types:
        raise ConfigError(f"peft.peft_type is {name!r}; {allowed(sorted([*types, full.FULL]), name)}")
    fields = {f.name for f in dataclasses.fields(types[name])}
    if unknown := [key for key in options if key not in fields]:
        problems = [f"peft: unknown key {key!r} for {name}; {allowed(sorted(fields), key)}" for key in unknown]
        raise ConfigError("\n".join(problems))
    _keep_base(options)
    if options.get("megatron_config") is not None:
        raise ConfigError("peft.megatron_config is not allowed: PEFT would import the module that megatron_core names")
    options.setdefault("task_type", TaskType.CAUSAL_LM)
    try:
        return types[name](**options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"peft: {name} refuses these values: {error}") from error


_STARTS = ("gaussian", "orthogonal", "mica")  # of `init_lora_weights`, beside true and false


def _keep_base(options: Mapping[str, Any]) -> None:
    """Raise ConfigError for values by which an adapter would change or train the base model's own weights."""
    why = "(others train the base model's own weights, which every round and STAR's base uncertainty need untouched)"
    for key, plain in (("bias", "none"), ("modules_to_save", None), ("layer_replication", None)):
        if options.get(key, plain) != plain:
            raise ConfigError(f"peft.{key} is {options[key]!r}; allowed: {'none' if plain else 'no value'} {why}")
    start = options.get("init_lora_weights", True)
    if not isinstance(start, bool) and start not in _STARTS:
        raise ConfigError(
            f"peft.init_lora_weights is {start!r}; allowed: true, false, {', '.join(_STARTS)} (pissa and olora take what they begin "
            "with out of the base model's own weights, and loftq quantises them anew, but every round and STAR's base uncertainty "
            "need them untouched: for a base in 4 bits set model.quantize; eva, corda and lora_ga need data or steps beforehand "
            "that are not taken here)"
        )


def _sums(weights: Iterable[torch.Tensor]) -> list[str]:
    """Sums of weights, of those that are spread (`ranks`) of this process's part, as text, so that nan equals nan."""
    own = (getattr(weight, "to_local", lambda weight=weight: weight)() for weight in weights)
    return [str(float(weight.detach().sum(dtype=torch.float64))) for weight in own]


def attach(base: BaseModel, options: Mapping[str, Any], seed: int, *, b_dropout: float | None = None) -> Any:
    """A fresh adapter on the base model (float32 weights), ready to train. Repeatable by `seed`.

    b_dropout: rate of a dropout on the input of LoRA's B, beside the adapter's own.
    Raises ConfigError for an adapter that does not fit the model, or has no B.
    """
    from peft import get_peft_model

    headed = bool(base.labels) and not full.asked_for(options)
    config = make_config({**options, "task_type": "SEQ_CLS"} if headed else options)
    if isinstance(numbers := options.get("layers"), list):
        config.target_modules = _on_layers(base, layers.split(options)[0], numbers, seed)
    if headed:
        if "modules_to_save" not in {field.name for field in dataclasses.fields(config)}:
            raise ConfigError(
                f"peft: {options.get('peft_type')} cannot keep a classification head beside it; use another peft_type"
            )
        config.modules_to_save = heads.names(base.model)
    with seeded(seed, base.device):
        if full.asked_for(options):
            _refuse_b_dropout(b_dropout)
            model = full.attach(base)
        else:
            own = list(base.model.parameters())
            before = _sums(own)
            try:
                with quiet_peft():
                    model = get_peft_model(base.model, config, autocast_adapter_dtype=True)
            except Exception as error:  # each type raises its own kinds
                _strip(base.model)
                raise ConfigError(f"peft: this adapter does not fit the model: {error}") from error
            changed = _sums(own) != before  # what `_keep_base` did not foresee
            if problem := _unfit(base, options, config, model, changed):
                _strip(base.model)
                raise ConfigError(problem)
        if base.labels:
            heads.restart(inner(model))
    if full.is_full(model):
        return model
    model.peft_config["default"].base_model_name_or_path = base.name
    return _with_dropout(base, model, b_dropout)


def _unfit(base: BaseModel, options: Mapping[str, Any], config: Any, model: Any, changed: bool) -> str:
    """Why an adapter that PEFT has attached is not taken all the same; "" if it is. changed: the base's own weights."""
    if changed:
        return (
            f"peft: these values of {options.get('peft_type', 'LORA')} change the base model's own weights when the adapter "
            "is attached; every round and STAR's base uncertainty need them untouched. Leave them out and begin again"
        )
    if odd := _no_plain_layer(model):
        return (
            f"peft: this adapter does not fit the model: {odd}, which answers otherwise than a linear layer; name others in "
            "peft.target_modules"
        )
    variants = any(getattr(layer, "lora_variant", None) for layer in tuner_layers(model))
    if getattr(config, "use_qalora", False) and not variants:
        return (
            f"peft.use_qalora is on, but PEFT has QA-LoRA for GPTQ layers alone, and {base.name} has none: it would do "
            "nothing; leave it out, and set model.quantize for QLoRA"
        )
    return ""


def _no_plain_layer(model: Any) -> str:
    """A layer with an adapter that only inherits from `Linear`: routers of experts give several answers. "" if there is none."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in model.named_modules():
        if isinstance(layer, BaseTunerLayer) and isinstance(own := layer.get_base_layer(), torch.nn.Linear):
            kind = type(own)
            if (
                kind.__module__.startswith("transformers.")
                and kind.forward is not torch.nn.Linear.forward
                and not _linear(own)
            ):
                return f"{name} is a {kind.__name__}"
    return ""


def _linear(layer: torch.nn.Linear) -> bool:
    """Whether a layer of its own making says what a linear one says, as Falcon's do."""
    given = torch.linspace(-1, 1, layer.in_features, dtype=layer.weight.dtype, device=layer.weight.device)[None, None]
    with torch.inference_mode(), suppress(Exception):  # a router may want more than a state
        said = layer(given)
        wanted = torch.nn.functional.linear(given, layer.weight, layer.bias)
        return isinstance(said, torch.Tensor) and torch.allclose(said, wanted, rtol=1e-2, atol=1e-3)
    return False


def _on_layers(base: BaseModel, options: Mapping[str, Any], numbers: Sequence[int], seed: int) -> set[str]:
    """The modules of some layers that an adapter would be put on."""
    model = attach(base, options, seed)
    names: list[str] = getattr(model.base_model, "targeted_module_names", [])
    detach(model)
    if not names:
        raise ConfigError(f"peft.layers: {options.get('peft_type', 'LORA')} is on no modules of layers; leave it out")
    return set(layers.targets(names, numbers))


def load_adapter(base: BaseModel, folder: Path, *, trainable: bool = False, b_dropout: float | None = None) -> Any:
    """The saved adapter on the base model: in the base's dtype for scoring, float32 when `trainable`.

    b_dropout: as for `attach`; it is no part of what is saved.
    Raises ModelError when the folder has no adapter_model.safetensors or does not fit the model, ConfigError
    when b_dropout does not fit the adapter.
    """
    from peft import PeftModel

    own_types.register()
    folder = Path(folder)
    if full.is_saved(folder):
        _refuse_b_dropout(b_dropout)
        return full.load(base, folder, trainable=trainable)
    if not folder.is_dir():
        beside = sorted(place.name for place in folder.parent.glob("*") if (place / "adapter_config.json").is_file())
        raise ModelError(f"{folder}: no such folder" + (f"; beside it: {', '.join(beside)}" if beside else ""))
    if not (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{folder}: not an adapter; expected adapter_config.json and adapter_model.safetensors "
            f"(or {full.MARKER} of a fully fine-tuned model)"
        )
    with suppress(ValueError, AttributeError):  # PEFT says what is wrong with it
        if json.loads((folder / "adapter_config.json").read_bytes()).get("megatron_config"):
            raise ModelError(f"{folder}: adapter_config.json has PEFT import the module that its megatron_core names")
    if not (folder / "adapter_model.safetensors").is_file():
        if (folder / "adapter_model.bin").is_file():
            raise ModelError(
                f"{folder}: found adapter_model.bin only, a pickle that could run code when loaded; "
                "expected adapter_model.safetensors (save it again with safe_serialization=True)"
            )
        raise ModelError(f"{folder}: adapter_model.safetensors is missing")
    try:
        with quiet_peft():
            model = PeftModel.from_pretrained(
                base.model, folder, is_trainable=trainable, autocast_adapter_dtype=trainable, local_files_only=True,
            )  # fmt: skip
    except Exception as error:  # peft and safetensors raise many kinds for a damaged or foreign adapter
        _strip(base.model)
        raise ModelError(f"{folder}: the adapter cannot be loaded on {base.name}: {error}") from error
    return _with_dropout(base, model, b_dropout).eval()


@contextmanager
def adapted(base: BaseModel, folder: Path | None, *, b_dropout: float | None = None) -> Iterator[Any]:
    """The base model with a saved adapter for the time of the block; None gives the bare base model."""
    if folder is None:
        yield base.model
        return
    model = load_adapter(base, folder, b_dropout=b_dropout)
    try:
        yield model
    finally:
        detach(model)


def detach(model: Model) -> None:
    """Take an adapter off, leaving the base model as it was; a fully fine-tuned copy gives its memory back."""
    if full.is_full(model):
        model.to("meta")  # whoever still holds it
        return
    base = model.get_base_model()
    heads.put_back(base)
    if not model.active_peft_config.is_prompt_learning:  # prompt learning never touched the base model
        tuner = model.base_model
        if hasattr(tuner, "unload"):
            tuner.unload()
        else:  # adaption prompts have no unload, and put the original attention back when disabled
            tuner.disable_adapter_layers()
    _strip(base)


def inner(model: Model) -> Any:
    """The transformers model inside: below an adapter, or the bare or fully fine-tuned model itself."""
    return model.get_base_model() if getattr(model, "active_peft_config", None) is not None else model


def accepted(model: Model) -> frozenset[str]:
    """Names of the arguments that a forward pass of the transformers model inside takes."""
    kind: Any = type(inner(model))
    return _accepted(kind)


@cache
def _accepted(kind: Any) -> frozenset[str]:
    return frozenset(inspect.signature(kind.forward).parameters)


@contextmanager
def last_states(model: Model) -> Iterator[list[torch.Tensor]]:
    """Collects what enters the vocabulary projection or the classification head in the block's passes, behind the last
    layer and its norm: (rows, tokens, width)."""
    states: list[torch.Tensor] = []
    collect = lambda module, args, output: states.append(output[0])  # noqa: E731
    with inner(model).base_model.register_forward_hook(collect, prepend=True):
        yield states


def _with_dropout(base: BaseModel, model: Model, b_dropout: float | None) -> Any:
    if base.device.type == "cpu":
        cheapen(model)
    if b_dropout:
        try:
            drop_before_b(model, b_dropout, base.device)
        except ConfigError:
            detach(model)
            raise
    return model


def _refuse_b_dropout(b_dropout: float | None) -> None:
    if b_dropout:
        raise ConfigError(f"train.b_dropout is {b_dropout}, but full fine-tuning has no LoRA B; leave it out")


def _strip(base: Any) -> None:
    """Remove what is left of an adapter in the base model, such as layers of one that failed to load."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    heads.put_back(base)
    for parent in list(base.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, BaseTunerLayer):
                setattr(parent, name, child.get_base_layer())
    for name in ("peft_config", "_hf_peft_config_loaded"):
        base.__dict__.pop(name, None)
    base.requires_grad_(False).eval()


def save(model: Model, folder: Path) -> None:
    """Write the adapter as safetensors and a config whose bytes depend on its content alone."""
    if full.is_full(model):
        full.save(model, folder)
        return
    # Left to itself PEFT would ask the hub whether the vocabulary changed.
    model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    config = json.loads((file := folder / "adapter_config.json").read_text())
    texts = {k: v for k, v in config.items() if isinstance(v, list) and all(isinstance(item, str) for item in v)}
    full.rewrite(file, {k: sorted(v) for k, v in texts.items()})  # of sets, whose order changes from process to process


def numbers(model: Model) -> int:
    """Trained numbers of an adapter, beside a classification head."""
    return sum(p.numel() for n, p in model.named_parameters() if p.requires_grad and ".modules_to_save." not in n)


def anchors(model: Model) -> dict[str, torch.Tensor]:
    """Trainable tensors that are constant at the start -> a copy of that start (STAR's "B", eq. 6).

    Tensors of one element are left out: any number is constant. Full fine-tuning has none: norm weights that
    happen to be constant are the base model's own. Nor has a classification head: its start is no model's opinion.
    """
    starts: dict[str, torch.Tensor] = {}
    if full.is_full(model):
        return starts
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.numel() > 1 and ".modules_to_save." not in name:
            start = parameter.detach()
            if bool((start == start.flatten()[0]).all()):
                starts[name] = start.clone()
    return starts


@contextmanager
def dropout_on(model: Model, whole: bool = False) -> Iterator[None]:
    """Train mode for the adapter's own layers only; the wrapped base layers stay in eval mode, unless the `whole` model
    is to be in train mode.

    LoHa and LoKr drop by the layer's train flag and not by a Dropout module, so whole layers are switched.
    """
    model.eval()
    for layer in tuner_layers(model):
        layer.train()
        layer.get_base_layer().eval()
    if whole:
        model.train()
    try:
        yield
    finally:
        model.eval()


def exact_lengths(model: Model) -> bool:
    """True when batches must not be padded: prompt learning puts its tokens before the padding, and some models read it."""
    config = getattr(model, "active_peft_config", None)
    return bool(config is not None and config.is_prompt_learning) or bool(getattr(inner(model), UNPADDED, False))
