"""Layers that are drawn, layers chosen by Fisher information, chosen entries, and the density of activations: each against
its formula written out, on tiny models."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from asked import train
from conftest import LABELS
from hypothesis import given, settings
from hypothesis import strategies as st
from loops import SMALL, MakeConfig, dumps, nothing_stays  # noqa: F401 - fixtures
from test_predict import choice, examples
from tiny_heads import moved, said, tiny

from guidestar import loop
from guidestar.config import RunConfig, TrainConfig
from guidestar.errors import ConfigError
from guidestar.metrics.chosen import NOT_RELU, sentences
from guidestar.model import adapters, layers, sparse
from guidestar.model.peft import speft
from guidestar.model.sparse import ActivationDensity, activations
from guidestar.report.read import read_runs
from guidestar.report.summary import summarise
from guidestar.store import Store

LABELLED = [(e, LABELS[i % 6]) for i, e in enumerate(examples())]
LORA = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": ["q_proj", "v_proj"]}
SPEFT = {"peft_type": "SPEFT", "r": 2, "target_modules": ["q_proj", "v_proj"]}


def deep(count: int = 8) -> Any:
    """A tiny Llama with more layers."""
    import dataclasses

    import transformers

    base = tiny("llama")
    config = copy.deepcopy(base.model.config)
    config.num_hidden_layers, config.layer_types = count, None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(**{**config.to_dict(), "num_hidden_layers": count, "layer_types": None})
        )
    return dataclasses.replace(base, model=model.requires_grad_(False).eval())


def trainable(model: Any) -> dict[str, Any]:
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


def nats(model: Any, rows: Any) -> torch.Tensor:
    """The sum of −log p of the last token of each row of ids."""
    ids = torch.stack([torch.as_tensor(row) for row in rows])
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -2]
    return torch.nn.functional.cross_entropy(logits, ids[:, -1], reduction="sum")


ROWS = torch.randint(5, 60, (9, 7), generator=torch.Generator().manual_seed(1)).tolist()

# --- layers that are drawn -----------------------------------------------------------------------------


@pytest.mark.parametrize(("how", "count"), [("ist", 8), ("rst", 8), ("ist", 6)])
def test_a_quarter_of_the_layers_is_trained_at_every_step(how: str, count: int) -> None:
    model = adapters.attach(deep(count), LORA, seed=0)
    named = trainable(model)
    sampled = layers.Sampled(how, 0.25, named, adapters.anchors(model), lambda rows: float(nats(model, rows)), ROWS, 3)
    seen = set()
    for done in range(40):
        sampled.before(done)
        active = {layers.block_of(n) for n, p in named.items() if p.requires_grad}
        assert len(active) == count // 4, "int(L / 4) layers"
        assert active == {sampled.blocks[i] for i in sampled.chosen}
        seen |= active
    assert len(seen) == count, "each has its turn"
    assert set(sampled.end()) == ({"importance"} if how == "ist" else set())
    assert all(p.requires_grad for p in named.values())


def test_the_importance_is_the_papers_written_out() -> None:
    """With LoRA's own `scale_layer` in the place of tensors that are moved towards their start."""
    model = adapters.attach(deep(), LORA, seed=0).eval()
    starts = adapters.anchors(model)
    moved(model)
    named = trainable(model)
    found = layers.Sampled("ist", 0.25, named, starts, lambda rows: float(nats(model, rows)) / 50, ROWS, 5)
    found.before(10)
    rng, importance = np.random.default_rng([5, 22]), np.zeros(8)
    rows = [ROWS[i] for i in rng.choice(9, 9, replace=False)]
    drawn = [sorted(rng.choice(8, 4, replace=False, p=np.full(8, 1 / 8)).tolist()) for _ in range(3)]
    rewards = []
    for some in drawn:
        inside = [
            m for i in some for m in model.get_base_model().model.layers[i].modules() if hasattr(m, "scale_layer")
        ]
        for module in inside:
            module.scale_layer(0.25)
        with torch.no_grad():
            rewards.append(math.exp(-float(nats(model, rows)) / 50))
        for module in inside:
            module.unscale_layer()
    for some, reward in zip(drawn, rewards, strict=True):
        for i in some:
            p = 1 / (1 + math.exp(-importance[i]))
            importance[i] += 10 * (reward - sum(rewards) / 3) * p * (1 - p)
    np.testing.assert_allclose(found.importance, importance, rtol=1e-4, atol=1e-7)
    never = set(range(8)) - {i for some in drawn for i in some}
    assert all(found.importance[i] == 0 for i in never)


