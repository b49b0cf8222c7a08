"""The sections of a run's configuration. Their descriptions are the config reference of the documentation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from guidestar.errors import allowed
from guidestar.sections import (
    EngineConfig,
    Problems,
    QueryConfig,
    Section,
    StrategyConfig,
    TaptConfig,
    TrainConfig,
    impossible,
)
from guidestar.tasks import TASKS


class DataConfig(Section):
    """Where the examples are and how a row becomes a prompt and an answer."""

    newer = frozenset({"encoding", "cut", "id", "messages"})

    preset: str | None = None
    """Fill the keys below for a known dataset; see `guidestar presets`."""
    folder: str | None = None
    """Folder with a preset's files; without it the hub is asked."""
    pool: str | None = None
    """The pool: a .csv, .tsv, .jsonl, .json, .txt (also .gz), .parquet or .xlsx file, a folder of `datasets`, or
    `hub:OWNER/NAME[:CONFIG][@SPLIT]`."""
    test: str | None = None
    """The test set, in the same forms. It is used for nothing but the curve."""
    validation: str | None = None
    """A validation set, in the same forms; for early stopping."""
    test_share: float = Field(0.0, ge=0, lt=1)
    """Without a test file: the random share of the pool set aside as test set."""
    encoding: str | None = None
    """Of text files that are not UTF-8, such as cp1252 or gb18030. Default: they are refused."""
    header: list[str] | None = None
    """Column names of CSV files that have no header line."""
    messages: str | None = None
    """The column with a list of messages (role and content). It becomes two columns: `conversation`, all but the
    assistant's last message, and `response`, that message. With `model.chat` the model's chat template has the turns."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Names used in the template -> column names of the files, where they differ."""
    id: str | None = None
    """The column that names a row in what `predict` and `score` say. Default: a hash of its texts."""
    answer: str | None = None
    """The column with the gold answer. Without it nothing can be simulated."""
    template: str | None = None
    """The prompt, with {column} fields, for example 'Question: {text}\\nType:'."""
    response: str = "{answer}"
    """What the model is taught to write; {answer} stands for the answer (word)."""
    pool_limit: int | None = Field(None, ge=1)
    """Use only this many pool rows, drawn at random by the data seed."""
    test_limit: int | None = Field(None, ge=1)
    """Use only this many test rows, likewise."""
    validation_limit: int | None = Field(None, ge=1)
    """Use only this many validation rows, likewise."""
    duplicates: Literal["drop", "keep", "error"] = "drop"
    """Pool rows with the same content, and pool rows that also stand in the test or validation set."""
    too_long: Literal["error", "drop", "truncate"] = "error"
    """What to do with a prompt that does not fit the model's context (`model.max_length`): stop, leave the row out,
    or cut its longest text. People see the whole text all the same."""
    cut: Literal["end", "start", "middle"] | None = None
    """What `too_long: truncate` leaves out of a text. Default: its end."""
    blank: Literal["drop"] | None = None
    """drop: leave out rows in which all columns of the template are blank. Default: refuse them."""
    seed: int = Field(0, ge=0)
    """Seed of the splits and limits; the same for every run seed."""

    @field_validator("response")
    @classmethod
    def _has_answer(cls, value: str) -> str:
        if value.count("{answer}") != 1:
            raise ValueError("must contain {answer} exactly once")
        return value


class TaskConfig(Section):
    """What an answer is."""

    kind: str | None = Field(None, description="; ".join(f"{name}: {kind.about}" for name, kind in TASKS.items()) + ".")
    labels: list[str] | dict[str, str] | None = None
    """The labels, or label -> the word the model writes for it. Without it, the labels found in the pool."""
    renamed: dict[str, str] | None = None
    """What a label was called before -> the label: files and people may say either. `guidestar labels` writes it."""
    scoring: Literal["first_token", "sequence"] = "first_token"
    """How label words are scored: by the first token in which they differ (one pass; refused where two words share
    it) or as whole token sequences (one pass a label)."""
    max_new_tokens: int | None = Field(None, ge=1)
    """Limit of generated responses in tokens; default 16 for choice, 256 for number, 64 for text."""
    marker: str = "####"
    """number: what stands before the final number in a worked answer."""

    @field_validator("kind", mode="plain")
    @classmethod
    def _known(cls, value: Any) -> str | None:
        if value is None or (isinstance(value, str) and value in TASKS):
            return value
        raise PydanticCustomError("literal_error", "unknown", {"expected": ", ".join(f"'{name}'" for name in TASKS)})


