"""STAR's equations 2, 3, 5 and 7 against slow literal references: 1e-5 in float32, whatever the batch and padding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import literal
import numpy as np
import pytest
import reference
import torch
from asked import predict, train
from conftest import LABELS
from test_predict import PEFT, choice, examples, with_batch

from guidestar.asking import Ask
from guidestar.config import ModelConfig, TrainConfig
from guidestar.loop import Run, oracle
from guidestar.model import adapters, words
from guidestar.model import batches as batches_room
from guidestar.model.load import load
from guidestar.model.predict import GENERATED, GOLD
from guidestar.query.measures import MEASURES, evaluate_measure
from guidestar.query.strategies import STRATEGIES, Context, choose, needs, resolve
from guidestar.sections import StrategyConfig

SEVEN = examples()[:7]
SIZES = pytest.mark.parametrize(("tokens", "sizes"), [(1, [1] * 7), (100_000, [7])], ids=["batches of 1", "batch of 7"])
SIDES = pytest.mark.parametrize("side", ["left", "right"])
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
RESPONSES = choice(response="the topic is {answer}", limit=8)


@pytest.fixture(scope="module")
def adapter(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Has learned responses of different length: some end early, others run into the limit."""
    base, folder = load(ModelConfig(name=str(tiny_folder), dtype="float32")), tmp_path_factory.mktemp("adapter") / "a"
    words = ["order", "order of goods", "payment made twice by card and not given back", "hi"]
    labelled = [(e, words[i % 4]) for i, e in enumerate(SEVEN)]
    config = TrainConfig(epochs=30, batch_size=4, learning_rate=2e-2, b_decay=0.0)
    train(base, PEFT, config, labelled, choice("sequence", words), folder, seed=1)
    return folder


def batches(base: Any, model: Any, wanted: frozenset[str], gold: dict[str, str] | None) -> list[int]:
    return [len(rows) for rows in words.Work(base, model, SEVEN, RESPONSES, Ask.of(wanted, gold=gold)).batches]


@SIZES
@SIDES
def test_eq_2_maximum_entropy_of_the_generated_response(
    base: Any, adapter: Path, tokens: int, sizes: list[int], side: str
) -> None:
    """ME(s, x) = −Σ_i Σ_v p(v) ln p(v), s generated. The reference reads prompt and response in one padded batch."""
    base = with_batch(base, tokens)
    with adapters.adapted(base, adapter) as model:
        assert batches(base, model, GENERATED, None) == sizes
        arrays = predict(base, model, SEVEN, GENERATED, RESPONSES).arrays
        prompts = [base.tokenizer(e.prompt)["input_ids"] for e in SEVEN]
        written = [literal.generated(base, model, e.prompt, 8)[2] for e in SEVEN]
        rows = [prompt + tokens for prompt, tokens in zip(prompts, written, strict=True)]
        after = literal.padded(model, rows, side, base.pad)
    sums = [literal.along(*row) for row in zip(after, prompts, written, strict=True)]
    np.testing.assert_allclose(arrays["response_entropy"][0], [entropy for entropy, _ in sums], **CLOSE)
    np.testing.assert_allclose(arrays["response_nll"][0], [nll for _, nll in sums], **CLOSE)
    lengths = [len(tokens) for tokens in written]
    assert arrays["response_length"][0].tolist() == lengths
    assert min(lengths) < max(lengths) == 8, "some must stop early, at different places, and some at the limit"
    assert len(set(lengths)) > 2
    log_p = [[np.log(p) for p in one[len(x) - 1 : -1]] for one, x in zip(after, prompts, strict=True)]
    np.testing.assert_allclose(
        arrays["response_entropy"][0], [reference.maximum_entropy(one) for one in log_p], **CLOSE
    )


