"""The search of adapters: its space, its front against brute force, and that a kill changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loops import SMALL, MakeConfig, nothing_stays  # noqa: F401 - fixtures

from guidestar.config import parse
from guidestar.errors import ConfigError, ConfigMismatch
from guidestar.model import adapters
from guidestar.progress import Silent
from guidestar.study.compose import load_study
from guidestar.study.search import PARTS, Space, Trial, adapter_of, front, propose, search, sizes_of

pytest.importorskip("optuna")


def test_the_space_of_bert_base_has_the_published_size() -> None:
    space = Space(sizes_of(768), 12)
    assert space.sizes == (0, 1, 3, 6, 12, 24, 48, 96, 192, 384, 768)
    assert space.points == 5_451_776 == 11**3 * 2**12


def test_bert_base_has_as_many_numbers_as_the_formula_says() -> None:
    from peft import get_peft_model
    from transformers import BertConfig, BertModel

    with torch.device("meta"):
        bert = BertModel(BertConfig())
    options = {"peft_type": "AUTOPEFT", "series": 48, "parallel": 24, "prefix": 12, "task_type": "FEATURE_EXTRACTION"}
    series, parallel = 48 * (768 + 768) + 48 + 768, 24 * (3072 + 768) + 24 + 768
    assert adapters.numbers(get_peft_model(bert, adapters.make_config(options))) == 12 * (
        series + parallel + 2 * 12 * 768
    )


POINTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12)


@given(POINTS)
@settings(max_examples=200, deadline=None)
def test_the_front_is_what_nothing_beats(pairs: list[tuple[int, int]]) -> None:
    trials = [Trial({}, accuracy / 5, numbers) for accuracy, numbers in pairs]
    kept = front(trials)

    def beats(a: Trial, b: Trial) -> bool:
        return (
            a.numbers > 0
            and a.accuracy >= b.accuracy
            and a.numbers <= b.numbers
            and (a.accuracy, a.numbers) != (b.accuracy, b.numbers)
        )

    best = {(t.accuracy, t.numbers) for t in trials if t.numbers and not any(beats(o, t) for o in trials)}
    assert {(trials[i].accuracy, trials[i].numbers) for i in kept} == best
    assert len(kept) == len(best), "equal ones once"


def test_what_is_proposed_follows_from_the_trials_alone() -> None:
    space, done = Space((0, 1, 2, 4), 2), []
    for _ in range(5):
        one = propose(space, done, 6, 3)
        assert one == propose(space, list(done), 6, 3)
        assert set(one) == {*PARTS, "layer 0", "layer 1"}
        assert all(0 <= one[part] < 4 for part in PARTS)
        assert {one["layer 0"], one["layer 1"]} <= {0, 1}
        numbers = sum(space.sizes[one[part]] for part in PARTS) * (one["layer 0"] + one["layer 1"])
        done.append(Trial(one, numbers / 24, numbers))
    assert len({json.dumps(t.point, sort_keys=True) for t in done}) > 1


def test_a_point_is_an_adapter_or_nothing() -> None:
    space = Space((0, 1, 2), 3)
    point = {"series": 2, "parallel": 0, "prefix": 1, "layer 0": 1, "layer 1": 0, "layer 2": 1}
    assert adapter_of(space, point) == {
        "peft_type": "AUTOPEFT", "series": 2, "parallel": 0, "prefix": 1, "layers": [0, 2],
    }  # fmt: skip
    assert adapter_of(space, {**point, "series": 0, "prefix": 0}) is None
    assert adapter_of(space, {**point, "layer 0": 0, "layer 2": 0}) is None


class Stopping(Silent):
    """Stops the work when a number of lines have been said."""

    def __init__(self, lines: int) -> None:
        self.lines = lines

    def say(self, text: str) -> None:
        if text.startswith("trial"):
            self.lines -= 1
            if not self.lines:
                raise KeyboardInterrupt


def test_a_search_that_was_killed_goes_on_as_one_that_was_not(make_config: MakeConfig, tmp_path: Path) -> None:
    def config(name: str, **changes: Any) -> Any:
        plain = make_config(strategies=["random"], **{**SMALL, **changes}) | {"out": str(tmp_path / name)}
        return parse(plain)

    facts, text = search(config("whole"), trials=4, progress=Silent())
    with pytest.raises(KeyboardInterrupt):
        search(config("killed"), trials=4, progress=Stopping(3))
    search(config("killed"), trials=4, progress=Silent())
    whole, killed = (
        json.loads((tmp_path / name / "search" / "trials.json").read_text()) for name in ("whole", "killed")
    )
    assert whole == killed
    assert len(whole["trials"]) == 4
    assert (tmp_path / "whole" / "search" / "front.png").stat().st_size > 1000
    assert facts["points"] == Space(sizes_of(64), 2).points or facts["points"] > 1000
    study = load_study(tmp_path / "whole" / "search" / "study.yaml")
    assert len(study.rows) == len(facts["front"]) > 0
    assert {cell.config.peft["peft_type"] for cell in study.cells} == {"AUTOPEFT"}
    assert f"guidestar study {tmp_path / 'whole' / 'search' / 'study.yaml'}" in text
    with pytest.raises(ConfigMismatch, match="is a search with another configuration"):
        search(config("whole", train={**SMALL["train"], "epochs": 2}), trials=4, progress=Silent())


def test_without_validation_data_there_is_no_search(make_config: MakeConfig, demo_data: Path) -> None:
    data = {"pool": str(demo_data / "pool.csv"), "template": "{text}", "answer": "label", "preset": None}
    plain = make_config(strategies=["random"], **SMALL)
    plain["data"] = data
    plain["task"] = {"kind": "choice"}
    with pytest.raises(ConfigError, match="judges by a validation set, for the test set chooses nothing"):
        search(parse(plain), trials=2, progress=Silent())
