"""The file of `guidestar study`: datasets × models × adapters × strategies × seeds, and the cells that it stands for.

Every cell is an ordinary run configuration, put together from the parts of the file: the protocol, then `base`, then
what the dataset, the model and the adapter change, each over those before. A mistake is reported with its line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from guidestar import config as configs
from guidestar.config import Lines, RunConfig, StrategyConfig
from guidestar.data.presets import PRESETS
from guidestar.errors import ConfigError, allowed
from guidestar.query import strategies
from guidestar.schema import Problems
from guidestar.study.cells import Cell
from guidestar.study.paper import dataset_folder
from guidestar.study.results import short

Where = tuple[str | int, ...]
Place = TypeVar("Place")

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


class BaseSections(_Part):
    """What all runs have in common: sections of a run's configuration."""

    data: dict[str, Any] = Field(default_factory=dict)
    task: dict[str, Any] = Field(default_factory=dict)
    model: dict[str, Any] = Field(default_factory=dict)
    query: dict[str, Any] = Field(default_factory=dict)
    train: dict[str, Any] = Field(default_factory=dict)


class DatasetPart(_Named):
    """A dataset. Without `data` its name is that of a preset."""

    data: dict[str, Any] = Field(default_factory=dict)
    task: dict[str, Any] = Field(default_factory=dict)
    query: dict[str, Any] = Field(default_factory=dict)
    train: dict[str, Any] = Field(default_factory=dict)


class ModelPart(_Named):
    """A base model: the keys of a run's `model`."""

    model: dict[str, Any]


class PeftPart(_Named):
    """An adapter by PEFT's own keys, what its training needs otherwise, and `tapt` where it reads the pool first: the same
    adapter with and without it is two parts."""

    peft: dict[str, Any]
    train: dict[str, Any] = Field(default_factory=dict)
    tapt: dict[str, Any] | None = None


class StudyConfig(_Part):
    """Everything a study depends on."""

    out: str = Field("runs/study", description="The folder to write to.")
    protocol: Literal["jukic-snajder-2023"] | None = Field(None, description="Defaults of `seeds`, query and train.")
    folder: str | None = Field(None, description="A folder with the presets' folders; without it the hub is asked.")
    datasets: list[DatasetPart] = Field(min_length=1, description="Names of presets, or parts with a `name`.")
    models: list[ModelPart] | None = Field(None, min_length=1, description="Names of models, or parts with a `name`.")
    peft: list[PeftPart] | None = Field(None, min_length=1, description="Named adapters; default: a run's LoRA.")
    strategies: list[StrategyConfig] = Field(min_length=1, description="As in a run's configuration.")
    seeds: list[int] | None = Field(None, min_length=1, description="Default: the protocol's, else 0, 1 and 2.")
    control: str | None = Field(None, description="The strategy that RIPL compares with; default: the random one.")
    adapters: Literal["all", "last"] = Field(
        "last", description="Which rounds' adapters stay on the disk; probes of earlier rounds need all."
    )
    base: BaseSections = Field(default_factory=BaseSections)

    @field_validator("datasets", mode="before")
    @classmethod
    def _presets(cls, value: Any) -> Any:
        return _each(value, lambda name: {"name": name})

    @field_validator("models", mode="before")
    @classmethod
    def _models(cls, value: Any) -> Any:
        return _each(value, lambda name: {"name": model_label(name), "model": {"name": name}})

    @field_validator("strategies", mode="before")
    @classmethod
    def _strategies(cls, value: Any) -> Any:
        return _each(value, lambda name: {"use": name})

    @model_validator(mode="after")
    def _possible(self) -> StudyConfig:
        problems: list[tuple[str, str]] = []
        for key in ("datasets", "models", "peft", "strategies"):
            names = [getattr(part, "title", None) or part.name for part in getattr(self, key) or ()]
            twice = sorted({name for name in names if names.count(name) > 1})
            problems += [(key, f"has {name!r} twice; give one another `name`") for name in twice]
        if self.seeds is not None and len(set(self.seeds)) != len(self.seeds):
            problems.append(("seeds", "has the same seed twice"))
        for i, part in enumerate(self.datasets):
            preset = part.data.get("preset", None if "pool" in part.data else part.name)
            if preset is not None and preset not in PRESETS:
                problems.append((f"datasets.{i}", f"is {preset!r}, which is no preset; {allowed(PRESETS, preset)}"))
        titles = [strategy.title for strategy in self.strategies]
        if self.control is not None and self.control not in titles:
            problems.append(("control", f"is {self.control!r}; {allowed(titles, self.control)}"))
        for i, strategy in enumerate(self.strategies):
            try:
                strategies.resolve(strategy)
            except ConfigError as error:
                problems.append((f"strategies.{i}", f"cannot be used: {error}"))
        if problems:
            raise Problems(problems)
        return self


