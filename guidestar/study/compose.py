"""From a study's file to its cells: the configuration of every run, and which rows are the same run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, Literal, TypeVar

from guidestar import config as configs
from guidestar.config import Lines, RunConfig, StrategyConfig, fingerprint
from guidestar.data.presets import PRESETS
from guidestar.errors import ConfigError, allowed
from guidestar.query import strategies
from guidestar.study.cells import Cell
from guidestar.study.results import recipe
from guidestar.study.studyfile import (
    PROTOCOLS,
    SECTIONS,
    DatasetPart,
    ModelPart,
    Source,
    StudyConfig,
    Where,
    default_peft,
    model_label,
    read_study,
)

Place = TypeVar("Place")

FOLDERS = {
    "gsm8k": "GSM8K", "boolq": "BoolQ", "boolq-passage": "BoolQ-passage", "openbookqa": "OBQA", "trec-6": "TREC-6",
    "subj": "SUBJ",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One line of a table. name: unique in its study. method: of its strategy. peft: of the adapter that the file names,
    empty where rows have adapters of their own. control: the name of the row that it is set beside, its own for a
    control; None without one. published: dataset -> AUC and RIPL printed elsewhere, per cent."""

    name: str
    method: str
    label: str
    peft: str = ""
    note: str = ""
    control: str | None = None
    tasks: tuple[str, ...] = ()
    published: Mapping[str, Sequence[float]] = field(default_factory=dict)
    adapters: Literal["all", "last"] = "last"


@dataclass(frozen=True)
class _Changes:
    """What a row changes of a run: sections, and its strategy; where in the file both stand."""

    sections: Mapping[str, Any]
    strategy: Mapping[str, Any]
    where: Where
    strategy_where: Where


@dataclass(frozen=True)
class Study:
    """A study before it runs. models: empty text where the file names none. cells: in the order of running. runs:
    (dataset, model, row) -> the row whose cells it has, which differs where two rows ask for the same run. place: where
    tables go. config: the file."""

    out: Path
    place: Path
    datasets: tuple[str, ...]
    models: tuple[str, ...]
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]
    control: str | None
    cells: tuple[Cell, ...]
    runs: Mapping[tuple[str, str, str], str]
    config: StudyConfig

    @property
    def notes(self) -> list[str]:
        """What a reader must know of the study and of its datasets."""
        of_datasets = [f"{part.name}: {part.note}." for part in self.config.datasets if part.note]
        return [*self.config.notes, *of_datasets]

    @property
    def pefts(self) -> tuple[str, ...]:
        """The adapters that the file names."""
        return tuple(dict.fromkeys(row.peft for row in self.rows if row.peft))


def load_study(path: str | Path, overrides: Sequence[str] = (), *, scale: str | None = None, tables: str = "") -> Study:
    """Read a study's file and make its cells. scale: see `read_study`. tables: the folder in `out` for its tables.

    Raises ConfigError with one line for each problem.
    """
    return make_study(read_study(path, overrides, scale), tables)


def make_study(source: Source | StudyConfig, tables: str = "") -> Study:
    """The cells of a study: for each model, dataset and seed every row.

    Raises ConfigError naming every part that gives no valid run.
    """
    source = source if isinstance(source, Source) else Source(source)
    study = source.config
    protocol = PROTOCOLS.get(study.protocol or "", {})
    seeds = tuple(study.seeds or protocol.get("seeds") or [0, 1, 2])
    rows = list(_rows(study))
    models = study.models or [ModelPart(name="default", model={})]
    if study.models is None and study.strategies is not None:
        default = RunConfig.model_fields["model"].get_default(call_default_factory=True).name
        name = str({**study.base.model, **study.change.model}.get("name", default))
        models = [ModelPart(name=model_label(name), model={"name": name})]
    named = study.models is not None or study.strategies is not None
    known = {*study.values, *(key for part in (*study.datasets, *study.settings.values()) for key in part.values)}
    cells: dict[str, Cell] = {}
    runs: dict[tuple[str, str, str], str] = {}
    problems: dict[str, None] = {}
    for (i_model, model), (i_data, dataset), seed in product(enumerate(models), enumerate(study.datasets), seeds):
        shown = model.name if named else ""
        bench = _Draft(source)
        bench.add(protocol, ("protocol",))
        bench.add(study.base.model_dump(exclude_unset=True), ("base",))
        bench.add(_of_dataset(dataset, study.folder), ("datasets", i_data))
        bench.add(model.model_dump(include={"model"}), ("models", i_model))
        bench.add(study.change.model_dump(exclude_unset=True), ("change",))
        bench.data |= {"out": "", "seeds": [seed], "annotator": "oracle"}
        bench.follow(("seeds",), ("seeds",))
        if of_runs := study.engine.model_dump(exclude={"cells"}, exclude_unset=True):
            bench.data["engine"] = of_runs
        values = {**study.values, **dataset.values}
        first: dict[str, str] = {}
        plain: dict[str, Any] = {}
        for row, changes in rows:
            if row.tasks and _task_of(dataset) not in row.tasks:
                continue
            draft, said = bench.with_row(row, changes, values, known)
            try:
                config = draft.parsed()
                plain = plain or bench.parsed(strategies=["random"]).key()
            except ConfigError as error:
                said += str(error).splitlines()
            problems |= dict.fromkeys(said)
            if said:
                continue
            name = row.name if row.peft else first.setdefault(identity(config), row.name)
            runs[dataset.name, shown, row.name] = name
            if name == row.name:
                group = row.peft or training_name(plain, config)
                place = Path(study.out).joinpath("runs", dataset.name, *([shown] if shown else []), group)
                tags = {"scale": study.scale, "dataset": dataset.name, "model": shown, "peft": row.peft}
                kept: dict[str, str | int] = {key: value for key, value in tags.items() if value}
                kept |= {"method": row.method, "seed": seed}
                parts = [dataset.name, *([shown] if shown else []), name, f"seed{seed}"]
                cell = Cell("/".join(parts), kept, config.model_copy(update={"out": str(place)}), row.adapters)
                cells[cell.name] = cell
    if problems:
        raise ConfigError("\n".join(problems))
    control = next((row.method for row, _ in rows if row.name == row.control), None)
    return Study(
        Path(study.out), Path(study.out) / tables, tuple(part.name for part in study.datasets),
        tuple(model.name if named else "" for model in models), tuple(row for row, _ in rows), seeds,
        study.control or control, tuple(cells.values()), runs, study,
    )  # fmt: skip


