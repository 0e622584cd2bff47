"""Sealed entries in a real Redis: what others can read of them, what becomes of those that cannot be read here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ollama_cache_proxy.core.facts import Event, Fault, StoreFault
from ollama_cache_proxy.stores.codecs import Codec, PlainCodec
from ollama_cache_proxy.stores.redis.redis_entries import RedisEntries
from ollama_cache_proxy.stores.sealed_codec import SealedCodec
from tests.stores.redis.conftest import Connect
from tests.support.entries import FULL_ENTRY
from tests.support.kept_servers import files, kept_server
from tests.support.servers import RedisServer
from tests.support.stores import fill, generation_of, key, keys, patient
from tests.support.waiting import until

SEALED, OTHER, PLAIN = SealedCodec(b"a" * 32), SealedCodec(b"b" * 32), PlainCodec()
NEWER = replace(FULL_ENTRY, body=b"newer")


@pytest.fixture
def entries(connect: Connect, redis_server: RedisServer) -> RedisEntries:
    return connect(redis_server, SEALED).entries


def faults(told: list[Event]) -> list[Fault]:
    return [event.kind for event in told if isinstance(event, StoreFault)]


async def name(entries: RedisEntries, number: int) -> str:
    return f"ocp:1:e:{await generation_of(entries)}:{key(number)}"


async def test_an_entry_that_is_longer_than_what_is_read_at_first_is_listed(
    entries: RedisEntries, redis_server: RedisServer
) -> None:
    long = replace(FULL_ENTRY, fields=((b"X-Long", b"x" * 5000),), body=b"y" * 100_000)
    await fill(entries, {key(1): long, key(2): FULL_ENTRY})
    page = await entries.page("", 100)
    assert page is not None
    assert {entry.key: (entry.size, entry.category) for entry in page.entries} == {
        key(1): (100_000, "batch"),
        key(2): (len(FULL_ENTRY.body), "batch"),
    }
    assert await entries.purge(lambda entry: entry.size > 50_000) == 1
    assert await keys(entries) == [key(2)]


@pytest.mark.parametrize("ask", ["get", "get_many"])
async def test_a_damaged_value_is_told_of_and_removed(
    ask: str, entries: RedisEntries, redis_server: RedisServer, told: list[Event]
) -> None:
    await fill(entries, {key(1): FULL_ENTRY, key(2): FULL_ENTRY})
    damaged, client = await name(entries, 1), redis_server.client()
    client.setrange(damaged, 100, b"\0" if client.getrange(damaged, 100, 100) != b"\0" else b"\1")
    if ask == "get":
        assert (await entries.get(key(1))).entry is None
    else:
        assert (await entries.get_many([key(1), key(2)])).entries == (None, FULL_ENTRY)
    assert faults(told) == [Fault.DAMAGED]
    await until(lambda: not client.exists(damaged))
    assert client.exists(await name(entries, 2))


async def test_an_entry_that_was_moved_is_not_served(
    entries: RedisEntries, redis_server: RedisServer, told: list[Event]
) -> None:
    await fill(entries, {key(1): FULL_ENTRY})
    client = redis_server.client()
    value = client.get(await name(entries, 1))
    client.set(await name(entries, 2), value)
    assert (await entries.get(key(2))).entry is None
    await entries.clear()
    client.set(await name(entries, 1), value)
    assert (await entries.get(key(1))).entry is None
    assert await keys(entries) == []
    assert faults(told) == [Fault.DAMAGED] * 2


@pytest.mark.parametrize(
    ("writes", "reads"),
    [
        pytest.param(SEALED, OTHER, id="another key"),
        pytest.param(SEALED, PLAIN, id="no key"),
        pytest.param(PLAIN, SEALED, id="in the clear"),
    ],
)
async def test_what_another_proxy_can_read_is_a_miss_here_and_stays(
    writes: Codec, reads: Codec, connect: Connect, redis_server: RedisServer, told: list[Event]
) -> None:
    theirs, ours = connect(redis_server, writes).entries, connect(redis_server, reads).entries
    await fill(theirs, {key(1): FULL_ENTRY})
    assert (await ours.get(key(1))).entry is None
    assert (await ours.get_many([key(1), key(2)])).entries == (None, None)
    assert faults(told) == [Fault.FOREIGN] * 2
    assert await keys(ours) == []
    assert await ours.purge(lambda _: True) == 0, "filters cannot tell what it is"
    assert (await theirs.get(key(1))).entry == FULL_ENTRY
    count = await ours.count()
    assert count is not None
    assert count.keys == 1


async def test_of_two_keys_the_later_write_is_found_and_a_clear_drops_both(
    connect: Connect, redis_server: RedisServer
) -> None:
    """Each replaces what the other has stored under a key, and neither deletes what it cannot read."""
    one, two = connect(redis_server, SEALED).entries, connect(redis_server, OTHER).entries
    await fill(one, {key(1): FULL_ENTRY, key(2): FULL_ENTRY})
    assert (await two.get(key(1))).entry is None
    await fill(two, {key(1): NEWER})
    assert (await two.get(key(1))).entry == NEWER
    assert (await one.get(key(1))).entry is None
    assert (await two.get(key(1))).entry == NEWER
    assert (await one.get(key(2))).entry == FULL_ENTRY
    await one.clear()
    assert [(await store.get(key(number))).entry for store in (one, two) for number in (1, 2)] == [None] * 4


@pytest.mark.parametrize("codec", [SEALED, PLAIN])
async def test_the_files_of_a_kept_store_show_nothing_of_what_is_sealed(codec: Codec, tmp_path: Path) -> None:
    planted = replace(FULL_ENTRY, body=b"planted-body" * 9, model="planted-model", category="planted-category")
    with kept_server(tmp_path / "kept") as server:
        async with server.store(codec) as store:
            patient(store)
            await fill(store.entries, {key(1): planted})
        server.client().execute_command("BGREWRITEAOF")
        await until(lambda: not server.client().info("persistence")["aof_rewrite_in_progress"])
        kept = b"".join(files(server.folder).values())
        server.kill()
        server.start()
        async with server.store(codec) as store:
            patient(store)
            assert (await store.entries.get(key(1))).entry == planted
    assert (b"planted" in kept) is not codec.sealed
    assert key(1).encode() in kept


async def test_a_value_of_another_type_is_no_entry(entries: RedisEntries, redis_server: RedisServer) -> None:
    client: Any = redis_server.client()
    client.rpush(await name(entries, 1), "x")
    assert (await entries.get(key(1))).entry is None
    assert await keys(entries) == []