def _each(value: Any, mapping: Callable[[str], dict[str, Any]]) -> Any:
    return [mapping(item) if isinstance(item, str) else item for item in value] if isinstance(value, list) else value


def model_label(name: str) -> str:
    """A model's name for folders: the last part of a hub name or of a path.

    >>> model_label("HuggingFaceTB/SmolLM2-135M")
    'SmolLM2-135M'
    """
    return re.sub(r"[^A-Za-z0-9_.+-]", "-", short(name).rstrip("/").rpartition("/")[2]) or "model"


@dataclass(frozen=True)
class Study:
    """A study before it runs. datasets, models, pefts, strategies, seeds: in the file's order. control: the strategy
    that the others are set beside, None without one."""

    out: Path
    datasets: tuple[str, ...]
    models: tuple[str, ...]
    pefts: tuple[str, ...]
    strategies: tuple[str, ...]
    seeds: tuple[int, ...]
    control: str | None
    protocol: str | None
    cells: tuple[Cell, ...]


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> Study:
    """Read a study's file; overrides are `key.sub=value` texts, as for a run.

    Relative paths in the file are taken from its own folder. Raises ConfigError with one line for each problem.
    """
    path = Path(path)
    data, lines = configs.read_file(path)
    _rebase(data, path.parent)
    touched = configs.override(data, overrides)
    try:
        found = StudyConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(
            "\n".join(dict.fromkeys(configs.explain(error, str(path), lines, touched, StudyConfig)))
        ) from None
    return make_study(found, str(path), lines, touched)


def make_study(
    study: StudyConfig, name: str = "study", lines: Lines | None = None, touched: Mapping[Where, str] | None = None
) -> Study:
    """The cells of a study: for each model, dataset and seed every adapter with every strategy.

    Raises ConfigError naming every part that gives no valid run.
    """
    protocol = PROTOCOLS.get(study.protocol or "", {})
    seeds = study.seeds or protocol.get("seeds") or [0, 1, 2]
    models, pefts = study.models or [_default_model(study.base)], study.peft or [_default_peft()]
    cells: list[Cell] = []
    problems = dict.fromkeys(_unusable(pefts, name, lines or {}))
    for i_model, model in enumerate(models):
        for i_data, dataset in enumerate(study.datasets):
            for seed in seeds:
                for i_peft, peft in enumerate(pefts):
                    place = Path(study.out) / "runs" / dataset.name / model.name / peft.name
                    for i, strategy in enumerate(study.strategies):
                        draft = _Draft(lines or {}, touched or {})
                        draft.add(protocol, ("protocol",))
                        draft.add(study.base.model_dump(exclude_unset=True), ("base",))
                        draft.add(_of_dataset(dataset, study.folder), ("datasets", i_data))
                        draft.add(model.model_dump(include={"model"}), ("models", i_model))
                        draft.add(
                            peft.model_dump(include={"peft", "train", "tapt"}, exclude_unset=True), ("peft", i_peft)
                        )
                        draft.follow(("strategies", i), ("strategies", 0))
                        draft.follow(("seeds",), ("seeds",))
                        draft.data |= {"out": str(place), "seeds": [seed], "annotator": "oracle"}
                        draft.data["strategies"] = [strategy.model_dump(exclude_unset=True)]
                        try:
                            config = configs.parse(draft.data, name, draft.lines, draft.touched)
                        except ConfigError as error:
                            problems |= dict.fromkeys(str(error).splitlines())
                            continue
                        tags: dict[str, str | int] = {
                            "dataset": dataset.name, "model": model.name, "peft": peft.name, "method": strategy.title,
                            "seed": seed,
                        }  # fmt: skip
                        cells.append(Cell("/".join(map(str, _named(tags))), tags, config, study.adapters))
    if problems:
        raise ConfigError("\n".join(problems))
    return Study(
        Path(study.out), tuple(d.name for d in study.datasets), tuple(m.name for m in models),
        tuple(p.name for p in pefts), tuple(s.title for s in study.strategies), tuple(seeds), _control(study),
        study.protocol, tuple(cells),
    )  # fmt: skip


