"""Which parts of a UniPELT adapter are in use? Its gates after every round, by part and layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from guidestar.bench import Bench
from guidestar.errors import ConfigError
from guidestar.progress import Progress
from guidestar.records import Example
from guidestar.store import files
from guidestar.study.drawing import save_figure
from guidestar.study.probes.figures import draw_gates
from guidestar.study.probes.run import TEXTS, Arrays, Probe, Subject, number, opened


def gates_probe(
    run: Path, bench: Bench | None = None, *, texts: int = TEXTS, progress: Progress | None = None
) -> Probe:
    """Mean and spread (standard deviation over texts) of the gates of every round's adapter, by part and layer.

    texts: prompts of the test set, or of the pool where there is none, drawn by the run's seed, as in the probe `layers`.
    Raises ConfigError for fewer than 2 texts or an adapter without gates, StoreError for a run without an adapter.
    """
    if texts < 2:
        raise ConfigError(f"texts is {texts}; allowed: 2 or more")
    with opened(run, bench, progress) as subject:
        kind = str(subject.facts["config"]["peft"].get("peft_type", "LORA")).upper()
        if kind != "UNIPELT":
            raise ConfigError(
                f"{subject.folder}: probe gates needs peft.peft_type UNIPELT; the run's {kind} has no gates"
            )
        rounds = subject.tuned_rounds()
        sample = subject.texts_of(texts)
        found = [_gates(subject, m.round, sample) for m in rounds]
        parts = sorted(found[0])
        facts = {
            **subject.about("gates"),
            "texts": len(sample), "rounds": [m.round for m in rounds], "labels": [m.labels for m in rounds],
            "parts": parts,
            "mean": {p: [[number(v) for v in one[p].mean(axis=1)] for one in found] for p in parts},
            "spread": {p: [[number(v) for v in one[p].std(axis=1)] for one in found] for p in parts},
        }  # fmt: skip
        draw = draw_gates([str(m.round) for m in rounds], {p: np.array(facts["mean"][p]) for p in parts})
        written = save_figure(subject.place / "gates", draw, *_rows(facts), width=6.0, height=4.0)
        return subject.finish("gates", facts, _sentences(facts), written)


def _gates(subject: Subject, r: int, examples: Sequence[Example]) -> Arrays:
    """Part -> (layers, texts) by a round's adapter; from the disk where they are."""
    adapter = subject.store.adapter(r)
    asked = {**subject.question, "ids": [e.id for e in examples], "what": "gates", "adapter": files.sha256(adapter)}

    def compute() -> Arrays:
        from guidestar.model import adapters
        from guidestar.model.gates import gates

        base = subject.base
        with adapters.adapted(base, adapter) as model, subject.progress.phase(f"round {r}") as tick:
            return gates(base, model, examples, tick)

    return subject.cached(f"gates-{r}", asked, compute)


def _rows(facts: Mapping[str, Any]) -> tuple[list[str], list[Sequence[object]]]:
    rows: list[Sequence[object]] = [
        [r, part, layer + 1, mean, facts["spread"][part][i][layer]]
        for i, r in enumerate(facts["rounds"])
        for part in facts["parts"]
        for layer, mean in enumerate(facts["mean"][part][i])
    ]
    return ["round", "part", "layer", "mean", "spread"], rows


def _sentences(facts: Mapping[str, Any]) -> list[str]:
    said = []
    for part in facts["parts"]:
        first, last = (np.array(facts["mean"][part][i], dtype=float) for i in (0, -1))
        said.append(
            f"After round {facts['rounds'][-1]} the mean gate of {part} is {last.mean():.3f} (layers: {last.min():.3f} to "
            f"{last.max():.3f}; after round {facts['rounds'][0]} it was {first.mean():.3f}); at the start it is about 0.5."
        )
    return said
