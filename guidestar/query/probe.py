"""Query models that cost nothing: logistic regression on frozen features, with a temperature found out of fold, and
nearest class means.

They say what labels are likely after ten labels, where a fine-tuned model still says nothing. Pure functions of arrays;
the features are made by `model/states.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from guidestar.errors import DataError
from guidestar.query.distances import chunks, finite_points, nearest, quiet_fit
from guidestar.records import Array

Classes = NDArray[np.intp]

FOLDS = 5
_TEMPERATURES = np.logspace(-1, 1, 41)
SHARE = 0.1  # nats of log-loss by which a view counts e times less; 0.05 to 0.2 differ little (LOG.md, 2026-12-01)
_SHARPNESS = np.logspace(-3, 3, 61)  # in units of one over the mean squared distance to the own class's mean


@dataclass(frozen=True)
class Probe:
    """A fitted multinomial logistic regression.

    weights: (width, labels) and constants: (labels,), −inf for a label that nobody has given yet. temperature: what
    scores are divided by. labelled: how many labels it was fitted to.
    """

    weights: Array
    constants: Array
    temperature: float
    labelled: int

    def log_probs(self, points: Array) -> Array:
        """Natural logs of the label probabilities, (n, width) -> (n, labels)."""
        logs = np.empty((len(points), len(self.constants)))
        for part in chunks(len(points), points.shape[1]):
            scores = np.asarray(points[part], dtype=np.float32) @ self.weights.astype(np.float32) + self.constants
            logs[part] = smoothed(scores / self.temperature, self.labelled)
        return logs

    @property
    def head(self) -> tuple[Array, Array]:
        """Weights and constants, divided by the temperature. A label that nobody has given starts 3 nats below the least
        likely other."""
        known = np.isfinite(self.constants)
        constants = np.where(known, self.constants, self.constants[known].min() - 3)
        return self.weights / self.temperature, constants / self.temperature


@dataclass(frozen=True)
class EachProbe:
    """A probe for each of several labels, of whether it holds: 0 or 1."""

    each: tuple[Probe, ...]

    def log_probs(self, points: Array) -> Array:
        """Natural logs of "does not hold" and "holds", (n, width) -> (n, labels, 2)."""
        return np.stack([one.log_probs(points) for one in self.each], axis=1)

    @property
    def head(self) -> tuple[Array, Array]:
        """The log-odds that each label holds, as weights (width, labels) and constants (labels,)."""
        heads = [one.head for one in self.each]
        return np.stack([w[:, 1] - w[:, 0] for w, _ in heads], axis=1), np.array([c[1] - c[0] for _, c in heads])


def fit(points: Array, classes: Classes, labels: int, rng: np.random.Generator, strength: float = 10.0) -> Probe:
    """The probe of some labelled examples, its temperature that of the least out-of-fold log-loss.

    points: (m, width). classes: (m,) positions below `labels`. strength: scikit-learn's C.
    Raises DataError without an example, ModelError if a number is not finite.
    Source of the temperature: Guo, Pleiss, Sun, Weinberger 2017.
    >>> found = fit(np.array([[-1.0], [-2.0], [1.0], [2.0]]), np.array([0, 0, 1, 1]), 3, np.random.default_rng(0))
    >>> np.exp(found.log_probs(np.array([[-2.0], [2.0]]))).argmax(axis=1)
    array([0, 1])
    """
    weights, constants = _regression(points, classes, labels, strength)
    scores = out_of_fold(points, classes, labels, rng, strength)
    return Probe(weights, constants, temperature(scores, classes), len(classes))


def fit_each(points: Array, held: Classes, rng: np.random.Generator) -> EachProbe:
    """A probe for each label. points: (m, width). held: (m, labels), 1 where the label holds. Raises as `fit` does."""
    return EachProbe(tuple(fit(points, column, 2, rng) for column in held.T))


def out_of_fold(points: Array, classes: Classes, labels: int, rng: np.random.Generator, strength: float = 10) -> Array:
    """Scores of every example by a regression that has not seen it, (m, labels); −inf for a label it never saw.

    min(5, m) folds, each with its share of every class.
    """
    fold = _folds(classes, rng)
    scores = np.zeros((len(classes), labels))
    for one in np.unique(fold) if len(classes) > 1 else ():
        weights, constants = _regression(points[fold != one], classes[fold != one], labels, strength)
        scores[fold == one] = points[fold == one] @ weights + constants
    return scores


def view_weights(views: Iterable[Array], classes: Classes) -> Array:
    """How much each of several views of labelled examples should count, (views,), 1 on average.

    views: (m, width) each. classes: (m,). The weights are exp(−loss / `SHARE`), loss being the log-loss of the nearest class
    means in a view, each example left out of its own; all are 1 where no class has two examples or there is one class.
    A logistic regression out of fold as the judge is no better and takes a hundred times as long (LOG.md, 2026-12-01).
    >>> telling, other = np.array([[0.0], [0.1], [1.0], [1.1]]), np.array([[0.0], [1.0], [0.1], [1.1]])
    >>> view_weights([telling, other], np.array([0, 0, 1, 1])).round(2)
    array([2., 0.])
    """
    losses = np.array([_class_means(finite_points(view).astype(np.float64), classes).loss for view in views])
    shares = np.exp((losses.min() - losses) / SHARE)
    return np.asarray(len(shares) * shares / shares.sum())


def temperature(scores: Array, classes: Classes) -> float:
    """What to divide scores by so that the log-loss is least; from 0.1 to 10, 1 where nothing speaks for another.

    scores: (m, labels), of examples that their model has not seen. classes: (m,).
    >>> round(temperature(np.array([[4.0, 0.0]] * 4), np.array([0, 0, 0, 1])), 1)
    2.8
    """
    losses = np.array([log_loss(smoothed(scores / t, len(classes)), classes) for t in _TEMPERATURES])
    best = np.flatnonzero(losses <= losses.min() + 1e-9)
    return float(_TEMPERATURES[best[np.argmin(np.abs(np.log(_TEMPERATURES[best])))]])


def smoothed(scores: Array, labelled: int) -> Array:
    """Natural logs of softmax(scores) as if one more label had been given, spread evenly, (n, labels): no label is
    impossible because nobody has met it yet. scores: −inf for such a label. labelled: how many were given."""
    share = 1.0 / (labelled + 1.0)
    return np.asarray(np.logaddexp(log_softmax(scores) + np.log1p(-share), np.log(share / scores.shape[-1])))


def log_loss(log_probs: Array, classes: Classes) -> float:
    """Mean −ln p of the right classes, in nats. log_probs: (m, labels). classes: (m,)."""
    return float(-log_probs[np.arange(len(classes)), classes].mean())


def pseudo_labels(
    log_probs: Array, points: Array, labelled: NDArray[np.intp], classes: Classes, per_label: float = 2.0,
    neighbours: int = 15,
) -> tuple[NDArray[np.intp], Classes]:  # fmt: skip
    """Candidates that classifier and neighbourhood agree on, and the class of each; as many of every class at most.

    log_probs: (n, labels) of the whole pool. points: (n, width). labelled: (m,) positions in it, and
    classes: (m,) theirs. The neighbourhood's answer is the mean of the probabilities of the `neighbours` nearest (of a
    random 4,096 in a larger pool), of the given label where there is one. The surest per_label × m / labels of each
    class stay, sure being the smaller of both probabilities.
    Returns positions and classes, (p,) each.
    Source of the guard: Schröder and Heyer 2024 (HAST) ask the neighbours; the agreement is ours.
    """
    chances = np.exp(log_probs)
    chances[labelled] = np.eye(chances.shape[1])[classes]
    some = np.arange(len(points))
    if len(points) > 4096:
        drawn = np.random.default_rng(len(points)).choice(len(points), 4096, replace=False)
        some = np.union1d(labelled, drawn)
    free = np.setdiff1d(np.arange(len(points)), labelled)
    places = nearest(points[free], points[some], neighbours + 1)[0]
    around = np.stack([chances[some[column]] for column in places.T[1:]]).mean(axis=0)
    said, sure = chances[free].argmax(axis=1), np.minimum(chances[free].max(axis=1), around.max(axis=1))
    agree = said == around.argmax(axis=1)
    most = int(np.ceil(per_label * len(labelled) / chances.shape[1]))
    kept = []
    for c in range(chances.shape[1]):
        of_class = np.flatnonzero(agree & (said == c))
        kept.append(of_class[np.argsort(-sure[of_class], kind="stable")[:most]])
    chosen = np.concatenate(kept)
    return free[chosen], said[chosen].astype(np.intp)


def helpful_pseudo_labels(
    points: Array, labelled: NDArray[np.intp], classes: Classes, labels: int, rng: np.random.Generator,
    weight: float, strength: float = 10.0, others: tuple[NDArray[np.intp], Classes] | None = None,
) -> tuple[NDArray[np.intp], Classes]:  # fmt: skip
    """`pseudo_labels`, or `others` in their place, or none where a classifier that learns from them too has a higher log-loss on labelled examples that
    neither it nor they were made from; for `others` also where it is not clearly right more often, since a high temperature hides
    from the log-loss that they are wrong.

    points: (n, width) of the pool. labelled: (m,) positions in it, and classes: (m,) theirs. weight: of a pseudo-label, where
    a label counts 1. others: positions and classes, as a model of another kind says them. Returns those of examples without a
    label, (p,) each.
    """

    def made(log_probs: Array, seen: NDArray[np.intp], own: Classes) -> tuple[NDArray[np.intp], Classes]:
        rows, said = others or pseudo_labels(log_probs, points, seen, own)
        free = ~np.isin(rows, labelled)
        return rows[free], said[free]

    none = np.empty(0, dtype=np.intp)
    if len(np.unique(classes)) < 2 or len(classes) < 2 * FOLDS:
        return none, none
    losses, right = np.zeros(2), np.zeros((2, len(classes)))
    fold = _folds(classes, rng)
    for one in np.unique(fold):
        seen, held = labelled[fold != one], labelled[fold == one]
        own = classes[fold != one]
        fitted = fit(points[seen], own, labels, rng, strength)
        rows, said = made(fitted.log_probs(points), seen, own)
        weights = np.concatenate([np.ones(len(seen)), np.full(len(rows), weight)])
        both = np.concatenate([seen, rows]), np.concatenate([own, said])
        more = _regression(points[both[0]], both[1], labels, strength, weights)
        for i, (slopes, constants) in enumerate(((fitted.weights, fitted.constants), more)):
            scores = (points[held] @ slopes + constants) / fitted.temperature
            losses[i] += len(held) * log_loss(smoothed(scores, len(seen)), classes[fold == one])
            right[i, fold == one] = scores.argmax(axis=1) == classes[fold == one]
    if losses[1] > losses[0] or (others is not None and not _clearly_more(right)):
        return none, none
    whole = fit(points[labelled], classes, labels, rng, strength)
    return made(whole.log_probs(points), labelled, classes)


def _clearly_more(right: Array) -> bool:
    """Whether the second of two classifiers is right more often, by more than one standard error of the difference.

    right: (2, m), 1 where an example was answered rightly.
    >>> _clearly_more(np.array([[1, 0, 0, 0], [1, 1, 1, 0]])), _clearly_more(np.array([[1, 0, 0, 0], [0, 1, 1, 0]]))
    (True, False)
    """
    apart = right[1] - right[0]
    return bool(apart.sum() > np.sqrt((apart**2).sum()))


def _folds(classes: Classes, rng: np.random.Generator) -> NDArray[np.intp]:
    """The fold of every example, (m,): min(5, m) of them, each with its share of every class."""
    order = rng.permutation(len(classes))
    order = order[np.argsort(classes[order], kind="stable")]
    fold = np.empty(len(classes), dtype=np.intp)
    fold[order] = np.arange(len(classes)) % min(FOLDS, len(classes))
    return fold


def _regression(
    points: Array, classes: Classes, labels: int, strength: float, weights: Array | None = None
) -> tuple[Array, Array]:
    """Weights (width, labels) and constants (labels,) of least log-loss + ‖w‖²/(2 strength).

    The weights lie in the span of the points, so that m points of any width are fitted in m dimensions.
    """
    from sklearn.linear_model import LogisticRegression

    if not len(classes):
        raise DataError("there is no labelled example to fit a classifier to")
    known = finite_points(points).astype(np.float64)
    present = np.unique(classes)
    slopes, constants = np.zeros((known.shape[1], labels)), np.full(labels, -np.inf)
    constants[present] = 0.0
    if len(present) > 1:
        with quiet_fit():
            basis = np.linalg.svd(known, full_matrices=False)[2]
            model = LogisticRegression(C=strength, max_iter=500, tol=1e-4)
            model.fit(known @ basis.T, classes, sample_weight=weights)
            directions = basis.T @ model.coef_.T
        present = present if len(present) > 2 else present[1:]  # of two, one row of coefficients, for the second
        slopes[:, present], constants[present] = directions, model.intercept_
    return slopes, constants


# --- nearest class means --------------------------------------------------------------------------


def prototype_log_probs(points: Array, known: Array, classes: Classes, labels: int) -> Array:
    """Natural logs of softmax_c(−s ‖x − m_c‖²) over the labels, m_c the mean of the known points of class c.

    points: (n, width). known: (m, width), of the labelled examples, and classes: (m,) their labels' positions below
    `labels`, or, where several may hold, (m, labels) of 0 and 1. Returns (n, labels), or of each label alone "does not hold"
    and "holds", (n, labels, 2). s is the sharpness of greatest likelihood for the known points, each left out of its
    own class's mean; 1 over the mean squared distance where no class has two. A label without a known point is as far as
    the farthest other.
    Raises DataError without a known point.
    Source: Snell, Swersky, Zemel 2017, prototypical networks, with the embeddings of an untuned model.
    >>> known, classes = np.array([[0.0], [1.0], [4.0], [5.0]]), np.array([0, 0, 1, 1])
    >>> np.exp(prototype_log_probs(np.array([[0.5], [2.5]]), known, classes, 2)).round(2)
    array([[1. , 0. ],
           [0.5, 0.5]])
    """
    if not len(known):
        raise DataError("there is no labelled example to take a class mean of")
    if classes.ndim == 2:
        return np.stack([prototype_log_probs(points, known, column, 2) for column in classes.T], axis=1)
    points, known = (finite_points(part).astype(np.float64) for part in (points, known))
    present, means, sharpness, _ = _class_means(known, classes)
    near = _squared(points, means)
    distances = np.repeat(near.max(axis=1, keepdims=True), labels, axis=1)
    distances[:, present] = near
    return log_softmax(-sharpness * distances)


class _Means(NamedTuple):
    """present: the classes that some point has, (c,), and means: theirs, (c, width). sharpness: s. loss: mean −ln p of the right
    class of points that are left out of its mean, in nats; 0 where none can be."""

    present: Classes
    means: Array
    sharpness: float
    loss: float


def _class_means(known: Array, classes: Classes) -> _Means:
    """The class means of points, (m, width), and the sharpness of greatest likelihood, each point left out of its own class's
    mean."""
    present = np.unique(classes)
    counts = np.array([(classes == c).sum() for c in present])
    means = np.stack([known[classes == c].mean(axis=0) for c in present])
    apart = _squared(known, means)
    own = np.searchsorted(present, classes)
    rows = np.arange(len(known))
    many = counts[own] > 1
    # ‖x − mean without x‖² = (‖x − mean‖ · n / (n − 1))²
    apart[rows, own] *= np.where(many, (counts[own] / np.maximum(counts[own] - 1, 1)) ** 2, 1.0)
    unit = 1.0 / max(float(apart[rows, own][many].mean()) if many.any() else float(apart.mean()), 1e-12)
    if not many.any() or len(present) == 1:
        return _Means(present, means, unit, 0.0)
    fits = [log_softmax(-s * unit * apart[many])[np.arange(many.sum()), own[many]].mean() for s in _SHARPNESS]
    return _Means(present, means, float(_SHARPNESS[int(np.argmax(fits))]) * unit, -float(max(fits)))


def _squared(points: Array, means: Array) -> Array:
    """‖x − m‖², (points, means)."""
    squared = (points**2).sum(1)[:, None] - 2.0 * points @ means.T + (means**2).sum(1)[None]
    return np.maximum(squared, 0.0)


def log_softmax(scores: Array) -> Array:
    """Natural logs of the softmax over the last axis."""
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
