"""−log p and entropy of tokens, chunk by chunk, against the literal sums; and what the vocabulary projection is handed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from guidestar.model.generate import token_values


def made(rows: int, words: int, spread: float) -> torch.Tensor:
    return spread * torch.randn(rows, words, generator=torch.Generator().manual_seed(rows * words))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(2, 30), st.sampled_from([1e-3, 1.0, 30.0]))
def test_they_are_the_literal_sums(rows: int, words: int, spread: float) -> None:
    """Whatever the rows leave over behind the last whole chunk, and however sure a row is."""
    logits = made(rows, words, spread)
    goal = torch.arange(rows) % words
    tokens, nll, entropy = token_values(logits, goal)
    assert tokens is goal
    slow = [reference.token_values(row, int(g)) for row, g in zip(logits.double().tolist(), goal, strict=True)]
    np.testing.assert_allclose(np.stack([nll, entropy], axis=1), slow, rtol=1e-5, atol=1e-5)


def test_the_likeliest_without_a_goal() -> None:
    logits = made(19, 30, 4.0)
    tokens, nll, _ = token_values(logits)
    assert tokens.tolist() == logits.argmax(-1).tolist()
    torch.testing.assert_close(nll, -torch.log_softmax(logits, -1).amax(-1))


def test_the_projection_may_be_part_of_it() -> None:
    states, head = made(300, 6, 1.0), torch.nn.Linear(6, 40)
    goal = torch.arange(300) % 40
    sizes = []

    def project(x: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        return head(x)  # type: ignore[no-any-return]

    with torch.inference_mode():
        for one, other in zip(token_values(states, goal, project), token_values(head(states), goal), strict=True):
            torch.testing.assert_close(one, other)
    assert sizes == [128, 128, 44], "all logits existed at once"


def test_the_logits_are_left_as_they_were() -> None:
    logits = made(9, 12, 2.0)
    before = logits.clone()
    token_values(logits)
    assert torch.equal(logits, before)


def test_words_that_cannot_come() -> None:
    """A logit of minus infinity: 0 log 0 is 0, and such a goal has infinite −log p."""
    logits = torch.tensor([[0.0, 0.0, -torch.inf], [0.0, -torch.inf, -torch.inf]])
    _, nll, entropy = token_values(logits, torch.tensor([2, 0]))
    assert nll.tolist() == [torch.inf, 0.0]
    np.testing.assert_allclose(entropy, [np.log(2), 0.0], atol=1e-7)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_is_noticed(bad: float) -> None:
    logits = made(3, 5, 1.0)
    logits[1, 2] = bad
    _, nll, entropy = token_values(logits, torch.zeros(3, dtype=torch.int64))
    for values in (nll, entropy):
        assert torch.isfinite(values).tolist() == [True, False, True]


@pytest.mark.parametrize("rows", [1, 3])
def test_the_projection_gets_fresh_strides(base: Any, rows: int) -> None:
    """One row's slice counts as contiguous with its old strides, and PyTorch's matmul copies the weights for them."""
    seen: list[torch.Tensor] = []
    handle = base.model.get_output_embeddings().register_forward_hook(lambda module, args, out: seen.append(args[0]))
    with torch.inference_mode():
        base.model(input_ids=torch.arange(5, 5 + 8 * rows).view(rows, 8), logits_to_keep=1)
    handle.remove()
    width = base.model.config.hidden_size
    assert seen[0].shape == (rows, 1, width)
    assert seen[0].stride() == (width, width, 1)
