"""Three sizes of every experiment: the paper's own, a small one for one GPU or a patient CPU, a tiny one for tests.

A scale gives each dataset its plain configuration: no decay, random labels, nothing of a method.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from guidestar import config as configs
from guidestar.config import RunConfig
from guidestar.data.presets import PRESETS, TEMPLATES
from guidestar.errors import ConfigError, allowed
from guidestar.study.experiments import Variant


@dataclass(frozen=True)
class Setting:
    """One dataset at one scale. test: examples of the test set that are used. measure: what stands for maximum
    entropy (ME). note: what departs from the paper there, for people."""

    query: Mapping[str, int]
    train: Mapping[str, Any]
    test: int
    measure: str = "response_entropy"
    task: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Scale:
    """model: its name; None: built into the study's folder. full_rate: learning rate of full fine-tuning.
    batch_tokens: padded tokens of a scoring batch on a GPU. probed: pool examples that a probe looks at, None for all.
    note: printed with every number."""

    doc: str
    model: str | None
    peft: Mapping[str, Any]
    full_rate: float
    settings: Mapping[str, Setting]
    batch_tokens: int
    probed: int | None = None
    note: str = ""


_LABELS = "ME is the entropy over the labels here, not of the generated response as in the paper"
_PASSAGE = "with the passage that holds the answer; the paper's BoolQ has the question alone"
_CPU_QUERY = {"warm_start": 50, "batch": 50, "budget": 200, "candidates": 500}
_CPU_TRAIN = {"epochs": 4, "batch_size": 8, "learning_rate": 1e-3}
_TINY_QUERY = {"warm_start": 16, "batch": 8, "budget": 32, "candidates": 40}
_TINY_TRAIN = {"epochs": 2, "batch_size": 8, "learning_rate": 5e-3}


def _lora(r: int, alpha: int) -> dict[str, Any]:
    return {"peft_type": "LORA", "r": r, "lora_alpha": alpha, "lora_dropout": 0.1, "target_modules": "all-linear"}


SCALES: dict[str, Scale] = {
    "paper": Scale(
        doc="the paper's protocol: LLaMA-2-7B or another model named, whole pools and test sets, ten points",
        model="meta-llama/Llama-2-7b-hf",
        peft=_lora(64, 16),
        full_rate=2e-5,
        batch_tokens=32768,
        settings={
            "gsm8k": Setting(
                query={"warm_start": 500, "batch": 500, "budget": 5000},
                train={"epochs": 3, "batch_size": 8, "learning_rate": 1.5e-4},
                test=1319,
            ),
            "boolq": Setting(
                query={"warm_start": 500, "batch": 500, "budget": 5000},
                train={"epochs": 15, "batch_size": 32, "micro_batch_size": 8, "learning_rate": 3e-5},
                test=3270,
            ),
            "boolq-passage": Setting(
                query={"warm_start": 500, "batch": 500, "budget": 5000},
                train={"epochs": 15, "batch_size": 32, "micro_batch_size": 4, "learning_rate": 3e-5},
                test=3270,
                note=_PASSAGE,
            ),
            "openbookqa": Setting(
                query={"warm_start": 200, "batch": 200, "budget": 2000},
                train={"epochs": 15, "batch_size": 32, "micro_batch_size": 8, "learning_rate": 3e-5},
                test=500,
            ),
        },
    ),
    "small": Scale(
        doc="SmolLM2-135M on the real files, with budgets for one GPU; TREC-6 and SUBJ with budgets for a CPU",
        model="smollm2-135m",
        peft=_lora(16, 32),
        full_rate=5e-5,
        batch_tokens=131072,
        probed=2000,
        note="A small model with small budgets: compare the signs with the paper's, not the sizes.",
        settings={
            "gsm8k": Setting(
                query={"warm_start": 100, "batch": 100, "budget": 500, "candidates": 400},
                train={"epochs": 3, "batch_size": 8, "learning_rate": 5e-4},
                test=400,
                task={"max_new_tokens": 160},
            ),
            "boolq": Setting(
                query={"warm_start": 200, "batch": 200, "budget": 1000, "candidates": 1000},
                train={"epochs": 4, "batch_size": 16, "learning_rate": 5e-4},
                test=1000,
            ),
            "boolq-passage": Setting(
                query={"warm_start": 200, "batch": 200, "budget": 1000, "candidates": 1000},
                train={"epochs": 4, "batch_size": 16, "learning_rate": 5e-4},
                test=1000,
                note=_PASSAGE,
            ),
            "openbookqa": Setting(
                query={"warm_start": 200, "batch": 200, "budget": 1000, "candidates": 1000},
                train={"epochs": 4, "batch_size": 16, "learning_rate": 5e-4},
                test=500,
            ),
            "trec-6": Setting(_CPU_QUERY, _CPU_TRAIN, 400, "entropy", note=_LABELS),
            "subj": Setting(_CPU_QUERY, _CPU_TRAIN, 400, "entropy", note=_LABELS),
        },
    ),
    "tiny": Scale(
        doc="a tiny model made on the spot, on synthetic questions or a few of the real files: does everything run?",
        model=None,
        peft=_lora(4, 8),
        full_rate=1e-3,
        batch_tokens=2048,
        note="A tiny model that knows next to nothing: these numbers mean nothing beyond 'it runs'.",
        settings={
            "gsm8k": Setting(_TINY_QUERY, _TINY_TRAIN, 40, task={"max_new_tokens": 32}),
            "boolq": Setting(_TINY_QUERY, _TINY_TRAIN, 40, task={"max_new_tokens": 8}),
            "openbookqa": Setting(_TINY_QUERY, _TINY_TRAIN, 40, task={"max_new_tokens": 4}),
        },
    ),
}


def setting_of(scale: str, dataset: str) -> Setting:
    """A dataset's setting. Raises ConfigError for an unknown scale, or a dataset that it does not have."""
    if scale not in SCALES:
        raise ConfigError(f"scale is {scale!r}; {allowed(SCALES, scale)}")
    found = SCALES[scale].settings
    if dataset not in found:
        raise ConfigError(f"dataset {dataset!r} has no setting at scale {scale}; {allowed(found, dataset)}")
    return found[dataset]


