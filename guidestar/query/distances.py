"""Distances between embeddings, in chunks: memory grows with n, never with n × n.

Points are (n, width); everything is computed in float32.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from guidestar.errors import ModelError
from guidestar.records import Array

Points = NDArray[np.float32]

CHUNK = 1 << 22  # numbers in the largest temporary array, 16 MiB in float32


@contextmanager
def quiet_fit() -> Iterator[None]:
    """scikit-learn on one thread, for several would sum in a changing order, and without its note that a fit was cut short
    or that fewer points are distinct than clusters are asked for: what was fitted is good enough to choose by."""
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    with warnings.catch_warnings(), threadpool_limits(limits=1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def directions_of_both(points: Array, labelled: Array | None) -> tuple[Points, Points]:
    """`directions` of points, (n, width), and of labelled points, (m, width) or None, centred together."""
    some = finite_points(points)
    known = some[:0] if labelled is None else finite_points(labelled).reshape(-1, some.shape[1])
    both = directions(np.concatenate([some, known]))
    return both[: len(some)], both[len(some) :]


def chunks(n: int, width: int) -> Iterator[slice]:
    """Rows 0 to n in slices, so that a temporary array of (rows, width) stays within CHUNK numbers.

    >>> [(part.start, part.stop) for part in chunks(5, CHUNK // 2)]
    [(0, 2), (2, 4), (4, 5)]
    """
    rows = max(1, CHUNK // max(1, width))
    for start in range(0, n, rows):
        yield slice(start, min(start + rows, n))


def finite_points(points: Array) -> Points:
    """The points in float32. Raises ModelError if they are not (n, width) or one of them is not finite."""
    checked: Points = np.asarray(points, dtype=np.float32)
    if checked.ndim != 2:
        raise ModelError(f"embeddings have shape {checked.shape}, expected (examples, width)")
    finite = np.isfinite(checked).all(axis=1)
    if not finite.all():
        raise ModelError(f"embedding at position {int(np.argmin(finite))} is not finite")
    return checked


def directions(points: Points) -> Points:
    """Unit vectors along the centred points. (n, width) -> (n, width + 1).

    One more coordinate, the same for all and a thousandth of a typical length, gives points that lie on the
    mean a common direction, where rounding would give each its own.
    """
    if not len(points):
        return points
    middle = points.mean(axis=0, dtype=np.float64)
    width = points.shape[1]
    squares = (float((points[part].astype(np.float64) ** 2).sum()) for part in chunks(len(points), width))
    typical = math.sqrt(sum(squares) / len(points))
    unit = np.empty((len(points), width + 1), dtype=np.float32)
    for part in chunks(len(points), width):
        moved = np.full((len(points[part]), width + 1), 1e-3 * typical or 1.0)
        moved[:, :width] = points[part] - middle
        unit[part] = moved / np.linalg.norm(moved, axis=1, keepdims=True)
    return unit


def to_each(points: Points, centre: Points) -> Points:
    """Squared distance of every point to one centre; exact 0 for copies. (n, width), (width,) -> (n,)."""
    squared = np.empty(len(points), dtype=np.float32)
    for part in chunks(len(points), points.shape[1]):
        squared[part] = ((points[part] - centre) ** 2).sum(axis=1)
    return squared


def nearest(points: Points, others: Points, k: int) -> tuple[NDArray[np.intp], Points]:
    """Positions of the min(k, m) nearest others of every point, nearest first, and their squared distances.

    points: (n, width). others: (m, width), m ≥ 1. Returns two (n, min(k, m)) arrays. A point that is among the others
    is its own nearest. They are found by ‖c‖² − 2 x·c, which is fast; distances are then taken literally, because the
    expanded square loses digits where points lie close together.
    >>> nearest(np.array([[0.0], [5.0]]), np.array([[1.0], [3.0], [8.0]]), 2)[0]
    array([[0, 1],
           [1, 2]])
    """
    k = min(k, len(others))
    middle = others.mean(axis=0)
    moved = others - middle
    norms = (moved**2).sum(axis=1)
    places = np.empty((len(points), k), dtype=np.intp)
    squared = np.empty((len(points), k), dtype=np.float32)
    for part in chunks(len(points), max(len(others), points.shape[1])):
        apart = norms - 2.0 * ((points[part] - middle) @ moved.T)
        close = np.argmin(apart, axis=1)[:, None] if k == 1 else np.argpartition(apart, k - 1, axis=1)[:, :k]
        for j in range(k):  # one neighbour at a time: no (rows, k, width)
            squared[part, j] = ((points[part] - others[close[:, j]]) ** 2).sum(axis=1)
        order = np.argsort(squared[part], axis=1, kind="stable")
        squared[part] = np.take_along_axis(squared[part], order, axis=1)
        places[part] = np.take_along_axis(close, order, axis=1)
    return places, squared
