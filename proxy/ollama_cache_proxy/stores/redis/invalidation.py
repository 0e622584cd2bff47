"""Invalidation messages of Redis: client-side caching in broadcasting mode (CLIENT TRACKING … BCAST).

One connection gets a message for every change of an entry or the generation, whatever its cause: a write, a clear, a
deletion, an expiry, an eviction, FLUSHALL. When that connection is lost, or silent for too long, messages may be lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeAlias

import redis.asyncio as redis
from redis.exceptions import InvalidResponse, ResponseError

from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy.redis_url import Place
from ollama_cache_proxy.stores.redis.commands import ASK_AGAIN_AFTER, Commands
from ollama_cache_proxy.stores.redis.lane import CONNECT_WITHIN, Wire, connect
from ollama_cache_proxy.stores.redis.redis_client import FAILURES, Client, is_cancelled

SILENT: Final = 1.0
"""Seconds without a message after which the server is sent a PING, and seconds that it has to respond."""
_RETRY_AFTER: Final = 0.5
"""Seconds."""
_CHANNEL: Final = "__redis__:invalidate"

Changed: TypeAlias = Callable[[list[bytes] | None], None]
"""Called with the names of keys that have changed; None for all of them."""


class _Subscription(Wire):
    """A connection that gets invalidation messages, until it is `lost`."""

    def __init__(self, connection: redis.Connection, changed: Changed, commands: Commands) -> None:
        super().__init__(connection)
        self._commands = commands
        self.lost = asyncio.Event()
        self.got_data = False
        self._changed = changed

    async def subscribe(self, prefixes: Iterable[str]) -> None:
        """Start tracking, with the messages sent to this connection: in RESP2 that takes a subscription.

        Raises InvalidResponse where the replies do not say that it has begun: what is no Redis must not be trusted.
        """
        own = await self._permitted("CLIENT ID")
        tracked = await self._permitted("CLIENT TRACKING", "ON", "REDIRECT", own, "BCAST", *prefixes)
        subscribed = await self._permitted("SUBSCRIBE", _CHANNEL)
        if tracked != b"OK" or subscribed != [b"subscribe", _CHANNEL.encode(), 1]:
            raise InvalidResponse

    async def _permitted(self, name: str, *arguments: str | int) -> Any:
        """Return the reply to a command, noting a refusal: an error of any kind, since products word it differently."""
        try:
            return await self.ask(*name.split(), *arguments)
        except ResponseError as error:
            self._commands.refuse(name, error)
            raise

    def received(self, reply: Any) -> None:
        """See Replies. Without a pending command, replies are messages, or answer a PING."""
        self.got_data = True
        if self.waiting:
            super().received(reply)
        elif not isinstance(reply, ResponseError) and reply[0] == b"message":  # an error refuses the PING
            self._changed(reply[2])

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        super().connection_lost(exc)
        self.lost.set()


class RedisWatch:
    """Watches keys that begin with one of `prefixes`.

    Calls `resume` when every change will be reported from now on, `changed` for each message, and `suspend` when
    messages may be lost. `make` returns a new connection.
    """

    def __init__(  # noqa: PLR0913 - what it tells, and to whom
        self,
        make: Callable[[], redis.Connection],
        *,
        commands: Commands,
        prefixes: Iterable[str],
        resume: Callable[[], None],
        changed: Changed,
        suspend: Callable[[], None],
    ) -> None:
        self._make = make
        self._commands = commands
        self._prefixes = [part for prefix in prefixes for part in ("PREFIX", prefix)]
        self._resume = resume
        self._changed = changed
        self._suspend = suspend
        self._subscription: _Subscription | None = None

    def renew(self) -> None:
        """Follow over a new connection: this one leads to a server that is not the right one any more."""
        if self._subscription is not None:
            self._subscription.transport.abort()

    def begin(self, tasks: Tasks) -> asyncio.Task[None]:
        """Start watching, until the returned task is cancelled."""
        return tasks.spawn(self._watch(), "watch Redis", endless=True)

    async def _watch(self) -> None:
        while not is_cancelled():
            retry_after = _RETRY_AFTER
            try:
                await self._follow()
            except ResponseError:  # refused: only another setting of the server changes that
                retry_after = ASK_AGAIN_AFTER
            except FAILURES:
                pass  # the store's own health reports it
            await asyncio.sleep(retry_after)

    async def _follow(self) -> None:
        """Receive messages until the connection is lost, or silent for too long."""
        async with asyncio.timeout(CONNECT_WITHIN) as deadline:
            connection = self._make()
            await connect(connection)
            self._subscription = subscription = _Subscription(connection, self._changed, self._commands)
            try:
                if is_cancelled():
                    return
                await subscription.subscribe(self._prefixes)
                deadline.reschedule(None)
                self._resume()
                await self._listen(subscription)
            finally:
                self._suspend()
                subscription.transport.abort()

    async def _listen(self, subscription: _Subscription) -> None:
        """Wait until the connection is lost; while it is silent, send PING, and return if that gets no reply."""
        asked = False
        while not subscription.lost.is_set():
            subscription.got_data = False
            with suppress(TimeoutError):
                async with asyncio.timeout(SILENT):
                    await subscription.lost.wait()
            if asked and not subscription.got_data:
                return
            asked = not subscription.got_data
            if asked:
                subscription.write("PING")


class RedisWatches:
    """Watches every primary. What each of them does is RedisWatch's; `resume` is called when all are watched."""

    def __init__(
        self,
        client: Client,
        *,
        commands: Commands,
        resume: Callable[[], None],
        changed: Changed,
        suspend: Callable[[], None],
    ) -> None:
        self._client = client
        self._commands = commands
        self._resume = resume
        self._changed = changed
        self._suspend = suspend
        self._watches: dict[Place, tuple[RedisWatch, asyncio.Task[None]]] = {}
        self._watched: set[Place] = set()

    def begin(self, tasks: Tasks) -> None:
        """Start watching, until the tasks are closed."""
        follow = partial(self._follow, tasks)
        self._client.on_change.append(follow)
        follow()

    def _follow(self, tasks: Tasks) -> None:
        """Watch the primaries of now, and no others."""
        sources = self._client.sources()
        gone, new = self._watches.keys() - sources.keys(), sources.keys() - self._watches.keys()
        if not gone and not new:  # what has one name leads to another server now
            for watch, _ in self._watches.values():
                watch.renew()
        for place in gone:
            _, task = self._watches.pop(place)
            task.cancel()
            self._watched.discard(place)
        for place in new:
            watch = RedisWatch(
                sources[place],
                commands=self._commands,
                prefixes=self._client.layout.watched,
                resume=partial(self._resumed, place),
                changed=self._changed,
                suspend=partial(self._suspended, place),
            )
            self._watches[place] = watch, watch.begin(tasks)
        if gone or new:
            self._suspend()
        self._resume_if_all_are_watched()

    def _resumed(self, place: Place) -> None:
        self._watched.add(place)
        self._resume_if_all_are_watched()

    def _resume_if_all_are_watched(self) -> None:
        if self._watches and self._watched == self._watches.keys():
            self._resume()

    def _suspended(self, place: Place) -> None:
        self._watched.discard(place)
        self._suspend()
