"""Prediction: the fast path against its literal twin, whatever the batch; dropout; refusals."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import literal
import numpy as np
import pytest
import torch
from asked import predict, train
from conftest import LABELS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guidestar.config import TaskConfig, TrainConfig
from guidestar.errors import ConfigError, DataError, ModelError, NoVariance
from guidestar.model import adapters
from guidestar.model.predict import GENERATED, GOLD, respond
from guidestar.records import Example
from guidestar.tasks import make_task

PEFT = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "lora_dropout": 0.3, "target_modules": "all-linear"}
TEXTS = [
    "where is my parcel",
    "I want my money back for the broken lamp that came on Tuesday, thank you",
    "cannot log in",
    "you charged me twice and the tracking page has said nothing for a week now",
    "lovely kettle!",
    "is the blue one in stock, and does it come with a lid",
    "hi",
    "please cancel my order before it is sent",
]


def examples(texts: list[str] = TEXTS) -> list[Example]:
    return [
        Example(f"{i:016x}", {"text": t}, f"Message: {t}\nTopic:", f"t.csv line {i + 2}") for i, t in enumerate(texts)
    ]


def choice(scoring: str = "first_token", labels: Any = None, response: str = "{answer}", limit: int = 6) -> Any:
    config = TaskConfig(kind="choice", labels=labels or LABELS, scoring=scoring, max_new_tokens=limit)
    return make_task(config, [], response)


def with_batch(base: Any, tokens: int) -> Any:
    return dataclasses.replace(base, batch_tokens=tokens, written_tokens=tokens)


@pytest.mark.parametrize("scoring", ["first_token", "sequence"])
@pytest.mark.parametrize("tokens", [1, 150, 4096])
def test_label_space_equals_the_literal_twin(base: Any, adapter: Path, scoring: str, tokens: int) -> None:
    task = choice(scoring)
    with adapters.adapted(base, adapter) as model:
        found = predict(with_batch(base, tokens), model, examples(), {"label_log_probs"}, task).arrays[
            "label_log_probs"
        ]
        slow = [
            literal.label_log_probs(base, model, e.prompt, list(task.words), scoring == "sequence") for e in examples()
        ]
    np.testing.assert_allclose(found[0], slow, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.exp(found[0]).sum(1), 1.0, atol=1e-9)


def ragged() -> list[Example]:
    """Prompts of one file whose last column is blank in every other row, so that they end in a line end."""
    rows = [(text, "" if i % 2 == 0 else "soon") for i, text in enumerate(TEXTS)]
    return [
        Example(f"{i:016x}", {"text": t, "more": more}, f"Message: {t}\n{more}", "") for i, (t, more) in enumerate(rows)
    ]


@pytest.mark.parametrize("scoring", ["first_token", "sequence"])
@pytest.mark.parametrize("response", ["{answer}", "the topic is {answer}"])
def test_each_row_has_its_own_joint_with_the_label_words(base: Any, adapter: Path, scoring: str, response: str) -> None:
    """A space before the word, or none behind a prompt that ends in white space: as in training, whatever row is first."""
    task, rows = choice(scoring, response=response), ragged()
    words = [task.response_text(label) for label in task.labels]
    with adapters.adapted(base, adapter) as model:
        slow = [literal.label_log_probs(base, model, e.prompt, words, scoring == "sequence") for e in rows]
        for order in (list(range(8)), [7, 0, 3, 1, 6, 2, 5, 4]):
            found = predict(base, model, [rows[i] for i in order], {"label_log_probs", "embedding"}, task).arrays
            np.testing.assert_allclose(
                found["label_log_probs"][0], [slow[i] for i in order], rtol=1e-4, atol=1e-5, err_msg=str(order)
            )
            alone = predict(base, model, rows[:1], {"embedding"}, task).arrays["embedding"][0, 0]
            np.testing.assert_allclose(found["embedding"][0, order.index(0)], alone, rtol=1e-3, atol=1e-4)
    assert len({np.argmax(row) for row in slow}) > 1 or np.ptp(slow, axis=0).max() > 0.1, (
        "rows that say the same test little"
    )


ROWS = st.lists(
    st.tuples(st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12), st.sampled_from(["", " ", "\n", "\u00a0", "."])),
    min_size=2, max_size=6,
)  # fmt: skip


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=ROWS,
    scoring=st.sampled_from(["first_token", "sequence"]),
    tokens=st.sampled_from([1, 60, 4096]),
    draw=st.randoms(),
)
def test_what_is_said_of_a_row_depends_on_no_other_row(
    texts: list[tuple[str, str]], scoring: str, tokens: int, draw: Any, base: Any
) -> None:
    """Whatever stands beside it, in whatever order, in a batch of whatever size."""
    task = choice(scoring)
    rows = [Example(f"{i:016x}", {"text": t}, f"Message: {t}{end}", "") for i, (t, end) in enumerate(texts)]
    shuffled = draw.sample(rows, len(rows))
    wanted = {"label_log_probs"}
    alone = {e.id: predict(base, base.model, [e], wanted, task).arrays["label_log_probs"][0, 0] for e in rows}
    beside = predict(with_batch(base, tokens), base.model, shuffled, wanted, task).arrays["label_log_probs"][0]
    np.testing.assert_allclose(beside, [alone[e.id] for e in shuffled], rtol=1e-4, atol=1e-4)


def test_format_words_of_the_response_come_before_the_label(base: Any) -> None:
    task = choice(response="the topic is {answer}")
    found = predict(base, base.model, examples(), {"label_log_probs"}, task).arrays["label_log_probs"][0]
    words = [task.response_text(label) for label in task.labels]
    slow = [literal.label_log_probs(base, base.model, e.prompt, words, whole=False) for e in examples()]
    np.testing.assert_allclose(found, slow, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tokens", [1, 300, 4096])
@pytest.mark.parametrize("side", ["left", "right"])
def test_teacher_forced_sums_equal_eq_3(base: Any, adapter: Path, tokens: int, side: str) -> None:
    base.tokenizer.padding_side = side
    task = choice(response="the topic is {answer}")
    gold = {e.id: LABELS[i % 6] for i, e in enumerate(examples())}
    with adapters.adapted(base, adapter) as model:
        arrays = predict(with_batch(base, tokens), model, examples(), GOLD, task, gold=gold).arrays
        slow = [literal.teacher_forced(base, model, e.prompt, task.response_text(gold[e.id])) for e in examples()]
    for column, name in enumerate(("gold_nll", "gold_entropy", "gold_length")):
        np.testing.assert_allclose(arrays[name][0], [row[column] for row in slow], rtol=1e-4, err_msg=name)
    assert (arrays["gold_answer_length"] < arrays["gold_length"]).all(), "format words and end token are no answer"
    assert (arrays["gold_answer_nll"] < arrays["gold_nll"]).all()


@pytest.mark.parametrize("tokens", [1, 200, 4096])
@pytest.mark.parametrize("side", ["left", "right"])
def test_generated_entropy_equals_eq_2(base: Any, adapter: Path, tokens: int, side: str) -> None:
    base.tokenizer.padding_side = side
    task = choice()
    with adapters.adapted(base, adapter) as model:
        arrays = predict(with_batch(base, tokens), model, examples(), GENERATED, task).arrays
        slow = [literal.generated(base, model, e.prompt, task.max_new_tokens) for e in examples()]
    np.testing.assert_allclose(arrays["response_entropy"][0], [s[0] for s in slow], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(arrays["response_nll"][0], [s[1] for s in slow], rtol=1e-4, atol=1e-5)
    assert arrays["response_length"][0].tolist() == [len(s[2]) for s in slow]
    assert min(len(s[2]) for s in slow) < task.max_new_tokens, "no response stopped early: the case is not covered"
    assert (arrays["answer_entropy"] <= arrays["response_entropy"] + 1e-9).all()


def test_responses_are_the_greedy_texts(base: Any, adapter: Path) -> None:
    with adapters.adapted(base, adapter) as model:
        texts = respond(base, model, examples(), choice()).texts
        for example, text in zip(examples(), texts, strict=True):
            tokens = literal.generated(base, model, example.prompt, 6)[2]
            assert text == base.tokenizer.decode([t for t in tokens if t not in base.eos])


def test_the_embedding_is_the_state_before_the_vocabulary(base: Any) -> None:
    found = predict(with_batch(base, 100), base.model, examples(), {"embedding"}, choice()).arrays["embedding"]
    for row, example in zip(found[0], examples(), strict=True):
        ids = torch.tensor([base.tokenizer(example.prompt)["input_ids"]])
        with torch.no_grad():
            state = base.model.model(input_ids=ids).last_hidden_state[0, -1]
        np.testing.assert_allclose(row, state.numpy(), rtol=1e-3, atol=1e-5)


def test_one_walk_gives_every_array(base: Any) -> None:
    gold = {e.id: LABELS[0] for e in examples()}
    needs = {"label_log_probs", "embedding", *GENERATED, *GOLD}
    found = predict(base, base.model, examples(), needs, choice(), gold=gold)
    assert set(found.arrays) == needs
    assert all(array.shape[:2] == (1, len(TEXTS)) for array in found.arrays.values())
    assert predict(base, base.model, [], needs, choice(), gold={}).ids == ()


# --- Monte-Carlo dropout ---


def test_passes_differ_and_their_mean_converges(base: Any, adapter: Path) -> None:
    """The spread of the mean over K passes must shrink like 1/sqrt(K): four times the passes, half of it."""
    with adapters.adapted(base, adapter) as model:
        many = predict(base, model, examples(), {"label_log_probs"}, choice(), passes=256, seed=5).arrays[
            "label_log_probs"
        ]
    p = np.exp(many)
    values = -(p * many).sum(-1)  # (256, n) entropies
    assert (values.std(0) > 0).all(), "an example had the same value in all passes"
    spread = {k: values.reshape(-1, k, values.shape[1]).mean(1).std(0).mean() for k in (4, 16)}
    assert 1.5 < spread[4] / spread[16] < 2.7


def test_passes_repeat_by_seed(base: Any, adapter: Path) -> None:
    with adapters.adapted(base, adapter) as model:
        one, two, other = (
            predict(base, model, examples(), {"label_log_probs"}, choice(), passes=3, seed=s).arrays["label_log_probs"]
            for s in (1, 1, 2)
        )
    assert (one == two).all()
    assert (one != other).any()


def test_only_the_adapters_layers_are_in_train_mode(base: Any, adapter: Path) -> None:
    for module in base.model.modules():  # a base model with attention dropout would show if it were switched on
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    with adapters.adapted(base, adapter) as model:
        with adapters.dropout_on(model):
            training = {name for name, module in model.named_modules() if module.training}
            assert training
            assert not any(name.endswith(("base_layer", "self_attn", "mlp")) for name in training)
        assert not any(module.training for module in model.modules())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({**PEFT, "lora_dropout": 0.0}, r"lora_dropout is 0.0; set one above 0"),
        (
            {"peft_type": "IA3", "target_modules": ["k_proj", "v_proj"], "feedforward_modules": []},
            "IA3 has no dropout of its own",
        ),
    ],
)
def test_equal_passes_are_refused_with_the_reason(
    base: Any, tmp_path: Path, options: dict[str, Any], reason: str
) -> None:
    labelled = [(e, LABELS[i % 6]) for i, e in enumerate(examples())]
    train(base, options, TrainConfig(epochs=1, learning_rate=1e-2), labelled, choice(), tmp_path / "a", seed=1)
    with adapters.adapted(base, tmp_path / "a") as model, pytest.raises(NoVariance, match=reason):
        predict(base, model, examples(), {"label_log_probs"}, choice(), passes=2)


def test_passes_on_the_bare_model_are_refused(base: Any) -> None:
    with pytest.raises(NoVariance, match="there is no adapter on the model"):
        predict(base, base.model, examples(), {"label_log_probs"}, choice(), passes=2)


# --- refusals ---


def test_labels_that_share_their_first_token_are_named(base: Any) -> None:
    task = choice(labels={"a": "refund soon", "b": "refund later", "c": "delivery"})
    with pytest.raises(
        ConfigError,
        match=r"'a' and 'b' both begin with the token .*; choose other words .* task.scoring: sequence",
    ):
        predict(base, base.model, examples(), {"label_log_probs"}, task)
    task = choice("sequence", labels={"a": "refund soon", "b": "refund later", "c": "delivery"})
    found = predict(base, base.model, examples(), {"label_log_probs"}, task).arrays["label_log_probs"]
    np.testing.assert_allclose(np.exp(found).sum(-1), 1.0)


def test_one_word_may_begin_another(base: Any) -> None:
    """The end token tells "order" from "order of goods"."""
    words = ["order", "order of goods"]
    found = predict(base, base.model, examples(), {"label_log_probs"}, choice("sequence", words)).arrays[
        "label_log_probs"
    ]
    slow = [literal.label_log_probs(base, base.model, e.prompt, words, whole=True) for e in examples()]
    np.testing.assert_allclose(found[0], slow, rtol=1e-4, atol=1e-5)


def test_a_prompt_longer_than_the_context_is_named(base: Any) -> None:
    long = examples(["short", "word " * 600])
    with pytest.raises(DataError, match=r"t.csv line 3: the prompt has \d+ tokens .* context is 512"):
        predict(base, base.model, long, {"label_log_probs"}, choice())


def test_nan_in_the_logits_is_refused_with_the_example(base: Any) -> None:
    with torch.no_grad():
        tokens = [set(base.tokenizer(e.prompt)["input_ids"]) for e in examples()]
        alone = (tokens[4] - set().union(*tokens[:4], *tokens[5:])).pop()  # a token of line 6 and of no other
        base.model.model.embed_tokens.weight[alone] = float("nan")
    base.model.lm_head.weight = torch.nn.Parameter(torch.nan_to_num(base.model.lm_head.weight))
    for needs in ({"label_log_probs"}, {"response_entropy"}):
        with pytest.raises(ModelError, match=r"t.csv line 6: .* is not finite for 1 of 8 examples"):
            predict(base, base.model, examples(), needs, choice())
    with pytest.raises(ModelError, match=r"t.csv line 6: .* is not finite"):
        respond(base, base.model, examples(), choice())


# --- other adapters ---


@pytest.mark.parametrize(
    "options",
    [
        {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4},
        {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 4},
        {"peft_type": "LOHA", "r": 4, "target_modules": ["q_proj", "v_proj"]},
    ],
)
def test_scores_do_not_depend_on_the_batch_for_other_types(base: Any, tmp_path: Path, options: dict[str, Any]) -> None:
    labelled = [(e, LABELS[i % 6]) for i, e in enumerate(examples())]
    train(
        base,
        options,
        TrainConfig(epochs=1, batch_size=4, learning_rate=1e-2),
        labelled,
        choice(),
        tmp_path / "a",
        seed=1,
    )
    with adapters.adapted(base, tmp_path / "a") as model:
        one, many = (
            predict(with_batch(base, t), model, examples(), {"label_log_probs"}, choice()).arrays["label_log_probs"]
            for t in (1, 4096)
        )
        plain = predict(base, base.model, examples(), {"label_log_probs"}, choice()).arrays["label_log_probs"]
    np.testing.assert_allclose(one, many, rtol=1e-4, atol=1e-5)
    assert abs(one - plain).max() > 1e-6, "the adapter has no effect"
