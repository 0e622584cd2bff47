"""The connections to one server, which Sentinels may name: redis-py's pool, and the lane for small commands.

This module knows neither commands nor names.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from ollama_cache_proxy.policy.redis_url import Place, RedisAddress
from ollama_cache_proxy.stores.redis.key_layout import ONE_SERVER, Layout
from ollama_cache_proxy.stores.redis.lane import CONNECT_WITHIN, Lane, RedisLane
from ollama_cache_proxy.stores.redis.redis_connections import connecting
from ollama_cache_proxy.stores.redis.sentinels import Sentinels

FAILURES: Final = (Exception,)
"""What a command may raise, over the pool or the lane: any exception, of which a cancellation is none.

uvloop raises RuntimeError where the server has closed the connection; redis-py raises AttributeError, TypeError and
ValueError for replies that it does not expect.
"""
_READ: Final = 5.0
"""Seconds until redis-py gives up; whoever waits has a deadline of its own, which is shorter."""
_PLACE_WITHIN: Final = 1.0
"""Seconds to wait for a connection that no other command uses."""
_CONNECTIONS: Final = 64
_LOOK_EVERY: Final = 1.0
"""Seconds between two looks at what Sentinels name."""


class NodeAwayError(RedisConnectionError):
    """One of several servers cannot be reached, and others can: it says nothing of the store as a whole."""


class Client(Protocol):
    """The connections to a store in Redis: a server of its own, or a cluster (cluster_client.py)."""

    layout: Layout
    """The names in it."""
    pool: Any
    """What this project uses of redis-py's client."""
    on_change: list[Callable[[], None]]
    """Called when other servers than before are the primaries."""

    @property
    def lane(self) -> Lane: ...
    @property
    def lists(self) -> Lane: ...
    @property
    def probes(self) -> Lane: ...

    def servers(self) -> Sequence[Any]:
        """Return redis-py's client of each primary, in an order that is that of `shape`."""

    def sources(self) -> Mapping[Place, Callable[[], redis.Connection]]:
        """Return a function for each primary that returns a new connection to it."""

    async def shape(self) -> object:
        """Return what changes whenever names may be in another server than before, after a look."""

    async def follow(self) -> None:
        """Follow the primaries, until cancelled."""

    async def close(self) -> None:
        """Close every connection."""


class RedisClient:
    """Sends commands over a connection of the `pool`, or over the `lane`, which all small ones share.

    Lookups of long lists have a lane of their own, `lists`, and so have `probes`.

    `tls` is the context for a `rediss://` address.
    """

    layout = ONE_SERVER

    def __init__(self, address: RedisAddress, *, tls: ssl.SSLContext | None = None) -> None:
        arguments = connecting(address, tls)
        pool = redis.BlockingConnectionPool(
            **arguments,
            timeout=_PLACE_WITHIN,
            max_connections=int(address.options.get("max_connections", _CONNECTIONS)),
            socket_connect_timeout=CONNECT_WITHIN,
            socket_timeout=_READ,
            retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
            health_check_interval=0,
        )
        self.sentinels: Sentinels | None = arguments.get("sentinels")
        self.on_change: list[Callable[[], None]] = []
        self.pool: Any = redis.Redis.from_pool(pool)
        self.lane = RedisLane(self.connection, spare=True)
        self.lists = RedisLane(self.connection)
        self.probes = RedisLane(self.connection)

    def connection(self) -> redis.Connection:
        """Return a new connection to the server, in RESP2, outside of the pool."""
        pool = self.pool.connection_pool
        once = {"retry": Retry(NoBackoff(), 0)}
        made: redis.Connection = pool.connection_class(**pool.connection_kwargs | once)
        return made

    def servers(self) -> Sequence[Any]:
        """See Client."""
        return (self.pool,)

    def sources(self) -> Mapping[Place, Callable[[], redis.Connection]]:
        """See Client."""
        return {("", 0): self.connection}

    async def shape(self) -> object:
        """See Client."""
        return None

    async def follow(self) -> None:
        """Leave a server when Sentinels name another one, until cancelled. Without Sentinels there is nothing to do."""
        known: Place | None = None
        while self.sentinels is not None and not is_cancelled():
            with suppress(*FAILURES):  # none that answers: the store's own health reports what comes of it
                found = await self.sentinels.primary()
                if found != known and known is not None:
                    await self._leave()
                known = found
            await asyncio.sleep(_LOOK_EVERY)

    async def _leave(self) -> None:
        for lane in (self.lane, self.lists, self.probes):
            lane.leave()
        for changed in self.on_change:
            changed()
        await self.pool.connection_pool.disconnect(inuse_connections=True)

    async def close(self) -> None:
        """Close every connection."""
        for lane in (self.lane, self.lists, self.probes):
            await lane.close()
        with suppress(*FAILURES):  # a slow close is not waited for
            await self.pool.aclose()


def is_cancelled() -> bool:
    """Return whether this task was cancelled: redis-py swallows a cancellation while it connects."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
