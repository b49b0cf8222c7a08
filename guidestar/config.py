"""The configuration of a run: one strict YAML file, every problem reported at once.

`load` reads YAML safely (no aliases, no tags, no duplicate keys, YAML 1.2 booleans and numbers, so that
the labels `yes` and `no` stay words and `5e-4` is a number) and gives a `RunConfig`. The descriptions
below are the config reference of the documentation.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from guidestar.errors import ConfigError, allowed


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class DataConfig(_Section):
    """Where the examples are and how a row becomes a prompt and an answer."""

    preset: str | None = Field(None, description="Fill the keys below for a known dataset; see `guidestar presets`.")
    folder: str | None = Field(None, description="Folder with a preset's files; without it the hub is asked.")
    pool: str | None = Field(
        None,
        description="The pool: a .jsonl, .csv or .parquet file, a folder of `datasets`, or `hub:OWNER/NAME[:CONFIG][@SPLIT]`.",
    )
    test: str | None = Field(None, description="The test set, in the same forms. It is used for nothing but the curve.")
    validation: str | None = Field(None, description="A validation set, in the same forms; for early stopping.")
    test_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Without a test file: the random share of the pool set aside as test set.",
    )
    header: list[str] | None = Field(None, description="Column names of CSV files that have no header line.")
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="Names used in the template -> column names of the files, where they differ.",
    )
    answer: str | None = Field(
        None, description="The column with the gold answer. Without it nothing can be simulated."
    )
    template: str | None = Field(
        None, description="The prompt, with {column} fields, for example 'Question: {text}\\nType:'."
    )
    response: str = Field(
        "{answer}", description="What the model is taught to write; {answer} stands for the answer (word)."
    )
    pool_limit: int | None = Field(
        None, ge=1, description="Use only this many pool rows, drawn at random by the data seed."
    )
    test_limit: int | None = Field(None, ge=1, description="Use only this many test rows, likewise.")
    validation_limit: int | None = Field(None, ge=1, description="Use only this many validation rows, likewise.")
    duplicates: Literal["drop", "keep", "error"] = Field(
        "drop",
        description="Pool rows with the same content, and pool rows that also stand in the test or validation set.",
    )
    too_long: Literal["error", "drop"] = Field(
        "error", description="What to do with a prompt that does not fit the model's context."
    )
    seed: int = Field(0, ge=0, description="Seed of the splits and limits; the same for every run seed.")

    @field_validator("response")
    @classmethod
    def _has_answer(cls, value: str) -> str:
        if value.count("{answer}") != 1:
            raise ValueError("must contain {answer} exactly once")
        return value


class TaskConfig(_Section):
    """What an answer is."""

    kind: Literal["choice", "number", "text"] | None = Field(
        None,
        description="choice: one of some labels; number: a final number after a worked answer; text: normalised exact match.",
    )
    labels: list[str] | dict[str, str] | None = Field(
        None,
        description="The labels, or label -> the word the model writes for it. Without it, the labels found in the pool.",
    )
    scoring: Literal["first_token", "sequence"] = Field(
        "first_token",
        description="How label words are scored: by the first token in which they differ (one pass; refused where "
        "two words share it) or as whole token sequences (one pass a label).",
    )
    max_new_tokens: int | None = Field(
        None,
        ge=1,
        description="Limit of generated responses in tokens; default 16 for choice, 256 for number, 64 for text.",
    )
    marker: str = Field("####", description="number: what stands before the final number in a worked answer.")


class ModelConfig(_Section):
    """The base model."""

    name: str = Field(
        "smollm2-135m",
        description="A name of `guidestar models`, a folder, a .gguf file, or a hub name. Safetensors only.",
    )
    revision: str | None = Field(None, description="A pinned hub revision (40 hex digits when remote_code is on).")
    remote_code: bool = Field(
        False,
        description="Run Python code that the model's repository carries. Needs a pinned revision. Off unless you trust it.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: bfloat16 where the processor has it, else float32."
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1 or mps.")
    max_length: int | None = Field(None, ge=8, description="Context limit in tokens; default: the model's own.")
    chat: bool = Field(False, description="Wrap the prompt in the tokenizer's chat template.")
    batch_tokens: int = Field(
        2048,
        ge=16,
        description="Padded tokens in one batch when scoring and evaluating; lower it when memory is short.",
    )


class QueryConfig(_Section):
    """How many labels are asked for, and when."""

    warm_start: int = Field(
        100, ge=1, description="Labels of round 0, drawn at random: the same for every strategy of a seed."
    )
    batch: int = Field(50, ge=1, description="Labels asked for in every further round.")
    budget: int = Field(400, ge=1, description="Labels in all, the warm start included.")
    candidates: int | None = Field(
        None,
        ge=1,
        description="Score only a random subset of the pool of this size each round; default: the whole pool.",
    )
    random_share: float = Field(
        0.0, ge=0, lt=1, description="Share of every batch drawn at random from the candidates."
    )

    @property
    def rounds(self) -> int:
        """Points of the learning curve: the warm start and every further batch, the last one maybe smaller."""
        return 1 + -(-(self.budget - self.warm_start) // self.batch)


class MixConfig(_Section):
    """STAR's dynamic uncertainty, μ = λ(t) μ_base + (1 − λ(t)) μ_full (eq. 5)."""

    schedule: Literal["linear", "cosine", "exponential", "constant"] = Field(
        "linear", description="How λ falls with the rounds; linear is 1 − (t+1)/T as in the published code."
    )
    scale: Literal["raw", "minmax", "rank"] = Field(
        "raw",
        description="What base and full uncertainties are brought to before the mix; raw is the paper's.",
    )
    value: float = Field(0.5, ge=0, le=1, description="λ of the constant schedule.")
    rate: float = Field(3.0, gt=0, description="Decay of the exponential schedule: λ = exp(−rate (t+1)/T).")


