"""What all stores do: the one in memory, and those in a real Redis or Valkey or a cluster, as two processes see them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import TypeAlias

import pytest

from ollama_cache_proxy.core.store_ports import EntryStore, KeyCount, Page, StoreGauges, Tier, ValueStore
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy.messages import StoredResponse, described, packed
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.redis_url import redis_address
from ollama_cache_proxy.service.store_choice import tiered_store
from ollama_cache_proxy.stores.codecs import PlainCodec
from ollama_cache_proxy.stores.memory import MemoryStore, MemoryValues
from ollama_cache_proxy.stores.redis.cluster_client import ClusterClient
from ollama_cache_proxy.stores.redis.redis_client import Client, RedisClient
from ollama_cache_proxy.stores.redis.redis_store import RedisStore
from ollama_cache_proxy.stores.sealed_codec import SealedCodec
from ollama_cache_proxy.stores.tiered import TieredStore
from tests.support.clocks import Clock
from tests.support.entries import FULL_ENTRY
from tests.support.stores import fill, key, keys, pages, patient
from tests.support.waiting import until


@record
class View:
    """One process's view of a store."""

    entries: EntryStore
    values: ValueStore
    gauges: Sequence[StoreGauges]


Pair: TypeAlias = tuple[View, View]


@pytest.fixture(params=["memory", "redis", "sealed", "tiered", "sealed tiered", "cluster", "sealed tiered cluster"])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    """Two processes' views of one store, with long deadlines for a busy machine; memory has one only."""
    if request.param == "memory":
        memory = MemoryStore(1 << 26, clock=Clock())
        view = View(entries=memory, values=MemoryValues(), gauges=(memory,))
        yield view, view
        return
    tasks = Tasks()
    clients: list[Client]
    if "cluster" in request.param:
        address = redis_address(request.getfixturevalue("cluster").url)
        clients = [ClusterClient(address) for _ in range(2)]
        for own in clients:
            tasks.spawn(own.follow(), "follow", endless=True)
            await own.shape()
    else:
        address = redis_address(request.getfixturevalue("redis_server").url)
        clients = [RedisClient(address) for _ in range(2)]

    def view_of(client: Client) -> View:
        codec = SealedCodec(b"k" * 32) if "sealed" in request.param else PlainCodec()
        store = RedisStore(client, name="Redis", clock=Clock(), observe=print, tasks=tasks, codec=codec, longest=10.0)
        patient(store)
        view = View(entries=store.entries, values=store.values, gauges=(store.gauges,))
        if "tiered" not in request.param:
            return view
        hot = MemoryStore(1 << 26, clock=Clock(), name="hot")
        return replace(view, entries=tiered_store(hot, store.entries, client, tasks), gauges=(hot, store.gauges))

    views = [view_of(client) for client in clients]
    await until(lambda: all(getattr(view.entries, "_holding", True) for view in views))
    yield views[0], views[1]
    await tasks.close(5)
    for client in clients:
        await client.close()


@pytest.fixture
def store(pair: Pair) -> EntryStore:
    return pair[0].entries


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(FULL_ENTRY, id="whole"),
        pytest.param(replace(FULL_ENTRY, body=b""), id="empty"),
        pytest.param(replace(FULL_ENTRY, body=b"x" * (1 << 20)), id="large"),
        pytest.param(replace(FULL_ENTRY, pieces=packed([(3, 10), (5, 0), (5, 22)])), id="stream"),
        pytest.param(replace(FULL_ENTRY, body=b"x" * 999, pieces=packed([(7, 1)] * 999)), id="stream of many pieces"),
        pytest.param(replace(FULL_ENTRY, fingerprints={"model": "00ff", "prompt": ""}), id="fingerprints"),
        pytest.param(replace(FULL_ENTRY, scope="00000001.00000002.00000003..", imported=True), id="out of a pack"),
        pytest.param(replace(FULL_ENTRY, fields=((b"Vary", b"x" * 10_000),)), id="long fields"),
        pytest.param(replace(FULL_ENTRY, prompt_tokens=None, output_tokens=0, took=0.0), id="tokens"),
    ],
)
async def test_an_entry_comes_back_and_is_described(entry: StoredResponse, store: EntryStore) -> None:
    await fill(store, {key(1): entry})
    about = described(key(1), entry, len(entry.body))
    assert (await store.get(key(1))).entry == entry
    assert (await store.peek_many([key(1), key(2)])).entries == (entry, None)
    assert await store.page("", 10) == Page(entries=(about,), cursor=None)


async def test_deleting_says_how_many_there_were(store: EntryStore) -> None:
    await fill(store, {key(1): FULL_ENTRY, key(2): FULL_ENTRY})
    generation = (await store.get(key(1))).generation
    assert generation is not None
    assert await store.delete([key(1), key(3)], generation) == 1
    assert await store.delete([key(2)], "another") == 0
    assert await store.delete([], generation) == 0
    assert await store.page("", 10) == Page(entries=(described(key(2), FULL_ENTRY, len(FULL_ENTRY.body)),), cursor=None)


