"""The engine of a study: resumable anywhere, the warm start shared, nothing lost when a cell fails."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from studies import LORA, RUN, Crash, Lines, results_of

from guidestar import config as configs
from guidestar.errors import ConfigError, StoreError
from guidestar.progress import Progress, Silent
from guidestar.report import summary
from guidestar.store import Store, files
from guidestar.study import cells as engine
from guidestar.study import costs, reading
from guidestar.study.cells import Cell, CellResult, Shared, part_of
from guidestar.study.results import Result, made_with, portable, read_results, result_path

STRATEGIES: dict[str, dict[str, Any]] = {
    "random": {"use": "random"},
    "me": {"use": "entropy"},
    "star": {"use": "star", "passes": 2},
    "lean": {"use": "lean"},
}


@pytest.fixture(scope="module")
def plain(demo_data: Path, tiny_folder: Path) -> dict[str, Any]:
    """A small run without strategies."""
    return {
        "data": {"preset": "demo", "folder": str(demo_data), "test_limit": 20},
        **RUN,
        "model": {"name": str(tiny_folder), **RUN["model"]},
        "peft": LORA,
    }


def run_cells(cells: list[Cell], out: Path, news: Progress | None = None, **more: Any) -> list[CellResult]:
    """The engine with nothing loaded."""
    return engine.run_cells(cells, out, Shared(out / "cache", news or Silent()), **more)


def make_cells(
    plain: dict[str, Any], out: Path, *, seeds: int = 1, names: tuple[str, ...] = ("random", "me"), **changes: Any
) -> list[Cell]:
    """Cells of one folder; keyword arguments replace keys of a section."""
    found = []
    for seed in range(seeds):
        for name in names:
            data = {**plain, "out": str(out / "runs" / "plain"), "seeds": [seed]}
            data["strategies"] = [{**STRATEGIES[name], "name": name}]
            data |= {key: {**plain.get(key, {}), **value} for key, value in changes.items()}
            tags: dict[str, str | int] = {"dataset": "demo", "method": name, "seed": seed}
            found.append(Cell(f"demo/{name}/seed{seed}", tags, configs.parse(data)))
    return found


@pytest.fixture(scope="module")
def finished(plain: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """An uninterrupted study and its results."""
    out = tmp_path_factory.mktemp("finished") / "study"
    found = run_cells(make_cells(plain, out), out)
    assert [one.state for one in found] == ["done", "done"]
    return out, results_of(out)


@pytest.fixture
def whole(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A copy of it to work on."""
    return shutil.copytree(finished[0], tmp_path / "whole"), finished[1]


