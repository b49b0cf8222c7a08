"""The labelling page as a web application: two pages, a few static files, and the JSON calls to the desk."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

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
from guidestar.people.page.desk import Desk, NotReady, experiment_of, guidelines_of, people_of
from guidestar.people.page.finder import Finder
from guidestar.people.page.guard import Guard, Keys
from guidestar.people.page.setup import Setup
from guidestar.people.trainer import Trainer, TrainerState, change_labels, status_of

HERE = Path(__file__).parent
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_LOOK = 1.0  # seconds between two looks at the training

Handler = Callable[[Request], Awaitable[Response]]
Json = dict[str, Any]
T = TypeVar("T")


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
    # A name for the run that tells nothing about its secrets; the browser's own storage carries it.
    identity = hashlib.sha256(f"guidestar run {keys.value}".encode()).hexdigest()[:12]

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
        routes=[*_pages(folder, identity, annotator), *_Calls(desk, news).routes()],
        middleware=[Middleware(Guard, keys=keys, hosts=hosts)],
        lifespan=lifespan,
    )


class _News:
    """What the training does, as it was last seen."""

    def __init__(self, trainer: Trainer | None, setup: Setup | None = None) -> None:
        self.trainer, self.setup = trainer, setup
        self.state = None if trainer is None else trainer.state()
        self.reached: Json = {}  # what a finished run reached, as `status_of` says it
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
        """Look after the training, and what a finished run reached, as long as the page is served."""
        while True:
            if self.setup is not None and self.setup.missing:
                await asyncio.sleep(_LOOK / 10)
                continue
            if self.trainer is not None:
                await self._look(self.trainer, desk)
            await self._finished(desk)
            await asyncio.sleep(_LOOK)

    async def _look(self, trainer: Trainer, desk: Desk) -> None:
        try:
            work = await asyncio.wrap_future(desk.call(partial(_work, budget=trainer.budget)))
        except NotReady:
            work = "begin"
        except Exception:  # a run that cannot be read now may be read in a second
            work = None
        try:
            async with self._alone:
                self.state = await asyncio.to_thread(trainer.tick, work)
        except Exception as error:  # whoever looks after the training must outlive what it sees
            self.state = TrainerState("failed", tail=(f"{type(error).__name__}: {error}",))

    async def _finished(self, desk: Desk) -> None:
        """Learn once, and after each change of a label, what a finished run reached."""
        with suppress(Exception):  # the page has a sentence of its own then
            seen = await asyncio.wrap_future(desk.call(lambda board: (board.store.finished() is not None, board.seen)))
            if seen != self._told:
                self._told, self.reached = seen, {}  # what it reached before it went on is no answer
                if seen[0]:
                    self.reached = await asyncio.to_thread(status_of, experiment_of(desk.folder))

    def not_begun(self, error: NotReady) -> views.Json:
        """What the page is told while there is no run."""
        return views.not_begun(str(error), self.state, self.setup.asked() if self.setup else None)


def _work(board: Board, budget: int | None = None) -> object:
    """What there is to train on, None while labels are missing or the run is finished. budget: the configured one."""
    if not board.complete or board.store.ended(budget or 0) is not None:
        return None
    return board.round, board.asks, board.seen, board.store.finished()


# --- pages ----------------------------------------------------------------------------------------


def _pages(folder: Path, identity: str, annotator: str | None) -> list[Route]:
    templates = Environment(
        loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    static = {
        path.name: (path.read_bytes(), _TYPES[path.suffix])
        for path in sorted((HERE / "static").iterdir())
        if path.suffix in _TYPES
    }

    def page(name: str) -> Handler:
        async def show(request: Request) -> Response:
            experiment = experiment_of(folder)
            text = await asyncio.to_thread(lambda: guidelines_of(people_of(experiment)))
            about = {"run": identity, "annotator": annotator or "", "guidelines": text}
            template = templates.get_template(f"{name}.html")
            return HTMLResponse(template.render(about, page=name, name=experiment.resolve().name))

        return show

    async def file(request: Request) -> Response:
        """From the table above; no name of a request ever becomes a path."""
        if (kept := static.get(request.path_params["name"])) is None:
            raise HTTPException(404)
        return Response(kept[0], media_type=kept[1])

    return [Route("/", page("label")), Route("/review", page("review")), Route("/static/{name}", file)]


# --- JSON -----------------------------------------------------------------------------------------


class _Calls:
    """What the scripts of the page call: POST /api/NAME, the body a record of `wire`, the answer JSON. All are POST, so all
    pass the checks of a write."""

    def __init__(self, desk: Desk, news: _News) -> None:
        self.desk, self.news, self.finder = desk, news, Finder(experiment_of(desk.folder))
        self._looking = ThreadPoolExecutor(1, "guidestar-find")  # a search of a large pool holds up nobody who labels

    def routes(self) -> list[Route]:
        """One for each method that takes a record."""
        return [
            Route(f"/api/{name}", self._answers(getattr(self, name), record), methods=["POST"])
            for name, record in _RECORDS.items()
        ]

    def _answers(self, method: Callable[[Any], Awaitable[Json]], record: type[Any]) -> Handler:
        """Errors as JSON: 422 for what was sent, 503 for what the server cannot do now and the browser should try again."""

        async def answer(request: Request) -> Response:
            try:
                return JSONResponse(await method(_read(await request.body(), record)))
            except _Refused as error:
                return JSONResponse({"error": error.text}, error.status)
            except GuidestarError as error:
                return JSONResponse({"error": str(error)}, 503)

        return answer

    async def _at_desk(self, work: Callable[[Board], T]) -> T:
        return await _result(self.desk.call(work))

    async def _apart(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._looking, work)

    def _reached(self, board: Board) -> Json | None:
        """What a finished run reached; None for one that goes on, because its budget was raised."""
        budget = self.news.trainer.budget if self.news.trainer is not None else None
        return self.news.reached if board.store.ended(budget or 0) is not None else None

    async def save(self, asked: wire.Decisions) -> Json:
        outcomes = await _result(self.desk.save(asked.annotator, asked.decisions))
        now = await self._at_desk(lambda board: views.state(board, asked.annotator, self.news.state))
        results = [{"decision": o.decision, "refused": o.refused, "new": o.new} for o in outcomes]
        return {"results": results, "state": now}

    async def next(self, asked: wire.Ask) -> Json:
        def work(board: Board) -> Json:
            ids, lost = board.offer(asked.annotator, asked.want, asked.have, asked.hold, active=asked.active)
            waits = not ids and not asked.hold
            return {
                "examples": [views.example(board, id, asked.annotator) for id in ids],
                "lost": lost,
                "suggested": views.suggested(board, asked.hold),
                "idle": views.idle(board, asked.annotator, self.news.state, self._reached(board)) if waits else None,
                "state": views.state(board, asked.annotator, self.news.state),
            }

        try:
            return await self._at_desk(work)
        except NotReady as error:
            return {"examples": [], "lost": [], "suggested": {}, "idle": None, "state": self.news.not_begun(error)}

    async def state(self, asked: wire.Who) -> Json:
        try:
            return await self._at_desk(lambda board: views.state(board, asked.annotator, self.news.state, whole=True))
        except NotReady as error:
            return self.news.not_begun(error)

    async def labels(self, asked: wire.Labels) -> Json:
        if self.news.setup is None or not self.news.setup.missing:
            raise _Refused(422, "The labels are known already.")
        try:
            await asyncio.to_thread(self.news.setup.give, asked.labels, asked.several)
        except ConfigError as error:
            raise _Refused(422, str(error)) from None
        return {}

    async def example(self, asked: wire.One) -> Json:
        def work(board: Board) -> Json:
            try:
                return views.example(board, asked.id, asked.annotator)
            except StoreError as error:
                raise _Refused(404, str(error)) from None

        return await self._at_desk(work)

    async def history(self, asked: wire.Older) -> Json:
        return await self._at_desk(lambda board: views.history(board, asked.annotator, asked.skip, asked.only))

    async def review(self, asked: wire.Who) -> Json:
        state = await self.state(asked)
        return await self._at_desk(views.review) | {"state": state}

    async def retry(self, asked: wire.Who) -> Json:
        if self.news.trainer is not None:
            self.news.trainer.retry()
        return {}

    async def find(self, asked: wire.Find) -> Json:
        barred = await self._at_desk(lambda board: board.store.annotations.apart())
        found = await self._apart(partial(views.search, self.finder, asked, barred))
        said = await self._at_desk(lambda board: views.answered(board, [e["id"] for e in found["examples"]]))
        return found | {"said": said}

    async def group(self, asked: wire.Grouped) -> Json:
        pool = await self._apart(lambda: {e.id: e for e in self.finder.pool.only(asked.ids)})
        found, source = [pool[id] for id in asked.ids if id in pool], f"page+{asked.how}"
        try:
            ids = await self._at_desk(lambda b: b.answer_group(asked.annotator, found, asked.text, asked.group, source))
        except DataError as error:
            raise _Refused(422, str(error)) from None
        return {"ids": ids}

    async def ungroup(self, asked: wire.Group) -> Json:
        return {"ids": await self._at_desk(lambda board: board.undo_group(asked.annotator, asked.group))}

    async def classes(self, asked: wire.Who) -> Json:
        return await self._at_desk(views.classes)

    async def relabel(self, asked: wire.Relabel) -> Json:
        await self._at_desk(lambda board: None)  # there is a run
        if problem := await self.news.relabel(experiment_of(self.desk.folder), asked):
            raise _Refused(422, problem)
        return await self._at_desk(views.classes)


_RECORDS: dict[str, type[Any]] = {
    "save": wire.Decisions, "next": wire.Ask, "state": wire.Who, "labels": wire.Labels, "example": wire.One,
    "history": wire.Older, "review": wire.Who, "retry": wire.Who, "find": wire.Find, "group": wire.Grouped,
    "ungroup": wire.Group, "classes": wire.Who, "relabel": wire.Relabel,
}  # fmt: skip


class _Refused(Exception):
    def __init__(self, status: int, text: str) -> None:
        self.status, self.text = status, text


def _read(body: bytes, record: type[Any]) -> Any:
    """The body as a record. Raises _Refused that says which key is wrong."""
    try:
        return record.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        raise _Refused(422, f"{where}: {first['msg']}") from None


async def _result(future: Any) -> Any:
    """Of a job at the desk, which is done whether or not anybody still waits for it."""
    return await asyncio.shield(asyncio.wrap_future(future))
