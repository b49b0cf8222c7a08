"""PiCa and the other types of the project whose layers have a part: their sizes against formulas and papers, the parts
against the formulas written out, merging, what is shared, and runs with them."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from loops import SMALL, MakeConfig, crash_everywhere, nothing_stays  # noqa: F401 - fixtures
from safetensors.torch import load_file
from tiny_heads import KINDS, moved, said, texts, tiny

from guidestar import loop
from guidestar.errors import ConfigError
from guidestar.model import adapters
from guidestar.model.peft.common import PartLayer
from guidestar.records import Finished

TYPES: dict[str, dict[str, Any]] = {
    "pica": {"peft_type": "PICA", "r": 4, "pica_dropout": 0.2, "target_modules": r".*(query|value|[qv]_proj)"},
    "lorta": {"peft_type": "LORTA", "r": 4, "scaling": 2.0, "lorta_dropout": 0.2},
    "adp": {"peft_type": "LORETTA", "r": 8, "tensor_rank": 3, "loretta_dropout": 0.2},
    "rep": {"peft_type": "LORETTA", "mode": "rep", "r": 4, "scaling": 2.0, "loretta_dropout": 0.2},
    "compacter": {"peft_type": "COMPACTER", "r": 8, "phm_rank": 2, "compacter_dropout": 0.2},
    "nice": {"peft_type": "INVERSION", "r": 4, "activation": "tanh", "inversion_dropout": 0.2},
    "glow": {"peft_type": "INVERSION", "r": 4, "inv_adapter": "glow", "inversion_dropout": 0.2},
}
MERGED = ("pica", "lorta", "rep")  # what they add is a matrix
NAME = pytest.mark.parametrize("name", TYPES)


def attached(kind: str, name: str, **changes: Any) -> Any:
    """A model whose adapter is not at its start."""
    model = adapters.attach(tiny(kind), {**TYPES[name], **changes}, seed=0).eval()
    moved(model)
    return model


def layers(model: Any) -> dict[str, PartLayer]:
    return {key: m for key, m in model.get_base_model().named_modules() if isinstance(m, PartLayer)}


# --- sizes --------------------------------------------------------------------------------------------


def count(family: str, shape: dict[str, Any], options: dict[str, Any], what: str = "Model") -> int:
    """Trained numbers on a model by its configuration alone, without a number in memory."""
    import transformers
    from peft import get_peft_model

    with torch.device("meta"):
        model = getattr(transformers, family + what)(getattr(transformers, f"{family}Config")(**shape))
        adapted = get_peft_model(model, adapters.make_config({"task_type": "FEATURE_EXTRACTION", **options}))
    return trainable(adapted)


def trainable(model: Any) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


LLAMA_2_7B = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
LLAMA_3_8B = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "vocab_size": 128_256,
}  # fmt: skip


@pytest.mark.parametrize("r", [1, 256])
def test_pica_has_the_published_count(r: int) -> None:
    """Llama-3-8B: 24,576 for each rank, 6,291,456 at rank 256, for all 32 layers together."""
    where = ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"]
    assert count("Llama", LLAMA_3_8B, {"peft_type": "PICA", "r": r, "target_modules": where}) == 24_576 * r


@pytest.mark.parametrize(
    ("family", "shape", "r", "published"),
    [
        ("Roberta", {}, 4, 3_440),
        ("Roberta", {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}, 8, 9_056),
        ("Llama", LLAMA_2_7B, 4, 17_168),
    ],
    ids=["roberta-base", "roberta-large", "llama-2-7b"],
)
def test_lorta_has_the_published_count(family: str, shape: dict[str, Any], r: int, published: int) -> None:
    assert count(family, shape, {"peft_type": "LORTA", "r": r}) == published


def test_lorta_counts_the_matrices_and_blocks_there_are(base: Any) -> None:
    model = adapters.attach(base, {**TYPES["lorta"], "target_modules": ["q_proj", "v_proj"]}, seed=0)
    text = base.model.config
    assert trainable(model) == 4 * (
        text.hidden_size + text.head_dim + text.num_attention_heads + 2 + text.num_hidden_layers
    )


@pytest.mark.parametrize(
    ("source", "out", "shape", "numbers"),
    [
        (4096, 8, [16, 16, 8, 4, 4], 800),
        (4096, 64, [16, 16, 16, 4, 4, 4], 1_100),
        (768, 64, [8, 8, 12, 8, 8], 780),
        (768, 64, None, 700),  # the largest at the ends, where it counts once
    ],
)
def test_a_tensor_train_has_the_published_count(source: int, out: int, shape: list[int] | None, numbers: int) -> None:
    from guidestar.model.peft.loretta import TensorTrain

    train = TensorTrain(source, out, 5, shape, zero=False)
    assert sum(p.numel() for p in train.parameters()) == numbers
    assert train.weight().shape == (out, source)


def test_loretta_has_the_count_of_its_formula() -> None:
    """Reparametrised query and value of Llama-2-7B at rank 8, where LoRA has 4,194,304; adapters of BERT-base."""
    rep = {"peft_type": "LORETTA", "mode": "rep", "r": 8, "tensor_shape": [16, 16, 8, 4, 4]}
    assert count("Llama", LLAMA_2_7B, rep) == 2 * 32 * 2 * 800 == 102_400
    assert count("Bert", {}, {"peft_type": "LORETTA", "tensor_shape": [8, 8, 12, 8, 8]}) == 2 * 12 * 2 * 780
    assert count("Bert", {}, {"peft_type": "LORETTA"}) == 2 * 12 * 2 * 700


def test_compacter_has_the_published_share() -> None:
    """T5-base (222,903,552 numbers) with n 4 and a bottleneck of 768/32, the paper's trained norms counted: 0.073 % for
    Compacter, 0.047 % for Compacter++, which leaves out the adapters behind the attention."""
    d, r, n, norms = 768, 24, 4, (12 * 2 + 12 * 3 + 2) * 768
    t5 = {"d_model": d, "d_ff": 3072, "num_layers": 12, "num_heads": 12}
    for where, blocks, share in (
        (r".*(SelfAttention\.o|DenseReluDense\.wo)", 48, 0.073),
        (r".*DenseReluDense\.wo", 24, 0.047),
    ):
        found = count("T5", t5, {"peft_type": "COMPACTER", "r": r, "target_modules": where})
        assert found == n**3 + blocks * (2 * (d + r) + d + r)
        assert round(100 * (found + norms) / 222_903_552, 3) == share


def test_the_inversion_adapter_is_a_coupling_and_houlsbys_adapters() -> None:
    """BERT-base: F and G of 384 -> 192 -> 384 with biases, and adapters of width 48; glow makes two numbers each."""
    houlsby, f = 1_789_056, 384 * 192 + 192
    assert count("Bert", {}, {"peft_type": "INVERSION"}) == houlsby + 2 * (f + 193 * 384) == houlsby + 296_064
    assert count("Bert", {}, {"peft_type": "INVERSION", "inv_adapter": "glow"}) == houlsby + 2 * (f + 193 * 768)


def test_plan_counts_what_is_trained(base: Any, make_config: MakeConfig) -> None:
    """By the type's own layers, on a model without weights."""
    from guidestar.config import parse
    from guidestar.model.sizes import adapter_of, skeleton

    for options in TYPES.values():
        config = parse(make_config(peft=options))
        model, shape = skeleton(config)
        adapted = adapters.attach(base, options, seed=0)
        assert adapter_of(config, model, shape).numbers == trainable(adapted)
        adapters.detach(adapted)


