"""A head that reads the mean over an encoder's states: against its parts one text at a time, and wherever a model goes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from asked import predict, train
from conftest import LABELS
from test_classify import FULL, LORA
from test_predict import choice, examples
from test_train import LABELLED
from tiny_heads import tiny

from guidestar.config import ModelConfig, TrainConfig
from guidestar.errors import ConfigError
from guidestar.model import adapters, classify, heads
from guidestar.model.batches import pad_right
from guidestar.model.load import BaseModel, describe, load

TEXTS = [[5, 9, 12, 3, 7], [8, 30, 2], [17], [4, 4, 51, 20, 33, 9, 1]]


def literal(model: Any, text: list[int]) -> torch.Tensor:
    """The head's outputs for one text: its states without any hook, their mean, the head's module."""
    states = model.base_model.forward(input_ids=torch.tensor([text])).last_hidden_state
    (head,) = heads.trained(model).values()
    mean = states.mean(1)
    return head(mean)[0] if isinstance(head, torch.nn.Linear) else head(mean[:, None])[0]


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_it_is_the_head_on_the_mean_of_single_texts(kind: str) -> None:
    base = tiny(kind)
    before = classify.logits(base.model, pad_right(TEXTS, 0, base.device))
    heads.read(base.model, "mean", True, None)
    assert heads.reads(base.model) == "mean"
    with torch.no_grad():
        found = classify.logits(base.model, pad_right(TEXTS, 0, base.device))
        slow = torch.stack([literal(base.model, text) for text in TEXTS])
    torch.testing.assert_close(found, slow, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(found, before, atol=1e-4)


@pytest.fixture
def mean(tiny_encoder_folder: Path) -> BaseModel:
    return load(ModelConfig(name=str(tiny_encoder_folder), dtype="float32", head="mean"), labels=LABELS)


@pytest.mark.parametrize("peft", [LORA, FULL, {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 4}])
def test_a_trained_one_answers_the_same_when_it_is_read_again(
    mean: BaseModel, tmp_path: Path, peft: dict[str, Any]
) -> None:
    """What is saved says what was trained: the answers move with the mean, and the base model stays as it was."""
    plain = {**peft, "lora_dropout": 0.0} if peft is LORA else peft
    config = TrainConfig(epochs=24, batch_size=8, learning_rate=1e-3 if peft is FULL else 1e-2)
    train(mean, plain, config, LABELLED, choice(), tmp_path / "a", seed=0)
    needs = {"label_log_probs", "embedding"}
    with adapters.adapted(mean, tmp_path / "a") as model:
        together = predict(mean, model, examples(), needs, choice()).arrays
        alone = [predict(mean, model, [e], needs, choice()).arrays for e in examples()]
        for name, values in together.items():
            np.testing.assert_allclose(values, np.concatenate([one[name] for one in alone], axis=1), atol=1e-4)
        right = together["label_log_probs"][0].argmax(1) == [LABELS.index(a) for _, a in LABELLED]
        assert right.mean() >= 0.5, "it has learnt its own examples"
        inside = adapters.inner(model)
        hooks = inside.base_model._forward_hooks
        assert len(hooks) == 1
        hooks.clear()  # without it the same weights answer otherwise
        other = predict(mean, model, examples(), {"label_log_probs"}, choice()).arrays["label_log_probs"]
        assert np.abs(other - together["label_log_probs"]).max() > 1e-2


def test_the_embedding_stays_what_the_pooling_says(mean: BaseModel, tiny_encoder_folder: Path) -> None:
    plain = load(ModelConfig(name=str(tiny_encoder_folder), dtype="float32"), labels=LABELS)
    found, known = (predict(b, b.model, examples(), {"embedding"}, choice()).arrays["embedding"] for b in (mean, plain))
    np.testing.assert_array_equal(found, known)


def test_a_causal_model_has_no_such_head(tiny_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"model.head is mean, but .* is no encoder: only its last token"):
        load(ModelConfig(name=str(tiny_folder), head="mean"), labels=LABELS)


def test_auto_takes_the_mean_where_the_models_own_files_say_so(
    tiny_encoder_folder: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    own = tmp_path / "of-means"
    shutil.copytree(tiny_encoder_folder, own)
    (own / "1_Pooling").mkdir()
    (own / "1_Pooling/config.json").write_text('{"pooling_mode_mean_tokens": true}')
    found = {
        folder: describe(load(ModelConfig(name=str(folder), head="auto"), labels=LABELS))
        for folder in (own, tiny_encoder_folder, tiny_folder)
    }
    assert [facts.get("head") for facts in found.values()] == ["mean", None, None]
    assert "pooling" not in found[tiny_folder], "a causal model answers by words"
    assert "head" not in describe(load(ModelConfig(name=str(own)), labels=LABELS)), "the default stays what it was"
