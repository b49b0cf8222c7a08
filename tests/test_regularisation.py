"""What holds a training back, each against a literal version: decay of B, dropout before B, the rate's schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import torch
from asked import predict, train
from safetensors.torch import load_file
from test_predict import PEFT, choice, examples
from test_train import LABELLED

from guidestar.config import ModelConfig, TrainConfig
from guidestar.errors import ConfigError
from guidestar.model import adapters
from guidestar.model.batches import epoch_batches
from guidestar.model.dropout import drop_before_b
from guidestar.model.load import load
from guidestar.model.train import _rows
from guidestar.query.strategies import STRATEGIES, check

PLAIN = {**PEFT, "lora_dropout": 0.0}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def adapter(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained without dropout, so that B is not zero."""
    base = load(ModelConfig(name=str(tiny_folder), dtype="float32"))
    folder = tmp_path_factory.mktemp("adapter") / "trained"
    train(base, PLAIN, TrainConfig(epochs=3, batch_size=4, learning_rate=1e-2), LABELLED, choice(), folder, seed=1)
    return folder


# --- a whole training, literally ---


def literal_training(base: Any, config: TrainConfig, seed: int) -> dict[str, torch.Tensor]:
    """One row at a time, no padding, AdamW from its paper, the rate of each step from the formula."""
    (rows, _), order = _rows(base, choice(), LABELLED), np.random.default_rng(seed)
    batches = [b for _ in range(config.epochs) for b in epoch_batches(rows, config.batch_size, order, False)]
    length = config.schedule_steps or len(batches)
    model = adapters.attach(base, PLAIN, seed)
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    first, second = ({n: torch.zeros_like(p) for n, p in named.items()} for _ in range(2))
    for step, batch in enumerate(batches):
        loss, tokens = torch.zeros(()), 0
        for row in batch:
            log_p = torch.log_softmax(model(input_ids=torch.tensor([row.prompt + row.response])).logits[0], -1)
            for i, token in enumerate(row.response):
                loss = loss - log_p[len(row.prompt) + i - 1, token]
            tokens += len(row.response)
        (loss / tokens).backward()
        norm = math.sqrt(sum(float(p.grad.norm()) ** 2 for p in named.values()))
        rate = reference.linear_rate(step, config.learning_rate, int(config.warmup * length), length)
        with torch.no_grad():
            for n, p in named.items():
                g = p.grad * min(1.0, config.clip / norm)
                first[n] = 0.9 * first[n] + 0.1 * g
                second[n] = 0.999 * second[n] + 0.001 * g * g
                move = (first[n] / (1 - 0.9 ** (step + 1))) / (torch.sqrt(second[n] / (1 - 0.999 ** (step + 1))) + 1e-8)
                decay = config.b_decay if "lora_B" in n else config.weight_decay
                p -= rate * (move + decay * p)  # eq. 6 with its intended sign, decoupled
                p.grad = None
    found = {n.replace(".default", ""): p.detach().clone() for n, p in named.items()}
    adapters.detach(model)
    return found


@pytest.mark.parametrize("steps", [None, 3, 40])
def test_training_equals_its_literal_twin(base: Any, tmp_path: Path, steps: int | None) -> None:
    """steps: of the schedule; the training has 8 of its own, so 3 leaves five at rate 0 and 40 never gets there."""
    config = TrainConfig(
        epochs=4, batch_size=4, learning_rate=3e-3, warmup=0.34, b_decay=20.0, weight_decay=1.0, schedule_steps=steps
    )
    found = train(base, PLAIN, config, LABELLED, choice(), tmp_path / "a", seed=3)
    slow, fast = literal_training(base, config, seed=3), weights(tmp_path / "a")
    assert slow.keys() == fast.keys()
    for name, tensor in slow.items():
        torch.testing.assert_close(fast[name], tensor, rtol=2e-3, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}")
    assert found.steps == (3 if steps == 3 else 8), "steps at rate 0 are left out: they change nothing"


