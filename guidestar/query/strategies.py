"""Query strategies: a recipe names the steps, `choose` carries them out.

score → clip outliers → drop near-duplicates → prefilter → select → balance

A strategy sees ids, arrays and counts; neither examples nor labels of the pool ever reach this room.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from guidestar.config import MixConfig, StrategyConfig
from guidestar.errors import ConfigError, ModelError, allowed
from guidestar.query import mixing, selectors
from guidestar.query.measures import MEASURES, default_measure, evaluate_measure, measure_problems
from guidestar.query.selectors import Positions
from guidestar.records import Array, Pick, Predictions

BALANCE_REACH = 4  # a balanced batch is filled from this many times its size


@dataclass(frozen=True)
class Recipe:
    """What a strategy is made of; every part may stand alone.

    doc: one line for lists of strategies.
    measure: name of an uncertainty measure, "auto" (entropy for a choice, else response_entropy) or None.
    passes: K Monte-Carlo passes with the adapter's dropout on; 0 is one plain pass.
    mix: how base and full uncertainty are mixed, or None for the tuned model's alone.
    clip_outliers: share of the highest scores left out as likely noise.
    near_duplicates: cosine (centred) from which on a candidate is left out beside a better one, or None. It
        compares the base model's embeddings, which are computed once and do not move with the tuning.
    prefilter: keep this many times the batch of the highest scores for the selector, or None.
    select: how the batch is drawn from what is left.
    balance: fill the batch by predicted class, rarest labelled class first.
    """

    doc: str
    measure: str | None = None
    passes: int = 0
    mix: MixConfig | None = None
    clip_outliers: float = 0.0
    near_duplicates: float | None = None
    prefilter: float | None = None
    select: Literal["top", "k_center", "k_means", "random"] = "top"
    balance: bool = False

    def measure_for(self, kind: str) -> str | None:
        """The measure's name, "auto" resolved for a task kind.

        >>> STRATEGIES["star"].measure_for("number")
        'response_entropy'
        """
        if self.measure == "auto":
            return default_measure(kind)
        return self.measure


_STAR = Recipe(
    "STAR: mean entropy of 3 dropout passes, mixed with the base model's, which fades over the rounds",
    measure="auto",
    passes=3,
    mix=MixConfig(),
)

STRATEGIES: dict[str, Recipe] = {
    "random": Recipe("uniformly at random: the control", select="random"),
    "entropy": Recipe("highest entropy over the labels", measure="entropy"),
    "least_confidence": Recipe("lowest probability of the likeliest label", measure="least_confidence"),
    "margin": Recipe("smallest gap between the two likeliest labels", measure="margin"),
    "response_entropy": Recipe("highest entropy summed over the response", measure="response_entropy"),
    "mc_entropy": Recipe("highest mean entropy of 10 dropout passes", measure="auto", passes=10),
    "bald": Recipe("highest mutual information of label and adapter, 10 dropout passes", measure="bald", passes=10),
    "star": _STAR,
    "star_diverse": dataclasses.replace(
        _STAR,
        doc="STAR's 4 batches of highest scores without near-duplicates, then greedy k-centre",
        prefilter=4.0,
        near_duplicates=0.98,
        select="k_center",
    ),
    "k_center": Recipe("greedy k-centre on the model's hidden states (core-set)", select="k_center"),
    "uncertain_k_center": Recipe(
        "4 batches of highest entropy without near-duplicates, then greedy k-centre",
        measure="auto",
        prefilter=4.0,
        near_duplicates=0.98,
        select="k_center",
    ),
    "uncertain_k_means": Recipe(
        "4 batches of highest entropy without near-duplicates, then k-means weighted by entropy",
        measure="auto",
        prefilter=4.0,
        near_duplicates=0.98,
        select="k_means",
    ),
    "oracle_predictive_entropy": Recipe(
        "highest loss on the gold response (simulation only)", measure="oracle_predictive_entropy"
    ),
    "oracle_star": dataclasses.replace(
        _STAR,
        doc="STAR on the loss on the gold response (simulation only)",
        measure="oracle_predictive_entropy",
    ),
}


# --- before the run -----------------------------------------------------------------------------


def resolve(config: StrategyConfig) -> Recipe:
    """The recipe a configuration names, with what differs from it; a key left out keeps the recipe's value.

    Raises ConfigError if the strategy or its measure is unknown.
    >>> resolve(StrategyConfig(use="star", passes=5)).passes
    5
    """
    if config.use not in STRATEGIES:
        raise ConfigError(f"strategy {config.use!r} is unknown; {allowed(STRATEGIES, config.use)}")
    if config.measure is not None and config.measure not in ("auto", *MEASURES):
        options = allowed(["auto", *MEASURES], config.measure)
        raise ConfigError(f"strategy {config.title!r}: measure {config.measure!r} is unknown; {options}")
    changes: dict[str, Any] = {
        key: getattr(config, key)
        for key in (
            "measure",
            "passes",
            "mix",
            "clip_outliers",
            "near_duplicates",
            "prefilter",
            "select",
            "balance",
        )
        if getattr(config, key) is not None
    }
    if config.mix == "none":
        changes["mix"] = None
    return dataclasses.replace(STRATEGIES[config.use], **changes)


def check(
    recipe: Recipe, kind: str, simulation: bool, peft: Mapping[str, Any], b_dropout: float | None = None
) -> list[str]:
    """Every reason why a recipe cannot be used, in sentences; empty if it can.

    kind: "choice", "number" or "text". simulation: whether the pool's gold answers are known. peft: the
    adapter by PEFT's own keys. b_dropout: rate of the dropout before LoRA's B, or None.
    >>> check(STRATEGIES["star"], "choice", simulation=False, peft={"peft_type": "LORA", "lora_dropout": 0.1})
    []
    """
    problems = _misfits(recipe)
    name = recipe.measure_for(kind)
    if name is not None:
        problems += measure_problems(name, kind, simulation)
        least = MEASURES[name].min_passes if name in MEASURES else 1
        if least > max(recipe.passes, 1):
            problems.append(f"passes is {recipe.passes}; measure {name!r} needs at least {least}")
        if least > 1 and recipe.mix is not None:
            problems.append(f"mix: measure {name!r} needs {least} passes, and the base model has one; set mix: none")
    peft_type = str(peft.get("peft_type", "LORA")).upper()
    if recipe.passes and peft_type == "FULL":
        problems.append(
            f"passes is {recipe.passes}, but full fine-tuning has no adapter whose dropout could be sampled, and the "
            "model's own stays off; set passes to 0"
        )
    elif recipe.passes and not b_dropout and not any("dropout" in key and value for key, value in peft.items()):
        key = "lora_dropout" if "LORA" in peft_type else "a dropout key"
        problems.append(
            f"passes is {recipe.passes}, but the {peft_type} adapter has no dropout, so that all passes "
            f"would be equal; set {key} in `peft` above 0, or passes to 0"
        )
    if recipe.balance and kind != "choice":
        problems.append(f"balance needs predicted classes, which the task kind {kind!r} does not have; allowed: choice")
    return problems


def needs(recipe: Recipe, kind: str) -> tuple[frozenset[str], frozenset[str]]:
    """Names of the arrays to predict with the tuned model and with the base model.

    >>> [sorted(names) for names in needs(STRATEGIES["star_diverse"], "choice")]
    [['embedding', 'label_log_probs'], ['embedding', 'label_log_probs']]
    """
    name = recipe.measure_for(kind)
    measured = frozenset(MEASURES[name].needs) if name is not None else frozenset()
    full, base = measured, (measured if recipe.mix is not None else frozenset())
    if recipe.select in ("k_center", "k_means"):
        full |= {"embedding"}
    if recipe.balance:
        full |= {"label_log_probs"}
    if recipe.near_duplicates is not None:
        base |= {"embedding"}
    return full, base


def _misfits(recipe: Recipe) -> list[str]:
    """Steps of a recipe that cannot go together, whatever the task."""
    problems = []
    if recipe.measure is None:
        if recipe.select == "top":
            problems.append("select is 'top', which needs a measure to rank by")
        for key, unset in (("mix", None), ("prefilter", None), ("clip_outliers", 0.0), ("passes", 0)):
            if getattr(recipe, key) != unset:
                problems.append(f"{key} is set, but there is no measure for it to work on")
    return problems


# --- one query ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a strategy may know when it chooses.

    t: queries made before this one, the warm start not counted. rounds: points of the learning curve.
    full, base: predictions of the tuned and of the base model for the candidates at least.
    labelled: predictions for the labelled examples, of which the embeddings are used.
    labelled_classes: label -> labels so far. kind: "choice", "number" or "text".
    schedule: a user's λ(t, rounds) in place of the recipe's.
    """

    t: int
    rounds: int
    kind: str
    full: Predictions | None = None
    base: Predictions | None = None
    labelled: Predictions | None = None
    labelled_classes: Mapping[str, int] = field(default_factory=dict)
    schedule: mixing.Schedule | None = None


