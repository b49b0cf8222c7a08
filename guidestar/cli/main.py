"""The parser of all commands, and the way into them.

Exit codes: 0 ok, 1 failure, 2 usage or configuration, 3 data, 4 waiting for labels, 130 and 143 stopped by
Ctrl-C and SIGTERM.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from guidestar.cli import labels, lists, runs, studies
from guidestar.cli.common import EXIT_CODES, Commands

TERMINATED = 143  # exit code after SIGTERM
_stopped: list[int] = []  # the signals that asked this process to stop


def parser() -> argparse.ArgumentParser:
    """All commands and options. Importing nothing heavy keeps `--help` fast."""
    top = argparse.ArgumentParser(
        prog="guidestar",
        description="Label less, fine-tune better: active learning for LLMs with LoRA.",
        epilog=EXIT_CODES,
    )
    top.add_argument("--version", action="store_true", help="print the version and exit")
    top.add_argument(
        "--code", action="append", default=[], metavar="FILE.py",
        help="run a Python file that adds measures, selectors or strategies of your own (docs/own.md)",
    )  # fmt: skip
    top.add_argument(
        "--remote-code", action="store_true",
        help="let a model run the Python code that its repository brings, where the configuration pins its revision",
    )  # fmt: skip
    commands = Commands(top.add_subparsers(dest="command", metavar="COMMAND"))
    for group in (runs, labels, studies, lists):
        group.add(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    from guidestar.errors import GuidestarError

    top = parser()
    options, rest = top.parse_known_args(arguments)
    if rest:  # argparse takes the key=value texts before the first option alone
        wrong = [text for text in rest if text.startswith("-") or "=" not in text or not hasattr(options, "overrides")]
        if wrong:
            top.error(f"unrecognized arguments: {' '.join(wrong)}")
        options.overrides += rest
    for name, value in vars(options).items():  # a shell leaves --out=~/x as it is
        if isinstance(value, str) and value.startswith("~/"):
            setattr(options, name, os.path.expanduser(value))
    if options.version:
        from importlib.metadata import version

        print(f"guidestar {version('guidestar')}")
        return 0
    if options.command is None:
        top.print_help()
        return 2
    try:
        if options.remote_code:  # processes that this one starts inherit it
            os.environ["GUIDESTAR_REMOTE_CODE"] = "1"
        _load_code(options.code)
        code = int(options.function(options))
        sys.stdout.flush()  # a closed pipe is to be found here and not when Python ends
        return code
    except GuidestarError as error:
        for line in str(error).splitlines():
            print(f"guidestar: {line}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader of a pipe had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still in the buffer
        return 0
    except (Exception, KeyboardInterrupt, SystemExit) as stop:
        by_key = isinstance(
            stop, KeyboardInterrupt
        )  # what the signal met may have made an error of its own of it, as pydantic does
        if not (by_key or _stopped or getattr(stop, "code", None) == TERMINATED):
            raise
        print("guidestar: stopped; nothing recorded is lost, the same command continues", file=sys.stderr)
        return 130 if by_key else TERMINATED


def _load_code(files: Sequence[str]) -> None:
    """The user's own measures and strategies, those of the process that started this one included."""
    if files or os.environ.get("GUIDESTAR_CODE"):  # most commands need none, and not the half second of numpy
        from guidestar.query import own

        own.load_inherited()
        for file in files:
            own.load_code(file)


def entry() -> None:
    """The console script."""
    import warnings

    for noisy in ("transformers", "peft", "torch"):  # their notes to developers are none to our users
        warnings.filterwarnings("ignore", category=FutureWarning, module=noisy)
    signal.signal(signal.SIGTERM, _stop)
    sys.exit(main())


def _stop(number: int, frame: object) -> None:
    _stopped.append(number)
    sys.exit(TERMINATED)
