"""CI fails when a test skips for a reason that nobody has listed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


@pytest.mark.parametrize(
    ("reason", "option", "fails"),
    [
        ("statsmodels is not there", "--known-skips", True),
        ("statsmodels is not there", "-rs", False),
        ("no Chromium is installed; on Debian: apt install chromium", "--known-skips", False),
    ],
)
def test_an_unknown_skip_fails_in_ci_alone(tmp_path: Path, reason: str, option: str, fails: bool) -> None:
    (tmp_path / "test_it.py").write_text(
        f"import pytest\ndef test_it():\n    pytest.skip({reason!r})\n", encoding="utf-8"
    )
    command = [sys.executable, "-m", "pytest", "-p", "skips", "-p", "no:cacheprovider", "-q", option, str(tmp_path)]
    environment = {"PYTHONPATH": str(TESTS), "PATH": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert (ended.returncode != 0) == fails, ended.stdout
    assert ("skipped for a reason that is not in tests/skips.py" in ended.stdout) == fails