async def test_pages_give_each_entry_once(store: EntryStore) -> None:
    entries = {key(number): FULL_ENTRY for number in range(3000)}
    await fill(store, entries)
    found = await pages(store, 100)
    assert sorted(entry.key for page in found for entry in page.entries) == sorted(entries)
    assert all(len(page.entries) >= 100 for page in found[:-1])
    assert len(found) > 10


async def test_an_empty_store_has_an_empty_page(store: EntryStore) -> None:
    assert await store.page("", 10) == Page(entries=(), cursor=None)
    await fill(store, {key(1): FULL_ENTRY})
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
async def test_a_purge_deletes_what_matches_and_leaves_the_rest(meant, purged: int, store: EntryStore) -> None:
    entries = {key(number): replace(FULL_ENTRY, model=f"m{number % 3}", body=b"x" * number) for number in range(300)}
    await fill(store, entries)
    left = {name: entry for name, entry in entries.items() if not meant(described(name, entry, len(entry.body)))}
    assert await store.purge(meant) == purged
    assert await keys(store) == sorted(left)
    assert (await store.get_many(tuple(entries))).entries == tuple(left.get(name) for name in entries)
    assert await store.count() == KeyCount(keys=300 - purged, age=0.0)
    assert await store.purge(meant) == 0


async def test_what_is_set_first_stays_for_all(pair: Pair) -> None:
    one, other = pair[0].values, pair[1].values
    assert await one.set_default("salt", b"first") == b"first"
    assert await other.set_default("salt", b"second") == b"first"
    assert await other.set_default("pepper", b"") == b""
    assert await one.load("salt") == b"first"
    await pair[0].entries.clear()
    assert await one.set_default("salt", b"third") == b"first"


async def test_all_who_set_a_default_at_once_have_one_value(pair: Pair) -> None:
    wanted = [bytes([number]) for number in range(20)]
    found = await asyncio.gather(
        *(pair[number % 2].values.set_default("salt", value) for number, value in enumerate(wanted))
    )
    assert len(set(found)) == 1
    assert found[0] in wanted


async def test_totals_are_those_of_all_who_add(pair: Pair) -> None:
    one, other = pair[0].values, pair[1].values
    assert await one.add("stats", {"hits": 5, "misses": 2}, {}) == {"hits": 5, "misses": 2}
    assert await other.add("stats", {"hits": 3}, {}) == {"hits": 8, "misses": 2}
    assert await one.add("stats", {}, {"hits": 5, "misses": 2}) == {"hits": 8, "misses": 2}
    assert await one.add("others", {"hits": 1}, {}) == {"hits": 1}
    await pair[0].entries.clear()
    assert await one.add("stats", {"hits": 1}, {"hits": 8, "misses": 2}) == {"hits": 9, "misses": 2}


async def test_nothing_is_lost_or_added_twice_among_many(pair: Pair) -> None:
    async def adder(store: ValueStore) -> None:
        known: dict[str, int] = {}
        for number in range(50):
            totals = await store.add("stats", {"all": 1, f"{number % 5}": 2}, known)
            assert totals is not None
            known = totals

    await asyncio.gather(*(adder(pair[number % 2].values) for number in range(10)))
    assert await pair[0].values.add("stats", {}, {}) == {"all": 500} | {str(number): 200 for number in range(5)}


async def test_totals_that_the_store_does_not_know_go_on_from_what_was_seen(pair: Pair) -> None:
    """The larger of two memories may be the later one: what the store has counts, whatever is said to be known."""
    one, other = pair[0].values, pair[1].values
    assert await one.add("stats", {"hits": 1}, {"hits": 100, "misses": 7}) == {"hits": 101, "misses": 7}
    assert await other.add("stats", {"hits": 1}, {"hits": 90, "saved": 3}) == {"hits": 102, "misses": 7, "saved": 3}


async def test_it_says_how_full_it_is_where_that_is_known_without_asking(pair: Pair) -> None:
    view, _ = pair

    def tiers(*, asking: bool = True) -> list[Tier]:
        return [tier for part in view.gauges for tier in part.tiers(asking=asking)]

    def breakers() -> dict[str, bool]:
        return {name: is_open for part in view.gauges for name, is_open in part.breakers().items()}

    await fill(view.entries, {key(1): FULL_ENTRY, key(2): FULL_ENTRY})
    await view.entries.get(key(1))
    found = {tier.name: (tier.entries, tier.evicted) for tier in tiers()}
    if isinstance(view.entries, MemoryStore):
        assert found == {"memory": (2, 0)}
        assert tiers()[0].size > 2 * len(FULL_ENTRY.body)
        assert breakers() == {}
        return
    hot = isinstance(view.entries, TieredStore)
    assert found == ({"hot": (1, 0)} if hot else {})
    assert breakers() == {"read": False, "write": False, "delete": False}
    await until(lambda: "redis" in {tier.name for tier in tiers()})
    assert [tier.name for tier in tiers()] == ["hot", "redis"][not hot :]
    assert [tier.name for tier in tiers(asking=False)] == ["hot"] * hot