@dataclass(frozen=True)
class Selection:
    """The picks in the order of asking, and the scores of all candidates.

    scores: "score", "full" and "base" -> (n,) in the order of the candidates; what the recipe does not
        compute is absent.
    """

    picks: tuple[Pick, ...]
    scores: Mapping[str, Array]


def choose(
    recipe: Recipe,
    candidates: Sequence[str],
    context: Context,
    k: int,
    rng: np.random.Generator,
    random_share: float = 0.0,
) -> Selection:
    """Choose min(k, n) of the candidates.

    random_share: this share of the batch, rounded, is drawn uniformly from all candidates before anything
    else, so that it is an unbiased sample of them; its picks carry the detail {"random": 1.0}.
    The candidates are put in the order of their ids first: the same set gives the same picks, however sorted.
    Raises ConfigError for steps that do not fit together, ModelError for missing or unusable numbers,
    ValueError if an id occurs twice.
    >>> full = Predictions(("a", "b"), {"label_log_probs": np.log([[[0.5, 0.5], [0.75, 0.25]]])})
    >>> context = Context(t=0, rounds=10, kind="choice", full=full)
    >>> choose(STRATEGIES["margin"], ["a", "b"], context, 1, np.random.default_rng(0)).picks
    (Pick(id='a', score=1.0, details={'full': 1.0}),)
    """
    if problems := _misfits(recipe):
        raise ConfigError("\n".join(problems))
    place = {id: i for i, id in enumerate(candidates)}
    if len(place) < len(candidates):
        raise ValueError("the candidates contain an id twice")
    ids = sorted(candidates)
    full, base = _rows(context.full, ids, "tuned"), _rows(context.base, ids, "base")
    scores, lam = _score(recipe, full, base, context)

    k = min(k, len(ids))
    lucky = selectors.random(len(ids), round(random_share * k), rng)
    others = np.setdiff1d(np.arange(len(ids)), lucky)
    chosen = _compose(recipe, others, scores.get("score"), full, base, context, k - len(lucky), rng)

    def pick(i: int, random: bool) -> Pick:
        details = {name: float(values[i]) for name, values in scores.items() if name != "score"}
        if lam is not None:
            details["lambda"] = lam
        if random:
            details["random"] = 1.0
        return Pick(ids[i], float(scores["score"][i]) if "score" in scores else math.nan, details)

    back = np.argsort([place[id] for id in ids])  # from the order of ids to that of the candidates
    return Selection(
        tuple([pick(int(i), random=True) for i in lucky] + [pick(int(i), random=False) for i in chosen]),
        {name: values[back] for name, values in scores.items()},
    )


