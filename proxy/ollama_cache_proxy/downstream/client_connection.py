"""One client connection: aiohttp's protocol with a gate before its parser, a timeout for heads, and a connection limit.

Error responses and log lines repeat nothing that the client sent. Four private names of aiohttp are used, see
tests/project/test_aiohttp.py.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import struct
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any, Final, Protocol, cast

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpRequestParser, RawRequestMessage
from aiohttp.web_protocol import MAX_MSG_QUEUE_SIZE

from ollama_cache_proxy.core.ports import Clock, FastPath
from ollama_cache_proxy.downstream.gate import Gate, Hold, Lookup, Pass, Phase, Queue, Responses, Step
from ollama_cache_proxy.downstream.places import Occupant
from ollama_cache_proxy.downstream.refusals import BAD_REQUEST, FULL, TIMEOUT
from ollama_cache_proxy.downstream.request_reader import MAX_HEAD, RequestReader

_HOLD_SECONDS: Final = 0.02
"""Seconds for which the head of a known request is held back from the parser: its body usually follows immediately."""
_LINGER_SECONDS: Final = 1.0
"""Seconds for which the rest of a request is read after an early response: a reset could overtake that response."""
_NEVER: Final = 1e9
"""Seconds: aiohttp's own keep-alive timeout, which would also end a connection in the middle of a head."""
_ABOUT_TO_SEND: Final = 2.0
"""Seconds after its beginning for which a connection is not taken for idle: nobody can repeat a first request."""
_CLOSE_WITHIN: Final = 1.0
"""Seconds that an idle client has to end its side of TLS."""
_MAX_LINE: Final = 32_768
"""Bytes of the request line, and of each field."""
_MAX_FIELDS: Final = 1024
_READ_AHEAD: Final = 262_144
"""Bytes of a body that are read before the client is told to wait; aiohttp's default."""
_NO_LINGER: Final = struct.pack("ii", 1, 0)
"""SO_LINGER with 0 seconds: closing the socket sends a reset."""


class Abortable(Protocol):
    """Something that can be ended with a reset."""

    def abort(self) -> None: ...


class Owner(Protocol):
    """What a connection needs of the listener that accepted it; see listener.py."""

    fast_path: FastPath
    clock: Clock
    head_timeout: float
    body_timeout: float
    keep_alive: float | None
    draining: bool

    def opened(self, connection: Occupant, /) -> bool: ...
    def closed(self, connection: Occupant, /) -> None: ...
    def timed_out(self) -> None: ...
    def track(self, work: Abortable) -> None: ...
    def untrack(self, work: Abortable) -> None: ...
    def failed(self, error: str, /) -> None: ...


class Written(web.StreamResponse):
    """The response object that aiohttp's handler must return; the real response has already been written."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._open_after = keep_alive

    @property
    def keep_alive(self) -> bool:
        return self._open_after

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:  # noqa: ARG002 - aiohttp's name
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: everything has been written."""


KEEP_OPEN: Final = Written(keep_alive=True)
CLOSE_AFTER: Final = Written(keep_alive=False)


