"""What the commands share: how one is added, how it prints, how it finds its configuration."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from typing import Any

EXIT_CODES = "exit codes: 0 ok, 1 failure, 2 usage or config, 3 data, 4 waiting for labels, 130/143 stopped"

Options = argparse.Namespace


class Commands:
    """The commands of a parser. Each has its function, which takes the options and returns an exit code."""

    def __init__(self, subparsers: Any) -> None:
        self._subparsers = subparsers

    def add(
        self, name: str, function: Callable[[Options], int], text: str, *, facts: bool = True
    ) -> argparse.ArgumentParser:
        """A command with what all have; `facts` gives it `--json`."""
        found: argparse.ArgumentParser = self._subparsers.add_parser(
            name, help=text, description=text, epilog=EXIT_CODES
        )
        found.set_defaults(function=function)
        if facts:
            found.add_argument("--json", action="store_true", help="print facts as JSON")
        found.add_argument("--quiet", action="store_true", help="no progress on standard error")
        return found


def progress(options: Options) -> Any:
    """Where news go: bars on a terminal, lines elsewhere, nowhere with --quiet."""
    from guidestar.progress import for_terminal

    return for_terminal(options.quiet)


def show(options: Options, facts: Any, text: str) -> None:
    """Print facts as JSON or their text."""
    print(json.dumps(facts, indent=2, ensure_ascii=False) if options.json else text)


def load(path: str, overrides: Sequence[str] = ()) -> Any:
    """A configuration from a file, or from the copy in a run's folder (or in the folder above it)."""
    from guidestar import config

    return config.load(path, overrides)
