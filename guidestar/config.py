"""The configuration of a run: one strict YAML file, every problem reported at once.

`load` reads YAML safely (no aliases, no tags, no duplicate keys, YAML 1.2 booleans and numbers, so that
the labels `yes` and `no` stay words and `5e-4` is a number) and gives a `RunConfig` (see `schema`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from guidestar.errors import ConfigError, StoreError, allowed
from guidestar.schema import (
    CostConfig,
    DataConfig,
    EndpointConfig,
    ModelConfig,
    PeopleConfig,
    Problems,
    RunConfig,
    StopConfig,
    TaskConfig,
    fingerprint,
    flat,
    shared_keys,
)
from guidestar.sections import MixConfig, QueryConfig, StrategyConfig, TaptConfig, TrainConfig
from guidestar.words import shortened

__all__ = [
    "CONFIG_FILE", "CostConfig", "DataConfig", "EndpointConfig", "MixConfig", "ModelConfig", "PeopleConfig",
    "QueryConfig", "RunConfig", "StopConfig", "StrategyConfig", "TaptConfig", "TaskConfig", "TrainConfig",
    "fingerprint", "flat", "kept_in", "load", "models_in", "parse", "read_yaml", "shared_keys",
]  # fmt: skip

CONFIG_FILE = "config.yaml"  # the copy of the configuration in the folder of an experiment


MOST_DIGITS = 300  # of a whole number
LONGEST = 2_000_000  # characters of a file
DEEPEST = 50


# --- YAML ---------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's booleans and numbers, and without `<<`: `no` and `1:30` are words, `5e-4` is a
    number, and `010` is ten."""


_OTHERWISE = (":bool", ":float", ":int", ":timestamp", ":merge")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith(_OTHERWISE)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _Dumper(yaml.SafeDumper):
    """SafeDumper that puts in quotes what looks like a number to `_Loader` too: the labels "08" and "1e5"."""

    def ignore_aliases(self, data: Any) -> bool:
        return True  # which `_Loader` refuses


for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789"))
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$"),
        list("-+.0123456789"),
    )


