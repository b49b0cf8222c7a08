"""Selectors of whole batches by what a model predicts: BADGE, BatchBALD, log-det design and stochastic batches; and by how
candidates differ from what is labelled already: DAL and CAL.

As everywhere, k larger than the pool returns every position, and ties are broken by `rng`. Temporary arrays grow with
the candidates, never with candidates × candidates or candidates × labels × width.
"""

from __future__ import annotations

import numpy as np

from guidestar.errors import ModelError
from guidestar.query.distances import Points, chunks, finite_points, nearest, quiet_fit
from guidestar.query.measures import entropy
from guidestar.query.selectors import Positions, finite_scores, random, top
from guidestar.records import Array

# --- gradients ----------------------------------------------------------------------------------


def badge(log_probs: Array, points: Array, k: int, rng: np.random.Generator) -> Positions:
    """k-means++ on the gradients that the model's own answers would give its last layer.

    The gradient of −ln p(ŷ) with respect to the label's rows of the output projection, ŷ the likeliest label, is
    (p − onehot(ŷ)) ⊗ h. It is never built: (a ⊗ h)·(b ⊗ g) = (a·b)(h·g). The first choice has the longest gradient,
    each further one is drawn in proportion to the squared distance to the nearest chosen one.
    log_probs: (n, labels) natural logs. points: (n, width), h. Returns (min(k, n),) positions in the order of choosing.
    Raises ModelError if an embedding is not finite.
    Source: Ash, Zhang, Krishnamurthy, Langford, Agarwal 2020, algorithm 1; the first choice as in their code.
    >>> logs = np.log([[0.9, 0.1], [0.5, 0.5], [0.9, 0.1]])
    >>> badge(logs, np.array([[1.0], [1.0], [1.0]]), 1, np.random.default_rng(0))
    array([1])
    """
    order = random(len(log_probs), len(log_probs), rng)
    states = finite_points(points)[order].astype(np.float64)
    errors = np.exp(np.asarray(log_probs, dtype=np.float64))[order]
    errors[np.arange(len(errors)), errors.argmax(axis=1) if len(errors) else []] -= 1.0
    lengths = np.einsum("ij,ij->i", errors, errors) * np.einsum("ij,ij->i", states, states)
    distance = lengths.copy()
    chosen: list[int] = []
    left = np.ones(len(order), dtype=bool)
    for step in range(min(k, len(order))):
        if step == 0:
            here = int(np.argmax(lengths))
        elif (total := float(distance.sum())) > 0:
            here = int(rng.choice(len(order), p=distance / total))
        else:  # copies of what is chosen are all that is left
            here = int(np.flatnonzero(left)[0])
        chosen.append(here)
        left[here] = False
        apart = lengths + lengths[here] - 2.0 * (errors @ errors[here]) * (states @ states[here])
        np.maximum(apart, 0.0, out=apart)
        distance = apart if step == 0 else np.minimum(distance, apart)
        distance[~left] = 0.0
    return order[np.asarray(chosen, dtype=np.intp)]