FEW_LABELS = {"head": "features", "views": "weighted"}  # of `model`: what is best for an encoder with few labels
# What is known to be an encoder by its name, before its files are there: short names, and names on the hub.
ENCODERS = frozenset({
    "all-minilm-l6-v2", "bert-base-uncased", "bert-base-cased", "bert-base-multilingual-cased", "distilbert-base-uncased",
    "roberta-base", "xlm-roberta-base", "google-bert/bert-base-uncased", "google-bert/bert-base-cased",
    "google-bert/bert-large-uncased", "google-bert/bert-base-multilingual-cased", "distilbert/distilbert-base-uncased",
    "distilbert/distilroberta-base", "FacebookAI/roberta-base", "FacebookAI/roberta-large", "FacebookAI/xlm-roberta-base",
    "FacebookAI/xlm-roberta-large", "google/electra-small-discriminator", "google/electra-base-discriminator",
    "microsoft/deberta-v3-small", "microsoft/deberta-v3-base", "microsoft/deberta-v3-large", "answerdotai/ModernBERT-base",
    "answerdotai/ModernBERT-large", "EuroBERT/EuroBERT-210m", "sentence-transformers/all-MiniLM-L6-v2",
    "sentence-transformers/all-MiniLM-L12-v2", "sentence-transformers/all-mpnet-base-v2",
    "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2", "BAAI/bge-small-en-v1.5", "BAAI/bge-base-en-v1.5",
    "BAAI/bge-m3", "intfloat/e5-small-v2", "intfloat/e5-base-v2", "intfloat/multilingual-e5-small",
    "intfloat/multilingual-e5-base", "nomic-ai/modernbert-embed-base",
})  # fmt: skip


class ModelConfig(Section):
    """The base model."""

    newer = frozenset({"quantize", "attention", "device_map", "views"})

    name: str = "smollm2-135m"
    """A name of `guidestar models`, a folder, a .gguf file, or a hub name. Safetensors only."""
    revision: str | None = None
    """A pinned hub revision (40 hex digits when remote_code is on)."""
    remote_code: bool = False
    """Run Python code that the model's repository on the hub carries. Needs a pinned revision and, before every
    command, `guidestar --remote-code`; refused for folders. Off unless you trust it."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: bfloat16 where the processor has it, else float32."""
    score_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Another precision for scoring the pool than for training. bfloat16 rounds away much of what tells uncertain
    examples apart (docs/performance.md); float32 costs about twice the time and memory."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    quantize: Literal["nf4", "int8"] | None = None
    """Keep the base model's linear layers in 4 bits (nf4, QLoRA) or 8 (int8, LLM.int8, which rounds what enters them,
    too), by bitsandbytes (extra `large`). That is then the base model: rounds start from it, and the published adapter
    belongs to it (`docs/scale.md`)."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] | None = None
    """The attention of transformers; auto (the default) takes the fastest that the model has without further packages."""
    device_map: Literal["auto"] | None = None
    """auto: spread one model over all GPUs of this machine, where it does not fit on one. Default: one device."""
    max_length: int | None = Field(None, ge=8)
    """Context limit in tokens; default: the model's own."""
    head: Literal["words", "classifier", "mean", "features", "auto"] | None = None
    """How a choice is answered: words, the label words with which a causal language model goes on; classifier, a
    classification head that is trained with the adapter; mean, the head of an encoder on the mean over a text's
    states instead of on its first state, for models made for means such as all-MiniLM-L6-v2 (`docs/encoders.md`);
    features, a head on states of several layers that starts as the classifier on the frozen model and is best with
    few labels (`docs/training.md`); auto, words for a causal language model, and for an encoder mean if its own
    files say that its texts are means, else classifier. Default: words for a causal language model; features in a new
    run of an encoder that is known by its name (`docs/encoders.md`), and classifier for others, in studies and in older runs."""
    pooling: Literal["first", "last", "mean"] | None = None
    """With a classification head, what stands for a text as its embedding: the first token's state, the last one's,
    or the mean over all. Default: what the model's own files say (sentence-transformers), else the first token of
    an encoder ([CLS]) and the last of a causal model. The head itself reads what the architecture gives it."""
    views: Literal["all", "weighted"] | None = None
    """How the frozen model's six views of a text count for a classifier on them, and for a head on features that starts as it:
    all alike, or weighted by what each tells of the labels, from 10 labels on. Default: all."""
    chat: bool = False
    """Wrap the prompt in the tokenizer's chat template."""
    batch_tokens: int | None = Field(None, ge=16)
    """Padded tokens in one batch when scoring and evaluating; lower it when memory is short. Default: 1024 on a
    CPU, whose caches hold that much, and 16384 where responses are generated; 8192 on a GPU; 2048 elsewhere."""


