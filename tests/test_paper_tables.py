"""Tables, sentences, figures and the reproduction page, from result files made up here: every number in them can be
checked by hand."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from studies import table

from guidestar.errors import StoreError
from guidestar.metrics.statistics import Interval
from guidestar.study import figures, tables
from guidestar.study.compose import Row
from guidestar.study.reading import beside, reading, warm_starts
from guidestar.study.results import Result
from guidestar.study.studyfile import shipped
from guidestar.study.tables import Beside, Line, Table, as_csv, baselines, markdown
from tools.reproduction import EARLIER, conclusion, reproduction, study_of

NAMES = ["random-decay", "pe-decay", "me-decay", "pe-star", "me-star"]
STUDY = study_of("table1", "small", "boolq")
ROWS = STUDY.rows


def result(
    method: str, seed: int, curve: Sequence[float], *, dataset: str = "boolq", scale: str = "small", **changes: Any
) -> Result:
    """A made-up result file of a run over 100, 200, … labels."""
    area = sum((a + b) / 2 for a, b in pairwise(curve)) / (len(curve) - 1)
    made: dict[str, Any] = {
        "name": f"{dataset}/{method}/seed{seed}", "fingerprint": f"{method}{seed}",
        "tags": {"scale": scale, "dataset": dataset, "method": method, "seed": seed},
        "config": {
            "query": {"warm_start": 100, "batch": 100, "budget": 100 * len(curve), "candidates": None},
            "train": {"epochs": 4, "batch_size": 16, "learning_rate": 5e-4},
            "peft": {"peft_type": "LORA", "r": 16, "lora_alpha": 32},
        },
        "recipe": {}, "model": {"name": "a-model", "fingerprint": "f", "dtype": "bfloat16", "device": "cpu"},
        "versions": {"torch": "2.0", "transformers": "5.0", "peft": "0.2"},
        "hardware": {"machine": "x86_64", "cores": 4, "threads": 2},
        "data": {"test": 1000, "majority": {"label": "true", "share": 0.62}, "synthetic": False, "hash": "h"},
        "task": "choice", "base": {"accuracy": 0.41}, "warm_start": {"pool": "p", "seed": seed, "size": 1, "picks": "x"},
        "rounds": [], "curve": [[100 * (i + 1), value] for i, value in enumerate(curve)], "auc": area, "final": curve[-1],
        "seconds": {"train": 60.0, "score": 30.0}, "timings": [], "finished": "BUDGET",
    } | changes  # fmt: skip
    return Result(**made)


RESULTS = [
    result("random-decay", 0, [0.50, 0.60, 0.64]),
    result("random-decay", 1, [0.52, 0.62, 0.66]),
    result("me-decay", 0, [0.50, 0.60, 0.64]),
    result("me-decay", 1, [0.52, 0.61, 0.66]),
    result("me-star", 0, [0.50, 0.70, 0.74]),
    result("me-star", 1, [0.52, 0.71, 0.75]),
    result("pe-decay", 0, [0.50, 0.40, 0.41]),
    result("pe-decay", 1, [0.52, 0.41, 0.42]),
    result("pe-star", 0, [0.50, 0.60, 0.65]),
    result("me-star", 0, [0.1, 0.1], dataset="openbookqa"),
]


def table_of(results: Sequence[Result] = RESULTS, rows: Sequence[Row] = ROWS, **more: Any) -> Table:
    return table(rows, [one for one in results if one.tag("dataset") == "boolq"], **more)


def line_of(found: Table, row: str) -> Line:
    return next(line for line in found.lines if line.row == row)


def beside_of(found: Table, row: str) -> Beside:
    one = line_of(found, row).beside
    assert one is not None
    return one


def said_of(results: Sequence[Result], rows: Sequence[Row] = ROWS, **more: Any) -> str:
    return "\n".join(reading(table_of(results, rows, **more), rows, results))


def test_rows() -> None:
    found = table_of()
    random, star = line_of(found, "random-decay"), line_of(found, "me-star")
    assert random.auc is not None
    assert random.auc.mean == pytest.approx((0.585 + 0.605) / 2)
    assert random.auc.sd == pytest.approx(0.02 / 2**0.5)
    assert random.beside is None
    assert random.control
    assert star.auc is not None
    assert star.auc.mean == pytest.approx((0.66 + 0.6725) / 2)
    one = beside_of(found, "me-star")
    assert one.ripl is not None
    assert one.ripl.estimate == pytest.approx((0.66625 - 0.595) / (1 - 0.595))
    assert one.difference.estimate == pytest.approx(0.07125)
    apart = [0.66 - 0.585, 0.6725 - 0.605]
    low, high = stats.t.interval(0.95, 1, sum(apart) / 2, stats.sem(apart))
    assert (one.difference.low, one.difference.high) == (pytest.approx(low), pytest.approx(high))
    assert one.verdict == "too few seeds", "two seeds have no direction"
    assert star.published == (61.91, 3.67)
    assert baselines(("boolq", ""), RESULTS[:2]) == (
        "Accuracies without training on 1000 test examples: majority class 'true' 62.00, untuned model 41.00."
    )


def test_a_direction_needs_five_seeds_that_agree() -> None:
    made = [result("random-decay", s, [0.5, 0.6 + s / 100]) for s in range(5)]
    made += [result("me-star", s, [0.5, 0.7 + s / 50]) for s in range(5)]
    made += [result("me-decay", s, [0.5, 0.6 + (s % 2) / 20]) for s in range(5)]
    made += [result("pe-decay", s, [0.5, 0.5 - s / 50]) for s in range(4)]
    found = table_of(made)
    verdicts = {line.row: line.beside.verdict for line in found.lines if line.beside}
    assert verdicts == {"me-star": "gain", "me-decay": "no evidence", "pe-decay": "too few seeds"}
    said = said_of(made)
    assert "boolq: ME with STAR: ME with STAR reached random" in said
    assert "1 of 3 comparisons have fewer than 5 seeds." in said
    assert (
        "Rows that were published above or below their control: 3; with a verdict of the same sign here: 1, of the other: 0, "
        "undecided: 2." in said
    )


def test_ripl_takes_the_seeds_that_both_have() -> None:
    found = table_of()
    assert line_of(found, "pe-star").seeds == (0,)
    one = beside_of(found, "pe-star")
    assert one.ripl is not None
    assert one.ripl.estimate == pytest.approx((0.5875 - 0.585) / (1 - 0.585))
    assert one.seeds == (0,)
    alone = line_of(table_of([one for one in RESULTS if one.method != "random-decay"]), "me-star")
    assert alone.auc is not None
    assert alone.beside is None


def test_a_cell_without_a_test_set_or_with_a_perfect_control_gives_no_ripl() -> None:
    blind = replace(result("me-decay", 0, [0.5, 0.5]), curve=[], auc=None, final=None)
    assert line_of(table_of([RESULTS[0], blind]), "me-decay").auc is None
    perfect = [result("random-decay", 0, [1.0, 1.0]), result("me-decay", 0, [1.0, 1.0])]
    assert beside_of(table_of(perfect), "me-decay").ripl is None


def test_equal_runs_are_one_row() -> None:
    runs = {("boolq", "", name): "me-star" if name == "pe-star" else name for name in NAMES}
    found = table_of(runs=runs)
    assert [line.row for line in found.lines] == ["random-decay", "pe-decay", "me-decay", "pe-star"]
    assert "The same run as another row here: ME with STAR = PE with STAR." in beside(found, RESULTS)


def test_what_must_not_be_compared_is_said() -> None:
    def said(other: Result) -> str:
        made = [*RESULTS[:3], other]
        return "\n".join(beside(table_of(made), made))

    model = {"name": "b", "fingerprint": "g", "dtype": "bfloat16", "device": "cpu"}
    assert "different models" in said(result("me-decay", 1, [0.5, 0.5, 0.5], model=model))
    start = {"pool": "q", "seed": 1, "size": 1, "picks": "x"}
    assert "different pools" in said(result("me-decay", 1, [0.5, 0.5, 0.5], warm_start=start))
    odd = result("me-decay", 1, [0.5, 0.5, 0.5])
    odd = replace(odd, data={**odd.data, "form_differences": ["Pool and test prompts differ in form."]})
    assert "Pool and test prompts differ in form." in said(odd)
    assert said(RESULTS[3]).count("\n") == 0, "the baselines alone"


def test_a_warm_start_that_was_trained_twice_is_told() -> None:
    def trained(method: str, seed: int, curve: list[float], **more: Any) -> Result:
        return result(method, seed, curve, timings=[[0, "train", 9.0, 100]], **more)

    assert warm_starts(RESULTS) == []
    again = [trained("random-decay", s, [0.50, 0.6]) for s in (0, 1)] + [trained("me-decay", 1, [0.54, 0.6])]
    assert warm_starts(again) == [
        "boolq, seed 1: the warm start was trained 2 times, for random-decay, me-decay, and not copied; equal examples and "
        "seed. Its accuracies lie up to 4.00 points apart: so much can training alone change."
    ]
    other = trained("me-star", 1, [0.58, 0.6])
    other = replace(other, config={**other.config, "train": {"b_decay": 0.0}})
    assert warm_starts([*again, other]) == warm_starts(again), "another training"


def test_what_each_part_adds_is_read_over_the_seeds_that_both_have() -> None:
    study = study_of("table2", "small", "boolq")
    curves = {"me": 0.60, "me-dynamic": 0.64, "me-dynamic-mc": 0.66}
    made = [result("random", seed, [0.5, 0.5]) for seed in (0, 1, 2)]
    made += [
        result(m, s, [0.5, v + s / 100], dataset=d)
        for d in ("boolq", "trec-6")
        for m, v in curves.items()
        for s in (0, 1)
    ]
    made += [result("me", 2, [0.5, 0.9])]
    said = "\n".join(reading(table(study.rows, made, beside=study.config.beside), study.rows, made))
    assert (
        "boolq, seeds 0, 1: ME + dynamic is +2.00 (+2.00 to +2.00) points of AUC from ME: too few seeds; published +0.36."
        in said
    )
    assert (
        "trec-6, seeds 0, 1: ME + dynamic + MC dropout is +1.00 (+1.00 to +1.00) points of AUC from ME + dynamic: too few "
        "seeds; published +0.35 (gsm8k), +0.71 (boolq), +0.66 (openbookqa)." in said
    )
    assert "L2 is" not in said
    assert "PE + dynamic is" not in said


def test_batches_of_one_class_are_told() -> None:
    def picked(*batches: tuple[int, int]) -> dict[str, Any]:
        warm = [{"round": 0, "picked": {"true": 50, "false": 0}}]
        return {
            "rounds": warm
            + [{"round": r, "picked": dict(zip(("true", "false"), b, strict=True))} for r, b in enumerate(batches, 1)]
        }

    made = [
        result("random-decay", 0, [0.5, 0.5], **picked((6, 4), (4, 6))),
        result("pe-decay", 0, [0.5, 0.5], **picked((10, 0), (3, 7))),
        result("pe-star", 0, [0.5, 0.5], **picked((10, 0), (9, 1))),
        result("me-decay", 0, [0.5, 0.5], rounds=[{"round": 1, "picked": None}]),
    ]
    said = [one for one in said_of(made).splitlines() if "one class" in one]
    assert said == [
        "boolq: batches that are mostly of one class, by the mean share of the largest: PE 85 % (control 60 %), "
        "PE with STAR 95 % (control 60 %)."
    ]


def test_reading_claims_no_more_than_there_is() -> None:
    said = said_of(RESULTS)
    assert "4 of 4 comparisons have fewer than 5 seeds." in said
    assert "undecided: 4." in said
    assert "boolq: always answering 'true' gives 62.00; 1 of 5 AUCs are above that." in said
    for word in ("gain:", "harm:", "better", "worse", "within the spread"):
        assert word not in said
    assert said_of([]) == "Nothing can be compared yet: no row and its control have a seed in common."
    assert reading(table_of(RESULTS, ROWS[:1]), ROWS[:1], RESULTS[:2])[0].startswith("boolq: always answering")


def test_markdown_has_the_papers_numbers_and_the_baselines() -> None:
    lines = markdown(table_of().lines).splitlines()
    assert lines[0].count("|") == lines[1].count("|") == lines[2].count("|")
    star = next(line for line in lines if "ME with STAR" in line)
    assert "61.91" in star
    assert "3.67" in star
    assert "+7.12 (" in star or "+7.13 (" in star
    assert "model" not in lines[0], "no column is empty in all rows"
    few = replace(result("few-shot", 0, [0.5, 0.45]), auc=None, curve=[])
    assert "untuned model 41.00, untuned model with demonstrations (few-shot) 45.00." in baselines(("boolq", ""), [few])
    elsewhere = [replace(one, tags={**one.tags, "dataset": "trec-6"}) for one in RESULTS[:4]]
    assert "published" not in markdown(table(ROWS, elsewhere).lines)


def test_csv_has_every_number_in_full() -> None:
    found = table_of()
    rows = list(csv.DictReader(io.StringIO(as_csv(found.lines))))
    assert [row["label"] for row in rows] == [row.label for row in ROWS]
    star = line_of(found, "me-star")
    assert star.auc is not None
    assert float(rows[-1]["auc_mean"]) == star.auc.mean
    assert star.beside is not None
    assert star.beside.ripl is not None
    assert float(rows[-1]["ripl"]) == star.beside.ripl.estimate
    assert float(rows[-1]["difference_low"]) == star.beside.difference.low
    assert (rows[-1]["seeds"], rows[-1]["published_ripl"]) == ("0 1", "3.67")
    assert rows[0]["ripl"] == ""


def test_a_page_of_several_tables_is_corrected_as_a_whole_and_counts_a_comparison_once() -> None:
    made = [result("random-decay", s, [0.5, 0.6 + s / 100]) for s in range(5)]
    made += [result("me-star", s, [0.5, 0.63 + s / 50]) for s in range(5)]
    one = tables.Asked(ROWS, made)
    (alone,), (first, second) = tables.tables([one]), tables.tables([one, one])
    assert alone == first == second, "the same comparison twice"
    many = [replace(one, group=str(i)) for i in range(200)]
    page = tables.tables(many)
    assert beside_of(alone, "me-star").verdict == "gain"
    assert {beside_of(found, "me-star").verdict for found in page} == {"no evidence"}


# --- figures --------------------------------------------------------------------------------------


def test_a_curve_is_the_mean_of_the_seeds_that_are_as_long() -> None:
    short = result("me-decay", 2, [0.9, 0.9])
    curve = figures.curve_of([RESULTS[2], RESULTS[3], short])
    assert curve is not None
    assert curve.x == [100, 200, 300]
    assert curve.y == pytest.approx((0.51, 0.605, 0.65))
    apart = [sd / 2**0.5 for sd in (0.02, 0.01, 0.02)]
    assert curve.band is not None
    assert [high - low for low, high in np.array(curve.band)] == pytest.approx([2 * sd for sd in apart])
    assert figures.curve_of([]) is None
    alone = figures.curve_of([RESULTS[2]])
    assert alone is not None
    assert alone.band is None


def test_the_csv_beside_a_figure_is_the_results(tmp_path: Path) -> None:
    study = replace(STUDY, place=tmp_path)
    mine = [one for one in RESULTS if one.tag("dataset") == "boolq"]
    written = figures.learning_curves(study, mine)
    assert sorted(path.name for path in written) == [f"curves-boolq.{kind}" for kind in ("csv", "pdf", "png")]
    assert (tmp_path / "curves-boolq.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "curves-boolq.pdf").read_bytes().startswith(b"%PDF")
    assert all(path.stat().st_size > 500 for path in written)
    rows = list(csv.DictReader((tmp_path / "curves-boolq.csv").read_text().splitlines()))
    found: dict[tuple[str, int], list[list[float]]] = {}
    for row in rows:
        found.setdefault((row["method"], int(row["seed"])), []).append([int(row["labels"]), float(row["accuracy"])])
    assert found == {(r.method, r.seed): r.curve for r in mine}
    before = [path.read_bytes() for path in written]
    figures.learning_curves(study, mine)
    assert [path.read_bytes() for path in written] == before


@pytest.mark.parametrize("name", shipped())
def test_every_study_has_panels_that_can_be_read(name: str) -> None:
    study = study_of(name, "small", "boolq")
    panels = figures.panels_of(study.rows, study.config.panels)
    names = {row.name for row in study.rows}
    assert all(1 <= len(group) <= figures.MOST_LINES for group in panels.values())
    shown = {one for group in panels.values() for one in group}
    assert shown <= names
    assert {row.name for row in study.rows if not row.name.startswith("random")} <= shown | {"me-star"}


def test_many_panels_make_a_figure_for_each_dataset(tmp_path: Path) -> None:
    study = study_of("regularisers", "small")
    results = [result(r.name, 0, [0.3, 0.5], dataset=d) for d in ("boolq", "gsm8k") for r in study.rows]
    written = figures.learning_curves(replace(study, place=tmp_path), results)
    assert {path.name for path in written} == {
        f"curves-{d}.{kind}" for d in ("boolq", "gsm8k") for kind in ("png", "pdf", "csv")
    }
    assert figures.learning_curves(study, []) == []


# --- the reproduction page ------------------------------------------------------------------------


def written(folder: Path, results: Sequence[Result]) -> Path:
    for one in results:
        path = folder / one.tag("scale") / f"{one.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(one.plain()))
    return folder


def test_the_page_without_results_lists_every_command(tmp_path: Path) -> None:
    page = reproduction(tmp_path / "none")
    assert page == reproduction(tmp_path)
    for name in shipped():
        assert f"`guidestar paper {name} --scale paper`" in page
        assert f"`guidestar paper {name} --scale small`" in page
    assert "computed against 27.30, the AUC of PE" in page
    assert "## Scale" not in page


def test_the_page_sets_paper_and_here_side_by_side(tmp_path: Path) -> None:
    folder = written(tmp_path, RESULTS)
    page = reproduction(folder)
    assert page == reproduction(folder), "the same files must give the same bytes"
    assert "## Scale `small`" in page
    star = next(line for line in page.splitlines() if line.startswith("| ME with STAR | 0, 1 |"))
    cells = [cell.strip() for cell in star.strip("|").split("|")]
    assert cells[2].startswith("66.62 ± ")
    assert cells[3] == "61.91"
    assert cells[4] == "17.59"
    assert cells[5] == "3.67"
    assert cells[6] == "+13.92"
    assert cells[8].startswith(("too few seeds: +7.12 (", "too few seeds: +7.13 ("))
    assert cells[8].endswith(" points from its control, 2 seeds")
    assert "better" not in page
    assert "a-model in bfloat16, LORA r 16 alpha 32, 4 epochs" in page
    assert (
        "| small | Table 1: random, PE and ME, each with STAR | gsm8k | `guidestar paper table1 --scale small --dataset gsm8k` |"
        in page
    )
    assert "`guidestar paper table1 --scale paper`" in page
    assert "`guidestar paper table2 --scale small`" in page, "nothing of table 2 but what table 1 shares was run"
    assert "### Table 2" not in page


def test_tiny_results_are_no_evidence(tmp_path: Path) -> None:
    page = reproduction(written(tmp_path, [replace(one, tags={**one.tags, "scale": "tiny"}) for one in RESULTS]))
    assert page == reproduction(tmp_path / "none")


def test_datasets_beyond_the_papers_are_shown_and_not_asked_for(tmp_path: Path) -> None:
    mine = [result(m, s, [0.5, 0.6 + 0.01 * s], dataset="trec-6") for m in ("random-decay", "me-decay") for s in (0, 1)]
    page = reproduction(written(tmp_path, mine))
    assert "#### trec-6" in page
    assert "ME is the entropy over the labels here" in page
    assert "RIPL paper" not in page
    assert "`guidestar paper table1 --scale small`" in page


def test_probes_speak_on_the_page(tmp_path: Path) -> None:
    probe = result("probe-confidence", 0, [0.5, 0.5], sentences=["The tuned model is surer."])
    probe = replace(probe, tags={**probe.tags, "probed": "random"}, auc=None, curve=[], seconds={})
    page = reproduction(written(tmp_path, [probe]))
    assert "### Figure 2" in page
    assert "- The tuned model is surer." in page
    assert "The run probed: random, seed 0, a-model." in page
    assert "| small | Figure 2" not in page


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "x.json").write_text("{")
    with pytest.raises(StoreError, match=r"x\.json: cannot be read as a result"):
        reproduction(tmp_path)


def test_runs_from_before_table_1_had_one_decay_stand_in_and_are_named(tmp_path: Path) -> None:
    mine = [result(m, s, [0.5, 0.6 + 0.01 * s]) for m in (*EARLIER.values(), "pe-star", "me-star") for s in (0, 1)]
    page = reproduction(written(tmp_path, mine))
    assert "random, PE and ME are runs with β 0 here" in page
    assert "| ME | 0, 1 | 55.25 ± 0.35 |" in page
    assert "β 0 here" not in reproduction(written(tmp_path / "new", RESULTS))


def test_conclusions() -> None:
    line = Line("boolq", "", "", "me", "ME", published=(60.0, -1.0))

    def said(verdict: str, seeds: int, estimate: float = 0.02) -> str:
        ends = Interval(estimate, estimate - 0.01, estimate + 0.01)
        return conclusion(replace(line, beside=Beside(tuple(range(seeds)), ends, None, verdict)))

    assert (
        said("gain", 5) == "gain: +2.00 (+1.00 to +3.00) points from its control, 5 seeds; the paper says the opposite"
    )
    assert said("harm", 5, -0.02).endswith("; as in the paper")
    assert said("too few seeds", 1) == "too few seeds: +2.00 (+1.00 to +3.00) points from its control, 1 seed"
    assert conclusion(line) == "not run, or not beside its control"
    assert conclusion(replace(line, control=True)) == "the control"