class StrategyConfig(_Section):
    """A query strategy: a name of `guidestar strategies`, and what differs from it."""

    use: str = Field(description="The strategy this one is made from; see `guidestar strategies`.")
    name: str | None = Field(None, description="The name in folders and reports; default: the value of `use`.")
    measure: str | None = Field(
        None, description="The uncertainty measure; auto is entropy for a choice, else response_entropy."
    )
    passes: int | None = Field(
        None,
        ge=0,
        le=1000,
        description="K Monte-Carlo passes with the adapter's dropout on; 0 is one plain pass.",
    )
    mix: MixConfig | Literal["none"] | None = Field(
        None, description="Mix base and full uncertainty (STAR); none switches it off."
    )
    clip_outliers: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Leave out this share of the candidates, those that score highest, as likely noise.",
    )
    near_duplicates: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Leave out candidates with a (centred) cosine similarity of at least this to one that scores higher.",
    )
    prefilter: float | None = Field(
        None, ge=1, description="Keep the batch size times this many of the highest scores for the selector."
    )
    select: Literal["top", "k_center", "k_means", "random"] | None = Field(
        None, description="How the batch is drawn from what is left."
    )
    balance: bool | None = Field(None, description="Fill the batch by predicted class, rarest labelled class first.")

    @property
    def title(self) -> str:
        """The name used for folders and legends."""
        return self.name or self.use

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,60}", value):
            raise ValueError("must be letters, digits and . _ + - only, at most 61 of them")
        return value


class TrainConfig(_Section):
    """Fine-tuning of one round. The same for every strategy, so that only the picks differ."""

    epochs: int = Field(6, ge=1, description="Passes over the labelled examples.")
    batch_size: int = Field(8, ge=1, description="Examples of one optimiser step.")
    micro_batch_size: int | None = Field(
        None,
        ge=1,
        description="Examples of one forward pass; gradients are summed up to batch_size. Default: batch_size.",
    )
    learning_rate: float = Field(5e-4, gt=0, description="Peak learning rate of AdamW.")
    warmup: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share of the steps with a rising learning rate; it falls linearly to 0 after.",
    )
    clip: float = Field(1.0, gt=0, description="Largest norm of the gradient.")
    b_decay: float = Field(
        0.5,
        ge=0,
        description="β of STAR's eq. 6: decoupled decay of the tensors that start as constants (LoRA's B) to their start.",
    )
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay of the other adapter tensors.")
    start: Literal["base", "previous"] = Field(
        "base", description="Where each round starts: a fresh adapter, or the last one."
    )
    patience: int = Field(
        0,
        ge=0,
        description="Stop after this many epochs without a lower validation loss and keep the best; 0 trains to the end.",
    )