def test_the_rate_is_the_formulas(base: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen through the decay, which moves by rate × β."""
    seen: list[float] = []
    monkeypatch.setattr("guidestar.model.train.decay_towards", lambda anchored, amount: seen.append(amount / 7.0))
    for steps in (None, 2, 5, 100):
        seen.clear()
        config = TrainConfig(epochs=5, batch_size=4, learning_rate=1e-3, warmup=0.2, b_decay=7.0, schedule_steps=steps)
        found = train(base, PLAIN, config, LABELLED, choice(), tmp_path / str(steps), seed=0)
        length = steps or 10
        wanted = [reference.linear_rate(s, 1e-3, int(0.2 * length), length) for s in range(10)]
        assert seen == pytest.approx(wanted[: len(seen)], abs=1e-15)
        assert wanted[len(seen) :] == [0.0] * (10 - len(seen))
        assert found.steps == len(seen)


def test_a_short_schedule_still_looks_at_the_validation_set(base: Any, tmp_path: Path) -> None:
    config = TrainConfig(epochs=6, batch_size=4, learning_rate=1e-2, patience=1, schedule_steps=3)
    found = train(base, PLAIN, config, LABELLED, choice(), tmp_path / "a", seed=0, validation=LABELLED)
    assert (found.steps, len(found.losses), len(found.validation_losses)) == (3, 2, 2)
    assert found.best_epoch == int(np.argmin(found.validation_losses))


# --- decay acts on B alone ---


def test_one_step_of_decay_moves_b_by_rate_times_beta_and_nothing_else(
    base: Any, adapter: Path, tmp_path: Path
) -> None:
    """Both steps start from the same tensors, so they have the same gradients: what differs is the decay alone."""
    gamma, beta = 1e-3, 40.0
    for name, b_decay in (("without", 0.0), ("with", beta)):
        config = TrainConfig(epochs=1, batch_size=8, learning_rate=gamma, b_decay=b_decay)
        found = train(base, PLAIN, config, LABELLED, choice(), tmp_path / name, seed=0, previous=adapter)
        assert found.steps == 1
    start, without, decayed = weights(adapter), weights(tmp_path / "without"), weights(tmp_path / "with")
    for name in start:
        assert not torch.equal(start[name], without[name]), "no step was made"
        if "lora_A" in name:
            assert torch.equal(without[name], decayed[name])
        else:
            torch.testing.assert_close(decayed[name], without[name] - gamma * beta * start[name], rtol=1e-5, atol=1e-8)


def test_weight_decay_is_the_other_tensors(base: Any, adapter: Path, tmp_path: Path) -> None:
    for name, decay in (("without", 0.0), ("with", 30.0)):
        config = TrainConfig(epochs=1, batch_size=8, learning_rate=1e-3, b_decay=0.0, weight_decay=decay)
        train(base, PLAIN, config, LABELLED, choice(), tmp_path / name, seed=0, previous=adapter)
    start, without, decayed = weights(adapter), weights(tmp_path / "without"), weights(tmp_path / "with")
    for name in start:
        if "lora_B" in name:
            assert torch.equal(without[name], decayed[name])
        else:
            torch.testing.assert_close(decayed[name], without[name] - 0.03 * start[name], rtol=1e-5, atol=1e-8)


# --- dropout before B ---


def layers(model: Any) -> list[Any]:
    from peft.tuners.lora.layer import Linear

    return [m for m in model.modules() if isinstance(m, Linear)]


@pytest.mark.parametrize("device_type", ["cpu", "meta"])
def test_it_is_dropout_on_what_enters_b(base: Any, adapter: Path, device_type: str) -> None:
    """Over many masks the mean stays (inverted scaling), and a mask is one for each element of Ax.

    A device other than the CPU gets PyTorch's own dropout, which is tried here on the CPU.
    """
    rate, draws = 0.4, 4000
    model = adapters.load_adapter(base, adapter)
    drop_before_b(model, rate, torch.device(device_type))
    layer = layers(model)[0]
    x = torch.randn(1, layer.in_features, generator=torch.Generator().manual_seed(0))
    inside = layer.lora_A["default"](x)[0]
    seen = layer.lora_B["default"].weight.T * inside[:, None] * layer.scaling["default"]  # (r, out)
    plain = layer.base_layer(x)[0]
    with torch.no_grad(), torch.random.fork_rng():
        torch.testing.assert_close(layer(x)[0], plain + seen.sum(0))  # eval mode: no dropout
        torch.manual_seed(0)
        layer.train()
        masked = layer(x.expand(draws, -1)) - plain
    error = 5 * (seen**2).sum(0).sqrt() * math.sqrt(rate / (1 - rate) / draws)
    assert ((masked.mean(0) - seen.sum(0)).abs() <= error + 1e-6).all(), "the expectation moved"
    variance = (seen**2).sum(0) * rate / (1 - rate)
    torch.testing.assert_close(masked.var(0), variance, rtol=0.15, atol=1e-9)
    adapters.detach(model)


def test_passes_vary_without_dropout_on_a(base: Any, adapter: Path) -> None:
    """And only they do: a plain pass is the same as without b_dropout."""
    needs, task = {"label_log_probs", "response_entropy"}, choice()
    with adapters.adapted(base, adapter) as model:
        plain = predict(base, model, examples(), needs, task)
    with adapters.adapted(base, adapter, b_dropout=0.3) as model:
        again = predict(base, model, examples(), needs, task)
        one, two, other = (predict(base, model, examples(), needs, task, passes=8, seed=s) for s in (1, 1, 2))
    for name in needs:
        np.testing.assert_array_equal(plain.arrays[name], again.arrays[name])
        np.testing.assert_array_equal(one.arrays[name], two.arrays[name])
        assert (one.arrays[name].std(0) > 0).all()
        assert (one.arrays[name] != other.arrays[name]).any()


def test_it_acts_in_training_and_leaves_no_trace(base: Any, tmp_path: Path) -> None:
    for name, rate in (("without", None), ("with", 0.5)):
        config = TrainConfig(epochs=2, batch_size=4, learning_rate=1e-2, b_dropout=rate)
        train(base, PLAIN, config, LABELLED, choice(), tmp_path / name, seed=0)
    without, dropped = weights(tmp_path / "without"), weights(tmp_path / "with")
    assert without.keys() == dropped.keys(), "it is no part of what is saved"
    assert any(not torch.equal(without[name], dropped[name]) for name in without)
    configs = [(tmp_path / name / "adapter_config.json").read_text() for name in ("without", "with")]
    assert configs[0] == configs[1]
    assert not [m for m in base.model.modules() if "lora" in type(m).__module__]


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"peft_type": "IA3", "target_modules": ["k_proj"], "feedforward_modules": []}, "IA3 has no B of its own"),
        ({"peft_type": "ADALORA", "target_modules": ["q_proj"], "total_step": 10}, "ADALORA has no B"),
        ({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4}, "PROMPT_TUNING has no B"),
        ({**PLAIN, "use_dora": True}, "LORA on Linear layers has no B"),
        (
            {**PLAIN, "target_modules": ["embed_tokens"], "ensure_weight_tying": True},
            "LORA on Embedding layers has no B",
        ),
    ],
)
def test_adapters_without_a_b_are_refused(base: Any, options: dict[str, Any], what: str) -> None:
    names = [name for name, _ in base.model.named_modules()]
    with pytest.raises(ConfigError, match=rf"train.b_dropout is 0.2, but {what}.*; allowed: peft_type LORA on linear"):
        adapters.attach(base, options, seed=0, b_dropout=0.2)
    assert names == [name for name, _ in base.model.named_modules()], "the base model is left clean"


def test_a_strategy_with_passes_may_rely_on_it() -> None:
    (problem,) = check(STRATEGIES["star"], "choice", simulation=True, peft=PLAIN)
    assert "lora_dropout" in problem
    assert check(STRATEGIES["star"], "choice", simulation=True, peft=PLAIN, b_dropout=0.1) == []


def test_a_run_scores_with_it(make_config: Callable[..., dict[str, Any]]) -> None:
    """Without it scoring would stop with equal passes: there is no other dropout."""
    from guidestar.loop import Run, oracle

    config = make_config(peft=PLAIN, train={"b_dropout": 0.3}, strategies=["star"], query={"budget": 18})
    with Run(config) as run:
        run.run(oracle(run.bench.dataset))
        assert run.store.arrays(1, "scores")["full"].std() > 0
        assert [m.labels for m in run.metrics()] == [12, 18]
    with pytest.raises(ConfigError, match=r"train.b_dropout is 0.3, but IA3 has no B of its own"):
        Run(config | {"out": config["out"] + "2", "strategies": ["random"], "peft": {"peft_type": "IA3"}})
