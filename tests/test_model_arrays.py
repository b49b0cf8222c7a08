"""Sampled models and the gradient of the representation, on the tiny model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from asked import predict, predict_samples

from guidestar.asking import Ask
from guidestar.config import parse
from guidestar.data.pool import load_dataset
from guidestar.errors import NoVariance
from guidestar.model import adapters, samples
from guidestar.model.samples import one_sample
from guidestar.model.scorer import ARRAYS, OwnScorer
from guidestar.model.states import representation_gradient
from guidestar.query.measures import MEASURES
from guidestar.query.recipes import STRATEGIES
from guidestar.query.strategies import labelled_needs, needs

LORA = {
    "peft_type": "LORA", "r": 4, "lora_alpha": 8, "lora_dropout": 0.3, "target_modules": "all-linear",
    "init_lora_weights": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(demo_data):
    return load_dataset(parse({"data": {"preset": "demo", "folder": str(demo_data)}}))


def tuned(base, **changes):
    """An adapter whose B is not zero, as after training."""
    return adapters.attach(base, {**LORA, **changes}, seed=1).eval()


def test_every_array_that_is_asked_for_has_somebody_who_computes_it():
    asked = {need for measure in MEASURES.values() for need in measure.needs}
    for recipe in STRATEGIES.values():
        asked |= set().union(*needs(recipe, "choice"), *labelled_needs(recipe))
    assert asked <= ARRAYS


# --- sampled models -------------------------------------------------------------------------------


def test_a_sampled_model_is_the_same_whatever_the_batch(base, data):
    """Pass k of an example alone equals pass k of it among others, which usual Monte-Carlo passes do not give."""
    model = tuned(base)
    some = data.pool[:9]
    whole = predict_samples(base, model, some, {"label_log_probs"}, data.task, passes=3, seed=5)
    alone = predict_samples(base, model, some[4:5], {"label_log_probs"}, data.task, passes=3, seed=5)
    found = whole.arrays["label_log_probs"]
    assert found.shape == (3, 9, len(data.task.labels))
    np.testing.assert_allclose(found[:, 4:5], alone.arrays["label_log_probs"], atol=1e-5)
    assert (found[0] != found[1]).any()
    again = predict_samples(base, model, some, {"label_log_probs"}, data.task, passes=3, seed=5)
    np.testing.assert_array_equal(found, again.arrays["label_log_probs"])
    usual = predict(base, model, some, {"label_log_probs"}, data.task, passes=3, seed=5)
    usual_alone = predict(base, model, some[4:5], {"label_log_probs"}, data.task, passes=3, seed=5)
    apart = np.abs(usual.arrays["label_log_probs"][:, 4:5] - usual_alone.arrays["label_log_probs"])
    assert apart.max() > 1e-3, "the usual passes are other models for other examples"


def literal_sample(base, model, seed, example, task, b_dropout=0.0):
    """Log-probabilities under an adapter whose A and B were multiplied by their masks, written out."""
    saved = {name: p.detach().clone() for name, p in model.named_parameters() if "lora_" in name}
    layers = [m for m in model.modules() if hasattr(m, "lora_A")]
    for i, layer in enumerate(layers):
        for part, (matrix, p) in enumerate(((layer.lora_A, 0.3), (layer.lora_B, b_dropout))):
            weight = matrix["default"].weight.data
            draw = np.random.default_rng((seed, i, part)).random(weight.shape[1])
            for column, u in enumerate(draw):
                weight[:, column] *= 0.0 if u < p else 1 / (1 - p)
    found = predict(base, model, [example], {"label_log_probs"}, task).arrays["label_log_probs"][0, 0]
    for name, p in model.named_parameters():
        if name in saved:
            p.data.copy_(saved[name])
    return found


def test_a_sampled_model_is_lora_with_masked_columns(base, data):
    model = tuned(base)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    found = predict_samples(base, model, data.pool[:4], {"label_log_probs"}, data.task, passes=2, seed=3)
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]), f"{name} was not put back"
    for k in range(2):
        expected = literal_sample(base, model, 3 + k, data.pool[2], data.task)
        np.testing.assert_allclose(found.arrays["label_log_probs"][k, 2], expected, atol=1e-3)


def test_masks_are_mostly_right_in_number(base):
    """The mean of a factor is 1 and its share of zeros the rate."""
    factors = samples._factors(200_000, 0.3, (1, 2)).numpy()
    assert factors.mean() == pytest.approx(1.0, abs=0.01)
    assert (factors == 0).mean() == pytest.approx(0.3, abs=0.005)


def test_adapters_that_are_not_plain_lora_are_sampled_by_their_dropout_modules(base, data):
    model = tuned(base, use_dora=True, init_lora_weights=True)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            p.data.normal_(std=0.3)
    found = predict_samples(base, model, data.pool[:5], {"label_log_probs"}, data.task, passes=2, seed=1)
    alone = predict_samples(base, model, data.pool[3:4], {"label_log_probs"}, data.task, passes=2, seed=1)
    logs = found.arrays["label_log_probs"]
    assert (logs[0] != logs[1]).any()
    np.testing.assert_allclose(logs[:, 3:4], alone.arrays["label_log_probs"], atol=1e-4)
    assert not any(m._forward_hooks for m in model.modules() if "Dropout" in type(m).__name__)


def test_sampled_models_reach_the_dropout_before_b(base, data):
    model = adapters.attach(base, {**LORA, "lora_dropout": 0.0}, seed=1, b_dropout=0.4).eval()
    found = predict_samples(base, model, data.pool[:4], {"label_log_probs"}, data.task, passes=2, b_dropout=0.4)
    assert (found.arrays["label_log_probs"][0] != found.arrays["label_log_probs"][1]).any()


def test_without_dropout_there_is_nothing_to_sample(base, data):
    model = tuned(base, lora_dropout=0.0)
    with pytest.raises(NoVariance, match="no dropout module to sample models with"):
        predict_samples(base, model, data.pool[:2], {"label_log_probs"}, data.task, passes=2)
    adapters.detach(model)
    fresh = adapters.attach(base, {**LORA, "init_lora_weights": True}, seed=1).eval()
    with pytest.raises(NoVariance, match="all sampled models are equal"):
        predict_samples(base, fresh, data.pool[:2], {"label_log_probs"}, data.task, passes=2)


def test_embeddings_of_sampled_models_are_averaged(base, data):
    model = tuned(base)
    found = predict_samples(base, model, data.pool[:3], {"embedding", "label_log_probs"}, data.task, passes=4, seed=2)
    assert found.arrays["embedding"].shape[:2] == (1, 3)
    each = []
    for k in range(4):
        with one_sample(model, 2 + k):
            each.append(predict(base, model, data.pool[:3], {"embedding"}, data.task).arrays["embedding"][0])
    np.testing.assert_allclose(found.arrays["embedding"][0], np.mean(each, axis=0), atol=1e-6)


# --- the gradient of the representation -------------------------------------------------------------


def test_the_gradient_equals_finite_differences(base, data):
    """‖∂ mean(h)/∂e‖ of one example, one embedding number at a time."""
    model = tuned(base)
    inner = adapters.inner(model).double()
    try:
        example = data.pool[0]
        ids = torch.tensor([base.tokenizer(example.prompt)["input_ids"]])
        (found,) = representation_gradient(base, model, [example])
        embedded = inner.get_input_embeddings()(ids).detach()

        def mean_state(shift):
            states = []
            handle = inner.get_output_embeddings().register_forward_pre_hook(lambda m, args: states.append(args[0]))
            with torch.inference_mode():
                model(inputs_embeds=embedded + shift, attention_mask=torch.ones_like(ids))
            handle.remove()
            return float(states[0][0, -1].mean())

        slopes = []
        for token in (0, ids.shape[1] - 1):
            for at in (0, 7, 33):
                shift = torch.zeros_like(embedded)
                shift[0, token, at] = 1e-3
                slopes.append((mean_state(shift) - mean_state(-shift)) / 2e-3)
        grown = embedded.clone().requires_grad_()
        states = []
        handle = inner.get_output_embeddings().register_forward_pre_hook(lambda m, args: states.append(args[0]))
        model(inputs_embeds=grown, attention_mask=torch.ones_like(ids))
        handle.remove()
        (slope,) = torch.autograd.grad(states[0][0, -1].mean(), grown)
        np.testing.assert_allclose(
            [float(slope[0, t, at]) for t in (0, ids.shape[1] - 1) for at in (0, 7, 33)], slopes, rtol=1e-2, atol=2e-3
        )
        assert found == pytest.approx(float(slope.norm()), rel=1e-4)
    finally:
        inner.float()


def test_the_gradient_does_not_depend_on_the_batch_and_leaves_nothing_behind(base, data):
    model = tuned(base)
    some = data.pool[:12]
    whole = representation_gradient(base, model, some)
    assert (whole > 0).all()
    alone = [representation_gradient(base, model, [example])[0] for example in some]
    np.testing.assert_allclose(whole, alone, rtol=1e-3)
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules() if isinstance(m, torch.nn.Embedding))
    both = OwnScorer(base, data.task, live=model)(some, Ask.of(["representation_gradient", "label_log_probs"]))
    np.testing.assert_array_equal(both.arrays["representation_gradient"][0], whole)
    assert both.arrays["label_log_probs"].shape[:2] == (1, 12)
    assert representation_gradient(base, model, []).shape == (0,)
