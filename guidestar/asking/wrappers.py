"""Scorers made of scorers: kept on the disk, part by part, pass by pass, or one member after the other."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self, final

import numpy as np

from guidestar.asking.scorer import Ask, Responses, Scorer, silent
from guidestar.errors import NoVariance
from guidestar.progress import Tick, behind
from guidestar.query.racing import Positions, Race, race
from guidestar.records import Array, Example, Predictions
from guidestar.store.cache import Cache

PART = 16384  # examples; long enough for batches of one length, short enough to lose little
Value = Callable[[Predictions, Positions], Array]  # of one pass over the examples at some positions: (n,)


def question(scorer: Scorer, examples: Sequence[Example], ask: Ask) -> dict[str, Any]:
    """All that the answer depends on as JSON-able data."""
    texts = hashlib.sha256()
    for example in examples:
        texts.update(example.prompt.encode() + b"\0")
    gold = {"gold": [(ask.gold or {})[e.id] for e in examples]} if ask.reads_gold else {}
    return {**scorer.plain(), **ask.plain(), "ids": [e.id for e in examples], "prompts": texts.hexdigest(), **gold}


class Around(Scorer):
    """A scorer around another; it can what that one can, and opens it."""

    scorer: Scorer
    opens: ClassVar[bool] = True

    @property
    def labels(self) -> tuple[str, ...]:
        return self.scorer.labels

    @abstractmethod
    def __call__(self, examples: Sequence[Example], ask: Ask, tick: Tick = silent) -> Predictions: ...

    def refusal(self, ask: Ask) -> str | None:
        return self.scorer.refusal(ask)

    def plain(self) -> dict[str, Any]:
        return self.scorer.plain()

    def respond(self, examples: Sequence[Example], stop: str | None = None, tick: Tick = silent) -> Responses:
        return self.scorer.respond(examples, stop, tick)

    def too_long(self, examples: Sequence[Example], answers: Mapping[str, str] | None = None) -> dict[str, str]:
        return self.scorer.too_long(examples, answers)

    def forget(self) -> None:
        self.scorer.forget()

    def __enter__(self) -> Self:
        if self.opens:
            self.scorer.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self.opens:
            self.scorer.__exit__(*error)


@final
@dataclass(frozen=True)
class Cached(Around):
    """Asks once and keeps the answer. The same examples in another order or company are another question, because the
    last bits of a score may depend on its batch. `with` opens nothing: an answer that is there needs no model."""

    scorer: Scorer
    cache: Cache
    name: str = "base"
    opens: ClassVar[bool] = False

    def __call__(self, examples: Sequence[Example], ask: Ask, tick: Tick = silent) -> Predictions:
        self.check(ask)
        asked = question(self.scorer, examples, ask)
        arrays = self.cache.arrays(self.name, asked, lambda: self.scorer(examples, ask, tick).arrays)
        self.scorer.forget()
        tick(len(examples), len(examples))
        return Predictions(tuple(e.id for e in examples), arrays, self.labels)


@final
@dataclass(frozen=True)
class InParts(Around):
    """Asks about many examples part by part and keeps each part, so that a process that was stopped goes on at the part
    it was in. At most one part is asked as ever, and nothing is written.

    Part i draws its masks with seed + its first position, unless each pass is one model for all examples.
    """

    scorer: Scorer
    cache: Cache
    size: int = PART
    _kept: list[Path] = field(default_factory=list, repr=False, compare=False)

    def __call__(self, examples: Sequence[Example], ask: Ask, tick: Tick = silent) -> Predictions:
        n = len(examples)
        if n <= self.size:
            return self.scorer(examples, ask, tick)
        self.check(ask)
        whole: dict[str, Array] = {}
        with self.scorer:
            for start in range(0, n, self.size):
                some, own = self.part(examples, start, ask)
                for name, array in self._part(some, start, own, behind(tick, start, n)).items():
                    if name not in whole:
                        whole[name] = np.empty((array.shape[0], n, *array.shape[2:]), dtype=array.dtype)
                    whole[name][:, start : start + len(some)] = array
                tick(start + len(some), n)
        return Predictions(tuple(e.id for e in examples), whole, self.labels)

    def part(self, examples: Sequence[Example], start: int, ask: Ask) -> tuple[Sequence[Example], Ask]:
        """The examples of the part that begins at `start`, and what they are asked."""
        own = ask if ask.one_model else replace(ask, seed=ask.seed + start)
        return examples[start : start + self.size], own

    def asked(self, start: int, some: Sequence[Example], ask: Ask) -> tuple[str, dict[str, Any]]:
        """The name and the question of a part in the cache."""
        return f"part-{start:09d}", question(self.scorer, some, ask)

    def _part(self, some: Sequence[Example], start: int, ask: Ask, tick: Tick) -> Mapping[str, Array]:
        asked = self.asked(start, some, ask)
        self._kept.append(self.cache.path(*asked, ".safetensors"))
        return self.cache.arrays(*asked, lambda: self.scorer(some, ask, tick).arrays)

    def forget(self) -> None:
        for path in self._kept:
            path.unlink(missing_ok=True)
        self._kept.clear()


@final
@dataclass(frozen=True)
class Raced(Around):
    """K Monte-Carlo passes, of which an example gets only as many as it takes to tell whether it is among the k with the
    highest mean of `value` (`query/racing.py`)."""

    scorer: Scorer
    value: Value
    k: int
    failure: float = 0.1

    def refusal(self, ask: Ask) -> str | None:
        if ask.needs & {"embedding"}:
            return "embeddings are means over all passes of all examples; a race does not make them"
        if ask.one_model:
            return "a race draws its passes one after the other, so none can be one model for all examples"
        return self.scorer.refusal(replace(ask, passes=1))

    def __call__(self, examples: Sequence[Example], ask: Ask, tick: Tick = silent) -> Predictions:
        return self.race(examples, ask, tick)[0]

    def race(self, examples: Sequence[Example], ask: Ask, tick: Tick = silent) -> tuple[Predictions, Race]:
        """The predictions, (K, n, …), the passes of an example repeated in turn where it had fewer than K, so that means
        over passes stay (nearly) those of the passes made (`evaluate_measure` with `made` is exact); and the race.

        tick: called with (passes made over one example, all that there could be).
        Raises NoVariance if the first two passes are equal, and what the scorer and `race` do.
        """
        self.check(ask)
        made: list[Predictions] = []
        rows_of: list[Positions] = []
        seeds = np.random.SeedSequence(ask.seed).generate_state(ask.passes, np.uint64) >> np.uint64(1)
        done, total = 0, ask.passes * len(examples)

        def draw(j: int, rows: Positions) -> Array:
            nonlocal done
            one = replace(ask, passes=1, seed=int(seeds[j]))
            said = self.scorer([examples[i] for i in rows], one, behind(tick, done, total))
            done += len(rows)
            made.append(said)
            rows_of.append(rows)
            if j == 1 and all(np.array_equal(said.arrays[name], made[0].arrays[name]) for name in said.arrays):
                raise NoVariance("the first two Monte-Carlo passes are equal, so they say nothing: no dropout acted")
            return self.value(said, rows)

        with self.scorer:
            finished = race(draw, len(examples), self.k, ask.passes, failure=self.failure)
        tick(total, total)
        ids = tuple(e.id for e in examples)
        return Predictions(ids, _assembled(made, rows_of, finished), made[0].labels), finished


def _assembled(made: Sequence[Predictions], rows_of: Sequence[Positions], finished: Race) -> dict[str, Array]:
    """(K, n, …) of every array; pass j of an example that had c passes is its pass j mod c."""
    n, turns = len(finished.passes), np.arange(finished.total)[:, None] % finished.passes[None]
    arrays = {}
    for name, first in made[0].arrays.items():
        full = np.zeros((len(made), n, *first.shape[2:]), dtype=first.dtype)
        for j, (part, rows) in enumerate(zip(made, rows_of, strict=True)):
            full[j, rows] = part.arrays[name][0]
        arrays[name] = full[turns, np.arange(n)[None]]
    return arrays


@final
@dataclass(frozen=True)
class Committee(Scorer):
    """K members, whose plain passes are the K passes that are asked for; embeddings are averaged.

    Source: Seung, Opper, Sompolinsky 1992; Dagan and Engelson 1995.
    """

    members: tuple[Scorer, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        return self.members[0].labels

    def __call__(self, examples: Sequence[Example], ask: Ask, tick: Tick = silent) -> Predictions:
        self.check(ask)
        k, one = len(self.members), replace(ask, passes=0)
        said = [member(examples, one, part_of(tick, i, k)) for i, member in enumerate(self.members)]
        equal = "all members of the committee give the same answers: nothing in their training depends on the seed"
        return joined(said, equal)

    def refusal(self, ask: Ask) -> str | None:
        if ask.passes != len(self.members):
            return f"the members of a committee are its passes; found {ask.passes} passes, allowed: {len(self.members)}"
        one = replace(ask, passes=0)
        return next((why for member in self.members if (why := member.refusal(one)) is not None), None)

    def plain(self) -> dict[str, Any]:
        return {"members": [member.plain() for member in self.members]}

    def too_long(self, examples: Sequence[Example], answers: Mapping[str, str] | None = None) -> dict[str, str]:
        return self.members[0].too_long(examples, answers)

    def forget(self) -> None:
        for member in self.members:
            member.forget()


def joined(said: Sequence[Predictions], equal: str) -> Predictions:
    """The predictions of K models for the same examples as K passes; embeddings are averaged.

    Raises NoVariance, with the text `equal`, if all of them say the same.
    """
    arrays = {name: np.concatenate([one.arrays[name] for one in said]) for name in said[0].arrays}
    if "embedding" in arrays:
        arrays["embedding"] = arrays["embedding"].mean(axis=0, keepdims=True)
    if len(said[0]) and len(said) > 1 and not vary(arrays):
        raise NoVariance(equal)
    return Predictions(said[0].ids, arrays, said[0].labels)


def vary(arrays: Mapping[str, Array]) -> bool:
    """Whether passes differ in anything; embeddings, which are means over them, and lengths tell nothing of it."""
    told = [array for name, array in arrays.items() if name != "embedding" and not name.endswith("_length")]
    return not told or any((array != array[:1]).any() for array in told)


def part_of(tick: Tick, k: int, passes: int) -> Tick:
    """The tick of pass k as one of all passes."""
    return lambda done, total: tick((k * total + done) // passes, total)