def test_a_result_file_holds_what_a_table_needs_and_no_place(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out, results = whole
    result = results["demo/me/seed0"]
    assert [labels for labels, _ in result["curve"]] == [8, 12, 16]
    assert [point["metrics"]["accuracy"] for point in result["rounds"]] == [value for _, value in result["curve"]]
    assert [sum(point["picked"].values()) for point in result["rounds"]] == [8, 4, 4]
    assert result["final"] == result["curve"][-1][1]
    a, b, c = (value for _, value in result["curve"])
    assert result["auc"] == pytest.approx(((a + b) / 2 + (b + c) / 2) / 2)
    assert result["finished"] == "BUDGET"
    assert result["data"]["majority"]["share"] > 0
    assert len(result["data"]["hash"]) == 64
    assert result["prompt"]["template"].startswith("Message:")
    assert result["config"]["train"]["epochs"] == 1
    assert {"torch", "peft", "guidestar"} <= result["versions"].keys()
    stored = json.loads(result_path(out, "demo/me/seed0").read_text())
    assert stored["hardware"]["threads"] >= 1
    assert stored["seconds"]["train"] == pytest.approx(
        sum(s for _, p, s, _ in stored["timings"] if p == "train"), abs=0.01
    )
    for path in (out / "results").rglob("*.json"):
        assert str(tmp_path.parent) not in path.read_text(), "a path of this machine is in a result file"


def test_the_warm_start_is_the_same_and_trained_once(whole: tuple[Path, dict[str, Any]]) -> None:
    out, results = whole
    starts = [one["warm_start"] for one in results.values()]
    assert starts[0] == starts[1]
    adapters = [
        files.sha256(out / "runs" / "plain" / f"{name}-seed0" / "adapters" / "round-000") for name in ("random", "me")
    ]
    assert adapters[0] == adapters[1]
    trained = [
        seconds
        for r, phase, seconds, _ in json.loads(result_path(out, "demo/me/seed0").read_text())["timings"]
        if (r, phase) == (0, "train")
    ]
    assert trained == [0.0], "the second strategy trained the warm start again"


def test_the_folder_of_a_group_is_an_experiment(whole: tuple[Path, dict[str, Any]]) -> None:
    """`guidestar status` and `report` work on it, and its configuration names every strategy."""
    out, _ = whole
    config = configs.load(out / "runs" / "plain" / "config.yaml")
    assert [s.title for s in config.strategies] == ["random", "me"]
    found = summary(out / "runs" / "plain")
    assert {row["strategy"] for row in found["strategies"]} == {"random", "me"}
    assert found["shared_warm_start"] == {"0": True}


def test_what_is_done_is_not_done_again(
    whole: tuple[Path, dict[str, Any]], plain: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, results = whole
    monkeypatch.setattr(engine.Shared, "bench", lambda self, config: pytest.fail("a finished cell needs no model"))
    news = Lines()
    found = run_cells(make_cells(plain, out), out, news)
    assert [one.state for one in found] == ["kept", "kept"]
    assert news.said == []
    assert results_of(out) == results
    assert all(one.state != "failed" for one in found)


@pytest.mark.parametrize("nth", [4, 31, 64])
def test_killed_anywhere_it_continues_to_the_same_results(
    nth: int, whole: tuple[Path, dict[str, Any]], plain: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a durable step inside the first cell, the second cell, and late."""
    out, steps = tmp_path / "killed", 0

    def step(name: str) -> None:
        nonlocal steps
        steps += 1
        if steps == nth:
            raise Crash(name)

    with monkeypatch.context() as patch:
        patch.setattr(files, "step", step)
        with pytest.raises(Crash):
            run_cells(make_cells(plain, out), out)
    assert len(results_of(out)) < 2, "it should have been killed before the end"
    assert all(one.state in ("done", "kept") for one in run_cells(make_cells(plain, out), out))
    assert results_of(out) == whole[1]


def test_killed_between_cells(whole: tuple[Path, dict[str, Any]], plain: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "between"

    def stop(done: CellResult) -> None:
        raise Crash

    with pytest.raises(Crash):
        run_cells(make_cells(plain, out), out, after=stop)
    assert list(results_of(out)) == ["demo/random/seed0"]
    found = run_cells(make_cells(plain, out), out)
    assert [one.state for one in found] == ["kept", "done"]
    assert results_of(out) == whole[1]


def test_a_failing_cell_is_reported_and_the_others_go_on(plain: dict[str, Any], tmp_path: Path) -> None:
    """One that cannot be configured, and one whose model breaks down."""
    out = tmp_path / "study"
    good = make_cells(plain, out)
    bad = make_cells(plain, out, names=("star",), peft={"lora_dropout": 0.0})[0]
    bad = Cell(bad.name, bad.tags, bad.config.model_copy(update={"out": str(out / "runs" / "other")}))
    news = Lines()
    found = run_cells([good[0], bad, good[1]], out, news)
    assert [one.state for one in found] == ["done", "failed", "done"]
    assert "has no dropout" in (found[1].error or "")
    assert any(line.startswith("demo/star/seed0 failed: ") for line in news.said)
    assert any(one.state == "failed" for one in found)
    assert not result_path(out, bad.name).exists()


def test_an_unforeseen_error_does_not_end_the_study(
    plain: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from guidestar.model.train import OwnTrainer

    out, real, calls = tmp_path / "study", OwnTrainer.__call__, 0

    def broken(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("out of memory")
        return real(*args, **options)

    monkeypatch.setattr(OwnTrainer, "__call__", broken)
    found = run_cells(make_cells(plain, out), out)
    assert [(one.state, one.error) for one in found] == [("failed", "RuntimeError: out of memory"), ("done", None)]
    assert [one.state for one in run_cells(make_cells(plain, out), out)] == ["done", "kept"]


def test_cells_that_began_with_other_examples_are_refused(
    whole: tuple[Path, dict[str, Any]], plain: dict[str, Any]
) -> None:
    out, _ = whole
    path = result_path(out, "demo/random/seed0")
    changed = json.loads(path.read_text())
    changed["warm_start"]["picks"] = "another"
    path.write_text(json.dumps(changed))
    result_path(out, "demo/me/seed0").unlink()
    found = run_cells(make_cells(plain, out), out)
    assert [one.state for one in found] == ["kept", "failed"]
    assert "the warm start differs from that of demo/random/seed0" in (found[1].error or "")
    apart = dict(changed["warm_start"], seed=5)
    engine.check_warm_start(apart, found)  # another seed may begin elsewhere


def test_a_strategy_with_a_warm_start_of_its_own_stands_beside_random(plain: dict[str, Any], tmp_path: Path) -> None:
    found = run_cells(make_cells(plain, tmp_path, names=("random", "lean")), tmp_path)
    assert [(one.state, one.error) for one in found] == [("done", None)] * 2
    begun = [one.result.warm_start for one in found if one.result]
    assert [one["by"] for one in begun] == ["random", "herding"]
    assert begun[0]["picks"] != begun[1]["picks"]
    said = reading.warm_starts([one.result for one in found if one.result])
    assert [text for text in said if "did not begin with the same 8 examples" in text] == said
    stores = [Store.open(tmp_path / "runs" / "plain" / f"{name}-seed0") for name in ("random", "lean")]
    with stores[0] as random, stores[1] as lean:  # and neither pays for the other's first training
        spent = costs._shared_seconds([random, lean])
        assert len([key for key in spent if key[1:3] == (0, "train")]) == 2


def test_a_cell_of_another_process_is_left_to_it(plain: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "study"
    cells = make_cells(plain, out)
    with engine.claim(out / "claims" / f"{cells[0].name}.lock") as mine:
        assert mine
        found = run_cells(cells, out)
    assert [one.state for one in found] == ["elsewhere", "done"]
    assert all(one.state != "failed" for one in found)
    assert [one.state for one in run_cells(cells, out)] == ["done", "kept"]


def test_a_damaged_result_is_named(whole: tuple[Path, dict[str, Any]], plain: dict[str, Any]) -> None:
    out, _ = whole
    path = result_path(out, "demo/me/seed0")
    path.write_text(path.read_text()[:100])
    found = run_cells(make_cells(plain, out), out)
    assert found[1].state == "failed"
    assert str(path) in (found[1].error or "")
    assert "delete it, the cell will run again" in (found[1].error or "")
    with pytest.raises(StoreError, match="cannot be read as a result"):
        read_results(out / "results")


def test_another_configuration_is_not_taken_for_done(whole: tuple[Path, dict[str, Any]], plain: dict[str, Any]) -> None:
    """Its run refuses too, so that a table never mixes the two."""
    out, _ = whole
    found = run_cells(make_cells(plain, out, task={"scoring": "sequence"}), out)
    assert [one.state for one in found] == ["failed", "failed"]
    assert "task.scoring" in (found[0].error or "")


def test_a_result_older_than_a_key_of_the_configuration_counts(
    whole: tuple[Path, dict[str, Any]], plain: dict[str, Any]
) -> None:
    out, results = whole
    cell = make_cells(plain, out)[1]
    config = json.loads(json.dumps(results[cell.name]["config"]))
    old = Result(name=cell.name, tags={}, fingerprint="of an older version", config=config)
    del config["train"]["schedule_steps"]
    assert made_with(old, cell.config)
    config["train"]["epochs"] = 3
    assert not made_with(old, cell.config)
    config["train"] = {"steps": 7}  # a key that is gone
    assert not made_with(old, cell.config)


def test_places_are_no_part_of_a_cells_identity(plain: dict[str, Any], tmp_path: Path, tiny_folder: Path) -> None:
    there, here = (make_cells(plain, tmp_path / name)[0] for name in ("there", "here"))
    assert there.fingerprint == here.fingerprint
    moved = shutil.copytree(tiny_folder, tmp_path / tiny_folder.name)
    elsewhere = make_cells(plain, tmp_path, model={"name": str(moved)})[0]
    assert elsewhere.fingerprint == here.fingerprint, "the model's fingerprint stands for its folder"
    assert portable(here.config)["model"]["name"] == tiny_folder.name
    other = make_cells(plain, tmp_path, data={"test_limit": 11})[0]
    assert other.fingerprint != here.fingerprint


def test_adapters_that_nobody_needs_can_be_dropped(
    plain: dict[str, Any], tmp_path: Path, whole: tuple[Path, dict[str, Any]]
) -> None:
    out = tmp_path / "sparing"
    cells = [Cell(c.name, c.tags, c.config, adapters="last") for c in make_cells(plain, out, names=("random", "me"))]
    run_cells(cells, out)
    assert results_of(out) == whole[1], "what is measured does not hang on what is kept"
    left = sorted(path.name for path in (out / "runs" / "plain" / "me-seed0" / "adapters").iterdir())
    assert left == ["round-000", "round-002"]


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_parts_are_a_partition_and_keep_warm_starts_together(plain: dict[str, Any], tmp_path: Path, parts: int) -> None:
    cells = make_cells(plain, tmp_path, seeds=3)
    shares = [part_of(cells, f"{i + 1}/{parts}") for i in range(parts)]
    assert sorted(cell.name for share in shares for cell in share) == sorted(cell.name for cell in cells)
    for share in shares:
        for cell in share:
            mates = [other for other in cells if other.tags["seed"] == cell.tags["seed"]]
            assert all(mate in share for mate in mates)
    with pytest.raises(ConfigError, match="allowed: i/n"):
        part_of(cells, f"{parts + 1}/{parts}")
