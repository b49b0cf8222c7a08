"""How far does each layer move from the base model over the rounds, and how smooth are the labels on it?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from guidestar.bench import Bench
from guidestar.errors import ConfigError
from guidestar.metrics.smoothness import smoothness
from guidestar.progress import Progress
from guidestar.records import Array, Example
from guidestar.store import files
from guidestar.study.analyses.similarity import cka, linear_kernel, rbf_kernel
from guidestar.study.drawing import save_figure
from guidestar.study.probes.figures import draw_layers
from guidestar.study.probes.run import TEXTS, Arrays, Probe, Subject, number, opened

_LEAST = 20  # labelled examples below which smoothness is not computed


def layers_probe(
    run: Path, bench: Bench | None = None, *, texts: int = TEXTS, progress: Progress | None = None
) -> Probe:
    """CKA (linear and RBF) of each layer of every round's adapter with the same layer of the base model.

    States of the last prompt token of `texts` prompts of the test set, or of the pool where there is none, drawn by
    the run's seed. For a choice also the Besov smoothness α of the final labelled set on each layer; larger is smoother.
    Raises ConfigError for fewer than 3 texts, StoreError for a run without an adapter.
    """
    if texts < 3:
        raise ConfigError(f"texts is {texts}; allowed: 3 or more")
    with opened(run, bench, progress) as subject:
        rounds = subject.tuned_rounds()
        data = subject.bench.fitting
        sample = subject.texts_of(texts)
        labels = data.task.classes
        labelled = subject.store.annotations.labelled(None) if labels else []
        classes = np.array([labels.index(label.answer) for _, label in labelled], dtype=np.intp)
        smooth = len(labelled) >= _LEAST and len(set(classes.tolist())) > 1
        known = [example for example, _ in labelled] if smooth else []
        names = ["base", *(str(m.round) for m in rounds)]
        states = [_states(subject, r, [*sample, *known]) for r in (None, *(m.round for m in rounds))]
        base = states[0][:, : len(sample)]
        similar = {
            kind: [[cka(a, b, kernel) for a, b in zip(base, one[:, : len(sample)], strict=True)] for one in states[1:]]
            for kind, kernel in (("linear", linear_kernel), ("rbf", rbf_kernel))
        }
        alphas = [[smoothness(layer[len(sample) :], classes) for layer in one] for one in states] if smooth else None
        facts = {
            **subject.about("layers"),
            "texts": len(sample), "labelled": len(known), "rows": names, "labels": [m.labels for m in rounds],
            "cka": {kind: [[number(v) for v in row] for row in found] for kind, found in similar.items()},
            "smoothness": None if alphas is None else [[number(v) for v in row] for row in alphas],
        }  # fmt: skip
        draw = draw_layers(names, np.array(similar["linear"]), None if alphas is None else np.array(alphas))
        written = save_figure(subject.place / "layers", draw, *_rows(facts), width=3.4 if alphas is None else 7.0)
        return subject.finish("layers", facts, _sentences(facts), written)


def _states(subject: Subject, r: int | None, examples: Sequence[Example]) -> Array:
    """States by the base model (None) or by a round's adapter, (layers, n, width); from the disk where they are."""
    adapter = None if r is None else subject.store.adapter(r)
    asked = {**subject.question, "ids": [e.id for e in examples], "what": "layers"}
    asked |= {} if adapter is None else {"adapter": files.sha256(adapter)}

    def compute() -> Arrays:
        from guidestar.model import adapters
        from guidestar.model.layers import layer_states

        base = subject.base
        title = "base model" if r is None else f"round {r}"
        with adapters.adapted(base, adapter) as model, subject.progress.phase(title) as tick:
            return {"states": layer_states(base, model, examples, tick)}

    return subject.cached("layers-base" if r is None else f"layers-{r}", asked, compute)["states"]


def _rows(facts: Mapping[str, Any]) -> tuple[list[str], list[Sequence[object]]]:
    rows: list[Sequence[object]] = []
    for i, name in enumerate(facts["rows"]):
        for layer in range(len(facts["cka"]["linear"][0])):
            similar = [1.0, 1.0] if i == 0 else [facts["cka"][kind][i - 1][layer] for kind in ("linear", "rbf")]
            alpha = facts["smoothness"][i][layer] if facts["smoothness"] else None
            rows.append([name, layer + 1, *similar, alpha])
    return ["round", "layer", "cka_linear", "cka_rbf", "smoothness"], rows


def _sentences(facts: Mapping[str, Any]) -> list[str]:
    last = [v for v in facts["cka"]["linear"][-1]]
    layers = len(last)
    third = max(1, layers // 3)
    early = np.nanmean(np.array(last[:third], dtype=float))
    late = np.nanmean(np.array(last[-third:], dtype=float))
    said = [
        f"After round {facts['rows'][-1]} the first {third} of {layers} layers have a linear CKA of {early:.2f} with "
        f"the base model on {facts['texts']} texts, the last {third} of {late:.2f} (1 is unchanged)."
    ]
    if facts["smoothness"]:
        means = [
            float(np.nanmean(np.array(row, dtype=float))) for row in (facts["smoothness"][0], facts["smoothness"][-1])
        ]
        said.append(
            f"Besov smoothness of the {facts['labelled']} labelled examples, mean over the layers: {means[0]:.2f} in "
            f"the base model, {means[1]:.2f} after round {facts['rows'][-1]} (larger is smoother)."
        )
    else:
        said.append(f"Smoothness needs a choice with two labels and {_LEAST} labelled examples.")
    return said
