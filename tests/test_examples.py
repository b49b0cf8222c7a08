"""Every folder of `examples/` runs as it stands, on a tiny model in place of the real one; so does the notebook."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import guidestar
from guidestar.model import tiny
from guidestar.records import Finished
from guidestar.report.answer import answer, read_all

EXAMPLES = Path(__file__).parent.parent / "examples"
FOLDERS = sorted(file.parent.name for file in EXAMPLES.glob("*/config.yaml"))


def test_every_example_is_listed() -> None:
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert [name for name in [*FOLDERS, "notebook.ipynb"] if f"({name})" not in listed] == []


@pytest.mark.parametrize("name", FOLDERS)
def test_an_example_runs(name: str, tmp_path: Path, tiny_encoder_folder: Path, tiny_folder: Path) -> None:
    plain = guidestar.load(EXAMPLES / name / "config.yaml")
    encoder = plain.task.kind in ("choice", "multi_label")
    model = tiny_encoder_folder if encoder else tiny_folder
    changes = [
        f"out={tmp_path}",
        f"model.name={model}",
        "model.dtype=float32",
        "train={epochs: 1}",
        "data.test_limit=20",
    ]
    changes += ["query={warm_start: 8, batch: 4, budget: 12, candidates: 20}", "model.chat=false"]
    config = guidestar.load(EXAMPLES / name / "config.yaml", changes)
    if plain.data.answer is None:  # people label
        labels = list(plain.task.labels)
        with guidestar.Run(config) as run:
            outcome = run.run(lambda example: guidestar.Label(labels[len(example.prompt) % len(labels)], "Ada"))
        assert isinstance(outcome, Finished)
    else:
        outcomes = guidestar.run(config)
        assert all(isinstance(outcome, Finished) for outcome in outcomes.values())
        assert outcomes.keys() == {f"{one.title}-seed0" for one in config.strategies}
    assert "12 labels" in answer(read_all(tmp_path)).sentence or len(config.strategies) > 1


def test_the_notebook_runs_offline_and_shows_its_results(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the tests' tiny model where it builds its own, which is as small."""
    pytest.importorskip("pandas")
    monkeypatch.chdir(EXAMPLES.parent)
    monkeypatch.setattr(tiny, "build_tiny_model", lambda folder, texts, steps: shutil.copytree(tiny_folder, folder))
    cells = json.loads((EXAMPLES / "notebook.ipynb").read_text(encoding="utf-8"))["cells"]
    names: dict[str, Any] = {}
    shown = [found for cell in cells if cell["cell_type"] == "code" if (found := _show("".join(cell["source"]), names))]
    assert [one.count("<svg") for one in shown] == [1, 0, 0, 0], "without a test set there is no curve"
    assert "No accuracy is known after 24 labels" in shown[2]
    assert "seed cannot show a gain" in shown[0]
    assert len(names["frame"]) == 24
    assert "<table" in shown[-1]


def _show(source: str, names: dict[str, Any]) -> str:
    """Run a cell; what a notebook would show of its last expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    if last is None:
        return ""
    value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    return str(value._repr_html_() if hasattr(value, "_repr_html_") else value)
