"""A test that skips where it should run is a check that nobody makes: `--known-skips` turns such a skip into a failure.

CI passes the option. What a test may lack on a machine is listed here, by words of its reason.
"""

from __future__ import annotations

from typing import Any

import pytest

KNOWN = (
    "../shared/data",  # the papers' files, which are not ours to give away
    "beside the checkout",
    "root may write anywhere",
    "no Chromium is installed",
    "could not import 'tensorboard'",  # a tracker of the user's choice, in none of our extras
)

_unknown: list[str] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--known-skips", action="store_true", help="fail if a test skips for a reason not in tests/skips.py"
    )


def pytest_runtest_logreport(report: Any) -> None:
    _note(report)


def pytest_collectreport(report: Any) -> None:
    _note(report)


def _note(report: Any) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        if not any(words in reason for words in KNOWN):
            _unknown.append(f"{report.nodeid}: {reason}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.getoption("--known-skips") and _unknown:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if config.getoption("--known-skips") and _unknown:
        terminalreporter.section("skipped for a reason that is not in tests/skips.py")
        for line in _unknown:
            terminalreporter.write_line(line)
