"""Peak memory of a run by formula: weights, adapter, gradients, optimiser, activations. Pure arithmetic, in bytes.

Training holds at its peak, at the end of a forward pass:

    weights      P · b                 P parameters, b bytes each; of packed ones (`model.quantize`) their bits
    adapter      A · 4                 A trainable numbers, in float32; full fine-tuning trains a copy, so A = P
    gradients    A · 4
    optimiser    A · 8                 AdamW's two moments
    activations  m · T · (per token)   m examples of a forward pass (`train.micro_batch_size`), T tokens each
    logits       m · R · V · (b + 12)  R response tokens and one; in float32, their log-probabilities, their gradient

and for each token of each layer that a gradient passes (those from the lowest adapted one up):

    8 h                    inputs of the two norms, float32
    b (2 q + 2 k + 3 i)    queries, keys, values and result of the attention; gate, its activation and up of the MLP
    Σ d (b + mask) + b r   for each adapted linear layer its input (width d), its dropout mask (4 bytes an element on a
                           CPU, 1 on a GPU), and the low rank

with full fine-tuning in place of the last line 8 h + b (5 h + i), in float32 8 h + b (2 h + i), and the weights' copies
in the autocast's precision. With `train.checkpointing` each layer keeps its input alone, b h, and one layer at a time all of
this. A packed weight is unpacked while its layer works. Adapters without dropout in float32 share inputs: the formula is up to a third too high there.
Attention's own scores are not held (PyTorch's fused attention). Source: read off what PyTorch keeps for the backward
pass of Llama models, which a test compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

GIB = float(2**30)
Range = tuple[float, float]


@dataclass(frozen=True)
class Shape:
    """A transformer's sizes. parameters: numbers in all. hidden, inner: widths of the state and of the MLP. queries,
    keys: widths of all heads together. vocabulary: scores at one place; a classification head's are its labels. bytes: of
    one number, as the model is loaded. words: tokens that the model can read. packed: numbers that are kept in `bits` bits
    each; largest: of one of their layers."""

    parameters: int
    layers: int
    hidden: int
    inner: int
    queries: int
    keys: int
    vocabulary: int
    bytes: int
    words: int = 0
    packed: int = 0
    bits: float = 0.0
    largest: int = 0

    @property
    def weights(self) -> float:
        """Bytes of the base model.

        >>> Shape(100, 1, 2, 4, 2, 1, 8, bytes=2, packed=80, bits=4.0).weights
        80.0
        """
        return (self.parameters - self.packed) * self.bytes + self.packed * self.bits / 8

    @property
    def unpacked(self) -> float:
        """Bytes of the one packed layer that is unpacked at a time."""
        return float(self.largest * self.bytes)


@dataclass(frozen=True)
class Adapter:
    """What is trained. numbers: trainable. inputs: (width of the input, rank) of each adapted linear layer. depth: layers
    that a gradient passes. mask: bytes of a dropout mask's element, 0 without dropout. full: all weights are trained. folded: numbers of the
    adapted weights, which scoring in float32 keeps a copy of."""

    numbers: int
    inputs: Sequence[tuple[int, int]]
    depth: int
    mask: int = 4
    full: bool = False
    folded: int = 0


def activation_bytes(shape: Shape, adapter: Adapter, checkpointing: bool = False) -> float:
    """Bytes kept for the backward pass, for each token, of all layers together; with checkpointing the layers' inputs and all
    of one layer.

    >>> tiny = Shape(100, layers=1, hidden=2, inner=4, queries=2, keys=1, vocabulary=8, bytes=4)
    >>> activation_bytes(tiny, Adapter(8, [(2, 1)], depth=1))
    108.0
    """
    if checkpointing and adapter.depth:
        share = -(-len(adapter.inputs) // adapter.depth)
        one = replace(adapter, depth=1, inputs=sorted(adapter.inputs)[-share:] if share else [])
        return adapter.depth * shape.hidden * shape.bytes + activation_bytes(shape, one)
    b = shape.bytes
    layer = 8 * shape.hidden + b * (2 * shape.queries + 2 * shape.keys + 3 * shape.inner)
    if adapter.full:
        read = 2 if b == 4 else 5  # autocast makes a copy for each of five linear layers; in float32 they share two
        layer += 8 * shape.hidden + b * (read * shape.hidden + shape.inner)
    last = 8 if adapter.full else 0  # the last norm's; the lowest adapted layer's first norm has no gradient instead
    inputs = sum(width * (b + adapter.mask) + b * rank for width, rank in adapter.inputs)
    return float(last * shape.hidden + adapter.depth * layer + inputs)


def training(
    shape: Shape, adapter: Adapter, rows: int, tokens: float, response: float, checkpointing: bool = False
) -> dict[str, float]:
    """The parts of the peak while training, in bytes. rows: examples of a forward pass, of `tokens` tokens each, of which
    `response` are the answer's.

    >>> tiny = Shape(100, layers=1, hidden=2, inner=4, queries=2, keys=1, vocabulary=8, bytes=4)
    >>> sum(training(tiny, Adapter(8, [(2, 1)], depth=1), rows=1, tokens=10, response=1).values())
    1864.0
    """
    n = adapter.numbers
    casts = shape.bytes * shape.parameters if adapter.full and shape.bytes < 4 else 0
    return {
        "weights": shape.weights,
        "adapter": 4.0 * n,
        "gradients": 4.0 * n,
        "optimiser": 8.0 * n,
        "activations": rows * tokens * activation_bytes(shape, adapter, checkpointing) + casts + shape.unpacked,
        "logits": rows * (response + 1) * shape.vocabulary * (shape.bytes + 12.0),
    }


def pretraining(shape: Shape, adapter: Adapter, tokens: float, targets: float) -> dict[str, float]:
    """The parts of the peak while the adapter reads the pool (`tapt`): `training` with one long row of `tokens`, of which
    `targets` are predicted. A classification head's scores come from the input embeddings, copied in float32, and one
    linear layer of the state's width, which is trained, too.

    >>> tiny = Shape(100, layers=1, hidden=2, inner=4, queries=2, keys=1, vocabulary=3, bytes=4, words=8)
    >>> parts = pretraining(tiny, Adapter(8, [(2, 1)], depth=1), tokens=10, targets=2)
    >>> parts["logits"], parts["projection"]
    (256.0, 128.0)
    """
    parts = training(replace(shape, vocabulary=shape.words), adapter, 1, tokens, targets - 1)
    headed = shape.words != shape.vocabulary
    width = shape.hidden
    return parts | ({"projection": 4.0 * shape.words * width + 16.0 * width * width} if headed else {})


def scoring(
    shape: Shape, adapter: Adapter, tokens: float, rows: float, positions: float, new: int, precision: int | None = None
) -> dict[str, float]:
    """The parts of the peak while scoring or evaluating, in bytes; nothing is kept for a backward pass.

    tokens: padded tokens of a batch of `rows` examples. positions: logits looked at, of each, 128 at a time. new: tokens
    generated, 0 for none. precision: bytes of a number in scoring where those are others than the model's
    (`model.score_dtype`), whose own weights stay in memory.
    """
    together = max(rows, min(rows * positions, 128.0))
    b, n = precision or shape.bytes, adapter.numbers
    cache = 2 * shape.layers * shape.keys * b * (tokens + rows * new) if new else 0
    state = 8.0 * shape.hidden + b * (2 * shape.queries + 2 * shape.keys + 3 * shape.inner)
    return {
        "weights": shape.weights + (0.0 if b == shape.bytes else shape.parameters * b),
        "adapter": float(n * b + (adapter.folded * b if b == 4 else 0)),
        "working": tokens * state + cache + shape.unpacked,
        "logits": together * shape.vocabulary * (b + 8.0),
    }


def peak(parts: dict[str, float], runtime: float, slack: Range, held: Sequence[str]) -> Range:
    """Bytes at the peak as a range. runtime: of the program itself. slack: what the allocator makes of a byte that comes
    and goes, at least and at most; `held`: parts that stay where they are.

    >>> peak({"weights": 100.0, "activations": 10.0}, 5.0, (1.0, 2.0), ["weights"])
    (115.0, 125.0)
    """
    steady = runtime + sum(size for name, size in parts.items() if name in held)
    loose = sum(size for name, size in parts.items() if name not in held)
    return steady + slack[0] * loose, steady + slack[1] * loose
