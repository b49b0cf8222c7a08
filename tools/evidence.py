"""`python -m tools.evidence`: what the studies in `results/` show of each strategy, for `guidestar strategies` and the docs.

Each study folder holds what `guidestar study` wrote. The comparisons of a study are one page: their p values are
corrected together, as in its own table.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from guidestar.metrics.statistics import t_interval
from guidestar.metrics.verdict import Comparison, comparison, decide
from guidestar.query.standing import EVIDENCE
from guidestar.query.strategies import STRATEGIES
from guidestar.store.files import write_bytes
from guidestar.study.results import Result, read_results

RESULTS = Path(__file__).parent.parent / "results"
Place = tuple[str, str, str, str, str]  # strategy, study, dataset, model, adapter


def evidence(studies: Path) -> list[dict[str, Any]]:
    """A row for every strategy of the table in every setting of every study that has a control for it."""
    rows = []
    for file in sorted(studies.glob("*/facts.json")):
        page: dict[Place, Comparison] = {}
        about: dict[Place, dict[str, Any]] = {}
        control = json.loads(file.read_text(encoding="utf-8")).get("control") or "random"
        for place, pairs in _pairs(file.parent, control):
            page[place] = comparison([own.area - other.area for own, other in pairs])
            about[place] = {"control": control, "labels": [pairs[0][0].curve[at][0] for at in (0, -1)]}
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


def _pairs(study: Path, control: str) -> Iterator[tuple[Place, Sequence[tuple[Result, Result]]]]:
    """Results of a strategy and of the control over the same numbers of labels, one pair for each seed."""
    found: dict[tuple[str, ...], dict[str, dict[int, Result]]] = {}
    for one in read_results(study / "results"):
        if one.curve:
            by_seed = found.setdefault(one.group, {}).setdefault(one.method, {})
            by_seed[one.seed] = one
    for (dataset, model, peft), rows in found.items():
        base = rows.get(control, {})
        for name in (name for name in STRATEGIES if name in rows and name != control):
            pairs = [(own, base[seed]) for seed, own in sorted(rows[name].items()) if _alike(own, base.get(seed))]
            if pairs:
                yield (name, study.name, dataset, model, peft), pairs


def _alike(own: Result, other: Result | None) -> bool:
    return other is not None and [at for at, _ in own.curve] == [at for at, _ in other.curve]


def text(rows: Sequence[Mapping[str, Any]]) -> str:
    """As the file holds them, one row a line."""
    lines = ",\n".join(json.dumps(row) for row in rows)
    return f'{{"comparisons": [\n{lines}\n]}}\n'


if __name__ == "__main__":
    write_bytes(EVIDENCE, text(evidence(RESULTS / "studies")).encode())
