"""`python -m tools.evidence`: what the studies in `results/` show of each strategy, for `guidestar strategies` and the docs.

Each study folder holds what `guidestar study` wrote. The comparisons of a study are one page: their p values are
corrected together, as in its own table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from guidestar.metrics.statistics import t_interval
from guidestar.metrics.verdict import Comparison, comparison, decide
from guidestar.query.standing import EVIDENCE
from guidestar.query.strategies import STRATEGIES
from guidestar.store.files import write_bytes
from guidestar.study.gains import added
from guidestar.study.results import read_results

RESULTS = Path(__file__).parent.parent / "results"
Place = tuple[str, str, str, str, str]  # strategy, study, dataset, model, adapter


def evidence(studies: Path) -> list[dict[str, Any]]:
    """A row for every strategy of the table in every setting of every study that has a control for it."""
    rows = []
    for file in sorted(studies.glob("*/facts.json")):
        page: dict[Place, Comparison] = {}
        about: dict[Place, dict[str, Any]] = {}
        control = json.loads(file.read_text(encoding="utf-8")).get("control") or "random"
        results = read_results(file.parent / "results")
        curves = {(one.group, one.method, one.seed): one.curve for one in results}
        for group, by in added(results, control).items():
            for name in (name for name in STRATEGIES if name in by):
                place, seeds = (name, file.parent.name, *group), sorted(by[name])
                page[place] = comparison([by[name][seed] for seed in seeds])
                curve = curves[group, name, seeds[0]]
                about[place] = {"control": control, "labels": [curve[at][0] for at in (0, -1)]}
        rows += [
            dict(zip(("strategy", "study", "dataset", "model", "peft"), place, strict=True))
            | about[place]
            | _numbers(page[place])
            | {"seeds": decision.seeds, "verdict": decision.word}
            for place, decision in decide(page).items()
        ]
    return rows


def _numbers(one: Comparison) -> dict[str, float | None]:
    """The mean difference of the areas and its 95 % interval, rounded as far as a reader can use them."""
    ends = t_interval(one.differences) if len(one.differences) > 1 else None
    low, high = (round(ends.low, 5), round(ends.high, 5)) if ends else (None, None)
    return {"difference": round(float(one.differences.mean()), 5), "low": low, "high": high}


def text(rows: Sequence[Mapping[str, Any]]) -> str:
    """As the file holds them, one row a line."""
    lines = ",\n".join(json.dumps(row) for row in rows)
    return f'{{"comparisons": [\n{lines}\n]}}\n'


if __name__ == "__main__":
    write_bytes(EVIDENCE, text(evidence(RESULTS / "studies")).encode())
