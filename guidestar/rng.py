"""One random generator per (seed, round, phase).

A generator shared between phases would make the picks of a resumed run depend on where the run was
interrupted; one generator per phase makes every phase repeatable alone.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def phase_seed(seed: int, round: int, phase: str) -> int:
    """A 63-bit seed that depends on all three parts and on nothing else.

    >>> phase_seed(0, 1, "train") == phase_seed(0, 1, "train") != phase_seed(0, 1, "query")
    True
    """
    digest = hashlib.sha256(f"guidestar/{seed}/{round}/{phase}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def places(n: int, size: int, seed: int, round: int, phase: str) -> NDArray[np.intp]:
    """`size` of n places, drawn evenly and without repeats by the phase's own generator, in ascending order."""
    return np.sort(generator(seed, round, phase).choice(n, size=size, replace=False))


def generator(seed: int, round: int, phase: str) -> np.random.Generator:
    """NumPy generator of a phase: "warm_start", "candidates", "query", "train", …"""
    return np.random.default_rng(phase_seed(seed, round, phase))
