"""The door of the page: who may speak to it, and how. Plain ASGI, in front of every route.

A page on 127.0.0.1 can be reached by every program of this machine and, through the browser, by every web site that
its user visits. What keeps them out, in this order:

- the Host header must be an address we were told of, or another name that resolves to this machine could be used to
  read the page (DNS rebinding);
- an Origin header must be our own, and a browser that says where a request comes from (Sec-Fetch-Site) must not say
  "another site";
- a secret: the token of a link, which lets one browser in, once, and from then on a cookie, another secret, that no script
  and no other site gets;
- a write must be JSON, with a header that no form and no foreign page can send;
- a body may have 64 KiB.
"""

from __future__ import annotations

import hmac
import html
import logging
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode

from starlette.types import ASGIApp, Message, Receive, Scope, Send

LIMIT = 64 * 1024  # bytes of a request's body
WRITE_HEADER = b"x-guidestar"
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
_log = logging.getLogger("uvicorn.error")
_OURS = {name.encode(): value.encode() for name, value in HEADERS.items()}


@dataclass(frozen=True)
class Refusal:
    """An answer that ends a request at the door."""

    status: int
    text: str
    headers: tuple[tuple[bytes, bytes], ...] = ()
    kind: bytes = b"text/plain; charset=utf-8"


class Keys:
    """The two secrets of a page. token: that of the link; used, it is replaced by another. cookie, value: what the browser
    keeps from then on, the same after a restart: browsers send the cookies of 127.0.0.1 to all its ports, so the name has
    the port, and the value is worth nothing in a link or at another port.
    """

    def __init__(
        self, secret: str, port: int, *, token: str | None = None, renewed: Callable[[str], None] = lambda token: None
    ) -> None:
        """secret: known to the owner of the folder alone. token: of the first link. renewed: told every later one."""
        self.token, self.renewed = token or secrets.token_urlsafe(32), renewed
        self.cookie = f"guidestar-{port}"
        self.value = hmac.new(secret.encode(), self.cookie.encode(), "sha256").hexdigest()

    def use(self, found: str) -> bool:
        """Whether this is the token of the link; if so, it was."""
        if not _same(found, self.token):
            return False
        self.token = secrets.token_urlsafe(32)
        self.renewed(self.token)
        return True


class TooLarge(Exception):
    """A body is larger than `LIMIT`."""