class RunConfig(_Section):
    """Everything a run depends on."""

    out: str = Field("runs/guidestar", description="The folder to write to.")
    seeds: list[int] = Field(
        default_factory=lambda: [0], min_length=1, description="One run for each seed and strategy."
    )
    strategies: list[StrategyConfig] = Field(
        default_factory=lambda: [StrategyConfig(use="star"), StrategyConfig(use="random")],
        min_length=1,
        description="Strategies to run; random is the control. A name, or a mapping with `use` and what differs.",
    )
    data: DataConfig = Field(default_factory=DataConfig)
    task: TaskConfig = Field(default_factory=TaskConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    peft: dict[str, Any] = Field(
        default_factory=lambda: {
            "peft_type": "LORA", "r": 16, "lora_alpha": 32, "lora_dropout": 0.1, "target_modules": "all-linear",
        },
        description="The adapter, by PEFT's own keys.",
    )  # fmt: skip
    query: QueryConfig = Field(default_factory=QueryConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)

    @field_validator("strategies", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        if isinstance(value, list):
            return [{"use": item} if isinstance(item, str) else item for item in value]
        return value

    @model_validator(mode="after")
    def _possible(self) -> RunConfig:
        problems: list[tuple[str, str]] = []
        data, query = self.data, self.query
        if not data.preset:
            problems += [
                (f"data.{key}", "is missing; give it, or a `preset`")
                for key in ("pool", "template")
                if getattr(data, key) is None
            ]
            if self.task.kind is None:
                problems.append(("task.kind", "is missing; allowed: choice, number, text"))
        if query.budget < query.warm_start:
            problems.append(("query.budget", f"is {query.budget}, below query.warm_start {query.warm_start}"))
        if self.train.patience and not data.validation and not data.preset:
            problems.append(
                (
                    "train.patience",
                    "needs a validation set, because the test set chooses nothing: give data.validation",
                )
            )
        if self.model.remote_code and not re.fullmatch(r"[0-9a-f]{40}", self.model.revision or ""):
            problems.append(("model.remote_code", "needs model.revision pinned to a commit of 40 hex digits"))
        micro = self.train.micro_batch_size
        if micro and self.train.batch_size % micro:
            problems.append(
                (
                    "train.micro_batch_size",
                    f"is {micro}, which does not divide batch_size {self.train.batch_size}",
                )
            )
        titles = [s.title for s in self.strategies]
        problems += [
            ("strategies", f"has two strategies called {t!r}; give one a `name`")
            for t in sorted({t for t in titles if titles.count(t) > 1})
        ]
        if len(set(self.seeds)) != len(self.seeds):
            problems.append(("seeds", "has the same seed twice"))
        if problems:
            raise _Problems(problems)
        return self

    def plain(self) -> dict[str, Any]:
        """The configuration as JSON-able data, defaults filled in."""
        return self.model_dump(mode="json")

    def key(self) -> dict[str, Any]:
        """What all runs of a configuration share and what must stay the same for one to be continued:
        everything but the places files lie in (their content is hashed), strategies and seeds.

        Returns a flat mapping, "train.epochs" -> 6, so that a difference can be named.
        """
        plain = self.plain()
        for name in ("out", "seeds", "strategies"):
            plain.pop(name)
        for name in ("folder", "pool", "test", "validation"):
            plain["data"].pop(name)
        return flat(plain)


class _Problems(ValueError):
    """Several problems of one validation, each with its place."""

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        self.problems = list(problems)
        super().__init__("; ".join(f"{where} {what}" for where, what in problems))


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level with dotted names.

    >>> flat({"train": {"epochs": 6}, "seed": 0})
    {'train.epochs': 6, 'seed': 0}
    """
    return dict(_flat(value, prefix))


def _flat(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _flat(item, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, value


def fingerprint(value: Any) -> str:
    """SHA-256 (hex) of JSON-able data, independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


# --- YAML ---------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's booleans and floats: `no` is a word, `5e-4` is a number."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith((":bool", ":float", ":timestamp"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)

Lines = dict[tuple[str | int, ...], int]


def read_yaml(text: str, name: str) -> tuple[Any, Lines]:
    """Data of a YAML text and the line (from 1) of every key and item.

    Raises ConfigError for a syntax error, an alias, a tag or a duplicate key.
    """
    problems: list[str] = []
    try:
        for event in yaml.parse(text, Loader=_Loader):
            line = event.start_mark.line + 1 if event.start_mark else 0
            if isinstance(event, yaml.AliasEvent):
                problems.append(
                    f"{name} line {line}: found the alias *{event.anchor}; aliases are not allowed, write the value out"
                )
            elif isinstance(event, yaml.NodeEvent) and getattr(event, "tag", None):
                problems.append(f"{name} line {line}: found the tag {getattr(event, 'tag', '')}; tags are not allowed")
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


def _walk(node: yaml.Node, path: tuple[str | int, ...], lines: Lines, problems: list[str], name: str) -> None:
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


def load(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file; `overrides` are `key.sub=value` texts, their values read as YAML.

    Relative paths in the file are taken from the file's own folder, those in overrides from the current
    one. Raises ConfigError with one line for each problem.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text at byte {error.start}") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    data, lines = read_yaml(text, str(path))
    if not isinstance(data, dict):
        raise ConfigError(f"{path} line 1: found {type(data).__name__}, expected `key: value` lines")
    _rebase(data, path.parent)
    touched: dict[tuple[str | int, ...], str] = {}
    for item in overrides:
        key, sign, value = item.partition("=")
        if not sign or not key:
            raise ConfigError(f"command line: {item!r} is not of the form key.sub=value")
        parsed, _ = read_yaml(value, f"command line: {key}")
        _assign(data, key, None if value == "" else parsed)
        touched[tuple(key.split("."))] = f"command line: {key}"
    return parse(data, str(path), lines, touched)


def parse(
    data: Mapping[str, Any],
    name: str = "config",
    lines: Mapping[tuple[str | int, ...], int] | None = None,
    touched: Mapping[tuple[str | int, ...], str] | None = None,
) -> RunConfig:
    """Check plain data. Raises ConfigError that names every problem, its place and what is allowed."""
    try:
        return RunConfig.model_validate(dict(data))
    except ValidationError as error:
        lines, touched = lines or {}, touched or {}
        details = error.errors()
        messages = [m for detail in details for m in _explain(detail, name, lines, touched)]
        messages += _impossible(data, details, name, lines, touched)
        raise ConfigError("\n".join(dict.fromkeys(messages))) from None


def _impossible(data: Mapping[str, Any], details: Sequence[Any], name: str, lines: Any, touched: Any) -> list[str]:
    """Impossible combinations among the keys that are well-formed, so that they too are named at once."""
    rest = json.loads(json.dumps(dict(data), default=str))
    wrong = [tuple(p for p in d["loc"] if not _is_branch(p)) for d in details]
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
        found = [m for d in second.errors() if d["loc"] == () for m in _explain(d, name, lines, touched)]
        return [m for m in found if not any(path and str(path[-1]) in m for path in wrong)]
    return []


def _explain(detail: Any, name: str, lines: Any, touched: Any) -> Iterator[str]:
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, _Problems):
        for where, what in cause.problems:
            yield f"{_place(tuple(where.split('.')), name, lines, touched)}: {where} {what}"
        return
    path = tuple(p for p in detail["loc"] if not _is_branch(p))
    dotted = ".".join(map(str, path))
    kind, found = detail["type"], detail.get("input")
    place = _place(path, name, lines, touched)
    if kind == "extra_forbidden":
        section = ".".join(str(p) for p in path[:-1]) or "the top level"
        yield f"{place}: unknown key {path[-1]!r} in {section}; {allowed(_fields_at(path[:-1]), path[-1])}"
    elif kind == "missing":
        yield f"{place}: {dotted} is missing"
    elif kind == "literal_error":
        options = [o.strip(" '") for o in re.split(r",| or ", detail["ctx"]["expected"])]
        yield f"{place}: {dotted} is {found!r}; {allowed(options, found)}"
    else:
        shown = repr(found) if len(repr(found)) < 60 else type(found).__name__
        message = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        yield f"{place}: {dotted} is {shown}; allowed: {message}"


def _is_branch(part: object) -> bool:
    """Names pydantic adds to a place for the branches of a union; they are no keys of the file."""
    return isinstance(part, str) and (
        part in {"list[str]", "MixConfig", "dict[str,str]"} or part.startswith(("literal[", "function-"))
    )


def _fields_at(path: tuple[Any, ...]) -> list[str]:
    model: Any = RunConfig
    for part in path:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        model = next((m for m in _models_in(annotation)), model)
    return list(model.model_fields)


def _models_in(annotation: Any) -> Iterator[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _models_in(inner)


def _place(path: tuple[Any, ...], name: str, lines: Any, touched: Any) -> str:
    for end in range(len(path), -1, -1):
        if path[:end] in touched:
            return str(touched[path[:end]])
        if end and path[:end] in lines:
            return f"{name} line {lines[path[:end]]}"
    return name


def _assign(data: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    here = data
    for part in parents:
        inner = here.get(part)
        if not isinstance(inner, dict):
            inner = here[part] = {}
        here = inner
    here[last] = value


def _rebase(data: dict[str, Any], folder: Path) -> None:
    """Make relative local paths of a file relative to the current folder."""
    section = data.get("data")
    if isinstance(section, dict):
        for key in ("folder", "pool", "test", "validation"):
            value = section.get(key)
            if isinstance(value, str) and not value.startswith("hub:"):
                section[key] = str(folder / Path(value).expanduser())
    model = data.get("model")
    if isinstance(model, dict) and isinstance(model.get("name"), str) and model["name"].startswith((".", "~")):
        model["name"] = str(folder / Path(model["name"]).expanduser())
    if isinstance(data.get("out"), str):
        data["out"] = str(folder / Path(data["out"]).expanduser())


def reference() -> str:
    """The config reference as Markdown, generated from the models above."""
    parts = [
        "# Configuration",
        "",
        "Generated from `guidestar/config.py` by `python -m guidestar.config`.",
        "",
    ]
    sections: list[tuple[str, Any]] = [("Top level", RunConfig)]
    for key, info in RunConfig.model_fields.items():
        sections += [(f"`{key}`", m) for m in _models_in(info.annotation)]
    sections.append(("`strategies[].mix`", MixConfig))
    for title, model in sections:
        parts += [
            f"## {title}",
            "",
            (model.__doc__ or "").strip(),
            "",
            "| key | values | default | what |",
            "|---|---|---|---|",
        ]
        for key, info in model.model_fields.items():
            if any(True for _ in _models_in(info.annotation)) and model is RunConfig and key != "strategies":
                continue
            default = "required" if info.is_required() else _shown(info.get_default(call_default_factory=True))
            values = (
                re.sub(r"typing\.|guidestar\.config\.", "", str(info.annotation))
                if not isinstance(info.annotation, type)
                else info.annotation.__name__
            )
            values = values.replace(" | None", "").replace("|", "\\|")
            parts.append(f"| `{key}` | {values} | {default} | {(info.description or '').replace('|', chr(92) + '|')} |")
        parts.append("")
    return "\n".join(parts)


def _shown(default: Any) -> str:
    if default is None:
        return "–"
    if isinstance(default, list) and default and isinstance(default[0], StrategyConfig):
        default = [s.use for s in default]
    return f"`{json.dumps(default)}`"


if __name__ == "__main__":
    print(reference())