class EndpointConfig(Section):
    """A model behind an OpenAI-compatible address as annotator. Its answers are marked as machine-made."""

    url: str | None = None
    """The address up to the version, for example http://127.0.0.1:8000/v1."""
    model: str | None = None
    """The model's name there."""
    key: str = "OPENAI_API_KEY"
    """Name of the environment variable with the key; it may be unset for local servers."""
    instructions: str | None = None
    """What the model is told; default: written from the task."""
    max_tokens: int = Field(256, ge=1)
    """Limit of one answer in tokens."""
    timeout: float = Field(60.0, gt=0)
    """Seconds until a request counts as failed."""
    retries: int = Field(5, ge=0)
    """Further tries of a failed request, with growing pauses."""
    parallel: int = Field(4, ge=1, le=64)
    """Requests at one time."""
    price_in: float = Field(0.0, ge=0)
    """Price of a million tokens read, in your currency."""
    price_out: float = Field(0.0, ge=0)
    """Price of a million tokens written."""
    max_cost: float | None = Field(None, gt=0)
    """Stop asking when this much is spent in a run."""


class PeopleConfig(Section):
    """How people label (`guidestar label`)."""

    guidelines: str | None = None
    """A Markdown or text file shown beside the examples, as text."""
    overlap: float = Field(0.0, ge=0, le=1)
    """Share of the examples that a second annotator is asked for too, to measure agreement."""
    suggestions: Literal["auto", "shown", "hidden", "off"] = "auto"
    """The model's own answer beside an example; hidden ones can be asked for, off shows none. auto: hidden where
    agreement is measured, else shown."""
    descriptions: dict[str, str] = Field(default_factory=dict)
    """Label -> what it means, in a few words: beside its key, told to an endpoint, and read for a first guess."""
    first_guess: bool | Literal["endpoint"] = False
    """Let the untuned model, or the endpoint of `endpoint`, guess the labels of the first questions, too. The guessed labels
    are asked for in turn, so that the first answers meet them all. Such a guess is often wrong (`docs/labelling.md`), so it
    is hidden until somebody asks for it."""
    lease: float = Field(15.0, gt=0)
    """Minutes for which an example shown to one annotator is kept from the others."""


class StopConfig(Section):
    """Whether more labels still pay (`docs/advice.md`). `stop: advise` alone is short for the mode."""

    mode: Literal["off", "advise", "stop"] = "advise"
    """off: say nothing; advise: say in `guidestar status` and the report when more labels hardly pay; stop: end the
    run then. A run that was ended so goes on when the mode is changed back."""
    gain: float = Field(0.005, gt=0, lt=1)
    """An accuracy gain of the next round, as a fraction, that would be worth its labels."""
    agreement: float = Field(0.99, gt=0, le=1)
    """Cohen's κ of consecutive models' predictions from which on they count as settled."""
    rounds: int = Field(3, ge=1)
    """Rounds in a row over which agreement and confidence are judged."""


