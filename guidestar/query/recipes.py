"""The table of strategies: recipes that name the steps of a query, and what can be wrong with one.

score → clip outliers → drop near-duplicates → prefilter → select → balance
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from guidestar.config import MixConfig, StrategyConfig
from guidestar.errors import ConfigError, allowed
from guidestar.query import table
from guidestar.query.measures import MEASURES, default_measure, measure_problems
from guidestar.query.racing import FIRST
from guidestar.query.subpool import SUBPOOLS

SAMPLES = 10  # responses that a measure of sampled answers looks at, unless configured
SOURCES: dict[tuple[str, str], str] = {}  # (table, name) -> SHA-256 of the user's file that it came from (`own`)
SUBPOOL_SIZE = 1000  # candidates that are scored of a sub-pool, unless configured

Role = Literal["recommended", "paper", "comparison"]
ABOUT = frozenset({"doc", "role", "source"})  # fields of a recipe that change nothing that it does


@dataclass(frozen=True)
class Recipe:
    """What a strategy is made of; every part may stand alone.

    doc: one line for lists of strategies. role: why it is in the table. source: key of docs/bibliography.md, None for what
        is common or our own.
    measure: name of an uncertainty measure, "auto" (entropy for a choice, else response_entropy) or None.
    model: "frozen" where label probabilities and embeddings are those of a classifier on frozen features
        (`query/probe.py`), and anything else the tuned model's; "mixed" where the probabilities are both models', mixed by a
        measured λ (`mixing.measured`); None is the tuned model's all.
    warm_start: how round 0 is chosen, a name of `WARM_STARTS`; None is at random.
    passes: K Monte-Carlo passes with the adapter's dropout on; 0 is one plain pass.
    dropout: "model" for passes with the model's own dropout on too, as in its training; None is the adapter's alone.
    committee: the K passes are K adapters trained on the same labels from different seeds; None is the round's alone.
    samples, temperature: K responses to sample and how, for a measure of sampled answers; None is 10 at 1.0 there.
    mix: how base and full uncertainty are mixed, or None for the tuned model's alone. A selector that mixes distances
        takes its λ from here too.
    clip_outliers: share of the highest scores left out as likely noise.
    near_duplicates: cosine (centred) from which on a candidate is left out beside a better one, or None. It
        compares the base model's embeddings, which are computed once and do not move with the tuning.
    prefilter: keep this many times the batch of the highest scores for the selector, or None.
    select: how the batch is drawn from what is left; a name of `SELECTORS`.
    balance: fill the batch by predicted class, rarest labelled class first.
    options: numbers that the selector is told, or None for its defaults.
    subpool: score only a part of the candidates, found by similarity; a name of `SUBPOOLS`, or None for all.
    subpool_size: how many of them; None is 1,000.
    racing: make only as many passes over a candidate as it takes to tell whether it is in the batch.
    code: SHA-256 of the users' files that parts of it come from; None where all are this package's. Set by `resolve`.
    """

    doc: str
    measure: str | None = None
    passes: int = 0
    mix: MixConfig | None = None
    clip_outliers: float = 0.0
    near_duplicates: float | None = None
    prefilter: float | None = None
    select: str = "top"
    balance: bool = False
    options: Mapping[str, float] | None = None
    subpool: str | None = None
    subpool_size: int | None = None
    racing: bool = False
    committee: int | None = None
    dropout: str | None = None
    samples: int | None = None
    temperature: float | None = None
    code: str | None = None
    model: str | None = None
    warm_start: str | None = None
    role: Role = "comparison"
    source: str | None = None

    @property
    def sampled(self) -> int:
        """Responses to sample of every candidate; 0 if the measure reads none."""
        return (self.samples or SAMPLES) if self.measure in MEASURES and MEASURES[self.measure].sampled else 0

    @property
    def walks(self) -> int:
        """How often the tuned models go through the candidates: passes, members, or sampled responses."""
        return max(self.passes, self.committee or 0, self.sampled, 1)

    def measure_for(self, kind: str) -> str | None:
        """The measure's name, "auto" resolved for a task kind.

        >>> STRATEGIES["star"].measure_for("number")
        'response_entropy'
        """
        if self.measure == "auto":
            return "margin" if self.by_probe and kind == "choice" else default_measure(kind)
        return self.measure

    @property
    def by_probe(self) -> frozenset[str]:
        """Arrays that a classifier on frozen features gives."""
        return table.EMBEDDING | table.PREDICTED if self.model in ("frozen", "mixed") else frozenset()

    def by_tuned(self, needs: frozenset[str]) -> frozenset[str]:
        """Those of some arrays that the tuned model is asked for."""
        return needs - self.by_probe | (needs & table.PREDICTED if self.model == "mixed" else frozenset())

    @property
    def selector(self) -> table.Selector:
        """The entry of `SELECTORS` that draws the batch."""
        return table.SELECTORS[self.select]


_STAR = MixConfig()
_DISTINCT: dict[str, Any] = {"measure": "auto", "prefilter": 4.0, "near_duplicates": 0.98}  # for selectors by distance


def _paper(doc: str, source: str, **parts: Any) -> Recipe:
    return Recipe(doc, role="paper", source=source, **parts)


STRATEGIES: dict[str, Recipe] = {
    "random": Recipe("uniformly at random: the control", select="random"),
    "entropy": Recipe("highest entropy over the labels", measure="entropy", source="lewis1994"),
    "least_confidence": Recipe(
        "lowest probability of the likeliest label", measure="least_confidence", source="lewis1994"
    ),
    "margin": Recipe("smallest gap between the two likeliest labels", measure="margin", source="scheffer2001"),
    "response_entropy": Recipe(
        "highest entropy summed over the response", measure="response_entropy", source="zhang2024"
    ),
    "mc_entropy": Recipe("highest mean entropy of 10 dropout passes", measure="auto", passes=10, source="gal2017"),
    "bald": _paper(
        "highest mutual information of label and adapter, 10 dropout passes", "houlsby2011", measure="bald", passes=10,
    ),
    "star": _paper(
        "STAR: mean entropy of 3 dropout passes, mixed with the base model's, which fades over the rounds", "zhang2024", measure="auto", passes=3, mix=_STAR,
    ),
    "star_diverse": Recipe(
        "STAR's 4 batches of highest scores without near-duplicates, then greedy k-centre", source="zhang2024",
        passes=3, mix=_STAR, select="k_center", **_DISTINCT,
    ),
    "k_center": _paper("greedy k-centre on the model's hidden states (core-set)", "sener2018", select="k_center"),
    "uncertain_k_center": Recipe(
        "4 batches of highest entropy without near-duplicates, then greedy k-centre", source="sener2018",
        select="k_center", **_DISTINCT,
    ),
    "uncertain_k_means": Recipe(
        "4 batches of highest entropy without near-duplicates, then k-means weighted by entropy", select="k_means",
        **_DISTINCT,
    ),
    "mc": _paper(
        "entropy of the mean of 30 dropout passes (the MC of Jukić and Šnajder)", "jukic2023",
        measure="entropy_of_mean", passes=30,
    ),
    "consistency": Recipe(
        "least agreement between the answers of 10 sampled responses", measure="answer_consistency", source="wang2023"
    ),
    "committee": _paper(
        "highest entropy of the votes of 5 adapters trained from different seeds", "dagan1995",
        measure="vote_entropy", committee=5,
    ),
    "committee_bald": Recipe(
        "highest mutual information of label and adapter, 5 adapters trained from different seeds", measure="bald",
        committee=5, source="houlsby2011",
    ),
    "representation_gradient": _paper(
        "largest gradient of the representation by the input embeddings", "jukic2023b",
        measure="representation_gradient",
    ),
    "batch_bald": _paper(
        "highest joint mutual information of the batch's labels and the adapter, 10 dropout passes of one model each",
        "kirsch2019", passes=10, select="batch_bald",
    ),
    "badge": _paper("k-means++ on the gradients of the model's own answers", "ash2020", select="badge"),
    "k_means": Recipe("nearest to each of k centroids of the model's hidden states", select="k_means"),
    "facility_location": _paper(
        "every example finds something similar in the batch", "wei2015", select="facility_location"
    ),
    "log_det": _paper("D-optimal design on the model's hidden states (FisherSFT)", "deb2025", select="log_det"),
    "dal": _paper(
        "least like the labelled, by a classifier of labelled against unlabelled", "gissin2019",
        select="discriminative",
    ),
    "cal": _paper(
        "predictions that differ most from those of similar labelled examples", "margatina2021", select="contrast",
    ),
    "typiclust": _paper(
        "most typical of the largest clusters without a label, base model's states", "hacohen2022", select="typical",
    ),
    "herding": _paper(
        "greedy: covers most of the pool, by frozen features (MaxHerding)", "bae2024", select="herding",
        model="frozen", warm_start="herding",
    ),
    "uncertainty_herding": _paper(
        "greedy: covers most of what the tuned model doubts, by its own states (Uncertainty Herding)", "bae2025", measure="auto", select="herding",
    ),
    "lean": Recipe(
        "greedy: covers most of what a classifier on frozen features doubts; the first labels are chosen, too",
        role="recommended", source="bae2025", measure="auto", select="herding", model="frozen", warm_start="herding",
    ),
    "prob_cover": _paper("most examples within a radius, base model's states", "yehuda2022", select="prob_cover"),
    "star_k_center": Recipe(
        "greedy k-centre on STAR's mix of distances in the base and in the tuned model, each divided by its radius",
        source="zhang2024", mix=MixConfig(scale="minmax"), select="mixed_k_center",
    ),
    "power_entropy": _paper("drawn in proportion to the entropy", "kirsch2023", measure="entropy", select="power"),
    "gibbs_entropy": _paper("drawn in proportion to exp(entropy/σ)", "kirsch2023", measure="entropy", select="gibbs"),
    "uncertain_badge": Recipe(
        "10 batches of highest entropy, then BADGE", source="ash2020", measure="entropy", prefilter=10.0, select="badge"
    ),
    "uncertain_coverage": _paper(
        "10 batches of highest entropy, then facility location", "wei2015", measure="auto", prefilter=10.0,
        select="facility_location",
    ),
    "anchor_entropy": _paper(
        "highest entropy of the 1,000 candidates most like anchors of every class (AnchorAL)", "lesci2024",
        measure="entropy", subpool="anchors",
    ),
    "seals_entropy": _paper(
        "highest entropy of the 1,000 nearest neighbours of the labelled (SEALS)", "coleman2022",
        measure="entropy", subpool="neighbours",
    ),
    "oracle_predictive_entropy": Recipe(
        "highest loss on the gold response (simulation only)", measure="oracle_predictive_entropy", source="zhang2024"
    ),
    "oracle_star": Recipe(
        "STAR on the loss on the gold response (simulation only)", measure="oracle_predictive_entropy", passes=3,
        mix=_STAR, source="zhang2024",
    ),
}  # fmt: skip


# --- before the run -----------------------------------------------------------------------------

_OWN = "; one of your own comes with: guidestar --code FILE.py …"


def resolve(config: StrategyConfig) -> Recipe:
    """The recipe a configuration names, with what differs from it; a key left out keeps the recipe's value.

    Raises ConfigError if the strategy or its measure, selector or sub-pool is unknown.
    >>> resolve(StrategyConfig(use="star", passes=5)).passes
    5
    """
    if config.use not in STRATEGIES:
        raise ConfigError(f"strategy {config.use!r} is unknown; {allowed(STRATEGIES, config.use)}{_OWN}")
    for problem in unknown_parts(config):
        raise ConfigError(f"strategy {config.title!r}: {problem}{_OWN}")
    names = [field.name for field in dataclasses.fields(Recipe) if field.name not in ABOUT | {"code"}]
    changes: dict[str, Any] = {name: value for name in names if (value := getattr(config, name)) is not None}
    if config.mix == "none":
        changes["mix"] = None
    if config.model == "tuned":
        changes["model"] = None
    recipe = dataclasses.replace(STRATEGIES[config.use], **changes)
    parts = (("STRATEGIES", config.use), ("MEASURES", recipe.measure), ("SELECTORS", recipe.select))
    sources = sorted({SOURCES[table, name] for table, name in parts if name is not None and (table, name) in SOURCES})
    return dataclasses.replace(recipe, code=" ".join(sources) or None)


def unknown_parts(made: StrategyConfig | Recipe) -> list[str]:
    """Names of a measure, selector or sub-pool that no table has, in sentences."""
    known = {"measure": ["auto", *MEASURES], "select": table.SELECTORS, "subpool": SUBPOOLS}
    given = {key: getattr(made, key) for key in known}
    unknown = {key: name for key, name in given.items() if name not in (None, *known[key])}
    return [f"{key} {name!r} is unknown; {allowed(known[key], name)}" for key, name in unknown.items()]


def check(
    recipe: Recipe, kind: str, simulation: bool, peft: Mapping[str, Any], b_dropout: float | None = None
) -> list[str]:
    """Every reason why a recipe cannot be used, in sentences; empty if it can.

    kind: "choice", "multi_label", "number" or "text". simulation: whether the pool's gold answers are known. peft: the
    adapter by PEFT's own keys. b_dropout: rate of the dropout before LoRA's B, or None.
    >>> check(STRATEGIES["star"], "choice", simulation=False, peft={"peft_type": "LORA", "lora_dropout": 0.1})
    []
    """
    name, selector, passes = recipe.measure_for(kind), recipe.selector, recipe.passes
    measure, peft_type = MEASURES.get(name or ""), str(peft.get("peft_type", "LORA")).upper()
    dropout = b_dropout or any("dropout" in key and value for key, value in peft.items())
    means = sorted(n for n, m in MEASURES.items() if not m.over_passes and m.max_passes is None and kind in m.tasks)
    rules: list[tuple[object, str]] = [
        (recipe.racing and measure is not None and measure.over_passes,
         f"racing compares means over passes, and measure {name!r} is none; {allowed(means)}"),
        (recipe.committee and passes,
         f"committee is {recipe.committee} and passes is {passes}, but the members are the passes; set passes to 0"),
    ]  # fmt: skip
    problems = misfits(recipe) + table.option_problems(recipe.select, recipe.options)
    problems += [why for wrong, why in rules if wrong] + (measure_problems(name, kind, simulation) if name else [])
    least, most = (measure.min_passes, measure.max_passes) if measure is not None else (1, None)
    rules = [
        (recipe.sampled and recipe.committee, f"committee is {recipe.committee}, but measure {name!r} samples from one model"),
        (not recipe.sampled and least > max(passes, recipe.committee or 1),
         f"passes is {passes}; measure {name!r} needs at least {least}"),
        (not recipe.sampled and recipe.committee and most == 0,
         f"committee is {recipe.committee}, but measure {name!r} is defined for one model"),
        (least > 1 and recipe.mix is not None,
         f"mix: measure {name!r} needs {least} passes, and the base model has one; set mix: none"),
        (most is not None and passes > most,
         f"passes is {passes}; measure {name!r} is defined for one plain pass; set passes to {most}"
         + ("; how many responses are sampled is `samples`" if recipe.sampled else "")),
        (recipe.dropout == "model" and selector.one_model,
         f"dropout is model, but select {recipe.select!r} draws the adapter's alone; leave dropout out"),
        (recipe.dropout != "model" and passes and peft_type == "FULL",
         f"passes is {passes}, but full fine-tuning has no adapter whose dropout could be sampled, and the model's own stays off; "
         "set passes to 0, or dropout to model where the model was trained with some"),
        (recipe.dropout != "model" and passes and peft_type != "FULL" and not dropout,
         f"passes is {passes}, but the {peft_type} adapter has no dropout, so that all passes would be equal; set "
         f"{'lora_dropout' if 'LORA' in peft_type else 'a dropout key'} in `peft` above 0, or passes to 0, or dropout to model where "
         "the model has its own"),
        (kind not in selector.tasks,
         f"select {recipe.select!r} is not defined for the task kind {kind!r}; {allowed(sorted(selector.tasks))}"),
        (recipe.subpool == "anchors" and kind != "choice",
         f"subpool 'anchors' needs classes, which the task kind {kind!r} does not have; allowed: choice"),
        (recipe.model == "mixed" and kind != "choice",
         f"model is mixed, and the task kind {kind!r} has no probabilities of one label; allowed: frozen"),
        (recipe.balance and kind != "choice",
         f"balance needs predicted classes, which the task kind {kind!r} does not have; allowed: choice"),
    ]  # fmt: skip
    return problems + [why for wrong, why in rules if wrong]


def remarks(recipe: Recipe, kind: str) -> list[str]:
    """What is allowed and was seen to do harm, in sentences (docs/questions.md, question 2).

    >>> remarks(STRATEGIES["star"], "choice"), len(remarks(STRATEGIES["star"], "text"))
    ([], 1)
    """
    name, mix = recipe.measure_for(kind), recipe.mix
    if mix is None or mix.scale == "published" or name is None or MEASURES[name].needs == ("label_log_probs",):
        return []
    return [
        f"mix.scale is {mix.scale}, and {name} of a model that is not tuned for the task is so large and so uneven that it "
        "chooses alone, whatever λ is; mix: {scale: published} gives it less say"
    ]


def needs(recipe: Recipe, kind: str) -> tuple[frozenset[str], frozenset[str]]:
    """Names of the arrays to predict for the candidates with the tuned model and with the base model.

    >>> [sorted(names) for names in needs(STRATEGIES["star_diverse"], "choice")]
    [['embedding', 'label_log_probs'], ['embedding', 'label_log_probs']]
    """
    name = recipe.measure_for(kind)
    measured = frozenset(MEASURES[name].needs) if name is not None else frozenset()
    full = measured | recipe.selector.full
    base = recipe.selector.base
    if recipe.mix is not None:
        base |= measured
    if recipe.balance:
        full |= {"label_log_probs"}
    if recipe.near_duplicates is not None or recipe.subpool is not None:
        base |= {"embedding"}
    return full, base


def labelled_needs(recipe: Recipe) -> tuple[frozenset[str], frozenset[str]]:
    """Names of the arrays to predict for the labelled examples with the tuned model and with the base model.

    >>> [sorted(names) for names in labelled_needs(STRATEGIES["cal"])]
    [['embedding', 'label_log_probs'], []]
    """
    base = recipe.selector.labelled_base
    if recipe.subpool is not None:
        base |= {"embedding"}
    return recipe.selector.labelled, base


def misfits(recipe: Recipe) -> list[str]:
    """Steps of a recipe that cannot go together, whatever the task, in sentences."""
    selector, mix, problems = recipe.selector, recipe.mix, []
    if recipe.measure is None:
        voted = "label_log_probs" in selector.full
        used = {"mix": selector.mixes, "passes": voted, "committee": voted}
        problems = [f"select is {recipe.select!r}, which needs a measure to rank by"] if selector.scored else []
        keys = ("mix", "prefilter", "clip_outliers", "passes", "committee")
        idle = [key for key in keys if _is_set(recipe, key) and not used.get(key)]
        problems += [f"{key} is set, but there is no measure for it to work on" for key in idle]
    rules = [
        (selector.mixes and mix is None, f"select is {recipe.select!r}, which mixes distances and needs a mix"),
        (selector.mixes and mix is not None and mix.scale not in ("raw", "minmax"),
         f"mix.scale is {mix and mix.scale!r}, which distances do not have; allowed: raw, minmax"),
        (recipe.select == "power" and mix is not None and mix.schedule == "published",
         "mix.schedule is 'published', whose λ is below 0 from the eleventh round on, and select 'power' needs scores above 0; "
         "allowed: another schedule, or select gibbs or soft_rank"),
        (max(recipe.passes, recipe.committee or 0) < selector.min_passes,
         f"passes is {recipe.passes}; select {recipe.select!r} needs at least {selector.min_passes}"),
        *((not recipe.sampled and _is_set(recipe, key),
           f"{key} is set, but measure {recipe.measure!r} samples no responses; allowed with: answer_consistency")
          for key in ("samples", "temperature")),
        (bool(recipe.by_probe and (recipe.passes or recipe.committee or recipe.racing)),
         f"model is {recipe.model}, which has no dropout and no members; leave passes, committee and racing out"),
        (recipe.subpool is None and recipe.subpool_size is not None, "subpool_size is set, but there is no subpool"),
    ]  # fmt: skip
    return problems + [why for wrong, why in rules if wrong] + (_race_misfits(recipe) if recipe.racing else [])


def _is_set(recipe: Recipe, key: str) -> bool:
    """Whether a part of a recipe is another than it is without a word."""
    return bool(getattr(recipe, key) != getattr(Recipe, key))


def _race_misfits(recipe: Recipe) -> list[str]:
    """What a race cannot go with: it tells which k candidates have the highest mean, neither their order nor what
    comes behind them."""
    mix = recipe.mix
    rules = [
        (recipe.measure is None, "racing is set, but there is no measure to race by"),
        (recipe.passes <= FIRST,
         f"racing needs more than {FIRST} passes, found {recipe.passes}; set passes higher, or racing: false"),
        (recipe.select != "top",
         f"racing finds the highest scores and no more, which select {recipe.select!r} needs; allowed: top"),
        (mix is not None and mix.scale != "raw",
         f"racing: mix.scale is {mix and mix.scale!r}, which depends on all passes of all candidates; allowed: raw"),
        *((_is_set(recipe, key),
           f"racing tells which candidates have the highest scores, not their order, which {key} needs; leave {key} out, or set "
           "racing: false")
          for key in ("clip_outliers", "near_duplicates", "balance")),
    ]  # fmt: skip
    return [why for wrong, why in rules if wrong]
