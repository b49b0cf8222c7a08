"""`guidestar study` from its file to its tables: shared warm starts, resumable, shared by processes."""

from __future__ import annotations

import csv
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forks import Forked
from studies import LORA, Crash, Finished, Lines, results_of, table, write

from guidestar import executors
from guidestar.cli.main import main
from guidestar.errors import ConfigError
from guidestar.metrics import savings
from guidestar.metrics.savings import auc
from guidestar.store import files
from guidestar.study import cells as engine
from guidestar.study import grid
from guidestar.study.compose import Row, load_study
from guidestar.study.grid import run_study
from guidestar.study.reading import warm_starts
from guidestar.study.results import Result, read_results, result_path
from guidestar.study.studyfile import PROTOCOLS, StudyConfig
from guidestar.study.tables import markdown
from guidestar.tuning import Tuning
from tools.comparisons import line_of

# --- the whole ----------------------------------------------------------------------------------


def test_every_combination_has_a_result(finished: Finished) -> None:
    facts = finished.facts
    names = [f"tickets/tiny/{p}/{s}/seed{n}" for p in ("lora", "series") for s in ("random", "star") for n in (0, 1)]
    results = results_of(finished.out)
    assert sorted(results) == sorted(names)
    assert (facts["cells"], facts["done"], facts["failed"], facts["elsewhere"]) == (8, 8, {}, [])
    series = results["tickets/tiny/series/star/seed1"]
    assert series["tags"] == {"dataset": "tickets", "model": "tiny", "peft": "series", "method": "star", "seed": 1}
    assert series["config"]["train"]["learning_rate"] == 0.002
    assert series["config"]["train"]["epochs"] == 1
    assert results["tickets/tiny/lora/star/seed1"]["config"]["train"]["learning_rate"] == 0.005
    assert series["config"]["peft"]["peft_type"] == "BOTTLENECK"
    assert [labels for labels, _ in series["curve"]] == [8, 12, 16]


def test_one_training_of_a_warm_start_for_each_adapter_and_seed(
    finished: Finished,
) -> None:
    facts, lines = finished.facts, finished.lines
    results = read_results(finished.out / "results")
    spent = [s for one in results for r, phase, s, _ in one.timings if (r, phase) == (0, "train")]
    assert sum(value > 0 for value in spent) == 4, "two adapters × two seeds"
    assert len({(one.warm_start or {})["picks"] for one in results}) == 2, "one for each seed, for both adapters"
    assert facts["reading"][0].startswith("Every strategy of a seed began with the same examples")
    assert sum("warm start: the adapter of random-seed" in text for text in lines.said) == 4


def test_the_table_is_what_the_cells_hold(finished: Finished) -> None:
    facts = finished.facts
    out = finished.out
    results = results_of(out)
    rows = {(row["peft"], row["strategy"]): row for row in facts["rows"]}
    assert list(rows) == [("lora", "random"), ("lora", "star"), ("series", "random"), ("series", "star")]
    for (peft, strategy), row in rows.items():
        areas = [results[f"tickets/tiny/{peft}/{strategy}/seed{n}"]["auc"] for n in (0, 1)]
        assert row["auc"]["mean"] == pytest.approx(np.mean(areas))
        assert row["auc"]["low"] <= row["auc"]["mean"] <= row["auc"]["high"]
        control = [results[f"tickets/tiny/{peft}/random/seed{n}"]["auc"] for n in (0, 1)]
        if strategy == "star":
            gain = (np.mean(areas) - np.mean(control)) / (1 - np.mean(control))
            assert row["ripl"]["estimate"] == pytest.approx(gain)
            assert row["verdict"] == "too few seeds", "two seeds show nothing"
        else:
            assert row["ripl"] is None
    text = (out / "table.md").read_text()
    assert "| tickets | tiny  | series | star " in text
    written = list(csv.DictReader(io.StringIO((out / "table.csv").read_text())))
    assert [float(row["auc_mean"]) for row in written] == [row["auc"]["mean"] for row in facts["rows"]]
    assert json.loads((out / "facts.json").read_text())["rows"] == facts["rows"]


