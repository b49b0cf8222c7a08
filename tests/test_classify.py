"""Models with a classification head: against transformers one text at a time, and through the whole loop."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from asked import predict, train
from conftest import LABELS
from hypothesis import given, settings
from hypothesis import strategies as some
from test_predict import choice, examples

from guidestar import config as configs
from guidestar import loop, scoring
from guidestar.asking import Ask
from guidestar.config import ModelConfig, TrainConfig
from guidestar.errors import ConfigError, NoVariance
from guidestar.model import adapters, classify, heads
from guidestar.model.load import BaseModel, load
from guidestar.model.scorer import OwnScorer
from guidestar.model.states import layer_states, representation_gradient
from guidestar.model.train import _loss, _rows
from guidestar.query.probe import prototype_log_probs
from guidestar.store import Store

LORA = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "lora_dropout": 0.2, "target_modules": "all-linear"}
FULL = {"peft_type": "FULL"}
BOTH = {"label_log_probs", "embedding"}
TASK = choice()
LABELLED = [(e, LABELS[i % 6]) for i, e in enumerate(examples())]


@pytest.fixture(params=["encoder", "encoder-mean", "causal"])
def headed(request: pytest.FixtureRequest, tiny_folder: Path, tiny_encoder_folder: Path) -> BaseModel:
    """A base model with a head: an encoder, one whose texts are means, and the tiny causal model asked to answer so."""
    folder = tiny_folder if request.param == "causal" else tiny_encoder_folder
    pooling = "mean" if request.param == "encoder-mean" else None
    config = ModelConfig(name=str(folder), dtype="float32", head="classifier", pooling=pooling)
    found = load(config, labels=TASK.labels)
    assert found.pooling == {"encoder": "first", "encoder-mean": "mean", "causal": "last"}[request.param]
    return found


def pooled(base: BaseModel, states: torch.Tensor) -> torch.Tensor:
    """What stands for one text, of (tokens, width)."""
    return {"first": states[0], "last": states[-1], "mean": states.mean(0)}[base.pooling]


@pytest.fixture
def encoder(tiny_encoder_folder: Path) -> BaseModel:
    return load(ModelConfig(name=str(tiny_encoder_folder), dtype="float32"), labels=TASK.labels)


def one_by_one(base: BaseModel, model: Any, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The literal form: a text at a time, without padding, by transformers alone."""
    logs, states = [], []
    with torch.no_grad():
        for text in texts:
            out = model(
                **base.tokenizer(text, return_tensors="pt", return_token_type_ids=False), output_hidden_states=True
            )
            logs.append(torch.log_softmax(out.logits[0].double(), -1).numpy())
            states.append(pooled(base, out.hidden_states[-1][0]).numpy())
    return np.stack(logs), np.stack(states)


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


# --- passes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [16, 2048])
def test_a_pass_is_that_of_single_texts(headed: BaseModel, tmp_path: Path, tokens: int) -> None:
    train(headed, LORA, TrainConfig(epochs=1), LABELLED, TASK, tmp_path / "a", seed=0)
    base = dataclasses.replace(headed, batch_tokens=tokens)
    with adapters.adapted(base, tmp_path / "a") as model:
        found = predict(base, model, examples(), BOTH, TASK)
        logs, states = one_by_one(base, model, [e.prompt for e in examples()])
    np.testing.assert_allclose(found.arrays["label_log_probs"][0], logs, atol=1e-5)
    np.testing.assert_allclose(found.arrays["embedding"][0], states, atol=1e-5)


def test_the_loss_is_that_of_single_texts(headed: BaseModel) -> None:
    rows, cut = _rows(headed, TASK, LABELLED)
    assert cut == 0
    logs, _ = one_by_one(headed, headed.model, [e.prompt for e, _ in LABELLED])
    slow = -sum(logs[i][TASK.labels.index(answer)] for i, (_, answer) in enumerate(LABELLED))
    assert float(_loss(headed, headed.model, rows)) == pytest.approx(slow, rel=1e-5)


