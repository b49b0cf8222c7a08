"""Connections that send nothing, or slowly: nobody may keep the others out by holding them open.

uvicorn has no time limit for a request that has begun, and waits for as many connections as the system gives out.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.h11_impl import H11Protocol

MOST = 200  # connections at once; a browser opens six
SECONDS = 10.0  # that a request may take to arrive, head and body


class Bounded(H11Protocol):
    """uvicorn's HTTP, with a time limit for every request and a limit on connections: one more than `MOST` closes the
    oldest that has asked for nothing, or itself where all are being answered."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A new connection; the clock of its first request starts."""
        super().connection_made(cast(asyncio.Transport, transport))
        if len(self._open) >= MOST:
            waiting = next((other for other in self._open if not other._asks), self)
            waiting.transport.abort()
            self._open.pop(waiting, None)
        self._open[self] = None
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end of it."""
        self._open.pop(self, None)
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """A part of a request."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """After an answer uvicorn's own limit holds, until something is sent again."""
        super().on_response_complete()
        self._stop()

    @property
    def _open(self) -> dict[Bounded, None]:
        """All connections of the server, the oldest first."""
        state: Any = self.server_state
        if not hasattr(state, "bounded"):
            state.bounded = {}
        return cast("dict[Bounded, None]", state.bounded)

    @property
    def _asks(self) -> bool:
        """Whether a whole request is here and not answered yet."""
        return self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body

    def _watch(self) -> None:
        if self._asks:
            self._stop()
        elif self._late is None and not self.transport.is_closing():
            self._late = self.loop.call_later(SECONDS, self.transport.abort)

    def _stop(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
