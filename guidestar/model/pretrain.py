"""Task-adaptive pretraining (TAPT): before any label, the adapter reads the pool's prompts.

A causal language model predicts each next token, an encoder the tokens that were masked; either way the weights that are
trained are those of the configured adapter, and of a fully fine-tuned copy all. Every round then starts from that adapter
instead of a fresh one.

A model with a classification head has no vocabulary projection. What stands in for it is one linear layer, the identity at
the start, before the input embeddings as projection; it is trained beside the adapter and thrown away.
Source: Gururangan et al. 2020; Jukić and Šnajder 2023 (arXiv 2305.14576) for adapters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from guidestar.asking import Lesson, Trained, Trainer, silent
from guidestar.config import TaptConfig
from guidestar.errors import ConfigError, ModelError
from guidestar.model import adapters, classify, heads, step
from guidestar.model.batches import Batch, encode_prompts, epoch_batches, pad_left, pad_right, token_batches
from guidestar.model.device import seeded
from guidestar.model.load import BaseModel, Model
from guidestar.model.train import facts
from guidestar.model.words import last_logits
from guidestar.progress import Tick

IGNORED = -100  # a target that is none; PyTorch's own default
MOST = 512  # padded tokens whose distributions over the vocabulary exist at one time


@final
@dataclass(frozen=True)
class OwnPretrainer(Trainer):
    """Trains an adapter on prompts alone; the answers of its lessons are not read. The losses are nats a token."""

    base: BaseModel
    peft: dict[str, Any]
    config: TaptConfig
    data_hash: str = ""
    b_dropout: float | None = None

    def __call__(self, lesson: Lesson, folder: Path, tick: Tick = silent) -> Trained:
        """Raises ConfigError for an encoder whose tokenizer has no mask token."""
        base = self.base
        if base.encoder and base.tokenizer.mask_token_id is None:
            raise ConfigError(f"tapt: the tokenizer of {base.name} has no mask token, which an encoder is trained with")
        rows = encode_prompts(base, [example for example, _ in lesson.labelled])
        if max(map(len, rows), default=0) < 2:
            raise ConfigError("tapt: no prompt has two tokens, so there is nothing to predict")
        model = adapters.attach(base, self.peft, lesson.seed, b_dropout=self.b_dropout)
        try:
            with step.cheaper(base, model):
                losses = _fit(base, model, self.config, rows, lesson.seed, tick)
            adapters.save(model, folder)
        finally:
            adapters.detach(model)
        return Trained(tuple(losses), best_epoch=len(losses) - 1)

    def plain(self) -> dict[str, Any]:
        return {
            **facts(self.base), "peft": self.peft, "tapt": self.config.model_dump(mode="json"), "data": self.data_hash,
            "b_dropout": self.b_dropout, "labels": list(self.base.labels),
        }  # fmt: skip

    def question(self, lesson: Lesson) -> dict[str, Any]:
        return {**self.plain(), "seed": lesson.seed, "ids": [example.id for example, _ in lesson.labelled]}


def _fit(
    base: BaseModel, model: Model, config: TaptConfig, rows: list[list[int]], seed: int, tick: Tick
) -> list[float]:
    rng, losses, done = np.random.default_rng(seed), [], 0
    exact = adapters.exact_lengths(model)
    epochs = [list(epoch_batches(rows, config.batch_size, rng, exact)) for _ in range(config.epochs)]
    total = sum(map(len, epochs))
    head = _identity(base) if base.labels else None
    heads_own = [f".{part}." for part in heads.names(base.model)] if base.labels else []  # prompts do not train it
    trainable = [(f".{name}", p) for name, p in model.named_parameters() if p.requires_grad]
    own = [p for name, p in trainable if not any(part in name for part in heads_own)]
    trained = [*own, *(head.parameters() if head is not None else ())]
    steps = step.Steps(base, trained, config.learning_rate, int(0.1 * total), total, weight_decay=0.0)
    with seeded(seed, base.device):
        for epoch, batches in enumerate(epochs):
            model.train()
            spent, tokens = torch.zeros((), device=base.device), 0
            for some in batches:
                ids, targets = masked(base, some, config.mask, rng) if base.encoder else (some, some)
                count = _count(base, targets)
                done += 1
                tick(done, total)
                if not count:  # a batch of which nothing was masked
                    continue
                for rows_of in token_batches(list(map(len, ids)), MOST, exact):
                    with steps.accelerator.autocast():
                        loss = _loss(base, model, head, [ids[i] for i in rows_of], [targets[i] for i in rows_of])
                    steps.accelerator.backward(loss / count)
                    spent += loss.detach()
                tokens += count
                steps.step(trained, clip=1.0)
            losses.append(float(spent) / max(tokens, 1))
            if not np.isfinite(losses[-1]):
                raise ModelError(
                    f"tapt: the loss is {losses[-1]} in epoch {epoch + 1}; try a lower tapt.learning_rate "
                    f"(now {config.learning_rate}) or model.dtype: float32"
                )
    return losses


def _loss(
    base: BaseModel, model: Model, head: nn.Module | None, ids: Sequence[list[int]], targets: Sequence[list[int]]
) -> torch.Tensor:
    """Sum of −log p of the targets. An encoder sees its target's place, a causal model what is before."""
    pad = pad_right if base.labels else pad_left
    batch, wanted = pad(ids, base.pad, base.device), pad(targets, IGNORED, base.device).ids
    if not base.encoder:  # a target is asked for at the token before it, which the first has not
        last = torch.full_like(wanted[:, :1], IGNORED)
        wanted = torch.cat([wanted[:, 1:].masked_fill(batch.mask[:, :-1] == 0, IGNORED), last], dim=1)
    real = torch.nonzero(wanted != IGNORED, as_tuple=True)
    if head is None:
        scores = last_logits(model, batch, batch.ids.shape[1])[real]
    else:
        scores = _by_embeddings(model, head, batch, real)
    return F.cross_entropy(scores.float(), wanted[real], reduction="sum")


