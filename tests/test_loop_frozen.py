"""Strategies on frozen features in the loop: their own warm start, crashes, what is read once, other tasks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import literal_selectors as literal
import numpy as np
import pytest
from loops import (  # noqa: F401 - fixtures
    SMALL,
    MakeConfig,
    crash_everywhere,
    crash_points,
    nothing_stays,
    picks,
    sums,
)
from test_endpoint import Server, completion, server  # noqa: F401 - a fixture

from guidestar import config as configs
from guidestar import loop
from guidestar.asking import Ask, Probed
from guidestar.bench import Bench, read_config
from guidestar.cli.main import main
from guidestar.errors import ConfigError, ConfigMismatch
from guidestar.loop import Run, oracle
from guidestar.model import states as states_room
from guidestar.query import probe
from guidestar.query.strategies import STRATEGIES, check
from guidestar.records import Finished, Stop
from guidestar.store import Store
from guidestar.study.plan import plan_run


def config_of(make_config: MakeConfig, strategies: list[Any], **query: object) -> dict[str, Any]:
    settings = {**SMALL, "query": {"warm_start": 8, "batch": 4, "budget": 16, **query}}
    return make_config(strategies=strategies, **settings)


def asked(folder: Path | str, name: str, r: int) -> list[str]:
    with Store.open(Path(folder) / name) as store:
        return [pick.id for pick in store.query(r).picks]


def test_the_warm_start_belongs_to_the_strategy(make_config: MakeConfig) -> None:
    """Random and STAR share theirs; lean and herding cover the pool, and where the configuration says how, all do."""
    config = config_of(make_config, ["random", "star", "herding", "lean"], budget=8)
    loop.run(config)
    starts = {name: asked(config["out"], f"{name}-seed0", 0) for name in ("random", "star", "herding", "lean")}
    assert starts["random"] == starts["star"]
    assert starts["herding"] == starts["lean"] != starts["random"]
    shared = {
        **config_of(make_config, ["random", "lean"], budget=8, warm_start_by="typical"),
        "out": config["out"] + "2",
    }
    loop.run(shared)
    both = [asked(shared["out"], f"{name}-seed0", 0) for name in ("random", "lean")]
    assert both[0] == both[1]
    assert sorted(both[0]) != sorted(starts["lean"])


def test_the_pool_is_read_once(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    plain = states_room.features

    def counted(base: Any, model: Any, examples: Any, tick: Any) -> Any:
        read.append(len(examples))
        return plain(base, model, examples, tick)

    monkeypatch.setattr("guidestar.model.scorer.features", counted)
    config = config_of(make_config, ["lean", "herding"])
    bench = Bench(read_config(config))
    for strategy in ("lean", "herding"):
        with Run(bench.config, bench=bench, strategy=strategy) as run:
            run.run(oracle(bench.dataset))
    assert read == [len(bench.pool), len(bench.dataset.test.examples)]


def test_scores_are_margins_of_the_classifier(make_config: MakeConfig) -> None:
    config = config_of(make_config, ["lean"])
    bench = Bench(read_config(config))
    with Run(bench.config, bench=bench) as run:
        run.run(oracle(bench.dataset))
        scores = run.store.arrays(1, "scores")["score"]
        assert 0 <= scores.min() <= scores.max() <= 1
        assert np.ptp(scores) > 0.1
        assert len(set(picks(run, 0) + picks(run, 1) + picks(run, 2))) == 16


def test_a_crash_changes_nothing(make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped where features are read, chosen from or kept, and run again: the same picks, labels and metrics."""
    crash_everywhere(
        make_config, tmp_path, monkeypatch, lambda steps: crash_points(steps, 0)[1:18:3],
        strategies=["lean"], query={"warm_start": 6, "batch": 4, "budget": 10, "candidates": 30},
    )  # fmt: skip


