"""Runs to label, made by hand, and the page in front of them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from forks import Forked

from guidestar import config as configs
from guidestar.people.page import server as page_server
from guidestar.people.page.app import create_app
from guidestar.people.page.connections import Bounded
from guidestar.people.page.guard import Keys
from guidestar.records import Example, Pick, Query, Suggestion
from guidestar.store import Store

LABELS = {
    "ABBR": "abbreviation",
    "DESC": "description",
    "ENTY": "entity",
    "HUM": "human",
    "LOC": "location",
    "NUM": "number",
}
QUESTIONS = (
    "How far is it from Denver to Aspen ?",
    "What county is Modesto , California in ?",
    "Who was Galileo ?",
    "What is an atom ?",
    "When did Hawaii become a state ?",
    "What does NASA stand for ?",
    "Which French ruler was defeated at the battle of Waterloo ?",
    "What is the highest mountain in Australia ?",
    "How many calories are there in a Big Mac ?",
    "Why does the moon turn orange ?",
    "What currency is used in Sweden ?",
    "Who invented the instant Polaroid camera ?",
)
TOKEN, SECRET = "t" * 43, "s" * 43


def until(look: Callable[[], Any], seconds: float = 60.0) -> Any:
    """What a look comes to, once it is something."""
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)
    return found


def examples(texts: Sequence[str], start: int = 0) -> dict[str, Example]:
    """Example id -> example, in order."""
    found = [
        Example(f"{i:016x}", {"text": text}, f"Question: {text}\nType:", f"pool.csv line {i + 2}")
        for i, text in enumerate(texts, start)
    ]
    return {e.id: e for e in found}


def ask(store: Store, round: int, found: Mapping[str, Example]) -> None:
    """Record the query of a round."""
    store.add_query(Query(round, tuple(Pick(id, float("nan")) for id in found)), found)


def make_run(
    folder: Path,
    texts: Sequence[str] = QUESTIONS,
    *,
    kind: str = "choice",
    labels: Mapping[str, str] = LABELS,
    people: Mapping[str, Any] | None = None,
    query: Mapping[str, Any] | None = None,
    suggestions: Mapping[str, Suggestion] | None = None,
    experiment: str = "questions",
) -> Path:
    """An experiment folder with one run that waits for the labels of its first round; the run's folder."""
    place = folder / experiment
    run = place / "star-seed0"
    config = {
        "out": ".",
        "data": {"pool": "pool.csv", "template": "Question: {text}\nType:"},
        "task": {"kind": kind} | ({"labels": dict(labels)} if kind in ("choice", "multi_label") else {}),
        "query": dict(query or {"warm_start": len(texts), "batch": 5, "budget": max(len(texts), 30)}),
        "annotator": "people",
        "people": dict(people or {}),
    }
    task = {"kind": kind}
    if kind in ("choice", "multi_label"):
        task |= {"labels": list(labels), "words": list(labels.values())}
    with Store.open(run, create=True) as store:
        store.begin(
            {"seed": 0, "query.budget": config["query"]["budget"]},
            {"name": experiment, "strategy": "star", "seed": 0, "task": task, "config": config},
        )
        ask(store, 0, examples(texts))
        if suggestions:
            store.add_suggestions(0, suggestions)
    (place / "config.yaml").write_text(configs.dump_yaml(config), encoding="utf-8")
    return run


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


_SERVE = """
import sys
from pathlib import Path
from guidestar.people.page.server import serve
sys.exit(serve(Path(sys.argv[1]), train=False, port=int(sys.argv[2]), bind="127.0.0.1", annotator=None,
               open_browser=False, say=lambda text: print(text, flush=True)))
"""


class Server:
    """`guidestar label` as a process of its own, which can be killed and started again.

    process: how one begins; `subprocess.Popen` where what it was started with matters.
    """

    def __init__(
        self, run: Path, port: int | None = None, program: str = _SERVE, arguments: Sequence[str] = (),
        process: type[subprocess.Popen[str]] = Forked,
    ) -> None:  # fmt: skip
        self.run, self.port, self.program, self.arguments = run, port or free_port(), program, list(arguments)
        self.begin, self.process = process, None
        self.link = ""

    def start(self) -> Server:
        """Start it and wait until it answers."""
        self.process = self.begin(
            [sys.executable, "-W", "ignore", "-c", self.program, str(self.run), str(self.port), *self.arguments],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        while "http://" not in (line := self.process.stdout.readline()):
            assert line or self.process.poll() is None, "the server did not start"
        self.link = line[line.index("http://") :].strip()
        threading.Thread(target=self._listen, args=(self.process.stdout,), daemon=True).start()
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            time.sleep(0.02)
        raise AssertionError("the server does not listen")

    def _listen(self, said: IO[str]) -> None:
        """Take in every later link."""
        with suppress(ValueError):  # it is closed at the end
            for line in said:
                if "http://" in line:
                    self.link = line[line.index("http://") :].strip()

    def enter(self, http: Any) -> None:
        """Let a client of httpx in, though others may be faster with the link of the moment."""
        for _ in range(200):
            if http.get(self.link).status_code == 303:
                return
            time.sleep(0.02)
        raise AssertionError("no link let the client in")

    def kill(self) -> None:
        """SIGKILL: no chance to finish anything."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.wait()

    def stop(self) -> int:
        """As Ctrl-C does."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.wait()

    def wait(self) -> int:
        """The exit code, when it has ended."""
        assert self.process is not None
        assert self.process.stdout is not None
        code = self.process.wait(30)
        self.process.stdout.close()
        return code


@dataclass
class InProcess:
    """The page in a thread of this process: starts at once, and cannot be killed."""

    host: str
    keys: Keys

    @property
    def link(self) -> str:
        """For the next browser."""
        return f"http://{self.host}/?token={self.keys.token}"


@contextmanager
def served(run: Path, **options: Any) -> Iterator[InProcess]:
    """The page of a run, until the block ends."""
    import uvicorn

    listener = page_server.listen("127.0.0.1", 0, fixed=True)
    host = f"127.0.0.1:{listener.getsockname()[1]}"
    keys = Keys(SECRET, listener.getsockname()[1])
    app = create_app(run, **({"keys": keys, "trainer": None, "hosts": {host}} | options))
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="warning", ws="none", timeout_graceful_shutdown=2, http=Bounded)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield InProcess(host, keys)
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