def _count(base: BaseModel, targets: Sequence[Sequence[int]]) -> int:
    """How many targets there are; a causal model has none for the first token."""
    return sum(target != IGNORED for row in targets for target in row[0 if base.encoder else 1 :])


def _by_embeddings(model: Model, head: nn.Module, batch: Batch, real: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Scores over the vocabulary at the places that are asked for alone, (targets, vocabulary)."""
    with adapters.last_states(model) as states:
        classify.logits(model, batch)
    words = adapters.inner(model).get_input_embeddings().weight.detach()
    return head(states[-1][real].float()) @ words.float().T


def _identity(base: BaseModel) -> nn.Module:
    width = base.model.get_input_embeddings().weight.shape[1]
    layer = nn.Linear(width, width).to(base.device)
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def masked(
    base: BaseModel, rows: Sequence[list[int]], share: float, rng: np.random.Generator
) -> tuple[list[list[int]], list[list[int]]]:
    """Inputs and targets of a masked language model: of each row's tokens, special ones left out, `share` are targets;
    80 % of these are replaced by the mask token, 10 % by any token, 10 % stay. Source: Devlin et al. 2019, section 3.1."""
    special, inputs, targets = set(base.tokenizer.all_special_ids), [], []
    for row in rows:
        chosen = (rng.random(len(row)) < share) & ~np.isin(row, list(special))
        kind, other = rng.random(len(row)), rng.integers(len(base.tokenizer), size=len(row))
        replaced = np.where(kind < 0.8, base.tokenizer.mask_token_id, np.where(kind < 0.9, other, row))
        inputs.append(np.where(chosen, replaced, row).tolist())
        targets.append(np.where(chosen, row, IGNORED).tolist())
    return inputs, targets