# --- rows -----------------------------------------------------------------------------------------


def _rows(study: StudyConfig) -> Iterator[tuple[Row, _Changes]]:
    """The rows, and what each changes of a run with its place in the file."""
    listed = list(study.listed())
    first = next((part.name for part, strategy, *_ in listed if _draws_at_random(strategy)), None)
    for part, strategy, where, of_strategy in listed:
        peft, _, method = part.name.rpartition("/")
        control = part.control or (first and f"{peft}/{first.rpartition('/')[2]}" if peft else study.control or first)
        sections = part.model_dump(include={*SECTIONS, "tapt"}, exclude_unset=True)
        row = Row(
            part.name, method, part.label or method, peft, part.note, control, tuple(part.tasks or ()), part.published,
            part.adapters or study.adapters,
        )  # fmt: skip
        if part.control == "own":
            name = f"random-{part.name}"
            row = replace(row, control=name)
            alike = replace(row, name=name, method=name, label=f"random, {row.label}", note="", published={})
            yield alike, _Changes(sections, {"use": "random", "name": name}, where, of_strategy)
        yield row, _Changes(sections, strategy, where, of_strategy)


def _draws_at_random(strategy: Mapping[str, Any]) -> bool:
    try:
        recipe = strategies.resolve(StrategyConfig.model_validate(dict(strategy)))
    except (ConfigError, ValueError):  # which is said when its runs are made
        return False
    return recipe.select == "random" and recipe.measure is None


def _task_of(part: DatasetPart) -> str:
    """The kind of a dataset's task, empty where its preset does not say."""
    preset = PRESETS.get(str(part.data.get("preset", part.name)))
    return str(part.task.get("kind") or (preset.task["kind"] if preset else ""))


def filled(value: Any, values: Mapping[str, Any], known: set[str]) -> Any:
    """Data with each `$NAME` replaced by its value; a key whose name has no value here is left out.

    Raises ConfigError for a name that nobody gives a value.
    >>> filled({"measure": "$ME", "passes": 3, "mix": "$odd"}, {"ME": "entropy"}, {"ME", "odd"})
    {'measure': 'entropy', 'passes': 3}
    """
    if isinstance(value, Mapping):
        data = {key: filled(item, values, known) for key, item in value.items()}
        return {key: item for key, item in data.items() if item is not _NO_VALUE}
    if isinstance(value, list):
        return [filled(item, values, known) for item in value]
    if not isinstance(value, str) or not value.startswith("$"):
        return value
    name = value[1:]
    if name not in known:
        raise ConfigError(f"{value} stands for no value; {allowed(sorted(known), name)}")
    return _NO_VALUE if values.get(name) is None else values[name]


_NO_VALUE = object()


# --- one run --------------------------------------------------------------------------------------


