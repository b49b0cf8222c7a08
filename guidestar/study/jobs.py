"""Several processes on one study: each begins with another group of cells and takes the next that nobody holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from guidestar.progress import Progress
from guidestar.study import cells as engine
from guidestar.study.cells import Cell

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore::FutureWarning",
}  # fmt: skip


WORKER = "guidestar.study.worker"


def run_jobs(order: str, jobs: int, progress: Progress, worker: str = WORKER) -> tuple[dict[str, str], list[str]]:
    """Run a study's cells in `jobs` processes and wait for them; what they say comes with their number.

    worker: the module that is started with `order` and the process's share, "i/n"; the last line of its output is JSON:
    the cells that failed, and why.

    Returns the cells that failed in every process that tried them, with the reason, and sentences about processes that
    ended before their time. If this process is stopped, so are they.
    """
    environments = [environment(i, jobs, os.environ, os.cpu_count() or 1, devices()) for i in range(jobs)]
    begun: list[tuple[subprocess.Popen[str], list[threading.Thread], list[str]]] = []
    try:
        for i, env in enumerate(environments):
            command = [sys.executable, "-P", "-m", worker, order, f"{i + 1}/{jobs}"]
            process = subprocess.Popen(  # noqa: S603  # our own program
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", env=env
            )  # fmt: skip
            said: list[str] = []
            readers = [
                threading.Thread(target=_pass_on, args=(process.stderr, f"[{i + 1}] ", progress), daemon=True),
                threading.Thread(target=_collect, args=(process.stdout, said), daemon=True),
            ]
            for reader in readers:
                reader.start()
            begun.append((process, readers, said))
        codes = [process.wait() for process, _, _ in begun]
    finally:
        for process, _, _ in begun:
            if process.poll() is None:
                process.terminate()
                process.wait()
    failed: dict[str, str] = {}
    ended = []
    for i, (code, (_, readers, said)) in enumerate(zip(codes, begun, strict=True)):
        for reader in readers:
            reader.join()
        try:
            failed |= json.loads(said[-1])
        except (IndexError, ValueError):
            ended.append(f"process {i + 1} ended with code {code}")
    return failed, ended


def environment(i: int, jobs: int, here: Mapping[str, str], cores: int, devices: Sequence[str]) -> dict[str, str]:
    """The environment of process i: its share of the cores, and one device where there are several.

    >>> variables = environment(1, 2, {}, 8, ["0", "1"])
    >>> variables["OMP_NUM_THREADS"], variables["CUDA_VISIBLE_DEVICES"]
    ('4', '1')
    """
    variables = {**here, **_QUIET}
    limit = here.get("OMP_NUM_THREADS", "")
    threads = min(cores, int(limit)) if limit.isdigit() and int(limit) else cores
    variables |= dict.fromkeys(THREADS, str(max(1, threads // jobs)))
    if len(devices) > 1:
        variables["CUDA_VISIBLE_DEVICES"] = devices[i % len(devices)]
    return variables


def devices() -> list[str]:
    """The CUDA devices that this process may use."""
    if named := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return named.split(",")
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]


def rotated(cells: Sequence[Cell], part: int, parts: int) -> list[Cell]:
    """All cells, beginning with the part-th of `parts` shares of the groups and going round."""
    groups: dict[Any, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(engine.group_of(cell), []).append(cell)
    order = list(groups.values())
    begin = len(order) * (part - 1) // parts
    return [cell for group in order[begin:] + order[:begin] for cell in group]


def _pass_on(stream: Any, prefix: str, progress: Progress) -> None:
    with stream:
        for line in stream:
            progress.say(prefix + line.rstrip("\n"))


def _collect(stream: Any, lines: list[str]) -> None:
    with stream:
        lines += [line for line in stream if line.strip()]
