"""What the project's own PEFT types have in common: their keys, how a module is wrapped, and that nothing is merged."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from peft.config import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import nn


@dataclass
class OwnConfig(PeftConfig):
    """Keys of every own type. Raises ValueError for a value that is not allowed.

    NAME: the peft_type. COUNTS: keys that are 1 or more. RATE: the key of the dropout. CHOICES: key -> allowed values.
    """

    NAME: ClassVar[str]
    COUNTS: ClassVar[Collection[str]] = ()
    RATE: ClassVar[str]
    CHOICES: ClassVar[Mapping[str, Collection[str]]] = {}

    target_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Names of the modules that get an adapter, or a regular expression."}
    )
    exclude_modules: list[str] | str | None = field(default=None, metadata={"help": "Names to leave out."})
    modules_to_save: list[str] | None = field(default=None, metadata={"help": "Modules trained beside the adapter."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = self.NAME
        for key in self.COUNTS:
            if getattr(self, key) < 1:
                raise ValueError(f"{key} is {getattr(self, key)}; allowed: 1 or more")
        for key, known in self.CHOICES.items():
            if getattr(self, key) not in known:
                raise ValueError(f"{key} is {getattr(self, key)!r}; allowed: {', '.join(known)}")
        if not 0 <= getattr(self, self.RATE) < 1:
            raise ValueError(f"{self.RATE} is {getattr(self, self.RATE)}; allowed: from 0 to below 1")
        for key in ("target_modules", "exclude_modules"):
            if isinstance(getattr(self, key), list):
                setattr(self, key, set(getattr(self, key)))


@dataclass
class BlockConfig(OwnConfig):
    """The same, of a type that may be put on some blocks of the model alone."""

    layers_to_transform: list[int] | int | None = field(default=None, metadata={"help": "Numbers of the blocks."})
    layers_pattern: list[str] | str | None = field(default=None, metadata={"help": "Name of the list of blocks."})


class OwnLayer(nn.Module, BaseTunerLayer):
    """A module of the base model with the parts of one or several adapters, which are never merged into its weights.

    UNMERGED: what it is and why, for the message. TABLE: what holds the parts of `adapter_layer_names`.
    """

    UNMERGED: ClassVar[str]
    TABLE: ClassVar[type[nn.ModuleDict] | type[nn.ParameterDict]] = nn.ModuleDict
    other_param_names: tuple[str, ...] = ()

    def __init__(self, base_layer: nn.Module, active: str | list[str]) -> None:
        super().__init__()
        self.base_layer = base_layer
        for name in self.adapter_layer_names:
            setattr(self, name, self.TABLE({}))
        for name in self.other_param_names:
            setattr(self, name, nn.ModuleDict({}))
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._active_adapter = active

    if TYPE_CHECKING:  # torch's says Tensor | Module, whatever it is

        def __getattr__(self, name: str) -> Any: ...

    def names(self) -> list[str]:
        """The active adapters that have a part here; none when they are disabled."""
        here = getattr(self, self.adapter_layer_names[0])
        return [] if self.disable_adapters else [name for name in self.active_adapters if name in here]

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Raises ValueError: what the adapter adds is no product of a matrix with the input."""
        raise ValueError(f"{self.UNMERGED} cannot be merged into the weights")

    def unmerge(self) -> None:
        """Nothing is ever merged."""


class OwnModel(BaseTuner):
    """A model with layers of an own type. Their constructor takes (module, adapter's name, config, module's name)."""

    target_module_mapping: ClassVar[dict[str, list[str]]] = {}

    def _create_and_replace(
        self, peft_config: Any, adapter_name: str, target: nn.Module, target_name: str, parent: nn.Module,
        current_key: str, **optional: Any,
    ) -> None:  # fmt: skip
        if isinstance(target, self.tuner_layer_cls):
            target.update_layer(adapter_name, peft_config)
            return
        layer = self.tuner_layer_cls(target, adapter_name, peft_config, current_key)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        setattr(parent, child_name, new_module)  # PEFT's own asks the module for a weight, which an attention has not


def dropout(rate: float) -> nn.Module:
    """A dropout, or nothing at rate 0."""
    return nn.Dropout(rate) if rate else nn.Identity()


def plus(out: Any, added: Iterable[torch.Tensor]) -> Any:
    """What a module returns with tensors added to it, or to the first thing of a tuple, in its own precision."""
    first, rest = (out[0], out[1:]) if isinstance(out, tuple) else (out, None)
    for one in added:
        first = first + one.to(first.dtype)
    return first if rest is None else (first, *rest)
