"""The connections to one server: how they are made, and how they end."""

from __future__ import annotations

import pytest
import redis

from ollama_cache_proxy.stores.redis.redis_client import RedisClient
from tests.support.servers import RedisServer


async def test_the_lane_and_the_pool_reach_the_same_server(client: RedisClient) -> None:
    assert await client.lane.ask("SET", "a", b"x", within=5) == b"OK"
    assert await client.pool.get("a") == b"x"


async def test_a_connection_is_nobody_else_s_and_speaks_resp2(client: RedisClient) -> None:
    one, other = client.connection(), client.connection()
    try:
        assert one is not other
        for connection in (one, other):
            await connection.connect()
            await connection.send_command("CLIENT", "INFO")
            told = dict(part.split(b"=", 1) for part in (await connection.read_response()).split())
            assert told[b"resp"] == b"2"
    finally:
        await one.disconnect()
        await other.disconnect()


@pytest.mark.parametrize(
    ("url", "connect", "authority"),
    [
        ("redis://127.0.0.1:1/0", 0.1, None),
        ("rediss://127.0.0.1:1/0", 0.25, "ca.pem"),
    ],
)
async def test_a_server_behind_tls_has_longer_and_is_known_by_its_authority(
    url: str, connect: float, authority: str | None
) -> None:
    client = RedisClient(url, authority="ca.pem")
    told = client.pool.connection_pool.connection_kwargs
    assert (told["socket_connect_timeout"], told["socket_timeout"]) == (connect, 0.25)
    assert told.get("ssl_ca_certs") == authority
    await client.close()


@pytest.mark.parametrize("url", ["", "http://127.0.0.1/", "redis://127.0.0.1:port/"])
def test_an_invalid_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        RedisClient(url)


async def test_a_server_that_is_too_slow_to_say_goodbye_is_not_waited_for(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of the proxy raised redis-py's TimeoutError."""
    client = RedisClient(redis_server.url)
    closed = client.pool.aclose

    async def late() -> None:
        await closed()
        raise redis.TimeoutError("Timed out closing connection after 0.1")

    monkeypatch.setattr(client.pool, "aclose", late)
    await client.close()
