"""The command line: parse, call, print. Facts go to standard output, news to standard error.

Exit codes: 0 ok, 1 failure, 2 usage or configuration, 3 data, 4 waiting for labels, 130 and 143 stopped by
Ctrl-C and SIGTERM.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

EXIT_CODES = "exit codes: 0 ok, 1 failure, 2 usage or config, 3 data, 4 waiting for labels, 130/143 stopped"


def parser() -> argparse.ArgumentParser:
    """All commands and options. Importing nothing heavy keeps `--help` fast."""
    top = argparse.ArgumentParser(
        prog="guidestar",
        description="Label less, fine-tune better: active learning for LLMs with LoRA.",
        epilog=EXIT_CODES,
    )
    top.add_argument("--version", action="store_true", help="print the version and exit")
    commands = top.add_subparsers(dest="command", metavar="COMMAND")

    def command(name: str, text: str, *, facts: bool = True) -> argparse.ArgumentParser:
        found = commands.add_parser(name, help=text, description=text, epilog=EXIT_CODES)
        if facts:
            found.add_argument("--json", action="store_true", help="print facts as JSON")
        found.add_argument("--quiet", action="store_true", help="no progress on standard error")
        return found

    run = command("run", "Run the active-learning rounds of a configuration; run it again to continue.")
    run.add_argument("config", metavar="CONFIG.yaml", help="a configuration, or the folder of a run to continue")
    run.add_argument("overrides", nargs="*", metavar="key=value", help="keys to change, for example train.epochs=3")

    init = command("init", "Look at a data file and write a commented configuration for it.")
    init.add_argument("data", metavar="DATAFILE", help="a .jsonl, .csv or .parquet file with the pool")
    init.add_argument("--out", metavar="CONFIG.yaml", help="where to write; default: beside the data, NAME.yaml")
    init.add_argument("--force", action="store_true", help="replace an existing configuration")

    demo = command("demo", "Write a synthetic pool and run STAR beside random on it, with a report.")
    demo.add_argument("--out", metavar="DIR", default="runs/demo", help="where to write; default: runs/demo")
    demo.add_argument("overrides", nargs="*", metavar="key=value", help="keys of the demo's configuration to change")

    status = command("status", "Where a run stands: rounds, labels, accuracy, time.")
    status.add_argument("run", metavar="RUN", help="the folder of a run")

    report = command("report", "Write one self-contained HTML file about a run.")
    report.add_argument("run", metavar="RUN", help="the folder of a run")

    score = command("score", "Uncertainty of every example of a file, as JSON lines.", facts=False)
    score.add_argument(
        "config",
        metavar="CONFIG.yaml",
        help="template, task and model; a configuration or the folder of a run",
    )
    score.add_argument("file", metavar="FILE", help="the examples: .jsonl, .csv or .parquet")
    score.add_argument("--adapter", metavar="DIR", help="a PEFT adapter to put on the model")
    score.add_argument(
        "--measure",
        action="append",
        metavar="NAME",
        help="a measure, may be repeated; see `guidestar measures`",
    )
    score.add_argument(
        "--passes", type=int, default=0, metavar="K", help="Monte-Carlo dropout passes; 0 is one plain pass"
    )
    score.add_argument("--seed", type=int, default=0, help="seed of the dropout masks")

    command("strategies", "The query strategies.")
    command("measures", "The uncertainty measures, and what each needs.")
    command("models", "The models that have a short name.")
    command("presets", "The datasets that have a preset.")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    from guidestar.errors import GuidestarError

    top = parser()
    options = top.parse_args(arguments)
    if options.version:
        from importlib.metadata import version

        print(f"guidestar {version('guidestar')}")
        return 0
    if options.command is None:
        top.print_help()
        return 2
    try:
        code = int(globals()[f"_{options.command}"](options))
        sys.stdout.flush()  # a closed pipe is to be found here and not when Python ends
        return code
    except GuidestarError as error:
        for line in str(error).splitlines():
            print(f"guidestar: {line}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("guidestar: stopped; nothing recorded is lost, the same command continues", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still in the buffer
        return 0


def entry() -> None:
    """The console script."""
    import warnings

    for noisy in ("transformers", "peft", "torch"):  # their notes to developers are none to our users
        warnings.filterwarnings("ignore", category=FutureWarning, module=noisy)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    sys.exit(main())


def _progress(options: argparse.Namespace) -> Any:
    from guidestar.progress import for_terminal

    return for_terminal(options.quiet)


def _show(options: argparse.Namespace, facts: Any, text: str) -> None:
    print(json.dumps(facts, indent=2, ensure_ascii=False) if options.json else text)


def _load(path: str, overrides: Sequence[str] = ()) -> Any:
    """A configuration from a file, or from the copy in a run's folder."""
    from guidestar import config
    from guidestar.bench import CONFIG_FILE

    folder = Path(path)
    return config.load(folder / CONFIG_FILE if folder.is_dir() else folder, overrides)


