"""The loop when people or an endpoint answer: suggestions, validation, imported labels, late corrections, crashes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asked import predict
from conftest import LABELS
from loops import (  # noqa: F401 - fixtures
    CHOICE,
    SMALL,
    MakeConfig,
    answer_all,
    crash_everywhere,
    dumps,
    nothing_stays,
    picks,
    shallow_model,
    sums,
    trained_labels,
    unlabelled_data,
)

from guidestar import loop, measuring
from guidestar.loop import Run
from guidestar.model import adapters
from guidestar.model.predict import respond
from guidestar.progress import Silent
from guidestar.records import Example, Finished, Flag, Label, Note, Skip, Stop, Undo, Waiting
from guidestar.report import build_report
from guidestar.store import Store

PEOPLE: dict[str, Any] = {**SMALL, "annotator": "people", "strategies": ["star"]}


class Listener(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def extra(number: int) -> Example:
    """An example that is not in the pool, as an import brings it."""
    text = f"parcel number {number} never came"
    return Example(f"{number:015x}e", {"text": text}, f"Message: {text}\nTopic:", "labels.csv")


def bring(store: Store, examples: Sequence[Example]) -> None:
    """What an import does."""
    store.annotations.add_extra(examples)
    store.annotations.add_many(
        [(e.id, Label(LABELS[i % 6], "file"), f"import-{e.id}", "import") for i, e in enumerate(examples)]
    )


# --- who answers ----------------------------------------------------------------------------------


def test_a_run_for_people_waits_although_the_data_know_the_answers(make_config: MakeConfig) -> None:
    config = make_config(**{**PEOPLE, "strategies": ["star", "random"]})
    news = Listener()
    outcome = loop.run(config, news)
    assert outcome == {"star-seed0": Waiting(0, 12), "random-seed0": Waiting(0, 12)}
    for name in ("star", "random"):
        folder = Path(config["out"]) / f"{name}-seed0"
        line = f"{name} seed 0: 12 of 12 examples of round 0 wait for an answer; guidestar label {folder}"
        assert line in news.said
    with Run(config) as run:
        answer_all(run, run.ask()[:5])
    assert loop.run(config)["star-seed0"] == Waiting(0, 7)


def test_the_record_says_where_answers_came_from(make_config: MakeConfig) -> None:
    one_round = {**SMALL, "query": {**SMALL["query"], "budget": 12}}
    loop.run(config := make_config(**one_round, strategies=["random"]))
    with Store.open(Path(config["out"]) / "random-seed0") as store:
        assert {(e.annotation.annotator, e.source) for e in store.annotations.history()} == {("oracle", "oracle")}
    with Run(make_config(**one_round, strategies=["star"])) as run:
        first, second, third = run.ask()[:3]
        run.tell(first.id, LABELS[0])
        run.tell(second.id, Label(LABELS[0], "ann"), source="terminal")
        run.run(lambda example: Skip("", "rule") if example == third else None)
        entries = [(e.annotation.annotator, e.source) for e in run.store.annotations.history()]
    assert entries == [("person", "python"), ("ann", "terminal"), ("rule", "python")]


def test_an_endpoint_answers_and_may_stop_in_the_middle(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from guidestar.people import endpoint

    named: list[list[str]] = []
    closed: list[Path] = []

    class Machine:
        source = "endpoint"
        left = 13

        def prefetch(self, examples: Sequence[Example]) -> None:
            named.append([e.id for e in examples])

        def __call__(self, example: Example) -> Label | None:
            self.left -= 1
            return Label(LABELS[len(example.prompt) % 6], "endpoint:m") if self.left >= 0 else None

    @contextmanager
    def annotator(asked: Any, task: Any, folder: Path, people: Any, *, say: Any) -> Iterator[Machine]:
        assert asked.model == "m"
        assert task.labels == tuple(LABELS)
        yield Machine()
        closed.append(folder)

    monkeypatch.setattr(endpoint, "EndpointAnnotator", annotator)
    config = make_config(**{**PEOPLE, "annotator": "endpoint"}, endpoint={"url": "http://127.0.0.1:1/v1", "model": "m"})
    assert loop.run(config) == {"star-seed0": Waiting(1, 1)}
    with Store.open(Path(config["out"]) / "star-seed0") as store:
        assert [[p.id for p in store.query(r).picks] for r in range(2)] == named
        assert {e.source for e in store.annotations.history()} == {"endpoint"}
        assert closed == [store.folder], "it was closed"
    assert loop.run(config) == {"star-seed0": Finished(Stop.BUDGET)}
    assert len(named[2]) == 1, "only what waits is asked for again"


@pytest.mark.parametrize(
    "useless", [Note("hm", "ann"), Undo("ann"), Flag("ann")], ids=lambda annotation: type(annotation).__name__
)
def test_an_annotator_whose_answer_answers_nothing_does_not_run_for_ever(make_config: MakeConfig, useless: Any) -> None:
    calls: list[Example] = []

    def annotator(example: Example) -> Any:
        calls.append(example)
        return useless

    with Run(make_config(**PEOPLE)) as run:
        assert run.run(annotator) == Waiting(0, 12)
    assert len(calls) == 12


# --- suggestions ----------------------------------------------------------------------------------


def test_suggestions_are_there_before_the_answers_and_from_the_model_before(make_config: MakeConfig) -> None:
    """Those of a round's picks are what the adapter of the round before says; it has not seen their labels."""
    with Run(make_config(**PEOPLE)) as run:
        store, seen = run.store, {}
        while examples := run.ask():
            r = store.current_round()
            assert store.has_suggestions(r) == (r > 0), "round 0 has none: the base model has not learned the task"
            seen[r] = [e.id for e in examples]
            answer_all(run, examples)
        shown, newest = store.suggestions(), store.suggestions(trained=True)
        assert set(shown) == {*seen[1], *seen[2]}, "none from a model that was trained on the example"
        assert set(newest) == {id for ids in seen.values() for id in ids}
        assert {newest[id].round for id in (*seen[0], *seen[1], *seen[2])} == {1}
        base, task = run.bench.base, run.bench.dataset.task
        for r in (1, 2):
            asked = [store.example(id) for id in seen[r]]
            with adapters.adapted(base, store.adapter(r - 1)) as model:
                found = predict(base, model, asked, {"label_log_probs"}, task).arrays["label_log_probs"][0]
            for id, row in zip(seen[r], np.exp(found), strict=True):
                assert shown[id].round == r - 1
                assert shown[id].probabilities == pytest.approx(dict(zip(LABELS, row, strict=True)), abs=1e-5)
                assert shown[id].answer == max(shown[id].probabilities, key=shown[id].probabilities.__getitem__)
                assert sum(shown[id].probabilities.values()) == pytest.approx(1)
        timed = {(r, phase): count for r, phase, _, count in store.timings()}
        assert (timed[1, "suggest"], timed[2, "suggest"]) == (14, 16), "the round's picks and all labelled examples"


