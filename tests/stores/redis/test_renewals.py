"""Renewing idle entries in a real server: what TTL says there, how many commands it takes, and what goes wrong."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from ollama_cache_proxy.core.facts import CommandRefused, Event, Fault, StoreFault
from ollama_cache_proxy.policy.lifetimes import FOREVER, Renewal, renewals_of
from ollama_cache_proxy.policy.messages import StoredResponse
from ollama_cache_proxy.stores.redis import renewals as module
from ollama_cache_proxy.stores.redis.commands import COMMANDS
from ollama_cache_proxy.stores.redis.redis_store import RedisStore
from tests.stores.redis.conftest import Connect
from tests.support.clocks import Clock
from tests.support.entries import FULL_ENTRY
from tests.support.servers import RedisServer
from tests.support.stores import calls, fill, generation_of, key, permit
from tests.support.waiting import until

IDLE = replace(FULL_ENTRY, stored_at=1000.0, lifetime=7200, idle=3200)
EVERY = 101
"""Seconds after a renewal, from which on the next hit is one."""


async def name(store: RedisStore, number: int = 1) -> str:
    return f"ocp:1:e:{await generation_of(store.entries)}:{key(number)}"


async def shortened(store: RedisStore, server: RedisServer, entry: StoredResponse = IDLE, number: int = 1) -> str:
    """Store an entry; return its name, after letting it expire within a minute."""
    await fill(store.entries, {key(number): entry})
    own = await name(store, number)
    server.client().expire(own, 60)
    return own


def served(*numbers: int, entry: StoredResponse = IDLE) -> dict[str, Renewal]:
    return renewals_of((key(number), entry) for number in numbers)


async def hit(store: RedisStore, *numbers: int, entry: StoredResponse = IDLE) -> None:
    store.entries.renew(served(*numbers, entry=entry))
    await store.entries.renewals.close()


async def test_a_hit_renews_within_a_second(
    monkeypatch: pytest.MonkeyPatch, store: RedisStore, redis_server: RedisServer
) -> None:
    monkeypatch.setattr(module, "RENEW_EVERY", 0.02)
    own, client = await shortened(store, redis_server), redis_server.client()
    for _ in range(2):
        store.entries.renew(served(1))
        assert client.ttl(own) <= 60, "a hit waits for nothing"
    await until(lambda: client.ttl(own) > 60)
    assert 3290 < client.ttl(own) <= 3301
    await shortened(store, redis_server, replace(IDLE, stored_at=1001.0), 2)
    store.entries.renew(served(2, entry=replace(IDLE, stored_at=1001.0)))
    other = await name(store, 2)
    await until(lambda: client.ttl(other) > 60)


async def test_it_is_renewed_again_when_a_part_of_its_idle_time_has_passed(
    store: RedisStore, redis_server: RedisServer, clock: Clock
) -> None:
    own, client = await shortened(store, redis_server), redis_server.client()
    await hit(store, 1)
    assert client.ttl(own) > 60
    client.expire(own, 60)
    clock.time += EVERY - 1
    await hit(store, 1)
    assert client.ttl(own) <= 60, "each renewal takes it out of every hot tier"
    clock.time += 1
    await hit(store, 1)
    assert client.ttl(own) > 60


async def test_what_was_stored_anew_is_renewed_at_once(store: RedisStore, redis_server: RedisServer) -> None:
    await shortened(store, redis_server)
    await hit(store, 1)
    newer = replace(IDLE, stored_at=1000.5)
    own, client = await shortened(store, redis_server, newer), redis_server.client()
    await hit(store, 1, entry=newer)
    assert client.ttl(own) > 60


async def test_no_renewal_goes_beyond_the_longest_lifetime(
    store: RedisStore, redis_server: RedisServer, clock: Clock
) -> None:
    own, client = await shortened(store, redis_server), redis_server.client()
    clock.time = 1000.0 + 7200 - 100
    await hit(store, 1)
    assert 60 < client.ttl(own) <= 100
    clock.time = 1000.0 + 7200
    client.expire(own, 60)
    await hit(store, 1)
    assert client.ttl(own) <= 60


async def test_what_was_deleted_is_not_brought_back(store: RedisStore, redis_server: RedisServer) -> None:
    own = await shortened(store, redis_server)
    redis_server.client().delete(own)
    await hit(store, 1)
    assert (await store.entries.get(key(1))).entry is None


@pytest.mark.parametrize("cleared", ["by this process", "by another"])
async def test_what_was_cleared_is_not_brought_back(
    cleared: str, store: RedisStore, connect: Connect, redis_server: RedisServer
) -> None:
    await shortened(store, redis_server)
    store.entries.renew(served(1))
    await (store if cleared == "by this process" else connect(redis_server)).entries.clear()
    await store.entries.renewals.close()
    assert (await store.entries.get(key(1))).entry is None


@pytest.mark.parametrize("lifetime", [60, FOREVER])
async def test_an_entry_that_this_process_has_replaced_is_not_renewed(
    lifetime: int, store: RedisStore, redis_server: RedisServer
) -> None:
    await shortened(store, redis_server)
    store.entries.renew(served(1))
    await fill(store.entries, {key(1): replace(FULL_ENTRY, lifetime=lifetime)})
    before = redis_server.client().ttl(await name(store))
    await store.entries.renewals.close()
    assert abs(redis_server.client().ttl(await name(store)) - before) <= 2


async def test_one_that_another_has_replaced_is_served_no_longer_than_its_own_bytes_say(
    store: RedisStore, connect: Connect, redis_server: RedisServer
) -> None:
    await shortened(store, redis_server)
    store.entries.renew(served(1))
    fixed = replace(FULL_ENTRY, lifetime=60)
    await fill(connect(redis_server).entries, {key(1): fixed})
    await store.entries.renewals.close()
    assert (await store.entries.get(key(1))).entry == fixed, "whose lifetime decides whether it is served"


async def test_many_are_renewed_together_and_none_is_left_out(store: RedisStore, redis_server: RedisServer) -> None:
    await fill(store.entries, {key(number): IDLE for number in range(2500)})
    client, generation = redis_server.client(), await generation_of(store.entries)
    before = calls(redis_server, "expire")
    store.entries.renew(served(*range(2500)))
    store.entries.renew(served(*range(1000)))
    await store.entries.renewals.close()
    assert calls(redis_server, "expire") == before + 2500
    with client.pipeline() as pipeline:
        for number in range(2500):
            pipeline.ttl(f"ocp:1:e:{generation}:{key(number)}")
        assert min(pipeline.execute()) > 3200


async def test_what_is_noted_and_what_is_remembered_is_bounded(
    monkeypatch: pytest.MonkeyPatch, store: RedisStore, redis_server: RedisServer
) -> None:
    monkeypatch.setattr(module, "_MOST", 3)
    monkeypatch.setattr(module, "_KNOWN", 2)
    renewals = store.entries.renewals
    for number in range(5):
        store.entries.renew(served(number))
    assert list(renewals._served) == [key(0), key(1), key(2)]
    await renewals.close()
    assert list(renewals._renewed) == [key(1), key(2)]


async def test_a_server_that_refuses_it_is_not_asked_each_time(
    server: RedisServer, connect: Connect, clock: Clock, told: list[Event]
) -> None:
    store = connect(server)
    own, client = await shortened(store, server), server.client()
    permit(server, "default", "-expire")
    for _ in range(3):
        await hit(store, 1)
    assert [event for event in told if isinstance(event, CommandRefused)] == [
        CommandRefused(command="EXPIRE", effect=COMMANDS["EXPIRE"].effect)
    ]
    assert client.info("commandstats")["cmdstat_expire"]["rejected_calls"] == 1
    assert StoreFault(kind=Fault.FAILED) not in told
    permit(server, "default", "+expire")
    clock.time += 10
    client.expire(own, 60)
    await hit(store, 1)
    assert client.ttl(own) > 60


async def test_a_replica_refuses_it(server: RedisServer, connect: Connect, told: list[Event]) -> None:
    store, client = connect(server), server.client()
    await shortened(store, server)
    client.replicaof("127.0.0.1", "1")
    await hit(store, 1)
    assert any(isinstance(event, CommandRefused) for event in told)
    assert StoreFault(kind=Fault.FAILED) not in told
    assert not store.gauges.breakers()["write"]


async def test_what_a_server_that_is_away_was_not_told_is_renewed_with_the_next_hit(
    server: RedisServer, connect: Connect, told: list[Event]
) -> None:
    store = connect(server)
    await shortened(store, server)
    server.kill()
    await hit(store, 1)
    assert StoreFault(kind=Fault.FAILED) in told
    server.start()
    store = connect(server)
    own = await shortened(store, server)
    await hit(store, 1)
    assert server.client().ttl(own) > 60


async def test_noting_goes_on_while_the_server_is_told(
    monkeypatch: pytest.MonkeyPatch, store: RedisStore, redis_server: RedisServer
) -> None:
    monkeypatch.setattr(module, "RENEW_EVERY", 0.01)
    own, other = await shortened(store, redis_server), await shortened(store, redis_server, number=2)
    real, begun, go_on = store.entries.renewals._tell, asyncio.Event(), asyncio.Event()

    async def tell() -> None:
        begun.set()
        await go_on.wait()
        await real()

    monkeypatch.setattr(store.entries.renewals, "_tell", tell)
    store.entries.renew(served(1))
    await begun.wait()
    monkeypatch.setattr(store.entries.renewals, "_tell", real)
    go_on.set()
    client: Any = redis_server.client()
    await until(lambda: client.ttl(own) > 60)
    store.entries.renew(served(2))
    await until(lambda: client.ttl(other) > 60)