def test_layers_and_gradients_are_of_the_token_that_stands_for_a_text(headed: BaseModel) -> None:
    some_examples = examples()[:3]
    _, states = one_by_one(headed, headed.model, [e.prompt for e in some_examples])
    np.testing.assert_allclose(layer_states(headed, headed.model, some_examples)[-1], states, atol=1e-5)
    slow = []
    for example in some_examples:
        ids = headed.tokenizer(example.prompt, return_tensors="pt")["input_ids"]
        vectors = headed.model.get_input_embeddings()(ids).detach().requires_grad_()
        out = headed.model(inputs_embeds=vectors, attention_mask=torch.ones_like(ids), output_hidden_states=True)
        pooled(headed, out.hidden_states[-1][0]).mean().backward()
        slow.append(float(vectors.grad.norm()))
    np.testing.assert_allclose(representation_gradient(headed, headed.model, some_examples), slow, rtol=1e-4)


def test_dropout_of_the_adapter_and_of_the_whole_model(encoder: BaseModel, tmp_path: Path) -> None:
    train(encoder, LORA, TrainConfig(epochs=1), LABELLED, TASK, tmp_path / "a", seed=0)
    train(encoder, FULL, TrainConfig(epochs=1), LABELLED, TASK, tmp_path / "b", seed=0)

    def spread(folder: Path, whole: bool) -> float:
        with adapters.adapted(encoder, folder) as model:
            found = predict(
                encoder, model, examples(), {"label_log_probs"}, TASK, passes=8, dropout="model" if whole else "adapter"
            )
            assert not model.training
        return float(np.exp(found.arrays["label_log_probs"]).std(axis=0).mean())

    assert 0 < spread(tmp_path / "a", False) < spread(tmp_path / "a", True)
    assert spread(tmp_path / "b", True) > 0
    with pytest.raises(NoVariance, match="dropout: model"):
        spread(tmp_path / "b", False)


# --- training -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "peft",
    [
        LORA,
        FULL,
        {"peft_type": "BOTTLENECK", "target_modules": ["output.dense"]},
        {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 4},
    ],
)
def test_the_head_is_trained_with_the_adapter_and_the_base_is_left_alone(
    encoder: BaseModel, tmp_path: Path, peft: dict[str, Any]
) -> None:
    before = weights(encoder.model)
    config = TrainConfig(epochs=3, learning_rate=1e-2)
    trained = train(encoder, peft, config, LABELLED, TASK, tmp_path / "a", seed=0)
    assert trained.losses[-1] < trained.losses[0]
    after = weights(encoder.model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    answers = []
    for seed in (0, 1):
        train(encoder, peft, config, LABELLED, TASK, tmp_path / f"again{seed}", seed=seed)
        with adapters.adapted(encoder, tmp_path / f"again{seed}") as model:
            head = {n: weights(m) for n, m in heads.trained(adapters.inner(model)).items()}
            assert not torch.equal(head["classifier"]["weight"], before["classifier.weight"])
            answers.append(predict(encoder, model, examples(), BOTH, TASK).arrays["label_log_probs"])
    with adapters.adapted(encoder, tmp_path / "a") as model:
        first = predict(encoder, model, examples(), BOTH, TASK).arrays["label_log_probs"]
    assert np.array_equal(first, answers[0])
    assert not np.allclose(first, answers[1])
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(encoder.model).items())


def test_a_head_begins_afresh_and_never_decays(headed: BaseModel) -> None:
    starts = []
    for seed in (0, 0, 1):
        model = adapters.attach(headed, LORA, seed)
        assert all("lora_B" in name for name in adapters.anchors(model))
        (head,) = [m for n, m in heads.trained(adapters.inner(model)).items() if n in ("classifier", "score")]
        assert head.weight.requires_grad
        starts.append(head.weight.detach().clone())
        adapters.detach(model)
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


