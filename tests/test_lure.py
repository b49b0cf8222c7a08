"""Picks drawn by chance: their probabilities are those of the draw, and what they say of the pool is unbiased."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loops import SMALL, MakeConfig, answer_all

from guidestar.loop import Run
from guidestar.metrics.sample import Drawn, effective_number, lure_share, lure_weights
from guidestar.query import batches
from guidestar.query.strategies import Context, Recipe, choose
from guidestar.records import Example, Label, Metrics, Pick, Predictions, Query, Skip, Suggestion
from guidestar.report.control import control
from guidestar.report.weighted import corrected, drawn_rounds
from guidestar.store import Store

SIMULATIONS = 400


def _said(p: np.ndarray) -> tuple[list[str], Context]:
    """Candidates of two labels, the likelier with probability p."""
    ids = [f"{i:04d}" for i in range(len(p))]
    logs = np.log(np.stack([p, 1 - p], axis=1))[None]
    return ids, Context(
        t=0, rounds=3, kind="choice", full=Predictions(tuple(ids), {"label_log_probs": logs}, ("a", "b"))
    )


def _literal(name: str, scores: dict[str, float], beta: float) -> dict[str, float]:
    """Weight of every candidate, as the papers write it."""
    if name == "power":
        return {id: score**beta for id, score in scores.items()}
    if name == "gibbs":
        spread = float(np.std(list(scores.values())))
        return {id: math.exp(beta * score / spread) for id, score in scores.items()}
    order = sorted(scores, key=lambda id: -scores[id])
    return {id: (order.index(id) + 1) ** -beta for id in scores}


@pytest.mark.parametrize("name", ["power", "gibbs", "soft_rank"])
def test_every_pick_carries_the_probability_of_its_turn(name: str) -> None:
    rng = np.random.default_rng(5)
    ids, context = _said(rng.uniform(0.55, 0.95, size=12))
    recipe = Recipe("own", measure="entropy", select=name, options={"beta": 1.5})
    found = choose(recipe, ids, context, 5, rng, random_share=0.4)
    lucky = [pick for pick in found.picks if "random" in pick.details]
    assert [pick.details["probability"] for pick in lucky] == pytest.approx([1 / 12, 1 / 11])
    left = {id: s for id, s in zip(ids, found.scores["score"].tolist(), strict=True) if id not in {p.id for p in lucky}}
    weights = _literal(name, left, 1.5)
    for pick in found.picks[2:]:
        assert pick.details["probability"] == pytest.approx(weights[pick.id] / sum(weights.values()))
        del weights[pick.id]


def test_probabilities_of_a_whole_pool_end_with_certainty_and_survive_tiny_weights() -> None:
    found = batches.gumbel_probabilities(np.log([1e-200, 1.0, 1e-250]), np.array([1, 0, 2]))
    assert found == pytest.approx([1.0, 1.0, 1.0])
    assert found[1] < 1 or found[1] == pytest.approx(1 - 1e-50)
    assert batches.gumbel_probabilities(np.zeros(4), np.array([3, 1, 0, 2])) == pytest.approx([1 / 4, 1 / 3, 1 / 2, 1])


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe("top", measure="entropy"),
        Recipe("reach", measure="entropy", select="power", prefilter=2.0),
        Recipe("clip", measure="entropy", select="gibbs", clip_outliers=0.2),
        Recipe("balance", measure="entropy", select="gibbs", balance=True),
    ],
    ids=lambda recipe: recipe.doc,
)
def test_who_leaves_candidates_without_a_chance_records_none(recipe: Recipe) -> None:
    ids, context = _said(np.linspace(0.55, 0.95, 12))
    found = choose(recipe, ids, context, 4, np.random.default_rng(0), random_share=0.25)
    assert ["probability" in pick.details for pick in found.picks] == [True, False, False, False]


def test_a_score_of_nothing_and_equal_ranks_have_no_known_chance() -> None:
    assert batches.power_weights(np.array([0.0, 1.0])) is None
    assert batches.power_weights(np.array([0.0, 1.0]), beta=0.0) is not None, "beta 0 is uniform"
    assert batches.soft_rank_weights(np.array([1.0, 1.0, 2.0])) is None
    assert batches.soft_rank_weights(np.array([1.0, 1.0]), beta=0.0) is not None


def test_the_corrected_error_is_unbiased_where_the_picks_mislead() -> None:
    """A stochastic strategy hunts errors over six rounds; the model's errors follow its entropy."""
    rng, inside, errors, naive = np.random.default_rng(0), 0, [], []
    recipe = Recipe("own", measure="entropy", select="power", options={"beta": 1.0})
    for _ in range(SIMULATIONS):
        free, rounds, truth, plain = np.arange(300), [], 0.0, 0.0
        sure = rng.uniform(0.52, 0.995, size=300)
        for _ in range(4):
            wrong = rng.random(300) > sure  # another model every round: its errors are drawn anew
            ids, context = _said(sure[free])
            picks = choose(recipe, ids, context, 20, rng, random_share=0.1).picks
            rows = free[[int(pick.id) for pick in picks]]
            chances = np.array([pick.details["probability"] for pick in picks])
            rounds.append(Drawn(wrong[rows].astype(float), chances, len(free)))
            truth += wrong[free].mean() / 4
            plain += wrong[rows].mean() / 4
            free = np.setdiff1d(free, rows)
        found = lure_share(rounds)
        inside += truth in found
        errors.append(found.estimate - truth)
        naive.append(plain - truth)
    assert abs(np.mean(errors)) < 3 * np.std(errors) / SIMULATIONS**0.5
    assert np.mean(naive) > 0.03, "the picks must mislead"
    assert inside / SIMULATIONS >= 0.94


