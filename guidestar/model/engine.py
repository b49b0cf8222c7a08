"""The own engine behind the seam: a base model in this process that scores and trains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack, final

import numpy as np
from numpy.typing import NDArray

from guidestar.asking import Engine, How, Labelled, Measured, Scorer, Trainer, evaluate, silent
from guidestar.asking.each import EachLabel, EachLabelTrainer, yes_or_no
from guidestar.asking.engine import SAME
from guidestar.config import RunConfig
from guidestar.data.demonstrations import BLANK_LINE, choose_demonstrations, with_demonstrations
from guidestar.data.pool import Split
from guidestar.errors import ConfigError
from guidestar.model import adapters, batches, heads, layers, sparse, states
from guidestar.model.load import BaseModel, as_begun, describe
from guidestar.model.pretrain import OwnPretrainer
from guidestar.model.scorer import OwnScorer
from guidestar.model.train import OwnTrainer
from guidestar.model.vllm import Served, VllmScorer
from guidestar.progress import Tick
from guidestar.records import Example
from guidestar.tasks import Task, scored_labels, several


@final
class OwnEngine(Engine):
    """A base model in this process."""

    def __init__(self, base: BaseModel, task: Task, served: Served | None = None) -> None:
        """served: the same model in vLLM, which then scores pools."""
        self.base, self.task, self._loaded, self.served = base, task, base, served

    @cached_property
    def facts(self) -> Mapping[str, Any]:
        return describe(self.base)

    def must_be(self, begun: Mapping[str, Any], folder: Path, names: Sequence[str] = SAME) -> None:
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

    def scorer(self, adapter: Path | None = None, **how: Unpack[How]) -> Scorer:
        return self._each(OwnScorer(self.base, self._asked, adapter, **how))

    def pool_scorer(self, adapter: Path | None = None, **how: Unpack[How]) -> Scorer:
        if self.served is None:
            return self.scorer(adapter, **how)
        return self._each(VllmScorer(self.served, self._asked, adapter, how.get("b_dropout")))

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
        """The same demonstrations for every example: `choose_demonstrations` of `labelled` by `seed`, and of those as many
        as fit the context before the longest prompt. With `model.chat` they are earlier turns of the conversation.

        "shots" stands in the metrics and, as an array (1,), beside the others. Raises ConfigError for less than one shot,
        DataError without a labelled example.
        Source: Zhang, Wu, Zhou, Xu 2024, section 3, "Few-shot"; Brown et al. 2020.
        """
        base, task = self.base, self.task
        if base.labels:
            raise ConfigError(f"{base.name} answers with a classification head and cannot go on from demonstrations")
        shown = choose_demonstrations(labelled, shots, np.random.default_rng(seed), task)
        scorer, inside = self._demonstrated(split.examples, shown)
        while shown and scorer.too_long(inside):
            shown = shown[:-1]
            scorer, inside = self._demonstrated(split.examples, shown)
        # Untuned, a model writes on after its answer: a blank line and a question of its own. That ends its response,
        # unless an answer may hold a blank line itself.
        ends = not base.chat and not any(BLANK_LINE in task.response_text(answer) for _, answer in shown)
        asked = replace(split, examples=tuple(inside))
        values, arrays = evaluate(scorer, asked, task, tick, stop=BLANK_LINE if ends else None)
        return values | {"shots": float(len(shown))}, arrays | {"shots": np.asarray([len(shown)], dtype=np.int64)}

    def _demonstrated(self, examples: Sequence[Example], shown: Labelled) -> tuple[Scorer, list[Example]]:
        """The examples behind the demonstrations, and who reads them."""
        base, task = self.base, self.task
        if not base.chat:
            return OwnScorer(base, task), with_demonstrations(examples, shown, task)
        turns = [text for example, answer in shown for text in (example.prompt, task.response_text(answer))]
        inside = [replace(e, prompt=batches.conversation(base, [*turns, e.prompt])) for e in examples]
        return OwnScorer(replace(base, rendered=True), task), inside

    def check_adapter(self, config: RunConfig) -> None:
        fisher = config.peft.get("layers") == "fisher"
        peft = layers.split(config.peft)[0] | {"layers": [0]} if fisher else config.peft
        model = adapters.attach(self.base, peft, seed=0, b_dropout=config.train.b_dropout)
        try:
            sparse.check(config, model)
        finally:
            adapters.detach(model)

    def check_answers(self, examples: Iterable[Example]) -> None:
        if scored_labels(self.task) and not self.base.labels:
            for joint in {" "} if self._asks_each else {batches.joint_of(self.base, e.prompt) for e in examples}:
                batches.label_tokens(self.base, self._asked, joint)
