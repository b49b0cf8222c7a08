"""The loop end to end on the tiny model: killed anywhere it ends the same, and it asks without seeing a label."""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import LABELS
from outside import COMMAND, recorded

from guidestar import loop
from guidestar.bench import Bench, read_config
from guidestar.errors import ConfigError, ConfigMismatch, DataError, ModelError, StoreError
from guidestar.loop import Run
from guidestar.progress import Silent
from guidestar.query.strategies import STRATEGIES
from guidestar.records import Finished, Label, Skip, Stop, Waiting
from guidestar.store import Store, files

MakeConfig = Callable[..., dict[str, Any]]

# Small enough for a hundred runs: two adapted layers a block, one epoch, a handful of examples everywhere.
SMALL: dict[str, Any] = {
    "data": {"test_limit": 10},
    "query": {"warm_start": 12, "batch": 2, "budget": 16, "candidates": 12},
    "train": {"epochs": 1, "batch_size": 16},
    "peft": {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "lora_dropout": 0.2, "target_modules": ["q_proj", "v_proj"]},
}


class Unflushed(sqlite3.Connection):
    """A database that does not wait for the disk."""

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        return super().execute("PRAGMA synchronous = OFF" if sql.startswith("PRAGMA synchronous") else sql, *values)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for the disk, for no power is cut here; and PEFT writes no model card, which is thrown away."""
    import peft

    monkeypatch.setattr(files, "_flush", lambda descriptor: None)
    monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Unflushed))
    monkeypatch.setattr(peft.PeftModel, "create_or_update_model_card", lambda *args: None)


def dumps(folder: Path | str) -> dict[str, Any]:
    """Run name -> all that must not depend on interruptions, every recorded file checked against its hash."""
    found = {}
    for place in sorted(Path(folder).glob("*/run.sqlite")):
        with Store.open(place.parent) as store:
            found[place.parent.name] = store.dump()
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


# --- crashes --------------------------------------------------------------------------------------


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
    **changes: Any,
) -> int:
    """Run whole; then crash at each chosen step of that run, run again, and compare. Returns the crashes made."""
    passed: list[str] = []
    patch.setattr(files, "step", passed.append)
    loop.run(make_config(out=str(tmp_path / "whole"), **changes))
    steps, expected = list(passed), dumps(tmp_path / "whole")
    assert all(dump["finished"] == "BUDGET" for dump in expected.values())

    points = choose(steps)
    for at in points:
        passed.clear()

        def crash(name: str, at: int = at) -> None:
            passed.append(name)
            if len(passed) > at:
                raise Crash

        folder = tmp_path / f"crash-{at}"
        config = make_config(out=str(folder), **changes)
        with patch.context() as inner:
            inner.setattr(files, "step", crash)
            with pytest.raises(Crash):
                loop.run(config)
        assert passed == steps[: at + 1], "two runs of one configuration pass through different steps"
        loop.run(config)
        assert dumps(folder) == expected, f"a crash at step {at}, {steps[at]!r}, changed the result"
        assert not list(folder.glob("*-seed*/**/.tmp-*")), "a leftover of the crash was not removed"
    return len(points)


def test_a_crash_at_every_kind_of_durable_step_changes_nothing(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chief test: a STAR run of three rounds dies at a store write or a file write, is run again, and must
    hold the same picks, answers, adapters, arrays and metrics as the uninterrupted run, to the last bit.

    Covered: the first and the last occurrence of every kind of step in every round, which is every step but
    the answers between a round's first and last; of those, four by lot. Every restart loads the model anew.
    """
    made = crash_everywhere(
        make_config, tmp_path, monkeypatch, lambda steps: crash_points(steps, 4), strategies=["star"], **SMALL
    )
    assert made > 90


