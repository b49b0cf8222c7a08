"""The file of a study: datasets × models × rows × seeds, and the cells that it stands for.

A row is a strategy and what it changes of a run, and says which row it is set beside. A file lists its rows, or gives
adapters (`peft`) and strategies: each strategy with each adapter is then a row, ADAPTER/STRATEGY by name. Every cell is an ordinary run configuration, put
together from the parts of the file, each over those before: the protocol, `base`, the dataset, the model, `change`, the
row. A mistake is reported with its line.

The tables, figures and questions of the STAR paper are such files, in the folder `star`; what differs by size of model
and budget is in `star/scales`, over which a file's own keys stand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from guidestar import config as configs
from guidestar.config import StrategyConfig
from guidestar.data.presets import PRESETS
from guidestar.errors import ConfigError, allowed
from guidestar.query import strategies
from guidestar.sections import EngineConfig, Problems
from guidestar.study.results import short

SHIPPED = Path(__file__).parent / "star"
SECTIONS = ("data", "task", "model", "query", "train", "peft")  # of a run's configuration

PROTOCOLS: dict[str, dict[str, Any]] = {
    "jukic-snajder-2023": {
        "seeds": [1, 2, 3, 4, 5],
        "query": {"warm_start": 100, "batch": 50, "budget": 1000},
        "train": {
            "epochs": 50, "batch_size": 32, "learning_rate": 1e-4, "clip": 1.0, "weight_decay": 1e-5, "b_decay": 1e-5,
            "start": "base",
        },
    },
}  # fmt: skip
"""What a protocol sets before `base` does. Source: Jukić and Šnajder 2023, arXiv 2305.14576, and the defaults of the
code published with it. Their choice of each round's epoch by its test accuracy is `train.early_stop: oracle_epoch`, never a
default."""

Where = tuple[str | int, ...]  # the path of a key in a file

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,60}")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Named(_Part):
    name: str = Field(description="In tables and folders.")

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not _NAME.fullmatch(value):
            raise ValueError("letters, digits and . _ + - only, at most 61 of them")
        return value


class _Run(_Part):
    """Keys of some sections of a run's configuration."""

    data: dict[str, Any] = Field(default_factory=dict)
    task: dict[str, Any] = Field(default_factory=dict)
    query: dict[str, Any] = Field(default_factory=dict)
    train: dict[str, Any] = Field(default_factory=dict)


class Sections(_Run):
    """Sections of a run's configuration that several runs have in common."""

    model: dict[str, Any] = Field(default_factory=dict)
    peft: dict[str, Any] = Field(default_factory=dict)


class Setting(_Run):
    """What a dataset brings wherever it is named. values: what `$NAME` in a row stands for. note: for people."""

    values: dict[str, Any] = Field(default_factory=dict)
    note: str = ""


class DatasetPart(Setting, _Named):
    """A dataset. Without `data` its name is that of a preset."""


class ModelPart(_Named):
    """A base model: the keys of a run's `model`."""

    model: dict[str, Any]


class PeftPart(_Named):
    """An adapter by PEFT's own keys, what its training needs otherwise, and `tapt` where it reads the pool first: the same
    adapter with and without it is two parts."""

    peft: dict[str, Any]
    train: dict[str, Any] = Field(default_factory=dict)
    tapt: dict[str, Any] | None = None


class RowPart(Sections, _Named):
    """A row: a strategy, and what it changes of a run.

    control: the row that it is set beside; `own`: a random row that is trained alike, made for it. tasks: the kinds of
    task that it exists for. published: dataset -> AUC and RIPL printed elsewhere, per cent.
    """

    label: str = ""
    note: str = ""
    strategy: str | dict[str, Any]
    control: str | None = None
    tasks: list[str] | None = None
    published: dict[str, list[float]] = Field(default_factory=dict)
    adapters: Literal["all", "last"] | None = None
    tapt: dict[str, Any] | None = None


class ProbePart(_Part):
    """A probe of one finished seed of a row."""

    name: Literal["confidence", "entropy", "unchanged"]
    row: str
    options: dict[str, Any] = Field(default_factory=dict)


