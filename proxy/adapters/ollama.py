"""Ollama over HTTP/1.1, by aiohttp's client with all its helpfulness turned off.

What is asked is what the client asked: no header of aiohttp's own, no re-quoted target, no redirect followed, nothing
decompressed, no cookies, no proxy from the environment.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any, Final

import aiohttp
from aiohttp.http import HttpVersion10, HttpVersion11
from multidict import CIMultiDict
from yarl import URL

from proxy.errors import ClientLeft, ProxyError, too_late, unreachable
from proxy.policy.breaker import Breaker
from proxy.policy.fields import authority
from proxy.policy.messages import MAX_LENGTH, Fields, Request, ResponseHead, first
from proxy.ports import Body, Clock, Health, Observer, Part

_NOT_OURS: Final = ("Accept", "Accept-Encoding", "User-Agent", "Content-Type")
_MAX_LINE: Final = 32_768
_READ_BUFFER: Final = 65_536
_PIECE: Final = 65_536
_NO_HTTP: Final = "Ollama's answer is not valid HTTP"
_STATUSES: Final = range(200, 1000)


class _Answer:
    """See ports.Answer."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        lines = response.raw_headers
        self.head = ResponseHead(status=response.status, reason=response.reason or "", fields=lines)
        self.length = _length(lines)
        self._chunked = first(lines, b"transfer-encoding") is not None

    def arrived(self) -> bytes | None:
        """See ports.Answer."""
        content = self._response.content
        if self.length is None or not content.is_eof():
            return None
        try:
            return content.read_nowait()
        except aiohttp.ClientError as error:
            raise unreachable("Ollama broke off in the middle of its answer") from error

    async def chunks(self) -> AsyncIterator[bytes]:
        """See ports.Answer. A chunk of Ollama's is one piece up to 64 KiB, in however many reads it comes."""
        content = self._response.content
        parts: list[bytes] = []
        size = 0
        try:
            while not content.at_eof():
                part, ends = await content.readchunk()
                if part:
                    parts.append(part)
                    size += len(part)
                if parts and (ends or not self._chunked or size >= _PIECE):
                    yield b"".join(parts)
                    parts.clear()
                    size = 0
        except (aiohttp.ClientError, OSError) as error:
            raise unreachable("Ollama broke off in the middle of its answer") from error


def _is_sound(response: aiohttp.ClientResponse) -> bool:
    """Whether an answer that aiohttp reads is one that nobody else can read as another."""
    lines = response.raw_headers
    codings = [value.strip(b" \t").lower() for name, value in lines if name.lower() == b"transfer-encoding"]
    return (
        response.version in (HttpVersion10, HttpVersion11)
        and response.status in _STATUSES
        and "\0" not in (response.reason or "")
        and codings in ([], [b"chunked"])
        and (_length(lines) or 0) <= MAX_LENGTH
    )


_REUSED: Final[ContextVar[bool]] = ContextVar("reused", default=False)
"""Whether the connection of the request that this task has sent last had served another before."""


class _Connector(aiohttp.TCPConnector):
    """Uses no connection again on which something has come that nobody had asked for: it would be the next answer."""

    async def _get(self, key: Any, traces: Any) -> Any:
        connection = await super()._get(key, traces)
        while connection is not None and connection.protocol is not None and connection.protocol.should_close:
            connection.close()
            connection = await super()._get(key, traces)
        if connection is not None:
            _REUSED.set(True)
        return connection


def _length(lines: Fields) -> int | None:
    if first(lines, b"transfer-encoding") is not None:
        return None
    value = first(lines, b"content-length")
    return int(value) if value is not None and value.isdigit() else None


