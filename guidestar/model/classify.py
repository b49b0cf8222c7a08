"""Models that answer with a classification head: encoders such as BERT, and causal models that are read the same way.

The head reads the state of one token and is trained with the adapter, so the base model alone has no opinion on the
labels; what stands in for μ_base there is said by `MixConfig.base`. Texts are padded on the right.

Source of the protocol: Jukić and Šnajder 2023 (arXiv 2305.14576), with one output a label for binary tasks too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from guidestar.errors import ConfigError
from guidestar.model import adapters, heads
from guidestar.model.batches import Batch, encode_prompts, pad_right, read_batches, token_state
from guidestar.model.load import BaseModel
from guidestar.records import Example

ARRAYS = frozenset({"label_log_probs", "embedding"})


class Work:
    """The walk of `predict` over examples."""

    def __init__(
        self, base: BaseModel, model: Any, examples: Sequence[Example], task: Any, wanted: frozenset[str],
        gold: Mapping[str, str] | None, *, stochastic: bool = False,
    ) -> None:  # fmt: skip
        if other := sorted(wanted - ARRAYS):
            raise ConfigError(
                f"{base.name} answers with a classification head, which gives label probabilities and embeddings, not "
                f"{', '.join(other)}; use a measure over the labels, or a causal language model"
            )
        self.base, self.model, self.wanted = base, model, wanted
        self.prompts = encode_prompts(base, examples)
        self.batches = read_batches(base, list(map(len, self.prompts)), adapters.exact_lengths(model))

    def run(self, rows: Sequence[int]) -> dict[str, NDArray[Any]]:
        """Every wanted array for the examples at `rows`, from one pass."""
        batch = pad_right([self.prompts[i] for i in rows], self.base.pad, self.base.device)
        with adapters.last_states(self.model) as states:
            scores = logits(self.model, batch)
        found: dict[str, NDArray[Any]] = {}
        if "label_log_probs" in self.wanted:
            found["label_log_probs"] = torch.log_softmax(scores.float().cpu().double(), dim=-1).numpy()
        if "embedding" in self.wanted:
            state = token_state(self.base, batch, states[-1]).float()
            found["embedding"] = (F.normalize(state) if self.base.normalized else state).cpu().numpy()
        return found


def logits(model: Any, batch: Batch) -> torch.Tensor:
    """The head's outputs, (rows, labels)."""
    found: torch.Tensor = model(**batch.inputs()).logits
    return found


def loss(
    base: BaseModel, model: Any, prompts: Sequence[Sequence[int]], targets: Sequence[int],
    hear: Callable[[torch.Tensor], None] | None = None, weights: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """Sum of −log p of the right labels over a batch, in nats, each times its weight. targets: positions in
    `base.labels`. hear: gets the head's outputs."""
    scores = logits(model, pad_right(prompts, base.pad, base.device))
    if hear is not None:
        hear(scores)
    right = torch.tensor(list(targets), device=base.device)
    if weights is None:
        return F.cross_entropy(scores.float(), right, reduction="sum")
    return (weights * F.cross_entropy(scores.float(), right, reduction="none")).sum()


def positions(base: BaseModel, answers: Sequence[str]) -> list[int]:
    """Where the answers stand among the head's outputs."""
    place = {label: i for i, label in enumerate(base.labels)}
    return [place[answer] for answer in answers]


@contextmanager
def head_alone(base: BaseModel, folder: Path) -> Iterator[Any]:
    """The bare base model under the head that was trained with the adapter in `folder`, for the time of the block."""
    with adapters.adapted(base, folder) as model:
        found = heads.trained(adapters.inner(model))
        own = {name: copy.deepcopy(module).to(base.dtype) for name, module in found.items()}
    before = heads.put(base.model, own)
    try:
        yield base.model
    finally:
        heads.put(base.model, before)
