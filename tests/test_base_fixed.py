"""The base model is one fixed thing, whatever adapter was on it: any accepted configuration, drawn at random."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_peft_contract import CASES, options
from tiny_heads import moved, said, tiny

from guidestar.errors import ConfigError, ModelError
from guidestar.model import adapters

pytestmark = pytest.mark.filterwarnings("ignore")

LORA = st.fixed_dictionaries(
    {"r": st.sampled_from([1, 4]), "lora_alpha": st.sampled_from([1, 8]), "lora_dropout": st.sampled_from([0.0, 0.3])},
    optional={
        "init_lora_weights": st.sampled_from([True, False, "gaussian", "orthogonal", "pissa", "olora", "eva", "loftq"]),
        "target_modules": st.sampled_from(["all-linear", ["q_proj", "down_proj"], ".*o_proj", ["lm_head"], ["embed_tokens"]]),
        "use_rslora": st.booleans(), "use_dora": st.booleans(), "lora_bias": st.booleans(), "fan_in_fan_out": st.booleans(),
        "bias": st.sampled_from(["none", "all", "lora_only"]), "layers_to_transform": st.sampled_from([0, [0]]),
        "modules_to_save": st.sampled_from([None, ["lm_head"], ["embed_tokens"], ["input_layernorm"]]),
        "trainable_token_indices": st.sampled_from([None, [1, 2]]), "layer_replication": st.sampled_from([None, [[0, 1], [0, 1]]]),
        "rank_pattern": st.sampled_from([{}, {"q_proj": 2}]), "alpha_pattern": st.sampled_from([{}, {"q_proj": 3}]),
        "exclude_modules": st.sampled_from([None, ["o_proj"]]),
    },
)  # fmt: skip
FIT = sorted(name for name, case in CASES.items() if "llama" not in case.unfit)
ANY = st.tuples(st.just("LORA"), LORA) | st.tuples(st.sampled_from(FIT), st.just({}))


@settings(max_examples=25, deadline=None)
@given(drawn=ANY)
def test_the_base_says_the_same_before_and_after_every_accepted_configuration(
    drawn: tuple[str, dict[str, Any]],
) -> None:
    """To the bit: before an adapter is on, while it is disabled, after it, and where it is refused. What was saved and is
    loaded again says what the trained one said."""
    name, keys = drawn
    base = tiny("llama")
    weights = {key: value.clone() for key, value in base.model.state_dict().items()}
    plain = said(base.model)
    try:
        model = adapters.attach(base, {**options("llama", name), **keys}, seed=0).eval()
    except (ConfigError, ModelError):
        model = None
    if model is not None:
        moved(model)
        trained = said(model)
        if name != "PREFIX_TUNING":  # PEFT cannot disable a prompt while it is asked with tokens
            with model.disable_adapter():
                assert torch.equal(said(model), plain), "while it is disabled"
        with tempfile.TemporaryDirectory() as folder:
            adapters.save(model, Path(folder, "a"))
            adapters.detach(model)
            assert torch.equal(said(base.model), plain), "after it"
            with adapters.adapted(base, Path(folder, "a")) as again:
                assert torch.allclose(said(again), trained, atol=1e-5), "loaded again"
    assert torch.equal(said(base.model), plain), "at the end"
    now = base.model.state_dict()
    assert set(now) == set(weights)
    assert all(torch.equal(now[key], weights[key]) for key in now)
