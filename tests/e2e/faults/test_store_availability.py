"""A store that is away, slow, flaky or full: no request waits for nothing, and responses say what is true."""

from __future__ import annotations

import asyncio
import json
import signal
import statistics
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from ollama_cache_proxy.simulator import Simulator
from tests.e2e.faults.conftest import Measured
from tests.support import canary
from tests.support.rawhttp import RawAnswer, RawConnection, ask
from tests.support.relays import Delay, always, between, one_in, relay_before
from tests.support.servers import Proxy, RedisServer, proxy_before
from tests.support.tls import AUTHORITY, tls_before
from tests.support.waiting import undisturbed, until

GENERATE: dict[str, Any] = {"model": "tiny", "prompt": canary.PROMPT, "stream": False}
LOOKUPS = 'store_operation_seconds_count{operation="get"}'
row = pytest.mark.row


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server of the test's own, to be mistreated."""
    own = RedisServer()
    own.start()
    yield own
    own.close()


def body_of(prompt: str) -> bytes:
    return json.dumps(GENERATE | {"prompt": f"{canary.PROMPT} {prompt}"}).encode()


async def generate(proxy: Proxy, prompt: str) -> RawAnswer:
    return await ask(proxy.url, "POST", "/api/generate", body=body_of(prompt))


def cache_status(answer: RawAnswer) -> str:
    return answer.field("Cache-Status") or ""


def is_unavailable(answer: RawAnswer) -> bool:
    """Whether the response says that the store could not be used, and not that it is stored."""
    return cache_status(answer).endswith("detail=store-unavailable") and "stored" not in cache_status(answer)


async def json_of(proxy: Proxy, method: str, path: str) -> Any:
    return json.loads((await ask(proxy.url, method, path)).body)


async def metric(proxy: Proxy, name: str) -> float:
    """Return the sum of a metric's samples whose line begins so."""
    lines = (await ask(proxy.url, "GET", "/metrics")).body.decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"ollama_cache_proxy_{name}"))


def redis_url(port: int, scheme: str = "redis") -> str:
    return f"{scheme}://:{canary.PASSWORD}@127.0.0.1:{port}/0"


async def until_state(proxy: Proxy, state: str) -> dict[str, Any]:
    """Wait until `/readyz` says so of the store; return what it says."""
    async with asyncio.timeout(20):
        while (ready := await json_of(proxy, "GET", "/readyz"))["store"] != state:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return dict(ready)


class Known:
    """A client on a connection of its own that asks for what the fast path knows."""

    def __init__(self, connection: RawConnection) -> None:
        self._connection = connection

    async def ask(self, prompt: str) -> tuple[RawAnswer, float]:
        """Return the answer, and the seconds that it took."""
        begun = time.monotonic()
        self._connection.send("POST", "/api/generate", body=body_of(prompt))
        answer = await self._connection.answer()
        return answer, time.monotonic() - begun


@row(32)
async def test_no_request_waits_for_a_store_that_is_known_to_be_away(
    measured: Measured, server: RedisServer, simulator: Simulator
) -> None:
    """Five may find out at most, each once; then nobody, also not those whose request is known by its bytes."""
    async with (
        proxy_before(simulator.url, redis_url=server.url, hot_bytes=0) as proxy,
        await RawConnection.open(proxy.url) as connection,
    ):
        known = Known(connection)
        for _ in range(3):
            await known.ask("known")
            await proxy.kept()
        usual = statistics.median([(await known.ask(f"new {turn}"))[1] for turn in range(10)])
        server.signal(signal.SIGSTOP)
        try:
            found_out = [await known.ask("known") for _ in range(6)]
            slow = [seconds - usual for _, seconds in found_out if seconds - usual > 0.1]
            measured(3, "slow", len(slow))
            measured(3, "wait", max(slow, default=0.0))
            store: Any = proxy.running.store
            assert store._guard.reads.open
            lookups, begun = await metric(proxy, LOOKUPS), time.monotonic()
            while time.monotonic() - begun < 2.5:  # some probes, all of them late
                answer, _ = await known.ask("known")
                assert (answer.status, is_unavailable(answer)) == (200, True)
                await asyncio.sleep(0.02)
            measured(32, "waiting", await metric(proxy, LOOKUPS) - lookups)
        finally:
            server.signal(signal.SIGCONT)
        begun = time.monotonic()
        async with asyncio.timeout(20):
            while (await known.ask("known"))[0].field("X-Cache") != "HIT":  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        measured(4, "back", time.monotonic() - begun)


