"""The random share of a run's picks, and advice when to stop: the loop keeps what they need, and status says it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from loops import SMALL, MakeConfig, answer_all, crash_everywhere, dumps

from guidestar import loop
from guidestar.cli import main
from guidestar.config import StopConfig, load, parse
from guidestar.errors import ConfigError
from guidestar.loop import Run
from guidestar.metrics.sample import Draw, difference, mean_share, pool_share
from guidestar.metrics.smoothness import smoothness
from guidestar.records import Example, Label, Metrics, Pick, Query, Skip, Stop, Suggestion
from guidestar.report import advice as advice_room
from guidestar.report.advice import Advised, Budget, advice_lines, advise, settings, stop_advice
from guidestar.report.control import ClassShares, control
from guidestar.report.facts import plain
from guidestar.store import Store

PEOPLE: dict[str, Any] = {**SMALL, "annotator": "people", "strategies": ["entropy"]}


def _store(folder: Path, **facts: Any) -> Store:
    """A run of 3 rounds on a pool of 100: 10 at the start, then 4 random and 6 chosen ones each round."""
    found = Store.open(folder, create=True)
    begun = {
        "strategy": "entropy",
        "seed": 0,
        "recipe": {"select": "top", "measure": "entropy"},
        "task": {"kind": "choice", "labels": ["a", "b"]},
        "data": {"pool": 100, "test": 200},
        "config": {"query": {"warm_start": 10, "batch": 10, "budget": 60}},
    }
    found.begin({}, begun | facts)
    for r in range(3):
        ids = [f"{r:08d}{i:08d}" for i in range(10)]
        picks = [Pick(id, float("nan"), {"random": 1.0} if r and i < 4 else {}) for i, id in enumerate(ids)]
        found.add_query(Query(r, tuple(picks)), {id: Example(id, {"text": id}, id) for id in ids})
        if r:
            # The model of the round before says "a" to everything.
            found.add_suggestions(r, {id: Suggestion("a", {"a": 0.9, "b": 0.1}, r - 1) for id in ids})
        for i, id in enumerate(ids):
            # At the start 2 of 10 are b; of the random picks 1 of 4; of the chosen ones 4 of 6.
            rare = i < 2 if r == 0 else i in (0, 4, 5, 6, 7)
            found.annotations.add(id, Label("b" if rare else "a"), source="python")
        found.add_adapter(r, lambda path: (path / "x").write_text("x"))
        found.add_timing(r, "train", 1.0, 10 * (r + 1))
        found.add_metrics(Metrics(r, 10 * (r + 1), {"accuracy": 0.7 + 0.05 * r}))
    return found


def test_the_random_picks_estimate_accuracy_classes_and_difficulty(tmp_path: Path) -> None:
    with _store(tmp_path / "run") as store:
        found = control(store)
    assert found is not None
    assert [(one["round"], one["labels"], one["right"], one["answers"]) for one in found.rounds] == [
        (1, 10, 3, 4), (2, 20, 3, 4),
    ]  # fmt: skip
    draws = [Draw(3, 4, 90), Draw(3, 4, 80)]
    assert plain(found.accuracy) == {**mean_share(draws).plain(), "answers": 8, "right": 6, "rounds": [1, 2]}
    assert found.harder == difference([(4, 6), (4, 6)], [(1, 4), (1, 4)])
    expected = pool_share([Draw(2, 10, 100), Draw(1, 4, 90, 2, 10), Draw(1, 4, 80, 7, 20)])
    assert (found.classes or {})["b"] == ClassShares(12 / 30, expected)
    assert "about 75 %" in found.sentences[0]
    assert "6 of 8 random picks of rounds 1 to 2" in found.sentences[0]
    assert any("not known: +42 points of error" in line for line in found.sentences)


def test_a_random_strategy_is_a_sample_throughout(tmp_path: Path) -> None:
    with _store(tmp_path / "run", recipe={"select": "random", "measure": None}) as store:
        found = control(store)
    assert found is not None
    assert (found.answers, found.harder) == (20, None)


def test_answers_to_numbers_are_compared_by_value(tmp_path: Path) -> None:
    with _store(tmp_path / "run", task={"kind": "text"}) as store:
        texts = control(store)
    assert texts is not None
    assert texts.classes is None
    assert texts.accuracy is not None
    assert texts.accuracy.right == 6, "the article 'a' is no word of an answer, and still equals itself"


def test_skipped_picks_are_counted_and_open_rounds_wait(tmp_path: Path) -> None:
    with _store(tmp_path / "run") as store:
        store.annotations.add(store.query(2).picks[1].id, Skip("unclear"), source="python")
        found = control(store)
        assert found is not None
        assert (found.answers, found.skipped) == (7, 1)
        assert any("1 random picks were skipped" in line for line in found.sentences)


# --- the loop -----------------------------------------------------------------------------------


def _people(make_config: MakeConfig, **changes: Any) -> dict[str, Any]:
    query = {"warm_start": 12, "batch": 4, "budget": 24, "candidates": None}
    return make_config(**{**PEOPLE, "query": query, **changes})


def test_people_get_a_random_tenth_kept_over_small_batches(make_config: MakeConfig) -> None:
    with Run(_people(make_config)) as run:
        while examples := run.ask():
            answer_all(run, examples)
        marks = [sum("random" in pick.details for pick in run.store.query(r).picks) for r in range(run.store.rounds())]
        assert run.random_share == 0.1
        assert marks == [0, 0, 1, 0], "a tenth of 12 picks after the warm start"
        found = control(run.store)
        assert found is not None
        assert [one["round"] for one in found.rounds] == [2]
        assert found.accuracy is None
        assert "Only 1 random answer so far" in found.sentences[0]


def test_simulations_and_random_strategies_have_no_random_share(make_config: MakeConfig, tmp_path: Path) -> None:
    plain = make_config(out=str(tmp_path / "plain"), **SMALL, strategies=["entropy"])
    zero = make_config(
        out=str(tmp_path / "zero"),
        **{**SMALL, "query": {**SMALL["query"], "random_share": 0.0}},
        strategies=["entropy"],
    )
    for config in (plain, zero):
        loop.run(config)
    assert dumps(tmp_path / "plain") == dumps(tmp_path / "zero")
    loop.run(plain | {"query": zero["query"]})  # the same run to the store: its key holds the share itself
    with Run(_people(make_config, strategies=["random"])) as run:
        assert run.random_share == 0.0
        answer_all(run, run.ask())
        answer_all(run, run.ask())
        assert run.ask()
        assert control(run.store) is not None


def test_a_run_keeps_the_share_that_it_was_begun_with(make_config: MakeConfig) -> None:
    config = _people(make_config)
    begun = config | {"query": config["query"] | {"random_share": 0.0}}
    with Run(begun) as run:
        answer_all(run, run.ask())
    with Run(config) as run:
        assert run.random_share == 0.0


@pytest.mark.parametrize("changes", [{"annotator": "oracle"}, {"people": {"suggestions": "off"}}])
def test_predictions_of_rounds_with_random_picks_are_kept_though_nobody_sees_them(
    make_config: MakeConfig, changes: dict[str, Any]
) -> None:
    config = _people(make_config, **changes)
    config["query"]["random_share"] = 0.5
    loop_of = Run(config)
    with loop_of as run:
        while examples := run.ask():
            answer_all(run, examples)
        found = control(run.store)
        assert found is not None
        assert found.answers == 6
        said = run.store.suggestions(trained=True)
        asked = {pick.id for r in (1, 2, 3) for pick in run.store.query(r).picks}
        assert set(said) == asked, "those of the round alone"


# --- advice -------------------------------------------------------------------------------------


def _with_curve(store: Store, values: list[float], kappa_labels: list[np.ndarray], validation: int = 400) -> None:
    """Rounds with a validation accuracy, and what each model said to the validation set."""
    for r, value in enumerate(values):
        id = f"{r:016d}"
        store.add_query(Query(r, (Pick(id, float("nan")),)), {id: Example(id, {}, id)})
        store.annotations.add(id, Label("a"), source="python")
        log_probs = np.log(np.where(np.eye(2)[kappa_labels[r]] > 0, 0.9, 0.1)).astype(np.float32)
        store.add_arrays(r, "validation", {"log_probs": log_probs}, {})
        store.add_metrics(Metrics(r, 100 + 50 * r, {"accuracy": value, "validation_accuracy": value}))


@pytest.fixture
def empty(tmp_path: Path) -> Any:
    with Store.open(tmp_path / "run", create=True) as store:
        store.begin(
            {},
            {
                "task": {"kind": "choice", "labels": ["a", "b"]},
                "data": {"pool": 5000, "test": 400, "validation": 1000},
                "config": {"query": {"warm_start": 100, "batch": 50, "budget": 600}},
            },
        )
        yield store


def test_a_flat_curve_with_settled_predictions_is_a_reason_to_stop(empty: Store) -> None:
    labels = np.random.default_rng(0).integers(0, 2, 1000)
    _with_curve(empty, [0.8, 0.88, 0.9, 0.9, 0.9, 0.9, 0.9], [labels] * 7)
    found = stop_advice(empty, StopConfig())
    assert found is not None
    assert found.advice == "stop"
    assert found.signals == {"gain": True, "agreement": True, "confidence": False, "smoothness": None}
    assert found.gain is not None
    assert found.gain.source == "validation set"
    assert found.budget == Budget(False, 400, 600, 200, 4)
    assert found.sentences[0].startswith("Advice: stop.")
    assert stop_advice(empty, StopConfig(mode="off")) is None


def test_a_rising_curve_is_a_reason_to_go_on(empty: Store) -> None:
    rng = np.random.default_rng(0)
    _with_curve(empty, [0.5, 0.6, 0.67, 0.72, 0.76, 0.79], [rng.integers(0, 2, 1000) for _ in range(6)])
    found = stop_advice(empty, StopConfig())
    assert found is not None
    assert found.advice == "go on"
    assert found.gain is not None
    assert found.gain.low > 0.005
    assert found.gain.forecasts == 2
    assert found.sentences[0].startswith("Advice: go on.")


def test_labels_taken_back_leave_the_rounds_that_had_more(empty: Store) -> None:
    """Undo of earlier rounds: a later round may know fewer labels than those before it."""
    points = [(float(n), 0.5, 100.0) for n in (50, 55, 60, 53, 58, 58)]
    assert [n for n, _, _ in advice_room._rising(points)] == [50, 53, 58]
    for r, labels in enumerate((50, 55, 60, 53, 58, 63, 68)):
        id = f"{r:016d}"
        empty.add_query(Query(r, (Pick(id, float("nan")),)), {id: Example(id, {}, id)})
        empty.annotations.add(id, Label("a"), source="python")
        empty.add_metrics(Metrics(r, labels, {"validation_accuracy": 0.5 + 0.03 * r}))
    found = stop_advice(empty, StopConfig())
    assert found is not None
    assert found.gain is not None


def test_few_rounds_give_no_advice(empty: Store) -> None:
    _with_curve(empty, [0.5, 0.6], [np.zeros(10, dtype=int)] * 2)
    found = stop_advice(empty, StopConfig())
    assert found is not None
    assert found.advice == "unknown"
    assert found.gain is None


def test_the_test_set_does_not_end_a_run(empty: Store) -> None:
    """With stop: stop only validation and random picks are read; with advise the test set is, and it is said."""
    for r in range(6):
        id = f"{r:016d}"
        empty.add_query(Query(r, (Pick(id, float("nan")),)), {id: Example(id, {}, id)})
        empty.annotations.add(id, Label("a"), source="python")
        empty.add_arrays(r, "test", {"log_probs": np.log([[0.9, 0.1]] * 50).astype(np.float32)}, {})
        empty.add_metrics(Metrics(r, 100 + 50 * r, {"accuracy": 0.9}))
    advised, ending = (stop_advice(empty, StopConfig(mode=mode)) for mode in ("advise", "stop"))
    assert advised is not None
    assert ending is not None
    assert (advised.advice, ending.advice) == ("stop", "unknown")
    assert any("read off the test set" in line for line in advised.sentences)
    assert any("the test set must choose nothing" in line for line in ending.sentences)


def test_a_run_stops_only_when_asked_to_and_goes_on_when_asked_again(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        advice_room, "stop_advice", lambda store, stop: SimpleNamespace(advice="stop") if store.metrics() else None
    )
    config = make_config(**SMALL, strategies=["entropy"])
    assert loop.run(config | {"stop": "stop"})["entropy-seed0"].reason is Stop.ADVISED
    with Store.open(Path(config["out"]) / "entropy-seed0") as store:
        assert len(store.metrics()) == 1
    assert loop.run(config | {"stop": "advise"})["entropy-seed0"].reason is Stop.BUDGET
    assert loop.run(config | {"stop": "stop"})["entropy-seed0"].reason is Stop.BUDGET


def test_a_run_that_may_stop_keeps_what_it_needs_for_it(make_config: MakeConfig, demo_data: Path) -> None:
    config = make_config(**SMALL, strategies=["entropy"], stop="stop")
    loop.run(config)
    with Store.open(Path(config["out"]) / "entropy-seed0") as store:
        assert store.has_arrays(1, "answers")
        answers = store.arrays(1, "answers")
        assert len(answers["row"]) == len(answers["label"]) == 12
        assert np.all((answers["confidence"] > 0) & (answers["confidence"] <= 1))
        assert "validation_accuracy" in store.metrics()[0].values
        found = stop_advice(store, StopConfig(mode="stop"))
    assert found is not None
    assert found.agreement is not None
    assert found.agreement.on == "the validation set"


def test_agreement_on_candidates_compares_the_same_examples(empty: Store) -> None:
    empty.add_arrays(1, "answers", {"row": np.array([1, 2, 3]), "label": np.array([0, 1, 1]), "confidence": np.ones(3)})
    empty.add_arrays(2, "answers", {"row": np.array([3, 2, 9]), "label": np.array([1, 0, 0]), "confidence": np.ones(3)})
    said, where = advice_room._said(empty, range(2), True)
    found = advice_room._agreement(said, where, StopConfig())
    assert found is not None
    assert found.examples == 2
    assert found.kappas == [0.0]


def test_stop_is_a_word_or_a_section(tmp_path: Path, make_config: MakeConfig) -> None:
    config = parse(make_config(stop="off"))
    assert config.stop == StopConfig(mode="off")
    assert parse(make_config(stop={"gain": 0.01})).stop.mode == "advise"
    assert "stop.mode" not in config.key()
    with pytest.raises(ConfigError, match=r"stop.mode is 'sotp'; did you mean 'stop'"):
        parse(make_config(stop="sotp"))
    path = tmp_path / "config.yaml"
    path.write_text("out: .\ndata: {pool: x.csv, template: '{text}'}\ntask: {kind: text}\nstop: off\n")
    assert load(path).stop.mode == "off"
    assert settings(tmp_path / "star-seed0", {}).mode == "off", "the copy beside the runs holds"
    assert settings(tmp_path / "elsewhere" / "star-seed0", {"config": {"stop": {"mode": "stop"}}}).mode == "stop"


def test_status_says_it_and_writes_it_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with _store(tmp_path / "run"):
        pass
    assert main(["status", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert said.startswith(
        "80 % (74 to 85 %) after 30 labels, on 200 test examples; what more labels would bring is known "
    )
    assert "Accuracy on the unlabelled pool" not in said, "statistics are for --all"
    assert main(["status", str(tmp_path / "run"), "--all"]) == 0
    said = capsys.readouterr().out
    assert "Accuracy on the unlabelled pool: about 75 %" in said
    assert "Advice: none yet." in said
    assert main(["status", str(tmp_path / "run"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["advice"][0]["control"]["answers"] == 8
    assert advice_lines(advise(tmp_path / "run"))[0] == "run:"


def test_finished_runs_of_an_experiment_are_not_advised() -> None:
    said: Any = SimpleNamespace(sentences=["Advice: stop."])
    runs = [Advised("a", True, None, said), Advised("b", False, None, said)]
    assert advice_lines(runs) == ["b:", "  Advice: stop."]


def test_a_crash_changes_nothing_of_what_advice_rests_on(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random picks, suggestions kept for them, candidates' answers and validation arrays: the same after any crash."""
    query = {**SMALL["query"], "random_share": 0.5}

    def new(steps: list[str]) -> list[int]:
        """Around the first write of each kind that advice brought."""
        begins = (
            "renamed round-001-answers", "committed add_arrays 1 answers", "renamed round-000-validation",
            "committed add_arrays 0 validation", "commit add_suggestions", "committed add_suggestions",
            "renamed round-001-picks", "committed add_arrays 1 picks",
        )  # fmt: skip
        return [next(i for i, step in enumerate(steps) if step.startswith(begin)) for begin in begins]

    changes = {**SMALL, "query": query, "strategies": ["entropy"], "stop": "stop"}
    assert crash_everywhere(make_config, tmp_path, monkeypatch, new, **changes) == 8
    (dump,) = dumps(tmp_path / "whole").values()
    assert {(r, name) for r, name, _ in dump["arrays"]} >= {(1, "answers"), (1, "picks"), (0, "validation")}
    assert dump["suggestions"]


