"""What every measure and every strategy must satisfy, whoever wrote it.

`MEASURE_CONTRACT` and `STRATEGY_CONTRACT` are lists of checks, each called with a name of the registry.
A plug-in passes if all checks pass after its entry was added.
"""

from __future__ import annotations

import numpy as np

from guidestar.query.measures import MEASURES, evaluate_measure
from guidestar.query.strategies import STRATEGIES, Context, choose, labelled_needs, needs
from guidestar.records import Predictions

LABELS = ("a", "b", "c")
N = 60
WIDTH = 8


def predictions_for(names, n=N, passes=1, seed=0, doubt=None):
    """Made-up predictions with distinct ids: the arrays called `names`, all different in every pass.

    doubt: (n,) from 0 (sure) to 1 (no idea); random by default. More doubt makes entropies and losses
    larger and the distribution over the labels flatter.
    """
    rng = np.random.default_rng(seed)
    doubt = rng.random(n) if doubt is None else np.asarray(doubt)
    noise = rng.uniform(0.95, 1.05, (passes, n))
    arrays = {}
    for name in sorted(names):
        if name == "label_log_probs":
            favourite = rng.permutation(np.arange(n) % len(LABELS))
            logits = 8 * (1 - 0.9 * doubt)[:, None] * np.eye(len(LABELS))[favourite]
            # passes disagree the more, the greater the doubt
            logits = logits + 2 * doubt[:, None] * rng.standard_normal((passes, n, len(LABELS)))
            arrays[name] = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        elif name == "embedding":
            arrays[name] = rng.standard_normal((1, n, WIDTH))
        elif name == "sampled_answer":  # more doubt, more different answers
            arrays[name] = np.floor(rng.random((passes, n)) * (1 + 5 * doubt))
        elif name.endswith("_length"):
            arrays[name] = np.full((passes, n), 7.0)
        else:
            arrays[name] = (0.01 + 5 * doubt) * noise
    labels = LABELS if "label_log_probs" in arrays else ()
    return Predictions(tuple(f"{i:016x}" for i in rng.permutation(10 * n)[:n]), arrays, labels)


# --- measures -----------------------------------------------------------------------------------


def passes_of(measure):
    return max(measure.min_passes, 3)


def gives_one_finite_number_each(name):
    measure = MEASURES[name]
    values = evaluate_measure(name, predictions_for(measure.needs, passes=passes_of(measure)))
    assert values.shape == (N,)
    assert values.dtype == np.float64
    assert np.isfinite(values).all()
    assert (values >= 0).all()


def takes_an_empty_pool(name):
    measure = MEASURES[name]
    assert evaluate_measure(name, predictions_for(measure.needs, n=0, passes=passes_of(measure))).shape == (0,)


def depends_on_the_example_alone(name):
    measure = MEASURES[name]
    found = predictions_for(measure.needs, passes=passes_of(measure))
    values = evaluate_measure(name, found)
    order = np.random.default_rng(1).permutation(N)
    np.testing.assert_allclose(evaluate_measure(name, found.rows(order)), values[order], rtol=1e-12)
    for i in (0, N - 1):
        np.testing.assert_allclose(evaluate_measure(name, found.rows(np.array([i]))), values[[i]], rtol=1e-12)


def survives_zero_probability(name):
    measure = MEASURES[name]
    found = predictions_for(measure.needs, n=2, passes=passes_of(measure))
    arrays = {need: np.zeros_like(found.arrays[need]) for need in measure.needs}
    if "label_log_probs" in arrays:
        arrays["label_log_probs"] += [0.0, -np.inf, -np.inf]  # p = (1, 0, 0)
    values = evaluate_measure(name, Predictions(found.ids, arrays, found.labels))
    np.testing.assert_allclose(values, 0.0, atol=1e-12, err_msg="an example without any doubt scores 0")


def is_larger_for_more_doubt(name):
    measure = MEASURES[name]
    found = predictions_for(measure.needs, n=2, passes=32, doubt=[0.05, 0.95])
    sure, unsure = evaluate_measure(name, found)
    assert unsure > sure


def names_its_oracle(name):
    """The name says whether the gold answer is read."""
    assert MEASURES[name].oracle == name.startswith("oracle_")


def is_documented_and_has_a_task(name):
    assert MEASURES[name].doc
    assert MEASURES[name].tasks
    assert MEASURES[name].tasks <= {"choice", "multi_label", "number", "text"}


MEASURE_CONTRACT = [
    gives_one_finite_number_each,
    takes_an_empty_pool,
    depends_on_the_example_alone,
    survives_zero_probability,
    is_larger_for_more_doubt,
    names_its_oracle,
    is_documented_and_has_a_task,
]


# --- strategies ---------------------------------------------------------------------------------


