"""When a server may be given what does not expire, and how often it is asked."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ollama_cache_proxy.core.facts import Event
from ollama_cache_proxy.stores.redis.commands import Commands
from ollama_cache_proxy.stores.redis.eviction import OTHERWISE, Eviction
from ollama_cache_proxy.stores.redis.redis_client import RedisClient
from tests.support.clocks import Clock
from tests.support.servers import RedisServer
from tests.support.stores import calls, permit


@pytest.fixture(scope="module")
def evicting() -> Iterator[RedisServer]:
    server = RedisServer("--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru")
    server.start()
    yield server
    server.close()


@pytest.fixture
def eviction(reach, evicting: RedisServer, clock: Clock, told: list[Event]) -> Eviction:
    client: RedisClient = reach(evicting)
    return Eviction(client, Commands(clock=clock, observe=told.append), clock=clock)


async def test_what_expires_needs_no_question(eviction: Eviction, evicting: RedisServer) -> None:
    before = calls(evicting, "info")
    assert await eviction.kept_for(60) == 60
    assert calls(evicting, "info") == before + 1, "only the test has asked"


async def test_it_is_asked_once_in_a_while_what_it_does_when_it_is_full(
    eviction: Eviction, evicting: RedisServer, clock: Clock
) -> None:
    before = calls(evicting, "info")
    assert [await eviction.kept_for(None) for _ in range(3)] == [None] * 3
    assert calls(evicting, "info") == before + 2, "one of these is the test's own"
    client = evicting.client()
    client.config_set("maxmemory-policy", "volatile-lru")
    try:
        assert await eviction.kept_for(None) is None
        clock.time += 60
        assert await eviction.kept_for(None) == OTHERWISE
    finally:
        client.config_set("maxmemory-policy", "allkeys-lru")
    clock.time += 60
    assert await eviction.kept_for(None) is None


async def test_one_that_must_not_be_asked_gets_what_expires(
    eviction: Eviction, evicting: RedisServer, told: list[Event]
) -> None:
    permit(evicting, "default", "-info")
    try:
        assert await eviction.kept_for(None) == OTHERWISE
    finally:
        permit(evicting, "default", "+info")
    assert len(told) == 1
