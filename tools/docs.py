"""Generated pages of the documentation: `python -m tools.docs FOLDER`. CI fails when they are stale."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from guidestar import config
from guidestar.cli import parser
from guidestar.data.presets import PRESETS
from guidestar.query.measures import MEASURES
from guidestar.query.mixing import SCALES, SCHEDULES
from guidestar.query.standing import EVIDENCE, ROLES, evidence, measured
from guidestar.query.strategies import STRATEGIES
from guidestar.query.subpool import SUBPOOLS
from guidestar.query.table import SELECTORS
from guidestar.report.answer import band
from guidestar.report.charts import curve as drawn
from guidestar.report.charts import mean_line, svg
from guidestar.report.style import COLOURS, GRID, MUTED
from guidestar.sections import EngineConfig
from guidestar.store.files import write_bytes
from guidestar.words import hundredths, spread
from tools import adapter_curves, choosing, coverage, methods, questions
from tools import evidence as studies
from tools.comparisons import comparisons
from tools.pages import table
from tools.reproduction import reproduction


def command_line() -> str:
    """The commands and their options, from the parser itself."""
    top = parser()
    parts = [
        "# Command line",
        "",
        "Generated from `guidestar/cli/`.",
        "",
        top.description or "",
        "",
        f"{top.epilog}.",
        "",
        "Before the command:",
        "",
        *_arguments(item for item in top._actions if item.option_strings),
    ]
    for action in top._actions:
        if not isinstance(action, argparse._SubParsersAction):
            continue
        for name, command in action.choices.items():
            words = ["guidestar", name]
            for item in filter(_is_told, command._actions):
                shown = _shown(item)
                usage = {"+": f"{shown} …", "*": f"[{shown} …]", "?": f"[{shown}]"}
                words.append(usage.get(str(item.nargs), f"[{shown}]" if item.option_strings else shown))
            parts += ["", f"## `guidestar {name}`", "", command.description or "", "", f"    {' '.join(words)}", ""]
            parts += _arguments(command._actions)
    return "\n".join([*parts, ""])


def _arguments(items: Iterable[argparse.Action]) -> list[str]:
    return table(["argument", "what"], [[f"`{_shown(item)}`", item.help] for item in filter(_is_told, items)])


def _is_told(item: argparse.Action) -> bool:
    return not isinstance(item, argparse._HelpAction) and item.help != argparse.SUPPRESS


def _shown(item: argparse.Action) -> str:
    """An argument as it is typed: its flag and what follows it."""
    value = item.metavar or ("" if item.nargs == 0 or not item.option_strings else item.dest.upper())
    return " ".join(w for w in (", ".join(item.option_strings), str(value) if item.nargs != 0 else "") if w)


def choices() -> str:
    """Strategies, measures, schedules, scales and presets, from their tables."""
    parts = [
        "# Strategies, measures and presets",
        "",
        "Generated from the tables in `guidestar/query` and `guidestar/data`.",
    ]
    parts += [
        "",
        "Which one to take: [how-to-choose.md](how-to-choose.md). Evidence is what the studies in `results/` show beside their "
        "control ([comparisons.md](comparisons.md)), by the one rule of [statistics.md](statistics.md).",
    ]
    for role, title in ROLES.items():
        parts += ["", f"## {title.partition(':')[0]}", ""]
        names = [name for name, recipe in STRATEGIES.items() if recipe.role == role]
        if not names:
            parts.append("None yet: no strategy has beaten random in `results/`.")
            continue
        header = ["name", "what", "measure", "passes", "mix", "select", "source", "evidence"]
        parts += table(header, map(_strategy, names))
    parts += ["", "Passes: dropout passes, members of a committee, or sampled responses."]
    parts += [
        "",
        "`racing: true` beside `passes` of 3 or more makes only as many passes over a candidate as it takes to tell whether "
        "it is among the batch's highest mean scores (`query/racing.py`). It goes with `select: top`, a measure that is a "
        "mean over passes, and a mix on the `raw` scale; what needs the order of the candidates or all their scores is "
        "refused. A candidate that all passes would pick is lost with probability at most 0.1. The passes of each are kept "
        "with the scores.",
    ]
    selectors = []
    for name, selector in SELECTORS.items():
        options = "; ".join(f"`{key}` ({option.default:g}): {option.doc}" for key, option in selector.options.items())
        selectors.append([f"`{name}`", selector.doc, ", ".join(sorted(selector.tasks)), options or "–"])
    parts += ["", "## Selectors", "", "`select` of a strategy; `options` are numbers by name.", ""]
    parts += table(["name", "what", "tasks", "options"], selectors)
    parts += ["", "## Sub-pools", ""]
    parts += table(["`subpool`", "what is scored"], [[f"`{name}`", what] for name, what in SUBPOOLS.items()])
    gold = {name: ". Needs gold answers: simulations only" * one.oracle for name, one in MEASURES.items()}
    measures = [[f"`{n}`", one.doc + gold[n], ", ".join(sorted(one.tasks))] for n, one in MEASURES.items()]
    parts += ["", "## Measures", "", "In nats unless a probability; larger is more uncertain.", ""]
    parts += table(["name", "what", "tasks"], measures)
    mixes = f"λ schedules: {', '.join(f'`{s}`' for s in SCHEDULES)}; scales: {', '.join(f'`{s}`' for s in SCALES)}."
    presets = [[f"`{n}`", p.description, ", ".join(f"`{f}`" for f in p.files.values())] for n, p in PRESETS.items()]
    parts += ["", "## Mixing", "", mixes, "", "## Presets", ""]
    parts += table(["name", "what", "files in `data.folder`"], presets)
    return "\n".join([*parts, ""])


def _strategy(name: str) -> list[str]:
    recipe, source = STRATEGIES[name], STRATEGIES[name].source
    mix = f"{recipe.mix.schedule}, {recipe.mix.scale}" if recipe.mix else "–"
    return [
        f"`{name}`", recipe.doc, recipe.measure or "–", str(recipe.walks) if recipe.walks > 1 else "–", mix, recipe.select,
        f"[{source}](bibliography.md#{source})" if source else "–", evidence(name),
    ]  # fmt: skip


def configuration() -> str:
    """Every key of the configuration, from the sections themselves."""
    parts = ["# Configuration", "", "Generated from `guidestar/schema.py`."]
    sections: list[tuple[str, Any]] = [("Top level", config.RunConfig)]
    for key, info in config.RunConfig.model_fields.items():
        sections += [(f"`{key}`", section) for section in config.models_in(info.annotation)]
    for key, info in EngineConfig.model_fields.items():
        sections += [(f"`engine.{key}`", section) for section in config.models_in(info.annotation)]
    sections.append(("`strategies[].mix`", config.MixConfig))
    for title, section in sections:
        keys = []
        for key, info in section.model_fields.items():
            within = section in (config.RunConfig, EngineConfig) and key != "strategies"
            if within and any(config.models_in(info.annotation)):
                continue  # a section of its own, below
            default = "required" if info.is_required() else _default(info.get_default(call_default_factory=True))
            keys.append([f"`{key}`", _values(info.annotation), default, info.description or ""])
        parts += ["", f"## {title}", "", (section.__doc__ or "").strip(), ""]
        parts += table(["key", "values", "default", "what"], keys)
    return "\n".join([*parts, ""])


def _values(annotation: Any) -> str:
    """A field's type in words: `one of a, b`, `number`, `list of text`."""
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(annotation))
    if get_origin(annotation) in (Union, UnionType):
        return " or ".join(_values(part) for part in get_args(annotation) if part is not NoneType)
    if get_origin(annotation) is list:
        return f"list of {_values(get_args(annotation)[0])}"
    if get_origin(annotation) is dict:
        return "mapping"
    words = {str: "text", int: "whole number", float: "number", bool: "`true` or `false`"}
    return words.get(annotation, "mapping")