class ClientConnection(web.RequestHandler):
    """Carries out the gate's steps and reports to it what the parser made of the data that it passed.

    `congested` is set while the client does not read, `stopped` once its parser dropped what came behind an Upgrade.
    """

    __slots__ = (
        *("_body", "_counted", "_ending", "_head_size", "_head_timer", "_idle_timer", "_lookup", "_owner"),
        *("_reading_held", "_unused"),
        *("_release_timer", "congested", "gate", "stopped"),
    )

    def __init__(self, owner: Owner, server: web.Server, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type] # aiohttp takes None for no access log
            auto_decompress=False,
            keepalive_timeout=_NEVER,
            lingering_time=_LINGER_SECONDS,
        )
        self.gate = Gate(owner.fast_path)
        reader = RequestReader(lambda: self._new_parser(loop))
        self._parser = reader  # type: ignore[assignment] # it has the methods that are called
        self.stopped = False
        self.congested = False
        self._owner = owner
        self._counted = False
        self._ending = False
        self._reading_held = False
        self._body: Any = None
        self._head_size = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._unused = True
        self._release_timer: asyncio.TimerHandle | None = None
        self._lookup: asyncio.Future[bytes | None] | None = None

    def _new_parser(self, loop: asyncio.AbstractEventLoop) -> HttpRequestParser:
        return HttpRequestParser(
            self,
            loop,
            _READ_AHEAD,
            max_line_size=_MAX_LINE,
            max_field_size=_MAX_LINE,
            max_headers=_MAX_FIELDS,
            payload_exception=web.RequestPayloadError,
            auto_decompress=False,
            max_msg_queue_size=MAX_MSG_QUEUE_SIZE,
        )

    # Opening and closing.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self._counted = self._owner.opened(self)
        if not self._counted:
            cast("asyncio.Transport", transport).write(FULL)  # uvloop's are transports without the name
            self.force_close()
            return
        self._start_head_timer()
        if self._owner.keep_alive is not None:
            self._look_whether_idle(self._owner.keep_alive, self._owner.keep_alive)

    def connection_lost(self, exc: BaseException | None) -> None:
        """See asyncio.Protocol."""
        self._stop_head_timer()
        for timer in (self._release_timer, self._idle_timer):
            if timer is not None:
                timer.cancel()
        if self._lookup is not None:
            self._lookup.cancel()
        if self._counted:
            self._counted = False
            self._owner.closed(self)
        super().connection_lost(exc)

    def close(self) -> None:
        """Accept no more requests on this connection."""
        self._ending = True
        super().close()

    def force_close(self) -> None:
        """Close immediately."""
        self._ending = True
        super().force_close()

    def abort(self) -> None:
        """End with a reset."""
        reset(self.transport)

    # Idleness: what is decided here costs nothing while requests are served.

    def idle_since(self) -> float | None:
        """See places.Occupant. Where the position is not certain (gate.py), a part of a head may be hidden."""
        waiter, gate = self._waiter, self.gate
        if self._ending or self.congested or waiter is None or waiter.done() or not gate.is_idle:
            return None
        used_at = self._next_keepalive_close_time - _NEVER
        if gate.phase is Phase.BETWEEN:
            return used_at + _ABOUT_TO_SEND if self._unused else used_at
        known = gate.phase is Phase.PARSED and self._head_timer is None
        return used_at + self._owner.head_timeout if known and (self._body is None or self._body.is_eof()) else None

    def leave(self) -> bool:
        """See places.Occupant. A client that has yet to read the last response is not done either."""
        transport = still_open(self.transport)
        if transport is None or transport.get_write_buffer_size() or _is_used(transport):
            return False
        self.force_close()
        if transport.get_extra_info("ssl_object") is not None:
            asyncio.get_running_loop().call_later(_CLOSE_WITHIN, transport.abort)
        return True

    def follow(self) -> None:
        """Go by what the listener has now: its fast path and its `keep_alive`."""
        self.gate.use(self._owner.fast_path)
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        if self._counted and self._owner.keep_alive is not None:
            self._look_whether_idle(self._owner.keep_alive, self._owner.keep_alive)

    def _look_whether_idle(self, keep_alive: float, after: float) -> None:
        self._idle_timer = asyncio.get_running_loop().call_later(after, self._may_leave, keep_alive)

    def _may_leave(self, keep_alive: float) -> None:
        """Close if idle for `keep_alive` seconds, else look again when that may be so."""
        since, now = self.idle_since(), self._owner.clock.monotonic()
        left = keep_alive if since is None else since + keep_alive - now
        if left <= 0 and self.leave():
            self._owner.timed_out()
            return
        self._look_whether_idle(keep_alive, left if left > 0 else keep_alive)

    # Incoming data.

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol. aiohttp calls it with empty data when its parser may continue."""
        if self._release_timer is not None:
            self._release_timer.cancel()
            self._release_timer = None
        # `_is_ready` and `_do` without their calls, which would cost each request more time
        step = self.gate.feed(data, ready=not (self.congested or self._ending or self._owner.draining))
        if isinstance(step, bytes):
            self._count_as_used()
            if self.transport is not None:
                self.transport.write(step)
        elif isinstance(step, Pass):
            self._parse(step.data)
        else:
            self._do(step)

    @property
    def _is_ready(self) -> bool:
        """Whether a response can be written now; see `Gate`."""
        return not (self.congested or self._ending or self._owner.draining)

    def _do(self, step: Step) -> None:
        """Carry out a step of the gate, and those that follow from it immediately."""
        while isinstance(step, Responses):
            self._respond(step.data)
            if not step.rest:
                return
            step = self.gate.feed(step.rest, ready=self._is_ready)
        match step:
            case Pass(data=data):
                self._parse(data)
            case Hold():
                self._count_as_used()
                self._release_timer = asyncio.get_running_loop().call_later(_HOLD_SECONDS, self._release)
            case Lookup(pending=pending, before=before):
                if before:
                    self._respond(before)
                self._look_up(pending)
            case Queue():
                if self.transport is not None:
                    self.transport.pause_reading()
            case bytes():
                self._respond(step)

    def _respond(self, response: bytes) -> None:
        """Write complete responses."""
        self._count_as_used()
        if self.transport is not None:
            self.transport.write(response)

    def _count_as_used(self) -> None:
        """Note the time: aiohttp has not seen this request."""
        if self._head_timer is not None:
            self._stop_head_timer()
            self._unused = False
        self._next_keepalive_close_time = self._owner.clock.monotonic() + _NEVER

    def _release(self) -> None:
        self._release_timer = None
        self._parse(self.gate.release().data)

    def _look_up(self, pending: Awaitable[bytes | None]) -> None:
        """Wait for a lookup; no other request is started on this connection until it ends."""
        self._count_as_used()
        self._owner.track(self)
        self._lookup = asyncio.ensure_future(pending)
        self._lookup.add_done_callback(self._lookup_done)

    def _lookup_done(self, found: asyncio.Future[bytes | None]) -> None:
        """Write the response, or pass the request to the parser; then feed what arrived during the lookup."""
        self._lookup = None
        self._owner.untrack(self)
        if self.transport is None:
            return
        response = None if found.cancelled() or found.exception() is not None else found.result()
        step, behind = self.gate.lookup_done(response, ready=self._is_ready)
        if isinstance(step, Pass):
            self._parse(step.data)
        else:
            self.transport.write(step)
        if behind:
            self.transport.resume_reading()
            self.data_received(behind)

    def _parse(self, data: bytes) -> None:
        """Feed aiohttp's parser, and report to the gate what it parsed."""
        known, between = len(self._messages), self._body is None or self._body.is_eof()
        super().data_received(data)
        if cast("RequestReader", self._parser).refused:  # behind what has been read
            super().data_received(b"")
        started = len(self._messages) - known
        if between and not started:
            self._count_head(len(data))
        length, chunked = None, False
        if started:
            last = self._messages[-1][0]
            self.stopped = self.stopped or (isinstance(last, RawRequestMessage) and last.upgrade)
            message, self._body = self._messages[known]
            if isinstance(message, RawRequestMessage) and not message.upgrade:
                chunked = message.chunked
                length = None if chunked else int(message.headers.get("Content-Length", 0))
        self.gate.parsed(started, length, ended=self._body is not None and self._body.is_eof(), chunked=chunked)
        if started:
            self._head_size = 0
            self._unused = False
            self._stop_head_timer()
        elif self._head_timer is None and self.gate.is_idle:
            self._start_head_timer()
        if behind := self.gate.behind():
            self._parse(behind)

    def responded(self) -> None:
        """Note that a response has been written to its end, and go on with what waits behind it."""
        if self.gate.responded():
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        transport = self.transport
        if transport is None or not self.gate.may_go_on:
            return
        transport.resume_reading()
        self._do(self.gate.go_on(ready=self._is_ready))

    def _count_head(self, size: int) -> None:
        """Count bytes of an unfinished head, and refuse one that is too large."""
        self._head_size += size
        if self._head_size > MAX_HEAD and self.transport is not None:
            self.transport.write(BAD_REQUEST)
            self.force_close()

    # Flow control and timeouts.

    def pause_writing(self) -> None:
        """See asyncio.BaseProtocol."""
        self.congested = True
        super().pause_writing()

    def resume_writing(self) -> None:
        """See asyncio.BaseProtocol."""
        self.congested = False
        super().resume_writing()

    def pause_reading(self) -> None:
        """See aiohttp's BaseProtocol."""
        self._reading_held = True
        super().pause_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002 - aiohttp's signature
        """Resume only if paused: aiohttp would otherwise feed the parser empty data after each read of a body."""
        if self._reading_held:
            self._reading_held = False
            super().resume_reading(resume_parser)

    def _start_head_timer(self) -> None:
        loop = asyncio.get_running_loop()
        self._head_timer = loop.call_later(self._owner.head_timeout, self._too_slow)

    def _too_slow(self) -> None:
        """Close, after a 408 if a head had begun to arrive (RFC 9110, section 15.5.9)."""
        if self.gate.phase is Phase.PARSED and self.transport is not None:
            self.transport.write(TIMEOUT)
        self.force_close()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    # Errors.

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,  # noqa: ARG002 - aiohttp's signature
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it may contain what the client sent
    ) -> web.StreamResponse:
        """Respond to invalid HTTP as Go's server does. Internal errors of the proxy never get here."""
        transport = still_open(request.transport)
        if transport is not None and exc is not None:
            transport.write(BAD_REQUEST)
        return CLOSE_AFTER

    def log_exception(self, *args: Any, **kw: Any) -> None:  # noqa: ARG002 - the text may contain the request
        """Log the type of the error, and nothing of the request."""
        error = kw.get("exc_info")
        if error is not None and not isinstance(error, web.HTTPException):
            self._owner.failed(type(error).__name__)