def context_for(recipe, n=N, doubt=None, t=2):
    """Candidates and a context with just what the recipe asks for."""
    full_needs, base_needs = needs(recipe, "choice")
    full = predictions_for(full_needs, n, recipe.walks, seed=1, doubt=doubt)
    base = predictions_for(base_needs, n, seed=2, doubt=doubt)
    base = Predictions(full.ids, base.arrays, base.labels)
    of_labelled, of_labelled_base = labelled_needs(recipe)
    context = Context(
        t=t,
        rounds=10,
        kind="choice",
        full=full if full_needs else None,
        base=base if base_needs else None,
        labelled=predictions_for(of_labelled, 5, seed=3) if of_labelled else None,
        labelled_base=predictions_for(of_labelled_base, 5, seed=4) if of_labelled_base else None,
        labelled_classes={"a": 3, "b": 1, "c": 1},
    )
    return full.ids, context


def ids_of(selection):
    return [pick.id for pick in selection.picks]


def run(name, k, seed=0, **options):
    ids, context = context_for(STRATEGIES[name])
    return ids, choose(STRATEGIES[name], ids, context, k, np.random.default_rng(seed), **options)


def picks_k_of_the_candidates_once(name):
    for share in (0.0, 0.4):
        ids, selection = run(name, 10, random_share=share)
        assert len(selection.picks) == len(set(ids_of(selection))) == 10
        assert set(ids_of(selection)) <= set(ids)


def same_seed_same_picks(name):
    assert run(name, 10, seed=4)[1].picks == run(name, 10, seed=4)[1].picks


def takes_all_of_a_small_pool_and_none_for_zero(name):
    ids, selection = run(name, N + 5)
    assert sorted(ids_of(selection)) == sorted(ids)
    assert run(name, 0)[1].picks == ()


def takes_an_empty_pool_of_candidates(name):
    _, context = context_for(STRATEGIES[name])
    assert choose(STRATEGIES[name], [], context, 5, np.random.default_rng(0)).picks == ()


def does_not_depend_on_the_order_of_candidates(name):
    """Whatever the order of candidates and of predictions, and with ties too, the picks are the same."""
    for doubt in (None, np.full(N, 0.5)):
        ids, context = context_for(STRATEGIES[name], doubt=doubt)
        shuffled = np.random.default_rng(9).permutation(N)
        moved = {
            key: getattr(context, key).rows(shuffled) for key in ("full", "base") if getattr(context, key) is not None
        }
        other = Context(**{**vars(context), **moved})
        first = choose(STRATEGIES[name], ids, context, 10, np.random.default_rng(0), random_share=0.3)
        second = choose(
            STRATEGIES[name],
            [ids[i] for i in shuffled],
            other,
            10,
            np.random.default_rng(0),
            random_share=0.3,
        )
        assert ids_of(first) == ids_of(second)
        for key, values in first.scores.items():
            np.testing.assert_allclose(second.scores[key], values[shuffled], rtol=1e-12)


def breaks_ties_by_the_generator(name):
    """With all scores and points equal, different seeds pick different examples."""
    recipe = STRATEGIES[name]
    ids, context = context_for(recipe)

    def flat(found):
        if found is None:
            return None
        return Predictions(found.ids, {n: a * 0 + a[:, :1] for n, a in found.arrays.items()}, found.labels)

    tied = Context(**{**vars(context), "full": flat(context.full), "base": flat(context.base)})
    picks = {tuple(ids_of(choose(recipe, ids, tied, 3, np.random.default_rng(seed)))) for seed in range(6)}
    assert len(picks) > 1


def says_why(name):
    """Every pick carries its score and the parts the score was made of."""
    recipe = STRATEGIES[name]
    ids, selection = run(name, 10, random_share=0.2)
    measured = recipe.measure is not None
    assert set(selection.scores) == {
        *(["score", "full"] if measured else []),
        *(["base"] if measured and recipe.mix else []),
    }
    for pick in selection.picks:
        assert np.isfinite(pick.score) == measured
        filtered = (
            recipe.prefilter or recipe.clip_outliers or recipe.near_duplicates or recipe.balance or recipe.subpool
        )
        drawn = "random" in pick.details or (recipe.selector.log_weights is not None and not filtered)
        assert ("probability" in pick.details) == drawn, "a probability if and only if chance had a say in it"
        assert 0 < pick.details.get("probability", 1.0) <= 1
        assert set(pick.details) - {"random", "probability"} == {
            *(["full"] if measured else []),
            *(["base"] if measured and recipe.mix else []),
            *(["lambda"] if recipe.mix else []),
        }
        for key, values in selection.scores.items():
            found = pick.score if key == "score" else pick.details[key]
            assert found == values[ids.index(pick.id)]
    assert sum("random" in pick.details for pick in selection.picks) == 2


def is_documented_and_names_a_measure(name):
    recipe = STRATEGIES[name]
    assert recipe.doc
    assert recipe.measure in (None, "auto", *MEASURES)


STRATEGY_CONTRACT = [
    picks_k_of_the_candidates_once,
    same_seed_same_picks,
    takes_all_of_a_small_pool_and_none_for_zero,
    takes_an_empty_pool_of_candidates,
    does_not_depend_on_the_order_of_candidates,
    breaks_ties_by_the_generator,
    says_why,
    is_documented_and_names_a_measure,
]
