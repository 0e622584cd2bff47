"""Entries in the write buffer are found until they are written, are written together, and can be flushed."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from ollama_cache_proxy.stores import write_buffer
from ollama_cache_proxy.stores.write_buffer import WriteBuffer
from tests.support.entries import ENTRY


async def test_entries_are_found_until_they_are_written_and_go_together() -> None:
    buffer = WriteBuffer()
    went: list[str] = []

    async def put(name: str) -> None:
        entries = {name: ENTRY}
        await buffer.add(entries)
        went.append(name)
        buffer.remove(entries)

    assert not buffer
    tasks = [asyncio.ensure_future(put(name)) for name in ("a", "b")]
    await asyncio.sleep(0)
    assert (buffer.get("a"), buffer.get("b"), buffer.get("c")) == (ENTRY, ENTRY, None)
    await asyncio.wait(tasks, timeout=5)
    assert went == ["a", "b"]
    assert not buffer
    await asyncio.wait_for(put("c"), 5)
    assert went == ["a", "b", "c"]


async def test_removing_an_older_entry_leaves_a_newer_one_of_its_name() -> None:
    buffer = WriteBuffer()
    older, newer = {"a": ENTRY}, {"a": replace(ENTRY, body=b"y")}
    for entries in (older, newer):
        asyncio.ensure_future(buffer.add(entries))  # noqa: RUF006 - ends with the moment
    await asyncio.sleep(0)
    buffer.remove(older)
    assert buffer.get("a") == newer["a"]
    buffer.remove(newer)
    assert not buffer
    await buffer.add({})


async def test_a_flush_waits_only_for_the_entries_that_were_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_buffer, "MOMENT", 3600.0)
    buffer = WriteBuffer()
    first, later = {"a": ENTRY}, {"b": ENTRY}
    writing = asyncio.ensure_future(buffer.add(first))
    await asyncio.sleep(0)
    flushing = asyncio.ensure_future(buffer.flush(60))
    await asyncio.wait_for(writing, 10)
    asyncio.ensure_future(buffer.add(later)).add_done_callback(lambda _: None)
    await asyncio.sleep(0)
    assert not flushing.done()
    buffer.remove(first)
    await asyncio.wait_for(flushing, 10)
    assert buffer.get("b") == ENTRY
    await buffer.flush(0.01)
    assert buffer.get("b") == ENTRY, "nobody has written it"


async def test_a_discarded_entry_is_not_found_and_is_still_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_buffer, "MOMENT", 3600.0)
    buffer, entries = WriteBuffer(), {"a": ENTRY}
    writing = asyncio.ensure_future(buffer.add(entries))
    await asyncio.sleep(0)
    flushing = asyncio.ensure_future(buffer.flush(60))
    await asyncio.sleep(0)
    buffer.discard()
    assert buffer.get("a") is None
    await asyncio.wait_for(flushing, 10)
    await asyncio.wait_for(writing, 10)
    buffer.remove(entries)
