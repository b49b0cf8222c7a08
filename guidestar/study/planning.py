"""`guidestar plan CONFIG`: what a run will take, before anything runs; and afterwards, how wrong that was.

Time comes from a short measurement with the run's own model and data (`plan`), memory and disk from formulas
(`fit`, `metrics/memory`), money from prices. Ranges, not points. The plan is kept in the experiment folder, where
`status` and the end of a run set the truth beside it.
"""

from __future__ import annotations

import json
import math
import os
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from guidestar import config as configs
from guidestar.bench import Bench, read_config
from guidestar.config import CONFIG_FILE, RunConfig
from guidestar.errors import ConfigError, StoreError
from guidestar.metrics.cost import Spent
from guidestar.phases import PHASES
from guidestar.progress import Progress, Silent
from guidestar.records import Stop
from guidestar.store import files
from guidestar.store.store import DATABASE, Store
from guidestar.study import plan as plans
from guidestar.study.cells import Cell, Shared
from guidestar.study.costs import prices_of
from guidestar.study.fit import Lengths, Machine, gib, lengths_of, refusals, this_machine
from guidestar.words import count, duration, span

PLAN_FILE = "plan.json"
BUSY = 1.5  # processes that want a core, from which on the measurement is said to be one of a busy machine
PACE = (0.75, 1.5)  # people label so much faster and slower than the rate that is expected of them


def plan_run(
    config: RunConfig,
    *,
    changes: Mapping[str, float | None] | None = None,
    rate: float | None = None,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.perf_counter,
    machine: Machine | None = None,
) -> dict[str, Any]:
    """What the runs of a configuration that are not finished yet will take, JSON-able; kept as plan.json in their folder.

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
    begun = {name: one.labels for name, one in stand.items()}
    left = [cell for cell in cells if cell.name not in done]
    first = Bench(config)  # the shared one below has the same news to tell
    lengths = lengths_of(config, first.dataset)
    problems, facts = refusals(
        config,
        machine or this_machine(folder, config.model.device, bool(config.model.device_map)),
        first.dataset,
        max(len(left), 1),
        lengths,
    )
    if problems:
        raise ConfigError("\n".join(f"this cannot fit: {problem}" for problem in problems))
    shared = Shared(folder / "cache", news)
    if left:
        bench = shared.bench(config)
        bench.check()
        planned = plans.make_plan(cells, done, shared, clock, begun)
        if planned.unplanned:
            raise ConfigError("\n".join(f"{name}: {why}" for name, why in planned.unplanned.items()))
    else:
        bench, planned = first, plans.make_plan(cells, done, shared, clock)
    facts = {
        "runs": [cell.name for cell in left],
        "done": sorted(done),
        "complete": {cell.name: stand[cell.name].rounds for cell in left},
        "rounds": planned.rounds,
        "labels": planned.labels,
        "seconds": {phase: list(span) for phase, span in planned.seconds.items()},
        "total_seconds": list(planned.total),
        "tokens_a_prompt": round(lengths.mean, 1),
        **_work(config, planned, lengths, facts["sizes"]),
        **_people(config, bench, planned, changes or {}, rate, lengths),
        **facts,
        "load": os.getloadavg()[0] / (os.cpu_count() or 1) if hasattr(os, "getloadavg") else None,
        "configuration": _decides(config),
        "disk_before": _size(folder),
        "planned_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    if left:
        files.check_output(folder / PLAN_FILE, lambda file: b'"runs"' in file.read_bytes(), "a plan")
        files.write_bytes(folder / PLAN_FILE, (json.dumps(facts, indent=1) + "\n").encode())
    return facts


def cells_of(config: RunConfig) -> list[Cell]:
    """The runs of a configuration in the order in which `guidestar run` takes them; a cell's name is its folder's."""
    return [
        Cell(
            f"{strategy.title}-seed{seed}",
            {"dataset": Path(config.out).name, "method": strategy.title, "seed": seed},
            config.model_copy(update={"strategies": [strategy], "seeds": [seed]}),
        )
        for seed in config.seeds
        for strategy in config.strategies
    ]


def _decides(config: RunConfig) -> dict[str, Any]:
    """What a plan depends on, flat and JSON-able; the model's name may be a folder that is written in several ways."""
    plain = config.plain()
    keys = configs.flat({name: plain[name] for name in ("seeds", "strategies")}) | config.key()
    keys.pop("model.name")
    return dict(json.loads(json.dumps(keys)))


class _Standing(NamedTuple):
    """finished: the run has ended, and not only spent a smaller budget. rounds: that are complete. labels: of the last one."""

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
        measured, why = store.metrics(), store.finished()
        short = why is Stop.BUDGET and store.budgets()[-1][0] < budget
        return _Standing(why is not None and not short, len(measured), measured[-1].labels if measured else 0)


