"""Query strategies: `choose` carries out the steps that a recipe names.

score → clip outliers → drop near-duplicates → prefilter → select → balance

A strategy sees ids, arrays and counts; neither examples nor labels of the pool ever reach this room.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from guidestar.errors import ConfigError, ModelError
from guidestar.query import mixing, selectors
from guidestar.query.batches import gumbel_probabilities
from guidestar.query.measures import evaluate_measure
from guidestar.query.racing import Race
from guidestar.query.recipes import STRATEGIES, Recipe, check, labelled_needs, misfits, needs, remarks, resolve
from guidestar.query.selectors import Positions
from guidestar.query.table import Candidates, needed, options_of
from guidestar.records import Array, Names, Pick, Predictions

__all__ = [
    "STRATEGIES", "Context", "Recipe", "Selection", "check", "choose", "labelled_needs", "needs", "race_value", "remarks",
    "resolve",
]  # fmt: skip

BALANCE_REACH = 4  # a balanced batch is filled from this many times its size


# --- one query ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a strategy may know when it chooses.

    t: queries made before this one, the warm start not counted. rounds: points of the learning curve.
    full, base: predictions of the tuned and of the base model for the candidates at least.
    labelled, labelled_base: theirs for the labelled examples; see `labelled_needs`.
    labelled_classes: label -> labels so far. kind: "choice", "number" or "text".
    schedule: a user's λ(t, rounds) in place of the recipe's.
    race: where the recipe races, who won and how many passes each of the candidates in `full` had.
    """

    t: int
    rounds: int
    kind: str
    full: Predictions | None = None
    base: Predictions | None = None
    labelled: Predictions | None = None
    labelled_base: Predictions | None = None
    labelled_classes: Mapping[str, int] = field(default_factory=dict)
    schedule: mixing.Schedule | None = None
    race: Race | None = None


@dataclass(frozen=True)
class Selection:
    """The picks in the order of asking, and the scores of all candidates.

    scores: "score", "full" and "base" -> (n,) in the order of the candidates, and "passes" after a race; what the
        recipe does not compute is absent. NAME_bound: how far the array NAME behind them may be off.
    """

    picks: tuple[Pick, ...]
    scores: Mapping[str, Array]


def choose(
    recipe: Recipe, candidates: Sequence[str] | Names, context: Context, k: int, rng: np.random.Generator,
    random_share: float = 0.0,
) -> Selection:  # fmt: skip
    """Choose min(k, n) of the candidates.

    candidates: their ids, as texts or, of many, as the bytes of `Pool.names`.
    random_share: this share of the batch, rounded, is drawn uniformly from all candidates before anything
    else, so that it is an unbiased sample of them; its picks carry the detail {"random": 1.0}.
    A pick that was drawn by chance has the detail "probability", with which it was drawn from what was left at its turn.
    The candidates are put in the order of their ids first: the same set gives the same picks, however sorted.
    Raises ConfigError for steps that do not fit together, ModelError for missing or unusable numbers,
    ValueError if an id occurs twice.
    >>> full = Predictions(("a", "b"), {"label_log_probs": np.log([[[0.5, 0.5], [0.75, 0.25]]])})
    >>> context = Context(t=0, rounds=10, kind="choice", full=full)
    >>> choose(STRATEGIES["margin"], ["a", "b"], context, 1, np.random.default_rng(0)).picks
    (Pick(id='a', score=1.0, details={'full': 1.0}),)
    """
    if problems := misfits(recipe):
        raise ConfigError("\n".join(problems))
    names = candidates if isinstance(candidates, np.ndarray) else _names(candidates)
    by_id = np.argsort(names, kind="stable")
    ids = names[by_id]
    if (ids[1:] == ids[:-1]).any():
        raise ValueError("the candidates contain an id twice")
    full, base = _rows(context.full, ids, "tuned"), _rows(context.base, ids, "base")
    race = None if context.race is None or context.full is None else _race_rows(context.race, context.full.ids, ids)
    scores, lam = _score(recipe, full, base, context, None if race is None else race.passes)
    won = None if race is None else np.isin(np.arange(len(ids)), race.picks)

    k = min(k, len(ids))
    drawn = selectors.random(len(ids), round(random_share * k), rng)
    others = np.delete(np.arange(len(ids)), drawn)
    chosen = _compose(recipe, others, scores.get("score"), lam, full, base, context, k - len(drawn), rng, won)

    chances = _chances(recipe, drawn, others, chosen, scores.get("score"))

    def pick(i: int, random: bool) -> Pick:
        details = {name: float(values[i]) for name, values in scores.items() if name != "score"}
        if lam is not None:
            details["lambda"] = lam
        if random:
            details["random"] = 1.0
        if i in chances:
            details["probability"] = chances[i]
        return Pick(ids[i].decode(), float(scores["score"][i]) if "score" in scores else math.nan, details)

    back = np.argsort(by_id)  # from the order of ids to that of the candidates
    picks = [pick(int(i), random=True) for i in drawn] + [pick(int(i), random=False) for i in chosen]
    return Selection(tuple(picks), {name: values[back] for name, values in scores.items()})


