"""The store of a machine without Redis: entries in this process, bounded by bytes, the least recently used leave."""

from __future__ import annotations

import heapq
import secrets
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final

from proxy.policy.messages import Description, StoredResponse, described
from proxy.ports import Clock, Entries, KeyCount, Lookup, Lookups, Matches, Page

_OVERHEAD: Final = 1024
"""What an entry takes beside its body, in bytes: fields, names, the dictionary's own."""


class MemoryStore:
    """See ports.Store. `capacity` is in bytes."""

    def __init__(self, capacity: int, *, clock: Clock) -> None:
        self._capacity = capacity
        self._clock = clock
        self._entries: OrderedDict[str, StoredResponse] = OrderedDict()
        self._values: dict[str, bytes] = {}
        self._totals: dict[str, dict[str, int]] = {}
        self._generation = secrets.token_hex(16)
        self.held = 0
        self.evicted = 0

    async def get(self, key: str) -> Lookup:
        """See ports.Store."""
        entry = self._fresh(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return Lookup(entry=entry, generation=self._generation)

    def _fresh(self, key: str) -> StoredResponse | None:
        entry = self._entries.get(key)
        if entry is not None and entry.stored_at + entry.lifetime <= self._clock.now():
            self._remove(key)
            return None
        return entry

    async def get_many(self, keys: Sequence[str]) -> Lookups:
        """See ports.Store."""
        found = [await self.get(key) for key in keys]
        return Lookups(entries=tuple(lookup.entry for lookup in found), generation=self._generation)

    async def put(self, entries: Entries, generation: str) -> bool:
        """See ports.Store."""
        if generation != self._generation:
            return False
        kept = [self._keep(key, entry) for key, entry in entries]  # all of them, also behind one that is too large
        return all(kept)

    def _keep(self, key: str, entry: StoredResponse) -> bool:
        size = len(entry.body) + _OVERHEAD
        if size > self._capacity:
            return False
        self._remove(key)
        self._entries[key] = entry
        self.held += size
        while self.held > self._capacity:
            self._remove(next(iter(self._entries)))
            self.evicted += 1
        return True

    async def delete(self, keys: Sequence[str], generation: str) -> None:  # noqa: ARG002 - there is only the current one
        """See ports.Store."""
        for key in keys:
            self._remove(key)

    async def describe(self, key: str) -> Description | None:
        """See ports.Store. This is no use of the entry."""
        return None if self._fresh(key) is None else self._describe(key)

    async def page(self, cursor: str, limit: int) -> Page:
        """See ports.Store. In the order of the keys; the cursor is the last key of the page before, or any text."""
        self._expire()
        keys = heapq.nsmallest(limit + 1, (key for key in self._entries if key > cursor))
        more = len(keys) > limit
        return Page(entries=tuple(map(self._describe, keys[:limit])), cursor=keys[limit - 1] if more else None)

    async def purge(self, matches: Matches) -> int:
        """See ports.Store."""
        self._expire()
        meant = [key for key in self._entries if matches(self._describe(key))]
        for key in meant:
            self._remove(key)
        return len(meant)

    def _describe(self, key: str) -> Description:
        entry = self._entries[key]
        return described(key, entry, len(entry.body))

    async def save(self, name: str, value: bytes) -> bool:
        """See ports.Store."""
        self._values[name] = value
        return True

    async def load(self, name: str) -> bytes | None:
        """See ports.Store."""
        return self._values.get(name)

    async def settle(self, name: str, value: bytes) -> bytes:
        """See ports.Store."""
        return self._values.setdefault(name, value)

    async def add(self, name: str, deltas: Mapping[str, int], known: Mapping[str, int]) -> dict[str, int]:
        """See ports.Store."""
        totals = self._totals[name] = {**known, **self._totals.get(name, {})}
        for field, delta in deltas.items():
            totals[field] = totals.get(field, 0) + delta
        return dict(totals)

    async def clear(self) -> int:
        """See ports.Store."""
        self._expire()
        cleared = len(self._entries)
        self._entries.clear()
        self.held = 0
        self._generation = secrets.token_hex(16)
        return cleared

    async def count(self) -> KeyCount:
        """See ports.Store."""
        self._expire()
        return KeyCount(keys=len(self._entries), age=0.0)

    def _expire(self) -> None:
        now = self._clock.now()
        for key in [key for key, entry in self._entries.items() if entry.stored_at + entry.lifetime <= now]:
            self._remove(key)

    def _remove(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.held -= len(entry.body) + _OVERHEAD