def _score(
    recipe: Recipe, full: Predictions | None, base: Predictions | None, context: Context
) -> tuple[dict[str, Array], float | None]:
    """ "score" and its parts for every id, and λ where there is a mix."""
    name = recipe.measure_for(context.kind)
    if name is None:
        return {}, None
    if full is None:
        raise ModelError(f"measure {name!r} needs predictions of the tuned model, and there are none")
    scores = {"full": evaluate_measure(name, full)}
    if recipe.mix is None:
        return {"score": scores["full"]} | scores, None
    if base is None:
        raise ModelError("mix needs predictions of the base model, and there are none")
    scores["base"] = evaluate_measure(name, base)
    schedule = context.schedule or mixing.schedule_for(recipe.mix)
    lam = mixing.weight(schedule, context.t, context.rounds)
    return {"score": mixing.mix(scores["base"], scores["full"], lam, recipe.mix.scale)} | scores, lam


def _compose(
    recipe: Recipe,
    left: Positions,
    score: Array | None,
    full: Predictions | None,
    base: Predictions | None,
    context: Context,
    k: int,
    rng: np.random.Generator,
) -> Positions:
    """The steps after scoring, on the positions `left`; `left` is kept best first between the steps."""
    if recipe.clip_outliers and score is not None:
        left = left[selectors.clip_outliers(score[left], recipe.clip_outliers, at_least=k)]
    if score is None:
        left = left[selectors.random(len(left), len(left), rng)]
    else:
        left = left[selectors.top(score[left], len(left), rng)]
    reach = k * BALANCE_REACH if recipe.balance else k
    wanted = reach if recipe.prefilter is None else max(k, math.ceil(recipe.prefilter * k))
    if recipe.near_duplicates is not None:
        enough = wanted if recipe.prefilter is not None or recipe.select == "top" else None
        points = _embedding(base, "the candidates by the base model")
        left = selectors.drop_near_duplicates(points, left, recipe.near_duplicates, k, enough)
    if recipe.prefilter is not None:
        left = left[:wanted]
    left = left[_select(recipe, left, score, full, context, reach, rng)]
    if recipe.balance:
        left = _balance(left, full, context, k)
    return left


