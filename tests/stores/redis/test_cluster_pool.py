"""Pipelines to a cluster: replies in their order, errors among them. On real nodes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.exceptions import ResponseError

from ollama_cache_proxy.policy.redis_url import redis_address
from ollama_cache_proxy.stores.redis.cluster_client import ClusterClient
from ollama_cache_proxy.stores.redis.cluster_pool import ClusterPool
from tests.support.clusters import Cluster

NAMES = [f"name {number}" for number in range(40)]
WITHIN = 5.0


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[ClusterClient]:
    own = ClusterClient(redis_address(cluster.url))
    await own.shape()
    yield own
    await own.close()


@pytest.fixture
def pool(client: ClusterClient) -> ClusterPool:
    return ClusterPool(client)


async def test_a_pipeline_gives_replies_in_the_order_of_its_commands(pool: ClusterPool) -> None:
    async with pool.pipeline(transaction=False) as pipeline:
        for name in NAMES:
            pipeline.set(name, name, ex=60)
            pipeline.strlen(name)
        replies = await pipeline.execute()
    assert replies == [reply for name in NAMES for reply in (True, len(name))]
    assert await pool.touch(*NAMES, "another") == len(NAMES)
    assert await pool.unlink(*NAMES[:30], "another") == 30
    assert await pool.delete(*NAMES) == 10


async def test_errors_of_a_pipeline_are_replies_or_raised(pool: ClusterPool) -> None:
    await pool.set("a", "text")
    async with pool.pipeline(transaction=False) as pipeline:
        pipeline.hincrby("a", "field", 1)
        pipeline.hincrby("b", "field", 1)
        pipeline.hgetall("b")
        error, *others = await pipeline.execute(raise_on_error=False)
        assert isinstance(error, ResponseError)
        assert others == [1, {b"field": b"1"}]
        with pytest.raises(ResponseError):
            await pipeline.execute()


async def test_redis_py_has_what_is_used_of_its_insides(client: ClusterClient) -> None:
    """A pipeline has to say how many commands it has: replies to ASKING are between the others."""
    server: Any = client.servers()[0]
    async with server.pipeline(transaction=False) as pipeline:
        pipeline.execute_command("ASKING")
        assert len(pipeline) == 1
