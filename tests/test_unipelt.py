"""UniPELT: its parts against the formulas written out, its gates, its size, and that it behaves as any PEFT type."""

from __future__ import annotations

import copy
import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from asked import predict
from loops import SMALL, MakeConfig
from outside import dump
from tiny_heads import moved, said, texts, tiny

from guidestar import loop
from guidestar.config import parse
from guidestar.data.pool import load_dataset
from guidestar.errors import ConfigError, ModelError
from guidestar.model import adapters
from guidestar.model.peft.unipelt import KINDS, Seen, UniPeltLayer, watched_gates
from guidestar.model.states import gates
from guidestar.records import Finished
from guidestar.store import Store
from guidestar.study.probes import probe
from guidestar.study.probes.figures import draw_gates

OPTIONS = {"peft_type": "UNIPELT", "num_virtual_tokens": 4, "encoder_hidden_size": 8, "unipelt_dropout": 0.2}


def attached(kind: str, **changes: Any) -> Any:
    """A model whose adapter is not at its start."""
    model = adapters.attach(tiny(kind), {**OPTIONS, **changes}, seed=0).eval()
    moved(model)
    return model


def layers(model: Any, kind: str) -> list[UniPeltLayer]:
    return [m for m in model.modules() if isinstance(m, UniPeltLayer) and m.kind == kind]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def gate_at(gate: Any, x: torch.Tensor) -> float:
    """σ(w·x + b) of one token."""
    return sigmoid(sum(w * v for w, v in zip(gate.weight[0].tolist(), x.tolist(), strict=True)) + gate.bias.item())


def trainable(model: Any) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


# --- size -------------------------------------------------------------------------------------------


def bert_base(**options: Any) -> Any:
    """The adapter on BERT-base by its configuration alone, without a number in memory."""
    from peft import get_peft_model
    from transformers import BertConfig, BertModel

    with torch.device("meta"):
        model = BertModel(BertConfig())
    return get_peft_model(
        model, adapters.make_config({"peft_type": "UNIPELT", "task_type": "FEATURE_EXTRACTION", **options})
    )


def test_bert_base_has_the_published_count() -> None:
    """LoRA of rank 8, ten prefix tokens through an MLP of 512, adapters of width 768/16, and four gates a layer."""
    d, blocks, r, p, hidden, narrow = 768, 12, 8, 10, 512, 768 // 16
    lora = blocks * 2 * r * 2 * d
    prefix = p * d + (d * hidden + hidden) + (hidden * 2 * blocks * d + 2 * blocks * d)
    bottleneck = blocks * (2 * d * narrow + narrow + d)
    count = lora + prefix + bottleneck + 4 * blocks * (d + 1)
    assert trainable(bert_base()) == count == 11_083_376


def test_a_llama_with_grouped_keys_counts_them_once() -> None:
    model = adapters.attach(tiny("llama"), OPTIONS, seed=0)
    d, out, hidden, p, narrow = 32, 16, 8, 4, 2
    each = 8 * (d + d) + 8 * (d + out) + 2 * (hidden * out + out) + (2 * d * narrow + narrow + d) + 4 * (d + 1)
    assert trainable(model) == 2 * each + p * d + d * hidden + hidden


