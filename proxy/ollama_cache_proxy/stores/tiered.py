"""The hot tier: entries of a slower store that are also held in this process, while invalidations arrive.

Every change in the store must be reported with `invalidate`. While invalidations may be lost (from `suspend` to
`resume`) nothing is held. An entry is added when it is read from the store, unless its key, or the generation, changed
during the read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

from ollama_cache_proxy.core.store_ports import Entries, EntryStore, KeyCount, Lookup, Lookups, Matches, Page, Uncounted
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy.lifetimes import Renewal
from ollama_cache_proxy.policy.messages import StoredResponse

_MAX_KEYS: Final = 4096
"""Keys. A longer list of changes empties the tier; entries used beyond about so many are not touched."""
_AT_ONCE: Final = 2048
"""Keys that are looked up in one turn of the event loop."""
TOUCH_EVERY: Final = 1.0
"""Seconds after which the store is told which entries were used: else it would evict the most used ones first."""
_GENERATION: Final = ""
"""Stands for the generation in a set of keys."""


class Front(Protocol):
    """The fast store, in this process."""

    def held(self, key: str) -> StoredResponse | None: ...
    def held_many(self, keys: Sequence[str]) -> dict[str, StoredResponse]: ...
    def add(self, key: str, entry: StoredResponse) -> bool: ...
    def drop(self, key: str) -> bool: ...
    def empty(self) -> None: ...


class Back(EntryStore, Protocol):
    """The slower store."""

    async def touch(self, keys: Sequence[str], generation: str) -> None:
        """Mark these entries as used just now."""


class TieredStore:
    """See store_ports.EntryStore. `front` is in front of `back`."""

    def __init__(self, front: Front, back: Back, *, tasks: Tasks) -> None:
        self._front = front
        self._back = back
        self._tasks = tasks
        self._used: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._holding = False
        self._generation: str | None = None
        self._reading: dict[int, set[str]] = {}
        """For each lookup in progress, by the id of its set: the keys that have not changed since it began."""

    # Invalidation

    def resume(self) -> None:
        """Hold entries from now on: every change will be reported."""
        self._holding = True

    def suspend(self) -> None:
        """Drop all entries and hold none: changes may be missed."""
        self._holding = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._invalidate_all()

    def invalidate(self, keys: Iterable[str] | None) -> None:
        """Drop these entries, since they have changed; all of them for None, since the generation has."""
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

    # The store

    @property
    def writable(self) -> bool:
        """See store_ports.EntryStore."""
        return self._back.writable

    def held(self, key: str) -> StoredResponse | None:
        """See store_ports.EntryStore."""
        entry = self._front.held(key) if self._generation is not None else None
        if entry is not None and len(self._used) < _MAX_KEYS:
            self._used.add(key)
            if self._timer is None:
                self._touch_later()
        return entry

    def _held_many(self, keys: Sequence[str]) -> dict[str, StoredResponse]:
        found = self._front.held_many(keys) if self._generation is not None else {}
        if found and len(self._used) < _MAX_KEYS:
            self._used.update(found)
            if self._timer is None:
                self._touch_later()
        return found

    def _touch_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(TOUCH_EVERY, self._touch)

    def _touch(self) -> None:
        """Tell the store which entries were used since the last time."""
        self._timer = None
        used, self._used = list(self._used), set()
        if self._generation is not None:
            self._tasks.spawn(self._back.touch(used, self._generation), "touch entries", endless=True)

    def renew(self, renewals: Mapping[str, Renewal]) -> None:
        """See store_ports.EntryStore. Nothing is held beyond its idle time: then it is read again."""
        self._back.renew(renewals)

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
        """See store_ports.EntryStore. Only entries that are not held are asked for."""
        generation = self._generation
        held: dict[str, StoredResponse] = {}
        for begin in range(0, len(keys), _AT_ONCE):
            if begin:
                await asyncio.sleep(0)
            held |= self._held_many(keys[begin : begin + _AT_ONCE])
        missing = [key for key in keys if key not in held]
        if not missing:
            return Lookups(entries=tuple(held[key] for key in keys), generation=generation)
        found = await self._read(missing)
        if held and found.generation != generation:
            if found.generation is None:  # it did not answer, and is not asked again
                still = held if self._generation == generation else {}
                return Lookups(entries=tuple(still.get(key) for key in keys), generation=None)
            self._invalidate_all()  # the held ones were of another
            return await self._read(keys)
        entries = held | dict(zip(missing, found.entries, strict=True))
        return Lookups(entries=tuple(entries[key] for key in keys), generation=found.generation)

    async def peek_many(self, keys: Sequence[str]) -> Lookups:
        """See store_ports.EntryStore."""
        return await self._back.peek_many(keys)

    async def _read(self, keys: Sequence[str]) -> Lookups:
        """Return entries read from the store, and hold those that did not change meanwhile."""
        unchanged = self._watch(keys)
        try:
            found = await self._back.get_many(keys)
        finally:
            del self._reading[id(unchanged)]
        self._hold(found.generation, zip(keys, found.entries, strict=True), unchanged)
        return found

    def _watch(self, keys: Iterable[str]) -> set[str]:
        """Return a set of the keys and the generation; those that change are removed. It is empty while suspended."""
        unchanged = {_GENERATION, *keys} if self._holding else set()
        self._reading[id(unchanged)] = unchanged
        return unchanged

    def _hold(
        self, generation: str | None, entries: Iterable[tuple[str, StoredResponse | None]], unchanged: set[str]
    ) -> None:
        """Hold unchanged entries of the held generation; where there is none, theirs becomes the held one."""
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
        stored = await self._back.put(entries, generation)
        self.invalidate(keys)
        return stored

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

    async def clear(self) -> int | Uncounted | None:
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
