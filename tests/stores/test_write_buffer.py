"""What is on its way to the store is found until it is there, goes together, and is waited for by who counts."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from ollama_cache_proxy.stores import write_buffer
from ollama_cache_proxy.stores.write_buffer import Unwritten
from tests.support.entries import ENTRY


async def test_entries_are_found_until_they_are_written_and_go_together() -> None:
    waiting = Unwritten()
    went: list[str] = []

    async def put(name: str) -> None:
        entries = {name: ENTRY}
        await waiting.wait(entries)
        went.append(name)
        waiting.written(entries)

    assert not waiting
    tasks = [asyncio.ensure_future(put(name)) for name in ("a", "b")]
    await asyncio.sleep(0)
    assert (waiting.get("a"), waiting.get("b"), waiting.get("c")) == (ENTRY, ENTRY, None)
    await asyncio.wait(tasks, timeout=5)
    assert went == ["a", "b"]
    assert not waiting
    await asyncio.wait_for(put("c"), 5)
    assert went == ["a", "b", "c"]


async def test_a_newer_entry_of_a_name_outlives_the_older_one_s_way() -> None:
    waiting = Unwritten()
    older, newer = {"a": ENTRY}, {"a": replace(ENTRY, body=b"y")}
    for entries in (older, newer):
        asyncio.ensure_future(waiting.wait(entries))  # noqa: RUF006 - ends with the moment
    await asyncio.sleep(0)
    waiting.written(older)
    assert waiting.get("a") == newer["a"]
    waiting.written(newer)
    assert not waiting
    await waiting.wait({})


async def test_who_settles_waits_for_what_was_there_and_for_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_buffer, "MOMENT", 3600.0)
    waiting = Unwritten()
    first, later = {"a": ENTRY}, {"b": ENTRY}
    writing = asyncio.ensure_future(waiting.wait(first))
    await asyncio.sleep(0)
    settling = asyncio.ensure_future(waiting.settle(5))
    await asyncio.wait_for(writing, 1)
    asyncio.ensure_future(waiting.wait(later)).add_done_callback(lambda _: None)
    await asyncio.sleep(0)
    assert not settling.done()
    waiting.written(first)
    await asyncio.wait_for(settling, 1)
    assert waiting.get("b") == ENTRY
    await waiting.settle(0.01)
    assert waiting.get("b") == ENTRY, "nobody has written it"
