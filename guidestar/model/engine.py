"""The own engine behind the seam: a base model in this process that scores and trains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from guidestar.asking import Engine, Labelled, Lesson, Measured, Scorer, Trained, Trainer, silent
from guidestar.asking.each import EachLabel, EachLabelTrainer, yes_or_no
from guidestar.config import RunConfig, TaptConfig, TrainConfig
from guidestar.data.pool import Split
from guidestar.model import adapters, batches, heads, layers, pretrain, ranks, sparse, states, train
from guidestar.model.load import BaseModel, as_begun, describe
from guidestar.model.scorer import OwnScorer
from guidestar.model.vllm import Served, VllmScorer
from guidestar.progress import Tick
from guidestar.records import Example
from guidestar.tasks import Task, scored_labels, several


@final
@dataclass(frozen=True)
class OwnTrainer(Trainer):
    """Fine-tunes an adapter on the base model, on this machine (`model/train.py`).

    peft: the adapter's settings. data_hash: of data and template; ids stand for examples in `question`.
    """

    base: BaseModel
    task: Task
    peft: dict[str, Any]
    config: TrainConfig
    data_hash: str = ""

    def __call__(self, lesson: Lesson, folder: Path, tick: Tick = silent) -> Trained:
        return train.train(
            self.base, self.peft, self.config, lesson.labelled, self.task, folder, seed=lesson.seed,
            previous=lesson.previous, pretrained=lesson.pretrained, validation=lesson.validation, oracle=lesson.oracle,
            extra=lesson.extra, start=lesson.start, tick=tick,
        )  # fmt: skip

    def plain(self) -> dict[str, Any]:
        settings = self.config.model_dump(mode="json")
        for memory_alone in ("micro_batch_size", "checkpointing"):
            settings.pop(memory_alone, None)
        return {
            **_facts(self.base), "peft": self.peft, "train": settings, "data": self.data_hash, "task": repr(self.task),
            **({"ranks": count} if (count := ranks.here().count) > 1 else {}),  # each draws masks of its own
        }  # fmt: skip


@final
@dataclass(frozen=True)
class OwnPretrainer(Trainer):
    """Trains an adapter on prompts alone (`model/pretrain.py`); the answers of its lessons are not read."""

    base: BaseModel
    peft: dict[str, Any]
    config: TaptConfig
    data_hash: str
    b_dropout: float | None

    def __call__(self, lesson: Lesson, folder: Path, tick: Tick = silent) -> Trained:
        examples = [example for example, _ in lesson.labelled]
        losses = pretrain.pretrain(
            self.base, self.peft, self.config, examples, folder, seed=lesson.seed, b_dropout=self.b_dropout, tick=tick
        )
        return Trained(tuple(losses), best_epoch=len(losses) - 1)

    def plain(self) -> dict[str, Any]:
        return {
            **_facts(self.base), "peft": self.peft, "tapt": self.config.model_dump(mode="json"), "data": self.data_hash,
            "b_dropout": self.b_dropout, "labels": list(self.base.labels),
        }  # fmt: skip

    def question(self, lesson: Lesson) -> dict[str, Any]:
        return {**self.plain(), "seed": lesson.seed, "ids": [example.id for example, _ in lesson.labelled]}


def _facts(base: BaseModel) -> dict[str, Any]:
    """What any training depends on in a base model."""
    facts = {"model": base.fingerprint, "dtype": str(base.dtype), "chat": base.chat, "max_length": base.max_length}
    reads = heads.reads(base.model)
    return facts | ({"closing": list(base.closing)} if base.closing else {}) | ({"head": reads} if reads else {})


@final
class OwnEngine(Engine):
    """A base model in this process."""

    def __init__(self, base: BaseModel, task: Task, served: Served | None = None) -> None:
        """served: the same model in vLLM, which then scores pools."""
        self.base, self.task, self._loaded, self.served = base, task, base, served

    @cached_property
    def facts(self) -> Mapping[str, Any]:
        return describe(self.base)

    def must_be(
        self, begun: Mapping[str, Any], folder: Path, names: Sequence[str] = ("fingerprint", "dtype", "pooling")
    ) -> None:
        super().must_be(begun, folder, names)
        base = as_begun(self._loaded, begun)
        if base != self.base:
            self.base = base
            self.__dict__.pop("facts", None)

    def remarks(self, examples: Iterable[Example]) -> list[str]:
        held = batches.control_tokens(self.base, examples)
        said = ", ".join(f"{token} in {number}" for token, number in held.items())
        return [f"texts hold control tokens, which the model reads as such and not as text: {said}"] if held else []

    @property
    def head(self) -> str:
        return heads.kind(self.base)

    @property
    def _asks_each(self) -> bool:
        """Whether a language model is asked about each label alone."""
        return several(self.task) and not self.head

    def scorer(
        self, adapter: Path | None = None, *, dtype: str | None = None, b_dropout: float | None = None,
        head_alone: bool = False,
    ) -> Scorer:  # fmt: skip
        options: dict[str, Any] = {"dtype": dtype, "b_dropout": b_dropout, "head_alone": head_alone}
        return self._each(OwnScorer(self.base, self._asked, adapter, **options))

    def pool_scorer(
        self, adapter: Path | None = None, *, dtype: str | None = None, b_dropout: float | None = None
    ) -> Scorer:
        if self.served is None:
            return self.scorer(adapter, dtype=dtype, b_dropout=b_dropout)
        return self._each(VllmScorer(self.served, self._asked, adapter, b_dropout))

    @property
    def _asked(self) -> Task:
        """The task that the model is asked: of several labels one at a time, where words answer."""
        return yes_or_no(self.task) if self._asks_each else self.task

    def _each(self, scorer: Scorer) -> Scorer:
        return EachLabel(scorer, self.task) if self._asks_each else scorer

    def trainer(self, config: RunConfig, data_hash: str) -> Trainer:
        trainer = OwnTrainer(self.base, self._asked, config.peft, config.train, data_hash)
        return EachLabelTrainer(trainer, self.task) if self._asks_each else trainer

    def pretrainer(self, config: RunConfig, data_hash: str) -> Trainer:
        assert config.tapt is not None, "the configuration has no tapt"
        return OwnPretrainer(self.base, config.peft, config.tapt, data_hash, config.train.b_dropout)

    def inside(
        self, what: str, examples: Sequence[Example], adapter: Path | None = None, tick: Tick = silent
    ) -> Mapping[str, NDArray[np.float32]]:
        with adapters.adapted(self.base, adapter) as model:
            if what == "gates":
                return states.gates(self.base, model, examples, tick)
            return {"states": states.layer_states(self.base, model, examples, tick)}

    def few_shot(self, labelled: Labelled, split: Split, *, shots: int, seed: int, tick: Tick = silent) -> Measured:
        from guidestar.model.fewshot import few_shot

        return few_shot(self.base, labelled, split, self.task, shots=shots, seed=seed, tick=tick)

    def check_adapter(self, config: RunConfig) -> None:
        fisher = {"layers": [0]} if config.peft.get("layers") == "fisher" else {}
        plain, _ = layers.split(config.peft)
        model = adapters.attach(
            self.base, plain | fisher if fisher else config.peft, seed=0, b_dropout=config.train.b_dropout
        )
        try:
            sparse.check(config, model)
        finally:
            adapters.detach(model)

    def check_answers(self, examples: Iterable[Example]) -> None:
        if scored_labels(self.task) and not self.base.labels:
            for joint in {" "} if self._asks_each else {batches.joint_of(self.base, e.prompt) for e in examples}:
                batches.label_tokens(self.base, self._asked, joint)
