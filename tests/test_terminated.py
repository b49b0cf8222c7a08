"""SIGTERM while a file is imported: a sentence, an exit code, and all of the file or nothing of it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from page_help import QUESTIONS, make_run

from guidestar.store import Store

TEXTS = [f"{question} {i}" for i in range(200) for question in QUESTIONS]


@pytest.mark.parametrize("after", [0.3, 0.6, 0.9, 1.3])
def test_an_import_that_is_stopped_says_so_and_leaves_nothing_half(tmp_path: Path, after: float) -> None:
    run, file = make_run(tmp_path, TEXTS), tmp_path / "labels.jsonl"
    file.write_text("".join(json.dumps({"text": text, "answer": "HUM"}) + "\n" for text in TEXTS))
    command = [sys.executable, "-m", "guidestar", "import", str(run), str(file), "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(after)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode in (0, 143, -signal.SIGTERM), said  # the last: before the program itself had begun
    assert "Traceback" not in said
    assert "Exception ignored" not in said
    with Store.open(run) as store:
        assert len(store.annotations.history()) in (0, len(TEXTS))
    if process.returncode == 143 and said:
        assert "stopped; nothing recorded is lost" in said
