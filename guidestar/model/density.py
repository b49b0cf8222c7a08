"""How many activations are not zero, as a term of the loss (`train.activation_density`).

    L = L_task + w · mean over layers of mean(a² / (a² + ε)),  a: what the activation function of a block gives out

a²/(a² + ε) is 1 for all but the smallest a, so the term falls as activations become 0. That happens in models with ReLU or
a function that is 0 for much of its input. GELU and SiLU are almost never 0: there the density stays near 1, and the
term says nothing of the work that could be left out.
Source: "From PEFT to DEFT" (arXiv 2402.01911; ε = 1e-7, w = 1). Neither PEFT's own DEFT nor STAR's, which are other things.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from guidestar.errors import ConfigError
from guidestar.model import adapters
from guidestar.model.dropout import own_parts
from guidestar.model.heads import Model
from guidestar.model.layers import block_of
from guidestar.records import Array

EPSILON = 1e-7


def activations(model: Model) -> list[nn.Module]:
    """The activation functions of the blocks of the model below an adapter, in order. Raises ConfigError if there are none
    that are modules."""
    from transformers.activations import ACT2FN

    kinds = {
        type(ACT2FN[name])
        for name in ("relu", "relu2", "gelu", "gelu_new", "gelu_pytorch_tanh", "silu", "quick_gelu", "mish")
    }
    added = {id(child) for _, _, child in own_parts(model)}
    every = adapters.inner(model).named_modules()
    modules = [m for name, m in every if type(m) in kinds and id(m) not in added and block_of(name)]
    if not modules:
        raise ConfigError(
            "train.activation_density finds no activation function in the layers of this model; leave it out"
        )
    return modules


class ActivationDensity:
    """The term, and the measured density. Padding counts as tokens do."""

    def __init__(self, model: Model, weight: float) -> None:
        """Listens to the model from now on, until `end`. Only what it says in train mode is in the term."""
        self._model, self._weight = model, weight
        self._terms: list[torch.Tensor] = []
        self._shares: list[float] | None = None
        self._hooks = [m.register_forward_hook(self._hear) for m in activations(model)]

    def _hear(self, module: nn.Module, args: Any, out: torch.Tensor) -> None:
        if self._shares is not None:
            self._shares.append(float((out != 0).float().mean()))
        elif module.training:
            squares = out.float().square()
            self._terms.append((squares / (squares + EPSILON)).mean())

    def term(self) -> torch.Tensor:
        """The term of what the model has said since the last call: a number from 0 to w."""
        mean = torch.stack(self._terms).mean()
        self._terms.clear()
        return self._weight * mean

    @torch.no_grad()
    def measured(self, say: Callable[[Any], object], rows: Sequence[Any]) -> Array:
        """The share of activations that are not zero, (layers,), the mean over rows. say: one row through the model."""
        self._model.eval()
        shares = []
        for row in rows:
            self._shares = []
            say(row)
            shares.append(self._shares)
        self._shares = None
        values: Array = np.asarray(shares, dtype=np.float64).mean(axis=0)
        return values

    def end(self) -> None:
        """Listen no longer."""
        while self._hooks:
            self._hooks.pop().remove()
