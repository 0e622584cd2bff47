"""Stores on a real Redis or Valkey, as several processes would have them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import TypeAlias

import pytest

from ollama_cache_proxy.core.facts import Event
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy.redis_url import redis_address
from ollama_cache_proxy.stores.codecs import Codec, PlainCodec
from ollama_cache_proxy.stores.redis.redis_client import RedisClient
from ollama_cache_proxy.stores.redis.redis_store import RedisStore
from tests.support.clocks import Clock
from tests.support.servers import RedisServer
from tests.support.stores import patient

Connect: TypeAlias = Callable[..., RedisStore]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def told() -> list[Event]:
    """The facts that the stores reported."""
    return []


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    running = Tasks()
    yield running
    await running.close(5)


@pytest.fixture
async def reach() -> AsyncIterator[Callable[[RedisServer], RedisClient]]:
    """Return a factory of clients of a server."""
    opened: list[RedisClient] = []

    def reach(server: RedisServer) -> RedisClient:
        opened.append(RedisClient(redis_address(server.url)))
        return opened[-1]

    yield reach
    for client in opened:
        await client.close()


@pytest.fixture
def connect(
    reach: Callable[[RedisServer], RedisClient], clock: Clock, tasks: Tasks, told: list[Event]
) -> Iterator[Connect]:
    """Return a factory of stores, as several processes would have them, with long deadlines for a busy machine."""
    stores: list[RedisStore] = []

    def connect(server: RedisServer, codec: Codec | None = None) -> RedisStore:
        client = reach(server)
        store = RedisStore(
            client,
            name="Redis",
            clock=clock,
            observe=told.append,
            tasks=tasks,
            codec=codec or PlainCodec(),
            longest=10.0,
        )
        patient(store)
        stores.append(store)
        return store

    yield connect
    for store in stores:
        store.flights.close()


@pytest.fixture
def client(reach: Callable[[RedisServer], RedisClient], redis_server: RedisServer) -> RedisClient:
    return reach(redis_server)


@pytest.fixture
def store(connect: Connect, redis_server: RedisServer) -> RedisStore:
    return connect(redis_server)


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server of the test's own, to be killed."""
    own = RedisServer()
    own.start()
    yield own
    own.close()