def log_det(
    points: Array, labelled_points: Array | None, k: int, rng: np.random.Generator, ridge: float = 1.0
) -> Positions:
    """Greedy D-optimal design: each choice makes ln det(ridge·I + Σ x xᵀ) as large as it can.

    Σ runs over the labelled and the chosen. The gain of x is ln(1 + xᵀV⁻¹x); V⁻¹ is updated by Sherman and Morrison,
    so that a step costs n × width.
    points: (n, width), divided by their root mean square length before anything else, so that `ridge` has no unit.
    labelled_points: (m, width) or None. Returns (min(k, n),) positions in the order of choosing.
    Raises ModelError if an embedding is not finite.
    Source: Deb, Thekumparampil, Kalantari, Hiranandani, Sabach, Kveton 2025, FisherSFT (arXiv 2505.14826), which sums
    over the tokens of a text; here a text is one state.
    >>> log_det(np.array([[3.0, 0.0], [2.9, 0.0], [0.0, 2.0]]), None, 2, np.random.default_rng(0))
    array([0, 2])
    """
    order = random(len(points), len(points), rng)
    ordered = finite_points(points)[order]
    if not len(order) or k <= 0:
        return order[:0]
    scale = float(np.sqrt(np.einsum("ij,ij->i", ordered, ordered).mean(dtype=np.float64))) or 1.0
    inverse: Array = np.eye(ordered.shape[1]) * ridge
    if labelled_points is not None and len(labelled_points):
        known = finite_points(labelled_points).astype(np.float64) / scale
        inverse += known.T @ known
    inverse = np.linalg.inv(inverse)
    gain = np.empty(len(order))
    for part in chunks(len(order), ordered.shape[1]):
        some = ordered[part].astype(np.float64) / scale
        gain[part] = ((some @ inverse) * some).sum(axis=1)
    chosen: list[int] = []
    for _ in range(min(k, len(order))):
        here = int(np.argmax(gain))
        chosen.append(here)
        towards = inverse @ (ordered[here].astype(np.float64) / scale)
        shrink = 1.0 + max(float(gain[here]), 0.0)
        inverse -= np.outer(towards, towards) / shrink
        for part in chunks(len(order), ordered.shape[1]):
            gain[part] -= (ordered[part].astype(np.float64) @ towards / scale) ** 2 / shrink
        gain[chosen] = -np.inf
    return order[np.asarray(chosen, dtype=np.intp)]


# --- joint information --------------------------------------------------------------------------

_BLOCK = 256  # candidates whose gain is computed at one time


def batch_bald(label_log_probs: Array, k: int, rng: np.random.Generator, samples: int = 1024) -> Positions:
    """Greedy choice of the batch whose labels together say most about the adapter's weights.

    The gain of i beside a batch B is the mutual information I(y_i; ω | y_B) = E[H(Σ_k π_k(y_B) p_k(y_i))] −
    (1/K) Σ_k H(p_k(y_i)), where π(y_B) weighs the K passes by how well they explain the labels y_B. The labelings
    of the batch are all visited while they are at most `samples`, then drawn from the model. Gains can only fall as the
    batch grows, so those that were small before are computed again only when they could still win.
    label_log_probs: (K, n, labels) natural logs, K ≥ 2; pass k must be one and the same model for all examples.
    Returns (min(k, n),) positions in the order of choosing.
    Source: Kirsch, van Amersfoort, Gal 2019, algorithm 1; the bound is Minoux's 1978 (lazy greedy).
    >>> coin, other = [[0.9, 0.1], [0.1, 0.9]], [[0.8, 0.2], [0.8, 0.2]]   # what two passes say
    >>> batch_bald(np.log([[coin[k], coin[k], other[k]] for k in (0, 1)]), 1, np.random.default_rng(0))[0] in (0, 1)
    True
    """
    order = random(label_log_probs.shape[1], label_log_probs.shape[1], rng)
    probabilities = np.exp(np.asarray(label_log_probs, dtype=np.float64))[:, order]
    passes, n, labels = probabilities.shape
    alone = entropy(np.asarray(label_log_probs, dtype=np.float64)[:, order]).mean(axis=0)
    posterior, weights = np.full((1, passes), 1.0 / passes), np.ones(1)
    bound = np.full(n, np.inf)
    chosen: list[int] = []
    for _ in range(min(k, n)):
        here = _best_gain(probabilities, alone, posterior, weights, bound)
        chosen.append(here)
        bound[here] = -np.inf
        if len(weights) * labels <= samples and len(weights) == labels ** (len(chosen) - 1):
            joint = posterior[:, None] * probabilities[:, here].T  # (labelings, labels, K)
            share = joint.sum(axis=2)
            weights = (weights[:, None] * share).ravel()
            posterior = (joint / np.maximum(share, 1e-300)[:, :, None]).reshape(-1, passes)
        else:
            posterior = _drawn_posteriors(probabilities[:, chosen], samples, rng)
            weights = np.full(len(posterior), 1.0 / len(posterior))
    return order[np.asarray(chosen, dtype=np.intp)]


