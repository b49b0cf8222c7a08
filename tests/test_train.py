"""Training: the loss and the decay against plain versions, and what a round must leave untouched."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import literal
import numpy as np
import pytest
import torch
from asked import train
from conftest import LABELS
from test_predict import PEFT, choice, examples

from guidestar import config as configs
from guidestar.config import TaskConfig, TrainConfig
from guidestar.errors import ConfigError, ModelError
from guidestar.model import adapters
from guidestar.model.dropout import BitDropout
from guidestar.model.scorer import OwnScorer
from guidestar.model.train import _loss, _rows, decay_towards
from guidestar.store.files import sha256
from guidestar.tasks import make_task

LABELLED = [(e, LABELS[i % 6]) for i, e in enumerate(examples())]


def test_the_loss_is_the_sum_over_response_tokens(base: Any) -> None:
    rows, cut = _rows(base, choice(response="the topic is {answer}"), LABELLED)
    assert cut == 0
    found = float(_loss(base, base.model, rows))
    slow = sum(literal.teacher_forced(base, base.model, e.prompt, f"the topic is {a}")[0] for e, a in LABELLED)
    assert math.isclose(found, slow, rel_tol=1e-4)


def test_a_response_longer_than_the_context_is_cut_and_counted(base: Any, tmp_path: Path) -> None:
    """A person may write more than the model can read: the round goes on with the beginning, and says so."""
    task = make_task(TaskConfig(kind="text", max_new_tokens=4), [], "{answer}")
    short, long = "7", " ".join(["seven"] * 300)
    small = dataclasses.replace(base, max_length=64)
    labelled = [(examples()[0], short), (examples()[1], long)]
    rows, cut = _rows(small, task, labelled)
    assert cut == 1
    assert [len(row) <= 64 for row in rows] == [True, True]
    whole, _ = _rows(dataclasses.replace(base, max_length=10**6), task, labelled)
    assert rows[0] == whole[0]
    assert rows[1].response == whole[1].response[: len(rows[1].response)]
    assert len(rows[1]) == 64
    assert train(small, PEFT, TrainConfig(epochs=1), labelled, task, tmp_path / "a", seed=0).cut == 1


def test_micro_batches_add_up_to_the_batch(base: Any, tmp_path: Path) -> None:
    options = {**PEFT, "lora_dropout": 0.0}  # masks would differ
    base = dataclasses.replace(base, model=copy.deepcopy(base.model).double())  # Adam makes much of a rounded gradient
    for name, micro in (("whole", None), ("parts", 2)):
        config = TrainConfig(epochs=2, batch_size=8, micro_batch_size=micro, learning_rate=1e-2)
        train(base, options, config, LABELLED, choice(), tmp_path / name, seed=4)
    from safetensors.torch import load_file

    one, two = (load_file(tmp_path / n / "adapter_model.safetensors") for n in ("whole", "parts"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-6, atol=1e-9)


def test_decay_of_b_is_adamw_with_weight_decay_on_b_alone(base: Any) -> None:
    """Eq. 6 with its intended sign: B ← B − γ(g + βB)."""
    gamma, beta = 0.01, 0.7
    model = adapters.attach(base, PEFT, seed=0)
    starts = adapters.anchors(model)
    assert starts, "LoRA has anchored tensors"
    assert all("lora_B" in name for name in starts), "of LoRA, B alone starts as a constant"
    named = dict(model.named_parameters())
    generator = torch.Generator().manual_seed(0)
    for name in starts:
        named[name].data.normal_(generator=generator)
    twin = {n: p.detach().clone().requires_grad_() for n, p in named.items() if p.requires_grad}
    ours = torch.optim.AdamW([named[n] for n in twin], lr=gamma, weight_decay=0.0)
    theirs = torch.optim.AdamW(
        [
            {"params": [p for n, p in twin.items() if "lora_B" in n], "weight_decay": beta},
            {"params": [p for n, p in twin.items() if "lora_A" in n], "weight_decay": 0.0},
        ],
        lr=gamma,
    )
    for _ in range(3):
        for name, other in twin.items():
            other.grad = torch.randn(other.shape, generator=generator)
            named[name].grad = other.grad.clone()
        decay_towards([(named[n], starts[n]) for n in starts], gamma * beta)
        ours.step()
        theirs.step()
    for name, other in twin.items():
        torch.testing.assert_close(named[name].detach(), other.detach())
    adapters.detach(model)


def test_decay_goes_to_the_start_and_not_to_zero(base: Any) -> None:
    """IA3's scales start at one: STAR's rule, generalised, pulls them back there."""
    model = adapters.attach(base, {"peft_type": "IA3", "target_modules": ["k_proj"], "feedforward_modules": []}, seed=0)
    starts = adapters.anchors(model)
    assert starts
    assert all(bool((t == 1).all()) for t in starts.values())
    values = torch.full((4,), 3.0)
    decay_towards([(values, torch.ones(4))], 0.25)
    assert values.tolist() == [2.5] * 4
    adapters.detach(model)


def test_a_large_decay_goes_to_the_start_and_not_beyond() -> None:
    values = torch.tensor([1.0, -2.0])
    decay_towards([(values, torch.zeros(2))], 2.5)
    assert values.tolist() == [0.0, 0.0]


def test_a_strong_decay_keeps_b_small_and_leaves_a(base: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    norms = {}
    for beta in (0.0, 50.0):
        config = TrainConfig(epochs=6, batch_size=4, learning_rate=1e-2, b_decay=beta)
        train(base, PEFT, config, LABELLED, choice(), tmp_path / str(beta), seed=2)
        weights = load_file(tmp_path / str(beta) / "adapter_model.safetensors")
        norms[beta] = {k: sum(float(w.norm()) for n, w in weights.items() if k in n) for k in ("lora_A", "lora_B")}
    assert norms[50.0]["lora_B"] < 0.5 * norms[0.0]["lora_B"]
    assert norms[50.0]["lora_A"] > 0.8 * norms[0.0]["lora_A"]


def test_the_base_model_is_the_same_before_and_after(base: Any, tmp_path: Path) -> None:
    before = {n: p.clone() for n, p in base.model.state_dict().items()}
    train(base, PEFT, TrainConfig(epochs=1), LABELLED, choice(), tmp_path / "a", seed=0)
    with adapters.adapted(base, tmp_path / "a"):
        pass
    after = base.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[n], after[n]) for n in before)
    assert not any(p.requires_grad for p in base.model.parameters())


def test_the_same_seed_gives_the_same_bytes(base: Any, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(base, PEFT, TrainConfig(epochs=1), LABELLED, choice(), tmp_path / name, seed=seed)
    assert sha256(tmp_path / "a") == sha256(tmp_path / "b")
    assert sha256(tmp_path / "a") != sha256(tmp_path / "c")


def test_lora_visibly_learns_the_demo(base: Any, demo_data: Path, tmp_path: Path) -> None:
    from guidestar.asking import evaluate
    from guidestar.config import parse
    from guidestar.data.pool import load_dataset

    data = load_dataset(parse({"data": {"preset": "demo", "folder": str(demo_data)}}))
    labelled = [(e, data.gold[e.id]) for e in data.pool]
    config = TrainConfig(epochs=8, batch_size=8, learning_rate=1e-2)
    first = train(base, {**PEFT, "r": 8, "lora_dropout": 0.1}, config, labelled, data.task, tmp_path / "a", seed=0)
    assert first.steps == 8 * 20
    assert first.losses[-1] < 0.85 * first.losses[0]
    reached = evaluate(OwnScorer(base, data.task, tmp_path / "a"), data.test, data.task)[0]["accuracy"]
    assert reached > data.facts["majority"]["share"] + 0.1


def test_training_goes_on_from_the_last_adapter_and_b_still_decays(base: Any, tmp_path: Path) -> None:
    """What decays is decided on a fresh adapter: in a trained one no tensor is constant any more."""
    from safetensors.torch import load_file

    config = TrainConfig(epochs=8, batch_size=4, learning_rate=1e-2, b_decay=0.0)
    first = train(base, PEFT, config, LABELLED, choice(), tmp_path / "a", seed=0)
    norms = {}
    for beta in (0.0, 50.0):
        more = config.model_copy(update={"b_decay": beta})
        folder = tmp_path / str(beta)
        second = train(base, PEFT, more, LABELLED, choice(), folder, seed=0, previous=tmp_path / "a")
        norms[beta] = sum(
            float(w.norm()) for n, w in load_file(folder / "adapter_model.safetensors").items() if "lora_B" in n
        )
        if not beta:
            assert second.losses[0] < first.losses[0], "the second training did not start where the first ended"
    assert norms[50.0] < 0.5 * norms[0.0]


def test_a_failed_load_leaves_the_base_model_clean(base: Any, tmp_path: Path) -> None:
    train(base, PEFT, TrainConfig(epochs=1), LABELLED, choice(), tmp_path / "a", seed=0)
    weights = tmp_path / "a" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(ModelError, match="the adapter cannot be loaded"):
        adapters.load_adapter(base, tmp_path / "a")
    assert not any("lora" in name for name, _ in base.model.named_modules())
    train(base, PEFT, TrainConfig(epochs=1), LABELLED, choice(), tmp_path / "b", seed=0)


@pytest.mark.parametrize(
    "options",
    [
        {"peft_type": "ADAPTION_PROMPT", "adapter_len": 4, "adapter_layers": 2},
        {"peft_type": "VERA", "r": 8, "target_modules": ["q_proj", "v_proj"]},
        {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 4},
    ],
)
def test_other_types_leave_the_base_model_as_it_was(base: Any, tmp_path: Path, options: dict[str, Any]) -> None:
    ids = torch.tensor([base.tokenizer(examples()[0].prompt)["input_ids"]])
    with torch.no_grad():
        before = base.model(input_ids=ids).logits
    train(base, options, TrainConfig(epochs=1, learning_rate=1e-2), LABELLED, choice(), tmp_path / "a", seed=0)
    with adapters.adapted(base, tmp_path / "a"):
        pass
    with torch.no_grad():
        assert torch.equal(base.model(input_ids=ids).logits, before)


def test_two_precisions_in_one_process(base: Any, tiny_folder: Path, tmp_path: Path) -> None:
    """accelerate keeps one precision for a process."""
    from guidestar.config import ModelConfig
    from guidestar.model.load import load

    half = load(ModelConfig(name=str(tiny_folder), dtype="bfloat16"))
    for name, model in (("a", base), ("b", half), ("c", base)):
        train(model, PEFT, TrainConfig(epochs=1), LABELLED, choice(), tmp_path / name, seed=0)
    assert sha256(tmp_path / "a") == sha256(tmp_path / "c")


def test_early_stopping_keeps_the_best_epoch_of_the_validation_set(base: Any, tmp_path: Path) -> None:
    """Validation labels contradict the training labels, so every epoch makes them worse."""
    wrong = [(e, LABELS[(i + 1) % 6]) for i, e in enumerate(examples())]
    config = TrainConfig(epochs=30, batch_size=4, learning_rate=2e-2, patience=3)
    found = train(base, PEFT, config, LABELLED, choice(), tmp_path / "a", seed=0, validation=wrong)
    assert len(found.losses) < 30, "it did not stop"
    assert found.best_epoch == int(np.argmin(found.validation_losses))
    assert len(found.validation_losses) == found.best_epoch + 1 + 3


def test_bit_dropout_is_dropout(base: Any) -> None:
    layer = BitDropout(0.3)
    x = torch.ones(400, 501)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        y = layer(x)
    share = float((y == 0).float().mean())
    assert abs(share - 0.3) < 5 * math.sqrt(0.21 / x.numel())
    assert abs(float(y.mean()) - 1) < 0.005, "the mean must stay"
    assert y.unique().tolist() == pytest.approx([0.0, 1 / 0.7], rel=1e-4)
    rows = (y == 0).float().mean(1)
    assert abs(float(rows.std()) - math.sqrt(0.21 / 501)) < 0.003, "elements are not independent"
    layer.eval()
    assert torch.equal(layer(x), x)


def test_bit_dropout_has_a_gradient_only_where_it_kept() -> None:
    layer, x = BitDropout(0.5), torch.ones(64, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"peft_type": "LORRA"}, "peft.peft_type is 'LORRA'; did you mean 'LORA'"),
        ({"peft_type": "LORA", "rank": 3}, "peft.rank is 3; allowed: search; a number is called r"),
        ({"peft_type": "LORA", "lora_alfa": 3}, "did you mean 'lora_alpha'"),
        ({"peft_type": "LORA", "bias": "all"}, "peft.bias is 'all'; allowed: none"),
        ({"peft_type": "LORA", "modules_to_save": ["lm_head"]}, "peft.modules_to_save is .*; allowed: no value"),
        (
            {"peft_type": "LORA", "target_modules": ["nothing_like_this"]},
            "this adapter does not fit the model",
        ),
    ],
)
def test_impossible_adapters_are_refused(base: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        adapters.attach(base, options, seed=0)


def test_a_pickled_adapter_is_refused(base: Any, tmp_path: Path) -> None:
    train(base, PEFT, TrainConfig(epochs=1), LABELLED, choice(), tmp_path / "a", seed=0)
    (tmp_path / "a" / "adapter_model.safetensors").rename(tmp_path / "a" / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"found adapter_model.bin only, a pickle"):
        adapters.load_adapter(base, tmp_path / "a")


def test_a_loss_that_is_not_finite_is_refused(base: Any, tmp_path: Path) -> None:
    with torch.no_grad():
        base.model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match=r"the training loss is nan in epoch 1; try a lower train.learning_rate"):
        train(base, PEFT, TrainConfig(epochs=1), LABELLED, choice(), tmp_path / "a", seed=0)


def test_the_oracle_epoch_is_the_one_with_the_best_test_accuracy(
    make_config: Callable[..., dict[str, Any]], base: Any, tmp_path: Path
) -> None:
    """The published notebook's selection: twin is a training for each number of epochs on one schedule."""
    from guidestar import loop
    from guidestar.asking import evaluate
    from guidestar.bench import Bench
    from guidestar.report.read import read_runs
    from guidestar.report.summary import summarise

    bench = Bench(configs.parse(make_config()))
    split, task = bench.fitting.test, bench.dataset.task
    assert split is not None
    labelled = [(e, bench.dataset.gold[e.id]) for e in bench.pool[:16]]
    config = TrainConfig(epochs=6, batch_size=8, learning_rate=2e-2)
    chosen = config.model_copy(update={"early_stop": "oracle_epoch"})
    found = train(base, PEFT, chosen, labelled, task, tmp_path / "a", seed=3, oracle=split)
    errors = []
    for epochs in range(1, 7):
        short = config.model_copy(update={"epochs": epochs, "schedule_steps": 12})
        train(base, PEFT, short, labelled, task, tmp_path / f"{epochs}", seed=3)
        errors.append(1 - evaluate(OwnScorer(base, task, tmp_path / f"{epochs}"), split, task)[0]["accuracy"])
    np.testing.assert_allclose(found.validation_losses, errors, atol=1e-9)
    assert len(set(errors)) > 1, "all epochs are equal, so this test says nothing"
    assert errors[found.best_epoch] == min(errors)
    assert 1 - evaluate(OwnScorer(base, task, tmp_path / "a"), split, task)[0]["accuracy"] == pytest.approx(min(errors))

    plain = make_config(train={"epochs": 2, "early_stop": "oracle_epoch"}, strategies=["random"])
    loop.run(plain)
    assert any("too high" in note for note in summarise("run", read_runs(Path(plain["out"]))).notes)
    with pytest.raises(ConfigError, match="needs a simulation"):
        loop.Run({**plain, "annotator": "people", "out": str(tmp_path / "people")})
