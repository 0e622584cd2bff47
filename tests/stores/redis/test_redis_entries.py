"""What is special to entries in Redis: other names, damage, the write buffer, a server that ends.

What they do like those of every store is in test_stores.py, what a fault of it costs a client in tests/e2e/faults.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from ollama_cache_proxy.core.facts import Event, Fault, StoreFault
from ollama_cache_proxy.policy.messages import StoredResponse, packed
from ollama_cache_proxy.stores import write_buffer
from ollama_cache_proxy.stores.redis import guard
from ollama_cache_proxy.stores.redis.redis_entries import RedisEntries
from ollama_cache_proxy.stores.redis.redis_store import RedisStore
from tests.stores.redis.conftest import Connect
from tests.support.entries import FULL_ENTRY
from tests.support.servers import RedisServer
from tests.support.stores import calls, fill, generation_of, key, keys, permit
from tests.support.waiting import until

STREAM = replace(FULL_ENTRY, pieces=packed([(3, 10), (5, 22)]))


@pytest.fixture
def entries(store: RedisStore) -> RedisEntries:
    return store.entries


async def name(entries: RedisEntries, number: int) -> str:
    return f"ocp:1:e:{await generation_of(entries)}:{key(number)}"


async def test_names_of_others_and_old_generations_are_not_seen(
    entries: RedisEntries, redis_server: RedisServer
) -> None:
    await fill(entries, {key(1): FULL_ENTRY, key(2): FULL_ENTRY, key(3): FULL_ENTRY})
    own = await name(entries, 1)
    client = redis_server.client()
    for other in (
        f"ocp:1:e:{'0' * 32}:{key(1)}",
        f"ocp:1:e:{key(1)}",
        f"ocp:2{own[5:]}",
        f"x{own}",
        f"{own[:-64]}more:{key(1)}",
        f"{own[:-64]}",
    ):
        client.set(other, client.get(own))
    assert await keys(entries) == [key(1), key(2), key(3)]
    assert await entries.purge(lambda about: about.key in (key(1), key(2))) == 2
    assert client.exists(own) == 0
    assert await keys(entries) == [key(3)]
    assert client.dbsize() == 6 + 1 + 1, "the copies, the generation and the entry that was not meant"


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda _: b"", id="empty"),
        pytest.param(lambda value: value[:43], id="cut in the head"),
        pytest.param(lambda value: value[:100], id="cut in the JSON"),
        pytest.param(lambda value: b"OCP0" + value[4:], id="version"),
        pytest.param(lambda value: value[:8] + bytes(32) + value[40:], id="key"),
        pytest.param(lambda value: value[:40] + b"\xff" * 4 + value[44:], id="length"),
        pytest.param(lambda value: value.replace(b'"status":200', b'"status":"k"'), id="status"),
        pytest.param(lambda value: value.replace(b'"took":1.5', b'"took":{ }'), id="took"),
        pytest.param(lambda _: b"x" * 5000, id="foreign"),
        pytest.param(None, id="list"),
    ],
)
async def test_a_damaged_value_is_left_out(damage: Any, entries: RedisEntries, redis_server: RedisServer) -> None:
    await fill(entries, {key(1): STREAM, key(2): STREAM})
    damaged, client = await name(entries, 1), redis_server.client()
    value = client.get(damaged)
    client.delete(damaged)
    if damage is None:
        client.rpush(damaged, value)
    else:
        client.set(damaged, damage(value))
    assert await keys(entries) == [key(2)]
    assert await entries.purge(lambda _: True) == 1
    assert client.exists(damaged) == 1


@pytest.mark.parametrize("ask", ["get", "get_many"])
async def test_a_damaged_value_that_is_looked_up_is_told_of_and_removed(
    ask: str, entries: RedisEntries, redis_server: RedisServer, told: list[Event]
) -> None:
    await fill(entries, {key(1): FULL_ENTRY, key(2): FULL_ENTRY})
    damaged, client = await name(entries, 1), redis_server.client()
    client.setrange(damaged, 100, b"\0")
    if ask == "get":
        assert (await entries.get(key(1))).entry is None
    else:
        assert (await entries.get_many([key(1), key(2)])).entries == (None, FULL_ENTRY)
    assert [event for event in told if isinstance(event, StoreFault)] == [StoreFault(kind=Fault.DAMAGED)]
    await until(lambda: not client.exists(damaged))
    assert client.exists(await name(entries, 2))


async def test_nothing_is_known_without_asking(entries: RedisEntries) -> None:
    await fill(entries, {key(1): FULL_ENTRY})
    assert (await entries.get(key(1))).entry == FULL_ENTRY
    assert entries.held(key(1)) is None


async def test_a_lookup_is_one_command(entries: RedisEntries, redis_server: RedisServer) -> None:
    await fill(entries, {key(1): FULL_ENTRY})
    client = redis_server.client()
    before = client.info("stats")["total_commands_processed"]
    assert (await entries.get(key(1))).entry == FULL_ENTRY
    assert (await entries.get_many([key(1), key(2)])).entries == (FULL_ENTRY, None)
    assert client.info("stats")["total_commands_processed"] - before == 2 + 1, "and the INFO before them"


async def test_what_is_touched_is_used_without_being_read(entries: RedisEntries, redis_server: RedisServer) -> None:
    await fill(entries, {key(number): FULL_ENTRY for number in range(2500)})
    before = {name: calls(redis_server, name) for name in ("touch", "mget")}
    await entries.touch([key(number) for number in range(2500)], await generation_of(entries))
    assert {name: calls(redis_server, name) - before[name] for name in before} == {"touch": 3, "mget": 1}


async def test_a_purge_holds_no_request_up(entries: RedisEntries) -> None:
    await fill(entries, {key(number): FULL_ENTRY for number in range(2000)})
    await fill(entries, {key(5000): replace(FULL_ENTRY, model="other")})
    purge = asyncio.create_task(entries.purge(lambda about: about.model == FULL_ENTRY.model))
    answered = 0
    while not purge.done():
        assert (await entries.get(key(5000))).entry is not None
        answered += 1
    assert await purge == 2000
    assert answered > 10


async def test_a_purge_that_the_server_does_not_see_to_its_end_failed(connect: Connect, server: RedisServer) -> None:
    entries = connect(server).entries
    await fill(entries, {key(number): FULL_ENTRY for number in range(500)})
    looked_at = []

    def meant(entry: Any) -> bool:
        looked_at.append(entry.key)
        if len(looked_at) == 200:
            server.kill()
        return True

    assert await entries.purge(meant) is None
    assert 200 <= len(looked_at) < 500


@pytest.mark.parametrize("refused", ["scan", "unlink", "del", "getset", "set"])
async def test_what_a_server_has_refused_before_holds_up_no_clear_and_no_purge(
    refused: str, connect: Connect, server: RedisServer
) -> None:
    """A purge was a 503 for ten seconds after the permission had been given."""
    entries = connect(server).entries
    await fill(entries, {key(1): FULL_ENTRY})
    generation = (await entries.get(key(1))).generation or ""
    permit(server, "default", f"-{refused}")
    await entries.purge(lambda _: False)
    await entries.delete((key(2),), generation)
    await entries.clear()
    permit(server, "default", "+@all")
    await fill(entries, {key(1): FULL_ENTRY, key(2): FULL_ENTRY})
    generation = (await entries.get(key(2))).generation or ""
    assert await entries.purge(lambda about: about.key == key(1)) == 1
    assert await entries.delete((key(2),), generation) == 1
    await fill(entries, {key(1): FULL_ENTRY})
    assert await entries.clear() == 1
    assert entries.commands.refused(refused.upper()) is None


# The write buffer


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written unless the test flushes."""
    monkeypatch.setattr(write_buffer, "MOMENT", 3600.0)


