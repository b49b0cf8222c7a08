"""Several labels may hold for one text: cells read and written, trained by a head and by yes and no, scored, chosen, measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from loops import SMALL, dumps, write_csv

from guidestar import loop
from guidestar.asking import label_places, silent
from guidestar.asking.answers import likeliest_sets
from guidestar.asking.each import EachLabel, asked
from guidestar.bench import Bench, read_config
from guidestar.errors import ConfigError, DataError
from guidestar.publish import publish
from guidestar.query import probe
from guidestar.query.measures import MEASURES, evaluate_measure, measure_problems
from guidestar.query.probe import prototype_log_probs
from guidestar.query.recipes import STRATEGIES, check
from guidestar.records import Finished, Predictions, Stop
from guidestar.store import Store
from guidestar.tasks import Choice, MultiLabel, form_of, make_task
from guidestar.tasks.multi_label import NONE, parts_in

MakeConfig = Callable[..., dict[str, Any]]
LABELS = ("billing", "very late", "a, b", "x|y")
TASK = MultiLabel(LABELS, ("invoice", "delay", "a, b", "x|y"))


# --- cells ----------------------------------------------------------------------------------------


@given(st.sets(st.sampled_from(LABELS)), st.randoms())
def test_every_way_to_write_a_set_is_read_as_the_same(held: set[str], random: Any) -> None:
    wanted = TASK.canonical(held)
    some = list(held)
    random.shuffle(some)
    words = [TASK.words[LABELS.index(label)] for label in some]
    spellings = [wanted, json.dumps(some), str(some), json.dumps(words), TASK.response_text(wanted)]
    spellings += ["; ".join(some), ";".join(word.upper() for word in words)] if some else []
    spellings += ["|".join(some)] if some and "x|y" not in some else []
    assert {TASK.parse_gold(text, "x") for text in spellings} == {wanted}
    assert TASK.parts(wanted) == tuple(label for label in LABELS if label in held)
    assert TASK.parse(TASK.response_text(wanted)) == wanted == TASK.read_reply(f"They are:\n{wanted}.")


@examples(max_examples=40)
@given(st.text(max_size=40))
def test_a_cell_is_an_answer_of_known_labels_or_a_sentence(cell: str) -> None:
    try:
        answer = TASK.parse_gold(cell, "x")
    except DataError as error:
        answer, problem = NONE, str(error)
        assert problem.startswith("x: ")
    assert TASK.parse_gold(answer, "x") == answer


def test_what_is_wrong_with_a_cell_or_a_label_is_said() -> None:
    with pytest.raises(DataError, match=r"pool.csv line 7: label 'biling' is not one of: .*did you mean 'billing'"):
        TASK.parse_gold("very late; biling", "pool.csv line 7")
    with pytest.raises(DataError, match=r"the answer is empty; write \[\] where no label holds"):
        TASK.parse_gold("  ", "x")
    with pytest.raises(ConfigError, match="a semicolon stands between the labels"):
        MultiLabel(("a;b", "c"), ("a;b", "c"))
    assert parts_in(["b; a", "A; a", "", "['c', 'b']"]) == ("a", "b", "c")
    assert parts_in(["red, blue", "blue"]) == ("blue", "red")
    assert form_of(TASK)["several"] is True


def test_f1_agrees_with_scikit_learn() -> None:
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(0)
    held = rng.random((2, 50, 4)) < 0.3
    predicted, gold = ([TASK.canonical({LABELS[i] for i in np.flatnonzero(row)}) for row in part] for part in held)
    found = TASK.measures(predicted, gold)
    assert found["micro_f1"] == pytest.approx(f1_score(held[1], held[0], average="micro"))
    assert found["macro_f1"] == pytest.approx(f1_score(held[1], held[0], average="macro"))
    assert TASK.measures([NONE, None], [NONE, NONE]) == {"micro_f1": 1.0, "macro_f1": 1.0}


# --- measures and strategies -----------------------------------------------------------------------


def test_a_measure_is_the_mean_over_the_labels_or_is_refused() -> None:
    """One by one: the measure of each label's two outcomes alone."""
    rng = np.random.default_rng(1)
    yes = rng.uniform(0.01, 0.99, (3, 5, 4))
    array = np.log(np.stack([1 - yes, yes], axis=-1))
    ids = tuple("abcde")
    for name, measure in MEASURES.items():
        if measure.needs != ("label_log_probs",):
            assert name == "representation_gradient" or measure_problems(name, "multi_label", True), name
            continue
        slow = np.mean(
            [evaluate_measure(name, Predictions(ids, {"label_log_probs": array[:, :, c]})) for c in range(4)], 0
        )
        np.testing.assert_allclose(evaluate_measure(name, Predictions(ids, {"label_log_probs": array})), slow)


