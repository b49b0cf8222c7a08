"""The report of two strategies and two seeds with invented numbers: what it says, and what it must not."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from guidestar.config import RunConfig
from guidestar.data.pool import load_dataset
from guidestar.errors import GuidestarError
from guidestar.metrics.scores import contradicted, hardest
from guidestar.metrics.statistics import wilson
from guidestar.publish.cards import card_warnings
from guidestar.records import Example, Label, Metrics, Pick, Query, Skip, Stop, Suggestion
from guidestar.report import build_report, compare, summary
from guidestar.report.answer import answer, answer_lines, read_all
from guidestar.report.charts import Line, curve, svg
from guidestar.report.compare import compare_text, compared
from guidestar.report.evidence import evidence
from guidestar.report.read import read_runs
from guidestar.report.summary import status_text
from guidestar.store import Store
from guidestar.words import chance, paired, share

HOSTILE = "<script src='https://example.org/x.js'>alert(1)</script> & $x^2$ ünï 日本"
LABELS = ["billing", "delivery", "<b>other</b>"]
WARM, BATCH, ROUNDS, TEST = 12, 8, 4, 90
FINAL = {("star", 0): 0.90, ("star", 1): 0.92, ("random", 0): 0.84, ("random", 1): 0.86}


def build(
    folder: Path,
    strategy: str,
    seed: int,
    *,
    rounds: int = ROUNDS,
    final: float | None = None,
    kind: str = "choice",
    warm: int = 0,
    **facts: Any,
) -> None:
    """A run folder as the loop leaves it; `warm` shifts which examples the warm start asks for."""
    final = FINAL[strategy, seed] if final is None else final
    rng = np.random.default_rng(seed)
    with Store.open(folder / f"{strategy}-seed{seed}", create=True) as store:
        store.begin({"seed": seed}, _facts(strategy, seed, kind) | facts)
        for r in range(rounds):
            start, size = (warm, WARM) if r == 0 else (100 * (1 + (strategy == "star")) + BATCH * r, BATCH)
            examples = [_example(start + i) for i in range(size)]
            scored = r > 0 and strategy == "star"
            details = {"full": 0.5, "base": 1.25, "lambda": 1 - r / 4}
            picks = tuple(
                Pick(e.id, 1 / (i + 1), details) if scored else Pick(e.id, float("nan")) for i, e in enumerate(examples)
            )
            if scored:
                store.add_arrays(r, "scores", {name: rng.random(50) for name in ("score", "base", "full")})
            store.add_query(Query(r, picks), {e.id: e for e in examples})
            for i, e in enumerate(examples):
                store.annotations.add(e.id, Skip("unclear", "ann") if (r, i) == (1, 3) else Label(LABELS[i % 3]))
            share = 0.6 + (final - 0.6) * r / (ROUNDS - 1)
            if kind == "choice":
                store.add_arrays(r, "test", _test(share, rng))
                if r == 0:
                    store.add_arrays(0, "test_base", _test(0.4, rng))
            store.add_timing(r, "train", 2.0 + r, WARM + BATCH * r)
            store.add_timing(r, "evaluate", 1.0, TEST)
            store.add_metrics(Metrics(r, len(store.annotations.labelled(r)), {"accuracy": share}))
        if rounds == ROUNDS:
            store.finish(Stop.BUDGET)


def _example(number: int) -> Example:
    text = HOSTILE if number == 0 else f"text {number}" + " long" * (200 if number == 1 else 0)
    return Example(f"{number:016x}", {"text": text}, f"{text}\nAnswer:", f"pool.csv line {number + 2}")


def _test(right: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
    gold = np.arange(TEST) % len(LABELS)
    sure = np.where(np.arange(TEST) < right * TEST, gold, (gold + 1) % len(LABELS))
    logits = rng.normal(size=(TEST, len(LABELS)))
    logits[np.arange(TEST), sure] += 4
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return {"log_probs": logs.astype(np.float32), "gold": gold}


def _facts(strategy: str, seed: int, kind: str) -> dict[str, Any]:
    random = strategy == "random"
    return {
        "strategy": strategy,
        "seed": seed,
        "synthetic": True,
        "recipe": {"select": "random" if random else "top", "measure": None if random else "auto"},
        "task": {"kind": kind, "labels": LABELS},
        "data": {
            "pool_rows": 1003, "pool_duplicates": 3, "shared_with_test": 0, "pool": 1000, "test": TEST,
            "classes": {"billing": 700, "delivery": 250, "<b>other</b>": 50},
            "majority": {"label": "billing", "share": 1 / 3},
        },
        "config": {
            "out": "runs/x", "strategies": [{"use": "star"}, {"use": "random"}],
            "query": {"warm_start": WARM, "batch": BATCH, "budget": WARM + BATCH * (ROUNDS - 1)},
            "data": {"template": "{text}", "duplicates": "drop"},
        },
        "versions": {"guidestar": "0.1.0"},
        "data_hash": "abc",
    }  # fmt: skip


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "invented"
    for strategy, seed in FINAL:
        build(folder, strategy, seed)
    build_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(experiment: Path) -> str:
    return (experiment / "report.html").read_text(encoding="utf-8")


class Elements(HTMLParser):
    """Every element with its attributes; checks that they are closed in order."""

    VOID = frozenset({"meta", "br", "img"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == [], "every element is closed"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, text: str) -> None:
        self.text.append(text)


# --- the page -------------------------------------------------------------------------------------


def test_page_is_well_formed_and_ids_are_unique(page: str) -> None:
    elements = Elements(page)
    ids = [a["id"] for _, a in elements.found if "id" in a]
    assert len(ids) == len(set(ids)), "charts share no ids"
    targets = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page)
    assert {a or b for a, b in targets} <= set(ids), "every reference within the page has its target"
    assert sum(tag == "svg" for tag, _ in elements.found) == 3


def test_page_loads_nothing_and_runs_nothing(page: str) -> None:
    for tag, attributes in Elements(page).found:
        assert tag not in {"script", "link", "iframe", "img", "image", "object", "base"}
        for name in ("src", "href", "xlink:href", "action"):
            assert (attributes.get(name) or "#").startswith("#")
        assert not [name for name in attributes if name.startswith("on")]
    assert "url(http" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page


def test_texts_of_the_pool_are_shown_as_text(page: str) -> None:
    assert "<script" not in page
    assert "<b>other" not in page
    elements = Elements(page)
    assert HOSTILE in elements.text, "the text is there, letter by letter"
    assert any(text.strip() == "<b>other</b>" for text in elements.text)


def test_page_has_no_colour_of_its_own_in_charts(page: str) -> None:
    drawings = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    assert "currentColor" in drawings
    assert re.findall(r"#[0-9a-f]{6}\b", drawings) == [], "every colour follows the light or dark setting"


def test_same_stores_give_the_same_bytes(experiment: Path, page: str) -> None:
    assert build_report(experiment) == experiment / "report.html"
    assert (experiment / "report.html").read_text(encoding="utf-8") == page
    assert not list(experiment.glob(".tmp-*"))


def test_page_says_what_was_picked_and_why(page: str) -> None:
    text = " ".join(" ".join(Elements(page).text).split())
    assert "Round 1 8 asked for; accuracy afterwards 0.700 answers: delivery (3), billing (2), <b>other</b> (2)" in text
    assert "Round 0 12 asked for, the warm start" in text
    assert "λ = 0.75: the weight of the base model's uncertainty" in text
    assert "score of all 50 candidates: " in text
    assert "skipped: unclear" in text
    assert "rows of the pool that repeat another 3" in text
    assert "(1006 characters)" in text, "long texts are cut, and say so"


# --- the numbers ----------------------------------------------------------------------------------


def test_summary_has_areas_spreads_and_ripl(experiment: Path) -> None:
    facts = json.loads(json.dumps(summary(experiment), allow_nan=False))
    star, random = facts["strategies"]
    assert (star["strategy"], star["seeds"], facts["control"]) == ("star", [0, 1], "random")
    assert star["auc"]["mean"] == pytest.approx((0.6 + 0.91) / 2)
    assert (star["final"]["mean"], star["final"]["sd"]) == (pytest.approx(0.91), pytest.approx(0.02 / 2**0.5))
    assert random["ripl"] is None
    assert star["ripl"] == pytest.approx((0.755 - 0.725) / (1 - 0.725))
    assert facts["base"] == pytest.approx(0.4)
    assert facts["majority"] == {"label": "billing", "share": pytest.approx(1 / 3)}
    assert facts["shared_warm_start"] == {"0": True, "1": True}
    assert facts["compared"] == {"seeds": [0, 1], "labels": [12, 19, 27, 35]}
    run = facts["runs"][0]
    assert (run["run"], run["rounds"], run["planned_rounds"], run["labels"]) == ("star-seed0", 4, 4, 35)
    assert run["seconds"] == {"train": 14.0, "evaluate": 4.0}
    assert run["finished"] == "The label budget is spent."


def test_sentence_and_notes_are_honest(experiment: Path) -> None:
    facts = summary(experiment)
    assert facts["sentence"] == (
        "With 35 labels star reached an accuracy of 0.910 ± 0.014 and random 0.850 ± 0.014 "
        "on 90 synthetic test examples; mean ± standard deviation of 2 seeds."
    )
    notes = "\n".join(facts["notes"])
    assert "The data are synthetic" in notes
    assert "only known to about ± 0.059" in notes
    assert "Always answering 'billing', the test set's most frequent label, gives 0.333" in notes
    assert "the untuned model 0.400." in notes
    assert facts["warnings"] == []
    assert "warm start" not in notes
    assert "star-seed0    4 of 4 rounds, 35 labels, accuracy 0.900, 18 s; finished: The" in status_text(
        read_all(experiment).facts
    )


def test_one_seed_says_that_there_is_no_spread(tmp_path: Path) -> None:
    for strategy in ("star", "random"):
        build(tmp_path, strategy, 0, synthetic=False)
    facts = summary(tmp_path)
    assert facts["sentence"] == (
        "With 35 labels star reached an accuracy of 0.900 and random 0.840 on 90 test examples; "
        "one seed, so no spread can be given."
    )
    assert facts["strategies"][0]["auc"]["sd"] is None


def test_a_majority_that_nobody_beats_is_named(tmp_path: Path) -> None:
    build(tmp_path, "star", 0, data={"test": TEST, "majority": {"label": "billing", "share": 0.95}})
    build(tmp_path, "random", 0, data={"test": TEST, "majority": {"label": "billing", "share": 0.95}})
    build(tmp_path, "random", 1, final=0.96, data={"test": TEST, "majority": {"label": "billing", "share": 0.95}})
    facts = summary(tmp_path)
    said = "WARNING: star-seed0 (0.900) and random-seed0 (0.840) are not above 0.950, which always answering 'billing' gives"
    assert [warning.partition(":")[2].split(":")[0] for warning in facts["warnings"]] == [said.partition(":")[2]]
    assert said in answer_lines(read_all(tmp_path))[2]
    assert said in compare_text(compared([tmp_path]))
    with Store.open(tmp_path / "star-seed0") as store:
        assert card_warnings(store, 3)[0].startswith("WARNING: round 3 (0.900) is not above 0.950")
    page = build_report(tmp_path).read_text(encoding="utf-8")
    assert page.index('class="warning"') < page.index('class="answer"')
    assert answer(read_all(tmp_path)).next[0].text.startswith("train longer")
    build(tmp_path / "good", "star", 0, data={"test": TEST, "majority": {"label": "billing", "share": 0.2}})
    assert summary(tmp_path / "good")["warnings"] == []


def test_status_leaves_the_verdict_to_compare(tmp_path: Path) -> None:
    """A difference as large as the spread is no verdict, and a second wording of it neither."""
    for strategy, seed, final in (("star", 0, 0.90), ("star", 1, 0.92), ("random", 0, 0.80), ("random", 1, 0.82)):
        build(tmp_path, strategy, seed, final=final)
    facts = summary(tmp_path)
    assert not any("spread" in note or "apart" in note for note in facts["notes"])
    assert status_text(read_all(tmp_path).facts).endswith(f"Whether choosing paid: guidestar compare {tmp_path}")


def test_unshared_warm_starts_are_named(tmp_path: Path) -> None:
    build(tmp_path, "star", 0)
    build(tmp_path, "random", 0, warm=40)
    facts = summary(tmp_path)
    assert facts["shared_warm_start"] == {"0": False}
    assert any("seed 0 did not begin with the same examples" in note for note in facts["notes"])


# --- runs that are not done -----------------------------------------------------------------------


def test_unfinished_runs_are_compared_as_far_as_they_go(tmp_path: Path) -> None:
    build(tmp_path, "star", 0)
    build(tmp_path, "random", 0, rounds=2)
    facts = summary(tmp_path)
    assert facts["compared"]["labels"] == [12, 19]
    notes = "\n".join(facts["notes"])
    assert "compared over their first 2 points alone" in notes
    assert "random-seed0 is not finished: it has measured 2 of 4 rounds." in notes
    assert build_report(tmp_path).is_file()


def test_a_seed_that_is_not_complete_is_left_out(tmp_path: Path) -> None:
    for strategy in ("star", "random"):
        build(tmp_path, strategy, 0)
    build(tmp_path, "star", 1, rounds=1)
    facts = summary(tmp_path)
    assert facts["compared"] == {"seeds": [0], "labels": [12, 19, 27, 35]}
    assert "one seed, so no spread" in facts["sentence"]
    assert any(note.startswith("Seed 1 is left out of the comparison") for note in facts["notes"])


def test_a_run_folder_alone_and_a_run_just_begun(tmp_path: Path) -> None:
    build(tmp_path, "star", 0)
    assert build_report(tmp_path / "star-seed0").parent == tmp_path / "star-seed0"
    assert summary(tmp_path / "star-seed0")["control"] is None
    with Store.open(tmp_path / "random-seed0", create=True):
        pass
    assert len(summary(tmp_path)["runs"]) == 1, "a store that has not begun is no run yet"
    build(tmp_path / "new", "star", 0, rounds=0)
    assert summary(tmp_path / "new")["sentence"] == "Nothing is measured yet."
    assert build_report(tmp_path / "new").is_file()


def test_waiting_for_people_and_no_test_set(tmp_path: Path) -> None:
    with Store.open(tmp_path / "star-seed0", create=True) as store:
        store.begin({}, {"strategy": "star", "seed": 0, "task": {"kind": "text"}})
        store.add_query(Query(0, (Pick(_example(5).id, float("nan")),)), {_example(5).id: _example(5)})
        assert "waits for 1 answer" in status_text(read_all(tmp_path).facts)
        store.annotations.add(_example(5).id, Label("free text", "ann"))
        store.add_metrics(Metrics(0, 1, {}))
    facts = summary(tmp_path)
    assert facts["sentence"] == "There is no test set, so no accuracy is known."
    text = build_report(tmp_path).read_text(encoding="utf-8")
    assert "not answered" not in text
    assert "free text" in text


def test_other_tasks_have_no_label_space(tmp_path: Path) -> None:
    for strategy in ("star", "random"):
        build(tmp_path, strategy, 0, kind="number", data={"test": TEST})
    facts = summary(tmp_path)
    assert facts["base"] is None
    assert facts["majority"] is None
    page = build_report(tmp_path).read_text(encoding="utf-8")
    assert page.count("<svg") == 1, "the curve; nothing about labels"


# --- refusals -------------------------------------------------------------------------------------


def test_folders_without_runs(tmp_path: Path) -> None:
    with pytest.raises(GuidestarError, match=r"found no run; expected a folder with run\.sqlite"):
        build_report(tmp_path)
    with pytest.raises(GuidestarError, match="no such folder"):
        summary(tmp_path / "none")


def test_without_matplotlib_the_error_says_what_to_install(experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(GuidestarError, match=r"pip install 'guidestar\[report\]'"):
        build_report(experiment)
    assert summary(experiment)["control"] == "random", "the numbers need no charts"


def test_a_chart_takes_any_name() -> None:
    names = ["$\\frac{", "-->", "<g>", "日本"]
    lines = [Line(name, [1, 2], [0.1, 0.9], i) for i, name in enumerate(names)]
    shown = svg(curve(lines, {}), "Any name")
    Elements(shown)
    for name in names:
        assert name.replace("<", "&lt;").replace(">", "&gt;") in shown


# --- the answer, and what stands behind it ----------------------------------------------------------


@pytest.fixture(scope="module")
def clear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five seeds in which star is above random every time."""
    folder = tmp_path_factory.mktemp("runs") / "clear"
    for seed in range(5):
        build(folder, "star", seed, final=0.9 + 0.004 * seed)
        build(folder, "random", seed, final=0.82 + 0.003 * (seed % 3))
    build_report(folder, ["pdf", "png"])
    return folder


