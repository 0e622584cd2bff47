"""HTTP/1.1 towards clients: aiohttp's server reads requests, this file writes the answers.

Answers are written as bytes, head included, because aiohttp's own would rename, add and reorder fields. What a client
must not see are half an answer that looks whole, another's bytes, or the proxy's errors: whatever ends early ends in a
reset. No line of a request is ever logged.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, TypeAlias, cast

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpVersion10, HttpVersion11, RawRequestMessage

from ollama_cache_proxy.core.errors import ClientLeft, stalled
from ollama_cache_proxy.core.ports import Client, Clock, Room, Shortcut
from ollama_cache_proxy.policy.fields import with_host
from ollama_cache_proxy.policy.messages import MAX_LENGTH, Fields, Request, ResponseHead, rendered
from ollama_cache_proxy.policy.target import split

Handler: TypeAlias = Callable[[Request, Client], Awaitable[None]]

BACKLOG: Final = 1024
"""Connections that wait in the kernel to be accepted."""
_NO_BODY_STATUS: Final = frozenset({204, 304})
_MAX_LINE: Final = 32_768
_JOIN_UP_TO: Final = 65_536
_HOLDS: Final = 0.02
"""Seconds for which the head of a request that is known is kept from the parser: its body mostly comes at once."""
_END_OF_HEAD: Final = b"\r\n\r\n"
_PIECE: Final = 65_536
"""Bytes of a body that are read at once: so much of it is copied on its way."""
_LINGERS: Final = 1.0
"""Seconds for which the rest of a request is taken in after an early answer: a reset could overtake that."""
_AT_ONCE: Final = 0.01
"""Seconds; to aiohttp, 0 means for ever."""
_RESET_AT_ONCE: Final = struct.pack("ii", 1, 0)
_BAD_REQUEST: Final = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n400 Bad Request"
)
_TIMEOUT: Final = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_LAST_CHUNK: Final = b"0\r\n\r\n"
_NOT_IMPLEMENTED: Final = b"HTTP/1.1 501 Not Implemented\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_FULL: Final = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\nConnection: close\r\n\r\n"


class _Written(web.StreamResponse):
    """What aiohttp gets back from the handler: the answer has been written already."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._stays = keep_alive

    @property
    def keep_alive(self) -> bool:
        return self._stays

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:  # noqa: ARG002 - aiohttp's name
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to write."""


_STAYS: Final = _Written(keep_alive=True)
_ENDS: Final = _Written(keep_alive=False)


class _HttpClient:
    """See ports.Client. Writes to the transport; one answer."""

    def __init__(self, request: web.BaseRequest, listener: Listener) -> None:
        self._request = request
        self._listener = listener
        self._writer = request.writer
        self._transport = request.transport
        self._connection = cast("_Connection", request.protocol)
        self._held: list[bytes] = []
        self._old = request.version < HttpVersion11
        self._expects = not self._old and request.headers.get("Expect", "").lower() == "100-continue"
        self._chunked = False
        self._bodyless = False
        loses = "Upgrade" in request.headers  # aiohttp loses what follows it
        faulty = self._old and "Transfer-Encoding" in request.headers  # RFC 9112, section 6.1
        self.keep_alive = request.keep_alive and not loses and not faulty
        self.first_byte_at: float | None = None
        self.sent = 0
        self.ended = False
        self._stalled = False

    @property
    def raw(self) -> bytes | None:
        """See ports.Client. What closes its connection, or had to be answered twice, is not like another one."""
        span = self._connection.span
        plain = self.keep_alive and not self._old and "Expect" not in self._request.headers
        return span.raw_of(self._request) if plain and span is not None else None

    def let_go(self) -> None:
        """Keep nothing of the request that nobody needs any more."""
        if self._connection.span is not None:
            self._connection.span.let_go(self._request)

    # The request's body.

    async def body(self, limit: int, room: Room) -> bytes | None:
        length = self._request.content_length
        if length is not None and length > limit:
            return None
        size = 0
        while chunk := await self._read():
            self._held.append(chunk)
            size += len(chunk)
            if size > limit or not room(len(chunk)):
                return None
        if not room(size):  # for a moment it is there twice, and later what it says takes about as much
            return None
        whole = self._held[0] if len(self._held) == 1 else b"".join(self._held)
        self._held = [whole]
        return whole

    def stream(self) -> AsyncIterator[bytes] | None:
        return self._stream() if self._held or self._request.body_exists else None

    async def _stream(self) -> AsyncIterator[bytes]:
        self._held.reverse()
        while self._held:
            yield self._held.pop()
        while chunk := await self._read():
            yield chunk

    async def _read(self) -> bytes:
        content = self._request.content
        if content.at_eof():
            return b""
        if self._expects:
            self._expects = False
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            if content.is_eof():
                return content.read_nowait(_PIECE)
            async with asyncio.timeout(self._listener.body_timeout):
                return await content.read(_PIECE)
        except TimeoutError as error:
            self.keep_alive = False
            self._stalled = True
            raise stalled(self._listener.body_timeout) from error
        except (OSError, web.RequestPayloadError) as error:
            self.keep_alive = False
            raise ClientLeft from error

    # The answer.

    async def begin(self, head: ResponseHead, length: int | None) -> None:
        self._write(self._head(head, length))
        await self.flush()

    async def write(self, chunk: bytes) -> None:
        if not self.put(chunk, None):
            await self.flush()

    def put(self, chunk: bytes, framed: bytes | None) -> bool:
        transport = self._transport
        if transport is None or transport.is_closing():  # `_open`, without the call: this is done for each chunk
            return False
        if framed is not None and self._chunked:
            self.sent += len(chunk)
            transport.write(framed)
        elif not self._bodyless:
            self._write_chunk(chunk)
        return not self._connection.writing_paused

    def _write_chunk(self, chunk: bytes, after: bytes = b"") -> None:
        self.sent += len(chunk)
        if not self._chunked:
            self._write(chunk)
        elif len(chunk) <= _JOIN_UP_TO:
            self._write(b"%x\r\n%b\r\n%b" % (len(chunk), chunk, after))
        else:
            self._write(b"%x\r\n" % len(chunk))
            self._write(chunk)
            self._write(b"\r\n" + after)

    async def finish(self, last: bytes = b"") -> None:
        if last and not self._bodyless:
            self._write_chunk(last, _LAST_CHUNK)
        elif self._chunked:
            with suppress(ClientLeft):
                self._write(_LAST_CHUNK)
        self._end()

    async def send(self, head: ResponseHead, body: bytes) -> None:
        lines = self._head(head, len(body))
        if self._bodyless or not body:
            self._write(lines)
        elif len(body) <= _JOIN_UP_TO:
            self.sent += len(body)
            self._write(lines + body)
        else:
            self.sent += len(body)
            self._write(lines)
            self._write(body)
        self._end()
        if self._connection.writing_paused:
            await self.flush()

    def _end(self) -> None:
        """All of the answer is written: on a connection that stays, the next one may follow."""
        self.ended = True
        if self.keep_alive:
            self._connection.answered += 1

    def refuse(self, answer: bytes) -> None:
        """Send a whole answer that closes the connection."""
        self.keep_alive = False
        self.ended = True
        self._write(answer)

    def close(self) -> None:
        """Close after what was written, where the rest of the request is not worth waiting for."""
        if self._stalled and self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        self.keep_alive = False
        self.ended = True
        _reset(self._transport)

    def _head(self, head: ResponseHead, length: int | None) -> bytes:
        """Frame the answer (RFC 9112, section 6) and give its head as bytes."""
        self._bodyless = self._request.method == "HEAD" or head.status in _NO_BODY_STATUS
        self._chunked = length is None and not self._bodyless and not self._old
        if self._listener.draining or not self._request.content.is_eof() or (self._old and length is None):
            self.keep_alive = False
        framing: Fields = ((b"Transfer-Encoding", b"chunked"),) if self._chunked else ()
        if not self.keep_alive:
            framing += ((b"Connection", b"close"),)
        elif self._old:
            framing += ((b"Connection", b"keep-alive"),)
        self.first_byte_at = self._listener.clock.monotonic()
        return rendered(head, framing, minor=0 if self._old else 1)

    async def flush(self) -> None:
        """Wait while the client reads too slowly; raises ClientLeft."""
        if _open(self._transport) is None:
            raise ClientLeft
        if not self._connection.writing_paused:
            return
        try:
            await self._writer.drain()
        except ConnectionError as error:
            raise ClientLeft from error

    def _write(self, data: bytes) -> None:
        transport = _open(self._transport)
        if transport is None:
            raise ClientLeft
        transport.write(data)


def _open(transport: asyncio.Transport | None) -> asyncio.Transport | None:
    """Give the way to a client; None where it has left, or is being left."""
    return None if transport is None or transport.is_closing() else transport


def _reset(transport: asyncio.Transport | None) -> None:
    """Close a connection so that no one can take what was sent for a whole answer."""
    transport = _open(transport)
    if transport is None:
        return
    sock = transport.get_extra_info("socket")
    with suppress(OSError, AttributeError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_ONCE)
    transport.abort()


class _Span:
    """What came since the last request of a connection had ended: whether it is exactly one request is the question.

    As long as it may be, and is small, its bytes are kept.
    """

    __slots__ = ("_lines", "_parts", "_payload", "_seen", "_size", "_size_expected")

    def __init__(self) -> None:
        self._parts: list[bytes] | None = []
        self._size = 0
        self._seen = False
        self._size_expected: int | None = None
        self._payload: Any = None
        self._lines: Any = None

    def add(self, data: bytes, messages: list[Any]) -> None:
        """Take in what came, and the requests that the parser has begun to give since."""
        self._size += len(data)
        if self._parts is not None:
            self._parts.append(data)
        if messages:
            self._begin(messages)
        if self._size > _JOIN_UP_TO:
            self._parts = None

    def _begin(self, messages: list[Any]) -> None:
        at = -1 if self._parts is None else b"".join(self._parts).find(_END_OF_HEAD)
        message, payload = messages[0]
        plain = isinstance(message, RawRequestMessage) and not (message.chunked or message.upgrade)
        alone = len(messages) == 1 and not self._seen
        self._seen = True
        self._size_expected = None
        if plain and alone and at >= 0:
            self._payload, self._lines = payload, message.raw_headers
            self._size_expected = at + len(_END_OF_HEAD) + int(message.headers.get("Content-Length", 0))

    def is_whole(self) -> bool:
        """Whether it is one request with nothing after it: then what comes next begins a new one.

        The parser has read a request to its end, which is thus not behind what came. By its Content-Length it ends
        there at the earliest: the first empty line is not behind that which ended its head.
        """
        return self._size == self._size_expected and self._payload.is_eof()

    def raw_of(self, request: web.BaseRequest) -> bytes | None:
        """Give the bytes, where they are those of this request and were kept."""
        own = self.is_whole() and self._lines is request.raw_headers
        return b"".join(self._parts) if own and self._parts is not None else None

    def let_go(self, request: web.BaseRequest) -> None:
        """Keep no bytes of this request any longer: a connection may be idle for an hour."""
        if self._lines is request.raw_headers:
            self._parts = None


class _Connection(web.RequestHandler):
    """One connection: aiohttp's protocol with a deadline for heads, a cap, and errors that repeat nothing.

    Where nothing is under way, what comes is first shown to whoever may know its answer by its bytes alone.
    """

    __slots__ = (
        *("_behind", "_begun", "_counted", "_head_timer", "_held", "_listener", "_looking_up", "_release_timer"),
        *("answered", "span"),
    )

    def __init__(self, listener: Listener, server: web.Server, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type] # aiohttp takes None for no access log
            auto_decompress=False,
            lingering_time=_LINGERS,
            max_line_size=_MAX_LINE,
            max_field_size=_MAX_LINE,
        )
        self._listener = listener
        self._head_timer: asyncio.TimerHandle | None = None
        self._release_timer: asyncio.TimerHandle | None = None
        self._held = b""
        self._behind = b""
        self._looking_up: asyncio.Future[bytes | None] | None = None
        self._counted = False
        self._begun = False
        self.span: _Span | None = None
        self.answered = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._counted = self._listener.opened()
        if not self._counted:
            cast("asyncio.Transport", transport).write(_FULL)  # uvloop's are transports without the name
            self.force_close()
            return
        self._await_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._head_came()
        self._take_held()
        if self._looking_up is not None:
            self._looking_up.cancel()
        if self._counted:
            self._counted = False
            self._listener.closed()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._looking_up is not None:
            self._behind += data
            if self.transport is not None:
                self.transport.pause_reading()
            return
        held = self._take_held()
        data = held + data if held else data
        if data and (self.span is None or self.span.is_whole()):  # it begins a request; aiohttp itself sends nothing
            if self._is_idle():
                shortcuts = self._listener.shortcuts
                if not held and shortcuts.begins(data):
                    self._held = data
                    self._release_timer = asyncio.get_running_loop().call_later(_HOLDS, self._release)
                    return
                answer = shortcuts.answer(data)
                if isinstance(answer, bytes) and self.transport is not None:
                    self._answered()
                    self.transport.write(answer)
                    return
                if isinstance(answer, asyncio.Future):
                    self._looks_up(data, answer)
                    return
            self.span = _Span()
        self._read(data)

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002 - aiohttp's signature
        """Resume only what was paused: aiohttp would feed the parser nothing whenever a piece of a body is read."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def _looks_up(self, data: bytes, answer: asyncio.Future[bytes | None]) -> None:
        """Wait for an answer that comes in a moment: until then nothing else is begun."""
        self._answered()
        self._looking_up = answer
        self._listener.begins(self)
        answer.add_done_callback(lambda _: self._looked_up(data, answer))

    def _looked_up(self, data: bytes, found: asyncio.Future[bytes | None]) -> None:
        """Give the answer, or let the ordinary way begin; then go on with what came behind."""
        self._looking_up = None
        self._listener.ends(self)
        if self.transport is None:
            return
        answer = None if found.cancelled() or found.exception() is not None else found.result()
        if answer is not None and self._is_idle():
            self.transport.write(answer)
        else:
            self.span = _Span()
            self._read(data)
        behind, self._behind = self._behind, b""
        if behind:
            self.transport.resume_reading()
            self.data_received(behind)

    def abort(self) -> None:
        """End with a reset."""
        _reset(self.transport)

    def _is_idle(self) -> bool:
        """Whether every request that came is answered, and the client takes what it is sent."""
        answered = self.answered == self._request_count
        return answered and not (self._paused or self._close or self._force_close or self._listener.draining)

    def _answered(self) -> None:
        if self._head_timer is not None:
            self._head_came()
        self._next_keepalive_close_time = self._listener.clock.monotonic() + self._keepalive_timeout

    def _take_held(self) -> bytes:
        if self._release_timer is None:
            return b""
        self._release_timer.cancel()
        self._release_timer = None
        held, self._held = self._held, b""
        return held

    def _release(self) -> None:
        """Let the ordinary way begin with a head whose body does not come at once."""
        self.span = _Span()
        self._read(self._take_held())

    def _read(self, data: bytes) -> None:
        before = self._request_count
        super().data_received(data)
        count = self._request_count - before
        if self.span is not None:
            self.span.add(data, list(self._messages)[-count:] if count else [])
        if count:
            self._head_came()
            return
        self._begun = True
        if self._head_timer is None and self._waiter is not None and not self._waiter.done():
            self._await_head()

    def _await_head(self) -> None:
        loop = asyncio.get_running_loop()
        self._head_timer = loop.call_later(self._listener.head_timeout, self._too_slow)

    def _too_slow(self) -> None:
        """Close; whoever had begun a head is told why (RFC 9110, section 15.5.9)."""
        if self._begun and self.transport is not None:
            self.transport.write(_TIMEOUT)
        self.force_close()

    def _head_came(self) -> None:
        self._begun = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,  # noqa: ARG002 - aiohttp's signature
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it would repeat what the client sent
    ) -> web.StreamResponse:
        """Answer what is no HTTP as Go's server does. An error of the proxy's own never gets here as an answer."""
        transport = _open(request.transport)
        if transport is not None and exc is not None:
            transport.write(_BAD_REQUEST)
        return _ENDS

    def log_exception(self, *args: Any, **kw: Any) -> None:  # noqa: ARG002 - the text would name the request
        """Name the kind of error and nothing of the request."""
        error = kw.get("exc_info")
        if error is not None and not isinstance(error, web.HTTPException):
            self._listener.failed(type(error).__name__)


