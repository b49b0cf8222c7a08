"""The labelling page as a web application: two pages, a few static files, and one JSON door to the desk."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from guidestar.errors import ConfigError, DataError, GuidestarError, StoreError
from guidestar.people.page import views, wire
from guidestar.people.page.board import Board
from guidestar.people.page.desk import Desk, NotReady, experiment_of, people_of
from guidestar.people.page.finder import Finder
from guidestar.people.page.guard import Guard, Keys
from guidestar.people.page.setup import Setup
from guidestar.people.trainer import Trainer, TrainerState, change_labels, status_of
from guidestar.records import Stop

HERE = Path(__file__).parent
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_GUIDELINES = 200_000  # characters of the guidelines that are shown
_LOOK = 1.0  # seconds between two looks at the training

Handler = Callable[[Request], Awaitable[Response]]


def create_app(
    folder: Path,
    *,
    keys: Keys,
    trainer: Trainer | None,
    hosts: Collection[str],
    annotator: str | None = None,
    setup: Setup | None = None,
    clock: Callable[[], float] = time.time,
) -> Starlette:
    """The page of the run in `folder`.

    keys: the secrets of the link and of the cookie. trainer: trains when a round is complete; None leaves that to others.
    hosts: every "host:port" that the page may be called by. annotator: the one who labels; without it the page asks.
    setup: what the page asks for before the run can begin. clock: seconds since the epoch.
    """
    desk = Desk(folder, clock, ahead=trainer is not None)
    news = _News(trainer, setup)
    identity = run_identity(keys)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        desk.start()
        watch = asyncio.create_task(news.watch(desk))
        try:
            yield
        finally:
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch
            if trainer is not None:
                await asyncio.to_thread(trainer.stop)
            await asyncio.to_thread(desk.stop)

    return Starlette(
        routes=[*_pages(folder, identity, annotator), *_doors(desk, news, Finder(experiment_of(folder)))],
        middleware=[Middleware(Guard, keys=keys, hosts=hosts)],
        lifespan=lifespan,
    )


def run_identity(keys: Keys) -> str:
    """A name for the run that tells nothing about its secrets; the browser's own storage carries it."""
    return hashlib.sha256(f"guidestar run {keys.value}".encode()).hexdigest()[:12]


class _News:
    """What the training does, as it was last seen."""

    def __init__(self, trainer: Trainer | None, setup: Setup | None = None) -> None:
        self.trainer, self.setup = trainer, setup
        self.state = None if trainer is None else trainer.state()
        self.reached = ("", "")  # of a finished run: what it reached, and the next command
        self._told: object = None
        self._alone = asyncio.Lock()  # a training is looked after, or the labels change

    async def relabel(self, folder: Path, asked: wire.Relabel) -> str:
        """Change the labels; a training that runs ends, for it would be of other labels, and starts again after it. Returns
        "", or why it cannot be done."""
        async with self._alone:
            if self.trainer is not None:
                await asyncio.to_thread(self.trainer.stop)
            return await asyncio.to_thread(change_labels, folder, asked.kind, asked.text)

    async def watch(self, desk: Desk) -> None:
        """Look after the training as long as the page is served."""
        while self.trainer is not None:
            if self.setup is not None and self.setup.missing:
                await asyncio.sleep(_LOOK / 10)
                continue
            try:
                work = await asyncio.wrap_future(desk.call(partial(_work, budget=self.trainer.budget)))
            except NotReady:
                work = "begin"
            except Exception:  # a run that cannot be read now may be read in a second
                work = None
            try:
                async with self._alone:
                    self.state = await asyncio.to_thread(self.trainer.tick, work)
            except Exception as error:  # whoever looks after the training must outlive what it sees
                self.state = TrainerState("failed", tail=(f"{type(error).__name__}: {error}",))
            await self._finished(desk)
            await asyncio.sleep(_LOOK)

    async def _finished(self, desk: Desk) -> None:
        """Learn once, and after each change of a label, what a finished run reached."""
        with suppress(Exception):  # the page has a sentence of its own then
            seen = await asyncio.wrap_future(desk.call(lambda board: (board.store.finished() is not None, board.seen)))
            if seen[0] and seen != self._told:
                self._told, self.reached = seen, await asyncio.to_thread(status_of, experiment_of(desk.folder))

    def not_begun(self, error: NotReady) -> views.Json:
        """What the page is told while there is no run."""
        return views.not_begun(str(error), self.state, self.setup.asked() if self.setup else None)

    def retry(self) -> None:
        """Train again after a failure."""
        if self.trainer is not None:
            self.trainer.retry()


