"""Work spread over workers: whatever is lost on the way, every item is done, or named with the reason."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from pathlib import Path
from typing import Any, final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guidestar import executors
from guidestar.executors import AGAIN, Crew, Local, Lost, Worker, perform
from guidestar.progress import Silent
from guidestar.sections import CellsConfig


@final
class Fragile(Worker):
    """A worker in this process that is lost when its plan says so, before or after it has done the item."""

    def __init__(self, plan: list[str], lock: threading.Lock) -> None:
        self.plan, self.lock = plan, lock

    def do(self, order: str) -> str | None:
        with self.lock:
            fate = self.plan.pop(0) if self.plan else "fine"
        if fate == "before":
            raise Lost("it was killed")
        said = perform(order)
        if fate == "after":
            raise Lost("it was killed")
        return said

    def stop(self) -> None:
        return None


@final
class Fragiles(Crew):
    """Workers that share a plan of what befalls them."""

    def __init__(self, workers: int, plan: list[str]) -> None:
        super().__init__(CellsConfig(workers=workers), Silent())
        self.plan, self.lock = plan, threading.Lock()

    def begin(self, i: int) -> Worker:
        return Fragile(self.plan, self.lock)


DONE: dict[str, Counter[str]] = {}


def count(common: Any, item: Any) -> str | None:
    DONE[common["run"]][item["name"]] += 1
    return None


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 12), st.integers(1, 4), st.integers(1, 4),
    st.lists(st.sampled_from(["before", "after", "fine"]), max_size=30),
)  # fmt: skip
def test_every_item_is_done_or_named(items: int, workers: int, groups: int, plan: list[str]) -> None:
    names = [f"i{n}" for n in range(items)]
    run, losses = os.urandom(8).hex(), sum(fate != "fine" for fate in plan)
    DONE[run] = Counter()
    failed = Fragiles(workers, list(plan)).run(
        "test_executors:count", {"run": run}, {name: {"name": name} for name in names},
        {name: n % groups for n, name in enumerate(names)},
    )  # fmt: skip
    done = DONE.pop(run)
    assert all(done[name] >= 1 for name in names if name not in failed)
    assert all(done[name] <= AGAIN + 1 for name in names)
    assert len(failed) <= losses // (AGAIN + 1), "an item fails only when three workers were lost with it"
    assert all(f"lost {AGAIN + 1} times, the last time because it was killed" in why for why in failed.values())
    assert sum(done.values()) <= items + losses


def test_a_worker_goes_on_with_its_group_and_begins_one_that_nobody_has() -> None:
    groups = {name: name[0] for name in ("a1", "a2", "a3", "b1", "b2", "c1")}
    todo = executors._Items(groups, groups)
    assert [todo.take(None), todo.take(None)] == ["a1", "b1"]
    assert [todo.take("b"), todo.take("b"), todo.take("a"), todo.take("c"), todo.take("b")] == [
        "b2",
        "c1",
        "a2",
        "a3",
        None,
    ]


def test_processes_that_are_killed_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    items = {
        "fine": {}, "once": {"killed": 1}, "by a scheduler": {"killed": 1, "by": signal.SIGTERM},
        "twice late": {"killed": 2, "late": True}, "always": {"killed": 99},
        "wrong": {"raises": "no such thing"}, "refuses": {"says": "it does not fit"},
    }  # fmt: skip
    items = {name: {"name": name, "text": f"{name} é\n", **item} for name, item in items.items()}
    said: list[str] = []

    class News(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    failed = Local(CellsConfig(workers=2), News()).run("killed_item:write", {"place": str(tmp_path)}, items)
    assert failed.keys() == {"always", "wrong", "refuses"}
    assert "lost 3 times" in failed["always"]
    assert "ended with code -9" in failed["always"]
    assert failed["wrong"] == "ValueError: no such thing"
    assert failed["refuses"] == "it does not fit"
    for name in ("fine", "once", "by a scheduler", "twice late", "refuses"):
        assert (tmp_path / name).read_text() == f"{name} é\n"
    assert any("once is done again" in line for line in said)
    assert any(line.endswith("] printed by a library") for line in said), "what is printed is news and no answer"
