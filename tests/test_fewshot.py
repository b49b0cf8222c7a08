"""Few-shot prompting of the base model: which demonstrations, how they are written, and that they fit."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import literal
import numpy as np
import pytest
from conftest import LABELS
from test_predict import choice, examples

from guidestar.asking import evaluate
from guidestar.config import TaskConfig, parse
from guidestar.data.demonstrations import choose_demonstrations, with_demonstrations
from guidestar.data.pool import Split, load_dataset
from guidestar.errors import ConfigError, DataError
from guidestar.model.batches import encode_prompts, encode_response
from guidestar.model.engine import OwnEngine
from guidestar.model.predict import respond
from guidestar.model.scorer import OwnScorer
from guidestar.records import Example
from guidestar.tasks import make_task

CHAT = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def few_shot(base: Any, labelled: Any, split: Split, task: Any, **how: int) -> Any:
    return OwnEngine(base, task).few_shot(labelled, split, **how)


def numbers() -> Any:
    return make_task(TaskConfig(kind="number", max_new_tokens=12), [], "{answer}")


def pool(counts: dict[str, int]) -> list[tuple[Example, str]]:
    return [
        (Example(f"{label}-{i}", {"text": f"{label} {i}"}, f"Message: {label} {i}\nTopic:"), label)
        for label, n in counts.items()
        for i in range(n)
    ]


@pytest.fixture
def split(demo_data: Path) -> Split:
    data = load_dataset(parse({"data": {"preset": "demo", "folder": str(demo_data), "test_limit": 12}}))
    assert data.test is not None
    return data.test


# --- which ones ---


@pytest.mark.parametrize("shots", [1, 2, 3, 4, 6, 7, 20])
@pytest.mark.parametrize("seed", range(5))
def test_demonstrations_of_a_choice_are_balanced_at_every_length(shots: int, seed: int) -> None:
    labelled = pool({"delivery": 30, "refund": 4, "stock": 4})
    task = choice(labels=["delivery", "refund", "stock", "other"])
    chosen = choose_demonstrations(labelled, shots, rng(seed), task)
    assert len({e.id for e, _ in chosen}) == len(chosen) == shots
    for end in range(1, min(shots, 12) + 1):
        counts = Counter(answer for _, answer in chosen[:end])
        assert max(counts.values()) - min(counts[label] for label in ("delivery", "refund", "stock")) <= 1
    assert chosen == choose_demonstrations(labelled, shots, rng(seed), task), "repeatable by the generator"


def test_all_are_shown_when_there_are_fewer() -> None:
    labelled = pool({"delivery": 2, "refund": 1})
    for task in (choice(), numbers()):
        chosen = choose_demonstrations(labelled, 9, rng(), task)
        assert sorted(e.id for e, _ in chosen) == sorted(e.id for e, _ in labelled)


def test_the_order_is_drawn_and_no_class_always_stands_last() -> None:
    labelled = pool({"delivery": 9, "refund": 9})
    last = {choose_demonstrations(labelled, 4, rng(s), choice())[-1][1] for s in range(20)}
    first = {choose_demonstrations(labelled, 4, rng(s), numbers())[0][0].id for s in range(40)}
    assert last == {"delivery", "refund"}
    assert len(first) > 10


def test_no_shots_and_no_labels_are_refused() -> None:
    with pytest.raises(ConfigError, match="shots is 0; allowed: 1 or more"):
        choose_demonstrations(pool({"delivery": 2}), 0, rng(), choice())
    with pytest.raises(DataError, match="there is no labelled example to show"):
        choose_demonstrations([], 3, rng(), choice())


# --- how they are written ---


def test_they_are_joined_as_in_training_with_a_blank_line_behind_each(base: Any) -> None:
    shown = pool({"delivery": 1, "refund": 1})
    task = choice(response="the topic is {answer}")
    (example, *_) = found = with_demonstrations(examples(), shown, task)
    assert example.prompt == (
        "Message: delivery 0\nTopic: the topic is delivery\n\nMessage: refund 0\nTopic: the topic is refund\n\n"
        + examples()[0].prompt
    )
    assert [e.id for e in found] == [e.id for e in examples()], "the examples stay who they are"
    assert with_demonstrations(examples(), [], task) == examples()
    for prompt in ("Topic:", "Topic:\n"):  # the text that a model is trained on
        one = Example("x", {}, prompt)
        ids = encode_prompts(base, [one])[0] + encode_response(base, prompt, "the topic is delivery")
        assert (
            with_demonstrations([one], [(one, "delivery")], task)[0].prompt
            == base.tokenizer.decode(ids) + "\n\n" + prompt
        )


def test_a_worked_answer_follows_its_line(base: Any) -> None:
    one = Example("x", {}, "2 + 2?\nThink.\n")
    (found,) = with_demonstrations([one], [(one, "2 + 2 = 4\n#### 4")], numbers())
    assert found.prompt == "2 + 2?\nThink.\n2 + 2 = 4\n#### 4\n\n2 + 2?\nThink.\n"


# --- the measurement ---


def test_it_is_the_bare_model_on_the_longer_prompts(base: Any, split: Split, demo_data: Path) -> None:
    labelled, task = pool({label: 2 for label in LABELS}), choice()
    values, arrays = few_shot(base, labelled, split, task, shots=4, seed=3)
    shown = choose_demonstrations(labelled, 4, rng(3), task)
    inside = with_demonstrations(split.examples, shown, task)
    slow = [literal.label_log_probs(base, base.model, e.prompt, list(task.words), whole=False) for e in inside]
    np.testing.assert_allclose(arrays["log_probs"], slow, rtol=1e-4, atol=1e-5)
    right = [LABELS[int(np.argmax(row))] == answer for row, answer in zip(slow, split.answers, strict=True)]
    assert values["accuracy"] == pytest.approx(np.mean(right))
    assert (values["shots"], arrays["shots"].tolist()) == (4.0, [4])
    bare, _ = evaluate(OwnScorer(base, task), split, task)
    assert bare["nll"] != values["nll"]
    again, _ = few_shot(base, labelled, split, task, shots=4, seed=3)
    assert again == values


def test_demonstrations_are_dropped_until_the_longest_prompt_fits(base: Any, split: Split) -> None:
    labelled, task = pool({label: 2 for label in LABELS}), choice()
    shown = choose_demonstrations(labelled, 12, rng(0), task)

    def longest(n: int) -> int:
        return max(len(row) for row in encode_prompts(base, with_demonstrations(split.examples, shown[:n], task)))

    for left in (0, 1, 5):
        small = dataclasses.replace(base, max_length=longest(left) + task.max_new_tokens)
        values, arrays = few_shot(small, labelled, split, task, shots=12, seed=0)
        assert values["shots"] == arrays["shots"][0] == left
        same, _ = few_shot(base, labelled, split, task, shots=max(left, 1), seed=0)
        assert left == 0 or same["nll"] == pytest.approx(values["nll"]), "the first ones stay, for every example"
    with pytest.raises(DataError, match="but the model's context is"):
        few_shot(dataclasses.replace(base, max_length=longest(0)), labelled, split, task, shots=2, seed=0)


def test_what_a_model_writes_behind_its_answer_does_not_count(base: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An untuned model goes on with a question of its own, whose answer would be read as its last number."""
    from guidestar.asking import Responses
    from guidestar.model import predict as room

    def said(base: Any, model: Any, examples: Any, task: Any, stop: str | None, tick: Any) -> Responses:
        text = "2 + 2 = 4\n#### 4\n\n3 + 3?\n#### 6"
        return Responses((text.partition(stop)[0] if stop else text,), {})

    one = Example("x", {}, "2 + 2?\n")
    monkeypatch.setattr(room, "respond", said)
    split = Split((one,), ("#### 4",))
    assert few_shot(base, [(one, "#### 5")], split, numbers(), shots=1, seed=0)[0]["accuracy"] == 1.0
    assert evaluate(OwnScorer(base, numbers()), split, numbers())[0]["accuracy"] == 0.0
    blank = "4 it\n\nis\n#### 5"  # an answer with a blank line of its own: then nothing is cut
    assert few_shot(base, [(one, blank)], split, numbers(), shots=1, seed=0)[0]["accuracy"] == 0.0


