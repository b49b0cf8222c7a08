"""Shared fixtures: a tiny Llama-family model and a small synthetic dataset, built once in seconds, offline."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny matrices: threads only wait for each other

import hashlib
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guidestar.data.demo import SHARES

LABELS = list(SHARES)

# A shell that starts the tests in the background lets them ignore Ctrl-C, and the commands they start would, too.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def demo_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from guidestar.data.demo import write_demo

    folder = tmp_path_factory.mktemp("demo") / "data"
    write_demo(folder, seed=3, pool=160, test=60, validation=30)
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Path:
    """The tiny model has read demo messages with random topics: it knows the form and not the task.

    Building it takes seconds, so pytest's cache keeps it for the next call, by what it is made from.
    """
    from guidestar.data import demo, demo_grammar
    from guidestar.model import tiny

    made_from = [Path(module.__file__ or "").read_bytes() for module in (demo, demo_grammar, tiny)]
    versions = [version(name).encode() for name in ("torch", "transformers", "tokenizers", "numpy")]
    key = hashlib.sha256(b"\0".join([*made_from, *versions])).hexdigest()[:16]
    kept = pytestconfig.cache.mkdir("guidestar") / f"tiny-{key}" if pytestconfig.cache else None
    own = tmp_path_factory.mktemp("tiny") / "model"
    if kept is not None and kept.is_dir():
        return Path(shutil.copytree(kept, own))
    rng = np.random.default_rng(0)
    texts = [f"Message: {row['text']}\nTopic: {rng.choice(LABELS)}" for row in demo.make_demo(seed=11, rows=300)]
    tiny.build_tiny_model(own, texts, steps=200)
    if kept is not None:
        with suppress(OSError):  # another process was faster
            shutil.copytree(own, part := kept.with_name(f"{kept.name}.{os.getpid()}"))
            part.rename(kept)
    return own


@pytest.fixture(scope="session")
def tiny_encoder_folder(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """A random BERT of two layers with dropout of its own and the tiny model's tokenizer, its texts begun by [CLS]."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    folder = tmp_path_factory.mktemp("encoder") / "model"
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(tokenizer), hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
            max_position_embeddings=128, pad_token_id=tokenizer.pad_token_id, initializer_range=0.1,
        )  # fmt: skip
        model = BertModel(config)
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm):  # all ones would make the mean of a state constant
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def base(tiny_folder: Path) -> Any:
    from guidestar.config import ModelConfig
    from guidestar.model.load import load

    return load(ModelConfig(name=str(tiny_folder), dtype="float32"))


@pytest.fixture
def make_config(demo_data: Path, tiny_folder: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """A small run as plain data; keyword arguments replace keys of a section, or whole top-level values."""

    def make(**changes: Any) -> dict[str, Any]:
        config: dict[str, Any] = {
            "out": str(tmp_path / "run"),
            "data": {"preset": "demo", "folder": str(demo_data), "test_limit": 40},
            "model": {"name": str(tiny_folder), "dtype": "float32"},
            "query": {"warm_start": 12, "batch": 6, "budget": 24, "candidates": 40},
            "peft": {
                "peft_type": "LORA",
                "r": 4,
                "lora_alpha": 8,
                "lora_dropout": 0.2,
                "target_modules": "all-linear",
            },
            "train": {"epochs": 2, "batch_size": 8, "learning_rate": 5e-3},
        }
        for key, value in changes.items():
            if isinstance(value, dict) and isinstance(config.get(key), dict) and key != "peft":
                config[key] = {**config[key], **value}
            else:
                config[key] = value
        return config

    return make
