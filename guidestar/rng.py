"""One random generator per (seed, round, phase).

A generator shared between phases would make the picks of a resumed run depend on where the run was
interrupted; one generator per phase makes every phase repeatable alone.
"""

from __future__ import annotations

import hashlib

import numpy as np


def phase_seed(seed: int, round: int, phase: str) -> int:
    """A 63-bit seed that depends on all three parts and on nothing else.

    >>> phase_seed(0, 1, "train") == phase_seed(0, 1, "train") != phase_seed(0, 1, "query")
    True
    """
    digest = hashlib.sha256(f"guidestar/{seed}/{round}/{phase}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, round: int, phase: str) -> np.random.Generator:
    """NumPy generator of a phase: "warm_start", "candidates", "query", "train", …"""
    return np.random.default_rng(phase_seed(seed, round, phase))