class Guard:
    """ASGI in front of `app`. See the module's text.

    hosts: the "host:port" that the page may be called by.
    """

    def __init__(self, app: ASGIApp, *, keys: Keys, hosts: Collection[str]) -> None:
        self.app, self.keys = app, keys
        self.hosts = {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # a websocket: there are none here
            await send({"type": "websocket.close", "code": 1008})
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await _answer(send, refusal)
            return
        started = False

        async def send_ours(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                own = [(name, value) for name, value in message.get("headers", []) if name.lower() not in _OURS]
                message = {**message, "headers": [*own, *_OURS.items()]}
            await send(message)

        try:
            await self.app(scope, _capped(receive), send_ours)
        except TooLarge:
            if started:
                raise
            await _answer(send, _TOO_LARGE)
        except Exception:
            _log.exception("%s %s", scope["method"], scope["path"])
            if started:
                raise
            await _answer(send, Refusal(500, "Something went wrong; the terminal of guidestar label says what.\n"))

    def _refusal(self, scope: Scope) -> Refusal | None:
        hosts = _all(scope, b"host")
        if len(hosts) != 1 or hosts[0].lower() not in self.hosts:
            return Refusal(403, "This page answers only under the address that guidestar label printed.\n")
        origin = f"{scope.get('scheme', 'http')}://{hosts[0].lower()}"
        origins, sites = _all(scope, b"origin"), _all(scope, b"sec-fetch-site")
        if any(found.lower() != origin for found in origins):
            return Refusal(403, "Requests from other sites are refused.\n")
        method, path = scope["method"], scope["path"]
        if method not in ("GET", "HEAD", "POST"):
            return Refusal(405, "Only GET, HEAD and POST.\n", ((b"allow", b"GET, HEAD, POST"),))
        # A link to a page may be followed from anywhere; the strict cookie then stays away, and the token is needed.
        is_page = method != "POST" and not path.startswith(("/api/", "/static/"))
        if not is_page and any(site != "same-origin" for site in sites):
            return Refusal(403, "Requests from other sites are refused.\n")
        if is_page and (found := _token(scope)) is not None:
            return self._let_in(scope, sites) if method == "GET" and self.keys.use(found) else _NO_ENTRY
        if not any(_same(value, self.keys.value) for value in _cookies(scope, self.keys.cookie)):
            return _NO_ENTRY
        return _refused_write(scope, origins) if method == "POST" else None

    def _let_in(self, scope: Scope, sites: Collection[str]) -> Refusal:
        """To the same page without the token, which then stays out of the history and of copied addresses."""
        rest = urlencode([(k, v) for k, v in _query(scope) if k != "token"])
        path = "/review" if scope["path"] == "/review" else "/"  # "//elsewhere" would be another server
        where = path + (f"?{rest}" if rest else "")
        cookie = (b"set-cookie", f"{self.keys.cookie}={self.keys.value}; Path=/; HttpOnly; SameSite=Strict".encode())
        if "cross-site" in sites:  # a redirect would still count as the other site's, and the strict cookie stay away
            page = f'<!doctype html><meta http-equiv="refresh" content="0;url={html.escape(where)}">\n'
            return Refusal(200, page, (cookie,), b"text/html; charset=utf-8")
        return Refusal(303, "", ((b"location", where.encode("latin-1")), cookie))


def _same(found: str, secret: str) -> bool:
    return hmac.compare_digest(found.encode(), secret.encode())


_NO_ENTRY = Refusal(
    403, "Open the whole newest link that guidestar label printed; it ends in ?token=… and lets one browser in.\n"
)
_TOO_LARGE = Refusal(413, f"A request may have {LIMIT} bytes.\n", ((b"connection", b"close"),))


def _refused_write(scope: Scope, origins: list[str]) -> Refusal | None:
    if not origins:
        return Refusal(403, "A write needs an Origin header.\n")
    if _all(scope, WRITE_HEADER) != ["1"]:
        return Refusal(403, "A write needs the header X-Guidestar: 1.\n")
    kinds = _all(scope, b"content-type")
    if len(kinds) != 1 or kinds[0].partition(";")[0].strip().lower() != "application/json":
        return Refusal(415, "A write must be application/json.\n")
    lengths = _all(scope, b"content-length")
    if any(not length.isdigit() or int(length) > LIMIT for length in lengths):
        return _TOO_LARGE
    return None


def _capped(receive: Receive) -> Receive:
    """`receive` that stops a body that grows too large, whatever length it was announced with."""
    total = 0

    async def read() -> Message:
        nonlocal total
        message = await receive()
        if message["type"] == "http.request":
            total += len(message.get("body", b""))
            if total > LIMIT:
                raise TooLarge
        return message

    return read


async def _answer(send: Send, refusal: Refusal) -> None:
    body = refusal.text.encode()
    own = [(b"content-type", refusal.kind), (b"content-length", str(len(body)).encode())]
    headers = [*own, *refusal.headers, *_OURS.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _all(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name]


def _cookies(scope: Scope, name: str) -> list[str]:
    """Every value under the name: somebody else's cookie must not hide ours."""
    pairs = (part.strip().partition("=") for line in _all(scope, b"cookie") for part in line.split(";"))
    return [value for key, _, value in pairs if key == name]


def _query(scope: Scope) -> list[tuple[str, str]]:
    return parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)


def _token(scope: Scope) -> str | None:
    return next((value for key, value in _query(scope) if key == "token"), None)
