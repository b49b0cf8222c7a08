"""Commands for researchers: did it pay, the paper's experiments, and probes of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from guidestar.cli import common
from guidestar.cli.common import RUN, Commands, Options, arg, flag, keys, load, progress, show, show_table
from guidestar.words import listed


def add(commands: Commands) -> None:
    """plan, compare, costs, paper, study, search, probe."""
    commands.add(
        "plan", _plan, "What a run will take, before it starts: time, memory, disk, labelling, money; as ranges.",
        arg("config", "CONFIG.yaml", "a configuration, or the folder of a run"),
        keys("keys to change, for example train.epochs=3"),
        arg("--rate", "LABELS_PER_HOUR", "how many labels an annotator gives", type=float), *common.PRICES,
    )  # fmt: skip
    commands.add(
        "compare", _compare, "Did choosing pay? Strategies beside random over seeds, in one sentence.",
        arg("run", "RUN", "folders of experiments, one for each dataset; run folders that lie together count as one",
            nargs="+"),
        arg("--control", "NAME", "the strategy to compare with; default: the random one"),
        arg("--target", "ACCURACY", "also say what each needed to reach it", type=float),
        arg("--level", "SHARE", "of the intervals; default: 0.95", type=float, default=0.95),
    )  # fmt: skip
    commands.add(
        "costs", _costs, "What rounds cost in tokens, operations, seconds and money; curves against it.",
        arg("run", "RUN", "the folder of an experiment or of one run"), *common.PRICES,
        arg("--out", "DIR", "also write cost.csv, cost.png and cost.pdf there"),
    )  # fmt: skip
    parts = (
        flag("--plan", "print the plan and end"),
        arg("--jobs", "N", "cells at one time; default: engine.cells.workers, 1", type=int),
        arg("--part", "I/N", "only this machine's share of the work of N machines"),
        keys("keys of the file to change, or of all its runs"),
    )
    commands.add(
        "paper", _paper, "A table, figure or question of the STAR paper as one command; resumable.",
        arg("name", "NAME", "the shipped study; without it they are listed", nargs="?"),
        arg("--scale", None, "paper: the protocol exactly; small: SmolLM2-135M with smaller budgets; tiny: only that it runs",
            choices=("paper", "small", "tiny"), default="small"),
        arg("--model", "NAME", "another base model than the scale's"),
        arg("--seeds", None, "how many; default: 3", type=int),
        arg("--out", "DIR", "where to write; default: runs/paper-SCALE"),
        arg("--data", "DIR", "folder with the published files; without it the hub is asked"),
        arg("--dataset", "NAME", "only this one, may be repeated", action="append"), *parts,
    )  # fmt: skip
    commands.add(
        "study", _study, "Datasets × models × rows × seeds of one file, with tables; resumable.",
        arg("config", "CONFIG.yaml", "the study's file, see docs/study.md"), *parts,
    )  # fmt: skip
    commands.add(
        "search", _search, "Which adapter, of which size, in which layers: the best for every number of weights; resumable.",
        arg("config", "CONFIG.yaml", "a configuration with validation data and gold answers"),
        keys("keys to change, for example query.warm_start=50"),
        arg("--trials", "N", "trainings in all; default: 60", type=int, default=60),
    )  # fmt: skip
    names = ("confidence", "entropy", "forgetting", "gates", "layers", "noise", "picks", "score", "unchanged")
    commands.add(
        "probe", _probe, "What happens inside a run: confidence, forgetting, layers, picks and others.",
        RUN, arg("name", "NAME", f"the probe: {listed(names, 'or')}", choices=names),
        arg("--round", "R", "confidence, forgetting, noise: the round to look at; default: the last", type=int),
        flag("--pool", "forgetting: train once on the whole pool's gold answers, one map for the picks of all strategies",
             default=None),
        arg("--top", "N", "entropy: the N most uncertain at the start; default 1000", type=int),
        arg("--limit", "N", "entropy: look at N examples of the pool, default all", type=int),
        arg("--shots", "K", "confidence: demonstrations of the base model; default 4, 0 for none", type=int),
        arg("--measure", "NAME", "entropy: a measure; default: the run's own"),
        arg("--texts", "N", "gates, layers: texts to look at; default 100", type=int),
        arg("--seeds", "N", "noise: trainings on the same labels; default 5", type=int),
        arg("--passes", "K", "score: dropout passes; default: the strategy's own", type=int),
    )  # fmt: skip


def _plan(options: Options) -> int:
    from guidestar.study.plan import plan_run

    config = load(options.config, options.overrides)
    plan = plan_run(config, changes=common.prices(options), rate=options.rate, progress=progress(options))
    show(options, plan.plain(), plan.text())
    return 0


def _compare(options: Options) -> int:
    from guidestar.report.compare import compare_text, compared
    from guidestar.report.facts import plain

    comparison = compared(
        [Path(run) for run in options.run], control=options.control, target=options.target, level=options.level
    )
    show(options, plain(comparison), compare_text(comparison))
    return 0


def _costs(options: Options) -> int:
    from guidestar.study.costs import costs

    known = costs(Path(options.run), changes=common.prices(options))
    files = [str(path) for path in known.write(Path(options.out))] if options.out else []
    show(options, known.plain() | {"files": files}, "\n".join([known.text(), *files]))
    return 0


def _paper(options: Options) -> int:
    from guidestar.study.studyfile import shipped

    if options.name is None:
        from guidestar.config import read_file

        return show_table(options, {name: read_file(path)[0]["title"] for name, path in shipped().items()})
    from guidestar.study.paper import order_of

    order = order_of(
        options.name, scale=options.scale, model=options.model, seeds=options.seeds,
        out=Path(options.out) if options.out else None, data=Path(options.data) if options.data else None,
        datasets=options.dataset, overrides=options.overrides, progress=progress(options),
    )  # fmt: skip
    return _run(options, order)


def _study(options: Options) -> int:
    from guidestar.study.grid import Order

    return _run(options, Order(options.config, tuple(options.overrides)))


def _search(options: Options) -> int:
    from guidestar.study.search import search

    config = load(options.config, options.overrides)
    show(options, *search(config, trials=options.trials, progress=progress(options)))
    return 0


def _run(options: Options, order: Any) -> int:
    from guidestar.study.grid import run_study

    facts, text, code = run_study(
        order, part=options.part, jobs=options.jobs, plan_only=options.plan, progress=progress(options)
    )
    show(options, facts, text)
    return code


def _probe(options: Options) -> int:
    from guidestar.study.probes import probe

    result = probe(
        Path(options.run), options.name, round=options.round, top=options.top, limit=options.limit,
        shots=options.shots, measure=options.measure, passes=options.passes, seeds=options.seeds, texts=options.texts,
        pool=options.pool,
        progress=progress(options),
    )  # fmt: skip
    show(options, dict(result.facts), "\n".join([*result.sentences, *map(str, result.files)]))
    return 0