# --- the formulas, written out ------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "part"), [("llama", "lora_v"), ("bert", "lora_q")])
def test_lora_has_a_gate_for_each_token(kind: str, part: str) -> None:
    layer = layers(attached(kind), part)[1]
    own = layer.unipelt["default"]
    x = torch.randn(2, 3, 32)
    found = layer(x)
    for b in range(2):
        for t in range(3):
            gate = gate_at(own.gate, x[b, t])
            added = gate * (2.0 / 8) * (own.lora_B.weight @ (own.lora_A.weight @ x[b, t]))
            torch.testing.assert_close(found[b, t], layer.base_layer(x[b, t]) + added, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_the_bottleneck_reads_what_the_network_gives(kind: str) -> None:
    """With a head one gate an example, over its real tokens alone; in a model that writes one gate a token."""
    model = attached(kind)
    layer = layers(model, "bottleneck")[0]
    own = layer.unipelt["default"]
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    model.base_model.seen["default"].mask = mask
    x = torch.randn(2, 3, 48)
    found = layer(x)
    h = layer.base_layer(x)
    each = [[gate_at(own.gate, h[b, t]) for t in range(3)] for b in range(2)]
    for b in range(2):
        real = [gate for gate, m in zip(each[b], mask[b], strict=True) if m]
        for t in range(3):
            gate = each[b][t] if kind == "llama" else sum(real) / len(real)
            low = (own.down.weight @ h[b, t] + own.down.bias).clamp(min=0)
            added = gate * (own.up.weight @ low + own.up.bias)
            torch.testing.assert_close(found[b, t], h[b, t] + added, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_the_prefix_is_an_attention_of_its_own_behind_an_mlp(kind: str) -> None:
    """Head by head: g · softmax(q Kᵀ/√d) V, with keys and values of tokens that the first layer owns."""
    model = attached(kind)
    layer = layers(model, "prefix")[1]
    own = layer.unipelt["default"]
    first = layers(model, "prefix")[0].unipelt["default"].tokens
    assert own.tokens is None
    assert first is not None
    made = torch.tanh(first.embedding.weight @ first.first.weight.T + first.first.bias) / math.sqrt(8)
    keys, values = (made @ part.weight.T + part.bias for part in (own.keys, own.values))
    x = torch.randn(2, 3, 32)
    query = getattr(layer.base_layer, own.attention.query)(x)
    heads, groups, size = 4, 2 if kind == "llama" else 4, 8
    found = own(x, query).flatten(2)
    each = [[gate_at(own.gate, x[b, t]) for t in range(3)] for b in range(2)]
    for b in range(2):
        for t in range(3):
            gate = each[b][t] if kind == "llama" else sum(each[b]) / 3
            for head in range(heads):
                at = slice(head * size, (head + 1) * size)
                group = head // (heads // groups)
                mine = slice(group * size, (group + 1) * size)
                near = torch.stack([query[b, t, at] @ key for key in keys[:, mine]]) / math.sqrt(size)
                share = near.exp() / near.exp().sum()
                expected = gate * sum(w * v for w, v in zip(share, values[:, mine], strict=True))
                torch.testing.assert_close(found[b, t, at], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_the_attention_gives_its_own_and_the_prefixes(kind: str) -> None:
    """Through the last projection in Llama, before it in BERT; and its query is the one with LoRA."""
    model = attached(kind)
    layer = layers(model, "prefix")[0]
    own = layer.unipelt["default"]
    asked: dict[str, Any] = {}
    handle = layer.register_forward_hook(
        lambda module, args, kwargs, out: asked.update(args=args, kwargs=kwargs, out=out), with_kwargs=True
    )
    said(model)
    handle.remove()
    args, kwargs = asked["args"], asked["kwargs"]
    with torch.inference_mode():
        x = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        plain = layer.base_layer(*args, **kwargs)[0]
        added = own(x, getattr(layer.base_layer, own.attention.query)(x)).flatten(2)
        if kind == "llama":
            added = layer.base_layer.o_proj(added)
        torch.testing.assert_close(asked["out"][0], plain + added, rtol=1e-5, atol=1e-6)


# --- in a model that writes ---------------------------------------------------------------------------


def test_no_token_knows_of_those_behind_it() -> None:
    model = attached("llama")
    given = texts(1)
    before = said(model, given)[:, :5]
    given["input_ids"][0, 5:] = 9
    assert torch.equal(said(model, given)[:, :5], before)


def test_reading_on_behind_a_cache_is_the_same() -> None:
    model = attached("llama")
    given = texts(2)
    whole = said(model, given)
    with torch.inference_mode():
        first = model(input_ids=given["input_ids"][:, :4], use_cache=True)
        rest = model(input_ids=given["input_ids"][:, 4:], past_key_values=first.past_key_values).logits
    torch.testing.assert_close(rest, whole[:, 4:], rtol=1e-4, atol=1e-5)


# --- its gates ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_gates_can_be_read_off(kind: str) -> None:
    """Equal to what the layers' formula says, as a mean over the real tokens; a constant gate is that constant."""
    model = attached(kind)
    given = texts(2)
    given["attention_mask"][1, 4:] = 0
    inputs: list[torch.Tensor] = []
    layer = layers(model, "lora_v")[1]
    own = layer.unipelt["default"].gate
    handle = own.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    for part in layers(model, "bottleneck"):
        gate = part.unipelt["default"].gate
        gate.weight.data.zero_()
        gate.bias.data.fill_(1.5)
    with watched_gates(model) as found:
        said(model, given)
    handle.remove()
    assert set(found) == {(name, number) for name in KINDS for number in (0, 1)}
    assert all(len(passes) == 1 and passes[0].shape == (2,) for passes in found.values())
    assert all(0 < float(g) < 1 for passes in found.values() for g in passes[0])
    torch.testing.assert_close(found["bottleneck", 1][0], torch.full((2,), sigmoid(1.5)))
    x = inputs[0].clone()
    for row, tokens in ((0, 7), (1, 4)):
        each = [gate_at(own, x[row, t]) for t in range(tokens)]
        assert float(found["lora_v", 1][0][row]) == pytest.approx(sum(each) / tokens, abs=1e-5)
    with watched_gates(model) as later:
        pass
    assert not any(later.values()), "nothing was read off outside the block"


def test_gates_of_examples(base: Any, demo_data: Path) -> None:
    """(layers, n) for each part, the same whatever the batches are."""
    pool = load_dataset(parse({"data": {"preset": "demo", "folder": str(demo_data)}})).pool
    model = adapters.attach(base, OPTIONS, seed=0).eval()
    moved(model)
    found = gates(base, model, pool[:5])
    blocks = base.model.config.num_hidden_layers
    assert {part: values.shape for part, values in found.items()} == dict.fromkeys(KINDS, (blocks, 5))
    for i in (0, 4):
        alone = gates(base, model, pool[i : i + 1])
        for part in KINDS:
            np.testing.assert_allclose(found[part][:, i], alone[part][:, 0], atol=1e-5)
    adapters.detach(model)
    with pytest.raises(ModelError, match="the model has no adapter of type UNIPELT, so there are no gates"):
        gates(base, base.model, pool[:1])


def test_gates_start_in_the_middle() -> None:
    model = adapters.attach(tiny("bert"), OPTIONS, seed=0).eval()
    with watched_gates(model) as found:
        said(model)
    assert all(abs(float(g) - 0.5) < 0.1 for passes in found.values() for g in passes[0])


def test_a_mask_of_another_batch_is_refused() -> None:
    seen = Seen()
    seen.mask = torch.ones(3, 5)
    with pytest.raises(ValueError, match=r"the attention mask is \(3, 5\), the batch \(rows, tokens\) \(2, 5\)"):
        seen.mean(torch.ones(2, 5, 1))


# --- as every PEFT type -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_disabled_it_is_the_exact_base(kind: str) -> None:
    base = tiny(kind)
    plain = base.model.base_model(**texts()).last_hidden_state
    model = adapters.attach(base, OPTIONS, seed=0).eval()
    moved(model)
    below = model.get_base_model().base_model
    assert (below(**texts()).last_hidden_state - plain).abs().max() > 1e-2
    with model.disable_adapter():
        assert torch.equal(below(**texts()).last_hidden_state, plain)
    adapters.detach(model)
    assert torch.equal(base.model.base_model(**texts()).last_hidden_state, plain)
    assert not [m for m in base.model.modules() if isinstance(m, UniPeltLayer) or m._forward_pre_hooks]


def test_pefts_own_unload_leaves_nothing_behind() -> None:
    from peft import get_peft_model

    base = tiny("llama")
    plain = said(base.model)
    before = dict(base.model.named_modules())
    model = get_peft_model(base.model, adapters.make_config(OPTIONS)).eval()
    moved(model)
    bare = model.unload()
    assert torch.equal(said(bare), plain)
    assert dict(bare.named_modules()) == before


def test_a_second_adapter_has_tokens_of_its_own() -> None:
    model = attached("llama")
    first = said(model)
    model.add_adapter("second", adapters.make_config({**OPTIONS, "num_virtual_tokens": 2}))
    assert torch.equal(said(model), first), "it is not yet active"
    model.set_adapter("second")
    with model.disable_adapter():
        plain = said(model)
    assert torch.equal(said(model.eval()), plain), "it starts as the identity"
    tokens = layers(model, "prefix")[0].unipelt
    assert [tokens[name].tokens.embedding.num_embeddings for name in ("default", "second")] == [4, 2]
    moved(model)
    other = said(model)
    assert not torch.equal(other, plain)
    model.set_adapter("default")
    assert torch.equal(said(model), first)
    model.delete_adapter("second")
    assert torch.equal(said(model), first)
    model.add_adapter("second", adapters.make_config({**OPTIONS, "num_virtual_tokens": 3}))
    assert layers(model, "prefix")[0].unipelt["second"].tokens.embedding.num_embeddings == 3


def test_it_cannot_be_merged() -> None:
    model = attached("llama")
    before = said(model)
    for merge in (model.merge_adapter, model.merge_and_unload):
        with pytest.raises(ValueError, match="a UniPELT adapter has gates and cannot be merged"):
            merge()
    assert torch.equal(said(model), before), "a refusal changes nothing"


def test_a_copy_stands_on_its_own() -> None:
    model = attached("bert")
    before = said(model)
    other = copy.deepcopy(model)
    assert torch.equal(said(other), before)
    moved(model)
    assert torch.equal(said(other), before)
    owner, borrower = (layer.unipelt["default"] for layer in layers(other, "prefix"))
    assert borrower.shared is owner.tokens


def test_in_bfloat16_it_trains_in_float32_and_scores_in_bfloat16(tmp_path: Path) -> None:
    base = tiny("llama")
    base.model.to(torch.bfloat16)
    model = adapters.attach(base, OPTIONS, seed=0)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(**texts(), labels=texts()["input_ids"]).loss.backward()
    adapters.save(model, tmp_path)
    adapters.detach(model)
    with adapters.adapted(base, tmp_path) as again:
        assert {p.dtype for name, p in again.named_parameters() if "unipelt" in name} == {torch.bfloat16}
        assert torch.isfinite(said(again)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "silu"}, "activation is 'silu'; allowed: swish, relu, gelu, tanh"),
        ({"r": 0}, "r is 0; allowed: 1 or more"),
        ({"reduction_factor": 0.5}, "reduction_factor is 0.5; allowed: 1 or more"),
        ({"unipelt_dropout": 1.0}, "unipelt_dropout is 1.0"),
        ({"lora_dropout": 0.1}, "unknown key 'lora_dropout' for UNIPELT"),
    ],
)
def test_wrong_values_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        adapters.make_config({**OPTIONS, **change})


