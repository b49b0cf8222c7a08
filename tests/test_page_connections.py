"""The page as a process of its own: nobody keeps it from others by half-open requests, no secret is on a command line."""

from __future__ import annotations

import html
import os
import re
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from page_help import Server, served

from guidestar.people.page import connections
from guidestar.people.page import server as page_server

_HALF = (
    b"",
    b"G",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n",
    b"POST /api/save HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{",
)


@contextmanager
def half_open(port: int, count: int) -> Iterator[list[socket.socket]]:
    """Connections that begin a request and never end it."""
    held = []
    try:
        for i in range(count):
            held.append(socket.create_connection(("127.0.0.1", port), timeout=10))
            held[-1].sendall(_HALF[i % len(_HALF)])
        yield held
    finally:
        for one in held:
            one.close()


def asked(port: int) -> bytes:
    """The first line of what the page answers to a whole request."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as one:
        one.sendall(f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        return one.recv(4096).partition(b"\r\n")[0]


def test_half_open_requests_keep_nobody_out(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MOST", 20)
    monkeypatch.setattr(connections, "SECONDS", 60.0)
    with served(run) as page, half_open(int(page.host.rpartition(":")[2]), 64) as held:
        for _ in range(3):
            assert asked(int(page.host.rpartition(":")[2])) == b"HTTP/1.1 403 Forbidden"
        held[0].settimeout(10)
        assert _closed(held[0]), "the oldest had to go"


def test_a_request_has_its_time_to_arrive_and_no_more(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "SECONDS", 0.5)
    with served(run) as page, half_open(int(page.host.rpartition(":")[2]), 4) as held:
        for one in held:
            one.settimeout(20)
            assert _closed(one)
        assert asked(int(page.host.rpartition(":")[2])) == b"HTTP/1.1 403 Forbidden"


def _closed(one: socket.socket) -> bool:
    """Whether the page ends the connection before the time-out of the socket."""
    try:
        while one.recv(4096):
            pass
    except ConnectionError:
        pass
    return True


def test_the_link_is_on_no_command_line_and_for_its_owner_alone(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The browser is a program that notes its arguments."""
    noted = tmp_path / "noted"
    (browser := tmp_path / "browser").write_text(
        f"#!{sys.executable}\nimport sys\nopen({str(noted)!r}, 'w').write(sys.argv[1])\n"
    )
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", f"{browser} %s")
    program = page_serve().replace("open_browser=False", "open_browser=True")
    server = Server(run, program=program, process=subprocess.Popen).start()
    try:
        for _ in range(600):
            if noted.exists() and noted.read_text():
                break
            time.sleep(0.05)
        opener = run.parent / page_server.OPEN_FILE
        assert noted.read_text() == opener.absolute().as_uri()
        assert stat.S_IMODE(opener.stat().st_mode) == 0o600
        assert re.findall('href="(.*?)"', opener.read_text()) == [html.escape(server.link)]
        for line in (f"/proc/{server.process.pid}/cmdline", f"/proc/{os.getpid()}/cmdline"):  # type: ignore[union-attr]
            if Path(line).exists():
                assert "token=" not in Path(line).read_text()
    finally:
        server.stop()
    assert not opener.exists()


def page_serve() -> str:
    from page_help import _SERVE

    return _SERVE


def test_a_real_browser_comes_in_through_the_file(run: Path, chromium: Any, tmp_path: Path) -> None:
    with served(run) as page:
        page_server.write_opener(tmp_path / "open.html", page.link)
        context = chromium.new_context()
        tab = context.new_page()
        tab.goto((tmp_path / "open.html").as_uri())
        tab.wait_for_selector("#name:visible")
        assert "token" not in tab.url
        assert [c["name"] for c in context.cookies()] == [page.keys.cookie]
        context.close()
