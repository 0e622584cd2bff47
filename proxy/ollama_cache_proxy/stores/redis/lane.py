"""The lane for small commands to Redis: one connection, over which they are pipelined.

redis-py opens it, with TLS, user and database from its URL. From then on bytes are parsed where they arrive, by hiredis
as redis-py would; a command costs a future instead of a place in a pool, two streams and a timer. Commands that are
large or slow use redis-py's pool: on the lane each one delays those after it.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, cast

import hiredis
import redis.asyncio as redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

_MORE: Final = object()
_CLOSE_WITHIN: Final = 5.0
"""Seconds that commands in progress have when a connection is replaced."""
_LOST: Final = "the connection was lost"


async def connect(connection: redis.Connection) -> None:
    """Open a connection; when that fails, or is cancelled, nothing of it stays open."""
    try:
        await connection.connect()  # type: ignore[no-untyped-call] # redis-py says no type
    except BaseException:
        with suppress(Exception):  # redis-py disconnects after its own exceptions alone
            await connection.disconnect(nowait=True)
        raise


class Replies(asyncio.Protocol):
    """Takes over a connection that redis-py has opened, and on which nothing was asked yet, and parses its replies."""

    def __init__(self, connection: redis.Connection) -> None:
        held: Any = connection
        self._writer: asyncio.StreamWriter = held._writer  # noqa: SLF001 - redis-py has no public access to it
        held._reader = held._writer = None  # noqa: SLF001 - redis-py must not close it
        self._reader = hiredis.Reader(
            protocolError=RedisConnectionError,
            replyError=held._parser.parse_error,  # noqa: SLF001 - for the same exceptions
            notEnoughData=_MORE,
        )
        self.transport = cast("asyncio.Transport", self._writer.transport)
        self.transport.set_protocol(self)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol. Anything but a reply closes the connection."""
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not _MORE:
                self.received(reply)
        except Exception:  # noqa: BLE001 - whatever a server sends, it costs no more than its connection
            self.transport.abort()

    def received(self, reply: Any) -> None:
        """Take a reply, which may be a RedisError. Raises any exception for one that is not expected."""
        raise NotImplementedError


class Wire(Replies):
    """One connection; replies come in the order of the commands."""

    def __init__(self, connection: redis.Connection) -> None:
        super().__init__(connection)
        self._asked: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._written: list[bytes] = []
        self._loop = asyncio.get_running_loop()
        self._deadline: asyncio.TimerHandle | None = None
        self._last = False

    @property
    def is_open(self) -> bool:
        """Whether commands may be sent."""
        return not (self._last or self.transport.is_closing())

    @property
    def waiting(self) -> int:
        """How many commands have no reply yet."""
        return len(self._asked)

    def ask(self, *command: bytes | str | int, within: float = math.inf, urgent: bool = False) -> asyncio.Future[Any]:
        """Send a command; return a future of its reply, a RedisError, or TimeoutError after `within` seconds.

        Raises RedisError where the connection is closed. An `urgent` command is sent immediately if no other is
        waiting for its reply.
        """
        self.write(*command, at_once=urgent and not self._asked)
        asked: asyncio.Future[Any] = self._loop.create_future()
        until = self._loop.time() + within
        self._asked.append((asked, until))
        if within < math.inf:
            self._arm_timer(until)
        return asked

    def write(self, *command: bytes | str | int, at_once: bool = False) -> None:
        """Send a command whose reply nobody waits for. Raises RedisError where the connection is closed.

        Commands of one turn of the event loop are sent together, at its end; `at_once` sends them now.
        """
        if self.transport.is_closing():
            raise RedisConnectionError(_LOST)
        if not (self._written or at_once):
            self._loop.call_soon(self._flush)
        self._written.append(hiredis.pack_command(command))  # type: ignore[arg-type] # hiredis's stub lacks a type
        if at_once:
            self._flush()

    def _flush(self) -> None:
        written, self._written = self._written, []
        if written and not self.transport.is_closing():
            try:
                self.transport.write(b"".join(written))
            except Exception:  # noqa: BLE001 - uvloop: RuntimeError where the server has closed the connection
                self.transport.abort()

    def _arm_timer(self, until: float) -> None:
        """Check deadlines at `until`, in the event loop's time; one timer serves all commands."""
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
        """Take no more commands, and close when those in progress have their replies, or time is up."""
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
        """See asyncio.Protocol. Fails all commands without a reply."""
        if self._deadline is not None:
            self._deadline.cancel()
        while self._asked:
            asked, _ = self._asked.popleft()
            if not asked.done():
                asked.set_exception(RedisConnectionError(_LOST))


class RedisLane:
    """Sends commands over one connection at a time; `make` returns a new one, in RESP2."""

    def __init__(self, make: Callable[[], redis.Connection]) -> None:
        self._make = make
        self._wire: Wire | None = None
        self._wires: list[Wire] = []
        self._opening = asyncio.Lock()

    async def ask(self, *command: bytes | str | int, within: float, urgent: bool = False) -> Any:
        """Return the reply to a command. Raises TimeoutError after `within` seconds, and any exception of redis-py's.

        A command that a lost connection took is sent once more, and has `within` seconds again. After a TimeoutError
        the caller has to call `renew`.
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
        """Use a new connection from now on: this one does not reply in time, and may never."""
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.end()

    async def close(self) -> None:
        """Close every connection, without waiting for replies."""
        for wire in self._wires:
            wire.transport.abort()
        await asyncio.sleep(0)

    async def _open(self) -> Wire:
        """Return the current connection, a new one where none is open."""
        if self._wire is not None and self._wire.is_open:
            return self._wire
        async with self._opening:
            if self._wire is None or not self._wire.is_open:
                connection = self._make()
                await connect(connection)
                self._wire = Wire(connection)
                self._wires = [wire for wire in self._wires if not wire.transport.is_closing()] + [self._wire]
            return self._wire