def _select(
    recipe: Recipe,
    left: Positions,
    score: Array | None,
    full: Predictions | None,
    context: Context,
    k: int,
    rng: np.random.Generator,
) -> Positions:
    """Places in `left`, which is sorted best first."""
    here = None if score is None else score[left]
    if recipe.select == "top":
        return np.arange(min(k, len(left)))
    if recipe.select == "random":
        return selectors.random(len(left), k, rng)
    points = _embedding(full, "the candidates")[left]
    if recipe.select == "k_means":
        return selectors.k_means(points, k, rng, None if here is None else np.maximum(here, 0.0))
    labelled = None if context.labelled is None else _embedding(context.labelled, "the labelled examples")
    return selectors.k_center(points, labelled, k, rng, here)


def _balance(left: Positions, full: Predictions | None, context: Context, k: int) -> Positions:
    if full is None or "label_log_probs" not in full.arrays:
        raise ModelError("balance needs the array 'label_log_probs' of the tuned model")
    predicted = np.exp(full.arrays["label_log_probs"]).mean(axis=0).argmax(axis=-1)
    counts = [context.labelled_classes.get(label, 0) for label in full.labels]
    return selectors.balance(predicted, left, counts, k)


def _rows(predictions: Predictions | None, ids: Sequence[str], model: str) -> Predictions | None:
    """The predictions for `ids`, in that order."""
    if predictions is None or predictions.ids == tuple(ids):
        return predictions
    place = {id: i for i, id in enumerate(predictions.ids)}
    if missing := [id for id in ids if id not in place]:
        raise ModelError(
            f"the {model} model's predictions lack {len(missing)} of {len(ids)} candidates, first {missing[0]}"
        )
    return predictions.rows(np.array([place[id] for id in ids], dtype=np.intp))


def _embedding(predictions: Predictions | None, what: str) -> Array:
    if predictions is None or "embedding" not in predictions.arrays:
        raise ModelError(f"the strategy needs the array 'embedding' of {what}, which was not predicted")
    return predictions.arrays["embedding"][0]
