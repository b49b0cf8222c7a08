"""docs/comparisons.md: what the studies in `results/studies` found, beside what was published on the same data.

Each folder there holds what `guidestar study` wrote: `study.yaml`, `facts.json` and `results/`.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from guidestar.metrics.statistics import Interval
from guidestar.metrics.verdict import can_claim
from guidestar.study import gains
from guidestar.study.compose import Row
from guidestar.study.results import Result, read_results
from guidestar.study.tables import NOTE, Asked, Beside, Line, Spread, markdown, ripl_of, tables
from tools import ablation, adapter_curves, frozen_curves, lean_pools, setfit_curves
from tools.pages import table

Group = tuple[str, str, str]

_INTRO = """# Comparisons

Generated from the folders in `results/studies`, which `guidestar study` wrote: simulations on real data, every strategy
of a seed from the same warm start. How the intervals are made: [statistics.md](statistics.md). {note}
"""

# Adapter, by its name in our study -> (its name there, AUC of random, AUC of "MC", RIPL of "MC" as printed), fractions.
PUBLISHED: dict[str, tuple[str, float, float, float]] = {
    "adapter": ("bottleneck adapter", 0.926, 0.935, 0.12),
    "lora": ("LoRA", 0.929, 0.938, 0.12),
    "prefix": ("prefix", 0.936, 0.943, 0.12),
    "unipelt": ("UniPELT", 0.934, 0.944, 0.15),
    "full": ("full fine-tuning", 0.928, 0.934, 0.09),
}
"""SUBJ in Jukić and Šnajder 2023 (arXiv 2305.14576), read off their figures to about ±0.002: BERT, 100 to 1,000 labels, five
seeds, in each round the epoch with the best accuracy on the *test* set. Their "MC" is the entropy of the mean of 30 dropout
passes."""


def line_of(data: Mapping[str, Any]) -> Line:
    """The line of `Line.plain`, of an older version, too."""
    own = {key: data[key] for key in ("dataset", "model", "peft", "strategy", "control")}
    beside = None
    if data["ripl"] or data["verdict"]:
        few = data["verdict"] and not can_claim(len(data["seeds"]))
        beside = Beside(
            tuple(data["seeds"]), _interval(data.get("difference")) or Interval(math.nan, -math.inf, math.inf),
            _interval(data["ripl"]), "too few seeds" if few else data["verdict"] or "",
        )  # fmt: skip
    return Line(
        **own, label=data.get("label", data["strategy"]), row=data.get("row", f"{data['peft']}/{data['strategy']}"),
        seeds=tuple(data["seeds"]), auc=Spread(**data["auc"]), final=Spread(**data["final"]), beside=beside,
    )  # fmt: skip


def _interval(plain: Mapping[str, float | None] | None) -> Interval | None:
    if plain is None or plain["estimate"] is None:
        return None
    low, high = plain["low"], plain["high"]
    return Interval(plain["estimate"], -math.inf if low is None else low, math.inf if high is None else high)


def gain_of(data: Mapping[str, Any]) -> gains.Gain:
    """The gain that `asdict` wrote."""
    return gains.Gain(**{**data, "above": {k: one and gains.Above(**one) for k, one in data["above"].items()}})


def comparisons(studies: Path) -> str:
    """The page as Markdown; the same files give the same bytes. studies: a folder of study folders, maybe empty."""
    parts = [_INTRO.format(note=NOTE)]
    files = sorted(studies.glob("*/facts.json")) if studies.is_dir() else []
    studies_there = {file.parent: json.loads(file.read_text(encoding="utf-8")) for file in files}
    for place, facts in studies_there.items():
        parts += [*_section(place, facts), ""]
    if not studies_there:
        parts += ["No study is kept yet.", ""]
    measured = (
        part
        for tool in (adapter_curves, setfit_curves, frozen_curves, lean_pools, ablation)
        if (file := studies.parent / tool.FILE).is_file()
        for part in tool.section(file)
    )
    parts += [*_published(studies_there), *measured, ""]
    return "\n".join(parts)


def _section(place: Path, facts: Mapping[str, Any]) -> Iterator[str]:
    results = read_results(place / "results")
    title, *notes = _comment(place)
    yield from (f"## {title.rstrip('.')}", "")
    if notes:
        yield from (" ".join(notes), "")
    for group in dict.fromkeys(one.group for one in results):
        yield f"- {_setting(group, [one for one in results if one.group == group])}"
    yield from ("", f"{facts['done']} of {facts['cells']} runs are done.", "")
    yield from (markdown([line_of(row) for row in facts["rows"]]), "")
    if len(above := [gain_of(row) for row in facts.get("above", ())]) > 1:
        yield from (gains.markdown(above, facts["control"]), "")
    yield from (f"- {sentence}" for sentence in facts["reading"])
    yield from _probes(place)
    for picture in sorted(place.glob("curves-*.png")):
        where = f"../results/{place.parent.name}/{place.name}/{picture.name}"
        yield from ("", f"![Learning curves, {picture.stem.removeprefix('curves-')}]({where})")


def _probes(place: Path) -> Iterator[str]:
    """What `guidestar probe` said of some of the runs: `probes/ADAPTER-PROBE.json` and the picture beside it."""
    for file in sorted((place / "probes").glob("*.json")):
        facts = json.loads(file.read_text(encoding="utf-8"))
        yield from ("", f"### Probe {facts['probe']}, {file.stem.rpartition('-')[0]}, {facts['run']}", "")
        yield from (f"- {sentence}" for sentence in facts["sentences"])
        if (picture := file.with_suffix(".png")).is_file():
            yield from ("", f"![{file.stem}](../results/{place.parent.name}/{place.name}/probes/{picture.name})")


def _comment(place: Path) -> list[str]:
    """The lines of the comment that the study file begins with, else the folder's name."""
    lines = (place / "study.yaml").read_text(encoding="utf-8").splitlines()
    said = [line.removeprefix("#").strip() for line in itertools.takewhile(lambda line: line.startswith("#"), lines)]
    return said or [place.name]