def test_crashes_of_a_run_with_two_strategies_change_nothing(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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

    changes = {**SMALL, "train": {**SMALL["train"], "start": "previous"}}
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
        with subprocess.Popen(
            [*COMMAND, "run", "--quiet", str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as process:
            while process.poll() is None and recorded(killed) < goal:
                time.sleep(0.002)
            process.kill()
            assert process.stderr is not None
            errors = process.stderr.read().decode()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, errors
        deaths += 1
    assert deaths >= 4, f"the run was killed {deaths} times only: it says nothing"
    assert dumps(killed) == dumps(whole)


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


# --- no label is seen before it is asked ----------------------------------------------------------


def poisoned_picks(make_config: MakeConfig, out: Path, strategy: str, poison: bool) -> list[str]:
    """The picks of round 1, after the pool's labels that were not asked for were replaced (or not)."""
    config = make_config(
        out=str(out), strategies=[strategy], **{**SMALL, "query": {**SMALL["query"], "candidates": 60}}
    )
    bench = Bench(read_config(config))
    with Run(bench.config, bench=bench) as run:
        for example in run.ask():
            run.tell(example.id, bench.dataset.gold[example.id])
        if poison:
            asked, labels = run.store.asked(), bench.dataset.task.labels
            gold = {
                id: label if id in asked else labels[(labels.index(label) + 1) % len(labels)]
                for id, label in bench.dataset.gold.items()
            }
            bench.__dict__["dataset"] = dataclasses.replace(bench.dataset, gold=gold)
            bench.__dict__.pop("fitting", None)
        return [example.id for example in run.ask()]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_strategy_cannot_see_the_labels_of_the_pool(strategy: str, make_config: MakeConfig, tmp_path: Path) -> None:
    """Every label not asked for is replaced: the next picks are the same. Oracles see the change, which shows
    that the poison reaches as far as it should."""
    clean, poisoned = (poisoned_picks(make_config, tmp_path / str(p), strategy, p) for p in (False, True))
    if strategy.startswith("oracle_"):
        assert clean != poisoned, "the poison does not act, so the test says nothing"
    else:
        assert clean == poisoned


def test_examples_of_the_loop_hold_no_label(make_config: MakeConfig) -> None:
    with Run(make_config(**SMALL)) as run:
        for example in run.ask():
            assert set(example.fields) == {"text"}
            assert not hasattr(example, "label")
            assert example.prompt == f"Message: {example.fields['text']}\nTopic:"


# --- simulations only -----------------------------------------------------------------------------


@pytest.fixture
def unlabelled(tmp_path: Path, demo_data: Path) -> dict[str, Any]:
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


CHOICE = {"kind": "choice", "labels": LABELS}


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name.startswith("oracle_")])
def test_oracle_measures_are_refused_outside_a_simulation(
    strategy: str, make_config: MakeConfig, unlabelled: dict[str, Any], tmp_path: Path
) -> None:
    config = make_config(**{**SMALL, "data": unlabelled}, task=CHOICE, strategies=[strategy])
    with pytest.raises(
        ConfigError, match=rf"strategy {strategy}: measure 'oracle_predictive_entropy' needs the gold answer"
    ):
        Run(config)
    partly = [{"text": "known", "label": LABELS[0]}] + [{"text": f"message {i}", "label": ""} for i in range(30)]
    data = {**unlabelled, "pool": str(write_csv(tmp_path / "partly.csv", partly)), "answer": "label"}
    with pytest.raises(ConfigError, match="can be used in a simulation only"):
        Run({**config, "data": data})


def test_a_pool_without_answers_waits_for_people(make_config: MakeConfig, unlabelled: dict[str, Any]) -> None:
    config = make_config(**{**SMALL, "data": unlabelled}, task=CHOICE, strategies=["star", "random"])
    outcome = loop.run(config)
    assert outcome == {"star-seed0": Waiting(0, 12), "random-seed0": Waiting(0, 12)}
    assert loop.run(config) == outcome, "it waits for the same answers when it is run again"
    with Run(config) as run:
        for example in run.ask():
            assert run.tell(example.id, LABELS[len(example.prompt) % 6])
        outcome = run.run(lambda example: None)
        assert outcome == Waiting(1, 2)
        assert run.metrics()[0].values == {}, "without a test set nothing is measured, and the round is over"


# --- ask and tell ---------------------------------------------------------------------------------


def answer_all(run: Run, examples: Sequence[Any]) -> None:
    for example in examples:
        run.tell(example.id, run.bench.dataset.gold[example.id])


def test_asking_again_gives_the_same_until_it_is_answered(make_config: MakeConfig) -> None:
    config = make_config(**SMALL)
    with Run(config) as run:
        first = run.ask()
        assert len(first) == 12
        assert run.ask() == first
        run.tell(first[0].id, LABELS[0])
        assert run.ask() == first[1:]
    with Run(config) as run:
        assert run.ask() == first[1:], "what was asked and told is there when the run is opened again"
        answer_all(run, first[1:])
        second = run.ask()
        assert len(second) == 2
        assert not {e.id for e in first} & {e.id for e in second}
        assert run.adapter().name == "round-000"


def test_telling_twice_stores_once_and_a_correction_is_kept(make_config: MakeConfig) -> None:
    with Run(make_config(**SMALL)) as run:
        example = run.ask()[0]
        assert run.tell(example.id, LABELS[0]) is True
        assert run.tell(example.id, LABELS[0].upper()) is False, "the same label in another spelling is the same"
        assert run.tell(example.id, Label(LABELS[0], "person")) is False
        assert run.tell(example.id, LABELS[1]) is True
        assert [entry.answer for entry in run.store.history()] == [
            Label(LABELS[0], "person"),
            Label(LABELS[1], "person"),
        ]
        assert run.store.answers()[example.id] == Label(LABELS[1], "person")


def test_a_label_outside_the_set_is_refused_and_stores_nothing(make_config: MakeConfig) -> None:
    with Run(make_config(**SMALL)) as run:
        example = run.ask()[0]
        with pytest.raises(DataError) as caught:
            run.tell(example.id, "delivry")
        assert str(caught.value) == (
            f"answer to {example.id}: label 'delivry' is not one of: {', '.join(LABELS)}; did you mean 'delivery'?"
        )
        assert run.ask()[0] == example
        assert run.store.history() == []


def test_an_example_never_asked_cannot_be_answered(make_config: MakeConfig) -> None:
    with Run(make_config(**SMALL)) as run:
        asked = {e.id for e in run.ask()}
        other = next(e for e in run.bench.dataset.pool if e.id not in asked)
        for id in (other.id, "no such id"):
            with pytest.raises(StoreError, match=f"example {id} was never asked for, so it cannot be answered"):
                run.tell(id, LABELS[0])
        assert run.store.history() == []


def test_a_skipped_example_is_not_asked_again_and_not_trained_on(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Skips cost no budget: the run goes on for more rounds than planned until the labels are there."""
    from guidestar.model import train as train_room

    trained: list[set[str]] = []
    real = train_room.train

    def spy(base: Any, peft: Any, config: Any, labelled: Any, *rest: Any, **options: Any) -> Any:
        trained.append({example.id for example, _ in labelled})
        return real(base, peft, config, labelled, *rest, **options)

    monkeypatch.setattr(train_room, "train", spy)
    with Run(make_config(**SMALL, strategies=["star"])) as run:
        skipped: set[str] = set()
        asked: list[str] = []
        while examples := run.ask():
            asked += [e.id for e in examples]
            for i, example in enumerate(examples):
                if i == 0 < len(examples) - 1:
                    skipped.add(example.id)
                    run.tell(example.id, Skip("unclear"))
                else:
                    answer_all(run, [example])
        assert len(asked) == len(set(asked)), "an example was asked twice"
        assert not set().union(*trained) & skipped
        assert len(run.store.labelled()) == 16, "the budget counts labels"
        assert len(run.metrics()) > run.config.query.rounds
        assert run.store.finished() is Stop.BUDGET


def test_a_warm_start_without_a_single_label_is_refused_until_one_is_given(make_config: MakeConfig) -> None:
    with Run(make_config(**SMALL)) as run:
        first = run.ask()
        for example in first:
            run.tell(example.id, Skip())
        with pytest.raises(DataError, match="round 0: every example was skipped, so there is no label to train on"):
            run.ask()
        answer_all(run, first[:1])
        assert len(run.ask()) == 2


def test_the_newest_adapter_loads_with_peft_alone(make_config: MakeConfig) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    config = make_config(**SMALL, strategies=["star"])
    loop.run(config)
    with Run(config) as run:
        assert run.ask() == []
        assert [m.labels for m in run.metrics()] == [12, 14, 16]
        folder = run.adapter()
    assert folder.name == "round-002"
    base = AutoModelForCausalLM.from_pretrained(config["model"]["name"])
    assert PeftModel.from_pretrained(base, folder).active_peft_config.r == 4


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
        assert len(run.store.labelled()) == 14, "the labels are kept"


# --- the cache of what the base model says --------------------------------------------------------


def test_base_scores_are_computed_once_and_are_what_the_model_says(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later rounds and other strategies, here with the same arrays, read the first base pass from the cache."""
    from guidestar.model import basecache
    from guidestar.model.predict import predict

    calls: list[list[str]] = []

    def count(base: Any, model: Any, examples: Any, *rest: Any, **options: Any) -> Any:
        calls.append([e.id for e in examples])
        return predict(base, model, examples, *rest, **options)

    monkeypatch.setattr(basecache, "predict", count)
    twice = {"use": "star", "name": "again", "passes": 2}
    mixed = {"use": "entropy", "mix": {"schedule": "constant"}}
    config = make_config(
        **{**SMALL, "query": {**SMALL["query"], "candidates": None}}, strategies=["star", twice, mixed]
    )
    bench = Bench(read_config(config))
    loop.run(config)
    dataset = bench.dataset
    assert dataset.test is not None
    assert calls == [[e.id for e in dataset.test.examples], [e.id for e in dataset.pool]], (
        f"one pass over the test set for the report and one over the pool; found {list(map(len, calls))}"
    )

    needs = {"label_log_probs"}
    fresh = predict(bench.base, bench.base.model, dataset.pool, needs, dataset.task)
    cached = basecache.base_predictions(
        bench.cache, bench.base, dataset.pool, needs, dataset.task, data_hash=dataset.hash
    )
    assert len(calls) == 2, "that answer came from the cache"
    assert np.array_equal(cached.arrays["label_log_probs"], fresh.arrays["label_log_probs"])
    p = dict(zip(fresh.ids, fresh.arrays["label_log_probs"][0], strict=True))
    for name in ("star-seed0", "again-seed0", "entropy-seed0"):
        with Store.open(tmp_path / "run" / name) as store:
            for pick in store.query(2).picks:
                assert pick.details["base"] == pytest.approx(-(np.exp(p[pick.id]) * p[pick.id]).sum(), rel=1e-12)


@pytest.mark.parametrize("candidates", [None, 20])
def test_a_run_does_not_depend_on_who_filled_the_cache(
    candidates: int | None, make_config: MakeConfig, tmp_path: Path
) -> None:
    """The last bits of a score may depend on its batch, so what another seed asked before must not change it."""
    changes = {**SMALL, "query": {**SMALL["query"], "candidates": candidates}}
    found = []
    for seeds in ([0], [1, 0]):
        folder = tmp_path / f"{len(seeds)}"
        loop.run(make_config(out=str(folder), strategies=["star_diverse"], seeds=seeds, **changes))
        found.append(dumps(folder)["star_diverse-seed0"])
    assert found[0] == found[1]


def test_a_changed_base_model_does_not_get_the_others_scores(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from guidestar.model.basecache import base_predictions

    bench = Bench(read_config(make_config(**SMALL)))
    examples, task = bench.dataset.pool[:5], bench.dataset.task

    def ask(base: Any) -> np.ndarray:
        found = base_predictions(bench.cache, base, examples, {"label_log_probs"}, task, data_hash=bench.dataset.hash)
        return found.arrays["label_log_probs"]

    before = ask(bench.base)
    with torch.no_grad():
        bench.base.model.model.embed_tokens.weight.mul_(1.5)
    assert np.array_equal(ask(bench.base), before), "the same fingerprint reads the cache"
    assert not np.array_equal(ask(dataclasses.replace(bench.base, fingerprint="other")), before)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-9], "cannot be read as a safetensors file"),
        (lambda content: content[:-1] + bytes([content[-1] ^ 1]), "its content has changed since it was written"),
    ],
    ids=["truncated", "one bit"],
)
def test_a_damaged_cache_is_named_and_can_be_deleted(
    damage: Callable[[bytes], bytes], message: str, make_config: MakeConfig
) -> None:
    config = make_config(**{**SMALL, "query": {**SMALL["query"], "candidates": None}}, strategies=["star"])
    with Run(config) as run:
        answer_all(run, run.ask())
        second = run.ask()
        cache = list(run.bench.cache.iterdir())
        assert cache
        for file in cache:
            file.write_bytes(damage(file.read_bytes()))
    with Run(config) as run:
        answer_all(run, second)
        with pytest.raises(StoreError, match=rf"cache/base-[0-9a-f]{{16}}\.safetensors: {message}"):
            run.ask()
    for file in cache:
        file.unlink()
    with Run(config) as run:
        assert len(run.ask()) == 2


