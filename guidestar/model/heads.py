"""The classification head of a transformers model: the modules that were made for its labels.

It is drawn afresh for every training and trained beside the adapter. PEFT keeps the trained copy next to the original, which
is put back when the adapter is taken off.
"""

from __future__ import annotations

from typing import Any

from torch import nn


def names(model: Any) -> list[str]:
    """The head's modules: those children of a transformers model that have weights and are not the model below it."""
    below = model.base_model
    return [n for n, child in model.named_children() if child is not below and any(True for _ in child.parameters())]


def trained(model: Any) -> dict[str, nn.Module]:
    """The head that a transformers model answers with now, by the names of its modules: an adapter's own, where one is on."""
    found = {name: getattr(model, name) for name in names(model)}
    return {name: _active(module) for name, module in found.items()}


def _active(module: Any) -> nn.Module:
    own = getattr(module, "modules_to_save", None)
    active: nn.Module = module if own is None else own[module.active_adapters[0]]
    return active


def restart(model: Any) -> None:
    """Draw the weights of the head in use afresh, normal with the model's own spread, biases 0; in float32."""
    spread = float(getattr(model.config, "initializer_range", None) or 0.02)
    for module in trained(model).values():
        module.float()
        for layer in module.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=spread)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)


def put_back(model: Any) -> None:
    """The model's own modules in the place of copies that were trained with an adapter."""
    from peft.utils.other import ModulesToSaveWrapper

    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ModulesToSaveWrapper):
                setattr(parent, name, child.original_module)
