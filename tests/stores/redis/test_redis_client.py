"""The connections to one server: how they are made, and how they end."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
import redis

from benchmarks.store_path import Path, Way
from ollama_cache_proxy.policy.redis_url import redis_address
from ollama_cache_proxy.stores.redis.redis_client import RedisClient
from tests.support import canary
from tests.support.servers import RedisServer
from tests.support.tls import trusting
from tests.support.waiting import until


async def test_the_lane_and_the_pool_reach_the_same_server(client: RedisClient) -> None:
    assert await client.lane.ask("SET", "a", b"x", within=5) == b"OK"
    assert await client.pool.get("a") == b"x"


async def test_a_connection_is_nobody_else_s_and_speaks_resp2(client: RedisClient) -> None:
    one, other = client.connection(), client.connection()
    try:
        assert one is not other
        for connection in (one, other):
            await connection.connect()
            await connection.send_command("HGETALL", "nothing")
            assert await connection.read_response() == [], "in RESP3 it is a map"
    finally:
        await one.disconnect()
        await other.disconnect()


async def test_connecting_may_take_longer_than_any_command_is_waited_for() -> None:
    client = RedisClient(redis_address("rediss://127.0.0.1:1/0"), tls=trusting())
    told = client.pool.connection_pool.connection_kwargs
    assert told["socket_connect_timeout"] == 5.0
    await client.close()


async def test_the_options_of_a_url_hold(redis_server: RedisServer) -> None:
    url = f"redis://127.0.0.1:{redis_server.port}?db=3&client_name=proxy-1&max_connections=7&socket_keepalive=no"
    client = RedisClient(redis_address(f"{url}&protocol=2&password={canary.PASSWORD}"))
    try:
        assert await client.lane.ask("SET", "a", b"x", within=5) == b"OK"
        assert await client.pool.get("a") == b"x"
        assert redis_server.client().dbsize() == 0
        names = [row["name"] for row in await client.pool.client_list() if row["db"] == "3"]
        assert len(names) >= 2
        assert set(names) == {"proxy-1"}
        assert client.pool.connection_pool.max_connections == 7
    finally:
        await client.pool.flushdb()
        await client.close()


async def test_a_server_that_is_too_slow_to_say_goodbye_is_not_waited_for(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of the proxy raised redis-py's TimeoutError."""
    client = RedisClient(redis_address(redis_server.url))
    closed = client.pool.aclose

    async def late() -> None:
        await closed()
        raise redis.TimeoutError("Timed out closing connection after 0.1")

    monkeypatch.setattr(client.pool, "aclose", late)
    await client.close()


@pytest.mark.parametrize("path", [path for path in Path if path not in (Path.THROUGH, Path.SLOW, Path.DROPS)])
async def test_pooled_connections_that_have_ended_are_replaced(path: Path, redis_server: RedisServer) -> None:
    """A purge after an outage was a 503: uvloop raises RuntimeError for them, which redis-py does not try again."""
    way = Way(redis_server.port, Random(1))
    async with await asyncio.start_server(way.serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        client = RedisClient(redis_address(redis_server.url.replace(f":{redis_server.port}/", f":{port}/")))
        await asyncio.gather(*(client.pool.ping() for _ in range(3)))
        transports = [one._writer.transport for one in client.pool.connection_pool._available_connections]
        assert len(transports) == 3
        way.be(path)
        await until(lambda: all(transport.is_closing() for transport in transports))
        way.be(Path.THROUGH)
        assert await asyncio.gather(*(client.pool.ping() for _ in range(3))) == [True] * 3
        await client.close()