# --- budgets, pools, candidates -------------------------------------------------------------------


def labels_of(config: dict[str, Any], name: str) -> tuple[list[int], Stop | None]:
    with Store.open(Path(config["out"]) / name) as store:
        assert len(store.labelled()) == len(store.asked())
        return [m.labels for m in store.metrics()], store.finished()


@pytest.mark.parametrize(
    ("query", "labels"),
    [
        ({"budget": 12}, [12]),
        ({"budget": 16}, [12, 14, 16]),
        ({"budget": 15, "batch": 2}, [12, 14, 15]),
        ({"budget": 14, "batch": 50}, [12, 14]),
    ],
)
def test_the_budget_is_met_exactly(make_config: MakeConfig, query: dict[str, int], labels: list[int]) -> None:
    config = make_config(**{**SMALL, "query": {**SMALL["query"], **query}}, strategies=["margin"])
    assert loop.run(config) == {"margin-seed0": Finished(Stop.BUDGET)}
    assert labels_of(config, "margin-seed0") == (labels, Stop.BUDGET)
    assert read_config(config).query.rounds == len(labels)


def test_an_exhausted_pool_ends_the_run_and_says_so(make_config: MakeConfig) -> None:
    """The last batch is larger than what is left: it asks for that, says so, and the run ends as EMPTY."""
    said: list[str] = []

    class Listener(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    query = {**SMALL["query"], "batch": 5, "budget": 100, "candidates": 3}
    config = make_config(**{**SMALL, "data": {**SMALL["data"], "pool_limit": 19}, "query": query}, strategies=["star"])
    assert loop.run(config, Listener()) == {"star-seed0": Finished(Stop.EMPTY)}
    assert labels_of(config, "star-seed0") == ([12, 17, 19], Stop.EMPTY)
    assert "only 2 examples are left in the pool; asking for those instead of 5" in said
    assert Stop.EMPTY.value == "No unlabelled example is left."
    assert any(re.match(r"star seed 0 round 2: 19 labels, accuracy 0\.\d{3} \(score base \d", line) for line in said)


def test_only_the_candidates_are_scored(make_config: MakeConfig) -> None:
    config = make_config(**{**SMALL, "query": {**SMALL["query"], "candidates": 7}}, strategies=["entropy"])
    loop.run(config)
    with Store.open(Path(config["out"]) / "entropy-seed0") as store:
        for r in (1, 2):
            assert store.arrays(r, "scores")["score"].shape == (7,)
        counts = {(r, phase): count for r, phase, _, count in store.timings()}
    assert (counts[1, "score"], counts[2, "score"]) == (7, 7)


def test_a_share_of_every_batch_is_random(make_config: MakeConfig) -> None:
    query = {**SMALL["query"], "batch": 4, "budget": 20, "random_share": 0.5, "candidates": None}
    config = make_config(**{**SMALL, "query": query}, strategies=["entropy"])
    loop.run(config)
    with Store.open(Path(config["out"]) / "entropy-seed0") as store:
        for r in (1, 2):
            marks = [pick.details.get("random") for pick in store.query(r).picks]
            assert marks == [1.0, 1.0, None, None]
            scores = np.sort(store.arrays(r, "scores")["score"])[::-1]
            assert max(pick.score for pick in store.query(r).picks[2:]) >= scores[2], "the others are the highest left"


def test_rounds_may_start_from_the_last_adapter(make_config: MakeConfig, tmp_path: Path) -> None:
    """train.start: previous. The warm start is the same; afterwards the adapters differ."""
    for start in ("base", "previous"):
        changes = {**SMALL, "train": {**SMALL["train"], "start": start}}
        loop.run(make_config(out=str(tmp_path / start), strategies=["random"], **changes))
    base, previous = (dumps(tmp_path / start)["random-seed0"] for start in ("base", "previous"))
    assert base["queries"] == previous["queries"]
    assert base["adapters"][0] == previous["adapters"][0]
    assert base["adapters"][1] != previous["adapters"][1]


def test_labels_help_the_tiny_model(make_config: MakeConfig) -> None:
    """The loop teaches: with every label the tiny model is far above the untuned one and the majority."""
    config = make_config(
        data={"test_limit": None}, query={"warm_start": 160, "budget": 160}, strategies=["random"],
        train={"epochs": 8, "learning_rate": 1e-2, "batch_size": 16},
    )  # fmt: skip
    loop.run(config)
    with Store.open(Path(config["out"]) / "random-seed0") as store:
        base = store.arrays(0, "test_base")
        untuned = float((base["log_probs"].argmax(1) == base["gold"]).mean())
        tuned = store.metrics()[0].values["accuracy"]
        majority = store.facts["data"]["majority"]["share"]
    assert tuned > max(untuned, majority) + 0.1, f"tuned {tuned}, untuned {untuned}, majority {majority}"


# --- a schedule of one's own ----------------------------------------------------------------------


def fade(t: int, rounds: int) -> float:
    return 1 / (1 + t) ** 2


def test_a_users_schedule_weighs_base_and_full(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(**SMALL, strategies=["star"])
    with Run(config, schedule=fade) as run:
        assert run.run(loop.oracle(run.bench.dataset)) == Finished(Stop.BUDGET)
        for r in (1, 2):
            lam = 1 / r**2
            for pick in run.store.query(r).picks:
                assert pick.details["lambda"] == lam
                mixed = lam * pick.details["base"] + (1 - lam) * pick.details["full"]
                assert pick.score == pytest.approx(mixed, rel=1e-12)
    with pytest.raises(ConfigMismatch, match="schedule: begun with 'fade', now without it"):
        Run(config)


def test_a_schedule_outside_0_and_1_is_refused(make_config: MakeConfig) -> None:
    with Run(make_config(**SMALL, strategies=["star"]), schedule=lambda t, rounds: 1.5) as run:
        answer_all(run, run.ask())
        with pytest.raises(ConfigError, match=r"gave λ = 1\.5; allowed: a number from 0 to 1"):
            run.ask()


def test_a_strategy_that_is_not_in_the_configuration_is_refused(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match="strategy 'margin' is not in the configuration; allowed: star, random"):
        Run(make_config(**SMALL), strategy="margin")


# --- other tasks ----------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("kind", "answer", "strategies"),
    [
        ("number", "answer", ["star", "uncertain_k_center", "oracle_star"]),
        ("text", "name", ["star", "k_center", {"use": "response_entropy", "measure": "response_nll_mean"}]),
    ],
)
def test_tasks_with_a_written_answer_run_to_the_end(
    kind: str, answer: str, strategies: list[Any], make_config: MakeConfig, tmp_path: Path
) -> None:
    data = {
        "preset": None, "folder": None, "test_limit": 6, "pool": str(sums(tmp_path / "pool.jsonl", 60)),
        "test": str(sums(tmp_path / "test.jsonl", 12)), "answer": answer, "template": "{question}\n",
    }  # fmt: skip
    query = {"warm_start": 6, "batch": 3, "budget": 12, "candidates": 10}
    config = make_config(
        **{**SMALL, "data": data, "query": query}, task={"kind": kind, "max_new_tokens": 6}, strategies=strategies
    )
    outcomes = loop.run(config)
    assert set(outcomes.values()) == {Finished(Stop.BUDGET)}
    found = dumps(config["out"])
    for name, dump in found.items():
        assert [labels for _, labels, _ in dump["metrics"]] == [6, 9, 12]
        assert all(0 <= json.loads(values)["accuracy"] <= 1 for _, _, values in dump["metrics"]), name
    stored = next(iter(found.values()))["answers"][0][1].answer
    assert (
        re.search(r"\n#### \d+$", stored) and "<<" not in stored
        if kind == "number"
        else stored in {"Ann", "Bo", "Cy", "Di"}
    )


# --- one process at a time ------------------------------------------------------------------------


def test_a_second_process_on_a_run_folder_is_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(**SMALL, strategies=["star"])
    file = tmp_path / "run.json"
    file.write_text(json.dumps(config))
    with Run(config) as run:
        first = run.ask()
        with pytest.raises(StoreError, match="star-seed0: is open in this process already; close"):
            Run(config)
        second = subprocess.run([*COMMAND, "run", str(file)], capture_output=True, text=True)
        assert second.returncode == 1
        assert f"is in use by process {os.getpid()}; wait for its end or stop it" in second.stderr
        assert "Traceback" not in second.stderr
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


@pytest.fixture(autouse=True)
def _nothing_stays_on_the_base_model(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
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
