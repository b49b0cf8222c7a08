"""docs/comparisons.md from the folders of finished studies."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from guidestar.study import grid
from guidestar.study.results import FORMAT
from tools import adapter_curves, setfit_curves
from tools.ablation import keep
from tools.comparisons import _of_mc, comparisons

FILE = """# Two strategies on the demo.
out: study
datasets: [{name: demo, data: {preset: demo, folder: DATA, test_limit: 20}}]
models: [{name: tiny, model: {name: MODEL, dtype: float32}}]
peft: [{name: lora, peft: {peft_type: LORA, r: 2, lora_alpha: 4, target_modules: [q_proj]}}]
strategies: [random, entropy]
seeds: [0]
base:
  query: {warm_start: 6, batch: 3, budget: 9, candidates: 10}
  train: {epochs: 1}
"""


def test_without_a_study_the_page_says_so(tmp_path: Path) -> None:
    assert "No study is kept yet." in comparisons(tmp_path / "nothing")


def test_a_study_on_the_page(make_config: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    plain = make_config()
    text = FILE.replace("DATA", plain["data"]["folder"]).replace("MODEL", plain["model"]["name"])
    assert yaml.safe_load(text)
    (tmp_path / "study.yaml").write_text(text)
    facts, said, code = grid.run_study(tmp_path / "study.yaml")
    assert code == 0, said
    kept = tmp_path / "results" / "studies" / "two"
    kept.mkdir(parents=True)
    shutil.copy(tmp_path / "study.yaml", kept)
    for name in ("facts.json", "results"):
        source = tmp_path / "study" / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, kept / name)
    page = comparisons(tmp_path / "results" / "studies")
    assert "## Two strategies on the demo" in page
    assert "2 of 2 runs are done." in page
    for row in facts["rows"]:
        assert f"{100 * row['auc']['mean']:.2f}" in page
    assert "seeds 0; " in page
    assert page == comparisons(tmp_path / "results" / "studies")
    assert str(tmp_path) not in page.replace(plain["model"]["name"], "")


def kept(folder: Path, model: str, peft: str, method: str, seed: int, accuracy: float) -> None:
    """A result as far as the table of published numbers reads it."""
    tags = {"dataset": "subj", "model": model, "peft": peft, "method": method, "seed": seed}
    one = {
        "format": FORMAT,
        "name": method,
        "tags": tags,
        "curve": [[25, accuracy], [50, accuracy]],
        "auc": accuracy,
        "final": accuracy,
    }
    path = folder / "subj" / model / peft / method / f"seed{seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(one))


def test_published_numbers_stand_beside_the_same_seeds_of_both(tmp_path: Path) -> None:
    """A control with more seeds, another model's, and a strategy without a control."""
    for seed, accuracy in ((0, 0.8), (1, 0.6), (2, 0.4)):
        kept(tmp_path / "results", "a", "lora", "random", seed, accuracy)
    kept(tmp_path / "results", "a", "lora", "mc", 0, 0.85)
    kept(tmp_path / "results", "a", "prefix", "mc", 0, 0.7)
    found = _of_mc(tmp_path, [])
    assert set(found) == {"lora"}
    random, mc, gain, seeds = found["lora"]
    assert (random, mc, seeds) == ("80.0", "85.0", "1")
    assert gain.startswith("25.0 %")


def test_setfit_is_paired_with_our_rows_by_seed_and_number_of_labels(tmp_path: Path) -> None:
    ours, theirs = tmp_path / adapter_curves.FILE.name, tmp_path / setfit_curves.FILE.name
    assert setfit_curves.section(theirs) == []
    curve = [n / 1000 for n in adapter_curves.CHECKPOINTS]
    keep(
        ours,
        [
            {"data": "trec-6", "row": "r1-weighted", "seed": seed, "accuracy": [a + seed / 100 for a in curve]}
            for seed in (0, 1, 2, 9)
        ],
    )
    flat = [{"data": "trec-6", "row": "setfit", "seed": seed, "accuracy": [0.0] * 4} for seed in (0, 1, 2, 3)]
    keep(theirs, flat, setfit="1.2.3")
    page = "\n".join(setfit_curves.section(theirs))
    assert "SetFit 1.2.3" in page
    assert "| trec-6 | SetFit, random labels | 4 | 0.0 ± 0.0 | 0.0 ± 0.0 | 0.0 ± 0.0 | 0.0 ± 0.0 |" in page
    assert "| 3 | 2.0 ± 1.0 | 3.0 ± 1.0 | 4.0 ± 1.0 | 6.0 ± 1.0 |" in page  # seed 9 is not SetFit's
    apart = [line for line in page.splitlines() if line.startswith("| trec-6") and "| 50 |" in line]
    assert len(apart) == 1
    assert "+6.0" in apart[0]