def _refusal(request: web.BaseRequest) -> bytes | None:
    """Give the answer to what aiohttp reads, but could not be sent on as what it is; None where it can."""
    headers = request.headers
    if request.method == "CONNECT" or headers.get("Transfer-Encoding", "chunked").lower() != "chunked":
        return _NOT_IMPLEMENTED
    sound = (
        request.version in (HttpVersion10, HttpVersion11)
        and (request.content_length or 0) <= MAX_LENGTH
        and headers.get("Host", "").isascii()
    )
    return None if sound else _BAD_REQUEST


class Listener:
    """One listening socket and its connections. Times are seconds.

    `counted` is told how many clients are connected whenever one has come or left.
    """

    def __init__(  # noqa: PLR0913 - each is a setting
        self,
        handler: Handler,
        *,
        shortcuts: Shortcut,
        clock: Clock,
        head_timeout: float,
        body_timeout: float,
        max_connections: int,
        failed: Callable[[str], None],
        counted: Callable[[int], None] | None = None,
    ) -> None:
        self.shortcuts = shortcuts
        self.clock = clock
        self.head_timeout = head_timeout
        self.body_timeout = body_timeout
        self.draining = False
        self.failed = failed
        self._counted = counted
        self._handler = handler
        self._max_connections = max_connections
        self._connections = 0
        self._in_progress: set[_HttpClient | _Connection] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._server = web.Server(self._handle, handler_cancellation=True)
        self._sockets: asyncio.Server | None = None

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return self._connections

    def opened(self) -> bool:
        """Count a new connection in; False when there are too many."""
        if self._connections >= self._max_connections:
            return False
        self._connections += 1
        self._empty.clear()
        if self._counted is not None:
            self._counted(self._connections)
        return True

    def closed(self) -> None:
        """Count a connection out."""
        self._connections -= 1
        if not self._connections:
            self._empty.set()
        if self._counted is not None:
            self._counted(self._connections)

    def begins(self, client: _HttpClient | _Connection) -> None:
        """Know of an answer under way."""
        self._in_progress.add(client)
        self._idle.clear()

    def ends(self, client: _HttpClient | _Connection) -> None:
        """Know that it is over."""
        self._in_progress.discard(client)
        if not self._in_progress:
            self._idle.set()

    async def start(self, sock: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Accept connections on a bound socket, with TLS where there is a context for it."""
        self._sockets = await asyncio.get_running_loop().create_server(
            self._connection,
            sock=sock,
            backlog=BACKLOG,
            ssl=tls,
            ssl_handshake_timeout=None if tls is None else self.head_timeout,
        )

    async def take(self, sock: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Serve a connection that another process has accepted."""
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._connection,
                sock,
                ssl=tls,
                ssl_handshake_timeout=None if tls is None else self.head_timeout,
            )
        except (OSError, TimeoutError):  # it has left, or is no TLS
            sock.close()

    def _connection(self) -> _Connection:
        return _Connection(self, self._server, asyncio.get_running_loop())

    async def drain(self, patience: float, grace: float = 0.25) -> None:
        """Stop: no new connections, what is in progress ends, announcing `Connection: close`.

        Requests get `patience` seconds, idle keep-alive connections `grace`, in which a request that was already
        on its way is still answered. What is left then ends in a reset.
        """
        self.draining = True
        if self._sockets is not None:
            self._sockets.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._empty.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while self._in_progress:
                    await self._idle.wait()
        for client in tuple(self._in_progress):
            client.abort()
        await self._server.shutdown(_AT_ONCE)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        client = _HttpClient(request, self)
        self.begins(client)
        try:
            refusal = _refusal(request)
            if refusal is not None:
                client.refuse(refusal)
            else:
                target, authority = split(request.raw_path)
                lines = request.raw_headers if authority is None else with_host(request.raw_headers, authority)
                await self._handler(Request(method=request.method, target=target, fields=lines), client)
        except ClientLeft:
            client.abort()
        except Exception as error:  # noqa: BLE001 - the last resort: a reset, and the name of the error in the log
            self.failed(type(error).__name__)
            client.abort()
        finally:
            if not client.ended:
                client.abort()
            client.close()
            client.let_go()
            self.ends(client)
        return _STAYS if client.keep_alive else _ENDS
