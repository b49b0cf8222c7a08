"""Views of a text: six states of a model, and a classification head that reads them.

Means over the tokens of a lower, a middle and an upper layer know what a text is about; the states of single tokens in
the last layers know how it is put. `states.py` reads them of the frozen model, for a classifier that costs nothing. The
head here is that classifier made part of the model: it starts where the classifier ends, and is then trained with the
adapter. Torch alone is imported, because a published model's card holds this file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

BLOCKS = 6


def views(states: Sequence[torch.Tensor], mask: torch.Tensor, encoder: bool, around: tuple[int, int]) -> torch.Tensor:
    """Six states of every text, (rows, 6, width) float32.

    Of an encoder: means over the tokens of the layers at 1/3, 2/3 and the end, and in the last layer the first token of
    all, the first and the last token of the text. Of a causal model: means of the layers at 8, 15 and 22 of 30, and the
    last token at 15, 22 and 30.
    states: of the embeddings and of every layer, each (rows, tokens, width). mask: (rows, tokens), 1 for a text's own
    tokens, which stand together. around: how many special tokens stand before and behind an encoder's text.
    """
    layers, rows = len(states) - 1, torch.arange(len(mask), device=mask.device)
    weights = mask[..., None].float()
    steps = torch.arange(mask.shape[1], device=mask.device)
    begin, end = (mask * (mask.shape[1] - steps)).argmax(1), (mask * (steps + 1)).argmax(1)

    def mean(share: float) -> torch.Tensor:
        return (states[round(share * layers)].float() * weights).sum(1) / weights.sum(1)

    if encoder:
        first, top = torch.minimum(begin + around[0], end), states[-1].float()
        singles = [top[rows, place] for place in (begin, first, torch.maximum(end - around[1], first))]
        return torch.stack([mean(1 / 3), mean(2 / 3), mean(1.0), *singles], dim=1)
    singles = [states[round(share * layers)].float()[rows, end] for share in (0.5, 22 / 30, 1.0)]
    return torch.stack([mean(8 / 30), mean(0.5), mean(22 / 30), *singles], dim=1)


class _Seen:
    """What the model below said last. All copies of a head share it: PEFT trains a copy of the head."""

    views: torch.Tensor

    def __deepcopy__(self, memo: Any) -> Any:
        return self


class ViewsHead(nn.Module):
    """A linear layer on the views, each moved by its centre and of unit length. (rows, 6, width) -> (rows, labels)."""

    centres: torch.Tensor

    def __init__(self, width: int, labels: int, seen: _Seen, spread: bool) -> None:
        """spread: asked about every token, it says the same of each, of which the architecture takes one or the mean."""
        super().__init__()
        self.seen, self.spread, self.linear = seen, spread, nn.Linear(BLOCKS * width, labels)
        self.register_buffer("centres", torch.zeros(BLOCKS, width))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """states: whatever the architecture hands its head; only their shape is looked at."""
        moved = self.seen.views - self.centres.float()
        unit = moved / moved.norm(dim=2, keepdim=True).clamp_min(1e-9)
        logits: torch.Tensor = self.linear(unit.flatten(1).to(self.linear.weight.dtype))
        return logits[:, None].expand(-1, states.shape[1], -1) if self.spread and states.ndim > 2 else logits


def read_views(model: Any, head: str, encoder: bool, around: tuple[int, int]) -> None:
    """Put a `ViewsHead` in the place of a transformers model's module `head`, which gives its logits.

    Hooks on the model below have it say the states of all layers. An adapter may come and go.
    """
    seen = _Seen()

    def ask(body: Any, args: Any, inputs: Mapping[str, Any]) -> Any:
        return args, {**inputs, "output_hidden_states": True}

    def listen(body: Any, args: Any, inputs: Mapping[str, Any], output: Any) -> None:
        states = output.hidden_states
        mask = inputs.get("attention_mask")  # FNet's has none, so its texts stand alone
        mask = torch.ones(states[0].shape[:2], dtype=torch.long, device=states[0].device) if mask is None else mask
        seen.views = views(states, mask[:, -states[0].shape[1] :], encoder, around)

    model.base_model.register_forward_pre_hook(ask, with_kwargs=True)
    model.base_model.register_forward_hook(listen, with_kwargs=True)
    own = model.get_submodule(head)
    old, spread = (
        next(own.parameters()),
        isinstance(own, nn.Linear),
    )  # others, such as RoBERTa's, take one token's state themselves
    made = ViewsHead(model.config.hidden_size, model.config.num_labels, seen, spread)
    setattr(model, head, made.to(old.device, old.dtype).requires_grad_(False).eval())
