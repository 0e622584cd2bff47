"""A fault of the store is a miss and never an error: a real server that is killed, stopped, full, or holds rubbish."""

from __future__ import annotations

import asyncio
import json
import signal
import statistics
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from ollama_cache_proxy.simulator import Simulator
from ollama_cache_proxy.stores.redis import entry_count, scan
from tests.e2e.faults.conftest import Measured
from tests.support import canary
from tests.support.rawhttp import RawAnswer, RawConnection, ask
from tests.support.servers import Proxy, RedisServer, proxy_before
from tests.support.waiting import until

GENERATE: dict[str, Any] = {"model": "tiny", "prompt": canary.PROMPT, "stream": False}
NOWHERE = f"redis://:{canary.PASSWORD}@127.0.0.1:1/0"
CHAT = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": canary.PROMPT}]}).encode()
row = pytest.mark.row


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server of the test's own, to be mistreated."""
    own = RedisServer()
    own.start()
    yield own
    own.close()


async def generate(proxy: Proxy, prompt: str = canary.PROMPT) -> RawAnswer:
    return await ask(proxy.url, "POST", "/api/generate", body=json.dumps(GENERATE | {"prompt": prompt}).encode())


async def timed(proxy: Proxy, prompt: str = canary.PROMPT) -> float:
    """Ask for what has to be a miss; give the seconds that it took."""
    begun = time.monotonic()
    answer = await generate(proxy, prompt)
    assert (answer.status, answer.field("X-Cache")) == (200, "MISS")
    return time.monotonic() - begun


async def added(proxy: Proxy, simulator: Simulator, rounds: int) -> float:
    """Give the seconds that a miss takes longer than with a store that cannot fail, by the medians of turns."""
    async with proxy_before(simulator.url) as plain:
        times = [
            (await timed(proxy, f"{canary.PROMPT} {turn}"), await timed(plain, f"{canary.PROMPT} {turn}"))
            for turn in range(rounds)
        ]
    slow, fast = zip(*times, strict=True)
    return max(0.0, statistics.median(slow) - statistics.median(fast))


@row(1)
async def test_a_server_that_refuses_adds_next_to_nothing(measured: Measured, simulator: Simulator) -> None:
    async with proxy_before(simulator.url, redis_url=NOWHERE) as proxy:
        measured(1, "added", 1000 * await added(proxy, simulator, 100))
        assert (await ask(proxy.url, "POST", "/api/chat", body=CHAT)).status == 200


@row(2)
async def test_killed_under_load_costs_no_client_an_error(
    measured: Measured, server: RedisServer, simulator: Simulator
) -> None:
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
        measured(2, "errors", len(statuses) - statuses.count(200))
        assert len(statuses) == 1000
        await until_hit(proxy, "afterwards")
        assert proxy.log.getvalue().count("Lost Redis") < 5, "one line a change, not one a request"


async def until_hit(proxy: Proxy, prompt: str) -> None:
    """The breaker lets one probe a second through."""
    async with asyncio.timeout(10):
        while (await generate(proxy, prompt)).field("X-Cache") != "HIT":  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_a_server_that_was_never_there_is_a_miss(simulator: Simulator) -> None:
    async with proxy_before(simulator.url, redis_url=NOWHERE) as proxy:
        for _ in range(10):
            answer = await generate(proxy)
            assert (answer.status, answer.field("X-Cache")) == (200, "MISS")
            assert (answer.field("Cache-Status") or "").endswith("detail=store-unavailable")
        stats = json.loads((await ask(proxy.url, "GET", "/api/cache/stats")).body)
        assert (stats["keys"], stats["store"]["state"]) == (None, "degraded")
        assert (await ask(proxy.url, "POST", "/api/cache/clear")).status == 503
        ready = await ask(proxy.url, "GET", "/readyz")
        assert (ready.status, json.loads(ready.body)["status"]) == (200, "degraded")
        assert (await ask(proxy.url, "GET", "/readyz?require=store")).status == 503
        assert b"ollama_cache_proxy_store_up 0.0" in (await ask(proxy.url, "GET", "/metrics")).body


