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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from guidestar.asking import Ask, Lesson, Scorer
from guidestar.bench import Bench
from guidestar.config import RunConfig, fingerprint
from guidestar.errors import GuidestarError
from guidestar.model.recipe import too_short
from guidestar.phases import FIXED, PHASES, Course, Work, amounts, examples
from guidestar.progress import settle
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
class Plan:
    """A study before it runs. seconds: phase -> range, of the cells that are still to run. tokens: mean tokens of a
    prompt, by dataset. examples: by phase, epochs and passes multiplied in. unplanned: cells that could not be measured,
    and why. warnings: sentences."""

    cells: int
    done: int
    rounds: int
    labels: int
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
    courses: list[Course] = []
    seconds: dict[str, Range] = {}
    tokens: dict[str, float] = {}
    measured: dict[str, Rates] = {}
    unplanned: dict[str, str] = {}
    cached: set[tuple[str, str, str]] = set()
    short: dict[str, None] = {}
    counted: Counter[str] = Counter()
    for cell, first in zip(cells, first_of_warm_start(cells), strict=True):
        if cell.name in done:
            continue
        name, model = str(cell.tags.get("dataset", cell.name)), cell.config.plain()["model"]
        key = fingerprint([name, cell.config.peft.get("peft_type"), model])
        try:
            bench = shared.bench(cell.config)
            course = course_of(bench, first, (begun or {}).get(cell.name, 0))
            short[too_short(bench.training, course.head, course.labels[0])] = None
            work = _once(amounts(course), cell, fingerprint([bench.fitting.hash, model]), cached)
            tokens.setdefault(name, _mean_tokens(bench))
            measured[key] = _measure(bench, cell.config, {kind for _, kind in work}, measured.get(key, {}), clock)
        except Exception as error:  # torch and PEFT raise many kinds; the cell itself will say it again
            ours = isinstance(error, GuidestarError)
            unplanned[cell.name] = str(error) if ours else f"{type(error).__name__}: {error}"
            if not ours:
                shared.forget()
            continue
        courses.append(course)
        counted += examples(work)
        for (phase, kind), n in work.items():
            low, high = measured[key][kind]
            before = seconds.get(phase, (0.0, 0.0))
            seconds[phase] = before[0] + n * low, before[1] + n * high
    return Plan(
        cells=len(cells),
        done=sum(cell.name in done for cell in cells),
        rounds=sum(course.measured for course in courses),
        labels=sum(course.labels[-1] - course.before for course in courses),
        seconds=seconds,
        tokens=tokens,
        examples=dict(counted),
        unplanned=unplanned,
        warnings=[sentence for sentence in short if sentence],
    )


def course_of(bench: Bench, first: bool, before: int) -> Course:
    """The run of a bench with one strategy; see `Course`."""
    data, config = bench.fitting, bench.config
    validated = not bench.simulation or config.stop.mode == "stop"  # as the loop has it
    return Course(
        config=config, family=data.task.family, pool=len(data.pool), test=len(data.test or ()),
        validation=len(data.validation or ()) if validated else 0, first=first, before=before,
        suggested=not bench.simulation and config.people.suggestions != "off", watched=bench.watched,
        head=bench.engine.head,
    )  # fmt: skip


def _once(work: Work, cell: Cell, data: str, cached: set[tuple[str, str, str]]) -> Work:
    """The work without what an earlier cell leaves in the cache: base scores of the test set, and of a whole pool."""
    shared = {(phase, kind) for phase, kind in work if PHASES[phase].once(cell.config)}
    left = {key: n for key, n in work.items() if key not in shared or (data, *key) not in cached}
    cached |= {(data, *key) for key in shared}
    return left


def first_of_warm_start(cells: Sequence[Cell]) -> list[bool]:
    """Whether each cell trains its warm start, or finds it in the folder it shares with an earlier cell."""
    places = [(cell.config.out, cell.config.seeds[0]) for cell in cells]
    return [place not in places[:i] for i, place in enumerate(places)]


# --- measuring ----------------------------------------------------------------------------------


def _measure(
    bench: Bench, config: RunConfig, kinds: set[str], known: Rates, clock: Callable[[], float]
) -> dict[str, Range]:
    """Seconds an example for each kind of work that is not known yet, and of `FIXED` seconds a training."""
    rates, wanted = dict(known), kinds | {"train", FIXED}
    left = wanted - rates.keys()
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
        settings = bench.training.model_copy(update={"epochs": 1, "patience": 0, "min_steps": 0})
        ticks = [now()]
        trainer = engine.trainer(config.model_copy(update={"train": settings}), bench.dataset.hash)
        trainer(Lesson(labelled=rows, seed=0), place, lambda done, total: ticks.append(now()))
        end = now()
        steps = [b - a for a, b in itertools.pairwise(ticks[1:])] or [ticks[-1] - ticks[0]]
        rates["train"] = _widened([step / min(size, len(rows)) for step in steps])
        rates[FIXED] = _widened([max(end - ticks[0] - sum(steps) - statistics.fmean(steps), 0.0)])
        if ours := sorted(k for k in left - {"train", FIXED} if not k.startswith("base ")):
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
    left = plan.cells - plan.done
    lines = [title, *(f"  {row}" for row in rows)]
    lines.append(f"{plan.cells} runs, {plan.done} done; {left} to go: {plan.rounds} rounds, {plan.labels} labels")
    if left:
        passes = sum(n for phase, n in plan.examples.items() if phase.startswith("score"))
        trained = plan.examples.get("train", 0)
        lines.append(f"to go: {trained} examples to train on (epochs counted), {passes} passes to score")
        lines += [f"  {name}: about {mean:.0f} tokens a prompt" for name, mean in plan.tokens.items()]
        lines += [f"  {phase}: {span(seconds, duration)}" for phase, seconds in plan.seconds.items()]
        lines.append(f"estimated time on this machine: {span(plan.total, duration)}")
        lines += [f"warning: {sentence}" for sentence in plan.warnings]
        lines += [f"not in the estimate: {name}: {why}" for name, why in plan.unplanned.items()]
    return "\n".join(lines)


def compared(plan: Plan, before: Sequence[Result], now: Sequence[Result]) -> list[str]:
    """Seconds of each phase beside the estimate, for the cells that ran. before: results that were there already."""
    old = {one.name for one in before}
    spent: Counter[str] = Counter()
    for one in now:
        if one.name not in old:
            spent.update(one.seconds)
    return [
        f"  {phase}: {duration(seconds)}"
        + (f", planned {span(plan.seconds[phase], duration)}" if phase in plan.seconds else ", not planned")
        for phase, seconds in spent.items()
    ]
