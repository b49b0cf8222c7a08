"""A training that moves a model with few labels: a floor of steps, weighted answers, keys that are gone."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import literal
import pytest
import torch
from asked import train
from conftest import LABELS
from hypothesis import given
from hypothesis import strategies as some
from safetensors.torch import load_file
from test_classify import LORA
from test_classify import headed as headed
from test_predict import PEFT, choice, examples
from test_train import LABELLED

from guidestar.config import RunConfig, TrainConfig, fingerprint, parse
from guidestar.errors import ConfigError
from guidestar.model import adapters, recipe
from guidestar.model.train import _loss, _Row, _rows

LONG = {"min_steps": 21, "epochs": 1, "batch_size": 4, "learning_rate": 1e-2}
SHORT = "10 labels make 20 optimiser steps, and the model hardly moves in fewer than 30;"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


# --- the configuration ---


def test_an_older_configuration_keeps_its_keys_and_its_fingerprint() -> None:
    """A run that was begun before there were recipes goes on: nothing in its key has changed."""
    plain = RunConfig(data={"pool": "a.csv", "template": "{text}"}, task={"kind": "choice"}).plain()
    assert plain["train"] == {
        "epochs": 6, "batch_size": 8, "micro_batch_size": None, "learning_rate": 5e-4, "warmup": 0.1, "clip": 1.0,
        "b_decay": 0.5, "weight_decay": 0.0, "b_dropout": None, "schedule_steps": None, "start": "base", "patience": 0,
        "early_stop": None,
    }  # fmt: skip
    assert fingerprint(plain["train"]) == "75da6e89270e561134346bc9ad538549a380ed8caa9891b7af79dbe8ad09eb57"


given_keys = some.fixed_dictionaries(
    {},
    optional={
        "recipe": some.sampled_from(["plain", "lean", None]),
        "min_steps": some.none() | some.integers(0, 1000),
        "learning_rate": some.sampled_from([1e-3, 5e-4]),
        "epochs": some.integers(1, 50),
    },
)


@given(
    given_keys, some.sampled_from(["words", "head", "features"]), some.sampled_from(["LORA", "FULL", "full", "SERIES"])
)
def test_what_is_given_stays_and_what_is_not_is_filled_in(keys: dict[str, Any], answers: str, kind: str) -> None:
    config = TrainConfig(**keys)
    assert TrainConfig(**config.model_dump()) == config, "written and read again it is the same"
    model = ({"words": "", "head": "classifier"}.get(answers, answers), {"peft_type": kind})
    found = recipe.settled(config, *model)
    assert recipe.settled(found, *model) == found
    for name, value in keys.items():
        if value is not None:
            assert getattr(found, name) == value
    filled = vars(recipe.LEAN[answers, "full" if kind.lower() == "full" else "adapter"])
    for name in ("min_steps", "learning_rate"):
        if keys.get(name) is None:
            plain = {"learning_rate": 5e-4}.get(name, 0)
            assert getattr(found, name) == (filled[name] if keys.get("recipe") == "lean" else plain), name


def test_keys_that_are_gone_mean_nothing_at_their_defaults_and_are_refused_otherwise() -> None:
    data = {"data": {"pool": "a.csv", "template": "{text}"}, "task": {"kind": "choice"}}
    assert parse({**data, "train": {"average": 0.0, "head_first": False}}) == parse(data)
    for key, value in (("average", 0.25), ("head_first", True)):
        with pytest.raises(ConfigError, match=f"{key} is gone: it brought nothing .docs/training.md.; leave it out"):
            parse({**data, "train": {key: value}})
    with pytest.raises(ConfigError, match=r"train.learning_rate is empty; give a number, or train.recipe: lean"):
        parse({**data, "train": {"learning_rate": None}})


@pytest.mark.parametrize(
    ("keys", "head", "labels", "said"),
    [
        ({}, "mean", 50, "50 labels make 42 optimiser steps, and a new classification head hardly moves in fewer than"),
        ({"epochs": 1}, "", 1, "1 label makes 1 optimiser step, and the model hardly moves in fewer than 30; give"),
        ({"recipe": "lean"}, "classifier", 10, ""),
        (
            {"recipe": "lean", "schedule_steps": 20},
            "",
            10,
            "10 labels make 20 optimiser steps, and the model hardly",
        ),
        ({"min_steps": 20}, "", 10, f"{SHORT} give more than 20 train.min_steps, or train.recipe: lean in its place"),
        ({"recipe": "lean", "min_steps": 20}, "", 10, f"{SHORT} give a larger train.min_steps, or none"),
        ({"min_steps": 99, "schedule_steps": 20}, "", 10, f"{SHORT} give a larger train.schedule_steps, or none"),
        ({"epochs": 50}, "classifier", 100, ""),
        ({}, "", 400, ""),
    ],
)
def test_a_training_that_is_too_short_is_called_so(keys: dict[str, Any], head: str, labels: int, said: str) -> None:
    found = recipe.too_short(recipe.settled(TrainConfig(**keys), head, {}), head, labels)
    assert found.startswith(said) if said else not found


def test_a_study_may_set_them_in_its_base_its_parts_and_on_the_command_line(tmp_path: Path) -> None:
    from guidestar.study.compose import load_study

    path = tmp_path / "study.yaml"
    path.write_text(
        """
