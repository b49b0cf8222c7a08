"""The labelling page: a small web application on this machine. Nothing of it is loaded before it is served."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.applications import Starlette

__all__ = ["create_app", "serve"]


def create_app(folder: Path, **options: Any) -> Starlette:
    """The application; see `guidestar.people.page.app.create_app`."""
    from guidestar.people.page import app

    return app.create_app(folder, **options)


def serve(
    run: Path,
    *,
    train: bool = False,
    port: int = 0,
    bind: str = "127.0.0.1",
    annotator: str | None = None,
    open_browser: bool = True,
    say: Callable[[str], None] = print,
) -> int:
    """Serve the page until Ctrl-C; see `guidestar.people.page.server.serve`."""
    from guidestar.people.page import server

    return server.serve(run, train=train, port=port, bind=bind, annotator=annotator, open_browser=open_browser, say=say)
