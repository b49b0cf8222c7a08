"""The noise floor of an experiment: how far accuracy moves when the same labels are trained on again.

`guidestar probe RUN noise` trains a run's labels again with other seeds and leaves what it found in the run's folder.
Here it is read, so that no difference smaller than that is called a gain.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from guidestar.errors import StoreError
from guidestar.metrics.statistics import LEVEL, t_quantile
from guidestar.metrics.verdict import floor_of_mean
from guidestar.words import hundredths

NOISE_FILE = Path("probes", "noise.json")  # in a run's folder


@dataclass(frozen=True)
class Noise:
    """sd: standard deviation of the accuracy of one training. degrees: of freedom behind it. runs: whose labels were
    trained on again. floor: how far two single trainings may be apart by chance, 95 %."""

    floor: float
    sd: float
    degrees: int
    runs: Sequence[str]


def read_noise(places: Sequence[Path]) -> Noise | None:
    """The noise of an experiment by all its runs that were probed, their variances pooled; None without any.

    places: run folders. The floor is t √2 sd, with the pooled degrees of freedom: of one run that of its noise.json.
    Raises StoreError for a file that is no result of the probe.
    """
    found = {place.resolve().name: _accuracies(place / NOISE_FILE) for place in places}
    accuracies = {name: values for name, values in found.items() if values is not None}
    if not accuracies:
        return None
    degrees = sum(len(values) - 1 for values in accuracies.values())
    sd = math.sqrt(sum(float(np.var(values, ddof=1)) * (len(values) - 1) for values in accuracies.values()) / degrees)
    return Noise(float(t_quantile(degrees, LEVEL)) * math.sqrt(2) * sd, sd, degrees, sorted(accuracies))


def _accuracies(path: Path) -> list[float] | None:
    """The accuracies of the trainings of one probe; None if it was not run."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))["accuracies"]
        accuracies = [float(value) for value in values]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        mend = "delete it, or run the probe again"
        raise StoreError(f"{path}: is no result of `guidestar probe RUN noise`; {mend}") from error
    if len(accuracies) < 2 or not all(0 <= value <= 1 for value in accuracies):
        raise StoreError(f"{path}: holds {len(accuracies)} accuracies; expected two or more between 0 and 1; delete it")
    return accuracies


@dataclass(frozen=True)
class BesideFloor:
    """A difference of areas beside the noise floor: of one training, of the mean over the seeds, and whether it is below."""

    floor: float
    of_mean: float
    below: bool
    below_one: bool


def beside_floor(noise: Noise | None, difference: float | None, seeds: int) -> BesideFloor | None:
    """None without a known floor or a difference."""
    if noise is None or difference is None or not seeds:
        return None
    of_mean, size = floor_of_mean(noise.floor, seeds), abs(difference)
    return BesideFloor(noise.floor, of_mean, size < of_mean, size < noise.floor)


def noise_notes(noise: Noise | None, seeds: int) -> list[str]:
    """What training alone does to the comparisons, or how to find that out. seeds: most of a comparison."""
    if not seeds:
        return []
    if noise is None:
        return [
            "How far accuracy moves by training alone is not known. `guidestar probe RUN noise` measures it for one of these "
            "runs; no difference below that is then called a gain."
        ]
    mean = "" if seeds < 2 else f", a mean of {seeds} seeds by up to {hundredths(floor_of_mean(noise.floor, seeds), 1)}"
    return [
        f"The noise floor: order, dropout and the adapter's start alone move two trainings on the same labels up to "
        f"{hundredths(noise.floor, 1)} points apart (95 %, {noise.degrees + len(noise.runs)} trainings of "
        f"{', '.join(noise.runs)}){mean}."
    ]


def small_gain(name: str, kind: str, difference: float, beside: BesideFloor | None) -> list[str]:
    """A note where a gain or a harm that shows in the mean is below what two single trainings may differ by."""
    if kind == "no evidence" or beside is None or not beside.below_one:
        return []
    return [
        f"{name}: the {kind} shows in the mean; at {hundredths(abs(difference), 1)} points it is below what two single "
        "trainings may differ by, so one project may not see it."
    ]
