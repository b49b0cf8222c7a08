"""What the project's own PEFT types have in common: their keys, how a module is wrapped, what layers share, merging."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from peft.config import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, check_adapters_to_merge
from torch import nn

# The last layers of the attention and of the feed-forward network, of models built like Llama or like BERT.
HOULSBY = ("o_proj", "down_proj", "output.dense")
ACTIVATIONS = {"swish": nn.SiLU, "relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}


@dataclass
class OwnConfig(PeftConfig):
    """Keys of every own type. Raises ValueError for a value that is not allowed.

    NAME: the peft_type; its dropout is the key `name_dropout`. COUNTS: keys that are 1 or more. CHOICES: key -> allowed values
    (`activation` has those of `ACTIVATIONS`).
    """

    NAME: ClassVar[str]
    COUNTS: ClassVar[Collection[str]] = ()
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
        for key, known in {**self.CHOICES, "activation": ACTIVATIONS}.items():
            if getattr(self, key, "relu") not in known:
                raise ValueError(f"{key} is {getattr(self, key)!r}; allowed: {', '.join(known)}")
        rate = f"{self.NAME.lower()}_dropout"
        if not 0 <= getattr(self, rate) < 1:
            raise ValueError(f"{rate} is {getattr(self, rate)}; allowed: from 0 to below 1")
        for key in ("target_modules", "exclude_modules"):
            if isinstance(getattr(self, key), list):
                setattr(self, key, set(getattr(self, key)))


@dataclass
class BlockConfig(OwnConfig):
    """The same, of a type that may be put on some blocks of the model alone."""

    layers_to_transform: list[int] | int | None = field(default=None, metadata={"help": "Numbers of the blocks."})
    layers_pattern: list[str] | str | None = field(default=None, metadata={"help": "Name of the list of blocks."})


class PartLayer(nn.Module, BaseTunerLayer):
    """A module with one part for each adapter: y = module(x) + part(x, module(x)).

    A part with a method `delta` adds that matrix, (out, in), to the module's weight; the others cannot be merged. UNMERGED: what
    those are and why, for the message. The one name in `adapter_layer_names` is that of the table of parts.
    """

    UNMERGED: ClassVar[str]
    other_param_names: tuple[str, ...] = ()

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        setattr(self, self.adapter_layer_names[0], nn.ModuleDict({}))
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._active_adapter: list[str] = []
        self.before: list[torch.Tensor] = []  # the weight without what was merged

    if TYPE_CHECKING:  # torch's says Tensor | Module, whatever it is

        def __getattr__(self, name: str) -> Any: ...

    @property
    def parts(self) -> nn.ModuleDict:
        """The parts by their adapters."""
        return getattr(self, self.adapter_layer_names[0])

    def names(self) -> list[str]:
        """The active adapters that have a part here; none when they are disabled."""
        idle = self.disable_adapters or self.merged
        return [] if idle else [name for name in self.active_adapters if name in self.parts]

    def add(self, adapter_name: str, part: nn.Module, active: list[str], inference_mode: bool) -> None:
        """Give an adapter its part, where and in what precision the module is."""
        like = next(p for p in self.get_base_layer().parameters())
        self.parts[adapter_name] = part.to(like.device, like.dtype if like.is_floating_point() else None)
        self.set_adapter(active, inference_mode=inference_mode)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the module's own, with what the parts make of its first input and its output."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        out = self.base_layer(*args, **kwargs)
        return plus(out, (self.parts[name](first_input(args, kwargs), out) for name in self.names()))

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add to the weight what the adapters add. Raises ValueError for what is no matrix, or with `safe_merge` not finite."""
        for name in check_adapters_to_merge(self, adapter_names):
            if name not in self.parts:
                continue
            part: Any = self.parts[name]
            if not hasattr(part, "delta"):
                raise ValueError(f"{self.UNMERGED} cannot be merged into the weights")
            weight = self.get_base_layer().weight
            with torch.no_grad():
                delta = part.delta().float()
                if delta.shape != weight.shape:
                    raise ValueError("the weight is packed (quantised); an adapter is merged into plain weights alone")
                whole = (weight.float() + delta).to(weight.dtype)
            if safe_merge and not bool(whole.isfinite().all()):
                raise ValueError(f"the adapter {name} would make weights that are not finite; nothing is merged here")
            self.before = self.before or [weight.detach().clone()]
            weight.data = whole
            self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Put back the weight's own bits, which taking off again what was added would not."""
        if self.before:
            self.get_base_layer().weight.data = self.before.pop()
        self.merged_adapters.clear()


