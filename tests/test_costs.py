"""The ledger of cost: arithmetic by hand, tokens as the tokenizer counts them, shared work charged to all."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from loops import SMALL, MakeConfig, answer_all

from guidestar import loop
from guidestar.bench import Bench, read_config
from guidestar.cli import main
from guidestar.errors import ConfigError, ConfigMismatch, StoreError
from guidestar.loop import Run
from guidestar.metrics.cost import KINDS, Prices, Spent
from guidestar.people.ledger import Ledger
from guidestar.report import build_report
from guidestar.report.page import REPORT
from guidestar.report.read import read_runs
from guidestar.report.spending import COSTS_FILE, _cells, current_ledger, spending
from guidestar.store import Store
from guidestar.study.costs import Bill, Costs, _pace, costs, keep_costs


@pytest.fixture
def config(make_config: MakeConfig) -> dict[str, Any]:
    found = make_config(
        **SMALL, strategies=["star", "random"], cost={"label": 0.5, "machine_hour": 3.6, "currency": "EUR"}
    )
    loop.run(found)
    return found


def test_every_round_s_tokens_operations_and_money(config: dict[str, Any]) -> None:
    found = costs(Path(config["out"])).plain()
    bench = Bench(read_config(config))
    lengths = {e.id: len(bench.base.tokenizer(e.prompt)["input_ids"]) for e in bench.dataset.pool}
    mean = sum(lengths.values()) / len(lengths)
    runs = {run["run"]: run for run in found["runs"]}
    star, random = runs["star-seed0"], runs["random-seed0"]
    with Store.open(Path(config["out"]) / "star-seed0") as store:
        parameters = store.facts["model"]["parameters"]
        labelled = store.annotations.labelled(1)
        seconds = {(r, phase): s for r, phase, s, _ in store.timings()}
    second = star["rounds"][1]
    scored, base = 12 * 3 * mean, 12 * mean  # 12 candidates, 3 passes, and the base model beside it
    assert second["choosing"]["tokens"] == pytest.approx(scored + base)
    assert second["choosing"]["operations"] == pytest.approx(2 * parameters * (scored + base))
    assert second["choosing"]["seconds"] == pytest.approx(seconds[1, "score"] + seconds[1, "score base"])
    assert second["choosing"]["money"] == pytest.approx(second["choosing"]["seconds"] / 1000)
    answers = [len(bench.base.tokenizer(f"{e.prompt} {label.answer}")["input_ids"]) + 1 for e, label in labelled]
    assert second["training"]["tokens"] == sum(answers)
    assert second["training"]["operations"] == pytest.approx(4 * parameters * sum(answers))
    assert second["labelling"]["money"] == pytest.approx(1.0)
    assert random["kinds"]["choosing"] == {"seconds": 0.0, "tokens": 0.0, "operations": 0.0, "money": 0.0}
    total = star["rounds"][-1]["total"]
    parts = [star["kinds"][kind] for kind in ("choosing", "training", "labelling")]
    for what in ("seconds", "tokens", "operations", "money"):
        assert total[what] == pytest.approx(sum(part[what] for part in parts)), "measuring is no cost of choosing"
    first = [run["rounds"][0]["training"]["seconds"] for run in (star, random)]
    assert first[0] == first[1] > 0, "the warm start's adapter was trained once and is charged to both"


def test_the_command_writes_a_table_and_curves(
    config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["costs", config["out"], "--label", "2", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "EUR" in said
    assert "star-seed0" in said
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["cost.csv", "cost.pdf", "cost.png"]
    with (tmp_path / "out" / "cost.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert [row["labels"] for row in rows[:3]] == ["12", "14", "16"]
    assert float(rows[2]["all that was spent, EUR"]) > 32, "16 labels at 2"
    assert main(["costs", config["out"], "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["prices"] == {"label": 0.5, "annotator_hour": 0.0, "machine_hour": 3.6}
    with pytest.raises(ConfigError, match="found no run"):
        costs(tmp_path)
    assert main(["costs", config["out"], "--out", str(tmp_path / "out")]) == 0, "over its own earlier output"
    for name in ("cost.csv", "cost.png"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / name).write_text("years of work")
        assert main(["costs", config["out"], "--out", str(tmp_path / name)]) == 2
        assert (tmp_path / name / name).read_text() == "years of work"


def _bill(name: str, random: bool, labels: list[int], accuracy: list[float], seconds: float, price: float) -> Bill:
    nothing = {kind: Spent() for kind in KINDS}
    steps = [labels[0], *(b - a for a, b in pairwise(labels))]
    rounds = tuple(
        nothing | {"choosing": Spent(seconds), "labelling": Spent(0.0, money=price * step)} for step in steps
    )
    return Bill(name, 0, random, rounds, tuple(labels), tuple(accuracy))


def test_a_saved_label_may_cost_more_than_a_label() -> None:
    random = _bill("random-seed0", True, [100, 200, 300], [0.7, 0.8, 0.9], 0.0, 1.0)
    star = _bill("star-seed0", False, [100, 200, 300], [0.7, 0.9, 0.95], 600.0, 1.0)
    (line,) = Costs([random, star], Prices(), "EUR").sentences
    assert line == (
        "star-seed0 reached 0.900, the accuracy that random-seed0 ended with, with 200 labels instead of 300, for 200.00 instead of "
        "300.00 EUR; each of the 100 labels that it saved took 12.0 s of computing."
    )
    (slow,) = Costs([random, replace(star, accuracy=(0.7, 0.8, 0.9))], Prices(), "").sentences
    assert slow.endswith("; it saved no label and computed 30 min more.")
    (never,) = Costs([random, replace(star, accuracy=(0.7, 0.8, 0.85))], Prices(), "").sentences
    assert "never reached 0.900" in never


def test_people_are_timed_between_answers_and_endpoints_by_their_ledger(make_config: MakeConfig) -> None:
    config = make_config(**SMALL, strategies=["random"], annotator="people", cost={"annotator_hour": 36, "label": 0.1})
    with Run(config) as run:
        answer_all(run, run.ask())
        run.ask()
        asked = run.store.query(0).picks
        Ledger(run.folder).add({
            "id": asked[0].id, "outcome": "label", "cost": 0.25, "seconds": 2.0, "tokens_in": 40, "tokens_out": 2,
            "tries": 1, "model": "m",
        })  # fmt: skip
    unknown = costs(Path(config["out"])).plain()["runs"][0]["rounds"][0]["labelling"]
    assert unknown["seconds"] is None
    assert unknown["tokens"] == 42
    assert unknown["money"] == pytest.approx(12 * 0.1 + 0.25)
    timed = config | {"cost": config["cost"] | {"seconds_per_label": 10.0}}
    found = costs(Path(config["out"]), bench=Bench(read_config(timed))).plain()["runs"][0]["rounds"][0]["labelling"]
    assert found["seconds"] == 12 * 10 + 2
    assert found["money"] == pytest.approx(12 * 0.1 + 12 * 10 * 36 / 3600 + 0.25)


def test_pauses_are_no_labelling(tmp_path: Path) -> None:
    from types import SimpleNamespace

    def at(minutes: int, seconds: int, who: str = "ann") -> Any:
        return SimpleNamespace(
            annotation=SimpleNamespace(annotator=who), at=f"2026-01-01T10:{minutes:02}:{seconds:02}+00:00"
        )

    entries = [at(0, 0), at(0, 4), at(0, 4, "bob"), at(0, 8), at(30, 0), at(30, 6), at(30, 10), at(30, 14)]
    assert _pace(entries) == 4.0
    assert _pace(entries[:5]) is None


def test_an_unknown_time_stays_unknown_in_the_sum() -> None:
    rounds = [{"labelling": Spent(None, money=2.0)}, {"training": Spent(3.0, money=1.0)}]
    totals = Bill("run", 0, True, tuple(rounds), (1, 2), (None, None)).totals
    assert [total.seconds for total in totals] == [None, None]
    assert totals[-1].money == 3.0
    assert Prices(machine_hour=36).machine(100) == 1.0


# --- in the report --------------------------------------------------------------------------------


def test_the_report_has_the_ledger_where_it_can_be_made(
    config: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(config["out"])
    build_report(folder)
    page = (folder / REPORT).read_text(encoding="utf-8")
    assert "Tokens, operations and money are missing" in page
    assert main(["report", str(folder)]) == 0
    page = (folder / REPORT).read_text(encoding="utf-8")
    assert "The ledger" in page
    assert "missing: they need" not in page
    facts = costs(folder).plain()
    kept = json.loads((folder / COSTS_FILE).read_text(encoding="utf-8"))
    assert kept["runs"] == json.loads(json.dumps(facts["runs"]))
    shown = spending(current_ledger(folder, read_runs(folder)), read_runs(folder))
    assert shown is not None
    star = next(run for run in facts["runs"] if run["run"] == "star-seed0")
    row = next(row for row in shown.rows if row[0] == "star")
    assert row[1:] == [
        "choosing", f"{star['kinds']['choosing']['seconds']:,.1f}", f"{star['kinds']['choosing']['tokens']:,.0f}",
        f"{star['kinds']['choosing']['operations']:.2e}", f"{star['kinds']['choosing']['money']:,.2f}",
    ]  # fmt: skip
    assert f"<td>{row[4]}</td>" in page
    assert all(sentence in page for sentence in shown.sentences)
    assert main(["report", str(folder / "star-seed0")]) == 0
    alone = json.loads((folder / "star-seed0" / COSTS_FILE).read_text(encoding="utf-8"))
    assert alone["runs"] == [run for run in kept["runs"] if run["run"] == "star-seed0"], (
        "what another run did counts too"
    )
    capsys.readouterr()


def test_a_ledger_of_other_rounds_is_not_shown_and_one_of_the_same_is_kept(config: dict[str, Any]) -> None:
    folder = Path(config["out"])
    path = keep_costs(folder)
    assert path == folder / COSTS_FILE
    before = path.stat().st_mtime_ns
    assert keep_costs(folder) == path
    assert path.stat().st_mtime_ns == before, "nothing has changed, so nothing is counted again"
    runs = read_runs(folder)
    later = [replace(run, metrics=(*run.metrics, replace(run.metrics[-1], round=3, labels=18))) for run in runs]
    assert current_ledger(folder, runs) is not None
    assert current_ledger(folder, later) is None, "it is about fewer rounds than the runs have"
    path.write_text("[]", encoding="utf-8")
    with pytest.raises(StoreError, match=r"costs\.json: is no ledger of costs; delete it"):
        current_ledger(folder, runs)


def test_without_the_data_the_report_goes_on_without_the_ledger(
    make_config: MakeConfig, tmp_path: Path, demo_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = tmp_path / "pool.csv"
    shutil.copy(demo_data / "pool.csv", pool)
    found = make_config(**SMALL, strategies=["random"])
    found["data"]["pool"] = str(pool)
    loop.run(found)
    lines = pool.read_text(encoding="utf-8").splitlines(keepends=True)
    pool.write_text("".join(lines[:-3]), encoding="utf-8")
    with pytest.raises(ConfigMismatch, match="has changed since the run was begun"):
        costs(Path(found["out"]))
    pool.unlink()
    assert keep_costs(Path(found["out"])) is None
    assert main(["report", found["out"]]) == 0
    assert "are missing" in (Path(found["out"]) / REPORT).read_text(encoding="utf-8")
    capsys.readouterr()


def test_a_time_that_one_run_does_not_know_is_not_averaged() -> None:
    known = {"seconds": 2.0, "tokens": 10.0, "operations": 0.0, "money": 1.0}
    assert _cells([known, known | {"seconds": 4.0, "tokens": 20.0}]) == ("3.0", "15", "0", "1.00")
    assert _cells([known, known | {"seconds": None}])[0] == "?"
