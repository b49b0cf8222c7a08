"""What must stay the same when a run is continued, what its runs share, and one process at a time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import LABELS
from forks import Forked
from loops import CHOICE, SMALL, Crash, MakeConfig, answer_all, dumps, nothing_stays, unlabelled_data  # noqa: F401 - fixtures
from outside import COMMAND

from guidestar import loop
from guidestar.errors import ConfigError, ConfigMismatch, DataError, ModelError, StoreError
from guidestar.loop import Run
from guidestar.store import files

# --- one warm start -------------------------------------------------------------------------------


def test_all_strategies_of_a_seed_have_the_same_warm_start(make_config: MakeConfig, tmp_path: Path) -> None:
    """Picks and adapter of round 0, shared between the runs of a folder or trained apart; another seed differs."""
    one_round = {**SMALL, "query": {**SMALL["query"], "budget": 12}}
    loop.run(
        make_config(out=str(tmp_path / "together"), strategies=["random", "star", "bald"], seeds=[0, 1], **one_round)
    )
    loop.run(make_config(out=str(tmp_path / "apart"), strategies=["k_center"], **one_round))
    found = {**dumps(tmp_path / "together"), **dumps(tmp_path / "apart")}
    starts = {name: (dump["queries"][0], dump["adapters"], dump["metrics"]) for name, dump in found.items()}
    first = starts["random-seed0"]
    assert starts["star-seed0"] == starts["bald-seed0"] == starts["k_center-seed0"] == first
    assert starts["star-seed1"] == starts["random-seed1"]
    assert starts["star-seed1"][0] != first[0]
    assert starts["star-seed1"][1] != first[1]


def test_an_adapter_trained_on_other_settings_is_not_shared(make_config: MakeConfig, tmp_path: Path) -> None:
    """The warm start of a run begun with another configuration stands in the same folder and must not be taken."""
    one_round = {**SMALL, "query": {**SMALL["query"], "budget": 12}}
    loop.run(make_config(strategies=["random"], **one_round))
    longer = {**one_round, "train": {**one_round["train"], "epochs": 3}}
    loop.run(make_config(strategies=["star"], **longer))
    found = dumps(tmp_path / "run")
    assert found["star-seed0"]["queries"] == found["random-seed0"]["queries"]
    assert found["star-seed0"]["adapters"] != found["random-seed0"]["adapters"]


def test_an_adapter_trained_before_a_correction_is_not_shared(make_config: MakeConfig, tmp_path: Path) -> None:
    """The labels are equal now, and were not when the other strategy's warm start was trained on them."""
    one_round = {**SMALL, "query": {**SMALL["query"], "budget": 12}}
    config = make_config(**one_round, strategies=["random", "star"])
    with Run(config, strategy="random") as run:
        first = run.ask()
        for example in first:
            run.tell(example.id, LABELS[0])
        assert run.ask() == []
        answer_all(run, first)
    alone = make_config(**one_round, strategies=["star"], out=str(tmp_path / "alone"))
    for settings in (config, alone):
        with Run(settings, strategy="star") as run:
            answer_all(run, run.ask())
            assert run.ask() == []
    found, expected = dumps(tmp_path / "run"), dumps(tmp_path / "alone")
    assert found["star-seed0"] == expected["star-seed0"]
    assert found["random-seed0"]["adapters"] != expected["star-seed0"]["adapters"]


# --- what must stay the same ----------------------------------------------------------------------


def test_a_changed_configuration_is_refused_by_key_and_values(make_config: MakeConfig) -> None:
    loop.run(make_config(**SMALL, strategies=["star"]))
    before = dumps(make_config()["out"])
    changed = {**SMALL, "train": {**SMALL["train"], "epochs": 2}, "peft": {**SMALL["peft"], "r": 8}}
    with pytest.raises(ConfigMismatch) as caught:
        loop.run(make_config(**changed, strategies=["star"]))
    lines = [line.strip() for line in str(caught.value).splitlines()]
    assert "train.epochs: begun with 1, now 2" in lines
    assert "peft.r: begun with 4, now 8" in lines
    assert len(lines) == 4, "only what differs is named, between two sentences"
    with pytest.raises(ConfigMismatch, match=r"strategy\.passes: begun with 3, now 5"):
        loop.run(make_config(**SMALL, strategies=[{"use": "star", "passes": 5}]))
    assert dumps(make_config()["out"]) == before, "a refusal changes nothing"


def test_other_seeds_strategies_and_places_are_no_change(make_config: MakeConfig, tmp_path: Path) -> None:
    """One may add strategies and seeds, and move the folder of the runs or of the data."""
    one_round = {**SMALL, "query": {**SMALL["query"], "budget": 12}}
    loop.run(make_config(**one_round, strategies=["star"]))
    outcomes = loop.run(make_config(**one_round, strategies=["star", "random"], seeds=[0, 5]))
    assert list(outcomes) == ["star-seed0", "random-seed0", "star-seed5", "random-seed5"]
    before = dumps(tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "moved")
    data = tmp_path / "data"
    data.mkdir()
    for file in Path(make_config()["data"]["folder"]).iterdir():
        (data / file.name).write_bytes(file.read_bytes())
    moved = {**one_round, "data": {**one_round["data"], "folder": str(data)}}
    loop.run(make_config(**moved, out=str(tmp_path / "moved"), strategies=["random"], seeds=[5]))
    assert dumps(tmp_path / "moved") == before


