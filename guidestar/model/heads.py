"""The classification head of a transformers model: the modules that were made for its labels.

It is drawn afresh for every training and trained beside the adapter. PEFT keeps the trained copy next to the original, which
is put back when the adapter is taken off. What the model's files lack below it (`traits.drawn`) is part of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from guidestar.asking import HeadStart
from guidestar.model.views import read_views


class Model(nn.Module):
    """A transformers model for type checkers: bare, below an adapter of PEFT, or a fully fine-tuned copy."""

    if TYPE_CHECKING:
        guidestar_origin: Any  # of a copy, see `full`

        def __getattr__(self, name: str) -> Any: ...


_DRAWN = "guidestar_drawn"  # an attribute of the transformers model


def add(model: Model, drawn: Sequence[str]) -> None:
    """Note the modules below the head that were drawn at loading, by their dotted names: they are the head's from now on."""
    setattr(model, _DRAWN, tuple(drawn))


def drawn(model: Model) -> tuple[str, ...]:
    """What `add` noted."""
    return getattr(model, _DRAWN, ())


def names(model: Model) -> list[str]:
    """The head's modules: those children of a transformers model that have weights and are not the model below it, and those
    below that were drawn at loading."""
    if reads(model) == "features":
        return [answering(model)]
    below = model.base_model
    own = [n for n, child in model.named_children() if child is not below and any(True for _ in child.parameters())]
    return [*own, *drawn(model)]


def trained(model: Model) -> dict[str, nn.Module]:
    """The head that a transformers model answers with now, by the names of its modules: an adapter's own, where one is on."""
    return {name: _active(model.get_submodule(name)) for name in names(model)}


def put(model: Model, modules: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Set modules by their dotted names; what was there before."""
    before = {name: model.get_submodule(name) for name in modules}
    for name, module in modules.items():
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, module)
    return before


def _active(module: Any) -> nn.Module:
    own = getattr(module, "modules_to_save", None)
    return module if own is None else own[module.active_adapters[0]]


def restart(model: Model) -> None:
    """Draw the weights of the head in use afresh, normal with the model's own spread, biases 0; in float32."""
    spread = float(getattr(model.config, "initializer_range", None) or 0.02)
    for module in trained(model).values():
        module.float()
        for layer in module.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=spread)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)


_READS = "guidestar_reads"  # an attribute of the transformers model


def answering(model: Model) -> str:
    """The module that gives the logits: the last of the head's."""
    others = (child for child in model.named_children() if child[1] is not model.base_model)
    return [name for name, child in others if any(True for _ in child.parameters())][-1]


def read(model: Model, what: str, encoder: bool, tokenizer: Any) -> None:
    """Have the head read the "mean" over a text's states, or its "features" (`model/views.py`)."""
    if what == "mean":
        _read_mean(model)
    else:
        read_views(model, answering(model), encoder, around(tokenizer))
    setattr(model, _READS, what)


def reads(model: Model) -> str | None:
    """What `read` was told; None for a head that reads what the architecture gives it."""
    return getattr(model, _READS, None)


def kind(base: Any) -> str:
    """What the classification head of a base model reads, "classifier" for what its architecture gives it; "" where
    words answer."""
    return reads(base.model) or ("classifier" if base.labels else "")


def around(tokenizer: Any) -> tuple[int, int]:
    """How many special tokens a tokenizer puts before and behind a text."""
    bare, whole = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    before = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
    return before, max(0, len(whole) - before - len(bare))


def begin(model: Model, start: HeadStart) -> None:
    """Have the head on features in use start as a classifier that was fitted to frozen features."""
    head: Any = trained(model)[answering(model)]
    values = {head.centres: start.centres, head.linear.weight: start.weights.T, head.linear.bias: start.constants}
    with torch.no_grad():
        for tensor, array in values.items():
            tensor.copy_(torch.from_numpy(np.ascontiguousarray(array)))


def _read_mean(model: Model) -> None:
    """The head of an encoder on the mean over a text's states, in the place of what the architecture gives it.

    A head of BERT's kind reads what the pooler makes of the first state, which is replaced here; others read the first
    state themselves. It is a hook on the model below the head: an adapter may come and go, weights and names stay.
    """

    def replaced(body: Any, args: Any, inputs: Mapping[str, Any], output: Any) -> Any:
        states = output.last_hidden_state
        mask = inputs["attention_mask"][:, -states.shape[1] :, None].to(torch.float32)
        mean = ((states.float() * mask).sum(1) / mask.sum(1)).to(states.dtype)
        if output.get("pooler_output") is not None:
            output["pooler_output"] = mean
        else:
            output["last_hidden_state"] = torch.cat([mean[:, None], states[:, 1:]], dim=1)
        return output

    model.base_model.register_forward_hook(replaced, with_kwargs=True)


def put_back(model: Model) -> None:
    """The model's own modules in the place of copies that were trained with an adapter."""
    from peft.utils.other import ModulesToSaveWrapper

    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ModulesToSaveWrapper):
                setattr(parent, name, child.original_module)


def losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """−log p of each row's labels, in nats, (rows,). targets: (rows,) the places of the right labels; or, where several may
    hold, (rows, labels) of 0 and 1, and the sum over the labels."""
    if targets.ndim == 1:
        return F.cross_entropy(logits, targets, reduction="none")
    return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none").sum(-1)
