"""docs/reproduction.md: what of the paper holds, number beside number, from the result files in `results/paper`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from guidestar.study import tables
from guidestar.study.experiments import EXPERIMENTS, Experiment
from guidestar.study.paper import make_study, variants_of
from guidestar.study.published import FIGURE_2, SLIP
from guidestar.study.results import Result, read_results
from guidestar.study.scales import SCALES
from guidestar.study.tables import Row, Table
from guidestar.words import duration, number, spread

ON_THE_PAGE = ("paper", "small")  # the numbers of `tiny` mean nothing
FIRST = ("table1", "table2")

_INTRO = """# Reproduction

Generated from the files in `results/paper`, one for each run, made by `guidestar paper`. It sets what Zhang et al. 2024
(STAR, arXiv 2403.01165) print beside what was measured here, and says what a reader may conclude.

- AUC is the area under the learning curve, RIPL the relative improvement over random with the same seeds, both per cent.
  ± is the standard deviation over the seeds. The paper averages three runs and gives no spread.
- A difference is called one only if it exceeds the larger standard deviation over the seeds of the two methods; with
  one seed none is.
- RIPL is always taken against the random row. {slip}
- What departs from the paper is in [deviations.md](deviations.md); experiments and scales are in
  `guidestar/study/experiments.py` and `guidestar/study/scales.py`."""


def reproduction(results: Path) -> str:
    """The page as Markdown; the same files give the same bytes. results: a folder with result files, maybe empty.

    Raises StoreError for a file that cannot be read.
    """
    found = (
        [one for one in read_results(results) if one["tags"].get("scale") in ON_THE_PAGE] if results.is_dir() else []
    )
    parts = [_INTRO.format(slip=SLIP)]
    shown: set[tuple[str, str, str]] = set()
    for scale in ON_THE_PAGE:
        mine = [one for one in found if one["tags"]["scale"] == scale]
        sections = [section for name in EXPERIMENTS for section in _section(name, scale, mine, shown)]
        if sections:
            parts += ["", f"## Scale `{scale}`", "", _sentence(SCALES[scale].doc), SCALES[scale].note, *sections]
    parts += ["", "## Not run", "", *_not_run(shown)]
    return "\n".join([*parts, ""])


# --- one experiment -----------------------------------------------------------------------------


def _section(name: str, scale: str, results: Sequence[Result], shown: set[tuple[str, str, str]]) -> Iterator[str]:
    """An experiment with the datasets that it was run on; nothing if there is none."""
    experiment = EXPERIMENTS[name]
    at_hand = [d for d in SCALES[scale].settings if any(one["tags"]["dataset"] == d for one in results)]
    begun = False
    for dataset in at_hand:
        methods = methods_of(name, scale, dataset)
        mine = [one for one in results if one["tags"]["dataset"] == dataset]
        probes = [one for one in mine if experiment.probe and one["tags"]["method"] == f"probe-{experiment.probe}"]
        if not (probes if experiment.probe else _was_run(name, scale, dataset, mine)):
            continue
        shown.add((name, scale, dataset))
        if not begun:
            begun = True
            yield from ("", f"### {experiment.title}", "", experiment.doc)
        yield from ("", f"#### {dataset}", "")
        setting = SCALES[scale].settings[dataset]
        if setting.note:
            yield from (f"{_sentence(setting.note)}", "")
        if experiment.probe:
            yield from _probed(name, probes)
            continue
        table = tables.dataset_table(dataset, variants_of(experiment, dataset), methods, mine)
        yield from (_markdown(table), "", *tables.beside(table), "", _setup(table, mine), "")
        yield from (f"- {sentence}" for sentence in tables.reading(experiment, [table]))


def methods_of(name: str, scale: str, dataset: str) -> dict[str, str]:
    """Variant's name -> the method's name in the result files."""
    model = SCALES[scale].model or "tiny"
    study = make_study(name, scale=scale, model=model, seeds=1, out=Path(), datasets=[dataset])
    return {variant: method for (_, variant), method in study.rows.items()}


def _was_run(name: str, scale: str, dataset: str, results: Sequence[Result]) -> bool:
    """Whether a method was run that no earlier table asks for."""
    if name == "fig5":  # the curves of table 1
        return False
    known: set[str] = set()
    for other in FIRST:
        if other == name:
            break
        known |= set(methods_of(other, scale, dataset).values())
    own = set(methods_of(name, scale, dataset).values()) - known
    return any(one["tags"]["method"] in own for one in results)


def _markdown(table: Table) -> str:
    """Paper, here, difference, and what to conclude, a row for each method."""
    paper = any(row["paper_auc"] is not None for row in table["rows"])
    head = ["method", "seeds", "AUC here"] + (["AUC paper"] if paper else []) + ["RIPL here"]
    head += ["RIPL paper", "difference of RIPL"] if paper else []
    head += ["final accuracy", "what to conclude"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in table["rows"]:
        cells = [
            row["label"],
            ", ".join(map(str, row["seeds"])) or "–",
            spread(row["auc"]) if row["auc"] else "not run",
        ]
        cells += [number(row["paper_auc"], 2)] if paper else []
        here = None if row["ripl"] is None else 100 * row["ripl"]
        cells.append(number(here, 2))
        if paper:
            known = here is not None and row["paper_ripl"] is not None
            cells += [
                number(row["paper_ripl"], 2),
                f"{here - row['paper_ripl']:+.2f}" if known and here is not None else "–",
            ]
        cells += [spread(row["final"]), conclusion(row)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def conclusion(row: Row) -> str:
    """What one row shows, in plain words.

    >>> conclusion({"verdict": "above", "difference": 0.02, "spread": 0.01, "paper_ripl": -1.0, "variant": "me",
    ...             "control": "random"})
    'better than its control by 2.00 points, more than the spread of 1.00; the paper says the opposite'
    """
    if row["variant"] == row["control"]:
        return "the control"
    if row["verdict"] is None:
        return "not run, or not beside its control"
    points = f"{100 * abs(row['difference']):.2f} points"
    if row["verdict"] == "one seed":
        side = "above" if row["difference"] > 0 else "below"
        return f"{points} {side} its control on one seed: nothing follows from that"
    if row["verdict"] == "within the spread":
        return f"no difference to its control that the seeds support ({points}, spread {100 * row['spread']:.2f})"
    better = row["verdict"] == "above"
    text = f"{'better' if better else 'worse'} than its control by {points}, more than the spread of {100 * row['spread']:.2f}"
    if row["paper_ripl"] is None:
        return text
    return f"{text}; {'as in the paper' if (row['paper_ripl'] > 0) == better else 'the paper says the opposite'}"


def _probed(name: str, probes: Sequence[Result]) -> Iterator[str]:
    for one in probes:
        yield f"The run probed: {one['tags']['probed']}, seed {one['tags']['seed']}, {one['model']['name']}."
        yield ""
        yield from (f"- {sentence}" for sentence in one["sentences"])
    if name == "fig2":
        yield (
            f"- The paper, with LLaMA-2-7B on BoolQ: accuracy {FIGURE_2['few-shot']} with demonstrations, "
            f"{FIGURE_2['tuned']} tuned, and tuned surer of its mistakes."
        )


def _setup(table: Table, results: Sequence[Result]) -> str:
    """How the rows were made, and how long that took."""
    methods = {row["method"] for row in table["rows"]}
    made = [one for one in results if one["tags"]["method"] in methods]
    one = made[0]
    config, machine = one["config"], one["hardware"]
    query, train, peft = config["query"], config["train"], config["peft"]
    seconds = sum(sum(other["seconds"].values()) for other in made)
    processor = (
        machine.get("gpu") or f"{machine['machine']}, {machine.get('threads', machine['cores'])} thread(s) a run"
    )
    return (
        f"{one['model']['name']} in {one['model']['dtype']}, {peft.get('peft_type', 'LORA')} r {peft.get('r', '–')} alpha "
        f"{peft.get('lora_alpha', '–')}, {train['epochs']} epochs, batch {train['batch_size']}, learning rate "
        f"{train['learning_rate']:g}; {query['warm_start']} labels to begin with, {query['batch']} a round, {query['budget']} in "
        f"all; {query['candidates'] or 'all'} candidates scored a round; {len(made)} runs, {duration(seconds)} in all on "
        f"{processor}; torch {one['versions']['torch']}, transformers {one['versions']['transformers']}, "
        f"peft {one['versions']['peft']}."
    )


# --- what is missing ----------------------------------------------------------------------------


def _not_run(shown: set[tuple[str, str, str]]) -> Iterator[str]:
    """A line and a command for each experiment and scale with nothing to show."""
    yield "What follows has no results yet. Each command prints its plan first and can be stopped and repeated."
    yield ""
    yield "| scale | experiment | not run on | command |"
    yield "|---|---|---|---|"
    for scale in ON_THE_PAGE:
        for name, experiment in EXPERIMENTS.items():
            covers = "table1" if name == "fig5" else name  # figure 5 draws what table 1 measures
            missing = [d for d in experiment.datasets if (covers, scale, d) not in shown]
            if missing:
                yield f"| {scale} | {_plain(experiment)} | {', '.join(missing)} | `{command(name, scale, missing)}` |"


def command(name: str, scale: str, datasets: Sequence[str]) -> str:
    """The command that runs an experiment on some datasets.

    >>> command("table1", "small", ["trec-6"])
    'guidestar paper table1 --scale small --dataset trec-6'
    """
    default = set(datasets) == set(EXPERIMENTS[name].datasets)
    return f"guidestar paper {name} --scale {scale}" + ("" if default else "".join(f" --dataset {d}" for d in datasets))


def _plain(experiment: Experiment) -> str:
    return experiment.title.replace("|", "/")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"
