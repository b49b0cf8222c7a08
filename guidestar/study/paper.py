"""`guidestar paper NAME`: an experiment of `experiments` at a scale of `scales`, from its plan to its tables."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from guidestar import config as configs
from guidestar.config import RunConfig, fingerprint
from guidestar.data.presets import PRESETS
from guidestar.errors import ConfigError, allowed
from guidestar.progress import Progress, Silent
from guidestar.store import files
from guidestar.study import cells as engine
from guidestar.study import extras, figures, plan, tables
from guidestar.study.cells import Cell, CellResult, Shared
from guidestar.study.experiments import EXPERIMENTS, Experiment, Variant
from guidestar.study.results import Result, recipe
from guidestar.study.scales import SCALES, kind_of, plain_config, setting_of, variant_config
from guidestar.study.synthetic import tiny_texts, write_synthetic

FOLDERS = {
    "gsm8k": "GSM8K", "boolq": "BoolQ", "boolq-passage": "BoolQ-passage", "openbookqa": "OBQA", "trec-6": "TREC-6",
    "subj": "SUBJ",
}  # fmt: skip


@dataclass(frozen=True)
class Study:
    """An experiment with all that is decided before it runs. rows: (dataset, variant's name) -> the method's name in
    the cells, which another experiment may have given to the same configuration."""

    name: str
    experiment: Experiment
    scale: str
    datasets: tuple[str, ...]
    cells: tuple[Cell, ...]
    rows: Mapping[tuple[str, str], str]


def run_paper(
    name: str,
    *,
    scale: str = "small",
    model: str | None = None,
    seeds: int = 3,
    out: Path | None = None,
    data: Path | None = None,
    datasets: Sequence[str] | None = None,
    part: str | None = None,
    plan_only: bool = False,
    progress: Progress | None = None,
    overrides: Sequence[str] | None = None,
) -> tuple[dict[str, Any], str, int]:
    """Run an experiment, and write its tables and figures to `out/NAME`; the same call continues it.

    scale: a name of `SCALES`. model: instead of the scale's. seeds: how many, from 0 on. out: default
    runs/paper-SCALE; experiments that share it share equal cells. data: a folder with the datasets' files; without it
    the hub is asked. datasets: default the experiment's. part: "i/n", the share of one of n processes; without it
    several processes may be started all the same, and each takes the next cell that nobody holds. plan_only: say what
    would be done and how long it would take. overrides: key.sub=value texts that change the plain configuration.

    Returns facts, a text for a terminal, and the exit code: 1 if a cell failed.
    Raises GuidestarError for what can be found before the first cell.
    """
    news, out = progress or Silent(), out or Path(f"runs/paper-{scale}")
    overrides = [*_for_device(scale), *(overrides or ())]
    if scale == "tiny" and name in EXPERIMENTS:
        model, data = _tiny(out, model, data, news)
    study = make_study(
        name, scale=scale, model=model, seeds=seeds, out=out, data=data, datasets=datasets or (), overrides=overrides
    )
    cells, shared = chosen_part(study.cells, part), Shared(out / "cache", news)
    before = [one.result for cell in cells if (one := engine.kept(cell, out)) and one.result]
    planned = plan.make_plan(cells, {one["name"] for one in before}, shared)
    text = plan.plan_text(planned, _title(study), _what_runs(study))
    if plan_only:
        return {"experiment": name, "scale": scale, **planned.plain()}, text, 0
    news.say(text)
    found = engine.run_cells(cells, out, news, shared=shared)
    facts, lines = finish(study, out, shared, news)
    now = [one.result for one in found if one.result]
    facts |= {"failed": {one.cell.name: one.error for one in found if one.error}}
    facts["plan"] = planned.plain()
    facts["elsewhere"] = [one.cell.name for one in found if one.state == "elsewhere"]
    return facts, "\n".join([*lines, *_closing(found, plan.compared(planned, before, now))]), engine.exit_code(found)


def finish(study: Study, out: Path, shared: Shared, progress: Progress) -> tuple[dict[str, Any], list[str]]:
    """Tables, figures and what they say, of all results that are there: those of other processes too."""
    done = [(cell, one.result) for cell in study.cells if (one := engine.kept(cell, out)) and one.result]
    place, scale = out / study.name, SCALES[study.scale]
    notes = [text for text in (scale.note, *_setting_notes(study)) if text]
    results: list[Result] = [result for _, result in done]
    results += engine.tried(progress, lambda: extras.few_shot([cell for cell, _ in done], out, shared, progress)) or []
    found = [
        tables.dataset_table(
            dataset,
            variants_of(study.experiment, dataset),
            {v: method for (d, v), method in study.rows.items() if d == dataset},
            results,
        )
        for dataset in study.datasets
    ]
    said = tables.reading(study.experiment, found)
    probes = _probe(study, out, place, shared, progress) if study.experiment.probe else []
    said += [sentence for one in probes for sentence in one["sentences"]]
    body = [f"# {_title(study)}", "", study.experiment.doc, *[f"\n**{note}**" for note in notes], ""]
    for table in found:
        body += [f"## {table['dataset']}", "", tables.markdown(table), ""]
    body += ["## What this shows", "", *[f"- {sentence}" for sentence in said], ""]
    files.write_bytes(place / "table.md", "\n".join(body).encode())
    files.write_bytes(place / "table.csv", tables.as_csv(found).encode())
    written = engine.tried(progress, lambda: _draw(study, place, results)) or []
    facts = {
        "experiment": study.name, "title": study.experiment.title, "scale": study.scale, "notes": notes,
        "cells": len(study.cells), "done": len(done), "tables": found, "reading": said,
        "files": sorted(str(path) for path in [place / "table.md", place / "table.csv", *written]),
    }  # fmt: skip
    files.write_bytes(place / "facts.json", (json.dumps(facts, indent=1, ensure_ascii=False) + "\n").encode())
    return facts, [*body, f"{len(done)} of {len(study.cells)} runs are done; written: {place}"]


def _draw(study: Study, place: Path, results: Sequence[Result]) -> list[Path]:
    variants = {v.name: v for d in study.datasets for v in variants_of(study.experiment, d)}
    return figures.learning_curves(
        place / "curves", study.datasets, list(variants.values()), study.rows, results,
        panels=study.experiment.panels, note=SCALES[study.scale].note,
    )  # fmt: skip


def _probe(study: Study, out: Path, place: Path, shared: Shared, progress: Progress) -> list[Result]:
    """The experiment's probe on the first seed of each dataset that is done; its files beside the tables."""
    found = []
    name, limit = str(study.experiment.probe), SCALES[study.scale].probed
    options = {"limit": limit} if name == "entropy" and limit else {}
    for dataset in study.datasets:
        method = study.rows[dataset, study.experiment.probed]
        cells = [c for c in study.cells if (c.tags["dataset"], c.tags["method"]) == (dataset, method)]
        cell = next((c for c in cells if engine.kept(c, out) and extras.run_folder(c).is_dir()), None)
        if cell is None:
            continue
        one = engine.tried(progress, lambda c=cell: extras.run_probe(c, name, out, shared, progress, **options))
        if one is not None:
            result, written = one
            found.append(result)
            for path in written:
                if path.suffix in (".png", ".pdf", ".csv"):
                    files.write_bytes(place / f"{dataset}-{path.name}", path.read_bytes())
    return found


def _title(study: Study) -> str:
    return f"{study.experiment.title} (scale {study.scale}: {SCALES[study.scale].doc})"


def _setting_notes(study: Study) -> list[str]:
    notes = {dataset: setting_of(study.scale, dataset).note for dataset in study.datasets}
    return [f"{dataset}: {note}." for dataset, note in notes.items() if note]


def _what_runs(study: Study) -> list[str]:
    rows = []
    for dataset in study.datasets:
        mine = [cell for cell in study.cells if cell.tags["dataset"] == dataset]
        query = mine[0].config.query
        methods = list(dict.fromkeys(str(cell.tags["method"]) for cell in mine))
        seeds = len({cell.tags["seed"] for cell in mine})
        rows.append(
            f"{dataset}: {len(methods)} methods × {seeds} seeds ({', '.join(methods)}); {query.warm_start} labels to begin "
            f"with, {query.batch} a round, {query.budget} in all; {query.candidates or 'all'} candidates scored a round"
        )
    return rows


def _closing(found: Sequence[CellResult], seconds: Sequence[str]) -> list[str]:
    lines = ["time of this call, by phase:", *seconds] if seconds else []
    lines += [f"failed: {one.cell.name}: {one.error}" for one in found if one.error]
    if others := [one.cell.name for one in found if one.state == "elsewhere"]:
        lines.append(
            f"left to other processes: {', '.join(others)}; when they are done, the same command writes the tables"
        )
    return lines


def _tiny(out: Path, model: str | None, data: Path | None, progress: Progress) -> tuple[str, Path]:
    """The tiny model and the synthetic data, made in the study's folder if they are not there."""
    place, synthetic = out / "model", out / "data"
    with engine.claim(out / "claims" / "tiny.lock", wait=True):
        if data is None and not (synthetic / "OBQA" / "train.jsonl").is_file():
            write_synthetic(synthetic)
        if model is None and not place.is_dir():
            from guidestar.model.tiny import build_tiny_model

            progress.say("making a tiny model")
            files.publish_folder(place, lambda folder: _ignored(build_tiny_model(folder, tiny_texts())))
    return model or str(place), data or synthetic


def _ignored(value: object) -> None:
    """Nothing, whatever came."""


def make_study(
    name: str,
    *,
    scale: str,
    out: Path,
    model: str | None = None,
    seeds: int = 3,
    data: Path | None = None,
    datasets: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> Study:
    """The cells of an experiment: every dataset, seed and variant.

    Raises ConfigError for names that are not there, for a variant that gives no valid configuration, and for files
    that are not in `data`.
    """
    if name not in EXPERIMENTS:
        raise ConfigError(f"experiment {name!r} is unknown; {allowed(EXPERIMENTS, name)}")
    if seeds < 1:
        raise ConfigError(f"seeds is {seeds}; allowed: 1 or more")
    experiment = EXPERIMENTS[name]
    chosen = tuple(dict.fromkeys(datasets or experiment.datasets))
    for dataset in chosen:
        setting_of(scale, dataset)
    found: list[Cell] = []
    rows: dict[tuple[str, str], str] = {}
    for dataset in chosen:
        folder = dataset_folder(data, dataset) if data else None
        plain = plain_config(scale, dataset, model=model, folder=folder)
        _override(plain, overrides)
        names = method_names(plain, scale, dataset)
        for seed in range(seeds):
            for variant in variants_of(experiment, dataset):
                config = variant_config(plain, variant, scale, dataset, seed=seed, out="")
                method, first = names[identity(config)]
                rows[dataset, variant.name] = method
                config = variant_config(plain, first, scale, dataset, seed=seed, out="")
                config = config.model_copy(update={"out": str(out / "runs" / dataset / training_name(plain, config))})
                tags: dict[str, str | int] = {"scale": scale, "dataset": dataset, "method": method, "seed": seed}
                cell = Cell(f"{dataset}/{method}/seed{seed}", tags, config, _adapters(experiment, scale, config))
                if cell.name not in {other.name for other in found}:
                    found.append(cell)
    return Study(name, experiment, scale, chosen, tuple(found), rows)


def _for_device(scale: str) -> list[str]:
    """Larger batches to score where there is a GPU: they change no number that matters, but the time."""
    import torch

    return [f"model.batch_tokens={SCALES[scale].batch_tokens}"] if scale in SCALES and torch.cuda.is_available() else []


def variants_of(experiment: Experiment, dataset: str) -> list[Variant]:
    """The experiment's variants that exist for the dataset's task."""
    return [v for v in experiment.variants if kind_of(dataset) in v.kinds]


def method_names(plain: Mapping[str, Any], scale: str, dataset: str) -> dict[str, tuple[str, Variant]]:
    """Identity of a configuration -> the name and variant that first gave it, over all experiments: what two
    experiments ask for alike is run once."""
    found: dict[str, tuple[str, Variant]] = {}
    for experiment in EXPERIMENTS.values():
        for variant in variants_of(experiment, dataset):
            config = variant_config(plain, variant, scale, dataset, seed=0, out="")
            found.setdefault(identity(config), (variant.name, variant))
    return found


def identity(config: RunConfig) -> str:
    """Equal for configurations that differ in seed, folder and the strategy's name alone."""
    return fingerprint({"key": config.key(), "recipe": recipe(config)})


def training_name(plain: Mapping[str, Any], config: RunConfig) -> str:
    """A folder's name for all that is alike but the strategy: what differs from the plain configuration."""
    data = {**plain, "out": "", "seeds": [0], "strategies": ["random"]}
    before, now = configs.parse(data).key(), config.key()
    changed = {key: now.get(key) for key in sorted({*before, *now}) if before.get(key) != now.get(key)}
    parts = [f"{key.rpartition('.')[2]}-{value}" for key, value in changed.items()]
    name = "+".join(parts)
    if not re.fullmatch(r"[A-Za-z0-9_.+-]{0,60}", name):
        return f"changed-{fingerprint(changed)[:12]}"
    return name or "plain"


def _adapters(experiment: Experiment, scale: str, config: RunConfig) -> Literal["all", "last"]:
    """All adapters are kept where they are small, or where a probe will read them."""
    large = scale == "paper" or str(config.peft.get("peft_type")).upper() == "FULL"
    return experiment.adapters if large else "all"


def dataset_folder(data: Path, dataset: str) -> str:
    """Where a dataset's files lie in `data`. Raises ConfigError naming where they were looked for."""
    name = FOLDERS.get(dataset, dataset)
    places = [data / "star" / name, data / "text" / name, data / name]
    for place in places:
        if all((place / PRESETS[dataset].files[split]).is_file() for split in ("pool", "test")):
            return str(place)
    files = " and ".join(PRESETS[dataset].files[split] for split in ("pool", "test"))
    raise ConfigError(f"{data}: no {files} of {dataset}; looked in {', '.join(map(str, places))}")


def chosen_part(cells: Sequence[Cell], part: str | None) -> Sequence[Cell]:
    """The cells of part "i/n". Raises ConfigError for another form, or a part that is not there."""
    if part is None:
        return cells
    if not (match := re.fullmatch(r"([1-9][0-9]*)/([1-9][0-9]*)", part)) or int(match[1]) > int(match[2]):
        raise ConfigError(f"part is {part!r}; allowed: i/n, for example 1/2")
    return engine.part_of(cells, int(match[1]), int(match[2]))


def _override(plain: dict[str, Any], overrides: Sequence[str]) -> None:
    """key.sub=value texts into the plain configuration, their values read as YAML."""
    for item in overrides:
        key, sign, value = item.partition("=")
        if not sign or not key:
            raise ConfigError(f"command line: {item!r} is not of the form key.sub=value")
        if key.partition(".")[0] in ("out", "seeds", "strategies", "annotator", "people", "endpoint"):
            raise ConfigError(f"command line: {key} is decided by the experiment; allowed: keys of the other sections")
        parsed, _ = configs.read_yaml(value, f"command line: {key}")
        section, _, rest = key.partition(".")
        plain[section] = {**plain.get(section, {}), rest: parsed} if rest else parsed
