"""Commands for researchers: did it pay, the paper's experiments, and probes of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from guidestar.cli.common import Commands, Options, add_prices, load, prices, progress, show, show_table


def add(commands: Commands) -> None:
    """plan, compare, costs, paper, study, search, probe."""
    plan = commands.add(
        "plan", _plan, "What a run will take, before it starts: time, memory, disk, labelling, money; as ranges."
    )
    plan.add_argument("config", metavar="CONFIG.yaml", help="a configuration, or the folder of a run")
    plan.add_argument("overrides", nargs="*", metavar="key=value", help="keys to change, for example train.epochs=3")
    plan.add_argument("--rate", type=float, metavar="LABELS_PER_HOUR", help="how many labels an annotator gives")
    add_prices(plan)
    compare = commands.add(
        "compare", _compare, "Did choosing pay? Strategies beside random over seeds, in one sentence."
    )
    compare.add_argument(
        "run", metavar="RUN", nargs="+",
        help="folders of experiments, one for each dataset; run folders that lie together count as one",
    )  # fmt: skip
    compare.add_argument("--control", metavar="NAME", help="the strategy to compare with; default: the random one")
    compare.add_argument("--target", type=float, metavar="ACCURACY", help="also say what each needed to reach it")
    compare.add_argument("--level", type=float, default=0.95, metavar="SHARE", help="of the intervals; default: 0.95")
    costs = commands.add(
        "costs", _costs, "What rounds cost in tokens, operations, seconds and money; curves against it."
    )
    costs.add_argument("run", metavar="RUN", help="the folder of an experiment or of one run")
    add_prices(costs)
    costs.add_argument("--out", metavar="DIR", help="also write cost.csv, cost.png and cost.pdf there")
    paper = commands.add("paper", _paper, "A table, figure or question of the STAR paper as one command; resumable.")
    paper.add_argument("name", metavar="NAME", nargs="?", help="the shipped study; without it they are listed")
    paper.add_argument(
        "--scale", choices=("paper", "small", "tiny"), default="small",
        help="paper: the protocol exactly; small: SmolLM2-135M with smaller budgets; tiny: only that it runs",
    )  # fmt: skip
    paper.add_argument("--model", metavar="NAME", help="another base model than the scale's")
    paper.add_argument("--seeds", type=int, help="how many; default: 3")
    paper.add_argument("--out", metavar="DIR", help="where to write; default: runs/paper-SCALE")
    paper.add_argument("--data", metavar="DIR", help="folder with the published files; without it the hub is asked")
    paper.add_argument("--dataset", action="append", metavar="NAME", help="only this one, may be repeated")
    study = commands.add("study", _study, "Datasets × models × rows × seeds of one file, with tables; resumable.")
    study.add_argument("config", metavar="CONFIG.yaml", help="the study's file, see docs/study.md")
    for command in (paper, study):
        command.add_argument("--plan", action="store_true", help="print the plan and end")
        command.add_argument(
            "--jobs", type=int, metavar="N", help="cells at one time; default: engine.cells.workers, 1"
        )
        command.add_argument("--part", metavar="I/N", help="only this machine's share of the work of N machines")
        command.add_argument(
            "overrides", nargs="*", metavar="key=value", help="keys of the file to change, or of all its runs"
        )

    search = commands.add(
        "search",
        _search,
        "Which adapter, of which size, in which layers: the best for every number of weights; resumable.",
    )
    search.add_argument("config", metavar="CONFIG.yaml", help="a configuration with validation data and gold answers")
    search.add_argument(
        "overrides", nargs="*", metavar="key=value", help="keys to change, for example query.warm_start=50"
    )
    search.add_argument("--trials", type=int, default=60, metavar="N", help="trainings in all; default: 60")

    probe = commands.add(
        "probe", _probe, "What happens inside a run: confidence, forgetting, layers, picks and others."
    )
    probe.add_argument("run", metavar="RUN", help="the folder of a run")
    probe.add_argument(
        "name",
        metavar="NAME",
        choices=("confidence", "entropy", "forgetting", "gates", "layers", "noise", "picks", "score", "unchanged"),
        help="the probe: confidence, entropy, forgetting, gates, layers, noise, picks, score or unchanged",
    )
    probe.add_argument(
        "--round", type=int, metavar="R", help="confidence, forgetting, noise: the round to look at; default: the last"
    )
    probe.add_argument(
        "--pool",
        action="store_true",
        default=None,
        help="forgetting: train once on the whole pool's gold answers, one map for the picks of all strategies",
    )
    probe.add_argument("--top", type=int, metavar="N", help="entropy: the N most uncertain at the start; default 1000")
    probe.add_argument("--limit", type=int, metavar="N", help="entropy: look at N examples of the pool, default all")
    probe.add_argument(
        "--shots", type=int, metavar="K", help="confidence: demonstrations of the base model; default 4, 0 for none"
    )
    probe.add_argument("--measure", metavar="NAME", help="entropy: a measure; default: the run's own")
    probe.add_argument("--texts", type=int, metavar="N", help="gates, layers: texts to look at; default 100")
    probe.add_argument("--seeds", type=int, metavar="N", help="noise: trainings on the same labels; default 5")
    probe.add_argument("--passes", type=int, metavar="K", help="score: dropout passes; default: the strategy's own")


def _plan(options: Options) -> int:
    from guidestar.study.planning import plan_run, planning_text

    config = load(options.config, options.overrides)
    facts = plan_run(config, changes=prices(options), rate=options.rate, progress=progress(options))
    show(options, facts, planning_text(facts))
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
    from guidestar.study.costs import costs, costs_text

    facts = costs(Path(options.run), changes=prices(options), out=Path(options.out) if options.out else None)
    show(options, facts, costs_text(facts))
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