def _unusable(pefts: Sequence[PeftPart], name: str, lines: Mapping[Where, int]) -> Iterator[str]:
    """What PEFT has against the adapters, before anything is trained."""
    from guidestar.model import adapters

    for i, part in enumerate(pefts):
        try:
            adapters.make_config(part.peft)
        except ConfigError as error:
            place = f"{name} line {lines['peft', i]}" if ("peft", i) in lines else name
            yield from (f"{place}: {part.name}: {problem}" for problem in str(error).splitlines())


def _named(tags: Mapping[str, str | int]) -> Iterator[str | int]:
    yield from (value for key, value in tags.items() if key != "seed")
    yield f"seed{tags['seed']}"


class _Draft:
    """A run's configuration while it is put together, and where each key of it stands in the study's file."""

    def __init__(self, lines: Mapping[Where, int], touched: Mapping[Where, str]) -> None:
        self.data: dict[str, Any] = {}
        self.lines: Lines = {}
        self.touched: dict[Where, str] = {}
        self._lines, self._touched = lines, touched

    def add(self, part: Mapping[str, Any], where: Where) -> None:
        """Sections over those that are there; an adapter replaces another as a whole."""
        for section, values in part.items():
            if not isinstance(values, dict):  # seeds of a protocol
                continue
            self.data[section] = values if section == "peft" else {**self.data.get(section, {}), **values}
            for key in values:
                self.follow((*where, section, key), (section, key))
            self.follow((*where, section), (section,), inside=False)

    def follow(self, source: Where, target: Where, *, inside: bool = True) -> None:
        """What stands at `source` in the file is at `target` in the run."""
        self.lines |= _moved(self._lines, source, target, inside)
        self.touched |= _moved(self._touched, source, target, inside)


def _moved(places: Mapping[Where, Place], source: Where, target: Where, inside: bool) -> dict[Where, Place]:
    """The places at `source`, and of what is inside it, as places at `target`."""
    return {
        (*target, *path[len(source) :]): place
        for path, place in places.items()
        if path == source or (inside and path[: len(source)] == source)
    }


def _of_dataset(part: DatasetPart, folder: str | None) -> dict[str, Any]:
    """A dataset's sections; a preset that is named alone gets its folder in `folder`."""
    found = part.model_dump(exclude={"name"}, exclude_unset=True)
    data = dict(part.data)
    if "pool" not in data:
        data.setdefault("preset", part.name)
        if folder is not None and "folder" not in data:
            data["folder"] = dataset_folder(Path(folder), str(data["preset"]))
    return {**found, "data": data}


def _default_model(base: BaseSections) -> ModelPart:
    name = str(base.model.get("name", RunConfig.model_fields["model"].get_default(call_default_factory=True).name))
    return ModelPart(name=model_label(name), model={"name": name})


def _default_peft() -> PeftPart:
    return PeftPart(name="lora", peft=RunConfig.model_fields["peft"].get_default(call_default_factory=True))


def _control(study: StudyConfig) -> str | None:
    """The control that is named, else the first strategy that draws at random."""
    for strategy in () if study.control else study.strategies:
        recipe = strategies.resolve(strategy)
        if recipe.select == "random" and recipe.measure is None:
            return strategy.title
    return study.control


def _rebase(data: dict[str, Any], folder: Path) -> None:
    """Make relative local paths of a file relative to the current folder, in every part of it."""
    for key in ("out", "folder"):
        if isinstance(data.get(key), str):
            data[key] = str(folder / Path(data[key]).expanduser())
    parts = [data.get("base"), *(part for key in ("datasets", "models") for part in _listed(data.get(key)))]
    for part in parts:
        if isinstance(part, dict):
            configs.rebase(part, folder)
    if isinstance(data.get("models"), list):
        for i, item in enumerate(data["models"]):
            if isinstance(item, str) and item:
                moved = {"model": {"name": item}}
                configs.rebase(moved, folder)
                data["models"][i] = moved["model"]["name"]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
