"""Collapsed forwarding (RFC 9111, section 4, last paragraphs): one upstream request for N equal ones.

A flight belongs to itself, not to its first client. Each client takes a seat; when the last seat is left before the
answer is complete, the flight is cancelled, at once or after `linger` seconds. A flight stays joinable until its work
has ended, the store included, so that no request can fall between the answer and the entry.
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

T = TypeVar("T")


PATIENCE: Final = 5.0
"""Seconds for which a reader that takes nothing may hold up others who share its answer."""


class Seat:
    """One client's place; `position` counts the chunks of a flowing answer that it has taken.

    `delay` is how many seconds it has held up others and taken nothing; one that is `late` gets no more. It is taken
    for a block: `enter` and `leave` are its flight's.
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
        """Whether its patience is used up."""
        return self.delay >= PATIENCE


class Flight(Generic[T]):
    """One upstream request and those who wait for it; `hold` counts what it holds in memory."""

    def __init__(self, linger: float, hold: Hold) -> None:
        self.joinable = True
        self.hold = hold
        self._linger = linger
        self._seats: set[Seat] = set()
        self._outcome: T | ProxyError | None = None
        self._waiting: list[asyncio.Future[None]] = []
        self._tail: Tail | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def seat(self) -> Seat:
        """Take part for a block; the last one to leave an unfinished flight ends it."""
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

    @property
    def seats(self) -> int:
        """How many wait."""
        return len(self._seats)

    async def response(self) -> T:
        """Wait for the answer; raises the ProxyError that ended the flight instead."""
        if self._outcome is None:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            await waiter
        if isinstance(self._outcome, ProxyError):
            raise self._outcome
        return self._outcome  # type: ignore[return-value] # it is there: it was waiter

    def publish(self, answer: T) -> None:
        """Give all who wait their answer: they go on in the event loop's next turn."""
        self._resolve(answer)

    def fail(self, error: ProxyError) -> None:
        """Tell all who wait that there is no answer; without effect where there is one."""
        if self._outcome is None:
            self._resolve(error)

    def _resolve(self, answer: T | ProxyError) -> None:
        self._outcome = answer
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
        self._waiting.clear()

    def overflow(self, limit: int) -> Tail:
        """Begin an answer whose rest is still coming: nobody may join from now on, nothing is worth finishing alone."""
        self.joinable = False
        return self._begin(Tail(limit, self._seats, retain=False))

    def stream(self, limit: int) -> Tail:
        """Begin an answer that is handed on as it comes: who joins gets all of it, while it is within `limit` bytes."""
        return self._begin(Tail(limit, self._seats, retain=True))

    def close(self, tail: Tail, limit: int | None = None) -> None:
        """Let nobody join a stream from now on: it has outgrown its limit, or a smaller `limit`, or broken off."""
        self.joinable = False
        tail.release(limit)

    def linger(self, seconds: float) -> None:
        """Go on for so long when the last reader leaves: what is left to come is next to nothing."""
        self._linger = seconds

    def _begin(self, tail: Tail) -> Tail:
        self._linger = 0.0
        self._tail = tail
        if not self._seats:
            self._cancel()
        return tail

    def run_by(self, task: asyncio.Task[None]) -> None:
        """Know the task that does the work."""
        self._task = task

    def end(self) -> None:
        """Know that the work has ended, however it did."""
        self.joinable = False
        if self._timer is not None:
            self._timer.cancel()
        self.fail(unreachable("the request to Ollama was cancelled"))

    @property
    def complete(self) -> bool:
        """Whether all of the answer has come: what is left is the store's."""
        return self._outcome is not None and (self._tail is None or self._tail.ended)

    def _abandon(self) -> None:
        if self._linger > 0:
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
    """An answer that is still coming, read at the pace of its slowest reader.

    At most `limit` bytes wait for that one; while it is kept `whole`, all of them do, for those who will join. A reader
    that takes nothing and holds up others is left behind. `seats` is the flight's own set of readers.
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
        """Drop what every reader that is left has taken, and wake whoever waits."""
        if self._retain:
            return
        behind = min((seat.position for seat in self._seats), default=self._first + len(self._chunks))
        while self._chunks and self._first < behind:
            self._held -= len(self._chunks.popleft())
            self._first += 1
        self._wake()

    def release(self, limit: int | None = None) -> None:
        """Keep no more than the slowest reader needs, within a new `limit` where there is one."""
        self._retain = False
        if limit is not None:
            self._limit = limit
        self.trim()

    async def feed(self, chunks: AsyncIterator[bytes]) -> bool:
        """Take all of `chunks`; an error goes to the readers. Whether it was all of them."""
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
        """Wait for the slowest readers, but not for long where another one has nothing left to read."""
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
        """Give the chunks from the first to the last; raises ProxyError when the answer broke off."""
        while True:
            while not seat.late and (offset := seat.position - self._first) < len(self._chunks):
                chunk = self._chunks[offset]
                seat.position += 1
                seat.delay = 0.0
                self.trim()
                yield chunk
            if seat.late:
                raise unreachable("the client read too slowly for those who share its answer")
            if self.ended:
                break
            await self._moved.wait()
        if self._error is not None:
            raise self._error

    def _wake(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()


class Flights(Generic[T]):
    """The flights under way, by key."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._current: dict[str, Flight[T]] = {}
        self._groups: dict[str, set[Flight[T]]] = {}

    @property
    def waiting(self) -> int:
        """How many clients wait in flights that were begun for others to join."""
        return sum(flight.seats for flight in self._current.values())

    def in_flight(self, group: str) -> int:
        """How many flights of a group wait for their answer, those that nobody may join included."""
        return sum(not flight.complete for flight in self._groups.get(group, ()))

    def join(self, key: str) -> Flight[T] | None:
        """Give the flight for `key` that can still be joined, or None."""
        flight = self._current.get(key)
        return flight if flight is not None and flight.joinable else None

    def launch(  # noqa: PLR0913 - what a flight is beside its work
        self,
        key: str,
        work: Callable[[Flight[T]], Coroutine[Any, Any, None]],
        *,
        group: str,
        hold: Hold,
        linger: float = 0.0,
        alone: bool = False,
    ) -> Flight[T]:
        """Start a flight; others may join it under `key`, unless it flies `alone`.

        `group` is what it is counted by, `hold` what it holds in memory until it lands. A later flight of the same key
        takes the place of an earlier one. A ProxyError of `work` goes to those who wait.
        """
        flight: Flight[T] = Flight(linger, hold.__enter__())
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