def test_modules_that_do_not_fit_are_refused() -> None:
    base = tiny("llama")
    plain = said(base.model)
    with pytest.raises(ConfigError, match="is a LlamaMLP; a prefix needs an attention module with q_proj"):
        adapters.attach(base, {**OPTIONS, "target_modules": ["self_attn", "mlp"]}, seed=0)
    assert torch.equal(said(base.model), plain), "a half-built adapter was taken off again"
    assert not [m for m in base.model.modules() if isinstance(m, UniPeltLayer)]


# --- a run with it ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, demo_data: Path, tiny_folder: Path) -> Path:
    out = tmp_path_factory.mktemp("gated") / "run"
    (outcome,) = loop.run(
        {
            "out": str(out), "strategies": ["star"], "data": {"preset": "demo", "folder": str(demo_data), "test_limit": 20},
            "model": {"name": str(tiny_folder), "dtype": "float32"},
            "query": {"warm_start": 12, "batch": 6, "budget": 18, "candidates": 20},
            "train": {"epochs": 1, "batch_size": 8, "learning_rate": 1e-2}, "peft": OPTIONS,
        }
    ).values()  # fmt: skip
    assert isinstance(outcome, Finished)
    return out / "star-seed0"


def test_the_probe_logs_the_gates_of_every_round(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.open(finished) as store:
        before = dump(store)
    found = probe(finished, "gates", texts=6)
    with Store.open(finished) as store:
        assert dump(store) == before
    facts = found.facts
    assert facts["rounds"] == [0, 1]
    assert facts["labels"] == [12, 18]
    assert facts["parts"] == sorted(KINDS)
    assert {p.name for p in found.files} == {f"gates.{kind}" for kind in ("png", "pdf", "csv", "json")}
    assert json.loads((finished / "probes" / "gates.json").read_text()) == facts
    with (finished / "probes" / "gates.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 2 * len(KINDS) * len(facts["mean"]["prefix"][0])
    assert {float(row["mean"]) for row in table if (row["round"], row["part"]) == ("1", "prefix")} == set(
        facts["mean"]["prefix"][1]
    )
    assert all(0 < v < 1 for part in facts["mean"].values() for row in part for v in row)
    assert facts["mean"]["lora_q"][0] != facts["mean"]["lora_q"][1]
    assert "After round 1 the mean gate of bottleneck is 0." in found.sentences[0]
    monkeypatch.setattr("guidestar.model.states.gates", None)
    assert probe(finished, "gates", texts=6).facts == facts, "what was computed is read from the disk"


def test_each_part_has_its_panel() -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    found = {part: np.full((2, 3), 0.1 * i) for i, part in enumerate(KINDS)}
    draw_gates(["0", "1"], found)(figure)
    assert [axes.get_title(loc="left") or axes.get_title() for axes in figure.axes] == [
        k.replace("_", " ") for k in KINDS
    ]
    for axes, values in zip(figure.axes, found.values(), strict=True):
        assert [list(line.get_ydata()) for line in axes.lines[:2]] == values.tolist()


def test_a_run_with_an_encoder(make_config: MakeConfig, tiny_encoder_folder: Path) -> None:
    """Training, dropout passes, the head; and the gates of a head's example are read off, too."""
    config = make_config(
        **{**SMALL, "peft": OPTIONS, "data": {"template": "{text}", "test_limit": 10}},
        model={"name": str(tiny_encoder_folder), "dtype": "float32"}, strategies=["star"],
    )  # fmt: skip
    (outcome,) = loop.run(config).values()
    assert isinstance(outcome, Finished)
    facts = probe(Path(config["out"]) / "star-seed0", "gates", texts=4).facts
    assert facts["parts"] == sorted(KINDS)
    assert facts["rounds"] == [0, 1, 2]


def test_the_probe_needs_gates(finished: Path, make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match="texts is 1; allowed: 2 or more"):
        probe(finished, "gates", texts=1)
    config = make_config(**SMALL, strategies=["random"])
    loop.run(config)
    with pytest.raises(ConfigError, match=r"probe gates needs peft.peft_type UNIPELT; the run's LORA has no gates"):
        probe(Path(config["out"]) / "random-seed0", "gates")


def test_predictions_do_not_depend_on_the_batch(base: Any, demo_data: Path) -> None:
    data = load_dataset(parse({"data": {"preset": "demo", "folder": str(demo_data)}}))
    model = adapters.attach(base, OPTIONS, seed=0).eval()
    moved(model, 0.1)
    some = sorted(data.pool[:8], key=lambda e: len(e.prompt))
    whole = predict(base, model, some, {"label_log_probs"}, data.task).arrays["label_log_probs"][0]
    for i in (0, 7):
        alone = predict(base, model, some[i : i + 1], {"label_log_probs"}, data.task).arrays["label_log_probs"][0]
        np.testing.assert_allclose(whole[i], alone[0], atol=1e-4)
