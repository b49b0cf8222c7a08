"""Processes that need not import torch and transformers, which takes seconds: forked from one that has.

A fork has its own memory, signals, files and end, so it may be killed like a process that was started anew. What is at
stake in an import, or in the environment at the time of it, needs a process of its own.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "torch", "sklearn.linear_model", "transformers.models.auto.modeling_auto", "transformers.models.llama.modeling_llama",
        "peft", "uvicorn", "guidestar.cli.main", "guidestar.loop", "guidestar.model.engine", "guidestar.people.page",
    ]
)  # fmt: skip


class Forked(subprocess.Popen[Any]):
    """`subprocess.Popen` for a command that begins with this Python and `-c PROGRAM` or `-m MODULE`."""

    context: multiprocessing.context.BaseContext = _context
    family = False  # whether the processes that it starts itself are forks, too

    def _execute_child(  # type: ignore[override]
        self, args: Sequence[str], executable: Any, preexec: Any, close: Any, keep: Any, cwd: Any,
        env: Mapping[str, str] | None, startup: Any, flags: Any, shell: Any, p2cread: int, p2cwrite: int, c2pread: int,
        c2pwrite: int, errread: int, errwrite: int, restore: Any, gid: Any, gids: Any, uid: Any, umask: Any,
        start_new_session: bool, *rest: Any,
    ) -> None:  # fmt: skip
        assert args[0] == sys.executable
        ends = [None if end == -1 else Connection(os.dup(end)) for end in (p2cread, c2pwrite, errwrite)]
        environment = dict(os.environ if env is None else env)
        facts = (list(args[1:]), environment, str(cwd or os.getcwd()), ends, start_new_session, self.family)
        self._process = self.context.Process(target=_enter, args=facts, daemon=not self.family)  # type: ignore[attr-defined]
        self._process.start()
        for end in ends:
            if end is not None:
                end.close()
        self.pid, self._child_created = self._process.pid, True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)  # type: ignore[attr-defined]

    def _internal_poll(self, *rest: Any, **more: Any) -> int | None:
        if self.returncode is None:
            self.returncode = self._process.exitcode
        return self.returncode

    def _wait(self, timeout: float | None) -> int:
        self._process.join(timeout)
        if self._internal_poll() is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self.returncode


class Family(Forked):
    """A launcher, whose own processes are forked from it."""

    family = True


class _Child(Forked):
    context = multiprocessing.get_context("fork")


def _enter(
    command: list[str],
    environment: dict[str, str],
    folder: str,
    ends: list[Connection | None],
    session: bool,
    family: bool,
) -> None:
    """Become the command."""
    if family:
        plain = subprocess.Popen
        for module in [one for one in sys.modules.values() if vars(one).get("Popen") is plain]:
            module.Popen = _Child  # type: ignore[attr-defined]
    if session:
        os.setsid()
    for number, end in enumerate(ends):
        if end is not None:
            os.dup2(end.fileno(), number)
            end.close()
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    while command[0] not in ("-c", "-m"):
        if command.pop(0) == "-W":
            warnings.simplefilter(command.pop(0))  # type: ignore[arg-type]
    kind, program, *arguments = command
    sys.argv = [kind, *arguments]
    if kind == "-c":
        exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})
    else:
        warnings.filterwarnings("ignore", message=".*found in sys.modules after import")
        runpy.run_module(program, run_name="__main__", alter_sys=True)
