"""What this machine has, how fast it works, and whether a configuration fits it.

Peak memory and disk come by formula, before any weight is loaded; seconds from a short measurement with the run's own
model and data.
"""

from __future__ import annotations

import itertools
import os
import resource
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from guidestar.asking import Ask, Lesson, Scorer
from guidestar.bench import Bench
from guidestar.config import RunConfig
from guidestar.data.pool import Dataset
from guidestar.metrics import memory
from guidestar.metrics.memory import GIB, Adapter, Range, Shape
from guidestar.model.sizes import pretrained, sizes_of
from guidestar.phases import FIXED
from guidestar.progress import settle
from guidestar.query import strategies
from guidestar.records import Example
from guidestar.tasks import Task, scored_labels

RUNTIME = (0.37 * GIB, 0.65 * GIB)  # Python with torch, transformers and peft: before a model, and after a run
CUDA_CONTEXT = 0.5 * GIB
SLACK = {"cpu": (1.0, 2.1), "cuda": (1.0, 1.3)}  # of what comes and goes: the C allocator keeps what it is given back
STEADY = ("weights", "adapter", "gradients", "optimiser")
STORE, LABEL, REPORT = (90e3, 120e3), (500.0, 5e3), (90e3, 500e3)  # bytes of a database, of a label in it, of a report
SAMPLE = {"train": 3, "labels": 32, "gold": 16, "generated": 4}  # batches to train on; examples to predict
TRAINING = (0.8, 1.4)  # factors of the fastest and the slowest measured batch that make the ends of a range
SCORING = (0.6, 2.0)  # the same for scoring, where short calls are measured; docs/planning.md
MOMENT = 1.0  # seconds to measure scoring at least: beside other processes a short call may be served at once

Clock = Callable[[], float]
Rates = dict[str, Range]  # kind of work -> seconds an example; of `FIXED` seconds a training


@dataclass(frozen=True)
class Machine:
    """What there is, in bytes; None: not known. gpu: memory of the one that would be used, None without one."""

    memory: float | None
    free: float | None
    disk: float | None
    gpu: float | None = None

    def beside(self, peak: Range) -> str:
        """What there is of the memory that is needed, as the end of a line."""
        if self.gpu:
            return f", of {gib(self.gpu)} on the GPU"
        if self.memory is None:
            return ""
        tight = self.free is not None and peak[1] > self.free
        free = f", {gib(self.free)} free" if self.free is not None else ""
        return f", of {gib(self.memory)}{free}" + ("; it may not fit beside what runs now" if tight else "")


@dataclass(frozen=True)
class Peak:
    """The most memory of one kind of work. range: bytes. parts: their sizes at the lower end."""

    range: Range
    parts: Mapping[str, float]


@dataclass(frozen=True)
class Needs:
    """What the runs of a configuration take, in bytes. memory: of each kind of work. sizes: of the model and of its adapter."""

    memory: Mapping[str, Peak]
    disk: Range
    sizes: tuple[Shape, Adapter]

    @property
    def peak(self) -> Range:
        """The most memory of all work."""
        lows, highs = zip(*(one.range for one in self.memory.values()), strict=True)
        return max(lows), max(highs)

    def plain(self) -> dict[str, Any]:
        """As JSON-able data."""
        shape, adapter = self.sizes
        sizes = {"parameters": shape.parameters, "trained": adapter.numbers, "bytes": shape.bytes}
        memory = {name: asdict(one) for name, one in self.memory.items()}
        return {"memory": memory, "peak": self.peak, "disk": self.disk, "sizes": sizes}


@dataclass(frozen=True)
class Lengths:
    """Tokens: of prompts, with `usual` that of most (nine of ten) and `longest`; of a response, at most."""

    mean: float
    usual: float
    longest: float
    response: float


def this_machine(folder: Path, device: str, spread: bool = False) -> Machine:
    """The memory that this process may use, and the disk behind `folder`. spread: the model over all GPUs
    (`model.device_map`)."""
    total, free = _main_memory()
    place = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.is_dir())
    gpu = None
    if device == "auto" or device.startswith("cuda"):
        import torch

        if torch.cuda.is_available():
            one = torch.device("cuda" if device == "auto" else device)
            every = range(torch.cuda.device_count()) if spread else [one]
            gpu = float(sum(torch.cuda.get_device_properties(at).total_memory for at in every))
    return Machine(total, free, float(shutil.disk_usage(place).free), gpu)


