"""The plan of a study: what it counts is what runs do, and its words."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from guidestar import config as configs
from guidestar.phases import FIXED, Course, amounts, examples
from guidestar.progress import Silent
from guidestar.study import plan
from guidestar.study.cells import Cell, Shared, run_cells
from guidestar.study.results import Result

STRATEGIES: list[dict[str, Any]] = [
    {"use": "random", "name": "random"},
    {"use": "star", "passes": 2, "name": "star"},
    {"use": "oracle_star", "passes": 0, "name": "gold"},
    {"use": "response_entropy", "name": "response"},
]


def cells_of(plain: dict[str, Any], out: Path, **query: int) -> list[Cell]:
    found = []
    for strategy in STRATEGIES:
        data = {**plain, "out": str(out / "runs"), "strategies": [strategy]}
        data["query"] = {"warm_start": 8, "batch": 5, "budget": 20, **query}
        tags: dict[str, str | int] = {"dataset": "demo", "method": strategy["name"], "seed": 0}
        found.append(Cell(f"demo/{strategy['name']}/seed0", tags, configs.parse(data)))
    return found


@pytest.fixture
def plain(demo_data: Path, tiny_folder: Path) -> dict[str, Any]:
    return {
        "data": {"preset": "demo", "folder": str(demo_data), "test_limit": 15, "pool_limit": 60},
        "task": {"max_new_tokens": 4},
        "model": {"name": str(tiny_folder), "dtype": "float32"},
        "peft": {"peft_type": "LORA", "r": 2, "lora_dropout": 0.2, "target_modules": "all-linear"},
        "train": {"epochs": 2, "batch_size": 8},
    }


@pytest.mark.parametrize("query", [{"candidates": 20}, {}], ids=["candidates", "whole pool"])
def test_the_plan_counts_what_the_runs_do(plain: dict[str, Any], tmp_path: Path, query: dict[str, int]) -> None:
    """Examples of every phase, as the runs' own timings have them; passes and epochs multiplied in here."""
    cells = cells_of(plain, tmp_path, **query)
    found = run_cells(cells, tmp_path, Shared(tmp_path / "cache", Silent()))
    firsts = plan.first_of_warm_start(cells)
    assert firsts == [True, False, False, False]
    for one, first in zip(found, firsts, strict=True):
        assert one.result, one.error
        course = Course(config=one.cell.config, family="choice", pool=60, test=15, first=first)
        recipe = one.result.recipe
        done: dict[str, int] = {}
        for r, phase, _, count in one.result.timings:
            copied = phase == "train" and r == 0 and not first
            times = {"train": 2, "score": max(recipe["passes"], 1)}.get(phase, 1)
            done[phase] = done.get(phase, 0) + (0 if copied else count * times)
        if "candidates" not in query:  # from round 2 on the whole pool's base scores come from the cache
            bases = [count for _, phase, _, count in one.result.timings if phase == "score base"]
            assert all(count == 60 for count in bases)
            done = {phase: 60 if phase == "score base" else count for phase, count in done.items()}
        assert examples(amounts(course)) == done, one.cell.name
        assert course.measured == len(one.result.rounds)
        assert course.labels[-1] == one.result.curve[-1][0]


def test_the_last_batch_may_be_smaller_and_the_pool_may_end() -> None:
    config = configs.parse(
        {"data": {"preset": "trec-6"}, "strategies": ["star"], "query": {"warm_start": 10, "batch": 4, "budget": 99}}
    )
    course = Course(config=config, family="choice", pool=21, test=7)
    assert course.labels == (10, 14, 18, 21)
    work = amounts(course)
    assert work["train", "train"] == config.train.epochs * (10 + 14 + 18 + 21)
    assert work["train", FIXED] == 4
    assert work["score", "labels"] == 3 * (11 + 7 + 3)
    assert work["score base", "base labels"] == 21
    assert work["evaluate", "labels"] == 4 * 7


@pytest.mark.parametrize("pool", [3, 10, 12, 18, 21, 500])
@pytest.mark.parametrize("before", [0, 14])
def test_the_labels_of_the_rounds_are_those_counted_one_by_one(pool: int, before: int) -> None:
    config = configs.parse(
        {"data": {"preset": "trec-6"}, "strategies": ["star"], "query": {"warm_start": 10, "batch": 4, "budget": 30}}
    )
    labels = [before or min(10, pool)]
    while labels[-1] < min(30, pool):
        labels.append(min(labels[-1] + 4, 30, pool))
    course = Course(config=config, family="choice", pool=pool, test=7, before=before)
    assert course.labels == tuple(labels)
    assert course.measured == len(labels) - bool(before)


def test_a_measured_plan(plain: dict[str, Any], tmp_path: Path) -> None:
    """With a clock that counts its own readings: the same plan every time."""
    cells = cells_of(plain, tmp_path, candidates=20)

    def made(done: set[str]) -> plan.Plan:
        ticks = itertools.count()
        return plan.make_plan(cells, done, Shared(tmp_path / "cache", Silent()), clock=lambda: float(next(ticks)))

    first = made(set())
    assert first == made(set())
    assert (first.cells, first.done, first.rounds, first.labels) == (4, 0, 16, 80)
    assert first.seconds.keys() == {"train", "score", "score base", "evaluate", "evaluate base"}
    assert all(0 < low < high for low, high in first.seconds.values())
    assert 5 < first.tokens["demo"] < 60
    rest = made({"demo/random/seed0", "demo/star/seed0"})
    assert (rest.done, rest.rounds) == (2, 8)
    assert rest.total[1] < first.total[1]
    text = rest.text("Four runs", ["demo: four methods"])
    assert "4 runs, 2 done; 2 to go: 8 rounds, 40 labels" in text
    assert "estimated time on this machine: " in text
    assert not list(tmp_path.glob("runs*")), "planning must leave nothing behind"


def test_a_finished_study_needs_no_model(
    plain: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Shared, "bench", lambda self, config: pytest.fail("nothing is left to measure"))
    cells = cells_of(plain, tmp_path)
    found = plan.make_plan(cells, {cell.name for cell in cells}, Shared(tmp_path, Silent()))
    assert found.total == (0, 0)
    assert found.text("x", []).endswith("4 runs, 4 done; 0 to go: 0 rounds, 0 labels")


def test_the_time_taken_beside_the_time_planned() -> None:
    planned = plan.Plan(2, 1, 3, 20, {"train": (100.0, 200.0)})
    old = Result(name="a", tags={}, seconds={"train": 1000.0})
    new = Result(name="b", tags={}, seconds={"train": 150.0, "score": 30.0})
    assert planned.beside([old], [old, new]) == [
        "  train: 2 min, planned 2 min to 3 min",
        "  score: 30 s, not planned",
    ]


def test_what_the_cache_holds_is_planned_once(plain: dict[str, Any], tmp_path: Path) -> None:
    """The base model sees the test set once, and a whole pool once for each kind of work."""
    work = {("evaluate base", "base labels"): 7, ("score base", "base gold"): 60, ("train", "train"): 3}
    cached: set[tuple[str, str, str]] = set()
    whole, some = cells_of(plain, tmp_path)[0], cells_of(plain, tmp_path, candidates=20)[0]
    assert plan._once(work, whole, "data", cached) == work
    assert plan._once(work, whole, "data", cached) == {("train", "train"): 3}
    assert ("score base", "base gold") in plan._once(work, some, "data", cached), "other candidates each time"
    assert plan._once(work, whole, "other data", cached) == work
