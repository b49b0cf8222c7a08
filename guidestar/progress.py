"""What a run says while it works: bars on a terminal, plain lines elsewhere and in notebooks, nothing in a program."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Protocol

Tick = Callable[[int, int], None]


def behind(tick: Tick, start: int, total: int) -> Tick:
    """The tick of a part that begins at `start` as one of the whole."""
    return lambda done, _: tick(start + done, total)


def settle() -> None:
    """Wait for what a GPU still has to do, so that a clock tells the truth; without one nothing happens."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()


_TELLING = 5  # steps from which on their pace tells the rest; the first ones wait for much that comes once


class Progress(Protocol):
    """Where a run's news go."""

    def say(self, text: str) -> None:
        """One line of news."""
        return

    @contextmanager
    def phase(self, name: str) -> Iterator[Tick]:
        """A stretch of work; the yielded tick is called with (done, total)."""
        yield lambda done, total: None


class Silent(Progress):
    """Says nothing."""


class Plain:
    """Lines with rate and remaining time, at most one every `every` seconds in a phase."""

    def __init__(self, out: IO[str] | None = None, every: float = 10.0) -> None:
        self.out, self.every = out or sys.stderr, every

    def say(self, text: str) -> None:
        """Print the line at once."""
        print(text, file=self.out, flush=True)

    @contextmanager
    def phase(self, name: str) -> Iterator[Tick]:
        """Print the phase's name, then its progress now and then."""
        start = last = time.monotonic()
        self.say(f"  {name} …")

        def tick(done: int, total: int) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= self.every and done < total:
                last = now
                rate = done / (now - start)
                left = f", {rate:.1f}/s, {(total - done) / rate:.0f} s left" if done >= _TELLING else ""
                self.say(f"  {name} {done}/{total}{left}")

        yield tick


class Bars:
    """Rich bars on a terminal."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False)

    def say(self, text: str) -> None:
        """Print the line above the bars."""
        self.console.print(text, markup=False)

    @contextmanager
    def phase(self, name: str) -> Iterator[Tick]:
        """A bar with count, rate and remaining time, gone when the phase ends."""
        from rich import progress

        columns = (
            progress.TextColumn("  {task.description:<18}"),
            progress.BarColumn(bar_width=30),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[rate]}"),
            progress.TimeRemainingColumn(),
        )
        with progress.Progress(*columns, console=self.console, transient=True) as bars:
            task = bars.add_task(name, total=None, rate="")
            start = time.monotonic()

            def tick(done: int, total: int) -> None:
                rate = done / max(time.monotonic() - start, 1e-9)
                bars.update(task, completed=done, total=total, rate=f"{rate:.1f}/s")

            yield tick


def for_library() -> Progress:
    """Lines in a notebook, where somebody is looking; silence in a program."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return Plain(sys.stdout) if type(shell).__name__ == "ZMQInteractiveShell" else Silent()


def for_terminal(quiet: bool = False) -> Progress:
    """Bars when standard error is a terminal, plain lines when not, silence when asked for."""
    if quiet:
        return Silent()
    return Bars() if sys.stderr.isatty() else Plain()
