"""A fault of the store is a miss and never an error: a real server that is killed, stopped, full, or holds rubbish."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from proxy.adapters import redis_store
from proxy.simulator import Simulator
from tests.support.rawhttp import RawAnswer, RawConnection, ask
from tests.support.servers import Proxy, RedisServer, proxy_before
from tests.support.waiting import until

GENERATE: dict[str, Any] = {"model": "tiny", "prompt": "why", "stream": False}


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server of the test's own, to be mistreated."""
    own = RedisServer()
    own.start()
    yield own
    own.close()


async def generate(proxy: Proxy, prompt: str = "why") -> RawAnswer:
    return await ask(proxy.url, "POST", "/api/generate", body=json.dumps(GENERATE | {"prompt": prompt}).encode())


async def test_killed_under_load_costs_no_client_an_error(server: RedisServer, simulator: Simulator) -> None:
    """20 clients, 1,000 requests, half of them hits; the server goes after 300 and comes back after 700."""
    statuses: list[int] = []

    async with proxy_before(simulator.url, redis_url=server.url) as proxy:
        for number in range(10):
            await generate(proxy, f"known {number}")

        async def client(name: int) -> None:
            async with await RawConnection.open(proxy.url) as connection:
                for number in range(50):
                    prompt = f"known {number % 10}" if number % 2 else f"new {name} {number}"
                    connection.send("POST", "/api/generate", body=json.dumps(GENERATE | {"prompt": prompt}).encode())
                    statuses.append((await connection.answer()).status)

        clients = [asyncio.create_task(client(name)) for name in range(20)]
        await until(lambda: len(statuses) > 300)
        server.kill()
        await until(lambda: len(statuses) > 700)
        server.start()
        await asyncio.gather(*clients)
        assert statuses == [200] * 1000
        await until_hit(proxy, "afterwards")
        assert proxy.log.getvalue().count("Lost Redis") < 5, "one line a change, not one a request"


async def until_hit(proxy: Proxy, prompt: str) -> None:
    """The breaker lets one probe a second through."""
    async with asyncio.timeout(10):
        while (await generate(proxy, prompt)).field("X-Cache") != "HIT":  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_a_server_that_was_never_there_is_a_miss(simulator: Simulator) -> None:
    async with proxy_before(simulator.url, redis_url="redis://:canary-password@127.0.0.1:1/0") as proxy:
        for _ in range(10):
            answer = await generate(proxy)
            assert (answer.status, answer.field("X-Cache")) == (200, "MISS")
            assert (answer.field("Cache-Status") or "").endswith("detail=store-unavailable")
        stats = json.loads((await ask(proxy.url, "GET", "/api/cache/stats")).body)
        assert (stats["keys"], stats["store"]["state"]) == (0, "degraded")
        assert (await ask(proxy.url, "POST", "/api/cache/clear")).status == 503
        ready = await ask(proxy.url, "GET", "/readyz")
        assert (ready.status, json.loads(ready.body)["status"]) == (200, "degraded")
        assert (await ask(proxy.url, "GET", "/readyz?require=store")).status == 503
        assert b"ollama_cache_proxy_store_up 0.0" in (await ask(proxy.url, "GET", "/metrics")).body
        assert "canary" not in proxy.log.getvalue() + str(stats)


async def test_stopped_then_continued(server: RedisServer, simulator: Simulator) -> None:
    async with proxy_before(simulator.url, redis_url=server.url) as proxy:
        await generate(proxy)
        server.signal(signal.SIGSTOP)
        try:
            for _ in range(10):
                answer = await asyncio.wait_for(generate(proxy), 5)
                assert (answer.status, answer.field("X-Cache")) == (200, "MISS")
        finally:
            server.signal(signal.SIGCONT)
        await until_hit(proxy, "why")