def _best_gain(probabilities: Array, alone: Array, posterior: Array, weights: Array, bound: Array) -> int:
    """Position of the largest gain; `bound` is updated to the gains that were computed."""
    waiting = np.argsort(-bound, kind="stable")
    waiting = waiting[np.isfinite(bound[waiting]) | (bound[waiting] > 0)]
    best = -np.inf
    for start in range(0, len(waiting), _BLOCK):
        some = waiting[start : start + _BLOCK]
        if bound[some[0]] < best:
            break
        passes, _, labels = probabilities.shape
        given = posterior @ probabilities[:, some].reshape(passes, -1)  # (labelings, some × labels)
        terms = np.where(given > 0, given * np.log(np.maximum(given, 1e-300)), 0.0)
        bound[some] = -(weights @ terms).reshape(len(some), labels).sum(axis=1) - alone[some]
        best = max(best, float(bound[some].max()))
    return int(np.argmax(bound))


def _drawn_posteriors(probabilities: Array, samples: int, rng: np.random.Generator) -> Array:
    """Weights of the passes given labelings of the batch drawn from the mean of the passes.

    probabilities: (K, batch, labels). Returns (samples, K).
    """
    passes, batch, _ = probabilities.shape
    of = np.arange(samples) % passes  # every pass draws as often: less noise than drawing the pass too
    logs = np.zeros((samples, passes))
    with np.errstate(divide="ignore"):
        safe = np.log(probabilities)
    for b in range(batch):
        cumulative = probabilities[of, b].cumsum(axis=1)
        label = (rng.random(samples)[:, None] * cumulative[:, -1:] >= cumulative).sum(axis=1)
        logs += safe[:, b, np.minimum(label, probabilities.shape[2] - 1)].T
    logs -= logs.max(axis=1, keepdims=True)
    weights = np.exp(logs)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


# --- beside the labelled --------------------------------------------------------------------------

_FLOOR = 1e-12  # smallest probability of a label, so that a divergence stays finite


def discriminative(
    points: Array, labelled_points: Array | None, k: int, rng: np.random.Generator, sub_batches: int = 10
) -> Positions:
    """Again and again, the candidates that a classifier of labelled against unlabelled finds most unlike the labelled.

    The batch is asked for in `sub_batches` parts. For each part a logistic regression is fitted on the labelled (class
    0) and on a random sample of the candidates, ten times as many (class 1); the sample's highest P(unlabelled) are
    chosen, and count as labelled for the next part. With nothing labelled, the first part is random.
    points: (n, width). labelled_points: (m, width) or None. They are centred and divided by one number, so that the
    regularisation does not depend on the length of hidden states.
    Returns (min(k, n),) positions in the order of choosing. Raises ModelError if an embedding is not finite.
    Source: Gissin and Shalev-Shwartz 2019 (DAL); sample and parts as in Jukić and Šnajder's code (2023).
    >>> discriminative(np.array([[0.0], [0.1], [9.0]]), np.array([[0.0], [0.1]]), 1, np.random.default_rng(0))
    array([2])
    """
    order = random(len(points), len(points), rng)
    ordered = finite_points(points)[order]
    if not len(order):
        return order
    known = ordered[:0] if labelled_points is None else finite_points(labelled_points)
    both = np.concatenate([ordered, known])
    middle = both.mean(axis=0, dtype=np.float64).astype(np.float32)
    size = float(np.sqrt(((both - middle) ** 2).sum(axis=1).mean())) or 1.0
    ordered, known = (ordered - middle) / size, (known - middle) / size
    left = np.arange(len(order))
    chosen: list[int] = []
    for part in np.array_split(np.arange(min(k, len(order))), max(1, sub_batches)):
        if not len(part):
            continue
        labelled = np.concatenate([known, ordered[chosen]])
        many = min(len(left), max(10 * len(labelled), len(part)))
        sample = left[random(len(left), many, rng)]
        odds = _log_odds(labelled, ordered[sample]) if len(labelled) else np.zeros(len(sample))
        picked = sample[top(odds, len(part), rng)]
        chosen += picked.tolist()
        left = np.setdiff1d(left, picked)
    return order[np.asarray(chosen, dtype=np.intp)]


