"""Batches by length: everything once, within the budget, and with the least padding that any split of the lengths has."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from guidestar.model.batches import token_batches

LENGTHS = st.lists(st.integers(1, 40), max_size=9)


def cost(batches: Sequence[Sequence[int]], lengths: Sequence[int], overhead: int) -> int:
    return sum(max(lengths[i] for i in rows) * len(rows) + overhead for rows in batches)


@given(LENGTHS, st.integers(1, 120), st.booleans(), st.sampled_from([None, 0, 7, 1000]))
def test_every_row_once_and_within_the_budget(
    lengths: list[int], budget: int, exact: bool, overhead: int | None
) -> None:
    batches = token_batches(lengths, budget, exact, overhead)
    assert sorted(i for rows in batches for i in rows) == list(range(len(lengths)))
    for rows in batches:
        longest = max(lengths[i] for i in rows)
        assert len(rows) == 1 or longest * len(rows) <= budget
        assert not exact or {lengths[i] for i in rows} == {longest}
    tops = [max(lengths[i] for i in rows) for rows in batches]
    assert tops == sorted(tops, reverse=True), "the longest first"


@given(LENGTHS, st.integers(1, 120), st.integers(0, 60))
def test_no_split_pads_less(lengths: list[int], budget: int, overhead: int) -> None:
    """Against every way to cut the sorted lengths."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    least = None
    for n in range(len(lengths)):
        for cuts in itertools.combinations(range(1, len(lengths)), n):
            ends = [0, *cuts, len(lengths)]
            split = [order[a:b] for a, b in itertools.pairwise(ends)]
            if all(len(rows) == 1 or len(rows) * lengths[rows[0]] <= budget for rows in split):
                least = min(cost(split, lengths, overhead), least if least is not None else 10**9)
    found = token_batches(lengths, budget, overhead=overhead)
    assert cost(found, lengths, overhead) == (least or 0)


def test_a_large_pool_is_split_at_once() -> None:
    lengths = [5 + i % 90 for i in range(50_000)]
    batches = token_batches(lengths, 1024, overhead=64)
    assert sum(map(len, batches)) == 50_000
    assert cost(batches, lengths, 0) < 1.01 * sum(lengths)
