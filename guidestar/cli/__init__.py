"""The command line: parse, call, print. Facts go to standard output, news to standard error."""

from guidestar.cli.main import entry, main, parser

__all__ = ["entry", "main", "parser"]
