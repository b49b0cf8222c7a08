"""The project's own PEFT types: bottleneck adapters and the gated prefix, as any other type must behave."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from asked import predict
from loops import SMALL, MakeConfig, nothing_stays  # noqa: F401 - fixtures
from safetensors.torch import load_file

from guidestar import loop
from guidestar.config import parse
from guidestar.data.pool import load_dataset
from guidestar.errors import ConfigError
from guidestar.model import adapters
from guidestar.model.peft import NAMES, register
from guidestar.records import Finished
from guidestar.store import Store

SERIES = {
    "peft_type": "BOTTLENECK", "r": 8, "bottleneck_dropout": 0.2, "target_modules": ["o_proj", "down_proj"],
}  # fmt: skip
PARALLEL = {**SERIES, "placement": "parallel", "scaling": 2.0, "activation": "relu", "target_modules": ["q_proj"]}
PREFIX = {"peft_type": "GATED_PREFIX", "num_virtual_tokens": 5, "gated_prefix_dropout": 0.2}
SAVED = {
    "BOTTLENECK": {f"bottleneck_{part}.{kind}" for part in ("down", "up") for kind in ("weight", "bias")},
    "GATED_PREFIX": {"gated_prefix_keys", "gated_prefix_values", "gated_prefix_gate"},
}
EVERY = pytest.mark.parametrize("options", [SERIES, PARALLEL, PREFIX], ids=["series", "parallel", "prefix"])
BOTH = pytest.mark.parametrize("options", [SERIES, PARALLEL], ids=["series", "parallel"])


@pytest.fixture(scope="module")
def data(demo_data):
    return load_dataset(parse({"data": {"preset": "demo", "folder": str(demo_data)}}))


def logits(base: Any, model: Any, text: str = "Message: where is my parcel?\nTopic:") -> torch.Tensor:
    ids = torch.tensor([base.tokenizer(text)["input_ids"]])
    with torch.inference_mode():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


def trained(model: Any, size: float = 0.3) -> None:
    """Weights that are not at their start, as after training."""
    generator = torch.Generator().manual_seed(0)
    for name, p in model.named_parameters():
        if "bottleneck_" in name or "gated_prefix_" in name:
            p.data += size * torch.randn(p.shape, generator=generator)


# --- sizes ----------------------------------------------------------------------------------------


def bert_base() -> Any:
    """BERT-base by its configuration alone, without a number in memory."""
    from transformers import BertConfig, BertModel

    with torch.device("meta"):
        return BertModel(BertConfig())


def trainable(model: Any) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"r": 48, "target_modules": ["output.dense"]}, 2 * 12 * (2 * 768 * 48 + 48 + 768)),  # Houlsby
        ({"r": 48, "target_modules": r".*\.\d+\.output\.dense", "activation": "relu"}, 12 * (2 * 768 * 48 + 48 + 768)),
        ({"r": 48, "target_modules": ["output.dense"], "bottleneck_bias": False}, 2 * 12 * 2 * 768 * 48),
    ],
)
def test_bert_base_has_as_many_trainable_numbers_as_the_formula_says(options: dict[str, Any], count: int) -> None:
    from peft import get_peft_model

    config = adapters.make_config({"peft_type": "BOTTLENECK", "task_type": "FEATURE_EXTRACTION", **options})
    assert trainable(get_peft_model(bert_base(), config)) == count


def test_the_published_counts_of_bert_base() -> None:
    """Houlsby's adapters 1,789,056, Pfeiffer's 894,528, LoRA on query and value 294,912."""
    from peft import get_peft_model

    found = [
        trainable(get_peft_model(bert_base(), adapters.make_config({"task_type": "FEATURE_EXTRACTION", **options})))
        for options in (
            {"peft_type": "BOTTLENECK", "r": 48, "target_modules": ["output.dense"]},
            {"peft_type": "BOTTLENECK", "r": 48, "target_modules": r".*\.\d+\.output\.dense"},
            {"peft_type": "LORA", "r": 8, "target_modules": ["query", "value"]},
        )
    ]
    assert found == [1_789_056, 894_528, 294_912]


def test_pefts_own_prefix_of_bert_base_has_the_published_count() -> None:
    """30 tokens through an MLP of 512 to the keys and values of 12 layers: 9,872,384, and 552,960 without the MLP."""
    from peft import get_peft_model

    plain = {"peft_type": "PREFIX_TUNING", "task_type": "FEATURE_EXTRACTION", "num_virtual_tokens": 30}
    through = {**plain, "prefix_projection": True, "encoder_hidden_size": 512}
    found = [trainable(get_peft_model(bert_base(), adapters.make_config(options))) for options in (through, plain)]
    assert found == [9_872_384, 552_960]


def test_the_gated_prefix_counts_keys_values_and_gates(base: Any) -> None:
    config = base.model.config
    model = adapters.attach(base, PREFIX, seed=0)
    size = config.hidden_size // config.num_attention_heads
    one = 2 * 5 * config.num_key_value_heads * size + config.num_attention_heads
    assert trainable(model) == config.num_hidden_layers * one


def test_series_and_parallel_differ_in_where_they_read(base: Any) -> None:
    """down_proj: series reads its 64 outputs, parallel its wider input."""
    one = {**SERIES, "target_modules": ["down_proj"], "bottleneck_bias": False}
    config = base.model.config
    for placement, source in (("series", config.hidden_size), ("parallel", config.intermediate_size)):
        model = adapters.attach(base, {**one, "placement": placement}, seed=0)
        assert trainable(model) == config.num_hidden_layers * 8 * (source + config.hidden_size)
        adapters.detach(model)


# --- as every PEFT type -----------------------------------------------------------------------------


@EVERY
def test_identity_at_the_start_and_the_exact_base_when_disabled(base: Any, options: dict[str, Any]) -> None:
    plain = logits(base, base.model)
    model = adapters.attach(base, options, seed=0).eval()
    assert torch.equal(logits(base, model), plain)
    trained(model)
    assert (logits(base, model) - plain).abs().max() > 1e-2
    with model.disable_adapter():
        assert torch.equal(logits(base, model), plain)
    adapters.detach(model)
    assert torch.equal(logits(base, base.model), plain)


@BOTH
def test_the_output_is_the_formulas(base: Any, options: dict[str, Any]) -> None:
    model = adapters.attach(base, options, seed=0).eval()
    trained(model)
    name = options["target_modules"][0]
    layer = model.get_base_model().model.layers[0].self_attn.get_submodule(name)
    x = torch.randn(3, layer.base_layer.in_features)
    w, part = layer.base_layer.weight, layer.parts["default"]
    down, up = part.down, part.up
    h = x @ w.T
    read = h if options is SERIES else x
    low = read @ down.weight.T + down.bias
    bent = low * torch.sigmoid(low) if options is SERIES else low.clamp(min=0)
    factor = 1.0 if options is SERIES else 2.0
    torch.testing.assert_close(layer(x), h + factor * (bent @ up.weight.T + up.bias), rtol=1e-5, atol=1e-5)


@EVERY
def test_passes_with_dropout_differ(base: Any, options: dict[str, Any], data: Any) -> None:
    model = adapters.attach(base, options, seed=0).eval()
    trained(model)
    found = predict(base, model, data.pool[:3], {"label_log_probs"}, data.task, passes=3).arrays["label_log_probs"]
    assert (found[0] != found[1]).any()
    assert torch.equal(logits(base, model), logits(base, model)), "a plain pass is the same again"


@EVERY
def test_saved_and_loaded_it_says_the_same(base: Any, options: dict[str, Any], tmp_path: Any) -> None:
    model = adapters.attach(base, options, seed=0).eval()
    trained(model)
    said = logits(base, model)
    adapters.save(model, tmp_path)
    adapters.detach(model)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == options["peft_type"]
    names = {re.sub(r".*\.(?=bottleneck|gated)", "", key) for key in load_file(tmp_path / "adapter_model.safetensors")}
    assert names == SAVED[options["peft_type"]], "what is on people's disks has these names"
    with adapters.adapted(base, tmp_path) as again:
        assert torch.equal(logits(base, again), said)


def test_the_prefix_is_an_attention_of_its_own(base: Any) -> None:
    """Literally, head by head: g · softmax(q Kᵀ/√d) V through W_o, beside the attention of the text."""
    model = adapters.attach(base, PREFIX, seed=0).eval()
    trained(model, 1.0)
    layer = model.get_base_model().model.layers[1].self_attn
    attention = layer.base_layer
    x = torch.randn(2, 4, base.model.config.hidden_size)
    part = layer.parts["default"]
    keys, values, gate = (tensor.detach() for tensor in (part.keys, part.values, part.gate))
    size, heads = attention.head_dim, len(gate)
    found = torch.zeros(2, 4, heads * size)
    for head in range(heads):
        group = head // (heads // len(keys))
        q = attention.q_proj(x)[..., head * size : (head + 1) * size]
        for b in range(2):
            for t in range(4):
                near = torch.stack([q[b, t] @ key for key in keys[group]]) / size**0.5
                share = near.exp() / near.exp().sum()
                found[b, t, head * size : (head + 1) * size] = gate[head] * sum(
                    w * v for w, v in zip(share, values[group], strict=True)
                )
    torch.testing.assert_close(part(x, None), found @ attention.o_proj.weight.T, rtol=1e-4, atol=1e-5)


def test_the_prefix_does_not_care_about_padding_or_a_cache(base: Any, data: Any) -> None:
    """Unlike PEFT's prefix tuning, whose batches must not be padded."""
    model = adapters.attach(base, PREFIX, seed=0).eval()
    trained(model)
    assert not adapters.exact_lengths(model)
    some = sorted(data.pool[:8], key=lambda e: len(e.prompt))
    whole = predict(base, model, some, {"label_log_probs"}, data.task).arrays["label_log_probs"][0]
    for i in (0, 7):
        alone = predict(base, model, some[i : i + 1], {"label_log_probs"}, data.task).arrays["label_log_probs"][0]
        np.testing.assert_allclose(whole[i], alone[0], atol=1e-4)