def test_curves_are_of_every_adapter(finished: Finished) -> None:
    facts = finished.facts
    out = finished.out
    assert any("comparisons have fewer than 5 seeds. They cannot show a gain" in one for one in facts["reading"])
    assert [row["peft"] for row in facts["above"]] == ["lora", "series", None]
    assert "**mean of 2 adapters**" in (out / "table.md").read_text()
    for kind in ("png", "pdf", "csv"):
        assert (out / f"curves-tickets-tiny.{kind}").stat().st_size > 200
    points = list(csv.DictReader(io.StringIO((out / "curves-tickets-tiny.csv").read_text())))
    found = {(p["row"], p["method"], p["seed"], int(p["labels"])): float(p["accuracy"]) for p in points}
    assert found == {
        (
            f"{one['tags']['peft']}/{one['tags']['method']}",
            one["tags"]["method"],
            str(one["tags"]["seed"]),
            labels,
        ): value
        for one in results_of(out).values()
        for labels, value in one["curve"]
    }


def test_the_table_is_said_while_it_runs(finished: Finished) -> None:
    lines = finished.lines
    tables = [text for text in lines.said if text.startswith("| dataset")]
    assert len(tables) == 8
    assert tables[0].count("\n") == 2, "one row after the first cell"
    assert "| lora " in tables[1]
    assert "%" in tables[1].splitlines()[-1], "RIPL of one seed"
    plan = "1 dataset × 1 model × 2 adapters × 2 strategies × 2 seeds"
    assert any(text.startswith(plan) for text in lines.said[: lines.said.index(tables[0])]), "the plan comes first"


# --- again --------------------------------------------------------------------------------------