async def begun(entries: RedisEntries, *numbers: int, entry: StoredResponse = FULL_ENTRY) -> asyncio.Task[bool]:
    """Begin to put entries, which then wait in the write buffer."""
    generation = await generation_of(entries)
    putting = asyncio.create_task(entries.put([(key(number), entry) for number in numbers], generation))
    await asyncio.sleep(0)
    return putting


@pytest.mark.usefixtures("late")
async def test_an_entry_in_the_write_buffer_is_found_in_this_process_alone(
    connect: Connect, redis_server: RedisServer
) -> None:
    one, other = connect(redis_server).entries, connect(redis_server).entries
    await asyncio.wait_for(all_written(one, await begun(one, 1)), 5)
    newer = replace(FULL_ENTRY, body=b"newer")
    putting = await begun(one, 1, 2, entry=newer)
    assert (await one.get_many([key(1), key(2), key(3)])).entries == (newer, newer, None)
    assert (await other.get_many([key(1), key(2), key(3)])).entries == (FULL_ENTRY, None, None)
    await asyncio.wait_for(all_written(one, putting), 5)
    for entries in (one, other):
        assert (await entries.get_many([key(1), key(2), key(3)])).entries == (newer, newer, None)


async def all_written(entries: RedisEntries, putting: asyncio.Task[bool]) -> None:
    assert await entries.count() is not None
    assert await putting


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize("operation", ["page", "purge", "delete", "count", "clear"])
async def test_counts_and_deletions_include_the_write_buffer(operation: str, entries: RedisEntries) -> None:
    putting = await begun(entries, 1, 2)
    generation = await generation_of(entries)
    found: Any = {
        "page": lambda: entries.page("", 10),
        "purge": lambda: entries.purge(lambda about: about.key == key(1)),
        "delete": lambda: entries.delete([key(1)], generation),
        "count": entries.count,
        "clear": entries.clear,
    }[operation]
    found = await asyncio.wait_for(found(), 5)
    assert await putting
    match operation:
        case "page":
            assert sorted(entry.key for entry in found.entries) == [key(1), key(2)]
        case "count":
            assert found.keys == 2
        case "clear":
            assert found == 2
            assert await keys(entries) == []
        case _:
            assert found == 1
            assert await keys(entries) == [key(2)]


