"""What has been measured of each strategy, and the titles under which lists show them.

Evidence comes from `evidence.json`, which `python -m tools.evidence` makes from the studies in `results/`: no number here
is written by hand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from guidestar.query.recipes import Role
from guidestar.words import count, hundredths, listed

ROLES: dict[Role, str] = {
    "recommended": "Recommended",
    "paper": "From papers, as their authors describe them",
    "comparison": "For comparison: baselines, combinations, and bounds that need the gold answers",
}
NOT_STUDIED = "none yet: it is in no study of results/"
EVIDENCE = Path(__file__).parent / "evidence.json"


@cache
def measured() -> list[Mapping[str, Any]]:
    """Every comparison of a strategy with its control in `results/`.

    Keys: "strategy", "study", "dataset", "model", "peft", "control", "labels" (first and last), "seeds"; "difference" of
    the areas (a fraction, mean over the seeds), "low" and "high" (95 %, None for one seed), "verdict" (corrected for the
    comparisons of its study).
    """
    return json.loads(EVIDENCE.read_text(encoding="utf-8"))["comparisons"]


def evidence(name: str) -> str:
    """What has been measured of a strategy, in one sentence; "none yet" where no study shows a gain or a harm."""
    own = [one for one in measured() if one["strategy"] == name]
    shown = [one for one in own if one["verdict"] in ("gain", "harm")]
    if not own and any(one["control"] == name for one in measured()):
        return "the control of every comparison"
    if not own:
        return NOT_STUDIED
    most = max(one["seeds"] for one in own)
    if not shown:
        return (
            f"none yet: no gain and no harm shown in {count(len(own), 'setting')}, at most {count(most, 'seed')} each"
        )
    parts = [
        f"{one['verdict']} on {one['dataset']} with {', '.join(filter(None, (one['model'], one['peft'])))} ({_points(one)}, {one['seeds']} seeds)"
        for one in shown
    ]
    rest = f"; nothing shown in {len(own) - len(shown)} more" if len(own) > len(shown) else ""
    return f"{listed(parts)}{rest}"


def _points(one: Mapping[str, Any]) -> str:
    ends = f"{hundredths(one['low'], 1, sign=True)} to {hundredths(one['high'], 1, sign=True)}"
    return f"{hundredths(one['difference'], 1, sign=True)} points of area beside {one['control']}, {ends}"
