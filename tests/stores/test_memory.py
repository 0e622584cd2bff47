from __future__ import annotations

import asyncio
import weakref
from collections.abc import Coroutine, Iterable
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from ollama_cache_proxy.core.store_ports import KeyCount
from ollama_cache_proxy.policy.lifetimes import FOREVER, renewals_of
from ollama_cache_proxy.policy.messages import StoredResponse, packed
from ollama_cache_proxy.stores.memory import MemoryStore, MemoryValues
from tests.support.clocks import Clock
from tests.support.entries import ENTRY

T = TypeVar("T")

OVERHEAD = 1024


@pytest.fixture
def clock():
    return Clock()


def entry(size: int = 0, *, stored_at: float = 1000.0, lifetime: int = 100) -> StoredResponse:
    return replace(ENTRY, body=b"x" * size, stored_at=stored_at, lifetime=lifetime)


def room_for(count: int, clock: Clock, size: int = 0) -> MemoryStore:
    return MemoryStore(count * (size + OVERHEAD), clock=clock)


async def put(store: MemoryStore, key: str, value: StoredResponse) -> bool:
    generation = (await store.get(key)).generation
    return await store.put([(key, value)], generation)


async def keys(store: MemoryStore, names: Iterable[str]) -> str:
    """Return which of these are there; that counts as a use."""
    return "".join([name for name in names if (await store.get(name)).entry is not None])


async def test_what_was_put_is_got(clock):
    store, value = room_for(2, clock), entry()
    assert await put(store, "a", value) is True
    assert (await store.get("a")).entry is value
    assert (await store.get("b")).entry is None


async def test_a_lookup_names_the_generation_found_or_not(clock):
    store = room_for(2, clock)
    await put(store, "a", entry())
    found, missed = await store.get("a"), await store.get("b")
    assert found.generation == missed.generation
    assert len(bytes.fromhex(found.generation)) == 16


async def test_two_stores_have_two_generations(clock):
    assert (await room_for(1, clock).get("a")).generation != (await room_for(1, clock).get("a")).generation


@pytest.mark.parametrize(("after", "there"), [(0.0, True), (99.9, True), (100.0, False), (1000.0, False)])
async def test_an_entry_is_there_while_it_is_fresh(clock, after, there):
    store = room_for(2, clock)
    await put(store, "a", entry())
    clock.time += after
    assert ((await store.get("a")).entry is not None) is there
    assert store.size == (OVERHEAD if there else 0)


async def test_the_least_recently_used_goes_first(clock):
    store = room_for(3, clock)
    for name in "abc":
        await put(store, name, entry())
    assert await keys(store, "a") == "a"
    await put(store, "d", entry())
    assert await keys(store, "abcd") == "acd"
    assert store.evicted == 1


async def test_a_put_counts_as_a_use(clock):
    store = room_for(2, clock)
    for name in "aba":
        await put(store, name, entry())
    generation = (await store.get("none")).generation
    await store.put([("c", entry())], generation)
    assert await keys(store, "abc") == "ac"


async def test_a_large_entry_takes_the_place_of_several(clock):
    store = room_for(4, clock)
    for name in "abcd":
        await put(store, name, entry())
    assert await put(store, "e", entry(2 * OVERHEAD))
    assert await keys(store, "abcde") == "de"
    assert store.size == 4 * OVERHEAD
    assert store.evicted == 3


async def test_what_is_held_never_exceeds_the_capacity(clock):
    capacity = 10 * OVERHEAD
    store = MemoryStore(capacity, clock=clock)
    for number in range(100):
        assert await put(store, str(number % 17), entry(number * 37 % 5000))
        assert store.size <= capacity
    total = sum([len(value.body) + OVERHEAD for value in store._entries.values()])
    assert store.size == total


@pytest.mark.parametrize(("size", "kept"), [(OVERHEAD, True), (OVERHEAD + 1, False), (100 * OVERHEAD, False)])
async def test_what_is_larger_than_the_store_is_not_stored_and_drives_nothing_out(clock, size, kept):
    store = room_for(2, clock)
    await put(store, "a", entry())
    assert await put(store, "b", entry(size)) is kept
    assert await keys(store, "ab") == ("b" if kept else "a")


async def test_a_second_put_replaces_the_first(clock):
    store = room_for(5, clock)
    await put(store, "a", entry(10))
    second = entry(20)
    assert await put(store, "a", second)
    assert (await store.get("a")).entry is second
    assert store.size == 20 + OVERHEAD
    assert await store.count() == KeyCount(keys=1, age=0.0)
    assert store.evicted == 0


