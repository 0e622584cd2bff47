"""redis-py's connections from an address: to a real server, and to what replies oddly in the handshake."""

from __future__ import annotations

from typing import Any

import pytest
import redis.asyncio as redis
from redis.exceptions import ConnectionError as RedisConnectionError

from ollama_cache_proxy.policy.redis_url import redis_address
from ollama_cache_proxy.stores.redis.redis_connections import connecting
from tests.support import canary
from tests.support.odd_servers import odd_server, says
from tests.support.servers import RedisServer
from tests.support.tls import tls_before, trusting


async def pong(url: str, **tls: Any) -> Any:
    """What a connection of its own gets for a PING."""
    pool = redis.ConnectionPool(**connecting(redis_address(url), tls.get("tls")), socket_timeout=5)
    client = redis.Redis.from_pool(pool)
    async with client:
        return await client.ping()


async def test_a_server_is_reached_over_tcp_and_over_tls(redis_server: RedisServer) -> None:
    assert await pong(redis_server.url) is True
    async with tls_before(redis_server.url) as port:
        assert await pong(f"rediss://:{canary.PASSWORD}@localhost:{port}", tls=trusting()) is True


async def test_connections_over_tls_share_a_context(redis_server: RedisServer) -> None:
    """Making one takes 10 to 20 ms, in which nothing else runs."""
    tls = trusting()
    arguments = connecting(redis_address("rediss://localhost"), tls)
    kind = arguments.pop("connection_class")
    made = [kind(**arguments) for _ in range(2)]
    assert [connection.ssl_context.get() for connection in made] == [tls, tls]


@pytest.mark.parametrize("reply", [b"*2\r\n+a\r\n:1\r\n", b":1\r\n", b"_\r\n"])
async def test_a_handshake_that_does_not_end_well_leaves_no_connection_to_be_used(reply: bytes) -> None:
    """redis-py raised AttributeError or the like, and the next command was sent to database 0."""
    with odd_server(says(reply)) as port:
        address = redis_address(f"redis://:{canary.PASSWORD}@127.0.0.1:{port}/3")
        arguments = connecting(address, None)
        connection = arguments.pop("connection_class")(**arguments | {"protocol": 3}, socket_timeout=5)
        for _ in range(2):
            with pytest.raises(RedisConnectionError):
                await connection.connect()
            assert not connection.is_connected
