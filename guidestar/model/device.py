"""The device a model is on: which one, in which precision, its random numbers, copies to it, and how much it reads at once.

On a CPU equal seeds give equal bits. A GPU's sums depend on its kernels: there equal means within a tolerance.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from guidestar.errors import ConfigError
from guidestar.progress import settle

# By device: padded tokens of a batch that is read (on a CPU what its caches hold), and of one that responses are written
# for, where every step reads all weights for one token of each row. On a GPU where a probe begins.
READ = {"cpu": 1024, "cuda": 8192, "other": 2048}
WRITTEN = {"cpu": 16384, "cuda": 8192, "other": 2048}
MOST = 1 << 16  # padded tokens of a batch that a probe goes up to
PROBE = 128  # tokens of a row in the probe


def named(name: str) -> torch.device:
    """The device of `model.device`; of several processes on one machine each has a GPU of its own.

    Raises ConfigError for one that this machine cannot use.
    """
    if name == "auto":
        if torch.cuda.is_available():
            own = os.environ.get("LOCAL_RANK")  # set by torchrun
            return torch.device("cuda" if own is None else f"cuda:{int(own) % torch.cuda.device_count()}")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"model.device is {name!r}, which this machine cannot use: {error}") from error
    return device


def precision_of(name: str, device: torch.device) -> torch.dtype:
    """The precision of `model.dtype`: auto is bfloat16 where the device has it, else float16 on a GPU and float32 elsewhere."""
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu":
        native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
        return torch.bfloat16 if native else torch.float32
    return torch.float32


def prepare(device: torch.device) -> None:
    """Set what a GPU computes float32 products in: TF32, which has ten bits of bfloat16's seven and float32's range."""
    if device.type == "cuda":
        if device.index is not None:
            torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers by `seed` on the CPU and on one device while the block lasts; both generators are put back after it,
    and other devices' are not touched."""
    cuda = device.type == "cuda"
    own = [torch.cuda.current_device() if device.index is None else device] if cuda else []
    with torch.random.fork_rng(devices=own):
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        elif device.type == "mps":
            torch.mps.manual_seed(seed)
        yield


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A CPU tensor on the device; a GPU copies from pinned memory while the program goes on."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def free_memory(device: torch.device) -> float:
    """Bytes that are left on a GPU, with what PyTorch keeps for itself; without end elsewhere."""
    if device.type != "cuda":
        return float("inf")
    free, _ = torch.cuda.mem_get_info(device)
    return float(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


def largest_worth(seconds: Callable[[int], float | None], start: int, most: int = MOST, gain: float = 0.05) -> int:
    """The batch size, in tokens, up to which doubling makes a token cheaper by at least `gain`.

    seconds: those of a batch of so many tokens; None where memory is too short for it. From `start` on upwards, or
    downwards where `start` itself does not fit.

    >>> largest_worth(lambda tokens: 1.0 + tokens / 4096, start=1024)
    65536
    >>> largest_worth(lambda tokens: None if tokens > 512 else 1.0, start=2048)
    512
    """
    best, rate = start, None
    while best > PROBE and (spent := seconds(best)) is None:
        best //= 2
    if best < start:
        return best
    while (tokens := 2 * best) <= most:
        rate = (spent or 0.0) / best
        spent = seconds(tokens)
        if spent is None or spent / tokens > rate * (1 - gain):
            break
        best = tokens
    return best


def timed_pass(model: Any, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> Any:
    """Seconds of a reading pass over so many tokens, in rows of `PROBE`; None where it needs more than half of the memory
    that is free, so that the answers' logits have room. The first call of a size pays for what is loaded lazily."""

    @torch.inference_mode()
    def seconds(tokens: int) -> float | None:
        width = min(PROBE, int(getattr(model.config, "max_position_embeddings", None) or PROBE))
        ids = torch.ones((max(tokens // width, 1), width), dtype=torch.long, device=device)
        room = free_memory(device)
        try:
            for _ in range(2):
                settle()
                if device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats(device)
                    held = torch.cuda.memory_allocated(device)
                start = clock()
                model.base_model(input_ids=ids)
                settle()
            if device.type == "cuda" and torch.cuda.max_memory_allocated(device) - held > room / 2:
                return None
            return clock() - start
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            return None

    return seconds
