"""Leases of flights in a real server, as several processes would have them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ollama_cache_proxy.core.facts import CommandRefused, Event
from ollama_cache_proxy.core.store_ports import Ended, Ending, Held, Lease
from ollama_cache_proxy.stores.redis import shared_flights as module
from ollama_cache_proxy.stores.redis.shared_flights import RedisFlights
from tests.stores.redis.conftest import Connect
from tests.support.servers import RedisServer
from tests.support.stores import calls, permit
from tests.support.waiting import until

STORED = Ended(ending=Ending.STORED, asks=0)
NAME = "g:key"
KEY = "ocp:1:f:g:key"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at leases soon."""
    monkeypatch.setattr(module, "_LOOK_EVERY", 0.05)


async def led(flights: RedisFlights) -> Lease:
    lease = await flights.begin(NAME)
    assert lease is not None
    assert not isinstance(lease, Held)
    return lease


async def held(flights: RedisFlights) -> asyncio.Task[Ended | None]:
    """Follow the flight that another process leads; return the task that waits for its end."""
    follower = await flights.begin(NAME)
    assert isinstance(follower, Held)
    return asyncio.create_task(follower.ended())


def flights_of(connect: Connect, server: RedisServer, count: int) -> list[RedisFlights]:
    return [connect(server).flights for _ in range(count)]


@pytest.mark.parametrize(
    "ended", [STORED, Ended(ending=Ending.FAILED, asks=2), Ended(ending=Ending.UNSHARED, asks=0)], ids=str
)
async def test_one_leads_and_the_others_are_told_how_it_ended(
    ended: Ended, connect: Connect, redis_server: RedisServer
) -> None:
    leader, *others = flights_of(connect, redis_server, 3)
    lease = await led(leader)
    waiting = [await held(flights) for flights in others]
    lease.end(ended)
    assert [await task for task in waiting] == [ended, ended]
    lease.end(STORED)  # only the first call counts
    client: Any = redis_server.client()
    await until(lambda: client.pubsub_channels("ocp:1:f:*") == [])
    if ended == STORED:
        assert await (await held(others[0])) == STORED, "looked a moment too early"
        assert 0 < client.pttl(KEY) <= 1000
        client.delete(KEY)
    assert not client.exists(KEY)
    (await led(others[0])).end(ended)
    await until(lambda: client.pubsub_channels("ocp:1:f:*") == [])


async def test_what_was_stored_before_a_purge_is_not_looked_for(connect: Connect, redis_server: RedisServer) -> None:
    leader, purging, other = flights_of(connect, redis_server, 3)
    lease, client = await led(leader), redis_server.client()
    lease.end(STORED)
    await until(lambda: client.get(KEY).endswith(b"stored"))  # type: ignore[union-attr]
    await purging.purge_begins()
    assert await other.begin(NAME) is None


async def test_a_lease_that_nobody_else_wants_takes_one_command_of_each_kind(
    connect: Connect, redis_server: RedisServer
) -> None:
    (flights,) = flights_of(connect, redis_server, 1)
    before = [calls(redis_server, name) for name in ("set", "get", "subscribe")]
    await led(flights)
    after = [calls(redis_server, name) for name in ("set", "get", "subscribe")]
    assert [now - then for now, then in zip(after, before, strict=True)] == [1, 1, 0]


async def test_two_flights_of_one_process_may_follow(connect: Connect, redis_server: RedisServer) -> None:
    leader, other = flights_of(connect, redis_server, 2)
    lease = await led(leader)
    first, second = await held(other), await held(other)
    first.cancel()
    await asyncio.wait((first,))
    lease.end(STORED)
    assert await second == STORED


@pytest.mark.usefixtures("quick")
async def test_who_waits_for_one_that_has_gone_is_told_nothing(connect: Connect, redis_server: RedisServer) -> None:
    leader, other = flights_of(connect, redis_server, 2)
    await led(leader)
    task = await held(other)
    await asyncio.sleep(0.2)
    assert not task.done(), "it is still held"
    redis_server.client().delete(KEY)
    assert await task is None
    lease = await led(other)
    assert redis_server.client().exists(KEY)
    lease.end(STORED)


@pytest.mark.usefixtures("quick")
async def test_a_message_that_is_lost_is_survived(connect: Connect, redis_server: RedisServer) -> None:
    leader, other = flights_of(connect, redis_server, 2)
    lease = await led(leader)
    task = await held(other)
    permit(redis_server, "default", "-publish")
    try:
        lease.end(STORED)
        assert await task is None
    finally:
        permit(redis_server, "default", "+publish")