def _text(page: str) -> str:
    return " ".join(" ".join(Elements(page).text).split())


def test_the_answer_comes_first_and_is_that_of_the_comparison(clear: Path, page: str) -> None:
    found = (clear / "report.html").read_text(encoding="utf-8")
    sentence = compare([clear])["datasets"][0]["comparisons"][0]["verdict"]["sentence"]
    assert re.match(r"star reached random's 35-label accuracy of 0\.82 with \d+ labels: \d+ % saved", sentence)
    text = _text(found)
    assert text.index(sentence) < text.index("Learning curve") < text.index("With 35 labels star reached")
    assert "2 seeds cannot show a gain at 95 %" in _text(page), "few seeds are said so"


def test_curves_have_intervals_and_a_paired_difference(clear: Path, page: str) -> None:
    facts, found = compare([clear])["datasets"][0], (clear / "report.html").read_text(encoding="utf-8")
    assert "bands 95 % intervals of these means for new seeds" in found
    assert "Difference from random" in found
    for point in facts["comparisons"][0]["points"]:
        assert paired(point["difference"]) in found
    for cell in (
        share(facts["comparisons"][0]["saved"]["on_average"]),
        chance(facts["comparisons"][0]["p"]["sign_flips"]),
    ):
        assert f"<td>{cell}</td>" in found
    assert "the bands reach from one seed to the other" in page
    assert "Difference from random" not in page, "two seeds give no interval worth drawing"


