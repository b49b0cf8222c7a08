"""Tables, figures and the reproduction page, from result files made up here: every number in them can be checked by hand."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from guidestar.errors import StoreError
from guidestar.study import figures, tables
from guidestar.study.experiments import EXPERIMENTS, METHODS
from guidestar.study.published import SLIP
from tools.reproduction import conclusion, methods_of, reproduction

TABLE1 = EXPERIMENTS["table1"]


def result(
    method: str, seed: int, curve: Sequence[float], *, dataset: str = "boolq", scale: str = "small", **changes: Any
) -> dict[str, Any]:
    """A made-up result file of a run over 100, 200, … labels."""
    area = sum((a + b) / 2 for a, b in pairwise(curve)) / (len(curve) - 1)
    return {
        "format": 1, "name": f"{dataset}/{method}/seed{seed}", "fingerprint": f"{method}{seed}",
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


RESULTS = [
    result("random", 0, [0.50, 0.60, 0.64]),
    result("random", 1, [0.52, 0.62, 0.66]),
    result("me", 0, [0.50, 0.60, 0.64]),
    result("me", 1, [0.52, 0.61, 0.66]),
    result("me-star", 0, [0.50, 0.70, 0.74]),
    result("me-star", 1, [0.52, 0.71, 0.75]),
    result("pe", 0, [0.50, 0.40, 0.41]),
    result("pe", 1, [0.52, 0.41, 0.42]),
    result("pe-star", 0, [0.50, 0.60, 0.65]),
    result("me-star", 0, [0.1, 0.1], dataset="openbookqa"),
]
SAME = {v.name: v.name for v in TABLE1.variants}


def table_of(results: Sequence[dict[str, Any]] = RESULTS, **changes: Any) -> tables.Table:
    return tables.dataset_table("boolq", TABLE1.variants, SAME, results) | changes


def row_of(table: tables.Table, name: str) -> tables.Row:
    return next(row for row in table["rows"] if row["variant"] == name)


def test_rows() -> None:
    table = table_of()
    random, star, pe = (row_of(table, name) for name in ("random", "me-star", "pe"))
    assert random["auc"]["mean"] == pytest.approx((0.585 + 0.605) / 2)
    assert random["auc"]["sd"] == pytest.approx(0.02 / 2**0.5)
    assert random["ripl"] is None
    assert random["verdict"] is None
    assert star["auc"]["mean"] == pytest.approx((0.66 + 0.6725) / 2)
    assert star["ripl"] == pytest.approx((0.66625 - 0.595) / (1 - 0.595))
    assert star["difference"] == pytest.approx(0.07125)
    assert star["spread"] == pytest.approx(0.02 / 2**0.5)
    assert star["verdict"] == "above"
    assert (star["paper_auc"], star["paper_ripl"]) == (61.91, 3.67)
    assert pe["verdict"] == "below"
    assert row_of(table, "me")["verdict"] == "within the spread"
    assert table["majority"] == {"label": "true", "share": 0.62}
    assert table["base"] == 0.41


def test_ripl_takes_the_seeds_that_both_have() -> None:
    star = row_of(table_of(), "pe-star")
    assert star["seeds"] == [0]
    assert star["ripl"] == pytest.approx((0.5875 - 0.585) / (1 - 0.585))
    assert star["verdict"] == "one seed"
    alone = row_of(table_of([one for one in RESULTS if one["tags"]["method"] != "random"]), "me-star")
    assert alone["auc"] is not None
    assert alone["ripl"] is None
    assert alone["verdict"] is None


def test_a_cell_without_a_test_set_or_with_a_perfect_control_gives_no_ripl() -> None:
    blind = result("me", 0, [0.5, 0.5]) | {"curve": [], "auc": None, "final": None}
    assert row_of(table_of([RESULTS[0], blind]), "me")["auc"] is None
    perfect = [result("random", 0, [1.0, 1.0]), result("me", 0, [1.0, 1.0])]
    assert row_of(table_of(perfect), "me")["ripl"] is None


def test_equal_runs_are_one_row() -> None:
    names = SAME | {"pe-star": "me-star"}
    table = tables.dataset_table("boolq", TABLE1.variants, names, RESULTS)
    assert [row["variant"] for row in table["rows"]] == ["random", "pe", "me", "pe-star"]
    assert table["same"] == [["ME with STAR", "PE with STAR"]]
    assert "The same run as another row here: ME with STAR = PE with STAR." in tables.markdown(table)


def test_what_must_not_be_compared_is_said() -> None:
    other = result(
        "me", 1, [0.5, 0.5, 0.5], model={"name": "b", "fingerprint": "g", "dtype": "bfloat16", "device": "cpu"}
    )
    assert "different models" in tables.markdown(table_of([*RESULTS[:3], other]))
    other = result("me", 1, [0.5, 0.5, 0.5], warm_start={"pool": "q", "seed": 1, "size": 1, "picks": "x"})
    assert "different pools" in tables.markdown(table_of([*RESULTS[:3], other]))
    odd = result("me", 1, [0.5, 0.5, 0.5])
    odd["data"] = odd["data"] | {"form_differences": ["Pool and test prompts differ in form."]}
    assert "Pool and test prompts differ in form." in tables.markdown(table_of([*RESULTS[:3], odd]))


def test_a_warm_start_that_was_trained_twice_is_told() -> None:
    assert "share one warm start" not in tables.markdown(table_of())
    again = [*RESULTS[:2], result("me", 0, [0.50, 0.60, 0.64]), result("me", 1, [0.54, 0.61, 0.66])]
    said = tables.markdown(table_of(again))
    assert "of seed 1 it was trained again from the same examples" in said
    assert "up to 2.00 points apart" in said
    decay = result("me-star", 1, [0.54, 0.71, 0.75])
    decay["config"] = decay["config"] | {"train": {"b_decay": 0.5}}
    assert "share one warm start" not in tables.markdown(table_of([*RESULTS[:2], decay])), "another training"


def test_reading_claims_no_more_than_there_is() -> None:
    said = "\n".join(tables.reading(TABLE1, [table_of()]))
    assert "Rows that the paper puts above or below random: 4; with the same sign here: 3." in said
    assert "By more than the spread over the seeds, 2 have the paper's sign and 0 the other." in said
    assert "ME with STAR on boolq (+7.12 points)" in said or "ME with STAR on boolq (+7.13 points)" in said
    assert "PE on boolq (-" in said
    assert "ME on boolq (" not in said
    assert "1 of 4 differences lie within the spread" in said
    assert "boolq: always answering 'true' gives 62.00; 1 of 5 AUCs are above that." in said


def test_what_each_part_adds_is_read_over_the_seeds_that_both_have() -> None:
    table2 = EXPERIMENTS["table2"]
    curves = {"me": 0.60, "me-dynamic": 0.64, "me-dynamic-mc": 0.66}
    made = [result("random", seed, [0.5, 0.5]) for seed in (0, 1, 2)]
    made += [
        result(m, s, [0.5, v + s / 100], dataset=d)
        for d in ("boolq", "trec-6")
        for m, v in curves.items()
        for s in (0, 1)
    ]
    made += [result("me", 2, [0.5, 0.9])]
    methods = {variant.name: variant.name for variant in table2.variants}
    found = [tables.dataset_table(d, table2.variants, methods, made) for d in ("boolq", "trec-6")]
    said = "\n".join(tables.reading(table2, found))
    assert "boolq, seeds 0, 1: ME + dynamic is +2.00 points of AUC from ME: above; in the paper +0.36.\n" in said
    assert (
        "trec-6, seeds 0, 1: ME + dynamic + MC dropout is +1.00 points of AUC from ME + dynamic: above; "
        "in the paper +0.35 (gsm8k), +0.71 (boolq), +0.66 (openbookqa)." in said
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
        result("random", 0, [0.5, 0.5], **picked((6, 4), (4, 6))),
        result("pe", 0, [0.5, 0.5], **picked((10, 0), (3, 7))),
        result("pe-star", 0, [0.5, 0.5], **picked((10, 0), (9, 1))),
        result("me", 0, [0.5, 0.5], rounds=[{"round": 1, "picked": None}]),
    ]
    said = [one for one in tables.reading(TABLE1, [table_of(made)]) if "one class" in one]
    assert said == [
        "boolq: batches that are mostly of one class, by the mean share of the largest: PE 85 % (control 60 %), "
        "PE with STAR 95 % (control 60 %)."
    ]


def test_reading_of_one_seed_and_of_none() -> None:
    one = [r for r in RESULTS if r["tags"]["seed"] == 0]
    said = "\n".join(tables.reading(TABLE1, [table_of(one)]))
    assert "There is one seed, so no spread is known and no difference is called a gain or a loss." in said
    assert "more than the spread" not in said
    assert tables.reading(TABLE1, [table_of([])]) == [
        "Nothing can be compared yet: no method and its control have a seed in common."
    ]
    assert (
        tables.reading(EXPERIMENTS["fig2"], [tables.dataset_table("boolq", [METHODS["random"]], SAME, RESULTS)]) == []
    )


def test_markdown_has_the_papers_numbers_and_the_baselines() -> None:
    text = tables.markdown(table_of([*RESULTS, result("few-shot", 0, [0.5, 0.45]) | {"auc": None, "final": 0.45}]))
    lines = text.splitlines()
    assert lines[0].count("|") == lines[1].count("|") == lines[2].count("|")
    star = next(line for line in lines if line.startswith("| ME with STAR"))
    assert "61.91" in star
    assert "3.67" in star
    assert (
        "majority class 'true' 62.00, untuned model 41.00, untuned model with demonstrations (few-shot) 45.00" in text
    )
    assert "paper" not in tables.markdown(tables.dataset_table("trec-6", TABLE1.variants, SAME, RESULTS))


def test_the_slip_is_noted_where_the_numbers_stand() -> None:
    rows = EXPERIMENTS["table2"].variants
    names = {v.name: v.name for v in rows}
    mine = [result(v.name, 0, [0.2, 0.3], dataset="gsm8k") for v in rows]
    assert SLIP in tables.markdown(tables.dataset_table("gsm8k", rows, names, mine))
    assert SLIP not in tables.markdown(table_of())


def test_csv_has_every_number_in_full() -> None:
    table = table_of()
    rows = list(csv.DictReader(io.StringIO(tables.as_csv([table]))))
    assert [row["variant"] for row in rows] == [v.name for v in TABLE1.variants]
    star = rows[-1]
    assert float(star["auc_mean"]) == row_of(table, "me-star")["auc"]["mean"]
    assert float(star["ripl"]) == row_of(table, "me-star")["ripl"]
    assert star["seeds"] == "0 1"
    assert rows[0]["ripl"] == ""


# --- figures --------------------------------------------------------------------------------------


def test_a_curve_is_the_mean_of_the_seeds_that_are_as_long() -> None:
    short = result("me", 2, [0.9, 0.9])
    curve = figures.curve_of("me", [RESULTS[2], RESULTS[3], short])
    assert curve is not None
    assert curve.labels == (100, 200, 300)
    assert curve.means == pytest.approx((0.51, 0.605, 0.65))
    assert curve.spread == pytest.approx((0.02 / 2**0.5, 0.01 / 2**0.5, 0.02 / 2**0.5))
    assert figures.curve_of("me", []) is None
    alone = figures.curve_of("me", [RESULTS[2]])
    assert alone is not None
    assert alone.spread is None


def test_the_csv_beside_a_figure_is_the_results(tmp_path: Path) -> None:
    methods = {("boolq", name): name for name in SAME}
    written = figures.learning_curves(
        tmp_path / "curves", ["boolq"], TABLE1.variants, methods, RESULTS, panels=TABLE1.panels, note="A note."
    )
    assert sorted(path.name for path in written) == ["curves.csv", "curves.pdf", "curves.png"]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "curves.pdf").read_bytes().startswith(b"%PDF")
    assert all(path.stat().st_size > 500 for path in written)
    rows = list(csv.DictReader((tmp_path / "curves.csv").read_text().splitlines()))
    found: dict[tuple[str, int], list[list[float]]] = {}
    for row in rows:
        found.setdefault((row["method"], int(row["seed"])), []).append([int(row["labels"]), float(row["accuracy"])])
    assert found == {
        (r["tags"]["method"], r["tags"]["seed"]): r["curve"] for r in RESULTS if r["tags"]["dataset"] == "boolq"
    }
    before = [path.read_bytes() for path in written]
    figures.learning_curves(
        tmp_path / "curves", ["boolq"], TABLE1.variants, methods, RESULTS, panels=TABLE1.panels, note="A note."
    )
    assert [path.read_bytes() for path in written] == before


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_has_panels_that_can_be_read(name: str) -> None:
    experiment = EXPERIMENTS[name]
    panels = figures.panels_of(experiment.variants, experiment.panels)
    names = {v.name for v in experiment.variants}
    assert all(1 <= len(group) <= figures.MOST_LINES for group in panels.values())
    shown = {one for group in panels.values() for one in group}
    assert shown <= names
    assert {v.name for v in experiment.variants if v.strategy != {"use": "random"}} <= shown | {"me-star"}


def test_many_panels_make_a_figure_for_each_dataset(tmp_path: Path) -> None:
    experiment = EXPERIMENTS["published-code"]
    methods = {(d, v.name): v.name for d in ("boolq", "gsm8k") for v in experiment.variants}
    results = [result(v.name, 0, [0.3, 0.5], dataset=d) for d in ("boolq", "gsm8k") for v in experiment.variants]
    written = figures.learning_curves(
        tmp_path / "curves", ["boolq", "gsm8k"], experiment.variants, methods, results, panels={}
    )
    assert {path.name for path in written} == {
        f"curves-{d}.{kind}" for d in ("boolq", "gsm8k") for kind in ("png", "pdf", "csv")
    }
    assert figures.learning_curves(tmp_path / "none", ["boolq"], experiment.variants, methods, [], panels={}) == []


# --- the reproduction page ------------------------------------------------------------------------


def written(folder: Path, results: Sequence[dict[str, Any]]) -> Path:
    for one in results:
        path = folder / one["tags"]["scale"] / f"{one['name']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(one))
    return folder


def test_the_page_without_results_lists_every_command(tmp_path: Path) -> None:
    page = reproduction(tmp_path / "none")
    assert page == reproduction(tmp_path)
    for name in EXPERIMENTS:
        assert f"`guidestar paper {name} --scale paper`" in page
        assert f"`guidestar paper {name} --scale small`" in page
    assert SLIP in page
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
    assert cells[8].startswith("better than its control by 7.12 points") or cells[8].startswith(
        "better than its control by 7.13"
    )
    assert cells[8].endswith("as in the paper")
    assert "a-model in bfloat16, LORA r 16 alpha 32, 4 epochs" in page
    assert (
        "| small | Table 1: random, PE and ME, each with STAR | gsm8k | `guidestar paper table1 --scale small --dataset gsm8k` |"
        in page
    )
    assert "`guidestar paper table1 --scale paper`" in page
    assert "`guidestar paper table2 --scale small`" in page, "nothing of table 2 but what table 1 shares was run"
    assert "### Table 2" not in page


def test_tiny_results_are_no_evidence(tmp_path: Path) -> None:
    page = reproduction(written(tmp_path, [one | {"tags": one["tags"] | {"scale": "tiny"}} for one in RESULTS]))
    assert page == reproduction(tmp_path / "none")


def test_datasets_beyond_the_papers_are_shown_and_not_asked_for(tmp_path: Path) -> None:
    mine = [result(m, s, [0.5, 0.6 + 0.01 * s], dataset="trec-6") for m in ("random", "me") for s in (0, 1)]
    page = reproduction(written(tmp_path, mine))
    assert "#### trec-6" in page
    assert "ME is the entropy over the labels here" in page
    assert "RIPL paper" not in page
    assert "`guidestar paper table1 --scale small`" in page


def test_probes_speak_on_the_page(tmp_path: Path) -> None:
    probe = result("probe-confidence", 0, [0.5, 0.5])
    probe["tags"]["probed"] = "random"
    probe |= {"sentences": ["The tuned model is surer."], "auc": None, "curve": [], "seconds": {}}
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


def test_conclusions() -> None:
    row: dict[str, Any] = {
        "variant": "me",
        "control": "random",
        "difference": -0.01,
        "spread": None,
        "paper_ripl": None,
    }
    assert (
        conclusion(row | {"verdict": "one seed"})
        == "1.00 points below its control on one seed: nothing follows from that"
    )
    assert conclusion(row | {"verdict": "within the spread", "spread": 0.02}).startswith("no difference to its control")
    assert conclusion(row | {"verdict": "below", "spread": 0.002, "paper_ripl": -1.0}).endswith("; as in the paper")
    assert conclusion(row | {"verdict": None}) == "not run, or not beside its control"
    assert conclusion(row | {"variant": "random", "verdict": None}) == "the control"


def test_methods_of_the_page_are_those_of_the_runs() -> None:
    assert methods_of("passes", "small", "boolq")["passes-3"] == "me-star"
