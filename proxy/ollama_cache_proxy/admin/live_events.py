"""Server-sent events with the state of the proxy, read once a second for all listeners, and not without any."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Final, TypeAlias

import orjson

from ollama_cache_proxy.admin.own_route import Stream
from ollama_cache_proxy.core.ports import Clock
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy.fields import UNBUFFERED
from ollama_cache_proxy.policy.replies import Reply, error

MAX_LISTENERS: Final = 32
EVERY: Final = 1.0
"""Seconds between two readings of the state."""
HEARTBEAT: Final = 15.0
"""Seconds without a change after which a comment is sent."""
WRITE_TIMEOUT: Final = 10.0
"""Seconds that a listener may take to read one event."""
_KIND: Final = "text/event-stream"
_HEARTBEAT_COMMENT: Final = b": still here\n\n"
"""Otherwise nginx would buffer events."""
_RETRY_LATER: Final = ((b"Retry-After", b"10"),)

ReadState: TypeAlias = Callable[[], Awaitable[dict[str, Any]]]
"""Returns the state; `lastRequests` in it is only for trusted listeners."""


class Events:
    """Sends the newest state to all listeners; a slow one misses states in between.

    While nothing changes, only a comment is sent, every `HEARTBEAT` seconds. At most `MAX_LISTENERS` can listen.
    """

    def __init__(self, read_state: ReadState, *, clock: Clock, tasks: Tasks) -> None:
        self._read_state = read_state
        self._clock = clock
        self._tasks = tasks
        self._listening = 0
        self._closed = False
        self._reading: asyncio.Task[None] | None = None
        self._state: dict[str, Any] | None = None
        self._events: dict[bool, bytes] = {}
        self._changed = asyncio.Event()

    def listen(self, trusted: bool) -> Reply | Stream:  # noqa: FBT001 - see OpenEvents in router.py
        """Return a stream of events, without requests unless `trusted`; an error if there are too many listeners."""
        if self._closed:
            return error(503, "the proxy is shutting down", _RETRY_LATER)
        if self._listening >= MAX_LISTENERS:
            return error(503, f"the limit of {MAX_LISTENERS} listeners is reached", _RETRY_LATER)
        return Stream(
            kind=_KIND, pieces=self._pieces(trusted=trusted), write_timeout=WRITE_TIMEOUT, fields=(UNBUFFERED,)
        )

    def close(self) -> None:
        """End all streams."""
        self._closed = True
        self._wake()

    async def _pieces(self, *, trusted: bool) -> AsyncGenerator[bytes, None]:
        """Yield events until `close`."""
        seen: dict[str, Any] | None = None
        self._listening += 1
        try:
            while not self._closed:
                if self._reading is None:
                    self._reading = self._tasks.spawn(self._keep_reading(), "read the state", endless=True)
                if self._state is not seen:
                    seen = self._state
                    yield self._events[trusted]
                    continue
                try:
                    async with asyncio.timeout(HEARTBEAT):
                        await self._changed.wait()
                except TimeoutError:
                    yield _HEARTBEAT_COMMENT
        finally:
            self._listening -= 1

    async def _keep_reading(self) -> None:
        try:
            while self._listening and not self._closed:
                state = await self._read_state()
                if state != self._state:
                    self._state = state
                    now = round(self._clock.now(), 3)
                    self._events = {
                        True: _event({"time": now, **state}),
                        False: _event({"time": now, **state, "lastRequests": None}),
                    }
                    self._wake()
                await self._clock.sleep(EVERY)
        finally:
            self._reading = None
            if not self._listening:
                self._state = None

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _event(document: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(document) + b"\n\n"
