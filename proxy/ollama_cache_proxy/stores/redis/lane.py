"""The way of small commands to Redis: one connection, over which they go as they come (pipelining).

redis-py opens it, with what its URL says of TLS, user and database. From then on bytes are parsed where they come in,
by hiredis as redis-py would; a command costs a future instead of a place in a pool, two streams and a timer. What is
large, or takes long, goes redis-py's way: on this one everybody waits for those before.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

import hiredis
import redis.asyncio as redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

_MORE: Final = object()
_CLOSE_WITHIN: Final = 5.0
_LOST: Final = "the connection was lost"


class Replies(asyncio.Protocol):
    """What comes over a connection that redis-py has opened, and that nobody has asked anything yet, reply by reply."""

    def __init__(self, connection: redis.Connection) -> None:
        held: Any = connection
        self._writer: asyncio.StreamWriter = held._writer  # noqa: SLF001 - redis-py gives no other way to what it opened
        held._reader = held._writer = None  # noqa: SLF001 - it is not redis-py's to close any more
        self._reader = hiredis.Reader(
            protocolError=RedisConnectionError,
            replyError=held._parser.parse_error,  # noqa: SLF001 - the same names for the same errors
            notEnoughData=_MORE,
        )
        self.transport = cast("asyncio.Transport", self._writer.transport)
        self.transport.set_protocol(self)

    def data_received(self, data: bytes) -> None:
        """Hand out the replies that are whole; what is none ends the connection."""
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not _MORE:
                self.received(reply)
        except (RedisError, LookupError):
            self.transport.abort()

    def received(self, reply: Any) -> None:
        """Take a reply, which may be a RedisError; raises LookupError for one that nobody asked for."""
        raise NotImplementedError


class Wire(Replies):
    """One connection: what is asked over it is answered in the same order."""

    def __init__(self, connection: redis.Connection) -> None:
        super().__init__(connection)
        self._asked: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._written: list[bytes] = []
        self._loop = asyncio.get_running_loop()
        self._deadline: asyncio.TimerHandle | None = None
        self._last = False

    @property
    def is_open(self) -> bool:
        """Whether something may be asked."""
        return not (self._last or self.transport.is_closing())

    @property
    def waiting(self) -> int:
        """How many commands have no reply yet."""
        return len(self._asked)

    def ask(self, *command: bytes | str | int, within: float = math.inf, urgent: bool = False) -> asyncio.Future[Any]:
        """Send a command; gives its reply, a RedisError, or TimeoutError after `within` seconds.

        Raises a RedisError where the connection is closed. What is `urgent` waits for no others where nobody else asks.
        """
        self.write(*command, at_once=urgent and not self._asked)
        asked: asyncio.Future[Any] = self._loop.create_future()
        until = self._loop.time() + within
        self._asked.append((asked, until))
        if within < math.inf:
            self._arm_timer(until)
        return asked

    def write(self, *command: bytes | str | int, at_once: bool = False) -> None:
        """Send a command whose reply is nobody's; raises RedisError where the connection is closed.

        What is written in one turn of the event loop goes out in one piece, unless it is to go `at_once`.
        """
        if self.transport.is_closing():
            raise RedisConnectionError(_LOST)
        if not (self._written or at_once):
            self._loop.call_soon(self._flush)
        self._written.append(hiredis.pack_command(command))  # type: ignore[arg-type] # hiredis says one member too few
        if at_once:
            self._flush()

    def _flush(self) -> None:
        written, self._written = self._written, []
        if written and not self.transport.is_closing():
            self.transport.write(b"".join(written))

    def _arm_timer(self, until: float) -> None:
        """Look at `until`, in the event loop's time, who has waited for too long: one timer is there for all."""
        if self._deadline is not None:
            if self._deadline.when() <= until:
                return
            self._deadline.cancel()
        self._deadline = self._loop.call_at(until, self._check_deadlines)

    def _check_deadlines(self) -> None:
        self._deadline = None
        now = self._loop.time()
        for asked, until in self._asked:
            if until <= now and not asked.done():
                asked.set_exception(TimeoutError())
        due = min((until for asked, until in self._asked if not asked.done()), default=math.inf)
        if due < math.inf:
            self._arm_timer(due)

    def end(self) -> None:
        """Take no more commands, and close when those under way are answered, or long given up."""
        self._last = True
        if self._asked:
            self._loop.call_later(_CLOSE_WITHIN, self.transport.abort)
        else:
            self.transport.abort()

    def received(self, reply: Any) -> None:
        """See Replies."""
        asked, _ = self._asked.popleft()
        if not asked.done():
            asked.set_exception(reply) if isinstance(reply, RedisError) else asked.set_result(reply)
        if self._last and not self._asked:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        """Tell all who wait that nothing will come."""
        if self._deadline is not None:
            self._deadline.cancel()
        while self._asked:
            asked, _ = self._asked.popleft()
            if not asked.done():
                asked.set_exception(RedisConnectionError(_LOST))


class RedisLane:
    """Asks over one connection at a time; `make` gives a new one, in RESP2."""

    def __init__(self, make: Callable[[], redis.Connection]) -> None:
        self._make = make
        self._wire: Wire | None = None
        self._wires: list[Wire] = []
        self._opening = asyncio.Lock()

    async def ask(self, *command: bytes | str | int, within: float, urgent: bool = False) -> Any:
        """Return the reply to a command; raises RedisError, OSError, or TimeoutError after `within` seconds.

        What a lost connection took is asked once more, and has as long again. Whoever gives up waiting because it was
        for too long says so (`renew`).
        """
        wire = self._wire
        if wire is not None and wire.is_open:
            try:
                return await wire.ask(*command, within=within, urgent=urgent)
            except RedisConnectionError:
                pass
        async with asyncio.timeout(within):
            return await (await self._open()).ask(*command)

    def renew(self) -> None:
        """Ask over a new connection from now on: this one does not answer in time, and may never."""
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.end()

    async def close(self) -> None:
        """Close every connection at once."""
        for wire in self._wires:
            wire.transport.abort()
        await asyncio.sleep(0)

    async def _open(self) -> Wire:
        """Return the connection over which things are asked now, a new one where none is open."""
        if self._wire is not None and self._wire.is_open:
            return self._wire
        async with self._opening:
            if self._wire is None or not self._wire.is_open:
                connection = self._make()
                await connection.connect()  # type: ignore[no-untyped-call] # redis-py says no type
                self._wire = Wire(connection)
                self._wires = [wire for wire in self._wires if not wire.transport.is_closing()] + [self._wire]
            return self._wire