DRAWS = {
    ("power", 1.0): (batches.power, batches.power_weights), ("power", 2.0): (batches.power, batches.power_weights),
    ("gibbs", 1.0): (batches.gibbs, batches.gibbs_weights), ("gibbs", 4.0): (batches.gibbs, batches.gibbs_weights),
}  # fmt: skip


def campaigns(name: str, beta: float, count: int) -> dict[str, float]:
    """Campaigns of 6 rounds of 20 from 400: how far the corrected and the plain error rate are off, and how often the
    interval holds the truth."""
    draw, weights = DRAWS[name, beta]
    rng, off, plain, inside = np.random.default_rng(0), [], [], 0
    for _ in range(count):
        free, rounds, truth, naive = 400, [], 0.0, 0.0
        for _ in range(6):
            score = rng.beta(0.6, 1.2, size=free) * 0.7 + 1e-4
            wrong = (rng.random(free) < 0.02 + 0.6 * score / 0.7).astype(float)
            picks = draw(score, 20, rng, beta)
            rounds.append(Drawn(wrong[picks], batches.gumbel_probabilities(weights(score, beta), picks), free))
            truth, naive, free = truth + wrong.mean() / 6, naive + wrong[picks].mean() / 6, free - 20
        found = lure_share(rounds)
        off.append(found.estimate - truth)
        plain.append(naive - truth)
        inside += truth in found
    spread = float(np.std(off))
    return {"bias": float(np.mean(off)), "error": spread / count**0.5, "sd": spread, "naive": float(np.mean(plain)),
            "held": inside / count}  # fmt: skip


@pytest.mark.parametrize(("name", "beta"), [("power", 1.0), ("gibbs", 1.0)])
def test_gentle_draws_are_corrected_and_their_intervals_hold(name: str, beta: float) -> None:
    found = campaigns(name, beta, 300)
    assert abs(found["bias"]) < 3 * found["error"]
    assert found["naive"] > 0.1
    assert found["held"] >= 0.95


def test_unknown_answers_are_left_out_of_the_weights_too() -> None:
    chances = np.array([0.4, 0.1, 0.2])
    weights = lure_weights(chances, 10)
    found = lure_share([Drawn(np.array([1.0, np.nan, 0.0]), chances, 10)])
    assert found.estimate == pytest.approx(weights[0] / (weights[0] + weights[2]))
    assert effective_number([2.0, 2.0]) == 2.0
    with pytest.raises(ValueError, match="no pick with a known probability"):
        lure_share([Drawn(np.array([np.nan]), np.array([0.5]), 4)])


# --- in a run -------------------------------------------------------------------------------------


def _store(folder: Path, picks: int = 20, chances: list[float] | None = None) -> Store:
    """A warm start of 10 of 100, then a round drawn by chance; the model says "a" to everything, every fifth is b."""
    found = Store.open(folder, create=True)
    found.begin({}, {
        "strategy": "own", "seed": 0, "recipe": {"select": "power", "measure": "entropy"},
        "task": {"kind": "choice", "labels": ["a", "b"]}, "data": {"pool": 100},
        "config": {"query": {"warm_start": 10, "batch": picks, "budget": 60, "candidates": None}},
    })  # fmt: skip
    chances = chances or [1 / (90 - i) for i in range(picks)]
    for r, size in enumerate((10, picks)):
        ids = [f"{r:08d}{i:08d}" for i in range(size)]
        details = [{"probability": chances[i]} if r else {} for i in range(size)]
        asked = tuple(Pick(id, 0.5, one) for id, one in zip(ids, details, strict=True))
        found.add_query(Query(r, asked), {id: Example(id, {"text": id}, id) for id in ids})
        if r:
            found.add_arrays(1, "scores", {"score": np.full(90, 0.5)}, {})
            found.add_suggestions(r, {id: Suggestion("a", {"a": 0.9, "b": 0.1}, r - 1) for id in ids})
        for i, id in enumerate(ids):
            found.annotations.add(id, Label("b" if i % 5 == 0 else "a"), source="python")
        found.add_adapter(r, lambda path: (path / "x").write_text("x"))
        found.add_metrics(Metrics(r, 10 + r * picks, {"accuracy": 0.7}))
    return found


