"""What a training does where the configuration leaves it open: `train.recipe`.

A name stands for fixed numbers: better ones get another name, so that a run goes on as it was begun. Why these:
`docs/training.md`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from guidestar.config import TrainConfig
from guidestar.words import count


@dataclass(frozen=True)
class Recipe:
    """The keys of `train` that a recipe fills in."""

    min_steps: int
    learning_rate: float


# How a model answers, by a new head, by one that starts as a classifier or by words it knows, and what is trained.
LEAN: Mapping[tuple[str, str], Recipe] = {
    ("head", "adapter"): Recipe(min_steps=260, learning_rate=1e-3),
    ("head", "full"): Recipe(min_steps=260, learning_rate=1e-4),
    ("features", "adapter"): Recipe(min_steps=130, learning_rate=1e-3),
    ("features", "full"): Recipe(min_steps=130, learning_rate=1e-4),
    ("words", "adapter"): Recipe(min_steps=100, learning_rate=5e-4),
    ("words", "full"): Recipe(min_steps=100, learning_rate=5e-5),
}

# Below this many steps a training hardly moves what it is to train (docs/training.md).
FEW = {"head": 150, "features": 30, "words": 30}


def settled(config: TrainConfig, head: str, peft: Mapping[str, Any]) -> TrainConfig:
    """The settings with every key filled in that the recipe stands for. head: what the classification head
    reads, "" where words answer (`Engine.head`).

    >>> settled(TrainConfig(recipe="lean"), "classifier", {"peft_type": "LORA"}).min_steps
    260
    """
    values: dict[str, Any] = {"min_steps": 0}
    if config.recipe == "lean":
        whole = str(peft.get("peft_type", "")).upper() == "FULL"
        values |= vars(LEAN[_kind(head), "full" if whole else "adapter"])
    return config.model_copy(update={k: v for k, v in values.items() if getattr(config, k) is None})


def _kind(head: str) -> str:
    return "words" if not head else "features" if head == "features" else "head"


def epochs(config: TrainConfig, examples: int) -> int:
    """Passes over so many examples, of settled settings: more than `epochs` where these are fewer steps than `min_steps`.

    >>> epochs(TrainConfig(epochs=6, batch_size=8, min_steps=100), 50)
    15
    """
    return max(config.epochs, -(-(config.min_steps or 0) // -(-max(examples, 1) // config.batch_size)))


def too_short(config: TrainConfig, head: str, examples: int) -> str:
    """A sentence where a training of settled settings has too few steps to move the model; "" where it has enough."""
    whole = epochs(config, examples) * -(-examples // config.batch_size)
    steps = min(whole, config.schedule_steps or whole)
    few = FEW[_kind(head)]
    if steps >= few:
        return ""
    what = "a new classification head" if _kind(head) == "head" else "the model"
    mend = "train.recipe: lean, or train.min_steps"
    if steps < whole:
        mend = "a larger train.schedule_steps, or none"
    elif config.recipe == "lean":
        mend = "a larger train.min_steps, or none"
    elif config.min_steps:
        mend = f"more than {config.min_steps} train.min_steps, or train.recipe: lean in its place"
    if _kind(head) == "head":
        mend += "; or model.head: features, which starts as a classifier on frozen features and needs fewer"
    done = f"{count(examples, 'label')} make{'s' * (examples == 1)} {count(steps, 'optimiser step')}"
    return f"{done}, and {what} hardly moves in fewer than {few}; give {mend}"