def test_suggestions_do_not_depend_on_the_answers_of_their_round(make_config: MakeConfig, tmp_path: Path) -> None:
    """Every label of round 1 is another one: what was suggested for it is the same, what follows is not."""
    found = []
    for shift in (0, 1):
        with Run(make_config(**PEOPLE, out=str(tmp_path / f"{shift}"))) as run:
            answer_all(run, run.ask())
            asked = run.ask()
            for example in asked:
                gold = LABELS.index(run.bench.dataset.gold[example.id])
                run.tell(example.id, LABELS[(gold + shift) % len(LABELS)])
            run.ask()
            found.append((asked, run.store.suggestions(), run.store.suggestions(trained=True)))
    (asked, first, after), (again, second, after_others) = found
    assert asked == again
    assert all(first[e.id] == second[e.id] for e in asked)
    assert any(after[e.id] != after_others[e.id] for e in asked), "the labels do not reach the model: it says nothing"


def test_suggestions_are_made_once(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    real = measuring.suggest

    def count(*values: Any, **options: Any) -> Any:
        calls.append(values[3])
        return real(*values, **options)

    monkeypatch.setattr(measuring, "suggest", count)
    config = make_config(**PEOPLE)
    with Run(config) as run:
        answer_all(run, run.ask())
        second = run.ask()
        assert run.ask() == second
    with Run(config) as run:
        assert run.ask() == second
        answer_all(run, second[:1])
        run.ask()
    assert calls == [0]


@pytest.mark.parametrize("changes", [{"annotator": "oracle"}, {"people": {"suggestions": "off"}}])
def test_nobody_gets_suggestions_who_does_not_want_them(make_config: MakeConfig, changes: dict[str, Any]) -> None:
    with Run(make_config(**{**PEOPLE, **changes})) as run:
        answer_all(run, run.ask())
        answer_all(run, run.ask())
        assert run.store.suggestions(trained=True) == {}
        assert "suggest" not in {phase for _, phase, _, _ in run.store.timings()}


@pytest.mark.parametrize(("kind", "answer"), [("number", "answer"), ("text", "name")])
def test_a_written_answer_is_suggested_as_a_draft(
    make_config: MakeConfig, tmp_path: Path, kind: str, answer: str
) -> None:
    """The greedy response without the words of the response template, for the round's picks only."""
    data = {
        "preset": None, "folder": None, "test_limit": None, "pool": str(sums(tmp_path / "pool.jsonl", 40)),
        "answer": answer, "template": "{question}\n", "response": "So: {answer}",
    }  # fmt: skip
    query = {"warm_start": 6, "batch": 3, "budget": 9, "candidates": 8}
    changes = {**PEOPLE, "data": data, "query": query, "train": {**SMALL["train"], "epochs": 30}}
    with Run(make_config(**changes, task={"kind": kind, "max_new_tokens": 12})) as run:
        answer_all(run, run.ask())
        asked = run.ask()
        found = run.store.suggestions(trained=True)
        base, task = run.bench.base, run.bench.dataset.task
        with adapters.adapted(base, run.store.adapter(0)) as model:
            texts = respond(base, model, asked, task).texts
    assert list(found) == [e.id for e in asked]
    assert all(not s.probabilities and s.round == 0 for s in found.values())
    for example, text in zip(asked, texts, strict=True):
        assert found[example.id].answer in text
        assert "So:" not in found[example.id].answer
    assert any(s.answer for s in found.values()), "the model writes nothing: the test says nothing"


# --- the validation set ---------------------------------------------------------------------------


def test_people_see_how_it_goes_on_the_validation_set(make_config: MakeConfig, tmp_path: Path, demo_data: Path) -> None:
    one_round = {**PEOPLE, "query": {**SMALL["query"], "budget": 12}, "people": {"suggestions": "off"}}
    news = Listener()
    with Run(make_config(**one_round), progress=news) as run:
        answer_all(run, run.ask())
        assert run.ask() == []
        (both,) = run.metrics()
        names = {name for name in both.values if not name.startswith("validation_")}
        assert {"accuracy", "nll"} <= names
        assert set(both.values) == names | {f"validation_{name}" for name in names}
        assert {"evaluate", "validate"} <= {phase for _, phase, _, _ in run.store.timings()}
        base, split = run.bench.base, run.bench.fitting.validation
        assert split is not None
        with adapters.adapted(base, run.store.adapter(0)) as model:
            examples = list(split.examples)
            log_probs = predict(base, model, examples, {"label_log_probs"}, run.bench.dataset.task)
        guesses = [LABELS[i] for i in log_probs.arrays["label_log_probs"][0].argmax(1)]
        assert both.values["validation_accuracy"] == np.mean(
            [g == a for g, a in zip(guesses, split.answers, strict=True)]
        )
    assert any("validation accuracy 0." in line for line in news.said)

    files = {name: str(demo_data / f"{name}.csv") for name in ("pool", "validation")}
    data = {"preset": None, "folder": None, "test_limit": None, "answer": "label", "template": "{text}\n", **files}
    only = make_config(**{**one_round, "data": data}, task=CHOICE, out=str(tmp_path / "only"))
    with Run(only) as run:
        answer_all(run, run.ask())
        assert run.ask() == []
        assert set(run.metrics()[0].values) == {f"validation_{name}" for name in names}
    assert build_report(tmp_path / "only").is_file()


def test_a_simulation_does_not_look_at_the_validation_set(make_config: MakeConfig) -> None:
    loop.run(config := make_config(**{**SMALL, "query": {**SMALL["query"], "budget": 12}}, strategies=["random"]))
    with Store.open(Path(config["out"]) / "random-seed0") as store:
        assert not any(name.startswith("validation") for name in store.metrics()[0].values)


# --- labels that nobody asked for -----------------------------------------------------------------


def test_imported_labels_are_trained_on_and_count_for_the_budget(
    make_config: MakeConfig, trained: list[dict[str, str]]
) -> None:
    config = make_config(**{**PEOPLE, "query": {**SMALL["query"], "budget": 20}})
    with Run(config) as run:
        answer_all(run, run.ask())
        second = run.ask()
        in_pool = next(e for e in run.bench.pool if e.id not in run.store.asked())
        with Store.open(run.folder) as other:  # while the run is open: imports need no lock
            bring(other, [extra(1), in_pool])
        assert run.ask() == second, "nobody waits for an import"
        answer_all(run, second)
        later = []
        while examples := run.ask():
            later += examples
            answer_all(run, examples)
        assert [m.labels for m in run.metrics()] == [12, 16, 18, 20]
        assert [len(labels) for labels in trained] == [12, 16, 18, 20]
        assert {extra(1).id, in_pool.id} <= trained[1].keys()
        assert in_pool not in later, "it has a label already"
        assert run.store.finished() is Stop.BUDGET


def test_a_budget_filled_by_an_import_is_trained_on_before_the_run_ends(
    make_config: MakeConfig, trained: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come while round 1 is measured, so no adapter has seen them: one more round, that asks for nothing."""
    news, config = Listener(), make_config(**{**PEOPLE, "query": {**SMALL["query"], "budget": 16}})
    real = measuring.evaluate
    with Run(config, progress=news) as run:
        answer_all(run, run.ask())
        answer_all(run, run.ask())

        def meanwhile(*values: Any, **options: Any) -> Any:
            bring(run.store, [extra(n) for n in range(4)])
            return real(*values, **options)

        with monkeypatch.context() as patch:
            patch.setattr(measuring, "evaluate", meanwhile)
            assert run.ask() == []
        assert [m.labels for m in run.metrics()] == [12, 14, 18], "a round's labels are those it was trained on"
        assert [len(labels) for labels in trained] == [12, 14, 18]
        assert run.store.query(2).picks == ()
        assert run.store.finished() is Stop.BUDGET
    assert "round 2 asks for nothing; it trains on the labels that came in since the last" in news.said
    assert build_report(Path(config["out"])).is_file()


def test_an_import_before_the_warm_start_leaves_less_to_ask(make_config: MakeConfig) -> None:
    config = make_config(**{**PEOPLE, "query": {"warm_start": 12, "batch": 2, "budget": 15, "candidates": 12}})
    with Run(config) as run:
        bring(run.store, [extra(n) for n in range(5)])
        assert len(run.ask()) == 7, "they are a part of the warm start"
    config = make_config(**{**PEOPLE, "query": {**SMALL["query"], "budget": 12}}, out=f"{config['out']}-all")
    with Run(config) as run:
        bring(run.store, [extra(n) for n in range(13)])
        assert run.ask() == []
        assert [m.labels for m in run.metrics()] == [13], "a run trains at least once"


def test_imported_examples_of_the_test_set_or_too_long_are_not_trained_on(
    make_config: MakeConfig, trained: list[dict[str, str]]
) -> None:
    with Run(make_config(**PEOPLE)) as run:
        dataset = run.bench.dataset
        assert dataset.test is not None
        assert dataset.validation is not None
        long = dataclasses.replace(extra(1), prompt="word " * 5000)
        barred = [dataset.test.examples[0], dataset.validation.examples[0], long]
        first = run.ask()
        bring(run.store, [*barred, extra(2)])
        answer_all(run, first)
        while examples := run.ask():
            answer_all(run, examples)
        assert [m.labels for m in run.metrics()] == [13, 15, 16]
        assert run.store.suggestions(trained=True).keys().isdisjoint(e.id for e in barred)
    for labels in trained:
        assert extra(2).id in labels
        assert labels.keys().isdisjoint(e.id for e in barred)


def test_an_exhausted_pool_ends_the_run_with_imports_too(make_config: MakeConfig) -> None:
    """Examples from elsewhere are no part of the pool: they must not hide that it is used up, nor that it is not."""
    small = {**PEOPLE, "data": {**SMALL["data"], "pool_limit": 16}, "query": {**SMALL["query"], "budget": 50}}
    with Run(make_config(**small)) as run:
        bring(run.store, [extra(n) for n in range(6)])
        asked = []
        while examples := run.ask():
            asked += examples
            answer_all(run, examples)
        assert run.store.finished() is Stop.EMPTY
        assert {e.id for e in asked} == {e.id for e in run.bench.pool}


# --- changed minds --------------------------------------------------------------------------------


def test_a_late_correction_counts_in_the_next_training(make_config: MakeConfig, trained: list[dict[str, str]]) -> None:
    with Run(make_config(**PEOPLE)) as run:
        first = run.ask()
        answer_all(run, first)
        second = run.ask()
        gold = run.bench.dataset.gold[first[0].id]
        other = next(label for label in LABELS if label != gold)
        assert run.tell(first[0].id, Label(other))
        answer_all(run, second)
        run.ask()
        assert [labels[first[0].id] for labels in trained] == [gold, other]
        assert [m.labels for m in run.metrics()] == [12, 14]


def test_an_answer_taken_back_later_leaves_the_example_without_label(
    make_config: MakeConfig, trained: list[dict[str, str]]
) -> None:
    """The loop does not ask for it again, the page can; the budget counts the labels that there are."""
    with Run(make_config(**PEOPLE)) as run:
        first = run.ask()
        answer_all(run, first)
        second = run.ask()
        who = run.store.annotations.history()[0].annotation.annotator
        run.store.annotations.add(first[0].id, Undo(who), source="page")
        answer_all(run, second)
        asked = [*first, *second]
        while examples := run.ask():
            asked += examples
            answer_all(run, examples)
        assert [len(labels) for labels in trained] == [12, 13, 15, 16]
        assert first[0].id not in trained[-1]
        assert len(asked) == len({e.id for e in asked}) == 17
        assert run.store.annotations.unanswered(0) == [first[0]]
        assert run.store.finished() is Stop.BUDGET


def test_a_warm_start_that_was_added_to_later_is_not_shared(make_config: MakeConfig, trained: list[Any]) -> None:
    """The labels of both are equal now; the first one's adapter was trained before the last of them came."""
    one_round = {**PEOPLE, "query": {**SMALL["query"], "budget": 13}, "strategies": ["random", "star"]}
    config = make_config(**one_round)
    with Run(config, strategy="random") as run:
        answer_all(run, run.ask())
        run.tuning.train(0)
        bring(run.store, [extra(1)])
    with Run(config, strategy="star") as run:
        first = run.ask()
        answer_all(run, first)
        bring(run.store, [extra(1)])
        assert run.ask() == []
    assert [len(labels) for labels in trained] == [12, 13]


# --- crashes --------------------------------------------------------------------------------------


def afternoon(config: dict[str, Any]) -> None:
    """People label a run to its end: an import and a flag in round 1, a change of mind about round 0 in round 2."""
    with Run(config) as run:
        notes, gold = run.store.annotations, run.bench.dataset.gold
        while examples := run.ask():
            r = run.store.current_round()
            warm = run.store.query(0).picks[0].id
            if r == 1:
                bring(run.store, [extra(1), extra(2)])
                notes.add(extra(1).id, Flag("ann"), decision="flag", source="page")
            if r == 2:
                notes.add(warm, Undo("ann"), decision="undo", source="page")
                notes.add(warm, Label(LABELS[0], "ann"), decision="again", source="page")
            for example in examples:
                label = Label(gold[example.id], "ann")
                notes.add(example.id, label, decision=f"{r}-{example.id}", source="page")


def test_crashes_of_a_run_that_people_label_change_nothing(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shallow: dict[str, Any]
) -> None:
    """The same picks, annotations, suggestions, extras, adapters and metrics as in the uninterrupted run.

    Covered: every step between the query of a round and its first answers (suggestions, import, change of mind), the
    measurements of round 1, and every twelfth of the others.
    """
    chosen: list[str] = []

    def choose(steps: list[str]) -> list[int]:
        special = ("add_suggestions", "suggest", "add_extra", "at once", "validate", "0000e", "add_metrics 1")
        points = {i for i, name in enumerate(steps) if any(word in name for word in special)}
        points |= {i + 1 for i, name in enumerate(steps[:-1]) if name.startswith("committed add_query")}
        points |= set(range(0, len(steps), 12))
        chosen.extend(steps[i] for i in sorted(points))
        return sorted(points)

    changes = {**PEOPLE, "query": {**SMALL["query"], "budget": 18}, "model": shallow}
    made = crash_everywhere(make_config, tmp_path, monkeypatch, choose, afternoon, **changes)
    assert made > 30
    for step in ("commit add_suggestions 1", "committed add_extra", "commit annotate 2 at once"):
        assert step in chosen
    (dump,) = dumps(tmp_path / "whole").values()
    assert [labels for _, labels, _ in dump["metrics"]] == [12, 16, 18]
    assert len(dump["extras"]) == 2
    assert {r for r, *_ in dump["suggestions"]} == {1, 2}