class Sharing(nn.Module):
    """A part of which layers share a module: the first layer owns it, the others borrow it, and it is saved once.

    It is the module that is shared and not its tensors, since PEFT puts others in their place to change the precision.
    OWN: the name under which the first layer has it.
    """

    OWN: ClassVar[str] = "common"

    def __init__(self, owned: bool, common: nn.Module) -> None:
        super().__init__()
        setattr(self, self.OWN, common if owned else None)
        self._borrowed = (common,)  # in a tuple torch does not count it as a part of this layer

    @property
    def shared(self) -> Any:
        return self._borrowed[0]


class PartModel(BaseTuner):
    """A model whose modules have parts, which `part` makes. The name of their table is the prefix.

    LAYER: what its layers do. SAVED: what stands in a file before the names of a part's tensors; "" is the prefix and a dot.
    UNMERGED: see `PartLayer`.
    """

    LAYER: ClassVar[type[PartLayer]] = PartLayer
    SAVED: ClassVar[str] = ""
    UNMERGED: ClassVar[str] = ""
    target_module_mapping: ClassVar[dict[str, list[str]]] = {}

    def __init_subclass__(cls) -> None:
        """Give a type a prefix, its own name where it says no other, and a class of layers with its names."""
        kind = cls.__name__.removesuffix("Model")
        cls.prefix = vars(cls).get("prefix", kind.lower())
        names = {"adapter_layer_names": (cls.prefix,), "UNMERGED": cls.UNMERGED}
        cls.tuner_layer_cls = type(f"{kind}Layer", (cls.LAYER,), names)

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **options: Any) -> None:
        """As PEFT's own. What the new adapter's layers share begins as nothing."""
        self._new, self._shared = adapter_name, dict[Any, nn.Module]()
        super().inject_adapter(model, adapter_name, *args, **options)

    def part(self, config: Any, module: Any, where: str) -> nn.Module | None:
        """What an adapter adds to a module of the base model, whose name is `where`; None leaves it alone.

        Raises TypeError or ValueError if it does not fit."""
        raise NotImplementedError

    def share(self, key: Any, make: Callable[[], nn.Module]) -> tuple[bool, nn.Module]:
        """Whether a module that layers share is new, and it: what `Sharing` needs."""
        new = key not in self._shared
        if new:
            self._shared[key] = make()
        return new, self._shared[key]

    def put(self, parent: nn.Module, name: str, part: nn.Module) -> None:
        """Give the module of that name in `parent` a part of the new adapter."""
        target = getattr(parent, name)
        layer = target if isinstance(target, PartLayer) else self.tuner_layer_cls(target)
        layer.add(self._new, part, self.active_adapters, self.peft_config[self._new].inference_mode)
        self._replace_module(parent, name, layer, target)

    def _create_and_replace(
        self, peft_config: Any, adapter_name: str, target: nn.Module, target_name: str, parent: nn.Module,
        current_key: str, **optional: Any,
    ) -> None:  # fmt: skip
        if (part := self.part(peft_config, unwrapped(target), current_key)) is not None:
            self.put(parent, target_name, part)

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        """PEFT's own does not find the name before the name of a part of a part."""
        plain = key.replace(f".{cls.prefix}.{adapter_name}.", f".{cls.SAVED or f'{cls.prefix}.'}")
        return str(super()._remove_adapter_name_from_key(plain, adapter_name))

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        setattr(parent, child_name, new_module)  # PEFT's own asks the module for a weight, which an attention has not


def unwrapped(module: Any) -> Any:
    """The module itself, below an adapter's layer."""
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


def linear(module: Any, where: str, what: str) -> nn.Linear:
    """A linear layer with its weights as they are. Raises TypeError for a module of another kind."""
    if not isinstance(module, nn.Linear):
        raise TypeError(f"{where} is a {type(module).__name__}; {what} needs a linear layer")
    return module


def first_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What a module was called with: of an attention (batch, tokens, width), which some models give by its name."""
    return kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]


def dropout(rate: float) -> nn.Module:
    """A dropout, or nothing at rate 0."""
    return nn.Dropout(rate) if rate else nn.Identity()


def plus(out: Any, added: Iterable[torch.Tensor]) -> Any:
    """What a module returns with tensors added to it, or to the first thing of a tuple, in its own precision."""
    first, rest = (out[0], out[1:]) if isinstance(out, tuple) else (out, None)
    for one in added:
        first = first + one.to(first.dtype)
    return first if rest is None else (first, *rest)