def _default(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, list) and value and isinstance(value[0], config.StrategyConfig):
        value = [strategy.use for strategy in value]
    return f"`{json.dumps(value)}`"


# --- measured results ---------------------------------------------------------------------------


def results(folder: Path) -> str:
    """The runs whose `guidestar status --json` is kept in `results/`, with their curves beside this page."""
    parts = ["# Results", "", "Generated from the files in `results/`, each made by `guidestar status RUN --json`."]
    parts += ["Every curve is measured on a test set that chose nothing; random is the control."]
    for file in sorted(folder.glob("*.json")):
        found = json.loads(file.read_text(encoding="utf-8"))
        config, cores = found["config"], found["hardware"]["cores"]
        parts += ["", f"## {file.stem}", "", found["sentence"], "", *[f"- {note}" for note in found["notes"]], ""]
        parts += [f"![learning curve of {file.stem}](img/{file.stem}.svg)", ""] if found["strategies"] else []
        query, train = config["query"], config["train"]
        parts += [
            f"{config['model']['name']}, {config['peft'].get('peft_type', 'LORA')} r {config['peft'].get('r', '–')}, "
            f"{train['epochs']} epochs, batch {train['batch_size']}, learning rate {train['learning_rate']}; warm start "
            f"{query['warm_start']}, {query['batch']} a round, budget {query['budget']}, {query['candidates'] or 'all'} candidates "
            f"scored a round; {found['hardware']['machine']}, {cores} cores; torch {found['versions']['torch']}, "
            f"transformers {found['versions']['transformers']}, peft {found['versions']['peft']}.",
            "",
        ]  # fmt: skip
        areas = [
            [
                row["strategy"],
                ", ".join(map(str, row["seeds"])),
                spread(row["auc"]),
                hundredths(row["ripl"]),
                spread(row["final"]),
            ]
            for row in found["strategies"]
        ]
        curves = [[one["run"], *(hundredths(value) for _, value in one["curve"])] for one in found["runs"]]
        times = (
            f"{one['run']}: " + ", ".join(f"{phase} {seconds:.0f}" for phase, seconds in one["seconds"].items())
            for one in found["runs"]
        )
        parts += table(["strategy", "seeds", "AUC", "RIPL", "final"], areas)
        parts += [
            "",
            *table(["labels", *found["compared"]["labels"]], curves),
            "",
            f"Seconds by phase: {'; '.join(times)}",
        ]
    return "\n".join([*parts, ""])


