"""Sampled responses and the answers they agree on, beside literal twins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import answer_entropy, sampled_response

from guidestar.asking import Ask
from guidestar.config import parse
from guidestar.data.pool import load_dataset
from guidestar.errors import ConfigError, ModelError
from guidestar.model import adapters, consistency, generate, kv
from guidestar.model.batches import encode_prompts
from guidestar.model.scorer import OwnScorer
from guidestar.query.measures import answer_consistency, evaluate_measure
from guidestar.query.strategies import STRATEGIES, Recipe, check
from guidestar.tasks import Choice, Number, Text

LORA = {
    "peft_type": "LORA", "r": 4, "lora_alpha": 8, "lora_dropout": 0.3, "target_modules": "all-linear",
    "init_lora_weights": False,
}  # fmt: skip
TASKS = [
    Choice(("parcel", "refund"), ("parcel", "refund"), max_new_tokens=6), Number(max_new_tokens=6), Text(max_new_tokens=6),
]  # fmt: skip


@pytest.fixture(scope="module")
def data(demo_data):
    return load_dataset(parse({"data": {"preset": "demo", "folder": str(demo_data)}}))


def sampling(**how: Any) -> Ask:
    return Ask.of(["sampled_answer"], **how)


def tuned(base):
    return adapters.attach(base, LORA, seed=1).eval()


# --- the measure ----------------------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), min_size=2, max_size=12))
def test_the_entropy_equals_the_literal_twin(codes: list[list[int]]) -> None:
    found = answer_consistency(np.array(codes, dtype=np.float64))
    twin = [answer_entropy([row[i] for row in codes]) for i in range(3)]
    np.testing.assert_allclose(found, twin, atol=1e-12)
    assert (found >= 0).all(), "agreement scores 0 and not -0"
    assert not np.signbit(found).any()


@pytest.mark.parametrize(
    ("task", "answers", "groups"),
    [
        (Number(), ["18", "18.0", "018", "1/2", "0.5"], 2),
        (Text(), ["The Tower", "tower!", "a tower", "bridge"], 2),
        (Choice(("a", "b"), ("a", "b")), ["a", "b", "a"], 2),
        (Number(), [None, "3", None], 2),
    ],
)
def test_answers_are_the_same_when_the_task_says_so(task: Any, answers: list[str | None], groups: int) -> None:
    codes = consistency.answer_groups(answers, task)
    assert len(set(codes.tolist())) == groups
    for i, one in enumerate(answers):
        for j, other in enumerate(answers):
            same = (one is None and other is None) or (
                one is not None and other is not None and task.correct(one, other)
            )
            assert (codes[i] == codes[j]) == same


def test_a_model_that_never_answers_is_consistent() -> None:
    """Responses without an answer are one group: it would be the most uncertain example otherwise."""
    assert answer_consistency(consistency.answer_groups([None] * 4, Number())[:, None])[0] == 0


# --- sampling -------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_sampled_responses_equal_the_literal_twin(base: Any, data: Any, temperature: float) -> None:
    """One example at a time, the whole text read again for every token, one softmax and one walk along it."""
    model, task = tuned(base), Text(max_new_tokens=6)
    some = data.pool[:4]
    found = consistency.sampled_texts(base, model, some, task, sampling(samples=3, temperature=temperature, seed=5))
    for example, prompt, texts in zip(some, encode_prompts(base, some, 6), found, strict=True):
        draws = consistency._draws(5, example.id, 3, 6)
        for k in range(3):
            with torch.inference_mode():
                ids = sampled_response(model, prompt, draws[k].tolist(), temperature, base.eos)
            assert texts[k] == base.tokenizer.decode(ids, skip_special_tokens=True)
    adapters.detach(model)


def test_a_response_does_not_depend_on_what_else_is_sampled(base: Any, data: Any) -> None:
    model, task = tuned(base), Text(max_new_tokens=8)
    some = data.pool[:6]
    whole = consistency.sampled_texts(base, model, some, task, sampling(samples=3, seed=5))
    assert len({text for texts in whole for text in texts}) > 3, (
        "the tiny model's responses must differ to say anything"
    )
    back = consistency.sampled_texts(base, model, some[::-1], task, sampling(samples=3, seed=5))
    assert back[::-1] == whole
    assert consistency.sampled_texts(base, model, some[2:3], task, sampling(samples=3, seed=5)) == whole[2:3]
    assert consistency.sampled_texts(base, model, some, task, sampling(samples=3, seed=6)) != whole
    adapters.detach(model)


def test_models_without_a_cache_of_ours_sample_the_same(base: Any, data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = tuned(base), Text(max_new_tokens=6)
    own = consistency.sampled_texts(base, model, data.pool[:4], task, sampling(samples=3, seed=5))
    monkeypatch.setattr(kv, "keeps_every_key", lambda model: False)
    assert consistency.sampled_texts(base, model, data.pool[:4], task, sampling(samples=3, seed=5)) == own
    adapters.detach(model)


def test_draws_have_the_frequencies_of_the_distribution() -> None:
    logits = torch.log(torch.tensor([0.5, 0.0, 0.3, 0.2])).expand(40_000, -1)
    draws = torch.from_numpy(np.random.default_rng(0).random(40_000))
    each = torch.arange(len(draws))
    chosen, nll, entropy = generate.drawn(draws[:, None], 1.0)(logits, each, 0)
    shares = torch.bincount(chosen, minlength=4) / len(chosen)
    assert shares[1] == 0
    np.testing.assert_allclose(shares.numpy(), [0.5, 0, 0.3, 0.2], atol=0.01)
    np.testing.assert_allclose(nll.numpy(), -np.log([0.5, 1, 0.3, 0.2])[chosen.numpy()], rtol=1e-5)
    np.testing.assert_allclose(
        entropy[0].item(), -(0.5 * np.log(0.5) + 0.3 * np.log(0.3) + 0.2 * np.log(0.2)), rtol=1e-5
    )
    colder = torch.bincount(generate.drawn(draws[:, None], 0.25)(logits, each, 0)[0], minlength=4) / len(chosen)
    weights = np.array([0.5, 0, 0.3, 0.2]) ** 4
    np.testing.assert_allclose(colder.numpy(), weights / weights.sum(), atol=0.01)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
def test_every_kind_of_task_gets_codes(base: Any, data: Any, task: Any) -> None:
    ask = Ask.of(["sampled_answer"], samples=4, temperature=1.5, seed=1)
    found = OwnScorer(base, task)(data.pool[:5], ask)
    codes = found.arrays["sampled_answer"]
    assert codes.shape == (4, 5)
    scores = evaluate_measure("answer_consistency", found)
    assert ((scores >= 0) & (scores <= np.log(4) + 1e-9)).all()


def test_no_dropout_is_on_while_answers_are_sampled(base: Any, data: Any) -> None:
    """The doubt measured is that of one model; an adapter in train mode would add its own."""
    model = tuned(base)
    model.train()
    once = consistency.sampled_texts(base, model, data.pool[:3], Text(max_new_tokens=6), sampling(samples=2, seed=1))
    model.eval()
    assert (
        consistency.sampled_texts(base, model, data.pool[:3], Text(max_new_tokens=6), sampling(samples=2, seed=1))
        == once
    )
    adapters.detach(model)


def test_what_cannot_be_sampled_is_refused(base: Any, data: Any) -> None:
    some, task = data.pool[:2], Text(max_new_tokens=2)
    with pytest.raises(ConfigError, match="samples is 1; allowed: 2 or more"):
        OwnScorer(base, task)(some, sampling(samples=1))
    with pytest.raises(ConfigError, match="temperature is 0"):
        OwnScorer(base, task)(some, sampling(samples=2, temperature=0.0))
    head = base.model.get_output_embeddings()
    handle = head.register_forward_hook(lambda module, args, output: output * torch.nan)
    with pytest.raises(ModelError, match=r"the probability of a sampled response is not finite for \d of \d examples"):
        consistency.sampled_texts(base, base.model, some, task, sampling(samples=2))
    handle.remove()
    assert consistency.sampled_texts(base, base.model, [], task, sampling(samples=2)) == []


# --- the strategy ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["choice", "number", "text"])
def test_the_strategy_works_for_every_kind(kind: str) -> None:
    assert check(STRATEGIES["consistency"], kind, simulation=False, peft={"peft_type": "LORA"}) == []
    assert STRATEGIES["consistency"].sampled == 10


@pytest.mark.parametrize(
    ("recipe", "problem"),
    [
        (Recipe("x", measure="entropy", samples=5), "samples is set, but measure 'entropy' samples no responses"),
        (
            Recipe("x", measure="answer_consistency", passes=3),
            "set passes to 0; how many responses are sampled is `samples`",
        ),
        (Recipe("x", measure="answer_consistency", committee=3), "samples from one model"),
    ],
)
def test_recipes_that_make_no_sense(recipe: Recipe, problem: str) -> None:
    found = check(recipe, "choice", simulation=False, peft={"peft_type": "LORA", "lora_dropout": 0.1})
    assert any(problem in line for line in found), found