def _main_memory() -> tuple[float | None, float | None]:
    """(total, free) bytes of the machine, or of the control group where that is less; None where nobody says."""
    try:
        total = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return None, None
    try:
        limit = float(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
    except (OSError, ValueError):  # another system, or "max"
        limit = total
    free = _kernel("/proc/meminfo", "MemAvailable:")
    return min(total, limit), None if free is None else min(free, limit)


def _kernel(file: str, name: str) -> float | None:
    """Bytes that Linux says of something, in lines of `Name: 1234 kB`; None elsewhere."""
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
        return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith(name))
    except (OSError, StopIteration, ValueError):
        return None


def peak_memory() -> float:
    """The most main memory that this process has used, or the GPU's where one was used; bytes."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and (used := torch.cuda.max_memory_reserved()):
        return float(used)
    if (most := _kernel("/proc/self/status", "VmHWM:")) is not None:
        return most
    unit = 1 if sys.platform == "darwin" else 1024  # and a process's count begins with its parent's
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


# --- what is needed -------------------------------------------------------------------------------


def lengths_of(config: RunConfig, dataset: Dataset) -> Lengths:
    """Tokens of at most 2,000 prompts of the pool and the test set, by the model's tokenizer alone, as far as they fit its
    context: longer ones are cut or left out before a run begins."""
    tokenizer = pretrained(config, "AutoTokenizer")
    own = getattr(pretrained(config, "AutoConfig").get_text_config(), "max_position_embeddings", None) or 0
    context = min(config.model.max_length or 1 << 30, own if own > 0 else 1 << 30)
    pool, test = dataset.pool, dataset.test.examples if dataset.test else ()
    every = len(pool) + len(test)
    some = [pool[i] if i < len(pool) else test[i - len(pool)] for i in range(0, every, -(-every // 2000))]
    rows = tokenizer([e.prompt for e in some], add_special_tokens=not config.model.chat)["input_ids"]
    sizes = sorted(min(len(row), context) for row in rows if len(row) <= context or config.data.too_long == "truncate")
    sizes = sizes or [context]
    task = dataset.task
    words = [task.response_text(label) for label in scored_labels(task)]
    answers = tokenizer(words or [*itertools.islice(dataset.gold.values(), len(some))] or ["?"])["input_ids"]
    longest = max(len(row) for row in answers) + 1.0
    return Lengths(statistics.fmean(sizes), float(sizes[int(0.9 * (len(sizes) - 1))]), float(sizes[-1]), longest)


def needs_of(config: RunConfig, dataset: Dataset, lengths: Lengths, runs: int) -> Needs:
    """What `runs` runs of a configuration need."""
    sizes = sizes_of(config)
    return Needs(peaks(config, *sizes, lengths, dataset.task), disk(config, *sizes, dataset, runs), sizes)


def peaks(config: RunConfig, shape: Shape, adapter: Adapter, lengths: Lengths, task: Task) -> dict[str, Peak]:
    """The peaks of training, of scoring, and with `tapt` of reading the pool."""
    import torch

    from guidestar.model import device as devices
    from guidestar.model import load, pretrain

    device = devices.named(config.model.device)
    slack = SLACK["cuda" if device.type == "cuda" else "cpu"]
    on_gpu = device.type == "cuda" and torch.cuda.is_available()
    runtime = (CUDA_CONTEXT, CUDA_CONTEXT) if on_gpu else RUNTIME

    def between(low: dict[str, float], high: dict[str, float]) -> Peak:
        ends = [memory.peak(parts, own, slack, STEADY) for parts, own in zip((low, high), runtime, strict=True)]
        return Peak((ends[0][0], ends[1][1]), low)

    micro = min(config.train.micro_batch_size or config.train.batch_size, config.query.budget)
    whole = [min(float(config.model.max_length or 1e9), n + lengths.response) for n in (lengths.usual, lengths.longest)]
    again = bool(config.train.checkpointing)
    training = between(*(memory.training(shape, adapter, micro, n, lengths.response, again) for n in whole))
    needs = [strategies.needs(strategies.resolve(item), task.family) for item in config.strategies]
    written_out = any(name.startswith(("response_", "answer_")) for pair in needs for part in pair for name in part)
    new = 0 if scored_labels(task) and not written_out else task.max_new_tokens
    read, written = load.batch_sizes(config.model, device)
    budget = max(float(written if new else read), lengths.longest)
    rows = max(1.0, budget / max(lengths.mean + new, 1.0))
    other = config.model.score_dtype and devices.precision_of(config.model.score_dtype, device).itemsize
    prompts = max(budget - rows * new, lengths.longest)
    score = memory.scoring(shape, adapter, prompts, rows, lengths.response, new, other or None)
    needed = {"training": training, "scoring": between(score, score)}
    if config.tapt is not None:
        share = config.tapt.mask if shape.words != shape.vocabulary else 1.0
        most = max(float(pretrain.MOST), lengths.longest)  # of a forward pass; rows of similar length come together
        together = [min(config.tapt.batch_size * n, most) for n in (lengths.usual, lengths.longest)]
        needed["pretraining"] = between(*(memory.pretraining(shape, adapter, n, share * n) for n in together))
    return needed


def disk(config: RunConfig, shape: Shape, adapter: Adapter, dataset: Dataset, runs: int) -> Range:
    """Bytes that `runs` runs of this configuration leave: adapters, arrays, databases, the cache, the report."""
    rounds, labels = config.query.rounds, config.query.budget
    classes = len(scored_labels(dataset.task)) or 1
    weights = adapter.numbers * (shape.bytes if adapter.full else 4.0)
    committees = [(strategies.resolve(item).committee or 1) - 1 for item in config.strategies]
    members = runs / len(committees) * sum(committees) * (rounds - 1)
    beside = (1e6, 20e6) if adapter.full else (5e3, 30e3)  # of each adapter: a tokenizer, or PEFT's configuration
    scored = min(config.query.candidates or len(dataset.pool), len(dataset.pool)) * (rounds - 1)
    measured = (len(dataset.test) if dataset.test else 0) * (rounds + 1)
    base = scored if config.query.candidates else len(dataset.pool)
    low, high = (
        runs * (rounds * (weights + beside[i]) + scored * one + measured * (4 * classes + 10) + STORE[i] + labels * LABEL[i])
        + members * (weights + beside[i]) + REPORT[i] + base * (4.0 * classes + 40 + (4.0 * shape.hidden if i else 0))  # where states are kept, too
        for i, one in enumerate((30, 150))
    )  # fmt: skip
    return low, high


# --- measuring ----------------------------------------------------------------------------------


def measure(bench: Bench, config: RunConfig, kinds: set[str], rates: Rates, clock: Clock) -> None:
    """Add to `rates` each kind of work that is not known yet."""
    left = (kinds | {"train", FIXED}) - rates.keys()
    if not left:
        return
    engine, new = bench.engine, Rates()

    def now() -> float:
        settle()
        return clock()

    for kind in sorted(k for k in left if k.startswith("base ")):
        new[kind] = _predicting(bench, engine.scorer(), kind.removeprefix("base "), now)
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
        new["train"] = _widened([step / min(size, len(rows)) for step in steps])
        new[FIXED] = _widened([max(end - ticks[0] - sum(steps) - statistics.fmean(steps), 0.0)])
        if ours := sorted(k for k in left - {"train", FIXED} if not k.startswith("base ")):
            with engine.scorer(place) as scorer:
                new |= {kind: _predicting(bench, scorer, kind, now) for kind in ours}
    rates |= new


def _rows(bench: Bench, count: int) -> list[tuple[Example, str]]:
    """Examples to train on, those with a gold answer first; where nobody has answered yet, any answer takes as long."""
    data = bench.fitting
    known = [(e, data.gold[e.id]) for e in data.pool if e.id in data.gold][:count]
    return known + [(e, data.task.stand_in) for e in data.pool if e.id not in data.gold][: count - len(known)]


def _predicting(bench: Bench, scorer: Scorer, kind: str, clock: Clock) -> Range:
    """Seconds an example of one pass. Generation ends early where an answer does: the range allows for that."""
    needs = {"labels": "label_log_probs", "gold": "gold_nll", "generated": "response_entropy"}[kind]
    data = bench.fitting
    examples = list(data.pool[:: max(1, len(data.pool) // SAMPLE[kind])])[: SAMPLE[kind]]
    if kind == "labels" and not (scored_labels(data.task) and scorer.can(Ask.of([needs]))):
        needs = "embedding"  # an untrained head says nothing

    def call() -> float:
        start = clock()
        scorer(examples, Ask.of([needs], gold=data.gold if kind == "gold" else None))
        return clock() - start

    if kind != "generated":
        call()  # the first short call pays for what is loaded lazily
    times = [call()]
    while sum(times) < MOMENT:
        times.append(call())
    taken = statistics.fmean(times) / len(examples)
    low, high = (taken * factor for factor in SCORING)
    return (low * _early(bench) if kind == "generated" else low, high)


def _early(bench: Bench) -> float:
    """How much shorter gold responses are than the limit of generated ones; in (0, 1]."""
    from guidestar.model.batches import encode_response

    data = bench.fitting
    pairs = [(e, data.gold[e.id]) for e in data.pool[: SAMPLE["generated"]] if e.id in data.gold]
    lengths = [len(encode_response(bench.base, e.prompt, data.task.response_text(a))) + 1 for e, a in pairs]
    return min(1.0, max(lengths, default=1) / data.task.max_new_tokens)


def _widened(times: Sequence[float]) -> Range:
    return min(times) * TRAINING[0], max(times) * TRAINING[1]


# --- refusing -------------------------------------------------------------------------------------


def refusals(config: RunConfig, needs: Needs, machine: Machine, need: Callable[[RunConfig], Needs]) -> list[str]:
    """What cannot fit, each with what would. need: what a changed configuration needs."""
    problems = []
    room, where = (machine.gpu, "the GPU's") if machine.gpu else (machine.memory, "this machine's")
    if room is not None and (least := needs.peak[0]) > room:
        would = _would(config, room, lambda c: need(c).peak[0], _IN_MEMORY)
        problems.append(f"memory: at least {gib(least)} are needed, {where} {gib(room)} are there; {would}")
    if machine.disk is not None and (least := needs.disk[0]) > machine.disk:
        would = _would(config, machine.disk, lambda c: need(c).disk[0], _ON_DISK)
        problems.append(
            f"disk: at least {gib(least)} are needed, {gib(machine.disk)} are free; {would}; or set `out` to another disk"
        )
    return problems


@dataclass(frozen=True)
class Change:
    """A way to need less. key: of the configuration. value: what it becomes; as it is where the change does not go."""

    said: str
    key: str
    value: Callable[[RunConfig], Any]

    def __call__(self, config: RunConfig) -> RunConfig:
        """A changed copy."""
        section, _, name = self.key.partition(".")
        value = self.value(config)
        part = getattr(config, section).model_copy(update={name: value}) if name else value
        return config.model_copy(update={section: part})


def _full(config: RunConfig) -> bool:
    return str(config.peft.get("peft_type", "")).upper() == "FULL"


def _adapter(config: RunConfig) -> Any:
    return RunConfig.model_fields["peft"].get_default(call_default_factory=True) if _full(config) else config.peft


def _packed(config: RunConfig) -> Any:
    """QLoRA; not for encoders, and packed weights have one precision."""
    from guidestar.model import load

    whole = _full(config) or config.model.score_dtype or load.is_encoder(pretrained(config, "AutoConfig"))
    return config.model.quantize if whole else "nf4"


def _batch(config: RunConfig) -> int:
    query = config.query
    return query.batch if query.rounds <= 3 else -(-(query.budget - query.warm_start) // 2)


# Cheapest first: what changes no result, then what changes it little, then the rest.
_LORA = Change("peft: {peft_type: LORA} in place of FULL", "peft", _adapter)
_IN_MEMORY = [
    Change("train.micro_batch_size: 1", "train.micro_batch_size", lambda c: 1),
    Change("train.checkpointing: true", "train.checkpointing", lambda c: True),
    Change("model.batch_tokens: 256", "model.batch_tokens", lambda c: min(c.model.batch_tokens or 256, 256)),
    Change("model.dtype: bfloat16", "model.dtype", lambda c: "bfloat16"),
    Change("model.quantize: nf4", "model.quantize", _packed),
    _LORA,
]
_ON_DISK = [
    Change("query.candidates: 1000", "query.candidates", lambda c: min(c.query.candidates or 1000, 1000)),
    Change("fewer rounds, by a larger query.batch", "query.batch", _batch),
    _LORA,
]


def _would(config: RunConfig, room: float, need: Callable[[RunConfig], float], changes: Sequence[Change]) -> str:
    """Single changes that fit; else all of them together, as far as they are needed."""
    if single := [f"{one.said} ({gib(after)})" for one in changes if (after := need(one(config))) <= room]:
        return "what would fit: " + " or ".join(single)
    together, least, used = config, need(config), []
    for change in changes:
        if (after := need(made := change(together))) < least:
            together, least = made, after
            used.append(change.said)
            if least <= room:
                return f"what would fit: {' with '.join(used)} ({gib(least)})"
    said = ", ".join(used) or "all is at its least"
    return f"nothing that is left to change would fit ({said}): take a smaller model, or another machine"


def gib(size: float) -> str:
    """Bytes in a unit that suits them.

    >>> gib(3 * 2**30), gib(20e6)
    ('3.0 GiB', '19 MiB')
    """
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.0f} MiB"
