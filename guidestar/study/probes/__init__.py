"""Probes of a run: what its uncertainty was worth. They read any run, finished or not, and change nothing in it.

- confidence: how sure is the model where it is wrong (STAR, figure 2)?
- entropy: do the examples that were uncertain at the start stay so over the rounds (STAR, figure 3)?
- forgetting: what was learnt and lost again in training, and where on that map do the picks lie?
- gates: which parts of a UniPELT adapter are in use, layer by layer?
- layers: how far does each layer move from the base model, and how smooth are the labels on it?
- noise: how far does accuracy move when the same labels are trained on again?
- picks: what did the strategies of a seed pick in common, and how varied are the texts?
- score: which measure tells wrong answers from right ones, and does it follow length or a class instead?
- unchanged: what happens to confidence and entropy where the prediction stays the same?

A probe is a function of an open run and its options that gives an `Answer`. It writes NAME.json (facts and sentences),
NAME.csv and, where there is enough to draw, NAME.png and NAME.pdf to `probes/` in the run's folder. What a model had to
compute for it lies beside them under names made of the question, so that the same question is answered from the disk, and
a probe that was stopped goes on.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from guidestar.bench import Bench
from guidestar.errors import ConfigError, allowed
from guidestar.progress import Progress
from guidestar.study.probes import confidence, entropy, forgetting, inside, noise, picks, score
from guidestar.study.probes.run import Answer, Probe, opened

__all__ = ["PROBES", "Probe", "probe"]

PROBES: dict[str, Callable[..., Answer]] = {
    "confidence": confidence.confidence, "entropy": entropy.entropy, "forgetting": forgetting.forgetting,
    "gates": inside.gates, "layers": inside.layers, "noise": noise.noise, "picks": picks.picks, "score": score.score,
    "unchanged": confidence.unchanged,
}  # fmt: skip


def probe(
    run: Path, name: str, *, bench: Bench | None = None, progress: Progress | None = None, **options: Any
) -> Probe:
    """A probe by its name, with the options that it has; one that is None counts as not given.

    run: a run's folder, or the folder of an experiment with a single run. bench: its data and model, if they are
    loaded already.
    Raises ConfigError for an unknown probe, or an option of another one.
    """
    if name not in PROBES:
        raise ConfigError(f"probe {name!r} is unknown; {allowed(PROBES, name)}")
    known = list(inspect.signature(PROBES[name]).parameters)[1:]
    given = {key: value for key, value in options.items() if value is not None}
    if other := [key for key in given if key not in known]:
        raise ConfigError(f"probe {name} has no option {other[0]!r}; allowed: {', '.join(known) or 'none'}")
    with opened(run, bench, progress) as subject:
        answer = PROBES[name](subject, **given)
        written = [path for figure in answer.figures for path in figure.write(subject.place / name)]
        return subject.finish(name, subject.about(name) | dict(answer.facts), answer.sentences, written)