def _chances(
    recipe: Recipe, drawn: Positions, others: Positions, chosen: Positions, score: Array | None
) -> dict[int, float]:
    """Position -> the probability with which it was drawn at its turn: those drawn at random first, then the batch if it
    is drawn with known weights from all that is left. A step that leaves candidates out leaves them no chance, and then
    no probability of the others would speak for the pool."""
    n = len(drawn) + len(others)
    chances = {int(i): 1.0 / (n - turn) for turn, i in enumerate(drawn)}
    filtered = recipe.clip_outliers or recipe.balance or recipe.near_duplicates is not None
    if filtered or recipe.prefilter is not None or recipe.subpool is not None or recipe.selector.log_weights is None:
        return chances
    own = None if score is None else score[others]
    candidates = Candidates(left=others, score=own, options=options_of(recipe.select, recipe.options))
    weights = recipe.selector.log_weights(candidates) if len(others) else None
    if weights is not None:
        order = np.searchsorted(others, chosen)  # `others` is sorted
        chances |= dict(zip(chosen.tolist(), gumbel_probabilities(weights, order).tolist(), strict=True))
    return chances


def race_value(recipe: Recipe, context: Context) -> Callable[[Predictions, Positions], Array]:
    """What a race averages over the passes: of one pass over the candidates at some positions of `context.base`, the
    score that this pass alone would give them. The mean of these is the score that the mean uncertainty gives.

    >>> context = Context(t=0, rounds=10, kind="choice")
    >>> value = race_value(STRATEGIES["mc_entropy"], context)
    >>> value(Predictions(("a",), {"label_log_probs": np.log([[[0.5, 0.5]]])}), np.array([0])).round(4)
    array([0.6931])
    """
    name, lam = recipe.measure_for(context.kind), _weight(recipe, context)
    if name is None or (recipe.mix is not None and context.base is None):
        raise ModelError("a race needs a measure, and with a mix predictions of the base model")
    of_base = evaluate_measure(name, context.base) if recipe.mix is not None and context.base is not None else None

    def value(predictions: Predictions, rows: Positions) -> Array:
        values = evaluate_measure(name, predictions)
        if recipe.mix is None or of_base is None or lam is None:
            return values
        return mixing.mix(of_base[rows], values, lam, recipe.mix.scale)

    return value


def _weight(recipe: Recipe, context: Context) -> float | None:
    """λ(t), where the recipe mixes."""
    if recipe.mix is None:
        return None
    if context.schedule is not None:  # a user's need not know of rounds beyond those of the first budget
        return mixing.weight(context.schedule, min(context.t, context.rounds - 1), context.rounds)
    return mixing.weight(mixing.schedule_for(recipe.mix), context.t, context.rounds)


def _score(
    recipe: Recipe, full: Predictions | None, base: Predictions | None, context: Context, made: NDArray[np.intp] | None
) -> tuple[dict[str, Array], float | None]:
    """ "score" and its parts for every id, and λ where there is a mix. made: passes of each after a race."""
    name, lam = recipe.measure_for(context.kind), _weight(recipe, context)
    if name is None:
        return {}, lam
    if full is None:
        raise ModelError(f"measure {name!r} needs predictions of the tuned model, and there are none")
    scores = {"full": evaluate_measure(name, full, made)}
    if made is not None:
        scores["passes"] = made.astype(np.float64)
    if recipe.mix is None or lam is None:
        return {"score": scores["full"]} | scores, None
    if base is None:
        raise ModelError("mix needs predictions of the base model, and there are none")
    scores["base"] = evaluate_measure(name, base)
    return {"score": mixing.mix(scores["base"], scores["full"], lam, recipe.mix.scale)} | scores, lam


