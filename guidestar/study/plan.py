"""What a run or a study will take before it starts, and afterwards how wrong that was.

One mechanism for both. `phases` counts the examples of each phase; the rates here are seconds an example, from a short
measurement with the run's own model and data: every training is a fixed part plus seconds an example and epoch, every
scoring seconds an example and pass. The ranges are those of the measured batches, widened: batches differ, and a tuned
model stops generating earlier than an untuned one. For the runs of one configuration (`guidestar plan`) come beside it
memory and disk by formula (`fit`), tokens, operations, labelling and money. That plan is kept in the experiment folder,
where `status` and the end of a run set the truth beside it.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from guidestar import config as configs
from guidestar.beginning import given_in
from guidestar.bench import Bench, read_config
from guidestar.config import CONFIG_FILE, RunConfig, fingerprint
from guidestar.errors import ConfigError, GuidestarError
from guidestar.metrics.memory import Range
from guidestar.model.recipe import too_short
from guidestar.phases import PHASES, Course, Work, amounts, examples
from guidestar.progress import Progress, Silent
from guidestar.store import files
from guidestar.store.store import DATABASE, Store
from guidestar.study import fit
from guidestar.study.cells import Cell, Shared
from guidestar.study.costs import Labelling, labelling_of, prices_of
from guidestar.study.fit import Clock, Lengths, Machine, Needs, Rates, gib, lengths_of, needs_of
from guidestar.study.results import Result
from guidestar.words import count, duration, span

PLAN_FILE = "plan.json"
BUSY = 1.5  # processes that want a core, from which on the measurement is said to be one of a busy machine
WHO = {
    "oracle": "the gold answers in the data (a simulation)",
    "people": "people",
    "endpoint": "a model behind an endpoint",
}


@dataclass(frozen=True)
class Plan:
    """Cells before they run. seconds: phase -> range, of the cells that are still to run. tokens: mean tokens of a prompt,
    by dataset. examples: by phase, epochs and passes multiplied in. unplanned: cells that could not be measured, and
    why. warnings: sentences."""

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

    @property
    def lines(self) -> list[str]:
        """The time of each phase for a terminal."""
        return [f"  {phase}: {span(ends, duration)}" for phase, ends in self.seconds.items()]

    def text(self, title: str, rows: Sequence[str]) -> str:
        """The plan of a study for a terminal. rows: what runs, one line each."""
        left = self.cells - self.done
        lines = [title, *(f"  {row}" for row in rows)]
        lines.append(f"{self.cells} runs, {self.done} done; {left} to go: {self.rounds} rounds, {self.labels} labels")
        if left:
            passes = sum(n for phase, n in self.examples.items() if phase.startswith("score"))
            trained = self.examples.get("train", 0)
            lines.append(f"to go: {trained} examples to train on (epochs counted), {passes} passes to score")
            lines += [f"  {name}: about {mean:.0f} tokens a prompt" for name, mean in self.tokens.items()]
            lines += [*self.lines, f"estimated time on this machine: {span(self.total, duration)}"]
            lines += [f"warning: {sentence}" for sentence in self.warnings]
            lines += [f"not in the estimate: {name}: {why}" for name, why in self.unplanned.items()]
        return "\n".join(lines)

    def beside(self, before: Sequence[Result], now: Sequence[Result]) -> list[str]:
        """Seconds of each phase beside the estimate, for the cells that ran. before: results that were there already."""
        old, spent = {one.name for one in before}, Counter[str]()
        for one in now:
            spent.update(one.seconds if one.name not in old else {})
        planned = {phase: f"planned {span(ends, duration)}" for phase, ends in self.seconds.items()}
        return [f"  {phase}: {duration(taken)}, {planned.get(phase, 'not planned')}" for phase, taken in spent.items()]


def make_plan(
    cells: Sequence[Cell], done: set[str], shared: Shared, clock: Clock = time.perf_counter,
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
    measured: dict[str, Rates] = defaultdict(dict)
    unplanned: dict[str, str] = {}
    cached: set[tuple[str, str, str]] = set()
    short: dict[str, None] = {}
    counted: Counter[str] = Counter()
    for cell, first in zip(cells, first_of_warm_start(cells), strict=True):
        if cell.name in done:
            continue
        name, model = str(cell.tags.get("dataset", cell.name)), cell.config.plain()["model"]
        rates = measured[fingerprint([name, cell.config.peft.get("peft_type"), model])]
        try:
            bench = shared.bench(cell.config)
            course = course_of(bench, first, (begun or {}).get(cell.name, 0))
            short[too_short(bench.training, course.head, course.labels[0])] = None
            work = _once(amounts(course), cell, fingerprint([bench.fitting.hash, model]), cached)
            if name not in tokens:
                tokens[name] = lengths_of(bench.config, bench.dataset).mean
            fit.measure(bench, cell.config, {kind for _, kind in work}, rates, clock)
        except Exception as error:  # torch and PEFT raise many kinds; the cell itself will say it again
            ours = isinstance(error, GuidestarError)
            unplanned[cell.name] = str(error) if ours else f"{type(error).__name__}: {error}"
            if not ours:
                shared.forget()
            continue
        courses.append(course)
        counted += examples(work)
        for (phase, kind), n in work.items():
            low, high = seconds.get(phase, (0.0, 0.0))
            seconds[phase] = low + n * rates[kind][0], high + n * rates[kind][1]
    rounds = [c.measured for c in courses]
    labels = [c.labels[-1] - c.before if c.before else c.labels[-1] + c.aside for c in courses]  # round 0 asks for both
    return Plan(
        len(cells), sum(cell.name in done for cell in cells), sum(rounds), sum(labels), seconds, tokens, dict(counted),
        unplanned, warnings=list(filter(None, short)),
    )  # fmt: skip


def course_of(bench: Bench, first: bool, before: int) -> Course:
    """The run of a bench with one strategy; see `Course`."""
    data, config = bench.fitting, bench.config
    validated = not bench.simulation or config.stop.mode == "stop"  # as the loop has it
    aside = 0 if bench.simulation else config.query.held_out(len(given_in(data)))
    return Course(
        config=config, family=data.task.family, pool=len(data.pool), test=len(data.test or ()) or aside,
        validation=len(data.validation or ()) if validated else 0, first=first, before=before,
        suggested=not bench.simulation and config.people.suggestions != "off", watched=bench.watched,
        head=bench.engine.head, aside=aside,
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


# --- the runs of one configuration ----------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What the runs of a configuration that are left will take.

    runs, done: names. complete: rounds of each run that are there. lengths: of prompts. load: processes that wanted a core while it was measured. configuration: what the plan depends on. disk_before:
    bytes of the folder. planned_at: UTC.
    """

    runs: Sequence[str]
    done: Sequence[str]
    complete: Mapping[str, int]
    work: Plan
    lengths: Lengths
    labelling: Labelling
    needs: Needs
    machine: Machine
    load: float | None
    configuration: Mapping[str, Any]
    disk_before: float
    planned_at: str

    def plain(self) -> dict[str, Any]:
        """As JSON-able data: what plan.json holds."""
        work, parts = self.work, ("work", "lengths", "labelling", "needs")
        facts = {name: value for name, value in vars(self).items() if name not in parts} | {
            "rounds": work.rounds, "labels": work.labels, "seconds": work.seconds, "total_seconds": work.total,
            "tokens_a_prompt": round(self.lengths.mean, 1), "tokens": self.spent("tokens"),
            "operations": self.spent("operations"), "machine": asdict(self.machine),
            **asdict(self.labelling), **self.needs.plain(),
        }  # fmt: skip
        return dict(json.loads(json.dumps(facts)))

    def spent(self, what: str) -> dict[str, Range]:
        """Tokens or operations by purpose, as `what` says. A generated response is counted with its prompt alone at least."""
        shape, adapter = self.needs.sizes
        ends: tuple[dict[str, float], dict[str, float]] = defaultdict(float), defaultdict(float)
        for name, n in self.work.examples.items():
            phase = PHASES[name]
            least = min(self.lengths.response, 1.0) if phase.over == "labelled" else 0.0
            for end, response in zip(ends, (least, self.lengths.response), strict=True):
                tokens = n * (self.lengths.mean + response)
                one = phase.spent(tokens, shape.parameters, frozen=adapter.numbers < shape.parameters)
                end[phase.purpose] += getattr(one, what)
        return {purpose: (low, ends[1][purpose]) for purpose, low in ends[0].items()}

    def text(self) -> str:
        """For a terminal."""
        if not self.runs:
            return f"nothing is left to run: {', '.join(self.done)}"
        work, needs = self.work, self.needs
        lines = [f"{count(len(self.runs), 'run')} to go: {', '.join(self.runs)}"]
        sizes = f"{count(work.rounds, 'round')}, {count(work.labels, 'label')} in all"
        lines.append(f"{sizes}, answered by {WHO[self.labelling.answered_by]}")
        lines.append(f"tokens: about {round(self.lengths.mean, 1):.0f} a prompt")
        for kind, ends in self.spent("tokens").items():
            lines.append(f"  {kind}: {span(ends, lambda n: f'{n / 1e6:.1f} million' if n >= 1e6 else f'{n:,.0f}')}")
        lines += [f"time on this machine: {span(work.total, duration)}", *work.lines]
        if (self.load or 0) > BUSY:
            lines.append(f"  measured while {self.load:.1f} processes wanted each core: a run beside fewer is faster")
        lines.append(f"peak memory: {span(needs.peak, gib)}{self.machine.beside(needs.peak)}")
        for name, one in needs.memory.items():
            parts = ", ".join(f"{part} {gib(size)}" for part, size in one.parts.items() if size >= 2**20)
            lines.append(f"  {name}: {span(one.range, gib)} ({parts})")
        free = self.machine.disk
        lines.append(f"disk: {span(needs.disk, gib)}" + (f", {gib(free)} free" if free else ""))
        return "\n".join([*lines, *self.labelling.lines])