@SIZES
@SIDES
def test_eq_3_predictive_entropy_of_the_gold_response(
    base: Any, adapter: Path, monkeypatch: pytest.MonkeyPatch, tokens: int, sizes: list[int], side: str
) -> None:
    """PE(s̄, x) = −Σ_i ln p(z̄_i), s̄ the gold response; the end token is part of it."""
    monkeypatch.setattr(batches_room, "_OVERHEAD", {})  # padding, in one batch
    base, gold = with_batch(base, tokens), {e.id: LABELS[i % 6] for i, e in enumerate(SEVEN)}
    with adapters.adapted(base, adapter) as model:
        assert batches(base, model, GOLD, gold) == sizes
        arrays = predict(base, model, SEVEN, GOLD, RESPONSES, gold=gold).arrays
        pairs = [literal.encode(base, e.prompt, RESPONSES.response_text(gold[e.id])) for e in SEVEN]
        after = literal.padded(model, [[*prompt, *tokens] for prompt, tokens in pairs], side, base.pad)
    sums = [literal.along(one, *pair) for one, pair in zip(after, pairs, strict=True)]
    np.testing.assert_allclose(arrays["gold_entropy"][0], [entropy for entropy, _ in sums], **CLOSE)
    np.testing.assert_allclose(arrays["gold_nll"][0], [nll for _, nll in sums], **CLOSE)
    for i, (one, (prompt, tokens)) in enumerate(zip(after, pairs, strict=True)):
        log_p = [np.log(p) for p in one[len(prompt) - 1 :]]
        assert arrays["gold_nll"][0, i] == pytest.approx(
            reference.predictive_entropy(log_p[:-1], tokens), rel=1e-6, abs=1e-5
        )


def longest_first(base: Any) -> list[int]:
    """The order in which one example at a time is predicted, so that a reference draws the same masks."""
    lengths = [len(base.tokenizer(e.prompt)["input_ids"]) for e in SEVEN]
    return sorted(range(7), key=lambda i: (-lengths[i], i))


def literal_passes(base: Any, model: Any, passes: int, seed: int, value: Callable[[int], float]) -> np.ndarray:
    """value(i) under dropout, K times for each example: (K, n)."""
    found = np.zeros((passes, 7))
    with torch.random.fork_rng(), adapters.dropout_on(model):
        torch.manual_seed(seed)
        for i in longest_first(base):
            for k in range(passes):
                found[k, i] = value(i)
    return found


def test_eq_7_is_the_mean_of_the_entropies_of_k_sampled_adapters(base: Any, adapter: Path) -> None:
    base, task = with_batch(base, 1), choice(limit=5)
    with adapters.adapted(base, adapter) as model:
        labels = predict(base, model, SEVEN, {"label_log_probs"}, task, passes=4, seed=11)
        written = predict(base, model, SEVEN, {"response_entropy"}, task, passes=4, seed=12)
        tokens = [base.tokenizer(" " + word)["input_ids"][0] for word in task.words]

        def over_labels(i: int) -> float:
            p = literal.distribution(model, base.tokenizer(SEVEN[i].prompt)["input_ids"])
            chosen = [p[token] / sum(p[t] for t in tokens) for token in tokens]
            return literal.entropy(chosen)

        slow_labels = literal_passes(base, model, 4, 11, over_labels)
        slow_written = literal_passes(
            base, model, 4, 12, lambda i: literal.generated_with_cache(base, model, SEVEN[i].prompt, 5)
        )
    for found, name, slow in ((labels, "entropy", slow_labels), (written, "response_entropy", slow_written)):
        assert (slow.std(0) > 0).all(), "the passes must differ"
        np.testing.assert_allclose(evaluate_measure(name, found), reference.mean_over_passes(slow.tolist()), **CLOSE)
    mean_first = np.log(np.exp(labels.arrays["label_log_probs"]).mean(0))
    assert abs(evaluate_measure("entropy", labels) - [reference.entropy(row) for row in mean_first]).max() > 1e-4, (
        "mean of entropies, not entropy of the mean"
    )


@pytest.mark.parametrize("measure", ["response_entropy", "oracle_predictive_entropy", "oracle_entropy"])
def test_eq_5_mixes_the_base_models_and_the_tuned_models_values(base: Any, adapter: Path, measure: str) -> None:
    """The whole of STAR's score for t = 1 of 4 rounds: λ = 1 − 2/4."""
    recipe, gold = resolve(StrategyConfig(use="star", measure=measure, passes=0)), {e.id: LABELS[2] for e in SEVEN}
    full_needs, base_needs = needs(recipe, "choice")

    def slow(model: Any) -> list[float]:
        if measure == "response_entropy":
            return [literal.generated(base, model, e.prompt, 8)[0] for e in SEVEN]
        column = 0 if measure == "oracle_predictive_entropy" else 1
        words = RESPONSES.response_text(LABELS[2])
        return [literal.teacher_forced(base, model, e.prompt, words)[column] for e in SEVEN]

    before, of_base = predict(base, base.model, SEVEN, base_needs, RESPONSES, gold=gold), slow(base.model)
    with adapters.adapted(base, adapter) as model:
        after, of_full = predict(base, model, SEVEN, full_needs, RESPONSES, gold=gold), slow(model)
    context = Context(t=1, rounds=4, kind="choice", full=after, base=before)
    found = choose(recipe, [e.id for e in SEVEN], context, 3, np.random.default_rng(0))
    wanted = reference.dynamic_uncertainty(of_base, of_full, 0.5)
    np.testing.assert_allclose(found.scores["score"], wanted, rtol=2e-5, atol=1e-5)
    np.testing.assert_allclose(found.scores["base"], of_base, **CLOSE)
    best = sorted(range(7), key=lambda i: -wanted[i])[:3]
    assert {p.id for p in found.picks} == {SEVEN[i].id for i in best}