def test_every_strategy_works_or_says_why_not() -> None:
    peft = {"peft_type": "LORA", "lora_dropout": 0.1}
    refused = {name: check(recipe, "multi_label", True, peft) for name, recipe in STRATEGIES.items()}
    refused = {name: problems for name, problems in refused.items() if problems}
    assert "star" not in refused
    assert "entropy" not in refused
    assert "random" not in refused
    assert "lean" not in refused
    for name in ("badge", "batch_bald", "cal"):
        assert any("is not defined for the task kind 'multi_label'" in p for p in refused[name]), name


def test_prototypes_of_each_label() -> None:
    rng = np.random.default_rng(2)
    points, known = rng.normal(size=(6, 3)), rng.normal(size=(5, 3))
    answers = ["a", "a; b", NONE, "b", "a"]
    held = label_places(MultiLabel(("a", "b"), ("a", "b")), answers)
    assert held.tolist() == [[1, 0], [1, 1], [0, 0], [0, 1], [1, 0]]
    found = prototype_log_probs(points, known, held, 2)
    assert found.shape == (6, 2, 2)
    np.testing.assert_allclose(found[:, 1], prototype_log_probs(points, known, held[:, 1], 2))
    assert label_places(Choice(("a", "b"), ("a", "b")), ["b", "a"]).tolist() == [1, 0]


