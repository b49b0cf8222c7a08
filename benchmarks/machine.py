"""What the machine can do, and a clock: seconds of one thread where others share the machine."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

Timed = dict[str, list[float]]


def describe(device: torch.device) -> dict[str, Any]:
    """Hardware and versions, as far as a time depends on them."""
    from guidestar.beginning import hardware, versions

    cpu = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    name = torch.cuda.get_device_name() if device.type == "cuda" else cpu
    return {
        "hardware": hardware() | {"name": name, "threads": torch.get_num_threads(), "capability": torch.backends.cpu.get_cpu_capability()},
        "versions": versions(),
    }  # fmt: skip


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines() if Path(path).exists() else []


def clock(device: torch.device) -> tuple[str, Callable[[], float]]:
    """CPU seconds where one thread does all the work (waiting for others does not count), else seconds by the wall."""
    if device.type == "cuda":

        def synchronised() -> float:
            torch.cuda.synchronize()
            return time.perf_counter()

        return "wall", synchronised
    if torch.get_num_threads() == 1:
        return "cpu", time.process_time
    return "wall", time.perf_counter


def side_by_side(works: dict[str, Callable[[], object]], repeats: int, now: Callable[[], float]) -> Timed:
    """Seconds of each piece of work, `repeats` times in turn. The first round warms up and is not kept, unless one
    round is all there is."""
    found: Timed = {name: [] for name in works}
    for i in range(repeats + (repeats > 1)):
        for name, work in works.items():
            start = now()
            work()
            if i or repeats == 1:
                found[name].append(now() - start)
    return found


def ratio(slow: Sequence[float], fast: Sequence[float]) -> dict[str, float]:
    """How many times as long `slow` takes: median of the turns, least and most."""
    turns = [a / b for a, b in zip(slow, fast, strict=True)]
    return {"median": statistics.median(turns), "least": min(turns), "most": max(turns)}


def matmul_speed(
    width: int, inner: int, tokens: int, dtype: torch.dtype, device: torch.device, now: Callable[[], float]
) -> float:
    """Multiply-adds × 2 a second of the model's largest layer on `tokens` tokens: the best of several."""
    x = torch.randn(tokens, width, device=device).to(dtype)
    w = torch.randn(inner, width, device=device).to(dtype)
    best, inside = float("inf"), 3
    with torch.inference_mode():
        for _ in range(12):
            start = now()
            for _ in range(inside):
                torch.nn.functional.linear(x, w)
            best = min(best, now() - start)
    return 2.0 * tokens * width * inner * inside / best


def flops(model: Any, tokens: float, answers: float) -> float:
    """Operations that a pass needs at least: two for each weight of the layers and each token, two for each weight
    of the vocabulary projection and each answer token, and attention's two products over half the square.

    The adapter is not in it: it can be folded into the weights. A prefix that is read once is in it.
    """
    config = model.config
    head = config.vocab_size * config.hidden_size
    embedded = {id(p) for m in (model.get_input_embeddings(), model.get_output_embeddings()) for p in m.parameters()}
    layers = sum(p.numel() for p in model.parameters() if id(p) not in embedded)
    attention = 2 * config.num_hidden_layers * config.hidden_size * tokens**2
    return 2.0 * layers * tokens + 2.0 * head * answers + attention