@row(3, 4)
async def test_stopped_then_continued(measured: Measured, server: RedisServer, simulator: Simulator) -> None:
    async with proxy_before(simulator.url, redis_url=server.url) as proxy:
        await generate(proxy)
        usual = statistics.median([await timed(proxy, str(turn)) for turn in range(20)])
        server.signal(signal.SIGSTOP)
        try:
            times = [await timed(proxy) - usual for _ in range(30)]
        finally:
            server.signal(signal.SIGCONT)
        measured(3, "slow", sum(seconds > 0.1 for seconds in times))
        measured(3, "wait", max(times))
        begun = time.monotonic()
        await until_hit(proxy, canary.PROMPT)
        measured(4, "back", time.monotonic() - begun)


@row(3)
async def test_of_many_who_ask_at_once_a_stopped_server_holds_up_those_and_nobody_after_them(
    measured: Measured, server: RedisServer, simulator: Simulator
) -> None:
    """They share a lookup, and each of them has failed: five are enough for the breaker."""
    async with proxy_before(simulator.url, redis_url=server.url, hot_bytes=0) as proxy:
        store: Any = proxy.running.store
        await store.get("a" * 64)
        server.signal(signal.SIGSTOP)
        try:
            found = await asyncio.gather(*(store.get(f"{number:064x}") for number in range(10)))
            assert {lookup.generation for lookup in found} == {None}
            begun = time.monotonic()
            await store.get("b" * 64)
            measured(3, "wait", time.monotonic() - begun)
            assert store._guard.reads.open
        finally:
            server.signal(signal.SIGCONT)


@row(5)
async def test_while_it_loads_what_it_had_a_miss_takes_hardly_longer(
    measured: Measured, server: RedisServer, simulator: Simulator
) -> None:
    """It says LOADING to every command, and would for a minute."""
    client = server.client()
    client.mset({f"other {number}": "x" for number in range(20_000)})
    client.save()
    server.kill()
    server.arguments += ["--key-load-delay", "3000", "--loading-process-events-interval-bytes", "1024"]
    server.start(wait=False)
    await until(lambda: _is_loading(server))
    async with proxy_before(simulator.url, redis_url=server.url) as proxy:
        measured(5, "added", await added(proxy, simulator, 20))
        assert _is_loading(server)


def _is_loading(server: RedisServer) -> bool:
    try:
        server.client().ping()
    except redis.exceptions.BusyLoadingError:
        return True
    except redis.ConnectionError:
        return False
    return False


@row(6)
async def test_a_replica_that_may_not_be_written_to(
    measured: Measured, server: RedisServer, simulator: Simulator
) -> None:
    replica = RedisServer("--replicaof", f"127.0.0.1 {server.port}", "--masterauth", canary.PASSWORD)
    replica.start()
    try:
        async with proxy_before(simulator.url, redis_url=server.url) as writer:
            await generate(writer)
            await until(lambda: replica.client().keys("ocp:1:e:*"))
        async with proxy_before(simulator.url, redis_url=replica.url) as proxy:
            answers = []
            for prompt in (canary.PROMPT, "other", "other"):
                answers.append(await generate(proxy, prompt))
                await proxy.kept()  # else the next one would join what is still being kept
            measured(6, "errors", sum(answer.status != 200 for answer in answers))
            assert [answer.field("X-Cache") for answer in answers] == ["HIT", "MISS", "MISS"]
            assert "Lost Redis for writing: ReadOnlyError" in proxy.log.getvalue()
    finally:
        replica.close()


