"""Somebody else's run: whatever command looks at it, none of its code runs before the user has said so."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loops import SMALL, MakeConfig

import guidestar
from guidestar import loop
from guidestar.cli import main
from guidestar.cli.main import parser
from guidestar.config import dump_yaml
from guidestar.errors import ConfigError, ModelError
from guidestar.model import adapters

REVISION = "0" * 40
EVIL = """
from pathlib import Path
Path({marker!r}).write_text("this ran")
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class Config(LlamaConfig):
    model_type = "evil"
class Model(LlamaForCausalLM):
    config_class = Config
class Tokenizer(PreTrainedTokenizerFast):
    pass
"""
COMMANDS = [
    line.split() for line in (
        "run CONFIG", "status OUT", "report OUT", "publish RUN --out HUB", "predict RUN FILE", "predict RUN FILE --out ROWS",
        "score RUN FILE", "label RUN --terminal", "label FILE --terminal MODEL", "agreement RUN", "export RUN",
        "export RUN --rows FILE --out ROWS", "import RUN FILE", "plan CONFIG", "compare OUT", "costs OUT", "probe RUN confidence",
        "doctor OUT", "search CONFIG", "labels RUN", "labels RUN --add another",
    )
]  # fmt: skip
NO_RUN = {"init", "demo", "paper", "study", "strategies", "measures", "models", "presets"}  # what they open is no run


@pytest.fixture
def hostile(
    make_config: MakeConfig, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Gives a command line its places and runs it on a run whose model brings code; returns whether that code ran."""
    monkeypatch.delenv("GUIDESTAR_REMOTE_CODE", raising=False)
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    config = make_config(**SMALL, strategies=["random"])
    loop.run(config)
    marker, folder = tmp_path / "marker", tmp_path / "evil"
    shutil.copytree(tiny_folder, folder)
    (folder / "evil.py").write_text(EVIL.format(marker=str(marker)))
    for name, content in (
        ("config.json", {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": [None, "evil.Tokenizer"]}}),
    ):  # fmt: skip
        kept = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**kept, **content}))
    (file := tmp_path / "new.csv").write_text("text,label\nwhere is my parcel,delivery\n")
    run = Path(config["out"]) / "random-seed0"
    places = {
        "CONFIG": run.parent / "config.yaml",
        "OUT": run.parent,
        "RUN": run,
        "FILE": file,
        "HUB": tmp_path / "hub",
        "ROWS": tmp_path / "rows.csv",
        "MODEL": f"model.name={folder}",
    }

    def command(arguments: list[str], **model: Any) -> bool:
        marker.unlink(missing_ok=True)
        config["model"] = {"name": str(folder), "dtype": "float32", **model}
        places["CONFIG"].write_text(dump_yaml({**config, "out": "."}))
        monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
        assert main([str(places.get(word, word)) for word in arguments]) in (0, 1, 2, 3, 4)
        return marker.exists()

    command.folder = folder  # type: ignore[attr-defined]
    return command


def test_every_command_that_opens_a_run_is_tried() -> None:
    names = next(a for a in parser()._actions if isinstance(a, argparse._SubParsersAction)).choices
    assert set(names) == {line[0] for line in COMMANDS} | NO_RUN


def test_no_command_runs_the_code_of_a_model_that_lies_beside_a_run(
    hostile: Callable[..., bool], capsys: pytest.CaptureFixture[str]
) -> None:
    for command in COMMANDS:
        for words in (command, ["--remote-code", *command]):
            assert not hostile(words, remote_code=True, revision=REVISION), words
        assert not hostile(command), command
    assert "is a folder, whose code no revision pins" in capsys.readouterr().err


def test_code_from_the_hub_runs_when_it_is_asked_for_on_the_command_line(
    hostile: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("guidestar.model.sources._from_hub", lambda *a, **o: hostile.folder)
    pinned = {"name": "owner/model", "remote_code": True, "revision": REVISION}
    for command in COMMANDS:
        assert not hostile(command, **pinned), command
    assert "guidestar --remote-code COMMAND" in capsys.readouterr().err
    assert hostile(["--remote-code", "plan", "CONFIG"], **pinned), "else the lines above prove nothing"


def test_only_one_place_decides_about_remote_code() -> None:
    package = Path(guidestar.__file__).parent
    said = {
        str(file.relative_to(package)): lines
        for file in package.rglob("*.py")
        if (
            lines := [
                line.strip()
                for line in file.read_text().splitlines()
                if "trust_remote_code" in line and "=False" not in line
            ]
        )
    }
    assert said == {
        "model/sizes.py": [
            'model = _read(config, lambda _, how: kind.from_config(settings, trust_remote_code=how["trust_remote_code"]))'
        ],
        "model/sources.py": ['return {"local_files_only": True, "trust_remote_code": config.remote_code}'],
    }


def test_an_adapter_that_names_a_module_to_import_is_refused(tmp_path: Path, base: Any) -> None:
    with pytest.raises(ConfigError, match="megatron_config is not allowed"):
        adapters.make_config({"peft_type": "LORA", "megatron_config": {"a": 1}, "megatron_core": "this"})
    (tmp_path / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "megatron\\u005fconfig":{"a":1}, "megatron_core": "this"}'
    )
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="import the module that its megatron_core names"):
        adapters.load_adapter(base, tmp_path)