def test_changed_data_are_refused(make_config: MakeConfig, tmp_path: Path, unlabelled: dict[str, Any]) -> None:
    config = make_config(**{**SMALL, "data": unlabelled}, task=CHOICE)
    loop.run(config)
    path = Path(unlabelled["pool"])
    path.write_text(path.read_text() + "one more message\n")
    with pytest.raises(ConfigMismatch, match=r"data_hash: begun with '[0-9a-f]{64}', now '[0-9a-f]{64}'"):
        loop.run(config)


def test_what_cannot_work_is_said_before_anybody_labels(
    make_config: MakeConfig, demo_data: Path, tmp_path: Path
) -> None:
    """A run refuses a changed configuration, so a mistake found after the warm start would cost its labels."""
    files_of = {name: str(demo_data / f"{name}.csv") for name in ("pool", "test")}
    plain = {
        "preset": None,
        "folder": None,
        "test_limit": None,
        "answer": "label",
        "template": "Message: {text}\nTopic:",
    }
    words = {label: f"topic {label}" for label in LABELS[:2]} | {label: label for label in LABELS[2:]}
    long = tmp_path / "long.csv"
    long.write_text((demo_data / "test.csv").read_text() + f"{'word ' * 600},delivery\n")
    tiny = make_config()["model"]["name"]
    mistakes: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"task": {"kind": "choice", "labels": words}}, ConfigError, "both begin with the token"),
        ({"data": {**plain, **files_of, "test": str(long)}, "task": CHOICE}, DataError, r"long\.csv line 62; shorten"),
        ({"peft": {**SMALL["peft"], "target_modules": ["no_such_layer"]}}, ConfigError, "adapter does not fit the model"),
        ({"model": {"name": tiny, "chat": True}}, ConfigError, "the tokenizer has no chat template"),
        ({"model": {"name": str(tmp_path / "nowhere")}}, ModelError, "no such folder"),
        ({"data": {**plain, **files_of, "preset": "subj"}, "task": CHOICE, "train": {"patience": 2}}, ConfigError, "needs a validation set"),
    ]  # fmt: skip
    for changes, kind, message in mistakes:
        config = make_config(**{**SMALL, **changes})
        with pytest.raises(kind, match=message), Run(config) as run:
            run.ask()
        assert not (tmp_path / "run").exists(), f"{message}: something was left behind"
    with Run(make_config(**SMALL)) as run:
        assert len(run.ask()) == 12, "the same folder serves the mended configuration"


def test_a_crash_before_the_run_has_begun_does_not_skip_the_checks(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is there, nothing is recorded in it: a mistake made since is still found before anybody labels."""

    def crash(step: str) -> None:
        if step == "commit begin":
            raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(files, "step", crash)
        with pytest.raises(Crash):
            Run(make_config(**SMALL))
    with pytest.raises(ConfigError, match="adapter does not fit the model"):
        Run(make_config(**{**SMALL, "peft": {**SMALL["peft"], "target_modules": ["no_such_layer"]}}))
    with Run(make_config(**SMALL)) as run:
        assert len(run.ask()) == 12


def test_another_base_model_under_the_same_name_is_refused(
    make_config: MakeConfig, tmp_path: Path, tiny_folder: Path
) -> None:
    from safetensors.torch import load_file, save_file

    model = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    config = make_config(**SMALL, model={"name": str(model), "dtype": "float32"}, strategies=["star"])
    with Run(config) as run:
        answer_all(run, run.ask())
        second = run.ask()
    weights = load_file(model / "model.safetensors")
    save_file({n: w * 1.01 for n, w in weights.items()}, model / "model.safetensors", {"format": "pt"})
    with Run(config) as run:
        answer_all(run, second)
        with pytest.raises(
            ConfigMismatch, match=r"the model's fingerprint was [0-9a-f]+ when the run began, now it is"
        ):
            run.ask()
        assert len(run.store.annotations.labelled()) == 14, "the labels are kept"


# --- one process at a time ------------------------------------------------------------------------


def test_a_second_process_on_a_run_folder_is_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(**SMALL, strategies=["star"])
    file = tmp_path / "run.json"
    file.write_text(json.dumps(config))
    with Run(config) as run:
        first = run.ask()
        with pytest.raises(StoreError, match="star-seed0: is open in this process already; close"):
            Run(config)
        with Forked([*COMMAND, "run", str(file)], stderr=subprocess.PIPE, text=True) as second:
            _, said = second.communicate()
        assert second.returncode == 1
        assert f"is in use by process {os.getpid()}; wait for its end or stop it" in said
        assert "Traceback" not in said
        assert run.ask() == first, "the first is not disturbed"
    with Run(config) as run:
        assert run.ask() == first, "the lock is given back when the run is closed"


def test_a_run_that_cannot_begin_gives_its_folder_back(make_config: MakeConfig) -> None:
    config = make_config(**SMALL, strategies=["star"])
    loop.run(config)
    with pytest.raises(ConfigMismatch):
        Run({**config, "train": {"epochs": 7}})
    with Run(config) as run:
        assert run.ask() == []