def test_the_gate_is_its_b(base: Any) -> None:
    model = adapters.attach(base, PREFIX, seed=0)
    assert {name.split(".")[-1] for name in adapters.anchors(model)} == {"gate"}


def test_a_second_adapter_beside_the_first(base: Any) -> None:
    model = adapters.attach(base, SERIES, seed=0).eval()
    trained(model)
    first = logits(base, model)
    model.add_adapter("second", adapters.make_config({**SERIES, "r": 3}))
    model.set_adapter("second")
    with model.disable_adapter():
        plain = logits(base, model)
    assert torch.equal(logits(base, model), plain), "the second one starts as the identity"
    model.set_adapter("default")
    assert torch.equal(logits(base, model.eval()), first)
    model.delete_adapter("second")


def test_its_b_is_the_up_projection(base: Any) -> None:
    """What is constant at the start decays in STAR's eq. 6: U and the biases, not D."""
    model = adapters.attach(base, SERIES, seed=0)
    found = {".".join(name.split(".")[-2:]) for name in adapters.anchors(model)}
    assert found == {"up.weight", "up.bias", "down.bias"}


@EVERY
def test_it_cannot_be_merged(base: Any, options: dict[str, Any]) -> None:
    model = adapters.attach(base, options, seed=0)
    with pytest.raises(ValueError, match="cannot be merged"):
        model.merge_adapter()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"placement": "serial"}, "placement is 'serial'; allowed: series, parallel"),
        ({"activation": "silu"}, "activation is 'silu'; allowed: swish, relu, gelu, tanh"),
        ({"r": 0}, "r is 0; allowed: 1 or more"),
        ({"bottleneck_dropout": 1.0}, "bottleneck_dropout is 1.0"),
        ({"dropout": 0.1}, "unknown key 'dropout' for BOTTLENECK"),
    ],
)
def test_wrong_values_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        adapters.make_config({**SERIES, **change})