async def test_delete_takes_one_out(clock):
    store = room_for(5, clock)
    await put(store, "a", entry(10))
    await put(store, "b", entry(10))
    generation = (await store.get("b")).generation
    assert [await store.delete([name], generation) for name in ("a", "a", "unknown")] == [1, 0, 0]
    assert await keys(store, "ab") == "b"
    assert store.size == 10 + OVERHEAD


async def test_clear_takes_all_out_and_says_how_many(clock):
    store = room_for(5, clock)
    for name in "abc":
        await put(store, name, entry())
    assert await store.clear() == 3
    assert await keys(store, "abc") == ""
    assert store.size == 0
    assert await store.clear() == 0


async def test_what_was_asked_before_a_clear_is_not_stored_after_it(clock):
    store = room_for(5, clock)
    generation = (await store.get("a")).generation
    await store.clear()
    assert await store.put([("a", entry())], generation) is False
    assert await keys(store, "a") == ""
    assert store.size == 0
    assert await put(store, "a", entry()) is True


@pytest.mark.parametrize("generation", ["", "0" * 32, "unknown"])
async def test_another_generation_is_not_stored(clock, generation):
    store = room_for(5, clock)
    assert await store.put([("a", entry())], generation) is False


async def test_expired_entries_are_not_counted(clock):
    store = room_for(5, clock)
    await put(store, "a", entry(lifetime=10))
    await put(store, "b", entry(lifetime=20))
    await put(store, "c", entry(lifetime=30))
    assert await store.count() == KeyCount(keys=3, age=0.0)
    clock.time += 20
    assert await store.count() == KeyCount(keys=1, age=0.0)
    assert store.size == OVERHEAD
    await put(store, "d", entry(lifetime=25))
    clock.time += 5
    assert await store.clear() == 1
    assert store.evicted == 0


async def page(store: MemoryStore, cursor: str, limit: int) -> tuple[str, str | None]:
    found = await store.page(cursor, limit)
    return "".join([entry.key for entry in found.entries]), found.cursor


@pytest.mark.parametrize(
    ("cursor", "limit", "expected"),
    [
        ("", 2, ("ab", "b")),
        ("b", 2, ("ce", "e")),
        ("e", 2, ("f", None)),
        ("d", 2, ("ef", None)),
        ("f", 2, ("", None)),
        ("", 5, ("abcef", None)),
        ("", 6, ("abcef", None)),
        ("", 4, ("abce", "e")),
    ],
)
async def test_pages_are_in_the_order_of_the_keys(clock, cursor, limit, expected):
    store = room_for(6, clock)
    for name in "fcbea":
        await put(store, name, entry())
    assert await page(store, cursor, limit) == expected


async def test_expired_entries_are_not_shown(clock):
    store = room_for(3, clock)
    await put(store, "a", entry(lifetime=10))
    await put(store, "b", entry(lifetime=20))
    clock.time += 10
    assert await page(store, "", 10) == ("b", None)
    assert await store.purge(lambda _: True) == 1
    assert store.size == 0


async def test_to_list_an_entry_is_no_use_of_it(clock):
    store = room_for(2, clock)
    for name in "ab":
        await put(store, name, entry())
    assert await page(store, "", 10) == ("ab", None)
    await put(store, "c", entry())
    assert await keys(store, "abc") == "bc"


async def test_a_purge_gives_back_what_the_entries_held(clock):
    store = room_for(5, clock, size=100)
    for number, name in enumerate("abc"):
        await put(store, name, entry(number))
    assert await store.purge(lambda about: about.size < 2) == 2
    assert store.size == 2 + OVERHEAD
    assert store.evicted == 0
    assert await keys(store, "abc") == "c"


async def test_totals_that_were_given_are_not_the_stores_own():
    values = MemoryValues()
    totals = await values.add("stats", {"hits": 1}, {})
    totals["hits"] = 99
    assert await values.add("stats", {"hits": 1}, {}) == {"hits": 2}


async def test_everything_that_clients_can_make_large_counts(clock):
    more = {"pieces": packed([(0, 1)] * 100), "namespace": "n" * 128, "fields": ((b"Vary", b"x" * 1000),)}
    store = room_for(100, clock)
    await put(store, "a", replace(entry(), **more, fingerprints={"m" * 64: "0" * 16}))
    assert store.size >= OVERHEAD + 800 + 128 + 1000 + 64
    await store.clear()
    assert store.size == 0


async def test_others_go_on_while_many_entries_are_purged(clock):
    store = room_for(3000, clock)
    for number in range(2000):
        await put(store, f"{number:04}", entry())
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    assert await store.purge(lambda _: True) == 2000
    task.cancel()
    assert turns > 10


async def many(clock: Clock, count: int = 9000) -> MemoryStore:
    """Return a store of many entries, a third of which have expired."""
    store = room_for(count, clock)
    for number in range(count):
        store.add(f"{number:04x}", entry(lifetime=10 if number % 3 == 0 else 100))
    clock.time += 20
    return store


