"""BEAST in training: when it ends, which epoch is kept, and that it changes nothing before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asked import train
from conftest import LABELS
from safetensors.torch import load_file
from test_predict import PEFT, choice, examples

from guidestar import config as configs
from guidestar.bench import Bench
from guidestar.config import TrainConfig
from guidestar.errors import ConfigError
from guidestar.metrics.smoothness import smoothness
from guidestar.model import adapters, beast
from guidestar.model.states import layer_states

LABELLED = [(e, LABELS[i % 6]) for i, e in enumerate(examples())]


def smooth_in(rows: dict[int, list[float]]) -> Any:
    """Invented smoothness of 3 layers, by the epoch; counts how often it was asked."""
    asked: list[int] = []

    def alphas(base: Any, model: Any, some: Any, classes: Any) -> list[float]:
        asked.append(beast.FIRST + len(asked))
        return rows.get(asked[-1], [0.1, 0.1, 0.9])

    return alphas, asked


@pytest.mark.parametrize(("turns", "ends"), [(6, 7), (8, 9), (None, 12)])
def test_it_ends_one_epoch_after_the_middle_leads(
    base: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turns: int | None, ends: int
) -> None:
    alphas, asked = smooth_in({turns: [0.1, 0.9, 0.1]} if turns else {})
    monkeypatch.setattr(beast, "_alphas", alphas)
    config = TrainConfig(epochs=12, batch_size=8, learning_rate=1e-3, early_stop="beast")
    found = train(base, PEFT, config, LABELLED, choice(), tmp_path / "a", seed=0)
    assert len(found.losses) == ends
    assert found.best_epoch == ends - 1
    assert asked == list(range(6, (turns or 12) + 1)), (
        "no forest is fitted before the rule looks, or after it has spoken"
    )
    plain = train(
        base, PEFT, config.model_copy(update={"early_stop": None}), LABELLED, choice(), tmp_path / "b", seed=0
    )
    assert plain.losses[:ends] == found.losses, "watching changes nothing of the training"


def test_its_numbers_are_those_of_the_layers(base: Any) -> None:
    model = adapters.attach(base, {**PEFT, "init_lora_weights": False}, seed=1)
    some = [e for e, _ in LABELLED]
    classes = np.array([LABELS.index(a) for _, a in LABELLED])
    model.train()
    found = beast._alphas(base, model, some, classes)
    model.eval()
    twin = [smoothness(layer, classes) for layer in layer_states(base, model, some)]
    np.testing.assert_array_equal(found, twin)
    adapters.detach(model)


def test_the_smoothest_epoch_is_kept(base: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twin: a training that ends there, on the same schedule."""
    config = TrainConfig(epochs=5, batch_size=8, learning_rate=1e-3, early_stop="smoothest_epoch")
    alphas = iter([[0.2, 0.2], [0.1, 0.5], [0.6, 0.2], [0.3, 0.3], [0.7, 0.0]])
    monkeypatch.setattr(beast, "_alphas", lambda *args: next(alphas))
    found = train(base, PEFT, config, LABELLED, choice(), tmp_path / "a", seed=0)
    assert found.best_epoch == 2
    np.testing.assert_allclose(found.validation_losses, [-0.2, -0.3, -0.4, -0.3, -0.35])
    steps = found.steps
    short = TrainConfig(epochs=3, batch_size=8, learning_rate=1e-3, schedule_steps=steps)
    train(base, PEFT, short, LABELLED, choice(), tmp_path / "b", seed=0)
    kept, twin = (load_file(tmp_path / name / "adapter_model.safetensors") for name in "ab")
    assert kept.keys() == twin.keys()
    for name, tensor in kept.items():
        np.testing.assert_array_equal(tensor.numpy(), twin[name].numpy())


@pytest.mark.parametrize(
    "labelled", [LABELLED, [row for row in LABELLED if row[1] == LABELS[0]]], ids=["six", "one class"]
)
def test_without_a_smoothness_the_last_epoch_is_kept(
    base: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labelled: list[Any]
) -> None:
    monkeypatch.setattr(beast, "_alphas", lambda *args: [0.5, float("nan")])
    config = TrainConfig(epochs=3, batch_size=8, learning_rate=1e-3, early_stop="smoothest_epoch")
    found = train(base, PEFT, config, labelled, choice(), tmp_path / "a", seed=0)
    assert found.best_epoch == 2
    assert found.validation_losses == (0.0, 0.0, 0.0)


def test_the_smoothest_epoch_on_real_layers(base: Any, tmp_path: Path) -> None:
    config = TrainConfig(epochs=3, batch_size=8, learning_rate=1e-2, early_stop="smoothest_epoch")
    found = train(base, PEFT, config, LABELLED, choice(), tmp_path / "a", seed=0)
    assert max(found.validation_losses) < 0
    assert found.validation_losses[found.best_epoch] == min(found.validation_losses)


def test_it_runs_on_real_layers(base: Any, tmp_path: Path) -> None:
    config = TrainConfig(epochs=7, batch_size=8, learning_rate=1e-2, early_stop="beast")
    assert len(train(base, PEFT, config, LABELLED, choice(), tmp_path / "a", seed=0).losses) == 7


def test_what_it_cannot_go_with(make_config: Any) -> None:
    with pytest.raises(ConfigError, match=r"early_stop.*together with train.patience"):
        configs.parse(make_config(train={"patience": 1, "early_stop": "beast"}, data={"validation": "x.csv"}))
    for rule in ("beast", "smoothest_epoch"):
        config = make_config(train={"early_stop": rule}, task={"kind": "text"}, strategies=["random"])
        with pytest.raises(
            ConfigError, match=f"{rule} asks how smooth classes are, which the task kind 'text' does not"
        ):
            Bench(configs.parse(config)).check()
