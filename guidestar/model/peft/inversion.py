"""An invertible layer behind the embeddings, with Houlsby's adapters, as a PEFT type: `peft_type: INVERSION`.

    nice    a' = a + F(b),                b' = b + G(a')            for e = (a, b), the halves of an embedding
    glow    a' = a · exp(u(F_1(b))) + F_2(b),  b' likewise with G   u(s) = (10/π) atan(s/5), so that exp(u) stays finite

F and G are two linear layers with a ReLU between them. What leaves the embeddings goes through the layer; where the vocabulary's
projection has the embeddings' own weights, what enters it goes through the inverse:  b = b' − G(a'), a = a' − F(b). The
second layers of F and G start at 0, so that the adapter starts as the identity; they and the biases are STAR's "B". Behind the
attention's and the feed-forward network's last layers are adapters in series as `BOTTLENECK` has them.
Source: Pfeiffer, Vulić, Gurevych, Ruder 2020 (MAD-X); Dinh, Krueger, Bengio 2015 (NICE); Kingma, Dhariwal 2018 (Glow).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from guidestar.model.peft.bottleneck import Bottleneck
from guidestar.model.peft.common import HOULSBY, OwnConfig, PartLayer, PartModel, Sharing, unwrapped

_EMBEDDINGS = ("embed_tokens", "embeddings.LayerNorm")
_WHERE = r"(.*\.)?(" + "|".join(name.replace(".", r"\.") for name in (*_EMBEDDINGS, "lm_head", *HOULSBY)) + ")"


@dataclass
class InversionConfig(OwnConfig):
    """The inversion adapter's keys; `target_modules` are the last module of the embeddings, the vocabulary's projection if
    there is one, and linear layers that get a bottleneck adapter."""

    NAME = "INVERSION"
    COUNTS = ("r", "inv_adapter_reduction_factor")
    CHOICES = {"inv_adapter": ("nice", "glow")}  # noqa: RUF012 - a ClassVar

    target_modules: list[str] | str | None = field(default=_WHERE)
    inv_adapter: str = field(default="nice", metadata={"help": "nice or glow."})
    inv_adapter_reduction_factor: float = field(default=2, metadata={"help": "Half a width over that inside F and G."})
    r: int = field(default=48, metadata={"help": "Width of the bottleneck adapters."})
    activation: str = field(default="swish", metadata={"help": "swish, relu, gelu or tanh; of the bottlenecks."})
    inversion_dropout: float = field(default=0.0, metadata={"help": "Dropout on what enters F, G and the bottlenecks."})


class Half(Bottleneck):
    """F or G: how one half of an embedding moves the other, and back."""

    def __init__(self, source: int, out: int, config: InversionConfig) -> None:
        affine = config.inv_adapter == "glow"
        inner = max(1, int(source // config.inv_adapter_reduction_factor))
        super().__init__(source, inner, (1 + affine) * out, "relu", config.inversion_dropout)
        self.affine = affine

    def parts(self, x: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Log of the factor, if there is one, and the shift."""
        made = self.squeeze(x)
        if not self.affine:
            return None, made
        log, shift = made.chunk(2, dim=-1)
        return 10 / math.pi * (log / 5).atan(), shift

    def change(self, x: torch.Tensor, half: torch.Tensor) -> torch.Tensor:
        """What is added to the other half."""
        log, shift = self.parts(x)
        return shift if log is None else half * log.expm1() + shift

    def back(self, x: torch.Tensor, half: torch.Tensor) -> torch.Tensor:
        """The other half as it was before."""
        log, shift = self.parts(x)
        return half - shift if log is None else (half - shift) * (-log).exp()


class Coupling(nn.Module):
    """The invertible layer, of embeddings (..., width)."""

    def __init__(self, width: int, config: InversionConfig) -> None:
        super().__init__()
        first = width // 2
        self.sizes = [first, width - first]
        self.f, self.g = Half(width - first, first, config), Half(first, width - first, config)

    def forward(self, e: torch.Tensor) -> torch.Tensor:
        """What is added to embeddings."""
        a, b = e.to(self.f.down.weight.dtype).split(self.sizes, dim=-1)
        first = self.f.change(b, a)
        return torch.cat([first, self.g.change(a + first, b)], dim=-1)

    def inverse(self, e: torch.Tensor) -> torch.Tensor:
        """The embeddings that became these."""
        a, b = e.to(self.f.down.weight.dtype).split(self.sizes, dim=-1)
        b = self.g.back(a, b)
        return torch.cat([self.f.back(b, a), b], dim=-1).to(e.dtype)


class Behind(Sharing):
    """The coupling behind the embeddings."""

    def forward(self, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return self.shared(out)


class Before(Sharing):
    """Its inverse before the vocabulary's projection."""


class Series(Bottleneck):
    """U f(D drop(h))."""

    def forward(self, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return self.squeeze(out)


class InversionLayer(PartLayer):
    """The embeddings, the vocabulary's projection, or a linear layer, with its part of each adapter."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        parts: list[Any] = [self.parts[name] for name in self.names()]
        if not parts or not isinstance(parts[0], Before):
            return super().forward(*args, **kwargs)
        x = args[0]
        for part in reversed(parts):
            x = part.shared.inverse(x)
        return self.base_layer(x, *args[1:], **kwargs)


class InversionModel(PartModel):
    """A model with an invertible layer behind its embeddings, and bottleneck adapters."""

    LAYER = InversionLayer
    UNMERGED = "an inversion adapter is not linear and"

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **options: Any) -> None:
        """As PEFT's own. Raises ValueError if no embeddings are among the targets."""
        super().inject_adapter(model, adapter_name, *args, **options)
        if not self._shared:
            names = " or ".join(_EMBEDDINGS)
            raise ValueError(f"target_modules names no embeddings for the invertible layer, such as {names}")

    def part(self, config: InversionConfig, module: Any, where: str) -> nn.Module | None:
        """Raises TypeError for a module without a weight."""
        weight = getattr(module, "weight", None)
        if weight is None:
            raise TypeError(
                f"{where} is a {type(module).__name__}; an inversion adapter needs embeddings or a linear layer"
            )
        embedded = self.model.get_input_embeddings().weight
        if isinstance(module, nn.Linear) and unwrapped(self.model.get_output_embeddings()) is not module:
            width = module.out_features
            return Series(width, config.r, width, config.activation, config.inversion_dropout)
        if isinstance(module, nn.Linear) and weight is not embedded:
            return None
        owned, coupling = self.share("coupling", lambda: Coupling(weight.shape[-1], config))
        return (Before if isinstance(module, nn.Linear) else Behind)(owned, coupling)

    def _check_tied_modules(self, model: nn.Module, peft_config: Any) -> None:
        """PEFT's warns of tied weights that an adapter changes, which this one does not."""
