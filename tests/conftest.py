"""Shared fixtures: a tiny Llama-family model and a small synthetic dataset, built once in seconds, offline."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny matrices: threads only wait for each other
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # PEFT imports bitsandbytes, which asks for a compiler: over a second

import functools
import hashlib
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _pytest.doctest import DoctestModule

from guidestar.data.demo import SHARES
from guidestar.store import files

LABELS = list(SHARES)


class Unflushed(sqlite3.Connection):
    """A database that does not wait for the disk."""

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        return super().execute("PRAGMA synchronous = OFF" if sql.startswith("PRAGMA synchronous") else sql, *values)


@pytest.fixture(autouse=True, scope="session")
def unflushed() -> Iterator[None]:
    """Nothing waits for the disk, for no power is cut here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "flush", lambda descriptor: None)
        patch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Unflushed))
        yield


def pytest_runtest_setup(item: pytest.Item) -> None:
    """PEFT writes no model card, which is thrown away, and looks for no weights that were moved to a disk; transformers reads
    a tiny model once."""
    if peft := sys.modules.get("peft"):
        peft.PeftModel.create_or_update_model_card = lambda *args: None
        peft.tuners.tuners_utils.onload_layer = nullcontext
    if auto := sys.modules.get("transformers.models.auto"):
        from read_once import install

        install(auto)


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path: Path) -> Iterator[Any]:
    """In files of tests nobody looks for examples in docstrings, which takes seconds in all."""
    found = yield
    return [one for one in found if not isinstance(one, DoctestModule)]


pytest_plugins = ["skips", "studies"]

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
    from guidestar.data import demo
    from guidestar.model import tiny

    rng = np.random.default_rng(0)
    texts = [f"Message: {row['text']}\nTopic: {rng.choice(LABELS)}" for row in demo.make_demo(seed=11, rows=300)]
    made_from = [Path(tiny.__file__ or "").read_bytes(), *(text.encode() for text in texts)]
    versions = [version(name).encode() for name in ("torch", "transformers", "tokenizers", "numpy")]
    key = hashlib.sha256(b"\0".join([*made_from, *versions])).hexdigest()[:16]
    kept = pytestconfig.cache.mkdir("guidestar") / f"tiny-{key}" if pytestconfig.cache else None
    own = tmp_path_factory.mktemp("tiny") / "model"
    if kept is not None and kept.is_dir():
        return Path(shutil.copytree(kept, own))
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


@pytest.fixture(scope="session")
def adapter(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained adapter of the tiny model, so that B is not zero. Nobody may change it."""
    from asked import train
    from test_predict import PEFT, choice, examples

    from guidestar.config import ModelConfig, TrainConfig
    from guidestar.model.load import load

    base = load(ModelConfig(name=str(tiny_folder), dtype="float32"))
    labelled = [(e, LABELS[i % 6]) for i, e in enumerate(examples())]
    config, folder = TrainConfig(epochs=3, batch_size=4, learning_rate=1e-2), tmp_path_factory.mktemp("adapter") / "a"
    train(base, PEFT, config, labelled, choice(), folder, seed=1)
    return folder


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


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose first questions wait for the labelling page."""
    from page_help import make_run

    return make_run(tmp_path)


@pytest.fixture
def clock() -> Any:
    from page_client import Clock

    return Clock()


@pytest.fixture
def open_page(clock: Any) -> Iterator[Callable[..., Any]]:
    """Opens the labelling page of a run: a client with the cookie."""
    from page_client import HOST
    from page_help import SECRET, TOKEN
    from starlette.testclient import TestClient

    from guidestar.people.page.app import create_app
    from guidestar.people.page.guard import Keys

    opened: list[Any] = []

    def page(run: Path, *, enter: bool = True, **options: Any) -> Any:
        keys = Keys(SECRET, 8000, token=TOKEN)
        app = create_app(run, **({"keys": keys, "trainer": None, "hosts": {HOST}, "clock": clock} | options))
        client = TestClient(app, base_url=f"http://{HOST}", follow_redirects=False)
        client.__enter__()
        opened.append(client)
        if enter:
            assert client.get(f"/?token={TOKEN}").status_code == 303
        return client

    yield page
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture
def page(run: Path, open_page: Callable[..., Any]) -> Any:
    return open_page(run)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A real Chromium; without one, or without playwright, its tests are skipped. Of a module alone: its loop is in the way
    of others."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium is installed; on Debian: apt install chromium")
    with playwright.sync_playwright() as drivers:
        browser = drivers.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def enter(chromium: Any) -> Iterator[Callable[..., Any]]:
    """Opens a browser of its own on a page, as somebody. What the scripts complain about fails the test."""
    contexts: list[Any] = []
    complaints: list[str] = []

    def enter(server: Any, name: str = "Ann", **options: Any) -> Any:
        context = chromium.new_context(**({"viewport": {"width": 1280, "height": 800}} | options))
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = new_tab(context)
        page.goto(server.link)
        page.fill("#name", name)
        page.keyboard.press("Enter")
        page.wait_for_selector("#work:visible, #idle:visible, #review:visible")
        return page

    def new_tab(context: Any) -> Any:
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(f"dialog {dialog.message}"))
        page.on(
            "console", lambda m: complaints.append(m.text) if m.type == "error" and "net::ERR" not in m.text else None
        )
        return page

    enter.tab = new_tab  # type: ignore[attr-defined]
    yield enter
    for context in contexts:
        context.close()
    assert not complaints, complaints
