"""A prefix that starts as nothing, as a PEFT type: `peft_type: GATED_PREFIX`.

    y = attention(x) + W_o [g · softmax(q Kᵀ/√d) V],   q = W_q x

(BERT's attention module ends before W_o, and so does what is added to it.) K and V are p trained keys and values of each attention layer, g one gate for each head, 0 at the start: the adapter
starts as the identity, and g is STAR's "B". The prefix has its own softmax and no position. Plain prefix tuning has none
of this: it changes the model before any training, has no dropout, and its keys share the softmax with the text's.
Source: He, Zhou, Ma, Berg-Kirkpatrick, Neubig 2022 (a prefix as a parallel adapter with a gate); Zhang et al. 2023
(LLaMA-Adapter) for the gate that starts at 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from peft.config import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import nn

NAME = "GATED_PREFIX"


@dataclass
class GatedPrefixConfig(PeftConfig):
    """A gated prefix's keys. Raises ValueError for a value that is not allowed."""

    target_modules: list[str] | str | None = field(
        default_factory=lambda: ["self_attn", "attention.self"], metadata={"help": "Names of the attention modules."}
    )
    exclude_modules: list[str] | str | None = field(default=None, metadata={"help": "Names to leave out."})
    layers_to_transform: list[int] | int | None = field(default=None, metadata={"help": "Numbers of the blocks."})
    layers_pattern: list[str] | str | None = field(default=None, metadata={"help": "Name of the list of blocks."})
    num_virtual_tokens: int = field(default=30, metadata={"help": "p, keys and values of each layer."})
    gated_prefix_dropout: float = field(default=0.0, metadata={"help": "Dropout on what each prefix token adds."})
    modules_to_save: list[str] | None = field(default=None, metadata={"help": "Modules trained beside the adapter."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = NAME
        if self.num_virtual_tokens < 1:
            raise ValueError(f"num_virtual_tokens is {self.num_virtual_tokens}; allowed: 1 or more")
        if not 0 <= self.gated_prefix_dropout < 1:
            raise ValueError(f"gated_prefix_dropout is {self.gated_prefix_dropout}; allowed: from 0 to below 1")
        for key in ("target_modules", "exclude_modules"):
            if isinstance(getattr(self, key), list):
                setattr(self, key, set(getattr(self, key)))


class Attention(NamedTuple):
    """What a prefix must know of an attention module: the names of its projections, None where it has no last one, and
    its numbers of heads, of groups of heads that share keys, and of entries of a head."""

    query: str
    key: str
    value: str
    output: str | None
    heads: int
    groups: int
    size: int


_FAMILIES = (  # projections of query, key and value, the last one, and the number of entries of a head
    ("q_proj", "k_proj", "v_proj", "o_proj", "head_dim"),
    ("query", "key", "value", None, "attention_head_size"),
)


def attention_of(module: Any, where: str) -> Attention:
    """An attention module built like Llama's or BERT's. Raises TypeError for any other."""
    for *names, output, size in _FAMILIES:
        if all(hasattr(module, name) for name in (*names, output, size) if name):
            query, key, value = map(str, names)
            width = int(getattr(module, str(size)))
            heads, groups = (unwrapped(getattr(module, name)).out_features // width for name in (query, key))
            return Attention(query, key, value, output, heads, groups, width)
    raise TypeError(
        f"{where} is a {type(module).__name__}; a prefix needs an attention module with "
        + ", or with ".join(", ".join(name for name in family if name) for family in _FAMILIES)
    )


def unwrapped(module: Any) -> Any:
    """The linear layer itself, below an adapter's layer."""
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


def looked_up(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, drop: nn.Module) -> torch.Tensor:
    """drop(softmax(q Kᵀ/√d)) V for each head, in the dtype of the keys.

    query: (batch, tokens, heads × size). keys, values: (groups, p, size). -> (batch, tokens, groups, heads of each, size).
    """
    groups, _, size = keys.shape
    query = query.to(keys.dtype).unflatten(-1, (groups, -1, size))  # heads of a group share keys
    near = torch.einsum("btghd,gpd->btghp", query, keys) / size**0.5
    return torch.einsum("btghp,gpd->btghd", drop(near.softmax(dim=-1)), values)


def projected(found: torch.Tensor, module: Any, attention: Attention) -> torch.Tensor:
    """What was looked up, (batch, tokens, groups, heads of each, size), as the attention module gives it out."""
    found = found.flatten(2)
    if attention.output is None:
        return found
    weight = unwrapped(getattr(module, attention.output)).weight
    return F.linear(found.to(weight.dtype), weight)


class GatedPrefixLayer(nn.Module, BaseTunerLayer):
    """An attention module with one prefix for each adapter."""

    adapter_layer_names = ("gated_prefix_keys", "gated_prefix_values", "gated_prefix_gate")
    other_param_names = ("gated_prefix_dropout",)
    get_base_layer: Any  # PEFT's, which type checkers take for submodules
    set_adapter: Any
    active_adapters: Any

    def __init__(
        self, base_layer: nn.Module, attention: Attention, adapter_name: str, config: GatedPrefixConfig
    ) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.attention = attention
        self.gated_prefix_keys = nn.ParameterDict({})
        self.gated_prefix_values = nn.ParameterDict({})
        self.gated_prefix_gate = nn.ParameterDict({})
        self.gated_prefix_dropout = nn.ModuleDict({})
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: GatedPrefixConfig) -> None:
        """Add an adapter; it becomes the active one where the others were none."""
        like = next(self.get_base_layer().parameters())
        at, p = self.attention, config.num_virtual_tokens
        for table, shape, spread in (
            (self.gated_prefix_keys, (at.groups, p, at.size), 1.0),
            (self.gated_prefix_values, (at.groups, p, at.size), 0.1),
            (self.gated_prefix_gate, (at.heads,), 0.0),
        ):
            table[adapter_name] = nn.Parameter((spread * torch.randn(shape)).to(like.device, like.dtype))
        rate = config.gated_prefix_dropout
        self.gated_prefix_dropout[adapter_name] = nn.Dropout(rate) if rate else nn.Identity()
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the attention module's own; what the prefix adds goes into the first thing it returns."""
        out = self.base_layer(*args, **kwargs)
        if self.disable_adapters:
            return out
        x = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        first, rest = (out[0], out[1:]) if isinstance(out, tuple) else (out, None)
        for name in self.active_adapters:
            if name in self.gated_prefix_gate:
                first = first + self._added(x, name).to(first.dtype)
        return first if rest is None else (first, *rest)

    def _added(self, x: torch.Tensor, name: str) -> torch.Tensor:
        """(batch, tokens, width) -> (batch, tokens, width)."""
        base: Any = self.get_base_layer()
        keys, values, gate = (
            table[name] for table in (self.gated_prefix_keys, self.gated_prefix_values, self.gated_prefix_gate)
        )
        query = getattr(base, self.attention.query)(x)
        found = looked_up(query, keys, values, self.gated_prefix_dropout[name])
        return projected(found * gate.view(len(keys), -1, 1), base, self.attention)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Raises ValueError: a prefix is no matrix."""
        raise ValueError("a gated prefix cannot be merged into the weights")

    def unmerge(self) -> None:
        """Nothing is ever merged."""


class GatedPrefixModel(BaseTuner):
    """A model whose attention layers carry gated prefixes."""

    prefix = "gated_prefix_"
    tuner_layer_cls = GatedPrefixLayer
    target_module_mapping: ClassVar[dict[str, list[str]]] = {}

    def _create_and_replace(
        self, peft_config: GatedPrefixConfig, adapter_name: str, target: nn.Module, target_name: str,
        parent: nn.Module, current_key: str, **optional: Any,
    ) -> None:  # fmt: skip
        if isinstance(target, GatedPrefixLayer):
            target.update_layer(adapter_name, peft_config)
            return
        layer = GatedPrefixLayer(target, attention_of(target, current_key), adapter_name, peft_config)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        setattr(parent, child_name, new_module)  # PEFT's own moves weights about, and an attention has none itself
