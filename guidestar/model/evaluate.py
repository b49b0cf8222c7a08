"""Accuracy and calibration of a model on a split. Nothing here is used to choose anything."""

from __future__ import annotations

from typing import Any

import numpy as np

from guidestar.data.pool import Split
from guidestar.metrics.scores import choice_metrics, exact_metrics
from guidestar.model.load import BaseModel
from guidestar.model.predict import Tick, predict, respond

Measured = tuple[dict[str, float], dict[str, np.ndarray]]


def evaluate(base: BaseModel, model: Any, split: Split, task: Any, tick: Tick = lambda done, total: None) -> Measured:
    """Metrics of `model` on the answered examples of a split, and the arrays behind them.

    A choice gives accuracy, macro_f1, ece, brier, nll, and arrays "log_probs" (n, labels) float32 and "gold"
    (n,) int64. The other kinds give the accuracy of the parsed response, and "correct" (n,) uint8.
    """
    pairs = split.answered()
    examples, answers = [e for e, _ in pairs], [a for _, a in pairs]
    if task.kind == "choice":
        log_probs = predict(base, model, examples, {"label_log_probs"}, task, tick=tick).arrays["label_log_probs"][0]
        return choice_values(log_probs, answers, task)
    texts = respond(base, model, examples, task, tick).texts
    correct = np.asarray([task.correct(task.parse(t), a) for t, a in zip(texts, answers, strict=True)], dtype=bool)
    return exact_metrics(correct), {"correct": correct.astype(np.uint8)}


def choice_values(log_probs: np.ndarray, answers: list[str], task: Any) -> Measured:
    """The choice metrics of log-probabilities (n, labels) against the labels' names."""
    gold = np.asarray([task.labels.index(a) for a in answers], dtype=np.int64)
    return choice_metrics(log_probs, gold), {"log_probs": log_probs.astype(np.float32), "gold": gold}
