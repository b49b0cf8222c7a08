"""What a model answers: measured on a split, and as people see it beside an example. Nothing here chooses anything."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from guidestar.asking.scorer import Ask, Scorer, silent
from guidestar.data.pool import Split
from guidestar.metrics.scores import choice_metrics, exact_metrics
from guidestar.progress import Tick
from guidestar.records import Example, Suggestion
from guidestar.tasks import Task, Text, several
from guidestar.tasks.multi_label import answer_of

Measured = tuple[dict[str, float], dict[str, np.ndarray]]
LABELS = Ask.of(["label_log_probs"])


def label_places(task: Task, answers: Sequence[str]) -> NDArray[np.intp]:
    """The place of each answer among the labels, (m,); where several may hold, (m, labels) of 0 and 1."""
    if not several(task):
        return np.array([task.labels.index(answer) for answer in answers], dtype=np.intp)
    parts = [task.parts(answer) for answer in answers]
    held = [[label in some for label in task.labels] for some in parts]
    return np.array(held, dtype=np.intp).reshape(len(parts), len(task.labels))


def evaluate(scorer: Scorer, split: Split, task: Task, tick: Tick = silent, *, stop: str | None = None) -> Measured:
    """Metrics on the answered examples of a split, and the arrays behind them.

    stop: a text that ends a generated response, beside the end token.

    A choice gives accuracy, macro_f1, ece, brier, nll, and arrays "log_probs" (n, labels) float32 and "gold"
    (n,) int64. The other kinds give the accuracy of the whole answer and the task's own measures, and "correct" (n,)
    uint8.
    """
    pairs = split.answered()
    examples, answers = [e for e, _ in pairs], [a for _, a in pairs]
    if task.classes:
        return choice_values(scorer(examples, LABELS, tick).arrays["label_log_probs"][0], answers, task)
    parsed: Sequence[str | None]
    if several(task):
        parsed = [answer for answer, _ in likeliest_sets(scorer, examples, task, tick)]
    else:
        parsed = [task.parse(text) for text in scorer.respond(examples, stop, tick).texts]
    correct = np.asarray([task.correct(p, a) for p, a in zip(parsed, answers, strict=True)], dtype=bool)
    return exact_metrics(correct) | task.measures(parsed, answers), {"correct": correct.astype(np.uint8)}


def likeliest_sets(scorer: Scorer, examples: Sequence[Example], task: Task, tick: Tick) -> list[tuple[str, float]]:
    """Where several labels may hold: the answer of those that are likelier than not, and its probability if the labels are
    independent, Π max(p, 1 − p)."""
    log_probs = scorer(examples, LABELS, tick).arrays["label_log_probs"][0]
    held, best = log_probs[..., 1] > log_probs[..., 0], np.exp(log_probs.max(axis=-1).sum(axis=-1))
    return [(answer_of(task.labels, row), float(p)) for row, p in zip(held, best, strict=True)]


def choice_values(log_probs: np.ndarray, answers: Sequence[str], task: Task) -> Measured:
    """The choice metrics of log-probabilities (n, labels) against the labels' names."""
    gold = label_places(task, answers).astype(np.int64)
    return choice_metrics(log_probs, gold), {"log_probs": log_probs.astype(np.float32), "gold": gold}


def suggest(scorer: Scorer, examples: Sequence[Example], task: Task, round: int, tick: Tick) -> dict[str, Suggestion]:
    """Example id -> what the model of round `round` would answer.

    A choice gives the likeliest label and the probability of each, several labels the likeliest set and its probability
    (`likeliest_sets`); the other kinds a greedy response without the words of the response template, "" where the model writes nothing.
    """
    if several(task):
        sets = likeliest_sets(scorer, examples, task, tick)
        return {e.id: Suggestion(a, {a: p}, round) for e, (a, p) in zip(examples, sets, strict=True)}
    if not (labels := task.classes):
        bare = Text(task.response)
        texts = scorer.respond(examples, None, tick).texts
        return {e.id: Suggestion(bare.parse(text) or "", {}, round) for e, text in zip(examples, texts, strict=True)}
    chances = np.exp(scorer(examples, LABELS, tick).arrays["label_log_probs"][0])
    return {
        e.id: Suggestion(labels[int(row.argmax())], dict(zip(labels, map(float, row), strict=True)), round)
        for e, row in zip(examples, chances, strict=True)
    }