def _compose(
    recipe: Recipe, left: Positions, score: Array | None, lam: float | None, full: Predictions | None,
    base: Predictions | None, context: Context, k: int, rng: np.random.Generator, won: NDArray[np.bool_] | None,
) -> Positions:  # fmt: skip
    """The steps after scoring, on the positions `left`; `left` is kept best first between the steps. After a race
    those that `won` come first: an example that was out early may have ended with a mean above the last winner's."""
    if recipe.clip_outliers and score is not None:
        left = left[selectors.clip_outliers(score[left], recipe.clip_outliers, at_least=k)]
    left = left[selectors.shuffled_order(len(left), None if score is None else score[left], rng)]
    if won is not None:
        left = left[np.argsort(~won[left], kind="stable")]
    reach = k * BALANCE_REACH if recipe.balance else k
    wanted = reach if recipe.prefilter is None else max(k, math.ceil(recipe.prefilter * k))
    if recipe.near_duplicates is not None:
        enough = wanted if recipe.prefilter is not None or recipe.select == "top" else None
        points = needed(base, "embedding", "the candidates by the base model")[0]
        left = selectors.drop_near_duplicates(points, left, recipe.near_duplicates, k, enough)
    if recipe.prefilter is not None:
        left = left[:wanted]
    candidates = Candidates(
        left=left, score=None if score is None else score[left], full=full, base=base, labelled=context.labelled,
        labelled_base=context.labelled_base, lam=lam, scale=recipe.mix.scale if recipe.mix else "raw",
        options=options_of(recipe.select, recipe.options),
    )  # fmt: skip
    if len(left):
        left = left[_places(recipe.selector.function(candidates, reach, rng), len(left), reach, recipe.select)]
    if recipe.balance:
        left = _balance(left, full, context, k)
    return left


def _places(places: Positions, n: int, k: int, name: str) -> Positions:
    """What a selector returned, if that is min(k, n) different positions of n candidates; ModelError else."""
    places = np.asarray(places)
    whole = places.ndim == 1 and np.issubdtype(places.dtype, np.integer) and len(places) == min(k, n)
    if not whole or len(np.unique(places)) < len(places) or (len(places) and not 0 <= places.min() <= places.max() < n):
        raise ModelError(
            f"the selector {name!r} returned {places.dtype} of shape {places.shape}; allowed: {min(k, n)} different whole numbers from 0 "
            f"to {n - 1}"
        )
    return places


def _balance(left: Positions, full: Predictions | None, context: Context, k: int) -> Positions:
    if full is None or "label_log_probs" not in full.arrays:
        raise ModelError("balance needs the array 'label_log_probs' of the tuned model")
    likeliest = np.exp(full.arrays["label_log_probs"]).mean(axis=0).argmax(axis=-1)
    counts = [context.labelled_classes.get(label, 0) for label in full.labels]
    return selectors.balance(likeliest, left, counts, k)


def _race_rows(race: Race, before: Sequence[str], ids: Names) -> Race:
    """The race for `ids`, in that order, of one over the examples `before`."""
    rows = _places_of(ids, _names(before))
    back = np.full(len(before), -1, dtype=np.intp)
    back[rows] = np.arange(len(rows))
    picks = back[race.picks]
    return Race(picks[picks >= 0], race.means[rows], race.passes[rows], race.total)


def _rows(predictions: Predictions | None, ids: Names, model: str) -> Predictions | None:
    """The predictions for `ids`, in that order."""
    if predictions is None:
        return None
    rows = _places_of(ids, _names(predictions.ids))
    if (rows < 0).any():
        raise ModelError(
            f"the {model} model's predictions lack {(rows < 0).sum()} of {len(ids)} candidates, first "
            f"{ids[int(np.argmin(rows))].decode()}"
        )
    return predictions.rows(rows)


def _names(ids: Sequence[str]) -> Names:
    """Ids as an array of bytes, which sorts as they do and takes a fifth of the memory."""
    width = max((len(id.encode()) for id in ids), default=1)
    return np.fromiter((id.encode() for id in ids), f"S{width}", len(ids))


def _places_of(ids: Names, among: Names) -> Positions:
    """The position of every id among others, -1 where it is not there."""
    order = np.argsort(among, kind="stable")
    places = np.append(order, -1)[np.searchsorted(among, ids, sorter=order)]
    return np.where(among[places] == ids, places, -1) if len(among) else places