# --- the formulas, written out ------------------------------------------------------------------------


def test_pica_projects_on_the_leading_singular_vectors() -> None:
    """y = W x + Σ_i m_i (v_i · x), v the right singular vectors of W by their size; m is one for all blocks."""
    model = attached("llama", "pica")
    some = layers(model)
    first, second = (some[f"model.layers.{i}.self_attn.q_proj"] for i in (0, 1))
    assert first.parts["default"].shared is second.parts["default"].shared
    assert first.parts["default"].shared is not some["model.layers.0.self_attn.v_proj"].parts["default"].shared
    x = torch.randn(5, 32)
    for layer in (first, second):
        w, m = layer.base_layer.weight, layer.parts["default"].shared.weight
        values, vectors = torch.linalg.eigh(w.double().T @ w.double())
        leading = [vectors[:, i].float() for i in values.argsort(descending=True)[:4]]
        for row, found in zip(x, layer(x), strict=True):
            signs = [float(torch.sign(v @ p)) for v, p in zip(leading, layer.parts["default"].p, strict=True)]
            added = sum(s * float(v @ row) * m[:, i] for i, (s, v) in enumerate(zip(signs, leading, strict=True)))
            torch.testing.assert_close(found, w @ row + added, rtol=1e-3, atol=1e-4)


