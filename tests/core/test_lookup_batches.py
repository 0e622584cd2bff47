"""Lookups that begin in one turn of the event loop ask the store once, and each gets its own entry."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from ollama_cache_proxy.core.lookup_batches import LookupBatches
from ollama_cache_proxy.core.store_ports import Lookup, Lookups
from ollama_cache_proxy.core.tasks import Tasks
from tests.support.entries import ENTRY


class Store:
    """Has entries of keys that begin with `k`, and answers when `answers` is set."""

    def __init__(self, generation: str | None = "g") -> None:
        self.asked: list[list[str]] = []
        self.answers = asyncio.Event()
        self.answers.set()
        self._generation = generation

    async def get_many(self, keys: Sequence[str]) -> Lookups:
        self.asked.append([*keys])
        await self.answers.wait()
        entries = tuple(ENTRY if key.startswith("k") else None for key in keys)
        return Lookups(entries=entries, generation=self._generation)


def batches(store: Any) -> LookupBatches:
    return LookupBatches(store, Tasks())


def named(name: bytes) -> Any:
    """Return a function that says what the lookup found, after a name."""
    return lambda lookup: None if lookup.entry is None else name + lookup.entry.body


async def test_those_that_begin_in_one_turn_are_asked_for_together() -> None:
    store = Store()
    looking = batches(store)
    found = [looking.ask(key, named(key.encode())) for key in ("k1", "x", "k2", "k1")]
    assert await asyncio.gather(*found) == [b"k1" + ENTRY.body, None, b"k2" + ENTRY.body, b"k1" + ENTRY.body]
    assert await looking.ask("k3", named(b"")) == ENTRY.body
    assert store.asked == [["k1", "x", "k2", "k1"], ["k3"]]


async def test_those_of_a_later_turn_do_not_wait_for_the_ones_before() -> None:
    store = Store()
    looking = batches(store)
    store.answers.clear()
    first = looking.ask("k1", named(b""))
    await asyncio.sleep(0.01)
    second = looking.ask("k2", named(b""))
    await asyncio.sleep(0.01)
    assert store.asked == [["k1"], ["k2"]]
    store.answers.set()
    assert await asyncio.gather(first, second) == [ENTRY.body] * 2


async def test_the_generation_is_told_also_where_there_is_none() -> None:
    lookups: list[Lookup] = []
    assert await batches(Store(None)).ask("x", lookups.append) is None
    assert lookups == [Lookup(entry=None, generation=None)]


async def test_what_is_no_longer_waited_for_is_not_made() -> None:
    made: list[bytes] = []

    def make(lookup: Lookup) -> bytes:
        made.append(b"made")
        return b"made"

    looking = batches(Store())
    left, stays = looking.ask("k1", make), looking.ask("k2", make)
    left.cancel()
    assert await stays == b"made"
    assert made == [b"made"]


async def test_an_error_cancels_all_that_have_no_response_yet_and_is_reported() -> None:
    reported: list[BaseException] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))

    def fail(_: Lookup) -> bytes:
        raise ValueError("no response")

    looking = batches(Store())
    first, second, third = looking.ask("k1", named(b"")), looking.ask("k2", fail), looking.ask("k3", named(b""))
    assert await first == ENTRY.body
    for response in (second, third):
        with pytest.raises(asyncio.CancelledError):
            await response
    await asyncio.sleep(0)
    assert [type(error) for error in reported] == [ValueError]


async def test_many_responses_are_made_in_several_turns() -> None:
    turns: list[int] = []
    turn = 0

    async def count() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    def make(_: Lookup) -> bytes:
        turns.append(turn)
        return b""

    looking = batches(Store())
    counting = asyncio.ensure_future(count())
    await asyncio.gather(*(looking.ask(f"k{number}", make) for number in range(64)))
    counting.cancel()
    assert max(turns.count(one) for one in turns) == 16
    assert len(turns) == 64
