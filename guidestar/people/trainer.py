"""Training beside the page: `guidestar run` in its own process whenever a round has all its answers.

The page only looks at the state kept here. Nothing waits for the training, and it waits for nobody: what is answered
meanwhile is in the store, and the next start takes it up.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guidestar.errors import GuidestarError

LOG = "label-train.log"
WAITS = 4  # exit code of `guidestar run` that says: labels are missing
_TAIL = 12  # lines shown of a failure
_AGAIN = 30.0  # seconds until the next try when another process runs in the folder
_PATIENCE = 10.0  # seconds that a training has to stop when it is asked to
_LAST = 8192  # bytes of the log that are looked at


@dataclass(frozen=True)
class TrainerState:
    """kind: "idle", "training", "busy" (another process runs there), "finished" or "failed". line: the newest line of
    news. tail: the last lines of a failure. seconds: since the training was started. log: where all its lines are."""

    kind: str
    line: str = ""
    tail: tuple[str, ...] = ()
    seconds: float = 0.0
    log: str = ""

    @property
    def why(self) -> str:
        """The sentence of a failure: what this program said last, else the last line."""
        return _said(self.tail) or next(reversed(self.tail), "")


class Trainer:
    """Runs the experiment in `folder` when there is something to do. `tick` is called about once a second."""

    def __init__(
        self,
        folder: Path,
        *,
        config: Path | None = None,
        overrides: Sequence[str] = (),
        budget: int | None = None,
        command: Sequence[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """folder: of the experiment. config: its configuration, the copy in the folder if not given. overrides: "key=value"
        texts that change it. budget: what it asks for, which may be more than the run has so far. command: to run instead, for tests."""
        self.folder = folder
        self.budget = budget
        run = (sys.executable, "-P", "-m", "guidestar", "run", "--ahead", str(config or folder), *overrides)
        self.command = list(command or run)
        self.clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self._kind = "idle"
        self._not_before = float("-inf")
        self._started = 0.0
        self._done: object = None  # the state of the run for which a training has been made

    @property
    def log(self) -> Path:
        """Where the training's own news go."""
        return self.folder / LOG

    def tick(self, work: object) -> TrainerState:
        """Look after the process; start one if there is work.

        work: None while labels are missing. Else what the run is at: for the same state of the run a training is
        started once, so that one which changes nothing is not started for ever.
        """
        if self._process is not None and (code := self._process.poll()) is not None:
            self._ended(code)
        if self._kind == "busy" and work is None:
            self._kind = "idle"
        free = self._process is None and self._kind != "failed"
        if free and work is not None and work != self._done and self.clock() >= self._not_before:
            self._start(work)
        return self.state()

    def state(self) -> TrainerState:
        """What the page says about it."""
        if self._kind == "training":
            seconds = self.clock() - self._started
            return TrainerState("training", next(reversed(_lines(self.log)), ""), seconds=seconds)
        if self._kind == "failed":
            return TrainerState("failed", tail=tuple(_lines(self.log)[-_TAIL:]), log=str(self.log))
        return TrainerState(self._kind)

    def retry(self) -> None:
        """Start again after a failure at the next tick."""
        if self._kind == "failed":
            self._kind, self._done = "idle", None

    def stop(self) -> None:
        """End the process. What it had recorded stays, and the next start goes on from there."""
        self._done = None
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process, self._kind = None, "idle"

    def _start(self, work: object) -> None:
        try:
            with self.log.open("wb") as log:
                self._process = subprocess.Popen(  # noqa: S603 - our own command
                    self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C in the terminal reaches the page alone, which then stops it in good order
                )  # fmt: skip
        except OSError as error:
            raise GuidestarError(f"{self.log}: cannot be written: {error.strerror}") from error
        self._kind, self._done, self._started = "training", work, self.clock()

    def _ended(self, code: int) -> None:
        self._process = None
        if code in (0, WAITS):
            self._kind = "finished" if code == 0 else "idle"
        elif any(" is in use by " in line for line in _lines(self.log)[-_TAIL:]):
            self._kind, self._done = "busy", None
            self._not_before = self.clock() + _AGAIN
        else:
            self._kind = "failed"


def change_labels(folder: Path, kind: str, text: str) -> str:
    """Change the labels of the run in `folder` by `guidestar labels`, in a process of its own, because it loads the model.
    Returns "", or why it cannot be done. Nobody may train there meanwhile."""
    done = _guidestar("labels", str(folder), f"--{kind}={text}")
    return "" if done.returncode == 0 else _said(done.stderr.splitlines()) or "it ended without a word"


def status_of(folder: Path) -> dict[str, Any]:
    """What the runs in a folder reached and what more labels would bring ("sentence"), what must be known with it ("cautions")
    and what to do ("next"): the answer of `guidestar status`, in a process of its own, which reads all of their record; {}
    where it fails."""
    try:
        return json.loads(_guidestar("status", str(folder), "--json").stdout)["answer"]
    except (ValueError, LookupError):
        return {}


def _guidestar(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-P", "-m", "guidestar", *arguments)
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)  # noqa: S603 - our own


def _said(lines: Iterable[str]) -> str:
    """What this program itself says among some lines."""
    return " ".join(line.removeprefix("guidestar: ") for line in lines if line.startswith("guidestar: "))


def _lines(path: Path) -> list[str]:
    """The last lines of the log, blank ones left out."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(file.tell() - _LAST, 0))
        text = file.read().decode("utf-8", "replace")
        return list(deque((line.strip() for line in text.splitlines() if line.strip()), maxlen=50))
    return []