def plan_run(
    config: RunConfig,
    *,
    changes: Mapping[str, float | None] | None = None,
    rate: float | None = None,
    progress: Progress | None = None,
    clock: Clock = time.perf_counter,
    machine: Machine | None = None,
) -> RunPlan:
    """What the runs of a configuration that are not finished yet will take; kept as plan.json in their folder.

    changes: names of `Prices` -> what is paid in place of the configuration's. rate: labels an annotator gives in an
    hour, in place of `cost.seconds_per_label`. clock, machine: replaced by tests.
    Raises ConfigError naming all that cannot fit and what would, DataError for data that cannot be used.
    """
    if rate is not None and not rate > 0:
        raise ConfigError(f"the rate is {rate:g} labels an hour; it must be above 0")
    config, news = read_config(config), progress or Silent()
    folder = Path(config.out)
    cells = cells_of(config)
    stand = {cell.name: _standing(folder / cell.name, config.query.budget) for cell in cells}
    done = {name for name, one in stand.items() if one.finished}
    left = [cell.name for cell in cells if cell.name not in done]
    bench = Bench(config)  # the shared one below has the same news to tell
    dataset, lengths = bench.dataset, lengths_of(config, bench.dataset)
    there = machine or fit.this_machine(folder, config.model.device, bool(config.model.device_map))

    def need(changed: RunConfig) -> Needs:
        return needs_of(changed, dataset, lengths, max(len(left), 1))

    needs = need(config)
    if problems := fit.refusals(config, needs, there, need):
        raise ConfigError("\n".join(f"this cannot fit: {problem}" for problem in problems))
    shared = Shared(folder / "cache", news)
    if left:
        bench = shared.bench(config)
        bench.check()
    work = make_plan(cells, done, shared, clock, {name: one.labels for name, one in stand.items()})
    if work.unplanned:
        raise ConfigError("\n".join(f"{name}: {why}" for name, why in work.unplanned.items()))
    prices = prices_of(config.cost, changes or {})
    plan = RunPlan(
        runs=left, done=sorted(done), complete={name: stand[name].rounds for name in left}, work=work, lengths=lengths,
        labelling=labelling_of(bench, work.labels, work.total, prices, rate, lengths), needs=needs, machine=there,
        load=os.getloadavg()[0] / (os.cpu_count() or 1) if hasattr(os, "getloadavg") else None,
        configuration=_decides(config), disk_before=_size(folder),
        planned_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )  # fmt: skip
    if left:
        files.check_output(folder / PLAN_FILE, lambda file: b'"runs"' in file.read_bytes(), "a plan")
        files.write_bytes(folder / PLAN_FILE, (json.dumps(plan.plain(), indent=1) + "\n").encode())
    return plan