def test_a_single_seed_has_the_test_sets_own_interval(tmp_path: Path) -> None:
    build(tmp_path, "star", 0)
    build(tmp_path, "random", 0)
    assert "intervals for the size of the test set alone" in build_report(tmp_path).read_text(encoding="utf-8")
    low, high = wilson(0.9, TEST)
    assert 0.8 < low < 0.9 < high < 0.96


def test_without_a_control_the_report_says_what_was_reached(tmp_path: Path) -> None:
    build(tmp_path, "star", 0)
    found = _text(build_report(tmp_path).read_text(encoding="utf-8"))
    assert "With 35 labels star reached an accuracy of 0.900" in found
    assert "RIPL needs a random control" in found


def test_figures_are_files_of_their_kind_and_the_same_every_time(clear: Path) -> None:
    names = {"learning-curve", "difference-from-random", "class-balance-of-the-picks", "calibration"}
    for form, magic in (("pdf", b"%PDF"), ("png", b"\x89PNG")):
        written = {file.stem: file.read_bytes() for file in (clear / "figures").glob(f"*.{form}")}
        assert names <= written.keys()
        assert all(content.startswith(magic) for content in written.values())
        build_report(clear, [form])
        assert {file.stem: file.read_bytes() for file in (clear / "figures").glob(f"*.{form}")} == written