async def turns_of(work: Coroutine[Any, Any, T]) -> tuple[T, int]:
    """Return the result, and in how many turns of the event loop it was made."""
    task, turns = asyncio.ensure_future(work), 0
    while not task.done():
        turns += 1
        await asyncio.sleep(0)
    return task.result(), turns


async def test_many_entries_are_cleared_at_once_and_freed_in_turns(clock):
    store = await many(clock)
    generation = (await store.get("")).generation
    clearing = asyncio.ensure_future(turns_of(store.clear()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not clearing.done()
    assert (store.size, await keys(store, ["0001"]), await store.count()) == (0, "", KeyCount(keys=0, age=0.0))
    assert await store.put([("0001", entry())], generation) is False
    assert await put(store, "0002", entry()) is True
    cleared, turns = await clearing
    assert cleared == 6000
    assert turns > 4
    assert await keys(store, ["0001", "0002"]) == "0002"
    assert await store.count() == KeyCount(keys=1, age=0.0)


async def test_many_entries_are_counted_in_turns(clock):
    store = await many(clock)
    (counted, turns), size = await turns_of(store.count()), store.size
    assert counted == KeyCount(keys=6000, age=0.0)
    assert turns > 4
    assert size == 6000 * OVERHEAD


async def test_many_entries_are_dropped_at_once_and_freed_in_turns(clock):
    store, held = room_for(9000, clock), []
    for number in range(8000):
        held.append(weakref.ref(name := Namespace("x")))
        store.add(f"{number:04x}", replace(entry(), namespace=name))
    del name
    store.empty()
    assert (store.size, await store.count()) == (0, KeyCount(keys=0, age=0.0))
    assert 0 < sum(name() is not None for name in held) < 8000
    for _ in range(10):
        await asyncio.sleep(0)
    assert all(name() is None for name in held)


class Namespace(str):
    """A text of which it is told when it is freed."""

    __slots__ = ("__weakref__",)


# idle entries


def idle(stored_at: float = 1000.0) -> StoredResponse:
    return replace(entry(stored_at=stored_at), idle=20)


@pytest.mark.parametrize(("after", "there"), [(19.9, "a"), (20, ""), (50, "")])
async def test_an_idle_entry_is_there_until_its_idle_time_is_over(clock, after, there):
    store = room_for(2, clock)
    await put(store, "a", idle())
    clock.time += after
    assert await keys(store, "a") == there
    assert (await store.page("", 10)).entries == () or there
    assert (await store.count()).keys == len(there)


async def test_a_renewed_entry_stays_for_its_idle_time_and_never_beyond_its_lifetime(clock):
    store = room_for(2, clock)
    await put(store, "a", idle())
    for _ in range(6):
        clock.time += 16
        store.renew(renewals_of([("a", idle())]))
        assert await keys(store, "a") == "a"
    clock.time = 1099.9
    assert await keys(store, "a") == "a"
    clock.time = 1100.0
    assert await keys(store, "a") == ""


async def test_to_look_at_an_idle_entry_renews_nothing(clock):
    store = room_for(2, clock)
    await put(store, "a", idle())
    for _ in range(2):
        clock.time += 9
        assert await keys(store, "a") == "a"
        assert len((await store.page("", 10)).entries) == 1
    clock.time += 2
    assert await keys(store, "a") == ""


async def test_nothing_but_the_entry_that_was_served_is_renewed(clock):
    store, served = room_for(4, clock), renewals_of([("a", idle()), ("b", idle()), ("gone", idle())])
    await put(store, "a", idle(stored_at=1001.0))
    await put(store, "b", entry(lifetime=30))
    clock.time += 15
    store.renew(served)
    assert await keys(store, ["gone"]) == ""
    clock.time += 5
    assert await keys(store, "ab") == "b", "a was stored anew since"
    clock.time += 10
    assert await keys(store, "ab") == "", "b has a fixed lifetime"


async def test_a_clear_forgets_idle_times_and_counts_what_was_there(clock):
    store = room_for(4, clock)
    await put(store, "a", idle())
    clock.time += 10
    await put(store, "b", idle())
    clock.time += 10
    assert await store.clear() == 1
    await put(store, "a", entry(stored_at=clock.time))
    clock.time += 50
    assert await keys(store, "a") == "a"


async def test_what_lives_until_it_is_evicted_goes_when_its_room_is_needed(clock):
    store = room_for(2, clock)
    await put(store, "a", entry(lifetime=FOREVER))
    clock.time += 10 * 365 * 86_400
    assert await keys(store, "a") == "a"
    await put(store, "b", entry(stored_at=clock.time))
    await put(store, "c", entry(stored_at=clock.time))
    assert await keys(store, "abc") == "bc"
