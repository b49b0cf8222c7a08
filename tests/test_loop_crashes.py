"""The loop killed at every moment: run again, it ends as if nothing had happened."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from forks import Forked
from loops import (  # noqa: F401 - fixtures
    SMALL,
    MakeConfig,
    crash_everywhere,
    crash_points,
    dumps,
    nothing_stays,
    shallow_model,
)
from outside import COMMAND, recorded

from guidestar import loop


def test_a_crash_at_every_kind_of_durable_step_changes_nothing(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shallow: dict[str, Any]
) -> None:
    """The chief test: a STAR run of two rounds dies at a store write or a file write, is run again, and must
    hold the same picks, answers, adapters, arrays and metrics as the uninterrupted run, to the last bit.

    Covered: the first and the last occurrence of every kind of step in every round, which is every step but
    the answers between a round's first and last; of those, four by lot. Every restart loads the model anew. A third
    round takes the steps of the second; crashes in one are among those of the two strategies below.
    """
    changes = {**SMALL, "query": {**SMALL["query"], "budget": 14}, "model": shallow}
    made = crash_everywhere(
        make_config, tmp_path, monkeypatch, lambda steps: crash_points(steps, 4), strategies=["star"], **changes
    )
    assert made > 60


def test_crashes_of_a_run_with_two_strategies_change_nothing(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shallow: dict[str, Any]
) -> None:
    """The same for STAR with k-centre and plain k-centre, each round from the last one's adapter; the second
    copies the first one's warm start and shares its cache.

    Covered: the steps of the second strategy's warm start, and twelve of all the others by lot.
    """

    def choose(steps: list[str]) -> list[int]:
        second = steps.index("finish" if "finish" in steps else "committed finish") + 1
        copied = range(steps.index("make round-000", second), steps.index("committed add_metrics 0", second))
        others = sorted(set(range(len(steps))) - set(copied))
        return sorted([*copied[::3], *random.Random(1).sample(others, 12)])

    changes = {**SMALL, "train": {**SMALL["train"], "start": "previous"}, "model": shallow}
    crash_everywhere(make_config, tmp_path, monkeypatch, choose, strategies=["star_diverse", "k_center"], **changes)


def test_a_run_killed_again_and_again_ends_as_if_nothing_had_happened(make_config: MakeConfig, tmp_path: Path) -> None:
    """`guidestar run` is killed (SIGKILL) whenever it has recorded a random number of things more than the time
    before, and run again, until one process comes to the end."""
    changes = {**SMALL, "train": {**SMALL["train"], "epochs": 8}}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    loop.run(make_config(out=str(whole), strategies=["star", "random"], **changes))
    file = tmp_path / "killed.json"  # JSON is YAML
    file.write_text(json.dumps(make_config(out=str(killed), strategies=["star", "random"], **changes)))
    lot, deaths, goal = random.Random(7), 0, 0
    while True:
        goal = recorded(killed) + lot.randint(10, 20)
        command = [*COMMAND, "run", "--quiet", str(file)]
        with Forked(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            while process.poll() is None and recorded(killed) < goal:
                time.sleep(0.005)
            process.kill()
            assert process.stderr is not None
            errors = process.stderr.read().decode()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, errors
        deaths += 1
    assert deaths >= 4, f"the run was killed {deaths} times only: it says nothing"
    assert dumps(killed) == dumps(whole)