# --- smoothness of new batches --------------------------------------------------------------------


def _batches(store: Store, apart: list[float], size: int = 40, skipped: int = 0) -> None:
    """A warm start and a batch for each of `apart`: how far the states of the two labels lie apart, by the model that
    chose them."""
    rng = np.random.default_rng(0)
    direction = rng.normal(size=16)
    for r, distance in enumerate([0.0, *apart]):
        ids = [f"{r:08d}{i:08d}" for i in range(size)]
        rare = np.arange(size) % 2
        states = rng.normal(size=(size, 16)) + distance * rare[:, None] * direction
        if r:
            store.add_arrays(r, "picks", {"embedding": states.astype(np.float32)}, {"ids": "\n".join(ids)})
        store.add_query(Query(r, tuple(Pick(id, 0.5) for id in ids)), {id: Example(id, {}, id) for id in ids})
        for i, id in enumerate(ids):
            said = Skip("?") if i < skipped else Label("ab"[rare[i]])
            store.annotations.add(id, said, source="python")
        store.add_metrics(Metrics(r, size * (r + 1), {"accuracy": 0.5 + 0.05 * r}))


def test_smoothness_that_no_longer_rises_is_a_sign_to_stop(empty: Store) -> None:
    _batches(empty, [0.2, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5])
    found = stop_advice(empty, StopConfig())
    assert found is not None
    smooth = found.smoothness
    assert smooth is not None
    assert smooth.rounds == [4, 5, 6, 7, 8, 9]
    assert found.signals["smoothness"] is True
    last = empty.arrays(9, "picks")["embedding"]
    assert smooth.alphas[-1] == smoothness(last, np.arange(40) % 2)
    assert np.mean(smooth.alphas[3:]) > 1.05 * smooth.chance
    (line,) = (line for line in found.sentences if "Besov" in line)
    assert line.endswith("it has levelled off.")


