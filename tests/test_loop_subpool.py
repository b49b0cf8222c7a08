"""Sub-pools in the loop: what is scored, what is drawn at random, and that a stopped run goes on."""

from __future__ import annotations

from loops import SMALL, MakeConfig, nothing_stays, picks  # noqa: F401 - fixtures

from guidestar.bench import Bench, read_config
from guidestar.loop import Run, oracle
from guidestar.phases import amounts, examples
from guidestar.study.plan import course_of


def config_of(make_config: MakeConfig, **query: object) -> dict:
    strategy = {"use": "anchor_entropy", "subpool_size": 9}
    return make_config(strategies=[strategy], **{**SMALL, "query": {**SMALL["query"], "candidates": 40, **query}})


def scored(run: Run, r: int) -> list[str]:
    return run.store.arrays(r, "scores")["score"].tolist()


def test_only_the_sub_pool_is_scored(make_config: MakeConfig) -> None:
    bench = Bench(read_config(config_of(make_config)))
    with Run(bench.config, bench=bench) as run:
        run.run(oracle(bench.dataset))
        assert len(scored(run, 1)) == 9
        assert len(picks(run, 1)) == 2
        phases = {phase for r, phase, _, _ in run.store.timings() if r == 1}
        assert {"score base", "score base labelled", "score"} <= phases
        counts = {phase: count for r, phase, _, count in run.store.timings() if r == 1}
        assert counts["score"] == 9
        assert counts["score base"] == 40


def test_what_comes_from_the_cache_does_not_hide_the_seconds_it_took(make_config: MakeConfig) -> None:
    """The base pass over the candidates is timed, then asked for again for the sub-pool."""
    said: list[tuple[int, str, float]] = []
    bench = Bench(read_config(config_of(make_config)))
    with Run(bench.config, bench=bench) as run:
        add = run.store.add_timing

        def record(r: int, phase: str, seconds: float, count: int) -> None:
            said.append((r, phase, seconds))
            add(r, phase, seconds, count)

        run.store.add_timing = record  # type: ignore[method-assign]
        run.run(oracle(bench.dataset))
        kept = {(r, phase): seconds for r, phase, seconds, _ in run.store.timings()}
    base = [seconds for r, phase, seconds in said if (r, phase) == (1, "score base")]
    assert len(base) == 2, "the candidates, and the sub-pool from the cache"
    assert base[0] < base[1] == kept[1, "score base"], "the second time adds to the first"


def test_a_plan_counts_what_is_scored(make_config: MakeConfig) -> None:
    bench = Bench(read_config(config_of(make_config)))
    with Run(bench.config, bench=bench) as run:
        run.run(oracle(bench.dataset))
        done: dict[str, int] = {}
        for _, phase, _, count in run.store.timings():
            done[phase] = done.get(phase, 0) + count
    planned = examples(amounts(course_of(bench, True, 0)))
    for phase in ("score", "score base", "score base labelled"):
        assert planned[phase] == done[phase]


def test_the_random_share_is_drawn_from_all_candidates(make_config: MakeConfig) -> None:
    """And not from the sub-pool, which is no sample of the pool."""
    config = config_of(make_config, random_share=0.5, batch=2, budget=18)
    bench = Bench(read_config(config))
    with Run(bench.config, bench=bench) as run:
        run.run(oracle(bench.dataset))
        lucky = [pick for r in (1, 2, 3) for pick in run.store.query(r).picks if "random" in pick.details]
        others = [pick for r in (1, 2, 3) for pick in run.store.query(r).picks if "random" not in pick.details]
        assert len(lucky) == len(others) == 3
        assert all(pick.score != pick.score for pick in lucky), "they were not scored"
        assert all(pick.score == pick.score for pick in others)
        assert len({pick.id for pick in lucky + others}) == 6


def test_a_run_with_a_sub_pool_repeats(make_config: MakeConfig, tmp_path) -> None:
    found = []
    for name in ("one", "two"):
        config = {**config_of(make_config, random_share=0.5), "out": str(tmp_path / name)}
        bench = Bench(read_config(config))
        with Run(bench.config, bench=bench) as run:
            run.run(oracle(bench.dataset))
            found.append([picks(run, r) for r in (1, 2)])
    assert found[0] == found[1]
