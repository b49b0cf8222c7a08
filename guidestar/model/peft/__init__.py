"""PEFT types of this project's own. PEFT finds them by name once `register` has been called."""

from __future__ import annotations

from typing import Any

NAMES = ("BOTTLENECK", "GATED_PREFIX", "UNIPELT")


def register() -> None:
    """Make the project's types known to PEFT; again is harmless.

    PEFT's own `register_peft_method` takes no name that it does not know, but its tables take any text. This is
    undocumented; a test watches over it.
    """
    from peft.mapping import (
        PEFT_TYPE_TO_CONFIG_MAPPING,
        PEFT_TYPE_TO_PREFIX_MAPPING,
        PEFT_TYPE_TO_TUNER_MAPPING,
    )

    from guidestar.model.peft import bottleneck, prefix, unipelt

    own: tuple[tuple[str, Any, Any], ...] = (
        (bottleneck.NAME, bottleneck.BottleneckConfig, bottleneck.BottleneckModel),
        (prefix.NAME, prefix.GatedPrefixConfig, prefix.GatedPrefixModel),
        (unipelt.NAME, unipelt.UniPeltConfig, unipelt.UniPeltModel),
    )
    for name, config, model in own:
        tables: tuple[tuple[Any, Any], ...] = (
            (PEFT_TYPE_TO_CONFIG_MAPPING, config),
            (PEFT_TYPE_TO_TUNER_MAPPING, model),
            (PEFT_TYPE_TO_PREFIX_MAPPING, model.prefix),
        )
        for table, value in tables:
            table[name] = value
