"""What changes in Redis, as Redis itself tells it: client-side caching in broadcasting mode (CLIENT TRACKING … BCAST).

One connection hears of every change of an entry or the generation, by whomever: a store, a clear, a deletion, an
expiry, an eviction, FLUSHALL. When that connection is lost, or silent for too long, changes may have gone unheard.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final

import redis.asyncio as redis
from redis.exceptions import RedisError

from proxy.tasks import Tasks

SILENT: Final = 1.0
"""Seconds without a word after which the server is asked whether it is there, and given as long again to say so."""
_AGAIN: Final = 1.0
_CONNECT: Final = 1.0
_CHANNEL: Final = "__redis__:invalidate"
_FAILURES: Final = (RedisError, OSError, TimeoutError, asyncio.IncompleteReadError)


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
        changed: Callable[[list[bytes] | None], None],
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
            connection = self._make()
            try:
                async with asyncio.timeout(_CONNECT):
                    await self._subscribe(connection)
                self._wake()
                await self._listen(connection)
            except _FAILURES:
                pass  # the store's own health tells of it
            finally:
                self._sleep()
                await connection.disconnect(nowait=True)
            await asyncio.sleep(_AGAIN)

    async def _subscribe(self, connection: redis.Connection) -> None:
        """Let the connection hear of what it tracks: a subscriber in RESP2 is sent the changes as messages."""
        await connection.connect()  # type: ignore[no-untyped-call] # redis-py says no type
        await connection.send_command("CLIENT", "ID")
        own = await connection.read_response()
        await connection.send_command("CLIENT", "TRACKING", "ON", "REDIRECT", own, "BCAST", *self._prefixes)
        await connection.read_response()
        await connection.send_command("SUBSCRIBE", _CHANNEL)
        await connection.read_response()

    async def _listen(self, connection: redis.Connection) -> None:
        asked = False
        while not _is_cancelled():
            message: Any = await connection.read_response(timeout=SILENT, disconnect_on_error=False)
            if message is None:
                if asked:
                    return
                await connection.send_command("PING")
                asked = True
                continue
            asked = False
            if message[0] == b"message":
                self._changed(message[2])


def _is_cancelled() -> bool:
    """Whether this task was to end: redis-py takes that for itself while it connects, and goes on."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
