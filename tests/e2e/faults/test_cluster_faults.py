"""In front of a cluster: a node is killed, hangs, or knows of no clear; slots move. All of it with a real cluster."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ollama_cache_proxy.simulator import Simulator
from ollama_cache_proxy.stores.redis.cluster_topology import slot_of
from ollama_cache_proxy.stores.redis.key_layout import CLUSTER
from tests.e2e.faults.conftest import Measured
from tests.e2e.faults.load import BACK_WITHIN, ONLY_IF_CACHED, Load, body, generate, is_hit, stored
from tests.support.clusters import NODE_TIMEOUT, Cluster
from tests.support.rawhttp import RawAnswer, ask
from tests.support.servers import Proxy, RedisServer, proxy_before

KNOWN = 30
"""Requests whose responses are stored: some at each node."""
ASKED_FOR = 8.0
"""Seconds after a clear for which what was cleared is asked for."""
MOVED = 6
"""Copies of the generation whose slots move, with the entries beside them."""
row = pytest.mark.row
pytestmark = pytest.mark.distributed


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    own = Cluster()
    try:
        await own.start().ready()
        yield own
    finally:
        own.close()


@pytest.fixture(params=[True, False], ids=["hot tier", "no hot tier"])
def settings(request: pytest.FixtureRequest, cluster: Cluster) -> dict[str, Any]:
    own: dict[str, Any] = {"redis_url": cluster.url}
    return own if request.param else own | {"hot_bytes": 0}


async def fill(proxy: Proxy) -> None:
    for number in range(KNOWN):
        await stored(proxy, f"known {number}")


async def until_all_are_found(proxy: Proxy, begun: float) -> float:
    """Wait until everything that is known is found; return how many seconds after `begun` that was."""
    while time.monotonic() - begun < BACK_WITHIN:
        if all([is_hit(await generate(proxy, f"known {number}")) for number in range(KNOWN)]):
            return time.monotonic() - begun
    raise AssertionError("not all of it is found any more")


async def clear(proxy: Proxy) -> None:
    """Clear, and again while not every copy of the generation could be reached."""
    async with asyncio.timeout(BACK_WITHIN):
        while (await ask(proxy.url, "POST", "/api/cache/clear")).status != 200:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.1)


async def cleared_and_found(*proxies: Proxy) -> int:
    """Ask for what was cleared, for a while; return how often it was found."""
    answers: list[RawAnswer] = []
    begun = time.monotonic()
    while time.monotonic() - begun < ASKED_FOR:
        for proxy in proxies:
            sent = body(f"known {len(answers) % KNOWN}")
            answers.append(await ask(proxy.url, "POST", "/api/generate", body=sent, fields=ONLY_IF_CACHED))
        await asyncio.sleep(0.01)
    return sum(answer.status != 504 for answer in answers)


async def replaced(cluster: Cluster, lost: RedisServer, slot: int) -> None:
    """Wait until another node than the one that was lost has its slots."""
    others = [server for server in cluster.servers if server is not lost]
    async with asyncio.timeout(BACK_WITHIN):
        while await asyncio.to_thread(cluster.owner, slot, others) is lost:  # noqa: ASYNC110 - other processes
            await asyncio.sleep(0.05)


@row(40)
async def test_a_killed_primary_costs_no_client_an_error(
    measured: Measured, cluster: Cluster, simulator: Simulator, settings: dict[str, Any]
) -> None:
    async with proxy_before(simulator.url, **settings) as proxy:
        await fill(proxy)
        load = Load(proxy)
        await asyncio.sleep(0.3)
        begun = time.monotonic()
        cluster.primaries[0].kill()
        await replaced(cluster, cluster.primaries[0], 0)
        back = await until_all_are_found(proxy, begun)
        await load.stop()
        measured(40, "errors", sum(status != 200 for status in load.statuses))
        measured(40, "back", back - NODE_TIMEOUT)
        assert len(load.statuses) > 100


@row(40)
async def test_a_node_that_hangs_is_replaced_and_may_come_back_with_what_was_cleared(
    measured: Measured, cluster: Cluster, simulator: Simulator, settings: dict[str, Any]
) -> None:
    async with proxy_before(simulator.url, **settings) as proxy:
        await fill(proxy)
        load, begun = Load(proxy), time.monotonic()
        cluster.primaries[0].signal(signal.SIGSTOP)
        try:
            await replaced(cluster, cluster.primaries[0], 0)
            back = await until_all_are_found(proxy, begun)
            await load.stop()
            await clear(proxy)
        finally:
            cluster.primaries[0].signal(signal.SIGCONT)
        measured(40, "errors", sum(status != 200 for status in load.statuses))
        measured(40, "back", back - NODE_TIMEOUT)
        measured(40, "revived", await cleared_and_found(proxy))


@row(40)
async def test_slots_move_while_their_entries_are_asked_for(
    measured: Measured, cluster: Cluster, simulator: Simulator, settings: dict[str, Any]
) -> None:
    async with proxy_before(simulator.url, **settings) as proxy:
        await fill(proxy)
        load, hits = Load(proxy), []
        moving = asyncio.ensure_future(asyncio.to_thread(move, cluster))
        while not moving.done() or len(hits) < 2 * KNOWN:
            hits.append(is_hit(await generate(proxy, f"known {len(hits) % KNOWN}")))
        await moving
        await load.stop()
        assert cluster.owner(slot_of(CLUSTER.generations[0])) is cluster.primaries[1]
        measured(40, "errors", sum(status != 200 for status in load.statuses))
        measured(40, "misses", 1 - sum(hits) / len(hits))
        await clear(proxy)
        assert not is_hit(await generate(proxy, "known 1"))


def move(cluster: Cluster) -> None:
    for name in CLUSTER.generations[:MOVED]:
        cluster.move(slot_of(name), to=cluster.primaries[1])


@row(40)
async def test_what_was_cleared_does_not_come_back_with_a_replica_that_was_not_told(
    measured: Measured, cluster: Cluster, simulator: Simulator, settings: dict[str, Any]
) -> None:
    async with proxy_before(simulator.url, **settings) as proxy, proxy_before(simulator.url, **settings) as other:
        await fill(proxy)
        assert is_hit(await generate(other, "known 1"))
        await asyncio.to_thread(cluster.part, 0)
        await clear(proxy)
        await asyncio.sleep(0.2)
        cluster.primaries[0].kill()
        measured(40, "revived", await cleared_and_found(proxy, other))
        await replaced(cluster, cluster.primaries[0], 0)
        await fill(proxy)
        await until_all_are_found(other, time.monotonic())


async def test_a_clear_that_does_not_reach_a_node_is_a_503_and_goes_on_by_itself(
    cluster: Cluster, simulator: Simulator
) -> None:
    settings: dict[str, Any] = {"redis_url": cluster.url}
    async with proxy_before(simulator.url, **settings) as proxy:
        await fill(proxy)
        (former,) = set(await asyncio.to_thread(cluster.values, CLUSTER.generations))
        for server in (cluster.primaries[0], cluster.replicas[0]):
            server.signal(signal.SIGSTOP)
        try:
            assert (await ask(proxy.url, "POST", "/api/cache/clear")).status == 503
        finally:
            for server in (cluster.primaries[0], cluster.replicas[0]):
                server.signal(signal.SIGCONT)
        async with asyncio.timeout(BACK_WITHIN):
            while not await asyncio.to_thread(is_everywhere, cluster, former):  # noqa: ASYNC110 - other processes
                await asyncio.sleep(0.05)
        async with proxy_before(simulator.url, **settings) as fresh:
            assert await cleared_and_found(fresh) == 0


def is_everywhere(cluster: Cluster, former: bytes | None) -> bool:
    """Return whether all copies of the generation are one and the same, and no more the former one."""
    found = set(cluster.values(CLUSTER.generations))
    return len(found) == 1 and found.isdisjoint((former, None))