SHOWN = {  # lines of the first picture of README.md -> a row of the curves with an adapter, and who serves
    "lean": ("weighted", "accuracy"), "random, same training": ("r1-weighted", "accuracy"),
    "random, logistic regression alone": ("r1", "frozen_accuracy"), "random, usual training": ("plain", "accuracy"),
}  # fmt: skip


def curve(name: str, curves: Mapping[str, Sequence[Sequence[Sequence[float]]]], levels: Mapping[str, float]) -> str:
    """Learning curves as an SVG image of its own, dark on white. curves: strategy -> (labels, accuracy) of each seed."""
    lines = [
        mean_line(strategy, seeds, style, (lambda values: band(values, None)) if len(seeds) > 1 else None)
        for style, (strategy, seeds) in enumerate(curves.items())
    ]
    image = svg(drawn(lines, levels), f"Learning curve, {name}")
    fixed = {"grid": GRID, "muted": MUTED} | {f"series-{i}": colour for i, colour in enumerate(COLOURS)}
    for variable, colour in fixed.items():
        image = image.replace(f"var(--{variable})", colour)
    attributes = 'xmlns="http://www.w3.org/2000/svg" style="background:#ffffff;color:#222222;font-family:sans-serif"'
    return image.replace("<svg ", f"<svg {attributes} ", 1) + "\n"


def curve_of_run(found: dict[str, Any]) -> str:
    """The learning curve of a results file."""
    seeds = {
        row["strategy"]: [
            one["curve"] for one in found["runs"] if one["strategy"] == row["strategy"] and one["seed"] in row["seeds"]
        ]
        for row in found["strategies"]
    }
    return curve(found["name"], seeds, {"majority class": found["majority"]["share"]} if found["majority"] else {})


def curve_of_adapters(file: Path, dataset: str) -> str:
    """The learning curves of `SHOWN` on a data set, over all their seeds."""
    told = json.loads(file.read_text(encoding="utf-8"))
    seeds = {
        name: [list(zip(told["checkpoints"], line[by], strict=True)) for line in told["rows"] if (line["data"], line["row"]) == (dataset, row)]
        for name, (row, by) in SHOWN.items()
    }  # fmt: skip
    return curve(f"{dataset}, all-MiniLM-L6-v2 with LoRA", seeds, {})


PAGES = {
    "config.md": configuration, "cli.md": command_line, "strategies.md": choices, "how-to-choose.md": choosing.page,
}  # fmt: skip


def main(folder: Path) -> None:
    """Write every page into `folder`; first what the studies show, which pages and `guidestar strategies` read."""
    write_bytes(EVIDENCE, studies.text(studies.evidence(folder.parent / "results" / "studies")).encode())
    measured.cache_clear()
    for name, page in PAGES.items():
        write_bytes(folder / name, page().encode())
    results_of = folder.parent / "results"
    write_bytes(folder / "results.md", results(results_of).encode())
    write_bytes(folder / "reproduction.md", reproduction(results_of / "paper").encode())
    write_bytes(folder / "questions.md", questions.page(results_of).encode())
    write_bytes(folder / "methods.md", methods.page(results_of).encode())
    write_bytes(folder / "comparisons.md", comparisons(results_of / "studies").encode())
    write_bytes(folder / "statistics.md", coverage.statistics_page(results_of / coverage.FILE).encode())
    for file in sorted(results_of.glob("*.json")):
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["strategies"]:
            write_bytes(folder / "img" / f"{file.stem}.svg", curve_of_run(found).encode())
    write_bytes(
        folder / "img" / "comparison.svg", curve_of_adapters(results_of / adapter_curves.FILE, "trec-6").encode()
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
