"""Which server is the primary, by what several Sentinels say, by those that are silent, and by those that say nonsense."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest
import redis.asyncio as redis
from redis.exceptions import ConnectionError as RedisConnectionError

from ollama_cache_proxy.policy.redis_url import RedisAddress, redis_address
from ollama_cache_proxy.policy.store_symptoms import Symptom
from ollama_cache_proxy.stores.redis.redis_connections import connecting, sentinels_of
from ollama_cache_proxy.stores.redis.sentinels import Sentinels, UnknownPrimaryError
from ollama_cache_proxy.stores.redis.store_look import look
from tests.support import canary
from tests.support.servers import RedisServer, free_port
from tests.support.tls import tls_before, trusting

Start = Callable[..., Awaitable[int]]
UNKNOWN = b"-ERR No such master with that name\r\n"


def told(epoch: int | str, port: int | str = 7000, host: str = "10.0.0.1") -> bytes:
    """Return a reply to SENTINEL MASTER."""
    members = {"name": "m", "ip": host, "port": str(port), "flags": "master", "config-epoch": str(epoch)}
    texts = [text for pair in members.items() for text in pair]
    return b"*%d\r\n" % len(texts) + b"".join(b"$%d\r\n%b\r\n" % (len(text), text.encode()) for text in texts)


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Return a function that starts a Sentinel with one reply, after a pause, and returns its port."""
    serving: set[asyncio.Task[None] | None] = set()
    async with AsyncExitStack() as stack:

        async def start(reply: bytes, pause: float = 0.0) -> int:
            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                serving.add(asyncio.current_task())
                try:
                    while data := await reader.read(4096):
                        for command in data.split(b"*")[1:]:
                            if b"MASTER" in command:
                                await asyncio.sleep(pause)
                                writer.write(reply)
                            else:
                                writer.write(b"+OK\r\n")
                finally:
                    writer.close()

            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            await stack.enter_async_context(server)
            return int(server.sockets[0].getsockname()[1])

        yield start
        for task in filter(None, serving):
            task.cancel()
        await asyncio.sleep(0.01)


def of(*ports: int) -> RedisAddress:
    return redis_address(f"redis+sentinel://{','.join(f'127.0.0.1:{port}' for port in ports)}/m")


def at(*ports: int) -> Sentinels:
    return sentinels_of(of(*ports), None)


async def test_the_latest_configuration_counts(start: Start) -> None:
    ports = [await start(told(epoch, port)) for epoch, port in ((3, 7003), (12, 7012), (5, 7005))]
    assert await at(*ports).primary() == ("10.0.0.1", 7012)


async def test_those_that_are_away_or_slow_are_not_waited_for(start: Start) -> None:
    ports = [free_port(), await start(told(9, 7009), pause=30), await start(told(1, 7001)), await start(UNKNOWN)]
    begun = time.monotonic()
    assert await at(*ports).primary() == ("10.0.0.1", 7001)
    assert time.monotonic() - begun < 5


async def test_an_address_may_be_one_of_ipv6_or_a_name(start: Start) -> None:
    assert await at(await start(told(1, host="::1"))).primary() == ("::1", 7000)
    assert await at(await start(told(1, host="redis.example"))).primary() == ("redis.example", 7000)


@pytest.mark.parametrize(
    "reply",
    [b"+OK\r\n", b"$-1\r\n", b"*0\r\n", b"*1\r\n$1\r\na\r\n", told("x"), told(1, "x"), b":1\r\n", b"-NOPERM no\r\n"],
)
async def test_what_is_no_answer_is_none(reply: bytes, start: Start) -> None:
    nonsense = await start(reply)
    with pytest.raises(RedisConnectionError, match="no Sentinel answers"):
        await at(nonsense).primary()
    assert await at(nonsense, await start(told(1))).primary() == ("10.0.0.1", 7000)


async def test_a_name_that_none_of_them_knows(start: Start) -> None:
    unknown = await start(UNKNOWN)
    with pytest.raises(UnknownPrimaryError):
        await at(unknown, free_port()).primary()
    assert await look(of(unknown), None) is Symptom.NO_SUCH_PRIMARY


async def test_it_is_said_where_none_answers_and_where_what_they_name_does_not(start: Start) -> None:
    nobody, named = free_port(), free_port()
    assert await look(of(nobody), None) is Symptom.NO_SENTINEL
    assert await look(of(await start(told(1, named, "127.0.0.1"))), None) is Symptom.REFUSES
    assert Symptom.NO_SENTINEL.what(of(nobody, 1).place) == f"no Sentinel answers at 127.0.0.1:{nobody},127.0.0.1:1"


async def test_user_and_password_are_those_of_the_sentinels(start: Start) -> None:
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            heard.append(data)
            writer.write(told(1) if b"MASTER" in data else b"+OK\r\n" * data.count(b"*"))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        address = replace(of(port), username="u", password="p", sentinel_username="s", sentinel_password="q")
        await sentinels_of(address, None).primary()
    sent = b"".join(heard)
    assert b"AUTH\r\n$1\r\ns\r\n$1\r\nq\r\n" in sent
    assert b"$1\r\np\r\n" not in sent


async def test_a_connection_leads_to_what_they_name_at_the_moment(start: Start, redis_server: RedisServer) -> None:
    replies = [await start(told(1, redis_server.port, "127.0.0.1"))]
    address = replace(of(*replies), password=canary.PASSWORD, database=2)
    assert await pong(address) is True
    assert await look(address, None) is None


async def test_sentinels_and_servers_may_speak_tls(start: Start, redis_server: RedisServer) -> None:
    async with tls_before(redis_server.url) as port:
        sentinel = await start(told(1, port, "localhost"))
        async with tls_before(f"redis://127.0.0.1:{sentinel}") as secure:
            address = replace(of(secure), password=canary.PASSWORD, tls=True)
            assert await pong(address, trusting()) is True
            assert await look(address, trusting()) is None


async def test_a_server_that_says_that_it_is_a_replica_is_not_used(start: Start, redis_server: RedisServer) -> None:
    replica = RedisServer("--masterauth", canary.PASSWORD, "--replicaof", "127.0.0.1", str(redis_server.port))
    replica.start()
    try:
        address = replace(of(await start(told(1, replica.port, "127.0.0.1"))), password=canary.PASSWORD)
        with pytest.raises(RedisConnectionError, match="not the primary"):
            await pong(address)
    finally:
        replica.close()


async def test_a_user_who_may_not_ask_for_the_role_takes_their_word(start: Start, redis_server: RedisServer) -> None:
    client: Any = redis_server.client()
    client.acl_setuser(
        "ocp", enabled=True, passwords=[f"+{canary.PASSWORD}"], keys=["*"], commands=["+ping", "+select"]
    )
    try:
        named = await start(told(1, redis_server.port, "127.0.0.1"))
        assert await pong(replace(of(named), username="ocp", password=canary.PASSWORD)) is True
    finally:
        client.acl_deluser("ocp")


async def pong(address: RedisAddress, tls: ssl.SSLContext | None = None) -> Any:
    """What a connection of its own gets for a PING."""
    pool = redis.ConnectionPool(**connecting(address, tls), socket_timeout=5, retry=None)
    async with redis.Redis.from_pool(pool) as client:
        return await client.ping()
