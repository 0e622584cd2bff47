"""How full the server is, and what is known of that without permission, or without a server."""

from __future__ import annotations

import pytest

from ollama_cache_proxy.core.facts import CommandRefused, Event, StoreCall
from ollama_cache_proxy.stores.redis.commands import COMMANDS
from ollama_cache_proxy.stores.redis.redis_store import RedisStore
from tests.stores.redis.conftest import Connect
from tests.support.entries import FULL_ENTRY
from tests.support.servers import RedisServer
from tests.support.stores import fill, key
from tests.support.waiting import until


async def test_breakers_show_whether_they_are_open(connect: Connect, server: RedisServer, told: list[Event]) -> None:
    store = connect(server)
    assert store.gauges.breakers() == {"read": False, "write": False, "delete": False}
    server.kill()
    for _ in range(8):
        await store.entries.get(key(1))
    calls = [(event.operation, event.failed) for event in told if isinstance(event, StoreCall)]
    assert calls == [("get", True)] * 5
    assert store.gauges.breakers() == {"read": True, "write": False, "delete": False}


async def test_how_full_it_is_shows_from_the_second_poll_on(store: RedisStore, redis_server: RedisServer) -> None:
    await fill(store.entries, {key(1): FULL_ENTRY, key(2): FULL_ENTRY, key(3): FULL_ENTRY})
    redis_server.client().set("another's", "value")
    assert store.gauges.tiers(asking=True) == ()
    await until(lambda: store.gauges.tiers(asking=True))
    await until(lambda: store._count._counting is not None and store._count._counting.done())
    await store.gauges._measure()
    (tier,) = store.gauges.tiers(asking=True)
    assert (tier.name, tier.entries, tier.evicted) == ("redis", 3, 0)
    used = redis_server.client().info("memory")["used_memory"]
    assert tier.size == pytest.approx(used, rel=0.5)


async def test_a_user_without_the_right_to_know_loses_nothing_else(
    store: RedisStore, redis_server: RedisServer, told: list[Event]
) -> None:
    client = redis_server.client()
    client.execute_command("ACL", "SETUSER", "default", "-info")
    try:
        await store.gauges._measure()
        assert store.gauges.tiers(asking=True) == ()
        assert [event for event in told if not isinstance(event, StoreCall)] == [
            CommandRefused(command="INFO", effect=COMMANDS["INFO"].effect)
        ]
        assert store.gauges.breakers() == {"read": False, "write": False, "delete": False}
    finally:
        client.execute_command("ACL", "SETUSER", "default", "+info")


async def test_a_server_that_has_gone_has_no_fill_level(connect: Connect, server: RedisServer) -> None:
    store = connect(server)
    await store.gauges._measure()
    assert store.gauges.tiers(asking=True)
    server.kill()
    await store.gauges._measure()
    assert store.gauges.tiers(asking=True) == ()


async def test_nobody_is_asked_unless_somebody_wants_to_know(store: RedisStore, redis_server: RedisServer) -> None:
    client = redis_server.client()
    before = client.info("commandstats")["cmdstat_info"]["calls"]
    assert store.gauges.tiers(asking=False) == ()
    await store.entries.get(key(1))
    assert client.info("commandstats")["cmdstat_info"]["calls"] - before == 1, "that which is asked here"
