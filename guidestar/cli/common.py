"""What the commands share: how one is added, how it prints, how it finds its configuration."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
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
        made = self._subparsers.add_parser(name, help=text, description=text, epilog=EXIT_CODES)
        command: argparse.ArgumentParser = made
        command.set_defaults(function=function)
        if facts:
            command.add_argument("--json", action="store_true", help="print facts as JSON")
        command.add_argument("--quiet", action="store_true", help="no progress on standard error")
        return command


PRICES = {
    "label": "price of a label, in place of the configuration's",
    "annotator-hour": "price of an hour of an annotator",
    "machine-hour": "price of an hour of this machine",
}


def add_prices(command: argparse.ArgumentParser) -> None:
    """Options that replace keys of `cost`."""
    for name, text in PRICES.items():
        command.add_argument(f"--{name}", type=float, metavar="PRICE", help=text)


def prices(options: Options) -> dict[str, float | None]:
    """What they say: key of `cost` -> price, None where it is not given."""
    return {key: getattr(options, key) for key in (name.replace("-", "_") for name in PRICES)}


def progress(options: Options) -> Any:
    """Where news go: bars on a terminal, lines elsewhere, nowhere with --quiet."""
    from guidestar.progress import for_terminal

    return for_terminal(options.quiet)


def show(options: Options, facts: Any, text: str) -> None:
    """Print facts as JSON or their text."""
    print(json.dumps(facts, indent=2, ensure_ascii=False) if options.json else text)


def show_table(options: Options, rows: dict[str, str]) -> int:
    """Print names and what they stand for."""
    width = max(map(len, rows))
    show(options, rows, "\n".join(f"{name:<{width}}  {text}" for name, text in rows.items()))
    return 0


def load(path: str, overrides: Sequence[str] = ()) -> Any:
    """A configuration from a file, or from the copy in a run's folder (or in the folder above it)."""
    from guidestar import config

    return config.load(path, overrides)


def folder(path: str) -> Path:
    """The folder that a user means: of a run, or that of the runs of a configuration."""
    from guidestar import config

    place = Path(path)
    return Path(config.load(place).out) if place.is_file() else place