def _setting(group: Group, results: Sequence[Result]) -> str:
    """What was run, and where."""
    one, seeds = results[0], sorted({r.seed for r in results})
    config: Mapping[str, Any] = one.config
    query, train, data = config["query"], config["train"], one.data
    majority = f", majority {100 * data['majority']['share']:.1f} %" if data.get("majority") else ""
    versions, hardware = one.versions, one.hardware
    return (
        f"**{', '.join(filter(None, group))}**: {one.model['name']} ({one.model['parameters'] / 1e6:.1f} million parameters, "
        f"{one.model['dtype']}), {_peft(config['peft'])}; {query['warm_start']} labels to begin with, {query['batch']} a "
        f"round, {query['budget']} in all; {query['candidates'] or 'all'} candidates scored a round; {_training(train)}, "
        f"`b_decay` {train['b_decay']}; {data['test']} test "
        f"examples{majority}; seeds {', '.join(map(str, seeds))}; {hardware['machine']}, {hardware['threads']} thread; torch "
        f"{versions['torch']}, transformers {versions['transformers']}, peft {versions['peft']}"
    )


def _training(train: Mapping[str, Any]) -> str:
    recipe = f"recipe {train['recipe']}" if train.get("recipe") else f"learning rate {train['learning_rate']}"
    return f"{train['epochs']} epochs, batch {train['batch_size']}, {recipe}"


def _peft(options: dict[str, Any]) -> str:
    return ", ".join(
        f"{key} {value if not isinstance(value, list) else ' '.join(value)}" for key, value in options.items()
    )


def _published(studies: Mapping[Path, Mapping[str, Any]]) -> Iterator[str]:
    yield from ("## What was published on SUBJ", "")
    yield (
        "Jukić and Šnajder 2023, BERT, 100 to 1,000 labels, five seeds, read off their figures to about ±0.002. Each point is "
        "the epoch with the best accuracy on the *test* set, so the levels are too high; compare signs and sizes of RIPL, not "
        "levels, with another model's numbers."
    )
    yield ""
    ours = {peft: cells for place, facts in studies.items() for peft, cells in _of_mc(place, facts["rows"]).items()}
    yield from table(
        ["adapter", "AUC random", "AUC MC", "RIPL MC", "ours: AUC random", "AUC `mc`", "RIPL `mc`", "seeds"],
        [
            [name, f"{100 * random:.1f}", f"{100 * mc:.1f}", f"{100 * gain:.0f} %", *ours.get(peft, ["–"] * 4)]
            for peft, (name, random, mc, gain) in PUBLISHED.items()
        ],
    )


def _of_mc(place: Path, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Adapter -> AUC of random and of `mc` on SUBJ over the seeds that both have, the RIPL of these, and how many.

    rows: the study's own; what they say of the same seeds rests on more than the curves.
    """
    cells = {}
    groups: dict[Group, list[Result]] = {}
    for one in read_results(place / "results"):
        if one.curve and one.tag("dataset") == "subj" and one.method in ("random", "mc"):
            groups.setdefault(one.group, []).append(one)
    for group, results in groups.items():
        seeds = {name: {r.seed for r in results if r.method == name} for name in ("random", "mc")}
        common = [r for r in results if r.seed in seeds["random"] & seeds["mc"]]
        if common:
            control, mc = tables([Asked(_rows(group[2]), common)])[0].lines
            areas = [f"{100 * line.auc.mean:.1f}" for line in (control, mc) if line.auc]
            known = [line_of(row) for row in rows
                     if group == (row["dataset"], row["model"], row["peft"]) and row["strategy"] == "mc"]  # fmt: skip
            best = next((line for line in known if line.seeds == mc.seeds), mc)
            cells[group[2]] = [*areas, ripl_of(best), str(len(mc.seeds))]
    return cells


def _rows(peft: str) -> list[Row]:
    return [Row(f"{peft}/{name}", name, name, peft, control=f"{peft}/random") for name in ("random", "mc")]
