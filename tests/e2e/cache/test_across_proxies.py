"""One flight for all proxies: what of several with one Redis equal requests at the same time get, and what they ask."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ollama_cache_proxy.service.seal_key_file import make_key
from ollama_cache_proxy.simulator import Simulator
from ollama_cache_proxy.stores.redis.commands import COMMANDS
from ollama_cache_proxy.stores.redis.shared_flights import RedisFlights
from tests.support import canary
from tests.support.clusters import Cluster
from tests.support.company import acquainted, looking_often
from tests.support.rawhttp import RawAnswer, ask
from tests.support.servers import Proxy, RedisServer, proxy_before
from tests.support.stores import permit
from tests.support.upstream import Conversation, byte_upstream, whole
from tests.support.waiting import until

GENERATE = {"model": "tiny", "prompt": canary.PROMPT, "stream": False}
EMBED = {"model": "all-minilm", "input": ["one", "two"]}
DONE = b'{"model":"tiny","response":"x","done":true,"done_reason":"stop"}'
CLIENTS = 5
"""Clients of each proxy, where their number does not matter."""


@asynccontextmanager
async def proxies(
    count: int, upstream: str, server: RedisServer | Cluster, **settings: Any
) -> AsyncIterator[list[Proxy]]:
    """Run some proxies with one store, which have the patience of a busy machine, until they know of each other."""
    settings.setdefault("store_deadline", 5)
    async with AsyncExitStack() as stack:
        async with looking_often():
            running = [
                await stack.enter_async_context(proxy_before(upstream, redis_url=server.url, **settings))
                for _ in range(count)
            ]
            await acquainted(running)
        yield running


def asking(proxy: Proxy, count: int = 1, body: Any = GENERATE, path: str = "/api/generate", **fields: str) -> Tasks:
    """Have some clients of a proxy ask for the same, and do not wait for the answers."""
    sent = json.dumps(body).encode()
    return [
        asyncio.create_task(
            ask(proxy.url, "POST", path, body=sent, fields={"Content-Type": "application/json", **fields})
        )
        for _ in range(count)
    ]


Tasks = list[asyncio.Task[RawAnswer]]


async def answers(tasks: Sequence[asyncio.Task[RawAnswer]]) -> list[RawAnswer]:
    async with asyncio.timeout(60):
        return [await task for task in tasks]


async def wait_for(proxies: Sequence[Proxy], clients: int) -> None:
    """Wait until so many clients of each proxy wait."""
    await until(lambda: all(proxy.running.exchanges.waiting == clients for proxy in proxies), 30)


async def followed_in(server: RedisServer, proxies: int = 1) -> None:
    """Wait until so many proxies are subscribed to the end of another's flight."""
    client: Any = server.client()

    def followers() -> int:
        channels = client.pubsub_channels("ocp:1:f:*")
        return sum(count for _, count in client.pubsub_numsub(*channels)) if channels else 0

    await until(lambda: followers() == proxies, 5)


def how(found: Sequence[RawAnswer]) -> Counter[str]:
    """How the answers were served: the member of Cache-Status, without how long they are fresh."""
    return Counter(
        "collapsed" if "collapsed" in (answer.field("Cache-Status") or "") else answer.field("X-Cache") or ""
        for answer in found
    )


@pytest.mark.parametrize("settings", [{}, {"hot_bytes": 0}], ids=["hot tier", "no hot tier"])
async def test_equal_requests_at_four_proxies_are_one_to_ollama(
    settings: dict[str, Any], simulator: Simulator, redis_server: RedisServer
) -> None:
    async with proxies(4, simulator.url, redis_server, **settings) as running:
        simulator.gate.close()
        tasks = [task for proxy in running for task in asking(proxy, 50)]
        await wait_for(running, 50)
        simulator.gate.open()
        found = await answers(tasks)
        assert {answer.status for answer in found} == {200}
        assert len({answer.body for answer in found}) == 1
        assert simulator.inferences == 1
        assert how(found) == {"MISS": 1, "collapsed": 199}
        counted = [json.loads((await ask(proxy.url, "GET", "/api/cache/stats")).body) for proxy in running]
        assert sum(stats["collapsed"] for stats in counted) >= 199
        assert how(await answers([task for proxy in running for task in asking(proxy)])) == {"HIT": 4}


