"""A head on features: where it starts, what it reads one text at a time, and that it goes wherever the model goes."""

from __future__ import annotations

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
from tiny_heads import HEADS, tiny

from guidestar.asking import Frozen, Probed
from guidestar.config import ModelConfig, TrainConfig
from guidestar.model import adapters, classify, heads
from guidestar.model.batches import pad_right
from guidestar.model.engine import OwnScorer
from guidestar.model.load import BaseModel, describe, load
from guidestar.model.views import read_views
from guidestar.store.cache import Cache

TEXTS = [[5, 9, 12, 3, 7], [8, 30, 2, 11], [17, 3, 6], [4, 4, 51, 20, 33, 9, 1]]
NEEDS = {"label_log_probs"}


@pytest.fixture(params=["encoder", "causal"])
def base(request: pytest.FixtureRequest, tiny_encoder_folder: Path, tiny_folder: Path) -> BaseModel:
    folder = tiny_encoder_folder if request.param == "encoder" else tiny_folder
    return load(ModelConfig(name=str(folder), dtype="float32", head="features"), labels=LABELS)


def literal(model: Any, head: Any, text: list[int], encoder: bool) -> torch.Tensor:
    """The head's outputs for one text, from its states alone."""
    states = [
        s[0]
        for s in model.base_model(
            input_ids=torch.tensor([text]), attention_mask=torch.ones(1, len(text)), output_hidden_states=True
        ).hidden_states
    ]
    layers = len(states) - 1
    if encoder:
        blocks = [states[round(share * layers)].mean(0) for share in (1 / 3, 2 / 3, 1)]
        blocks += [states[-1][0], states[-1][1], states[-1][-2]]
    else:
        blocks = [states[round(share * layers)].mean(0) for share in (8 / 30, 1 / 2, 22 / 30)]
        blocks += [states[round(share * layers)][-1] for share in (1 / 2, 22 / 30, 1)]
    unit = [(b - c) / (b - c).norm() for b, c in zip(blocks, head.centres, strict=True)]
    return head.linear(torch.cat(unit))


@pytest.mark.parametrize("kind", [*HEADS, "eurobert"])  # EuroBERT asks its head about every token and takes the mean
def test_it_is_the_head_on_the_views_of_single_texts(kind: str) -> None:
    base = tiny(kind)
    read_views(base.model, heads.answering(base.model), base.encoder, (1, 1))
    head = base.model.get_submodule(heads.answering(base.model))
    torch.nn.init.normal_(head.centres, std=0.1, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        together = classify.logits(base.model, pad_right(TEXTS, 0, base.device))
        alone = torch.stack([literal(base.model, head, text, base.encoder) for text in TEXTS])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4)


def start_of(base: BaseModel, place: Path) -> tuple[Any, Probed]:
    frozen = Frozen(OwnScorer(base, choice()), [*examples(), *(e for e, _ in LABELLED)], Cache(place))
    start = frozen.head_start(LABELLED, choice(), np.random.default_rng(0))
    return start, Probed.of(frozen, LABELLED, choice(), np.random.default_rng(0))


@pytest.mark.parametrize("peft", [LORA, FULL, {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 4}])
def test_untrained_it_answers_as_the_classifier_on_frozen_features(
    base: BaseModel, tmp_path: Path, peft: dict[str, Any]
) -> None:
    """A step of rate 0 leaves the start; prefixes are part of the model from the start, so they move the answers a little."""
    start, probed = start_of(base, tmp_path / "f")
    still = TrainConfig(epochs=1, learning_rate=1e-12, weight_decay=0.0)
    train(base, peft, still, LABELLED, choice(), tmp_path / "a", seed=0, start=start)
    got = OwnScorer(base, choice(), tmp_path / "a")(examples(), probed_ask()).arrays["label_log_probs"][0]
    wanted = probed(examples(), probed_ask()).arrays["label_log_probs"][0]
    if peft["peft_type"] != "PREFIX_TUNING":
        assert (got.argmax(1) == wanted.argmax(1)).mean() > 0.9
        np.testing.assert_allclose(np.exp(got), np.exp(wanted), atol=0.12)  # the classifier smooths for labels not seen


def probed_ask() -> Any:
    from guidestar.asking import Ask

    return Ask.of(["label_log_probs"])


@pytest.mark.parametrize("peft", [LORA, FULL])
def test_a_trained_one_answers_the_same_when_it_is_read_again(
    base: BaseModel, tmp_path: Path, peft: dict[str, Any]
) -> None:
    start, _ = start_of(base, tmp_path / "f")
    plain = {k: v.clone() for k, v in base.model.state_dict().items()}
    config = TrainConfig(epochs=8, batch_size=8, learning_rate=1e-3 if peft is FULL else 1e-2)
    losses = train(base, peft, config, LABELLED, choice(), tmp_path / "a", seed=0, start=start).losses
    assert losses[-1] < losses[0]
    for name, value in base.model.state_dict().items():
        torch.testing.assert_close(value, plain[name], rtol=0, atol=0, msg=name)
    folder, kept = base.model.config._name_or_path, []
    for again in (base, load(ModelConfig(name=folder, dtype="float32", head="features"), labels=LABELS)):
        with adapters.adapted(again, tmp_path / "a") as model:
            kept.append(predict(again, model, examples(), NEEDS, choice()).arrays["label_log_probs"])
            alone = [predict(again, model, [e], NEEDS, choice()).arrays["label_log_probs"] for e in examples()]
        np.testing.assert_allclose(kept[-1], np.concatenate(alone, axis=1), atol=1e-4)
    np.testing.assert_allclose(kept[0], kept[1], atol=1e-6)


def test_the_model_says_what_its_head_reads(base: BaseModel) -> None:
    assert describe(base)["head"] == "features"
    assert heads.names(base.model) == [heads.answering(base.model)]


@pytest.mark.parametrize(
    ("family", "name"), [("DistilBert", "classifier"), ("DebertaV2", "classifier"), ("Electra", "classifier")]
)
def test_the_module_that_answers_is_the_one_with_the_labels(family: str, name: str) -> None:
    """Some families end in a dropout, or have layers between the model and its labels."""
    import transformers

    shape = {
        "vocab_size": 60,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
    }
    config = getattr(transformers, f"{family}Config")(**shape, num_labels=3)
    model = getattr(transformers, f"{family}ForSequenceClassification")(config).eval()
    assert heads.answering(model) == name
    read_views(model, name, True, (1, 1))
    head = model.get_submodule(name)
    torch.nn.init.normal_(head.centres, std=0.1)
    with torch.no_grad():
        said = model(
            input_ids=torch.tensor([TEXTS[0]]), attention_mask=torch.ones(1, len(TEXTS[0]), dtype=torch.long)
        ).logits
        torch.testing.assert_close(said[0], literal(model, head, TEXTS[0], True), rtol=1e-3, atol=1e-4)