def _whole(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    if len(node.value) > MOST_DIGITS:
        raise yaml.constructor.ConstructorError(
            None, None, f"a number of {len(node.value)} digits; allowed: up to {MOST_DIGITS}", node.start_mark
        )
    return int(node.value)


_TRUTH = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
_Loader.add_constructor("tag:yaml.org,2002:int", _whole)
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", _TRUTH, list("tTfF"))

Place = tuple[str | int, ...]  # of a value: the keys and items that lead to it
Lines = dict[Place, int]
Touched = Mapping[Place, str]  # what the command line says otherwise -> how that is called


def dump_yaml(data: Mapping[str, Any]) -> str:
    """JSON-able data as YAML that `read_yaml` reads back the same."""
    return str(yaml.dump(dict(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True))


def read_yaml(text: str, name: str) -> tuple[Any, Lines]:
    """Data of a YAML text and the line (from 1) of every key and item.

    Raises ConfigError for a syntax error, an alias, a tag or a duplicate key.
    """
    problems: list[str] = []
    depth = 0
    if len(text) > LONGEST:
        raise ConfigError(f"{name}: has {len(text)} characters; allowed: up to {LONGEST}")
    try:
        for event in yaml.parse(text, Loader=_Loader):
            at = f"{name} line {event.start_mark.line + 1 if event.start_mark else 0}"
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise ConfigError(f"{at}: nested more than {DEEPEST} deep; nothing here is")
            if isinstance(event, yaml.AliasEvent):
                problems.append(f"{at}: found the alias *{event.anchor}; aliases are not allowed, write the value out")
            elif isinstance(event, yaml.ScalarEvent) and re.search("[\0\ud800-\udfff]", event.value):
                problems.append(f"{at}: holds NUL or half of a character, which nothing here can be")
            elif isinstance(event, yaml.NodeEvent) and getattr(event, "tag", None):
                problems.append(f"{at}: found the tag {getattr(event, 'tag', '')}; tags are not allowed")
        if problems:
            raise ConfigError("\n".join(problems))
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            lines: Lines = {}
            if node is not None:
                _walk(node, (), lines, problems, name)
            if problems:
                raise ConfigError("\n".join(problems))
            return (loader.construct_document(node) if node is not None else {}), lines
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{name}{where}: not valid YAML: {what}") from error


def _walk(node: yaml.Node, path: Place, lines: Lines, problems: list[str], name: str) -> None:
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line, word = key.start_mark.line + 1, str(key.value)
            if word in seen:
                problems.append(
                    f"{name} line {line}: the key {word!r} stands here and on line {seen[word]}; once is allowed"
                )
            seen[word] = line
            lines[(*path, word)] = line
            _walk(value, (*path, word), lines, problems, name)
    elif isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            lines[(*path, i)] = item.start_mark.line + 1
            _walk(item, (*path, i), lines, problems, name)


# --- loading ------------------------------------------------------------------------------------


def names_file(path: Path) -> bool:
    """Whether a path that a user gives is meant to be a file's: there is one, or there is nothing and the name has an ending."""
    return path.is_file() or (bool(path.suffix) and not path.exists())


def load(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file, or the copy beside the run of a folder; `overrides` are `key.sub=value` texts, their values YAML.

    Relative paths in the file are taken from the file's own folder, those in overrides from the current
    one. Raises ConfigError with one line for each problem, StoreError for a folder that is not there.
    """
    if not isinstance(path, (str, Path)) or not str(path):
        raise ConfigError(f"expected a configuration's file or the folder of a run; found {shortened(repr(path), 60)}")
    path = Path(path)
    if path.is_dir():
        if (kept := kept_in(path)) is None:
            raise ConfigError(
                f"{path}: found no {CONFIG_FILE} in it or in the folder above it, which would say where data and model are"
            )
        path = kept
    elif not names_file(path):
        raise StoreError(f"{path}: no such folder")
    data, lines = read_file(path)
    rebase(data, path.parent)
    touched = override(data, overrides)
    return parse(data, str(path), lines, touched)


def kept_in(folder: Path) -> Path | None:
    """The copy of the configuration in an experiment folder, or above a run folder; None if there is none."""
    places = (folder / CONFIG_FILE, folder.absolute().parent / CONFIG_FILE)
    return next((place for place in places if place.is_file()), None)


# What people give where a configuration is wanted.
_DATA = (".csv", ".tsv", ".jsonl", ".txt", ".parquet", ".gz", ".xlsx", ".xls", ".ods")


def read_file(path: Path) -> tuple[dict[str, Any], Lines]:
    """The keys of a YAML file and their lines. Raises ConfigError if it cannot be read or holds something else."""
    holds_data = f"{path}: holds data; `guidestar init {path}` writes a configuration for it"
    if path.suffix.lower() in _DATA and path.is_file():
        raise ConfigError(holds_data)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text at byte {error.start}") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    data, lines = read_yaml(text, str(path))
    if isinstance(data, list) and path.suffix.lower() == ".json":  # a configuration may be JSON, but no array
        raise ConfigError(holds_data)
    if not isinstance(data, dict):
        raise ConfigError(f"{path} line 1: found {type(data).__name__}, expected `key: value` lines")
    return data, lines


DATA_PLACES = ("folder", "pool", "test", "validation")  # keys of `data` that name files, or data elsewhere
PATHS = {"": ("out",), "data": DATA_PLACES, "model": ("name",), "people": ("guidelines",)}


def is_local(place: Any) -> bool:
    """Whether a value of `DATA_PLACES` is a path on this machine."""
    return isinstance(place, str) and not place.startswith(("hub:", "demo:"))


def with_absolute_places(data: Mapping[str, Any]) -> dict[str, Any]:
    """A section `data` whose paths mean the same from every folder."""
    local = {key: str(Path(data[key]).absolute()) for key in DATA_PLACES if is_local(data.get(key))}
    return dict(data) | local


def override(data: dict[str, Any], overrides: Sequence[str]) -> dict[Place, str]:
    """Put `key.sub=value` texts into the data, and the home folder for ~ in every path; returns where they came from.

    Raises ConfigError for another form.
    """
    touched: dict[Place, str] = {}
    for item in overrides:
        key, sign, value = item.partition("=")
        if not sign or not key:
            raise ConfigError(f"command line: {item!r} is not of the form key.sub=value")
        parsed, _ = read_yaml(value, f"command line: {key}")
        if key.startswith("peft.") and "peft" not in data:  # the default adapter with one thing changed
            data["peft"] = RunConfig.model_fields["peft"].get_default(call_default_factory=True)
        _assign(data, key, None if value == "" else parsed)
        touched[tuple(key.split("."))] = f"command line: {key}"
    for section, names in PATHS.items():
        here = data.get(section) if section else data
        for name in names:
            if isinstance(here, dict) and str(here.get(name)).startswith("~"):
                here[name] = str(Path(here[name]).expanduser())
    return touched


def parse(
    data: Mapping[str, Any], name: str = "config", lines: Lines | None = None, touched: Touched | None = None
) -> RunConfig:
    """Check plain data. Raises ConfigError that names every problem, its place and what is allowed."""
    try:
        return RunConfig.model_validate(dict(data))
    except ValidationError as error:
        lines, touched = lines or {}, touched or {}
        messages = explain(error, name, lines, touched)
        messages += _impossible(data, error.errors(), name, lines, touched)
        raise ConfigError("\n".join(dict.fromkeys(messages))) from None


def explain(
    error: ValidationError, name: str, lines: Lines, touched: Touched, model: type[BaseModel] = RunConfig
) -> list[str]:
    """A line for each problem: its place, what was found, what is allowed. model: what was validated."""
    return [m for detail in _innermost(error.errors()) for m in _explain(detail, name, lines, touched, model)]


def _impossible(data: Mapping[str, Any], details: Sequence[Any], name: str, lines: Any, touched: Any) -> list[str]:
    """Impossible combinations among the keys that are well-formed, so that they too are named at once."""
    rest = json.loads(json.dumps(dict(data), default=str))
    wrong = [_path(detail) for detail in details]
    if not any(wrong):  # the combinations are what was just reported
        return []
    for path in wrong:
        here: Any = rest
        for part in path[:-1]:
            here = here[part] if isinstance(here, list) or (isinstance(here, dict) and part in here) else {}
        if isinstance(here, dict):
            here.pop(path[-1], None)
        elif isinstance(here, list) and isinstance(path[-1], int):
            here[path[-1]] = {"use": "random", "name": f"unreadable-{path[-1]}"}
    try:
        RunConfig.model_validate(rest)
    except ValidationError as second:
        messages = [m for d in second.errors() if d["loc"] == () for m in _explain(d, name, lines, touched)]
        return [m for m in messages if not any(path and str(path[-1]) in m for path in wrong)]
    return []


def _innermost(details: Sequence[Any]) -> list[Any]:
    """Without what the other branches of a union say about a value that one branch found fault inside of."""
    paths = [_path(detail) for detail in details]
    return [
        detail
        for detail, path in zip(details, paths, strict=True)
        if not any(len(other) > len(path) > 0 and other[: len(path)] == path for other in paths)
    ]


def _explain(detail: Any, name: str, lines: Any, touched: Any, model: type[BaseModel] = RunConfig) -> Iterator[str]:
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, Problems):
        for where, what in cause.problems:
            path = tuple(int(part) if part.isdigit() else part for part in where.split("."))
            yield f"{_named(_place(path, name, lines, touched), where)} {what}"
        return
    path = _path(detail)
    kind, given = detail["type"], detail.get("input")
    if path[-1:] == ("[key]",):
        path, kind = path[:-2], "key_type"
    dotted = ".".join(map(str, path))
    place = _place(path, name, lines, touched)
    if kind == "extra_forbidden":
        section = ".".join(str(p) for p in path[:-1]) or "the top level"
        yield f"{place}: unknown key {path[-1]!r} in {section}; {allowed(_fields_at(path[:-1], model), path[-1])}"
    elif kind == "missing":
        yield f"{_named(place, dotted)} is missing"
    elif kind == "literal_error":
        options = [o.strip(" '") for o in re.split(r",| or ", detail["ctx"]["expected"])]
        yield f"{_named(place, dotted)} is {given!r}; {allowed(options, given)}"
    elif kind in ("key_type", "invalid_key"):
        within = dotted if kind == "key_type" else "the top level"
        yield f"{_named(place, within)} has the key {given!r}; allowed: text, so put it in quotes"
    else:
        shown = "empty" if given is None else repr(given) if len(repr(given)) < 60 else type(given).__name__
        message = _WORDS.get(kind) or detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        if kind == "string_type" and isinstance(given, (int, float)):
            message += ", so put it in quotes"
        yield f"{_named(place, dotted)} is {shown}; allowed: {message}"


_WORDS = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list, [a, b]",
    "dict_type": "keys and values, {key: value}",
    "model_type": "keys and values, {key: value}",
    "too_short": "at least one item",
}


def _path(detail: Any) -> tuple[Any, ...]:
    """Where in the file an error lies, without the names that pydantic adds for the branches of a union."""
    branch = re.compile(r"list\[str\]|MixConfig|dict\[str,str\]|literal\[.*|function-.*", re.DOTALL)
    return tuple(part for part in detail["loc"] if not (isinstance(part, str) and branch.fullmatch(part)))


def _fields_at(path: tuple[Any, ...], model: Any) -> list[str]:
    for part in (part for part in path if not isinstance(part, int)):
        model = next(models_in(model.model_fields[part].annotation), model)
    return list(model.model_fields)


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The sections that a field's type names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from models_in(inner)


def _named(place: str, key: str) -> str:
    """The place and the key at it, once where the place is that key of the command line."""
    return place if place == f"command line: {key}" else f"{place}: {key}"


def _place(path: tuple[Any, ...], name: str, lines: Any, touched: Any) -> str:
    for end in range(len(path), -1, -1):
        if path[:end] in touched:
            return str(touched[path[:end]])
        if end and path[:end] in lines:
            return f"{name} line {lines[path[:end]]}"
    inside = (place for key, place in touched.items() if path and key[: len(path)] == path)
    return str(next(inside, name))  # an override may have made the section itself


def _assign(data: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    here = data
    for part in parents:
        inner = here.get(part)
        if not isinstance(inner, dict):
            inner = here[part] = {}
        here = inner
    here[last] = value


def rebase(data: dict[str, Any], folder: Path) -> None:
    """Make relative local paths of a file in `folder` relative to the current folder."""
    section = data.get("data")
    if isinstance(section, dict):
        for key in filter(lambda key: is_local(section.get(key)), DATA_PLACES):
            section[key] = str(folder / Path(section[key]).expanduser())
    model = data.get("model")
    if isinstance(model, dict) and isinstance(model.get("name"), str) and model["name"]:
        path = folder / Path(model["name"]).expanduser()
        if model["name"].startswith((".", "~")) or path.suffix == ".gguf" or path.is_dir():  # else a name
            model["name"] = str(path)
    if isinstance(data.get("out"), str):
        data["out"] = str(folder / Path(data["out"]).expanduser())
