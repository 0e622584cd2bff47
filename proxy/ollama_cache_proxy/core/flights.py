"""Collapsed forwarding (RFC 9111, section 4, last paragraphs): one upstream request for N equal ones.

A flight belongs to no client, not even to the first. Each client takes a seat; when the last one leaves before the
response is complete, the flight is cancelled, immediately or after `linger` seconds. A flight stays joinable until its
work has ended, storing included, so that no request can fall between the response and the entry.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, Final, Generic, Self, TypeVar

from ollama_cache_proxy.core.errors import ProxyError, unreachable
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy.buffers import Hold
from ollama_cache_proxy.policy.tickets import Ticket

T = TypeVar("T")


PATIENCE: Final = 5.0
"""Seconds for which a reader that takes nothing may hold up the others who share its response."""


MOST_ASKS: Final = 3
"""Requests to Ollama at most for one question whose flights keep failing; the last failure goes to all who wait."""


_IN_A_ROW: Final = 256
"""Chunks that a reader takes in one turn of the event loop, where so many have arrived."""


class Seat:
    """One client's place in a flight: a context manager; `enter` and `leave` are the flight's.

    `position` counts the chunks of a `Tail` that the client has taken. `delay` is the time in seconds for which it has
    held up others and taken nothing; one that is `late` gets no more.
    """

    __slots__ = ("_enter", "_leave", "delay", "position")

    def __init__(self, enter: Callable[[Seat], None], leave: Callable[[Seat], None]) -> None:
        self.position = 0
        self.delay = 0.0
        self._enter = enter
        self._leave = leave

    def __enter__(self) -> Self:
        self._enter(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._leave(self)

    @property
    def late(self) -> bool:
        """Whether it has held up others for too long."""
        return self.delay >= PATIENCE


class Flight(Generic[T]):
    """One upstream request and the clients that wait for it; `hold` counts the bytes that it has in memory.

    `attempt` is 1, or one more than that of the failed flight whose clients wait for this one. `on_response` is called
    with the response, before those who wait get it; `on_chunk` with each chunk of a stream, an empty one at its end.
    `ticket` is what it waits with for Ollama.
    """

    def __init__(self, linger: float, hold: Hold, attempt: int = 1, ticket: Ticket | None = None) -> None:
        self.joinable = True
        self.hold = hold
        self.attempt = attempt
        self.followed = False
        """Whether another process asked, and the response is from the store."""
        self.stored = False
        """Whether what Ollama sent is stored."""
        self.ticket = ticket
        self.on_response: Callable[[T], None] | None = None
        self.on_chunk: Callable[[bytes], None] | None = None
        self._linger = linger
        self._seats: set[Seat] = set()
        self._outcome: T | ProxyError | None = None
        self._waiting: list[asyncio.Future[None]] = []
        self._tail: Tail | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def seat(self) -> Seat:
        """Return a seat, to be entered; the last one to leave a flight before its response is complete ends it."""
        return Seat(self._enter, self._leave)

    def _enter(self, seat: Seat) -> None:
        self._seats.add(seat)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _leave(self, seat: Seat) -> None:
        self._seats.discard(seat)
        if self._tail is not None:
            self._tail.trim()
        if not self._seats and not self.complete:
            self._abandon()

    def raise_for(self, ticket: Ticket | None) -> None:
        """Let the flight wait as the request with this ticket would, which joins it, if that is sooner."""
        if self.ticket is not None:
            self.ticket.raise_for(ticket)

    @property
    def waited(self) -> float:
        """For how many seconds it has waited for its turn at Ollama."""
        return 0.0 if self.ticket is None else self.ticket.waited_in_all

    @property
    def seats(self) -> int:
        """How many clients wait."""
        return len(self._seats)

    async def response(self) -> T:
        """Wait for the response and return it. Raises the ProxyError with which the flight failed."""
        if self._outcome is None:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            await waiter
        if isinstance(self._outcome, ProxyError):
            raise self._outcome
        return self._outcome  # type: ignore[return-value] # it is set before the waiter is

    def publish(self, response: T) -> None:
        """Hand the response to all who wait: they go on in the event loop's next turn."""
        if self.on_response is not None:
            self.on_response(response)
        self._resolve(response)

    def fail(self, error: ProxyError) -> None:
        """Raise the error for all who wait; without effect after `publish`."""
        if self._outcome is None:
            self._resolve(error)

    def _resolve(self, outcome: T | ProxyError) -> None:
        self._outcome = outcome
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
        self._waiting.clear()

    def overflow(self, limit: int) -> Tail:
        """Return the tail of a response over the size limit: no more joining, no lingering; `limit` is in bytes."""
        self.joinable = False
        return self._begin(Tail(limit, self._seats, retain=False))

    def stream(self, limit: int) -> Tail:
        """Return the tail of a stream: a client that joins gets all of it, as long as it is within `limit` bytes."""
        return self._begin(Tail(limit, self._seats, retain=True))

    def close(self, tail: Tail, limit: int | None = None) -> None:
        """End joining: the stream has broken off, or outgrown its limit. `limit`, in bytes, replaces the tail's."""
        self.joinable = False
        tail.release(limit)

    def linger(self, seconds: float) -> None:
        """Go on for so many seconds when the last client leaves: the response is all but complete."""
        self._linger = seconds

    def _begin(self, tail: Tail) -> Tail:
        self._linger = 0.0
        self._tail = tail
        if not self._seats:
            self._cancel()
        return tail

    def run_by(self, task: asyncio.Task[None]) -> None:
        """Note the task that does the work."""
        self._task = task

    def end(self) -> None:
        """Note that the work has ended, for whatever reason."""
        self.joinable = False
        if self._timer is not None:
            self._timer.cancel()
        self.fail(unreachable("the request to Ollama was cancelled"))

    @property
    def complete(self) -> bool:
        """Whether all of the response has arrived: only storing it may be left to do."""
        return self._outcome is not None and (self._tail is None or self._tail.ended)

    def _abandon(self) -> None:
        if self._linger > 0 and not (self.ticket is not None and self.ticket.is_queued):
            self._timer = asyncio.get_running_loop().call_later(self._linger, self._expire)
        else:
            self._cancel()

    def _expire(self) -> None:
        if not self.complete:
            self._cancel()

    def _cancel(self) -> None:
        self.joinable = False
        if self._task is not None:
            self._task.cancel()


