"""Result files of a study: one JSON for each cell, without anything of the machine it ran on but what it is."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from guidestar import config as configs
from guidestar.config import RunConfig, fingerprint
from guidestar.errors import ConfigError, StoreError
from guidestar.query import strategies
from guidestar.schema import deciding
from guidestar.store import files

FORMAT = 1  # of the result files
PLACES = ("folder", "pool", "test", "validation")  # keys of the data section that name files of one machine
ELSEWHERE = ("out", "annotator", "people", "endpoint", "tracker")  # sections that decide nothing a cell measures

Facts = Mapping[str, Any]
Place = tuple[str, str]  # dataset and model, the latter empty where a study names none


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of a cell, as its file holds it.

    name, tags: of the cell. fingerprint, config, recipe, prompt: what decided it. model, versions, hardware, data, task: with
    what it was made. base: "accuracy" of the untuned model. warm_start: what must be equal where seed, pool and size are.
    rounds: each with its "metrics" and what was "picked" of each class. curve: (labels, accuracy). auc, final: None without
    a test set. seconds: by phase. timings: round, phase, seconds, items. finished: why. metrics: of the few-shot model.
    sentences, facts: of a probe.
    """

    name: str
    tags: Mapping[str, str | int]
    fingerprint: str = ""
    config: Facts = field(default_factory=dict)
    recipe: Facts = field(default_factory=dict)
    prompt: Facts = field(default_factory=dict)
    model: Facts = field(default_factory=dict)
    versions: Facts = field(default_factory=dict)
    hardware: Facts = field(default_factory=dict)
    data: Facts = field(default_factory=dict)
    task: str = ""
    base: Mapping[str, float] | None = None
    warm_start: Facts | None = None
    rounds: Sequence[Facts] = ()
    curve: Sequence[Sequence[float]] = ()
    auc: float | None = None
    final: float | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    timings: Sequence[Sequence[Any]] = ()
    finished: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    sentences: Sequence[str] = ()
    facts: Facts = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """As JSON-able data; what only the few-shot model or a probe has is left out where it is empty."""
        rare = ("metrics", "sentences", "facts")
        return {"format": FORMAT} | {k: v for k, v in vars(self).items() if v or k not in rare}

    def tag(self, name: str) -> str:
        """A tag as text; empty where its study does not have it."""
        return str(self.tags.get(name, ""))

    @property
    def method(self) -> str:
        """The strategy, or what stands beside the runs."""
        return self.tag("method")

    @property
    def seed(self) -> int:
        """The seed of its run."""
        return int(self.tags["seed"])

    @property
    def place(self) -> Place:
        """Dataset and model."""
        return self.tag("dataset"), self.tag("model")

    @property
    def group(self) -> tuple[str, str, str]:
        """Dataset, model and adapter."""
        return *self.place, self.tag("peft")

    @property
    def area(self) -> float:
        """`auc` as a number: NaN without a test set."""
        return math.nan if self.auc is None else self.auc

    @property
    def row(self) -> str:
        """The name of the row whose run it is."""
        return row_of(self.tags)


def row_of(tags: Mapping[str, Any]) -> str:
    """The name of the row that a cell belongs to, by its tags."""
    return f"{tags['peft']}/{tags['method']}" if "peft" in tags else str(tags["method"])


def result_path(out: Path, name: str) -> Path:
    """Where the result of a cell lies."""
    return out / "results" / f"{name}.json"


def read_results(folder: Path) -> list[Result]:
    """Every result file below a folder, sorted by path. Raises StoreError for one that cannot be read."""
    return [read_result(path) for path in sorted(folder.rglob("*.json"))]


def read_result(path: Path) -> Result:
    """A result file. Raises StoreError if it cannot be read."""
    mend = "delete it, the cell will run again"
    plain = files.read_json(path, {"name", "tags", "format"}, "result", mend)
    if plain["format"] != FORMAT:
        raise StoreError(f"{path}: is a result of format {plain['format']} and not {FORMAT}; {mend}")
    known = {one.name for one in fields(Result)}
    return Result(**{key: value for key, value in plain.items() if key in known})


def write_result(out: Path, result: Result) -> Path:
    """Write the file of a result; see `result_path`."""
    path = result_path(out, result.name)
    files.write_bytes(path, (json.dumps(result.plain(), indent=1) + "\n").encode())
    return path


def portable(config: RunConfig) -> dict[str, Any]:
    """A configuration as JSON-able data without the places of one machine; the data's hash stands for the files and
    the model's fingerprint for its folder."""
    plain = {key: value for key, value in config.plain().items() if key not in ELSEWHERE}
    plain |= deciding(plain.pop("engine", None))
    plain["data"] = {key: value for key, value in plain["data"].items() if key not in PLACES}
    plain["model"] = {key: value for key, value in plain["model"].items() if key not in ("device", "batch_tokens")}
    plain["model"]["name"] = short(plain["model"]["name"])
    plain["train"].pop("micro_batch_size")
    share = plain["query"]["random_share"]
    plain["query"]["random_share"] = 0.0 if share is None else share  # the default of a cell, which is a simulation
    return plain


def recipe(config: RunConfig) -> dict[str, Any]:
    """What the configuration's first strategy does, as JSON-able data."""
    resolved = strategies.resolve(config.strategies[0])
    values = {f.name: getattr(resolved, f.name) for f in fields(resolved) if f.name != "doc"}
    if resolved.code is None:
        del values["code"]  # as in a result made before there was code of one's own
    return values | {"mix": resolved.mix.model_dump(mode="json") if resolved.mix else None}


def config_fingerprint(config: RunConfig) -> str:
    """SHA-256 of all that decides what a cell measures, but the content of files."""
    return fingerprint({"config": portable(config), "recipe": recipe(config)})


def made_with(result: Result, config: RunConfig) -> bool:
    """Whether a result was made with this configuration; keys that are newer than the result count as their defaults."""
    wanted = config_fingerprint(config)
    if result.fingerprint == wanted:
        return True
    if result.recipe.get("code") != recipe(config).get("code"):
        return False  # parsed anew below, the old configuration would get the code of now
    data = result.config["data"]
    place = {} if data["preset"] else {"pool": "elsewhere"}  # the file's name is not kept, and a pool must be named
    try:
        then = configs.parse({**result.config, "data": {**data, **place}})
    except ConfigError:  # a key or a value that is gone
        return False
    return config_fingerprint(then) == wanted


def short(model: str) -> str:
    """A model's name without the folders it lies in."""
    path = Path(model).expanduser()
    return path.name if path.is_absolute() or model.startswith((".", "~")) or path.suffix == ".gguf" else model