@row(33)
@pytest.mark.parametrize(
    ("delay", "tls"),
    [
        pytest.param(always(0.05), True, id="100 ms away, TLS"),
        pytest.param(always(0.08), False, id="160 ms away"),
        pytest.param(between(0.075, 0.15), False, id="150 to 300 ms a command"),
    ],
)
async def test_a_slow_store_is_used(
    delay: Delay, tls: bool, measured: Measured, server: RedisServer, simulator: Simulator
) -> None:
    async with AsyncExitStack() as stack:
        inner = await stack.enter_async_context(tls_before(server.url)) if tls else server.port
        port = await stack.enter_async_context(relay_before(inner, delay=delay))
        url, authority = redis_url(port, "rediss" if tls else "redis"), AUTHORITY if tls else None
        settings: dict[str, Any] = {"redis_url": url, "redis_ca": authority, "hot_bytes": 0}
        proxy = await stack.enter_async_context(proxy_before(simulator.url, **settings))
        await until_state(proxy, "ok")
        times: dict[str, list[float]] = {}

        async def ask_twice(turn: int) -> dict[str, list[RawAnswer]]:
            answers: dict[str, list[RawAnswer]] = {"MISS": [], "HIT": []}
            for expected, found in answers.items():
                times[expected] = []
                for number in range(2):
                    begun = time.monotonic()
                    found.append(await generate(proxy, f"{turn} {number}"))
                    times[expected].append(time.monotonic() - begun)
                await proxy.kept()
            return answers

        answers = await undisturbed(ask_twice)
        unavailable = sum(is_unavailable(answer) for found in answers.values() for answer in found)
        measured(33, "unavailable", unavailable)
        measured(33, "misses", sum(answer.field("X-Cache") != "HIT" for answer in answers["HIT"]))
        slower = statistics.median(times["HIT"]) - statistics.median(times["MISS"])
        measured(33, "slower", 1000 * max(0.0, slower))


@row(33)
async def test_a_long_list_is_looked_up_in_a_slow_store_too(
    measured: Measured, server: RedisServer, simulator: Simulator
) -> None:
    many = json.dumps({"model": "all-minilm", "input": [f"text {number}" for number in range(300)]}).encode()
    async with (
        relay_before(server.port, delay=always(0.08)) as port,
        proxy_before(simulator.url, redis_url=redis_url(port), hot_bytes=0) as proxy,
    ):
        await until_state(proxy, "ok")
        found = []
        for _ in range(3):  # the first one opens the connection that lists use
            found.append(await ask(proxy.url, "POST", "/api/embed", body=many))
            await proxy.kept()
        measured(33, "misses", int(found[-1].field("X-Cache") != "HIT"))


@row(33)
async def test_a_store_that_is_slower_than_the_deadline_is_away_and_costs_nobody_anything(
    measured: Measured, server: RedisServer, simulator: Simulator
) -> None:
    async with (
        relay_before(server.port, delay=always(0.08)) as port,
        proxy_before(simulator.url, redis_url=redis_url(port), hot_bytes=0, store_deadline=0.1) as proxy,
    ):
        lookups = await metric(proxy, LOOKUPS)
        answers = [await generate(proxy, f"{number}") for number in range(10)]
        assert all(map(is_unavailable, answers))
        measured(33, "unavailable", await metric(proxy, LOOKUPS) - lookups)


@row(34)
async def test_lost_connections_cost_no_error_and_hardly_any_time(
    measured: Measured, server: RedisServer, simulator: Simulator
) -> None:
    """Each 20th connection is reset as it is opened, and each 20th command takes its connection with it.

    Beside it a proxy whose store loses nothing is asked in turns, so that what else the machine does slows both.
    """
    async with AsyncExitStack() as stack:
        clients = []
        for lost in (bool, one_in(20)):
            port = await stack.enter_async_context(relay_before(server.port, lost=lost))
            settings: dict[str, Any] = {"redis_url": redis_url(port), "hot_bytes": 0}
            proxy = await stack.enter_async_context(proxy_before(simulator.url, **settings))
            await until_state(proxy, "ok")
            clients.append(Known(await stack.enter_async_context(await RawConnection.open(proxy.url))))
            for _ in range(3):
                await clients[-1].ask("known")
                await proxy.kept()

        async def ask_on(_turn: int) -> list[list[tuple[RawAnswer, float]]]:
            return [[await client.ask("known") for client in clients] for _ in range(1000)]

        found = await undisturbed(ask_on)
    measured(34, "errors", sum(answer.status != 200 for pair in found for answer, _ in pair))
    measured(34, "misses", sum(answer.field("X-Cache") != "HIT" for pair in found for answer, _ in pair))
    usual, lossy = (
        statistics.quantiles([seconds for _, seconds in one], n=100)[98] for one in zip(*found, strict=True)
    )
    measured(34, "p99", lossy / usual)


@pytest.fixture
def full() -> Iterator[RedisServer]:
    """A server that evicts nothing, with little memory."""
    own = RedisServer("--maxmemory", "3mb", "--maxmemory-policy", "noeviction")
    own.start()
    yield own
    own.close()


async def fill(proxy: Proxy) -> None:
    """Have lists stored until the server takes no more."""
    store: Any = proxy.running.store
    number = 0
    while store.writable:
        texts = [f"text {number + more}" for more in range(40)]
        number += len(texts)
        body = json.dumps({"model": "all-minilm", "input": texts}).encode()
        assert (await ask(proxy.url, "POST", "/api/embed", body=body)).status == 200
        await proxy.kept()


