"""The hot tier: entries of a slower store that are held in this process too, as long as its changes are heard of.

What is held is what the store holds: a change there is told (`forget`), and where changes can no longer be heard of
(`sleep`) nothing is held until they can again (`wake`). An entry is taken in when it is read from the store, unless its
key, or the generation, changed while it was being read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from ollama_cache_proxy.core.store_ports import Entries, EntryStore, KeyCount, Lookup, Lookups, Matches, Page
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy.messages import StoredResponse

_MAX_KEYS: Final = 4096
"""Keys: a longer list of changes is not gone through."""
TOUCH_EVERY: Final = 1.0
"""Seconds after which the store is told which entries were used: else it would let go of the best ones first."""
_GENERATION: Final = ""
"""Stands among keys for the generation."""


class Front(Protocol):
    """Where entries are held."""

    def held(self, key: str) -> StoredResponse | None: ...
    def add(self, key: str, entry: StoredResponse) -> bool: ...
    def drop(self, key: str) -> bool: ...
    def empty(self) -> None: ...


class Back(EntryStore, Protocol):
    """The slower store."""

    async def touch(self, keys: Sequence[str], generation: str) -> None:
        """Take these entries for used."""


class TieredStore:
    """See store_ports.EntryStore: `front` before `back`."""

    def __init__(self, front: Front, back: Back, *, tasks: Tasks) -> None:
        self._front = front
        self._back = back
        self._tasks = tasks
        self._used: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._holding = False
        self._generation: str | None = None
        self._reading: dict[int, set[str]] = {}
        """For each lookup under way the keys that have not changed since it began; none when all have."""

    # What is heard of the store.

    def resume(self) -> None:
        """Hold entries from now on: every change will be told."""
        self._holding = True

    def suspend(self) -> None:
        """Hold nothing: changes may go unheard."""
        self._holding = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._invalidate_all()

    def invalidate(self, keys: Iterable[str] | None) -> None:
        """Hold these entries no more, or none at all: they have changed, or the generation has."""
        keys = None if keys is None else list(keys)
        if keys is None or len(keys) > _MAX_KEYS:
            self._invalidate_all()
            return
        for key in keys:
            self._front.drop(key)
        for unchanged in self._reading.values():
            unchanged.difference_update(keys)

    def _invalidate_all(self) -> None:
        self._front.empty()
        self._generation = None
        for unchanged in self._reading.values():
            unchanged.clear()

    # The store.

    def held(self, key: str) -> StoredResponse | None:
        """See store_ports.EntryStore."""
        entry = self._front.held(key) if self._generation is not None else None
        if entry is not None and len(self._used) < _MAX_KEYS:
            self._used.add(key)
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(TOUCH_EVERY, self._touch)
        return entry

    def _touch(self) -> None:
        """Tell the store what was used since the last time."""
        self._timer = None
        used, self._used = list(self._used), set()
        if self._generation is not None:
            self._tasks.spawn(self._back.touch(used, self._generation), "touch entries", endless=True)

    async def get(self, key: str) -> Lookup:
        """See store_ports.EntryStore."""
        held = self.held(key)
        if held is not None:
            return Lookup(entry=held, generation=self._generation)
        unchanged = self._watch((key,))
        try:
            found = await self._back.get(key)
        finally:
            del self._reading[id(unchanged)]
        self._hold(found.generation, ((key, found.entry),), unchanged)
        return found

    async def get_many(self, keys: Sequence[str]) -> Lookups:
        """See store_ports.EntryStore. Only what is not held is asked for."""
        generation = self._generation
        held = {key: entry for key in keys if (entry := self.held(key)) is not None}
        missing = [key for key in keys if key not in held]
        if not missing:
            return Lookups(entries=tuple(held[key] for key in keys), generation=generation)
        found = await self._read(missing)
        if held and found.generation != generation:  # what is held was of another one
            if found.generation is not None:
                self._invalidate_all()
            return await self._read(keys)
        entries = held | dict(zip(missing, found.entries, strict=True))
        return Lookups(entries=tuple(entries[key] for key in keys), generation=found.generation)

    async def _read(self, keys: Sequence[str]) -> Lookups:
        """Read from the store, and hold what came, where it did not change meanwhile."""
        unchanged = self._watch(keys)
        try:
            found = await self._back.get_many(keys)
        finally:
            del self._reading[id(unchanged)]
        self._hold(found.generation, zip(keys, found.entries, strict=True), unchanged)
        return found

    def _watch(self, keys: Iterable[str]) -> set[str]:
        """Return the keys, and the generation, from which those go that change from now on; nothing while asleep."""
        unchanged = {_GENERATION, *keys} if self._holding else set()
        self._reading[id(unchanged)] = unchanged
        return unchanged

    def _hold(
        self, generation: str | None, entries: Iterable[tuple[str, StoredResponse | None]], unchanged: set[str]
    ) -> None:
        """Hold what was read and is unchanged, where it is of the generation that is held, or of the first to be."""
        if generation is None or _GENERATION not in unchanged:
            return
        self._generation = self._generation or generation
        if generation == self._generation:
            for key, entry in entries:
                if entry is not None and key in unchanged:
                    self._front.add(key, entry)

    async def put(self, entries: Entries, generation: str) -> bool:
        """See store_ports.EntryStore."""
        keys = [key for key, _ in entries]
        self.invalidate(keys)
        kept = await self._back.put(entries, generation)
        self.invalidate(keys)
        return kept

    async def delete(self, keys: Sequence[str], generation: str) -> int | None:
        """See store_ports.EntryStore."""
        self.invalidate(keys)
        deleted = await self._back.delete(keys, generation)
        self.invalidate(keys)
        return deleted

    async def purge(self, matches: Matches) -> int | None:
        """See store_ports.EntryStore."""
        self._invalidate_all()
        purged = await self._back.purge(matches)
        self._invalidate_all()
        return purged

    async def clear(self) -> int | None:
        """See store_ports.EntryStore."""
        self._invalidate_all()
        cleared = await self._back.clear()
        self._invalidate_all()
        return cleared

    async def page(self, cursor: str, limit: int) -> Page | None:
        """See store_ports.EntryStore."""
        return await self._back.page(cursor, limit)

    async def count(self) -> KeyCount | None:
        """See store_ports.EntryStore."""
        return await self._back.count()
