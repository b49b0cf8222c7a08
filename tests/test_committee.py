"""Query by committee: votes, members trained once, and the loop with them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asked import predict
from loops import SMALL, Crash, dumps, picks
from reference import answer_entropy

from guidestar import loop
from guidestar.asking import Ask, Committee, Lesson, kept
from guidestar.config import TrainConfig, parse
from guidestar.data.pool import load_dataset
from guidestar.errors import ConfigError, NoVariance, StoreError
from guidestar.loop import Run
from guidestar.model import adapters
from guidestar.model.engine import OwnTrainer
from guidestar.model.scorer import OwnScorer
from guidestar.query.measures import vote_entropy
from guidestar.query.strategies import STRATEGIES, Recipe, check
from guidestar.rng import phase_seed
from guidestar.store import files
from guidestar.store.cache import Cache

LORA = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": ["q_proj", "v_proj"]}
TRAIN = TrainConfig(epochs=1, batch_size=8, learning_rate=5e-3)


@pytest.fixture(scope="module")
def data(demo_data):
    return load_dataset(parse({"data": {"preset": "demo", "folder": str(demo_data)}}))


@pytest.fixture
def labelled(data):
    return [(e, data.gold[e.id]) for e in data.pool[:12]]


def test_votes_are_counted_like_the_literal_twin() -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((7, 40, 3))
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    twin = [answer_entropy([max(range(3), key=lambda c: log_probs[k, i, c]) for k in range(7)]) for i in range(40)]
    np.testing.assert_allclose(vote_entropy(log_probs), twin, atol=1e-12)


# --- members --------------------------------------------------------------------------------------


def members(folder: Path, base: Any, data: Any, labelled: Any, seeds: list[int], **changes: Any) -> list[Path]:
    trainer = trainer_of(base, data, **changes)
    return [kept(Cache(folder), "member", trainer, Lesson(labelled=labelled, seed=seed)) for seed in seeds]


def trainer_of(base: Any, data: Any, data_hash: str = "x") -> OwnTrainer:
    return OwnTrainer(base, data.task, LORA, TRAIN, data_hash)


def test_members_are_trained_once_for_what_they_depend_on(
    base: Any, data: Any, labelled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []
    real = OwnTrainer.__call__
    monkeypatch.setattr(OwnTrainer, "__call__", lambda self, *a: (trained.append(a[0].seed), real(self, *a))[1])
    first = members(tmp_path, base, data, labelled, [1, 2])
    assert trained == [1, 2]
    assert files.sha256(first[0]) != files.sha256(first[1])
    trainer, cache = trainer_of(base, data), Cache(tmp_path)
    there = [cache.has("member", trainer.question(Lesson(labelled=labelled, seed=seed))) for seed in (1, 2, 3)]
    assert there == [True, True, False]
    assert members(tmp_path, base, data, labelled, [1, 2]) == first
    assert trained == [1, 2]
    members(tmp_path, base, data, labelled[:-1], [1])
    changed = [*labelled[:-1], (labelled[-1][0], next(a for a in data.task.labels if a != labelled[-1][1]))]
    members(tmp_path, base, data, changed, [1])
    members(tmp_path, base, data, labelled, [1], data_hash="y")
    assert trained == [1, 2, 1, 1, 1], "other labels, or other prompts, are other members"
    shutil.rmtree(first[1])
    before = files.sha256(first[0])
    assert members(tmp_path, base, data, labelled, [1, 2]) == first
    assert trained[-1] == 2
    assert files.sha256(first[0]) == before


def test_a_member_that_has_changed_is_refused(base: Any, data: Any, labelled: Any, tmp_path: Path) -> None:
    (path,) = members(tmp_path, base, data, labelled, [1])
    (path / "adapter_config.json").write_text("{}")
    with pytest.raises(StoreError, match="has changed since it was written; delete it, it is made again"):
        members(tmp_path, base, data, labelled, [1])


def test_a_training_that_died_leaves_nothing_that_counts(
    base: Any, data: Any, labelled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = files.sha256(members(tmp_path / "whole", base, data, labelled, [1])[0])
    steps: list[str] = []
    monkeypatch.setattr(files, "step", steps.append)
    members(tmp_path / "counted", base, data, labelled, [1])
    for at, name in enumerate(list(steps)):
        seen: list[str] = []

        def crash(step: str, at: int = at, seen: list[str] = seen) -> None:
            seen.append(step)
            if len(seen) > at:
                raise Crash

        folder = tmp_path / f"crash-{at}"
        with monkeypatch.context() as inner:
            inner.setattr(files, "step", crash)
            with pytest.raises(Crash):
                members(folder, base, data, labelled, [1])
        assert files.sha256(members(folder, base, data, labelled, [1])[0]) == whole, f"after a crash at {name!r}"


def test_a_pass_is_a_member(base: Any, data: Any, labelled: Any, tmp_path: Path) -> None:
    some = data.pool[20:28]
    places = members(tmp_path, base, data, labelled, [1, 2, 3])
    needs = {"label_log_probs", "embedding"}
    scorers = tuple(OwnScorer(base, data.task, place) for place in places)
    found = Committee(scorers)(some, Ask.of(needs, passes=3))
    assert found.arrays["label_log_probs"].shape == (3, 8, len(data.task.labels))
    states = []
    for k, place in enumerate(places):
        with adapters.adapted(base, place) as model:
            alone = predict(base, model, some, needs, data.task)
        np.testing.assert_array_equal(found.arrays["label_log_probs"][k], alone.arrays["label_log_probs"][0])
        states.append(alone.arrays["embedding"][0])
    np.testing.assert_allclose(found.arrays["embedding"][0], np.mean(states, axis=0), atol=1e-5)
    with pytest.raises(NoVariance, match="all members of the committee give the same answers"):
        Committee(scorers[:1] * 2)(some, Ask.of(needs, passes=2))


# --- the strategy ---------------------------------------------------------------------------------


def test_a_committee_needs_no_dropout() -> None:
    for name in ("committee", "committee_bald"):
        for peft in ({"peft_type": "LORA"}, {"peft_type": "FULL"}, {"peft_type": "PREFIX_TUNING"}):
            assert check(STRATEGIES[name], "choice", simulation=False, peft=peft) == []
    voters = Recipe("x", select="batch_bald", committee=4)
    assert check(voters, "choice", simulation=False, peft={"peft_type": "LORA"}) == []


@pytest.mark.parametrize(
    ("recipe", "problem"),
    [
        (Recipe("x", measure="entropy", committee=4, passes=3), "the members are the passes; set passes to 0"),
        (Recipe("x", measure="representation_gradient", committee=4), "is defined for one model"),
        (Recipe("x", select="k_center", committee=4), "committee is set, but there is no measure"),
        (Recipe("x", measure="bald"), "needs at least 2"),
    ],
)
def test_recipes_that_make_no_sense(recipe: Recipe, problem: str) -> None:
    found = check(recipe, "choice", simulation=False, peft={"peft_type": "LORA", "lora_dropout": 0.1})
    assert any(problem in line for line in found), found


def test_members_that_would_have_learned_less_are_refused(make_config: Any) -> None:
    config = make_config(**SMALL | {"train": SMALL["train"] | {"start": "previous"}}, strategies=["committee"])
    with pytest.raises(ConfigError, match="members of a committee start afresh in every round"):
        loop.run(config)


# --- the loop -------------------------------------------------------------------------------------


def watch_members(patch: pytest.MonkeyPatch, trained: list[int], dies_at: int | None = None) -> None:
    """Notes the seeds of the members that are trained, and not of the rounds' own adapters."""
    real, own = OwnTrainer.__call__, {phase_seed(0, r, "train") for r in range(9)}

    def watched(self: Any, lesson: Lesson, *rest: Any) -> Any:
        if lesson.seed not in own:
            trained.append(lesson.seed)
            if len(trained) == dies_at:
                raise Crash
        return real(self, lesson, *rest)

    patch.setattr(OwnTrainer, "__call__", watched)