async def test_full_and_not_evicting(simulator: Simulator) -> None:
    own = RedisServer("--maxmemory", "2mb", "--maxmemory-policy", "noeviction")
    own.start()
    try:
        async with proxy_before(simulator.url, redis_url=own.url) as proxy:
            await generate(proxy)
            own.client().config_set("maxmemory", "1")
            for number in range(8):
                assert (await generate(proxy, f"other {number}")).status == 200
            assert (await generate(proxy)).field("X-Cache") == "HIT"
            assert "Lost Redis for writing: OutOfMemoryError" in proxy.log.getvalue()
    finally:
        own.close()


async def test_emptied_by_someone_else(server: RedisServer, simulator: Simulator) -> None:
    async with proxy_before(simulator.url, redis_url=server.url) as proxy:
        await generate(proxy)
        server.client().flushall()
        assert (await generate(proxy)).field("X-Cache") == "MISS"
        assert (await generate(proxy)).field("X-Cache") == "HIT"


@pytest.mark.parametrize(
    "damage",
    [
        lambda value: value[:-1],
        lambda value: value[:60] + bytes([value[60] ^ 1]) + value[61:],
        lambda value: value[:-1] + bytes([value[-1] ^ 1]),
        lambda _: b"",
        lambda _: b"OCP0" + b"x" * 100,
        lambda _: b"x" * 1_000_000,
    ],
    ids=["short", "head", "tail", "empty", "version", "large"],
)
async def test_a_damaged_entry_is_a_miss_and_replaced(damage: Any, server: RedisServer, simulator: Simulator) -> None:
    async with proxy_before(simulator.url, redis_url=server.url) as proxy:
        first = await generate(proxy)
        client = server.client()
        (name,) = client.keys("ocp:1:e:*")
        client.set(name, damage(client.get(name)))
        again = await generate(proxy)
        assert (again.status, again.field("X-Cache")) == (200, "MISS")
        assert (await generate(proxy)).body == again.body
        assert len(first.body) > 100


async def test_an_entry_under_anothers_name_is_no_answer(server: RedisServer, simulator: Simulator) -> None:
    async with proxy_before(simulator.url, redis_url=server.url) as proxy:
        await generate(proxy, "one")
        (one,) = server.client().keys("ocp:1:e:*")
        await generate(proxy, "other")
        (other,) = set(server.client().keys("ocp:1:e:*")) - {one}
        server.client().copy(one, other, replace=True)
        assert (await generate(proxy, "other")).field("X-Cache") == "MISS"


async def test_a_key_of_a_foreign_type_is_a_miss(server: RedisServer, simulator: Simulator) -> None:
    async with proxy_before(simulator.url, redis_url=server.url) as proxy:
        await generate(proxy)
        (name,) = server.client().keys("ocp:1:e:*")
        server.client().delete(name)
        server.client().rpush(name, "x")
        assert (await generate(proxy)).field("X-Cache") == "MISS"
        assert (await generate(proxy)).field("X-Cache") == "HIT"


async def test_names_of_others_in_the_database_are_not_counted(redis_server: RedisServer, simulator: Simulator) -> None:
    redis_server.client().mset({f"other {number}": "x" for number in range(20_000)})
    async with proxy_before(simulator.url, redis_url=redis_server.url) as proxy:
        await generate(proxy)
        stats = json.loads((await ask(proxy.url, "GET", "/api/cache/stats")).body)
        assert (stats["keys"], "keysAge" in stats) == (1, False)


async def test_counts_beyond_what_is_counted_at_once_say_their_age(
    monkeypatch: pytest.MonkeyPatch, redis_server: RedisServer, simulator: Simulator
) -> None:
    monkeypatch.setattr(redis_store, "_EXACT_UP_TO", 2)
    monkeypatch.setattr(redis_store, "_SCAN", 1)
    monkeypatch.setattr(redis_store, "_RECOUNT", 0.0)
    async with proxy_before(simulator.url, redis_url=redis_server.url) as proxy:
        for number in range(20):
            await generate(proxy, str(number))
        async with asyncio.timeout(10):
            stats: dict[str, Any] = {"keys": 0}
            while stats["keys"] != 20:
                stats = json.loads((await ask(proxy.url, "GET", "/api/cache/stats")).body)
        assert 0 <= stats["keysAge"] <= 30
