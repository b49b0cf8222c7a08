"""Every PEFT type that is registered, on a tiny Llama that writes and a tiny BERT with a head: what active learning asks of
an adapter, or why it does not hold. The table is data; a type that PEFT adds must be declared in it."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_heads import moved, said, tiny, under_its_own_head

from guidestar.errors import ConfigError
from guidestar.model import adapters
from guidestar.model.peft import register

pytestmark = pytest.mark.filterwarnings("ignore")  # many types warn about options that do not matter here

PROMPT = "a trained prompt is there from the start"
NO_DROPOUT = "the type has no dropout"
MODELS = ("llama", "bert")
LINEAR = {"llama": ["q_proj", "o_proj"], "bert": ["query", "value"]}
NORMS = {"llama": ["input_layernorm"], "bert": ["LayerNorm"]}


@dataclass(frozen=True)
class Case:
    """What is declared of a type. options: its keys. where: target_modules by model, None for the type's own.

    b: parts of the names of what is constant at the start, STAR's "B".
    start: why it does not start as the identity. still: why Monte-Carlo passes do not differ.
    unfit: model -> what the error says where the type does not fit.
    """

    options: dict[str, Any] = field(default_factory=dict)
    b: tuple[str, ...] = ()
    start: str = ""
    still: str = ""
    unfit: dict[str, str] = field(default_factory=dict)
    where: dict[str, list[str]] | None = field(default_factory=lambda: LINEAR)


def dropping(name: str, rate: float = 0.3, **options: Any) -> dict[str, Any]:
    return {"r": 4, f"{name}_dropout": rate, **options}


BOTH = {"llama": "task_ids", "bert": "task_ids"}
CASES = {
    "ADALORA": Case({"init_r": 4, "target_r": 2, "total_step": 100, "lora_dropout": 0.3}, ("lora_E",)),
    "ADAMSS": Case({"r": 4}, ("adamss_B",), still=NO_DROPOUT),
    "ADAPTION_PROMPT": Case(
        {"adapter_len": 4, "adapter_layers": 2}, still=NO_DROPOUT, where=None,
        unfit={"bert": "cannot keep a classification head"},
    ),  # its gate is one number a layer, and one number is constant whatever it means
    "AUTOPEFT": Case(
        {"series": 4, "parallel": 4, "prefix": 4, "autopeft_dropout": 0.3}, ("up", "values", "down.series.bias", "down.parallel.bias"), where=None
    ),
    "BEFT": Case({}, ("beft_bias",), still=NO_DROPOUT),
    "BOFT": Case({"boft_block_size": 8, "boft_dropout": 0.3}, ("boft_R", "boft_s")),
    "BOTTLENECK": Case(dropping("bottleneck"), ("up.weight", "up.bias", "down.bias")),
    "C3A": Case({"block_size": 8}, start="its kernels are drawn", still=NO_DROPOUT),
    "CARTRIDGE": Case({"num_virtual_tokens": 4}, start=PROMPT, still=NO_DROPOUT, where=None),
    "COMPACTER": Case({"r": 8, "compacter_dropout": 0.3}, ("up.s", "up.bias", "down.bias"), where=None),
    "CPT": Case(
        {"cpt_token_ids": [1, 2, 3], "cpt_mask": [1, 1, 1], "cpt_tokens_type_mask": [1, 2, 3]},
        ("delta_embedding",), start=PROMPT, still=NO_DROPOUT, where=None, unfit={"bert": "only supports task_type = CAUSAL_LM"},
    ),  # what is trained is a change of given tokens
    "DEFT": Case(dropping("deft")),
    "DELORA": Case({"r": 4, "module_dropout": 0.3}, ("delora_B",)),
    "FOURIERFT": Case({"n_frequency": 16}, start="its coefficients are drawn", still=NO_DROPOUT),
    "FROD": Case({"frod_dropout": 0.3}, ("frod_lambda_s_values",)),
    "GATED_PREFIX": Case(
        {"num_virtual_tokens": 4, "gated_prefix_dropout": 0.3}, ("gate",), where=None
    ),
    "GLORA": Case({"r": 4}, ("Xd",), still=NO_DROPOUT),
    "GRALORA": Case(dropping("gralora"), ("gralora_B",)),
    "HIRA": Case(dropping("hira"), ("hira_B",)),
    "HRA": Case({"r": 4}, still=NO_DROPOUT),
    "IA3": Case({"feedforward_modules": []}, ("ia3_l",), still=NO_DROPOUT),
    "INVERSION": Case(dropping("inversion"), ("up.weight", "up.bias", "down.bias"), where=None),
    "LILY": Case({"r": 4}, ("lily_B",), still=NO_DROPOUT),
    "LN_TUNING": Case({}, ("ln_tuning_layers",), still=NO_DROPOUT, where=NORMS),  # a random model's norms are all 1
    "LOHA": Case({"r": 4, "rank_dropout": 0.3}, ("hada_w2_b",)),
    "LOKR": Case({"r": 4, "rank_dropout": 0.3}, ("lokr_w1",)),
    "LORA": Case(dropping("lora"), ("lora_B",)),
    "LORETTA": Case(dropping("loretta"), ("high.cores.4",), where=None),
    "LORTA": Case(dropping("lorta"), ("lorta.default.common.b",), where=None),
    "MISS": Case(dropping("miss"), ("miss_block",)),
    "MULTITASK_PROMPT_TUNING": Case({"num_virtual_tokens": 4, "num_tasks": 2}, unfit=BOTH, where=None),
    "OFT": Case({"oft_block_size": 8, "module_dropout": 0.3}, ("oft_R",), still="PEFT never applies its module_dropout"),
    "OSF": Case({}, still=NO_DROPOUT),
    "PEANUT": Case({"r": 4}, ("peanut_B",), still=NO_DROPOUT),
    "PICA": Case(dropping("pica"), ("pica.default.common",)),
    "POLY": Case({"r": 4, "n_tasks": 1, "n_skills": 2}, unfit=BOTH),
    "PREFIX_TUNING": Case({"num_virtual_tokens": 4}, start=PROMPT, still=NO_DROPOUT, where=None),
    "PROMPT_TUNING": Case({"num_virtual_tokens": 4}, start=PROMPT, still=NO_DROPOUT, where=None),
    "PSOFT": Case(dropping("psoft"), ("psoft_R",)),
    "PVERA": Case(dropping("pvera"), ("pvera_lambda",)),
    "P_TUNING": Case(
        {"num_virtual_tokens": 4, "encoder_hidden_size": 16, "encoder_dropout": 0.3}, start=PROMPT, where=None,
        still="its dropout belongs to an LSTM that is not used by default",
    ),
    "RANDLORA": Case(dropping("randlora"), ("randlora_lambda", "randlora_gamma")),
    "ROAD": Case({"group_size": 8}, ("road_theta", "road_alpha"), still=NO_DROPOUT),
    "SHADOW": Case(
        {"shadow_dropout": 0.3}, ("shadow_up", "shadow_backbone"), where=None, unfit={"bert": "Unable to automatically find"}
    ),  # its own small model's norms start at 1
    "SHIRA": Case({"r": 4}, ("shira_weight",), still=NO_DROPOUT),
    "SPEFT": Case({"r": 4}, ("shira_weight",), still=NO_DROPOUT),
    "SUPERTUNING": Case(dropping("lora"), ("supertuning_values", "supertuning_lora_B")),
    "TINYLORA": Case(dropping("tinylora"), ("tinylora_v",)),
    "TRAINABLE_TOKENS": Case(
        {"token_indices": [7, 8]}, still=NO_DROPOUT, where=None, unfit={"bert": "cannot keep a classification head"}
    ),
    "UNILORA": Case(dropping("unilora"), start="its one vector is drawn"),
    "UNIPELT": Case(
        {"num_virtual_tokens": 4, "encoder_hidden_size": 8, "unipelt_dropout": 0.3},
        ("lora_B", "values", "up", "down.bias"), where=None,
    ),
    "VBLORA": Case(dropping("vblora", num_vectors=8, vector_length=8, topk=2), start="its vectors are drawn"),
    "VERA": Case(dropping("vera"), ("vera_lambda",)),
    "WAVEFT": Case({"n_frequency": 16}, ("waveft_spectrum",), still=NO_DROPOUT),
    "XLORA": Case({}, unfit={"llama": "use_cache", "bert": "cannot keep a classification head"}, where=None),  # a mixture of adapters already trained
}  # fmt: skip

# Values of a type's keys that change how it begins, or what it is put on. True: it starts as the base; False: it does not, which
# is what `init_weights: false` is for in PEFT. Text: it is refused with these words.
VARIANTS: list[tuple[str, dict[str, Any], bool | str]] = [
    *(("LORA", {"init_lora_weights": start}, True) for start in (True, "gaussian", "orthogonal", "mica")),
    ("LORA", {"init_lora_weights": False}, False),
    *(
        (name, {"init_lora_weights": start}, "the base model's own weights")
        for name in ("LORA", "ADALORA")
        for start in ("pissa", "pissa_niter_4", "PiSSA", "olora", "eva", "corda", "loftq", "lora_ga", "nonsense", None)
    ),
    ("LORA", {"layer_replication": [[0, 2], [0, 2]]}, "layer_replication"),
    ("LORA", {"bias": "lora_only"}, "bias"),
    ("LORA", {"modules_to_save": ["lm_head"]}, "modules_to_save"),
    ("LORA", {"use_dora": True}, True),
    ("LORA", {"use_rslora": True}, True),
    ("LORA", {"lora_bias": True}, True),
    ("LORA", {"trainable_token_indices": [7, 8]}, True),
    ("LORA", {"target_modules": ["q_proj", "embed_tokens"]}, True),
    ("LORA", {"target_modules": ["q_proj", "lm_head"]}, True),
    ("LORA", {"target_parameters": ["q_proj.weight"], "target_modules": ["o_proj"], "lora_dropout": 0.0}, True),
    ("C3A", {"init_weights": True}, True),
    ("C3A", {"init_weights": "gaussian"}, False),
    ("FOURIERFT", {"init_weights": True}, True),
    ("HIRA", {"init_weights": "gaussian"}, True),
    ("IA3", {"init_ia3_weights": False}, False),
    ("LOKR", {"init_weights": "lycoris"}, True),
    ("LOKR", {"decompose_both": True}, True),
    ("MISS", {"init_weights": "bat"}, True),
    ("MISS", {"init_weights": "mini"}, True),
    ("PREFIX_TUNING", {"init_weights": "zero"}, False),
    ("PSOFT", {"ab_svd_init": "pissa_init"}, True),
    ("TINYLORA", {"init_weights": "uniform"}, False),
    *(
        (name, {"init_weights": False}, False)
        for name in (
            "BEFT", "BOFT", "DEFT", "DELORA", "FROD", "GLORA", "GRALORA", "HIRA", "HRA", "LILY", "LOHA", "LOKR", "MISS", "OFT", "OSF",
            "PEANUT", "PSOFT", "PVERA", "RANDLORA", "ROAD", "SHADOW", "SHIRA", "SUPERTUNING", "TINYLORA", "UNILORA", "VERA", "WAVEFT",
        )
    ),
]  # fmt: skip

FITS = [(kind, name) for kind in MODELS for name, case in CASES.items() if kind not in case.unfit]
UNFIT = [(kind, name) for name, case in CASES.items() for kind in case.unfit]
EVERY = pytest.mark.parametrize(("kind", "name"), FITS, ids=[f"{name}-{kind}" for kind, name in FITS])


@dataclass(frozen=True)
class Found:
    """What the whole life of an adapter showed: logits, and names."""

    plain: torch.Tensor
    start: torch.Tensor
    trained: torch.Tensor
    passes: tuple[torch.Tensor, torch.Tensor]
    after: tuple[torch.Tensor, torch.Tensor]
    loaded: torch.Tensor
    anchors: dict[str, bool]  # name -> whether the copy is the start
    left: tuple[str, ...]


def options(kind: str, name: str) -> dict[str, Any]:
    case = CASES[name]
    return {"peft_type": name, **case.options} | ({"target_modules": case.where[kind]} if case.where else {})


@functools.cache
def lived(kind: str, name: str) -> Found:
    """Attach, train, pass with dropout, save, detach, load, detach."""
    base = tiny(kind)
    weights = {key: value.clone() for key, value in base.model.state_dict().items()}
    modules = dict(base.model.named_modules())
    plain = said(base.model)
    model = adapters.attach(base, options(kind, name), seed=0).eval()
    anchors = adapters.anchors(model)
    parameters = dict(model.named_parameters())
    kept = {key: torch.equal(start, parameters[key].detach()) for key, start in anchors.items()}
    under_its_own_head(model)
    start = said(model)
    moved(model)
    trained = said(model)
    torch.manual_seed(0)
    with adapters.dropout_on(model):
        passes = said(model), said(model)
    with tempfile.TemporaryDirectory() as folder:
        adapters.save(model, Path(folder))
        adapters.detach(model)
        first = said(base.model)
        model = adapters.load_adapter(base, Path(folder))
        loaded = said(model)
        adapters.detach(model)
    now = base.model.state_dict()
    other = [key for key in now if key not in weights or not torch.equal(now[key], weights[key])]
    left = [key for key, module in base.model.named_modules() if modules.get(key) is not module]
    hooks = [key for key, module in base.model.named_modules() if module._forward_pre_hooks or module._forward_hooks]
    return Found(plain, start, trained, passes, (first, said(base.model)), loaded, kept, (*other, *left, *hooks))


def row(name: str) -> str:
    """A type's row of the table in docs/adapters.md."""
    case = CASES[name]
    drops = [key for key in case.options if key.endswith("dropout")]
    dropout = f"– ({case.still})" if case.still and case.still != NO_DROPOUT else "–" if case.still else f"`{drops[0]}`"
    decays = ", ".join(f"`{part.replace('.default', '')}`" for part in case.b) or "–"
    fits = "neither" if len(case.unfit) == 2 else "Llama alone" if case.unfit else "both"
    return f"| `{name}` | {'no: ' + case.start if case.start else 'yes'} | {dropout} | {decays} | {fits} |"