class _Draft:
    """A run's configuration while it is put together, and where each key of it stands in the study's file."""

    def __init__(self, source: Source) -> None:
        self.data: dict[str, Any] = {}
        self.lines: Lines = {}
        self.touched: dict[Where, str] = {}
        self._source = source

    def add(self, part: Mapping[str, Any], where: Where) -> None:
        """Sections over those that are there; an adapter with a type of its own replaces another as a whole."""
        for section, values in part.items():
            if section not in (*SECTIONS, "tapt") or values is None:  # seeds of a protocol
                continue
            before = self.data.get(section, default_peft().peft if section == "peft" else {})
            whole = section == "peft" and "peft_type" in values
            self.data[section] = dict(values) if whole else {**before, **values}
            for key in values:
                self.follow((*where, section, key), (section, key))
            self.follow((*where, section), (section,), inside=False)

    def follow(self, source: Where, target: Where, *, inside: bool = True) -> None:
        """What stands at `source` in the file is at `target` in the run."""
        self.lines |= _moved(self._source.lines, source, target, inside)
        self.touched |= _moved(self._source.touched, source, target, inside)

    def with_row(
        self, row: Row, changes: _Changes, values: Mapping[str, Any], known: set[str]
    ) -> tuple[_Draft, list[str]]:
        """The draft of one row's run, and what is wrong with its values and its adapter."""
        draft, said = _Draft(self._source), []
        draft.data, draft.lines, draft.touched = dict(self.data), dict(self.lines), dict(self.touched)
        try:
            draft.add(filled(changes.sections, values, known), changes.where)
            draft.data["strategies"] = [filled(changes.strategy, values, known)]
            peft = draft.data.get("peft")
            said = _refused(json.dumps(peft, sort_keys=True, default=str)) if peft else []
            said = said + _unresolved(draft.data["strategies"][0])
        except ConfigError as error:
            said = [str(error)]
            draft.data["strategies"] = ["random"]
        draft.follow(changes.strategy_where, ("strategies", 0))
        line = self._source.lines.get(changes.where)
        place = self._source.name + (f" line {line}" if line else "")
        return draft, [f"{place}: {row.peft or row.name}: {problem}" for problem in said]

    def parsed(self, **more: Any) -> RunConfig:
        """The configuration. Raises ConfigError with the lines of the study's file."""
        return configs.parse({**self.data, **more}, self._source.name, self.lines, self.touched)


@cache
def _refused(peft: str) -> list[str]:
    """What PEFT has against an adapter, given as JSON, asked before anything is trained."""
    from guidestar.model import adapters

    try:
        adapters.make_config(json.loads(peft))
    except ConfigError as error:
        return str(error).splitlines()
    return []


def _unresolved(strategy: Mapping[str, Any]) -> list[str]:
    """Why a strategy's names cannot be found; what else is wrong with it is said when the run's configuration is read."""
    try:
        strategies.resolve(StrategyConfig.model_validate(dict(strategy)))
    except ConfigError as error:
        return [str(error)]
    except ValueError:
        pass
    return []


def _moved(places: Mapping[Where, Place], source: Where, target: Where, inside: bool) -> dict[Where, Place]:
    """The places at `source`, and of what is inside it, as places at `target`."""
    n = len(source)
    there = {path: place for path, place in places.items() if path[:n] == source and (inside or len(path) == n)}
    return {(*target, *path[n:]): place for path, place in there.items()}


def _of_dataset(part: DatasetPart, folder: str | None) -> dict[str, Any]:
    """A dataset's sections; a preset that is named alone gets its folder in `folder`."""
    sections = part.model_dump(include={*SECTIONS}, exclude_unset=True)
    data = dict(part.data)
    if "pool" not in data:
        data.setdefault("preset", part.name)
        if folder is not None and "folder" not in data:
            data["folder"] = dataset_folder(Path(folder), str(data["preset"]))
    return {**sections, "data": data}


def dataset_folder(data: Path, dataset: str) -> str:
    """Where a dataset's files lie in `data`. Raises ConfigError naming where they were looked for."""
    name = FOLDERS.get(dataset, dataset)
    places = [data / "star" / name, data / "text" / name, data / name]
    for place in places:
        if all((place / PRESETS[dataset].files[split]).is_file() for split in ("pool", "test")):
            return str(place)
    files = " and ".join(PRESETS[dataset].files[split] for split in ("pool", "test"))
    raise ConfigError(f"{data}: no {files} of {dataset}; looked in {', '.join(map(str, places))}")


def identity(config: RunConfig) -> str:
    """Equal for configurations that differ in seed, folder and the strategy's name alone."""
    return fingerprint({"key": config.key(), "recipe": recipe(config)})


def training_name(plain: Mapping[str, Any], config: RunConfig) -> str:
    """A folder's name for all that is alike but the strategy: what a row changes of the other keys.

    plain: `RunConfig.key` of the same run without the row.
    """
    now = config.key()
    changed = {key: now.get(key) for key in sorted({*plain, *now}) if plain.get(key) != now.get(key)}
    name = "+".join(f"{key.rpartition('.')[2]}-{value}" for key, value in changed.items())
    if not re.fullmatch(r"[A-Za-z0-9_.+-]{0,60}", name):
        return f"changed-{fingerprint(changed)[:12]}"
    return name or "plain"