def test_layers_that_are_not_linear_are_refused(base: Any) -> None:
    with pytest.raises(ConfigError, match="needs a linear layer"):
        adapters.attach(base, {**SERIES, "target_modules": ["input_layernorm"]}, seed=0)


def test_a_prefix_needs_an_attention_like_llamas(base: Any) -> None:
    with pytest.raises(
        ConfigError, match="LlamaMLP; a prefix needs an attention module with q_proj, k_proj, v_proj, o_p"
    ):
        adapters.attach(base, {**PREFIX, "target_modules": ["mlp"]}, seed=0)
    with pytest.raises(ConfigError, match="num_virtual_tokens is 0; allowed: 1 or more"):
        adapters.make_config({**PREFIX, "num_virtual_tokens": 0})


def test_peft_takes_types_of_other_names() -> None:
    """Undocumented, so watched: its tables are keyed by text, and registering twice changes nothing."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    before = {str(getattr(t, "value", t)) for t in PEFT_TYPE_TO_CONFIG_MAPPING} - set(NAMES)
    register()
    assert {str(getattr(t, "value", t)) for t in PEFT_TYPE_TO_CONFIG_MAPPING} - before == set(NAMES)
    count = len(PEFT_TYPE_TO_CONFIG_MAPPING)
    register()
    assert len(PEFT_TYPE_TO_CONFIG_MAPPING) == count


@pytest.mark.parametrize("options", [SERIES, PREFIX], ids=["series", "prefix"])
def test_star_runs_with_it(options: dict[str, Any], make_config: MakeConfig) -> None:
    """The whole loop: training, dropout passes, base scores, decay; and the run can be looked at."""
    config = make_config(strategies=["star"], **{**SMALL, "peft": options})
    (outcome,) = loop.run(config).values()
    assert isinstance(outcome, Finished)
    with Store.open(Path(config["out"]) / "star-seed0") as store:
        assert len(store.metrics()) == 3
        scores = store.arrays(1, "scores")
        assert np.isfinite(scores["score"]).all()
