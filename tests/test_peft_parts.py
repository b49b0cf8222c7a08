"""PiCa and the other types of the project whose layers have a part: their sizes against formulas and papers, the parts
against the formulas written out, merging, what is shared, and runs with them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from loops import SMALL, MakeConfig, crash_everywhere, nothing_stays, quick  # noqa: F401 - fixtures
from safetensors.torch import load_file
from tiny_heads import KINDS, moved, said, texts, tiny

from guidestar import loop
from guidestar.errors import ConfigError
from guidestar.model import adapters
from guidestar.model.peft.common import PartLayer
from guidestar.records import Finished

TYPES: dict[str, dict[str, Any]] = {
    "pica": {"peft_type": "PICA", "r": 4, "pica_dropout": 0.2, "target_modules": r".*(query|value|[qv]_proj)"},
}
MERGED = ("pica",)  # what they add is a matrix
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
    return sum(p.numel() for p in adapted.parameters() if p.requires_grad)


LLAMA_3_8B = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "vocab_size": 128_256,
}  # fmt: skip


@pytest.mark.parametrize("r", [1, 256])
def test_pica_has_the_published_count(r: int) -> None:
    """Llama-3-8B: 24,576 for each rank, 6,291,456 at rank 256, for all 32 layers together."""
    where = ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"]
    assert count("Llama", LLAMA_3_8B, {"peft_type": "PICA", "r": r, "target_modules": where}) == 24_576 * r


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


# --- as every PEFT type -------------------------------------------------------------------------------


@NAME
@pytest.mark.parametrize("kind", KINDS)
def test_every_trained_number_gets_a_gradient(kind: str, name: str) -> None:
    model = attached(kind, name)
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
@pytest.mark.parametrize("head", ["classifier", "features"])
def test_a_run_with_an_encoder(head: str, name: str, make_config: MakeConfig, tiny_encoder_folder: Path) -> None:
    model = {"name": str(tiny_encoder_folder), "dtype": "float32", **({"head": head} if head == "features" else {})}
    config = make_config(
        **{**TWO_ROUNDS, "peft": TYPES[name], "data": {"template": "{text}", "test_limit": 10}}, model=model,
        strategies=["random"],
    )  # fmt: skip
    (outcome,) = loop.run(config).values()
    assert isinstance(outcome, Finished)
