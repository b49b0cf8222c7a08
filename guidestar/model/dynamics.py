"""What a model predicts for its training examples while it is trained: in the training pass, dropout on, before the step.

It costs no pass of its own. From it forgetting events and data maps are made (`study/probes/forgetting.py`).
Source: Toneva et al. 2019; Swayamdipta et al. 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from guidestar.asking import label_places
from guidestar.metrics.dynamics import Dynamics
from guidestar.model import heads
from guidestar.model.batches import each_label_tokens, ends
from guidestar.model.device import moved
from guidestar.model.load import BaseModel
from guidestar.records import Array, Example
from guidestar.tasks import several


class Listener:
    """Collects the predictions of the training passes of one training."""

    def __init__(self, base: BaseModel, task: Any, labelled: Sequence[tuple[Example, str]]) -> None:
        self.ids = tuple(e.id for e, _ in labelled)
        self.first: torch.Tensor | None = None  # (examples, labels) first tokens of the labels …
        self.skip = torch.zeros(0, dtype=torch.int64)  # … behind so many format words, (examples,)
        self.gold = torch.zeros(0, dtype=torch.int64)
        if task.classes or (several(task) and base.labels):
            self.gold = torch.tensor(label_places(task, [answer for _, answer in labelled]), device=base.device)
            if task.classes and not base.labels and task.scoring == "first_token":
                tokens = each_label_tokens(base, task, [example for example, _ in labelled])
                self.first = torch.tensor([one.first for one in tokens], device=base.device)
                self.skip = torch.tensor([len(one.prefix) for one in tokens], device=base.device)
        self.over = "labels" if base.labels or self.first is not None else "response"
        self._parts: list[tuple[Sequence[int], torch.Tensor, torch.Tensor]] = []
        self._epochs: list[tuple[Array, NDArray[np.bool_]]] = []

    @torch.no_grad()
    def labels(self, places: Sequence[int], scores: torch.Tensor) -> None:
        """scores: (rows, labels) logits over the label space. places: of the rows among the labelled examples; those of others
        are below 0 and are left out."""
        scores, gold = scores.detach().float(), self.gold[moved(torch.tensor(places), scores.device)]
        if gold.ndim == 2:  # several may hold: what is said of all labels together
            self._hear(places, -heads.losses(scores, gold), ((scores > 0) == (gold > 0)).all(-1))
        else:
            log_p = torch.log_softmax(scores, dim=-1)
            self._hear(places, log_p.gather(1, gold[:, None])[:, 0], log_p.argmax(-1) == gold)

    @torch.no_grad()
    def responses(
        self, places: Sequence[int], logits: torch.Tensor, targets: torch.Tensor, lengths: Sequence[int]
    ) -> None:
        """logits: (rows, width, vocabulary) that predict `targets`, (rows, width), right-aligned; lengths: of the rows."""
        width, device = targets.shape[1], logits.device
        size, at = moved(torch.tensor(lengths), device), moved(torch.tensor(places), device)
        if self.first is not None:
            start = width - size + self.skip[at]
            here = logits[torch.arange(len(places), device=device), start.clamp(max=width - 1)]
            self.labels(places, here.gather(1, self.first[at]))
            return
        real = ends(lengths, width, device)
        flat, goal = logits.detach()[real].float(), targets[real]
        log_p, right = (torch.zeros(targets.shape, device=device) for _ in range(2))
        log_p[real], right[real] = -F.cross_entropy(flat, goal, reduction="none"), (flat.argmax(-1) == goal).float()
        self._hear(places, log_p.sum(1), right.sum(1) == size)

    def _hear(self, places: Sequence[int], log_probs: torch.Tensor, right: torch.Tensor) -> None:
        kept = [i for i, place in enumerate(places) if place >= 0]
        own = moved(torch.tensor(kept, dtype=torch.long), log_probs.device)
        self._parts.append(([places[i] for i in kept], log_probs[own], right[own]))

    def epoch(self) -> None:
        """The epoch has ended. One that did not come to every example, behind a schedule's end, is left out."""
        seen = [place for places, _, _ in self._parts for place in places]
        if len(seen) == len(self.ids):
            log_probs, correct = np.zeros(len(seen)), np.zeros(len(seen), dtype=bool)
            log_probs[seen] = torch.cat([values for _, values, _ in self._parts]).cpu().double().numpy()
            correct[seen] = torch.cat([right for _, _, right in self._parts]).cpu().numpy()
            self._epochs.append((log_probs, correct))
        self._parts.clear()

    def dynamics(self) -> Dynamics:
        """What was said in the complete epochs."""
        n = len(self.ids)
        log_probs = np.array([values for values, _ in self._epochs]).reshape(-1, n)
        correct = np.array([right for _, right in self._epochs], dtype=bool).reshape(-1, n)
        return Dynamics(self.ids, log_probs, correct, self.over)