class CostConfig(Section):
    """What is paid, for `guidestar costs`. All in one currency; it changes nothing that a run does."""

    label: float = Field(0.0, ge=0)
    """Price of a label, beside the annotator's time."""
    annotator_hour: float = Field(0.0, ge=0)
    """Price of an hour of an annotator."""
    seconds_per_label: float | None = Field(None, gt=0)
    """Seconds that a label takes. Default: measured on the labelling page; else not known."""
    machine_hour: float = Field(0.0, ge=0)
    """Price of an hour of this machine."""
    currency: str = Field("", max_length=8)
    """What stands behind the amounts, for example EUR."""


class RunConfig(Section):
    """Everything a run depends on."""

    newer = frozenset({"engine"})

    out: str = "runs/guidestar"
    """The folder to write to."""
    seeds: list[int] = Field(default_factory=lambda: [0], min_length=1)
    """One run for each seed and strategy."""
    strategies: list[StrategyConfig] = Field(
        default_factory=lambda: [StrategyConfig(use="star"), StrategyConfig(use="random")], min_length=1
    )
    """Strategies to run; random is the control. A name, or a mapping with `use` and what differs."""
    data: DataConfig = Field(default_factory=DataConfig)
    task: TaskConfig = Field(default_factory=TaskConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    peft: dict[str, Any] = Field(
        default_factory=lambda: dict(
            peft_type="LORA", r=16, lora_alpha=32, lora_dropout=0.1, target_modules="all-linear"
        )
    )
    """The adapter, by PEFT's own keys."""
    query: QueryConfig = Field(default_factory=QueryConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    tapt: TaptConfig | None = None
    """Pretrain the adapter on the pool's prompts first; `tapt: {}` for the defaults below, null for none."""
    annotator: Literal["auto", "oracle", "people", "endpoint"] = "auto"
    """Who answers: oracle, the gold answers in the data (a simulation); people (`guidestar label`); a model behind
    an endpoint. auto: oracle where every pool row has its answer, else people."""
    people: PeopleConfig = Field(default_factory=PeopleConfig)
    endpoint: EndpointConfig = Field(default_factory=EndpointConfig)
    stop: StopConfig = Field(default_factory=StopConfig)
    cost: CostConfig = Field(default_factory=CostConfig)
    tracker: Literal["none", "trackio", "wandb", "mlflow", "tensorboard"] = "none"
    """Also send each round's numbers and this configuration to an experiment tracker, whose package must be
    installed (`docs/trackers.md`). Never a text or an answer; none sends nothing anywhere."""

    engine: EngineConfig | None = None
    """Where the work is done; by default in this process (`docs/scale.md`)."""

    @property
    def engines(self) -> EngineConfig:
        """`engine`, or its defaults."""
        return self.engine or EngineConfig()

    @field_validator("strategies", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        if isinstance(value, list):
            return [{"use": item} if isinstance(item, str) else item for item in value]
        return value

    @field_validator("stop", mode="before")
    @classmethod
    def _mode(cls, value: Any) -> Any:
        return {"mode": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _possible(self) -> RunConfig:
        data, query, titles = self.data, self.query, [s.title for s in self.strategies]
        guesses = {
            "people.first_guess": self.people.first_guess == "endpoint",
            "train.weak_labels": self.train.weak_labels,
        }
        beside = [key for key, wanted in guesses.items() if wanted]
        asks = [*beside, *["annotator"] * (self.annotator == "endpoint")]
        rules = [
            *((not data.preset and getattr(data, key) is None, f"data.{key}", "is missing; give it, or a `preset`")
              for key in ("pool", "template")),
            (not data.preset and self.task.kind is None, "task.kind", f"is missing; {allowed(TASKS)}"),
            (query.budget < query.warm_start, "query.budget",
             f"is {query.budget}, below query.warm_start {query.warm_start}"),
            (query.warm_start <= query.budget < query.warm_start + query.held_out(), "query.hold_out",
             f"sets {query.held_out()} of {query.budget} labels aside and leaves less than query.warm_start"),
            (query.hold_out and (data.test or data.test_share), "query.hold_out",
             "is for data without a test set; leave it out, or data.test and data.test_share"),
            (self.train.patience and not data.validation and not data.preset, "train.patience",
             "needs a validation set, because the test set chooses nothing: give data.validation"),
            *((True, key, why) for key, why in impossible(self.train, self.peft, self.model, self.engines)),
            (self.tapt is not None and self.engines.train.use == "fsdp2", "tapt",
             "is set together with engine.train.use: fsdp2, and one process alone pretrains, which then has no whole model; leave one out"),
            *((self.annotator == "endpoint", key, "asks the endpoint that is the annotator already, and pays twice; leave it out")
              for key in beside),
            (data.messages and data.answer == "response" and "{dialogue}" in (data.template or ""), "data.template",
             "reads {dialogue}, which holds the answer (data.answer: response); write {conversation}"),
            *((getattr(self.endpoint, key) is None, f"endpoint.{key}",
               f"is missing; {asks[0]}{'' if asks[0] == 'train.weak_labels' else ': endpoint'} needs it")
              for key in ("url", "model") if asks),
            *((titles.count(title) > 1, "strategies", f"has two strategies called {title!r}; give one a `name`")
              for title in sorted(set(titles))),
            (len(set(self.seeds)) != len(self.seeds), "seeds", "has the same seed twice"),
        ]  # fmt: skip
        if problems := [(key, why) for wrong, key, why in rules if wrong]:
            raise Problems(problems)
        return self

    def plain(self) -> dict[str, Any]:
        """The configuration as JSON-able data, defaults filled in."""
        return self.model_dump(mode="json")

    def key(self) -> dict[str, Any]:
        """What all runs of a configuration share and what must stay the same for one to be continued:
        everything but strategies, seeds, who answers, when to stop, prices, the tracker, the places files lie in (their content is hashed),
        and what only decides how much memory is used.

        Returns a flat mapping, "train.epochs" -> 6, so that a difference can be named.
        """
        return shared_keys(self.plain())


_OWN = {"": ("out", "seeds", "strategies", "annotator", "people", "endpoint", "stop", "cost", "tracker"),
        "data": ("folder", "pool", "test", "validation"),
        "model": ("device", "device_map", "batch_tokens"), "train": ("micro_batch_size", "checkpointing")}  # fmt: skip  # of memory alone


def shared_keys(plain: Mapping[str, Any]) -> dict[str, Any]:
    """`RunConfig.key` of a configuration as JSON-able data, of an older version, too."""
    left = {name: dict(value) if isinstance(value, Mapping) else value for name, value in plain.items()}
    for section, names in _OWN.items():
        for name in names:
            (left.get(section, {}) if section else left).pop(name, None)
    return flat(left | deciding(left.pop("engine", None)))


def deciding(engine: Mapping[str, Any] | None) -> dict[str, Any]:
    """What of the section `engine` decides results: the parts that masks are drawn by, and another engine than our own."""
    score = (engine or {}).get("score") or {}
    known = {"part": score.get("part"), "use": "vllm" if score.get("use") == "vllm" else None}
    own = {name: value for name, value in known.items() if value is not None}
    return {"engine": {"score": own}} if own else {}


def flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level with dotted names. prefix: before each of them.

    >>> flat({"train": {"epochs": 6}, "seed": 0})
    {'train.epochs': 6, 'seed': 0}
    """
    level: dict[str, Any] = {}
    for name, item in value.items():
        inside = isinstance(item, dict) and item
        level |= flat(item, f"{prefix}{name}.") if inside else {f"{prefix}{name}": item}
    return level


def fingerprint(value: Any) -> str:
    """SHA-256 (hex) of JSON-able data, independent of the order of keys."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode  # JSON in one form only
