"""Ollama over HTTP/1.1.

Requests go out as the client sent them: no field of our own but Host, no re-quoted target, no redirect followed,
nothing decompressed, no cookies, no proxy from the environment.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
from aiohttp.http import HttpVersion10, HttpVersion11, StreamWriter
from aiohttp.http_exceptions import HttpProcessingError

from ollama_cache_proxy.core.errors import ClientLeft, ProxyError, too_late, unreachable
from ollama_cache_proxy.core.facts import Health, Observer, Part
from ollama_cache_proxy.core.ports import Body, Clock, Sink
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy.breaker import Breaker
from ollama_cache_proxy.policy.chunked import LAST, framed
from ollama_cache_proxy.policy.fields import authority
from ollama_cache_proxy.policy.messages import MAX_LENGTH, Fields, Request, ResponseHead, first, values
from ollama_cache_proxy.upstream.connections import Connection, Connections

_MAX_LINE: Final = 32_768
"""Bytes of the status line, and of each field."""
_READ_BUFFER: Final = 65_536
_PIECE: Final = 65_536
"""Bytes of a chunk that are collected before they are handed on."""
_IN_A_ROW: Final = 256
"""Reads of a response in one turn of the event loop, where that much of it has arrived."""
_JOIN_UP_TO: Final = 65_536
"""Bytes: a body up to this size is copied into one write with its head."""
_NOT_HTTP: Final = "Ollama's response is not valid HTTP"
_BROKE_OFF: Final = "Ollama broke off in the middle of its response"
_STATUSES: Final = range(200, 1000)
_INTERIM: Final = range(100, 200)
_SWITCHING: Final = 101
_WITHOUT_BODY: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_CODING: Final = b"transfer-encoding"
_PORTS: Final = {"http": 80, "https": 443}
_ERRORS: Final = (aiohttp.ClientError, HttpProcessingError, OSError)


class _Response:
    """See ports.Answer. `message` and `content` are aiohttp's: the parsed head, and the stream of the body."""

    def __init__(self, message: Any, content: aiohttp.StreamReader, connection: Connection) -> None:
        self.message = message
        self.content = content
        lines = message.raw_headers
        self.head = ResponseHead(status=message.code, reason=message.reason or "", fields=lines)
        self.host = ""
        self._codings = values(lines, _CODING)
        self.length = None if self._codings else _length(lines)
        connection.content = content
        self._connection = connection
        self._chunked = bool(self._codings)
        self._parts: list[bytes] = []
        self._size = 0
        self._taken = 0

    def whole_body(self) -> bytes | None:
        """See ports.Answer."""
        if self.length is None or not self.content.is_eof():
            return None
        try:
            return self.content.read_nowait()
        except _ERRORS as error:
            raise unreachable(_BROKE_OFF) from error

    async def chunks(self) -> AsyncIterator[bytes]:
        """See ports.Answer. Yields each chunk of Ollama in one piece of up to 64 KiB, however many reads it takes."""
        number = 0
        try:
            while not self.content.at_eof():
                number += 1
                if not number % _IN_A_ROW:
                    await asyncio.sleep(0)
                chunk = self._chunk(*await self.content.readchunk())
                if chunk:
                    yield chunk
        except _ERRORS as error:
            raise unreachable(_BROKE_OFF) from error

    async def relay(self, sink: Sink) -> bool:
        """See ports.Answer."""
        content, number = self.content, 0
        try:
            while not content.at_eof():
                number += 1
                if not number % _IN_A_ROW:
                    await asyncio.sleep(0)
                passing = self._connection.skip_parser(sink) if self._may_skip_parser() else None
                if passing is not None:
                    if not await passing:
                        return False
                    continue
                chunk = self._chunk(*await content.readchunk())
                if chunk and not sink(chunk, None):
                    return False
        except _ERRORS as error:
            raise unreachable(_BROKE_OFF) from error
        finally:
            self._connection.parse_all()
        return True

    def _may_skip_parser(self) -> bool:
        """Return whether the body is chunked and all that the parser has read of it was handed on."""
        content = self.content
        handed_on = not self._size and content.total_bytes == self._taken
        return self._chunked and handed_on and content.exception() is None and self._connection.is_connected()

    def _chunk(self, part: bytes, ends: bool) -> bytes | None:  # noqa: FBT001 - as aiohttp gives them
        """Return the collected parts once they are a complete chunk or `_PIECE` bytes; else None."""
        self._parts.append(part)
        self._size += len(part)
        self._taken += len(part)
        if not self._size or not (ends or not self._chunked or self._size >= _PIECE):
            return None
        chunk = part if self._size == len(part) else b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        return chunk

    @property
    def is_unambiguous(self) -> bool:
        """Whether no other HTTP implementation could read this response differently than aiohttp does."""
        message = self.message
        codings = [value.strip(b" \t").lower() for value in self._codings]
        return (
            message.version in (HttpVersion10, HttpVersion11)
            and message.code in _STATUSES
            and "\0" not in self.head.reason
            and codings in ([], [b"chunked"])
            and (self.length or 0) <= MAX_LENGTH
        )


