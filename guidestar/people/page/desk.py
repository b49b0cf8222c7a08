"""One thread that holds the store, and a queue in front of it.

A store belongs to the thread that opened it. Whatever else wants something of it leaves a job here and waits for the
result. Saves that wait together are written together: one transaction and one flush of the disk for all of them, so
that many annotators are as fast as one. A save is answered after that flush and not before.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from guidestar import config as configs
from guidestar.config import CONFIG_FILE, PeopleConfig
from guidestar.errors import ConfigError, DataError, GuidestarError, StoreError
from guidestar.people.page import wire
from guidestar.people.page.board import Board, Saved
from guidestar.store import Store, find_run, runs_in
from guidestar.store.store import DATABASE

_TOGETHER = 50  # saves of one transaction
_SETTLE = 5.0  # seconds between two checkpoints: what a copy without the WAL may lack
_GUIDELINES = 200_000  # characters of the guidelines that are shown

T = TypeVar("T")


class NotReady(GuidestarError):
    """The run has not begun: there is nothing to show yet."""


@dataclass(frozen=True)
class Outcome:
    """What became of a decision. refused: why it was not recorded, "" if it is. new: it was not recorded before."""

    decision: str
    refused: str = ""
    new: bool = False


@dataclass(frozen=True)
class _Save:
    annotator: str
    decisions: Sequence[wire.Decision]
    done: Future[list[Outcome]] = field(default_factory=Future)


@dataclass(frozen=True)
class _Call:
    work: Callable[[Board], Any]
    done: Future[Any] = field(default_factory=Future)


class Desk:
    """The thread. `start`, then `save` and `call` from any thread, then `stop`."""

    def __init__(self, folder: Path, clock: Callable[[], float], *, ahead: bool = False) -> None:
        """folder: of a run or of an experiment with one; it may still be empty. ahead: see `Board`."""
        self.folder, self.clock, self.ahead = folder, clock, ahead
        self._jobs: queue.SimpleQueue[_Save | _Call | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="guidestar-store", daemon=True)
        self._store: Store | None = None
        self._board: Board | None = None

    def start(self) -> None:
        """Begin to take jobs."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the jobs that wait, close the store."""
        self._jobs.put(None)
        self._thread.join()

    def save(self, annotator: str, decisions: Sequence[wire.Decision]) -> Future[list[Outcome]]:
        """Record decisions. The result comes when they are on the disk; a StoreError means that none of them is."""
        job = _Save(annotator, decisions)
        self._jobs.put(job)
        return job.done

    def call(self, work: Callable[[Board], T]) -> Future[T]:
        """Something else with the board. Raises NotReady in the result while there is no run."""
        job = _Call(work)
        self._jobs.put(job)
        return job.done

    # --- in the thread ----------------------------------------------------------------------------

    def _work(self) -> None:
        stop, unsettled, settled_at = False, False, time.monotonic()
        while not stop:
            jobs = self._waiting()
            stop = None in jobs
            saves = [job for job in jobs if isinstance(job, _Save)]
            for start in range(0, len(saves), _TOGETHER):
                self._save(saves[start : start + _TOGETHER])
            for job in jobs:
                if isinstance(job, _Call):
                    self._call(job)
            unsettled = unsettled or bool(saves)
            if unsettled and self._store is not None and time.monotonic() - settled_at >= _SETTLE:
                with suppress(StoreError):  # it is in the WAL, which is as good
                    self._store.checkpoint()
                unsettled, settled_at = False, time.monotonic()
        if self._store is not None:
            self._store.close()

    def _waiting(self) -> list[_Save | _Call | None]:
        """All jobs that wait; at least one."""
        jobs = [self._jobs.get()]
        with suppress(queue.Empty):
            while True:
                jobs.append(self._jobs.get_nowait())
        return jobs

    def _call(self, job: _Call) -> None:
        with suppress(InvalidStateError):  # nobody waits for it any more
            try:
                result = job.work(self._ready())
            except Exception as error:  # it is the asker's to deal with
                job.done.set_exception(error)
            else:
                job.done.set_result(result)

    def _ready(self) -> Board:
        """The board, up to date. Raises NotReady."""
        if self._board is None:
            self._board = self._open()
        self._board.refresh()
        return self._board

    def _open(self) -> Board:
        experiment = experiment_of(self.folder)
        if self._store is None and runs_in(self.folder):
            self._store = Store.open(find_run(self.folder))
        if self._store is None or not self._store.begun:
            raise NotReady(f"The run in {self.folder.name} has not begun.")
        return Board(self._store, people_of(experiment, self._store.facts), self.clock, ahead=self.ahead)

    def _save(self, group: Sequence[_Save]) -> None:
        """Record what several requests bring in one transaction; each of them learns what became of its own."""
        try:
            board = self._ready()
            fresh: dict[str, Saved] = {}
            outcomes = [[_checked(board, save.annotator, item, fresh) for item in save.decisions] for save in group]
            if fresh:
                board.save(list(fresh.values()))
        except Exception as error:  # the disk, or another process: nobody's decision is at fault
            for save in group:
                with suppress(InvalidStateError):
                    save.done.set_exception(error)
            return
        for save, outcome in zip(group, outcomes, strict=True):
            with suppress(InvalidStateError):  # nobody waits for it any more
                save.done.set_result(outcome)


def _checked(board: Board, annotator: str, item: wire.Decision, fresh: dict[str, Saved]) -> Outcome:
    """What will have become of a decision once `fresh` is recorded; it is added there if it is new."""
    try:
        board.example(item.id)
        annotation = wire.annotation(item, annotator, board.task)
    except StoreError:
        return Outcome(item.decision, refused=f"Example {item.id} is not one of this run.")
    except DataError as error:
        return Outcome(item.decision, refused=str(error))
    known = fresh.get(item.decision)
    before = known[:2] if known else board.decisions.get(item.decision)
    if before is None:
        source = "page+suggestion" if item.seen else "page"
        fresh[item.decision] = (item.id, annotation, item.decision, source)
        return Outcome(item.decision, new=True)
    if before == (item.id, annotation):
        return Outcome(item.decision)
    return Outcome(item.decision, refused="This decision is recorded with other content.")


def experiment_of(folder: Path) -> Path:
    """The folder with the configuration: `folder` itself, or the one that a run folder lies in."""
    return folder.parent if (folder / DATABASE).is_file() and not (folder / CONFIG_FILE).is_file() else folder


def guidelines_of(people: PeopleConfig) -> str | None:
    """The text of the guidelines' file, or why it cannot be shown; None if there is none."""
    if people.guidelines is None:
        return None
    try:
        with Path(people.guidelines).expanduser().open(encoding="utf-8", errors="replace") as file:
            text = file.read(_GUIDELINES + 1)
    except OSError as error:
        return f"The guidelines in {people.guidelines} cannot be read: {error.strerror}"
    return text if len(text) <= _GUIDELINES else text[:_GUIDELINES] + "\n… (the file is longer)"


def people_of(experiment: Path, facts: dict[str, Any] | None = None) -> PeopleConfig:
    """How people label: as the experiment's configuration says now, else as the run recorded it."""
    try:
        return configs.load(experiment / CONFIG_FILE).people
    except ConfigError:
        recorded = (facts or {}).get("config", {}).get("people", {})
        return PeopleConfig.model_validate(recorded)
