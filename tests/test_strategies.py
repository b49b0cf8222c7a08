"""Strategies: the contract of every recipe, each step's effect, and checks before a run."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from contracts import STRATEGY_CONTRACT, context_for, ids_of

from guidestar.config import MixConfig, StrategyConfig
from guidestar.errors import ConfigError, ModelError
from guidestar.query.strategies import STRATEGIES, Context, Recipe, check, choose, labelled_needs, needs, resolve
from guidestar.query.table import SELECTORS
from guidestar.records import Example, Label, Predictions

LORA = {"peft_type": "LORA", "r": 16, "lora_dropout": 0.1}
SCORED = Recipe("test", measure="response_entropy")


@pytest.mark.parametrize("rule", STRATEGY_CONTRACT, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("name", STRATEGIES)
def test_contract(name, rule):
    rule(name)


def rng(seed=0):
    return np.random.default_rng(seed)


def scored(values, **arrays):
    """A context in which the candidates a0, a1, … have these response entropies, and further full arrays."""
    ids = tuple(f"a{i}" for i in range(len(values)))
    full = {"response_entropy": np.asarray(values, dtype=float)[None], **arrays}
    return ids, Context(t=0, rounds=10, kind="text", full=Predictions(ids, full))


def one_hot(classes, labels):
    """Nearly certain label log-probabilities, (1, n, labels)."""
    probabilities = np.full((len(classes), labels), 0.01 / (labels - 1))
    probabilities[np.arange(len(classes)), classes] = 0.99
    return np.log(probabilities)[None]


# --- what a strategy sees -----------------------------------------------------------------------


def test_no_type_that_reaches_a_strategy_can_hold_a_label():
    seen = [*dataclasses.fields(Context), *dataclasses.fields(Predictions)]
    assert not any(type_.__name__ in str(field.type) for field in seen for type_ in (Example, Label))


def test_only_oracles_ask_for_gold():
    for name, recipe in STRATEGIES.items():
        for kind in ("choice", "text"):
            full, base = needs(recipe, kind)
            assert any(need.startswith("gold_") for need in full | base) == name.startswith("oracle_")


def test_needs():
    assert needs(STRATEGIES["random"], "text") == (frozenset(), frozenset())
    assert needs(STRATEGIES["k_center"], "text") == ({"embedding"}, frozenset())
    assert needs(STRATEGIES["star"], "choice") == ({"label_log_probs"}, {"label_log_probs"})
    assert needs(STRATEGIES["star"], "number") == ({"response_entropy"}, {"response_entropy"})
    apart = dataclasses.replace(SCORED, near_duplicates=0.9, balance=True)
    assert needs(apart, "choice") == ({"response_entropy", "label_log_probs"}, {"embedding"})


# --- the steps ----------------------------------------------------------------------------------


def test_star_mixes_base_and_tuned_uncertainty_as_eq_5_and_7_say():
    recipe = STRATEGIES["star"]
    ids = ("a", "b", "c")
    full = Predictions(ids, {"response_entropy": np.array([[3.0, 0, 1], [1, 0, 2], [2, 3, 0]])})
    base = Predictions(ids, {"response_entropy": np.array([[0.0, 5, 1]])})
    found = {}
    for t in (0, 8):
        context = Context(t=t, rounds=10, kind="text", full=full, base=base)
        found[t] = choose(recipe, ids, context, 1, rng())
    np.testing.assert_allclose(found[0].scores["score"], [0.2, 4.6, 1.0])
    np.testing.assert_allclose(found[0].scores["full"], [2, 1, 1])
    assert ids_of(found[0]) == ["b"], "early, the base model decides"
    assert ids_of(found[8]) == ["a"], "late, the tuned model does"
    details = found[8].picks[0].details
    assert details == {"full": 2.0, "base": 0.0, "lambda": pytest.approx(0.1)}


@pytest.mark.parametrize("name", ["random", "entropy", "star_k_center"])
def test_ids_as_bytes_choose_what_ids_as_texts_do(name):
    """Among predictions for more examples, in another order; `sorted` is the literal order of the candidates."""
    ids, context = context_for(STRATEGIES[name])
    ids = ids[::-1][:-2]
    plain = choose(STRATEGIES[name], ids, context, 6, rng(), random_share=0.5)
    packed = choose(STRATEGIES[name], np.array([id.encode() for id in ids]), context, 6, rng(), random_share=0.5)
    assert packed.picks == plain.picks
    drawn = rng().permutation(len(ids))[:3]
    assert ids_of(plain)[:3] == [sorted(ids)[i] for i in drawn]


def test_a_users_schedule_takes_the_place_of_the_recipes():
    ids, context = context_for(STRATEGIES["star"])
    own = dataclasses.replace(context, schedule=lambda t, rounds: 1.0)
    found = choose(STRATEGIES["star"], ids, own, 5, rng())
    np.testing.assert_array_equal(found.scores["score"], found.scores["base"])


def test_the_scale_of_the_mix_is_taken_over_the_candidates():
    recipe = dataclasses.replace(STRATEGIES["star"], mix=MixConfig(scale="rank", schedule="constant"), passes=0)
    ids, context = context_for(recipe)
    few = choose(recipe, ids[:5], context, 1, rng())
    assert len(few.scores["score"]) == 5
    assert set(few.scores["score"] * 8) <= set(range(9)), "half ranks of five"


def test_top_and_clip_outliers():
    ids, context = scored([1, 9, 2, 8, 3, 4, 5, 6, 7, 0])
    assert ids_of(choose(SCORED, ids, context, 3, rng())) == ["a1", "a3", "a8"]
    clipped = dataclasses.replace(SCORED, clip_outliers=0.2)
    assert ids_of(choose(clipped, ids, context, 3, rng())) == ["a8", "a7", "a6"]
    assert len(ids_of(choose(clipped, ids, context, 10, rng()))) == 10, "never at the price of a short batch"


def test_prefilter_keeps_the_uncertain_for_the_selector():
    ids, context = scored(range(20), embedding=rng(1).normal(size=(1, 20, 4)))
    for select in ("random", "k_center", "k_means"):
        recipe = dataclasses.replace(SCORED, prefilter=2, select=select)
        assert {int(id[1:]) for id in ids_of(choose(recipe, ids, context, 5, rng()))} <= set(range(10, 20))


def test_near_duplicates_do_not_fill_a_batch():
    """Ten texts, twenty copies of each: plain STAR picks ten copies of the most uncertain one."""
    texts = np.repeat(np.arange(10), 20)
    entropy = 10.0 - texts + 1e-6 * rng(1).random(200)
    embedding = (rng(2).normal(size=(10, 8)) + 30)[texts][None]
    ids, context = scored(entropy, embedding=embedding)
    base = Predictions(ids, {"response_entropy": entropy[None], "embedding": embedding})
    context = dataclasses.replace(context, base=base)
    text_of = dict(zip(ids, texts.tolist(), strict=True))

    star = dataclasses.replace(STRATEGIES["star"], passes=0)
    assert {text_of[id] for id in ids_of(choose(star, ids, context, 10, rng()))} == {0}
    for recipe in (
        dataclasses.replace(STRATEGIES["star_diverse"], passes=0),
        dataclasses.replace(star, near_duplicates=0.98),
        dataclasses.replace(star, near_duplicates=0.98, select="random"),
        dataclasses.replace(star, near_duplicates=0.98, select="k_means"),
    ):
        picked = [text_of[id] for id in ids_of(choose(recipe, ids, context, 10, rng()))]
        assert sorted(picked) == list(range(10))
        assert len(choose(recipe, ids, context, 15, rng()).picks) == 15, "copies only where nothing else is left"

    recipe = dataclasses.replace(star, near_duplicates=0.98, prefilter=2, select="random")
    picked = {text_of[id] for seed in range(20) for id in ids_of(choose(recipe, ids, context, 4, rng(seed)))}
    assert picked == set(range(8)), "the selector chooses among twice the batch, all distinct"


def test_k_center_stays_away_from_what_is_labelled():
    points = np.array([[0.0], [0.1], [5.0], [9.0]])
    ids = ("a", "b", "c", "d")
    full = Predictions(ids, {"embedding": points[None]})
    known = Predictions(("x", "y"), {"embedding": np.array([[[0.0], [9.0]]])})
    context = Context(t=0, rounds=5, kind="text", full=full, labelled=known)
    for seed in range(8):
        assert ids_of(choose(STRATEGIES["k_center"], ids, context, 1, rng(seed))) == ["c"]


def test_balance_asks_for_the_rare_class_first():
    classes = np.array([0] * 12 + [1] * 4)
    ids, context = scored(np.arange(16)[::-1], label_log_probs=one_hot(classes, 2))
    full = dataclasses.replace(context.full, labels=("yes", "no"))
    context = dataclasses.replace(context, kind="choice", full=full, labelled_classes={"yes": 3, "no": 1})
    recipe = dataclasses.replace(SCORED, balance=True)
    assert ids_of(choose(SCORED, ids, context, 4, rng())) == ["a0", "a1", "a2", "a3"]
    assert ids_of(choose(recipe, ids, context, 4, rng())) == ["a12", "a13", "a0", "a14"]


def test_the_random_share_is_uniform_whatever_the_scores():
    ids, context = scored(range(10))
    hits = dict.fromkeys(ids, 0)
    for seed in range(500):
        found = choose(SCORED, ids, context, 4, rng(seed), random_share=0.5)
        lucky = [pick.id for pick in found.picks if "random" in pick.details]
        assert len(lucky) == 2
        assert len({pick.id for pick in found.picks}) == 4
        for id in lucky:
            hits[id] += 1
        best = [id for id in reversed(ids) if id not in lucky][:2]
        assert [pick.id for pick in found.picks if "random" not in pick.details] == best
    assert min(hits.values()) > 65, "100 are expected"
    assert max(hits.values()) < 135


def test_random_has_no_scores():
    ids = tuple("abcdef")
    found = choose(STRATEGIES["random"], ids, Context(t=0, rounds=3, kind="text"), 3, rng())
    assert found.scores == {}
    assert all(math.isnan(pick.score) for pick in found.picks)
    assert [pick.details for pick in found.picks] == [{"probability": pytest.approx(1 / n)} for n in (6, 5, 4)]


def test_random_can_note_what_a_measure_says():
    ids, context = scored(range(8))
    noted = dataclasses.replace(STRATEGIES["random"], measure="response_entropy")
    plain = choose(STRATEGIES["random"], ids, context, 4, rng())
    found = choose(noted, ids, context, 4, rng())
    assert [pick.score for pick in found.picks] == [float(pick.id[1:]) for pick in found.picks]
    assert len(found.picks) == len(plain.picks)


# --- what cannot be done ------------------------------------------------------------------------


def test_missing_predictions_are_named():
    ids, context = context_for(STRATEGIES["star_diverse"])
    star = STRATEGIES["star_diverse"]

    def use(**changes):
        return choose(star, ids, dataclasses.replace(context, **changes), 3, rng())

    with pytest.raises(ModelError, match="measure 'entropy' needs predictions of the tuned model, and there are none"):
        use(full=None)
    with pytest.raises(ModelError, match="mix needs predictions of the base model, and there are none"):
        use(base=None)
    with pytest.raises(ModelError, match="the base model's predictions lack 1 of 60 candidates, first "):
        use(base=context.base.rows(np.arange(1, 60)))
    without = Predictions(ids, {"label_log_probs": context.base.arrays["label_log_probs"]})
    with pytest.raises(ModelError, match="'embedding' of the candidates by the base model, which was not predicted"):
        use(base=without)
    some_ids, some = scored(range(4))
    with pytest.raises(ModelError, match="balance needs the array 'label_log_probs'"):
        choose(dataclasses.replace(SCORED, balance=True), some_ids, some, 2, rng())
    with pytest.raises(ValueError, match="an id twice"):
        choose(STRATEGIES["random"], ["a", "a"], context, 1, rng())
    with pytest.raises(ConfigError, match="select is 'top', which needs a measure"):
        choose(Recipe("none"), ids, context, 1, rng())


def test_nan_from_the_model_is_refused_and_not_ranked():
    ids, context = scored([1.0, math.nan, 2.0])
    with pytest.raises(ModelError, match=r"^example a1: response_entropy is nan"):
        choose(SCORED, ids, context, 1, rng())


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_recipe_can_be_used_for_a_choice_in_a_simulation(name):
    assert check(STRATEGIES[name], "choice", simulation=True, peft=LORA) == []


def test_all_problems_are_found_at_once():
    recipe = Recipe("bad", measure="bald", passes=1, mix=MixConfig(), balance=True)
    problems = check(recipe, "number", simulation=False, peft={"peft_type": "LORA", "lora_dropout": 0.0})
    assert problems == [
        "measure 'bald' is not defined for the task kind 'number'; allowed: choice, multi_label",
        "passes is 1; measure 'bald' needs at least 2",
        "mix: measure 'bald' needs 2 passes, and the base model has one; set mix: none",
        "passes is 1, but the LORA adapter has no dropout, so that all passes would be equal; "
        "set lora_dropout in `peft` above 0, or passes to 0, or dropout to model where the model has its own",
        "balance needs predicted classes, which the task kind 'number' does not have; allowed: choice",
    ]


def test_steps_without_a_measure_are_refused():
    recipe = Recipe("bad", mix=MixConfig(), prefilter=2, clip_outliers=0.1, passes=2)
    problems = check(recipe, "choice", simulation=True, peft=LORA)
    assert problems[0] == "select is 'top', which needs a measure to rank by"
    assert [p.split()[0] for p in problems[1:]] == ["mix", "prefilter", "clip_outliers", "passes"]


def test_oracles_are_refused_outside_a_simulation():
    for name, recipe in STRATEGIES.items():
        problems = check(recipe, "choice", simulation=False, peft=LORA)
        assert bool(problems) == name.startswith("oracle_")
        assert all("needs the gold answer of every pool example" in problem for problem in problems)


def test_dropout_is_found_under_any_name():
    for peft in ({"peft_type": "LOHA", "module_dropout": 0.1}, {"lora_dropout": 0.1}):
        assert check(STRATEGIES["star"], "choice", simulation=True, peft=peft) == []
    (problem,) = check(STRATEGIES["star"], "choice", simulation=True, peft={"peft_type": "IA3"})
    assert "the IA3 adapter has no dropout" in problem


# --- from the configuration ---------------------------------------------------------------------


def test_resolve_merges_what_differs():
    assert resolve(StrategyConfig(use="star")) == STRATEGIES["star"]
    recipe = resolve(StrategyConfig(use="star", mix=MixConfig(schedule="cosine"), passes=0, clip_outliers=0.0))
    assert (recipe.mix, recipe.passes, recipe.measure) == (MixConfig(schedule="cosine"), 0, "auto")
    assert resolve(StrategyConfig(use="star", mix="none")).mix is None
    assert resolve(StrategyConfig(use="entropy", balance=True, select="random")).balance


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="strategy 'strar' is unknown; did you mean 'star'"):
        resolve(StrategyConfig(use="strar"))
    with pytest.raises(ConfigError, match="strategy 'mine': measure 'entrpy' is unknown; did you mean 'entropy'"):
        resolve(StrategyConfig(use="star", name="mine", measure="entrpy"))


def test_configuration_and_recipe_have_the_same_keys():
    keys = {field.name for field in dataclasses.fields(Recipe)} - {"doc", "role", "source", "code"}
    assert keys == set(StrategyConfig.model_fields) - {"use", "name"}


def test_a_strategy_of_ones_own_is_one_more_entry(monkeypatch):
    monkeypatch.setitem(STRATEGIES, "own", Recipe("own", measure="margin", prefilter=3, select="random"))
    for rule in STRATEGY_CONTRACT:
        rule("own")


# --- selectors and sub-pools --------------------------------------------------------------------


@pytest.mark.parametrize("name", SELECTORS)
def test_every_selector_can_stand_in_a_recipe_of_ones_own(name, monkeypatch):
    """With a measure and without where that makes sense, and with λ where it mixes."""
    selector = SELECTORS[name]
    mix = MixConfig(schedule="constant") if selector.mixes else None
    recipes = [Recipe("own", measure="entropy", passes=selector.min_passes, mix=mix, prefilter=3, select=name)]
    if not selector.scored:
        recipes.append(Recipe("own", passes=selector.min_passes, mix=mix, select=name))
    for recipe in recipes:
        assert check(recipe, "choice", simulation=False, peft=LORA) == []
        monkeypatch.setitem(STRATEGIES, "own", recipe)
        for rule in STRATEGY_CONTRACT:
            rule("own")


def test_every_selector_is_documented_and_in_use():
    used = {recipe.select for recipe in STRATEGIES.values()}
    for name, selector in SELECTORS.items():
        assert selector.doc
        assert all(option.doc and option.low <= option.default <= option.high for option in selector.options.values())
        assert name in used or name == "soft_rank"


def test_labelled_needs():
    assert labelled_needs(STRATEGIES["random"]) == (frozenset(), frozenset())
    assert labelled_needs(STRATEGIES["cal"]) == ({"embedding", "label_log_probs"}, frozenset())
    assert labelled_needs(STRATEGIES["typiclust"]) == (frozenset(), {"embedding"})
    assert labelled_needs(STRATEGIES["star_k_center"]) == ({"embedding"}, {"embedding"})
    assert labelled_needs(STRATEGIES["anchor_entropy"]) == (frozenset(), {"embedding"})
    assert needs(STRATEGIES["anchor_entropy"], "choice") == ({"label_log_probs"}, {"embedding"})


def test_options_come_from_the_configuration():
    recipe = resolve(StrategyConfig(use="power_entropy", options={"beta": 1e6}))
    ids, context = context_for(recipe)
    plain = choose(STRATEGIES["entropy"], ids, context, 8, rng())
    assert ids_of(choose(recipe, ids, context, 8, rng())) == ids_of(plain)
    assert ids_of(choose(STRATEGIES["power_entropy"], ids, context, 8, rng())) != ids_of(plain)
    wrong = resolve(StrategyConfig(use="power_entropy", options={"beta": -1, "betta": 2}))
    assert check(wrong, "choice", simulation=False, peft=LORA) == [
        "options.beta is -1.0; allowed: 0.0 to 1000000.0",
        "options.betta is unknown for select 'power'; did you mean 'beta'? allowed: beta",
    ]


def test_unknown_selectors_and_sub_pools_are_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="strategy 'entropy': select 'k_centre' is unknown; did you mean 'k_center'"):
        resolve(StrategyConfig(use="entropy", select="k_centre"))
    with pytest.raises(ConfigError, match="subpool 'anchor' is unknown; did you mean 'anchors'"):
        resolve(StrategyConfig(use="entropy", subpool="anchor"))


def test_what_a_selector_lacks_is_said():
    def problems(kind="choice", peft=LORA, **parts):
        return check(Recipe("bad", **parts), kind, simulation=False, peft=peft)

    assert problems(select="mixed_k_center") == ["select is 'mixed_k_center', which mixes distances and needs a mix"]
    assert problems(select="mixed_k_center", mix=MixConfig(scale="rank")) == [
        "mix.scale is 'rank', which distances do not have; allowed: raw, minmax"
    ]
    assert problems(select="batch_bald") == ["passes is 0; select 'batch_bald' needs at least 2"]
    assert problems(select="power") == ["select is 'power', which needs a measure to rank by"]
    assert problems(select="k_means", passes=3) == ["passes is set, but there is no measure for it to work on"]
    assert problems("text", select="badge") == [
        "select 'badge' is not defined for the task kind 'text'; allowed: choice"
    ]
    assert problems("number", measure="response_entropy", subpool="anchors") == [
        "subpool 'anchors' needs classes, which the task kind 'number' does not have; allowed: choice"
    ]
    assert problems(measure="entropy", subpool_size=10) == ["subpool_size is set, but there is no subpool"]
    assert problems(measure="representation_gradient", passes=3) == [
        "passes is 3; measure 'representation_gradient' is defined for one plain pass; set passes to 0"
    ]


def test_the_mix_of_distances_follows_the_rounds():
    """Candidate a is far in the base model, b in the tuned one: early a is asked first, late b."""
    ids = ("a", "b", "c")
    base = Predictions(ids, {"embedding": np.array([[[9.0], [1.0], [0.0]]])})
    full = Predictions(ids, {"embedding": np.array([[[1.0], [9.0], [0.0]]])})
    known = Predictions(("z",), {"embedding": np.zeros((1, 1, 1))})
    for t, first in ((0, "a"), (8, "b")):
        context = Context(t=t, rounds=10, kind="text", full=full, base=base, labelled=known, labelled_base=known)
        found = choose(STRATEGIES["star_k_center"], ids, context, 2, rng())
        assert ids_of(found)[0] == first
        assert found.picks[0].details == {"lambda": pytest.approx(0.9 if t == 0 else 0.1)}
        assert found.scores == {}


def test_minmax_brings_the_distances_of_both_models_to_one_unit():
    """Tuned states a thousand times as long decide alone unless the mix scales them."""
    ids = ("a", "b", "c")
    base = Predictions(ids, {"embedding": np.array([[[9.0], [1.0], [0.0]]])})
    full = Predictions(ids, {"embedding": np.array([[[1000.0], [9000.0], [0.0]]])})
    known = Predictions(("z",), {"embedding": np.zeros((1, 1, 1))})
    context = Context(t=0, rounds=10, kind="text", full=full, base=base, labelled=known, labelled_base=known)
    raw = dataclasses.replace(STRATEGIES["star_k_center"], mix=MixConfig(scale="raw"))
    assert ids_of(choose(STRATEGIES["star_k_center"], ids, context, 1, rng())) == ["a"]
    assert ids_of(choose(raw, ids, context, 1, rng())) == ["b"]


def test_power_and_a_mix_that_goes_below_zero_are_refused() -> None:
    recipe = resolve(StrategyConfig(use="power_entropy", passes=0, mix=MixConfig(schedule="published")))
    found = check(recipe, "choice", simulation=True, peft={"peft_type": "LORA", "lora_dropout": 0.1})
    assert any("select 'power' needs scores above 0" in problem for problem in found)