@pytest.mark.parametrize("tokens", [1, 4096])
def test_a_response_ends_at_a_text_and_nothing_behind_it_is_generated(base: Any, tokens: int) -> None:
    """Where the text comes up depends on the row; the arrays count up to it, as if the model had stopped there."""
    base, task = dataclasses.replace(base, batch_tokens=tokens, written_tokens=tokens), choice(limit=10)
    whole = [literal.generated(base, base.model, e.prompt, 10)[2] for e in examples()]
    texts = [base.tokenizer.decode([t for t in row if t not in base.eos]) for row in whole]
    stop = next(text[k : k + 2] for text in texts for k in range(1, len(text) - 2) if text[k : k + 2].isalpha())
    found = respond(base, base.model, examples(), task, stop=stop)
    assert found.texts == tuple(text.partition(stop)[0] for text in texts)
    assert any(stop in text for text in texts)
    for i, (row, text) in enumerate(zip(whole, texts, strict=True)):
        n = len(row)
        if stop in text:
            n = next(k for k in range(1, len(row) + 1) if stop in base.tokenizer.decode(row[:k]))
        assert found.arrays["response_length"][i] == n
        ids, entropy = base.tokenizer(examples()[i].prompt)["input_ids"], 0.0
        for token in row[:n]:
            entropy += literal.entropy(literal.distribution(base.model, ids))
            ids = [*ids, token]
        assert found.arrays["response_entropy"][i] == pytest.approx(entropy, rel=1e-4)


