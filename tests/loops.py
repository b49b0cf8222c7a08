"""What the tests of the loop share: a run small enough for hundreds of them, and ways to look at it."""

from __future__ import annotations

import csv
import json
import random
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import LABELS
from outside import dump

from guidestar import loop
from guidestar.loop import Run
from guidestar.records import Stop
from guidestar.store import Store, files

MakeConfig = Callable[..., dict[str, Any]]

# Small enough for a hundred runs: two adapted layers a block, one epoch, a handful of examples everywhere.
SMALL: dict[str, Any] = {
    "data": {"test_limit": 10},
    "query": {"warm_start": 12, "batch": 2, "budget": 16, "candidates": 12},
    "train": {"epochs": 1, "batch_size": 16},
    "peft": {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "lora_dropout": 0.2, "target_modules": ["q_proj", "v_proj"]},
}


def dumps(folder: Path | str) -> dict[str, Any]:
    """Run name -> all that must not depend on interruptions, every recorded file checked against its hash."""
    found = {}
    for place in sorted(Path(folder).glob("*/run.sqlite")):
        with Store.open(place.parent) as store:
            found[place.parent.name] = dump(store)
            for r in range(len(store.metrics())):
                store.adapter(r)
            for r, name, _ in found[place.parent.name]["arrays"]:
                store.arrays(r, name)
    return found


def picks(run: Run, r: int) -> list[str]:
    return [pick.id for pick in run.store.query(r).picks]


def write_csv(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(autouse=True)
def nothing_stays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """After every test: whatever was raised, no adapter was left on a base model that a Bench holds."""
    seen: list[Any] = []
    from guidestar.model import load as load_room

    real = load_room.load

    def remember(*args: Any, **options: Any) -> Any:
        seen.append(real(*args, **options))
        return seen[-1]

    monkeypatch.setattr(load_room, "load", remember)
    yield
    for base in seen:
        left = [name for name, _ in base.model.named_modules() if "lora" in name]
        assert not left, f"an adapter was left on the base model: {left[:3]}"


def answer_all(run: Run, examples: Sequence[Any]) -> None:
    for example in examples:
        run.tell(example.id, run.bench.dataset.gold[example.id])


@pytest.fixture(name="trained")
def trained_labels(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The labels of every training so far, example -> answer."""
    from guidestar.model.train import OwnTrainer

    seen: list[dict[str, str]] = []
    real = OwnTrainer.__call__

    def spy(self: Any, lesson: Any, *rest: Any) -> Any:
        seen.append({example.id: answer for example, answer in lesson.labelled})
        return real(self, lesson, *rest)

    monkeypatch.setattr(OwnTrainer, "__call__", spy)
    return seen


CHOICE = {"kind": "choice", "labels": LABELS}


@pytest.fixture(name="unlabelled")
def unlabelled_data(tmp_path: Path, demo_data: Path) -> dict[str, Any]:
    """The data section of a pool without an answer column."""
    with (demo_data / "pool.csv").open(encoding="utf-8") as file:
        rows = [{"text": row["text"]} for row in csv.DictReader(file)]
    return {
        "preset": None,
        "folder": None,
        "test_limit": None,
        "pool": str(write_csv(tmp_path / "pool.csv", rows)),
        "template": "Message: {text}\nTopic:",
    }


def labels_of(config: dict[str, Any], name: str) -> tuple[list[int], Stop | None]:
    with Store.open(Path(config["out"]) / name) as store:
        assert len(store.annotations.labelled()) == len(store.asked())
        return [m.labels for m in store.metrics()], store.finished()


def sums(path: Path, count: int) -> Path:
    rng = random.Random(count)
    rows = []
    for _ in range(count):
        a, b = rng.randint(1, 9), rng.randint(1, 9)
        name, thing = rng.choice(["Ann", "Bo", "Cy", "Di"]), rng.choice(["nuts", "figs", "pens"])
        rows.append(
            {
                "question": f"{name} has {a} {thing} and finds {b} more. How many?",
                "answer": f"{name} has {a}+{b}=<<{a}+{b}={a + b}>>{a + b} {thing}.\n#### {a + b}",
                "name": name,
            }
        )
    unique = {row["question"]: row for row in rows}.values()
    path.write_text("".join(json.dumps(row) + "\n" for row in unique), encoding="utf-8")
    return path


# --- crashes --------------------------------------------------------------------------------------


@pytest.fixture(name="shallow", scope="session")
def shallow_model(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The model of runs that crash a hundred times: the tiny one without its second layer, so that each takes less."""
    folder = tmp_path_factory.mktemp("shallow") / "model"
    shutil.copytree(tiny_folder, folder)
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_hidden_layers": 1}))
    return {"name": str(folder)}


class Crash(BaseException):
    """The process ends here: nobody who would tidy up catches it."""


def crash_points(steps: Sequence[str], extra: int) -> list[int]:
    """The first and the last occurrence of every kind of step in every round, and some others.

    Steps that differ only in an id (the answers) are of one kind.
    """
    kinds: dict[str, list[int]] = {}
    for i, name in enumerate(steps):
        kinds.setdefault(re.sub(r"[0-9a-f]{16}", "ID", name), []).append(i)
    chosen = {i for places in kinds.values() for i in (places[0], places[-1])}
    others = sorted(set(range(len(steps))) - chosen)
    return sorted(chosen | set(random.Random(0).sample(others, min(extra, len(others)))))


def crash_everywhere(
    make_config: MakeConfig,
    tmp_path: Path,
    patch: pytest.MonkeyPatch,
    choose: Callable[[list[str]], list[int]],
    go: Callable[[dict[str, Any]], object] = loop.run,
    **changes: Any,
) -> int:
    """Run whole, twice; go on from what lay on the disk when the second run came to each chosen step; compare. Returns how
    many steps were chosen.

    What lies there at a step is what a process leaves that is killed in it: nothing is rolled back, removed or closed. The
    second run itself ends at its last step but one, by an exception that passes through all that would tidy up, as
    tests/test_store.py tries at every step of a store.
    go: runs a configuration to its end, from wherever it stopped.
    """
    passed: list[str] = []
    whole, second = tmp_path / "whole", tmp_path / "second"
    with patch.context() as inner:
        inner.setattr(files, "step", passed.append)
        go(make_config(out=str(whole), **changes))
    steps, expected = list(passed), dumps(whole)
    assert all(dump["finished"] == "BUDGET" for dump in expected.values())

    left = {at: tmp_path / f"crash-{at}" for at in choose(steps)}
    passed.clear()

    def step(name: str) -> None:
        if (folder := left.get(len(passed))) and second.exists():
            shutil.copytree(second, folder)
        passed.append(name)
        if len(passed) == len(steps) - 1:
            raise Crash

    with patch.context() as inner:
        inner.setattr(files, "step", step)
        with pytest.raises(Crash):
            go(make_config(out=str(second), **changes))
    assert passed == steps[:-1], "two runs of one configuration pass through different steps"
    for at, folder in {**left, len(steps) - 2: second}.items():
        go(make_config(out=str(folder), **changes))
        assert dumps(folder) == expected, f"a crash at step {at}, {steps[at]!r}, changed the result"
        assert not list(folder.glob("*-seed*/**/.tmp-*")), "a leftover of the crash was not removed"
    return len(left)
