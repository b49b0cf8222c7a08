"""Racing in the loop: the same picks on most, fewer passes, what is kept and said, a stop in the middle, refusals."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loops import SMALL, Crash, MakeConfig, dumps, nothing_stays, picks  # noqa: F401 - fixtures

from guidestar import loop
from guidestar.asking import InParts
from guidestar.bench import Bench, read_config
from guidestar.errors import ConfigError, ConfigMismatch
from guidestar.loop import Run, oracle
from guidestar.progress import Silent
from guidestar.query.measures import entropy, evaluate_measure
from guidestar.query.mixing import mix
from guidestar.query.racing import Race
from guidestar.query.strategies import STRATEGIES, Context, check, choose, race_value
from guidestar.records import Predictions

STAR = {"use": "star", "passes": 8, "name": "raced", "racing": True}
LORA = {"peft_type": "LORA", "lora_dropout": 0.1}


def config_of(make_config: MakeConfig, strategy: dict[str, Any], **query: object) -> dict[str, Any]:
    settings = {**SMALL, "query": {"warm_start": 12, "batch": 12, "budget": 24, "candidates": 60, **query}}
    return make_config(strategies=[strategy], **settings)


@dataclasses.dataclass
class Done:
    """What round 1 of a finished run left in its store."""

    bench: Bench
    kept: dict[str, np.ndarray]
    asked: list[str]
    details: Mapping[str, float]
    spent: dict[str, int]


def finished(config: dict[str, Any], progress: Silent | None = None) -> Done:
    bench = Bench(read_config(config), progress)
    with Run(bench.config, bench=bench) as run:
        run.run(oracle(bench.dataset))
        spent = {phase: count for r, phase, _, count in run.store.timings() if r == 1}
        return Done(bench, run.store.arrays(1, "scores"), picks(run, 1), run.store.query(1).picks[0].details, spent)


def without_race(strategy: dict[str, Any]) -> dict[str, Any]:
    return {**strategy, "racing": False}


class Said(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.mark.parametrize("use", ["star", "mc_entropy"])
def test_most_picks_are_those_of_all_passes(make_config: MakeConfig, tmp_path: Path, use: str) -> None:
    strategy = {**STAR, "use": use}
    said = Said()
    raced = finished(config_of(make_config, strategy) | {"out": str(tmp_path / "raced")}, said)
    whole = finished(config_of(make_config, without_race(strategy)) | {"out": str(tmp_path / "whole")})
    made = raced.kept["passes"]
    assert made.min() >= 2
    assert made.max() <= 8
    assert made.sum() < 0.75 * 8 * 60, "hardly a pass was saved"
    assert "passes" not in whole.kept
    assert len(set(raced.asked)) == 12
    assert len(set(raced.asked) & set(whole.asked)) >= 10
    assert raced.spent["score"] == 60
    assert raced.details["passes"] >= 2
    assert f"; racing made {int(made.sum())} of 480 passes, {480 / made.sum():.1f} times fewer" in said.lines[-1]
    if use == "star":
        lam, base = raced.details["lambda"], raced.kept["base"]
        np.testing.assert_allclose(raced.kept["score"], lam * base + (1 - lam) * raced.kept["full"])


def test_a_random_share_stands_beside_the_winners(make_config: MakeConfig) -> None:
    """The random share of a batch is drawn from all candidates, and has scores, too."""
    raced = finished(config_of(make_config, STAR, random_share=0.25))
    with Run(raced.bench.config, bench=raced.bench) as run:
        found = run.store.query(1).picks
    lucky = [pick for pick in found if "random" in pick.details]
    assert len(lucky) == 3
    assert len({pick.id for pick in found}) == 12
    assert all(np.isfinite(pick.score) for pick in found)


def test_a_race_with_the_dropout_of_the_model_itself(make_config: MakeConfig, tiny_encoder_folder: Path) -> None:
    """Fully fine-tuned there is no other, so without it all passes would be equal and refused."""
    strategy = {"use": "mc_entropy", "name": "raced", "racing": True, "passes": 6, "dropout": "model"}
    config = config_of(make_config, strategy, candidates=40)
    config |= {"peft": {"peft_type": "FULL"}, "model": {"name": str(tiny_encoder_folder), "dtype": "float32"}}
    config["data"] = {**config["data"], "template": "{text}"}
    made = finished(config).kept["passes"]
    assert made.min() >= 2
    assert made.max() == 6


def test_a_run_killed_in_a_race_repeats_the_same(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop.run(config_of(make_config, STAR) | {"out": str(tmp_path / "whole")})
    config = config_of(make_config, STAR) | {"out": str(tmp_path / "killed")}
    real: Callable[..., Any] = InParts.__call__
    calls = []

    def dies(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise Crash
        return real(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(InParts, "__call__", dies)
        with pytest.raises(Crash):
            loop.run(config)
    loop.run(config)
    assert dumps(tmp_path / "killed") == dumps(tmp_path / "whole")


def test_a_run_begun_before_there_were_races_goes_on(make_config: MakeConfig) -> None:
    """No race is a key that is not there."""
    raced = finished(config_of(make_config, without_race(STAR)))
    with Run(raced.bench.config, bench=raced.bench) as run:
        assert "strategy.racing" not in run.store.key


def test_a_raced_run_is_another_configuration(make_config: MakeConfig) -> None:
    config = config_of(make_config, STAR)
    finished(config)
    with pytest.raises(ConfigMismatch, match=r"strategy\.racing: begun with True, now without"):
        Run(config | {"strategies": [without_race(STAR)]})


# --- what is averaged, and who comes first ---


def predictions(values: Any) -> Predictions:
    p = np.asarray(values)
    return Predictions(
        tuple("abcdef"[: p.shape[1]]), {"label_log_probs": np.log(np.stack([p, 1 - p], axis=-1))}, ("x", "y")
    )


def test_the_race_is_on_the_mixed_value() -> None:
    recipe = dataclasses.replace(STRATEGIES["star"], racing=True)
    base = predictions([[0.5, 0.9, 0.99]])
    context = Context(t=0, rounds=4, kind="choice", base=base)
    rows = np.array([2, 0])
    found = predictions([[0.7, 0.6]])
    got = race_value(recipe, context)(found, rows)
    expected = mix(entropy(base.arrays["label_log_probs"])[0][rows], entropy(found.arrays["label_log_probs"])[0], 0.75)
    np.testing.assert_allclose(got, expected)


def test_winners_come_before_a_higher_mean_that_was_out_early() -> None:
    recipe = dataclasses.replace(STRATEGIES["mc_entropy"], racing=True, passes=3)
    full = predictions([[0.5, 0.6, 0.9, 0.95], [0.5, 0.6, 0.9, 0.95], [0.5, 0.5, 0.9, 0.95]])
    race = Race(np.array([2, 0]), np.zeros(4), np.array([3, 2, 3, 2]), 3)
    context = Context(t=0, rounds=4, kind="choice", full=full, race=race)
    for order in (["a", "b", "c", "d"], ["d", "b", "a", "c"]):
        found = choose(recipe, order, context, 2, np.random.default_rng(0))
        assert [p.id for p in found.picks] == ["a", "c"]
        assert found.scores["passes"][order.index("b")] == 2
        assert found.scores["score"][order.index("b")] == pytest.approx(float(entropy(np.log([0.6, 0.4]))))


def test_only_passes_that_were_made_count() -> None:
    full = predictions([[0.5, 0.6], [0.7, 0.9], [0.5, 0.6]])
    values = entropy(full.arrays["label_log_probs"])
    found = evaluate_measure("entropy", full, np.array([2, 3]))
    np.testing.assert_allclose(found, [values[:2, 0].mean(), values[:, 1].mean()])
    with pytest.raises(ConfigError, match="'bald' is no mean over passes"):
        evaluate_measure("bald", full, np.array([2, 3]))


# --- refusals ---


@pytest.mark.parametrize(
    ("use", "changes", "said"),
    [
        ("star", {"passes": 2}, "racing needs more than 2 passes, found 2"),
        ("bald", {}, "racing compares means over passes, and measure 'bald' is none; allowed: "),
        ("mc", {}, "measure 'entropy_of_mean' is none"),
        ("star_diverse", {"passes": 5}, "which select 'k_center' needs; allowed: top"),
        ("batch_bald", {}, "there is no measure to race by"),
        ("mc_entropy", {"balance": True}, "not their order, which balance needs; leave balance out"),
        ("mc_entropy", {"clip_outliers": 0.01}, "which clip_outliers needs"),
        ("mc_entropy", {"near_duplicates": 0.9}, "which near_duplicates needs"),
    ],
)
def test_impossible_races_are_refused(use: str, changes: dict[str, Any], said: str) -> None:
    recipe = dataclasses.replace(STRATEGIES[use], racing=True, **changes)
    problems = check(recipe, "choice", True, LORA)
    assert any(said in problem for problem in problems), problems
    assert not any("racing" in p for p in check(dataclasses.replace(recipe, racing=False), "choice", True, LORA))


def test_a_mix_of_scaled_values_is_refused_before_anything_runs(make_config: MakeConfig) -> None:
    config = config_of(make_config, {**STAR, "mix": {"scale": "minmax"}})
    with pytest.raises(ConfigError, match=r"racing: mix\.scale is 'minmax'.*allowed: raw"):
        Run(config)
    assert not Path(config["out"]).exists()


def test_what_can_be_raced_is_not_refused() -> None:
    for use in ("star", "mc_entropy"):
        recipe = dataclasses.replace(STRATEGIES[use], racing=True, passes=10)
        assert check(recipe, "choice", False, LORA) == []
        assert check(recipe, "number", False, LORA) == []