def _run(options: argparse.Namespace) -> int:
    return _run_and_report(options, _load(options.config, options.overrides))


def _run_and_report(options: argparse.Namespace, config: Any) -> int:
    from guidestar import loop
    from guidestar.errors import GuidestarError
    from guidestar.records import Waiting
    from guidestar.report import build_report, summary

    outcomes = loop.run(config, _progress(options))
    waiting = {name: o for name, o in outcomes.items() if isinstance(o, Waiting)}
    lines = [
        f"{name}: waits for {o.unanswered} answers of round {o.round}"
        if isinstance(o, Waiting)
        else f"{name}: {o.reason.value}"
        for name, o in outcomes.items()
    ]
    facts = summary(Path(config.out))
    if not waiting:
        lines.append(facts["sentence"])
        try:
            lines.append(f"report: {build_report(Path(config.out))}")
        except GuidestarError as error:  # the run is complete and recorded; only its picture is missing
            lines.append(f"no report: {error}")
    _show(options, facts, "\n".join(lines))
    return 4 if waiting else 0


def _demo(options: argparse.Namespace) -> int:
    from guidestar import config
    from guidestar.project import write_demo_project

    print(
        "guidestar demo: a synthetic pool, SmolLM2-135M with LoRA, STAR beside random",
        file=sys.stderr,
        flush=True,
    )
    file = write_demo_project(Path(options.out))
    return _run_and_report(options, config.load(file, options.overrides))


def _init(options: argparse.Namespace) -> int:
    from guidestar.project import write_config

    path, found = write_config(Path(options.data), Path(options.out) if options.out else None, force=options.force)
    lines = [*found["notes"], f"wrote {path}", f"next: guidestar run {path}"]
    _show(options, {"config": str(path), **found}, "\n".join(lines))
    return 0


def _status(options: argparse.Namespace) -> int:
    from guidestar.report import status_text, summary

    facts = summary(Path(options.run))
    _show(options, facts, status_text(facts))
    return 0


def _report(options: argparse.Namespace) -> int:
    from guidestar.report import build_report

    path = build_report(Path(options.run))
    _show(options, {"report": str(path)}, str(path))
    return 0


def _score(options: argparse.Namespace) -> int:
    from guidestar.scoring import score_file

    config = _load(options.config)
    for row in score_file(
        config, options.file, measures=options.measure, adapter=options.adapter, passes=options.passes, seed=options.seed,
        progress=_progress(options),
    ):  # fmt: skip
        print(json.dumps(row, ensure_ascii=False))
    return 0


def _strategies(options: argparse.Namespace) -> int:
    from guidestar.query.strategies import STRATEGIES

    return _table(options, {name: recipe.doc for name, recipe in STRATEGIES.items()})


def _measures(options: argparse.Namespace) -> int:
    from guidestar.query.measures import MEASURES

    def line(measure: Any) -> str:
        gold = "; needs gold answers, so only in a simulation" if measure.oracle else ""
        return f"{measure.doc} ({', '.join(sorted(measure.tasks))}{gold})"

    return _table(options, {name: line(measure) for name, measure in MEASURES.items()})


def _models(options: argparse.Namespace) -> int:
    from guidestar.model.load import MODELS

    return _table(
        options,
        {name: f"hub:{m.hub}" + (f", package {m.package}" if m.package else "") for name, m in MODELS.items()},
    )


def _presets(options: argparse.Namespace) -> int:
    from guidestar.data.presets import PRESETS

    return _table(options, {name: preset.description for name, preset in PRESETS.items()})


def _table(options: argparse.Namespace, rows: dict[str, str]) -> int:
    width = max(map(len, rows))
    _show(options, rows, "\n".join(f"{name:<{width}}  {text}" for name, text in rows.items()))
    return 0


if __name__ == "__main__":
    entry()