def test_the_page_on_adapters_says_what_is_declared() -> None:
    page = (Path(__file__).parents[1] / "docs" / "adapters.md").read_text(encoding="utf-8")
    found = [line for line in page.splitlines() if line.startswith("| `")]
    assert found == [row(name) for name in sorted(CASES) if len(CASES[name].unfit) < 2]


def test_every_type_is_declared() -> None:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    register()
    assert {str(getattr(t, "value", t)) for t in PEFT_TYPE_TO_CONFIG_MAPPING} == set(CASES)


@EVERY
def test_it_starts_as_the_identity_or_is_declared_otherwise(kind: str, name: str) -> None:
    found = lived(kind, name)
    if CASES[name].start:
        assert not torch.equal(found.start, found.plain), "it is declared to change the model, but does not"
    else:
        torch.testing.assert_close(found.start, found.plain, rtol=0, atol=5e-7)


@EVERY
def test_detached_it_leaves_the_exact_base(kind: str, name: str) -> None:
    found = lived(kind, name)
    assert (found.trained - found.plain).abs().max() > 1e-3, "training did nothing, so this test says nothing"
    assert torch.equal(found.after[0], found.plain), "after training"
    assert torch.equal(found.after[1], found.plain), "after loading"
    assert found.left == ()


@EVERY
def test_passes_differ_or_the_reason_is_declared(kind: str, name: str) -> None:
    first, second = lived(kind, name).passes
    assert torch.equal(first, second) == bool(CASES[name].still)