def _length(lines: Fields) -> int | None:
    value = first(lines, b"content-length")
    return int(value) if value is not None and value.isdigit() else None


class _SentRequest:
    """A request that was sent on a connection; `upload` is the task that still sends its body."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.upload: asyncio.Task[None] | None = None
        self.response: _Response | None = None

    @property
    def is_over(self) -> bool:
        """Whether all was sent and the response was read to its end, so that the connection can be reused."""
        response, upload = self.response, self.upload
        sent = upload is None or upload.done()
        return sent and response is not None and response.content.at_eof() and not response.message.should_close


class RequestContext:
    """The context manager of one request; a class, because contextlib's generators are slower."""

    def __init__(self, ollama: Ollama, head: Coroutine[Any, Any, _SentRequest], body: Body) -> None:
        self._ollama = ollama
        self._head = head
        self._sent: _SentRequest | None = None
        self.body = body

    async def __aenter__(self) -> _Response:
        ollama = self._ollama
        ollama.under_way.add(self)
        for bodies in ollama.watches:
            bodies.append(self.body)
        try:
            self._sent = await self._head
        except BaseException:
            ollama.under_way.discard(self)
            raise
        assert self._sent.response is not None  # noqa: S101 - for the type checker; `_head` has it
        return self._sent.response

    async def __aexit__(self, *_: object) -> None:
        self._ollama.under_way.discard(self)
        if self._sent is not None:
            self._ollama.finish(self._sent)


