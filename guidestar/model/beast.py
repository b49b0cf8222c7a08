"""BEAST: a training ends when the labels have become smooth on the middle layers, or keeps the epoch in which they are
smoothest, without a validation set."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from guidestar.asking import Labelled, label_places
from guidestar.metrics.smoothness import beast_stop, smoothness
from guidestar.model.load import BaseModel, Model
from guidestar.model.states import layer_states
from guidestar.records import Example
from guidestar.tasks import Task

FIRST = 6  # epoch, from 1, from which on the rule looks


def watcher(base: BaseModel, model: Model, task: Task, labelled: Labelled) -> Callable[[], bool]:
    """A function to call after each epoch; true when the training is to end there.

    The rule is `metrics.smoothness.beast_stop`, on the Besov smoothness of the training labels on every layer. A forest a
    layer is fitted after each epoch from the sixth on. Where a smoothness cannot be computed (too few labels, or points
    that a forest separates at once) the training is not ended.
    Source: Jukić and Šnajder 2023b (arXiv 2212.11680).
    """
    examples, classes = [e for e, _ in labelled], label_places(task, [answer for _, answer in labelled])
    told = len(set(classes.tolist())) > 1
    epoch, end = 0, None  # the epoch to end after, once it is known

    def over() -> bool:
        nonlocal epoch, end
        epoch += 1
        if end is None and epoch >= FIRST and told:
            now = np.asarray(_alphas(base, model, examples, classes))
            end = beast_stop(np.vstack([np.zeros((epoch - 1, len(now))), now]))  # of the epochs before it has said no
        return end is not None and epoch >= end

    return over


def roughness(base: BaseModel, model: Model, task: Task, labelled: Labelled) -> Callable[[], float]:
    """A function to call after each epoch: minus the mean Besov smoothness of the training labels over the layers, the lower
    the better; 0 where it cannot be computed.

    Source: Jukić and Šnajder 2023b (arXiv 2212.11680), the choice of an epoch in the authors' code (`best_by_besov`).
    """
    examples, classes = [e for e, _ in labelled], label_places(task, [answer for _, answer in labelled])

    def rough() -> float:
        value = -float(np.mean(_alphas(base, model, examples, classes))) if len(set(classes.tolist())) > 1 else 0.0
        return value if np.isfinite(value) else 0.0

    return rough


def _alphas(base: BaseModel, model: Model, examples: Sequence[Example], classes: np.ndarray) -> list[float]:
    model.eval()
    return [smoothness(layer, classes) for layer in layer_states(base, model, examples)]
