"""Cheaper training steps give what the plain ones give: gradients, masks, and the curve of a whole training."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from asked import train
from test_predict import PEFT, choice, examples
from torch import nn

from guidestar.config import ModelConfig, TrainConfig
from guidestar.model import adapters, attention, step
from guidestar.model.load import load

LORA = {**PEFT, "lora_dropout": 0.25}


def attached(base: Any, options: dict[str, Any], **more: Any) -> Any:
    """An adapter whose B is not zero."""
    model = adapters.attach(base, options, seed=0, **more)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05, generator=torch.Generator().manual_seed(len(name)))
    return model


def gradients(model: Any, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    model.train()
    model.zero_grad()
    torch.manual_seed(4)
    model(input_ids=ids, labels=ids).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("options", [LORA, {**LORA, "lora_dropout": 0.0}, {**LORA, "use_rslora": True}])
def test_gradients_equal_those_of_peft(base: Any, options: dict[str, Any]) -> None:
    """With the same masks: both ways draw the same random numbers."""
    ids = torch.arange(24).view(2, 12) + 5
    model = attached(base, options)
    try:
        slow = gradients(model, ids)
        with step.whole_lora(model):
            layer = next(m for m in model.modules() if hasattr(m, "lora_A"))
            assert "forward" in vars(layer), "nothing was replaced"
            fast = gradients(model, ids)
        assert "forward" not in vars(layer)
        after = gradients(model, ids)
    finally:
        adapters.detach(model)
    assert slow.keys() == fast.keys()
    assert len(slow) == len([n for n in slow if "lora_" in n]) > 10
    for name, expected in slow.items():
        assert expected.abs().max() > 0
        torch.testing.assert_close(fast[name], expected, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(after[name], expected, rtol=0, atol=0)


def test_one_layer_by_hand() -> None:
    """y = W x + bias + s/(1−p) · B A (m x) and its gradients, from autograd over the formula, in double precision."""
    g = torch.Generator().manual_seed(1)
    w, bias, a, b, x = (
        torch.randn(*shape, generator=g, dtype=torch.float64)
        for shape in ((7, 5), (7,), (3, 5), (7, 3), (2, 4, 5))
    )  # fmt: skip
    cut, alpha = 20_000, 1.7
    for part in (a, b, x):
        part.requires_grad_()
    torch.manual_seed(2)
    found = step._WholeLora.apply(x, w, bias, a, b, cut, alpha)
    weights = torch.randn(found.shape, generator=g, dtype=torch.float64)
    of_found = torch.autograd.grad((found * weights).sum(), [x, a, b])
    torch.manual_seed(2)
    keep = step.keep_bits(x.detach().view(-1, 5), cut).view(x.shape) != 0
    assert 0 < keep.sum() < keep.numel()
    expected = x @ w.t() + bias + alpha * (torch.where(keep, x, 0.0) @ a.t() @ b.t())
    torch.testing.assert_close(found, expected)
    for one, other in zip(of_found, torch.autograd.grad((expected * weights).sum(), [x, a, b]), strict=True):
        torch.testing.assert_close(one, other)


def losses(base: Any, folder: Path, peft: dict[str, Any], monkeypatch: pytest.MonkeyPatch, plain: bool) -> Any:
    labelled = [(e, choice().labels[i % 6]) for i, e in enumerate(examples())]
    config = TrainConfig(epochs=6, batch_size=4, learning_rate=5e-3)
    with monkeypatch.context() as patch:
        if plain:
            patch.setattr(step, "whole_lora", lambda model: nullcontext())
            patch.setattr(attention, "products", lambda base, model: nullcontext())
            patch.setattr(step, "optimizer_options", lambda base: {})
        return train(base, peft, config, labelled, choice(), folder, seed=3).losses


@pytest.mark.parametrize(
    "peft", [LORA, {"peft_type": "LOHA", "r": 4, "alpha": 8, "target_modules": ["q_proj", "v_proj"]}]
)
def test_the_curve_is_that_of_plain_steps(
    base: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, peft: dict[str, Any]
) -> None:
    fast = losses(base, tmp_path / "fast", peft, monkeypatch, plain=False)
    slow = losses(base, tmp_path / "slow", peft, monkeypatch, plain=True)
    assert slow[0] > 1.01 * slow[-1], "nothing was learned, so the curves say nothing"
    np.testing.assert_allclose(fast, slow, rtol=1e-4)


def test_attention_by_products_gives_the_same_curve(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32, where it can be told: there it is not used otherwise."""
    base = load(ModelConfig(name=str(tiny_folder), dtype="float32"))
    fused = losses(base, tmp_path / "fused", LORA, monkeypatch, plain=False)
    with attention.switched(base.model):
        assert base.model.config._attn_implementation == attention.NAME
        separate = losses(base, tmp_path / "separate", LORA, monkeypatch, plain=False)
    assert base.model.config._attn_implementation == "sdpa"
    np.testing.assert_allclose(separate, fused, rtol=1e-4)


def test_bfloat16_trains_alike(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = load(ModelConfig(name=str(tiny_folder), dtype="bfloat16"))
    fast = losses(base, tmp_path / "fast", LORA, monkeypatch, plain=False)
    slow = losses(base, tmp_path / "slow", LORA, monkeypatch, plain=True)
    np.testing.assert_allclose(fast, slow, rtol=0.03)
    assert base.model.config._attn_implementation == "sdpa", "the fused attention was not put back"


@pytest.mark.parametrize(("dtype", "expected"), [("bfloat16", attention.NAME), ("float32", "sdpa")])
def test_only_bfloat16_gets_attention_by_products(tiny_folder: Path, dtype: str, expected: str) -> None:
    base = load(ModelConfig(name=str(tiny_folder), dtype=dtype))
    with step.cheaper(base, base.model):
        assert base.model.config._attn_implementation == expected
    assert base.model.config._attn_implementation == "sdpa"


def replaced(model: Any) -> int:
    return sum("forward" in vars(m) for m in model.modules() if hasattr(m, "lora_A"))


def test_another_kind_of_lora_stays_as_it_is(base: Any) -> None:
    model = adapters.attach(base, {**LORA, "use_dora": True}, seed=0)
    with step.whole_lora(model):
        assert replaced(model) == 0
    adapters.detach(model)


def test_what_hangs_on_a_part_is_heard(base: Any) -> None:
    """Dropout before B, or anybody's hook."""
    model = adapters.attach(base, LORA, seed=0, b_dropout=0.2)
    with step.whole_lora(model):
        assert replaced(model) == 0
    adapters.detach(model)
    model = adapters.attach(base, LORA, seed=0)
    layer = next(m for m in model.modules() if hasattr(m, "lora_A"))
    handle = layer.lora_A["default"].register_forward_hook(lambda *args: None)
    with step.whole_lora(model):
        assert replaced(model) == 0
    handle.remove()
    layer.lora_dropout["default"] = nn.AlphaDropout(0.1)
    with step.whole_lora(model):
        assert replaced(model) == 0, "a dropout of another kind has masks of its own"
    adapters.detach(model)


def test_a_failure_puts_everything_back(tiny_folder: Path, tmp_path: Path) -> None:
    base = load(ModelConfig(name=str(tiny_folder), dtype="bfloat16"))
    model = adapters.attach(base, LORA, seed=0)

    def dies() -> None:
        with step.cheaper(base, model):
            assert replaced(model) > 0
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dies()
    assert replaced(model) == 0
    assert base.model.config._attn_implementation == "sdpa"
    adapters.detach(model)
