"""BEAST: a training ends when the labels have become smooth on the middle layers, or keeps the epoch in which they are
smoothest, without a validation set."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from guidestar.asking import label_places
from guidestar.metrics.smoothness import beast_stop, smoothness
from guidestar.model.load import BaseModel, Model
from guidestar.model.states import layer_states
from guidestar.records import Example
from guidestar.tasks import Task

FIRST = 6  # epoch, from 1, from which on the rule looks


def watcher(base: BaseModel, model: Model, task: Task, labelled: Sequence[tuple[Example, str]]) -> Callable[[], bool]:
    """A function to call after each epoch; true when the training is to end there.

    The rule is `metrics.smoothness.beast_stop`, on the Besov smoothness of the training labels on every layer. A forest a
    layer is fitted after each epoch from the sixth on. Where a smoothness cannot be computed (too few labels, or points
    that a forest separates at once) the training is not ended.
    Source: Jukić and Šnajder 2023b (arXiv 2212.11680).
    """
    examples, classes = [e for e, _ in labelled], label_places(task, [answer for _, answer in labelled])
    alphas: list[list[float]] = []
    ends: list[int] = []  # the epoch to end after, once it is known

    def over() -> bool:
        if not ends:
            wanted = len(alphas) + 1 >= FIRST and len(set(classes.tolist())) > 1
            alphas.append(_alphas(base, model, examples, classes) if wanted else [0.0] * 3)
            layers = len(alphas[-1])
            end = beast_stop(np.asarray([row if len(row) == layers else [0.0] * layers for row in alphas]))
            ends.extend([] if end is None else [end])
        else:
            alphas.append(alphas[-1])
        return bool(ends) and len(alphas) >= ends[0]

    return over


def roughness(
    base: BaseModel, model: Model, task: Task, labelled: Sequence[tuple[Example, str]]
) -> Callable[[], float]:
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
