"""Monte-Carlo passes for the examples that need them: `query.racing` with a model behind it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from guidestar.errors import NoVariance
from guidestar.model.load import BaseModel
from guidestar.model.parts import PART, predict_in_parts
from guidestar.model.predict import EMBEDDING, Tick
from guidestar.query.racing import Positions, Race, race
from guidestar.records import Array, Example, Predictions

Value = Callable[[Predictions, Positions], Array]  # of one pass over the examples at some positions: (n,)


def predict_raced(
    base: BaseModel,
    model: Any,
    examples: Sequence[Example],
    needs: Collection[str],
    task: Any,
    value: Value,
    *,
    passes: int,
    k: int,
    folder: Path,
    question: Mapping[str, Any],
    part: int = PART,
    seed: int = 0,
    failure: float = 0.1,
    gold: Mapping[str, str] | None = None,
    tick: Tick = lambda done, total: None,
    **options: Any,
) -> tuple[Predictions, Race]:
    """`predict` with K passes, of which an example gets only as many as it takes to tell whether it is among the k
    with the highest mean value.

    value: what is averaged over the passes. failure: see `race`.
    folder, question, part: as for `predict_in_parts`: the passes of a large pool are kept part by part while the race
    lasts, so that one that was stopped goes on in the pass it was in; a small one begins anew and does the same.
    Returns the predictions, (K, n, …), the passes of an example repeated in turn where it had fewer than K, so that
    means over passes stay (nearly) those of the passes made (`evaluate_measure` with `made` is exact); and the race.
    options: further arguments of `predict`.
    tick: called with (passes made over one example, all that there could be).

    Raises NoVariance if the first two passes are equal, ValueError for embeddings, and what `predict` and `race` do.
    """
    if frozenset(needs) & EMBEDDING:
        raise ValueError("embeddings are means over all passes of all examples; a race does not make them")
    made: list[Predictions] = []
    rows_of: list[Positions] = []
    seeds = np.random.SeedSequence(seed).generate_state(passes, np.uint64) >> np.uint64(1)
    done, total = 0, passes * len(examples)

    def draw(j: int, rows: Positions) -> Array:
        nonlocal done
        some = [examples[i] for i in rows]
        start = done
        found = predict_in_parts(
            base, model, some, needs, task, passes=1, seed=int(seeds[j]), gold=gold, folder=folder,
            question={**question, "pass": j}, part=part, tick=lambda now, _: tick(start + now, total), **options,
        )  # fmt: skip
        done += len(rows)
        made.append(found)
        rows_of.append(rows)
        if j == 1 and all(np.array_equal(found.arrays[name], made[0].arrays[name]) for name in found.arrays):
            raise NoVariance("the first two Monte-Carlo passes are equal, so they say nothing: no dropout acted")
        return value(found, rows)

    finished = race(draw, len(examples), k, passes, failure=failure)
    tick(total, total)
    return Predictions(tuple(e.id for e in examples), _assembled(made, rows_of, finished), made[0].labels), finished


def _assembled(made: Sequence[Predictions], rows_of: Sequence[Positions], found: Race) -> dict[str, Array]:
    """(K, n, …) of every array; pass j of an example that had c passes is its pass j mod c."""
    n, turns = len(found.passes), np.arange(found.total)[:, None] % found.passes[None]
    arrays = {}
    for name, first in made[0].arrays.items():
        full = np.zeros((len(made), n, *first.shape[2:]), dtype=first.dtype)
        for j, (part, rows) in enumerate(zip(made, rows_of, strict=True)):
            full[j, rows] = part.arrays[name][0]
        arrays[name] = full[turns, np.arange(n)[None]]
    return arrays