async def test_a_lost_connection_is_told_as_nothing(connect: Connect, redis_server: RedisServer) -> None:
    leader, other = flights_of(connect, redis_server, 2)
    lease = await led(leader)
    task = await held(other)
    redis_server.client().client_kill_filter(_type="pubsub")
    assert await task is None
    again = await held(other)
    lease.end(STORED)
    assert await again == STORED


async def test_messages_about_other_leases_are_not_meant(connect: Connect, redis_server: RedisServer) -> None:
    leader, other = flights_of(connect, redis_server, 2)
    lease = await led(leader)
    task = await held(other)
    client = redis_server.client()
    for message in (b"", b"other stored 0", b"x", b"\xff \xff \xff", client.get(KEY).split(b" ")[0] + b" gone 0"):  # type: ignore[union-attr]
        client.publish(KEY, message)
    lease.end(STORED)
    assert await task == STORED


async def test_a_lease_is_renewed_and_one_that_was_lost_is_taken_again(
    connect: Connect, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RENEW_EVERY", 0.05)
    (flights,) = flights_of(connect, redis_server, 1)
    lease, client = await led(flights), redis_server.client()
    client.pexpire(KEY, 300)
    await until(lambda: int(client.pttl(KEY)) > 1000)  # type: ignore[arg-type]
    client.delete(KEY)
    await until(lambda: client.exists(KEY))
    lease.end(STORED)
    await until(lambda: not client.exists(KEY))


async def test_a_holder_that_is_late_leaves_the_lease_alone(
    connect: Connect, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SURE_FOR", -1.0)
    monkeypatch.setattr(module, "_RENEW_EVERY", 0.01)
    (flights,) = flights_of(connect, redis_server, 1)
    lease, client = await led(flights), redis_server.client()
    client.set(KEY, "another")
    await asyncio.sleep(0.1)
    lease.end(STORED)
    await asyncio.sleep(0.1)
    assert client.get(KEY) == b"another"


async def test_a_purge_elsewhere_is_seen_and_ends_waiting(connect: Connect, redis_server: RedisServer) -> None:
    leader, purging, other = flights_of(connect, redis_server, 3)
    lease = await led(leader)
    assert not await lease.purged_elsewhere()
    await purging.purge_begins()
    assert await other.begin(NAME) is None, "what began before is not waited for"
    assert await lease.purged_elsewhere()
    lease.end(STORED)


async def test_a_purge_of_the_process_itself_is_its_own_matter(connect: Connect, redis_server: RedisServer) -> None:
    leader, other = flights_of(connect, redis_server, 2)
    lease = await led(leader)
    await leader.purge_begins()
    await leader.purge_begins()
    assert not await lease.purged_elsewhere()
    await other.purge_begins()
    await leader.purge_begins()
    assert await lease.purged_elsewhere(), "there was another one in between"
    lease.end(STORED)


async def test_after_a_purge_the_next_flight_is_followed(connect: Connect, redis_server: RedisServer) -> None:
    leader, other = flights_of(connect, redis_server, 2)
    await other.purge_begins()
    lease, client = await led(leader), redis_server.client()
    await until(lambda: client.get(KEY).endswith(client.get("ocp:1:purged")))  # type: ignore[union-attr,arg-type]
    task = await held(other)
    lease.end(STORED)
    assert await task == STORED


async def test_a_client_that_leaves_at_once_leaves_no_lease(connect: Connect, redis_server: RedisServer) -> None:
    (flights,) = flights_of(connect, redis_server, 1)
    await led(flights)
    client = redis_server.client()
    client.delete(KEY)
    task = asyncio.create_task(flights.begin("g:other"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait((task,))
    await asyncio.sleep(0.1)
    assert not client.exists("ocp:1:f:g:other")


@pytest.mark.parametrize("rule", ["-publish", "-subscribe", "resetchannels"])
async def test_who_gets_no_messages_waits_for_nobody(
    rule: str, connect: Connect, redis_server: RedisServer, told: list[Event]
) -> None:
    leader, other = flights_of(connect, redis_server, 2)
    permit(redis_server, "default", rule)
    try:
        lease = await led(leader)
        lease.end(Ended(ending=Ending.UNSHARED, asks=0))
        if rule == "-subscribe":
            await led(leader)
            assert await other.begin(NAME) is None
        await until(lambda: [event.command for event in told if isinstance(event, CommandRefused)] == ["PUBLISH"])
    finally:
        permit(redis_server, "default", "allchannels", "+publish", "+subscribe")


async def test_without_a_server_everybody_asks(connect: Connect) -> None:
    server = RedisServer()
    server.start()
    try:
        (flights,) = flights_of(connect, server, 1)
        lease = await led(flights)
        server.kill()
        assert await flights.begin(NAME) is None
        assert not await lease.purged_elsewhere()
        lease.end(STORED)
        await flights.purge_begins()
    finally:
        server.close()
