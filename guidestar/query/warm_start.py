"""How the first labels can be chosen, when nothing is labelled yet and only the features of a frozen model are known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from guidestar.query import coverage, selectors
from guidestar.query.distances import Points
from guidestar.query.herding import herding
from guidestar.query.selectors import Positions

# name -> (points, k, rng) -> (k,) positions; "random", which needs no points, is the shared start of the papers
WARM_STARTS: dict[str, Callable[[Points, int, np.random.Generator], Positions]] = {
    "herding": lambda points, k, rng: herding(points, None, k, rng),
    "typical": lambda points, k, rng: coverage.typical(points, None, k, rng),
    "k_means": lambda points, k, rng: selectors.k_means(points, k, rng),
}


def warm_start_of(configured: str | None, of_strategy: str | None) -> str:
    """How a run's first labels are chosen: as the configuration says for all, else as its strategy does, else at random.

    >>> warm_start_of(None, "herding"), warm_start_of(None, None)
    ('herding', 'random')
    """
    return configured or of_strategy or "random"
