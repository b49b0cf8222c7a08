"""Slow literal twins of the probes' numbers, and what tests of probes share."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np

from guidestar.study.probes import numbers

PNG, PDF = b"\x89PNG", b"%PDF"


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def some_log_probs(rng: np.random.Generator, n: int, labels: int) -> np.ndarray:
    logits = 2 * rng.normal(size=(n, labels))
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def literal_wrong(log_probs: np.ndarray, gold: np.ndarray) -> list[float]:
    """Confidences of the wrong predictions, one example at a time."""
    found = []
    for row, answer in zip(log_probs.tolist(), gold.tolist(), strict=True):
        best = 0
        for label in range(len(row)):
            if row[label] > row[best]:
                best = label
        if best != answer:
            found.append(math.exp(row[best]))
    return found


def literal_density(values: list[float], x: float, low: float, high: float) -> float:
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
    first, third = np.quantile(values, 0.25), np.quantile(values, 0.75)
    h = 0.9 * min(deviation, (third - first) / 1.34) / len(values) ** 0.2
    h = max((high - low) / 50, min((high - low) / 5, h))
    total = 0.0
    for v in values:
        for place in (v, low - (v - low), high + (high - v)):
            total += math.exp(-((x - place) ** 2) / (2 * h * h)) / (h * math.sqrt(2 * math.pi))
    return total / len(values)


def literal_pearson(a: list[float], b: list[float]) -> float:
    if len(a) < 3 or len(set(a)) == 1 or len(set(b)) == 1:
        return math.nan
    mean_a, mean_b = math.fsum(a) / len(a), math.fsum(b) / len(b)
    cov = math.fsum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    return cov / math.sqrt(math.fsum((x - mean_a) ** 2 for x in a) * math.fsum((y - mean_b) ** 2 for y in b))


def literal_ranks(values: list[float]) -> list[float]:
    """1 for the smallest; equal values share the mean of their places."""
    return [sum(v < x for v in values) + (sum(v == x for v in values) + 1) / 2 for x in values]


def literal_matrices(values: np.ndarray, keep: np.ndarray) -> tuple[list[list[float]], list[list[float]]]:
    pearson, spearman = [], []
    for a, keep_a in zip(values, keep, strict=True):
        pearson.append([])
        spearman.append([])
        for b, keep_b in zip(values, keep, strict=True):
            both = [i for i in range(len(a)) if keep_a[i] and keep_b[i]]
            left, right = [float(a[i]) for i in both], [float(b[i]) for i in both]
            pearson[-1].append(literal_pearson(left, right))
            spearman[-1].append(literal_pearson(literal_ranks(left), literal_ranks(right)))
    return pearson, spearman


def literal_changes(before: np.ndarray, after: np.ndarray, gold: np.ndarray) -> dict[str, dict[str, list[float]]]:
    """Group -> quantity -> its changes, one example at a time."""
    found: dict[str, dict[str, list[float]]] = {g: {"confidence": [], "entropy": []} for g in numbers.GROUPS}

    def entropy(row: list[float]) -> float:
        return -sum(math.exp(v) * v for v in row)

    for old, new, answer in zip(before.tolist(), after.tolist(), gold.tolist(), strict=True):
        was, now = old.index(max(old)), new.index(max(new))
        change = "unchanged" if was == now else "changed"
        for group in (change, f"{change}_{'right' if now == answer else 'wrong'}"):
            found[group]["confidence"].append(math.exp(new[now]) - math.exp(old[was]))
            found[group]["entropy"].append(entropy(new) - entropy(old))
    return found
