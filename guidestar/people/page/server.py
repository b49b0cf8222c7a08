"""Serving the page: where it listens, who may call it by which name, and the link that opens it."""

from __future__ import annotations

import hashlib
import html
import ipaddress
import os
import re
import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from guidestar import config as configs
from guidestar.config import CONFIG_FILE, RunConfig
from guidestar.errors import ConfigError, ConfigMismatch, GuidestarError, StoreError
from guidestar.people.chat import is_loopback
from guidestar.people.page.desk import experiment_of
from guidestar.people.page.wire import checked_name
from guidestar.people.trainer import Trainer
from guidestar.store import Store, files, find_run, runs_in
from guidestar.store.store import BUDGET

TOKEN_FILE = "label.token"  # noqa: S105 - the name of a file
OPEN_FILE = "label-open.html"  # leads the browser to the link, whose token would else stand on its command line
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")
_PORTS = range(20_000, 30_000)  # below those that systems give to outgoing connections


def serve(
    run: Path, *, train: bool = False, port: int = 0, bind: str = "127.0.0.1", annotator: str | None = None,
    open_browser: bool = True, say: Callable[[str], None] = print, overrides: Sequence[str] = (), notes: Sequence[str] = (),
) -> int:  # fmt: skip
    """Serve the page of a run until Ctrl-C. Returns the exit code.

    run: a run folder, an experiment folder with one run, or a configuration; with `train` the run may not have begun
    yet. train: fine-tune in a process of its own whenever a round has all its answers. port: 0 takes one that is the
    same for this folder every time. bind: the address to listen on; anything but this machine's own is open to others and
    `say` tells what that means. annotator: the name of who labels; without it the page asks. overrides: "key=value" texts
    that change the configuration. notes: what was recognised in the data, shown if the page has to ask for the labels.

    Raises GuidestarError if there is nothing to label in the folder or if the address cannot be used.
    """
    try:
        import uvicorn

        from guidestar.people.page.app import create_app
        from guidestar.people.page.connections import Bounded
        from guidestar.people.page.guard import Keys
        from guidestar.people.page.setup import Setup
    except ImportError as error:
        raise GuidestarError(
            f"the labelling page needs {error.name}; install it with: pip install 'guidestar[label]'"
        ) from error
    config, loaded, run = _checked(run, overrides, train=train)
    annotator = None if annotator is None else checked_name(annotator)
    experiment = experiment_of(run)
    secret = read_secret(experiment / TOKEN_FILE)
    wanted = port or usual_port(experiment)
    listener = listen(bind, wanted, fixed=port != 0)
    port = int(listener.getsockname()[1])
    if port != wanted:
        say(f"port {wanted}, which this folder has otherwise, is in use: is the page open already?")
    names = names_of(bind)
    opener = experiment / OPEN_FILE

    def link(token: str) -> str:
        return f"http://{names[0]}:{port}/?token={token}"

    def renewed(token: str) -> None:
        opener.unlink(missing_ok=True)
        say(f"somebody came in; the link for the next browser: {link(token)}")

    keys, budget = Keys(secret, port, renewed=renewed), loaded.query.budget if loaded else None
    trainer = Trainer(experiment, config=config, overrides=overrides, budget=budget) if train else None
    app = create_app(
        run,
        keys=keys,
        trainer=trainer,
        setup=Setup(config, notes) if config and train else None,
        hosts={f"{name}:{port}" for name in names} | ({*names} if port == 80 else set()),
        annotator=annotator,
    )
    if not is_loopback(bind):
        say(_open_to_others(bind, port))
    say(f"label here: {link(keys.token)}")
    say("Ctrl-C stops the page; everything that it calls saved is on the disk")
    server = uvicorn.Server(
        uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, proxy_headers=False, ws="none",
            timeout_graceful_shutdown=5, lifespan="on", http=Bounded,
        )
    )  # fmt: skip
    if open_browser:
        write_opener(opener, link(keys.token))
        threading.Timer(0.5, webbrowser.open, (opener.absolute().as_uri(),)).start()
    try:
        with listener:
            server.run(sockets=[listener])
    except KeyboardInterrupt:  # the ordinary way to end it
        pass
    finally:
        opener.unlink(missing_ok=True)
    return 0 if server.started else 1


