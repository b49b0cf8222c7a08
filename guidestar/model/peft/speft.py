"""Sparse fine-tuning of the weights that matter most, as a PEFT type: `peft_type: SPEFT`.

    W' = W + D,  D zero but for the r (m + n) entries of each m x n matrix whose salience is largest

The same as PEFT's SHiRA, whose entries are drawn at random, but for the choice. Salience is measured on the labelled examples
of the round, with W the weight and g the gradient of their mean loss:

    magnitude |W|     gradient |g|     snip |W g|     force -W g     taylor (W g)²     random
    fisher: the mean over examples of g²     grasp: W (H g), H the Hessian of the loss

With `renew: n` the choice is made anew every n steps of a training; entries that stay keep what they have learned, the others
go back to the base.
Source: Liu et al. 2025 (SPEFT, arXiv 2412.13488); Bhardwaj et al. 2024 (SHiRA); Lee et al. 2019 (SNIP); de Jorge et al. 2021
(FORCE); Wang et al. 2020 (GRaSP, which keeps the largest W H g); Molchanov et al. 2019 (Taylor).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from peft.tuners.shira import ShiraConfig, ShiraModel
from peft.tuners.shira.layer import Linear, ShiraLayer
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from guidestar.model.heads import Model

Tensors = Sequence[torch.Tensor]
SALIENCES = ("gradient", "magnitude", "snip", "force", "taylor", "fisher", "grasp", "random")


@dataclass
class SpeftConfig(ShiraConfig):
    """SPEFT's keys. Raises ValueError for a value that is not allowed."""

    NAME: ClassVar[str] = "SPEFT"

    salience: str = field(default="gradient", metadata={"help": ", ".join(SALIENCES)})
    renew: int = field(default=0, metadata={"help": "Choose the entries anew after so many steps; 0: once."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = self.NAME
        if self.salience not in SALIENCES:
            raise ValueError(f"salience is {self.salience!r}; allowed: {', '.join(SALIENCES)}")
        if self.renew < 0:
            raise ValueError(f"renew is {self.renew}; allowed: 0 or more")
        self.mask_fn = self._first

    def _first(self, base_layer: nn.Module, r: int, **others: Any) -> torch.Tensor:
        """The entries before any label is seen: at random, or the largest weights."""
        weight: Any = base_layer.weight
        scores = torch.rand(weight.shape) if self.salience == "random" else weight.detach().abs()
        mask = torch.zeros(weight.numel(), dtype=torch.bool, device=weight.device)
        mask[top(scores, r * sum(weight.shape)).to(weight.device)] = True
        return mask.view(weight.shape)


class SpeftLayer(Linear):
    """A linear layer with chosen entries of each adapter. Unlike PEFT's own it does not add them to weights of a low
    precision, whose steps are larger than most of them, and lets gradients through to the weight."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """(..., in) -> (..., out)."""
        if self.disable_adapters or self.merged:
            return super().forward(x, *args, **kwargs)
        weight: Any = self.get_base_layer().weight
        exact = weight.dtype == torch.float32
        added = (weight if exact else torch.zeros_like(weight, dtype=x.dtype)).flatten()
        for name in self.active_adapters:
            if name in self.shira_weight:
                row, column = self.shira_indices[name].to(weight.device).long()
                added = added.index_add(0, row * weight.shape[1] + column, self.shira_weight[name].to(added.dtype))
        added = added.view(weight.shape)
        return F.linear(x, added, self.base_layer.bias) if exact else self.base_layer(x) + F.linear(x, added)


class SpeftModel(ShiraModel):
    """A model whose linear layers carry chosen entries."""

    @staticmethod
    def _create_new_module(config: Any, adapter_name: str, target: nn.Module, **options: Any) -> nn.Module:
        layer: nn.Module = ShiraModel._create_new_module(config, adapter_name, target, **options)
        layer.__class__ = SpeftLayer  # PEFT's own names its class
        return layer


def top(scores: torch.Tensor, k: int) -> torch.Tensor:
    """The places of the k largest scores in the flattened matrix, in order. k may not be above their number."""
    return scores.flatten().topk(min(k, scores.numel())).indices.sort().values


def layers_of(model: Model) -> list[Any]:
    """The layers that carry chosen entries."""
    return [m for m in model.modules() if isinstance(m, ShiraLayer)]


_FORMULAS: Mapping[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "gradient": lambda w, g: g.abs(),
    "snip": lambda w, g: (w * g).abs(),
    "force": lambda w, g: -w * g,
    "taylor": lambda w, g: (w * g).square(),
    "fisher": lambda w, g: g,  # the mean of g² over examples
    "grasp": lambda w, g: w * g,  # H g
}


def salience(
    how: str, weights: Sequence[nn.Parameter], loss: Callable[[Sequence[Any]], torch.Tensor], rows: Sequence[Any],
    size: int,
) -> list[torch.Tensor]:  # fmt: skip
    """The salience of every weight, tensors of the weights' shapes in float32.

    loss: the sum of −log p over some rows, in nats. size: rows of one pass.
    """
    if how == "random":
        return [torch.rand(w.shape, device=w.device) for w in weights]
    if how == "magnitude":
        return [w.detach().float().abs() for w in weights]
    n, parts = len(rows), [rows[i : i + size] for i in range(0, len(rows), size)]
    for w in weights:
        w.requires_grad_(True)
    try:
        if how == "fisher":
            every = (torch.autograd.grad(loss([row]), weights, materialize_grads=True) for row in rows)
            sums = _summed([g.float().square() / n for g in grads] for grads in every)
        else:
            sums = _summed(torch.autograd.grad(loss(part) / n, weights, materialize_grads=True) for part in parts)
        if how == "grasp":
            with sdpa_kernel(SDPBackend.MATH):  # the others cannot be differentiated twice
                sums = _summed(_turned(loss(part) / n, weights, sums) for part in parts)
    finally:
        for w in weights:
            w.requires_grad_(False)
    return [_FORMULAS[how](w.detach().float(), g) for w, g in zip(weights, sums, strict=True)]


def _turned(loss: torch.Tensor, weights: Sequence[nn.Parameter], v: Tensors) -> Tensors:
    """H v: the gradient of g·v."""
    grads = torch.autograd.grad(loss, weights, create_graph=True, materialize_grads=True)
    product = torch.stack([(g.float() * part).sum() for g, part in zip(grads, v, strict=True)]).sum()
    return torch.autograd.grad(product, weights, materialize_grads=True)


def _summed(every: Iterable[Tensors]) -> list[torch.Tensor]:
    total: list[torch.Tensor] = []
    for some in every:
        total = [t + g for t, g in zip(total, some, strict=True)] if total else [g.float() for g in some]
    return total


def place(model: Model, score: Callable[[Sequence[nn.Parameter]], Tensors], optimizer: Any = None) -> None:
    """Choose the entries of every layer by the salience of its weights. Entries that stay keep their value, and what an
    optimiser remembers of them.

    score: gets the weights of all layers. optimizer: whose state is moved along.
    """
    layers = layers_of(model)
    (name,) = layers[0].active_adapters
    every = score([layer.get_base_layer().weight for layer in layers])
    for layer, scores in zip(layers, every, strict=True):
        values = layer.shira_weight[name]
        before, width = layer.shira_indices[name].long(), scores.shape[1]
        now = top(scores, len(values))
        moments = {} if optimizer is None else optimizer.state.get(values, {})
        for tensor in (values.data, *(t for t in moments.values() if torch.is_tensor(t) and t.shape == values.shape)):
            whole = torch.zeros(scores.numel(), dtype=tensor.dtype, device=tensor.device)
            whole[before[0] * width + before[1]] = tensor
            tensor.copy_(whole[now])
        layer.shira_indices[name] = torch.stack([now // width, now % width]).to(torch.int)


def overlap(one: Path, other: Path) -> float | None:
    """The share of entries that two saved adapters have in common, 0 to 1; None where they are not such adapters."""
    from safetensors.torch import load_file

    files = [folder / "adapter_model.safetensors" for folder in (one, other)]
    if not all(file.is_file() for file in files):
        return None
    entries = [{k: v.long() for k, v in load_file(f).items() if k.endswith("shira_indices")} for f in files]
    if not entries[0] or entries[0].keys() != entries[1].keys():
        return None
    both = total = 0
    for key, (rows, columns) in entries[0].items():
        width = 1 + int(max(columns.max(), entries[1][key][1].max()))
        mine, theirs = (m[0] * width + m[1] for m in (torch.stack([rows, columns]), entries[1][key]))
        both, total = both + int(torch.isin(mine, theirs).sum()), total + len(mine)
    return both / total