def test_a_layer_without_effect_is_found_unimportant() -> None:
    """Half of the layers carry an adapter that says nothing: scaling it costs nothing, so its importance rises."""
    values = torch.nn.ParameterDict({f"layers_{i}": torch.nn.Parameter(torch.ones(2)) for i in range(8)})
    named = {f"layers.{i}.x": p for i, p in enumerate(values.values())}
    starts = {name: torch.zeros(2) for name in named}
    sampled = layers.Sampled(
        "ist", 0.25, named, starts, lambda rows: 2 - sum(float(p[0]) for p in list(named.values())[:4]) / 4, ROWS, 0
    )
    for done in range(10, 600, 10):
        sampled.before(done)
    assert sampled.importance[4:].min() > sampled.importance[:4].max()
    assert all(torch.equal(p.detach(), torch.ones(2)) for p in named.values()), "scaling leaves every bit as it was"


def test_what_is_not_drawn_does_not_move(base: Any, tmp_path: Path) -> None:
    """Neither by AdamW's decay nor by that of B: one step trains one layer."""
    from safetensors.torch import load_file

    config = TrainConfig(epochs=1, batch_size=99, layers="ist", weight_decay=0.1, learning_rate=0.1, warmup=0.0)
    got = train(base, LORA, config, LABELLED, choice(), tmp_path / "a", seed=0)
    assert list(got.arrays) == ["importance"]
    model = adapters.attach(base, LORA, seed=0)
    starts = {n.replace(".default", ""): p.detach().clone() for n, p in trainable(model).items()}
    adapters.detach(model)
    after = load_file(tmp_path / "a" / "adapter_model.safetensors")
    changed = {layers.block_of(n) for n, p in after.items() if not torch.equal(p, starts[n])}
    assert len(changed) == 1


@pytest.mark.parametrize("name", ["bottleneck", "speft", "loha", "c3a"])
def test_it_works_with_types_of_every_kind(name: str, base: Any, tmp_path: Path) -> None:
    kinds: dict[str, dict[str, Any]] = {
        "bottleneck": {"peft_type": "BOTTLENECK", "r": 4, "target_modules": ["o_proj"]}, "speft": SPEFT,
        "loha": {"peft_type": "LOHA", "r": 2, "target_modules": ["q_proj"]},
        "c3a": {"peft_type": "C3A", "block_size": 8, "target_modules": ["q_proj"]},
    }  # fmt: skip
    config = TrainConfig(epochs=1, batch_size=1, layers="ist")
    assert len(train(base, kinds[name], config, LABELLED, choice(), tmp_path / "a", seed=0).losses) == 1


def test_a_prompt_has_no_layers_to_draw(base: Any) -> None:
    model = adapters.attach(base, {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4}, seed=0)
    config = RunConfig.model_construct(train=TrainConfig(layers="ist"), peft={}, tapt=None)
    with pytest.raises(
        ConfigError, match=r"train\.layers: ist needs an adapter with parts in layers, and this one has none"
    ):
        sparse.check(config, model)
    adapters.detach(model)


# --- layers that are chosen ------------------------------------------------------------------------------


def test_fisher_squares_the_gradient_of_each_example() -> None:
    model = adapters.attach(deep(4), LORA, seed=0).eval()
    moved(model)
    parts = layers.by_block(trainable(model))
    found = layers.fisher(lambda row: nats(model, [row]), parts, ROWS)
    slow, of_batch = np.zeros(4), np.zeros(4)
    for rows, into in [*(([row], slow) for row in ROWS), (ROWS, of_batch)]:
        model.zero_grad()
        nats(model, rows).backward()
        for i, some in enumerate(parts.values()):
            into[i] += sum(float((p.grad.double() ** 2).sum()) for p in some)
    np.testing.assert_allclose(found, slow / 9, rtol=1e-5)
    assert not np.allclose(found, of_batch / 81, rtol=0.1), "this is not the square of the batch's mean"


@pytest.mark.parametrize("options", [LORA, {**LORA, "target_modules": "all-linear"}, SPEFT,
                                     {"peft_type": "VERA", "r": 4, "target_modules": ["q_proj"]},
                                     {"peft_type": "GATED_PREFIX", "num_virtual_tokens": 2}])  # fmt: skip
