"""Work spread over processes: on this machine or elsewhere, one class an engine.

An item is JSON-able. What is made of it is a file or folder under its fingerprint, published by renaming, so that an item
which is done twice is as one done once, and one whose result is there need not be done. So an engine promises little: every
item is done at least once, or named with the reason why not. An item whose worker is lost (killed, out of memory, a machine
that is gone) is done again by another, `AGAIN` times at most.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import queue
import signal
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, final

from guidestar.config import RunConfig
from guidestar.errors import ConfigError, GuidestarError, needed
from guidestar.progress import Progress, Silent
from guidestar.query.own import VARIABLE, load_inherited
from guidestar.sections import WorkersConfig
from guidestar.store import files

AGAIN = 2  # times that an item is done again after its worker was lost
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore::FutureWarning",
}  # fmt: skip

Item = Mapping[str, Any]
Work = Mapping[str, Item]  # by name, in the order to begin them


def several_processes() -> bool:
    """Whether a launcher such as torchrun started more than this process."""
    return os.environ.get("WORLD_SIZE", "1") not in ("", "1")


def rank_of(config: RunConfig) -> int:
    """The rank of this process among those that torchrun or its like started; 0 without one.

    Raises ConfigError unless several may share the training (`engine.train.use`): each would make the whole run, in
    one folder.
    """
    if not several_processes():
        return 0
    count = os.environ["WORLD_SIZE"]
    if config.engines.train.use == "here":
        raise ConfigError(
            f"WORLD_SIZE is {count}: a launcher (torchrun, accelerate launch) started {count} processes, and a run is made by one; "
            "to share its training among them set engine.train.use: ddp or fsdp2, else start the command without a launcher (a study's "
            "cells run side by side with --jobs)"
        )
    return int(os.environ.get("RANK", "0"))


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
    """Has items done elsewhere."""

    def __init__(self, settings: WorkersConfig, news: Progress) -> None:
        self.settings, self.news = settings, news

    @abstractmethod
    def run(self, call: str, common: Item, items: Work, groups: Mapping[str, object] | None = None) -> dict[str, str]:
        """Have every item done. Returns those that failed, name -> reason.

        call: "module:function", called in a worker as function(common, item); it returns None, or why the item failed.
        groups: name -> what those items have in common which a worker had best do one after the other. If this call is ended,
        so are the workers; a worker whose command was killed may go on, and what it publishes counts.
        Raises ConfigError where the engine cannot be had.
        """


class Crew(Executor):
    """Workers of which each begins with the next item as soon as it has done one."""

    def __init__(self, settings: WorkersConfig, news: Progress) -> None:
        super().__init__(settings, news)
        self._workers: dict[int, Worker] = {}
        self._over = False

    @abstractmethod
    def begin(self, i: int) -> Worker:
        """Start worker i, counted from 0."""

    def connected(self) -> AbstractContextManager[object]:
        """What the workers need as long as there are some."""
        return nullcontext()

    def run(self, call: str, common: Item, items: Work, groups: Mapping[str, object] | None = None) -> dict[str, str]:
        todo, failed = _Items(items, groups or {}), dict[str, str]()
        self._over = False

        def serve(i: int) -> None:
            group: object = None
            while not self._over and (name := todo.take(group)) is not None:
                group = todo.groups.get(name)
                try:
                    if i not in self._workers:
                        self._workers[i] = self.begin(i)
                    if self._over:  # set before the workers are stopped, this one maybe not among them
                        return self._workers[i].stop()
                    why = self._workers[i].do(_order(call, common, items[name]))
                except Lost as lost:
                    self._workers.pop(i).stop()
                    if self._over:
                        return
                    if todo.again(name):
                        self.news.say(f"{lost}; {name} is done again")
                        continue
                    why = _gone(lost)
                if why is not None:
                    failed[name] = why

        count = min(self.settings.workers, len(items))
        with self.connected(), ThreadPoolExecutor(max(count, 1)) as pool:
            try:
                for served in [pool.submit(serve, i) for i in range(count)]:
                    served.result()
            finally:
                self._over = True
                while self._workers:
                    self._workers.popitem()[1].stop()
        return failed


def _order(call: str, common: Item, item: Item) -> str:
    """What `perform` needs, as JSON."""
    about = {"folder": os.getcwd(), "code": os.environ.get(VARIABLE)}
    return json.dumps({"call": call, "common": common, "item": item, **about})


def _gone(last: object) -> str:
    return f"its worker was lost {AGAIN + 1} times, the last time because {last}"


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


def perform(text: str) -> str | None:
    """Do one item in a worker, by an order as JSON; None, or why it failed."""
    order = json.loads(text)
    try:
        with suppress(FileNotFoundError):  # parts of a pool are scored on machines without the command's folders, too
            os.chdir(order["folder"])
        if order["code"] and os.environ.get(VARIABLE) != order["code"]:  # a machine that inherited no environment
            os.environ[VARIABLE] = order["code"]
            load_inherited()
        module, _, name = order["call"].partition(":")
        return getattr(importlib.import_module(module), name)(order["common"], order["item"])
    except GuidestarError as error:
        return str(error)
    except Exception as error:  # torch and PEFT raise many kinds; one item must not end the others
        return f"{type(error).__name__}: {error}"


# --- processes on this machine --------------------------------------------------------------------


@final
class Local(Crew):
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
        return json.loads(answer)

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
        print(json.dumps(perform(orders.get())), file=answers, flush=True)


# --- a Ray cluster ----------------------------------------------------------------------------------


@final
class Ray(Crew):
    """Actors on a Ray cluster that is there (`options: {address: …}`), else on this machine as one. They need this package,
    the code, data and model at the same paths, and the folder of results, so a file system that all share."""

    @contextmanager
    def connected(self) -> Iterator[None]:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        ray = needed("ray", "engine", "ray")
        if ray.is_initialized():  # by whoever called us, who also ends it
            yield
            return
        talks = not isinstance(self.news, Silent)
        ray.init(**{"include_dashboard": False, "log_to_driver": talks, **self.settings.options})
        try:
            yield
        finally:
            ray.shutdown()

    def begin(self, i: int) -> Worker:
        return _Actor(self.settings.gpus)


class Job:
    """What an actor of Ray is an object of, and what a job of Slurm does; texts go in and out."""

    def __call__(self, order: str) -> str | None:
        return perform(order)

    def checkpoint(self, order: str) -> Any:
        """What submitit queues in the place of a job that is preempted: the same, which goes on where it can."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, order)