class StudyConfig(_Part):
    """Everything a study depends on."""

    out: str = Field("runs/study", description="The folder to write to.")
    title: str = Field("", description="Default: how many of what.")
    doc: str = Field("", description="What is asked.")
    notes: list[str] = Field(default_factory=list, description="What a reader must know.")
    scale: str | None = Field(None, description="The size of a shipped study, a tag of its results.")
    scale_doc: str = ""
    protocol: Literal["jukic-snajder-2023"] | None = Field(None, description="Defaults of `seeds`, query and train.")
    folder: str | None = Field(None, description="A folder with the presets' folders; without it the hub is asked.")
    datasets: list[DatasetPart] = Field(min_length=1, description="Names of presets, or parts with a `name`.")
    settings: dict[str, Setting] = Field(default_factory=dict, description="Dataset -> what it brings where named.")
    values: dict[str, Any] = Field(default_factory=dict, description="What `$NAME` in a row stands for.")
    models: list[ModelPart] | None = Field(None, min_length=1, description="Names of models, or parts with a `name`.")
    rows: list[RowPart] | None = Field(None, min_length=1, description="In place of `peft` and `strategies`.")
    every_row: dict[str, Any] = Field(default_factory=dict, description="What all rows have that say nothing else.")
    peft: list[PeftPart] | None = Field(None, min_length=1, description="Named adapters; default: a run's LoRA.")
    strategies: list[StrategyConfig] | None = Field(None, min_length=1, description="As in a run's configuration.")
    seeds: list[int] | None = Field(None, min_length=1, description="Default: the protocol's, else 0, 1 and 2.")
    control: str | None = Field(None, description="The row or strategy to compare with; default: the random one.")
    beside: list[list[str]] = Field(default_factory=list, description="More pairs of rows to compare.")
    adapters: Literal["all", "last"] = Field(
        "last", description="Which rounds' adapters stay on the disk; probes of earlier rounds need all."
    )
    base: Sections = Field(default_factory=Sections)
    change: Sections = Field(default_factory=Sections, description="Over what datasets and models bring.")
    shots: int | None = Field(None, ge=1, description="Demonstrations of the untuned model that is measured too.")
    probe: ProbePart | None = None
    engine: EngineConfig = Field(default_factory=EngineConfig, description="Where its cells run.")
    panels: dict[str, list[str]] = Field(default_factory=dict, description="Which rows share a pair of axes.")

    @model_validator(mode="before")
    @classmethod
    def _rows_and_settings(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        data = dict(data)
        for key, short_form in _SHORT_FORMS.items():
            if isinstance(data.get(key), list):
                data[key] = [short_form(item) if isinstance(item, str) else item for item in data[key]]
        common = data.get("every_row")
        if isinstance(data.get("rows"), list) and isinstance(common, dict):
            data["rows"] = [merged(common, row) if isinstance(row, dict) else row for row in data["rows"]]
        settings = data.get("settings")
        if isinstance(data.get("datasets"), list) and isinstance(settings, dict):
            data["datasets"] = [
                merged(settings.get(part.get("name")) or {}, part) if isinstance(part, dict) else part
                for part in data["datasets"]
            ]
        return data

    def listed(self) -> Iterator[tuple[RowPart, dict[str, Any], Where, Where]]:
        """Every row and its strategy, and where in the file its sections and the strategy stand: one form for both ways to
        give them."""
        for i, row in enumerate(self.rows or ()):
            given = {"use": row.strategy} if isinstance(row.strategy, str) else row.strategy
            yield row, {**given, "name": row.name}, ("rows", i), ("rows", i, "strategy")
        for i, peft in enumerate(self.peft or [default_peft()] if self.strategies else ()):
            sections = peft.model_dump(include={"peft", "train", "tapt"}, exclude_unset=True)
            control = self.control and f"{peft.name}/{self.control}"
            for j, one in enumerate(self.strategies or ()):
                strategy = one.model_dump(exclude_unset=True)
                name = f"{peft.name}/{one.title}"
                row = RowPart.model_construct(name=name, strategy=strategy, control=control, **sections)
                yield row, strategy, ("peft", i), ("strategies", j)

    @model_validator(mode="after")
    def _possible(self) -> StudyConfig:
        problems: list[tuple[str, str]] = []
        if (self.rows is None) == (self.strategies is None):
            problems.append(("strategies" if self.rows else "", "or `rows` must be given, and not both"))
        if self.rows is not None and self.peft is not None:
            problems.append(("peft", "does not go with `rows`; a row has `peft` of its own, and `base` has"))
        for key in ("datasets", "models", "peft", "strategies", "rows"):
            names = [getattr(part, "title", None) or part.name for part in getattr(self, key) or ()]
            twice = sorted({name for name in names if names.count(name) > 1})
            problems += [(key, f"has {name!r} twice; give one another `name`") for name in twice]
        if self.seeds is not None and len(set(self.seeds)) != len(self.seeds):
            problems.append(("seeds", "has the same seed twice"))
        for i, part in enumerate(self.datasets):
            preset = part.data.get("preset", None if "pool" in part.data else part.name)
            known = self.settings if self.scale and preset == part.name else PRESETS
            if preset is not None and preset not in known:
                what = f"has no setting at scale {self.scale}" if known is self.settings else "is no preset"
                problems.append((f"datasets.{i}", f"is {preset!r}, which {what}; {allowed(known, preset)}"))
        problems += self._rows_named()
        for i, strategy in enumerate(self.strategies or ()):
            try:
                strategies.resolve(strategy)
            except ConfigError as error:
                problems.append((f"strategies.{i}", f"cannot be used: {error}"))
        if problems:
            raise Problems(problems)
        return self

    def _rows_named(self) -> Iterator[tuple[str, str]]:
        """Names of rows that are not there."""
        rows = [row.name for row, *_ in self.listed()]
        rows += [f"random-{row.name}" for row in self.rows or () if row.control == "own"]
        named = [("probe.row", self.probe.row)] if self.probe else []
        named += [(f"rows.{i}.control", row.control) for i, row in enumerate(self.rows or ())
                  if row.control not in (None, "own")]  # fmt: skip
        named += [(f"panels.{panel}", name) for panel, names in self.panels.items() for name in names]
        named += [(f"beside.{i}", name) for i, pair in enumerate(self.beside) for name in pair]
        yield from ((where, f"is {name!r}; {allowed(rows, name)}") for where, name in named if name not in rows)
        yield from ((f"beside.{i}", "is no pair of rows") for i, pair in enumerate(self.beside) if len(pair) != 2)
        known = [strategy.title for strategy in self.strategies or ()] or rows
        if self.control is not None and self.control not in known:
            yield "control", f"is {self.control!r}; {allowed(known, self.control)}"


def default_peft() -> PeftPart:
    """The adapter of a run that names none."""
    return PeftPart(name="lora", peft=configs.RunConfig.model_fields["peft"].get_default(call_default_factory=True))


_SHORT_FORMS: dict[str, Callable[[str], dict[str, Any]]] = {
    "datasets": lambda name: {"name": name},
    "models": lambda name: {"name": model_label(name), "model": {"name": name}},
    "strategies": lambda name: {"use": name},
}


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of both, those of `above` over those of `below`; mappings in both are merged, strategies are not.

    >>> merged({"train": {"epochs": 2, "clip": 1.0}}, {"train": {"epochs": 3}})
    {'train': {'epochs': 3, 'clip': 1.0}}
    """
    keys = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(keys.get(key), Mapping) and key != "strategy"
        keys[key] = merged(keys[key], value) if both else value
    return keys


def model_label(name: str) -> str:
    """A model's name for folders: the last part of a hub name or of a path.

    >>> model_label("HuggingFaceTB/SmolLM2-135M")
    'SmolLM2-135M'
    """
    return re.sub(r"[^A-Za-z0-9_.+-]", "-", short(name).rstrip("/").rpartition("/")[2]) or "model"


# --- reading --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """A study's file as it was read. lines: path of a key -> its line. touched: path -> the option that gave it."""

    config: StudyConfig
    name: str = "study"
    lines: Mapping[Where, int] = field(default_factory=dict)
    touched: Mapping[Where, str] = field(default_factory=dict)


def read_study(path: str | Path, overrides: Sequence[str] = (), scale: str | None = None) -> Source:
    """Read a study's file; overrides are `key.sub=value` texts, those that begin with a run's section for all runs.

    scale: a name of `scales()`, whose keys stand below the file's. Relative paths in the file are taken from its own
    folder. Raises ConfigError with one line for each problem.
    """
    path = Path(path)
    data, lines = configs.read_file(path)
    _rebase(data, path.parent)
    if scale is not None:
        if scale not in scales():
            raise ConfigError(f"scale is {scale!r}; {allowed(scales(), scale)}")
        below, _ = configs.read_file(SHIPPED / "scales" / f"{scale}.yaml")
        data = merged(below, data) | {"notes": [*below.get("notes", ()), *data.get("notes", ())]}
    texts = [f"change.{text}" if _OF_RUNS.match(text) else text for text in overrides]
    touched = configs.override(data, texts)
    touched = {key: place.replace("line: change.", "line: ") for key, place in touched.items()}
    try:
        config = StudyConfig.model_validate(data)
    except ValidationError as error:
        problems = configs.explain(error, str(path), lines, touched, StudyConfig)
        raise ConfigError("\n".join(dict.fromkeys(problems))) from None
    return Source(config, str(path), lines, touched)


_OF_RUNS = re.compile(rf"({'|'.join(SECTIONS)})\.[^=]+=")


def scales() -> list[str]:
    """The sizes of the shipped studies."""
    return sorted(path.stem for path in (SHIPPED / "scales").glob("*.yaml"))


def shipped() -> dict[str, Path]:
    """Name -> file of every study of the STAR paper, tables and figures first."""
    names = ["table1", "table2", "fig1", "fig2", "fig3", "fig5"]
    files = {path.stem: path for path in sorted(SHIPPED.glob("*.yaml"))}
    return {name: files.pop(name) for name in names} | files


def _rebase(data: dict[str, Any], folder: Path) -> None:
    """Make relative local paths of a file relative to the current folder, in every part of it."""
    for key in ("out", "folder"):
        if isinstance(data.get(key), str):
            data[key] = str(folder / Path(data[key]).expanduser())
    listed = [part for key in ("datasets", "models", "rows") if isinstance(data.get(key), list) for part in data[key]]
    for part in [data.get("base"), *listed]:
        if isinstance(part, dict):
            configs.rebase(part, folder)
    if isinstance(data.get("models"), list):
        for i, item in enumerate(data["models"]):
            if isinstance(item, str) and item:
                moved = {"model": {"name": item}}
                configs.rebase(moved, folder)
                data["models"][i] = moved["model"]["name"]