def still_open(transport: asyncio.Transport | None) -> asyncio.Transport | None:
    """Return the transport, or None if it is closed or closing."""
    return None if transport is None or transport.is_closing() else transport


def _is_used(transport: asyncio.Transport) -> bool:
    """Return whether anything has arrived that the event loop has not read, or much was not taken by the client.

    A client that has left does not use it. A transport that closes sends what it holds first, for as long as the client
    takes for it; over TLS it does not tell how much that is.
    """
    sock = transport.get_extra_info("socket")
    if sock is None:
        return False
    descriptor = sock.fileno()
    if not hasattr(select, "poll"):  # Windows
        arrived, takes, _ = select.select([descriptor], [descriptor], [], 0)
        return bool(arrived) or not takes
    poll = select.poll()
    poll.register(descriptor, select.POLLIN | select.POLLOUT)
    if [event for _, event in poll.poll(0)] == [select.POLLOUT]:
        return False
    return not _has_left(descriptor)


def _has_left(descriptor: int) -> bool:
    """Return whether a connection has ended, with nothing before that which is still to be read."""
    with socket.socket(fileno=os.dup(descriptor)) as sock:
        try:
            return not sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:  # it was reset
            return True


def reset(transport: asyncio.Transport | None) -> None:
    """Close a connection with a reset, so that a client cannot take a partial response for a complete one."""
    transport = still_open(transport)
    if transport is None:
        return
    sock = transport.get_extra_info("socket")
    with suppress(OSError, AttributeError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    transport.abort()
