"""What a run works with: a model for one task, which scores under any of a run's adapters and trains them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from guidestar.asking.answers import Measured
from guidestar.asking.scorer import Scorer, silent
from guidestar.asking.trainer import Labelled, Trainer
from guidestar.config import RunConfig
from guidestar.data.pool import Split
from guidestar.errors import ConfigError, ConfigMismatch
from guidestar.progress import Tick
from guidestar.records import Example

SAME = ("fingerprint", "dtype", "pooling")  # facts of a model that stay while a run lasts


class How(TypedDict, total=False):
    """How a scorer computes, where it does not as the model was loaded.

    dtype: another precision to score in than the model's own. b_dropout: rate of a dropout before LoRA's B in stochastic
    passes. head_alone: the classification head that was trained with the adapter, on the bare model.
    """

    dtype: str | None
    b_dropout: float | None
    head_alone: bool


class Engine(ABC):
    """Gives scorers and trainers. `guidestar.model.engine.OwnEngine` is the one of this package."""

    @property
    @abstractmethod
    def facts(self) -> Mapping[str, Any]:
        """Of the model, for the store and the report: "name", "fingerprint", "dtype", "device", "parameters", …"""

    @property
    def head(self) -> str:
        """What the classification head that answers reads: "classifier", "mean" or "features" (`model.head`); "" where
        words answer, which the model knows before it is trained."""
        return ""

    def must_be(self, begun: Mapping[str, Any], folder: Path, names: Sequence[str] = SAME) -> None:
        """Raise ConfigMismatch unless the model is the one that the run in `folder` was begun with.

        begun: its facts then. names: of those that must be the same. An engine that does something otherwise than when the
        run began does it in the old way from here on.
        """
        for name in names:
            if name in begun and begun[name] != self.facts.get(name):
                raise ConfigMismatch(
                    f"{folder}: the model's {name} was {begun[name]} when the run began, now it is {self.facts.get(name)}; use "
                    "the same model, or begin another run in another folder"
                )

    def remarks(self, examples: Iterable[Example]) -> list[str]:
        """What people should know of how the model reads these texts."""
        return []

    @abstractmethod
    def scorer(self, adapter: Path | None = None, **how: Unpack[How]) -> Scorer:
        """The model, bare or under a saved adapter."""

    def pool_scorer(self, adapter: Path | None = None, **how: Unpack[How]) -> Scorer:
        """As `scorer`, for many examples: another engine's where one serves the model (`engine.score.use: vllm`)."""
        return self.scorer(adapter, **how)

    @abstractmethod
    def trainer(self, config: RunConfig, data_hash: str) -> Trainer:
        """Fine-tuning as a configuration wants it. data_hash: of data and template."""

    @abstractmethod
    def pretrainer(self, config: RunConfig, data_hash: str) -> Trainer:
        """Training on prompts alone (`tapt`); the answers of its lessons are not read."""

    def inside(
        self, what: str, examples: Sequence[Example], adapter: Path | None = None, tick: Tick = silent
    ) -> Mapping[str, NDArray[np.float32]]:
        """What happens inside the model, bare or under a saved adapter: "layers" gives "states", (layers, n, width), of
        the last prompt token; "gates" those of a UniPELT adapter by part, each (layers, n).

        Raises ConfigError for a model that shows nothing.
        """
        raise ConfigError(f"{type(self).__name__} shows nothing of its inside; allowed: a model in this process")

    def few_shot(self, labelled: Labelled, split: Split, *, shots: int, seed: int, tick: Tick = silent) -> Measured:
        """`evaluate` for the bare model that reads demonstrations before every prompt, and "shots", how many fitted.

        Raises ConfigError for a model that cannot go on from demonstrations.
        """
        raise ConfigError(f"{type(self).__name__} reads no demonstrations; allowed: a model in this process")

    def check_adapter(self, config: RunConfig) -> None:  # noqa: B027 - what takes any adapter refuses none
        """Raise ConfigError for an adapter that does not fit the model."""

    def check_answers(self, examples: Iterable[Example]) -> None:  # noqa: B027
        """Raise ConfigError if the model cannot tell the task's answers apart behind these prompts."""