def test_an_adapter_on_some_layers_is_on_those_alone(options: dict[str, Any], tmp_path: Path) -> None:
    base = deep(4)
    model = adapters.attach(base, {**options, "layers": [1, 3]}, seed=0).eval()
    assert {str(layers.block_of(n)).rpartition(".")[2] for n in trainable(model) if layers.block_of(n)} == {"1", "3"}
    moved(model)
    whole = said(model)
    adapters.save(model, tmp_path)
    adapters.detach(model)
    with adapters.adapted(base, tmp_path) as again:
        assert torch.equal(said(again), whole)


def test_the_rank_is_searched_within_bounds_and_repeats() -> None:
    asked: list[int] = []

    def nats_of(r: int) -> float:
        asked.append(r)
        return abs(math.log2(r) - 3)

    tried = sparse.search_rank(8, nats_of, 7)
    assert set(tried) <= {1, 2, 4, 8, 16}
    assert asked == list(tried), "no rank is trained twice"
    assert len(tried) <= sparse.TRIALS
    assert sparse.search_rank(8, nats_of, 7) == tried


def test_fisher_and_search_choose_in_a_training(base: Any, tmp_path: Path) -> None:
    options = {**LORA, "layers": "fisher", "rank": "search"}
    got = train(base, options, TrainConfig(epochs=1), LABELLED, choice(), tmp_path / "a", seed=0)
    count = base.model.config.num_hidden_layers
    assert got.arrays["fisher"].shape == (count,)
    assert (got.arrays["fisher"] > 0).all()
    assert got.arrays["layers"].tolist() == [int(got.arrays["fisher"].argmax())]
    model = adapters.load_adapter(base, tmp_path / "a")
    best = got.arrays["ranks"][got.arrays["ranks"][:, 1].argmin(), 0]
    assert {m.r["default"] for m in model.modules() if hasattr(m, "lora_A")} == {int(best)}
    assert {m.scaling["default"] for m in model.modules() if hasattr(m, "lora_A")} == {2.0}
    adapters.detach(model)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"layers": "some"}, "peft.layers is 'some'; allowed: fisher, or a list of layers"),
        ({"layers": []}, "peft.layers is"),
        ({"layers": [-1]}, "peft.layers is"),
        ({"layers": [0], "layers_share": 0.5}, "go with peft.layers: fisher"),
        ({"rank": "search"}, "go with peft.layers: fisher"),
        ({"layers": "fisher", "layers_share": 0}, "peft.layers_share is 0; allowed: above 0, up to 1"),
        ({"layers": "fisher", "rank": 4}, "peft.rank is 4"),
    ],
)
def test_wrong_layers_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        adapters.make_config({**LORA, **keys})


def test_a_layer_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"peft\.layers has 2, but this adapter is on 2 layers"):
        adapters.attach(tiny("llama"), {**LORA, "layers": [2]}, seed=0)


# --- entries that are chosen -------------------------------------------------------------------------------


def hessian_product(model: Any, weight: Any, along: torch.Tensor, size: float = 1e-3) -> torch.Tensor:
    """H v by differences of the gradient."""
    grads = []
    for sign in (1, -1):
        weight.data += sign * size * along
        (grad,) = torch.autograd.grad(nats(model, ROWS) / len(ROWS), [weight])
        weight.data -= sign * size * along
        grads.append(grad)
    return (grads[0] - grads[1]) / (2 * size)


