"""The connections to one server: redis-py's pool, and the lane for small commands.

This module knows neither commands nor names: Redis behind Sentinel would be another client with the same pool, lane and
`connection`.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final
from urllib.parse import urlsplit

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from ollama_cache_proxy.stores.redis.lane import RedisLane

FAILURES: Final = (Exception,)
"""What a command may raise, over the pool or the lane: any exception, of which a cancellation is none.

uvloop raises RuntimeError where the server has closed the connection; redis-py raises AttributeError, TypeError and
ValueError for replies that it does not expect.
"""
_CONNECT: Final = 0.1
_CONNECT_TLS: Final = 0.25
_READ: Final = 0.25
"""Seconds, as those above."""
_CONNECTIONS: Final = 64


class RedisClient:
    """Sends commands over a connection of the `pool`, or over the `lane`, which all small ones share.

    `authority` is a PEM file with the certificate authorities for a `rediss://` server; None for the system's. Raises
    ValueError or TypeError for a URL that redis-py does not accept.
    """

    def __init__(self, url: str, *, authority: str | None = None) -> None:
        tls = urlsplit(url).scheme == "rediss"
        pool = redis.BlockingConnectionPool.from_url(
            url,
            timeout=_CONNECT,
            max_connections=_CONNECTIONS,
            socket_connect_timeout=_CONNECT_TLS if tls else _CONNECT,
            socket_timeout=_READ,
            retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
            health_check_interval=0,
            protocol=2,  # without HELLO, which not every server, or user, has
            **({"ssl_ca_certs": authority} if tls and authority else {}),
        )
        self.pool: Any = redis.Redis.from_pool(pool)
        self.lane = RedisLane(self.connection)

    def connection(self) -> redis.Connection:
        """Return a new connection to the server, in RESP2, outside of the pool."""
        pool = self.pool.connection_pool
        made: redis.Connection = pool.connection_class(**pool.connection_kwargs | {"protocol": 2})
        return made

    async def close(self) -> None:
        """Close every connection."""
        await self.lane.close()
        with suppress(*FAILURES):  # a slow close is not waited for
            await self.pool.aclose()