class Ollama:
    """See ports.Upstream. A path in `url` goes before every target.

    Times are seconds; `deadline` None waits for the head of an answer for ever. `tls` is for https, None the system's.
    """

    def __init__(  # noqa: PLR0913 - each is a setting or a neighbour
        self,
        url: str,
        *,
        connect_timeout: float,
        deadline: float | None,
        clock: Clock,
        observe: Observer,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        base = URL(url)
        self.name = authority(url)
        self.reachable: bool | None = None
        self._origin: dict[str, Any] = {"scheme": base.scheme, "host": base.host or "", "port": base.port}
        self._prefix = base.raw_path.rstrip("/")
        self._connect_timeout = connect_timeout
        self._deadline = deadline
        self._tls: ssl.SSLContext | bool = tls or True
        self._clock = clock
        self._observe = observe
        self._silence = Breaker(threshold=1, pause=1.0)
        self._session = self._new_session(fresh=False)
        self._fresh = self._new_session(fresh=True)

    def _new_session(self, *, fresh: bool) -> aiohttp.ClientSession:
        session = aiohttp.ClientSession(
            connector=_Connector(limit=0, force_close=fresh, ssl=self._tls),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_NOT_OURS,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout, sock_read=None),
            trust_env=False,
            read_bufsize=_READ_BUFFER,
            max_line_size=_MAX_LINE,
            max_field_size=_MAX_LINE,
        )
        session._retry_connection = False  # noqa: SLF001 - it would send a request a third time; there is no argument
        return session

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()
        await self._fresh.close()

    @asynccontextmanager
    async def ask(
        self, request: Request, body: Body, *, repeatable: bool = False, spent: float = 0.0
    ) -> AsyncIterator[_Answer]:
        """See ports.Upstream."""
        response = await self._head(request, body, repeatable=repeatable, spent=spent)
        complete = False
        try:
            yield _Answer(response)
            complete = response.content.at_eof()
        finally:
            if complete:
                response.release()
            else:
                response.close()

    async def _head(self, request: Request, body: Body, *, repeatable: bool, spent: float) -> aiohttp.ClientResponse:
        now = self._clock.monotonic()
        if not self._silence.allows(now):
            raise unreachable(f"Ollama at {self.name} does not answer")
        seconds = None if self._deadline is None else max(0.0, self._deadline - spent)
        source = body if body is None or isinstance(body, bytes) else _Upload(body)
        try:
            if seconds is None:
                response = await self._send(request, source, repeatable=repeatable)
            else:
                response = await self._send_within(seconds, request, source, repeatable=repeatable)
        except (aiohttp.ClientError, OSError) as error:
            raise self._failed(error) from error
        self._silence.succeeded()
        self._told(well=True)
        if not _is_sound(response):
            response.close()
            raise unreachable(_NO_HTTP)
        return response

    async def _send_within(
        self, seconds: float, request: Request, body: bytes | _Upload | None, *, repeatable: bool
    ) -> aiohttp.ClientResponse:
        """Send the request; raises ProxyError where its answer does not begin in time."""
        try:
            async with asyncio.timeout(None if isinstance(body, _Upload) else seconds) as deadline:
                if isinstance(body, _Upload):  # it is Ollama's time, not the client's
                    body.then(lambda: deadline.reschedule(asyncio.get_running_loop().time() + seconds))
                response = await self._send(request, body, repeatable=repeatable)
                if isinstance(body, _Upload):
                    body.then(_nothing)
                return response
        except TimeoutError as error:
            if deadline.expired():
                raise too_late(self._deadline or seconds) from error
            raise

    async def _send(
        self, request: Request, body: bytes | _Upload | None, *, repeatable: bool
    ) -> aiohttp.ClientResponse:
        """Send the request; once more on a new connection if a reused one closed before any byte of the answer."""
        _REUSED.set(False)
        upload = body if isinstance(body, _Upload) else None
        try:
            return await self._request(self._session, request, upload.read() if upload else body)
        except aiohttp.ClientError as error:
            if upload is not None and upload.failure is not None:
                raise upload.failure from error
            if upload is not None or not _REUSED.get() or not _unanswered(error, repeatable=repeatable):
                raise
        return await self._request(self._fresh, request, body)

    async def _request(self, session: aiohttp.ClientSession, request: Request, body: Any) -> aiohttp.ClientResponse:
        return await session.request(
            request.method,
            URL.build(**self._origin, path=self._prefix + request.target, encoded=True),
            headers=_headers(request.fields),
            data=body,
            allow_redirects=False,
        )

    def _failed(self, error: Exception) -> ProxyError:
        """Say what happened, without a word of what was sent or received."""
        match error:
            case aiohttp.ConnectionTimeoutError():
                self._silence.failed(self._clock.monotonic())
                failure = unreachable(f"Ollama at {self.name} does not answer")
            case aiohttp.ClientConnectorError():
                failure = unreachable(f"Ollama at {self.name} cannot be reached: {error.strerror or 'no address'}")
            case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
                failure = unreachable("Ollama closed the connection before it answered")
            case _:
                return unreachable(_NO_HTTP)
        self._told(well=False, reason=failure.message)
        return failure

    def _told(self, *, well: bool, reason: str = "") -> None:
        if self.reachable is not well:
            self.reachable = well
            self._observe(Health(part=Part.UPSTREAM, well=well, name=f"Ollama at {self.name}", reason=reason))


def _headers(lines: Fields) -> CIMultiDict[str]:
    """Give the fields as aiohttp wants them; of lines whose names differ in case it would keep only the last."""
    spelled: dict[bytes, str] = {}
    headers: CIMultiDict[str] = CIMultiDict()
    for name, value in lines:
        key = spelled.setdefault(name.lower(), name.decode("latin-1"))
        headers.add(key, value.decode("utf-8", "surrogateescape"))
    return headers


class _Upload:
    """A request body on its way through; remembers whether it was the client that failed."""

    def __init__(self, body: AsyncIterator[bytes]) -> None:
        self._body = body
        self._then = _nothing
        self.failure: ClientLeft | ProxyError | None = None

    def then(self, call: Callable[[], None]) -> None:
        """Call this when the body has been read to its end."""
        self._then = call

    async def read(self) -> AsyncIterator[bytes]:
        """Give the body; first nothing, which makes aiohttp send the head before there is a byte of it."""
        yield b""
        try:
            async for chunk in self._body:
                yield chunk
        except (ClientLeft, ProxyError) as error:
            self.failure = error
            raise
        self._then()


def _nothing() -> None:
    """Do nothing."""


def _unanswered(error: aiohttp.ClientError, *, repeatable: bool) -> bool:
    """Whether a connection closed before any byte of an answer came.

    aiohttp keeps what had come in the place of the message. Of a reset it keeps nothing: then only what may be asked
    twice counts as unanswered.
    """
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return isinstance(error.message, str)
    return (
        repeatable and isinstance(error, aiohttp.ClientOSError) and not isinstance(error, aiohttp.ClientConnectorError)
    )
