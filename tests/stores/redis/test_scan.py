"""Iterating over names: cursors, pages, and how much of an entry is read."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ollama_cache_proxy.core.store_ports import Page
from ollama_cache_proxy.stores.redis import scan
from ollama_cache_proxy.stores.redis.redis_store import RedisStore
from ollama_cache_proxy.stores.redis.scan import read_cursor
from tests.support.entries import FULL_ENTRY
from tests.support.servers import RedisServer
from tests.support.stores import calls, fill, key, keys


@pytest.mark.parametrize("cursor", ["x", "-1", "+1", "1.5", " 1", "1 ", "1_0", "0x10", "١", str(2**64), "9" * 5000])
async def test_an_invalid_cursor_is_refused(cursor: str, store: RedisStore) -> None:
    with pytest.raises(ValueError):
        read_cursor(cursor)
    with pytest.raises(ValueError):
        await store.entries.page(cursor, 10)


@pytest.mark.parametrize("cursor", ["", "0", "00", "1", str(2**64 - 1)])
async def test_any_number_is_a_cursor(cursor: str, store: RedisStore) -> None:
    assert await store.entries.page(cursor, 10) == Page(entries=(), cursor=None)


async def test_a_page_among_many_names_of_others_ends_early(
    monkeypatch: pytest.MonkeyPatch, store: RedisStore, redis_server: RedisServer
) -> None:
    monkeypatch.setattr(scan, "_TURNS", 2)
    redis_server.client().mset({f"other {number}": "x" for number in range(10_000)})
    await fill(store.entries, {key(number): FULL_ENTRY for number in range(5)})
    first = await store.entries.page("", 100)
    assert first is not None
    assert first.cursor is not None
    assert len(first.entries) < 5
    before = calls(redis_server, "scan")
    assert await keys(store.entries) == [key(number) for number in range(5)]
    assert calls(redis_server, "scan") - before < 50, "names of others are looked at by the thousand"


async def test_no_body_is_read_to_describe_an_entry(store: RedisStore, redis_server: RedisServer) -> None:
    await fill(store.entries, {key(number): replace(FULL_ENTRY, body=b"x" * (1 << 20)) for number in range(20)})
    client = redis_server.client()
    before = client.info("stats")["total_net_output_bytes"]
    assert len(await keys(store.entries)) == 20
    assert await store.entries.purge(lambda entry: entry.size == 1 << 20) == 20
    assert client.info("stats")["total_net_output_bytes"] - before < 200_000


async def test_more_is_read_of_an_entry_that_its_first_bytes_do_not_describe(
    store: RedisStore, redis_server: RedisServer
) -> None:
    long = replace(FULL_ENTRY, fields=((b"Vary", b"x" * 10_000),))
    await fill(store.entries, {key(1): FULL_ENTRY, key(2): long})
    before = calls(redis_server, "getrange")
    assert await keys(store.entries) == [key(1), key(2)]
    assert calls(redis_server, "getrange") - before == 3


async def test_what_was_there_all_the_time_is_seen_while_others_come_and_go(
    store: RedisStore, redis_server: RedisServer
) -> None:
    """SCAN's promise, on which a purge rests."""
    stays = [key(number) for number in range(500)]
    await fill(store.entries, dict.fromkeys(stays, FULL_ENTRY))
    client, found, cursor, turns = redis_server.client(), [], "", 0
    while cursor is not None:
        page = await store.entries.page(cursor, 50)
        assert page is not None
        found += [entry.key for entry in page.entries]
        cursor = page.cursor
        turns += 1
        client.mset({f"other {turns} {number}": "x" for number in range(500)})
        client.delete(*(f"other {turns - 1} {number}" for number in range(500)))
    assert set(found) == set(stays)
    assert turns > 2
