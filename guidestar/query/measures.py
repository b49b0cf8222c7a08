"""Uncertainty measures: larger is more uncertain, entropies and losses in nats.

A measure declares the arrays it needs; whoever predicts computes the union of what is asked for in one
pass. The arrays, each with the Monte-Carlo passes in front (K = 1 for a plain pass):

    label_log_probs                                     (K, n, labels)  logs, normalised over the labels; where several
                                                        may hold (K, n, labels, 2), over "does not hold" and "holds"
    response_entropy, response_nll, response_length     (K, n)  sums over the tokens of the generated response
    answer_entropy, answer_nll, answer_length           (K, n)  the same over its answer tokens alone
    gold_entropy, gold_nll, gold_length                 (K, n)  teacher-forced on the gold response
    gold_answer_entropy, gold_answer_nll, gold_answer_length    (K, n)  the same over its answer tokens
    representation_gradient                             (1, n)  see `model/states.py`
    sampled_answer                                      (K, n)  which answer sample k gave; see `model/consistency.py`

Measures that read a `gold_` array know the label; they are named `oracle_…` and exist for simulations.
Paper in the sources below: Zhang, Wu, Zhou, Xu 2024, "STAR", arXiv 2403.01165.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guidestar.errors import ConfigError, ModelError, allowed
from guidestar.records import Array, Predictions

# --- over the label space -----------------------------------------------------------------------


def entropy(label_log_probs: Array) -> Array:
    """Entropy over the labels, H = −Σ_c p_c ln p_c, in nats; a label with p = 0 adds nothing.

    label_log_probs: (..., labels) natural logs. Returns (...), in [0, ln labels].
    Source: Shannon 1948; Lewis and Gale 1994 for its use in active learning.
    >>> entropy(np.log([[0.5, 0.5], [1.0, 1e-300]])).round(4)
    array([0.6931, 0.    ])
    """
    logs = np.where(np.isneginf(label_log_probs), 0.0, label_log_probs)  # NaN must stay NaN
    return -(np.exp(label_log_probs) * logs).sum(axis=-1)


def least_confidence(label_log_probs: Array) -> Array:
    """One minus the probability of the likeliest label, 1 − p₁; in [0, 1 − 1/labels].

    label_log_probs: (..., labels) natural logs. Returns (...).
    Source: Lewis and Gale 1994.
    >>> least_confidence(np.log([[0.75, 0.25]]))
    array([0.25])
    """
    return 1.0 - np.exp(label_log_probs.max(axis=-1))


def margin(label_log_probs: Array) -> Array:
    """1 − (p₁ − p₂) for the two likeliest labels; in [0, 1], 1 is a tie.

    label_log_probs: (..., labels) natural logs. Returns (...).
    Raises ConfigError if there are fewer than two labels.
    Source: Scheffer, Decomain, Wrobel 2001.
    >>> margin(np.log([[0.5, 0.5], [0.75, 0.25]]))
    array([1. , 0.5])
    """
    if label_log_probs.shape[-1] < 2:
        raise ConfigError(f"margin: found {label_log_probs.shape[-1]} label; at least 2 are needed")
    best = np.exp(np.sort(label_log_probs, axis=-1)[..., -2:])
    return 1.0 - (best[..., 1] - best[..., 0])


def entropy_of_mean(label_log_probs: Array) -> Array:
    """Entropy of the mean of the K passes, H(p̄) with p̄ = (1/K) Σ_k p_k, in nats.

    label_log_probs: (K, n, labels) natural logs. Returns (n,), in [0, ln labels].
    Source: Gal, Islam, Ghahramani 2017; the "MC" of Jukić and Šnajder 2023.
    >>> entropy_of_mean(np.log([[[0.9, 0.1]], [[0.1, 0.9]]])).round(4)
    array([0.6931])
    """
    with np.errstate(divide="ignore"):  # ln 0 = −inf is what `entropy` expects
        return entropy(np.log(np.exp(label_log_probs).mean(axis=0)))


def bald(label_log_probs: Array) -> Array:
    """Mutual information of label and adapter weights, H(p̄) − (1/K) Σ_k H(p_k), in nats.

    −p ln p is concave, so every label's share of the difference is at least 0; only rounding falls below
    and is cut off.
    label_log_probs: (K, n, labels) natural logs, K ≥ 2. Returns (n,), in [0, ln labels].
    Source: Houlsby, Huszár, Ghahramani, Lengyel 2011; Gal, Islam, Ghahramani 2017.
    >>> bald(np.log([[[0.9, 0.1]], [[0.1, 0.9]]])).round(4)
    array([0.3681])
    """
    return np.maximum(entropy_of_mean(label_log_probs) - entropy(label_log_probs).mean(axis=0), 0.0)


def vote_entropy(label_log_probs: Array) -> Array:
    """Entropy of the votes of a committee, each pass voting for its likeliest label, in nats.

    label_log_probs: (K, n, labels) natural logs, K ≥ 2. Returns (n,), in [0, ln min(K, labels)].
    Source: Dagan and Engelson 1995.
    >>> vote_entropy(np.log([[[0.9, 0.1]], [[0.4, 0.6]]])).round(4)
    array([0.6931])
    """
    return _group_entropy(label_log_probs.argmax(axis=-1))


# --- over generated and gold responses ----------------------------------------------------------


def answer_consistency(sampled_answer: Array) -> Array:
    """Entropy of the answers that K sampled responses gave, in nats: −Σ_a (c_a/K) ln (c_a/K), c_a responses with answer a.

    sampled_answer: (K, n) codes, equal for equal answers of an example, K ≥ 2. Returns (n,), in [0, ln K].
    Source: Wang et al. 2023 (self-consistency); the discrete semantic entropy of Farquhar et al. 2024.
    >>> answer_consistency(np.array([[0.0, 0.0], [0.0, 1.0]])).round(4)
    array([0.    , 0.6931])
    """
    return _group_entropy(sampled_answer)


def _group_entropy(codes: NDArray[Any]) -> Array:
    """Entropy of the frequencies of equal codes down each column, (K, n) -> (n,), in nats.

    −Σ_a (c_a/K) ln (c_a/K) = −(1/K) Σ_k ln (c_{a(k)}/K): a sum over the rows needs no list of the codes.
    """
    logs = [np.log((codes == one).mean(axis=0)) for one in codes]
    return np.asarray(0.0 - np.sum(logs, axis=0) / len(codes))


def per_token(values: Array, lengths: Array) -> Array:
    """Mean per token of a sum over `lengths` tokens; 0 where there is no token, like the empty sum.

    values, lengths: (K, n). Returns (K, n).
    >>> per_token(np.array([[3.0, 0.0]]), np.array([[2.0, 0.0]]))
    array([[1.5, 0. ]])
    """
    return values / np.maximum(lengths, 1.0)


# --- the table ----------------------------------------------------------------------------------

KINDS = frozenset({"choice", "multi_label", "number", "text"})
CHOICE = frozenset({"choice", "multi_label"})  # with probabilities of labels
WITH_ANSWER = frozenset({"choice", "number"})
ANY = KINDS - {"multi_label"}  # whose answers a model can be asked to write


@dataclass(frozen=True)
class Measure:
    """One uncertainty measure.

    function: takes the arrays of `needs` in that order.
    doc: one line with the formula, for lists of measures.
    tasks: the task kinds it is defined for.
    over_passes: False: the function maps (K, n, …) to (K, n) and the K values are averaged (STAR, eq. 7:
        mean of entropies, not entropy of the mean). True: it maps (K, n, …) to (n,) itself.
    min_passes: smallest K for which the measure says anything.
    max_passes: 0 for a measure of one plain pass that Monte-Carlo passes would not change as they should.
    """

    function: Callable[..., Array]
    needs: tuple[str, ...]
    doc: str
    tasks: frozenset[str] = ANY
    over_passes: bool = False
    min_passes: int = 1
    max_passes: int | None = None

    @property
    def oracle(self) -> bool:
        """Whether it reads the gold answer. The names of these measures begin with `oracle_`."""
        return any(need.startswith("gold_") for need in self.needs)

    @property
    def sampled(self) -> bool:
        """Whether its K values are sampled responses of one model, and no passes."""
        return "sampled_answer" in self.needs


def _sum(array: str, doc: str, tasks: frozenset[str] = ANY) -> Measure:
    """A sum over tokens as it was predicted; long responses weigh more."""
    return Measure(np.asarray, (array,), doc, tasks)


def _mean(array: str, doc: str, tasks: frozenset[str] = ANY) -> Measure:
    """The same for each token."""
    return Measure(per_token, (array, array.rpartition("_")[0] + "_length"), doc, tasks)


MEASURES: dict[str, Measure] = {
    "entropy": Measure(entropy, ("label_log_probs",), "−Σ p ln p over the labels", CHOICE),
    "least_confidence": Measure(least_confidence, ("label_log_probs",), "1 − p₁ over the labels", CHOICE),
    "margin": Measure(margin, ("label_log_probs",), "1 − (p₁ − p₂) over the labels", CHOICE),
    "entropy_of_mean": Measure(
        entropy_of_mean, ("label_log_probs",), "entropy over the labels of the mean of the passes", CHOICE, over_passes=True
    ),
    "bald": Measure(
        bald, ("label_log_probs",), "mutual information over the labels: entropy of the mean minus mean of the entropies",
        CHOICE, over_passes=True, min_passes=2,
    ),
    "vote_entropy": Measure(
        vote_entropy, ("label_log_probs",),
        "entropy of the labels that the passes or the members of a committee vote for", CHOICE, over_passes=True,
        min_passes=2,
    ),
    "answer_consistency": Measure(
        answer_consistency, ("sampled_answer",),
        "entropy of the answers read off K sampled responses; no answer counts as one more answer", over_passes=True,
        min_passes=2, max_passes=0,
    ),
    "response_entropy": _sum("response_entropy", "STAR's maximum entropy (eq. 2): Σ of the token entropies of the response"),
    "response_entropy_mean": _mean("response_entropy", "mean of the token entropies of the response"),
    "response_nll": _sum("response_nll", "−ln p of the generated response"),
    "response_nll_mean": _mean("response_nll", "−ln p of the generated response, per token"),
    "answer_entropy": _sum("answer_entropy", "Σ of the token entropies of the response's answer tokens", WITH_ANSWER),
    "answer_entropy_mean": _mean(
        "answer_entropy", "mean of the token entropies of the response's answer tokens", WITH_ANSWER
    ),
    "answer_nll": _sum("answer_nll", "−ln p of the response's answer tokens", WITH_ANSWER),
    "representation_gradient": Measure(
        np.asarray, ("representation_gradient",),
        "norm of the gradient of the mean state of the last prompt token by the input embeddings (RG)", KINDS,
        max_passes=0,
    ),
    "oracle_predictive_entropy": _sum("gold_nll", "STAR's predictive entropy (eq. 3): −ln p of the gold response"),
    "oracle_predictive_entropy_mean": _mean("gold_nll", "−ln p of the gold response, per token"),
    "oracle_entropy": _sum(
        "gold_entropy", "Σ of the token entropies along the gold response (what STAR's published code calls entropy)"
    ),
    "oracle_entropy_mean": _mean("gold_entropy", "mean of the token entropies along the gold response"),
    "oracle_answer_nll": _sum("gold_answer_nll", "−ln p of the gold response's answer tokens"),
    "oracle_answer_entropy": _sum("gold_answer_entropy", "Σ of the token entropies of the gold response's answer tokens"),
}  # fmt: skip


def measure_problems(name: str, kind: str, simulation: bool) -> list[str]:
    """Why a measure cannot be used for a task, in sentences; empty if it can.

    kind: "choice", "multi_label", "number" or "text". simulation: whether every pool example's gold answer is known.
    >>> measure_problems("margin", "text", simulation=True)
    ["measure 'margin' is not defined for the task kind 'text'; allowed: choice, multi_label"]
    """
    if name not in MEASURES:
        return [f"measure {name!r} is unknown; {allowed(MEASURES, name)}"]
    measure = MEASURES[name]
    problems = []
    if kind not in measure.tasks:
        problems.append(f"measure {name!r} is not defined for the task kind {kind!r}; {allowed(sorted(measure.tasks))}")
    if measure.oracle and not simulation:
        problems.append(
            f"measure {name!r} needs the gold answer of every pool example, which a real pool does not have; "
            "it can be used in a simulation only"
        )
    return problems


def default_measure(kind: str) -> str:
    """The measure that "auto" stands for: entropy over labels, else STAR's entropy of the response (eq. 2).

    >>> default_measure("number")
    'response_entropy'
    """
    return "entropy" if kind in CHOICE else "response_entropy"


def evaluate_measure(name: str, predictions: Predictions, made: NDArray[np.intp] | None = None) -> Array:
    """One uncertainty for each example: the mean of the passes, or what a measure over passes makes of them.

    made: (n,) how many of its first passes count for an example, where it had fewer (`query.racing`); None: all.
    Where several labels may hold, it is the mean over the labels of the measure over each one's two outcomes.

    Returns (n,) float64, larger is more uncertain.
    Raises ConfigError for an unknown name or too few passes, ModelError for a missing array, for labels
    whose probabilities do not sum to 1, for a value that is not finite, naming the first example, and for a function
    that returns another shape than it should.
    Source: STAR, eq. 7; the mean over labels: Esuli and Sebastiani 2009.
    >>> p = Predictions(("a", "b"), {"label_log_probs": np.log([[[0.5, 0.5], [0.75, 0.25]]])})
    >>> evaluate_measure("margin", p)
    array([1. , 0.5])
    """
    if name not in MEASURES:
        raise ConfigError(f"measure {name!r} is unknown; {allowed(MEASURES, name)}")
    measure = MEASURES[name]
    if "label_log_probs" in measure.needs and getattr(predictions.arrays.get("label_log_probs"), "ndim", 0) == 4:
        return _over_labels(name, predictions, made)
    arrays = [_array(predictions, need, name) for need in measure.needs]
    passes = min(len(array) for array in arrays)
    if passes < measure.min_passes:
        raise ConfigError(f"measure {name!r} needs at least {measure.min_passes} passes, found {passes}")
    with np.errstate(invalid="ignore", over="ignore"):  # reported below, with the example's name
        values = np.asarray(measure.function(*arrays))
        shape = (len(predictions.ids),) if measure.over_passes else (passes, len(predictions.ids))
        if values.shape != shape:
            raise ModelError(f"measure {name!r} returned an array of shape {values.shape}; allowed: {shape}")
        if not measure.over_passes and made is None:
            values = values.mean(axis=0)
        elif made is not None:
            if measure.over_passes:
                raise ConfigError(f"measure {name!r} is no mean over passes, so every example must have all of them")
            values = np.where(np.arange(len(values))[:, None] < made, values, 0.0).sum(axis=0) / made
    _refuse_first(~np.isfinite(values), predictions.ids, lambda i: f"{name} is {values[i]}")
    return np.asarray(values, dtype=np.float64)


def _over_labels(name: str, predictions: Predictions, made: NDArray[np.intp] | None) -> Array:
    """The mean over the labels of a measure of (K, n, labels, 2) log-probabilities, (n,)."""
    array = predictions.arrays["label_log_probs"]
    passes, n, labels = array.shape[:3]
    each = {"label_log_probs": array.reshape(passes, n * labels, 2)}
    ids = tuple(id for id in predictions.ids for _ in range(labels))
    values = evaluate_measure(name, Predictions(ids, each), None if made is None else np.repeat(made, labels))
    return np.asarray(values.reshape(n, labels).mean(axis=1))


def _array(predictions: Predictions, need: str, name: str) -> Array:
    if need not in predictions.arrays:
        present = ", ".join(sorted(predictions.arrays)) or "none"
        raise ModelError(f"measure {name!r} needs the array {need!r}, which was not predicted; found: {present}")
    array = np.asarray(predictions.arrays[need], dtype=np.float64)
    if need == "label_log_probs":
        with np.errstate(over="ignore"):
            sums = np.exp(array).sum(axis=-1)
        wrong = ~(np.abs(sums - 1.0) < 1e-3).all(axis=0)  # NaN is wrong too
        _refuse_first(wrong, predictions.ids, lambda i: f"label probabilities sum to {sums[:, i].tolist()}, expected 1")
    return array


def _refuse_first(wrong: np.ndarray, ids: tuple[str, ...], what: Callable[[int], str]) -> None:
    if wrong.any():
        first = int(np.argmax(wrong))
        raise ModelError(f"example {ids[first]}: {what(first)}; {int(wrong.sum())} of {len(ids)} examples are affected")