def cells_of(config: RunConfig) -> list[Cell]:
    """The runs of a configuration in the order in which `guidestar run` takes them; a cell's name is its folder's."""
    cells = []
    for seed, strategy in itertools.product(config.seeds, config.strategies):
        tags: dict[str, str | int] = {"dataset": Path(config.out).name, "method": strategy.title, "seed": seed}
        one = config.model_copy(update={"strategies": [strategy], "seeds": [seed]})
        cells.append(Cell(f"{strategy.title}-seed{seed}", tags, one))
    return cells


class _Standing(NamedTuple):
    """finished: see `Store.ended`. rounds: that are complete. labels: of the last one."""

    finished: bool = False
    rounds: int = 0
    labels: int = 0


def _standing(folder: Path, budget: int = 0) -> _Standing:
    """Where a run stands that is to have this budget."""
    if not (folder / DATABASE).is_file():
        return _Standing()
    with Store.open(folder, read=True) as store:
        if not store.begun:
            return _Standing()
        measured = store.metrics()
        return _Standing(store.ended(budget) is not None, len(measured), measured[-1].labels if measured else 0)


def _decides(config: RunConfig) -> dict[str, Any]:
    """What a plan depends on, flat and JSON-able; the model's name may be a folder that is written in several ways."""
    plain = config.plain()
    keys = configs.flat({name: plain[name] for name in ("seeds", "strategies")}) | config.key()
    keys.pop("model.name")
    return dict(json.loads(json.dumps(keys)))


