"""How many passes racing saves, and how many of the picks stay the same, over simulated pools."""

from __future__ import annotations

import numpy as np

from guidestar.query.racing import race


def simulate(n: int, k: int, passes: int, *, noise: float, seeds: int, failure: float = 0.1) -> dict[str, float]:
    """Races over simulated pools: the share of picks that all passes give, and the passes saved.

    noise: standard deviation of one pass, in those of the examples' own means; it varies between examples by a
    lognormal factor of 0.4. Returns the mean and the least "same", and the mean and the least "saved", over seeds.
    """
    same, saved = [], []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        means = rng.normal(size=n)
        values = means + rng.normal(size=(passes, n)) * noise * np.exp(rng.normal(0.0, 0.4, size=n))
        found = race(lambda j, rows, values=values: values[j, rows], n, k, passes, failure=failure)
        every = np.argsort(-values.mean(axis=0), kind="stable")[:k]
        same.append(len(np.intersect1d(every, found.picks)) / k)
        saved.append(found.saved)
    return {
        "same": float(np.mean(same)), "same_least": float(np.min(same)),
        "saved": float(np.mean(saved)), "saved_least": float(np.min(saved)),
    }  # fmt: skip
