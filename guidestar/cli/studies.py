"""Commands for researchers: the paper's experiments, and probes of a run."""

from __future__ import annotations

from pathlib import Path

from guidestar.cli.common import Commands, Options, progress, show


def add(commands: Commands) -> None:
    """paper, probe."""
    paper = commands.add("paper", _paper, "A table, figure or question of the STAR paper as one command; resumable.")
    paper.add_argument("name", metavar="NAME", nargs="?", help="the experiment; without it they are listed")
    paper.add_argument(
        "--scale", choices=("paper", "small", "tiny"), default="small",
        help="paper: the protocol exactly; small: SmolLM2-135M with smaller budgets; tiny: only that it runs",
    )  # fmt: skip
    paper.add_argument("--model", metavar="NAME", help="another base model than the scale's")
    paper.add_argument("--seeds", type=int, default=3, help="default: 3")
    paper.add_argument("--out", metavar="DIR", help="where to write; default: runs/paper-SCALE")
    paper.add_argument("--data", metavar="DIR", help="folder with the published files; without it the hub is asked")
    paper.add_argument("--dataset", action="append", metavar="NAME", help="only this one, may be repeated")
    paper.add_argument("--part", metavar="I/N", help="take only every N-th run, so that N processes share the work")
    paper.add_argument("--plan", action="store_true", help="print the plan and end")
    paper.add_argument("overrides", nargs="*", metavar="key=value", help="keys of every run's configuration to change")

    probe = commands.add("probe", _probe, "What happens inside a run: confidence, entropy, unchanged.")
    probe.add_argument("run", metavar="RUN", help="the folder of a run")
    probe.add_argument("name", metavar="NAME", choices=("confidence", "entropy", "unchanged"), help="the probe")
    probe.add_argument("--round", type=int, metavar="R", help="confidence: the round to look at; default: the last")
    probe.add_argument("--top", type=int, metavar="N", help="entropy: the N most uncertain at the start; default 1000")
    probe.add_argument("--limit", type=int, metavar="N", help="entropy: look at N examples of the pool, default all")
    probe.add_argument(
        "--shots", type=int, metavar="K", help="confidence: demonstrations of the base model; default 4, 0 for none"
    )
    probe.add_argument("--measure", metavar="NAME", help="entropy: a measure; default: the run's own")


def _paper(options: Options) -> int:
    from guidestar.study.experiments import EXPERIMENTS
    from guidestar.study.paper import run_paper

    if options.name is None:
        rows = {name: experiment.title for name, experiment in EXPERIMENTS.items()}
        width = max(map(len, rows))
        show(options, rows, "\n".join(f"{name:<{width}}  {title}" for name, title in rows.items()))
        return 0
    facts, text, code = run_paper(
        options.name,
        scale=options.scale,
        model=options.model,
        seeds=options.seeds,
        out=Path(options.out or f"runs/paper-{options.scale}"),
        data=Path(options.data) if options.data else None,
        datasets=options.dataset,
        part=options.part,
        plan_only=options.plan,
        overrides=options.overrides,
        progress=progress(options),
    )
    show(options, facts, text)
    return code


def _probe(options: Options) -> int:
    from guidestar.study.probes import probe

    found = probe(
        Path(options.run), options.name, round=options.round, top=options.top, limit=options.limit,
        shots=options.shots, measure=options.measure, progress=progress(options),
    )  # fmt: skip
    show(options, dict(found.facts), "\n".join([*found.sentences, *map(str, found.files)]))
    return 0