@row(6)
async def test_full_and_not_evicting(measured: Measured, simulator: Simulator) -> None:
    own = RedisServer("--maxmemory", "2mb", "--maxmemory-policy", "noeviction")
    own.start()
    try:
        async with proxy_before(simulator.url, redis_url=own.url) as proxy:
            await generate(proxy)
            await proxy.kept()
            own.client().config_set("maxmemory", "1")
            answers = [await generate(proxy, f"other {number}") for number in range(8)]
            measured(6, "errors", sum(answer.status != 200 for answer in answers))
            assert (await generate(proxy)).field("X-Cache") == "HIT"
            assert "Lost Redis for writing: OutOfMemoryError" in proxy.log.getvalue()
    finally:
        own.close()


@row(7)
async def test_a_wrong_password_is_said_once(measured: Measured, server: RedisServer, simulator: Simulator) -> None:
    wrong = f"redis://:another-{canary.PASSWORD}@127.0.0.1:{server.port}/0"
    async with proxy_before(simulator.url, redis_url=wrong) as proxy:
        ends = time.monotonic() + 3  # the breaker lets three probes through
        while time.monotonic() < ends:
            await timed(proxy)
        measured(7, "lines", proxy.log.getvalue().count("Lost Redis"))
        assert "Lost Redis: " in proxy.log.getvalue()


@row(8)
async def test_paused_or_without_room_for_clients(
    measured: Measured, server: RedisServer, simulator: Simulator
) -> None:
    async with proxy_before(simulator.url, redis_url=server.url) as proxy:
        await generate(proxy)
        usual = statistics.median([await timed(proxy, str(turn)) for turn in range(20)])
        server.client().client_pause(2000)
        times = [await timed(proxy, f"paused {turn}") - usual for turn in range(20)]
        await until_hit(proxy, canary.PROMPT)
    taking = server.client()
    taking.config_set("maxclients", 1)
    assert taking.ping(), "it has the only place"
    async with proxy_before(simulator.url, redis_url=server.url) as proxy:
        times += [await timed(proxy, f"full {turn}") - usual for turn in range(20)]
        assert "Lost Redis: " in proxy.log.getvalue()
    taking.close()
    measured(8, "wait", max(times))


@row(9)
async def test_emptied_or_restarted_costs_one_miss(
    measured: Measured, server: RedisServer, simulator: Simulator
) -> None:
    async with proxy_before(simulator.url, redis_url=server.url) as proxy:
        answers = [await generate(proxy)]
        server.client().flushall()
        answers += [await generate(proxy), await generate(proxy)]
        server.kill()
        server.start()
        answers += [await generate(proxy), await generate(proxy)]
        measured(9, "errors", sum(answer.status != 200 for answer in answers))
        assert [answer.field("X-Cache") for answer in answers] == ["MISS", "MISS", "HIT", "MISS", "HIT"]


async def test_names_of_others_in_the_database_are_not_counted(redis_server: RedisServer, simulator: Simulator) -> None:
    redis_server.client().mset({f"other {number}": "x" for number in range(20_000)})
    async with proxy_before(simulator.url, redis_url=redis_server.url) as proxy:
        await generate(proxy)
        stats = json.loads((await ask(proxy.url, "GET", "/api/cache/stats")).body)
        assert (stats["keys"], "keysAge" in stats) == (1, False)


async def test_counts_beyond_what_is_counted_at_once_say_their_age(
    monkeypatch: pytest.MonkeyPatch, redis_server: RedisServer, simulator: Simulator
) -> None:
    monkeypatch.setattr(entry_count, "_EXACT_UP_TO", 2)
    monkeypatch.setattr(scan, "_NAMES", 1)
    monkeypatch.setattr(entry_count, "_RECOUNT", 0.0)
    async with proxy_before(simulator.url, redis_url=redis_server.url) as proxy:
        for number in range(20):
            await generate(proxy, str(number))
        async with asyncio.timeout(10):
            stats: dict[str, Any] = {"keys": 0}
            while stats["keys"] != 20:
                stats = json.loads((await ask(proxy.url, "GET", "/api/cache/stats")).body)
        assert 0 <= stats["keysAge"] <= 30
