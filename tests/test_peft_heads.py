"""The project's own PEFT types, and PEFT's prefix tuning, under a classification head: three families of models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_heads import HEADS, moved, said, texts, tiny, under_its_own_head

from guidestar.model import adapters

TYPES: dict[str, dict[str, Any]] = {
    "bottleneck": {
        "peft_type": "BOTTLENECK",
        "r": 4,
        "target_modules": r".*(layer\.\d+\.output\.dense|mlp\.down_proj)",
    },
    "gated-prefix": {"peft_type": "GATED_PREFIX", "num_virtual_tokens": 4},
    "prefix": {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 4},
    "unipelt": {"peft_type": "UNIPELT", "num_virtual_tokens": 4, "encoder_hidden_size": 8},
    "compacter": {"peft_type": "COMPACTER", "r": 8},
    "inversion": {"peft_type": "INVERSION", "r": 4},
    "loretta-adp": {"peft_type": "LORETTA", "r": 8},
    "loretta-rep": {"peft_type": "LORETTA", "mode": "rep", "r": 4},
    "lorta": {"peft_type": "LORTA", "r": 4},
    "pica": {"peft_type": "PICA", "r": 4, "target_modules": r".*(query|value|_proj)"},
}
KIND = pytest.mark.parametrize("kind", HEADS)
TYPE = pytest.mark.parametrize("options", TYPES.values(), ids=list(TYPES))


@KIND
@TYPE
def test_it_trains(kind: str, options: dict[str, Any]) -> None:
    """Everything that is trainable has a gradient, and a few steps lower the loss; the base model has none."""
    base = tiny(kind)
    model = adapters.attach(base, options, seed=0)
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    head = [name for name in trainable if ".modules_to_save." in name]
    assert head, "the head is trained with the adapter"
    assert len(trainable) > len(head)
    given = {**texts(), "labels": torch.tensor([0, 2, 1])}
    optimizer = torch.optim.AdamW(trainable.values(), lr=1e-2)
    losses = []
    for _ in range(6):
        loss = model(**given).loss
        loss.backward()
        assert not [name for name, p in trainable.items() if p.grad is None]
        losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0] - 0.02
    assert not [name for name, p in model.named_parameters() if not p.requires_grad and p.grad is not None]


@KIND
@TYPE
def test_plain_peft_loads_it_and_the_base_is_exact_after_it(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    from peft import PeftModel

    base = tiny(kind)
    plain = said(base.model)
    model = adapters.attach(base, options, seed=0).eval()
    under_its_own_head(model)
    if options["peft_type"] != "PREFIX_TUNING":  # which is there from the start
        assert torch.equal(said(model), plain)
    moved(model)
    trained = said(model)
    assert (trained - plain).abs().max() > 1e-2
    adapters.save(model, tmp_path)
    adapters.detach(model)
    assert torch.equal(said(model.get_base_model()), plain)
    assert torch.equal(said(base.model), plain)
    again = PeftModel.from_pretrained(tiny(kind).model, tmp_path).eval()
    assert torch.equal(said(again), trained)


@KIND
@pytest.mark.parametrize("name", sorted(set(TYPES) - {"prefix"}))
def test_pefts_own_unload_takes_it_off(kind: str, name: str) -> None:
    """It keeps the trained head; below it nothing is left."""
    base = tiny(kind)
    plain = base.model.base_model(**texts()).last_hidden_state
    layers = [type(module) for module in base.model.base_model.modules()]
    model = adapters.attach(base, TYPES[name], seed=0).eval()
    moved(model)
    assert (model.get_base_model().base_model(**texts()).last_hidden_state - plain).abs().max() > 1e-2
    bare = model.unload().base_model
    assert torch.equal(bare(**texts()).last_hidden_state, plain)
    assert [type(module) for module in bare.modules()] == layers


@KIND
@pytest.mark.parametrize("options", [TYPES["unipelt"], TYPES["gated-prefix"]], ids=["unipelt", "gated-prefix"])
def test_padding_changes_nothing(kind: str, options: dict[str, Any]) -> None:
    """A text alone and beside a longer one: the mean of a gate is over its own tokens."""
    base = tiny(kind)
    model = adapters.attach(base, options, seed=0).eval()
    moved(model)
    both = texts(2)
    both["input_ids"][1, 4:] = 0
    both["attention_mask"][1, 4:] = 0
    alone = {name: tensor[1:, :4] for name, tensor in both.items()}
    torch.testing.assert_close(said(model, both)[1:], said(model, alone), rtol=1e-4, atol=1e-5)
