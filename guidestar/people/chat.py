"""One question to a model behind an OpenAI-compatible address, tried again with limits.

The key goes into one header of one request to the configured address and nowhere else: redirects are not followed,
plain http with a key is for this machine alone, and messages have it cut out.
"""

from __future__ import annotations

import ipaddress
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from guidestar.config import EndpointConfig
from guidestar.errors import ConfigError, ModelError, needed
from guidestar.words import count

if TYPE_CHECKING:
    import httpx

Messages = Sequence[Mapping[str, str]]

LONGEST_PAUSE = 60.0  # seconds between two tries, where the server asks for nothing
LONGEST_WAIT = 300.0  # seconds, however long the server asks us to wait
LARGEST_REPLY = 4 << 20  # bytes; a chat completion has some thousands
_SHORTEST_KEY = 12  # characters
_AGAIN = {408, 409, 429}  # and every 5xx
_THIS_REQUEST = {400, 413, 422}  # the server has something against this text, or against every one of ours


class Refused(ModelError):
    """The server refuses this request: the text is too long, a content filter, or a wrong parameter."""


class _Failed(Exception):
    """One try failed in a way that another try may not. wait: seconds that the server asks for."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True)
class Reply:
    """What came back. text: None if nothing was written. cut: it ended at the limit of tokens.

    tokens_in, tokens_out: what the server counted, None where it does not say. seconds: all tries and pauses.
    """

    text: str | None
    cut: bool
    tokens_in: int | None
    tokens_out: int | None
    seconds: float = 0.0
    tries: int = 1


class Chat:
    """An address, a model and a key. May be used from several threads at once; `close` it, or use `with`."""

    def __init__(self, config: EndpointConfig, *, sleep: Callable[[float], None] | None = None) -> None:
        """sleep: waits some seconds; a test gives one that does not.

        Raises ConfigError for an address that cannot be used, or that would carry the key in the open.
        """
        if config.url is None or config.model is None:
            raise ConfigError("endpoint.url and endpoint.model are needed to ask an endpoint")
        self._config = config
        self._key = _key_in(config.key)
        self._closed = threading.Event()
        self._sleep = sleep or self._closed.wait
        parts = checked_address(config.url, config.key if self._key else None)
        self.host = parts.netloc
        self._url = config.url.rstrip("/") + "/chat/completions"
        self._renamed: dict[str, str | None] = {}  # parameters this model wants under another name, or not at all
        httpx = needed("httpx", "an endpoint", "label")
        self._client = httpx.Client(
            headers={"Accept-Encoding": "identity", "User-Agent": "guidestar"}
            | ({"Authorization": f"Bearer {self._key}"} if self._key else {}),
            timeout=config.timeout,
            follow_redirects=False,
            # A proxy of the environment must not see what goes to this machine in the open.
            trust_env=not is_loopback(parts.hostname or ""),
            limits=httpx.Limits(max_connections=config.parallel, max_keepalive_connections=config.parallel),
        )

    def close(self) -> None:
        """End the connections and wake whoever waits for another try."""
        self._closed.set()
        self._client.close()

    def ask(self, messages: Messages) -> Reply:
        """The model's reply at temperature 0, after as many tries as configured.

        Raises ConfigError where another try cannot help (key, address, model, quota), Refused where the server has
        something against this request, ModelError when all tries failed.
        """
        begun = time.monotonic()
        tries = 0
        while True:
            tries += 1
            try:
                renamed = dict(self._renamed)
                status, headers, content = self._send(messages, renamed)
                if self._adapts(status, content, renamed):
                    tries -= 1
                    continue
                reply = self._read(status, headers, content)
            except _Failed as failed:
                if tries > self._config.retries or self._closed.is_set():
                    raise ModelError(
                        f"endpoint {self.host}: {self._clean(str(failed))}, after {count(tries, 'try')}"
                    ) from None
                self._sleep(pause(tries, failed.wait, secrets.SystemRandom().random()))
                continue
            return replace(reply, seconds=round(time.monotonic() - begun, 3), tries=tries)

    def _send(self, messages: Messages, renamed: Mapping[str, str | None]) -> tuple[int, httpx.Headers, bytes]:
        """One request; its whole answer must be there within the timeout. Raises _Failed."""
        import httpx

        wanted: dict[str, Any] = {"model": self._config.model, "messages": list(messages)}
        for name, value in (("temperature", 0), ("max_tokens", self._config.max_tokens)):
            if (now := renamed.get(name, name)) is not None:
                wanted[now] = value
        end = time.monotonic() + self._config.timeout
        late = f"no answer within {self._config.timeout:g} seconds"
        content = bytearray()
        try:
            with self._client.stream("POST", self._url, json=wanted) as response:
                for chunk in response.iter_bytes():
                    content += chunk
                    if len(content) > LARGEST_REPLY:
                        raise ConfigError(f"endpoint {self.host}: the reply is larger than {LARGEST_REPLY} bytes")
                    if time.monotonic() > end:  # the client's own limit is for each piece
                        raise _Failed(late)
                return response.status_code, response.headers, bytes(content)
        except httpx.TimeoutException:
            raise _Failed(late) from None
        except httpx.TransportError as error:
            raise _Failed(f"{type(error).__name__}: {error}") from None
        except RuntimeError:  # the client was closed under us
            if self._closed.is_set():
                raise _Failed("closed") from None
            raise

    def _adapts(self, status: int, content: bytes, renamed: Mapping[str, str | None]) -> bool:
        """Whether the model wants a parameter otherwise, and is asked so from now on: some take no temperature, and
        `max_completion_tokens` for `max_tokens`. renamed: what the request was sent with."""
        error = _error(content) if status == 400 else {}
        name, code = error.get("param"), error.get("code")
        if code not in ("unsupported_parameter", "unsupported_value") or name not in ("temperature", "max_tokens"):
            return False
        if name in renamed:
            return False
        self._renamed[name] = "max_completion_tokens" if name == "max_tokens" else None
        return True

    def _read(self, status: int, headers: Mapping[str, str], content: bytes) -> Reply:
        """The reply in a good answer. Raises for every other."""
        where = f"endpoint {self.host}"
        said = self._clean(str(_error(content).get("message") or content.decode(errors="replace")))
        said = f": {said}" if said else ""
        if status == 200:
            return self._completion(content, where)
        if 300 <= status < 400:
            target = self._clean(urlsplit(headers.get("location", "")).netloc) or "another path of the same host"
            raise ConfigError(
                f"{where}: status {status}, a redirect to {target}; it is not followed, since the key would go there. "
                "Put the final address into endpoint.url"
            )
        if status in (401, 403):
            key = f"the key in {self._config.key} is not accepted" if self._key else f"{self._config.key} holds no key"
            raise ConfigError(f"{where}: status {status}, {key}{said}")
        if status == 404:
            raise ConfigError(
                f"{where}: status 404; found endpoint.url {self._config.url} and endpoint.model "
                f"{self._config.model!r}. The url ends with the version, like /v1{said}"
            )
        if status == 429 and _error(content).get("code") == "insufficient_quota":
            raise ConfigError(f"{where}: status 429, the quota is used up{said}")
        if status in _AGAIN or status >= 500:
            raise _Failed(f"status {status}{said}", _retry_after(headers.get("retry-after")))
        if status in _THIS_REQUEST:
            raise Refused(f"{where}: status {status}{said}")
        raise ConfigError(f"{where}: found status {status}, allowed: 200{said}")

    def _completion(self, content: bytes, where: str) -> Reply:
        try:
            body = json.loads(content)
            choice = body["choices"][0]
            text = choice["message"].get("content")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            start = self._clean(content[:200].decode(errors="replace"))
            raise ConfigError(
                f"{where}: the reply is no chat completion: {start!r}; is endpoint.url ({self._config.url}) the address "
                "up to the version, like http://127.0.0.1:8000/v1?"
            ) from None
        usage = body["usage"] if isinstance(body.get("usage"), dict) else {}
        return Reply(
            self._without_key(text) if isinstance(text, str) else None,
            choice.get("finish_reason") == "length",
            _count(usage.get("prompt_tokens")),
            _count(usage.get("completion_tokens")),
        )

    def _clean(self, text: str) -> str:
        """A server's words for a message: one short line, without the key."""
        line = " ".join("".join(c if c.isprintable() else " " for c in self._without_key(text)).split())
        return line if len(line) <= 300 else line[:300] + " …"

    def _without_key(self, text: str) -> str:
        """A server may say the key back. What is shorter than any real key ("none", "x") may be a word of an answer."""
        return text.replace(self._key, "[key]") if self._key and len(self._key) >= _SHORTEST_KEY else text


