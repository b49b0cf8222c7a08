"""Commands for people who label, and for the files they bring and take away."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from guidestar.cli.common import RUN, Commands, Options, arg, flag, folder, keys, load, progress, show
from guidestar.errors import ConfigError, DataError

if TYPE_CHECKING:
    from guidestar.progress import Progress


def add(commands: Commands) -> None:
    """label, labels, agreement, export, import."""
    commands.add(
        "label", _label, "Label examples in the browser, or in the terminal.",
        arg("run", "FILE|RUN",
            "a file of texts, for which a configuration is written; a configuration; or the folder of a run"),
        keys("keys to change, for example query.budget=200"),
        arg("--labels", "A,B,…", "for a file of texts: the labels, or 'a = what it means; b'; without them the page asks"),
        flag("--several", "for a file of texts: any number of the labels may hold for one text"),
        arg("--train", None, "fine-tune in a process of its own after every round; default: yes, but for the folder of a run",
            action=argparse.BooleanOptionalAction, default=None),
        arg("--annotator", "NAME", "your name in the record; without it the page asks"),
        flag("--terminal", "no browser: ask in the terminal"),
        arg("--port", None, "default: the folder's own, the same every time", type=int, default=0),
        arg("--bind", "ADDRESS",
            "listen elsewhere than on this machine alone; whoever reaches the address and knows the link can label",
            default="127.0.0.1"),
        flag("--no-browser", "print the link and open nothing"), facts=False,
    )  # fmt: skip
    change = commands.add(
        "labels", _labels, "The labels of a run with their counts; or add, rename, merge or split one.", RUN
    )
    kinds = change.add_mutually_exclusive_group()
    kinds.add_argument("--add", metavar="NAME", help="a label more")
    kinds.add_argument("--rename", metavar="OLD=NEW", help="another name; what was said stays said")
    kinds.add_argument("--merge", metavar="A,B=NEW", help="several labels become one")
    kinds.add_argument("--split", metavar="OLD=NEW1,NEW2", help="a label becomes several; its examples are asked again")
    commands.add("agreement", _agreement, "How far the annotators of a run agree.", RUN)
    commands.add(
        "export", _export, "The labels of a run as a file, for this or another tool.",
        RUN, arg("--format", "FORMAT", "see docs/exchange.md; default: csv or parquet if --out is called so, else jsonl"),
        arg("--out", "FILE", "where to write; default: standard output"),
        arg("--rows", "FILE",
            "instead, the rows of a data file (default: the pool) with all their own columns, and the answer beside each; --out "
            "names a .csv, .jsonl or .parquet file", nargs="?", const=""),
        flag("--log", "the whole history, every change, as JSON lines"),
        flag("--safe", "csv: no cell that a spreadsheet would run as a formula"), facts=False,
    )  # fmt: skip
    commands.add(
        "import", _import, "Labels from a file, of this or another tool, into a run.",
        RUN, arg("file", "FILE", "the labels"),
        arg("--format", "FORMAT", "default: recognised from the name and the content"),
        arg("--annotator", "NAME", "who gave the labels, where the file does not say it"),
        flag("--skip-unknown", "leave out rows about texts that the run does not have"),
    )  # fmt: skip


def _label(options: Options) -> int:
    run = Path(options.run)
    if options.terminal:
        from guidestar.people.terminal import label_in_terminal

        if run.is_file():
            raise ConfigError(f"{run}: the terminal labels a run that has begun; begin it with: guidestar run {run}")
        if options.train:
            raise ConfigError("--train goes with the page; after a round in the terminal, guidestar run trains")

        return label_in_terminal(_begun(options.run), annotator=options.annotator or "person")
    from guidestar.people.page.server import serve

    def say(line: str) -> None:
        if not options.quiet:
            print(line, file=sys.stderr, flush=True)

    run, notes = _configured(run, options, say) if _holds_data(run) else (run, [])
    return serve(
        run, train=run.is_file() if options.train is None else options.train, port=options.port, bind=options.bind,
        annotator=options.annotator, open_browser=not options.no_browser, say=say, overrides=options.overrides, notes=notes,
    )  # fmt: skip


def _holds_data(place: Path) -> bool:
    """Whether a path is a file of texts and no configuration."""
    from guidestar.project import is_configuration

    return place.is_file() and place.suffix.lower() not in (".yaml", ".yml") and not is_configuration(place)


def _configured(data: Path, options: Options, say: Callable[[str], None]) -> tuple[Path, list[str]]:
    """The configuration of a file of texts, written if it has none, and what was recognised in the file."""
    from guidestar.config import read_file
    from guidestar.project import config_beside, write_config
    from guidestar.tasks.common import read_labels

    config = config_beside(data)
    labels = read_labels(options.labels) if options.labels is not None else None
    overrides = [*options.overrides, *(["task.kind=multi_label"] if options.several else [])]
    if config.exists():
        task = read_file(config)[0].get("task", {})
        if options.several and task.get("kind") != "multi_label":
            raise ConfigError(f"{config}: exists already, with one label a text; write task.kind: multi_label there")
        there = task.get("labels") or []
        if labels and list(labels) != [str(label) for label in there]:
            raise ConfigError(
                f"{config}: exists already, with the labels {', '.join(map(str, there)) or 'of the file'}; --labels says "
                f"{', '.join(labels)}. Leave --labels out to go on, or change them with: guidestar labels RUN"
            )
        say(f"{config} is there already and is used")
        return config, []
    config, about = write_config(data, None, labels=labels, keys=overrides)
    for note in about["notes"]:
        say(note)
    say(f"wrote {config}")
    if not about["asked"]:
        raise ConfigError(
            f"{data}: every row has a label, in {about['answer']!r}, so there is nothing to ask. To try strategies on them: "
            f"guidestar run {config}. To label anew: guidestar init {data} --force --answer none, then guidestar label {config}"
        )
    return config, list(about["notes"])


def _labels(options: Options) -> int:
    from guidestar.relabel import KINDS, Change, change_labels, labels_of, text_of

    run, given = _begun(options.run), [(kind, text) for kind in KINDS if (text := getattr(options, kind)) is not None]
    facts = change_labels(run, Change.read(*given[0]), progress(options)) if given else labels_of(run)
    lines = [text_of(facts)]
    if given:
        lines.append(f"The next training starts afresh with these labels. Go on: guidestar label {options.run} --train")
    show(options, facts, "\n".join(lines))
    return 0


def _agreement(options: Options) -> int:
    from guidestar.people.agreement import agreement_of, agreement_text

    facts = agreement_of(_begun(options.run))
    show(options, facts, agreement_text(facts))
    return 0


def _export(options: Options) -> int:
    from guidestar.exchange import export_run
    from guidestar.exchange.own_rows import LABELLED, labelled_rows, write_rows

    if options.rows is not None:
        if not options.out:
            raise ConfigError("--rows goes with --out FILE, a .csv, .jsonl or .parquet file")
        config = load(options.run)
        columns, rows = labelled_rows(_begun(options.run), config, options.rows or None)
        source = options.rows or config.data.pool
        print(f"{options.out}: {write_rows(columns, rows, Path(options.out), LABELLED, source)} rows")
        return 0
    written = export_run(
        _begun(options.run), options.format, Path(options.out) if options.out else None,
        log=options.log, safe=options.safe, say=progress(options).say,
    )  # fmt: skip
    if isinstance(written, Path):
        print(written)
    else:
        sys.stdout.write(written)
    return 0


_IMPORTED = {  # what the counts of an import mean, in the order of interest
    "new": "new answers; they count in the next training",
    "not_asked": "of the examples had not been asked for; they count too, and are not asked again",
    "unchanged": "answers stand so already",
    "changed_since": "answers are older than what the run has, which stays",
    "without_answer": "rows have no answer",
    "rejected": "rows say only what the answer is not",
    "kept_apart": "rows belong to the test or validation set, which is not labelled",
    "unknown": "rows are about texts that are not in the pool; left out",
}


def _import(options: Options) -> int:
    from guidestar.exchange import import_file

    news = progress(options)
    counts = import_file(
        _begin(options.run, news), Path(options.file), format=options.format, annotator=options.annotator,
        skip_unknown=options.skip_unknown, say=news.say,
    )  # fmt: skip
    if sum(counts.values()) == counts["without_answer"]:
        raise DataError(
            f"{options.file}: no answer was found in its {counts['without_answer']} rows; name the format with --format, and "
            "behind a colon the column or question that holds the answer"
        )
    lines = [f"{counts[name]} {said}" for name, said in _IMPORTED.items() if counts[name]]
    if not counts["new"]:
        lines.insert(0, "no new answers")
    show(options, counts, "\n".join(lines))
    return 0


def _begin(run: str, news: Progress) -> Path:
    """The folder of a run; that of a configuration is begun if it is not yet, so that the labels are its warm start."""
    from guidestar.loop import Run
    from guidestar.store import runs_in

    place = Path(run)
    if place.is_file() and not runs_in(folder(run)):
        with Run(place, progress=news, ahead=True) as begun:
            return begun.folder
    return _begun(run)


def _begun(run: str) -> Path:
    from guidestar.store import find_run

    return find_run(folder(run))