def _work(board: Board, budget: int | None = None) -> object:
    """What there is to train on, None while labels are missing or the run is finished. budget: the configured one; a run
    that has spent a smaller one goes on."""
    finished = board.store.finished()
    raised = finished is Stop.BUDGET and budget is not None and budget > board.query.budget
    if not board.complete or (finished is not None and not raised):
        return None
    return board.round, board.asks, board.seen, raised


# --- pages ----------------------------------------------------------------------------------------


def _pages(folder: Path, identity: str, annotator: str | None) -> list[Route]:
    templates = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    static = {
        path.name: (path.read_bytes(), _TYPES[path.suffix])
        for path in sorted((HERE / "static").iterdir())
        if path.suffix in _TYPES
    }

    def page(name: str) -> Handler:
        async def show(request: Request) -> Response:
            text = await asyncio.to_thread(_guidelines, folder) if name == "label" else None
            return HTMLResponse(
                templates.get_template(f"{name}.html").render(
                    page=name,
                    run=identity,
                    name=experiment_of(folder).resolve().name,
                    annotator=annotator or "",
                    guidelines=text,
                )
            )

        return show

    async def file(request: Request) -> Response:
        """From the table above; no name of a request ever becomes a path."""
        found = static.get(request.path_params["name"])
        if found is None:
            raise HTTPException(404)
        return Response(found[0], media_type=found[1])

    return [
        Route("/", page("label")),
        Route("/review", page("review")),
        Route("/static/{name}", file),
    ]


def _guidelines(folder: Path) -> str | None:
    """The text of the guidelines file of the configuration, or why it cannot be shown; None if there is none."""
    path = people_of(experiment_of(folder)).guidelines
    if path is None:
        return None
    try:
        with Path(path).expanduser().open(encoding="utf-8", errors="replace") as file:
            text = file.read(_GUIDELINES + 1)
    except OSError as error:
        return f"The guidelines in {path} cannot be read: {error.strerror}"
    return text if len(text) <= _GUIDELINES else text[:_GUIDELINES] + "\n… (the file is longer)"


# --- JSON -----------------------------------------------------------------------------------------