@examples(max_examples=20, deadline=None)
@given(st.integers(2, 12), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_a_classifier_of_several_labels_is_one_regression_for_each(m: int, labels: int, seed: int) -> None:
    """Also where a label holds for none or for all of the labelled texts."""
    rng = np.random.default_rng(seed)
    points, others, held = rng.normal(size=(m, 3)), rng.normal(size=(5, 3)), rng.integers(0, 2, (m, labels))
    found = probe.fit_each(points, held, np.random.default_rng(1))
    logs, (weights, constants), again = found.log_probs(others), found.head, np.random.default_rng(1)
    assert logs.shape == (5, labels, 2)
    np.testing.assert_allclose(np.exp(logs).sum(-1), 1.0)
    for c in range(labels):
        alone = probe.fit(points, held[:, c], 2, again)
        np.testing.assert_array_equal(logs[:, c], alone.log_probs(others))
        odds = others @ weights[:, c] + constants[c]
        if 0 < held[:, c].sum() < m:
            shown = probe.smoothed(np.stack([np.zeros(5), odds], axis=1), m)
            np.testing.assert_allclose(logs[:, c], shown, atol=1e-5)
        else:
            assert ((odds > 0) == bool(held[0, c])).all()


# --- the loop ---------------------------------------------------------------------------------------

COLOURS, SIZES = ["red", "blue", "green"], ["small", "huge"]


def rows(count: int, seed: int = 0) -> list[dict[str, str]]:
    """SYNTHETIC: texts that name a colour, a size, both or neither; the labels are those two attributes."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(count):
        colour, size = (str(rng.choice(some)) if rng.random() < 0.4 else "" for some in (COLOURS, SIZES))
        text = " ".join(filter(None, [f"Order {i}:", "the", size, colour, str(rng.choice(["parcel", "card", "lid"]))]))
        found.append({"text": text, "tags": "; ".join(filter(None, [colour and "coloured", size and "sized"])) or NONE})
    return found


def settings(make_config: MakeConfig, folder: Path, **changes: Any) -> dict[str, Any]:
    data = {
        "preset": None, "folder": None, "test_limit": 40, "pool": str(write_csv(folder / "pool.csv", rows(80))),
        "test": str(write_csv(folder / "test.csv", rows(60, seed=1))), "answer": "tags", "template": "{text}",
    }  # fmt: skip
    query = {"warm_start": 8, "batch": 4, "budget": 16, "candidates": 12}
    changes = {"peft": {"peft_type": "LORA", "r": 4, "lora_dropout": 0.2, "target_modules": "all-linear"}, **changes}
    return make_config(**{**SMALL, "data": data, "query": query, **changes}, task={"kind": "multi_label"})


@pytest.mark.parametrize("head", [True, False], ids=["head", "words"])
def test_a_run_through_the_loop(make_config: MakeConfig, tmp_path: Path, tiny_encoder_folder: Path, head: bool) -> None:
    model = {"model": {"name": str(tiny_encoder_folder), "dtype": "float32"}} if head else {}
    config = settings(make_config, tmp_path, **model, strategies=["star", "margin", "random", "k_means", "lean"])
    assert set(loop.run(config).values()) == {Finished(Stop.BUDGET)}
    for name, dump in dumps(config["out"]).items():
        values = [json.loads(values) for _, _, values in dump["metrics"]]
        assert len(values) == 3, name
        assert all({"accuracy", "micro_f1", "macro_f1"} <= one.keys() for one in values), name
        assert all(("frozen_accuracy" in one) == (head or name == "lean-seed0") for one in values), name
    with Store.open(Path(config["out"]) / "star-seed0") as store:
        assert store.facts["task"] == {
            "kind": "multi_label",
            "labels": ["coloured", "sized"],
            "words": ["coloured", "sized"],
        }
        picks = store.query(1).picks
        assert len({pick.score for pick in picks}) > 1
        assert all(np.isfinite(pick.score) for pick in picks)


def test_a_head_learns_two_attributes(make_config: MakeConfig, tmp_path: Path, tiny_encoder_folder: Path) -> None:
    """Micro F1 rises well above the best answer that is the same for all texts."""
    model = {"name": str(tiny_encoder_folder), "dtype": "float32", "head": "mean"}
    train = {"epochs": 60, "batch_size": 8, "learning_rate": 5e-3}
    query = {"warm_start": 60, "batch": 10, "budget": 60, "candidates": None}
    config = settings(make_config, tmp_path, model=model, train=train) | {"query": query, "strategies": ["random"]}
    loop.run(config)
    assert_published_says_the_same(config, "random-seed0", tmp_path / "hub")
    gold = [row["tags"] for row in rows(60, seed=1)]
    task = make_task(read_config(config).task, gold, "{answer}")
    always = max(task.measures([answer] * 60, gold)["micro_f1"] for answer in ("coloured; sized", "coloured", "sized"))
    values = [json.loads(v) for _, _, v in next(iter(dumps(config["out"]).values()))["metrics"]]
    assert values[-1]["micro_f1"] > always + 0.1, (values, always)


def test_a_head_on_features_starts_as_the_classifier(
    make_config: MakeConfig, tmp_path: Path, tiny_encoder_folder: Path
) -> None:
    """Without a step of training it says what the regressions say."""
    model = {"name": str(tiny_encoder_folder), "dtype": "float32", "head": "features"}
    train = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-12}
    query = {"warm_start": 40, "batch": 10, "budget": 40, "candidates": None}
    config = settings(make_config, tmp_path, model=model, train=train) | {"query": query, "strategies": ["lean"]}
    loop.run(config)
    values = [json.loads(v) for _, _, v in next(iter(dumps(config["out"]).values()))["metrics"]][-1]
    assert values["accuracy"] == pytest.approx(values["frozen_accuracy"], abs=0.03)


def assert_published_says_the_same(config: dict[str, Any], name: str, folder: Path) -> None:
    """The program on the card, run without this package, names the labels that the run does."""
    from test_publish import _elsewhere

    bench = Bench(read_config(config))
    assert bench.dataset.test is not None
    some = bench.dataset.test.examples[:12]
    with Store.open(Path(config["out"]) / name) as store:
        adapter = store.adapter(store.metrics()[-1].round)
    sets = [answer for answer, _ in likeliest_sets(bench.engine.scorer(adapter), some, bench.dataset.task, silent)]
    assert len(set(sets)) > 1, "a model that always says the same would not test much"
    publish(Path(config["out"]) / name, folder, license="cc-by-4.0")
    said = [list(bench.dataset.task.parts(answer)) for answer in sets]
    assert _elsewhere(folder, [dict(example.fields) for example in some]) == said


def test_a_language_model_learns_yes_and_no(make_config: MakeConfig, tmp_path: Path) -> None:
    train = {"epochs": 12, "batch_size": 8, "learning_rate": 1e-2}
    query = {"warm_start": 40, "batch": 10, "budget": 40, "candidates": None}
    config = settings(make_config, tmp_path, train=train) | {"query": query, "strategies": ["random"]}
    loop.run(config)
    assert_published_says_the_same(config, "random-seed0", tmp_path / "hub")


def test_questions_are_a_choice_each_and_fast_equals_slow(make_config: MakeConfig, tmp_path: Path) -> None:
    """Yes and no after each question, asked one text and one label at a time."""
    from guidestar.asking import Ask
    from guidestar.model.scorer import OwnScorer
    from guidestar.tasks import Choice

    bench = Bench(read_config(settings(make_config, tmp_path)))
    scorer, some = bench.engine.scorer(), bench.dataset.pool[:5]
    assert isinstance(scorer, EachLabel)
    said = scorer(some, Ask.of(["label_log_probs", "embedding"]))
    assert said.arrays["label_log_probs"].shape == (1, 5, 2, 2)
    alone = OwnScorer(bench.base, Choice(("no", "yes"), ("no", "yes")))
    for i, example in enumerate(some):
        for c, question in enumerate(asked(bench.dataset.task, example)):
            slow = alone([question], Ask.of(["label_log_probs"])).arrays["label_log_probs"][0, 0]
            np.testing.assert_allclose(said.arrays["label_log_probs"][0, i, c], slow, atol=1e-5)
    assert "writes no responses" in str(scorer.refusal(Ask.of(["response_entropy"])))


# --- people ----------------------------------------------------------------------------------------


def test_the_page_is_told_of_switches_and_keeps_the_set(tmp_path: Path, open_page: Any) -> None:
    """At the level of the server: what the page is told, and what becomes of the text it posts."""
    from page_client import IDS, decision, post, save
    from page_help import make_run

    run = make_run(tmp_path, kind="multi_label", labels={"ABBR": "abbreviation", "HUM": "human", "NUM": "number"})
    page = open_page(run)
    state = post(page, "state", {"annotator": "ann"})
    assert state["task"]["several"]
    assert state["task"]["buttons"]
    told = save(page, decision(IDS[0], text="NUM; ABBR"), decision(IDS[1], text=NONE), decision(IDS[2], text="NUM; NO"))
    assert not any(one.get("refused") for one in told[:2])
    assert "'NO' is not one of" in told[2]["refused"]
    with Store.open(run) as store:
        assert {id: label.answer for id, label in store.annotations.answers().items()} == {
            IDS[0]: "ABBR; NUM",
            IDS[1]: NONE,
        }