def test_pica_finds_the_vectors_of_large_weights_by_a_random_projection(monkeypatch: pytest.MonkeyPatch) -> None:
    from guidestar.model.peft import pica

    layer = torch.nn.Linear(60, 80, bias=False)
    u, v = (torch.linalg.qr(torch.randn(n, 60))[0] for n in (80, 60))
    layer.weight.data = u @ torch.diag(2.0 ** -torch.arange(60)) @ v.T
    monkeypatch.setattr(pica, "_EXACT", 10)
    before = torch.get_rng_state()
    found = pica.leading(layer, 5)
    torch.testing.assert_close((found @ v[:, :5]).abs(), torch.eye(5), rtol=0, atol=1e-4)
    assert torch.equal(torch.get_rng_state(), before), "no random number of the run's own is used up"
    with torch.no_grad():
        layer.weight.copy_(torch.eye(80, 60))
    assert not torch.equal(pica.leading(layer, 5), found), "other weights have other vectors"


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_lorta_is_one_tensor(kind: str) -> None:
    """Entry by entry: W_h + s Σ_k a_k · head[h,k] · matrix[k] · block[k] · b_k, with the first heads where there are fewer."""
    some = layers(attached(kind, "lorta"))
    tensors = {id(layer.parts["default"].shared) for layer in some.values()}
    assert len(tensors) == 1
    assert len(some) == 2 * 4
    for key, layer in some.items():
        part, w = layer.parts["default"], layer.base_layer.weight
        t = part.shared
        block = next(name for name in t.blocks if key.replace(".", "_").startswith(name))
        matrix = key.replace(".", "_").removeprefix(block)
        whole = w.clone()
        for row in range(len(w)):
            head, entry = divmod(row, 8)
            for k in range(4):
                factor = t.heads[head, k] * t.matrices[matrix][k] * t.blocks[block][k]
                whole[row] += 2.0 * factor * t.b.weight[entry, k] * t.a.weight[k]
        x = torch.randn(3, 32)
        torch.testing.assert_close(layer(x), F.linear(x, whole, layer.base_layer.bias), rtol=1e-3, atol=1e-4)


def train_weight(train: Any) -> torch.Tensor:
    """A tensor train's weight entry by entry: the product of one matrix of each core."""
    sizes = [core.shape[1] for core in train.cores]
    numbers = []
    for place in itertools.product(*map(range, sizes)):
        row = torch.ones(1, 1)
        for core, k in zip(train.cores, place, strict=True):
            row = row @ core[:, k, :]
        numbers.append(row[0, 0])
    return torch.stack(numbers).view(train.out, train.source)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_loretta_adapters_are_a_bottleneck_of_tensor_trains(kind: str) -> None:
    for layer in list(layers(attached(kind, "adp")).values())[:2]:
        part, x = layer.parts["default"], torch.randn(2, layer.base_layer.in_features)
        h = layer.base_layer(x)
        low = h @ train_weight(part.low).T
        bent = low * 0.5 * (1 + torch.erf(low / math.sqrt(2)))
        torch.testing.assert_close(layer(x), h + bent @ train_weight(part.high).T, rtol=1e-3, atol=1e-4)


def test_loretta_reparametrised_is_a_lora_of_tensor_trains() -> None:
    for layer in list(layers(attached("llama", "rep")).values())[:2]:
        part, x = layer.parts["default"], torch.randn(2, 32)
        added = 2.0 * train_weight(part.high) @ (train_weight(part.low) @ x.T)
        torch.testing.assert_close(layer(x), layer.base_layer(x) + added.T, rtol=1e-3, atol=1e-4)