class Ollama:
    """See ports.Upstream. A path in `url` is put before every target.

    Times are seconds. Without a `deadline` there is no limit on the wait for the head of a response. `tls` is for
    https; None trusts the system's authorities.
    """

    def __init__(  # noqa: PLR0913 - each is a setting or a neighbour
        self,
        url: str,
        *,
        connect_timeout: float,
        deadline: float | None,
        clock: Clock,
        observe: Observer,
        tasks: Tasks,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        parts = urlsplit(url)
        port = parts.port or _PORTS[parts.scheme]
        self.name = authority(url)
        self.reachable: bool | None = None
        self.refusal = ""
        """Why it refuses what the proxy itself asks; empty where it does not."""
        self.under_way: set[RequestContext] = set()
        """Requests that were sent, and whose response has not ended."""
        self.watches: list[list[Body]] = []
        """Lists that get the body of each request; see `watching`."""
        self._host = self.name.removesuffix(f":{_PORTS[parts.scheme]}").encode()
        self._prefix = parts.path.rstrip("/")
        self._connect_timeout = connect_timeout
        self._deadline = deadline
        self._clock = clock
        self._observe = observe
        self._tasks = tasks
        self._connect_breaker = Breaker(threshold=1, pause=1.0)
        context = (tls or ssl.create_default_context()) if parts.scheme == "https" else None
        self._connections = Connections(parts.hostname or "", port, tls=context)

    def use_tls(self, tls: ssl.SSLContext) -> None:
        """Check certificates by another context from now on; without effect for plain HTTP."""
        if self.over_tls:
            self._connections.use_tls(tls)

    @property
    def over_tls(self) -> bool:
        """Whether it is spoken to over TLS."""
        return self._connections.over_tls

    async def close(self) -> None:
        """Close every connection."""
        self._connections.close()

    def ask(
        self, request: Request, body: Body, *, repeatable: bool = False, spent: float = 0.0, patient: bool = False
    ) -> RequestContext:
        """See ports.Upstream."""
        seconds = None if patient or self._deadline is None else max(0.0, self._deadline - spent)
        return RequestContext(self, self._head(request, body, repeatable=repeatable, seconds=seconds), body)

    @property
    def asking(self) -> int:
        """How many requests are under way."""
        return len(self.under_way)

    @contextmanager
    def watching(self) -> Iterator[list[Body]]:
        """See loaded_contexts.Watched."""
        bodies = [request.body for request in self.under_way]
        self.watches.append(bodies)
        try:
            yield bodies
        finally:
            self.watches = [watch for watch in self.watches if watch is not bodies]

    @property
    def is_unresponsive(self) -> bool:
        """Whether the last attempt to connect timed out; until one succeeds, one request a second tries again."""
        return self._connect_breaker.open

    def finish(self, sent: _SentRequest) -> None:
        """Release the connection if the response was read to its end; else close it, which makes Ollama stop."""
        if sent.is_over:
            self._connections.release(sent.connection)
            return
        if sent.upload is not None:
            sent.upload.cancel()
        self._connections.discard(sent.connection)

    async def _head(self, request: Request, body: Body, *, repeatable: bool, seconds: float | None) -> _SentRequest:
        """Send the request, and return it with its response; raise ProxyError if there is no head in `seconds`."""
        now = self._clock.monotonic()
        if not self._connect_breaker.allows(now):
            raise unreachable(f"Ollama at {self.name} does not answer", unanswered=True)
        source = body if body is None or isinstance(body, bytes) else _Upload(body)
        try:
            if seconds is None:
                sent = await self._send(request, source, repeatable=repeatable)
            else:
                sent = await self._send_within(seconds, request, source, repeatable=repeatable)
        except _ERRORS as error:
            raise self._failed(error) from error
        self._connect_breaker.succeeded()
        self._report_health(well=True)
        if sent.response is None or not sent.response.is_unambiguous:
            self.finish(sent)
            raise unreachable(_NOT_HTTP)
        return sent

    async def _send_within(
        self, seconds: float, request: Request, body: bytes | _Upload | None, *, repeatable: bool
    ) -> _SentRequest:
        """Send the request; raise ProxyError if the response does not begin in time."""
        try:
            async with asyncio.timeout(None if isinstance(body, _Upload) else seconds) as deadline:
                if isinstance(body, _Upload):  # the deadline starts when the client's upload ends
                    body.on_end(lambda: deadline.reschedule(asyncio.get_running_loop().time() + seconds))
                sent = await self._send(request, body, repeatable=repeatable)
                if isinstance(body, _Upload):
                    body.on_end(_nothing)
                return sent
        except TimeoutError as error:
            if deadline.expired():
                raise too_late(self._deadline or seconds) from error
            raise

    async def _send(self, request: Request, body: bytes | _Upload | None, *, repeatable: bool) -> _SentRequest:
        """Send the request; again on a new connection if a reused one closed before any byte of the response.

        Where Ollama has taken it a second time and gives no response either, other idle connections would not help.
        """
        connection = self._connections.take_idle()
        if connection is not None:
            sent = _SentRequest(connection)
            try:
                return await self._exchange(sent, request, body)
            except _ERRORS as error:
                if isinstance(body, _Upload) or not _closed_unanswered(error, repeatable=repeatable):
                    raise
            again = _SentRequest(await self._open())
            try:
                return await self._exchange(again, request, body)
            except _ERRORS as error:
                self._connections.close_idle()
                raise self._failed(error, asks=2) from error
        return await self._exchange(_SentRequest(await self._open()), request, body)

    async def _open(self) -> Connection:
        """Open a connection; raise ProxyError if that fails or takes too long."""
        try:
            async with asyncio.timeout(self._connect_timeout):
                return await self._connections.open()
        except TimeoutError as error:
            self._connect_breaker.failed(self._clock.monotonic())
            failure = unreachable(f"Ollama at {self.name} does not answer", unanswered=True)
            self._report_health(well=False, reason=failure.message)
            raise failure from error
        except OSError as error:
            text = f"Ollama at {self.name} cannot be reached: {error.strerror or 'no address'}"
            failure = unreachable(text, unanswered=True)
            self._report_health(well=False, reason=failure.message)
            raise failure from error

    async def _exchange(self, sent: _SentRequest, request: Request, body: bytes | _Upload | None) -> _SentRequest:
        """Send a request on a connection, and wait for the head of the response."""
        connection = sent.connection
        try:
            connection.set_response_params(
                skip_payload=request.method == "HEAD",
                read_until_eof=True,
                auto_decompress=False,
                read_bufsize=_READ_BUFFER,
                max_line_size=_MAX_LINE,
                max_field_size=_MAX_LINE,
            )
            self._write(sent, request, body)
            while sent.response is None:
                message, content = await connection.read()
                if message.code not in _INTERIM or message.code == _SWITCHING:
                    sent.response = _Response(message, content, connection)
        except BaseException as error:
            self.finish(sent)
            if isinstance(body, _Upload) and body.failure is not None:
                raise body.failure from error
            raise
        return sent

    def _write(self, sent: _SentRequest, request: Request, body: bytes | _Upload | None) -> None:
        transport = sent.connection.transport
        if transport is None or transport.is_closing():
            raise aiohttp.ServerDisconnectedError
        has_length = first(request.fields, b"content-length") is not None
        head = self._render_head(request, body, has_length=has_length)
        if isinstance(body, bytes) and len(body) <= _JOIN_UP_TO:
            transport.write(head + body)
            return
        transport.write(head)
        if isinstance(body, bytes):
            transport.write(body)
        elif body is not None:
            writer = StreamWriter(sent.connection, asyncio.get_running_loop())
            sending = self._upload(sent.connection, writer, body, chunked=not has_length)
            sent.upload = self._tasks.spawn(sending, "send an upload", endless=True)

    def _render_head(self, request: Request, body: bytes | _Upload | None, *, has_length: bool) -> bytes:
        """Return the head of a request as bytes, with a field for the length of the body if it has none."""
        path = request.target if request.target == "*" else self._prefix + request.target  # RFC 9112, section 3.2.4
        target = path.encode("utf-8", "surrogateescape")
        lines = [b"%b %b HTTP/1.1" % (request.method.encode(), target), b"Host: " + self._host]
        lines += [b"%b: %b" % line for line in request.fields]
        if isinstance(body, _Upload):
            lines += [] if has_length else [b"Transfer-Encoding: chunked"]
        elif not has_length and (body or request.method not in _WITHOUT_BODY):
            lines.append(b"Content-Length: %d" % len(body or b""))
        return b"\r\n".join(lines) + b"\r\n\r\n"

    async def _upload(self, connection: Connection, writer: StreamWriter, body: _Upload, *, chunked: bool) -> None:
        """Send a body as it arrives; abort the request if the body breaks off. Ollama's errors show in its response."""
        with suppress(aiohttp.ClientError, OSError):
            try:
                async for piece in body.read():
                    if connection.transport is None:
                        return
                    connection.transport.write(framed(piece) if chunked else piece)
                    await writer.drain()
            except (ClientLeft, ProxyError) as error:
                body.failure = error
                connection.set_exception(aiohttp.ClientConnectionError())
                connection.close()
                return
            if chunked and connection.transport is not None:
                connection.transport.write(LAST)

    def _failed(self, error: Exception, *, asks: int = 1) -> ProxyError:
        """Return the error to raise; its text contains nothing that was sent or received."""
        if not isinstance(error, aiohttp.ServerDisconnectedError | OSError):
            return unreachable(_NOT_HTTP, asks=asks)
        unanswered = _closed_unanswered(error, repeatable=True)
        failure = unreachable("Ollama closed the connection before it responded", asks=asks, unanswered=unanswered)
        self._report_health(well=False, reason=failure.message)
        return failure

    def note_refusal(self, reason: str) -> None:
        """See probes.py. It is known once for each change."""
        if reason != self.refusal:
            self.refusal = reason
            self._tell_health("")

    def _report_health(self, *, well: bool, reason: str = "") -> None:
        if self.reachable is not well:
            self.reachable = well
            self._tell_health(reason)

    def _tell_health(self, reason: str) -> None:
        reached = bool(self.reachable)
        refusal = self.refusal if reached else ""
        name = f"Ollama at {self.name}"
        self._observe(
            Health(
                part=Part.UPSTREAM,
                well=reached and not refusal,
                name=name,
                reason=refusal or reason,
                refused=bool(refusal),
            )
        )


class _Upload:
    """A request body that is forwarded as it arrives; `failure` is set if the client's side failed."""

    def __init__(self, body: AsyncIterator[bytes]) -> None:
        self._body = body
        self._on_end = _nothing
        self.failure: ClientLeft | ProxyError | None = None

    def on_end(self, call: Callable[[], None]) -> None:
        """Set the function to call when the body has been read to its end."""
        self._on_end = call

    async def read(self) -> AsyncIterator[bytes]:
        """Yield the body without empty pieces: as a chunk, an empty piece would end it."""
        async for chunk in self._body:
            if chunk:
                yield chunk
        self._on_end()


def _nothing() -> None:
    """Do nothing."""


def _closed_unanswered(error: Exception, *, repeatable: bool) -> bool:
    """Return whether a connection closed before any byte of a response arrived.

    aiohttp's error holds what had arrived in place of its message. After a reset this is not known: then only a
    `repeatable` request counts as unanswered.
    """
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return isinstance(error.message, str)
    return repeatable and isinstance(error, aiohttp.ClientOSError | ConnectionError)