class Tail:
    """A response that is still arriving, read at the pace of its slowest reader.

    At most `limit` bytes are held for that reader; with `retain`, all of them are, for clients that may still join. A
    reader that takes nothing and holds up others is dropped. `seats` is the flight's own set of readers.
    """

    def __init__(self, limit: int, seats: set[Seat], *, retain: bool) -> None:
        self.ended = False
        self._retain = retain
        self._limit = limit
        self._seats = seats
        self._chunks: deque[bytes] = deque()
        self._first = 0
        self._held = 0
        self._error: ProxyError | None = None
        self._moved = asyncio.Event()

    def trim(self) -> None:
        """Drop the chunks that every reader has taken, and wake the feeder."""
        if self._retain:
            return
        behind = min((seat.position for seat in self._seats), default=self._first + len(self._chunks))
        while self._chunks and self._first < behind:
            self._held -= len(self._chunks.popleft())
            self._first += 1
        self._wake()

    def release(self, limit: int | None = None) -> None:
        """Retain no more than the slowest reader needs; `limit`, in bytes, replaces the old one."""
        self._retain = False
        if limit is not None:
            self._limit = limit
        self.trim()

    async def feed(self, chunks: AsyncIterator[bytes]) -> bool:
        """Read all of `chunks`, and return whether they came to their end; an error goes to the readers."""
        self._error = unreachable("the request to Ollama was cancelled")
        try:
            async for chunk in chunks:
                while self._held > self._limit and not self._retain:
                    await self._wait_for_slowest()
                self._chunks.append(chunk)
                self._held += len(chunk)
                self._wake()
            self._error = None
        except ProxyError as error:
            self._error = error
        finally:
            self.ended = True
            self._wake()
        return self._error is None

    async def _wait_for_slowest(self) -> None:
        """Wait for the slowest readers; while another reader has nothing left to read, for PATIENCE at most."""
        end = self._first + len(self._chunks)
        slowest = [seat for seat in self._seats if seat.position == self._first]
        others_wait = any(seat.position == end for seat in self._seats)
        left = PATIENCE - max((seat.delay for seat in slowest), default=0.0)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        with suppress(TimeoutError):
            async with asyncio.timeout(left if others_wait else None):
                await self._moved.wait()
        for seat in slowest if others_wait else ():
            seat.delay += loop.time() - begun
            if seat.late:
                self._seats.discard(seat)
        self.trim()

    async def read(self, seat: Seat) -> AsyncIterator[bytes]:
        """Yield the chunks from the first to the last. Raises ProxyError when the response breaks off."""
        taken = 0
        while True:
            while not seat.late and (offset := seat.position - self._first) < len(self._chunks):
                taken += 1
                if not taken % _IN_A_ROW:
                    await asyncio.sleep(0)
                    continue
                chunk = self._chunks[offset]
                seat.position += 1
                seat.delay = 0.0
                self.trim()
                yield chunk
            if seat.late:
                raise unreachable("the client read too slowly for those who share its response")
            if self.ended:
                break
            await self._moved.wait()
        if self._error is not None:
            raise self._error

    def _wake(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()


class Flights(Generic[T]):
    """The flights of this process, by key."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._current: dict[str, Flight[T]] = {}
        self._groups: dict[str, set[Flight[T]]] = {}

    @property
    def waiting(self) -> int:
        """How many clients wait in flights that others may join."""
        return sum(flight.seats for flight in self._current.values())

    def in_flight(self, group: str) -> int:
        """Return how many flights of a group have no complete response yet, those that nobody may join included."""
        return sum(not flight.complete for flight in self._groups.get(group, ()))

    def join(self, key: str) -> Flight[T] | None:
        """Return the flight for `key` that can still be joined, or None."""
        flight = self._current.get(key)
        return flight if flight is not None and flight.joinable else None

    def launch(  # noqa: PLR0913 - all that a flight needs beside its work
        self,
        key: str,
        work: Callable[[Flight[T]], Coroutine[Any, Any, None]],
        *,
        group: str,
        hold: Hold,
        linger: float = 0.0,
        alone: bool = False,
        attempt: int = 1,
        ticket: Ticket | None = None,
    ) -> Flight[T]:
        """Start a flight and return it; others may join it under `key`, unless it is to be `alone`.

        It is counted under `group`; `hold` is released when it ends; `linger` is in seconds. A later flight of the same
        key replaces an earlier one. A ProxyError of `work` goes to all who wait. `attempt` and
        `ticket` are the flight's.
        """
        flight: Flight[T] = Flight(linger, hold.__enter__(), attempt, ticket)
        self._groups.setdefault(group, set()).add(flight)
        if not alone:
            self._current[key] = flight
        task = self._tasks.spawn(_run(flight, work), f"flight {key[:8]}")
        end = partial(self._end, key, group, flight)
        task.add_done_callback(lambda _: end())  # a task can be cancelled before its first step
        flight.run_by(task)
        return flight

    def _end(self, key: str, group: str, flight: Flight[T]) -> None:
        flights = self._groups[group]
        flights.discard(flight)
        if not flights:
            del self._groups[group]
        flight.hold.__exit__()
        if self._current.get(key) is flight:
            del self._current[key]
        flight.end()


async def _run(flight: Flight[T], work: Callable[[Flight[T]], Coroutine[Any, Any, None]]) -> None:
    try:
        await work(flight)
    except ProxyError as error:
        flight.fail(error)