@pytest.mark.parametrize("peft", [LORA, FULL])
def test_the_trained_head_on_the_bare_base(encoder: BaseModel, tmp_path: Path, peft: dict[str, Any]) -> None:
    train(encoder, peft, TrainConfig(epochs=2, learning_rate=1e-2), LABELLED, TASK, tmp_path / "a", seed=0)
    before = weights(encoder.model)
    with adapters.adapted(encoder, tmp_path / "a") as model:
        head = weights(heads.trained(adapters.inner(model))["classifier"])
    with torch.no_grad():
        batch = encoder.tokenizer(examples()[0].prompt, return_tensors="pt", return_token_type_ids=False)
        pooled = encoder.model.bert(**batch).pooler_output
        slow = torch.log_softmax((pooled @ head["weight"].T + head["bias"])[0], -1).numpy()
    with classify.head_alone(encoder, tmp_path / "a") as model:
        found = predict(encoder, model, examples()[:1], {"label_log_probs"}, TASK).arrays["label_log_probs"][0, 0]
    np.testing.assert_allclose(found, slow, atol=1e-5)
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(encoder.model).items())


# --- the whole loop -------------------------------------------------------------------------------


def test_a_run_from_begin_to_end(
    make_config: Callable[..., dict[str, Any]], tiny_encoder_folder: Path, tmp_path: Path
) -> None:
    plain = make_config(
        model={"name": str(tiny_encoder_folder), "dtype": "float32"},
        data={"template": "{text}"},
        query={"budget": 18},
        strategies=[
            "star",
            {"use": "star", "name": "star_head", "mix": {"base": "head"}},
            {"use": "entropy", "name": "mc", "passes": 3, "dropout": "model"},
            "badge",
            "random",
        ],
    )
    config = configs.parse(plain)
    loop.run(config)
    scores = {}
    for name in ("star", "star_head", "mc", "badge", "random"):
        with Store.open(Path(config.out) / f"{name}-seed0") as store:
            assert [m.labels for m in store.metrics()] == [12, 18]
            assert 0 <= store.metrics()[-1].values["accuracy"] <= 1
            assert store.facts["model"]["architecture"]
            assert not store.has_arrays(0, "test_base")  # an untrained head is no base line
            if store.has_arrays(1, "scores"):
                scores[name] = store.arrays(1, "scores")
    assert set(scores["star"]) >= {"score", "base", "full"}
    np.testing.assert_array_equal(scores["star"]["full"], scores["star_head"]["full"])
    assert not np.allclose(scores["star"]["base"], scores["star_head"]["base"])
    assert np.all(scores["star"]["base"] <= np.log(6) + 1e-9)


def test_prototypes_of_a_run_are_those_of_its_labels(
    make_config: Callable[..., dict[str, Any]], tiny_encoder_folder: Path
) -> None:
    """What the loop stored as the base's uncertainty, made again from the texts and labels alone."""
    plain = make_config(
        model={"name": str(tiny_encoder_folder), "dtype": "float32"}, data={"template": "{text}"}, strategies=["star"]
    )
    with loop.Run(plain) as run:
        run.run(loop.oracle(run.bench.dataset))
        base, store = run.bench.base, run.store
        labelled = store.annotations.labelled(0)
        found = store.arrays(1, "scores")["base"]
        picks = store.query(1).picks
    known = one_by_one(base, base.model, [e.prompt for e, _ in labelled])[1]
    classes = np.asarray([base.labels.index(label.answer) for _, label in labelled])
    chosen = [next(e for e in run.bench.pool if e.id == pick.id) for pick in picks]
    logs = prototype_log_probs(one_by_one(base, base.model, [e.prompt for e in chosen])[1], known, classes, 6)
    entropy = -(np.exp(logs) * logs).sum(1)
    np.testing.assert_allclose([pick.details["base"] for pick in picks], entropy, atol=1e-3)
    assert found.shape == (40,)