@EVERY
def test_saved_and_loaded_it_says_the_same(kind: str, name: str) -> None:
    found = lived(kind, name)
    assert torch.equal(found.loaded, found.trained)


@EVERY
def test_what_decays_is_what_is_declared_and_never_the_head(kind: str, name: str) -> None:
    found = lived(kind, name)
    assert all(found.anchors.values()), "an anchor is not the start"
    assert not [key for key in found.anchors if "classifier" in key]
    parts = {key: {part for part in CASES[name].b if f".{part}" in key} for key in found.anchors}
    assert all(parts.values()), f"not declared: {[key for key, some in parts.items() if not some]}"
    assert set().union(*parts.values()) == set(CASES[name].b)


@pytest.mark.parametrize(("kind", "name"), UNFIT, ids=[f"{name}-{kind}" for kind, name in UNFIT])
def test_what_does_not_fit_says_so(kind: str, name: str) -> None:
    with pytest.raises(Exception, match=CASES[name].unfit[kind]):
        lived(kind, name)


def named(name: str, keys: dict[str, Any]) -> str:
    return name + "".join(f"-{key}-{value}" for key, value in keys.items())


@pytest.mark.parametrize(("name", "keys", "starts"), VARIANTS, ids=[named(name, keys) for name, keys, _ in VARIANTS])
def test_the_base_is_one_fixed_thing_for_every_value(name: str, keys: dict[str, Any], starts: bool | str) -> None:
    """What the base says is the same to the bit before an adapter is on, while it is disabled, and after it."""
    base = tiny("llama")
    weights = {key: value.clone() for key, value in base.model.state_dict().items()}
    plain = said(base.model)
    if isinstance(starts, str):
        with pytest.raises(ConfigError, match=starts):
            adapters.make_config({**options("llama", name), **keys})
        return
    model = adapters.attach(base, {**options("llama", name), **keys}, seed=0).eval()
    start = said(model)
    assert bool((start - plain).abs().max() < 1e-6) == starts
    moved(model)
    if name != "PREFIX_TUNING":  # PEFT cannot disable a prompt while it is asked with tokens
        with model.disable_adapter():
            assert torch.equal(said(model), plain), "while it is disabled"
    adapters.detach(model)
    assert torch.equal(said(base.model), plain), "after it"
    now = base.model.state_dict()
    assert set(now) == set(weights)
    assert all(torch.equal(now[key], weights[key]) for key in now)


def test_a_type_that_takes_from_the_base_is_caught_when_it_is_attached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the list of refused values: another release of PEFT may add one."""
    monkeypatch.setattr(adapters, "_keep_base", lambda keys: None)
    base = tiny("llama")
    with pytest.raises(ConfigError, match="these values of LORA change the base model's own weights"):
        adapters.attach(base, {**options("llama", "LORA"), "init_lora_weights": "pissa"}, seed=0)
