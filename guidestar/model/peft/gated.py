"""The gated parts of UniPELT (see `unipelt`): what each adds to a layer, and the gates themselves."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import nn

from guidestar.model.peft.bottleneck import Bottleneck
from guidestar.model.peft.common import Sharing, dropout
from guidestar.model.peft.prefix import Attention, looked_up


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
        keys, values = (
            part(made).unflatten(-1, (self.attention.groups, -1)).transpose(0, 1) for part in (self.keys, self.values)
        )
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
        if self.mask.shape[0] != each.shape[0] or self.mask.shape[1] < each.shape[1]:
            raise ValueError(
                f"the attention mask is {tuple(self.mask.shape)}, the batch (rows, tokens) {tuple(each.shape)}"
            )
        real = self.mask[:, -each.shape[1] :].to(each)
        return (each * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)
