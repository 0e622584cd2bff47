"""What every store does alike: the one in memory, and the one in a real Redis or Valkey, as two processes see it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TypeAlias

import pytest

from ollama_cache_proxy.core.ports import KeyCount, Page, Store
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy.messages import StoredResponse, described, packed
from ollama_cache_proxy.service.store_choice import tiered_store
from ollama_cache_proxy.stores.memory import MemoryStore
from ollama_cache_proxy.stores.redis import redis_store
from ollama_cache_proxy.stores.redis.redis_store import RedisStore
from tests.support.waiting import until

ENTRY = StoredResponse(
    status=200,
    reason="OK",
    fields=((b"Content-Type", b"application/json"),),
    body=b'{"response":"hello","done":true}',
    stored_at=1000.0,
    lifetime=3600,
    took=1.5,
    operation="generate",
    model="registry.ollama.ai/library/tiny:latest",
    category="batch",
    namespace="team",
    prompt_tokens=7,
    output_tokens=None,
)

Pair: TypeAlias = tuple[Store, Store]


class Clock:
    def now(self) -> float:
        return 1000.0

    def monotonic(self) -> float:
        return 50.0


@pytest.fixture(params=["memory", "redis", "tiered"])
async def pair(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pair]:
    """Two processes' views of one store, with patience for a busy machine; that in memory is one process's only."""
    if request.param == "memory":
        store = MemoryStore(1 << 26, clock=Clock())
        yield store, store
        return
    monkeypatch.setattr(redis_store, "_CONNECT", 5.0)
    monkeypatch.setattr(redis_store, "_READ", 5.0)
    server, tasks = request.getfixturevalue("redis_server"), Tasks()
    views = [RedisStore(server.url, name="Redis", clock=Clock(), observe=print, tasks=tasks) for _ in range(2)]
    if request.param == "tiered":
        tiers = [tiered_store(view, 1 << 26, Clock(), tasks) for view in views]
        await until(lambda: all(tier._awake for tier in tiers))
        yield tiers[0], tiers[1]
    else:
        yield views[0], views[1]
    await tasks.close(5)
    for view in views:
        await view.close()


@pytest.fixture
def store(pair: Pair) -> Store:
    return pair[0]


def key(number: int) -> str:
    return f"{number:064x}"


async def fill(store: Store, entries: dict[str, StoredResponse]) -> None:
    generation = (await store.get(key(0))).generation
    assert generation is not None
    assert await store.put(list(entries.items()), generation)


async def pages(store: Store, limit: int) -> list[Page]:
    found: list[Page] = []
    cursor: str | None = ""
    while cursor is not None:
        page = await store.page(cursor, limit)
        assert page is not None
        found.append(page)
        cursor = page.cursor
    return found


async def keys(store: Store) -> list[str]:
    return sorted(entry.key for page in await pages(store, 100) for entry in page.entries)


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(ENTRY, id="whole"),
        pytest.param(replace(ENTRY, body=b""), id="empty"),
        pytest.param(replace(ENTRY, body=b"x" * (1 << 20)), id="large"),
        pytest.param(replace(ENTRY, pieces=packed([(3, 10), (5, 0), (5, 22)])), id="stream"),
        pytest.param(replace(ENTRY, body=b"x" * 999, pieces=packed([(7, 1)] * 999)), id="stream of many pieces"),
        pytest.param(replace(ENTRY, marks={"model": "00ff", "prompt": ""}), id="marks"),
        pytest.param(replace(ENTRY, fields=((b"Vary", b"x" * 10_000),)), id="long fields"),
        pytest.param(replace(ENTRY, prompt_tokens=None, output_tokens=0, took=0.0), id="tokens"),
    ],
)
async def test_an_entry_comes_back_and_is_described(entry: StoredResponse, store: Store) -> None:
    await fill(store, {key(1): entry})
    about = described(key(1), entry, len(entry.body))
    assert (await store.get(key(1))).entry == entry
    assert await store.page("", 10) == Page(entries=(about,), cursor=None)


async def test_deleting_says_how_many_there_were(store: Store) -> None:
    await fill(store, {key(1): ENTRY, key(2): ENTRY})
    generation = (await store.get(key(1))).generation
    assert generation is not None
    assert await store.delete([key(1), key(3)], generation) == 1
    assert await store.delete([key(2)], "another") == 0
    assert await store.delete([], generation) == 0
    assert await store.page("", 10) == Page(entries=(described(key(2), ENTRY, len(ENTRY.body)),), cursor=None)


async def test_pages_give_each_entry_once(store: Store) -> None:
    entries = {key(number): ENTRY for number in range(3000)}
    await fill(store, entries)
    found = await pages(store, 100)
    assert sorted(entry.key for page in found for entry in page.entries) == sorted(entries)
    assert all(len(page.entries) >= 100 for page in found[:-1])
    assert len(found) > 10


async def test_an_empty_store_has_an_empty_page(store: Store) -> None:
    assert await store.page("", 10) == Page(entries=(), cursor=None)
    await fill(store, {key(1): ENTRY})
    assert await store.clear() == 1
    assert await store.page("", 10) == Page(entries=(), cursor=None)


@pytest.mark.parametrize(
    ("meant", "purged"),
    [
        pytest.param(lambda entry: entry.model == "m1", 100, id="model"),
        pytest.param(lambda entry: entry.key == key(7), 1, id="key"),
        pytest.param(lambda entry: entry.size > 250, 49, id="size"),
        pytest.param(lambda _: False, 0, id="none"),
        pytest.param(lambda _: True, 300, id="all"),
    ],
)
async def test_a_purge_takes_what_is_meant_and_leaves_the_rest(meant, purged: int, store: Store) -> None:
    entries = {key(number): replace(ENTRY, model=f"m{number % 3}", body=b"x" * number) for number in range(300)}
    await fill(store, entries)
    left = {name: entry for name, entry in entries.items() if not meant(described(name, entry, len(entry.body)))}
    assert await store.purge(meant) == purged
    assert await keys(store) == sorted(left)
    assert (await store.get_many(tuple(entries))).entries == tuple(left.get(name) for name in entries)
    assert await store.count() == KeyCount(keys=300 - purged, age=0.0)
    assert await store.purge(meant) == 0


async def test_what_is_settled_first_stays_for_all(pair: Pair) -> None:
    one, other = pair
    assert await one.settle("salt", b"first") == b"first"
    assert await other.settle("salt", b"second") == b"first"
    assert await other.settle("pepper", b"") == b""
    assert await one.load("salt") == b"first"
    await one.clear()
    assert await one.settle("salt", b"third") == b"first"


async def test_all_who_settle_at_once_have_one_value(pair: Pair) -> None:
    wanted = [bytes([number]) for number in range(20)]
    settled = await asyncio.gather(*(pair[number % 2].settle("salt", value) for number, value in enumerate(wanted)))
    assert len(set(settled)) == 1
    assert settled[0] in wanted


async def test_totals_are_those_of_all_who_add(pair: Pair) -> None:
    one, other = pair
    assert await one.add("stats", {"hits": 5, "misses": 2}, {}) == {"hits": 5, "misses": 2}
    assert await other.add("stats", {"hits": 3}, {}) == {"hits": 8, "misses": 2}
    assert await one.add("stats", {}, {"hits": 5, "misses": 2}) == {"hits": 8, "misses": 2}
    assert await one.add("others", {"hits": 1}, {}) == {"hits": 1}
    await one.clear()
    assert await one.add("stats", {"hits": 1}, {"hits": 8, "misses": 2}) == {"hits": 9, "misses": 2}


async def test_nothing_is_lost_or_added_twice_among_many(pair: Pair) -> None:
    async def adder(store: Store) -> None:
        known: dict[str, int] = {}
        for number in range(50):
            totals = await store.add("stats", {"all": 1, f"{number % 5}": 2}, known)
            assert totals is not None
            known = totals

    await asyncio.gather(*(adder(pair[number % 2]) for number in range(10)))
    assert await pair[0].add("stats", {}, {}) == {"all": 500} | {str(number): 200 for number in range(5)}


async def test_totals_that_the_store_does_not_know_go_on_from_what_was_seen(pair: Pair) -> None:
    """The larger of two memories may be the later one: what the store has counts, whatever is said to be known."""
    one, other = pair
    assert await one.add("stats", {"hits": 1}, {"hits": 100, "misses": 7}) == {"hits": 101, "misses": 7}
    assert await other.add("stats", {"hits": 1}, {"hits": 90, "saved": 3}) == {"hits": 102, "misses": 7, "saved": 3}


async def test_it_says_how_full_it_is_where_that_is_known_without_asking(pair: Pair) -> None:
    store, _ = pair
    await fill(store, {key(1): ENTRY, key(2): ENTRY})
    await store.get(key(1))
    tiers = {tier.name: (tier.entries, tier.evicted) for tier in store.tiers(asking=True)}
    if isinstance(store, MemoryStore):
        assert tiers == {"memory": (2, 0)}
        assert store.tiers(asking=True)[0].size > 2 * len(ENTRY.body)
        assert store.breakers() == {}
        return
    assert tiers == ({} if isinstance(store, RedisStore) else {"hot": (1, 0)})
    assert store.breakers() == {"read": False, "write": False}
    await until(lambda: "redis" in {tier.name for tier in store.tiers(asking=True)})
