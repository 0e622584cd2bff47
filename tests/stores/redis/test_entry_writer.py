"""How entries reach Redis: which go over the lane, how many at a time, and what is dropped."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from ollama_cache_proxy.core.facts import Event, Fault, StoreCall, StoreFault
from ollama_cache_proxy.policy.lifetimes import FOREVER
from ollama_cache_proxy.stores.codecs import PlainCodec
from ollama_cache_proxy.stores.entry_codec import encode
from ollama_cache_proxy.stores.redis import entry_writer as module
from ollama_cache_proxy.stores.redis.commands import Commands
from ollama_cache_proxy.stores.redis.entry_writer import EntryWriter
from ollama_cache_proxy.stores.redis.eviction import OTHERWISE, Eviction
from ollama_cache_proxy.stores.redis.guard import Guard
from ollama_cache_proxy.stores.redis.key_layout import entry_name
from ollama_cache_proxy.stores.redis.redis_client import RedisClient
from tests.support.clocks import Clock
from tests.support.entries import FULL_ENTRY
from tests.support.servers import RedisServer
from tests.support.stores import key

OWN = "0" * 32
LARGE = replace(FULL_ENTRY, body=b"x" * 65_536)


@pytest.fixture
def writer(client: RedisClient, clock: Clock, told: list[Event]) -> EntryWriter:
    guard = Guard(name="Redis", clock=clock, observe=told.append)
    eviction = Eviction(client, Commands(clock=clock, observe=told.append), clock=clock)
    return EntryWriter(client, guard, eviction, codec=PlainCodec(), observe=told.append, clock=clock)


def written(told: list[Event]) -> int:
    """How many times something was written."""
    return len([event for event in told if isinstance(event, StoreCall) and event.operation == "set"])


@pytest.mark.parametrize("entry", [FULL_ENTRY, LARGE], ids=["small", "large"])
async def test_an_entry_is_written_as_it_is_encoded_for_its_lifetime(
    entry: Any, writer: EntryWriter, redis_server: RedisServer
) -> None:
    assert await writer.write([(key(1), entry)], OWN)
    client = redis_server.client()
    assert client.get(entry_name(OWN, key(1))) == encode(key(1), entry)
    assert 3590 < client.ttl(entry_name(OWN, key(1))) <= 3600


@pytest.mark.parametrize("entry", [FULL_ENTRY, LARGE], ids=["small", "large"])
async def test_an_imported_entry_is_kept_for_what_is_left_of_its_lifetime(
    entry: Any, writer: EntryWriter, redis_server: RedisServer, clock: Clock
) -> None:
    stored = replace(entry, imported=True, stored_at=clock.now() - 600)
    assert await writer.write([(key(1), stored)], OWN)
    assert 2990 < redis_server.client().ttl(entry_name(OWN, key(1))) <= 3000


@pytest.mark.parametrize("entry", [FULL_ENTRY, LARGE], ids=["small", "large"])
async def test_an_idle_entry_is_kept_for_a_little_more_than_its_idle_time(
    entry: Any, writer: EntryWriter, redis_server: RedisServer
) -> None:
    assert await writer.write([(key(1), replace(entry, idle=320))], OWN)
    assert 321 < redis_server.client().ttl(entry_name(OWN, key(1))) <= 331


@pytest.mark.parametrize("entry", [FULL_ENTRY, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("evicts", [True, False])
async def test_an_entry_lives_until_it_is_evicted_where_the_server_evicts(
    evicts: bool, entry: Any, writer: EntryWriter, redis_server: RedisServer
) -> None:
    client = redis_server.client()
    if evicts:
        client.config_set("maxmemory", "256mb")
        client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        assert await writer.write([(key(1), replace(entry, lifetime=FOREVER))], OWN)
    finally:
        client.config_set("maxmemory", "0")
        client.config_set("maxmemory-policy", "noeviction")
    ttl = client.ttl(entry_name(OWN, key(1)))
    assert ttl == -1 if evicts else OTHERWISE - 10 < ttl <= OTHERWISE


@pytest.mark.parametrize(
    ("entries", "asked"),
    [
        pytest.param([FULL_ENTRY], 1, id="one small entry"),
        pytest.param([LARGE], 0, id="one large entry"),
        pytest.param([FULL_ENTRY] * 2, 0, id="a list"),
    ],
)
async def test_only_one_small_entry_goes_over_the_lane(
    entries: list[Any], asked: int, writer: EntryWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands, real = [], writer._lane.ask

    async def ask(*command: Any, **how: Any) -> Any:
        commands.append(command)
        return await real(*command, **how)

    monkeypatch.setattr(writer._lane, "ask", ask)
    assert await writer.write([(key(number), entry) for number, entry in enumerate(entries)], OWN)
    assert [command[0] for command in commands] == ["SET"] * asked


async def test_a_list_is_written_64_at_a_time(
    writer: EntryWriter, redis_server: RedisServer, told: list[Event]
) -> None:
    assert await writer.write([(key(number), FULL_ENTRY) for number in range(130)], OWN)
    assert redis_server.client().dbsize() == 130
    assert written(told) == 3


async def test_of_a_list_nothing_is_written_behind_what_failed(
    writer: EntryWriter, redis_server: RedisServer, told: list[Event]
) -> None:
    redis_server.client().config_set("maxmemory", "1")
    try:
        assert not await writer.write([(key(number), FULL_ENTRY) for number in range(130)], OWN)
    finally:
        redis_server.client().config_set("maxmemory", "0")
    assert written(told) == 1


async def test_nothing_is_written_where_there_is_nothing(writer: EntryWriter, told: list[Event]) -> None:
    assert await writer.write([], OWN)
    assert told == []


async def test_over_too_many_waiting_bytes_entries_are_dropped_and_room_comes_back(
    monkeypatch: pytest.MonkeyPatch, writer: EntryWriter, told: list[Event]
) -> None:
    monkeypatch.setattr(module, "_MAX_WAITING", 3 * module._size(FULL_ENTRY))
    async with asyncio.TaskGroup() as group:
        writing = [group.create_task(writer.write([(key(number), FULL_ENTRY)], OWN)) for number in range(5)]
    assert [task.result() for task in writing] == [True] * 3 + [False] * 2
    assert [event for event in told if isinstance(event, StoreFault)] == [StoreFault(kind=Fault.DROPPED)] * 2
    assert await writer.write([(key(9), FULL_ENTRY)], OWN)


async def test_eight_write_at_a_time(writer: EntryWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    under_way, may_go, most = 0, asyncio.Event(), 0

    async def ask(*_: Any, **__: Any) -> bytes:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await may_go.wait()
        under_way -= 1
        return b"OK"

    monkeypatch.setattr(writer._lane, "ask", ask)
    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(writer.write([(key(number), FULL_ENTRY)], OWN))
        for _ in range(10):  # turns of the loop
            await asyncio.sleep(0)
        assert under_way == 8
        may_go.set()
    assert most == 8


async def test_large_entries_are_written_in_several_commands(writer: EntryWriter, redis_server: RedisServer) -> None:
    """Encoding them takes time, in which nobody else is served."""
    entries = [(key(number), replace(FULL_ENTRY, body=b"x" * 400_000)) for number in range(5)]
    assert [len(some) for some in module._commands(entries)] == [2, 2, 1]
    assert [len(some) for some in module._commands([(key(1), replace(FULL_ENTRY, body=b"x" * 3_000_000))] * 2)] == [
        1,
        1,
    ]
    assert list(module._commands([])) == []
    assert await writer.write(entries, OWN)
    assert {redis_server.client().strlen(entry_name(OWN, name)) for name, _ in entries} == {
        len(encode(*entries[0])),
    }
