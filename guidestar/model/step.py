"""A training step that costs less on a CPU and gives what the plain one gives, up to rounding.

Three things, each measured (docs/performance.md, LOG.md): plain LoRA as one operation with a backward pass of its own,
attention in separate products (`attention.py`), and an optimiser that goes over the weights once. A GPU and other
adapters are trained as PEFT and transformers have it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from guidestar.errors import ConfigError
from guidestar.model import adapters, attention, lora
from guidestar.model.dropout import BitDropout, keep_bits, masked
from guidestar.model.load import BaseModel, Model


@contextmanager
def cheaper(base: BaseModel, model: Model) -> Iterator[None]:
    """The model with cheaper steps while the block lasts."""
    with ExitStack() as stack:
        if base.device.type == "cpu":
            stack.enter_context(whole_lora(model))
            stack.enter_context(attention.products(base, model))
        yield


def optimizer_options(base: BaseModel) -> dict[str, Any]:
    """Of `torch.optim.AdamW`: its default makes a dozen walks over every tensor."""
    return {"fused": True} if base.device.type in ("cpu", "cuda") else {}


def accelerator_of(base: BaseModel) -> Any:
    """accelerate for the base's device and precision.

    accelerate keeps one precision for a process; a base of another dtype needs that forgotten first.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    precision = {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(base.dtype, "no")
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision:
        AcceleratorState._reset_state()
    return Accelerator(mixed_precision=precision, cpu=base.device.type == "cpu")


class Steps:
    """AdamW with a linear schedule of `length` steps, by accelerate."""

    def __init__(
        self, base: BaseModel, groups: Sequence[Any], rate: float, warmup: int, length: int, **options: Any
    ) -> None:
        """groups, options: as `torch.optim.AdamW` has them. rate: the largest learning rate, after `warmup` steps."""
        from transformers import get_linear_schedule_with_warmup

        self.accelerator = accelerator_of(base)
        self.optimizer = torch.optim.AdamW(groups, lr=rate, **options)
        self._schedule = get_linear_schedule_with_warmup(self.optimizer, warmup, length)
        self._stepper = self.accelerator.prepare_optimizer(self.optimizer)  # unscales half-precision gradients

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return float(self._schedule.get_last_lr()[0])

    def step(self, trained: Sequence[torch.Tensor], clip: float) -> None:
        """clip: the largest norm of the gradient of all that is `trained`."""
        self.accelerator.clip_grad_norm_(trained, clip)
        self._stepper.step()
        if not self._stepper.step_was_skipped:
            self._schedule.step()
        self._stepper.zero_grad()


@contextmanager
def checkpointed(model: Model, wanted: bool) -> Iterator[None]:
    """The model with activations that are computed again in the backward pass, while the block lasts; dropout draws the same
    masks again. Raises ConfigError for a model, or an adapter, that cannot."""
    if not wanted:
        yield
        return
    inner = adapters.inner(model)
    config = getattr(model, "active_peft_config", None)
    if config is not None and config.is_prompt_learning:  # its keys are a cache, which transformers then switches off
        raise ConfigError(
            f"train.checkpointing is on, but {getattr(config.peft_type, 'value', config.peft_type)} puts tokens or keys of its own "
            "before the text, which a second computation would not see; leave it out, or use another peft_type"
        )
    if not getattr(inner, "supports_gradient_checkpointing", False):
        raise ConfigError(f"train.checkpointing is on, but {type(inner).__name__} has none; leave it out")
    inner.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    try:
        yield
    finally:
        inner.activation_checkpointing_disable()


@contextmanager
def whole_lora(model: Model) -> Iterator[None]:
    """W x + scaling · B A drop(x) as one operation, where the adapter is plain LoRA and nothing hangs in between.

    Its random numbers are those of the plain way, so a training sees the same masks.
    """
    layers = lora.plain_layers(model)
    with lora.running(layers if all(map(_alone, layers)) else [], _forward):
        yield


def _alone(layer: Any) -> bool:
    """Whether a LoRA layer's parts do what their weights say and nothing else."""
    (name,) = layer.active_adapters
    w, drop = layer.get_base_layer(), layer.lora_dropout[name]
    parts = [w, drop, layer.lora_A[name], layer.lora_B[name]]
    hooked = any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in parts)
    return not hooked and not w.weight.requires_grad and type(drop) in (nn.Identity, BitDropout)


def _forward(layer: Any) -> Callable[..., torch.Tensor]:
    (name,) = layer.active_adapters
    w, a, b = layer.get_base_layer(), layer.lora_A[name].weight, layer.lora_B[name].weight
    drop, scaling = layer.lora_dropout[name], float(layer.scaling[name])

    def forward(x: torch.Tensor) -> torch.Tensor:
        dropping = isinstance(drop, BitDropout) and drop.training
        cut, kept = (drop.cut, 1 - drop.p) if dropping else (0, 1.0)
        rows = x.reshape(-1, x.shape[-1])  # its shape is put back here, since some models change the answer in place
        out: torch.Tensor = _WholeLora.apply(rows, w.weight, w.bias, a, b, cut, scaling / kept)
        return out.view(*x.shape[:-1], -1)

    return forward


class _WholeLora(torch.autograd.Function):
    """y = W x + bias + alpha · B A (m x); x: (..., in) -> (..., out), in W's dtype.

    m: a mask that keeps an element with probability 1 − cut/65536; what it is divided by stands in alpha. The gradients
    of A and B are sums in W's dtype, as under autocast, given in their own.
    """

    @staticmethod
    def forward(
        context: Any, x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, a: torch.Tensor, b: torch.Tensor,
        cut: int, alpha: float,
    ) -> torch.Tensor:  # fmt: skip
        entering = x.to(w.dtype).reshape(-1, x.shape[-1])
        low_a, low_b = a.to(w.dtype), b.to(w.dtype)
        out = F.linear(entering, w, bias)
        keep = keep_bits(entering, cut) if cut else None
        if keep is not None:
            entering = masked(entering, keep)
        low = entering @ low_a.t()
        out.addmm_(low, low_b.t(), alpha=alpha)
        context.save_for_backward(entering, keep, low, w, low_a, low_b)
        context.alpha, context.dtypes = alpha, (x.dtype, a.dtype, b.dtype)
        return out if x.ndim == 2 else out.view(*x.shape[:-1], -1)  # a view must not be changed in place

    @staticmethod
    def backward(context: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        entering, keep, low, w, a, b = context.saved_tensors
        of_x, of_a, of_b = context.dtypes
        grad = grads[0].reshape(-1, grads[0].shape[-1])
        of_low = torch.mm(grad, b).mul_(context.alpha)
        grad_a = torch.mm(of_low.t(), entering).to(of_a)
        grad_b = torch.mm(grad.t(), low).to(of_b).mul_(context.alpha)
        if not context.needs_input_grad[0]:
            return None, None, None, grad_a, grad_b, None, None
        grad_x = torch.mm(grad, w)
        if keep is None:
            grad_x.addmm_(of_low, a)
        else:
            grad_x.add_(masked(torch.mm(of_low, a), keep))
        return grad_x.view(*grads[0].shape[:-1], -1).to(of_x), None, None, grad_a, grad_b, None, None
