"""Commands around a run: make one, run it, look at it, use it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from guidestar.cli.common import CONFIG, RUN, Commands, Options, arg, flag, folder, keys, load, progress, show

EXAMPLES = arg("file", "FILE", "the examples, a file of any form that a pool may have")


def add(commands: Commands) -> None:
    """run, init, demo, status, report, publish, predict, score."""
    commands.add(
        "run", _run, "Run the active-learning rounds of a configuration; run it again to continue.",
        CONFIG, keys("keys to change, for example train.epochs=3"),
        flag("--ahead", argparse.SUPPRESS),  # for the page: questions before the model
    )  # fmt: skip
    commands.add(
        "init", _init, "Look at a data file and write a commented configuration for it.",
        arg("data", "DATAFILE", "the pool: a .csv, .tsv, .jsonl, .json, .txt (also .gz), .parquet or .xlsx file"),
        arg("--out", "CONFIG.yaml", "where to write; default: beside the data, NAME.yaml"),
        flag("--force", "replace an existing configuration"),
        arg("--answer", "COLUMN", "the column with the labels, or none; default: a guess"),
        arg("--text", "COLUMN", "the column to be labelled, or several between commas; default: the longest texts"),
        arg("--labels", "A,B,…", "the labels to choose from, where no column has them; 'a = what it means; b' describes them"),
    )  # fmt: skip
    commands.add(
        "demo", _demo, "Write a synthetic pool and run lean and STAR beside random on it, with a report.",
        arg("--out", "DIR", "where to write; default: runs/demo", default="runs/demo"),
        keys("keys of the demo's configuration to change"),
    )  # fmt: skip
    commands.add(
        "status", _status, "How good it is, what more labels would bring, and what to do next.",
        RUN, flag("--all", "every run, all notes and statistics too"),
    )  # fmt: skip
    commands.add(
        "report", _report, "Write one self-contained HTML file about a run.",
        RUN, arg("--out", "FILE", "where to write; default: report.html, in the run's folder"),
        *(flag(f"--{form}", f"write every chart into RUN/figures as {form.upper()} too") for form in ("pdf", "png")),
    )  # fmt: skip
    commands.add(
        "publish", _publish, "Write a folder ready for the hub: adapter, model card, data card.",
        RUN, arg("--out", "DIR", "where to write; default: published, in the run's folder"),
        arg("--round", "R", "whose adapter; default: the last measured round", type=int),
        arg("--base", "NAME", "the base model's public name, where the run used a folder"),
        arg("--license", "ID", "licence for both cards, for example apache-2.0"),
        flag("--with-labels", "add the labelled texts as labels.jsonl"),
        arg("--push", "REPO", "upload to this repository of the hub, private unless --public"),
        flag("--public", "with --push: a repository that everybody can read"),
    )  # fmt: skip
    commands.add(
        "predict", _predict, "A run's answers to every example of a file, as JSON lines or beside its own columns.",
        RUN, EXAMPLES, arg("--round", "R", "whose adapter; default: the last that was trained", type=int),
        arg("--out", "FILE", "write every row with all its own columns here instead: .csv, .jsonl or .parquet"),
        facts=False,
    )  # fmt: skip
    commands.add(
        "score", _score, "Uncertainty of every example of a file, as JSON lines.",
        arg("config", "CONFIG.yaml",
            "template, task and model: a configuration, or the folder of a run, whose last adapter is then used"),
        EXAMPLES, arg("--adapter", "DIR", "a PEFT adapter to put on the model; none: the base model, though a run is given"),
        arg("--measure", "NAME", "a measure, may be repeated; see `guidestar measures`", action="append"),
        arg("--passes", "K", "Monte-Carlo dropout passes; 0 is one plain pass", type=int, default=0),
        arg("--seed", None, "seed of the dropout masks", type=int, default=0),
        arg("--keep", "DIR", "keep finished parts here, so that the same command goes on after a stop"),
        arg("--top", "K", "only the K with the highest value of the first measure, highest first", type=int),
        facts=False,
    )  # fmt: skip


def _run(options: Options) -> int:
    return _run_and_report(options, load(options.config, options.overrides), ahead=options.ahead)


def _run_and_report(options: Options, config: Any, *, ahead: bool = False) -> int:
    from guidestar import loop
    from guidestar.errors import GuidestarError
    from guidestar.records import Finished, Waiting
    from guidestar.report import build_report, summary
    from guidestar.report.answer import answer_lines, read_all
    from guidestar.words import count, listed

    outcomes = loop.run(config, progress(options), ahead=ahead)
    if not outcomes:  # one of several processes, of which the first says it all
        return 0
    waiting = {name: o for name, o in outcomes.items() if isinstance(o, Waiting)}
    lines = [
        f"{name}: waits for {count(o.unanswered, 'answer')} of round {o.round}; guidestar label {Path(config.out) / name}"
        for name, o in waiting.items()
    ]
    from guidestar.study import plan
    from guidestar.study.costs import keep_costs

    facts: dict[str, Any] = summary(Path(config.out))
    if len(facts["runs"]) > 1:  # of one alone the answer says it
        ended = [(name, o.reason.value) for name, o in outcomes.items() if isinstance(o, Finished)]
        for reason in dict.fromkeys(reason for _, reason in ended):
            lines.append(f"{listed(name for name, why in ended if why == reason)}: {reason}")
    plan.record_end(Path(config.out))
    if not waiting:
        keep_costs(Path(config.out))
        lines += answer_lines(read_all(Path(config.out)))
        try:
            lines.append(f"report: {build_report(Path(config.out))}")
        except GuidestarError as error:  # the run is complete and recorded; only its picture is missing
            lines.append(f"no report: {error}")
    if planned := plan.truth_of(Path(config.out)):
        facts["plan"] = planned.plain()
        lines += planned.lines
    show(options, facts, "\n".join(lines))
    return 4 if waiting else 0


def _demo(options: Options) -> int:
    from guidestar import config
    from guidestar.project import write_demo_project
    from guidestar.words import count, listed

    demo = config.load(write_demo_project(Path(options.out)), options.overrides)
    runs = f"{listed(strategy.title for strategy in demo.strategies)}, {count(len(demo.seeds), 'seed')}"
    print(f"guidestar demo: a synthetic pool, {demo.model.name}, {runs}", file=sys.stderr, flush=True)
    return _run_and_report(options, demo)


def _init(options: Options) -> int:
    from guidestar.project import write_config
    from guidestar.tasks.common import read_labels

    path, facts = write_config(
        Path(options.data), Path(options.out) if options.out else None,
        force=options.force, answer=options.answer, text=options.text,
        labels=read_labels(options.labels) if options.labels is not None else None,
    )  # fmt: skip
    lines = [*facts["notes"], f"wrote {path}", f"next: {facts['next']}"]
    show(options, {"config": str(path), **facts}, "\n".join(lines))
    return 0


def _status(options: Options) -> int:
    from guidestar.people.ledger import usage_of, usage_text
    from guidestar.report.advice import advice_lines
    from guidestar.report.answer import answer, answer_lines, read_all
    from guidestar.report.facts import plain
    from guidestar.report.summary import status_text
    from guidestar.study import plan

    run = folder(options.run)
    known, asked, planned = read_all(run), usage_of(run), plan.truth_of(run)
    facts = plain(known.facts) | {"answer": plain(answer(known)), "advice": plain(known.advice)}
    facts |= ({"endpoint": asked} if asked else {}) | ({"plan": planned.plain()} if planned else {})
    lines = [*answer_lines(known), *(usage_text(name, usage) for name, usage in asked.items())]
    if options.all:
        said = advice_lines(known.advice)
        more = [status_text(known.facts), *([""] if said else []), *said]
        lines += ["", *more, *(["", *planned.lines] if planned else [])]
    else:
        lines.append(f"the statistics behind this: guidestar status {options.run} --all")
    show(options, facts, "\n".join(lines))
    return 0


def _report(options: Options) -> int:
    from guidestar.report import build_report
    from guidestar.study.costs import keep_costs

    keep_costs(run := folder(options.run))
    figures = [form for form in ("pdf", "png") if getattr(options, form)]
    path = build_report(run, figures, Path(options.out) if options.out else None)
    files = sorted(str(file) for form in figures for file in (path.parent / "figures").glob(f"*.{form}"))
    show(options, {"report": str(path), **({"figures": files} if figures else {})}, "\n".join([str(path), *files]))
    return 0


def _publish(options: Options) -> int:
    from guidestar.publish import publish

    facts = publish(
        Path(options.run), options.out, round=options.round, base=options.base, license=options.license,
        with_labels=options.with_labels, push=options.push, public=options.public,
    )  # fmt: skip
    lines = [*facts["warnings"], f"{facts['folder']}: {', '.join(facts['files'])}"]
    lines.append(f"pushed: {facts['pushed']}" if facts["pushed"] else "nothing was uploaded; --push REPO does that")
    show(options, facts, "\n".join(lines))
    return 0


def _predict(options: Options) -> int:
    from guidestar.scoring import predict_file, write_predictions

    config, news, own = load(options.run), progress(options), bool(options.out)
    rows = predict_file(Path(options.run), config, options.file, round=options.round, progress=news, own=own)
    if own:
        news.say(f"{options.out}: {write_predictions(rows, Path(options.out), options.file)} rows")
        return 0
    return _print_lines(rows)


def _score(options: Options) -> int:
    from guidestar.bench import with_present_labels
    from guidestar.loop import trained
    from guidestar.scoring import highest, score_file

    config, adapter, news = load(options.config), options.adapter, progress(options)
    if adapter is None and Path(options.config).is_dir():
        place, round, _ = trained(Path(options.config), config, progress=news)
        news.say(f"adapter of round {round}: {place}")
        config = with_present_labels(config, Path(options.config))
        adapter = str(place)
    common = {
        "measures": options.measure, "adapter": None if adapter == "none" else adapter, "passes": options.passes, "seed": options.seed,
        "keep": Path(options.keep) if options.keep else None, "progress": news,
    }  # fmt: skip
    rows = score_file(config, options.file, **common)
    return _print_lines(rows if options.top is None else highest(rows, options.top))


def _print_lines(rows: Iterable[dict[str, Any]]) -> int:
    for row in rows:
        print(json.dumps(row, ensure_ascii=False))
    return 0