@row(35)
async def test_a_full_store_is_said_to_be_and_can_be_cleared(
    measured: Measured, full: RedisServer, simulator: Simulator
) -> None:
    uncleared = said = 0
    async with proxy_before(simulator.url, redis_url=full.url) as proxy:
        for turn in range(5):
            async with asyncio.timeout(20):
                while (await generate(proxy, "known")).field("X-Cache") != "HIT":
                    await proxy.kept()
            await fill(proxy)
            answers = [await generate(proxy, f"new {turn}") for _ in range(3)]
            said += sum(not is_unavailable(answer) for answer in answers)
            cleared = await ask(proxy.url, "POST", "/api/cache/clear")
            uncleared += cleared.status != 200 or not json.loads(cleared.body)["cleared"]
            uncleared += (await generate(proxy, "known")).field("X-Cache") != "MISS"
        measured(35, "uncleared", uncleared)
        measured(35, "said", said)


@row(35)
async def test_in_a_store_that_others_have_filled_nothing_cleared_comes_back(
    measured: Measured, full: RedisServer, simulator: Simulator
) -> None:
    """What is removed frees too little there, so that no new generation can be begun for now."""
    client = full.client()
    async with proxy_before(simulator.url, redis_url=full.url) as proxy:
        for number in range(3):
            await generate(proxy, f"known {number}")
        await proxy.kept()
        key = (await json_of(proxy, "GET", "/api/cache/entries"))["entries"][0]["key"]
        client.config_set("maxmemory", "1")
        await generate(proxy, "refused")
        await until(lambda: not proxy.running.store.writable)
        uncleared = (await ask(proxy.url, "DELETE", f"/api/cache/entries/{key}")).status != 200
        body = b'{"operation":"generate"}'
        purged = await ask(proxy.url, "POST", "/api/cache/clear", body=body)
        uncleared += (purged.status, json.loads(purged.body)) != (200, {"cleared": 2})
        for _ in range(3):
            uncleared += (await ask(proxy.url, "POST", "/api/cache/clear")).status != 200
        answers = [await generate(proxy, f"known {number}") for number in (0, 1, 2, 0, 1, 2)]
        uncleared += sum(answer.field("X-Cache") != "MISS" for answer in answers)
        measured(35, "uncleared", uncleared)
        measured(35, "said", sum(not is_unavailable(answer) for answer in answers))
        client.config_set("maxmemory", "0")
        await until_hit(proxy, "afterwards")


async def until_hit(proxy: Proxy, prompt: str) -> None:
    async with asyncio.timeout(20):
        while (await generate(proxy, prompt)).field("X-Cache") != "HIT":
            await proxy.kept()
            await asyncio.sleep(0.02)


@row(36)
@pytest.mark.parametrize("how", ["READONLY", "NOPERM"])
async def test_a_store_that_takes_no_writes_serves_hits_and_is_never_said_to_store(
    how: str, measured: Measured, server: RedisServer, simulator: Simulator
) -> None:
    refuse, accept = {
        "READONLY": (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
        "NOPERM": (("ACL", "SETUSER", "default", "-@write"), ("ACL", "SETUSER", "default", "+@write")),
    }[how]
    client = server.client()
    async with proxy_before(simulator.url, redis_url=server.url) as proxy:
        await until_hit(proxy, "known")
        assert await json_of(proxy, "GET", "/readyz") == {"status": "ok", "upstream": "ok", "store": "ok"}
        client.execute_command(*refuse)
        first = await generate(proxy, "first")
        assert "stored" in cache_status(first), "its own write is the first to be refused"
        await proxy.kept()
        assert await metric(proxy, 'unkept_total{detail="store-unavailable"') == 1
        answers = [await generate(proxy, prompt) for prompt in ("first", "second", "second")]
        measured(36, "said", sum(not is_unavailable(answer) for answer in answers))
        measured(36, "misses", int((await generate(proxy, "known")).field("X-Cache") != "HIT"))
        ready = await json_of(proxy, "GET", "/readyz")
        error = {"READONLY": "ReadOnlyError", "NOPERM": "NoPermissionError"}[how]
        assert ready == {"status": "degraded", "upstream": "ok", "store": "read-only", "storeReason": error}
        assert (await ask(proxy.url, "GET", "/readyz?require=store")).status == 503
        assert await metric(proxy, "store_writes_up") == 0
        assert await metric(proxy, 'store_breaker_open{breaker="write"}') == 1
        client.execute_command(*accept)
        await until_state(proxy, "ok")
        await until_hit(proxy, "second")
        assert await metric(proxy, "store_writes_up") == 1


async def test_readyz_asks_the_store_nothing(server: RedisServer, simulator: Simulator) -> None:
    client = server.client()
    async with proxy_before(simulator.url, redis_url=server.url) as proxy:
        await until_hit(proxy, "known")
        before = client.info("stats")["total_commands_processed"]
        for _ in range(50):
            assert (await json_of(proxy, "GET", "/readyz"))["store"] == "ok"
        assert client.info("stats")["total_commands_processed"] - before < 25, "a probe or two, and this"