def test_the_same_call_again_runs_nothing(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    path, facts = finished.file, finished.facts
    monkeypatch.setattr(engine.Shared, "bench", lambda self, config: pytest.fail("nothing is left to run"))
    again, text, code = run_study(path)
    assert code == 0
    assert again["rows"] == facts["rows"]
    assert "8 of 8 runs are done" in text
    assert "time by phase" not in text
    planned, text, _ = run_study(path, plan_only=True)
    assert planned["done"] == 8
    assert "8 runs, 8 done; 0 to go" in text


def of_lora(finished: Finished) -> dict[str, Any]:
    return {name: one for name, one in results_of(finished.out).items() if "/lora/" in name}


def test_a_study_that_was_killed_goes_on_and_ends_alike(
    finished: Finished, plain: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, plain, peft=plain["peft"][:1])
    real, trained = Tuning.train, []

    def killed(self: Tuning, r: int) -> None:
        trained.append((self.store.folder.name, r))
        if len(trained) == 5:
            raise Crash
        real(self, r)

    monkeypatch.setattr(Tuning, "train", killed)
    with pytest.raises(Crash):
        run_study(path)
    assert trained[-1] == ("star-seed0", 1), "in the middle of the second cell"
    assert list(results_of(tmp_path / "study")) == ["tickets/tiny/lora/random/seed0"]
    trained.extend([("", 0)] * 5)
    _, text, code = run_study(path)
    assert code == 0
    assert ("random-seed0", 0) not in trained[10:11], "what is done stays done"
    assert trained[10] == ("star-seed0", 1)
    assert "4 of 4 runs are done" in text
    assert results_of(tmp_path / "study") == of_lora(finished)


def test_a_study_may_grow(finished: Finished, plain: dict[str, Any], tmp_path: Path) -> None:
    shutil.copytree(finished.out, tmp_path / "study")
    before = {path: path.read_bytes() for path in (tmp_path / "study" / "results").rglob("*.json")}
    one = [*plain["strategies"], "margin"]
    facts, _, code = run_study(write(tmp_path, plain, strategies=one, peft=plain["peft"][:1]))
    assert code == 0
    assert [row["strategy"] for row in facts["rows"]] == ["random", "star", "margin"]
    assert facts["plan"]["done"] == 4
    assert {path: path.read_bytes() for path in before} == before


def test_parts_make_the_whole(finished: Finished, plain: dict[str, Any], tmp_path: Path) -> None:
    path = write(tmp_path, plain, peft=plain["peft"][:1])
    first, *_ = run_study(path, part="1/2")
    assert first["done"] == 2
    assert {row["strategy"]: row["seeds"] for row in first["rows"]} == {"random": [0], "star": [0]}
    second, _, code = run_study(path, part="2/2")
    assert (second["done"], code) == (4, 0)
    assert results_of(tmp_path / "study") == of_lora(finished)
    with pytest.raises(ConfigError, match=r"part is '3/2'; allowed: i/n"):
        run_study(path, part="3/2")
    with pytest.raises(ConfigError, match="jobs is 0; allowed: 1 or more"):
        run_study(path, jobs=0)
    with pytest.raises(ConfigError, match="part and jobs do not go together"):
        run_study(path, jobs=2, part="1/2")


def test_several_processes_make_the_same_results(
    finished: Finished, plain: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forked ones; tests/test_executors.py starts them anew."""
    monkeypatch.setattr(executors.subprocess, "Popen", Forked)
    path, lines = write(tmp_path, plain), Lines()
    facts, text, code = run_study(path, jobs=2, progress=lines)
    assert code == 0, text
    assert facts["done"] == 8
    assert results_of(tmp_path / "study") == results_of(finished.out)
    assert facts["rows"] == finished.facts["rows"]
    for number in ("[1] ", "[2] "):
        assert any(text.startswith(f"{number}cell ") for text in lines.said), f"process {number} did nothing"


def test_the_command(finished: Finished, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = finished.file
    assert main(["study", str(path), "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["done"] == 8
    assert main(["study", str(path), f"out={tmp_path / 'other'}", "seeds=[5]", "--plan", "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "4 runs, 0 done" in said
    assert "tickets, tiny: 4 runs; 8 labels to begin with, 4 a round, 16 in all; 20 candidates scored a round" in said
    assert not (tmp_path / "other" / "runs").exists()


# --- what fails ---------------------------------------------------------------------------------


def test_an_adapter_that_does_not_fit_fails_alone(plain: dict[str, Any], tmp_path: Path) -> None:
    wrong = {"name": "nowhere", "peft": {**LORA, "target_modules": ["no_such_layer"]}}
    path = write(tmp_path, plain, peft=[wrong, plain["peft"][0]], seeds=[0])
    facts, text, code = run_study(path)
    assert code == 1
    assert [row["peft"] for row in facts["rows"]] == ["lora", "lora"]
    assert list(facts["failed"]) == ["tickets/tiny/nowhere/random/seed0", "tickets/tiny/nowhere/star/seed0"]
    assert "failed: tickets/tiny/nowhere/random/seed0, tickets/tiny/nowhere/star/seed0: peft:" in text
    assert "2 of 4 runs are done" in text


def test_without_a_random_strategy_there_is_no_ripl_unless_a_control_is_named(
    finished: Finished, plain: dict[str, Any], tmp_path: Path
) -> None:
    shutil.copytree(finished.out, tmp_path / "study")
    facts, text, _ = run_study(write(tmp_path, plain, strategies=plain["strategies"][1:]))
    assert all(row["ripl"] is None for row in facts["rows"])
    assert "There is no random strategy and no `control`" in text
    facts, _, _ = run_study(write(tmp_path, plain, control="star"))
    rows = {(row["peft"], row["strategy"]): row for row in facts["rows"]}
    assert rows["lora", "star"]["control"]
    assert rows["lora", "random"]["ripl"] is not None


def test_results_without_their_runs_are_enough_for_the_table(
    finished: Finished, plain: dict[str, Any], tmp_path: Path
) -> None:
    shutil.copytree(finished.out / "results", tmp_path / "study" / "results")
    facts, _, code = run_study(write(tmp_path, plain))
    assert (facts["done"], code) == (8, 0)
    assert [row["auc"] for row in facts["rows"]] == [row["auc"] for row in finished.facts["rows"]]
    for row, before in zip(facts["rows"], finished.facts["rows"], strict=True):
        assert row["verdict"] == before["verdict"], "said of these test examples alone"
        if before["ripl"]:
            assert row["ripl"]["estimate"] == pytest.approx(before["ripl"]["estimate"])


def test_a_changed_configuration_is_refused_for_what_was_begun(
    finished: Finished, plain: dict[str, Any], tmp_path: Path
) -> None:
    shutil.copytree(finished.out, tmp_path / "study")
    base = {**plain["base"], "train": {**plain["base"]["train"], "epochs": 2}}
    facts, text, code = run_study(write(tmp_path, plain, base=base, seeds=[0], peft=plain["peft"][:1]))
    assert code == 1
    assert "train.epochs" in text
    assert facts["done"] == 0


# --- the file -----------------------------------------------------------------------------------

GOOD = """\
out: out
datasets: [{name: tickets, data: {preset: demo}}]
peft:
  - name: lora
    peft: {peft_type: LORA, r: 2}
strategies: [random, entropy]
base:
  query: {warm_start: 8, budget: 16}
"""


def loaded(tmp_path: Path, text: str, *overrides: str) -> Any:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    return load_study(path, overrides)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("out: out", "uot: out"), r"line 1: unknown key 'uot' in the top level; did you mean 'out'\?"),
        (("budget: 16", "budgte: 16"), r"line 8: unknown key 'budgte' in query; did you mean 'budget'\?"),
        (("budget: 16", "budget: 4"), r"line 8: query.budget is 4, below query.warm_start 8"),
        (("r: 2}", "r: 2, alpha: 3}"), r"line 4: lora: peft: unknown key 'alpha' for LORA"),
        (("peft_type: LORA", "peft_type: LORAX"), r"line 4: lora: .*LORAX"),
        (("name: lora", "name: lo/ra"), r"line 4: peft.0.name is 'lo/ra'; allowed: letters, digits"),
        (("[random, entropy]", "[random, entropi]"), r"line 6: strategies.1 .*entropi"),
        (("[random, entropy]", "[random, random]"), r"line 6: strategies has 'random' twice"),
        (("[random, entropy]", "[]"), r"line 6: strategies is .*allowed: at least one item"),
        (("preset: demo", "preset: dmeo"), r"line 2: datasets.0 is 'dmeo', which is no preset; did you mean 'demo'"),
        (("data: {preset: demo}", "dta: {preset: demo}"), r"line 2: unknown key 'dta' in datasets.0; did you mean 'data'"),
        (("out: out", "seeds: [1, 1]"), r"line 1: seeds has the same seed twice"),
        (("out: out", "protocol: jukic"), r"line 1: protocol is 'jukic'; allowed: jukic-snajder-2023"),
        (("out: out", "control: ent"), r"line 1: control is 'ent'; .*entropy"),
        (("out: out", "beside: [[lora/entropy, lora/randm]]"), r"line 1: beside.0 is 'lora/randm'; did you mean 'lora/random'"),
        (("out: out", "probe: {name: confidence, row: entropy}"), r"line 1: probe.row is 'entropy'; did you mean 'lora/entropy'"),
        (("  query:", "  tapt:"), r"line 8: unknown key 'tapt' in base; allowed: data, task, query, train, model, peft"),
        (("datasets:", "dataset:"), r"datasets is missing"),
        (("{peft_type: LORA, r: 2}", "[r]"), r"line 5: peft.0.peft is .*allowed: keys and values"),
    ],
)  # fmt: skip
def test_mistakes_are_named_with_their_line(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    assert loaded(tmp_path, GOOD).cells, "the file without the mistake is good"
    with pytest.raises(ConfigError, match=message):
        loaded(tmp_path, GOOD.replace(*change))


def test_mistakes_are_named_at_once_and_once(tmp_path: Path) -> None:
    text = GOOD.replace("budget: 16", "budgte: 16").replace("r: 2}", "r: 2, alpha: 3}")
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, text)
    assert [line.split("study.yaml ")[1].split(":")[0] for line in str(caught.value).splitlines()] == [
        "line 4",
        "line 8",
    ]
    with pytest.raises(ConfigError, match=r"command line: base\.train\.epochs: train\.epochs is 0"):
        loaded(tmp_path, GOOD, "base.train.epochs=0")


def test_short_names_and_defaults(tmp_path: Path) -> None:
    study = loaded(tmp_path, "datasets: [demo, subj]\nmodels: [org/Some-Model]\nstrategies: [random]\n")
    assert (study.datasets, study.models, study.pefts) == (("demo", "subj"), ("Some-Model",), ("lora",))
    assert (study.seeds, study.control, len(study.cells)) == ((0, 1, 2), "random", 6)
    config = study.cells[0].config
    assert (config.data.preset, config.model.name, config.peft["peft_type"]) == ("demo", "org/Some-Model", "LORA")
    assert config.annotator == "oracle"


def test_the_most_special_part_wins(tmp_path: Path) -> None:
    text = """\
datasets:
  - demo
  - {name: small, data: {preset: demo}, query: {batch: 3}, train: {epochs: 2}}
peft:
  - {name: a, peft: {peft_type: LORA, r: 2}}
  - {name: b, peft: {peft_type: LORA, r: 4}, train: {epochs: 3}}
strategies: [random]
seeds: [7]
base: {query: {batch: 9, warm_start: 9}, train: {epochs: 1}}
"""
    found = {cell.name: cell.config for cell in loaded(tmp_path, text).cells}
    seen = {name: (c.query.batch, c.query.warm_start, c.train.epochs, c.peft["r"]) for name, c in found.items()}
    assert seen == {
        "demo/smollm2-135m/a/random/seed7": (9, 9, 1, 2),
        "demo/smollm2-135m/b/random/seed7": (9, 9, 3, 4),
        "small/smollm2-135m/a/random/seed7": (3, 9, 2, 2),
        "small/smollm2-135m/b/random/seed7": (3, 9, 3, 4),
    }
    assert len({config.out for config in found.values()}) == 4, "a folder for all that is alike but strategy and seed"


def test_paths_are_taken_from_the_files_own_folder(tmp_path: Path, demo_data: Path) -> None:
    shutil.copytree(demo_data, tmp_path / "demo")
    (tmp_path / "model").mkdir()
    text = "out: here\nfolder: .\ndatasets: [demo]\nmodels: [./model]\nstrategies: [random]\n"
    study = loaded(tmp_path, text)
    config = study.cells[0].config
    assert study.out == tmp_path / "here"
    assert config.data.folder == str(tmp_path / "demo")
    assert Path(config.model.name) == tmp_path / "model"
    with pytest.raises(ConfigError, match="of subj; looked in"):
        loaded(tmp_path, text.replace("[demo]", "[subj]"))


def test_the_protocol_of_jukic_and_snajder(tmp_path: Path) -> None:
    study = loaded(tmp_path, "protocol: jukic-snajder-2023\ndatasets: [subj]\nstrategies: [random]\n")
    query = study.cells[0].config.query
    assert study.seeds == (1, 2, 3, 4, 5)
    assert (query.warm_start, query.batch, query.budget, query.rounds) == (100, 50, 1000, 19)
    assert study.cells[0].config.train.epochs == 50
    assert study.cells[0].config.train.b_decay == PROTOCOLS["jukic-snajder-2023"]["train"]["b_decay"]
    text = (
        "protocol: jukic-snajder-2023\ndatasets: [subj]\nstrategies: [random]\nseeds: [1]\nbase: {train: {epochs: 2}}\n"
    )
    changed = loaded(tmp_path, text)
    assert (changed.seeds, changed.cells[0].config.train.epochs) == ((1,), 2)
    assert changed.cells[0].config.train.batch_size == 32


def test_the_page_names_every_key_and_its_file_is_good(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "study.md").read_text(encoding="utf-8")
    first, second = (part.split("```")[0] for part in page.split("```yaml\n")[1:])
    rows = loaded(tmp_path, second)
    assert [row.control for row in rows.rows] == ["random", "random", "random-star-more", "random-star-more"]
    study = loaded(tmp_path, first)
    assert (len(study.cells), study.pefts, study.control) == (18, ("lora", "adapter"), "random")
    for key in StudyConfig.model_fields:
        assert f"| `{key}` |" in page, f"docs/study.md does not name {key}"


# --- numbers ------------------------------------------------------------------------------------


def made(method: str, seed: int, curve: list[float], **changes: Any) -> Result:
    """A result as far as tables read it."""
    points = [[10 * (i + 1), value] for i, value in enumerate(curve)]
    area = auc(curve)
    start = {"pool": "p", "seed": seed, "size": 10, "picks": f"picks{seed}"}
    tags: dict[str, str | int] = {"dataset": "d", "model": "m", "peft": "p", "method": method, "seed": seed}
    spent = [[0, "train", 1.0 if method == "random" else 0.0, 10]]
    one = Result(
        name=f"{method}{seed}", tags=tags, curve=points, auc=area, final=curve[-1], warm_start=start, timings=spent,
        data={"hash": "h"},
    )  # fmt: skip
    return replace(one, **changes)


RANDOM = [[0.2, 0.4, 0.6], [0.3, 0.4, 0.5], [0.2, 0.5, 0.6]]
CHOSEN = [[0.2, 0.5, 0.8], [0.3, 0.5, 0.6], [0.2, 0.5, 0.8]]


ROWS = [Row(f"p/{name}", name, name, "p", control="p/random") for name in ("random", "me")]


def test_ripl_is_over_the_seeds_and_points_that_both_have() -> None:
    results = [made("random", seed, curve) for seed, curve in enumerate(RANDOM)]
    results += [made("me", seed, curve) for seed, curve in enumerate(CHOSEN[:2])]
    line = table(ROWS, results).lines[1]
    assert line.beside is not None
    assert line.beside.ripl == savings.ripl_interval(savings.pair(CHOSEN[:2], RANDOM[:2], [10, 20, 30]))
    assert line.beside.difference == savings.area_difference(savings.pair(CHOSEN[:2], RANDOM[:2], [10, 20, 30]))
    assert (line.seeds, line.beside.verdict) == ((0, 1), "too few seeds")
    shorter = [*results[:3], made("me", 0, CHOSEN[0]), made("me", 1, CHOSEN[1][:2])]
    line = table(ROWS, shorter).lines[1]
    found = savings.ripl_interval(savings.pair([c[:2] for c in CHOSEN[:2]], [c[:2] for c in RANDOM[:2]], [10, 20]))
    assert line.beside is not None
    assert line.beside.ripl == found


def test_one_seed_has_a_ripl_without_interval_and_no_verdict() -> None:
    lines = table(ROWS, [made("random", 0, RANDOM[0]), made("me", 0, CHOSEN[0])]).lines
    plain = lines[1].plain()
    assert plain["ripl"] == {"estimate": pytest.approx((0.5 - 0.4) / 0.6), "low": None, "high": None}
    assert (plain["auc"]["sd"], plain["verdict"]) == (None, "too few seeds")
    assert "16.7 %" in markdown(lines)
    assert "+10.00 " in markdown(lines)
    assert line_of(json.loads(json.dumps(plain))).plain() == plain
    alone = table(ROWS, [made("me", 0, CHOSEN[0])]).lines
    assert alone[0].beside is None
    perfect = table(ROWS, [made("random", 0, [1.0, 1.0]), made("me", 0, [1.0, 0.9])]).lines
    assert perfect[1].plain()["ripl"] is None, "nothing is left to improve"


def test_answers_to_test_examples_widen_the_intervals_where_both_have_them() -> None:
    """The same means; with every example known, the interval speaks of new examples too."""
    results = [made(name, s, c[s]) for name, c in (("random", RANDOM), ("me", CHOSEN)) for s in range(3)]
    rng = np.random.default_rng(0)
    kept = {one.name: np.array([rng.permutation(np.arange(20) < round(20 * v)) for _, v in one.curve], dtype=float)
            for one in results}  # fmt: skip
    known = table(ROWS, results, answers=lambda one: kept[one.name]).lines[1].beside
    alone = table(ROWS, results).lines[1].beside
    assert known is not None
    assert alone is not None
    expected = [np.stack([kept[f"{name}{s}"] for s in range(3)]) for name in ("me", "random")]
    assert known.ripl == savings.ripl_interval(savings.pair(*expected, [10, 20, 30]))
    assert known.ripl != alone.ripl
    lacking = table(ROWS, results, answers=lambda one: None if one.name == "me2" else kept[one.name])
    assert lacking.lines[1].beside == alone


def test_verdicts_are_corrected_for_all_rows_of_the_table() -> None:
    """Five seeds that all agree are a gain; among a hundred rows the same difference is none."""
    curves = [[0.2, 0.4, 0.5 + s / 100] for s in range(5)]
    results = [made("random", s, curve) for s, curve in enumerate(curves)]
    results += [made("me", s, [0.2, 0.4, c[2] + 0.02 * (s + 1)]) for s, c in enumerate(curves)]
    found = table(ROWS, results).lines[1].beside
    assert found is not None
    assert found.verdict == "gain"
    assert found.sentence
    rows, more = list(ROWS), list(results)
    for i in range(100):
        rows.append(Row(f"p/x{i}", f"x{i}", f"x{i}", "p", control="p/random"))
        more += [made(f"x{i}", s, [0.2, 0.4 + 0.01 * (s % 3 - 1), c[2]]) for s, c in enumerate(curves)]
    among = table(rows, more).lines[1].beside
    assert among is not None
    assert among.difference == found.difference
    assert among.verdict == "no evidence"


def test_a_warm_start_that_is_not_shared_is_said() -> None:
    results = [made("random", 0, RANDOM[0]), made("me", 0, CHOSEN[0])]
    assert warm_starts(results) == []
    start = results[1].warm_start or {}
    other = made("me", 0, CHOSEN[0], warm_start={**start, "picks": "others"})
    assert "d, seed 0: the runs did not begin with the same 10 examples" in warm_starts([results[0], other])[0]
    larger = made("me", 0, CHOSEN[0], warm_start={**start, "size": 20})
    assert "different pools or sizes of the warm start" in warm_starts([results[0], larger])[0]
    again = made("me", 0, CHOSEN[0], timings=[[0, "train", 2.0, 10]])
    assert warm_starts([results[0], again]) == [
        "d, m, p, seed 0: the warm start was trained 2 times, for random, me, and not copied; equal examples and seed."
    ]


# --- processes ----------------------------------------------------------------------------------


def test_processes_share_threads_and_devices() -> None:
    assert executors.share(0, 3, {"PATH": "x"}, 8, [])["OMP_NUM_THREADS"] == "2"
    assert executors.share(0, 3, {"OMP_NUM_THREADS": "1"}, 8, [])["OMP_NUM_THREADS"] == "1"
    assert executors.share(0, 16, {}, 8, [])["MKL_NUM_THREADS"] == "1"
    assert [executors.share(i, 3, {}, 8, ["2", "5"])["CUDA_VISIBLE_DEVICES"] for i in range(3)] == ["2", "5", "2"]
    assert "CUDA_VISIBLE_DEVICES" not in executors.share(0, 2, {}, 8, ["0"])


def test_a_process_that_is_killed_is_said(
    plain: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, plain)
    monkeypatch.setattr(executors.sys, "executable", "/bin/false")
    monkeypatch.setattr(grid.plan, "make_plan", lambda *_: grid.plan.Plan(8, 0, 0, 0, {}))
    facts, text, code = run_study(path, jobs=2)
    assert code == 1
    assert "its worker was lost 3 times, the last time because process" in text
    assert "ended with code 1" in text
    assert facts["done"] == 0
    assert "No run with a test set is done yet." in text


def test_a_broken_result_file_is_no_result(finished: Finished, plain: dict[str, Any], tmp_path: Path) -> None:
    shutil.copytree(finished.out, tmp_path / "study")
    files.write_bytes(result_path(tmp_path / "study", "tickets/tiny/lora/star/seed1"), b"{")
    facts, text, code = run_study(write(tmp_path, plain))
    assert code == 1
    assert "delete it, the cell will run again" in text
    assert facts["done"] == 7
