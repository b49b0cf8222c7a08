"""The loop end to end on the tiny model: ask and tell, budgets, pools, schedules and other tasks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import LABELS
from loops import SMALL, MakeConfig, answer_all, dumps, labels_of, nothing_stays, picks, sums  # noqa: F401 - fixtures

from guidestar import loop
from guidestar.bench import read_config
from guidestar.errors import ConfigError, ConfigMismatch, DataError, StoreError
from guidestar.loop import Run
from guidestar.progress import Silent
from guidestar.records import Finished, Label, Skip, Stop
from guidestar.store import Store

# --- ask and tell ---------------------------------------------------------------------------------


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
        assert [entry.annotation for entry in run.store.annotations.history()] == [
            Label(LABELS[0], "person"),
            Label(LABELS[1], "person"),
        ]
        assert run.store.annotations.answers()[example.id] == Label(LABELS[1], "person")


def test_a_label_outside_the_set_is_refused_and_stores_nothing(make_config: MakeConfig) -> None:
    with Run(make_config(**SMALL)) as run:
        example = run.ask()[0]
        with pytest.raises(DataError) as caught:
            run.tell(example.id, "delivry")
        assert str(caught.value) == (
            f"answer to {example.id}: label 'delivry' is not one of: {', '.join(LABELS)}; did you mean 'delivery'?"
        )
        assert run.ask()[0] == example
        assert run.store.annotations.history() == []


def test_an_example_never_asked_cannot_be_answered(make_config: MakeConfig) -> None:
    with Run(make_config(**SMALL)) as run:
        asked = {e.id for e in run.ask()}
        other = next(e for e in run.bench.dataset.pool if e.id not in asked)
        for id in (other.id, "no such id"):
            with pytest.raises(StoreError, match=f"example {id} was never asked for, so it cannot be answered"):
                run.tell(id, LABELS[0])
        assert run.store.annotations.history() == []


@pytest.mark.filterwarnings("error::FutureWarning")  # one of PEFT's would meet everybody who calls this from Python
def test_a_skipped_example_is_not_asked_again_and_not_trained_on(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Skips cost no budget: the run goes on for more rounds than planned until the labels are there."""
    from guidestar.model.train import OwnTrainer

    trained: list[set[str]] = []
    real = OwnTrainer.__call__

    def spy(self: Any, lesson: Any, *rest: Any) -> Any:
        trained.append({example.id for example, _ in lesson.labelled})
        return real(self, lesson, *rest)

    monkeypatch.setattr(OwnTrainer, "__call__", spy)
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
        assert len(run.store.annotations.labelled()) == 16, "the budget counts labels"
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


# --- budgets, pools, candidates -------------------------------------------------------------------


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
    stored = next(iter(found.values()))["annotations"][0][1].answer
    assert (
        re.search(r"\n#### \d+$", stored) and "<<" not in stored
        if kind == "number"
        else stored in {"Ann", "Bo", "Cy", "Di"}
    )


def test_a_launcher_of_several_processes_is_refused(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun would have each of its processes make the whole run, in one folder."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    config = make_config()
    with pytest.raises(ConfigError, match=r"WORLD_SIZE is 2: .* start the command without a launcher"):
        loop.run(config)
    assert not Path(config["out"]).exists()