@final
class _Actor(Worker):
    """An actor of Ray, on one CPU and `gpus` GPUs."""

    def __init__(self, gpus: float) -> None:
        import ray

        self.actor = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=0)(Job).remote()

    def do(self, order: str) -> str | None:
        import ray

        try:
            return ray.get(self.actor.__call__.remote(order))
        except ray.exceptions.RayActorError as error:
            raise Lost(f"a worker of Ray ended ({str(error).strip().splitlines()[0]})") from error

    def stop(self) -> None:
        import ray

        ray.kill(self.actor)


# --- Slurm ------------------------------------------------------------------------------------------


@final
class Slurm(Executor):
    """An array of jobs through submitit, an item each, at most `workers` at one time. A job that Slurm preempts is queued
    again. submitit keeps its own files and logs in `options.folder`, `jobs` by default; they hold names and no texts."""

    def run(self, call: str, common: Item, items: Work, groups: Mapping[str, object] | None = None) -> dict[str, str]:
        submitit = needed("submitit", "engine", "slurm")
        options = {"slurm_array_parallelism": self.settings.workers, **self.settings.options}
        place, cluster = Path(options.pop("folder", "jobs")), options.pop("cluster", "slurm")
        files.private_folders(place)
        try:
            executor = submitit.AutoExecutor(place, cluster=cluster)
            executor.update_parameters(**({"gpus_per_node": gpus} if (gpus := math.ceil(self.settings.gpus)) else {}))
            executor.update_parameters(**options)
        except (RuntimeError, NameError, ValueError, AssertionError) as error:  # no srun here; a parameter
            raise ConfigError(f"engine.cells: {error}") from error
        failed, lost = dict[str, str](), dict.fromkeys(items, "")
        for _ in range(AGAIN + 1):
            names = list(lost)
            jobs = executor.map_array(Job(), [_order(call, common, items[name]) for name in names]) if names else []
            try:
                for name, job in zip(names, jobs, strict=True):
                    try:
                        why = job.result()
                    except submitit.core.utils.UncompletedJobError:
                        lost[name] = f"job {job.job_id} ended without an answer; its log is {job.paths.stderr}"
                        self.news.say(f"{name}: {lost[name]}")
                        continue
                    failed |= {} if why is None else {name: why}
                    del lost[name]
            finally:
                for job in jobs:
                    if not job.done():
                        job.cancel(check=False)
        return failed | {name: _gone(last) for name, last in lost.items()}


EXECUTORS: dict[str, type[Executor]] = {"local": Local, "ray": Ray, "slurm": Slurm}


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:  # the process above says it
        sys.exit(130)