# --- prototypes -----------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seed=some.integers(0, 10**6), m=some.integers(2, 12))
def test_prototypes_against_the_formula(seed: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    points, known, classes = rng.normal(size=(5, 3)), rng.normal(size=(m, 3)), rng.integers(0, 3, m)
    found = prototype_log_probs(points, known, classes, 4)
    np.testing.assert_allclose(np.exp(found).sum(1), 1)
    present = sorted(set(classes.tolist()))
    for i, point in enumerate(points):
        far = {c: float(((point - known[classes == c].mean(0)) ** 2).sum()) for c in present}
        order = sorted(present, key=lambda c: far[c])
        assert np.all(np.diff(found[i][order]) <= 1e-9), "nearer classes are likelier"
        assert found[i][3] == pytest.approx(found[i][order[-1]])


def test_prototypes_are_sharp_where_classes_lie_apart_and_dull_where_they_mix() -> None:
    rng = np.random.default_rng(0)
    classes = np.repeat([0, 1], 20)
    apart = rng.normal(size=(40, 8)) + 10.0 * classes[:, None]
    mixed = rng.normal(size=(40, 8))
    sure = np.exp(prototype_log_probs(apart, apart, classes, 2)).max(1).mean()
    unsure = np.exp(prototype_log_probs(rng.normal(size=(40, 8)), mixed, classes, 2)).max(1).mean()
    assert sure > 0.99
    assert unsure < 0.8


# --- refusals, packages, publishing ---------------------------------------------------------------


def test_what_does_not_fit_is_refused(
    encoder: BaseModel, tiny_encoder_folder: Path, tmp_path: Path, make_config: Callable[..., dict[str, Any]]
) -> None:
    name = str(tiny_encoder_folder)
    with pytest.raises(ConfigError, match=r"model.head is words, but .* is an encoder"):
        load(ModelConfig(name=name, head="words"))
    with pytest.raises(ConfigError, match=r"this kind of task has none; allowed: task.kind choice"):
        load(ModelConfig(name=name))
    with pytest.raises(ConfigError, match="not gold_nll"):
        predict(encoder, encoder.model, examples(), {"gold_nll"}, TASK, gold={e.id: a for e, a in LABELLED})
    with pytest.raises(ConfigError, match="says nothing about the labels"):
        OwnScorer(encoder, TASK)(examples(), Ask.of(["label_log_probs"]))
    plain = make_config(model={"name": name, "dtype": "float32"}, strategies=["response_entropy"])
    with pytest.raises(ConfigError, match="a classification head"):
        loop.Run(plain)
    pool = tmp_path / "pool.jsonl"
    pool.write_text("\n".join(json.dumps({"text": e.prompt}) for e in examples()[:2]))
    config = configs.parse(make_config(model={"name": name, "dtype": "float32"}))
    with pytest.raises(ConfigError, match="give --adapter"):
        list(scoring.score_file(config, str(pool), measures=["entropy"]))


def test_a_zip_of_a_package_is_unpacked_once(tiny_encoder_folder: Path, tmp_path: Path) -> None:
    from guidestar.model.sources import _unzipped

    archive = tmp_path / "model.zip"
    with zipfile.ZipFile(archive, "w") as made:
        for file in tiny_encoder_folder.iterdir():
            made.write(file, file.name)
        made.writestr("1_Pooling/config.json", '{"pooling_mode_mean_tokens": true}')
        made.writestr("../outside.json", "{}")
        made.writestr("code.py", "raise SystemExit")
    said: list[str] = []
    for _ in range(2):
        target = _unzipped(archive, tmp_path / "cache" / "model", said.append)
    assert len(said) == 1
    assert {p.name for p in target.iterdir()} == {p.name for p in tiny_encoder_folder.iterdir()} | {"1_Pooling"}
    assert not (tmp_path / "cache" / "outside.json").exists()
    found = load(ModelConfig(name=str(target)), labels=TASK.labels)
    assert found.encoder
    assert found.pooling == "mean", "what the model's own files say"
