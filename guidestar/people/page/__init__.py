"""The labelling page: a small web application on this machine. Nothing of it is loaded before it is served."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.applications import Starlette

__all__ = ["create_app", "serve"]


def create_app(folder: Path, **options: Any) -> Starlette:
    """The application; see `guidestar.people.page.app.create_app`."""
    from guidestar.people.page import app

    return app.create_app(folder, **options)


def serve(run: Path, **options: Any) -> int:
    """Serve the page until Ctrl-C; see `guidestar.people.page.server.serve`."""
    from guidestar.people.page import server

    defaults: dict[str, Any] = {
        "train": False,
        "port": 0,
        "bind": "127.0.0.1",
        "annotator": None,
        "open_browser": True,
        "say": print,
    }
    return server.serve(run, **(defaults | options))