def _log_odds(labelled: Points, unlabelled: Points) -> Array:
    """ln P(unlabelled)/P(labelled) of each unlabelled point; it orders like P, without its rounding near 1."""
    from sklearn.linear_model import LogisticRegression

    x = np.concatenate([labelled, unlabelled]).astype(np.float64)
    y = np.repeat([0, 1], [len(labelled), len(unlabelled)])
    with quiet_fit():
        fitted = LogisticRegression(solver="lbfgs", max_iter=1000).fit(x, y)
    return np.asarray(fitted.decision_function(unlabelled.astype(np.float64)))


def contrast(
    points: Array, log_probs: Array, labelled_points: Array, labelled_log_probs: Array, neighbours: int = 10
) -> Array:
    """How far a candidate's prediction is from those of its nearest labelled examples: mean KL(p_labelled ‖ p), nats.

    points: (n, width). log_probs: (n, labels) natural logs. labelled_…: the same for the m labelled examples; with
    fewer than `neighbours` of them all count. Probabilities below 1e-12 count as 1e-12.
    Returns (n,) scores, all 0 when nothing is labelled. Raises ModelError if an embedding is not finite.
    Source: Margatina, Vernikos, Barrault, Aletras 2021 (CAL), algorithm 1.
    >>> contrast(np.zeros((1, 1)), np.log([[0.5, 0.5]]), np.zeros((1, 1)), np.log([[0.9, 0.1]])).round(4)
    array([0.3681])
    """
    if not len(labelled_points) or not len(points):
        return np.zeros(len(points))
    close, _ = nearest(finite_points(points), finite_points(labelled_points), neighbours)
    floor = np.log(_FLOOR)
    known = np.maximum(np.asarray(labelled_log_probs, dtype=np.float64), floor)
    mine = np.maximum(np.asarray(log_probs, dtype=np.float64), floor)
    divergence = np.zeros(len(points))
    for j in range(close.shape[1]):
        theirs = known[close[:, j]]
        divergence += (np.exp(theirs) * (theirs - mine)).sum(axis=1)
    return np.maximum(divergence / close.shape[1], 0.0)


# --- chance -------------------------------------------------------------------------------------


def power(scores: Array, k: int, rng: np.random.Generator, beta: float = 1.0) -> Positions:
    """k draws without replacement in proportion to scoreᵝ: the top k of β ln s + Gumbel noise.

    scores: (n,), not negative; those of 0 come last. beta: 0 is uniform, infinity the plain top k.
    Returns (min(k, n),) positions. Raises ModelError for a score that is negative or not finite.
    Source: Kirsch, Farquhar, Atighehchian, Jesson, Branchaud-Charron, Gal 2023, "Stochastic Batch Acquisition".
    >>> power(np.array([0.0, 1.0, 1e9]), 3, np.random.default_rng(0))
    array([2, 1, 0])
    """
    scores = finite_scores(scores)
    if (scores < 0).any():
        raise ModelError(f"power draws in proportion to scores, which must not be negative; found {scores.min()}")
    return _gumbel_top(_logs(scores), k, rng, beta)


def gibbs(scores: Array, k: int, rng: np.random.Generator, beta: float = 1.0) -> Positions:
    """k draws without replacement in proportion to exp(β score / σ), σ the scores' standard deviation.

    scores: (n,). beta: as for `power`. Without σ, β would depend on the scores' unit.
    Returns (min(k, n),) positions. Raises ModelError for a score that is not finite.
    Source: Kirsch et al. 2023 ("softmax").
    >>> gibbs(np.array([0.0, 1.0, 2.0]), 2, np.random.default_rng(0), beta=1e6)
    array([2, 1])
    """
    return _gumbel_top(_in_spreads(finite_scores(scores)), k, rng, beta)


