"""Which layers of an adapter are there, and which of them are trained in a step.

- `peft.layers: fisher` (FLoE, arXiv 2506.00495): the layers with the largest Fisher information of a short training carry
  the adapter, the others none. A list of numbers says the same by hand.
- `train.layers: ist` (importance-aware sparse tuning, Findings of EMNLP 2024): every step trains a few layers, drawn by an
  estimate of their importance; `rst` draws them evenly, which is that paper's control.

A layer is a block of the model, known by the first number in the name of a module or tensor. What lies outside of blocks,
or in several, is always trained.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from guidestar.errors import ConfigError
from guidestar.records import Array

KEYS = ("layers", "layers_share", "rank")  # of `peft`, this project's own
# A head, and what the first layer owns for all (`peft/common.py`).
_OUTSIDE = (".modules_to_save.", ".common.", ".tokens.")
SHARE = 0.25  # of the layers, in both papers
EVERY, DRAWS, SCALE, RATE, REWARD_ROWS = 10, 3, 0.25, 10.0, 16  # of IST's published code


def block_of(name: str) -> str | None:
    """A name up to the first number in it, None without one.

    >>> block_of("base_model.model.layers.3.self_attn.q_proj.lora_A.default.weight")
    'base_model.model.layers.3'
    """
    number = re.match(r"(?:.*?\.)?\d+(?=\.|$)", name)
    return number[0] if number else None


def in_order(blocks: Iterable[str]) -> list[str]:
    """Blocks by their numbers, those of one list of layers together."""
    return sorted(set(blocks), key=lambda block: (block.rstrip("0123456789"), int(re.findall(r"\d+", block)[-1])))


def by_block(parameters: Mapping[str, nn.Parameter]) -> dict[str, list[nn.Parameter]]:
    """The tensors of each block, in order; a tensor outside of blocks, or that blocks share, is left out."""
    inside = {name: p for name, p in parameters.items() if not any(other in name for other in _OUTSIDE)}
    parts = [(block, p) for name, p in inside.items() if (block := block_of(name))]
    return {block: [p for other, p in parts if other == block] for block in in_order(b for b, _ in parts)}


# --- an adapter on some layers ----------------------------------------------------------------------


def split(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """PEFT's keys of `peft`, and this project's own. Raises ConfigError for values that are not allowed."""
    own = {key: options[key] for key in KEYS if options.get(key) is not None}
    layers, share = own.get("layers"), own.get("layers_share", SHARE)
    numbers = isinstance(layers, list) and layers and all(type(i) is int and i >= 0 for i in layers)
    if layers not in (None, "fisher") and not numbers:
        raise ConfigError(f"peft.layers is {layers!r}; allowed: fisher, or a list of layers counted from 0")
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
        raise ConfigError(f"peft.layers_share is {share!r}; allowed: above 0, up to 1")
    if own.get("rank") not in (None, "search"):
        raise ConfigError(f"peft.rank is {own['rank']!r}; allowed: search; a number is called r")
    if own and (layers is None or (layers != "fisher" and len(own) > 1)):
        raise ConfigError("peft.layers_share and peft.rank go with peft.layers: fisher; leave them out, or add it")
    if "rank" in own and type(options.get("r")) is not int:
        raise ConfigError("peft.rank: search needs peft.r, half of the largest rank that is tried")
    return {key: value for key, value in options.items() if key not in KEYS}, own


def targets(names: Sequence[str], layers: Sequence[int]) -> list[str]:
    """Of the names of modules that an adapter would be put on, those in some layers.

    Raises ConfigError for a number that no layer has, or an adapter that is on no layer.
    """
    blocks = in_order(block for name in names if (block := block_of(name)))
    if wrong := [i for i in layers if i >= len(blocks)]:
        raise ConfigError(
            f"peft.layers has {wrong[0]}, but this adapter is on {len(blocks)} layers; allowed: numbers below that"
        )
    kept = {blocks[i] for i in layers}
    return [name for name in names if block_of(name) in kept]


def fisher(loss: Callable[[Any], torch.Tensor], parts: dict[str, list[nn.Parameter]], rows: Sequence[Any]) -> Array:
    """The diagonal Fisher information of each block, (blocks,): the mean over examples of the sum over its tensors of
    (∂ log p / ∂ θ)². The gradient of each example is squared, not that of a batch.

    loss: −log p of one row, in nats.
    """
    total = torch.zeros(len(parts), dtype=torch.float64)
    every = [p for some in parts.values() for p in some]
    for row in rows:
        grads = iter(torch.autograd.grad(loss(row), every, allow_unused=True))
        for i, some in enumerate(parts.values()):
            squares = [grad.double().square().sum().cpu() for _ in some if (grad := next(grads)) is not None]
            total[i] += sum(squares, torch.zeros((), dtype=torch.float64))
    return (total / len(rows)).numpy()


def largest(values: Array, share: float) -> list[int]:
    """The places of the largest values, a share of all and at least one, in order."""
    k = max(1, int(len(values) * share))
    return sorted(np.argsort(-values, kind="stable")[:k].tolist())


# --- training of some layers in a step ----------------------------------------------------------------


class Sampled:
    """IST, or RST where nothing is estimated: `before` every step some layers are drawn, and only they are trained.

    importance: (layers,), 0 at the start; a *high* one is unimportant. A layer is drawn with a chance in proportion to
    sigmoid(−importance). Every 10 steps, three times: the adapter of half of the layers is scaled by 0.25, and
    importance += 10 r p (1 − p) for these, p = sigmoid(importance), r = exp(−loss) minus its mean over the three.
    """

    def __init__(
        self, how: str, share: float, trainable: Mapping[str, nn.Parameter], starts: Mapping[str, torch.Tensor],
        loss: Callable[[Sequence[Any]], float], rows: Sequence[Any], seed: int,
    ) -> None:  # fmt: skip
        """loss: mean −log p of some rows, in nats, without dropout. starts: of the tensors that start as constants: towards
        these an adapter is scaled. One without any is scaled as a whole towards where this training began.

        Raises ConfigError for an adapter with parts in no layer.
        """
        parts = by_block(trainable)
        if not parts:
            raise ConfigError(f"train.layers: {how} needs an adapter with parts in layers, and this one has none")
        self.blocks, self.parts = list(parts), list(parts.values())
        self.chosen: list[int] = []
        self.importance = np.zeros(len(parts))
        self._how, self._count = how, max(1, int(len(parts) * share))
        self._loss, self._rows, self._rng = loss, rows, np.random.default_rng([seed, 22])
        origin = {id(p): starts[name] for name, p in trainable.items() if name in starts}
        self._scaled = [
            [(p, origin[id(p)]) for p in some if id(p) in origin] or [(p, p.detach().clone()) for p in some]
            for some in (self.parts if how == "ist" else ())
        ]

    def before(self, done: int) -> None:
        """done: steps that have been made."""
        if self._how == "ist" and done and done % EVERY == 0:
            self._estimate()
        self.chosen = self._draw(-self.importance, self._count)
        for i, some in enumerate(self.parts):
            for p in some:
                p.requires_grad_(i in self.chosen)  # without a gradient AdamW leaves it alone, its decay included

    def _draw(self, scores: Array, count: int) -> list[int]:
        chances = 1 / (1 + np.exp(-scores))
        return sorted(self._rng.choice(len(scores), count, replace=False, p=chances / chances.sum()).tolist())

    @torch.no_grad()
    def _estimate(self) -> None:
        some = self._rng.choice(len(self._rows), min(REWARD_ROWS, len(self._rows)), replace=False)
        rows = [self._rows[i] for i in some.tolist()]
        drawn = [self._draw(self.importance, max(1, len(self.parts) // 2)) for _ in range(DRAWS)]
        gains = np.exp([-self._loss_scaled(layers, rows) for layers in drawn])
        for layers, reward in zip(drawn, gains - gains.mean(), strict=True):
            p = 1 / (1 + np.exp(-self.importance[layers]))
            self.importance[layers] += RATE * reward * p * (1 - p)

    def _loss_scaled(self, layers: Sequence[int], rows: Sequence[Any]) -> float:
        """The loss with the adapter of some layers scaled; after it every tensor has its own bits again."""
        pairs = [pair for i in layers for pair in self._scaled[i]]
        before = [p.detach().clone() for p, _ in pairs]
        for p, start in pairs:
            p.lerp_(start.to(p), 1 - SCALE)
        try:
            return self._loss(rows)
        finally:
            for (p, _), own in zip(pairs, before, strict=True):
                p.copy_(own)

    def end(self) -> dict[str, Array]:
        """Let every tensor be trained again. Returns the importance, where it was estimated."""
        for p in (p for some in self.parts for p in some):
            p.requires_grad_(True)
        return {"importance": self.importance} if self._how == "ist" else {}
