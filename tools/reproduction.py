"""docs/reproduction.md: what of the paper holds, number beside number, from the result files in `results/paper`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from guidestar.config import read_file
from guidestar.metrics.verdict import least_seeds
from guidestar.study.compose import Study
from guidestar.study.paper import order_of
from guidestar.study.reading import beside, reading, warm_starts
from guidestar.study.results import Result, read_results
from guidestar.study.studyfile import SHIPPED, shipped
from guidestar.study.tables import Asked, Line, Table, points_of, tables
from guidestar.words import count, duration, number
from tools import scale_picks, star_training
from tools.pages import table

ON_THE_PAGE = ("paper", "small")  # the numbers of `tiny` mean nothing
FIRST = ("table1", "table2")
FIGURE_2 = {"tuned": 73.36, "few-shot": 45.41}  # the paper's accuracies on BoolQ, section 4.2

# Rows of table 1 -> their runs from before all rows of a table decayed B alike: the same but β 0.
EARLIER = {"random-decay": "random", "pe-decay": "pe", "me-decay": "me"}
ABOUT_EARLIER = (
    "random, PE and ME are runs with β 0 here, STAR's have β 0.5 and so another warm start's adapter: their differences "
    "are of the decay too. `guidestar paper` now gives all rows of this table the same β."
)

_INTRO = """# Reproduction

Generated from the files in `results/paper`, one for each run, made by `guidestar paper`. It sets what Zhang et al. 2024
(STAR, arXiv 2403.01165) print beside what was measured here, and says what a reader may conclude.

- AUC is the area under the learning curve, RIPL the relative improvement over random with the same seeds, both per cent.
  ± is the standard deviation over the seeds. The paper averages three runs and gives no spread.
- A verdict, "gain" or "harm", is paired by seed, corrected for all comparisons of this page, and needs {least} seeds. With
  fewer there are numbers and no direction: brackets are 95 % intervals over the seeds, for these test examples.
- RIPL is always taken against the random row. {slip}
- What departs from the paper is in [deviations.md](deviations.md); the studies and their scales are the files in
  `guidestar/study/star`."""


def reproduction(results: Path) -> str:
    """The page as Markdown; the same files give the same bytes. results: a folder with result files, maybe empty.

    Raises StoreError for a file that cannot be read.
    """
    kept = [one for one in read_results(results) if one.tag("scale") in ON_THE_PAGE] if results.is_dir() else []
    parts = [
        _INTRO.format(slip=_sentence(study_of("table2", "paper", "gsm8k").config.datasets[0].note), least=least_seeds())
    ]
    places = [
        (scale, name, dataset) for scale in ON_THE_PAGE for name in shipped() for dataset in _settings(scale)
        if _was_run(name, scale, dataset, _of(kept, scale, dataset))
    ]  # fmt: skip
    made = dict(zip(places, tables([_asked(place, kept) for place in places]), strict=True))
    for scale in ON_THE_PAGE:
        sections = [text for name in shipped() for text in _section(name, scale, made, kept)]
        if sections:
            first = study_of("table1", scale).config
            parts += ["", f"## Scale `{scale}`", "", _sentence(first.scale_doc), *first.notes, *sections]
    parts += scale_picks.section(results.parent / "studies" / "star-scale" / "picks.json")
    parts += star_training.section(results.parent / star_training.FILE)
    parts += ["", "## Not run", "", *_not_run(set(places))]
    return "\n".join([*parts, ""])


Where = tuple[str, str, str]  # scale, study, dataset


@cache
def study_of(name: str, scale: str, dataset: str = "") -> Study:
    """A shipped study of one seed, of its own datasets or of one."""
    return order_of(name, scale=scale, seeds=1, out=Path(), datasets=[dataset] if dataset else ()).study()


def _settings(scale: str) -> list[str]:
    return list(read_file(SHIPPED / "scales" / f"{scale}.yaml")[0]["settings"])


def _of(results: Sequence[Result], scale: str, dataset: str) -> list[Result]:
    return [one for one in results if (one.tag("scale"), one.tag("dataset")) == (scale, dataset)]


def _asked(where: Where, results: Sequence[Result]) -> Asked:
    """The table of one study and dataset."""
    scale, name, dataset = where
    study, mine = study_of(name, scale, dataset), _of(results, scale, dataset)
    return Asked(study.rows, mine, _runs(study, mine), study.config.beside, scale)


def _runs(study: Study, results: Sequence[Result]) -> dict[Where, str]:
    """Row -> the runs that it has, earlier ones where there are no others."""
    made = {one.method for one in results}
    return {
        key: EARLIER[run] if run not in made and EARLIER.get(run) in made else run for key, run in study.runs.items()
    }


def _was_run(name: str, scale: str, dataset: str, results: Sequence[Result]) -> bool:
    """Whether a row was run that no earlier table asks for, or the study's probe."""
    if name == "fig5" or not results:  # the curves of table 1
        return False
    made = {one.method for one in results}
    study = study_of(name, scale, dataset)
    if study.config.probe:
        return f"probe-{study.config.probe.name}" in made
    known = {run for other in FIRST[: FIRST.index(name) if name in FIRST else None]
             for run in _runs(study_of(other, scale, dataset), results).values()}  # fmt: skip
    return bool(made & ({*_runs(study, results).values()} - known))


# --- one study ------------------------------------------------------------------------------------


