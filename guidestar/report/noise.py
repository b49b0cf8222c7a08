"""The noise floor of an experiment: how far accuracy moves when the same labels are trained on again.

`guidestar probe RUN noise` trains a run's labels again with other seeds and leaves what it found in the run's folder.
Here it is read, so that no difference smaller than that is called a gain.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from guidestar.errors import StoreError
from guidestar.metrics.statistics import LEVEL, t_quantile
from guidestar.metrics.verdict import floor_of_mean

NOISE_FILE = Path("probes", "noise.json")  # in a run's folder


@dataclass(frozen=True)
class Noise:
    """sd: standard deviation of the accuracy of one training. degrees: of freedom behind it. runs: whose labels were
    trained on again. floor: how far two single trainings may be apart by chance, 95 %."""

    sd: float
    degrees: int
    runs: Sequence[str]
    floor: float

    def plain(self) -> dict[str, Any]:
        """As JSON-able data."""
        return {"floor": self.floor, "sd": self.sd, "degrees": self.degrees, "runs": list(self.runs)}


def read_noise(places: Sequence[Path]) -> Noise | None:
    """The noise of an experiment by all its runs that were probed, their variances pooled; None without any.

    places: run folders. The floor is t √2 sd, with the pooled degrees of freedom: of one run that of its noise.json.
    Raises StoreError for a file that is no result of the probe.
    """
    found = {
        place.resolve().name: values for place in places if (values := _accuracies(place / NOISE_FILE)) is not None
    }
    if not found:
        return None
    degrees = sum(len(values) - 1 for values in found.values())
    sd = math.sqrt(sum(float(np.var(values, ddof=1)) * (len(values) - 1) for values in found.values()) / degrees)
    return Noise(sd, degrees, sorted(found), float(t_quantile(degrees, LEVEL)) * math.sqrt(2) * sd)


def _accuracies(path: Path) -> list[float] | None:
    """The accuracies of the trainings of one probe; None if it was not run."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))["accuracies"]
        found = [float(value) for value in values]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StoreError(
            f"{path}: is no result of `guidestar probe RUN noise`; delete it, or run the probe again"
        ) from error
    if len(found) < 2 or not all(0 <= value <= 1 for value in found):
        raise StoreError(f"{path}: holds {len(found)} accuracies; expected two or more between 0 and 1; delete it")
    return found


def beside_floor(noise: Noise | None, difference: float | None, seeds: int) -> dict[str, Any] | None:
    """A difference of areas beside the floor: "floor" for one training, "of_mean" for the mean over the seeds, and
    whether the difference is "below" each; None without both."""
    if noise is None or difference is None or not seeds:
        return None
    of_mean = floor_of_mean(noise.floor, seeds)
    size = abs(difference)
    return {"floor": noise.floor, "of_mean": of_mean, "below": size < of_mean, "below_one": size < noise.floor}


def noise_notes(noise: Noise | None, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What training alone does to the comparisons, or how to find that out."""
    if not any(row["seeds"] for row in rows):
        return []
    if noise is None:
        return [
            "How far accuracy moves by training alone is not known. `guidestar probe RUN noise` measures it for one of these "
            "runs; no difference below that is then called a gain."
        ]
    most = max(len(row["seeds"]) for row in rows)
    mean = "" if most < 2 else f", a mean of {most} seeds by up to {_points(floor_of_mean(noise.floor, most))}"
    found = [
        f"The noise floor: order, dropout and the adapter's start alone move two trainings on the same labels up to "
        f"{_points(noise.floor)} points apart (95 %, {noise.degrees + len(noise.runs)} trainings of {', '.join(noise.runs)}){mean}."
    ]
    return found + [
        f"{row['strategy']}: the {'gain' if row['verdict']['kind'] == 'gain' else 'harm'} shows in the mean; at "
        f"{_points(abs(row['auc']['difference']['estimate']))} points it is below what two single trainings may differ by, so "
        "one project may not see it."
        for row in rows
        if row["verdict"]["kind"] != "no evidence" and row["noise"] and row["noise"]["below_one"]
    ]


def _points(value: float) -> str:
    return f"{100 * value:.1f}"
