"""A large pool in parts: the same numbers, a stop in the middle, damage, and memory that does not grow."""

from __future__ import annotations

import dataclasses
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asked import predict
from test_predict import choice, examples

from guidestar.asking import LABELS, InParts, silent
from guidestar.errors import StoreError
from guidestar.model import predict as predict_room
from guidestar.model.scorer import OwnScorer
from guidestar.records import Example
from guidestar.store.cache import Cache

NEEDS = {"label_log_probs"}


def in_parts(base: Any, folder: Path, size: int, tick: Any = silent) -> Any:
    return InParts(OwnScorer(base, choice()), Cache(folder), size)(examples(), LABELS, tick)


@pytest.mark.parametrize("size", [1, 3, 8, 100])
def test_parts_give_what_the_whole_gives(base: Any, tmp_path: Path, size: int) -> None:
    scorer = InParts(OwnScorer(base, choice()), Cache(tmp_path / "parts"), size)
    found = scorer(examples(), LABELS)
    whole = predict(base, base.model, examples(), NEEDS, choice())
    assert found.ids == whole.ids
    assert found.labels == whole.labels
    np.testing.assert_allclose(found.arrays["label_log_probs"], whole.arrays["label_log_probs"], rtol=1e-4, atol=1e-5)
    made = -(-8 // size) if size < 8 else 0
    assert len(list(tmp_path.glob("parts/*.safetensors"))) == made, "a pool of one part needs no file"
    scorer.forget()
    assert not list(tmp_path.glob("parts/*"))


def test_a_stop_in_the_middle_costs_one_part(base: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = in_parts(base, tmp_path / "a", 3)
    asked: list[int] = []
    plain = predict_room.predict

    def dies(base: Any, model: Any, some: Any, *args: Any, **options: Any) -> Any:
        asked.append(len(some))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return plain(base, model, some, *args, **options)

    monkeypatch.setattr(predict_room, "predict", dies)
    with pytest.raises(KeyboardInterrupt):
        in_parts(base, tmp_path / "b", 3)
    told: list[tuple[int, int]] = []
    again = in_parts(base, tmp_path / "b", 3, tick=lambda done, total: told.append((done, total)))
    assert asked == [3, 3, 3, 2], "the first part was computed twice, or another was left out"
    np.testing.assert_array_equal(again.arrays["label_log_probs"], whole.arrays["label_log_probs"])
    assert told[0] == (3, 8)
    assert told[-1] == (8, 8)


def test_parts_of_another_question_are_not_used(base: Any, tmp_path: Path) -> None:
    in_parts(base, tmp_path, 3)
    before = set(tmp_path.iterdir())
    InParts(OwnScorer(dataclasses.replace(base, fingerprint="other"), choice()), Cache(tmp_path), 3)(examples(), LABELS)
    assert len(set(tmp_path.iterdir()) - before) == 3


def test_a_damaged_part_is_refused(base: Any, tmp_path: Path) -> None:
    in_parts(base, tmp_path, 3)
    file = sorted(tmp_path.iterdir())[1]
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(StoreError, match="its content has changed since it was written; delete it"):
        in_parts(base, tmp_path, 3)


def test_memory_does_not_grow_with_the_pool(base: Any, tmp_path: Path) -> None:
    """Four times the examples need the few numbers an example more, and no more."""

    def peak(n: int) -> int:
        pool = [Example(f"{i:016x}", {}, f"Message: order {i % 7}\nTopic:") for i in range(n)]
        tracemalloc.start()
        InParts(OwnScorer(base, choice()), Cache(tmp_path / str(n)), 64)(pool, LABELS)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(128)  # what is loaded once
    small, large = peak(256), peak(1024)
    numbers = (1024 - 256) * (6 * 8 + 8)  # log-probabilities of six labels, and the tuple of ids
    assert large - small < numbers + 100_000, f"{small} bytes for 256 examples, {large} for 1024"