def test_hard_examples_are_those_with_the_least_probable_labels(experiment: Path) -> None:
    runs = read_runs(experiment)
    found = evidence(runs, experiment)
    assert found is not None
    assert found.models == 4
    logs = np.stack([run.test["last"]["log_probs"] for run in runs]).astype(float)
    gold = runs[0].test["last"]["gold"]
    chances = np.exp(logs).mean(axis=0)
    for doubt in found.suspects:
        i = int(doubt.name.rsplit(" ", 1)[1]) - 1
        assert doubt.right == 0
        assert doubt.p_given == pytest.approx(chances[i, gold[i]])
        assert doubt.p_given <= 0.1
        assert doubt.p_said >= 0.8
        assert LABELS[gold[i]] == doubt.given != doubt.said
    assert len(found.hardest) == 10
    assert not {d.name for d in found.hardest} & {d.name for d in found.suspects}
    assert found.wrong <= found.sure <= TEST
    assert not found.texts, "the data files of this run do not exist"


def test_hardest_and_contradicted_are_exact() -> None:
    logs = np.log([[[0.9, 0.1], [0.05, 0.95], [0.1, 0.9]], [[0.8, 0.2], [0.1, 0.9], [0.6, 0.4]]])
    order, loss = hardest(logs, np.array([0, 0, 0]))
    assert order.tolist() == [1, 2, 0]
    assert loss[1] == pytest.approx(-(np.log(0.05) + np.log(0.1)) / 2)
    assert contradicted(logs, np.array([0, 0, 0])).tolist() == [1], "for the third the two models disagree"
    assert contradicted(logs, np.array([1, 1, 1])).tolist() == [], "0.15 is more than a doubt leaves"


