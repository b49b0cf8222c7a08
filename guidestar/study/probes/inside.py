"""What happens inside the model over the rounds: how far each layer moves from the base model, how smooth the labels are
on it, and which parts of a UniPELT adapter are in use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from guidestar.errors import ConfigError
from guidestar.metrics.smoothness import smoothness
from guidestar.records import Array
from guidestar.study.probes.figures import draw_gates, draw_layers
from guidestar.study.probes.run import TEXTS, Answer, Figure, Rows, Subject, at_least, plain

_LEAST = 20  # labelled examples below which smoothness is not computed


def layers(subject: Subject, *, texts: int = TEXTS) -> Answer:
    """CKA (linear and RBF) of each layer of every round's adapter with the same layer of the base model.

    States of the last prompt token of `texts` prompts of the test set, or of the pool where there is none, drawn by
    the run's seed. For a choice also the Besov smoothness α of the final labelled set on each layer; larger is smoother.
    Raises ConfigError for fewer than 3 texts, StoreError for a run without an adapter.
    """
    at_least(3, texts=texts)
    rounds = subject.tuned_rounds()
    sample, labels = subject.texts_of(texts), subject.bench.fitting.task.classes
    labelled = subject.store.annotations.labelled(None) if labels else []
    classes = np.array([labels.index(label.answer) for _, label in labelled], dtype=np.intp)
    smooth = len(labelled) >= _LEAST and len(set(classes.tolist())) > 1
    known = [example for example, _ in labelled] if smooth else []
    states = [subject.inside("layers", r, [*sample, *known])["states"] for r in (None, *(m.round for m in rounds))]
    base, *tuned = (one[:, : len(sample)] for one in states)
    similar = {
        kind: [[cka(a, b, rbf=kind == "rbf") for a, b in zip(base, one, strict=True)] for one in tuned]
        for kind in ("linear", "rbf")
    }
    alphas = [[smoothness(layer[len(sample) :], classes) for layer in one] for one in states] if smooth else None
    names = ["base", *(str(m.round) for m in rounds)]
    facts: dict[str, Any] = {
        "texts": len(sample), "labelled": len(known), "rows": names, "labels": [m.labels for m in rounds],
        "cka": {kind: plain(values) for kind, values in similar.items()},
        "smoothness": None if alphas is None else plain(alphas),
    }  # fmt: skip
    rows: Rows = [
        [name, layer + 1, *([1.0, 1.0] if i == 0 else [facts["cka"][kind][i - 1][layer] for kind in similar]),
         facts["smoothness"] and facts["smoothness"][i][layer]]
        for i, name in enumerate(names)
        for layer in range(len(base))
    ]  # fmt: skip
    draw = draw_layers(names, np.array(similar["linear"]), None if alphas is None else np.array(alphas))
    header = ["round", "layer", "cka_linear", "cka_rbf", "smoothness"]
    figure = Figure(header, rows, draw, width=3.4 if alphas is None else 7.0)
    return Answer(facts, _of_layers(facts), [figure])


def _of_layers(facts: Mapping[str, Any]) -> list[str]:
    last = np.array(facts["cka"]["linear"][-1], dtype=float)
    third = max(1, len(last) // 3)
    said = [
        f"After round {facts['rows'][-1]} the first {third} of {len(last)} layers have a linear CKA of "
        f"{np.nanmean(last[:third]):.2f} with the base model on {facts['texts']} texts, the last {third} of "
        f"{np.nanmean(last[-third:]):.2f} (1 is unchanged)."
    ]
    if not facts["smoothness"]:
        return [*said, f"Smoothness needs a choice with two labels and {_LEAST} labelled examples."]
    before, after = (np.nanmean(np.array(facts["smoothness"][i], dtype=float)) for i in (0, -1))
    return [
        *said,
        f"Besov smoothness of the {facts['labelled']} labelled examples, mean over the layers: {before:.2f} in "
        f"the base model, {after:.2f} after round {facts['rows'][-1]} (larger is smoother).",
    ]


def gates(subject: Subject, *, texts: int = TEXTS) -> Answer:
    """Mean and spread (standard deviation over texts) of the gates of every round's adapter, by part and layer.

    texts: prompts of the test set, or of the pool where there is none, drawn by the run's seed, as for `layers`.
    Raises ConfigError for fewer than 2 texts or an adapter without gates, StoreError for a run without an adapter.
    """
    at_least(2, texts=texts)
    kind = str(subject.facts["config"]["peft"].get("peft_type", "LORA")).upper()
    if kind != "UNIPELT":
        raise ConfigError(f"{subject.folder}: probe gates needs peft.peft_type UNIPELT; the run's {kind} has no gates")
    rounds, sample = subject.tuned_rounds(), subject.texts_of(texts)
    by_round = [subject.inside("gates", m.round, sample) for m in rounds]
    parts = sorted(by_round[0])
    mean = {part: plain([one[part].mean(axis=1) for one in by_round]) for part in parts}
    spread = {part: plain([one[part].std(axis=1) for one in by_round]) for part in parts}
    facts = {
        "texts": len(sample), "rounds": [m.round for m in rounds], "labels": [m.labels for m in rounds], "parts": parts,
        "mean": mean, "spread": spread,
    }  # fmt: skip
    rows: Rows = [
        [m.round, part, layer + 1, value, spread[part][i][layer]]
        for i, m in enumerate(rounds)
        for part in parts
        for layer, value in enumerate(mean[part][i])
    ]
    sentences = []
    for part in parts:
        first, last = (np.array(mean[part][i], dtype=float) for i in (0, -1))
        sentences.append(
            f"After round {rounds[-1].round} the mean gate of {part} is {last.mean():.3f} (layers: {last.min():.3f} to "
            f"{last.max():.3f}; after round {rounds[0].round} it was {first.mean():.3f}); at the start it is about 0.5."
        )
    draw = draw_gates([str(m.round) for m in rounds], {part: np.array(mean[part]) for part in parts})
    header = ["round", "part", "layer", "mean", "spread"]
    return Answer(facts, sentences, [Figure(header, rows, draw, width=6.0, height=4.0)])


# --- similarity of two representations ----------------------------------------------------------------


def cka(one: Array, other: Array, *, rbf: bool = False) -> float:
    """Centred kernel alignment ⟨K, L⟩/(‖K‖ ‖L‖) of the doubly centred kernels of two representations, 0 to 1.

    one, other: (n, width), (n, another width), rows of the same examples. rbf: the kernel exp(−d²/2σ²), with σ² the median
    of the squared distances that are not 0; else inner products.
    Not changed by a rotation, a shift or a factor of either; NaN if one of them is the same for all examples.
    Source: Kornblith, Norouzi, Lee, Hinton 2019. The centred kernels are (n, n): take a few hundred examples.
    >>> x = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
    >>> round(cka(x, 3.0 * x[:, ::-1] + 7.0), 6)
    1.0
    """
    k, ell = (_centred(points, rbf) for points in (one, other))
    sizes = np.sqrt((k**2).sum() * (ell**2).sum())
    return float((k * ell).sum() / sizes) if sizes > 1e-12 else float("nan")


def _centred(points: Array, rbf: bool) -> Array:
    """The kernel of some points, (n, n), each row and column with a mean of 0."""
    points = np.asarray(points, dtype=np.float64)
    points = points - points.mean(axis=0)  # far from the origin the expanded square would lose its digits
    kernel = points @ points.T
    if rbf:
        squares = (points**2).sum(axis=1)
        apart = np.maximum(squares[:, None] + squares[None] - 2.0 * kernel, 0.0)
        np.fill_diagonal(apart, 0.0)
        some = apart[apart > 0]
        kernel = np.exp(-apart / (2.0 * float(np.median(some)))) if len(some) else np.ones_like(apart)
    rows = kernel.mean(axis=0)
    return np.asarray(kernel - rows[None] - rows[:, None] + rows.mean())
