"""Commands to a cluster: which node they go to, slots that move, nodes that are away. On real nodes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from ollama_cache_proxy.policy.redis_url import redis_address
from ollama_cache_proxy.stores.redis.cluster_client import ClusterClient
from ollama_cache_proxy.stores.redis.cluster_topology import slot_of
from ollama_cache_proxy.stores.redis.key_layout import CLUSTER
from ollama_cache_proxy.stores.redis.redis_client import NodeAwayError
from tests.support import canary
from tests.support.clusters import Cluster
from tests.support.servers import free_port

NAMES = [f"name {number}" for number in range(40)]
WITHIN = 5.0


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[ClusterClient]:
    own = ClusterClient(redis_address(cluster.url))
    await own.shape()
    yield own
    await own.close()


async def test_each_command_goes_to_the_node_that_has_its_name(client: ClusterClient, cluster: Cluster) -> None:
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


async def test_a_pipeline_gives_replies_in_the_order_of_its_commands(client: ClusterClient) -> None:
    async with client.pool.pipeline(transaction=False) as pipeline:
        for name in NAMES:
            pipeline.set(name, name, ex=60)
            pipeline.strlen(name)
        replies = await pipeline.execute()
    assert replies == [reply for name in NAMES for reply in (True, len(name))]
    assert await client.pool.touch(*NAMES, "another") == len(NAMES)
    assert await client.pool.unlink(*NAMES[:30], "another") == 30
    assert await client.pool.delete(*NAMES) == 10


async def test_errors_of_a_pipeline_are_replies_or_raised(client: ClusterClient) -> None:
    await client.pool.set("a", "text")
    async with client.pool.pipeline(transaction=False) as pipeline:
        pipeline.hincrby("a", "field", 1)
        pipeline.hincrby("b", "field", 1)
        pipeline.hgetall("b")
        error, *others = await pipeline.execute(raise_on_error=False)
        assert isinstance(error, ResponseError)
        assert others == [1, {b"field": b"1"}]
        with pytest.raises(ResponseError):
            await pipeline.execute()


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


async def test_a_connection_survives_more_moves_than_redis_py_s_own_client(cluster: Cluster) -> None:
    """redis-py's closes itself after five of them, and goes on with the slots that it knew."""
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
    client = ClusterClient(redis_address(cluster.url))
    try:
        await cluster.start().ready()
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
    finally:
        await client.close()
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


async def test_redis_py_has_what_is_used_of_its_insides(client: ClusterClient) -> None:
    """A pipeline has to say how many commands it has: replies to ASKING are between the others."""
    server: Any = client.servers()[0]
    async with server.pipeline(transaction=False) as pipeline:
        pipeline.execute_command("ASKING")
        assert len(pipeline) == 1
