"""What changes in Redis, as Redis itself tells it: client-side caching in broadcasting mode (CLIENT TRACKING … BCAST).

One connection hears of every change of an entry or the generation, by whomever: a store, a clear, a deletion, an
expiry, an eviction, FLUSHALL. When that connection is lost, or silent for too long, changes may have gone unheard.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final, TypeAlias

import redis.asyncio as redis

from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.stores.redis.lane import Wire
from ollama_cache_proxy.stores.redis.redis_client import FAILURES

SILENT: Final = 1.0
"""Seconds without a word after which the server is asked whether it is there, and given as long again to say so."""
_AGAIN: Final = 1.0
_CONNECT: Final = 1.0
_CHANNEL: Final = "__redis__:invalidate"

Changed: TypeAlias = Callable[[list[bytes] | None], None]


class _Ear(Wire):
    """A connection that is told of changes, and `deaf` once it can be told no more."""

    def __init__(self, connection: redis.Connection, changed: Changed) -> None:
        super().__init__(connection)
        self.deaf = asyncio.Event()
        self.heard = False
        self._changed = changed

    async def subscribe(self, prefixes: Iterable[str]) -> None:
        """Let the connection hear of what it tracks: a subscriber in RESP2 is sent the changes as messages."""
        own = await self.ask("CLIENT", "ID")
        await self.ask("CLIENT", "TRACKING", "ON", "REDIRECT", own, "BCAST", *prefixes)
        await self.ask("SUBSCRIBE", _CHANNEL)

    def came(self, reply: Any) -> None:
        """See Replies. Once nothing is asked any more, what comes are messages and what answers PING."""
        self.heard = True
        if self.waiting:
            super().came(reply)
        elif reply[0] == b"message":
            self._changed(reply[2])

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        super().connection_lost(exc)
        self.deaf.set()


class RedisWatch:
    """Watches keys that begin with one of `prefixes`.

    Calls `wake` when it hears of every change from now on, `changed` with the names of keys (None: all of them), and
    `sleep` when it may no longer. `make` gives a connection that nobody else uses.
    """

    def __init__(
        self,
        make: Callable[[], redis.Connection],
        *,
        prefixes: Iterable[str],
        wake: Callable[[], None],
        changed: Changed,
        sleep: Callable[[], None],
    ) -> None:
        self._make = make
        self._prefixes = [part for prefix in prefixes for part in ("PREFIX", prefix)]
        self._wake = wake
        self._changed = changed
        self._sleep = sleep

    def begin(self, tasks: Tasks) -> None:
        """Watch until the tasks are ended."""
        tasks.spawn(self._watch(), "watch Redis", endless=True)

    async def _watch(self) -> None:
        while not _is_cancelled():
            with suppress(*FAILURES):  # the store's own health tells of it
                await self._hear()
            await asyncio.sleep(_AGAIN)

    async def _hear(self) -> None:
        """Hear of changes until the connection is lost, or silent for too long."""
        async with asyncio.timeout(_CONNECT) as deadline:
            connection = self._make()
            await connection.connect()  # type: ignore[no-untyped-call] # redis-py says no type
            ear = _Ear(connection, self._changed)
            try:
                if _is_cancelled():
                    return
                await ear.subscribe(self._prefixes)
                deadline.reschedule(None)
                self._wake()
                await self._listen(ear)
            finally:
                self._sleep()
                ear.transport.abort()

    async def _listen(self, ear: _Ear) -> None:
        """Listen; whoever says nothing is asked whether he is there."""
        asked = False
        while not ear.deaf.is_set():
            ear.heard = False
            with suppress(TimeoutError):
                async with asyncio.timeout(SILENT):
                    await ear.deaf.wait()
            if asked and not ear.heard:
                return
            asked = not ear.heard
            if asked:
                ear.write("PING")


def _is_cancelled() -> bool:
    """Whether this task was to end: redis-py takes that for itself while it connects, and goes on."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