@pytest.mark.usefixtures("late")
async def test_an_entry_in_the_write_buffer_is_not_found_after_another_process_s_clear(
    connect: Connect, redis_server: RedisServer
) -> None:
    one, other = connect(redis_server).entries, connect(redis_server).entries
    putting = await begun(one, 1)
    await other.clear()
    assert (await one.get(key(1))).entry is None
    await asyncio.wait_for(all_written(one, putting), 5)
    assert [(await entries.get(key(1))).entry for entries in (one, other)] == [None, None]


@pytest.mark.usefixtures("late")
async def test_a_discarded_entry_of_the_write_buffer_is_not_found(entries: RedisEntries) -> None:
    """Another process has purged, perhaps these entries."""
    putting = await begun(entries, 1)
    entries.buffer.discard()
    assert (await entries.get(key(1))).entry is None
    putting.cancel()
    await asyncio.wait([putting])


@pytest.mark.usefixtures("late")
async def test_what_is_never_written_is_not_found(entries: RedisEntries) -> None:
    putting = await begun(entries, 1)
    putting.cancel()
    await asyncio.wait([putting])
    assert (await entries.get(key(1))).entry is None


async def test_what_could_not_be_written_is_not_found(entries: RedisEntries, redis_server: RedisServer) -> None:
    putting = await begun(entries, 1)
    redis_server.client().config_set("maxmemory", "1")
    try:
        assert not await putting
    finally:
        redis_server.client().config_set("maxmemory", "0")
    assert (await entries.get(key(1))).entry is None


@pytest.mark.parametrize(
    "remove",
    [
        pytest.param(lambda entries, _: entries.clear(), id="clear"),
        pytest.param(lambda entries, _: entries.purge(lambda _: True), id="purge"),
        pytest.param(lambda entries, generation: entries.delete([key(1)], generation), id="delete"),
    ],
)
async def test_what_removes_entries_waits_a_moment_for_a_server_that_is_away(
    remove: Any, entries: RedisEntries
) -> None:
    await fill(entries, {key(1): FULL_ENTRY})
    generation = await generation_of(entries)
    entries._guard.reads_failed(TimeoutError(), decisive=True)
    entries._guard._open(entries._guard.deletes, decisive=True)
    removed = asyncio.ensure_future(remove(entries, generation))
    await asyncio.sleep(0.01)
    entries._guard.reads_probed(0.001)
    await asyncio.sleep(0.01)
    assert not removed.done()
    entries._guard.deletes_probed(None)
    assert await removed == 1
    assert await keys(entries) == []


async def test_a_server_that_stays_away_is_not_waited_for_for_long(
    entries: RedisEntries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "WRITE_WITHIN", 0.01)
    entries._guard.reads_failed(TimeoutError(), decisive=True)
    assert await asyncio.wait_for(entries.clear(), 10) is None
