"""What a study will cost before it starts: runs, labels, passes, and time as a range from a short measurement.

The measurement trains and scores a few examples with the study's own model and data. Its formula: every training is
a fixed part plus seconds an example and epoch; every scoring seconds an example and pass. The range is that of the
measured batches, widened: batches differ, and a tuned model stops generating earlier than an untuned one.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from guidestar.asking import Ask, Lesson, Scorer
from guidestar.bench import Bench
from guidestar.config import RunConfig, fingerprint
from guidestar.errors import GuidestarError
from guidestar.model.recipe import too_short
from guidestar.phases import PHASES, Course, amounts
from guidestar.progress import settle
from guidestar.query import strategies
from guidestar.records import Example
from guidestar.study.cells import Cell, Shared
from guidestar.study.results import Result
from guidestar.tasks import scored_labels
from guidestar.words import duration, span

SAMPLE = {"train": 3, "labels": 32, "gold": 16, "generated": 4}  # batches to train on; examples to predict
TRAINING = (0.8, 1.4)  # factors of the fastest and the slowest measured batch that make the ends of a range
SCORING = (0.6, 2.0)  # the same for scoring, where one short call is measured; docs/planning.md

Range = tuple[float, float]
Rates = Mapping[str, Range]


@dataclass(frozen=True)
class Work:
    """What a cell has to do. labels: asked for in all. rounds: points of its curve. amounts: (phase, kind of work) ->
    examples, passes and epochs multiplied in. trainings: those that are not copied from another strategy. members: those
    of committees."""

    rounds: int
    labels: int
    trainings: int
    amounts: Mapping[tuple[str, str], int]
    members: int = 0


@dataclass(frozen=True)
class Plan:
    """A study before it runs. seconds: phase -> range, of the cells that are still to run. tokens: mean tokens of a
    prompt, by dataset. examples: by phase, epochs and passes multiplied in. unplanned: cells that could not be measured, and why.
    warnings: sentences."""

    cells: int
    done: int
    rounds: int
    labels: int
    trained: int
    passes: int
    seconds: Mapping[str, Range]
    tokens: Mapping[str, float] = field(default_factory=dict)
    examples: Mapping[str, int] = field(default_factory=dict)
    unplanned: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()

    def plain(self) -> dict[str, Any]:
        """The plan as JSON-able data."""
        return {**asdict(self), "total": self.total}

    @property
    def total(self) -> Range:
        """Seconds of all phases."""
        return sum(low for low, _ in self.seconds.values()), sum(high for _, high in self.seconds.values())


def make_plan(
    cells: Sequence[Cell], done: set[str], shared: Shared, clock: Callable[[], float] = time.perf_counter,
    begun: Mapping[str, int] | None = None,
) -> Plan:  # fmt: skip
    """The plan of `cells`; `done` names those that have a result. clock: seconds, replaced by tests. begun: cell's name ->
    labels that its complete rounds were trained on.

    Loads model and data, and measures each dataset with each kind of adapter once. A cell that cannot be measured is
    named in the plan: it will fail, and the others need not.
    """
    seconds: dict[str, Range] = {}
    tokens: dict[str, float] = {}
    works: list[Work] = []
    measured: dict[str, Rates] = {}
    unplanned: dict[str, str] = {}
    cached: set[tuple[str, str, str]] = set()
    short: list[str] = []
    examples: Counter[str] = Counter()  # of each phase
    for cell, first in zip(cells, first_of_warm_start(cells), strict=True):
        if cell.name in done:
            continue
        name = str(cell.tags.get("dataset", cell.name))
        key = fingerprint([name, cell.config.peft.get("peft_type"), cell.config.plain()["model"]])
        try:
            bench = shared.bench(cell.config)
            data = bench.fitting
            test = len(data.test) if data.test else 0
            validated = not bench.simulation or cell.config.stop.mode == "stop"  # as the loop has it
            work = work_of(
                cell.config, data.task.family, len(data.pool), test, first=first,
                validation=len(data.validation) if data.validation and validated else 0,
                suggested=not bench.simulation and cell.config.people.suggestions != "off",
                watched=bench.watched, head=bench.engine.head, before=(begun or {}).get(cell.name, 0),
            )  # fmt: skip
            known = (begun or {}).get(cell.name, 0) or min(cell.config.query.warm_start, len(data.pool))
            short.append(too_short(bench.training, bench.engine.head, known))
            work = _once(work, cell, fingerprint([data.hash, cell.config.plain()["model"]]), cached)
            tokens.setdefault(name, _mean_tokens(bench))
            kinds = {kind for _, kind in work.amounts}
            measured[key] = _measure(bench, cell.config, kinds, measured.get(key, {}), clock)
        except Exception as error:  # torch and PEFT raise many kinds; the cell itself will say it again
            unplanned[cell.name] = (
                str(error) if isinstance(error, GuidestarError) else f"{type(error).__name__}: {error}"
            )
            if not isinstance(error, GuidestarError):
                shared.forget()
            continue
        works.append(work)
        for (phase, _), n in work.amounts.items():
            examples[phase] += n
        for phase, ends in cost(work, measured[key]).items():
            add(seconds, phase, ends)
    return Plan(
        cells=len(cells),
        done=sum(cell.name in done for cell in cells),
        rounds=sum(work.rounds for work in works),
        labels=sum(work.labels for work in works),
        trained=examples["train"],
        passes=sum(n for phase, n in examples.items() if phase.startswith("score")),
        seconds=seconds,
        tokens=tokens,
        examples=dict(examples),
        unplanned=unplanned,
        warnings=[sentence for sentence in dict.fromkeys(short) if sentence],
    )


def _once(work: Work, cell: Cell, data: str, cached: set[tuple[str, str, str]]) -> Work:
    """The work without what an earlier cell leaves in the cache: base scores of the test set, and of a whole pool."""
    left = dict(work.amounts)
    for phase, kind in work.amounts:
        if PHASES[phase].once(cell.config):
            if (data, phase, kind) in cached:
                del left[phase, kind]
            cached.add((data, phase, kind))
    return replace(work, amounts=left)


def first_of_warm_start(cells: Sequence[Cell]) -> list[bool]:
    """Whether each cell trains its warm start, or finds it in the folder it shares with an earlier cell."""
    places = [(cell.config.out, cell.config.seeds[0]) for cell in cells]
    return [place not in places[:i] for i, place in enumerate(places)]


def work_of(
    config: RunConfig,
    kind: str,
    pool: int,
    test: int,
    *,
    first: bool = True,
    validation: int = 0,
    suggested: bool = False,
    watched: bool = False,
    head: str = "",
    before: int = 0,
) -> Work:
    """What one run with this configuration does. kind: of the task. pool, test: sizes. first: it trains its own warm
    start. validation: size of a validation set that is measured every round. suggested: the model answers, too, before
    people are asked. watched: its states of the picks are kept for advice. headed: it answers with a
    classification head, so that an untuned one is not measured. before: labels of the rounds that are complete already.

    Base scores are counted in full, though a cache may hold them (see `_once`).
    """
    recipe, budget = strategies.resolve(config.strategies[0]), min(config.query.budget, pool)
    labels = [before or min(config.query.warm_start, pool)]
    while labels[-1] < budget:
        labels.append(min(labels[-1] + config.query.batch, budget))
    course = Course(
        config=config, recipe=recipe, family=kind, labels=tuple(labels), pool=pool, test=test, validation=validation,
        first=first, begun=bool(before), suggested=suggested, watched=watched, head=head,
    )  # fmt: skip
    members = ((recipe.committee or 1) - 1) * (len(labels) - 1)
    return Work(course.measured, labels[-1] - before, len(course.trained), amounts(course), members)


def add(ranges: dict[str, Range], name: str, ends: Range) -> None:
    """Add to the range of a name; there may be none yet."""
    before = ranges.get(name, (0.0, 0.0))
    ranges[name] = (before[0] + ends[0], before[1] + ends[1])


def cost(work: Work, rates: Rates) -> dict[str, Range]:
    """Seconds by phase. rates: kind of work -> seconds an example, and "fixed", seconds a training."""
    seconds: dict[str, Range] = {}
    for (phase, kind), count in work.amounts.items():
        low, high = (count * rate for rate in rates[kind])
        if kind == "train":
            trainings = {"train": work.trainings, "train committee": work.members}.get(phase, 1)
            low, high = (a + trainings * b for a, b in zip((low, high), rates["fixed"], strict=True))
        add(seconds, phase, (low, high))
    return seconds


# --- measuring ----------------------------------------------------------------------------------


def _measure(
    bench: Bench, config: RunConfig, kinds: set[str], known: Rates, clock: Callable[[], float]
) -> dict[str, Range]:
    """Seconds an example for each kind of work that is not known yet."""
    rates = dict(known)
    left = {kind for kind in kinds if kind not in rates} | {kind for kind in ("train", "fixed") if kind not in rates}
    if not left:
        return rates
    engine = bench.engine

    def now() -> float:
        settle()
        return clock()

    for kind in sorted(k for k in left if k.startswith("base ")):
        rates[kind] = _predicting(bench, engine.scorer(), kind.removeprefix("base "), now)
    with tempfile.TemporaryDirectory() as folder, bench.progress.phase("measuring"):
        place, size = Path(folder) / "adapter", config.train.batch_size
        place.mkdir()
        rows = _rows(bench, SAMPLE["train"] * size)
        settings = bench.training.model_copy(update={"epochs": 1, "patience": 0, "min_steps": 0, "average": 0.0})
        ticks = [now()]
        trainer = engine.trainer(config.model_copy(update={"train": settings}), bench.dataset.hash)
        trainer(Lesson(labelled=rows, seed=0), place, lambda done, total: ticks.append(now()))
        end = now()
        steps = [b - a for a, b in itertools.pairwise(ticks[1:])] or [ticks[-1] - ticks[0]]
        rates["train"] = _widened([step / min(size, len(rows)) for step in steps])
        rates["fixed"] = _widened([max(end - ticks[0] - sum(steps) - statistics.fmean(steps), 0.0)])
        if ours := sorted(k for k in left if not k.startswith("base ") and k not in ("train", "fixed")):
            with engine.scorer(place) as scorer:
                rates |= {kind: _predicting(bench, scorer, kind, now) for kind in ours}
    return rates


def _rows(bench: Bench, count: int) -> list[tuple[Example, str]]:
    """Examples to train on, those with a gold answer first; where nobody has answered yet, any answer takes as long."""
    data = bench.fitting
    known = [(e, data.gold[e.id]) for e in data.pool if e.id in data.gold][:count]
    stand_in = data.task.stand_in
    return known + [(e, stand_in) for e in data.pool if e.id not in data.gold][: count - len(known)]


def _predicting(bench: Bench, scorer: Scorer, kind: str, clock: Callable[[], float]) -> Range:
    """Seconds an example of one pass. Generation ends early where an answer does: the range allows for that."""
    needs = {"labels": "label_log_probs", "gold": "gold_nll", "generated": "response_entropy"}[kind]
    data = bench.fitting
    examples = list(data.pool[:: max(1, len(data.pool) // SAMPLE[kind])])[: SAMPLE[kind]]
    if kind == "labels" and not (
        scored_labels(data.task) and scorer.can(Ask.of([needs]))
    ):  # an untrained head says nothing
        needs = "embedding"
    times = []
    for _ in range(1 if kind == "generated" else 2):  # the first short call pays for what is loaded lazily
        start = clock()
        scorer(examples, Ask.of([needs], gold=data.gold if kind == "gold" else None))
        times.append((clock() - start) / len(examples))
    low, high = (times[-1] * factor for factor in SCORING)
    return (low * _early(bench) if kind == "generated" else low, high)


def _early(bench: Bench) -> float:
    """How much shorter gold responses are than the limit of generated ones; in (0, 1]."""
    from guidestar.model.batches import encode_response

    data = bench.fitting
    pairs = [(e, data.gold[e.id]) for e in data.pool[: SAMPLE["generated"]] if e.id in data.gold]
    lengths = [len(encode_response(bench.base, e.prompt, data.task.response_text(a))) + 1 for e, a in pairs]
    return min(1.0, max(lengths, default=1) / data.task.max_new_tokens)


def _mean_tokens(bench: Bench) -> float:
    from guidestar.model.batches import encode_prompts

    some = list(bench.pool[:: max(1, len(bench.pool) // 64)])[:64]
    return statistics.fmean(len(row) for row in encode_prompts(bench.base, some))


def _widened(times: Sequence[float]) -> Range:
    return min(times) * TRAINING[0], max(times) * TRAINING[1]


# --- words --------------------------------------------------------------------------------------


def plan_text(plan: Plan, title: str, rows: Sequence[str]) -> str:
    """The plan as lines for a terminal. rows: what runs, one line each."""
    low, high = plan.total
    left = plan.cells - plan.done
    lines = [title, *(f"  {row}" for row in rows)]
    lines.append(f"{plan.cells} runs, {plan.done} done; {left} to go: {plan.rounds} rounds, {plan.labels} labels")
    if left:
        lines.append(f"to go: {plan.trained} examples to train on (epochs counted), {plan.passes} passes to score")
        lines += [f"  {name}: about {mean:.0f} tokens a prompt" for name, mean in plan.tokens.items()]
        lines += [f"  {phase}: {span(seconds, duration)}" for phase, seconds in plan.seconds.items()]
        lines.append(f"estimated time on this machine: {span((low, high), duration)}")
        lines += [f"warning: {sentence}" for sentence in plan.warnings]
        lines += [f"not in the estimate: {name}: {why}" for name, why in plan.unplanned.items()]
    return "\n".join(lines)


def compared(plan: Plan, before: Sequence[Result], now: Sequence[Result]) -> list[str]:
    """Seconds of each phase beside the estimate, for the cells that ran. before: results that were there already."""
    old = {one["name"] for one in before}
    spent: Counter[str] = Counter()
    for one in now:
        if one["name"] not in old:
            spent.update(one["seconds"])
    return [
        f"  {phase}: {duration(seconds)}"
        + (f", planned {span(plan.seconds[phase], duration)}" if phase in plan.seconds else ", not planned")
        for phase, seconds in spent.items()
    ]
