"""PEFT types of this project's own. PEFT finds them by name once `register` has been called."""

from __future__ import annotations

from importlib import import_module

# peft_type -> file of this folder and what the names of its classes begin with
_TYPES = {
    "AUTOPEFT": ("autopeft", "AutoPeft"), "BOTTLENECK": ("bottleneck", "Bottleneck"), "COMPACTER": ("compacter", "Compacter"),
    "GATED_PREFIX": ("prefix", "GatedPrefix"), "INVERSION": ("inversion", "Inversion"), "LORETTA": ("loretta", "Loretta"),
    "LORTA": ("lorta", "Lorta"), "PICA": ("pica", "Pica"), "SPEFT": ("speft", "Speft"), "UNIPELT": ("unipelt", "UniPelt"),
}  # fmt: skip
NAMES = tuple(_TYPES)


def register() -> None:
    """Make the project's types known to PEFT; again is harmless.

    PEFT's own `register_peft_method` takes no name that it does not know, but its tables take any text. This is
    undocumented; a test watches over it.
    """
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

    for name, (file, classes) in _TYPES.items():
        module = import_module(f"guidestar.model.peft.{file}")
        model = getattr(module, f"{classes}Model")
        PEFT_TYPE_TO_CONFIG_MAPPING[name] = getattr(module, f"{classes}Config")
        PEFT_TYPE_TO_TUNER_MAPPING[name] = model
        PEFT_TYPE_TO_PREFIX_MAPPING[name] = model.prefix