def kind_of(dataset: str) -> str:
    """ "choice", "number" or "text"."""
    return str(PRESETS[dataset].task["kind"])


def plain_config(scale: str, dataset: str, *, model: str | None = None, folder: str | None = None) -> dict[str, Any]:
    """What the variants of a dataset start from, as plain data.

    model: instead of the scale's. folder: with the dataset's files; None asks the hub.
    Raises ConfigError as `setting_of` does, and for a scale without a model of its own if none is given.
    """
    setting, size = setting_of(scale, dataset), SCALES[scale]
    name = model or size.model
    if name is None:
        raise ConfigError(f"scale {scale} has no model of its own: name one")
    return {
        "data": {"preset": dataset, "test_limit": setting.test, "too_long": "drop", **setting.data}
        | ({"folder": folder} if folder else {}),
        "task": dict(setting.task),
        "model": {"name": name},
        "query": dict(setting.query),
        "train": {"b_decay": 0.0, **setting.train},
        "peft": dict(size.peft),
        "annotator": "oracle",
    }


def variant_config(
    plain: Mapping[str, Any], variant: Variant, scale: str, dataset: str, *, seed: int, out: str
) -> RunConfig:
    """The configuration of one cell: the plain one with what the variant changes, the @ values filled in."""
    data = {key: dict(value) if isinstance(value, Mapping) else value for key, value in plain.items()}
    for key, value in variant.overrides.items():
        found = _resolve(value, key, data, scale, dataset)
        if found is not _AS_IT_IS:
            _assign(data, key, found)
    strategy = {key: _resolve(value, key, data, scale, dataset) for key, value in variant.strategy.items()}
    data |= {"out": out, "seeds": [seed], "strategies": [{**strategy, "name": variant.name}]}
    return configs.parse(data, f"{dataset} {variant.name}")


_AS_IT_IS = object()  # instead of a value: the preset has the same


def _resolve(value: Any, key: str, plain: Mapping[str, Any], scale: str, dataset: str) -> Any:
    """A value with what it leaves to dataset and scale filled in; other values stay as they are."""
    if isinstance(value, Mapping):
        return {name: _resolve(item, name, plain, scale, dataset) for name, item in value.items()}
    if not isinstance(value, str) or not value.startswith("@"):
        return value
    setting, preset = setting_of(scale, dataset), PRESETS[dataset]
    if value == "@ME":
        return setting.measure
    if value == "@test_steps":  # what the published code took for the number of training steps
        test = min(setting.test, plain["data"].get("test_limit") or setting.test)
        return math.ceil(test / plain["train"]["batch_size"]) * plain["train"]["epochs"]
    if value == "@full_rate":
        return SCALES[scale].full_rate
    if value == "@rank":
        return SCALES[scale].peft["r"]
    if value == "@targets":
        return SCALES[scale].peft["target_modules"]
    name = key.removeprefix("data.")
    if value == "@published":
        found = TEMPLATES["published"].get(dataset, {}).get(name)
    elif value == "@one_prompt":
        found = TEMPLATES["one_prompt"].get(dataset, {}).get(name) or one_prompt(preset.template)
    else:
        raise ValueError(f"unknown value {value}")
    return _AS_IT_IS if found in (None, getattr(preset, name)) else found


def one_prompt(template: str) -> str:
    """GSM8K's prompt around the text of another dataset.

    >>> one_prompt("Sentence: {text}\\nThis is").splitlines()[0]
    '{text}'
    """
    text = "{text}" if "{text}" in template else "{question}"
    return TEMPLATES["one_prompt"]["gsm8k"]["template"].replace("{question}", text)


def _assign(data: dict[str, Any], dotted: str, value: Any) -> None:
    section, _, key = dotted.partition(".")
    if key:
        data[section] = {**data.get(section, {}), key: value}
    else:
        data[section] = value