# --- the truth ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A planned range and what became of it. error: the truth / the range's geometric middle − 1; it and `inside` are None
    until all planned runs are finished."""

    planned: Range
    actual: float
    error: float | None = None
    inside: bool | None = None

    @classmethod
    def of(cls, planned: Range, actual: float, finished: bool) -> Row:
        """With its error, if that can be said."""
        low, high = planned
        if not finished or low <= 0:
            return cls(planned, actual)
        return cls(planned, actual, actual / math.sqrt(low * high) - 1, low <= actual <= high)


@dataclass(frozen=True)
class Truth:
    """A plan beside what came. changed: keys of the configuration that are others than planned for; with any there are no
    rows."""

    finished: bool
    rows: Mapping[str, Row] = field(default_factory=dict)
    changed: Sequence[str] = ()

    def plain(self) -> dict[str, Any]:
        """As JSON-able data."""
        return asdict(self)

    @property
    def lines(self) -> list[str]:
        """For a terminal."""
        if self.changed:
            more = ", …" if len(self.changed) > 4 else ""
            return [f"the plan was made for another configuration ({', '.join(self.changed[:4])}{more})"]
        lines = ["the plan beside the truth:" if self.finished else "the plan, and what was spent so far:"]
        for name, row in self.rows.items():
            show: Callable[[float], str] = duration if name.startswith("seconds") else gib
            line = f"  {name.replace('seconds, ', 'time, ')}: {show(row.actual)}, planned {span(row.planned, show)}"
            if row.error is not None:
                line += f"; {row.error:+.0%} of its middle, {'inside' if row.inside else 'OUTSIDE'}"
            lines.append(line)
        return lines


def truth_of(folder: Path) -> Truth | None:
    """The plan of an experiment beside the truth; None if no plan was made. folder: of the experiment, or of a run of it."""
    if (folder / DATABASE).is_file():
        folder = folder.absolute().parent
    if (plan := _read(folder)) is None:
        return None
    if (folder / CONFIG_FILE).is_file() and "configuration" in plan:
        now, then = _decides(configs.load(folder / CONFIG_FILE)), plan["configuration"]
        if changed := sorted(key for key in now.keys() | then.keys() if now.get(key) != then.get(key)):
            return Truth(finished=False, changed=changed)
    spent: dict[str, float] = defaultdict(float)  # seconds by phase
    for name in plan["runs"]:
        if (folder / name / DATABASE).is_file():
            with Store.open(folder / name, read=True) as store:
                for r, phase, seconds, _ in store.timings() if store.begun else ():
                    spent[phase] += seconds * (r >= plan.get("complete", {}).get(name, 0))
    done = all(_standing(folder / name).finished for name in plan["runs"])
    rows = {f"seconds, {phase}": Row.of(ends, spent[phase], done) for phase, ends in plan["seconds"].items()}
    rows["seconds, all"] = Row.of(plan["total_seconds"], sum(spent.values()), done)
    if plan.get("measured_peak"):
        rows["peak memory"] = Row.of(plan["peak"], plan["measured_peak"], done)
    return Truth(done, rows | {"disk": Row.of(plan["disk"], _size(folder) - plan["disk_before"], done)})


def record_end(folder: Path, peak: float | None = None) -> None:
    """Note this process's peak memory beside the plan, if there is one. peak: bytes, measured here if not given."""
    if (plan := _read(folder)) is not None:
        most = max(plan.get("measured_peak") or 0.0, fit.peak_memory() if peak is None else peak)
        text = json.dumps(plan | {"measured_peak": most}, indent=1) + "\n"
        files.write_bytes(folder / PLAN_FILE, text.encode())


def _read(folder: Path) -> dict[str, Any] | None:
    """The kept plan. Raises StoreError if it is damaged."""
    file = folder / PLAN_FILE
    needed = {"runs", "seconds", "total_seconds", "peak", "disk", "disk_before"}
    mend = "delete it, it holds nothing but the plan"
    return files.read_json(file, needed, "plan of this release", mend) if file.is_file() else None


def _size(folder: Path) -> float:
    return float(sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())) if folder.is_dir() else 0.0