def _section(name: str, scale: str, made: Mapping[Where, Table], results: Sequence[Result]) -> Iterator[str]:
    """A study with the datasets that it was run on; nothing if there is none."""
    here = [dataset for s, n, dataset in made if (s, n) == (scale, name)]
    if here:
        config = study_of(name, scale, here[0]).config
        yield from ("", f"### {config.title}", "", config.doc)
    for dataset in here:
        study, mine = study_of(name, scale, dataset), _of(results, scale, dataset)
        yield from ("", f"#### {dataset}", "")
        if note := study.config.datasets[0].note:
            yield from (_sentence(note), "")
        if probe := study.config.probe:
            yield from _probed(name, [one for one in mine if one.method == f"probe-{probe.name}"])
            continue
        runs = _runs(study, mine)
        taken = [one for one in mine if one.method in runs.values()]
        rows = [replace(row, tasks=()) for row in study.rows]
        yield from (*_compared(made[scale, name, dataset].lines), "")
        yield from (
            text.removeprefix(f"{dataset}: ") for text in beside(made[scale, name, dataset], _beside_runs(mine, taken))
        )
        if runs != study.runs:
            yield ABOUT_EARLIER
        yield from ("", _setup(taken), "")
        yield from (f"- {text}" for text in [*warm_starts(taken), *reading(made[scale, name, dataset], rows, taken)])


def _beside_runs(mine: Sequence[Result], taken: Sequence[Result]) -> list[Result]:
    return [*taken, *(one for one in mine if one.method == "few-shot")]


def _compared(lines: Sequence[Line]) -> list[str]:
    """Paper, here, difference, and what to conclude, a line for each row."""
    rows = []
    for line in lines:
        area, gain = line.published
        here = 100 * line.beside.ripl.estimate if line.beside and line.beside.ripl else None
        rows.append({
            "method": line.label, "seeds": ", ".join(map(str, line.seeds)) or "–", "AUC here": line.auc or "not run",
            "AUC paper": number(area, 2), "RIPL here": number(here, 2), "RIPL paper": number(gain, 2),
            "difference of RIPL": number(None if here is None or gain is None else here - gain, 2, sign=True),
            "final accuracy": line.final or "–", "what to conclude": conclusion(line),
        })  # fmt: skip
    paper = any(line.published[0] is not None for line in lines)
    shown = [name for name in rows[0] if paper or name not in ("AUC paper", "RIPL paper", "difference of RIPL")]
    return table(shown, [[row[name] for name in shown] for row in rows])


def conclusion(line: Line) -> str:
    """What one row shows, in plain words: a direction only where there is a verdict."""
    if line.control:
        return "the control"
    if line.beside is None:
        return "not run, or not beside its control"
    compared, gain = line.beside, line.published[1]
    seeds = count(len(compared.seeds), "seed")
    text = f"{compared.verdict}: {points_of(compared.difference)} points from its control, {seeds}"
    if compared.verdict not in ("gain", "harm") or gain is None:
        return text
    return (
        f"{text}; {'as in the paper' if (gain > 0) == (compared.verdict == 'gain') else 'the paper says the opposite'}"
    )


def _probed(name: str, probes: Sequence[Result]) -> Iterator[str]:
    for one in probes:
        yield f"The run probed: {one.tag('probed')}, seed {one.seed}, {one.model['name']}."
        yield ""
        yield from (f"- {sentence}" for sentence in one.sentences)
    if name == "fig2":
        yield (
            f"- The paper, with LLaMA-2-7B on BoolQ: accuracy {FIGURE_2['few-shot']} with demonstrations, "
            f"{FIGURE_2['tuned']} tuned, and tuned surer of its mistakes."
        )


def _setup(made: Sequence[Result]) -> str:
    """How the rows were made, and how long that took."""
    one = made[0]
    config, machine = one.config, one.hardware
    query, train, peft = config["query"], config["train"], config["peft"]
    seconds = sum(sum(other.seconds.values()) for other in made)
    processor = (
        machine.get("gpu") or f"{machine['machine']}, {machine.get('threads', machine['cores'])} thread(s) a run"
    )
    return (
        f"{one.model['name']} in {one.model['dtype']}, {peft.get('peft_type', 'LORA')} r {peft.get('r', '–')} alpha "
        f"{peft.get('lora_alpha', '–')}, {train['epochs']} epochs, batch {train['batch_size']}, learning rate "
        f"{train['learning_rate']:g}; {query['warm_start']} labels to begin with, {query['batch']} a round, {query['budget']} in "
        f"all; {query['candidates'] or 'all'} candidates scored a round; {len(made)} runs, {duration(seconds)} in all on "
        f"{processor}; torch {one.versions['torch']}, transformers {one.versions['transformers']}, "
        f"peft {one.versions['peft']}."
    )


# --- what is missing ----------------------------------------------------------------------------


def _not_run(shown: set[Where]) -> Iterator[str]:
    """A line and a command for each study and scale with nothing to show."""
    yield "What follows has no results yet. Each command prints its plan first and can be stopped and repeated."
    yield ""
    rows = []
    for scale in ON_THE_PAGE:
        for name in shipped():
            study = study_of(name, scale)
            covers = "table1" if name == "fig5" else name  # figure 5 draws what table 1 measures
            if missing := [d for d in study.datasets if (scale, covers, d) not in shown]:
                title = study.config.title.replace("|", "/")
                rows.append([scale, title, ", ".join(missing), f"`{command(name, scale, missing)}`"])
    yield from table(["scale", "experiment", "not run on", "command"], rows)


def command(name: str, scale: str, datasets: Sequence[str]) -> str:
    """The command that runs a study on some datasets.

    >>> command("table1", "small", ["trec-6"])
    'guidestar paper table1 --scale small --dataset trec-6'
    """
    default = set(datasets) == set(study_of(name, scale).datasets)
    return f"guidestar paper {name} --scale {scale}" + ("" if default else "".join(f" --dataset {d}" for d in datasets))


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"
