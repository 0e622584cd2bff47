"""Recorded streams that several proxies with one Redis share while they flow."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ollama_cache_proxy.service.seal_key_file import make_key
from ollama_cache_proxy.simulator import Behaviour, Simulator
from tests.support.clusters import Cluster
from tests.support.company import acquainted, looking_often
from tests.support.rawhttp import RawAnswer, RawConnection, ask
from tests.support.servers import Proxy, RedisServer, proxy_before
from tests.support.stores import calls
from tests.support.upstream import Conversation, byte_upstream
from tests.support.waiting import until

PATH = "/api/generate"
BODY = json.dumps({"model": "tiny", "prompt": "why"}).encode()
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
LINE = b'{"model":"tiny","response":"planted","done":false}\n'
LONG = LINE.replace(b"planted", b"x" * 400)
LAST = b'{"model":"tiny","response":"","done":true,"done_reason":"stop"}\n'
COLLAPSED = ("Cache-Status", "ollama-cache-proxy; fwd=miss; collapsed")


@asynccontextmanager
async def proxies(
    count: int, upstream: str, server: RedisServer | Cluster, **settings: Any
) -> AsyncIterator[list[Proxy]]:
    settings = {"redis_url": server.url, "store_deadline": 5, "cache_streams": True, **settings}
    async with AsyncExitStack() as stack:
        async with looking_often():
            running = [await stack.enter_async_context(proxy_before(upstream, **settings)) for _ in range(count)]
            await acquainted(running)
        yield running


def asking(proxy: Proxy, count: int = 1) -> list[asyncio.Task[RawAnswer]]:
    return [asyncio.create_task(ask(proxy.url, "POST", PATH, body=BODY)) for _ in range(count)]


async def beginning(proxy: Proxy) -> RawConnection:
    connection = await RawConnection.open(proxy.url)
    connection.send("POST", PATH, body=BODY)
    return connection


class Stepwise:
    """An upstream that sends a chunk for each step, and breaks off in place of an empty one."""

    def __init__(self) -> None:
        self.asked = 0
        self.left = 0
        self.chunks: asyncio.Queue[bytes] = asyncio.Queue()

    def send(self, *chunks: bytes) -> None:
        for chunk in chunks:
            self.chunks.put_nowait(chunk)

    async def __call__(self, talk: Conversation) -> None:
        self.asked += 1
        await talk.read_body()
        await talk.write(HEAD)
        while True:
            chunk = await self.chunks.get()
            if not chunk:
                raise ConnectionResetError
            await talk.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) + (b"0\r\n\r\n" if chunk is LAST else b""))
            if chunk is LAST:
                return


async def test_followers_get_the_same_bytes_whenever_they_come(redis_server: RedisServer) -> None:
    async with Simulator(Behaviour(completion_delay=0.1, token_rate=50)) as simulator:
        async with proxies(3, simulator.url, redis_server) as running:
            tasks: list[asyncio.Task[RawAnswer]] = []
            for proxy in running * 2:
                tasks += asking(proxy, 3)
                await asyncio.sleep(0.05)
            found = [await task for task in tasks]
            assert {answer.status for answer in found} == {200}
            assert len({answer.chunks for answer in found}) == 1
            assert json.loads(found[0].chunks[-1])["done"]
            assert simulator.inferences == 1
            assert sum(COLLAPSED in answer.fields for answer in found) == len(found) - 1


async def test_a_chunk_is_passed_on_before_the_next_one_comes(redis_server: RedisServer) -> None:
    steps = Stepwise()
    async with byte_upstream(steps) as upstream, proxies(3, upstream.url, redis_server) as (one, other, third):
        async with await beginning(one) as first:
            steps.send(LINE)
            await first.head()
            assert await first.chunk() == LINE
            async with await beginning(other) as second:
                assert COLLAPSED in (await second.head())[1]
                assert await second.chunk() == LINE
                steps.send(LINE[:20])
                assert [await first.chunk(), await second.chunk()] == [LINE[:20]] * 2
                async with await beginning(third) as late:
                    assert COLLAPSED in (await late.head())[1]
                    assert [await late.chunk(), await late.chunk()] == [LINE, LINE[:20]]
                    steps.send(LINE[20:], LAST)
                    for connection in (first, second, late):
                        assert [await connection.chunk() for _ in range(3)] == [LINE[20:], LAST, b""]
        assert steps.asked == 1


async def test_a_stream_that_nobody_follows_is_told_to_nobody(redis_server: RedisServer) -> None:
    steps = Stepwise()
    async with byte_upstream(steps) as upstream, proxies(2, upstream.url, redis_server) as (proxy, _):
        before = calls(redis_server, "publish")
        steps.send(LINE, LINE, LAST)
        assert (await asking(proxy)[0]).chunks[-1] == LAST
        await until(lambda: calls(redis_server, "publish") == before + 1)
        assert proxy.running.store.writable


async def test_followers_of_one_that_breaks_off_are_cut_too(redis_server: RedisServer) -> None:
    steps = Stepwise()
    async with byte_upstream(steps) as upstream, proxies(2, upstream.url, redis_server) as (one, other):
        async with await beginning(one) as first, await beginning(other) as second:
            await until(lambda: steps.asked)
            steps.send(LINE)
            for connection in (first, second):
                await connection.head()
                assert await connection.chunk() == LINE
            steps.send(b"")
            for connection in (first, second):
                with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
                    await connection.chunk()
        assert steps.asked == 1


async def test_one_that_breaks_off_before_its_first_chunk_is_asked_for_again(redis_server: RedisServer) -> None:
    steps = Stepwise()
    async with byte_upstream(steps) as upstream, proxies(3, upstream.url, redis_server) as (one, other, third):
        tasks = asking(one)
        await until(lambda: steps.asked == 1)
        followers = [*asking(other), *asking(third)]
        client: Any = redis_server.client()
        await until(lambda: len([name for name in client.pubsub_channels("ocp:1:f:*") if name.count(b":") == 5]) == 2)
        steps.send(b"")
        await until(lambda: steps.asked == 2)
        await asyncio.sleep(0.2)
        steps.send(LINE, LAST)
        assert [(await task).chunks for task in followers] == [(LINE, LAST)] * 2
        assert steps.asked == 2, "one at a time"
        await asyncio.wait(tasks)


async def test_when_the_clients_of_the_leader_leave_the_followers_get_all(redis_server: RedisServer) -> None:
    steps = Stepwise()
    async with byte_upstream(steps) as upstream, proxies(2, upstream.url, redis_server) as (one, other):
        first = await beginning(one)
        steps.send(LINE)
        await first.head()
        async with await beginning(other) as second:
            await second.head()
            assert await second.chunk() == LINE
            first.close()
            await until(lambda: one.running.exchanges.serving == 0)
            steps.send(LINE, LAST)
            assert [await second.chunk() for _ in range(3)] == [LINE, LAST, b""]
        assert steps.asked == 1
        assert (await asking(other)[0]).field("X-Cache") == "HIT"


async def test_one_that_outgrows_its_limit_goes_on_for_those_who_follow(redis_server: RedisServer) -> None:
    steps = Stepwise()
    settings = {"max_entry_bytes": 1024}
    async with byte_upstream(steps) as upstream, proxies(3, upstream.url, redis_server, **settings) as running:
        one, other, third = running
        async with await beginning(one) as first, await beginning(other) as second:
            await until(lambda: steps.asked)
            steps.send(LONG)
            for connection in (first, second):
                await connection.head()
                assert await connection.chunk() == LONG
            steps.send(LONG, LONG)
            for connection in (first, second):
                assert [await connection.chunk() for _ in range(2)] == [LONG] * 2
            late = asking(third)
            await until(lambda: steps.asked == 2)
            for _ in range(4):
                steps.send(LONG)
            steps.send(LAST, LAST)
            for connection in (first, second):
                got = [await connection.chunk()]
                while got[-1]:
                    got.append(await connection.chunk())
                assert got[-2:] == [LAST, b""]
            assert (await late[0]).chunks[-1] == LAST


async def test_when_the_store_goes_away_followers_are_cut_and_the_leader_is_not(redis_server: RedisServer) -> None:
    own, steps = RedisServer(), Stepwise()
    own.start()
    try:
        async with (
            byte_upstream(steps) as upstream,
            proxies(2, upstream.url, own) as (one, other),
            await beginning(one) as first,
            await beginning(other) as second,
        ):
            await until(lambda: steps.asked)
            steps.send(LINE)
            for connection in (first, second):
                await connection.head()
                assert await connection.chunk() == LINE
            cut = {first: False, second: False}
            own.kill()
            steps.send(LINE, LAST)
            for connection in cut:
                try:
                    async with asyncio.timeout(20):
                        while await connection.chunk():
                            pass
                except (asyncio.IncompleteReadError, ConnectionResetError):
                    cut[connection] = True
            assert sum(cut.values()) <= 1, "the one that asked has all of it"
            assert steps.asked == 1
    finally:
        own.close()


async def test_sealed_streams_show_nothing_on_their_way(redis_server: RedisServer, tmp_path: Path) -> None:
    make_key(str(tmp_path / "key"))
    steps = Stepwise()
    pubsub: Any = redis_server.client().pubsub()
    pubsub.psubscribe("ocp:1:f:*")
    settings = {"seal_key_file": str(tmp_path / "key")}
    async with byte_upstream(steps) as upstream, proxies(2, upstream.url, redis_server, **settings) as (one, other):
        async with await beginning(one) as first:
            await until(lambda: steps.asked)
            async with await beginning(other) as second:
                steps.send(LINE)
                await second.head()
                assert await second.chunk() == LINE
                steps.send(LINE, LAST)
                assert [await second.chunk() for _ in range(3)] == [LINE, LAST, b""]
                await first.head()
    messages: list[bytes] = []
    async with asyncio.timeout(30):
        while not any(data.endswith(b" stored 0") for data in messages):
            message = pubsub.get_message(timeout=0.01)
            if message is not None and isinstance(message["data"], bytes):
                messages.append(message["data"])
            await asyncio.sleep(0)
    parts = [data for data in messages if b" part " in data]
    assert len(parts) >= 2
    assert not any(word in data for data in parts for word in (b"planted", b"tiny", b"x-ndjson"))
    pubsub.close()


async def test_streams_are_shared_in_a_cluster() -> None:
    cluster, steps = Cluster(replicas=False).start(), Stepwise()
    try:
        async with (
            byte_upstream(steps) as upstream,
            proxies(2, upstream.url, cluster) as (one, other),
            await RawConnection.open(one.url) as first,
            await RawConnection.open(other.url) as second,
        ):
            stores: list[Any] = [one.running.store, other.running.store]
            await until(lambda: all(store.writable for store in stores))
            for connection in (first, second):
                connection.send("POST", PATH, body=BODY)
                await asyncio.sleep(0.1)
            for _ in range(20):
                steps.send(LINE)
            steps.send(LAST)
            for connection in (first, second):
                await connection.head()
                assert [await connection.chunk() for _ in range(20)] == [LINE] * 20
                assert [await connection.chunk() for _ in range(2)] == [LAST, b""]
            assert steps.asked == 1
    finally:
        cluster.close()
