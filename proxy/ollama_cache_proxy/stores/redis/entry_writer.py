"""Writing entries: one small one over the lane, others in pipelines, a few of those at a time, bounded in bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

from ollama_cache_proxy.core.facts import Fault, Observer, StoreFault
from ollama_cache_proxy.core.ports import Clock
from ollama_cache_proxy.core.store_ports import Entries
from ollama_cache_proxy.policy.lifetimes import kept_from
from ollama_cache_proxy.policy.messages import StoredResponse
from ollama_cache_proxy.stores.codecs import Codec
from ollama_cache_proxy.stores.redis.eviction import Eviction
from ollama_cache_proxy.stores.redis.guard import WRITE_WITHIN, Guard
from ollama_cache_proxy.stores.redis.redis_client import Client

_SMALL: Final = 65_536
"""Bytes up to which an entry is written over the lane."""
_ENTRIES_PER_COMMAND: Final = 64
"""Entries in one pipeline."""
_BYTES_PER_COMMAND: Final = 1 << 20
"""Bytes of bodies in one pipeline, unless one entry has more: encoding them takes a turn of the event loop."""
_ENTRY_BYTES: Final = 512
"""Bytes that an entry has beside its body, about."""
_WRITERS: Final = 8
"""Pipelines at a time."""
_MAX_WAITING: Final = 128 * 1024 * 1024
"""Bytes of entries that may wait for their turn."""


class EntryWriter:
    """Writes entries, which expire when their time is over, if it ever is."""

    def __init__(  # noqa: PLR0913 - RedisEntries makes it once
        self, client: Client, guard: Guard, eviction: Eviction, *, codec: Codec, observe: Observer, clock: Clock
    ) -> None:
        self._clock = clock
        self._pool = client.pool
        self._lane = client.lane
        self._layout = client.layout
        self._guard = guard
        self._eviction = eviction
        self._codec = codec
        self._observe = observe
        self._writers = asyncio.Semaphore(_WRITERS)
        self._waiting = 0

    async def write(self, entries: Entries, generation: str) -> bool:
        """Wait for a turn and write; return whether all were written. Too many waiting bytes: they are dropped."""
        size = sum(_size(entry) for _, entry in entries)
        if self._waiting + size > _MAX_WAITING:
            self._observe(StoreFault(kind=Fault.DROPPED))
            return False
        self._waiting += size
        try:
            async with self._writers:
                for some in _commands(entries):
                    if not await self._set([self._encoded(generation, key, entry) for key, entry in some]):
                        return False
        finally:
            self._waiting -= size
        return True

    def _encoded(self, generation: str, key: str, entry: StoredResponse) -> tuple[str, bytes, int | None]:
        """Return an entry's name, its bytes, and for how many seconds it is kept."""
        return (
            self._layout.entry_name(generation, key),
            self._codec.encode(generation, key, entry),
            kept_from(entry, self._clock.now()),
        )

    async def _set(self, values: list[tuple[str, bytes, int | None]]) -> bool:
        """Write some entries in one round trip."""
        if len(values) == 1 and len(values[0][1]) <= _SMALL:
            return bool(await self._guard.write("set", lambda: self._set_small(*values[0]), within=None))

        async def write() -> bool:
            times = [await self._eviction.kept_for(seconds) for _, _, seconds in values]
            async with self._pool.pipeline(transaction=False) as pipeline:
                for (name, value, _), seconds in zip(values, times, strict=True):
                    pipeline.set(name, value, ex=seconds)
                return all(await pipeline.execute())

        return bool(await self._guard.write("set", write))

    async def _set_small(self, name: str, value: bytes, seconds: int | None) -> bool:
        kept = await self._eviction.kept_for(seconds)
        ends = () if kept is None else ("EX", kept)
        return bool(await self._lane.ask("SET", name, value, *ends, within=WRITE_WITHIN))


def _size(entry: StoredResponse) -> int:
    """Return how many bytes an entry takes while it waits, about."""
    return len(entry.body) + len(entry.pieces) + _ENTRY_BYTES


def _commands(entries: Entries) -> Iterator[list[tuple[str, StoredResponse]]]:
    """Yield the entries of each pipeline."""
    some: list[tuple[str, StoredResponse]] = []
    size = 0
    for key, entry in entries:
        if some and (len(some) >= _ENTRIES_PER_COMMAND or size + len(entry.body) > _BYTES_PER_COMMAND):
            yield some
            some, size = [], 0
        some.append((key, entry))
        size += len(entry.body)
    if some:
        yield some