def _doors(desk: Desk, news: _News, finder: Finder) -> list[Route]:
    """What the scripts of the page call. All are POST, so all pass the checks of a write."""
    looking = ThreadPoolExecutor(1, "guidestar-find")  # a search of a large pool holds up nobody who labels

    async def save(request: Request) -> Response:
        asked = await _read(request, wire.Decisions)
        outcomes = await _result(desk.save(asked.annotator, asked.decisions))
        results = [{"decision": o.decision, "refused": o.refused, "new": o.new} for o in outcomes]
        now = await _result(desk.call(lambda board: views.state(board, asked.annotator, news.state)))
        return JSONResponse({"results": results, "state": now})

    async def following(request: Request) -> Response:
        asked = await _read(request, wire.Ask)

        def work(board: Board) -> views.Json:
            ids, lost = board.offer(asked.annotator, asked.want, asked.have, asked.hold, active=asked.active)
            return {
                "examples": [views.example(board, id, asked.annotator) for id in ids],
                "lost": lost,
                "suggested": views.suggested(board, asked.hold),
                "idle": None if ids or asked.hold else views.idle(board, asked.annotator, news.state, news.reached),
                "state": views.state(board, asked.annotator, news.state),
            }

        try:
            return JSONResponse(await _result(desk.call(work)))
        except NotReady as error:
            return JSONResponse(
                {"examples": [], "lost": [], "suggested": {}, "idle": None, "state": news.not_begun(error)}
            )

    async def state(request: Request) -> Response:
        asked = await _read(request, wire.Who)
        try:
            return JSONResponse(
                await _result(desk.call(lambda board: views.state(board, asked.annotator, news.state, whole=True)))
            )
        except NotReady as error:
            return JSONResponse(news.not_begun(error))

    async def labels(request: Request) -> Response:
        asked = await _read(request, wire.Labels)
        if news.setup is None or not news.setup.missing:
            raise _Refused(422, "The labels are known already.")
        try:
            await asyncio.to_thread(news.setup.give, asked.labels)
        except ConfigError as error:
            raise _Refused(422, str(error)) from None
        return JSONResponse({})

    async def one(request: Request) -> Response:
        asked = await _read(request, wire.One)

        def work(board: Board) -> views.Json | None:
            try:
                return views.example(board, asked.id, asked.annotator)
            except StoreError:
                return None

        found = await _result(desk.call(work))
        if found is None:
            raise HTTPException(404)
        return JSONResponse(found)

    async def history(request: Request) -> Response:
        asked = await _read(request, wire.Older)
        return JSONResponse(
            await _result(desk.call(lambda board: views.history(board, asked.annotator, asked.skip, asked.only)))
        )

    async def review(request: Request) -> Response:
        asked = await _read(request, wire.Who)
        return JSONResponse(
            await _result(
                desk.call(
                    lambda board: (
                        views.review(board) | {"state": views.state(board, asked.annotator, news.state, whole=True)}
                    )
                )
            )
        )

    async def retry(request: Request) -> Response:
        await _read(request, wire.Who)
        news.retry()
        return JSONResponse({})

    async def find(request: Request) -> Response:
        asked = await _read(request, wire.Find)
        barred = await _result(desk.call(lambda board: board.store.annotations.apart()))
        found = await asyncio.get_running_loop().run_in_executor(looking, views.search, finder, asked, barred)
        said = await _result(desk.call(lambda board: views.answered(board, [e["id"] for e in found["examples"]])))
        return JSONResponse(found | {"said": said})

    async def group(request: Request) -> Response:
        asked = await _read(request, wire.Grouped)
        pool = await asyncio.get_running_loop().run_in_executor(looking, lambda: finder.examples)
        examples, source = [pool[id] for id in asked.ids if id in pool], f"page+{asked.how}"
        try:
            ids = await _result(
                desk.call(lambda b: b.answer_group(asked.annotator, examples, asked.text, asked.group, source))
            )
        except DataError as error:
            raise _Refused(422, str(error)) from None
        return JSONResponse({"ids": ids})

    async def ungroup(request: Request) -> Response:
        asked = await _read(request, wire.Group)
        return JSONResponse({"ids": await _result(desk.call(lambda b: b.undo_group(asked.annotator, asked.group)))})

    async def classes(request: Request) -> Response:
        await _read(request, wire.Who)
        return JSONResponse(await _result(desk.call(views.classes)))

    async def relabel(request: Request) -> Response:
        asked = await _read(request, wire.Relabel)
        await _result(desk.call(lambda board: None))  # there is a run
        if problem := await news.relabel(experiment_of(desk.folder), asked):
            raise _Refused(422, problem)
        return JSONResponse(await _result(desk.call(views.classes)))

    handlers = {
        "save": save, "next": following, "state": state, "example": one, "history": history, "review": review,
        "retry": retry, "labels": labels, "find": find, "group": group, "ungroup": ungroup,
        "classes": classes, "relabel": relabel,
    }  # fmt: skip
    return [Route(f"/api/{name}", _explained(handler), methods=["POST"]) for name, handler in handlers.items()]


class _Refused(Exception):
    def __init__(self, status: int, text: str) -> None:
        self.status, self.text = status, text


def _explained(handler: Handler) -> Handler:
    """Errors as JSON: 422 for what was sent, 503 for what the server cannot do now and the browser should try again."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except _Refused as error:
            return JSONResponse({"error": error.text}, error.status)
        except GuidestarError as error:
            return JSONResponse({"error": str(error)}, 503)

    return answer


async def _read(request: Request, model: type[Any]) -> Any:
    """The body as a record. Raises _Refused that says which key is wrong."""
    try:
        return model.model_validate_json(await request.body())
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        raise _Refused(422, f"{where}: {first['msg']}") from None


async def _result(future: Any) -> Any:
    """Of a job at the desk, which is done whether or not anybody still waits for it."""
    return await asyncio.shield(asyncio.wrap_future(future))