def test_a_label_that_a_model_contradicted_before_it_saw_it_is_shown(tmp_path: Path) -> None:
    build(tmp_path, "star", 0, rounds=2)
    with Store.open(tmp_path / "star-seed0") as store:
        pick = store.query(1).picks[0].id
        given = store.annotations.answers()[pick]
        assert isinstance(given, Label)
        other = next(label for label in LABELS if label != given.answer)
        chances = {label: 0.95 if label == other else 0.025 for label in LABELS}
        store.add_suggestions(1, {pick: Suggestion(other, chances, 0)})
    found = evidence(read_runs(tmp_path), tmp_path)
    assert found is not None
    assert [(d.given, d.said, d.p_said) for d in found.labelled] == [(given.answer, other, 0.95)]
    assert "Labels given in the run that may be wrong" in build_report(tmp_path).read_text(encoding="utf-8")


def test_what_it_takes_to_repeat_it_is_on_the_page(experiment: Path, page: str) -> None:
    assert "guidestar run again.yaml" in page
    assert "budget: 36" in page, "the configuration as YAML"
    assert "select: random" in page, "and what else a result depends on"
    assert "SHA-256 of the last adapter" in page
    assert "<td>abc</td>" in page, "the hash of the data"


def test_texts_of_hard_examples_are_those_of_the_data_files(tmp_path: Path, demo_data: Path) -> None:
    """Only while the files are what the run was made on, and never from the network."""
    data = {"preset": "demo", "folder": str(demo_data)}
    config = RunConfig.model_validate({"out": str(tmp_path), "data": data, "query": {"warm_start": 5, "budget": 10}})
    dataset = load_dataset(config)
    assert dataset.test is not None
    pairs, labels = dataset.test.answered(), list(dataset.task.labels)
    gold = np.array([labels.index(answer) for _, answer in pairs])
    logs = np.full((len(gold), len(labels)), np.log(0.02 / (len(labels) - 1)))
    logs[np.arange(len(gold)), gold] = np.log(0.98)
    logs[3] = np.log(0.98) - np.log(0.98 / 0.02) * (np.arange(len(labels)) != (gold[3] + 1) % len(labels))
    facts = {"strategy": "star", "seed": 0, "task": {"kind": "choice", "labels": labels}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")), encoding="utf-8")
    with Store.open(tmp_path / "star-seed0", create=True) as store:
        store.begin({}, facts | {"data_hash": dataset.hash})
        store.add_query(Query(0, (Pick(_example(5).id, float("nan")),)), {_example(5).id: _example(5)})
        store.add_arrays(0, "test", {"log_probs": logs.astype(np.float32), "gold": gold})
        store.add_metrics(Metrics(0, 1, {"accuracy": float((logs.argmax(axis=1) == gold).mean())}))
    runs = read_runs(tmp_path)
    assert evidence(runs, tmp_path) == evidence(runs, tmp_path / "star-seed0")
    found = evidence(runs, tmp_path)
    assert found is not None
    assert found.texts
    (suspect,) = found.suspects
    assert dict(suspect.fields) == dict(pairs[3][0].fields)
    assert suspect.name == pairs[3][0].where.rsplit("/", 1)[-1]
    assert (found.sure, found.wrong) == (len(gold), 1)
    other = replace(runs[0], facts={**runs[0].facts, "data_hash": "other"})
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "config.yaml").write_text("out: x\ndata: {preset: trec-6}\n", encoding="utf-8")
    for run, folder in ((other, tmp_path), (runs[0], tmp_path / "hub"), (runs[0], tmp_path / "hub" / "no" / "config")):
        without = evidence([run], folder)
        assert without is not None
        assert not without.texts
        assert without.suspects[0].name == "test example 4"
