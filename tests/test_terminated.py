"""SIGTERM while a file is imported: a sentence, an exit code, and all of the file or nothing of it."""

from __future__ import annotations

import importlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from page_help import QUESTIONS, make_run

from guidestar.store import Store

main = importlib.import_module("guidestar.cli.main")  # its package has a function of that name
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


def test_a_signal_that_a_library_makes_an_error_of_is_a_stop_all_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """pydantic does when it is met while it makes a class; an error without a signal stays one."""

    def met(options: object) -> int:
        if asked:
            with pytest.raises(SystemExit):
                main._stop(signal.SIGTERM, None)
        raise ValueError("Error building a serializer: SystemExit: 143")

    asked = False
    monkeypatch.setattr("guidestar.cli.lists._models", met)
    monkeypatch.setattr(main, "_stopped", [])
    with pytest.raises(ValueError, match="SystemExit"):
        main.main(["models"])
    asked = True
    assert main.main(["models"]) == main.TERMINATED
    assert "stopped; nothing recorded is lost" in capsys.readouterr().err