def test_the_mean_of_the_passes_converges(base: Any, adapter: Path) -> None:
    """Within 4.5 standard errors of a mean over many more passes (7 examples × 3 K: one in 14,000 by chance), and
    the standard error shrinks like 1/√K."""
    many = 256
    with adapters.adapted(base, adapter) as model:
        runs = {
            k: predict(base, model, SEVEN, {"label_log_probs"}, choice(), passes=k, seed=s)
            for s, k in enumerate((4, 16, 64, many))
        }
    values = {k: -(np.exp(p.arrays["label_log_probs"]) * p.arrays["label_log_probs"]).sum(-1) for k, p in runs.items()}
    variance = values[many].var(0, ddof=1)
    assert (variance > 0).all(), "the dropout must act on every example"
    mean = evaluate_measure("entropy", runs[many])
    for k in (4, 16, 64):
        error = np.sqrt(variance * (1 / k + 1 / many))
        assert (abs(evaluate_measure("entropy", runs[k]) - mean) < 4.5 * error).all(), k
    groups = {k: values[many].reshape(-1, k, 7).mean(1).var(0, ddof=1) for k in (4, 16)}
    np.testing.assert_allclose((groups[4] / groups[16]).mean(), 4.0, rtol=0.5)


# --- each of the published code's deviations can be run ---


@pytest.mark.parametrize(
    "strategy",
    [
        {"use": "star", "measure": "oracle_entropy"},  # 1: entropy along the gold answer
        {"use": "star", "measure": "oracle_entropy", "passes": 0},  # 2: dropout that does not act
        {"use": "star", "measure": "response_entropy", "mix": {"scale": "published"}},  # 3
        {"use": "star", "measure": "response_entropy", "mix": {"schedule": "published"}},  # 4
        {"use": "star", "measure": "response_entropy_mean"},  # 5: the other one of sum and mean
        {"use": "star", "measure": "oracle_entropy_mean"},
        {"use": "star", "measure": "oracle_answer_entropy"},  # 9: without the format tokens
        {"use": "star", "measure": "answer_entropy"},
        {"use": "oracle_star", "mix": {"schedule": "published", "scale": "published"}},
    ],
    ids=lambda s: "-".join(str(v) for v in s.values()),
)
def test_star_runs_with_what_the_published_code_measures(
    make_config: Callable[..., dict[str, Any]], strategy: dict[str, Any]
) -> None:
    config = make_config(
        strategies=[strategy],
        query={"warm_start": 10, "batch": 4, "budget": 14, "candidates": 12},
        data={"test_limit": 20, "response": "the topic is {answer}"},
        train={"epochs": 1, "b_decay": 0.5, "schedule_steps": 1},  # 6 and 7
    )
    with Run(config) as run:
        run.run(oracle(run.bench.dataset))
        scores = run.store.arrays(1, "scores")
        assert set(scores) == {"score", "full", "base"}
        assert all(np.isfinite(values).all() and values.std() > 0 for values in scores.values())


def test_every_sum_has_its_mean_and_every_gold_measure_is_an_oracle() -> None:
    """What items 1, 5 and 9 of the published code's deviations are compared by."""
    for name in ("response_entropy", "response_nll", "answer_entropy", "oracle_predictive_entropy", "oracle_entropy"):
        assert {name, f"{name}_mean"} <= MEASURES.keys()
    assert {"oracle_answer_entropy", "oracle_answer_nll"} <= MEASURES.keys()
    assert {name for name, m in MEASURES.items() if m.oracle} == {n for n in MEASURES if n.startswith("oracle_")}
    assert STRATEGIES["star"].mix is not None
