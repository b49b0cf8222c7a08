"""Result files of a study: one JSON for each cell, without anything of the machine it ran on but what it is."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from guidestar import config as configs
from guidestar.config import RunConfig, fingerprint
from guidestar.errors import ConfigError, StoreError
from guidestar.query import strategies
from guidestar.schema import deciding

FORMAT = 1  # of the result files
PLACES = ("folder", "pool", "test", "validation")  # keys of the data section that name files of one machine
ELSEWHERE = ("out", "annotator", "people", "endpoint", "tracker")  # sections that decide nothing a cell measures

Result = dict[str, Any]


def result_path(out: Path, name: str) -> Path:
    """Where the result of a cell lies."""
    return out / "results" / f"{name}.json"


def read_results(folder: Path) -> list[Result]:
    """Every result file below a folder, sorted by path. Raises StoreError for one that cannot be read."""
    return [read_result(path) for path in sorted(folder.rglob("*.json"))]


def read_result(path: Path) -> Result:
    """A result file. Raises StoreError if it cannot be read."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read as a result: {error}; delete it, the cell will run again") from error
    if not isinstance(result, dict) or result.get("format") != FORMAT:
        raise StoreError(f"{path}: is not a result of format {FORMAT}; delete it, the cell will run again")
    return result


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
    values = {f.name: getattr(resolved, f.name) for f in dataclasses.fields(resolved) if f.name != "doc"}
    if resolved.code is None:
        del values["code"]  # as in a result made before there was code of one's own
    return values | {"mix": resolved.mix.model_dump(mode="json") if resolved.mix else None}


def config_fingerprint(config: RunConfig) -> str:
    """SHA-256 of all that decides what a cell measures, but the content of files."""
    return fingerprint({"config": portable(config), "recipe": recipe(config)})


def made_with(result: Result, config: RunConfig) -> bool:
    """Whether a result was made with this configuration; keys that are newer than the result count as their defaults."""
    wanted = config_fingerprint(config)
    if result["fingerprint"] == wanted:
        return True
    if (result.get("recipe") or {}).get("code") != recipe(config).get("code"):
        return False  # parsed anew below, the old configuration would get the code of now
    data = result["config"]["data"]
    place = {} if data["preset"] else {"pool": "elsewhere"}  # the file's name is not kept, and a pool must be named
    try:
        then = configs.parse({**result["config"], "data": {**data, **place}})
    except ConfigError:  # a key or a value that is gone
        return False
    return config_fingerprint(then) == wanted


def short(model: str) -> str:
    """A model's name without the folders it lies in."""
    path = Path(model).expanduser()
    return path.name if path.is_absolute() or model.startswith((".", "~")) or path.suffix == ".gguf" else model


# --- where a result belongs -------------------------------------------------------------------


def group_of(result: Result) -> tuple[str, str, str]:
    """Dataset, model and adapter of a result, the latter two empty where its study names none."""
    tags = result["tags"]
    return str(tags["dataset"]), str(tags.get("model", "")), str(tags.get("peft", ""))