def _work(config: RunConfig, planned: plans.Plan, lengths: Lengths, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Tokens and operations by what they are for. A generated response is counted with its prompt alone at least."""
    frozen = sizes["trained"] < sizes["parameters"]
    ends: tuple[dict[str, Spent], dict[str, Spent]] = defaultdict(Spent), defaultdict(Spent)
    for name, examples in planned.examples.items():
        phase = PHASES[name]
        least = min(lengths.response, 1.0) if phase.over == "labelled" else 0.0
        for end, response in zip(ends, (least, lengths.response), strict=True):
            tokens = examples * (lengths.mean + response)
            end[phase.purpose] += phase.spent(tokens, sizes["parameters"], frozen=frozen)
    return {
        what: {kind: [getattr(end[kind], what) for end in ends] for kind in ends[0]}
        for what in ("tokens", "operations")
    }


def _people(
    config: RunConfig, bench: Bench, planned: plans.Plan, changes: Mapping[str, float | None], rate: float | None,
    lengths: Lengths,
) -> dict[str, Any]:  # fmt: skip
    """Hours of annotators and money. Hours are None where no rate is known; the money of labels is then the price alone."""
    prices = prices_of(config.cost, changes)
    pace = 3600 / rate if rate is not None else config.cost.seconds_per_label
    endpoint = bench.answered_by == "endpoint"
    asked = planned.labels if endpoint else round(planned.labels * (1 + config.people.overlap))
    hours = None if pace is None or endpoint else [asked * pace / 3600 * share for share in PACE]
    labels = [prices.labels(0 if endpoint else asked, 3600 * h) for h in hours or (0.0, 0.0)]
    weak, e = min(config.train.weak_labels or 0, len(bench.dataset.pool)), config.endpoint
    paid = asked if endpoint else weak
    dearest = 2 * lengths.longest * e.price_in + e.max_tokens * e.price_out
    labels = [labels[0] + paid * lengths.mean * e.price_in / 1e6, labels[1] + paid * dearest / 1e6]
    machine = [prices.machine(seconds) for seconds in planned.total]
    return {
        "answered_by": bench.answered_by,
        "labels_asked": asked,
        "weak_labels": weak,
        "hours": hours,
        "prices": asdict(prices),
        "currency": config.cost.currency,
        "money": {
            "labels": labels,
            "machine": machine,
            "total": [a + b for a, b in zip(labels, machine, strict=True)],
        },
    }


# --- the truth ------------------------------------------------------------------------------------


def record_end(folder: Path, peak: float | None = None) -> None:
    """Note this process's peak memory beside the plan, if there is one. peak: bytes, measured here if not given."""
    if (plan := _read(folder)) is None:
        return
    now = peak if peak is not None else peak_memory()
    before = plan.get("measured_peak") or 0.0
    if now > before:
        text = json.dumps(plan | {"measured_peak": now}, indent=1) + "\n"
        files.write_bytes(folder / PLAN_FILE, text.encode())


def peak_memory() -> float:
    """The most main memory that this process has used, or the GPU's where one was used; bytes."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and (used := torch.cuda.max_memory_reserved()):
        return float(used)
    status = Path("/proc/self/status")  # elsewhere: a process's count begins with its parent's
    if status.exists():
        lines = status.read_text(encoding="utf-8").splitlines()
        return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def compared(folder: Path) -> dict[str, Any] | None:
    """The plan of an experiment beside the truth; None if no plan was made.

    "rows": name -> planned (a range), actual, error (actual / the range's geometric middle − 1), inside. "finished":
    whether all planned runs are; until then what they took so far is no error and has none. folder: of the experiment, or
    of one of its runs. "changed": keys of the configuration that are others than planned for; with any there are no rows.
    """
    if (folder / DATABASE).is_file():
        folder = folder.absolute().parent
    if (plan := _read(folder)) is None:
        return None
    if (folder / CONFIG_FILE).is_file() and "configuration" in plan:
        now, then = _decides(configs.load(folder / CONFIG_FILE)), plan["configuration"]
        if changed := sorted(key for key in now.keys() | then.keys() if now.get(key) != then.get(key)):
            return {"finished": False, "changed": changed, "rows": {}}
    spent: dict[str, float] = defaultdict(float)  # seconds by phase
    for name in plan["runs"]:
        if (folder / name / DATABASE).is_file():
            with Store.open(folder / name, read=True) as store:
                for r, phase, seconds, _ in store.timings() if store.begun else ():
                    spent[phase] += seconds * (r >= plan.get("complete", {}).get(name, 0))
    finished = all(_standing(folder / name).finished for name in plan["runs"])
    rows = {f"seconds, {phase}": _row(span, spent[phase], finished) for phase, span in plan["seconds"].items()}
    rows["seconds, all"] = _row(plan["total_seconds"], sum(spent.values()), finished)
    if plan.get("measured_peak"):
        rows["peak memory"] = _row(plan["peak"], plan["measured_peak"], finished)
    rows["disk"] = _row(plan["disk"], _size(folder) - plan["disk_before"], finished)
    return {"finished": finished, "changed": [], "rows": rows}


def _row(planned: list[float], actual: float, finished: bool) -> dict[str, Any]:
    low, high = planned
    row: dict[str, Any] = {"planned": planned, "actual": actual, "error": None, "inside": None}
    if finished and low > 0:
        row |= {"error": actual / math.sqrt(low * high) - 1, "inside": low <= actual <= high}
    return row


def _read(folder: Path) -> dict[str, Any] | None:
    """The kept plan. Raises StoreError if it is damaged."""
    file = folder / PLAN_FILE
    if not file.is_file():
        return None
    try:
        plan = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{file}: cannot be read ({error}); delete it, it holds nothing but the plan") from error
    needed = {"runs", "seconds", "total_seconds", "peak", "disk", "disk_before"}
    if not isinstance(plan, dict) or not needed <= plan.keys():
        raise StoreError(f"{file}: is no plan of this release; delete it, it holds nothing but the plan")
    return plan


def _size(folder: Path) -> float:
    return float(sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())) if folder.is_dir() else 0.0


# --- words ----------------------------------------------------------------------------------------


_WHO = {
    "oracle": "answered by the gold answers in the data (a simulation)",
    "people": "answered by people",
    "endpoint": "answered by a model behind an endpoint",
}


def planning_text(facts: Mapping[str, Any]) -> str:
    """A plan for a terminal."""
    if not facts["runs"]:
        return f"nothing is left to run: {', '.join(facts['done'])}"
    lines = [f"{count(len(facts['runs']), 'run')} to go: {', '.join(facts['runs'])}"]
    lines.append(
        f"{count(facts['rounds'], 'round')}, {count(facts['labels'], 'label')} in all, {_WHO[facts['answered_by']]}"
    )
    lines.append(f"tokens: about {facts['tokens_a_prompt']:.0f} a prompt")
    lines += [
        f"  {kind}: {span(ends, lambda n: f'{n / 1e6:.1f} million' if n >= 1e6 else f'{n:,.0f}')}"
        for kind, ends in facts["tokens"].items()
    ]
    lines.append(f"time on this machine: {span(facts['total_seconds'], duration)}")
    lines += [f"  {phase}: {span(ends, duration)}" for phase, ends in facts["seconds"].items()]
    if (facts["load"] or 0) > BUSY:
        lines.append(f"  measured while {facts['load']:.1f} processes wanted each core: a run beside fewer is faster")
    lines.append(f"peak memory: {span(facts['peak'], gib)}{_of_machine(facts)}")
    for name, one in facts["memory"].items():
        parts = ", ".join(f"{part} {gib(size)}" for part, size in one["parts"].items() if size >= 2**20)
        lines.append(f"  {name}: {span(one['range'], gib)} ({parts})")
    free = facts["machine"]["disk"]
    lines.append(f"disk: {span(facts['disk'], gib)}" + (f", {gib(free)} free" if free else ""))
    lines.append(_labelling(facts))
    if weak := facts.get("weak_labels"):
        lines.append(
            f"weak labels: {count(weak, 'question')} to the endpoint, once for all runs; those that are kept cost nothing"
        )
    if any(facts["prices"].values()) or facts["money"]["total"][1]:
        money = facts["money"]
        parts = f"labels {span(money['labels'], _money)}, machine {span(money['machine'], _money)}"
        lines.append(f"money: {span(money['total'], _money)} {facts['currency']}".rstrip() + f" ({parts})")
    else:
        lines.append(
            "money: no price is known; give --label, --annotator-hour or --machine-hour, or the section `cost`"
        )
    return "\n".join(lines)


def compared_lines(comparison: Mapping[str, Any]) -> list[str]:
    """The plan beside the truth, a line each."""
    if comparison["changed"]:
        more = ", …" if len(comparison["changed"]) > 4 else ""
        return [f"the plan was made for another configuration ({', '.join(comparison['changed'][:4])}{more})"]
    lines = ["the plan beside the truth:" if comparison["finished"] else "the plan, and what was spent so far:"]
    for name, row in comparison["rows"].items():
        show: Callable[[float], str] = duration if name.startswith("seconds") else gib
        line = f"  {name.replace('seconds, ', 'time, ')}: {show(row['actual'])}, planned {span(row['planned'], show)}"
        if row["error"] is not None:
            line += f"; {row['error']:+.0%} of its middle, {'inside' if row['inside'] else 'OUTSIDE'}"
        lines.append(line)
    return lines


def _labelling(facts: Mapping[str, Any]) -> str:
    if facts["answered_by"] == "endpoint":
        return f"labelling: {facts['labels_asked']} questions to the endpoint"
    if facts["hours"] is None:
        return "labelling: no rate is known; give --rate LABELS_PER_HOUR, or cost.seconds_per_label"
    would = " if people answered" if facts["answered_by"] == "oracle" else ""
    return f"labelling: {span([h * 3600 for h in facts['hours']], duration)} for {facts['labels_asked']} answers{would}"


def _of_machine(facts: Mapping[str, Any]) -> str:
    machine = facts["machine"]
    if machine["gpu"]:
        return f", of {gib(machine['gpu'])} on the GPU"
    if machine["memory"] is None:
        return ""
    tight = machine["free"] is not None and facts["peak"][1] > machine["free"]
    free = f", {gib(machine['free'])} free" if machine["free"] is not None else ""
    return f", of {gib(machine['memory'])}{free}" + ("; it may not fit beside what runs now" if tight else "")


def _money(amount: float) -> str:
    return f"{amount:,.2f}"
