"""The benchmarks' own parts: the literal scorer, the floor, the clock, and the page made of kept results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from asked import predict, train
from conftest import LABELS
from test_predict import PEFT, choice, examples

from benchmarks import literal as slow
from benchmarks import page, run
from benchmarks.machine import flops, ratio, side_by_side
from guidestar.config import TrainConfig
from guidestar.model import adapters
from guidestar.model.batches import encode_answer

ROOT = Path(__file__).parents[1]


@pytest.fixture
def adapter(base: Any, tmp_path: Path) -> Path:
    labelled = [(e, LABELS[i % 6]) for i, e in enumerate(examples())]
    train(
        base, PEFT, TrainConfig(epochs=2, batch_size=4, learning_rate=1e-2), labelled, choice(), tmp_path / "a", seed=1
    )
    return tmp_path / "a"


def test_scoring_equals_the_literal_scorer_within_a_ten_thousandth(base: Any, adapter: Path) -> None:
    task, gold = choice(response="the topic is {answer}"), {e.id: LABELS[i % 6] for i, e in enumerate(examples())}
    rows = [(base.tokenizer(e.prompt)["input_ids"], encode_answer(base, task, e, gold[e.id])) for e in examples()]
    with adapters.adapted(base, adapter) as model:
        found = predict(base, model, examples(), {"gold_entropy", "gold_nll"}, task, gold=gold).arrays
        one = [slow.teacher_forced(model, *row) for row in rows]
        three = [slow.dynamic(model, *row, passes=3) for row in rows]
    np.testing.assert_allclose(one, three, rtol=1e-5)
    np.testing.assert_allclose(found["gold_entropy"][0], [e for e, _ in one], rtol=1e-4)
    np.testing.assert_allclose(found["gold_nll"][0], [n for _, n in one], rtol=1e-4)


def test_generated_entropy_equals_that_of_kept_scores(base: Any, adapter: Path) -> None:
    prompts = [base.tokenizer(e.prompt)["input_ids"] for e in examples()]
    with adapters.adapted(base, adapter) as model:
        found = predict(base, model, examples(), {"response_entropy"}, choice(limit=6)).arrays["response_entropy"][0]
        kept, size = slow.generated(model, base.tokenizer, prompts, base.eos, base.pad, 6)
    np.testing.assert_allclose(found, kept, rtol=1e-4, atol=1e-5)
    assert size % (4 * len(prompts) * base.model.config.vocab_size) == 0


def test_the_floor_counts_every_product(base: Any) -> None:
    """Two operations a weight and token, two a weight of the projection and answer token, and attention's."""
    config = base.model.config
    head = config.vocab_size * config.hidden_size
    layers = sum(p.numel() for p in base.model.model.layers.parameters()) + config.hidden_size  # the last norm
    expected = 2 * layers * 10 + 2 * head * 3 + 2 * config.num_hidden_layers * config.hidden_size * 100
    assert flops(base.model, 10, 3) == expected


def test_work_is_timed_in_turn() -> None:
    order: list[str] = []
    seconds = iter(range(100))
    works = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    found = side_by_side(works, 2, lambda: float(next(seconds)))
    assert order == ["a", "b"] * 3, "the first turn warms up"
    assert found == {"a": [1.0, 1.0], "b": [1.0, 1.0]}
    assert ratio([4.0, 9.0], [2.0, 3.0]) == {"median": 2.5, "least": 2.0, "most": 3.0}


def test_the_smallest_size_runs_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch_threads = torch.get_num_threads()
    found = run.run("tiny", tmp_path, ["scoring", "precision", "generation"], lambda text: None)
    assert torch.get_num_threads() == torch_threads
    row = found["scoring"]["demo"]
    assert row["largest_relative_difference_float32"] < 1e-4
    assert row["plain"]["milliseconds"]["ours"] > 0
    written = found["generation"]["demo"]
    assert set(written["ratio"]) == {"8", "4", "1"}
    assert written["median_relative_difference"] < 0.05, "bfloat16 in other batches"
    assert written["bytes_of_scores_kept"]["ours"] < written["bytes_of_scores_kept"]["1"]
    (tmp_path / "tiny.json").write_text(json.dumps(found))
    text = page.page(tmp_path)
    assert "## tiny" in text
    assert "| demo (12) |" in text


def test_the_page_is_that_of_the_kept_results() -> None:
    """`make docs` writes it; results without a new page would be stale."""
    kept = ROOT / "docs" / "performance.md"
    assert kept.read_text(encoding="utf-8") == page.page(page.RESULTS)