def checked_address(url: str, key_name: str | None) -> SplitResult:
    """The parts of an address. key_name: the variable that holds a key, None if there is none.

    Raises ConfigError for anything but http and https, for a name and password in the address, and for a key that
    would travel in the open.
    """
    parts = urlsplit(url)
    try:
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise ConfigError(f"endpoint.url: {error}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError(f"endpoint.url is {parts.scheme}://{host}; it must begin with http:// or https:// and a host")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ConfigError(
            f"endpoint.url for {host} holds a name, a password, a ? or a #; allowed: scheme, host, port and path. "
            "The key belongs into the environment variable that endpoint.key names"
        )
    if parts.scheme == "http" and key_name is not None and not is_loopback(host):
        raise ConfigError(
            f"endpoint.url is http://{parts.netloc}, and {key_name} holds a key, which anybody on the way could read; "
            f"use https, or an address of this machine, or name an unset variable in endpoint.key"
        )
    return parts


def pause(tries: int, asked: float, jitter: float) -> float:
    """Seconds until the next try: 1, 2, 4, … up to a minute, half of it by chance; what the server asked for if that
    is longer, up to five minutes and a second.

    tries: so far. asked: by the server. jitter: in [0, 1), so that parallel requests do not come back together.
    >>> [pause(n, 0.0, 0.0) for n in (1, 2, 3, 20)], pause(1, 7.0, 0.5)
    ([0.5, 1.0, 2.0, 30.0], 7.5)
    """
    own = min(LONGEST_PAUSE, 2.0 ** min(tries - 1, 10)) * (0.5 + 0.5 * jitter)
    return max(own, min(asked, LONGEST_WAIT) + jitter if asked > 0 else 0.0)


def _key_in(variable: str) -> str | None:
    key = os.environ.get(variable, "").strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"endpoint.key: the environment variable {variable} holds characters that no key has")
    return key or None


def is_loopback(host: str) -> bool:
    """Whether only this machine can be reached, or reaches it, under an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _retry_after(value: str | None) -> float:
    """Seconds in a Retry-After header, a number or a date; 0 for none or nonsense."""
    with suppress(ValueError):
        seconds = float(value or 0)
        return seconds if 0 < seconds < float("inf") else 0.0
    with suppress(ValueError):
        at = parsedate_to_datetime(value or "")
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        return max(0.0, (at - datetime.now(UTC)).total_seconds())
    return 0.0


def _error(content: bytes) -> dict[str, Any]:
    """The "error" of an OpenAI-style answer; {} where there is none."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    found = body.get("error") if isinstance(body, dict) else None
    if isinstance(found, str):
        return {"message": found}
    return found if isinstance(found, dict) else {}


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
