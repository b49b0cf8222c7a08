"""No label is seen before it is asked, and what reads gold answers runs in simulations only."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from conftest import LABELS
from loops import CHOICE, SMALL, MakeConfig, nothing_stays, picks, unlabelled_data, write_csv  # noqa: F401 - fixtures

from guidestar import loop
from guidestar.bench import Bench, read_config
from guidestar.errors import ConfigError
from guidestar.loop import Run
from guidestar.query.strategies import STRATEGIES
from guidestar.records import Waiting

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


@pytest.fixture(scope="module")
def experiments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds a clean and a poisoned experiment, in each of which the strategies share the training of the warm start."""
    return tmp_path_factory.mktemp("experiments")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_strategy_cannot_see_the_labels_of_the_pool(
    strategy: str, make_config: MakeConfig, experiments: Path
) -> None:
    """Every label not asked for is replaced: the next picks are the same. Oracles see the change, which shows
    that the poison reaches as far as it should."""
    clean, poisoned = (poisoned_picks(make_config, experiments / str(p), strategy, p) for p in (False, True))
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
