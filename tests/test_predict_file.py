"""`guidestar predict`: the answers of a run's adapter to a file, and nothing else's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guidestar import cli, loop
from guidestar import config as configs
from guidestar.bench import Bench
from guidestar.config import CONFIG_FILE
from guidestar.store import Store

SMALL = {
    "strategies": ["random"],
    "query": {"warm_start": 12, "batch": 4, "budget": 16, "candidates": None},
    "train": {"epochs": 2, "batch_size": 8},
}


@pytest.fixture
def run(make_config: Callable[..., dict[str, Any]], tmp_path: Path) -> Path:
    loop.run(make_config(**SMALL))
    return tmp_path / "run" / "random-seed0"


def rows_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[dict[str, Any]]:
    assert cli.main(["predict", "--quiet", *map(str, arguments)]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_answers_are_those_that_were_measured(run: Path, demo_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each round's answers to the test file give the accuracy that the run recorded for that round."""
    split = Bench(configs.load(run.parent / CONFIG_FILE)).dataset.test
    assert split is not None
    gold = {e.id: answer for e, answer in split.answered()}
    with Store.open(run) as store:
        measured = {m.round: m.values["accuracy"] for m in store.metrics()}
    for r, accuracy in measured.items():
        found = rows_of(capsys, run, demo_data / "test.csv", "--round", r)
        right = [row["answer"] == gold[row["id"]] for row in found if row["id"] in gold]
        assert len(right) == len(gold)
        assert np.mean(right) == pytest.approx(accuracy)
    assert found == rows_of(capsys, run.parent, demo_data / "test.csv"), "the last round's, of the only run inside"
    assert all(1 / 6 < row["probability"] <= 1 for row in found)


def test_a_text_too_long_for_the_model_stops_nobody_elses(
    run: Path, demo_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new.csv"
    file.write_text("text\nwhere is my parcel\n" + "word " * 3000 + "\nthe lamp is broken\n")
    found = rows_of(capsys, run, file)
    assert [sorted(row) for row in found] == [
        ["answer", "id", "probability", "where"],
        ["error", "id", "where"],
        ["answer", "id", "probability", "where"],
    ]
    assert found[1]["where"].endswith("line 3")
    assert "do not fit the model's context of" in found[1]["error"]
    file.write_text("text\n" + "word " * 3000 + "\n")
    assert [sorted(row) for row in rows_of(capsys, run, file)] == [["error", "id", "where"]]


def test_what_cannot_be_answered_is_said(
    run: Path, demo_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["predict", "--quiet", str(run), str(demo_data / "test.csv"), "--round", "9"]) == 1
    assert "round 9 has no adapter; allowed: 0, 1" in capsys.readouterr().err
    (tmp_path / "other.csv").write_text("words\nhello\n")
    assert cli.main(["predict", "--quiet", str(run), str(tmp_path / "other.csv")]) == 3
    assert "no column 'text'" in capsys.readouterr().err
