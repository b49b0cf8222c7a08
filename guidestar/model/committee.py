"""Query by committee: adapters trained on the same labels from different seeds take the place of dropout's passes.

The first member is the round's own adapter. The others lie in the cache that runs share, under names made of all they
depend on, so strategies of a seed share those of the warm start, and a process that was stopped trains only what is
missing. They may be deleted.
Source: Seung, Opper, Sompolinsky 1992; Dagan and Engelson 1995.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from guidestar.config import TrainConfig
from guidestar.model import adapters
from guidestar.model.kept import kept_adapter, model_facts, place, training_facts
from guidestar.model.load import BaseModel
from guidestar.model.parts import predict_in_parts
from guidestar.model.samples import joined, part_of
from guidestar.model.train import Labelled, train
from guidestar.progress import Tick
from guidestar.records import Example, Predictions
from guidestar.store.files import sha256


@dataclass(frozen=True, kw_only=True)
class Training:
    """All that a member's training depends on beside its seed.

    data_hash: of data and template. validation: for early stopping. pretrained: the adapter that all members start from;
    None starts afresh.
    """

    base: BaseModel
    peft: Mapping[str, Any]
    config: TrainConfig
    labelled: Labelled
    task: Any
    data_hash: str
    validation: Labelled = ()
    pretrained: Path | None = None

    def question(self, seed: int) -> dict[str, Any]:
        """It and the seed as JSON-able data."""
        return {
            **model_facts(self.base),
            "peft": dict(self.peft),
            "train": training_facts(self.config),
            "data": self.data_hash,
            "seed": seed,
            "task": repr(self.task),
            "labelled": [[e.id, answer] for e, answer in self.labelled],
            "validation": [[e.id, answer] for e, answer in self.validation],
            "pretrained": None if self.pretrained is None else sha256(self.pretrained),
        }


def train_members(
    folder: Path, training: Training, seeds: Sequence[int], tick: Tick = lambda done, total: None
) -> list[Path]:
    """An adapter for each seed, trained on the same labels, from `folder` where it is there.

    Raises what `train` does, and StoreError for an adapter that has changed since it was trained.
    """
    found = []
    for k, seed in enumerate(seeds):
        fill = partial(_fill, training, seed, part_of(tick, k, len(seeds)))
        found.append(kept_adapter(folder, "member", training.question(seed), fill))
    return found


def _fill(training: Training, seed: int, tick: Tick, folder: Path) -> None:
    one = training
    train(
        one.base, dict(one.peft), one.config, one.labelled, one.task, folder,
        seed=seed, validation=one.validation, pretrained=one.pretrained, tick=tick,
    )  # fmt: skip


def missing_members(folder: Path, training: Training, seeds: Sequence[int]) -> int:
    """How many of them `train_members` would have to train."""
    places = [place(folder, "member", training.question(seed)) for seed in seeds]
    return sum(not (path.exists() and record.exists()) for path, record in places)


def predict_committee(
    base: BaseModel,
    members: Sequence[Path],
    examples: Sequence[Example],
    needs: Collection[str],
    task: Any,
    *,
    folder: Path,
    question: Mapping[str, Any],
    gold: Mapping[str, str] | None = None,
    tick: Tick = lambda done, total: None,
) -> Predictions:
    """One plain pass of every member over the examples as the K passes of `Predictions`; embeddings are averaged.

    folder, question: as for `predict_in_parts`. Raises NoVariance if all members say the same.
    """
    found = []
    for k, member in enumerate(members):
        with adapters.adapted(base, member) as model:
            said = predict_in_parts(
                base, model, examples, needs, task, gold=gold, tick=part_of(tick, k, len(members)),
                folder=folder, question={**question, "member": sha256(member)},
            )  # fmt: skip
        found.append(said)
    return joined(
        found, "all members of the committee say the same: their training changed nothing that depends on a seed"
    )
