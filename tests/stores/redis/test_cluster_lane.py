"""Small commands to a cluster: which node they go to, while slots move, too. On real nodes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from ollama_cache_proxy.policy.redis_url import redis_address
from ollama_cache_proxy.stores.redis.cluster_client import ClusterClient
from ollama_cache_proxy.stores.redis.cluster_lane import ClusterLane
from ollama_cache_proxy.stores.redis.cluster_topology import slot_of
from ollama_cache_proxy.stores.redis.key_layout import CLUSTER
from tests.support.clusters import Cluster

NAMES = [f"name {number}" for number in range(40)]
WITHIN = 5.0


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[ClusterClient]:
    own = ClusterClient(redis_address(cluster.url))
    await own.shape()
    yield own
    await own.close()


async def test_each_command_goes_to_the_node_that_has_its_name(client: ClusterClient, cluster: Cluster) -> None:
    assert isinstance(client.lane, ClusterLane)
    for name in NAMES:
        assert await client.lane.ask("SET", name, name, within=WITHIN) == b"OK"
    assert [await client.lane.ask("GET", name, within=WITHIN) for name in NAMES] == [name.encode() for name in NAMES]
    sizes = [server.client().dbsize() for server in cluster.primaries]
    assert sum(sizes) == len(NAMES)
    assert min(sizes) > 0
    assert [await server.dbsize() for server in client.servers()] == sizes


def test_slots_are_those_of_the_servers(cluster: Cluster) -> None:
    server: Any = cluster.primaries[0].client()
    for name in (*NAMES, *CLUSTER.generations, "", "{}a", "a{b}c", "a{b", "{a}{b}", "\xff"):
        sent = name.encode("latin-1")
        assert slot_of(name) == slot_of(sent) == server.execute_command("CLUSTER", "KEYSLOT", sent)


async def test_names_are_found_while_and_after_their_slot_moves(cluster: Cluster) -> None:
    """Nothing tells the client of it: it looks when a node says that a slot has moved, and not before."""
    client = ClusterClient(redis_address(cluster.url))
    own, slot = CLUSTER.entry_name("0" * 32, "a"), slot_of(CLUSTER.generation_beside("a"))
    origin = cluster.owner(slot)
    target = next(server for server in cluster.primaries if server is not origin)
    try:
        await client.lane.ask("SET", own, "value", within=WITHIN)
        cluster.begin_move(slot, target)
        missing = CLUSTER.generation_beside("a")
        await client.lane.ask("SET", missing, "new", within=WITHIN)
        assert target.client().dbsize() == 1, "what is new is at the other node already"
        assert await client.lane.ask("GET", missing, within=WITHIN) == b"new"
        assert await client.lane.ask("GET", own, within=WITHIN) == b"value"
        assert await client.lane.ask_all((("GET", own), ("GET", missing)), within=WITHIN) == [b"value", b"new"]
        async with client.pool.pipeline(transaction=False) as pipeline:
            pipeline.getrange(own, 0, 9)
            pipeline.getrange(missing, 0, 9)
            assert await pipeline.execute() == [b"value", b"new"]
        cluster.move(slot, target)
        assert await client.lane.ask("GET", own, within=WITHIN) == b"value"
        assert await client.pool.delete(own, missing) == 2
        assert cluster.owner(slot) is target
    finally:
        cluster.move(slot, origin)
        await client.close()