datasets: [{name: trec-6}]
models: [smollm2-135m]
peft:
  - {name: plain, peft: {peft_type: LORA}}
  - {name: lean, peft: {peft_type: LORA}, train: {recipe: lean, learning_rate: null}}
strategies: [random]
seeds: [0]
base:
  train: {learning_rate: 0.003}
"""
    )
    plain, lean = (c.config.train for c in load_study(path, ["base.train.min_steps=300"]).cells)
    assert (plain.recipe, plain.min_steps, plain.learning_rate) == (None, 300, 0.003)
    assert (lean.recipe, lean.min_steps, lean.learning_rate) == ("lean", 300, None)


# --- steps ---


def test_epochs_go_on_until_there_are_enough_steps(base: Any, tmp_path: Path) -> None:
    ticks: list[tuple[int, int]] = []
    config = TrainConfig(**LONG)
    done = train(base, PEFT, config, LABELLED, choice(), tmp_path / "a", seed=0, tick=lambda *step: ticks.append(step))
    batches = math.ceil(len(LABELLED) / 4)
    epochs = math.ceil(21 / batches)
    assert recipe.epochs(config, len(LABELLED)) == epochs == len(done.losses)
    assert done.steps == epochs * batches >= 21
    assert ticks == [(k + 1, done.steps) for k in range(done.steps)]
    assert done.dynamics is not None
    assert len(done.dynamics.log_probs) == epochs, "whole passes only"
    train(base, PEFT, TrainConfig(**{**LONG, "min_steps": None, "epochs": epochs}), LABELLED, choice(),
          tmp_path / "b", seed=0)  # fmt: skip
    assert all(
        torch.equal(a, b)
        for a, b in zip(weights(tmp_path / "a").values(), weights(tmp_path / "b").values(), strict=True)
    )


def test_it_is_the_plain_training_where_nothing_is_asked_for(base: Any, tmp_path: Path) -> None:
    for name, keys in (("a", {}), ("b", {"recipe": "plain", "min_steps": 2})):
        train(base, PEFT, TrainConfig(epochs=2, batch_size=4, **keys), LABELLED, choice(), tmp_path / name, seed=3)
    assert (tmp_path / "a/adapter_model.safetensors").read_bytes() == (
        tmp_path / "b/adapter_model.safetensors"
    ).read_bytes()


def test_the_same_seed_gives_the_same_bytes(headed: Any, tmp_path: Path) -> None:
    config = TrainConfig(recipe="lean", min_steps=8, epochs=1)
    for name in ("a", "b"):
        train(headed, LORA, config, LABELLED, choice(), tmp_path / name, seed=1)
    assert (tmp_path / "a/adapter_model.safetensors").read_bytes() == (
        tmp_path / "b/adapter_model.safetensors"
    ).read_bytes()


# --- answers that count less ---


def test_a_weighted_loss_is_the_weighted_sum(base: Any) -> None:
    task = choice(response="the topic is {answer}")
    rows, _ = _rows(base, task, LABELLED)
    scale = [1.0, 0.25, 0.0, 2.0]
    weighted = [_Row(row.prompt, row.response, -1, scale[i % 4]) for i, row in enumerate(rows)]
    slow = sum(
        scale[i % 4] * literal.teacher_forced(base, base.model, e.prompt, f"the topic is {a}")[0]
        for i, (e, a) in enumerate(LABELLED)
    )
    assert math.isclose(float(_loss(base, base.model, weighted)), slow, rel_tol=1e-4)


@pytest.mark.parametrize("peft", [LORA])
def test_extra_answers_count_what_they_weigh(headed: Any, tmp_path: Path, peft: dict[str, Any]) -> None:
    """Without weight they change nothing but the company in a batch; the more they weigh, the more they are believed."""
    known, others = LABELLED[:6], examples()[6:12]
    plain = {**peft, "lora_dropout": 0.0}
    config = TrainConfig(epochs=12, batch_size=12, learning_rate=1e-2)
    said = {}
    for weight in (0.0, 0.1, 1.0):
        extra = [(e, LABELS[0], weight) for e in others]
        done = train(headed, plain, config, known, choice(), tmp_path / str(weight), seed=0, extra=extra)
        assert done.dynamics is not None
        assert done.dynamics.ids == tuple(e.id for e, _ in known), "only of labels is kept what was said to them"
        with adapters.adapted(headed, tmp_path / str(weight)) as model:
            rows, _ = _rows(headed, choice(), [(e, LABELS[0]) for e in others])
            with torch.no_grad():
                said[weight] = float(_loss(headed, model, rows))
    assert said[1.0] < said[0.1] < said[0.0]


def test_a_soft_answer_is_several_with_a_share_each(headed: Any) -> None:
    """−Σ q log p of one text, literally."""
    (row, *_), _ = _rows(headed, choice(), LABELLED)
    shares = [0.5, 0.3, 0.2]
    with torch.no_grad():
        log_p = torch.log_softmax(headed.model(input_ids=torch.tensor([row.prompt])).logits[0].double(), -1)
        found = _loss(headed, headed.model, [_Row(row.prompt, [k], -1, q) for k, q in enumerate(shares)])
    assert math.isclose(float(found), -sum(q * float(log_p[k]) for k, q in enumerate(shares)), rel_tol=1e-5)


# --- a run ---


def test_a_run_trains_by_its_recipe_and_says_how(make_config: Callable[..., dict[str, Any]]) -> None:
    from guidestar.loop import Run, oracle
    from guidestar.progress import Silent

    class Heard(Silent):
        lines: list[str] = []  # noqa: RUF012

        def say(self, text: str) -> None:
            self.lines.append(text)

    keys = {"recipe": "lean", "min_steps": 9, "epochs": 1, "learning_rate": None}
    config = make_config(strategies=["random"], query={"budget": 12}, train=keys)
    with Run(config, progress=Heard()) as run:
        run.run(oracle(run.bench.dataset))
        settings = run.store.facts["training"]
    assert settings == {**settings, "min_steps": 9, "learning_rate": 5e-4}
    assert [line for line in Heard.lines if "warning" in line] == [
        "  warning: 12 labels make 10 optimiser steps, and the model hardly moves in fewer than "
        f"{recipe.FEW['words']}; give a larger train.min_steps, or none"
    ]