@given(n=st.integers(1, 5000), cores=st.integers(1, 6))
def test_a_number_is_split_into_factors(n: int, cores: int) -> None:
    from guidestar.model.peft.loretta import split

    sizes = split(n, cores)
    assert math.prod(sizes) == n
    assert len(sizes) == cores
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_compacter_is_a_bottleneck_of_kronecker_products(kind: str) -> None:
    some = layers(attached(kind, "compacter"))
    assert len({id(layer.parts["default"].shared) for layer in some.values()}) == 1, "the slow weights are one for all"
    for layer in list(some.values())[:2]:
        part, x = layer.parts["default"], torch.randn(3, layer.base_layer.in_features)
        a, h = part.shared.a, layer.base_layer(x)
        down, up = (sum(torch.kron(a[i], m.s[i] @ m.t[i]) for i in range(4)) for m in (part.down, part.up))
        low = h @ down.T + part.down.bias
        bent = low * 0.5 * (1 + torch.erf(low / math.sqrt(2)))
        torch.testing.assert_close(layer(x), h + bent @ up.T + part.up.bias, rtol=1e-3, atol=1e-4)


def half(net: Any, x: torch.Tensor) -> torch.Tensor:
    return (x @ net.down.weight.T + net.down.bias).clamp(min=0) @ net.up.weight.T + net.up.bias


