"""`make gpu-check` says that there is no GPU; what it would do with one runs on a CPU, as far as a CPU can."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import vllm_double

from tools import gpu_check


def test_without_a_gpu_it_says_so_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["gpu-check"])
    assert gpu_check.main() == 2
    said = capsys.readouterr().err
    assert said == "gpu-check: this machine has no GPU that PyTorch can use, so nothing was checked\n"


def test_its_checks_hold_on_a_cpu(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU beside itself is equal; an error is a finding and ends nothing. A double stands for vLLM."""
    vllm_double.install(monkeypatch)
    scene = gpu_check.scene_of(tmp_path, "cpu", str(tiny_folder), rows=24)
    names = ("float32 against the CPU", "profile", "precisions", "own engine against vLLM", "two equal trainings")

    def broken(scene: gpu_check.Scene) -> gpu_check.Found:
        raise RuntimeError("no kernel image")

    found = gpu_check.check(scene, {"broken": broken, **{name: gpu_check.CHECKS[name] for name in names}})
    assert found.pop("broken") == {"right": False, "error": "RuntimeError: no kernel image"}
    assert all(one["right"] for one in found.values()), found
    apart = found["float32 against the CPU"]
    assert {"label_log_probs", "tuned gold_nll", "losses"} <= apart.keys()
    assert all(apart[name] == 0 for name in apart if name != "right")
    assert found["two equal trainings"]["weights"] == 0
    for name in ("bare", "tuned"):
        assert found["own engine against vLLM"][name]["rank correlation"] > 0.999
        assert found["own engine against vLLM"][name]["top tenth in common"] == 1
    assert found["precisions"]["float32"] == pytest.approx(1)
    assert np.isfinite(found["precisions"]["nf4"])
    assert set(found["profile"]) == {"right", "scoring, label words", "training steps", "64 tokens"}
    assert found["profile"]["training steps"]["of"] == 3
    assert found["profile"]["64 tokens"]["waits"] == 0, "on a CPU nobody waits"
