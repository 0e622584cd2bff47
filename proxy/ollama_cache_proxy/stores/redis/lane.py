"""The lane for small commands to Redis: one connection, over which they are pipelined.

redis-py opens it, with TLS, user and database from its URL. From then on bytes are parsed where they arrive, by hiredis
as redis-py would; a command costs a future instead of a place in a pool, two streams and a timer. Commands that are
large or slow use redis-py's pool: on the lane each one delays those after it.

Connections are opened in the background, since that may take longer than any command may: a command waits for it no
longer than for its reply, and the next one finds the connection open. A spare one takes over where one is lost.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol, TypeAlias, cast

import hiredis
import redis.asyncio as redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from ollama_cache_proxy.core.tasks import Tasks

CONNECT_WITHIN: Final = 5.0
"""Seconds to open a connection: with TLS, a password and a database that is many round trips."""
_MORE: Final = object()
_CLOSE_WITHIN: Final = 5.0
"""Seconds that commands in progress have when a connection is replaced."""
_LOST: Final = "the connection was lost"
_TRIES: Final = 3
"""Connections over which one command is tried at most."""
_SHORT_LIFE: Final = 1.0
"""Seconds. A connection that is lost sooner, without one reply, is no better than one that was not opened."""
_FIRST_GAP: Final = 0.05
_LONGEST_GAP: Final = 1.0
"""Seconds until a connection is opened in the place of such a one; they double each time."""
_FILL_AFTER: Final = 0.005
"""Seconds until one is opened in the place of any other: what was lost with it is asked again first."""
_FORGOTTEN: Final = 5.0
"""Seconds after which the gaps begin anew."""


Command: TypeAlias = tuple[bytes | str | int, ...]


class Lane(Protocol):
    """Sends small commands without waiting for a connection of their own; see RedisLane."""

    async def ask(self, *command: bytes | str | int, within: float, urgent: bool = False) -> Any: ...
    async def ask_all(self, commands: Sequence[Command], within: float) -> list[Any]: ...
    async def ready(self) -> None: ...
    def renew(self) -> None: ...


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
    """One connection; replies come in the order of the commands. `lost` is called when it is closed, by whomever."""

    def __init__(self, connection: redis.Connection, lost: Callable[[Wire], None] | None = None) -> None:
        super().__init__(connection)
        self._asked: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._written: list[bytes] = []
        self._loop = asyncio.get_running_loop()
        self._deadline: asyncio.TimerHandle | None = None
        self._last = False
        self._on_lost = lost
        self._opened_at = self._loop.time()
        self._got_reply = False

    @property
    def was_useless(self) -> bool:
        """Whether it brought no reply, in the short time that it was open."""
        return not self._got_reply and self._loop.time() - self._opened_at < _SHORT_LIFE

    @property
    def is_open(self) -> bool:
        """Whether commands may be sent."""
        return not (self._last or self.transport.is_closing())

    @property
    def waiting(self) -> int:
        """How many commands have no reply yet."""
        return len(self._asked)

    def ask(self, *command: bytes | str | int, until: float = math.inf, urgent: bool = False) -> asyncio.Future[Any]:
        """Send a command; return a future of its reply, a RedisError, or TimeoutError at `until`, in the loop's time.

        Raises RedisError where the connection is closed. An `urgent` command is sent immediately if no other is
        waiting for its reply.
        """
        self.write(*command, at_once=urgent and not self._asked)
        asked: asyncio.Future[Any] = self._loop.create_future()
        self._asked.append((asked, until))
        if until < math.inf:
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
        self._got_reply = True
        if not asked.done():
            asked.set_exception(reply) if isinstance(reply, RedisError) else asked.set_result(reply)
        if self._last and not self._asked:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        """See asyncio.Protocol. Fails all commands without a reply."""
        if self._deadline is not None:
            self._deadline.cancel()
        if self._on_lost is not None:
            self._on_lost(self)
        while self._asked:
            asked, _ = self._asked.popleft()
            if not asked.done():
                asked.set_exception(RedisConnectionError(_LOST))


class RedisLane:
    """Sends commands over one connection at a time; `make` returns a new one, in RESP2.

    With `spare`, one more connection is kept open as long as one is used.
    """

    def __init__(self, make: Callable[[], redis.Connection], *, spare: bool = False) -> None:
        self._make = make
        self._wanted = 2 if spare else 1
        self._tasks = Tasks()
        self._wire: Wire | None = None
        self._open_wires: list[Wire] = []
        """Those that take commands; the first is in use."""
        self._ending: set[Wire] = set()
        """Those that only wait for replies."""
        self._opening: asyncio.Task[Exception | None] | None = None
        self._began_opening = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._gap = _FIRST_GAP
        self._useless_at = -math.inf
        self._closed = False

    async def ask(self, *command: bytes | str | int, within: float, urgent: bool = False) -> Any:
        """Return the reply to a command. Raises TimeoutError after `within` seconds, and any exception of redis-py's.

        A command that a lost connection took is sent again, over another. A connection on which a reply is late takes
        no more commands.
        """
        until = asyncio.get_running_loop().time() + within
        wire, tries = self._wire, _TRIES
        while True:
            if wire is None or not wire.is_open:
                wire = await self._connected(within, until)
            tries -= 1
            try:
                return await wire.ask(*command, until=until, urgent=urgent)
            except RedisConnectionError:
                if wire.is_open or not tries:  # a reply that says so, as LOADING does, or one loss too many
                    raise
                wire = self._wire
            except TimeoutError:
                self._retire(wire)
                raise

    async def ask_all(self, commands: Sequence[Command], within: float) -> list[Any]:
        """Return the replies to some commands, RedisErrors included; they are sent once. Raises what `ask` does."""
        until = asyncio.get_running_loop().time() + within
        wire = self._wire
        if wire is None or not wire.is_open:
            wire = await self._connected(within, until)
        asked = [wire.ask(*command, until=until) for command in commands]
        try:
            await asyncio.wait(asked[-1:])  # replies come in the order of their commands
        except BaseException:
            for future in asked:
                future.cancel()
            raise
        replies = [future.exception() or future.result() for future in asked]
        for reply in replies:
            if isinstance(reply, TimeoutError):
                self._retire(wire)
            if isinstance(reply, TimeoutError) or (isinstance(reply, RedisConnectionError) and not wire.is_open):
                raise reply
        return replies

    async def ready(self) -> None:
        """Wait for a connection to be open, for CONNECT_WITHIN at most; raises what `ask` does."""
        await self._connected(CONNECT_WITHIN, asyncio.get_running_loop().time() + CONNECT_WITHIN)

    def renew(self) -> None:
        """Use a new connection from now on: this one does not reply in time, and may never."""
        if self._wire is not None:
            self._retire(self._wire)

    def leave(self) -> None:
        """Use new connections alone from now on: the open ones lead to a server that is not the right one any more."""
        for wire in list(self._open_wires):
            self._retire(wire)

    async def close(self) -> None:
        """Close every connection, without waiting for replies."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait((self._opening,))
        for wire in (*self._open_wires, *self._ending):
            wire.transport.abort()
        await asyncio.sleep(0)

    async def _connected(self, within: float, until: float) -> Wire:
        """Return an open connection, after waiting for one until `until`; raise where none could be opened.

        Only who asks within `within` seconds from when opening it began waits, and until then: those who come later
        would wait for something that takes long already.
        """
        wire = self._choose()
        if wire is not None:
            return wire
        opening = self._opening
        if opening is None or opening.done():
            opening = self._open()
        patience = min(until, self._began_opening + within) - asyncio.get_running_loop().time()
        if patience > 0:
            await asyncio.wait((opening,), timeout=patience)
        wire = self._choose()
        if wire is not None:
            return wire
        error = opening.result() if opening.done() and not opening.cancelled() else TimeoutError()
        raise error or RedisConnectionError(_LOST)

    def _choose(self) -> Wire | None:
        """Return the connection to use from now on, None where none is open."""
        self._wire = next((wire for wire in self._open_wires if wire.is_open), None)
        return self._wire

    def _open(self) -> asyncio.Task[Exception | None]:
        """Start to open a connection in the background."""
        self._began_opening = asyncio.get_running_loop().time()
        self._opening = self._tasks.spawn(self._opened(), "connect to Redis", endless=True)
        return self._opening

    async def _opened(self) -> Exception | None:
        """Open a connection; return why that failed."""
        try:
            async with asyncio.timeout(CONNECT_WITHIN):
                connection = self._make()
                await connect(connection)
            wire = Wire(connection, self._lost)
        except Exception as error:  # noqa: BLE001 - whatever a server makes redis-py raise
            if self._wire is not None:  # where none is in use, the next command tries again
                self._fill_later()
            return error
        if self._closed:
            wire.transport.abort()
            return None
        self._open_wires.append(wire)
        self._choose()
        asyncio.get_running_loop().call_soon(self._fill)  # when this task is done
        return None

    def _fill(self) -> None:
        """Open a connection where one is missing."""
        self._timer = None
        idle = self._opening is None or self._opening.done()
        if len(self._open_wires) < self._wanted and idle and not self._closed:
            self._open()

    def _fill_later(self) -> None:
        """Open one after a while: the last one was of no use."""
        now = asyncio.get_running_loop().time()
        self._gap = _FIRST_GAP if now - self._useless_at > _FORGOTTEN else min(2 * self._gap, _LONGEST_GAP)
        self._useless_at = now
        self._fill_in(self._gap)

    def _fill_in(self, seconds: float) -> None:
        if self._timer is None and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._fill)

    def _retire(self, wire: Wire) -> None:
        """Send nothing over this connection any more, and close it after its replies."""
        if wire in self._open_wires:
            self._open_wires.remove(wire)
            self._ending.add(wire)
            self._choose()
            wire.end()
            self._fill()

    def _lost(self, wire: Wire) -> None:
        """Take another connection in place of this one."""
        self._ending.discard(wire)
        if wire in self._open_wires:
            self._open_wires.remove(wire)
            self._choose()
            self._fill_later() if wire.was_useless else self._fill_in(_FILL_AFTER)
