"""A study on a Ray cluster and as jobs through submitit: workers are killed, and the results are those of one process."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from forks import Family
from studies import results_of, stored_of, write
from test_executors import Fragile

from guidestar import executors, loop, scoring
from guidestar.asking import LABELS, Ask, Lesson
from guidestar.bench import Bench, read_config
from guidestar.executors import Crew, Worker
from guidestar.model.spread import Spread
from guidestar.report import summary
from guidestar.store import Store
from guidestar.store.remote import Remote
from guidestar.study import cells
from guidestar.study.grid import run_study

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray cluster of two CPUs on this machine."""
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, object_store_memory=80 * 2**20, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def found(out: Path) -> dict[str, Any]:
    """All that is measured and stored of the runs with the first adapter and seed."""
    results = {name: one for name, one in results_of(out).items() if "/lora/" in name and name.endswith("/seed0")}
    stored = {name: one for name, one in stored_of(out, "tickets/tiny/lora").items() if name.endswith("-seed0")}
    return results | stored


@pytest.fixture(scope="module")
def whole(plain: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process makes of them."""
    folder = tmp_path_factory.mktemp("whole")
    _, text, code = run_study(some(folder, plain, use="local", workers=1))
    assert code == 0, text
    return found(folder / "study")


def some(folder: Path, plain: dict[str, Any], **engine: Any) -> Path:
    """The file of a study of these runs alone."""
    return write(folder, plain, peft=plain["peft"][:1], seeds=[0], engine={"cells": engine})


class Killer(threading.Thread):
    """Kills workers at random moments while they have a cell, by the process that its `run.lock` names."""

    def __init__(self, places: list[Path], times: int, seed: int) -> None:
        super().__init__(daemon=True)
        self.places, self.times, self.rng, self.killed = places, times, random.Random(seed), list[int]()

    def run(self) -> None:
        while len(self.killed) < self.times:
            time.sleep(self.rng.uniform(0.05, 0.6))
            locks = [file for place in self.places for file in place.glob("*/run.lock")]
            for pid in {int(file.read_text().partition(" ")[0] or 0) for file in locks} - {
                0,
                *self.killed,
                os.getpid(),
            }:
                os.kill(pid, signal.SIGKILL)
                self.killed.append(pid)
                break


def scratches(path: Path) -> list[Path]:
    from guidestar.study.compose import load_study

    return [cells._scratch(cell) for cell in load_study(path).cells]


def test_workers_of_ray_are_killed_and_the_results_are_those_of_one_process(
    cluster: None, plain: dict[str, Any], whole: dict[str, Any], tmp_path: Path
) -> None:
    path = some(tmp_path, plain, use="ray", workers=1)
    killer = Killer(scratches(path), 1, seed=2)
    killer.start()
    facts, text, code = run_study(path)
    killer.join(timeout=1)
    assert (facts["done"], code) == (2, 0), text
    assert killer.killed, "nobody was killed, so this showed nothing"
    assert found(tmp_path / "study") == whole
    home = tmp_path / "study" / "runs" / "tickets" / "tiny" / "lora"
    assert {row["strategy"] for row in summary(home)["strategies"]} == {"random", "star"}
    assert not [place for place in scratches(path) if place.exists()], "a scratch folder was left"


class Here(Crew):
    """Workers in this process: what goes in and out is text all the same."""

    def begin(self, i: int) -> Worker:
        return Fragile([], threading.Lock())


@pytest.mark.parametrize("place", ["local", "bucket", "ray"])
def test_a_pool_is_scored_by_workers_as_by_one_process(
    place: str, request: pytest.FixtureRequest, make_config: Callable[..., dict[str, Any]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The bare model, and dropout passes under an adapter with masks by part: equal to the last bit; on Ray and here also with
    a bucket in the place of a common folder, where a command that ended left a part."""
    if on_ray := place == "ray":
        request.getfixturevalue("cluster")
    monkeypatch.setitem(executors.EXECUTORS, "local", Here)
    url = {} if place == "local" else {"folder": f"file://{tmp_path / 'bucket'}"}
    here, away = (Bench(read_config(made)) for made in both(make_config, "ray" if on_ray else "local", url))
    pool = list(here.pool[:40])
    labelled = [(example, here.dataset.gold[example.id]) for example in pool[:8]]
    here.engine.trainer(here.config, "data")(Lesson(labelled=labelled, seed=0), tmp_path / "adapter")
    asks = [(None, LABELS), (tmp_path / "adapter", Ask.of(["label_log_probs", "embedding"], passes=2, seed=3))]
    for i, (adapter, ask) in list(enumerate(asks))[on_ray:]:  # a worker of Ray takes seconds to begin
        whole = here.parts(tmp_path / f"here-{i}", adapter)(pool, ask)
        spread = away.parts(tmp_path / f"away-{i}", adapter)
        assert isinstance(spread, Spread)
        parts = spread(pool, ask)
        assert parts.ids == whole.ids
        for name, array in whole.arrays.items():
            np.testing.assert_array_equal(parts.arrays[name], array)
        assert len(list((tmp_path / f"away-{i}").glob("part-*"))) == 3
        some = next((tmp_path / f"away-{i}").glob("part-*"))
        if url:
            assert {p.suffix for p in (tmp_path / "bucket").iterdir()} == ({".zip"} if adapter else set())
            Remote(url["folder"]).put(some.name, some.read_bytes())
        if not on_ray:
            some.unlink()
            np.testing.assert_array_equal(spread(pool, ask).arrays["label_log_probs"], whole.arrays["label_log_probs"])


def both(
    make_config: Callable[..., dict[str, Any]], use: str, more: dict[str, str], **changes: Any
) -> list[dict[str, Any]]:
    """A configuration whose pools are scored here, and the same by workers. more: keys of their engine."""
    workers = {"use": use, "workers": 1 + (use == "ray"), "part": 16, **more}
    score: list[dict[str, Any]] = [{"use": "here", "part": 16}, workers]
    return [make_config(**changes, train={"epochs": 1}, engine={"score": one}) for one in score]


def test_a_run_and_a_file_are_scored_by_workers(
    make_config: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores, picks and rows are those of one process to the last bit, with masks of dropout drawn by part."""
    monkeypatch.setitem(executors.EXECUTORS, "local", Here)
    made, query = [], {"warm_start": 6, "batch": 4, "budget": 10, "candidates": 40}
    for one in both(make_config, "local", {}, strategies=[{"use": "mc_entropy", "passes": 2}], query=query):
        given = one | {"out": str(tmp_path / one["engine"]["score"]["use"])}
        loop.run(given)
        run = Path(given["out"]) / "mc_entropy-seed0"
        with Store.open(run, read=True) as store:
            scores, picks = store.arrays(1, "scores"), [pick.id for pick in store.query(1).picks]
        texts = [{"text": example.fields["text"]} for example in list(Bench(read_config(given)).pool)[:40]]
        (file := tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
        adapter = str(run / "adapters" / "round-001")
        if one["engine"]["score"]["use"] != "here":  # the file's parts go through a folder that stands for a bucket
            given["engine"]["score"]["folder"] = f"file://{tmp_path / 'bucket'}"
        rows = list(scoring.score_file(read_config(given), str(file), measures=["bald"], passes=2, adapter=adapter))
        made.append((scores["score"].tolist(), picks, rows))
    assert made[0] == made[1]
    assert len(made[0][2]) == 40


def test_jobs_through_submitit_make_the_same(
    plain: dict[str, Any], whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its local executor stands for Slurm; a job that was killed is submitted again. Jobs and what watches them are forked."""
    submitit = pytest.importorskip("submitit")
    monkeypatch.setattr(submitit.local.local, "subprocess", SimpleNamespace(Popen=Family))
    monkeypatch.setattr(submitit.core.core.Job, "_results_timeout_s", 1)
    options = {"cluster": "local", "folder": str(tmp_path / "jobs"), "timeout_min": 10}
    path = some(tmp_path, plain, use="slurm", workers=2, options=options)
    killer = Killer(scratches(path), 1, seed=1)
    killer.start()
    facts, text, code = run_study(path)
    assert (facts["done"], code) == (2, 0), text
    assert killer.killed, "nobody was killed, so this showed nothing"
    assert found(tmp_path / "study") == whole
