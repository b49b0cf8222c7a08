"""Models that answer with a classification head: encoders such as BERT, and causal models that are read the same way.

The head reads the state of one token and is trained with the adapter, so the base model alone has no opinion on the
labels; what stands in for μ_base there is said by `MixConfig.base`. Texts are padded on the right.

Source of the protocol: Jukić and Šnajder 2023 (arXiv 2305.14576), with one output a label for binary tasks too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from guidestar.asking import Ask
from guidestar.model import adapters, heads
from guidestar.model.batches import Batch, encode_prompts, pad_right, read_batches, token_state
from guidestar.model.device import moved
from guidestar.model.load import BaseModel, Model
from guidestar.records import Example

ARRAYS = frozenset({"label_log_probs", "embedding"})


class Work:
    """The walk of `predict` over examples."""

    def __init__(self, base: BaseModel, model: Model, examples: Sequence[Example], task: Any, ask: Ask) -> None:
        self.base, self.model, self.wanted = base, model, ask.needs
        self.prompts = encode_prompts(base, examples)
        self.batches = read_batches(base, list(map(len, self.prompts)), adapters.exact_lengths(model))

    def run(self, rows: Sequence[int]) -> dict[str, NDArray[Any]]:
        """Every wanted array for the examples at `rows`, from one pass."""
        batch = pad_right([self.prompts[i] for i in rows], self.base.pad, self.base.device)
        with adapters.last_states(self.model) as states:
            scores = logits(self.model, batch)
        arrays: dict[str, NDArray[Any]] = {}
        if "label_log_probs" in self.wanted:
            arrays["label_log_probs"] = log_probs(scores.float().cpu().double(), self.base.several).numpy()
        if "embedding" in self.wanted:
            state = token_state(self.base, batch, states[-1]).float()
            arrays["embedding"] = (F.normalize(state) if self.base.normalized else state).cpu().numpy()
        return arrays


def log_probs(scores: torch.Tensor, several: bool) -> torch.Tensor:
    """Natural logs of the head's outputs, (rows, labels); where several labels may hold, of "does not hold" and "holds",
    (rows, labels, 2)."""
    return torch.stack([F.logsigmoid(-scores), F.logsigmoid(scores)], dim=-1) if several else scores.log_softmax(-1)


def logits(model: Model, batch: Batch) -> torch.Tensor:
    """The head's outputs, (rows, labels)."""
    return model(**batch.inputs()).logits


def loss(
    base: BaseModel, model: Model, prompts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]],
    hear: Callable[[torch.Tensor], None] | None = None, weights: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """Sum of −log p of the right labels over a batch, in nats, each times its weight. targets: the place of each row's label, or 0 and 1 for every label where several may hold. hear: gets the head's outputs."""
    scores = logits(model, pad_right(prompts, base.pad, base.device))
    if hear is not None:
        hear(scores)
    answers = moved(torch.tensor(targets), base.device)
    each = heads.losses(scores.float(), answers if base.several else answers[:, 0])
    return each.sum() if weights is None else (weights * each).sum()


@contextmanager
def head_alone(base: BaseModel, folder: Path) -> Iterator[Any]:
    """The bare base model under the head that was trained with the adapter in `folder`, for the time of the block."""
    with adapters.adapted(base, folder) as model:
        trained = heads.trained(adapters.inner(model))
        own = {name: copy.deepcopy(module).to(base.dtype) for name, module in trained.items()}
    before = heads.put(base.model, own)
    try:
        yield base.model
    finally:
        heads.put(base.model, before)