def test_rising_smoothness_is_a_sign_to_go_on_and_chance_is_none(empty: Store, tmp_path: Path) -> None:
    _batches(empty, [0.0, 0.2, 0.4, 1.5, 2.5, 3.5])
    found = stop_advice(empty, StopConfig())
    assert found is not None
    assert found.signals["smoothness"] is False
    assert any(line.endswith("it is still rising.") for line in found.sentences)
    with Store.open(tmp_path / "blind", create=True) as blind:
        blind.begin({}, empty.facts)
        _batches(blind, [0.0] * 6)
        nothing = stop_advice(blind, StopConfig())
    assert nothing is not None
    assert nothing.signals["smoothness"] is None
    assert any("no better than chance" in line for line in nothing.sentences)


def test_few_or_small_batches_give_no_sign_of_smoothness(empty: Store, tmp_path: Path) -> None:
    _batches(empty, [3.0] * 5, skipped=4)
    found = stop_advice(empty, StopConfig())
    assert found is not None
    assert found.signals["smoothness"] is None
    assert any("too few batches to judge (6)" in line for line in found.sentences)
    states = empty.arrays(5, "picks")["embedding"]
    assert found.smoothness is not None
    assert found.smoothness.alphas[-1] == smoothness(states[4:], np.arange(4, 40) % 2), "skipped ones are left out"
    with Store.open(tmp_path / "small", create=True) as small:
        small.begin({}, empty.facts)
        _batches(small, [3.0] * 6, size=12, skipped=3)
        nothing = stop_advice(small, StopConfig())
    assert nothing is not None
    assert nothing.smoothness is None
    assert not any("Besov" in line for line in nothing.sentences)


def test_the_loop_keeps_the_states_of_the_picks_by_the_model_that_chose_them(make_config: MakeConfig) -> None:
    from asked import predict

    from guidestar.model import adapters

    with Run(_people(make_config)) as run:
        for _ in range(2):
            answer_all(run, run.ask())
        assert run.ask()
        picks = run.store.query(2).picks
        kept = run.store.arrays(2, "picks")["embedding"]
        task, base = run.bench.dataset.task, run.bench.base
        examples = [run.store.example(pick.id) for pick in picks]
        with adapters.adapted(base, run.store.adapter(1)) as model:
            expected = predict(base, model, examples, {"embedding"}, task).arrays["embedding"][0]
        assert kept == pytest.approx(expected, rel=1e-5, abs=1e-6)
        assert not run.store.has_arrays(0, "picks"), "nothing chose the warm start"
        assert (2, "watch", len(picks)) in [(r, phase, n) for r, phase, _, n in run.store.timings()]


def test_a_simulation_keeps_no_states_of_its_picks(make_config: MakeConfig) -> None:
    config = make_config(**SMALL, strategies=["entropy"])
    loop.run(config)
    with Store.open(Path(config["out"]) / "entropy-seed0") as store:
        assert not store.has_arrays(1, "picks")
