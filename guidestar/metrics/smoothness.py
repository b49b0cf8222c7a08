"""Besov smoothness of a representation with respect to the labels, by a forest's wavelets; BEAST's and ALSBI's rules."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from guidestar.errors import DataError
from guidestar.records import Array

TREES, DEPTH = 10, 9
RISE = 0.05  # of the smoothness, relative: means of three batches of 50 that are alike differ by more one time in seven
TERMS = range(2, 1000, 10)  # m of the m-term approximations


def smoothness(points: Array, classes: NDArray[np.intp], seed: int = 0) -> float:
    """Besov index α: how fast the error of the best m-term wavelet sum falls, as |slope| of ln error on ln m.

    A random forest is fitted from the points, scaled to [0, 1], to the one-hot labels. The wavelet of a node is the
    step of the mean from its parent to it; its norm ‖mean − parent's mean‖ √volume of its box. The m largest of all
    trees' wavelets together, each over the number of trees, are the m-term sum.
    points: (n, width), n ≥ 2. classes: (n,) label indices. Returns α, larger is smoother; NaN when fewer than two
    sums leave an error, as for points that the forest separates at once.
    Raises DataError if the lengths differ.
    Source: Jukić and Šnajder 2023b (arXiv 2212.11680); Elisha and Dekel 2016 for the wavelets. In their code the norm of
    the root's two children subtracts the root's mean twice; here it does not.
    """
    if len(points) != len(classes) or len(points) < 2:
        raise DataError(f"found {len(points)} points and {len(classes)} labels; expected as many, and two at least")
    targets = np.eye(int(np.max(classes)) + 1)[classes]
    return decay(errors(_unit_box(points), targets, seed))


def errors(points: Array, targets: Array, seed: int = 0) -> list[tuple[int, float]]:
    """(m, mean squared error) of the m-term sums, for the m of `TERMS` up to the number of wavelets.

    points: (n, width) in [0, 1]. targets: (n, classes).
    """
    from sklearn.ensemble import RandomForestRegressor

    forest = RandomForestRegressor(n_estimators=TREES, max_depth=DEPTH, random_state=seed, n_jobs=1)
    forest.fit(points, targets)
    paths, steps, norms = [], [], []
    for tree in forest.estimators_:
        mean = tree.tree_.value[:, :, 0] if tree.tree_.value.ndim == 3 else tree.tree_.value
        step = mean.copy()  # the root's; a child's is the way from its parent's mean
        for children in (tree.tree_.children_left, tree.tree_.children_right):
            inner = np.flatnonzero(children >= 0)
            step[children[inner]] -= mean[inner]
        paths.append(tree.decision_path(points).tocsc())
        steps.append(step / len(forest.estimators_))
        norms.append(np.linalg.norm(step, axis=1) * np.sqrt(volumes(tree.tree_, points.shape[1])))
    of = np.repeat(np.arange(len(paths)), [path.shape[1] for path in paths])
    node = np.concatenate([np.arange(path.shape[1]) for path in paths])
    order = np.argsort(-np.concatenate(norms), kind="stable")
    curve, total = [], np.zeros_like(targets)
    wanted = set(TERMS)
    for m, place in enumerate(order, start=1):
        t, j = int(of[place]), int(node[place])
        rows = paths[t].indices[paths[t].indptr[j] : paths[t].indptr[j + 1]]
        total[rows] += steps[t][j]
        if m in wanted:
            curve.append((m, float(((targets - total) ** 2).sum(axis=1).mean())))
    return curve


def decay(curve: Sequence[tuple[int, float]]) -> float:
    """|slope| of the least squares line of ln error on ln m; errors of 0 are left out. NaN for fewer than two.

    >>> round(decay([(2, 1.0), (4, 0.5), (8, 0.25)]), 6)
    1.0
    """
    left = [(m, error) for m, error in curve if error > 1e-12]
    if len(left) < 2:
        return float("nan")
    m, error = np.log(np.asarray(left)).T
    return float(abs(np.polyfit(m, error, 1)[0]))


def volumes(tree: NDArray[np.void] | object, width: int) -> Array:
    """Volume of every node's box in [0, 1]^width. tree: scikit-learn's `tree_`. Returns (nodes,)."""
    left, right = tree.children_left, tree.children_right  # type: ignore[union-attr]
    feature, threshold = tree.feature, tree.threshold  # type: ignore[union-attr]
    sizes = np.ones(len(left))
    boxes: dict[int, dict[int, tuple[float, float]]] = {0: {}}
    for node in range(len(left)):  # a parent comes before its children
        box = boxes.pop(node)
        sizes[node] = np.prod([high - low for low, high in box.values()]) if box else 1.0
        if left[node] >= 0:
            at, cut = int(feature[node]), float(threshold[node])
            low, high = box.get(at, (0.0, 1.0))
            cut = min(max(cut, low), high)
            boxes[int(left[node])] = {**box, at: (low, cut)}
            boxes[int(right[node])] = {**box, at: (cut, high)}
    return sizes


def beast_stop(alphas: Array) -> int | None:
    """BEAST's online rule: the epoch after which training may end, counted from 1, or None if it never says so.

    alphas: (epochs, layers), smoothness of every layer after every epoch. s = softmax over the layers; from the sixth
    epoch on, training ends one epoch after the middle third of the layers has more of s than the last third.
    Source: Jukić and Šnajder 2023b, as in the authors' code, where the thirds of 12 layers are 4 to 7 and 8 to 11.
    """
    alphas = np.asarray(alphas, dtype=np.float64)
    third = alphas.shape[1] // 3
    for epoch, row in enumerate(alphas, start=1):
        share = np.exp(row - row.max())
        share /= share.sum()
        if epoch > 5 and share[third : 2 * third].sum() > share[2 * third :].sum():
            return epoch + 1
    return None


def shuffled(points: Array, classes: NDArray[np.intp], seed: int = 0) -> float:
    """α of the same points with the labels shuffled: what a representation that knows nothing of them would give."""
    return smoothness(points, np.random.default_rng(seed).permutation(classes), seed)


def levelled(alphas: Sequence[float], chances: Sequence[float], rounds: int) -> bool | None:
    """ALSBI: whether the smoothness of newly acquired batches has levelled off, by the model that did not know them yet.

    alphas: α of each batch, in turn. chances: with the labels shuffled. True where the mean of the last `rounds` batches
    is at most 5 % above that of the `rounds` before. None with fewer than two times `rounds`, with one that is NaN among
    them, or where the last are not 5 % above chance: what was never smooth cannot level off.
    Source: Jukić and Šnajder 2023b name the sign and no number; the means, the 5 % and the comparison with chance are ours. Small batches of few classes are noisy: a sign among others, no proof.
    >>> flat, chance = [0.5, 0.56, 0.6, 0.61, 0.6, 0.61], [0.44] * 6
    >>> levelled(flat, chance, 2), levelled(flat, chance, 3), levelled([0.44] * 6, chance, 3), levelled(flat[:5], chance, 3)
    (True, False, None, None)
    """
    recent = np.asarray(alphas[-2 * rounds :], dtype=np.float64)
    if len(recent) < 2 * rounds or not np.isfinite(recent).all():
        return None
    before, last = float(recent[:rounds].mean()), float(recent[rounds:].mean())
    if not last > (1 + RISE) * float(np.mean(chances[-rounds:])):
        return None
    return last <= (1 + RISE) * before


def _unit_box(points: Array) -> Array:
    points = np.asarray(points, dtype=np.float64)
    low, high = points.min(axis=0), points.max(axis=0)
    return np.asarray((points - low) / np.where(high > low, high - low, 1.0))