def soft_rank(scores: Array, k: int, rng: np.random.Generator, beta: float = 1.0) -> Positions:
    """k draws without replacement in proportion to rank⁻ᵝ, the highest score being rank 1.

    scores: (n,); equals share no rank, chance orders them. beta: as for `power`.
    Returns (min(k, n),) positions. Raises ModelError for a score that is not finite.
    Source: Kirsch et al. 2023 ("softrank").
    >>> soft_rank(np.array([0.0, 1.0, 2.0]), 1, np.random.default_rng(0), beta=1e6)
    array([2])
    """
    ranks = np.empty(len(scores))
    ranks[top(scores, len(scores), rng)] = np.arange(1, len(scores) + 1)
    return _gumbel_top(-np.log(ranks), k, rng, beta)


def power_weights(scores: Array, beta: float = 1.0) -> Array | None:
    """ln of the weights with which `power` draws, (n,); None where a score of 0 leaves an example without a chance."""
    return None if beta and np.min(scores, initial=np.inf) <= 0 else beta * _logs(np.asarray(scores, dtype=np.float64))


def gibbs_weights(scores: Array, beta: float = 1.0) -> Array | None:
    """ln of the weights with which `gibbs` draws, (n,)."""
    return beta * _in_spreads(finite_scores(scores))


def soft_rank_weights(scores: Array, beta: float = 1.0) -> Array | None:
    """ln of the weights with which `soft_rank` draws, (n,); None where scores are equal, whose ranks chance decided.

    >>> soft_rank_weights(np.array([0.5, 0.9])).round(3), soft_rank_weights(np.array([0.5, 0.5]))
    (array([-0.693, -0.   ]), None)
    """
    if beta and len(np.unique(scores)) < len(scores):
        return None
    ranks = np.empty(len(scores))
    ranks[np.argsort(-np.asarray(scores, dtype=np.float64))] = np.arange(1, len(scores) + 1)
    return -beta * np.log(ranks)


def gumbel_probabilities(log_weights: Array, order: Positions) -> Array:
    """Probability of each draw at its turn, of draws one after the other in proportion to exp(log weight), none twice.

    That is how `power`, `gibbs` and `soft_rank` draw: the top k of log weights with Gumbel noise.
    log_weights: (n,) of all candidates. order: (M,) positions in the order of drawing. Returns (M,).
    Source: Kool, van Hoof and Welling 2019; Plackett 1975 and Luce 1959.
    >>> gumbel_probabilities(np.log([1.0, 1.0, 2.0]), [2, 0])
    array([0.5, 0.5])
    """
    logs = np.asarray(log_weights, dtype=np.float64)
    picked = np.asarray(order, dtype=np.intp)
    rest = np.delete(logs, picked)
    # The logarithm of what is left at each turn, summed from the end: taking away from a sum would lose small weights.
    left = np.logaddexp.accumulate(np.concatenate([[np.logaddexp.reduce(rest)], logs[picked[::-1]]]))[:0:-1]
    return np.asarray(np.exp(np.minimum(logs[picked] - left, 0.0)))


def _logs(scores: Array) -> Array:
    """Natural logs; those of 0 are the smallest that there are."""
    return np.asarray(np.log(np.maximum(scores, np.finfo(np.float64).tiny)))


def _in_spreads(scores: Array) -> Array:
    """Scores over their standard deviation."""
    return scores / ((float(scores.std()) if len(scores) else 0.0) or 1.0)


def _gumbel_top(logits: Array, k: int, rng: np.random.Generator, beta: float) -> Positions:
    """The top k of beta × logits + Gumbel noise: a draw without replacement (Gumbel 1954; Kool et al. 2019)."""
    noise = rng.gumbel(size=len(logits))
    return top(beta * logits + noise, k, rng)
