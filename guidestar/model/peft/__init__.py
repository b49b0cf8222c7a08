"""PEFT types of this project's own. PEFT finds them by name once `register` has been called."""

from __future__ import annotations

NAMES = ("BOTTLENECK", "GATED_PREFIX", "UNIPELT")


def register() -> None:
    """Make the project's types known to PEFT; again is harmless.

    PEFT's own `register_peft_method` takes no name that it does not know, but its tables take any text. This is
    undocumented; a test watches over it.
    """
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

    from guidestar.model.peft.bottleneck import BottleneckConfig, BottleneckModel
    from guidestar.model.peft.prefix import GatedPrefixConfig, GatedPrefixModel
    from guidestar.model.peft.unipelt import UniPeltConfig, UniPeltModel

    models = (BottleneckModel, GatedPrefixModel, UniPeltModel)
    for config, model in zip((BottleneckConfig, GatedPrefixConfig, UniPeltConfig), models, strict=True):
        PEFT_TYPE_TO_CONFIG_MAPPING[config.NAME] = config
        PEFT_TYPE_TO_TUNER_MAPPING[config.NAME] = model
        PEFT_TYPE_TO_PREFIX_MAPPING[config.NAME] = model.prefix
