"""LoRA, a prefix and a bottleneck adapter at once, each behind a gate, as a PEFT type: `peft_type: UNIPELT`.

    query, value   h = W x + g(x) · s · B A drop(x)
    attention      y = attention(x) + g(x) · W_o [drop(softmax(q Kᵀ/√d)) V]
    feed-forward   y = h + g(h) · U f(D drop(h)),   h the block's last linear layer

g = σ(w·x + b), one w and b for each of the four in each layer. LoRA's gate is one number a token. Those of the prefix and the
adapter are the mean over an example's tokens, padding left out; in a model that writes texts they too are one number a
token, since a mean would tell a token about those behind it. K and V come from p trained tokens through an MLP that all
layers share up to its last maps; those of V, B and U start at 0, so that the adapter starts as the identity.
The paper's prefix shares the softmax of the text's keys and does not start as nothing; see docs/deviations.md.
Source: Mao et al. 2022 (UniPELT); the prefix with a softmax of its own: He et al. 2022.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from guidestar.errors import ModelError
from guidestar.model.layers import block_of, in_order
from guidestar.model.peft import common
from guidestar.model.peft.bottleneck import Bottleneck
from guidestar.model.peft.common import OwnConfig, PartLayer, PartModel, Sharing, dropout, linear, unwrapped
from guidestar.model.peft.prefix import Attention, attention_of, looked_up, projected

KINDS = ("lora_q", "lora_v", "prefix", "bottleneck")
# Attention modules and the last linear layers of the blocks, of models built like Llama or like BERT.
WHERE = r"(.*\.)?(self_attn|attention\.self|mlp\.down_proj|layer\.\d+\.output\.dense)"


@dataclass
class UniPeltConfig(OwnConfig):
    """UniPELT's keys; its defaults are the paper's. `target_modules` are attention modules, and the linear layers that
    end a feed-forward network."""

    NAME = "UNIPELT"
    COUNTS = ("r", "num_virtual_tokens", "encoder_hidden_size", "reduction_factor")

    target_modules: list[str] | str | None = field(default=WHERE)
    r: int = field(default=8, metadata={"help": "Rank of LoRA on query and value."})
    lora_alpha: float = field(default=2.0, metadata={"help": "LoRA's factor s is lora_alpha / r."})
    num_virtual_tokens: int = field(default=10, metadata={"help": "p, keys and values of each layer."})
    encoder_hidden_size: int = field(default=512, metadata={"help": "Width of the MLP that makes keys and values."})
    reduction_factor: float = field(default=16, metadata={"help": "Layer's width over the bottleneck's width."})
    activation: str = field(default="relu", metadata={"help": "swish, relu, gelu or tanh; of the bottleneck."})
    unipelt_dropout: float = field(default=0.0, metadata={"help": "Dropout on what enters A, D, and on the prefix."})


# --- what each part adds to a layer, and its gate -----------------------------------------------------


class Gate(nn.Linear):
    """σ(w·x + b): (batch, tokens, width) -> (batch, tokens, 1), or (batch, 1, 1) where it is the mean over real tokens."""

    def __init__(self, width: int, seen: Seen | None) -> None:
        super().__init__(width, 1)
        self.seen = seen  # None: one number a token
        nn.init.normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        each = super().forward(x.to(self.weight.dtype)).sigmoid()
        return each if self.seen is None else self.seen.mean(each)[:, None, None]


class GatedLora(nn.Module):
    """g(x) · s · B A drop(x). kind: lora_q or lora_v."""

    def __init__(self, kind: str, source: int, out: int, r: int, scaling: float, rate: float) -> None:
        super().__init__()
        self.kind = kind
        self.lora_A, self.lora_B = nn.Linear(source, r, bias=False), nn.Linear(r, out, bias=False)
        nn.init.kaiming_uniform_(self.lora_A.weight, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B.weight)
        self.gate = Gate(source, None)
        self.scaling, self.drop = scaling, dropout(rate)

    def forward(self, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        low = self.lora_A(self.drop(x.to(self.lora_A.weight.dtype)))
        return self.gate(x) * self.scaling * self.lora_B(low)


class GatedBottleneck(Bottleneck):
    """g(h) · U f(D drop(h)), behind the linear layer whose output h is."""

    kind = "bottleneck"

    def __init__(self, width: int, r: int, activation: str, rate: float, seen: Seen | None) -> None:
        super().__init__(width, r, width, activation, rate)
        self.gate = Gate(width, seen)

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        return self.gate(h) * self.squeeze(h)


class Tokens(nn.Module):
    """p trained tokens and the first half of the MLP: () -> (p, hidden), each row of about the length 1.

    Undivided, one step of Adam on the second half would move keys and values `hidden` times as far as LoRA's are moved.
    """

    def __init__(self, p: int, width: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(p, width)
        self.first = nn.Linear(width, hidden)

    def forward(self) -> torch.Tensor:
        return torch.tanh(self.first(self.embedding.weight)) / math.sqrt(self.first.out_features)


class GatedPrefix(Sharing):
    """g(x) · softmax(q Kᵀ/√d) V for each head, K and V by the second half of the MLP. tokens: all layers' of an adapter."""

    OWN = "tokens"
    kind = "prefix"

    def __init__(self, width: int, at: Attention, owned: bool, tokens: Any, rate: float, seen: Seen | None) -> None:
        super().__init__(owned, tokens)
        self.attention, out = at, at.groups * at.size
        self.keys, self.values = (nn.Linear(tokens.first.out_features, out) for _ in range(2))
        nn.init.zeros_(self.values.weight)
        nn.init.zeros_(self.values.bias)
        self.gate = Gate(width, seen)
        self.drop = dropout(rate)

    def forward(self, x: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        """x: (batch, tokens, width). query: (batch, tokens, heads × size). -> (batch, tokens, groups, heads of each, size)."""
        made = self.shared().to(self.keys.weight.dtype)
        heads = (self.attention.groups, -1)
        keys, values = (part(made).unflatten(-1, heads).transpose(0, 1) for part in (self.keys, self.values))
        return looked_up(query, keys, values, self.drop) * self.gate(x)[..., None, None]


class Seen:
    """What the layers of one adapter must know of the batch at work. mask: (rows, tokens), 1 for real tokens; None, all are."""

    def __init__(self) -> None:
        self.mask: torch.Tensor | None = None
        self.hooks: list[Any] = []

    def watch(self, model: nn.Module) -> None:
        """Take down the mask whenever a transformers model in `model` is called, from the outermost on."""
        from transformers import PreTrainedModel

        for module in model.modules():
            if isinstance(module, PreTrainedModel):
                self.hooks.append(module.register_forward_pre_hook(self.note, with_kwargs=True))

    def note(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A hook before `forward`. A mask of another form than (rows, tokens) was made of one that had it."""
        given = kwargs
        if args and "attention_mask" not in kwargs:
            given = inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments
        mask = given.get("attention_mask")
        if mask is None or getattr(mask, "ndim", 0) == 2:
            self.mask = mask

    def forget(self) -> None:
        """Take the hooks off."""
        while self.hooks:
            self.hooks.pop().remove()

    def mean(self, each: torch.Tensor) -> torch.Tensor:
        """Mean over an example's real tokens: (batch, tokens, 1) -> (batch,). Raises ValueError if the mask is no mask of it."""
        each = each.squeeze(-1)
        if self.mask is None:
            return each.mean(dim=1)
        mask, batch = tuple(self.mask.shape), tuple(each.shape)
        if mask[0] != batch[0] or mask[1] < batch[1]:
            raise ValueError(f"the attention mask is {mask}, the batch (rows, tokens) {batch}")
        real = self.mask[:, -each.shape[1] :].to(each)
        return (each * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)


# --- the type -----------------------------------------------------------------------------------------


class UniPeltLayer(PartLayer):
    """A layer with one gated part of each adapter."""

    @property
    def kind(self) -> str:
        """lora_q, lora_v, prefix or bottleneck."""
        part: Any = next(iter(self.parts.values()))
        return str(part.kind)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the layer's own; what the parts add goes into it, or into the first thing it returns."""
        parts: list[Any] = [self.parts[name] for name in self.names()]
        if not parts or self.kind != "prefix":
            return super().forward(*args, **kwargs)
        x, base = common.first_input(args, kwargs), self.get_base_layer()
        with self._query(parts[0].attention.query) as caught:
            out = self.base_layer(*args, **kwargs)
        return common.plus(out, (projected(part(x, caught[0]), base, part.attention) for part in parts))

    @contextmanager
    def _query(self, name: str) -> Iterator[list[torch.Tensor]]:
        """What the attention's query layer gives, LoRA included, while the block runs: it need not be computed twice."""
        caught: list[torch.Tensor] = []
        with getattr(self.base_layer, name).register_forward_hook(lambda module, args, out: caught.append(out)):
            yield caught


class UniPeltModel(PartModel):
    """A model whose attention modules and feed-forward networks carry gated parts."""

    LAYER = UniPeltLayer
    UNMERGED = "a UniPELT adapter has gates and"
    seen: dict[str, Seen]

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **options: Any) -> None:
        """As PEFT's own. An adapter that does not fit leaves no hook behind."""
        self.__dict__.setdefault("seen", {})[adapter_name] = Seen()
        super().inject_adapter(model, adapter_name, *args, **options)
        self.seen[adapter_name].watch(model)

    def part(self, config: UniPeltConfig, module: Any, where: str) -> nn.Module:
        """The bottleneck or the prefix; what an attention's query and value get is put there besides."""
        rate, pooled = config.unipelt_dropout, None if self._writes(config) else self.seen[self._new]
        if isinstance(module, nn.Linear):
            narrow = max(1, int(module.out_features // config.reduction_factor))
            return GatedBottleneck(module.out_features, narrow, config.activation, rate, pooled)
        attention, width = attention_of(module, where), 0
        for kind, name in (("lora_q", attention.query), ("lora_v", attention.value)):
            at = linear(unwrapped(getattr(module, name)), f"{where}.{name}", "UniPELT")
            width = at.in_features
            lora = GatedLora(kind, width, at.out_features, config.r, config.lora_alpha / config.r, rate)
            self.put(module, name, lora)
        made = self.share("tokens", lambda: Tokens(config.num_virtual_tokens, width, config.encoder_hidden_size))
        return GatedPrefix(width, attention, *made, rate, pooled)

    def _writes(self, config: UniPeltConfig) -> bool:
        """Whether tokens must not know of those behind them."""
        task = getattr(config.task_type, "value", config.task_type)
        return task == "CAUSAL_LM" or bool(getattr(self.model, "can_generate", bool)())

    def _unload_and_optionally_merge(self, merge: bool = True, **options: Any) -> Any:
        """Raises ValueError for merging. Takes off the layers inside the attention first, which PEFT would not see."""
        layers = [module for module in self.model.modules() if isinstance(module, UniPeltLayer)]
        if merge and layers:
            layers[0].merge()
        for module in [layer.base_layer for layer in layers if layer.kind == "prefix"]:
            for name, child in list(module.named_children()):
                setattr(module, name, unwrapped(child))
        for seen in self.seen.values():
            seen.forget()
        return super()._unload_and_optionally_merge(merge=merge, **options)

    def delete_adapter(self, adapter_name: str) -> None:
        """As PEFT's own; the adapter's hooks go, too."""
        super().delete_adapter(adapter_name)
        self.seen.pop(adapter_name).forget()


# --- what the gates say -----------------------------------------------------------------------------


@contextmanager
def watched_gates(model: Any) -> Iterator[dict[tuple[str, int], list[torch.Tensor]]]:
    """The gates of the active adapter in every pass of the block: (kind, layer) -> for each pass (rows,), the mean of an
    example's gates over its real tokens, in (0, 1). Kinds are `KINDS`, layers count from 0.

    model: a PEFT model. Raises ModelError if it has no UniPELT layers.
    """
    name = getattr(model, "active_adapter", "")
    layers = [(key, m) for key, m in model.named_modules() if isinstance(m, UniPeltLayer) and name in m.unipelt]
    if not layers:
        raise ModelError(f"the model has no adapter of type {UniPeltConfig.NAME}, so there are no gates")
    seen = model.base_model.seen[name]
    blocks = in_order(str(block_of(key)) for key, _ in layers)
    gates: dict[tuple[str, int], list[torch.Tensor]] = {}
    handles = []
    for key, layer in layers:
        into = gates.setdefault((layer.kind, blocks.index(str(block_of(key)))), [])
        gate: Any = layer.unipelt[name].gate

        def note(module: Any, args: Any, out: torch.Tensor, into: list[torch.Tensor] = into) -> None:
            each = out.detach()
            into.append((seen.mean(each) if each.shape[1] == args[0].shape[1] else each[:, 0, 0]).float().cpu())

        handles.append(gate.register_forward_hook(note))
    try:
        yield gates
    finally:
        for handle in handles:
            handle.remove()
