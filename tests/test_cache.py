"""What is computed once: for each question its own answer, whoever asks and whatever killed the last one who did."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loops import Crash

from guidestar.errors import StoreError
from guidestar.store import files
from guidestar.store.cache import Cache

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(autouse=True, scope="module")
def unflushed() -> Iterator[None]:
    """No power is cut here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "flush", lambda descriptor: None)
        yield


@settings(max_examples=25, deadline=None)
@given(st.lists(st.dictionaries(st.text(min_size=1, max_size=3), PLAIN, max_size=3), min_size=1, max_size=6))
def test_every_question_has_its_own_answer(questions: list[dict[str, object]]) -> None:
    """The order of keys is no part of a question; everything else is."""
    with tempfile.TemporaryDirectory() as folder:
        cache, made, numbers = Cache(Path(folder)), [], itertools.count()
        for question in [*questions, *questions]:
            turned = dict(reversed(question.items()))

            def make(turned: dict[str, object] = turned) -> dict[str, np.ndarray]:
                made.append(turned)
                return {"x": np.array([next(numbers)])}

            first = cache.arrays("a", question, make)
            assert cache.has("a", turned)
            assert cache.arrays("a", turned, make)["x"] == first["x"]
        assert len(made) == len({json.dumps(question, sort_keys=True) for question in questions})


@pytest.mark.parametrize("kind", ["arrays", "folder"])
def test_a_crash_at_any_step_leaves_the_answer_or_none(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(place: Path) -> str:
        cache = Cache(place)
        if kind == "arrays":
            return str(cache.arrays("a", {}, lambda: {"x": np.arange(3)})["x"].tolist())
        return (cache.folder("a", {}, lambda folder: (folder / "x").write_text("[0, 1, 2]")) / "x").read_text()

    steps: list[str] = []
    monkeypatch.setattr(files, "step", steps.append)
    assert ask(tmp_path / "whole") == "[0, 1, 2]"
    for at in range(len(steps)):
        seen: list[str] = []

        def crash(name: str, at: int = at, seen: list[str] = seen) -> None:
            seen.append(name)
            if len(seen) > at:
                raise Crash

        with monkeypatch.context() as inner:
            inner.setattr(files, "step", crash)
            with pytest.raises(Crash):
                ask(tmp_path / str(at))
        assert ask(tmp_path / str(at)) == "[0, 1, 2]", f"after a crash at {steps[at]!r}"
        assert ask(tmp_path / str(at)) == "[0, 1, 2]"
        files.write_bytes(tmp_path / str(at) / "another", b"")
        assert not list((tmp_path / str(at)).glob(".tmp-*"))


def test_what_has_changed_since_is_refused(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.arrays("a", {}, lambda: {"x": np.arange(3)})
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    with pytest.raises(
        StoreError, match="its content has changed since it was written; delete it, it will be computed"
    ):
        cache.arrays("a", {}, dict)
    (cache.folder("b", {}, lambda folder: (folder / "x").write_text("1")) / "x").write_text("2")
    with pytest.raises(StoreError, match="its content has changed since it was written; delete it, it is made again"):
        cache.folder("b", {}, lambda folder: None)