def test_generated_responses_are_measured_too(base: Any) -> None:
    shown = [(Example("a", {}, "Message: 1\nTopic:"), "#### 1"), (Example("b", {}, "Message: 2\nTopic:"), "#### 2")]
    split = Split(tuple(examples()[:3]), ("#### 1", None, "#### 3"))
    values, arrays = few_shot(base, shown, split, numbers(), shots=2, seed=0)
    assert arrays["correct"].shape == (2,)
    assert 0 <= values["accuracy"] <= 1


# --- chat ---


def test_with_chat_they_are_earlier_turns(base: Any, split: Split) -> None:
    base.tokenizer.chat_template = CHAT
    chat, labelled, task = dataclasses.replace(base, chat=True), pool({"delivery": 1, "refund": 1}), choice()
    values, arrays = few_shot(chat, labelled, split, task, shots=2, seed=1)
    (first, one), (second, two) = choose_demonstrations(labelled, 2, rng(1), task)
    start = f"[user] {first.prompt}</s>\n[assistant] {one}</s>\n[user] {second.prompt}</s>\n[assistant] {two}</s>\n"
    heads = [tokens[0] for tokens in (encode_response(chat, "x", word) for word in task.words)]
    for example, row in zip(split.examples, arrays["log_probs"], strict=True):
        ids = base.tokenizer(f"{start}[user] {example.prompt}</s>\n[assistant]\n")["input_ids"]
        p = literal.distribution(base.model, ids)
        chosen = np.array([p[token] for token in heads])
        np.testing.assert_allclose(np.exp(row), chosen / chosen.sum(), rtol=1e-4, atol=1e-5)
    assert values["shots"] == 2


def test_chat_needs_a_template(base: Any, split: Split) -> None:
    with pytest.raises(ConfigError, match="the tokenizer has no chat template"):
        few_shot(dataclasses.replace(base, chat=True), pool({"delivery": 1}), split, choice(), shots=1, seed=0)
