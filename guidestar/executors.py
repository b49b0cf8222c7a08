"""Work spread over processes: on this machine or elsewhere, one class an engine.

An item is JSON-able. What is made of it is a file or folder under its fingerprint, published by renaming, so that an item
which is done twice is as one done once, and one whose result is there need not be done. So an engine promises little: every
item is done at least once, or named with the reason why not. An item whose worker is lost (killed, out of memory, a machine
that is gone) is done again by another, `AGAIN` times at most.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, final

from guidestar.errors import GuidestarError
from guidestar.progress import Progress
from guidestar.query.own import VARIABLE, load_inherited
from guidestar.sections import WorkersConfig

AGAIN = 2  # times that an item is done again after its worker was lost
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore::FutureWarning",
}  # fmt: skip

Item = Mapping[str, Any]


class Lost(Exception):
    """A worker ended before it answered, and how."""


class Worker(ABC):
    """One process that does items one after the other."""

    @abstractmethod
    def do(self, order: str) -> str | None:
        """Have `perform` done with an order as JSON: None, or why the item failed. Raises Lost if the worker is no more."""

    @abstractmethod
    def stop(self) -> None:
        """End the worker, whatever it is doing."""


class Executor(ABC):
    """Has items done by workers, of which each begins with the next item as soon as it has done one."""

    def __init__(self, settings: WorkersConfig, news: Progress) -> None:
        self.settings, self.news = settings, news
        self._workers: dict[int, Worker] = {}
        self._over = False

    @abstractmethod
    def begin(self, i: int) -> Worker:
        """Start worker i, counted from 0."""

    def run(
        self, call: str, common: Item, items: Mapping[str, Item], groups: Mapping[str, object] | None = None
    ) -> dict[str, str]:
        """Have every item done. Returns those that failed, name -> reason.

        call: "module:function", called in a worker as function(common, item); it returns None, or why the item failed.
        items: by name, in the order to begin them. groups: name -> what those have in common which a worker had best do one
        after the other. If this call is ended, so are the workers.
        """
        todo, failed = _Items(items, groups or {}), dict[str, str]()
        head = {"call": call, "common": common, "folder": os.getcwd(), "code": os.environ.get(VARIABLE)}

        def serve(i: int) -> None:
            group: object = None
            while not self._over and (name := todo.take(group)) is not None:
                group = todo.groups.get(name)
                try:
                    if i not in self._workers:
                        self._workers[i] = self.begin(i)
                    if self._over:  # set before the workers are stopped, this one maybe not among them
                        return self._workers[i].stop()
                    why = self._workers[i].do(json.dumps({**head, "item": items[name]}))
                except Lost as lost:
                    self._workers.pop(i).stop()
                    if self._over:
                        return
                    if todo.again(name):
                        self.news.say(f"{lost}; {name} is done again")
                        continue
                    why = f"its worker was lost {AGAIN + 1} times, the last time because {lost}"
                if why is not None:
                    failed[name] = why

        count = min(self.settings.workers, len(items))
        with ThreadPoolExecutor(max(count, 1)) as pool:
            try:
                for served in [pool.submit(serve, i) for i in range(count)]:
                    served.result()
            finally:
                self._over = True
                for worker in list(self._workers.values()):
                    worker.stop()
        return failed


class _Items:
    """The items that wait for a worker, in order. groups: name -> group."""

    def __init__(self, names: Mapping[str, Any], groups: Mapping[str, object]) -> None:
        self.groups = groups
        self._waiting, self._begun = list(names), set[object]()
        self._lost, self._lock = Counter[str](), threading.Lock()

    def take(self, group: object) -> str | None:
        """The next item: of this group, else of one that nobody has begun, else the first. None if none waits."""
        with self._lock:
            if not self._waiting:
                return None

            def far(name: str) -> int:
                own = self.groups.get(name)
                return 0 if own == group else 1 if own not in self._begun else 2

            name = min(self._waiting, key=far)
            self._waiting.remove(name)
            self._begun.add(self.groups.get(name))
            return name

    def again(self, name: str) -> bool:
        """Put an item back whose worker was lost; False if that was once too often."""
        with self._lock:
            self._lost[name] += 1
            if self._lost[name] > AGAIN:
                return False
            self._waiting.insert(0, name)
            return True


def perform(order: Mapping[str, Any]) -> str | None:
    """Do one item in a worker; None, or why it failed."""
    try:
        os.chdir(order["folder"])
        if order["code"] and os.environ.get(VARIABLE) != order["code"]:  # a machine that inherited no environment
            os.environ[VARIABLE] = order["code"]
            load_inherited()
        module, _, name = order["call"].partition(":")
        why: str | None = getattr(importlib.import_module(module), name)(order["common"], order["item"])
    except GuidestarError as error:
        return str(error)
    except Exception as error:  # torch and PEFT raise many kinds; one item must not end the others
        return f"{type(error).__name__}: {error}"
    return why


# --- processes on this machine --------------------------------------------------------------------


@final
class Local(Executor):
    """Processes on this machine, each with its share of the threads, and one GPU where there are several."""

    def begin(self, i: int) -> Worker:
        environment = share(i, self.settings.workers, os.environ, os.cpu_count() or 1, devices())
        return _Process(i + 1, environment, self.news)


@final
class _Process(Worker):
    """A process that reads an order a line and answers with a line; what it says otherwise comes with its number."""

    def __init__(self, number: int, environment: Mapping[str, str], news: Progress) -> None:
        self.number = number
        self.process = subprocess.Popen(  # our own program
            [sys.executable, "-P", "-m", "guidestar.executors"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, encoding="utf-8", env=dict(environment),
        )  # fmt: skip
        self.listener = threading.Thread(target=self._listen, args=(news,), daemon=True)
        self.listener.start()

    def do(self, order: str) -> str | None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(order + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except (OSError, ValueError):  # a pipe that is closed, there or by `stop` here
            answer = ""
        if not answer.endswith("\n"):
            raise Lost(f"process {self.number} ended with code {self.process.wait()}")
        why: str | None = json.loads(answer)
        return why

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()
        self.listener.join()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            with suppress(OSError):  # what was not read there
                pipe.close()  # type: ignore[union-attr]

    def _listen(self, news: Progress) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            news.say(f"[{self.number}] " + line.rstrip("\n"))


def share(i: int, workers: int, here: Mapping[str, str], cores: int, devices: Sequence[str]) -> dict[str, str]:
    """The environment of process i: its share of the cores, and one device where there are several.

    >>> variables = share(1, 2, {}, 8, ["0", "1"])
    >>> variables["OMP_NUM_THREADS"], variables["CUDA_VISIBLE_DEVICES"]
    ('4', '1')
    """
    variables = {**here, **_QUIET}
    limit = here.get("OMP_NUM_THREADS", "")
    threads = min(cores, int(limit)) if limit.isdigit() and int(limit) else cores
    variables |= dict.fromkeys(THREADS, str(max(1, threads // workers)))
    if len(devices) > 1:
        variables["CUDA_VISIBLE_DEVICES"] = devices[i % len(devices)]
    return variables


def devices() -> list[str]:
    """The CUDA devices that this process may use."""
    if named := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return named.split(",")
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]


def main() -> None:
    """A worker of `Local`: `python -m guidestar.executors`. It ends with the process that started it, whatever it is doing."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    orders: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            orders.put(line)
        os._exit(143)

    threading.Thread(target=read, daemon=True).start()
    load_inherited()
    while True:
        print(json.dumps(perform(json.loads(orders.get()))), file=answers, flush=True)


EXECUTORS: dict[str, type[Executor]] = {"local": Local}


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:  # the process above says it
        sys.exit(130)