@pytest.mark.parametrize("name", ["nice", "glow"])
def test_the_inversion_adapter_couples_the_halves_of_an_embedding(name: str, base: Any) -> None:
    """And what enters the vocabulary's projection, which has the embeddings' weights, goes back through it."""
    model = adapters.attach(base, TYPES[name], seed=0).eval()
    moved(model, 0.1)
    inside = model.get_base_model()
    embed, head = inside.model.embed_tokens, inside.lm_head
    coupling = embed.parts["default"].shared
    assert head.parts["default"].shared is coupling
    ids = torch.arange(6)
    e = embed.base_layer(ids)
    a, b = e[:, : e.shape[1] // 2], e[:, e.shape[1] // 2 :]
    if name == "nice":
        a = a + half(coupling.f, b)
        b = b + half(coupling.g, a)
    else:
        for net in (coupling.f, coupling.g):
            still, moving = (b, a) if net is coupling.f else (a, b)
            log, shift = half(net, still).chunk(2, dim=1)
            moving = moving * torch.exp(10 / math.pi * torch.atan(log / 5)) + shift
            a, b = (moving, b) if net is coupling.f else (a, moving)
    found = embed(ids)
    assert (found - e).abs().max() > 1e-2
    torch.testing.assert_close(found, torch.cat([a, b], dim=1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(coupling.inverse(found), e, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(head(found), e @ embed.base_layer.weight.T, rtol=1e-3, atol=1e-4)
    adapters.detach(model)


def test_the_inversion_adapter_has_houlsbys_bottlenecks() -> None:
    some = layers(attached("bert", "nice"))
    assert len(some) == 1 + 2 * 2
    layer = some["bert.encoder.layer.1.output.dense"]
    part, x = layer.parts["default"], torch.randn(3, 48)
    h = layer.base_layer(x)
    low = torch.tanh(h @ part.down.weight.T + part.down.bias)
    torch.testing.assert_close(layer(x), h + low @ part.up.weight.T + part.up.bias, rtol=1e-4, atol=1e-5)


def test_a_vocabulary_of_its_own_is_left_alone() -> None:
    """The inverse is there because input and output share their weights."""
    assert not [key for key in layers(attached("llama", "nice")) if "lm_head" in key]


# --- as every PEFT type -------------------------------------------------------------------------------


@NAME
@pytest.mark.parametrize("kind", KINDS)
def test_every_trained_number_gets_a_gradient(kind: str, name: str) -> None:
    model = attached(kind, name)
    for key, p in model.named_parameters():
        if ".inversion.default.common." in key and key.endswith(".bias"):
            p.data.zero_()  # they are large beside these embeddings, and a ReLU would be off for every token
    given = texts()
    labels = given["input_ids"] if kind == "llama" else torch.tensor([0, 2, 1])
    model(**given, labels=labels).loss.backward()
    own = {key: p.grad for key, p in model.named_parameters() if p.requires_grad and "modules_to_save" not in key}
    assert own
    assert not [key for key, grad in own.items() if grad is None or not bool((grad != 0).all())]


@NAME
def test_what_layers_share_is_saved_once(name: str, tmp_path: Path) -> None:
    model = attached("bert", name)
    adapters.save(model, tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(b.numel() for layer in layers(model).values() for b in layer.parts.buffers())
    assert sum(tensor.numel() for tensor in saved.values()) == trained + frozen
    assert not [key for key in saved if "default" in key], "an adapter may be loaded by any name"


@NAME
def test_disabled_it_is_the_exact_base(name: str) -> None:
    base = tiny("llama")
    plain = said(base.model)
    model = adapters.attach(base, TYPES[name], seed=0).eval()
    assert torch.equal(said(model), plain)
    moved(model)
    trained = said(model)
    with model.disable_adapter():
        assert torch.equal(said(model), plain)
    assert torch.equal(said(model), trained)


@NAME
def test_a_second_adapter_shares_nothing_with_the_first(name: str, tmp_path: Path) -> None:
    model = attached("llama", name)
    first = said(model)
    adapters.save(model, tmp_path)
    model.add_adapter("second", adapters.make_config(TYPES[name]))
    assert torch.equal(said(model), first), "it is not yet active"
    model.set_adapter("second")
    with model.disable_adapter():
        plain = said(model)
    assert torch.equal(said(model.eval()), plain), "it starts as the identity"
    moved(model)
    assert not torch.equal(said(model), plain)
    model.set_adapter("default")
    assert torch.equal(said(model), first)
    model.delete_adapter("second")
    assert torch.equal(said(model), first)
    model.load_adapter(tmp_path, "second")
    model.set_adapter("second")
    torch.testing.assert_close(said(model.eval()), first, rtol=0, atol=0)


@NAME
def test_a_copy_stands_on_its_own(name: str) -> None:
    model = attached("bert", name)
    before = said(model)
    other = copy.deepcopy(model)
    moved(model)
    assert torch.equal(said(other), before)


@NAME
@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_in_bfloat16_it_trains_in_float32_and_scores_in_bfloat16(kind: str, name: str, tmp_path: Path) -> None:
    base = tiny(kind)
    base.model.to(torch.bfloat16)
    model = adapters.attach(base, TYPES[name], seed=0)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    labels = texts()["input_ids"] if kind == "llama" else torch.tensor([0, 2, 1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(**texts(), labels=labels).loss.backward()
    moved(model, 0.1)
    adapters.save(model, tmp_path)
    adapters.detach(model)
    with adapters.adapted(base, tmp_path) as again:
        assert {p.dtype for layer in layers(again).values() for p in layer.parts.parameters()} == {torch.bfloat16}
        assert torch.isfinite(said(again)).all()


@pytest.mark.parametrize("name", MERGED)
def test_merged_it_says_the_same_and_unmerged_it_is_exact(name: str) -> None:
    base = tiny("llama")
    weights = {key: value.clone() for key, value in base.model.state_dict().items()}
    plain = said(base.model)
    model = adapters.attach(base, TYPES[name], seed=0).eval()
    moved(model)
    trained = said(model)
    model.merge_adapter(safe_merge=True)
    torch.testing.assert_close(said(model), trained, rtol=1e-4, atol=1e-5)
    with model.disable_adapter():
        assert torch.equal(said(model), plain)
    model.merge_adapter()
    model.unmerge_adapter()
    assert torch.equal(said(model), trained)
    layer = next(iter(layers(model).values()))
    assert torch.equal(layer.base_layer.weight, weights[next(iter(layers(model))) + ".weight"])
    bare = model.merge_and_unload()
    torch.testing.assert_close(said(bare), trained, rtol=1e-4, atol=1e-5)
    assert not [m for m in bare.modules() if isinstance(m, PartLayer)]


def test_what_is_not_finite_is_not_merged() -> None:
    model = attached("llama", "pica")
    next(iter(layers(model).values())).parts["default"].shared.weight.data[0, 0] = torch.inf
    with pytest.raises(ValueError, match="the adapter default would make weights that are not finite"):
        model.merge_adapter(safe_merge=True)


def test_into_a_packed_weight_nothing_is_merged() -> None:
    model = attached("llama", "lorta")
    layer = next(iter(layers(model).values()))
    layer.base_layer.weight = torch.nn.Parameter(torch.zeros(16, 1, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(ValueError, match=r"the weight is packed \(quantised\)"):
        layer.merge()


def test_what_layers_share_belongs_to_no_layer() -> None:
    """`train.layers` would take it for the first one's."""
    from guidestar.model.layers import by_block

    for name, blocks in (("lorta", 0), ("pica", 0), ("compacter", 2), ("rep", 2)):
        model = attached("llama", name)
        trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
        found = by_block(trained)
        assert len(found) == blocks
        assert not [
            key
            for key in trained
            if "common" in key and any(trained[key] is p for part in found.values() for p in part)
        ]


@pytest.mark.parametrize("name", [name for name in TYPES if name not in MERGED])
def test_others_cannot_be_merged(name: str) -> None:
    model = attached("llama", name)
    before = said(model)
    for merge in (model.merge_adapter, model.merge_and_unload):
        with pytest.raises(ValueError, match="cannot be merged"):
            merge()
    assert torch.equal(said(model), before), "a refusal changes nothing"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("pica", {"r": 33}, "r is 33, but model.layers.0.self_attn.q_proj has 32 singular vectors"),
        ("pica", {"r": 0}, "r is 0; allowed: 1 or more"),
        ("pica", {"pica_dropout": 1.0}, "pica_dropout is 1.0"),
        ("pica", {"target_modules": ["mlp"]}, "is a LlamaMLP; PiCa needs a linear layer"),
        (
            "lorta",
            {"target_modules": ["q_proj", "down_proj"]},
            "down_proj makes 32 numbers of 48; LoRTA needs at most 4 heads of 8",
        ),
        ("adp", {"mode": "lora"}, "mode is 'lora'; allowed: adp, rep"),
        ("adp", {"tensor_shape": [2, 2]}, "tensor_shape \\[2, 2\\] holds 4 numbers, but 32 x 8 are 256"),
        ("compacter", {"r": 6}, "r is 6; allowed: multiples of phm_dim, 4"),
        ("compacter", {"r": 9, "phm_dim": 3}, "phm_dim is 3, which does not divide the 32 outputs"),
        ("nice", {"layers_to_transform": [0]}, "unknown key 'layers_to_transform' for INVERSION"),
        ("nice", {"inv_adapter": "real"}, "inv_adapter is 'real'; allowed: nice, glow"),
        ("nice", {"target_modules": ["o_proj"]}, "target_modules names no embeddings for the invertible layer"),
        (
            "nice",
            {"target_modules": ["embed_tokens", "mlp"]},
            "is a LlamaMLP; an inversion adapter needs embeddings or a",
        ),
    ],
)
def test_what_does_not_fit_is_refused(name: str, change: dict[str, Any], message: str) -> None:
    base = tiny("llama")
    plain = said(base.model)
    with pytest.raises(ConfigError, match=message):
        adapters.attach(base, {**TYPES[name], **change}, seed=0)
    assert torch.equal(said(base.model), plain)
    assert not [m for m in base.model.modules() if isinstance(m, PartLayer)]


# --- runs with them -----------------------------------------------------------------------------------

TWO_ROUNDS = {**SMALL, "query": {**SMALL["query"], "budget": 14}}


@NAME
def test_two_rounds_resumed_after_a_crash_end_as_if_nothing_had_happened(
    name: str, make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout passes, base scores, decay; killed while the second round's adapter is made."""

    def late(steps: list[str]) -> list[int]:
        return [max(at for at, step in enumerate(steps) if step == "make round-001")]

    made = crash_everywhere(
        make_config, tmp_path, monkeypatch, late, strategies=["star"], **{**TWO_ROUNDS, "peft": TYPES[name]}
    )
    assert made == 1


@NAME
def test_a_run_with_a_head_on_features(name: str, make_config: MakeConfig, tiny_encoder_folder: Path) -> None:
    model = {"name": str(tiny_encoder_folder), "dtype": "float32", "head": "features"}
    config = make_config(
        **{**TWO_ROUNDS, "peft": TYPES[name], "data": {"template": "{text}", "test_limit": 10}}, model=model,
        strategies=["random"],
    )  # fmt: skip
    (outcome,) = loop.run(config).values()
    assert isinstance(outcome, Finished)


def test_a_layer_that_only_inherits_from_a_linear_one_is_judged_by_what_it_says() -> None:
    from transformers.models.falcon.modeling_falcon import FalconLinear

    class Router(torch.nn.Linear):
        def forward(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
            said = super().forward(states)
            return said.max(-1)

    class Wants(torch.nn.Linear):
        def forward(self, states: torch.Tensor, more: int) -> torch.Tensor:  # type: ignore[override]
            return super().forward(states) * more

    assert [adapters._linear(kind(4, 3)) for kind in (torch.nn.Linear, FalconLinear, Router, Wants)] == [
        True,
        True,
        False,
        False,
    ]
