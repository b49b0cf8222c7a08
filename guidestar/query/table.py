"""The table of selectors: how a batch is drawn from the candidates, what each needs, and its options. And that of warm starts.

An entry adapts a pure function of `selectors`, `batches`, `coverage` or `herding` to `Candidates`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from guidestar.errors import ModelError, allowed
from guidestar.query import batches, coverage, herding, selectors
from guidestar.query.measures import KINDS
from guidestar.query.selectors import Positions
from guidestar.records import Array, Predictions

EMBEDDING = frozenset({"embedding"})
PREDICTED = frozenset({"label_log_probs"})


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """What a selector may look at.

    left: positions of the candidates in `full` and `base`, best first. score: (len(left),) in that order, or None.
    full, base: predictions of the tuned and of the base model. labelled, labelled_base: theirs for the labelled
    examples. lam: λ(t), where the recipe mixes. scale: of the mix. options: the selector's, defaults filled in.
    """

    left: Positions
    score: Array | None = None
    full: Predictions | None = None
    base: Predictions | None = None
    labelled: Predictions | None = None
    labelled_base: Predictions | None = None
    lam: float | None = None
    scale: str = "raw"
    options: Mapping[str, float] = field(default_factory=dict)

    def points(self, of_base: bool = False) -> Array:
        """Embeddings of what is left, (n, width)."""
        whose = "the candidates by the base model" if of_base else "the candidates"
        return needed(self.base if of_base else self.full, "embedding", whose)[0][self.left]

    def known(self, of_base: bool = False) -> Array | None:
        """Embeddings of the labelled examples, (m, width), or None when there are none."""
        labelled = self.labelled_base if of_base else self.labelled
        if labelled is None or not len(labelled):
            return None
        return needed(labelled, "embedding", "the labelled examples")[0]

    def log_probs(self) -> Array:
        """Label log-probabilities of what is left, (K, n, labels)."""
        return needed(self.full, "label_log_probs", "the candidates")[:, self.left]

    def weights(self) -> Array | None:
        """The scores as weights, (n,), none below 0; None without a measure."""
        return None if self.score is None else np.maximum(self.score, 0.0)

    def scored(self) -> Array:
        """The score of what is left, (n,)."""
        assert self.score is not None, "the recipe was checked to have a measure"
        return self.score


@dataclass(frozen=True)
class Option:
    """A number that a selector can be told. low, high: the allowed range, both ends included."""

    default: float
    low: float
    high: float
    doc: str


@dataclass(frozen=True)
class Selector:
    """One way to draw a batch.

    function: (candidates, k, rng) -> positions in `candidates.left`.
    full, base: arrays of the candidates by the tuned and by the base model. labelled, labelled_base: of the labelled.
    tasks: the task kinds it is defined for. scored: it needs a measure. min_passes: smallest K it makes sense for.
    one_model: pass k must be one and the same model for all examples, with the same dropout masks.
    mixes: it mixes distances of the base and of the tuned model, so the recipe must have a mix.
    log_weights: where it draws one after the other in proportion to known weights, their logarithms for all of
        `candidates.left`, or None where they are not known this time.
    """

    function: Callable[[Candidates, int, np.random.Generator], Positions]
    doc: str
    full: frozenset[str] = frozenset()
    base: frozenset[str] = frozenset()
    labelled: frozenset[str] = frozenset()
    labelled_base: frozenset[str] = frozenset()
    tasks: frozenset[str] = KINDS
    scored: bool = False
    min_passes: int = 0
    one_model: bool = False
    mixes: bool = False
    log_weights: Callable[[Candidates], Array | None] | None = None
    options: Mapping[str, Option] = field(default_factory=dict)


def needed(predictions: Predictions | None, name: str, what: str) -> Array:
    """An array of some predictions. Raises ModelError if it is not there. what: whose, for the message."""
    if predictions is None or name not in predictions.arrays:
        raise ModelError(f"the strategy needs the array {name!r} of {what}, which was not predicted")
    return predictions.arrays[name]


# --- the functions as entries -------------------------------------------------------------------


def _mixed_k_center(c: Candidates, k: int, rng: np.random.Generator) -> Positions:
    assert c.lam is not None, "the recipe was checked to have a mix"
    views = []
    for of_base, weight in ((True, c.lam), (False, 1.0 - c.lam)):
        points = c.points(of_base)
        unit = _radius(points) if c.scale == "minmax" else 1.0
        views.append(coverage.View(points, c.known(of_base), max(weight, 0.0) / unit))
    return coverage.mixed_k_center(views, k, rng, c.score)


def _radius(points: Array) -> float:
    """Largest distance from the mean, the unit of a `minmax` mix of distances."""
    if not len(points):
        return 1.0
    return float(np.sqrt(((points - points.mean(axis=0)) ** 2).sum(axis=1).max())) or 1.0


def _contrast(c: Candidates, k: int, rng: np.random.Generator) -> Positions:
    points, known = c.points(), c.known()
    if known is None:
        return selectors.random(len(points), k, rng)
    theirs = _mean(needed(c.labelled, "label_log_probs", "the labelled examples"))
    scores = batches.contrast(points, _mean(c.log_probs()), known, theirs, int(c.options["neighbours"]))
    return selectors.top(scores, k, rng)


def _typical(c: Candidates, k: int, rng: np.random.Generator) -> Positions:
    points, known, options = c.points(of_base=True), c.known(of_base=True), c.options
    return coverage.typical(points, known, k, rng, int(options["neighbours"]), int(options["most_clusters"]))


def _prob_cover(c: Candidates, k: int, rng: np.random.Generator) -> Positions:
    points, known, options = c.points(of_base=True), c.known(of_base=True), c.options
    clusters = int(options["clusters"]) or max(2, len(c.base.labels) if c.base is not None else 0)
    return coverage.prob_cover(points, known, k, rng, clusters, options["radius"] or None, options["purity"])


def _drawn(draw: Callable[..., Positions], weights: Callable[..., Array | None], doc: str) -> Selector:
    """Draws one after the other by weights of the scores and β."""
    return Selector(
        lambda c, k, rng: draw(c.scored(), k, rng, c.options["beta"]), doc, scored=True,
        log_weights=lambda c: weights(c.scored(), c.options["beta"]),
        options={"beta": Option(1.0, 0.0, 1e6, "0 is uniform, large is the plain top k")},
    )  # fmt: skip


def _mean(log_probs: Array) -> Array:
    """ln of the mean of the passes, (K, n, labels) -> (n, labels)."""
    if len(log_probs) == 1:
        return log_probs[0]
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(np.exp(log_probs).mean(axis=0)))


_CHOICE = frozenset({"choice"})

SELECTORS: dict[str, Selector] = {
    "top": Selector(lambda c, k, rng: np.arange(min(k, len(c.left))), "the highest scores", scored=True),
    "random": Selector(
        lambda c, k, rng: selectors.random(len(c.left), k, rng), "uniformly at random",
        log_weights=lambda c: np.zeros(len(c.left)),
    ),
    "power": _drawn(batches.power, batches.power_weights, "drawn in proportion to score^β"),
    "gibbs": _drawn(batches.gibbs, batches.gibbs_weights, "drawn in proportion to exp(β score/σ)"),
    "soft_rank": _drawn(batches.soft_rank, batches.soft_rank_weights, "drawn in proportion to rank^−β"),
    "k_center": Selector(
        lambda c, k, rng: selectors.k_center(c.points(), c.known(), k, rng, c.score), "greedy k-centre (core-set)",
        full=EMBEDDING, labelled=EMBEDDING,
    ),
    "mixed_k_center": Selector(
        _mixed_k_center, "greedy k-centre on d = λ d_base + (1 − λ) d_full",
        full=EMBEDDING, base=EMBEDDING, labelled=EMBEDDING, labelled_base=EMBEDDING, mixes=True,
    ),
    "k_means": Selector(
        lambda c, k, rng: selectors.k_means(c.points(), k, rng, c.weights()),
        "nearest to each of k centroids, weighted by the score", full=EMBEDDING,
    ),
    "badge": Selector(
        lambda c, k, rng: batches.badge(_mean(c.log_probs()), c.points(), k, rng),
        "k-means++ on the gradients of the model's own answers", full=EMBEDDING | PREDICTED, tasks=_CHOICE,
    ),
    "batch_bald": Selector(
        lambda c, k, rng: batches.batch_bald(c.log_probs(), k, rng, int(c.options["samples"])),
        "greedy joint mutual information of the batch's labels and the adapter",
        full=PREDICTED, tasks=_CHOICE, min_passes=2, one_model=True,
        options={"samples": Option(1024, 2, 1 << 20, "labelings of the batch that are visited or drawn")},
    ),
    "log_det": Selector(
        lambda c, k, rng: batches.log_det(c.points(), c.known(), k, rng, c.options["ridge"]),
        "greedy D-optimal design, ln det Σ x xᵀ", full=EMBEDDING, labelled=EMBEDDING,
        options={"ridge": Option(1.0, 1e-9, 1e9, "added to Σ x xᵀ, x of mean square length 1")},
    ),
    "discriminative": Selector(
        lambda c, k, rng: batches.discriminative(c.points(), c.known(), k, rng, int(c.options["sub_batches"])),
        "least like the labelled, by a logistic regression fitted in turns (DAL)", full=EMBEDDING, labelled=EMBEDDING,
        options={"sub_batches": Option(10, 1, 1000, "parts of the batch, each with a new fit")},
    ),
    "contrast": Selector(
        _contrast, "predictions that differ most from those of the nearest labelled examples (CAL)",
        full=EMBEDDING | PREDICTED, labelled=EMBEDDING | PREDICTED, tasks=_CHOICE,
        options={"neighbours": Option(10, 1, 10_000, "labelled neighbours")},
    ),
    "facility_location": Selector(
        lambda c, k, rng: coverage.facility_location(c.points(), c.known(), k, rng),
        "greedy: every example finds something similar", full=EMBEDDING, labelled=EMBEDDING,
    ),
    "herding": Selector(
        lambda c, k, rng: herding.herding(c.points(), c.known(), k, rng, c.weights(), c.options["radius"]),
        "greedy: the batch that covers most, each example weighted by the score if there is one",
        full=EMBEDDING, labelled=EMBEDDING,
        options={"radius": Option(herding.RADIUS, 0.01, 10.0, "of the kernel, in median distances")},
    ),
    "typical": Selector(
        _typical, "most typical of the largest clusters without a label (TypiClust), base model's embeddings",
        base=EMBEDDING, labelled_base=EMBEDDING,
        options={
            "neighbours": Option(20, 1, 10_000, "neighbours that typicality is measured on"),
            "most_clusters": Option(500, 1, 100_000, "limit of the number of clusters"),
        },
    ),
    "prob_cover": Selector(
        _prob_cover, "greedy: most examples within a radius (ProbCover), base model's embeddings",
        base=EMBEDDING, labelled_base=EMBEDDING,
        options={
            "radius": Option(0.0, 0.0, 2.0, "Euclidean, of unit vectors; 0 finds it by purity"),
            "purity": Option(0.95, 0.0, 1.0, "share of balls that hold one cluster only"),
            "clusters": Option(0, 0, 10_000, "clusters for the radius; 0 is the number of labels"),
        },
    ),
}  # fmt: skip


def options_of(name: str, given: Mapping[str, float] | None) -> dict[str, float]:
    """A selector's options, the ones not given at their defaults.

    >>> options_of("power", {"beta": 2.0})
    {'beta': 2.0}
    """
    return {key: option.default for key, option in SELECTORS[name].options.items()} | dict(given or {})


def option_problems(name: str, given: Mapping[str, float] | None) -> list[str]:
    """What is wrong with a selector's options, in sentences.

    >>> option_problems("power", {"beta": -1})
    ['options.beta is -1; allowed: 0.0 to 1000000.0']
    """
    known = SELECTORS[name].options
    problems = []
    for key, value in (given or {}).items():
        if key not in known:
            problems.append(f"options.{key} is unknown for select {name!r}; {allowed(known or ['none'], key)}")
        elif not known[key].low <= value <= known[key].high:
            problems.append(f"options.{key} is {value}; allowed: {known[key].low} to {known[key].high}")
    return problems


# --- the first labels ---------------------------------------------------------------------------

# When nothing is labelled: name -> (points of frozen features, k, rng) -> (k,) positions; "random", which needs no points, is
# the shared start of the papers.
WARM_STARTS: dict[str, Callable[[Array, int, np.random.Generator], Positions]] = {
    "herding": lambda points, k, rng: herding.herding(points, None, k, rng),
    "typical": lambda points, k, rng: coverage.typical(points, None, k, rng),
    "k_means": lambda points, k, rng: selectors.k_means(points, k, rng),
}


def warm_start_of(configured: str | None, of_strategy: str | None) -> str:
    """How a run's first labels are chosen: as the configuration says for all, else as its strategy does, else at random.

    >>> warm_start_of(None, "herding"), warm_start_of(None, None)
    ('herding', 'random')
    """
    return configured or of_strategy or "random"