def test_equal_chances_leave_the_share_as_it_is(tmp_path: Path) -> None:
    with _store(tmp_path / "run") as store:
        found = control(store)
    assert found is not None
    share = found.corrected
    assert share is not None
    numbers = [share.estimate, share.uncorrected, share.answers, share.effective]
    assert numbers == pytest.approx([0.8, 0.8, 20, 20.0])
    assert share.rounds == (1, 1)
    assert found.sentences == [
        "All 20 picks of round 1, corrected for how probable each was to be drawn, put the accuracy on the unlabelled pool "
        f"at about 80 % (95 % interval {100 * share.low:.0f} to {100 * share.high:.0f} %, as "
        "many as 20 random picks tell); uncorrected they would say 80 %."
    ]


def test_errors_that_were_probable_count_less(tmp_path: Path) -> None:
    chances = [(4 if i % 5 == 0 else 1) / (90 - i) for i in range(20)]
    with _store(tmp_path / "run", chances=chances) as store:
        found = control(store)
        store.annotations.add(store.query(1).picks[0].id, Skip("unclear"), source="python")
        fewer = drawn_rounds(store)
    assert found is not None
    weights = lure_weights(chances, 90)
    assert found.corrected is not None
    assert found.corrected.estimate == pytest.approx(1 - weights[::5].sum() / 20)
    assert found.corrected.estimate > 0.9 > found.corrected.uncorrected
    assert [int((~np.isnan(one.hits)).sum()) for one in fewer.values()] == [19]


def test_without_the_scores_the_first_random_pick_says_how_many_they_were(tmp_path: Path) -> None:
    with _store(tmp_path / "run") as store:
        (tmp_path / "run" / "arrays" / "round-001-scores.safetensors").unlink()
        assert drawn_rounds(store) == {}
        picks = [Pick(f"9{i:015d}", 0.5, {"probability": 1 / (70 - i), "random": 1.0}) for i in range(2)]
        store.add_query(Query(2, tuple(picks)), {p.id: Example(p.id, {}, p.id) for p in picks})
        store.add_suggestions(2, {p.id: Suggestion("a", {}, 1) for p in picks})
        for pick in picks:
            store.annotations.add(pick.id, Label("a"), source="python")
        store.add_metrics(Metrics(2, 32, {}))
        assert {r: drawn.population for r, drawn in drawn_rounds(store).items()} == {2: 70}


def test_chances_too_unequal_say_nothing(tmp_path: Path) -> None:
    with _store(tmp_path / "run", chances=[1e-4, *([0.5] * 19)]) as store:
        found = control(store)
    assert found is not None
    assert found.corrected is None
    assert found.sentences == [
        "The picks were drawn with chances too unequal to say something about the pool from so few of them."
    ]


def test_a_run_s_picks_speak_for_what_they_were_drawn_from(make_config: MakeConfig) -> None:
    query: dict[str, Any] = {"warm_start": 12, "batch": 6, "budget": 24, "candidates": 40, "random_share": 0.25}
    strategies = [{"use": "power_entropy"}, {"use": "anchor_entropy", "subpool_size": 20}]
    config = make_config(**{**SMALL, "annotator": "people", "strategies": strategies, "query": query})
    with Run(config, strategy="power_entropy") as run:
        while examples := run.ask():
            answer_all(run, examples)
        rounds = drawn_rounds(run.store)
        assert [(r, len(one.hits), one.population) for r, one in rounds.items()] == [(1, 6, 40), (2, 6, 40)]
        lucky = [pick for pick in run.store.query(1).picks if "random" in pick.details]
        assert [pick.details["probability"] for pick in lucky] == [1 / (40 - i) for i in range(len(lucky))]
        found = control(run.store)
        assert found is not None
        assert found.corrected == corrected(rounds, 30)
    with Run(config, strategy="anchor_entropy") as run:
        for _ in range(2):
            answer_all(run, run.ask())
        picks = run.store.query(1).picks
        assert ["probability" in pick.details for pick in picks] == ["random" in pick.details for pick in picks]
        assert any("probability" in pick.details for pick in picks)


if __name__ == "__main__":
    for (name, beta), _ in DRAWS.items():
        print(name, beta, {key: round(value, 4) for key, value in campaigns(name, beta, 1000).items()})
