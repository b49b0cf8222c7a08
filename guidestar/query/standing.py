"""What stands behind each strategy: whether it is recommended, whose it is, and what has been measured of it.

The table of recipes says what a strategy does; this one helps to choose. Evidence comes from `evidence.json`, which
`python -m tools.evidence` makes from the studies in `results/`: no number here is written by hand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from guidestar.words import count, hundredths, listed

Role = Literal["recommended", "paper", "comparison"]
ROLES: dict[Role, str] = {
    "recommended": "Recommended",
    "paper": "From papers, as their authors describe them",
    "comparison": "For comparison: baselines, combinations, and bounds that need the gold answers",
}
NOT_STUDIED = "none yet: it is in no study of results/"
EVIDENCE = Path(__file__).parent / "evidence.json"


@dataclass(frozen=True)
class Standing:
    """role: why it is in the table. source: key of docs/bibliography.md, None for what is common or our own."""

    role: Role
    source: str | None = None


STANDING: dict[str, Standing] = {
    "random": Standing("comparison"),
    "entropy": Standing("comparison", "lewis1994"),
    "least_confidence": Standing("comparison", "lewis1994"),
    "margin": Standing("comparison", "scheffer2001"),
    "response_entropy": Standing("comparison", "zhang2024"),
    "mc_entropy": Standing("comparison", "gal2017"),
    "bald": Standing("paper", "houlsby2011"),
    "star": Standing("paper", "zhang2024"),
    "star_diverse": Standing("comparison", "zhang2024"),
    "k_center": Standing("paper", "sener2018"),
    "uncertain_k_center": Standing("comparison", "sener2018"),
    "uncertain_k_means": Standing("comparison"),
    "mc": Standing("paper", "jukic2023"),
    "consistency": Standing("comparison", "wang2023"),
    "committee": Standing("paper", "dagan1995"),
    "committee_bald": Standing("comparison", "houlsby2011"),
    "representation_gradient": Standing("paper", "jukic2023b"),
    "batch_bald": Standing("paper", "kirsch2019"),
    "badge": Standing("paper", "ash2020"),
    "k_means": Standing("comparison"),
    "facility_location": Standing("paper", "wei2015"),
    "log_det": Standing("paper", "deb2025"),
    "dal": Standing("paper", "gissin2019"),
    "cal": Standing("paper", "margatina2021"),
    "typiclust": Standing("paper", "hacohen2022"),
    "prob_cover": Standing("paper", "yehuda2022"),
    "star_k_center": Standing("comparison", "zhang2024"),
    "power_entropy": Standing("paper", "kirsch2023"),
    "gibbs_entropy": Standing("paper", "kirsch2023"),
    "uncertain_badge": Standing("comparison", "ash2020"),
    "uncertain_coverage": Standing("paper", "wei2015"),
    "anchor_entropy": Standing("paper", "lesci2024"),
    "seals_entropy": Standing("paper", "coleman2022"),
    "herding": Standing("paper", "bae2024"),
    "uncertainty_herding": Standing("paper", "bae2025"),
    "lean": Standing("recommended", "bae2025"),
    "oracle_predictive_entropy": Standing("comparison", "zhang2024"),
    "oracle_star": Standing("comparison", "zhang2024"),
}


def role_of(name: str) -> Role:
    """A strategy of the user's own stands beside the rest for comparison."""
    return STANDING[name].role if name in STANDING else "comparison"


def source_of(name: str) -> str | None:
    """Key of docs/bibliography.md."""
    return STANDING[name].source if name in STANDING else None


@cache
def measured() -> list[Mapping[str, Any]]:
    """Every comparison of a strategy with its control in `results/`.

    Keys: "strategy", "study", "dataset", "model", "peft", "control", "labels" (first and last), "seeds"; "difference" of
    the areas (a fraction, mean over the seeds), "low" and "high" (95 %, None for one seed), "verdict" (corrected for the
    comparisons of its study).
    """
    found: list[Mapping[str, Any]] = json.loads(EVIDENCE.read_text(encoding="utf-8"))["comparisons"]
    return found


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
        f"{one['verdict']} on {one['dataset']} with {one['model']}, {one['peft']} ({_points(one)}, {one['seeds']} seeds)"
        for one in shown
    ]
    rest = f"; nothing shown in {len(own) - len(shown)} more" if len(own) > len(shown) else ""
    return f"{listed(parts)}{rest}"


def _points(one: Mapping[str, Any]) -> str:
    ends = f"{hundredths(one['low'], 1, sign=True)} to {hundredths(one['high'], 1, sign=True)}"
    return f"{hundredths(one['difference'], 1, sign=True)} points of area beside {one['control']}, {ends}"
