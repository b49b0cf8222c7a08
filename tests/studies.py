"""A small study that several test files look at, built once: its file, what is said, and what it measured."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from outside import dump

from guidestar.config import dump_yaml
from guidestar.progress import Silent
from guidestar.store import Store, files
from guidestar.study.compose import Row
from guidestar.study.grid import run_study
from guidestar.study.results import Result, read_results
from guidestar.study.tables import Asked, Table, tables

LORA = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "lora_dropout": 0.2, "target_modules": "all-linear"}
ADAPTER = {"peft_type": "BOTTLENECK", "r": 4, "bottleneck_dropout": 0.2, "target_modules": ["o_proj", "down_proj"]}
RUN: dict[str, Any] = {  # what its runs have in common
    "model": {"dtype": "float32"},
    "query": {"warm_start": 8, "batch": 4, "budget": 16, "candidates": 20},
    "train": {"epochs": 1, "batch_size": 8, "learning_rate": 0.005},
}


def table(rows: Sequence[Row], results: Sequence[Result], answers: Any = None, floor: Any = None, **more: Any) -> Table:
    """One table alone on its page."""
    return tables([Asked(rows, results, **more)], answers, floor)[0]


class Crash(BaseException):
    """A process that ends here."""


class Lines:
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def phase(self, name: str) -> AbstractContextManager[Callable[[int, int], None]]:
        return Silent().phase(name)


def write(folder: Path, plain: dict[str, Any], **changes: Any) -> Path:
    """A study's file; None takes a key away."""
    data = copy.deepcopy(plain) | changes
    path = folder / "study.yaml"
    path.write_text(dump_yaml({key: value for key, value in data.items() if value is not None}))
    return path


def results_of(out: Path) -> dict[str, Any]:
    """Without what clocks say, and where a warm start's adapter came from."""
    unmeasured = ("seconds", "timings", "hardware")
    return {
        one.name: {k: v for k, v in one.plain().items() if k not in unmeasured} for one in read_results(out / "results")
    }


def stored_of(out: Path, under: str = "") -> dict[str, Any]:
    """Of every run its record and the hash of its last adapter. under: of the folders there alone."""
    found = {}
    for place in sorted((out / "runs" / under).rglob("*-seed?")):
        with Store.open(place, read=True) as store:
            found[place.name] = dump(store), files.sha256(place / "adapters" / "round-002")
    return found


@dataclass(frozen=True)
class Finished:
    """A study that one process ran without a break. file: its own. facts, lines: what `run_study` returned and said."""

    file: Path
    facts: dict[str, Any]
    lines: Lines

    @property
    def out(self) -> Path:
        """Its folder, which nobody may change."""
        return self.file.parent / "study"


@pytest.fixture(scope="session")
def plain(demo_data: Path, tiny_folder: Path) -> dict[str, Any]:
    """Two strategies × two adapters × two seeds on one dataset."""
    return {
        "out": "study",
        "datasets": [{"name": "tickets", "data": {"preset": "demo", "folder": str(demo_data), "test_limit": 20}}],
        "models": [{"name": "tiny", "model": {"name": str(tiny_folder)}}],
        "peft": [
            {"name": "lora", "peft": LORA},
            {"name": "series", "peft": ADAPTER, "train": {"learning_rate": 0.002}},
        ],
        "strategies": ["random", {"use": "star", "name": "star", "passes": 2}],
        "seeds": [0, 1],
        "base": RUN,
    }


@pytest.fixture(scope="session")
def finished(plain: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The study above, run once for all tests of this process."""
    path, lines = write(tmp_path_factory.mktemp("study"), plain), Lines()
    facts, text, code = run_study(path, progress=lines)
    assert code == 0, text
    return Finished(path, facts, lines)
