"""What the hot tier holds, and when it may not; test_stores.py tests that it is a store like the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from ollama_cache_proxy.core.store_ports import Lookup, Lookups
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy.lifetimes import renewals_of
from ollama_cache_proxy.stores import tiered as module
from ollama_cache_proxy.stores.memory import MemoryStore
from ollama_cache_proxy.stores.tiered import TieredStore
from tests.support.clocks import Clock
from tests.support.entries import FULL_ENTRY
from tests.support.waiting import until

ONE, TWO = "a" * 64, "b" * 64


class ByLists:
    """Looks one entry up as a list of one."""

    get_many: Any

    async def get(self, key: str) -> Lookup:
        found = await self.get_many((key,))
        return Lookup(entry=found.entries[0], generation=found.generation)


class Back(ByLists, MemoryStore):
    """Notes the keys that are asked for, and returns entries when the test lets it."""

    def __init__(self) -> None:
        super().__init__(1 << 20, clock=Clock())
        self.asked: list[str] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.works = True
        self.touched: list[str] = []

    async def touch(self, keys: Any, generation: str) -> None:
        self.touched += keys

    async def get_many(self, keys: Any) -> Lookups:
        self.asked += keys
        found, may_answer = Lookups(entries=tuple(map(self.held, keys)), generation=self._generation), self.may_answer
        await may_answer.wait()
        return found if self.works else Lookups(entries=(None,) * len(keys), generation=None)


@pytest.fixture
def back() -> Back:
    return Back()


class TieredByLists(ByLists, TieredStore):
    pass


@pytest.fixture(params=[TieredStore, TieredByLists])
async def tiered(request: pytest.FixtureRequest, back: Back) -> AsyncIterator[TieredStore]:
    tasks = Tasks()
    store: TieredStore = request.param(MemoryStore(1 << 20, clock=Clock()), back, tasks=tasks)
    store.resume()
    back.add(ONE, FULL_ENTRY)
    back.add(TWO, replace(FULL_ENTRY, body=b"two"))
    yield store
    store.suspend()
    await tasks.close(1)


async def test_what_was_read_once_is_not_asked_for_again(tiered: TieredStore, back: Back) -> None:
    first, again = await tiered.get(ONE), await tiered.get(ONE)
    assert first == again
    assert tiered.held(ONE) is again.entry is not None
    assert back.asked == [ONE]


async def test_of_a_list_only_what_is_not_held_is_asked_for(tiered: TieredStore, back: Back) -> None:
    await tiered.get(TWO)
    found = await tiered.get_many((ONE, TWO, "c" * 64))
    assert [entry and entry.body for entry in found.entries] == [FULL_ENTRY.body, b"two", None]
    assert back.asked == [TWO, ONE, "c" * 64]


async def test_a_peek_takes_no_place(tiered: TieredStore, back: Back) -> None:
    """A pack would push out what clients use."""
    assert (await tiered.peek_many([ONE])).entries != (None,)
    assert tiered.held(ONE) is None
    back.asked.clear()
    await tiered.get_many([ONE])
    assert back.asked == [ONE]


async def test_the_store_is_told_what_is_used(monkeypatch: pytest.MonkeyPatch, tiered: TieredStore, back: Back) -> None:
    monkeypatch.setattr(module, "TOUCH_EVERY", 0.02)
    await tiered.get_many((ONE, TWO))
    await asyncio.sleep(0.05)
    assert back.touched == [], "what was read there counts as used there"
    for _ in range(3):
        await tiered.get(ONE)
    await until(lambda: back.touched)
    assert back.touched == [ONE]
    await tiered.get(TWO)
    await until(lambda: back.touched == [ONE, TWO])
    await tiered.get(TWO)
    tiered.suspend()
    await asyncio.sleep(0.05)
    assert back.touched == [ONE, TWO]


async def test_what_is_served_is_renewed_in_the_store_alone(tiered: TieredStore, back: Back) -> None:
    idle = replace(FULL_ENTRY, idle=20, stored_at=1000.0)
    back.add(ONE, idle)
    clock: Any = back._clock
    await tiered.get(ONE)
    clock.time += 15
    tiered.renew(renewals_of([(ONE, idle)]))
    clock.time += 15
    assert back.held(ONE) is idle


async def test_while_suspended_it_holds_nothing(tiered: TieredStore, back: Back) -> None:
    await tiered.get(ONE)
    tiered.suspend()
    assert tiered.held(ONE) is None
    assert (await tiered.get(ONE)).entry == FULL_ENTRY
    assert tiered.held(ONE) is None
    assert back.asked == [ONE, ONE]
    tiered.resume()
    await tiered.get(ONE)
    assert tiered.held(ONE) == FULL_ENTRY


@pytest.mark.parametrize("told", [[ONE], [ONE, TWO], None, [str(number) for number in range(5000)]])
async def test_an_invalidated_entry_is_dropped(told: list[str] | None, tiered: TieredStore) -> None:
    await tiered.get(ONE)
    tiered.invalidate(told)
    assert tiered.held(ONE) is None


@pytest.mark.parametrize("told", [[ONE], None])
async def test_what_changes_while_it_is_read_is_not_held(
    told: list[str] | None, tiered: TieredStore, back: Back
) -> None:
    back.may_answer.clear()
    reading = [asyncio.create_task(tiered.get(ONE)) for _ in range(2)]
    await asyncio.sleep(0)
    tiered.invalidate(told)
    back.may_answer.set()
    await asyncio.gather(*reading)
    assert tiered.held(ONE) is None
    assert not tiered._reading
    await tiered.get(ONE)
    assert tiered.held(ONE) == FULL_ENTRY


async def test_what_was_read_before_a_change_is_not_held_because_of_what_is_read_after_it(
    tiered: TieredStore, back: Back
) -> None:
    """The early one ends while the late one, of the same key, is still in progress."""
    back.may_answer.clear()
    early = asyncio.create_task(tiered.get(ONE))
    await asyncio.sleep(0)
    tiered.invalidate([ONE])
    may_answer, back.may_answer = back.may_answer, asyncio.Event()
    late = asyncio.create_task(tiered.get(ONE))
    await asyncio.sleep(0)
    may_answer.set()
    await early
    assert tiered.held(ONE) is None
    back.may_answer.set()
    await late
    assert tiered.held(ONE) == FULL_ENTRY
    assert not tiered._reading


async def test_one_that_is_cancelled_leaves_nothing_behind(tiered: TieredStore, back: Back) -> None:
    back.may_answer.clear()
    reading = asyncio.create_task(tiered.get(ONE))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    back.may_answer.set()
    assert not tiered._reading


async def test_another_generation_makes_all_of_it_old(tiered: TieredStore, back: Back) -> None:
    """A lookup shows it before the invalidation arrives."""
    await tiered.get(ONE)
    await back.clear()
    assert (await tiered.get_many((ONE, TWO))).entries == (None, None)
    assert tiered.held(ONE) is None


async def test_a_store_that_does_not_answer_costs_what_is_held_nothing(tiered: TieredStore, back: Back) -> None:
    await tiered.get(ONE)
    back.works = False
    assert (await tiered.get(ONE)).entry == FULL_ENTRY
    back.asked.clear()
    assert await tiered.get_many((ONE, TWO)) == Lookups(entries=(FULL_ENTRY, None), generation=None)
    assert back.asked == [TWO], "it is not asked again"
    assert (await tiered.get(ONE)).entry == FULL_ENTRY


async def test_what_was_held_when_the_store_stopped_answering_is_not_returned_after_that(
    tiered: TieredStore, back: Back
) -> None:
    """Invalidations may have been lost meanwhile."""
    await tiered.get(ONE)
    back.works = False
    back.may_answer.clear()
    reading = asyncio.create_task(tiered.get_many((ONE, TWO)))
    await until(lambda: TWO in back.asked)
    tiered.suspend()
    back.may_answer.set()
    assert await reading == Lookups(entries=(None, None), generation=None)


async def test_a_put_a_deletion_a_clear_and_a_purge_drop_the_held_entries(tiered: TieredStore, back: Back) -> None:
    generation = (await tiered.get(ONE)).generation or ""
    new = replace(FULL_ENTRY, body=b"new")
    await tiered.put([(ONE, new)], generation)
    assert (await tiered.get(ONE)).entry == new
    await tiered.delete([ONE], generation)
    assert (await tiered.get(ONE)).entry is None
    await tiered.get(TWO)
    assert await tiered.purge(lambda _: True) == 1
    assert (await tiered.get(TWO)).entry is None
    back.add(ONE, FULL_ENTRY)
    await tiered.get(ONE)
    assert await tiered.clear() == 1
    assert (await tiered.get(ONE)).entry is None
