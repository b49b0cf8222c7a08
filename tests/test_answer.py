"""The answer of a run or an experiment, on a terminal, on the page and in a notebook."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_report import BATCH, LABELS, ROUNDS, TEST, WARM, _example, _facts, build

import guidestar
from guidestar.errors import ConfigError, GuidestarError
from guidestar.metrics.statistics import wilson
from guidestar.records import Example, Label, Metrics, Pick, Query, Skip, Stop
from guidestar.report import build_report, compare, pictures, summary
from guidestar.report.advice import advice_lines
from guidestar.report.answer import answer, answer_lines, around, read_all, score_rows
from guidestar.report.evidence import evidence
from guidestar.report.notebook import frame_of, html_of
from guidestar.report.read import read_runs
from guidestar.report.summary import state
from guidestar.store import Store
from guidestar.store.annotations import TEST as SET_ASIDE


def lines(folder: Path) -> list[str]:
    return answer_lines(read_all(folder))


# --- one run --------------------------------------------------------------------------------------


def test_a_run_begins_with_accuracy_labels_gain_and_advice(tmp_path: Path) -> None:
    build(tmp_path, "star", 0, synthetic=False)
    first, stands, then = lines(tmp_path)
    assert re.fullmatch(
        r"90 % \(82 to 95 %\) after 35 labels, on 90 test examples; 8 more labels would bring about \+\d+ points?; the budget "
        r"is spent, more labels may still pay\.",
        first,
    )
    assert stands == "star-seed0: 4 of 4 rounds, 35 labels, accuracy 0.900, 18 s; finished."
    assert then == f"next: label more: guidestar run {tmp_path} query.budget=43"


def test_too_few_rounds_promise_nothing(tmp_path: Path) -> None:
    build(tmp_path, "star", 0, rounds=1, synthetic=False)
    first, stands, then = lines(tmp_path)
    assert "what more labels would bring is known after 4 rounds" in first
    assert stands.endswith("not finished.")
    assert then == f"next: go on where it stopped: guidestar run {tmp_path}"


def test_a_run_of_the_command_line_that_has_not_begun_is_what_comes_next(tmp_path: Path) -> None:
    """The seeds of the command line stand in the copy of the configuration."""
    build(tmp_path, "star", 0, synthetic=False)
    done = lines(tmp_path)[-1]
    copy = {"out": ".", "strategies": ["star"], "seeds": [0], "data": {"pool": "a.csv", "template": "{text}"}}
    for seeds in ([0], [0, 1]):
        (tmp_path / "config.yaml").write_text(json.dumps(copy | {"seeds": seeds, "task": {"kind": "text"}}))
        then = lines(tmp_path)[-1] if seeds == [0] else next(s for s in lines(tmp_path) if s.startswith("next: "))
        assert then == (done if seeds == [0] else f"next: go on where it stopped: guidestar run {tmp_path}")


@pytest.mark.parametrize(
    ("share", "said"), [(0.95, ", no better than always"), (0.85, ", not clearly better than always")]
)
def test_the_majority_is_named_where_it_is_not_beaten(tmp_path: Path, share: float, said: str) -> None:
    build(tmp_path, "star", 0, data={"test": TEST, "majority": {"label": "billing", "share": share}})
    assert f"90 test examples{said} answering 'billing' ({100 * share:.0f} %)" in lines(tmp_path)[0]


def test_labels_that_came_since_the_last_training_count(tmp_path: Path) -> None:
    build(tmp_path, "star", 0, rounds=2)
    with Store.open(tmp_path / "star-seed0") as store:
        skipped = [id for id, one in store.annotations.answers().items() if isinstance(one, Skip)]
        store.annotations.add(skipped[0], Label("billing", "Ada"))
    run = summary(tmp_path)["runs"][0]
    assert (run["labels"], run["given"]) == (WARM + BATCH - 1, WARM + BATCH)
    assert any("20 labels (1 since the last training)" in line for line in lines(tmp_path))


def test_what_was_asked_ahead_waits_and_what_is_set_aside_is_told_apart(tmp_path: Path) -> None:
    build(tmp_path, "star", 0, rounds=2)
    with Store.open(tmp_path / "star-seed0") as store:
        ahead = [Example(f"{i:016x}", {"text": f"ahead {i}"}, f"ahead {i}", "pool.csv") for i in range(900, 903)]
        picks = [Pick(e.id, float("nan"), {SET_ASIDE: 1.0} if e is ahead[0] else {}) for e in ahead]
        store.ahead.prepare(2, picks, {e.id: e for e in ahead})
        assert len(store.ahead.take(3)) == 3
        store.annotations.add(ahead[0].id, Label("billing", "Ada"))
    run = summary(tmp_path)["runs"][0]
    assert run["unanswered"] == 2
    assert (run["given"], run["held_out"]) == (WARM + BATCH - 1, 1)
    assert "19 labels, 1 more set aside as the test set, accuracy" in lines(tmp_path)[-2]
    assert lines(tmp_path)[-1] == f"next: answer the 2 questions that wait: guidestar label {tmp_path}"


def set_aside(folder: Path, labels: Sequence[str]) -> None:
    """A whole run of which these labels, asked for in round 0, are the test set."""
    with Store.open(folder / "star-seed0", create=True) as store:
        store.begin({"seed": 0}, _facts("star", 0, "choice") | {"synthetic": False, "data": {"pool": 1000, "test": 0}})
        asked = [_example(10 + i) for i in range(WARM + len(labels))]
        picks = [Pick(e.id, float("nan"), {SET_ASIDE: 1.0} if i >= WARM else {}) for i, e in enumerate(asked)]
        store.add_query(Query(0, tuple(picks)), {e.id: e for e in asked})
        for e, label in zip(asked, [*(LABELS[i % 3] for i in range(WARM)), *labels], strict=True):
            store.annotations.add(e.id, Label(label))
        gold = np.array([LABELS.index(label) for label in labels])
        sure = np.log(np.full((len(labels), 3), 0.05) + 0.85 * np.eye(3)[gold])
        store.add_arrays(0, "test", {"log_probs": sure.astype(np.float32), "gold": gold})
        store.add_metrics(Metrics(0, WARM, {"accuracy": 1.0}))
        store.finish(Stop.BUDGET)


@pytest.mark.parametrize(
    ("labels", "share", "few"),
    [
        (
            ["billing"] * 5,
            1.0,
            " Only 5 test examples, all labelled 'billing', and more labels add none: this says little.",
        ),
        (
            ["billing"] * 30,
            1.0,
            " 30 test examples, all labelled 'billing', and more labels add none: this says little.",
        ),
        (["billing"] * 3 + ["delivery"] * 2, 0.6, " Only 5 test examples, and more labels add none: this says little."),
        (["billing"] * 15 + ["delivery"] * 15, 0.5, ""),
    ],
)
def test_what_is_set_aside_is_measured_like_a_test_file(
    tmp_path: Path, labels: list[str], share: float, few: str
) -> None:
    set_aside(tmp_path, labels)
    known, n = read_all(tmp_path), len(labels)
    assert known.facts.test == n
    assert known.facts.majority == {
        "label": max(labels, key=labels.count) if share != 0.5 else "delivery",
        "share": share,
    }
    first = answer(known).sentence
    assert f"after 12 labels, on {n} test examples" in first
    assert (", no better than always answering 'billing' (100 %)" in first) == (share == 1)
    assert first.endswith(f".{few}")
    assert any(row.name.startswith("always '") for row in answer(known).scores)
    assert known.facts.warnings == [], "a test set of one class cannot show that nothing is learnt"


def test_the_texts_of_what_is_set_aside_are_those_of_the_run(tmp_path: Path) -> None:
    """They stand in no data file of their own, and nobody may say that one is missing."""
    set_aside(tmp_path, ["billing", "delivery"] * 15)
    known = read_all(tmp_path)
    found = evidence(known.facts.runs, tmp_path)
    assert found is not None
    assert found.texts
    texts = [run.examples[e.id].fields["text"] for run in known.facts.runs for e in run.apart]
    assert len(texts) == 30
    assert all(doubt.fields[0][1] in texts for doubt in found.hardest)
    with Store.open(tmp_path / "star-seed0") as store:  # an answer was changed after it was measured
        store.annotations.add(known.facts.runs[0].apart[0].id, Label("other"))
    found = evidence(read_all(tmp_path).facts.runs, tmp_path)
    assert found is not None
    assert not found.texts


def test_an_empty_pool_has_no_rounds_and_no_labels_to_come(tmp_path: Path) -> None:
    build(tmp_path, "star", 0, synthetic=False)
    known = read_all(tmp_path)
    run = known.facts.runs[0]
    query = run.facts["config"]["query"] | {"budget": 900}
    config = run.facts["config"] | {"query": query}
    empty = replace(run, finished=Stop.EMPTY, facts=dict(run.facts) | {"config": config})
    assert (empty.planned, replace(empty, finished=None).planned) == (4, 112)
    sentence = answer(replace(known, facts=replace(known.facts, runs=[empty]))).sentence
    assert "would bring" not in sentence
    assert sentence.endswith("; no unlabelled example is left.")


def test_few_set_aside_lead_to_more_labels_on_the_page(tmp_path: Path) -> None:
    """What a model of few labels got wrong of six is no reason to train longer."""
    set_aside(tmp_path, ["billing", "delivery"] * 3)
    first = answer(read_all(tmp_path)).next[0]
    assert first.text.startswith("label more before it is used:")
    assert first.command == f"guidestar run {tmp_path} query.budget={12 + 6 + BATCH}"
    (tmp_path / "config.yaml").write_text("out: .\n")
    assert (
        answer(read_all(tmp_path)).next[0].command.startswith(f"guidestar label {tmp_path}/config.yaml query.budget=")
    )
    known = read_all(tmp_path)
    raised = replace(known.facts.runs[0], budgets=((18, 0), (26, 1)))
    first = answer(replace(known, facts=replace(known.facts, runs=[raised]))).next[0]
    assert first.text == "see how good it is on texts whose answers you know:", "who did so is not told it again"
    assert first.command == f"guidestar predict {tmp_path} new.csv --out answers.csv"


def test_more_labels_are_advised_once(tmp_path: Path) -> None:
    """Few are set aside, and the advice says to go on, too: one step and not two with the same command."""
    set_aside(tmp_path, ["billing", "delivery"] * 3)
    known = read_all(tmp_path)
    (one,) = known.advice
    assert one.stop is not None
    stop = replace(one.stop, advice="go on", budget=replace(one.stop.budget, spent=True))
    steps = answer(replace(known, advice=[replace(one, stop=stop)])).next
    assert sum("query.budget=" in step.command for step in steps) == 1


def test_more_labels_that_bring_next_to_nothing_are_not_advised(tmp_path: Path) -> None:
    build(tmp_path, "star", 0, synthetic=False)
    known = read_all(tmp_path)
    (one,) = known.advice
    assert one.stop is not None
    assert one.stop.gain is not None
    for gain, first in ((0.02, "label more:"), (0.002, "let the model answer new texts:")):
        stop = replace(one.stop, advice="go on", gain=replace(one.stop.gain, estimate=gain))
        said = answer(replace(known, advice=[replace(one, stop=stop)]))
        assert said.next[0].text == first
        assert ("may still pay" in said.sentence) == (gain > 0.01)


def test_what_is_set_aside_costs_labels_of_the_budget(tmp_path: Path) -> None:
    set_aside(tmp_path, ["billing"] * 24)
    known = read_all(tmp_path)
    (advice,) = known.advice
    assert advice.stop is not None
    assert (advice.stop.budget.labels, advice.stop.budget.left) == (36, 0)
    said = advice_lines(known.advice)
    assert "  The budget of 36 labels is spent; a larger query.budget goes on from here." in said
    assert not any("Left of the budget" in line for line in said)
    assert state(known.facts.runs[0]).startswith("1 of 1 rounds, 12 labels, 24 more set aside")


def test_a_question_asked_ahead_does_not_hold_up_a_training(tmp_path: Path) -> None:
    with Store.open(tmp_path / "star-seed0", create=True) as store:
        store.begin({"seed": 0}, _facts("star", 0, "choice"))
        asked = [_example(10 + i) for i in range(WARM + 1)]
        by_id = {e.id: e for e in asked}
        store.add_query(Query(0, tuple(Pick(e.id, float("nan")) for e in asked[:WARM])), by_id)
        store.ahead.prepare(1, [Pick(asked[WARM].id, float("nan"))], by_id)
        assert len(store.ahead.take(1)) == 1
        for e in asked[: WARM - 1]:
            store.annotations.add(e.id, Label("billing"))
    first, stands, then = lines(tmp_path)[0], *lines(tmp_path)[-2:]
    assert first == "11 labels so far, no model yet: 2 questions of the first round wait."
    assert then == f"next: answer the 2 questions that wait: guidestar label {tmp_path}"
    with Store.open(tmp_path / "star-seed0") as store:
        store.annotations.add(asked[WARM - 1].id, Label("billing"))
    first, stands, then = lines(tmp_path)[0], *lines(tmp_path)[-2:]
    assert first == "12 labels so far, no model yet: round 0 has its answers, its training is not finished."
    assert stands.endswith("12 labels; round 0 has its answers, its training is not finished.")
    assert then == f"next: go on where it stopped: guidestar run {tmp_path}"
    with Store.open(tmp_path / "star-seed0") as store:
        store.add_adapter(0, lambda folder: None)
    assert lines(tmp_path)[0] == "12 labels so far, a model is trained and is measured next."


def test_what_each_strategy_reached_comes_before_their_difference(tmp_path: Path) -> None:
    for strategy in ("star", "random"):
        build(tmp_path, strategy, 0, synthetic=False)
    first, then, *_ = lines(tmp_path)
    low, high = (f"{100 * end:.1f}" for end in wilson(0.9, TEST))
    assert first.startswith(f"After 35 labels: star 90.0 % ({low} to {high}) and random 84.0 % (")
    assert first.endswith(f"on {TEST} test examples.")
    assert then.startswith("One seed cannot show a gain")


def test_one_question_waits(tmp_path: Path) -> None:
    with Store.open(tmp_path / "star-seed0", create=True) as store:
        store.begin({"seed": 0}, _facts("star", 0, "choice"))
        store.add_query(Query(0, (Pick(_example(10).id, float("nan")),)), {_example(10).id: _example(10)})
    known = read_all(tmp_path)
    said = [*answer_lines(known), *known.facts.notes]
    assert said[0] == "0 labels so far, no model yet: 1 question of the first round waits."
    assert not any("1 answers" in line or "1 questions" in line for line in said)


@given(st.integers(0, 400), st.integers(1, 400))
def test_an_interval_is_shortened_only_where_nothing_is_lost(right: int, n: int) -> None:
    share = min(right, n) / n
    low, high = wilson(share, n)
    said = around(share, low, high)
    if "±" in said:
        middle, half = map(int, re.findall(r"\d+", said))
        assert abs(middle - half - 100 * low) <= 2.5
        assert abs(middle + half - 100 * high) <= 2.5
    else:
        assert [int(n) for n in re.findall(r"\d+", said)] == [round(100 * share), round(100 * low), round(100 * high)]


# --- several runs ---------------------------------------------------------------------------------


def test_a_model_below_the_classifier_on_frozen_features_is_not_to_be_published(tmp_path: Path) -> None:
    build(tmp_path, "star", 0)
    record = read_all(tmp_path)
    (run,) = record.facts.runs
    last = run.metrics[-1]
    better = replace(last, values=last.values | {"frozen_accuracy": 0.95})
    measured = replace(run, metrics=(*run.metrics[:-1], better))
    found = answer(replace(record, facts=replace(record.facts, runs=[measured])))
    assert any(
        line.startswith("A classifier on frozen features reached 95 % with the same labels") for line in found.cautions
    )
    assert found.next[0].text.startswith("train longer")
    assert found.next[1].command == f"guidestar report {tmp_path}", "there is a command to go on with"
    assert not any("publish" in step.command for step in found.next)


def test_few_seeds_lead_to_more_seeds_and_the_table_has_what_needs_no_training(tmp_path: Path) -> None:
    for name in ("star", "random"):
        build(tmp_path, name, 0)
    known = read_all(tmp_path)
    found = answer(known)
    assert found.sentence.startswith("One seed cannot show a gain")
    assert found.next[0].command == f"guidestar run {tmp_path} 'seeds=[0,1,2,3,4]'"
    rows = {name: cells for name, *cells in score_rows(found)}
    assert list(rows) == ["star", "random", "classifier on frozen features", "untuned model", "always 'billing'"]
    low, high = wilson(0.9, TEST)
    assert rows["star"] == ["35", f"90.0 % ({100 * low:.1f} to {100 * high:.1f})", "18 s"]
    assert rows["classifier on frozen features"][1] == "not measured"
    assert rows["always 'billing'"] == ["none", "33.3 %", "–"]


def test_a_strategy_without_random_says_that_random_is_missing(tmp_path: Path) -> None:
    for seed in (0, 1):
        build(tmp_path, "star", seed)
    found = answer(read_all(tmp_path))
    assert ["random", "–", "not measured", "–"] in score_rows(found)
    assert any("`random`" in step.text for step in found.next)


def test_the_best_strategy_is_the_headline(tmp_path: Path) -> None:
    for seed in range(5):
        for name, final in (("poor", 0.7), ("star", 0.9), ("random", 0.8)):
            build(tmp_path, name, seed, final=final + 0.003 * seed)
    found = answer(read_all(tmp_path))
    assert re.match(r"star reached random's 35-label accuracy of 0\.8\d with \d+ labels: \d+ % saved, ", found.sentence)
    assert found.sentence.endswith("(1 other strategy beside it in the table.)")


# --- the page -------------------------------------------------------------------------------------


def test_everything_but_the_answer_is_folded_and_the_first_screen_has_no_hash(tmp_path: Path) -> None:
    build(tmp_path, "star", 0)
    page = build_report(tmp_path).read_text(encoding="utf-8")
    assert "<details open" not in page
    first, _, more = page.partition('<section id="more">')
    first = first[first.index("<body>") :]
    assert first.count("<svg") == 1
    assert first.count("<table") == 2, "the answer's, and the numbers behind the curve, which are folded"
    assert not re.search(r"\b[0-9a-f]{16,}\b|\b0\.0+\b", re.sub(r"<svg.*?</svg>", "", first, flags=re.DOTALL))
    asked = re.findall(r"^<details><summary>([^<]*)</summary>", more, flags=re.MULTILINE)
    assert asked == [
        "How sure is that?", "Should labelling go on?", "Where is it still wrong?", "What was asked, and why?",
        "How did it get there?", "What did it cost?", "How can it be repeated?",
    ]  # fmt: skip


def test_models_of_different_warm_starts_are_not_drawn_as_one(tmp_path: Path) -> None:
    for name, warm in (("star", 0), ("random", 40)):
        build(tmp_path / "apart", name, 0, warm=warm)
        build(tmp_path / "shared", name, 0)
    names = {
        place: chart.header
        for place in ("apart", "shared")
        if (chart := pictures.calibration(read_runs(tmp_path / place)))
    }
    assert "after the warm start: accuracy" in names["shared"]
    assert "after the warm start: accuracy" not in names["apart"]


def test_a_page_of_many_rounds_shows_some_picks_of_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(tmp_path, "star", 0)
    monkeypatch.setattr("guidestar.report.page.MOST_PICKS", 6 * ROUNDS)
    page = build_report(tmp_path).read_text(encoding="utf-8")
    assert "The first 6 of 12; `guidestar export` writes all." in page
    assert page.count("The first 6 of 8;") == ROUNDS - 1


# --- in a notebook --------------------------------------------------------------------------------


def test_results_show_themselves_and_stay_plain_data(tmp_path: Path) -> None:
    for name in ("star", "random"):
        build(tmp_path, name, 0)
    for facts in (guidestar.summary(str(tmp_path)), guidestar.compare(str(tmp_path))):
        assert json.loads(json.dumps(facts)) == facts
        shown = facts._repr_html_()
        assert "One seed cannot show a gain" in shown
        assert shown.count("<svg") == 1
    assert guidestar.compare(str(tmp_path)) == compare([tmp_path])
    assert html_of(tmp_path / "star-seed0").count("<svg") == 1


def test_a_frame_has_a_row_for_each_asked_example(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    build(tmp_path, "star", 0, rounds=2)
    frame = frame_of(tmp_path)
    assert len(frame) == WARM + BATCH
    assert list(frame.columns) == ["text", "id", "round", "score", "label", "annotator", "skipped", "said"]
    assert frame["label"].notna().sum() == WARM + BATCH - 1
    assert frame.loc[frame["skipped"].notna(), "skipped"].tolist() == ["unclear"]
    assert frame["score"].isna().sum() == WARM, "the warm start has no scores"


@pytest.mark.parametrize("given", [None, 7, "", [None]])
def test_what_is_no_path_is_a_sentence(given: Any, tmp_path: Path) -> None:
    with pytest.raises(GuidestarError, match="expected the folder of"):
        guidestar.compare(given)
    if not isinstance(given, list):
        for call in (guidestar.summary, guidestar.build_report):
            with pytest.raises(
                GuidestarError, match="expected the folder of a run or an experiment, as text or a Path; found"
            ):
                call(given)
        with pytest.raises(ConfigError, match="expected a configuration's file or the folder of a run; found"):
            guidestar.load(given)
        with pytest.raises(ConfigError):
            guidestar.Run(given)


def test_a_file_and_an_empty_folder_are_sentences(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("text\na\n")
    with pytest.raises(GuidestarError, match="is a file; give the folder"):
        guidestar.summary(tmp_path / "x.csv")
    with pytest.raises(ConfigError, match=r"found no config\.yaml in it"):
        guidestar.load(tmp_path)
