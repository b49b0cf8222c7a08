"""Centred kernel alignment: how alike two representations of the same examples are, 0 to 1."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from guidestar.errors import DataError
from guidestar.records import Array


def linear_kernel(points: Array) -> Array:
    """Inner products, (n, width) -> (n, n).

    >>> linear_kernel(np.array([[1.0, 2.0]]))
    array([[5.]])
    """
    points = np.asarray(points, dtype=np.float64)
    return np.asarray(points @ points.T)


def rbf_kernel(points: Array) -> Array:
    """exp(−d²/2σ²) with σ² the median of the squared distances that are not 0; (n, width) -> (n, n).

    >>> rbf_kernel(np.array([[0.0], [1.0]])).round(4)
    array([[1.    , 0.6065],
           [0.6065, 1.    ]])
    """
    points = np.asarray(points, dtype=np.float64)
    points = points - points.mean(axis=0)  # far from the origin the expanded square would lose its digits
    squares = (points**2).sum(axis=1)
    apart = np.maximum(squares[:, None] + squares[None] - 2.0 * (points @ points.T), 0.0)
    np.fill_diagonal(apart, 0.0)
    some = apart[apart > 0]
    return np.exp(-apart / (2.0 * float(np.median(some)))) if len(some) else np.ones_like(apart)


def cka(one: Array, other: Array, kernel: Callable[[Array], Array] = linear_kernel) -> float:
    """CKA = ⟨K, L⟩/(‖K‖ ‖L‖) of the doubly centred kernels of two representations.

    one, other: (n, width), (n, another width), rows of the same examples. kernel: `linear_kernel` or `rbf_kernel`.
    Not changed by a rotation, a shift or a factor of either; NaN if one of them is the same for all examples.
    Raises DataError if the numbers of examples differ.
    Source: Kornblith, Norouzi, Lee, Hinton 2019. The centred kernels are (n, n): take a few hundred examples.
    >>> x = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
    >>> round(cka(x, 3.0 * x[:, ::-1] + 7.0), 6)
    1.0
    """
    if len(one) != len(other):
        raise DataError(f"found {len(one)} examples of one representation and {len(other)} of the other")
    k, ell = (_centred(kernel(points)) for points in (one, other))
    sizes = np.sqrt((k**2).sum() * (ell**2).sum())
    return float((k * ell).sum() / sizes) if sizes > 1e-12 else float("nan")


def _centred(kernel: Array) -> Array:
    rows = kernel.mean(axis=0)
    return np.asarray(kernel - rows[None] - rows[:, None] + rows.mean())