async def test_what_a_follower_gets_is_what_the_leader_got(simulator: Simulator, redis_server: RedisServer) -> None:
    async with proxies(2, simulator.url, redis_server) as (one, other):
        simulator.gate.close()
        first = asking(one)
        await until(lambda: simulator.inferences == 1)
        second = asking(other)
        await followed_in(redis_server)
        simulator.gate.open()
        (led,), (followed,) = await answers(first), await answers(second)
        assert followed.field("Cache-Status") == "ollama-cache-proxy; fwd=miss; collapsed"
        assert (followed.body, followed.field("Content-Type")) == (led.body, led.field("Content-Type"))
        assert followed.field("Age") == "0"
        assert len([name for name, _ in followed.fields if name.lower() == "content-length"]) == 1


async def test_who_looks_just_before_the_response_is_stored_looks_again(
    simulator: Simulator, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lookup finds nothing, and by the time at which it asks for the lease nobody holds it any more."""
    begin, looked = RedisFlights.begin, asyncio.Semaphore(0)
    stored = asyncio.Event()

    async def late(flights: RedisFlights, name: str, *, streamed: bool = False) -> Any:
        if not looked.locked():
            await stored.wait()
        looked.release()
        return await begin(flights, name, streamed=streamed)

    monkeypatch.setattr(RedisFlights, "begin", late)
    async with proxies(2, simulator.url, redis_server) as (one, other):
        simulator.gate.close()
        first = asking(one)
        await until(lambda: simulator.inferences == 1)
        second = asking(other)
        await wait_for((other,), 1)
        await asyncio.sleep(0.2)
        simulator.gate.open()
        await answers(first)
        await one.kept()
        client: Any = redis_server.client()
        (lease,) = client.keys("ocp:1:f:*")
        await until(lambda: (client.get(lease) or b"").endswith(b" stored"))
        stored.set()
        assert how([*await answers(first), *await answers(second)]) == {"MISS": 1, "collapsed": 1}


async def test_lists_are_one_request_too(simulator: Simulator, redis_server: RedisServer) -> None:
    async with proxies(3, simulator.url, redis_server) as running:
        simulator.gate.close()
        tasks = [task for proxy in running for task in asking(proxy, CLIENTS, EMBED, "/api/embed")]
        await wait_for(running, CLIENTS)
        simulator.gate.open()
        found = await answers(tasks)
        assert len({json.dumps(json.loads(answer.body)["embeddings"]) for answer in found}) == 1
        assert simulator.inferences == 1


async def test_a_cluster_is_one_store_for_flights_too(simulator: Simulator) -> None:
    cluster = Cluster(replicas=False).start()
    try:
        async with AsyncExitStack() as stack:
            running = await stack.enter_async_context(proxies(3, simulator.url, cluster))
            stores: list[Any] = [proxy.running.store for proxy in running]
            await until(lambda: all(store.writable for store in stores))
            for prompt in ("one", "two", "three", "four"):
                simulator.gate.close()
                before, body = simulator.inferences, {**GENERATE, "prompt": prompt}
                tasks = [task for proxy in running for task in asking(proxy, CLIENTS, body)]
                await wait_for(running, CLIENTS)
                simulator.gate.open()
                assert how(await answers(tasks)) == {"MISS": 1, "collapsed": 3 * CLIENTS - 1}
                assert simulator.inferences == before + 1
            await purged(running[0])
            assert how(await answers([task for proxy in running for task in asking(proxy)]))["HIT"] < 3
    finally:
        cluster.close()


async def test_the_switch_turns_it_off(simulator: Simulator, redis_server: RedisServer) -> None:
    async with proxies(3, simulator.url, redis_server, collapse_across_proxies=False) as running:
        simulator.gate.close()
        tasks = [task for proxy in running for task in asking(proxy, CLIENTS)]
        await until(lambda: simulator.inferences == 3)
        assert not redis_server.client().keys("ocp:1:f:*")
        simulator.gate.open()
        assert how(await answers(tasks)) == {"MISS": 3, "collapsed": 3 * (CLIENTS - 1)}


async def test_the_time_of_a_wait_in_vain_is_none_of_ollama_s(simulator: Simulator, redis_server: RedisServer) -> None:
    """Whoever holds the lease loses it; the other one notices that after longer than Ollama may take, and asks."""
    short = proxy_before(simulator.url, redis_url=redis_server.url, upstream_timeout=0.5)
    async with looking_often(), proxy_before(simulator.url, redis_url=redis_server.url) as one, short as other:
        await acquainted((one, other))
        simulator.gate.close()
        first = asking(one)
        await until(lambda: simulator.inferences == 1)
        second = asking(other)
        await followed_in(redis_server)
        client: Any = redis_server.client()
        (lease,) = client.keys("ocp:1:f:*")

        def is_asked_again() -> bool:
            client.delete(lease)  # which its holder renews
            return simulator.inferences == 2

        await asyncio.sleep(1.0)
        await until(is_asked_again)
        simulator.gate.open()
        found = await answers([*first, *second])
        assert ([answer.status for answer in found], how(found)) == ([200, 200], {"MISS": 2})


async def test_no_cache_neither_follows_nor_leads(simulator: Simulator, redis_server: RedisServer) -> None:
    async with proxies(2, simulator.url, redis_server) as (one, other):
        simulator.gate.close()
        tasks = asking(one)
        await until(lambda: simulator.inferences == 1)
        tasks += asking(other, **{"Cache-Control": "no-cache"})
        await until(lambda: simulator.inferences == 2)
        simulator.gate.open()
        assert how(await answers(tasks)) == {"MISS": 2}


async def test_what_was_asked_before_a_clear_is_not_waited_for(simulator: Simulator, redis_server: RedisServer) -> None:
    async with proxies(2, simulator.url, redis_server) as (one, other):
        simulator.gate.close()
        tasks = asking(one)
        await until(lambda: simulator.inferences == 1)
        assert (await ask(other.url, "POST", "/api/cache/clear")).status == 200
        tasks += asking(other)
        await until(lambda: simulator.inferences == 2)
        simulator.gate.open()
        assert how(await answers(tasks)) == {"MISS": 2}


async def test_who_waits_over_a_clear_asks(simulator: Simulator, redis_server: RedisServer) -> None:
    async with proxies(2, simulator.url, redis_server) as (one, other):
        simulator.gate.close()
        tasks = asking(one)
        await until(lambda: simulator.inferences == 1)
        tasks += asking(other)
        await followed_in(redis_server)
        assert (await ask(one.url, "POST", "/api/cache/clear")).status == 200
        simulator.gate.open()
        assert how(await answers(tasks)) == {"MISS": 2}
        assert simulator.inferences == 2


async def purged(proxy: Proxy) -> None:
    body = json.dumps({"model": "tiny"}).encode()
    assert (await ask(proxy.url, "POST", "/api/cache/clear", body=body)).status == 200


async def test_what_was_asked_before_a_purge_elsewhere_is_not_waited_for(
    simulator: Simulator, redis_server: RedisServer
) -> None:
    async with proxies(2, simulator.url, redis_server) as (one, other):
        simulator.gate.close()
        tasks = asking(one)
        await until(lambda: simulator.inferences == 1)
        await purged(other)
        tasks += asking(other)
        await until(lambda: simulator.inferences == 2)
        simulator.gate.open()
        assert how(await answers(tasks)) == {"MISS": 2}


async def test_what_was_asked_before_a_purge_elsewhere_is_not_kept(
    simulator: Simulator, redis_server: RedisServer
) -> None:
    async with proxies(2, simulator.url, redis_server) as (one, other):
        simulator.gate.close()
        tasks = asking(one)
        await until(lambda: simulator.inferences == 1)
        await purged(other)
        simulator.gate.open()
        await answers(tasks)
        await one.kept()
        await until(lambda: not redis_server.client().keys("ocp:1:e:*"))
        assert how(await answers(asking(other))) == {"MISS": 1}


async def test_who_waits_over_a_purge_asks(simulator: Simulator, redis_server: RedisServer) -> None:
    async with proxies(3, simulator.url, redis_server) as (one, other, third):
        simulator.gate.close()
        tasks = asking(one)
        await until(lambda: simulator.inferences == 1)
        tasks += asking(other)
        await followed_in(redis_server)
        await purged(third)
        simulator.gate.open()
        assert how(await answers(tasks)) == {"MISS": 2}


async def test_after_a_purge_flights_are_shared_again(simulator: Simulator, redis_server: RedisServer) -> None:
    async with proxies(2, simulator.url, redis_server) as (one, other):
        await purged(one)
        simulator.gate.close()
        tasks = asking(other)
        await until(lambda: simulator.inferences == 1)
        tasks += asking(one)
        await followed_in(redis_server)
        simulator.gate.open()
        assert how(await answers(tasks)) == {"MISS": 1, "collapsed": 1}


class Failing:
    """An upstream that gives these answers in turn, the last one again and again, each when the test lets it."""

    def __init__(self, *given: bytes) -> None:
        self.asked = 0
        self.steps = asyncio.Semaphore(0)
        self._given = given

    async def __call__(self, talk: Conversation) -> None:
        self.asked += 1
        answer = self._given[min(self.asked, len(self._given)) - 1]
        await talk.read_body()
        await self.steps.acquire()
        await talk.write(answer)
        if not answer.endswith(b"}"):
            raise ConnectionResetError


FAILED = whole(b'{"error":"x"}', status="500 Internal Server Error")
BROKEN = whole(DONE)[:-5]


@pytest.mark.parametrize("failure", [FAILED, BROKEN], ids=["500", "reset"])
async def test_a_failed_flight_sets_off_one_more(failure: bytes, redis_server: RedisServer) -> None:
    failing = Failing(failure, whole(DONE))
    async with byte_upstream(failing) as upstream, proxies(3, upstream.url, redis_server) as running:
        tasks = [task for proxy in running for task in asking(proxy, CLIENTS)]
        await wait_for(running, CLIENTS)
        await followed_in(redis_server, 2)
        failing.steps.release()
        await until(lambda: failing.asked == 2)
        await asyncio.sleep(0.2)
        assert failing.asked == 2, "one at a time"
        failing.steps.release()
        found = await answers(tasks)
        assert Counter(answer.status for answer in found)[200] == 3 * CLIENTS - 1
        assert failing.asked == 2


async def test_the_failure_of_the_last_is_told_by_ollama_itself(redis_server: RedisServer) -> None:
    failing = Failing(FAILED)
    async with byte_upstream(failing) as upstream, proxies(3, upstream.url, redis_server) as running:
        tasks = [task for proxy in running for task in asking(proxy, CLIENTS)]
        await wait_for(running, CLIENTS)
        await followed_in(redis_server, 2)
        for _ in range(20):
            failing.steps.release()
        found = await answers(tasks)
        assert {(answer.status, answer.body) for answer in found} == {(500, b'{"error":"x"}')}
        assert failing.asked <= 3 + 2, "three in turn, and one for each other proxy"


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(whole(b'{"response":"%b"}' % (b"x" * 5000)), id="over-large"),
        pytest.param(whole(b'{"done":false}'), id="not kept"),
        pytest.param(whole(DONE).replace(b"\r\n", b"\r\nCache-Control: private\r\n", 1), id="for one client"),
        pytest.param(whole(b'{"error":"x"}', status="404 Not Found"), id="404"),
    ],
)
async def test_what_is_not_stored_each_proxy_asks_for(answer: bytes, redis_server: RedisServer) -> None:
    failing = Failing(answer)
    async with (
        byte_upstream(failing) as upstream,
        proxies(3, upstream.url, redis_server, max_entry_bytes=1024) as running,
    ):
        tasks = [task for proxy in running for task in asking(proxy)]
        await followed_in(redis_server, 2)
        for _ in range(3):
            failing.steps.release()
        found = await answers(tasks)
        assert {seen.body for seen in found} == {answer.partition(b"\r\n\r\n")[2]}
        assert failing.asked == 3


async def test_when_the_clients_of_the_leader_leave_another_leads(
    simulator: Simulator, redis_server: RedisServer
) -> None:
    async with proxies(3, simulator.url, redis_server) as (one, other, third):
        simulator.gate.close()
        (gone,) = asking(one)
        await until(lambda: simulator.inferences == 1)
        tasks = [*asking(other, CLIENTS), *asking(third, CLIENTS)]
        await wait_for((other, third), CLIENTS)
        await followed_in(redis_server, 2)
        gone.cancel()
        await until(lambda: simulator.inferences == 2)
        simulator.gate.open()
        found = await answers(tasks)
        assert how(found) == {"MISS": 1, "collapsed": 2 * CLIENTS - 1}
        assert simulator.inferences == 2


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
async def test_when_the_store_goes_away_everybody_asks(
    number: signal.Signals, simulator: Simulator, redis_server: RedisServer
) -> None:
    own = RedisServer()
    own.start()
    try:
        async with proxies(3, simulator.url, own, store_deadline=0.5) as running:
            simulator.gate.close()
            tasks = [task for proxy in running for task in asking(proxy, CLIENTS)]
            await wait_for(running, CLIENTS)
            await followed_in(own, 2)
            await until(lambda: simulator.inferences == 1)
            own.signal(number)
            await until(lambda: simulator.inferences == 3)
            simulator.gate.open()
            found = await answers(tasks)
            assert {answer.status for answer in found} == {200}
            own.signal(signal.SIGCONT if number == signal.SIGSTOP else number)
    finally:
        own.close()


@pytest.mark.parametrize(
    "rule",
    ["-publish", "resetchannels", "-subscribe", "-set", "-del", "-get"],
)
async def test_what_the_store_refuses_costs_no_answer(rule: str, simulator: Simulator) -> None:
    own = RedisServer()
    own.start()
    try:
        permit(own, "default", *((rule, "&__redis__:invalidate") if rule == "resetchannels" else (rule,)))
        async with proxies(3, simulator.url, own) as running:
            for prompt in ("one", "two"):
                tasks = [task for proxy in running for task in asking(proxy, CLIENTS, {**GENERATE, "prompt": prompt})]
                assert {answer.status for answer in await answers(tasks)} == {200}
            if rule in ("-publish", "resetchannels"):
                assert COMMANDS["PUBLISH"].effect in "".join(proxy.log.getvalue() for proxy in running)
    finally:
        own.close()


async def test_sealed_entries_are_shared_by_those_with_the_key(
    simulator: Simulator, redis_server: RedisServer, tmp_path: Path
) -> None:
    make_key(str(tmp_path / "key"))
    async with proxies(3, simulator.url, redis_server, seal_key_file=str(tmp_path / "key")) as running:
        simulator.gate.close()
        tasks = [task for proxy in running for task in asking(proxy, CLIENTS)]
        await wait_for(running, CLIENTS)
        simulator.gate.open()
        assert how(await answers(tasks)) == {"MISS": 1, "collapsed": 3 * CLIENTS - 1}
        assert simulator.inferences == 1


async def test_a_lease_goes_with_its_flight(simulator: Simulator, redis_server: RedisServer) -> None:
    async with proxies(2, simulator.url, redis_server) as (proxy, _):
        simulator.gate.close()
        tasks = asking(proxy)
        await until(lambda: simulator.inferences == 1)
        (name,) = redis_server.client().keys("ocp:1:f:*")
        assert 0 < int(redis_server.client().pttl(name)) <= 2000  # type: ignore[arg-type]
        await asyncio.sleep(2.5)
        assert redis_server.client().keys("ocp:1:f:*") == [name], "renewed"
        simulator.gate.open()
        await answers(tasks)
        await until(lambda: not redis_server.client().keys("ocp:1:f:*"))
