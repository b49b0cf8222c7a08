"""What every scorer must satisfy, whoever wrote it. Subclass `ScorerContract` in a test file and give it two fixtures:

from guidestar.testing import ScorerContract

class TestMine(ScorerContract):
    @pytest.fixture
    def scorer(self): return Mine()

    @pytest.fixture
    def examples(self): return [...]  # at least five, all different
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from guidestar.asking import Ask, Cached, InParts, Scorer
from guidestar.errors import GuidestarError
from guidestar.records import Example, Predictions
from guidestar.store.cache import Cache

WANTED = (
    Ask.of(["label_log_probs"]), Ask.of(["label_log_probs"], passes=3), Ask.of(["embedding"]),
    Ask.of(["response_entropy", "response_nll", "response_length"]), Ask.of(["response_entropy"], passes=2),
    Ask.of(["representation_gradient"]),
)  # fmt: skip
RTOL, ATOL = 1e-3, 1e-4  # the last bits of a score may depend on its batch


class ScorerContract:
    """The checks. wanted: asks to try, of which those are checked that the scorer can; at least one must be.
    seeded: whether the passes are drawn by a seed, and not fixed like the members of a committee."""

    wanted: tuple[Ask, ...] = WANTED
    seeded = True

    def asks(self, scorer: Scorer) -> list[Ask]:
        """Those of `wanted` that the scorer can answer."""
        found = [ask for ask in self.wanted if scorer.can(ask)]
        assert found, "the scorer can none of `wanted`"
        return found

    def test_it_gives_what_was_asked_in_its_shapes(self, scorer: Scorer, examples: Sequence[Example]) -> None:
        """Ids in the order of the examples, exactly the arrays asked for, finite, (passes, n, …). Beside NAME may stand
        NAME_bound: how far it may be off where an engine gives no exact number."""
        for ask in self.asks(scorer):
            said = scorer(examples, ask)
            assert said.ids == tuple(e.id for e in examples)
            assert {name for name in said.arrays if not name.endswith("_bound")} == ask.needs
            for name, array in said.arrays.items():
                passes = 1 if name == "embedding" else max(ask.passes, 1)
                assert array.shape[:2] == (passes, len(examples)), (name, array.shape)
                assert np.isfinite(array).all(), name

    def test_label_probabilities_sum_to_one(self, scorer: Scorer, examples: Sequence[Example]) -> None:
        """Natural logarithms over `labels`."""
        for ask in self.asks(scorer):
            if "label_log_probs" in ask.needs:
                said = scorer(examples, ask)
                assert said.labels == scorer.labels
                assert len(said.labels) > 1
                assert said.arrays["label_log_probs"].shape[2] == len(said.labels)
                np.testing.assert_allclose(np.exp(said.arrays["label_log_probs"]).sum(axis=-1), 1.0, atol=1e-5)

    def test_the_same_question_has_the_same_answer(self, scorer: Scorer, examples: Sequence[Example]) -> None:
        """To the last bit, inside a `with` block and outside."""
        for ask in self.asks(scorer):
            first = scorer(examples, ask)
            with scorer as opened:
                _equal(opened(examples, ask), first)
                _equal(opened(examples, ask), first)

    def test_a_row_belongs_to_its_example(self, scorer: Scorer, examples: Sequence[Example]) -> None:
        """Another order or other company moves a row of a plain pass, and changes it no more than rounding does."""
        for ask in self.asks(scorer):
            if not ask.passes:
                whole, back = scorer(examples, ask), scorer(examples[::-1], ask)
                few = scorer(examples[:2], ask)
                for name, array in whole.arrays.items():
                    np.testing.assert_allclose(back.arrays[name][:, ::-1], array, rtol=RTOL, atol=ATOL)
                    np.testing.assert_allclose(few.arrays[name], array[:, :2], rtol=RTOL, atol=ATOL)

    def test_passes_differ_and_their_seed_decides(self, scorer: Scorer, examples: Sequence[Example]) -> None:
        """Equal passes would rank examples by nothing."""
        for ask in self.asks(scorer):
            if ask.passes > 1:
                said = scorer(examples, ask)
                other = scorer(examples, replace(ask, seed=ask.seed + 1))
                assert any((array != array[:1]).any() for array in said.arrays.values())
                changed = any(not np.array_equal(said.arrays[name], other.arrays[name]) for name in said.arrays)
                assert changed == self.seeded

    def test_what_it_cannot_is_refused_in_a_sentence(self, scorer: Scorer, examples: Sequence[Example]) -> None:
        """`refusal` and the call say the same, and nothing else is put in the place of what was asked."""
        for ask in (Ask.of(["no_such_array"]), *self.wanted):
            why = scorer.refusal(ask)
            if why is None:
                continue
            assert len(why.split()) > 3, f"{why!r} explains nothing"
            assert _refused(lambda ask=ask: scorer(examples, ask)) == why  # type: ignore[misc]
        assert not scorer.can(Ask.of(["no_such_array"]))

    def test_no_examples_are_no_fault(self, scorer: Scorer, examples: Sequence[Example]) -> None:
        """An empty answer to an empty question."""
        for ask in self.asks(scorer):
            said = scorer([], ask)
            assert said.ids == ()
            assert set(said.arrays) >= ask.needs

    def test_who_answers_is_plain(self, scorer: Scorer, examples: Sequence[Example]) -> None:
        """JSON, and the same each time; an answer is kept under it."""
        assert json.loads(json.dumps(scorer.plain())) == json.loads(json.dumps(scorer.plain()))
        assert scorer.plain(), "nothing is said about who answers"

    def test_news_reach_the_end(self, scorer: Scorer, examples: Sequence[Example]) -> None:
        """The tick's last call says that all is done."""
        for ask in self.asks(scorer):
            heard: list[tuple[int, int]] = []
            scorer(examples, ask, lambda done, total, heard=heard: heard.append((done, total)))  # type: ignore[misc]
            assert heard
            assert heard[-1][0] == heard[-1][1]
            assert all(0 <= done <= total for done, total in heard)

    def test_it_composes(self, scorer: Scorer, examples: Sequence[Example], tmp_path: Path) -> None:
        """Kept on the disk it says the same to the last bit; part by part up to rounding."""
        for ask in self.asks(scorer):
            kept = Cached(scorer, Cache(tmp_path / "kept"))
            first = kept(examples, ask)
            _equal(first, scorer(examples, ask))
            _equal(kept(examples, ask), first)
            parts = InParts(scorer, Cache(tmp_path / "parts"), size=math.ceil(len(examples) / 2))
            said = parts(examples, ask)
            assert said.ids == first.ids
            if not ask.passes:
                for name, array in said.arrays.items():
                    np.testing.assert_allclose(array, first.arrays[name], rtol=RTOL, atol=ATOL)
            parts.forget()
            assert not list((tmp_path / "parts").glob("*.safetensors"))

    def test_it_writes_or_says_that_it_does_not(self, scorer: Scorer, examples: Sequence[Example]) -> None:
        """A text for every example, the same each time; or a refusal in a sentence."""
        if (why := _refused(lambda: scorer.respond(examples))) is not None:
            assert len(why.split()) > 3
            return
        said = scorer.respond(examples)
        assert len(said.texts) == len(examples)
        assert said.texts == scorer.respond(examples).texts
        assert all(array.shape == (len(examples),) for array in said.arrays.values())

    def test_too_long_names_examples(self, scorer: Scorer, examples: Sequence[Example]) -> None:
        """Ids among those given, each with a sentence."""
        found = scorer.too_long(examples)
        assert set(found) <= {e.id for e in examples}
        assert all(len(why.split()) > 3 for why in found.values())


def _refused(do: Callable[[], object]) -> str | None:
    """What was said when it was refused; None if it was done."""
    try:
        do()
    except GuidestarError as error:
        return str(error)
    return None


def _equal(one: Predictions, other: Predictions) -> None:
    assert one.ids == other.ids
    assert one.labels == other.labels
    assert set(one.arrays) == set(other.arrays)
    for name, array in one.arrays.items():
        np.testing.assert_array_equal(array, other.arrays[name])
