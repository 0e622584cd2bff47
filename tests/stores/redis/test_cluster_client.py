"""A cluster as one store: which nodes there are, and those that are away. On real nodes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from ollama_cache_proxy.policy.redis_url import redis_address
from ollama_cache_proxy.stores.redis.cluster_client import ClusterClient
from ollama_cache_proxy.stores.redis.cluster_topology import slot_of
from ollama_cache_proxy.stores.redis.key_layout import CLUSTER
from ollama_cache_proxy.stores.redis.redis_client import NodeAwayError
from tests.support import canary
from tests.support.clusters import Cluster
from tests.support.servers import RedisServer, free_port
from tests.support.tls import tls_before, trusting
from tests.support.waiting import until

NAMES = [f"name {number}" for number in range(40)]
WITHIN = 5.0


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[ClusterClient]:
    own = ClusterClient(redis_address(cluster.url))
    await own.shape()
    yield own
    await own.close()


async def test_many_slots_may_move(cluster: Cluster) -> None:
    client = ClusterClient(redis_address(cluster.url))
    slots = [slot_of(name) for name in CLUSTER.generations[:8]]
    origin = cluster.owner(slots[0])
    target = next(server for server in cluster.primaries if server is not origin)
    try:
        await client.known()
        for name in CLUSTER.generations[:8]:
            await client.lane.ask("SET", name, name, within=WITHIN)
        for slot in slots:
            await asyncio.to_thread(cluster.move, slot, target)
        for name in CLUSTER.generations[:8]:
            assert await client.lane.ask("GET", name, within=WITHIN) == name.encode()
        ports = {node.place[1] for node in client.primaries()}
        assert ports == {server.port for server in cluster.primaries}
    finally:
        for slot in slots:
            await asyncio.to_thread(cluster.move, slot, origin)
        await client.close()


async def test_one_node_that_is_away_is_not_the_whole_store_and_all_of_them_are() -> None:
    cluster = Cluster(replicas=False)
    try:
        await cluster.start().ready()
        client = ClusterClient(redis_address(cluster.url))
        await client.known()
        by_node: dict[int, str] = {}
        for name in NAMES:
            by_node.setdefault(cluster.primaries.index(cluster.owner(slot_of(name))), name)
        cluster.primaries[0].kill()
        with pytest.raises(NodeAwayError):
            await client.lane.ask("GET", by_node[0], within=WITHIN)
        for server in cluster.primaries[1:]:
            server.kill()
        for number in (1, 2, 0, 1):
            with pytest.raises(RedisConnectionError) as caught:
                await client.lane.ask("GET", by_node[number], within=WITHIN)
        assert not isinstance(caught.value, NodeAwayError)
        with pytest.raises(RedisConnectionError):
            await client.pool.set(by_node[1], "x")
        await client.close()
    finally:
        cluster.close()


async def test_one_node_of_the_url_is_enough_and_none_is_said() -> None:
    client = ClusterClient(redis_address(f"redis+cluster://127.0.0.1:{free_port()}"))
    with pytest.raises(RedisConnectionError, match="no node of the cluster answers"):
        await client.lane.ask("GET", "a", within=WITHIN)
    with pytest.raises(RedisConnectionError):
        await client.pool.set("a", "b")
    with pytest.raises(RedisConnectionError):
        await client.lane.ready()
    await client.close()


async def test_the_others_are_found_by_the_one_that_is_named(cluster: Cluster) -> None:
    hosts = f"127.0.0.1:{free_port()},127.0.0.1:{cluster.primaries[2].port}"
    client = ClusterClient(redis_address(f"redis+cluster://:{canary.PASSWORD}@{hosts}"))
    try:
        await client.lane.ready()
        assert len(client.servers()) == len(client.sources()) == 3
    finally:
        await client.close()


async def test_nodes_may_speak_tls_and_be_known_by_host_names() -> None:
    """A relay in front of each node speaks TLS; nodes are told to name it, by host and port, instead of themselves."""
    cluster = Cluster(replicas=False)
    try:
        await cluster.start().ready()
        async with AsyncExitStack() as stack:
            ports = [await stack.enter_async_context(tls_before(server.url)) for server in cluster.primaries]
            for server, port in zip(cluster.primaries, ports, strict=True):
                client: Any = server.client()
                client.config_set("cluster-announce-port", port)
                client.config_set("cluster-announce-hostname", "localhost")
                client.config_set("cluster-preferred-endpoint-type", "hostname")
            named = {("localhost", port) for port in ports}
            await until(lambda: all(set(places(server)) == named for server in cluster.primaries), 30)
            address = redis_address(f"rediss+cluster://:{canary.PASSWORD}@localhost:{ports[1]}")
            own = ClusterClient(address, tls=trusting())
            for name in NAMES:
                assert await own.lane.ask("SET", name, name, within=WITHIN) == b"OK"
                assert await own.pool.touch(name) == 1
            assert set(own.sources()) == named
            await own.close()
    finally:
        cluster.close()


def places(server: RedisServer) -> list[tuple[str, int]]:
    """Where a node says that the primaries are."""
    client: Any = server.client()
    return [(row[2][0].decode(), row[2][1]) for row in client.execute_command("CLUSTER", "SLOTS")]
