"""One connection of a client: aiohttp's protocol with a gate before its parser, a deadline for heads, and a cap.

Its errors repeat nothing of what was sent. Two private names of aiohttp are needed, see tests/project/test_aiohttp.py.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any, Final, Protocol, cast

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawRequestMessage

from ollama_cache_proxy.core.ports import Clock, FastPath
from ollama_cache_proxy.downstream.gate import Gate, Hold, Lookup, Pass, Phase, Queue
from ollama_cache_proxy.downstream.refusals import BAD_REQUEST, FULL, TIMEOUT

_HOLD_SECONDS: Final = 0.02
"""Seconds for which the head of a request that is known is kept from the parser: its body mostly comes at once."""
_LINGER_SECONDS: Final = 1.0
"""Seconds for which the rest of a request is taken in after an early answer: a reset could overtake that."""
_IDLE_SECONDS: Final = 3630.0
"""Seconds for which a connection is kept that nobody uses."""
_MAX_LINE: Final = 32_768
_NO_LINGER: Final = struct.pack("ii", 1, 0)


class Abortable(Protocol):
    """What can be ended with a reset."""

    def abort(self) -> None: ...


class Owner(Protocol):
    """What a connection asks of the listener that accepted it; see there."""

    fast_path: FastPath
    clock: Clock
    head_timeout: float
    body_timeout: float
    draining: bool

    def opened(self) -> bool: ...
    def closed(self) -> None: ...
    def track(self, work: Abortable) -> None: ...
    def untrack(self, work: Abortable) -> None: ...
    def failed(self, error: str, /) -> None: ...


class Written(web.StreamResponse):
    """What aiohttp gets back from the handler: the answer has been written already."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._open_after = keep_alive

    @property
    def keep_alive(self) -> bool:
        return self._open_after

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:  # noqa: ARG002 - aiohttp's name
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to write."""


KEEP_OPEN: Final = Written(keep_alive=True)
CLOSE_AFTER: Final = Written(keep_alive=False)


class ClientConnection(web.RequestHandler):
    """See the module. What the gate says is done here, and told to it what the parser made of what was passed.

    `congested` says that the client takes nothing at the moment.
    """

    __slots__ = (
        *("_body", "_counted", "_ending", "_head_timer", "_lookup", "_owner", "_reading_held", "_release_timer"),
        *("congested", "gate"),
    )

    def __init__(self, owner: Owner, server: web.Server, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type] # aiohttp takes None for no access log
            auto_decompress=False,
            keepalive_timeout=_IDLE_SECONDS,
            lingering_time=_LINGER_SECONDS,
            max_line_size=_MAX_LINE,
            max_field_size=_MAX_LINE,
        )
        self.gate = Gate(owner.fast_path)
        self.congested = False
        self._owner = owner
        self._counted = False
        self._ending = False
        self._reading_held = False
        self._body: Any = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._release_timer: asyncio.TimerHandle | None = None
        self._lookup: asyncio.Future[bytes | None] | None = None

    # Its beginning and its end.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self._counted = self._owner.opened()
        if not self._counted:
            cast("asyncio.Transport", transport).write(FULL)  # uvloop's are transports without the name
            self.force_close()
            return
        self._start_head_timer()

    def connection_lost(self, exc: BaseException | None) -> None:
        """See asyncio.Protocol."""
        self._stop_head_timer()
        if self._release_timer is not None:
            self._release_timer.cancel()
        if self._lookup is not None:
            self._lookup.cancel()
        if self._counted:
            self._counted = False
            self._owner.closed()
        super().connection_lost(exc)

    def close(self) -> None:
        """Take no more requests."""
        self._ending = True
        super().close()

    def force_close(self) -> None:
        """Close at once."""
        self._ending = True
        super().force_close()

    def abort(self) -> None:
        """End with a reset."""
        reset(self.transport)

    # What comes.

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol; aiohttp itself gives no bytes where its parser may go on."""
        if self._release_timer is not None:
            self._release_timer.cancel()
            self._release_timer = None
        step = self.gate.feed(data, ready=not (self.congested or self._ending or self._owner.draining))
        if isinstance(step, bytes):  # not one of the cases, which take longer to get to
            self._count_as_used()
            if self.transport is not None:
                self.transport.write(step)
            return
        match step:
            case Pass(data=data):
                self._parse(data)
            case Hold():
                self._release_timer = asyncio.get_running_loop().call_later(_HOLD_SECONDS, self._release)
            case Lookup(pending=pending):
                self._look_up(pending)
            case Queue():
                if self.transport is not None:
                    self.transport.pause_reading()

    def _count_as_used(self) -> None:
        """Count the connection as used, though aiohttp has seen nothing of that."""
        if self._head_timer is not None:
            self._stop_head_timer()
        self._next_keepalive_close_time = self._owner.clock.monotonic() + _IDLE_SECONDS

    def _release(self) -> None:
        self._release_timer = None
        self._parse(self.gate.release().data)

    def _look_up(self, pending: Awaitable[bytes | None]) -> None:
        """Wait for a response that comes in a moment: until then nothing else is begun."""
        self._count_as_used()
        self._owner.track(self)
        self._lookup = asyncio.ensure_future(pending)
        self._lookup.add_done_callback(self._lookup_done)

    def _lookup_done(self, found: asyncio.Future[bytes | None]) -> None:
        """Give the response, or let the parser begin; then go on with what came behind."""
        self._lookup = None
        self._owner.untrack(self)
        if self.transport is None:
            return
        response = None if found.cancelled() or found.exception() is not None else found.result()
        ready = not (self.congested or self._ending or self._owner.draining)
        step, behind = self.gate.lookup_done(response, ready=ready)
        if isinstance(step, Pass):
            self._parse(step.data)
        else:
            self.transport.write(step)
        if behind:
            self.transport.resume_reading()
            self.data_received(behind)

    def _parse(self, data: bytes) -> None:
        """Let aiohttp's parser have what came, and tell the gate what it made of it."""
        known = len(self._messages)
        super().data_received(data)
        started = len(self._messages) - known
        length = None
        if started:
            message, self._body = self._messages[known]
            if isinstance(message, RawRequestMessage) and not (message.chunked or message.upgrade):
                length = int(message.headers.get("Content-Length", 0))
        self.gate.parsed(started, length, ended=self._body is not None and self._body.is_eof())
        if started:
            self._stop_head_timer()
        elif self._head_timer is None and self.gate.is_idle:
            self._start_head_timer()

    # How fast it comes, and is taken.

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
        """Resume only what was paused: aiohttp would feed the parser nothing whenever a piece of a body is read."""
        if self._reading_held:
            self._reading_held = False
            super().resume_reading(resume_parser)

    def _start_head_timer(self) -> None:
        loop = asyncio.get_running_loop()
        self._head_timer = loop.call_later(self._owner.head_timeout, self._too_slow)

    def _too_slow(self) -> None:
        """Close; whoever had begun a head is told why (RFC 9110, section 15.5.9)."""
        if self.gate.phase is Phase.PARSED and self.transport is not None:
            self.transport.write(TIMEOUT)
        self.force_close()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    # What goes wrong.

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,  # noqa: ARG002 - aiohttp's signature
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it would repeat what the client sent
    ) -> web.StreamResponse:
        """Answer what is no HTTP as Go's server does. An error of the proxy's own never gets here as an answer."""
        transport = still_open(request.transport)
        if transport is not None and exc is not None:
            transport.write(BAD_REQUEST)
        return CLOSE_AFTER

    def log_exception(self, *args: Any, **kw: Any) -> None:  # noqa: ARG002 - the text would name the request
        """Name the kind of error and nothing of the request."""
        error = kw.get("exc_info")
        if error is not None and not isinstance(error, web.HTTPException):
            self._owner.failed(type(error).__name__)


def still_open(transport: asyncio.Transport | None) -> asyncio.Transport | None:
    """Return the way to a client; None where it has left, or is being left."""
    return None if transport is None or transport.is_closing() else transport


def reset(transport: asyncio.Transport | None) -> None:
    """Close a connection so that no one can take what was sent for a whole answer."""
    transport = still_open(transport)
    if transport is None:
        return
    sock = transport.get_extra_info("socket")
    with suppress(OSError, AttributeError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    transport.abort()
