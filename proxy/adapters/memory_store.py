"""The store of a machine without Redis: entries in this process, bounded by bytes, the least recently used leave."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from proxy.policy.messages import StoredResponse
from proxy.ports import Clock, Entries, KeyCount, Lookup, Lookups

_OVERHEAD: Final = 1024
"""What an entry takes beside its body, in bytes: fields, names, the dictionary's own."""


class MemoryStore:
    """See ports.Store. `capacity` is in bytes."""

    def __init__(self, capacity: int, *, clock: Clock) -> None:
        self._capacity = capacity
        self._clock = clock
        self._entries: OrderedDict[str, StoredResponse] = OrderedDict()
        self._values: dict[str, bytes] = {}
        self._generation = secrets.token_hex(16)
        self.held = 0
        self.evicted = 0

    async def get(self, key: str) -> Lookup:
        """See ports.Store."""
        entry = self._entries.get(key)
        if entry is not None:
            if entry.stored_at + entry.lifetime <= self._clock.now():
                self._remove(key)
                entry = None
            else:
                self._entries.move_to_end(key)
        return Lookup(entry=entry, generation=self._generation)

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

    async def save(self, name: str, value: bytes) -> bool:
        """See ports.Store."""
        self._values[name] = value
        return True

    async def load(self, name: str) -> bytes | None:
        """See ports.Store."""
        return self._values.get(name)

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
