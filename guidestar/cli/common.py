"""What the commands share: how one is added, how it prints, how it finds its configuration."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

EXIT_CODES = "exit codes: 0 ok, 1 failure, 2 usage or config, 3 data, 4 waiting for labels, 130/143 stopped"

Options = argparse.Namespace
Argument = tuple[str, dict[str, Any]]  # its name, and what argparse's `add_argument` is told besides


class Commands:
    """The commands of a parser. Each has its function, which takes the options and returns an exit code."""

    def __init__(self, subparsers: Any) -> None:
        self._subparsers = subparsers

    def add(
        self, name: str, function: Callable[[Options], int], text: str, *arguments: Argument, facts: bool = True
    ) -> argparse.ArgumentParser:
        """A command with what all have; `facts` gives it `--json`."""
        made = self._subparsers.add_parser(name, help=text, description=text, epilog=EXIT_CODES)
        command: argparse.ArgumentParser = made
        command.set_defaults(function=function)
        if facts:
            command.add_argument("--json", action="store_true", help="print facts as JSON")
        command.add_argument("--quiet", action="store_true", help="no progress on standard error")
        for own, settings in arguments:
            command.add_argument(own, **settings)
        return command


def arg(name: str, metavar: str | None, text: str, **settings: Any) -> Argument:
    """An argument, or an option with a value. settings: of argparse's `add_argument`."""
    return name, {"metavar": metavar, "help": text, **settings}


def flag(name: str, text: str, **settings: Any) -> Argument:
    """An option without a value."""
    return name, {"action": "store_true", "help": text, **settings}


def keys(text: str) -> Argument:
    """`key=value` texts, as `overrides`."""
    return arg("overrides", "key=value", text, nargs="*")


CONFIG = arg("config", "CONFIG.yaml", "a configuration, or the folder of a run to continue")
RUN = arg("run", "RUN", "the folder of a run")
PRICES = (  # in the place of keys of `cost`
    arg("--label", "PRICE", "price of a label, in place of the configuration's", type=float),
    arg("--annotator-hour", "PRICE", "price of an hour of an annotator", type=float),
    arg("--machine-hour", "PRICE", "price of an hour of this machine", type=float),
)


def prices(options: Options) -> dict[str, float | None]:
    """What they say: key of `cost` -> price, None where it is not given."""
    return {key: getattr(options, key) for key in ("label", "annotator_hour", "machine_hour")}


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
    return Path(config.load(place).out) if config.names_file(place) else place
