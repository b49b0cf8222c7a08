"""The doctor finds what was broken on purpose, names a fix, and finds nothing in a run that is whole."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from loops import SMALL, MakeConfig

from guidestar import config as configs
from guidestar import doctor, loop
from guidestar.cli import main
from guidestar.doctor import Finding, examine, machine, packages, run_folder, text
from guidestar.errors import StoreError
from guidestar.publish import publish
from guidestar.scoring import predict_file


@pytest.fixture
def run(make_config: MakeConfig) -> Path:
    config = make_config(**SMALL, strategies=["random"])
    loop.run(config)
    return Path(config["out"])


def _bad(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.state != "ok"]


def test_a_whole_run_has_no_findings(run: Path) -> None:
    found = list(run_folder(run))
    assert not _bad(found)
    assert [f.what for f in found if f.about == "random-seed0"] == [
        "3 rounds, 16 labels; the database is whole",
        "10 adapters and arrays have their recorded hashes",
    ]
    assert list(run_folder(run / "random-seed0")) == found, "one run is looked at as the experiment is"


def test_damage_is_found_with_its_fix(run: Path) -> None:
    place = run / "random-seed0"
    shutil.rmtree(place / "adapters" / "round-000")
    weights = place / "adapters" / "round-001" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    (place / "arrays" / "round-002-test.safetensors").unlink()
    (place / "arrays" / ".tmp-left").write_text("half")
    said = {finding.what: finding for finding in _bad(list(run_folder(run)))}
    assert set(said) == {
        "adapters/round-000 is gone",
        "adapters/round-001 is not what was recorded after round 1",
        "arrays/round-002-test.safetensors is gone",
        "1 files or folders that nobody recorded, such as arrays/.tmp-left",
    }
    assert said["adapters/round-000 is gone"].state == "note"
    wrong = said["adapters/round-001 is not what was recorded after round 1"]
    assert wrong.state == "problem"
    assert "delete the folder and run again" in wrong.fix
    assert all(finding.fix for finding in said.values())


def test_the_fix_mends_it(run: Path, make_config: MakeConfig) -> None:
    place = run / "random-seed0"
    weights = place / "adapters" / "round-002" / "adapter_model.safetensors"
    weights.write_bytes(b"")
    assert _bad(list(run_folder(run)))
    shutil.rmtree(weights.parent)
    with loop.Run(make_config(**SMALL, strategies=["random"])) as again:
        again.adapter()
    assert not _bad(list(run_folder(run)))


def test_an_answer_never_comes_from_an_older_adapter_than_the_newest(run: Path, tmp_path: Path) -> None:
    """Gone: every way to it trains it again. Damaged: every way to it says so."""
    newest = run / "random-seed0" / "adapters" / "round-002"
    (file := tmp_path / "new.csv").write_text("text\nwhere is my parcel\n")
    config = configs.load(run / "config.yaml")
    ways: list[Callable[[], object]] = [
        lambda: list(predict_file(run, config, str(file))),
        lambda: publish(run, tmp_path / "hub"),
        lambda: loop.run(config),
        lambda: main(["score", str(run), str(file), "--quiet"]),
    ]
    for way in ways:
        shutil.rmtree(newest)
        fix = next(f.fix for f in run_folder(run) if f.what == "adapters/round-002 is gone")
        assert "guidestar run" in fix
        way()
        assert not _bad(list(run_folder(run)))
    weights = newest / "adapter_model.safetensors"
    weights.write_bytes(b"")
    for way in ways[:3]:
        with pytest.raises(StoreError, match="delete the folder and run again"):
            way()
    assert ways[3]() == 1


def test_a_damaged_database_and_missing_data_are_problems(run: Path) -> None:
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("folder: ", "folder: /nowhere"))
    database = run / "random-seed0" / "run.sqlite"
    with sqlite3.connect(database) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    content = bytearray(database.read_bytes())
    content[5000:9000] = b"\0" * 4000
    database.write_bytes(content)
    said = _bad(list(run_folder(run)))
    assert [finding.state for finding in said] == ["problem", "problem"]
    assert "which is not there" in said[0].what
    assert "damaged" in said[1].what
    (run / "config.yaml").unlink()
    assert "cannot be continued by its folder" in _bad(list(run_folder(run)))[0].what


def test_folders_that_are_no_runs(tmp_path: Path) -> None:
    assert [f.what for f in run_folder(tmp_path / "nothing")] == ["no such folder"]
    assert "holds no run" in next(iter(run_folder(tmp_path))).what


def test_packages_are_compared_with_their_floors() -> None:
    versions = {"torch": "2.11.0+cpu", "peft": "0.20", "matplotlib": "3.9"}

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    required = [
        "torch>=2.11", "peft>=0.21", "numpy>=2", 'matplotlib>=3.9; extra == "report"', 'gguf>=0.17; extra == "gguf"',
        'ruff; extra == "dev"', 'pywin32; sys_platform == "win32"',
    ]  # fmt: skip
    found = {f.about: f for f in packages(required, version)}
    assert {name: f.state for name, f in found.items()} == {
        "python": "ok", "torch": "ok", "peft": "problem", "numpy": "problem", "matplotlib": "ok", "gguf": "note",
    }  # fmt: skip
    assert found["peft"].what == "0.20, needs >=0.21"
    assert found["peft"].fix == "pip install 'peft>=0.21'"
    assert found["numpy"].fix == "pip install 'guidestar'"
    assert found["gguf"].fix == "pip install 'guidestar[gguf]'"
    assert "models in GGUF files" in found["gguf"].what


def test_the_extras_are_those_of_the_package() -> None:
    extras = set(metadata.metadata("guidestar").get_all("Provides-Extra") or [])
    assert set(doctor.EXTRAS) == extras - {"dev"}


def test_a_machine_short_of_everything_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guidestar.study.fit._main_memory", lambda: (8.0 * 2**30, 0.5 * 2**30))
    monkeypatch.setattr(doctor, "LEAST_DISK", 1e9)
    monkeypatch.setattr("torch.get_num_threads", lambda: 4096)
    monkeypatch.setattr("os.access", lambda *args: False)
    found = {f.about: f for f in machine(tmp_path)}
    assert found["memory"].what == "0.5 of 8.0 GiB free"
    assert {name for name, f in found.items() if f.fix} >= {"threads", "memory", "disk", "model cache"}
    assert found["model cache"].state == "problem"


def test_the_command_says_it_and_its_code_tells(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(run), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert {"python", "torch", "processor", "disk", "config.yaml", "random-seed0"} <= {f["about"] for f in facts}
    assert main(["doctor", str(run / "nowhere")]) == 1
    said = capsys.readouterr().out
    assert "PROBLEM" in said
    assert "fix: name the folder of a run" in said
    assert text([Finding("x", "ok", "fine")]).endswith("all is well")
    assert not [f for f in examine() if f.about == "config.yaml"]
