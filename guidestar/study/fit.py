"""Whether a configuration fits this machine: its peak memory and its disk by formula, before any weight is loaded.

The model is built without weights, so that its size and the adapter's are counted and not guessed.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from guidestar.config import RunConfig
from guidestar.data.pool import Dataset
from guidestar.errors import ConfigError
from guidestar.metrics import memory
from guidestar.metrics.memory import GIB, Adapter, Range, Shape
from guidestar.query import strategies
from guidestar.tasks import Task, scored_labels

RUNTIME = (0.37 * GIB, 0.65 * GIB)  # Python with torch, transformers and peft: before a model, and after a run
CUDA_CONTEXT = 0.5 * GIB
SLACK = {"cpu": (1.0, 2.1), "cuda": (1.0, 1.3)}  # of what comes and goes: the C allocator keeps what it is given back
Peak = tuple[Range, dict[str, float]]  # bytes, and the parts at the lower end
STEADY = ("weights", "adapter", "gradients", "optimiser")
STORE, LABEL, REPORT = (90e3, 120e3), (500.0, 5e3), (90e3, 500e3)  # bytes of a database, of a label in it, of a report


@dataclass(frozen=True)
class Machine:
    """What there is, in bytes; None: not known. accelerator: memory of the GPU that would be used, None without one."""

    memory: float | None
    free: float | None
    disk: float | None
    accelerator: float | None = None


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
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) * 1024.0
    except (OSError, StopIteration, ValueError):
        return total, None
    try:
        limit = float(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
    except (OSError, ValueError):  # another system, or "max"
        limit = total
    return min(total, limit), min(free, limit)


# --- sizes ----------------------------------------------------------------------------------------


def skeleton(config: RunConfig) -> tuple[Any, Shape]:
    """The configured model without weights, and its sizes.

    Raises ModelError if the model is not there, ConfigError for a device that is not there.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    from guidestar.errors import ModelError
    from guidestar.model import device as devices
    from guidestar.model import load, quantized
    from guidestar.model.sources import reading, resolve

    options = reading(config.model)
    folder, _ = resolve(config.model)
    try:
        settings = AutoConfig.from_pretrained(folder, **options)
        headed = load.classifies_with_head(config.model, settings)
        kind = AutoModelForSequenceClassification if headed else AutoModelForCausalLM
        with torch.device("meta"):
            model = kind.from_config(settings, trust_remote_code=options["trust_remote_code"])
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"{folder}: cannot be read as a language model: {error}") from error
    text = settings.get_text_config()
    heads = int(getattr(text, "num_attention_heads", 1))
    width = int(getattr(text, "head_dim", None) or text.hidden_size // heads)
    keys = int(getattr(text, "num_key_value_heads", None) or heads)
    size = devices.precision_of(config.model.dtype, devices.named(config.model.device)).itemsize
    bits = quantized.bits_of(config.model, settings)
    packed = quantized.packable(model) if bits else []
    shape = Shape(
        parameters=sum(p.numel() for p in model.parameters()), layers=int(text.num_hidden_layers),
        hidden=int(text.hidden_size), inner=int(getattr(text, "intermediate_size", None) or 4 * text.hidden_size),
        queries=heads * width, keys=keys * width, vocabulary=settings.num_labels if headed else int(text.vocab_size), bytes=size,
        words=int(text.vocab_size), packed=sum(packed), bits=bits, largest=max(packed, default=0),
    )  # fmt: skip
    return model, shape


def adapter_of(config: RunConfig, model: Any, shape: Shape) -> Adapter:
    """What the configuration trains, counted on a model without weights, which is changed by it.

    Raises ConfigError for an adapter that does not fit.
    """
    import torch

    from guidestar.model import adapters, full, heads
    from guidestar.model import device as devices

    cuda = devices.named(config.model.device).type == "cuda"
    made = adapters.make_config(config.peft)
    if full.asked_for(config.peft):
        return Adapter(shape.parameters, [], shape.layers, mask=0, full=True)
    from peft import TaskType, get_peft_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    if model.get_output_embeddings() is None:
        made.task_type, made.modules_to_save = TaskType.SEQ_CLS, heads.names(model)
    try:
        with torch.device("meta"):
            adapted: Any = get_peft_model(model, made)
    except Exception as error:  # each type raises its own kinds
        raise ConfigError(f"peft: this adapter does not fit the model: {error}") from error
    layers = [(name, m) for name, m in adapted.named_modules() if isinstance(m, BaseTunerLayer)]
    at = [int(match[1]) for name, _ in layers if (match := re.search(r"\.(\d+)\.", name))]
    rank = int(getattr(made, "r", 0) or 0)
    return Adapter(
        numbers=sum(p.numel() for p in adapted.parameters() if p.requires_grad),
        inputs=[(int(getattr(m, "in_features", shape.hidden)), rank) for _, m in layers],
        depth=shape.layers - min(at, default=0),
        mask=(1 if cuda else 4) if any(v for k, v in vars(made).items() if k.endswith("dropout")) else 0,
        folded=0
        if cuda or shape.bits
        else sum(
            m.get_base_layer().weight.numel() for _, m in layers if hasattr(m.get_base_layer(), "weight")
        ),  # a GPU's copy is in main memory; packed weights are not folded into
    )


def pretrained(config: RunConfig, kind: str) -> Any:
    """The model's "AutoTokenizer" or "AutoConfig"; the weights stay on the disk. Raises ModelError if it cannot be read."""
    import transformers

    from guidestar.errors import ModelError
    from guidestar.model.sources import reading, resolve

    folder, _ = resolve(config.model)
    try:
        return getattr(transformers, kind).from_pretrained(folder, **reading(config.model))
    except (OSError, ValueError, KeyError) as error:  # among others code of its own, which is not run
        raise ModelError(f"{folder}: cannot be read as a language model: {error}") from error


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
    answers = tokenizer(words or [*islice(dataset.gold.values(), len(some))] or ["?"])["input_ids"]
    longest = max(len(row) for row in answers) + 1.0
    return Lengths(statistics.fmean(sizes), float(sizes[int(0.9 * (len(sizes) - 1))]), float(sizes[-1]), longest)


# --- what is needed -------------------------------------------------------------------------------


def peaks(config: RunConfig, shape: Shape, adapter: Adapter, lengths: Lengths, task: Task) -> dict[str, Peak]:
    """Peak bytes while training, while scoring, and with `tapt` while reading the pool: a range, and the parts at its lower
    end."""
    from guidestar.model import device as devices
    from guidestar.model import load, pretrain

    micro = min(config.train.micro_batch_size or config.train.batch_size, config.query.budget)
    whole = [min(float(config.model.max_length or 1e9), n + lengths.response) for n in (lengths.usual, lengths.longest)]
    again = bool(config.train.checkpointing)
    low, high = (memory.training(shape, adapter, micro, n, lengths.response, again) for n in whole)
    needs = [strategies.needs(strategies.resolve(item), task.family) for item in config.strategies]
    written_out = any(name.startswith(("response_", "answer_")) for pair in needs for part in pair for name in part)
    new = 0 if scored_labels(task) and not written_out else task.max_new_tokens
    device = devices.named(config.model.device)
    read, written = load.batch_sizes(config.model, device)
    budget = max(float(written if new else read), lengths.longest)
    rows = max(1.0, budget / max(lengths.mean + new, 1.0))
    other = config.model.score_dtype and devices.precision_of(config.model.score_dtype, device).itemsize
    score = memory.scoring(
        shape, adapter, max(budget - rows * new, lengths.longest), rows, lengths.response, new, other or None
    )
    needed = {"training": (_range(config, low, high), low), "scoring": (_range(config, score, score), score)}
    if config.tapt is not None:
        share = config.tapt.mask if shape.words != shape.vocabulary else 1.0
        most = max(float(pretrain.MOST), lengths.longest)  # of a forward pass; rows of similar length come together
        together = [min(config.tapt.batch_size * n, most) for n in (lengths.usual, lengths.longest)]
        low, high = (memory.pretraining(shape, adapter, n, share * n) for n in together)
        needed["pretraining"] = (_range(config, low, high), low)
    return needed


def _range(config: RunConfig, low: dict[str, float], high: dict[str, float]) -> Range:
    import torch

    from guidestar.model import device as devices

    kind = devices.named(config.model.device).type
    slack = SLACK["cuda" if kind == "cuda" else "cpu"]
    runtime = (CUDA_CONTEXT, CUDA_CONTEXT) if kind == "cuda" and torch.cuda.is_available() else RUNTIME
    return memory.peak(low, runtime[0], slack, STEADY)[0], memory.peak(high, runtime[1], slack, STEADY)[1]


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


# --- refusing -------------------------------------------------------------------------------------


def refusals(
    config: RunConfig, machine: Machine, dataset: Dataset, runs: int, lengths: Lengths
) -> tuple[list[str], dict[str, Any]]:
    """What cannot fit, each with what would; and the needs as JSON-able data."""
    shape, adapter = sizes_of(config)
    needed = peaks(config, shape, adapter, lengths, dataset.task)
    need = _most(needed)
    room, where = (machine.accelerator, "the GPU's") if machine.accelerator else (machine.memory, "this machine's")
    problems = []
    if room is not None and need[0] > room:
        problems.append(
            f"memory: at least {gib(need[0])} are needed, {where} {gib(room)} are there; "
            + _would(config, room, lambda c: _most(peaks_of(c, lengths, dataset.task))[0])
        )
    taken = disk(config, shape, adapter, dataset, runs)
    if machine.disk is not None and taken[0] > machine.disk:
        problems.append(
            f"disk: at least {gib(taken[0])} are needed, {gib(machine.disk)} are free; "
            + _would(config, machine.disk, lambda c: disk(c, *sizes_of(c), dataset, runs)[0], _ON_DISK)
            + "; or set `out` to another disk"
        )
    facts = {
        "memory": {name: {"range": list(r), "parts": parts} for name, (r, parts) in needed.items()},
        "peak": list(need),
        "disk": list(taken),
        "machine": {"memory": machine.memory, "free": machine.free, "disk": machine.disk, "gpu": machine.accelerator},
        "sizes": {"parameters": shape.parameters, "trained": adapter.numbers, "bytes": shape.bytes},
    }
    return problems, facts


def sizes_of(config: RunConfig) -> tuple[Shape, Adapter]:
    """The sizes of a configuration's model and of its adapter."""
    model, shape = skeleton(config)
    return shape, adapter_of(config, model, shape)


def peaks_of(config: RunConfig, lengths: Lengths, task: Task) -> dict[str, Peak]:
    """`peaks` of a configuration from its model and adapter on."""
    return peaks(config, *sizes_of(config), lengths, task)


def _most(needed: dict[str, Peak]) -> Range:
    return max(low for (low, _), _ in needed.values()), max(high for (_, high), _ in needed.values())


Change = tuple[str, Callable[[RunConfig], RunConfig]]


def _set(config: RunConfig, section: str, **values: Any) -> RunConfig:
    return config.model_copy(update={section: getattr(config, section).model_copy(update=values)})


def _at_most(section: str, key: str, most: int) -> Change:
    """A key's value lowered to `most`, where it is more or not set."""
    return f"{section}.{key}: {most}", lambda c: _set(
        c, section, **{key: min(getattr(getattr(c, section), key) or most, most)}
    )


def _full(config: RunConfig) -> bool:
    return str(config.peft.get("peft_type", "")).upper() == "FULL"


def _lora(config: RunConfig) -> RunConfig:
    default = RunConfig.model_fields["peft"].get_default(call_default_factory=True)
    return config.model_copy(update={"peft": default}) if _full(config) else config


def _four_bits(config: RunConfig) -> RunConfig:
    """QLoRA; not for encoders, and packed weights have one precision."""
    from guidestar.model import load

    whole = _full(config) or config.model.score_dtype or load.is_encoder(pretrained(config, "AutoConfig"))
    return config if whole else _set(config, "model", quantize="nf4")


def _fewer_rounds(config: RunConfig) -> RunConfig:
    half = -(-(config.query.budget - config.query.warm_start) // 2)
    return config if config.query.rounds <= 3 else _set(config, "query", batch=half)


# Cheapest first: what changes no result, then what changes it little, then the rest.
_IN_MEMORY: list[Change] = [
    _at_most("train", "micro_batch_size", 1),
    ("train.checkpointing: true", lambda config: _set(config, "train", checkpointing=True)),
    _at_most("model", "batch_tokens", 256),
    ("model.dtype: bfloat16", lambda config: _set(config, "model", dtype="bfloat16")),
    ("model.quantize: nf4", _four_bits),
    ("peft: {peft_type: LORA} in place of FULL", _lora),
]
_ON_DISK: list[Change] = [
    _at_most("query", "candidates", 1000),
    ("fewer rounds, by a larger query.batch", _fewer_rounds),
    ("peft: {peft_type: LORA} in place of FULL", _lora),
]


def _would(
    config: RunConfig, room: float, need: Callable[[RunConfig], float], changes: Sequence[Change] = _IN_MEMORY
) -> str:
    """Single changes that fit; else all of them together, as far as they are needed."""
    single = [(name, after) for name, change in changes if (after := need(change(config))) <= room]
    if single:
        return "what would fit: " + " or ".join(f"{name} ({gib(after)})" for name, after in single)
    together, least, used = config, need(config), []
    for name, change in changes:
        if (after := need(made := change(together))) < least:
            together, least = made, after
            used.append(name)
            if least <= room:
                return f"what would fit: {' with '.join(used)} ({gib(least)})"
    smaller = "a smaller model, or another machine"
    return f"nothing that is left to change would fit ({', '.join(used) or 'all is at its least'}): take {smaller}"


def gib(size: float) -> str:
    """Bytes in a unit that suits them.

    >>> gib(3 * 2**30), gib(20e6)
    ('3.0 GiB', '19 MiB')
    """
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.0f} MiB"