def three(use: str) -> dict[str, Any]:
    return {"use": use, "committee": 3}


def test_strategies_of_a_seed_share_the_warm_starts_members(
    make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2 queries of 2 strategies: 3 × 2 new members, since the first query's are the same."""
    trained: list[int] = []
    watch_members(monkeypatch, trained)
    config = make_config(**SMALL, strategies=[three("committee"), three("committee_bald")])
    loop.run(config)
    assert len(trained) == 6
    assert len(set(trained)) == 4, "members of a round have seeds of their own"
    before = dumps(config["out"])
    assert len(before) == 2
    for dump in before.values():
        assert dump["finished"] == "BUDGET"
    with Run(config, strategy="committee") as run:
        timings = [(r, n) for r, phase, _, n in run.store.timings() if phase == "train committee"]
        assert timings == [(1, 2 * 12), (2, 2 * 14)]
        scores = run.store.arrays(1, "scores")["score"]
        possible = {answer_entropy(votes) for votes in ("aaa", "aab", "abc")}
        assert all(min(abs(score - one) for one in possible) < 1e-9 for score in scores)
    shutil.rmtree(Path(config["out"]) / "committee-seed0")
    shutil.rmtree(Path(config["out"]) / "cache")
    loop.run(config)
    assert dumps(config["out"]) == before, "members are a cache: without it the same picks come out"


def test_a_run_that_died_among_the_members_goes_on(
    make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(**SMALL, strategies=[three("committee")], out=str(tmp_path / "whole"))
    loop.run(config)
    expected = dumps(tmp_path / "whole")
    trained: list[int] = []
    other = {**config, "out": str(tmp_path / "other")}
    with monkeypatch.context() as inner:
        watch_members(inner, trained, dies_at=2)
        with pytest.raises(Crash):
            loop.run(other)
    watch_members(monkeypatch, trained)
    loop.run(other)
    assert dumps(tmp_path / "other") == expected
    assert len(trained) == 5, "the member that was finished is not trained again"


def test_consistency_runs_in_the_loop(make_config: Any) -> None:
    some = {"use": "consistency", "samples": 4, "temperature": 1.5}
    config = make_config(
        **SMALL | {"query": {"warm_start": 12, "batch": 2, "budget": 14, "candidates": 6}}, strategies=[some]
    )
    config["task"] = {"max_new_tokens": 3}
    loop.run(config)
    with Run(config) as run:
        scores = run.store.arrays(1, "scores")["score"]
        assert len(picks(run, 1)) == 2
        assert ((scores >= 0) & (scores <= np.log(4) + 1e-9)).all()