@pytest.mark.parametrize("how", speft.SALIENCES)
def test_salience_is_its_formula(how: str) -> None:
    model = tiny("llama").model.double()
    weight = model.model.layers[1].self_attn.q_proj.weight
    torch.manual_seed(3)
    (found,) = speft.salience(how, [weight], lambda rows: nats(model, rows), ROWS, 4)
    assert not weight.requires_grad
    weight.requires_grad_(True)
    (g,) = torch.autograd.grad(nats(model, ROWS) / len(ROWS), [weight])
    each = [torch.autograd.grad(nats(model, [row]), [weight])[0] for row in ROWS]
    w = weight.detach()
    torch.manual_seed(3)
    slow = {
        "magnitude": w.abs(), "gradient": g.abs(), "snip": (w * g).abs(), "force": -w * g, "taylor": (w * g) ** 2,
        "fisher": sum(e**2 for e in each) / len(each), "random": torch.rand(w.shape),
        "grasp": w * hessian_product(model, weight, g) if how == "grasp" else w,
    }  # fmt: skip
    torch.testing.assert_close(found.double(), slow[how].double().detach(), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("how", [how for how in speft.SALIENCES if how not in ("random", "magnitude")])
def test_a_weight_that_a_head_does_not_read_has_no_salience(how: str) -> None:
    """A head on features leaves an encoder's pooler out."""
    model = tiny("llama").model.double()
    weight, unread = model.model.layers[1].self_attn.q_proj.weight, torch.nn.Parameter(torch.ones(3, 4).double())
    alone = speft.salience(how, [weight], lambda rows: nats(model, rows), ROWS, 4)
    found = speft.salience(how, [weight, unread], lambda rows: nats(model, rows), ROWS, 4)
    torch.testing.assert_close(found[0], alone[0])
    assert not found[1].any()


@given(st.integers(0, 10**6), st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_the_top_is_the_largest(seed: int, k: int) -> None:
    scores = torch.rand(3, 4, generator=torch.Generator().manual_seed(seed))
    places = speft.top(scores, k).tolist()
    slow = sorted(sorted(range(12), key=lambda i: -float(scores.flatten()[i]))[:k])
    assert places == slow


def test_every_matrix_has_r_m_plus_n_entries_and_the_largest() -> None:
    base = tiny("llama")
    model = adapters.attach(base, SPEFT, seed=0).eval()
    weights: list[Any] = []

    def score(some: Any) -> Any:
        weights.extend(some)
        return speft.salience("gradient", some, lambda rows: nats(model, rows), ROWS, 4)

    speft.place(model, score)
    for layer, weight in zip(speft.layers_of(model), weights, strict=True):
        values, places = layer.shira_weight["default"], layer.shira_indices["default"].long()
        assert len(values) == 2 * sum(weight.shape) == places.shape[1]
        weight.requires_grad_(True)
        (g,) = torch.autograd.grad(nats(model, ROWS), [weight])
        weight.requires_grad_(False)
        chosen = torch.zeros_like(weight, dtype=torch.bool)
        chosen[places[0], places[1]] = True
        assert g.abs()[chosen].min() >= g.abs()[~chosen].max()


def test_entries_that_stay_keep_their_value_and_momentum() -> None:
    model = adapters.attach(tiny("llama"), SPEFT, seed=0)
    layer = speft.layers_of(model)[0]
    values = layer.shira_weight["default"]
    optimizer = torch.optim.AdamW([values], lr=0.1)
    values.grad = torch.arange(1.0, len(values) + 1)
    optimizer.step()
    dense = torch.zeros(layer.out_features, layer.in_features)
    dense[tuple(layer.shira_indices["default"].long())] = values.detach()
    momentum = torch.zeros_like(dense)
    momentum[tuple(layer.shira_indices["default"].long())] = optimizer.state[values]["exp_avg"]
    speft.place(
        model, lambda some: [torch.rand(w.shape, generator=torch.Generator().manual_seed(0)) for w in some], optimizer
    )
    places = tuple(layer.shira_indices["default"].long())
    assert torch.equal(values.detach(), dense[places])
    assert torch.equal(optimizer.state[values]["exp_avg"], momentum[places])
    assert 0 < int((values != 0).sum()) < len(values), "some stayed and some went"


def test_what_is_saved_says_how_it_was_chosen_and_overlaps_are_counted(base: Any, tmp_path: Path) -> None:
    import json

    for name, options in {
        "a": SPEFT,
        "b": SPEFT,
        "c": {**SPEFT, "salience": "magnitude"},
        "d": {**SPEFT, "renew": 1},
    }.items():
        train(base, options, TrainConfig(epochs=1), LABELLED[:5], choice(), tmp_path / name, seed=0)
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert (config["peft_type"], "salience" in config) == ("SPEFT", True)
    assert speft.overlap(tmp_path / "a", tmp_path / "b") == 1.0
    shared = speft.overlap(tmp_path / "a", tmp_path / "c")
    assert shared is not None
    assert 0 < shared < 1
    train(base, LORA, TrainConfig(epochs=1), LABELLED[:5], choice(), tmp_path / "lora", seed=0)
    assert speft.overlap(tmp_path / "a", tmp_path / "lora") is None


@pytest.mark.parametrize(
    ("keys", "message"), [({"salience": "luck"}, "salience is 'luck'"), ({"renew": -1}, "renew is -1")]
)
def test_wrong_entries_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        adapters.make_config({**SPEFT, **keys})


# --- the density of activations ------------------------------------------------------------------------------


def test_the_term_is_the_papers_and_the_density_is_counted() -> None:
    base = tiny("llama")
    for block in base.model.model.layers:
        block.mlp.act_fn = torch.nn.ReLU()
    model = adapters.attach(base, LORA, seed=0)
    assert len(activations(model)) == 2
    heard = ActivationDensity(model, 0.5)
    kept: list[torch.Tensor] = []
    hooks = [m.register_forward_hook(lambda module, args, out: kept.append(out)) for m in activations(model)]
    model.train()
    nats(model, ROWS)
    slow = 0.5 * sum((a**2 / (a**2 + 1e-7)).mean() for a in kept) / 2
    term = heard.term()
    torch.testing.assert_close(term, slow)
    term.backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in trainable(model).values())
    kept.clear()
    found = heard.measured(lambda row: nats(model, [row]), ROWS)
    counted = [np.mean([float((a != 0).float().mean()) for a in kept[i::2]]) for i in range(2)]
    np.testing.assert_allclose(found, counted, rtol=1e-6)
    assert 0.2 < found.mean() < 0.8
    heard.end()
    for hook in hooks:
        hook.remove()
    assert not any(m._forward_hooks for m in activations(model))
    adapters.detach(model)


def test_a_large_weight_makes_activations_zero(base: Any, tmp_path: Path) -> None:
    inner = copy.deepcopy(base.model)
    import dataclasses

    for block in inner.model.layers:
        block.mlp.act_fn = torch.nn.ReLU()
    of_relu = dataclasses.replace(base, model=inner)
    options = {**LORA, "target_modules": ["gate_proj"]}
    config = TrainConfig(epochs=30, learning_rate=0.03, activation_density=20.0)
    before, after = train(of_relu, options, config, LABELLED, choice(), tmp_path / "a", seed=0).arrays["density"]
    assert after.mean() < 0.8 * before.mean()
    assert not any(m._forward_hooks for m in inner.modules())


def test_what_a_training_chose_is_said() -> None:
    said = sentences(
        {
            "fisher": np.array([1.0, 6.0, 2.0, 1.0]), "layers": np.array([1]), "ranks": np.array([[1.0, 0.9], [4.0, 0.5]]),
            "importance": np.array([0.2, -0.1, 0.0, 0.4]), "density": np.array([[0.99, 0.97], [0.96, 0.96]]),
        }
    )  # fmt: skip
    assert said == [
        "Fisher information chose layer 1 of 4 (counted from 0), with 60 % of the information",
        "rank 4 had the least loss on held-out labels (nats of a token by rank: 1: 0.900, 4: 0.500)",
        "layers from the most to the least important by estimate: 1, 2, 0, 3",
        "96 % of the activations are not zero, before the training 98 %",
        NOT_RELU,
    ]


# --- in the loop -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"peft": {**SPEFT, "salience": "snip", "renew": 1}},
        {"peft": {**LORA, "layers": "fisher"}, "train": {**SMALL["train"], "layers": "ist", "activation_density": 0.1}},
    ],
    ids=["speft", "everything"],
)
def test_a_run_that_was_killed_goes_on_as_one_that_was_not(
    change: dict[str, Any], make_config: MakeConfig, tmp_path: Path
) -> None:
    def config(name: str, budget: int) -> dict[str, Any]:
        query = {**SMALL["query"], "budget": budget}
        return make_config(strategies=["random"], **{**SMALL, **change, "query": query}) | {"out": str(tmp_path / name)}

    loop.run(config("whole", 16))
    calls = 0
    real = Store.add_metrics

    def killed(store: Store, metrics: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        real(store, metrics)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "add_metrics", killed)
        with pytest.raises(KeyboardInterrupt):
            loop.run(config("killed", 16))
    loop.run(config("killed", 16))
    whole, again = dumps(tmp_path / "whole"), dumps(tmp_path / "killed")
    arrays = [{(r, name): digest for r, name, digest in one["random-seed0"]["arrays"]} for one in (whole, again)]
    assert arrays[0] == arrays[1]
    assert (1, "training") in arrays[0]
    with Store.open(tmp_path / "whole" / "random-seed0") as store:
        kept = store.arrays(2, "training")
    notes = " ".join(summarise(tmp_path / "whole", read_runs(tmp_path / "whole")).notes)
    if change["peft"]["peft_type"] == "SPEFT":
        assert "of the chosen entries are those of the round before" in notes
        assert 0 < float(kept["mask_overlap"][0]) <= 1
    else:
        assert set(kept) == {"fisher", "layers", "importance", "density"}
        assert "random-seed0, last training: Fisher information chose layer" in notes