def _checked(run: Path, overrides: Sequence[str], *, train: bool) -> tuple[Path | None, RunConfig | None, Path]:
    """(the file of the configuration, what it says, the folder to label in); for a folder the first two are None. Raises as
    `serve` does."""
    config = run if configs.names_file(run) else None
    if overrides and (config is None or not train):
        raise ConfigError(f"{' '.join(overrides)}: keys change where a configuration is given and the page trains")
    loaded = configs.load(config, overrides) if config else None
    folder = Path(loaded.out) if loaded else run
    if loaded and train:
        with files.writing(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_folder(folder, config, train=train)
    if loaded:
        check_keys(folder, loaded, overrides)
    return config, loaded, folder


def _check_folder(run: Path, config: Path | None, *, train: bool) -> None:
    """Raise GuidestarError, saying what to do, if there is nothing to label in the folder."""
    if not run.is_dir():
        raise StoreError(f"{run}: no such folder; `guidestar run CONFIG.yaml` makes one")
    if runs_in(run):
        find_run(run)
    elif not train:
        raise StoreError(f"{run}: found no run; `guidestar run` begins one and chooses what to ask")
    if train and config is None and not (experiment_of(run) / CONFIG_FILE).is_file():
        raise ConfigError(f"{experiment_of(run)}: has no {CONFIG_FILE}, so there is nothing to train by")


def check_keys(run: Path, config: RunConfig, overrides: Sequence[str]) -> None:
    """Raise ConfigMismatch where a key given with the command is another than a run in the folder was begun with, which its
    training would only find out later. A larger budget is none."""
    now = config.key()
    for place in runs_in(run):
        with Store.open(place) as store:
            begun = store.key if store.begun else {}
        for name in (text.partition("=")[0].strip() for text in overrides):
            same = name not in begun or name not in now or begun[name] == now[name]
            if not same and not (name == BUDGET and now[name] > begun[name]):
                raise ConfigMismatch(
                    f"{place}: was begun with {name}: {begun[name]}, found {now[name]}; leave it out to go on, or begin anew in "
                    "another folder with out=FOLDER"
                )


# --- the secret -----------------------------------------------------------------------------------


def read_secret(path: Path) -> str:
    """The secret of the page's cookies, made at the first start. It stays, so that a page that is open goes on working when
    the server comes back. Nobody else on this machine may read the file."""
    with files.writing(path):
        found = path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""
        if _TOKEN.fullmatch(found):
            path.chmod(0o600)
            return found
        with _private(path, secrets.token_urlsafe(32) + "\n") as temporary:
            if found:  # not ours, or cut short
                path.unlink()
            with suppress(FileExistsError):  # another page was started at the same moment: its secret is the secret
                os.link(temporary, path)
        return path.read_text(encoding="utf-8").strip()


def write_opener(path: Path, link: str) -> None:
    """A page that leads to the link, for its owner alone: every user of a machine can read the command lines of others."""
    where = html.escape(link)
    page = f'<!doctype html><meta name="referrer" content="no-referrer"><meta http-equiv="refresh" content="0;url={where}">'
    with files.writing(path), _private(path, f'{page}<a href="{where}">to the labelling page</a>\n') as temporary:
        temporary.replace(path)


@contextmanager
def _private(path: Path, text: str) -> Iterator[Path]:
    """A file beside `path` that only its owner may read, gone at the end of the block if it is still there."""
    temporary = path.with_name(f"{files.TEMPORARY}{path.name}-{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            files.flush(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


# --- the address ----------------------------------------------------------------------------------


def usual_port(experiment: Path) -> int:
    """The same for a folder every time: the browser keeps what is not saved yet under the page's address."""
    digest = hashlib.sha256(str(experiment.resolve()).encode()).digest()
    return _PORTS[int.from_bytes(digest[:8], "big") % len(_PORTS)]


def listen(bind: str, port: int, *, fixed: bool) -> socket.socket:
    """A listening socket; where a port that nobody asked for is in use, on any other.

    Raises GuidestarError if the address or the port cannot be used.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(bind, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError:
            if fixed:
                listener.close()
                raise
            listener.bind((address[0], 0, *address[2:]))
        listener.listen(128)
    except OSError as error:
        raise GuidestarError(f"cannot listen on {bind} port {port}: {error.strerror or error}") from error
    listener.setblocking(False)
    return listener


def names_of(bind: str) -> list[str]:
    """The names under which the page may be called, the one for the link first. Every other is refused."""
    own = ["127.0.0.1", "localhost"]
    try:
        address = ipaddress.ip_address(bind)
    except ValueError:
        return [*dict.fromkeys([bind.lower(), *(own if is_loopback(bind) else [])])]
    shown = f"[{address}]" if address.version == 6 else str(address)
    if address.is_loopback:
        return [shown, "localhost"]
    if not address.is_unspecified:
        return [shown]
    host = socket.gethostname().lower()
    try:
        others = [str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    except OSError:
        others = []
    found = [f"[{name}]" if ":" in name else name for name in others if "%" not in name]
    return [*dict.fromkeys([host, *found, *own, "[::1]"])]


def _open_to_others(bind: str, port: int) -> str:
    return (
        f"the page listens on {bind}: every machine that reaches this one can try to open it. The token in the link is "
        "the only lock, and nothing is encrypted on the way: whoever listens in on the network reads examples, answers "
        "and the token. Give the link only to annotators, on a network that you trust. Safer: leave --bind away and let "
        f"them come through SSH, with ssh -L {port}:127.0.0.1:{port} THIS-MACHINE"
    )