def lessons(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What every training from here on learns from: its labelled examples, and further answers with their weights."""
    from guidestar.model.train import OwnTrainer

    heard: list[Any] = []
    plain = OwnTrainer.__call__

    def listening(self: Any, lesson: Any, *rest: Any) -> Any:
        heard.append((lesson.labelled, lesson.extra))
        return plain(self, lesson, *rest)

    monkeypatch.setattr(OwnTrainer, "__call__", listening)
    return heard


def test_pseudo_labels_are_learned_from(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """They reach the trainer with their weight, none of a labelled example, and change the adapter; the same for all."""
    heard = lessons(monkeypatch)
    monkeypatch.setattr("guidestar.query.probe.log_loss", lambda *_: 0.0)  # always kept
    config = config_of(make_config, ["random"], warm_start=16, budget=16, candidates=None)
    loop.run({**config, "train": {**config["train"], "pseudo_labels": 0.25}})
    (labelled, extra), *rest = heard
    assert not rest
    assert extra
    assert {weight for _, _, weight in extra} == {0.25}
    assert not {e.id for e, _, _ in extra} & {e.id for e, _ in labelled}


def test_pseudo_labels_are_made_on_the_views_that_the_classifier_reads(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Any] = []
    plain = probe.helpful_pseudo_labels

    def listening(points: Any, *args: Any, **options: Any) -> Any:
        heard.append(points)
        return plain(points, *args, **options)

    monkeypatch.setattr(probe, "helpful_pseudo_labels", listening)
    config = config_of(make_config, ["random"], warm_start=16, budget=16, candidates=None)
    bench = Bench(
        read_config(
            {
                **config,
                "model": {**config["model"], "views": "weighted"},
                "train": {**config["train"], "pseudo_labels": 0.25},
            }
        )
    )
    with Run(bench.config, bench=bench) as run:
        run.run(oracle(bench.dataset))
        labelled = run.tuning.labelled()
        turn = bench.frozen.turn(labelled, bench.fitting.task)
        points = bench.frozen.points(list(bench.pool))
    assert turn is not None
    assert np.array_equal(heard[0], points @ turn)


def test_weak_labels_of_an_endpoint(
    make_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
    server: Server,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Asked for once for all runs and rounds, learned from with their weight, none of a labelled example; no labels of people,
    named by plan, status and report, billed to the run that paid; without an endpoint, and for other tasks, refused."""
    heard = lessons(monkeypatch)
    for guard in ("log_loss", "_clearly_more"):
        monkeypatch.setattr(f"guidestar.query.probe.{guard}", lambda *_: 1.0)  # always kept
    config = config_of(make_config, ["random", "lean"], warm_start=12, batch=4, budget=16, candidates=None)
    config |= {
        "train": {**config["train"], "weak_labels": 25}, "stop": "off",
        "endpoint": {"url": server.url, "model": "toy", "key": "TEST_KEY", "price_in": 1000.0, "price_out": 1000.0},
    }  # fmt: skip
    bench = Bench(read_config(config))
    gold = {e.prompt: bench.dataset.gold[e.id] for e in bench.pool}
    word = dict(zip(bench.dataset.task.labels, bench.dataset.task.words, strict=True))

    def says(request: dict[str, Any], number: int) -> Any:
        told = request["messages"][1]["content"]
        return completion(
            "no label" if number < 2 else next(word[y] for text, y in gold.items() if f"\n{text}\n" in told)
        )

    server.script = says
    loop.run(config)
    asked = {request.json["messages"][1]["content"].split("\n<")[1].partition(">")[0] for request in server.requests}
    assert len(asked) == 25
    assert len(server.requests) <= 25 + 2, "two could not be read and were asked for again"
    assert len(heard) == 4
    for labelled, extra in heard:
        assert extra
        assert {weight for _, _, weight in extra} == {0.3}
        assert not {e.id for e, _, _ in extra} & {e.id for e, _ in labelled}
        assert {bench.dataset.gold[e.id] == answer for e, answer, _ in extra} == {True}
        assert {f"example {e.id}" for e, _, _ in extra} <= asked
    with Store.open(Path(config["out"]) / "random-seed0") as store:
        assert len(store.annotations.labelled()) == 16
        assert {entry.source for entry in store.annotations.history()} == {"oracle"}
        said = store.arrays(1, "training")["weak_labels"].tolist()
    first, last = heard[1]
    places = {f"example {e.id}" for e, _ in first} & asked
    assert said[0] == len(last)
    assert said[1] == said[0] + said[3]
    assert said[2] == said[3] <= len(places)
    assert main(["status", config["out"]]) == 0
    assert f"{said[0]} answers of the endpoint were learned from as weak labels" in capsys.readouterr().out
    assert main(["report", config["out"]]) == 0
    page = (Path(config["out"]) / "report.html").read_text(encoding="utf-8")
    assert "answers of the endpoint were learned from as weak labels" in page
    capsys.readouterr()
    text = plan_run(read_config({**config, "out": config["out"] + "-other"})).text()
    assert "weak labels: 25 questions to the endpoint, once for all runs" in text
    with pytest.raises(ConfigError, match=r"train\.weak_labels are classes"):
        Bench(read_config({**config, "task": {"kind": "text"}, "out": config["out"] + "-text"})).check()


def test_what_cannot_go_with_frozen_features_is_said() -> None:
    lean = STRATEGIES["lean"]
    lora = {"peft_type": "LORA", "lora_dropout": 0.1}
    assert check(lean, "choice", simulation=False, peft=lora) == []
    assert check(lean, "number", simulation=False, peft=lora) == []
    problems = check(dataclasses.replace(lean, passes=3, measure="entropy"), "choice", simulation=False, peft=lora)
    assert any("model is frozen, which has no dropout" in problem for problem in problems)
    with pytest.raises(ConfigError, match="warm_start_by"):
        read_config({"query": {"warm_start_by": "magic"}})


def test_a_large_pool_is_chosen_from_by_a_sample(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Herding looks at no more candidates than that, so no more are asked about; and no part of the pool is left out."""
    monkeypatch.setattr("guidestar.choosing.CANDIDATES", 20)
    config = config_of(make_config, ["lean"], candidates=None)
    bench = Bench(read_config(config))
    with Run(bench.config, bench=bench) as run:
        run.run(oracle(bench.dataset))
        assert [len(run.store.arrays(r, "scores")["score"]) for r in (1, 2)] == [20, 20]
        place = {e.id: i for i, e in enumerate(bench.pool)}
        assert max(place[id] for r in range(3) for id in picks(run, r)) > len(bench.pool) // 2


@pytest.mark.parametrize("kind", ["number", "text"])
def test_without_classes_the_doubt_is_the_entropy_of_the_response(
    kind: str, make_config: MakeConfig, tmp_path: Path
) -> None:
    """`lean` covers the pool first; then it covers what the adapter of the round before doubts, by its response's entropy.
    Every pick is beside the literal greedy choice."""
    answer = "answer" if kind == "number" else "name"
    data = {
        "preset": None, "folder": None, "test_limit": 4, "pool": str(sums(tmp_path / "pool.jsonl", 30)),
        "test": str(sums(tmp_path / "test.jsonl", 8)), "answer": answer, "template": "{question}\n",
    }  # fmt: skip
    config = config_of(make_config, ["lean"], warm_start=4, batch=3, budget=7, candidates=None)
    config = {**config, "data": data, "task": {"kind": kind, "max_new_tokens": 6}}
    bench = Bench(read_config(config))
    with Run(bench.config, bench=bench) as run:
        run.run(oracle(bench.dataset))
        points, place = bench.frozen.points(bench.pool), {e.id: i for i, e in enumerate(bench.pool)}
        known = [place[id] for id in picks(run, 0)]
        free = [i for i in place.values() if i not in known]
        with run.tuning.tuned(0) as scorer:
            said = scorer([bench.pool[i] for i in free], Ask.of(["response_entropy"]))
        doubt = said.arrays["response_entropy"][0]
        later = [free.index(place[id]) for id in picks(run, 1)]
        stored = run.store.arrays(1, "scores")["score"]
        assert np.allclose(np.sort(stored), np.sort(doubt), rtol=1e-4)
        assert np.ptp(stored) > 0.01 * stored.max()
    start = literal.herding_gains(points, points[:0], known, np.ones(len(points)))
    for chosen, best in [*start, *literal.herding_gains(points[free], points[known], later, doubt)]:
        assert chosen == pytest.approx(best, rel=1e-3)


def test_a_measured_mix_is_the_classifiers_until_both_models_were_tested(make_config: MakeConfig) -> None:
    """Round 1 has no evidence and asks what `lean` asks. Later λ is that of the literal search over the picks before, each
    with what the adapter of its time said of it, and the classifier out of fold."""
    from guidestar.query import mixing
    from guidestar.rng import generator

    mixed = {"use": "lean", "name": "mixed", "model": "mixed"}
    config = config_of(make_config, ["lean", mixed], budget=16, candidates=None)
    bench = Bench(read_config(config))
    with Run(bench.config, bench=bench, strategy="lean") as lean:
        lean.run(oracle(bench.dataset))
        first = picks(lean, 1)
    with Run(bench.config, bench=bench, strategy="mixed") as run:
        run.run(oracle(bench.dataset))
        assert picks(run, 1) == first
        classes = bench.fitting.task.classes
        pairs = run.tuning.labelled(1)
        late = [i for i, (e, _) in enumerate(pairs) if e.id in picks(run, 1)]
        right = np.array([classes.index(pairs[i][1]) for i in late])
        with run.tuning.tuned(0) as scorer:
            theirs = scorer([pairs[i][0] for i in late], Ask.of(["label_log_probs"])).arrays["label_log_probs"][0]
        own = bench.frozen.unseen(pairs, bench.fitting.task, generator(run.seed, 2, "unseen"))[late]
        lam = mixing.measured(own, theirs, right)
        free = [e for e in bench.pool if e.id not in {e.id for e, _ in pairs}]
        with run.tuning.tuned(1) as scorer:
            tuned = np.exp(scorer(free, Ask.of(["label_log_probs"])).arrays["label_log_probs"][0])
        probe = Probed.of(bench.frozen, pairs, bench.fitting.task, generator(run.seed, 2, "probe"))
        chances = np.exp(probe(free, Ask.of(["label_log_probs"])).arrays["label_log_probs"][0])
        both = np.sort(lam * chances + (1 - lam) * tuned, axis=1)
        margins = 1 - (both[:, -1] - both[:, -2])
        np.testing.assert_allclose(run.store.arrays(2, "scores")["score"], margins, atol=1e-4)


def test_a_mix_needs_one_label_a_text() -> None:
    mixed = dataclasses.replace(STRATEGIES["lean"], model="mixed")
    lora = {"peft_type": "LORA", "lora_dropout": 0.1}
    assert check(mixed, "choice", simulation=False, peft=lora) == []
    for kind in ("number", "text", "multi_label"):
        assert any("model is mixed" in problem for problem in check(mixed, kind, simulation=False, peft=lora))


def test_an_encoder_without_a_named_head_starts_as_the_classifier_and_an_older_run_keeps_its_head(
    make_config: MakeConfig, tiny_encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = str(tiny_encoder_folder)
    monkeypatch.setattr("guidestar.bench.ENCODERS", {name})
    peft = {"peft_type": "LORA", "r": 4, "target_modules": "all-linear"}
    new = {**config_of(make_config, ["random"], budget=12), "peft": peft, "model": {"name": name, "dtype": "float32"}}
    old = {**new, "out": f"{new['out']}-old"}
    between = {**new, "out": f"{new['out']}-between"}  # of when such a head was the default and all views counted alike
    for config, model in ((old, {}), (between, {"head": "features"})):
        begun = configs.parse({**config, "model": {**config["model"], **model}})
        with Run(begun, bench=Bench(begun)) as run:
            assert run.ask()
    heads = {}
    for config in (new, old, between, new):
        assert set(loop.run(config).values()) == {Finished(Stop.BUDGET)}
        with Store.open(Path(config["out"]) / "random-seed0", read=True) as store:
            key = store.key
            heads[config["out"]] = store.facts["model"].get("head"), key["model.head"], key.get("model.views")
    features = "features", "features"
    assert heads == {
        new["out"]: (*features, "weighted"),
        old["out"]: (None, None, None),
        between["out"]: (*features, None),
    }
    with pytest.raises(ConfigMismatch, match=r"model\.head"):
        loop.run({**new, "model": {**new["model"], "head": "classifier"}})


def test_neighbours_that_say_nothing_of_their_head_are_left_out(
    make_config: MakeConfig, tiny_encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged one, one that is not begun, and one of a version that had no such key."""
    name = str(tiny_encoder_folder)
    monkeypatch.setattr("guidestar.bench.ENCODERS", {name})
    config = {**config_of(make_config, ["random"]), "model": {"name": name}}
    out = Path(config["out"])
    (out / "damaged").mkdir(parents=True)
    (out / "damaged" / "run.sqlite").write_bytes(b"SQLite format 3\0 and then nothing of it")
    Store.open(out / "empty", create=True).close()
    assert (read_config(config).model.head, read_config(config).model.views) == ("features", "weighted")
    with Store.open(out / "old", create=True) as store:
        store.begin({"train.epochs": 6}, {})
    assert read_config(config).model.head is None
