"""A store in this process, bounded in bytes; the least recently used entries are evicted.

It serves where there is no Redis, and as the hot tier in front of one.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from ollama_cache_proxy.core.ports import Clock
from ollama_cache_proxy.core.store_ports import Entries, KeyCount, Lookup, Lookups, Matches, Page, Tier
from ollama_cache_proxy.policy.lifetimes import Renewal
from ollama_cache_proxy.policy.messages import Description, StoredResponse, described

_ENTRY_BYTES: Final = 1024
"""Bytes that an entry takes beside its own text: objects, and places in dictionaries."""
_FINGERPRINT_BYTES: Final = 128
"""Bytes that a fingerprint takes beside its name."""
_AT_ONCE: Final = 2048
"""Entries that are looked up or added in one turn of the event loop."""
_SHELF_LETTERS: Final = 2
"""First letters of the keys that share a shelf, so that a page has few of them to sort."""


class MemoryStore:
    """See store_ports.EntryStore and store_ports.StoreGauges. `capacity` is in bytes, `name` is that of the tier."""

    writable = True

    def __init__(self, capacity: int, *, clock: Clock, name: str = "memory") -> None:
        self._capacity = capacity
        self._clock = clock
        self._name = name
        self._entries: OrderedDict[str, StoredResponse] = OrderedDict()
        self._shelves: dict[str, set[str]] = {}
        self._ends: dict[str, float] = {}
        """When each entry ends, in Unix time: an idle one if there is no hit."""
        self._generation = secrets.token_hex(16)
        self.size = 0
        self.evicted = 0

    async def get(self, key: str) -> Lookup:
        """See store_ports.EntryStore."""
        return Lookup(entry=self.held(key), generation=self._generation)

    def held(self, key: str) -> StoredResponse | None:
        """See store_ports.EntryStore."""
        entry = self._entries.get(key)  # not by `_fresh`, whose call would cost a hit more time
        if entry is None:
            return None
        if self._ends[key] <= self._clock.now():
            self.drop(key)
            return None
        self._entries.move_to_end(key)
        return entry

    def held_many(self, keys: Sequence[str]) -> dict[str, StoredResponse]:
        """Return what `held` does for each of the keys that has an entry."""
        now, ends = self._clock.now(), self._ends
        found = {key: entry for key in keys if (entry := self._entries.get(key)) is not None}
        for key in [key for key in found if ends[key] <= now]:
            self.drop(key)
            del found[key]
        for key in found:
            self._entries.move_to_end(key)
        return found

    def _fresh(self, key: str) -> StoredResponse | None:
        entry = self._entries.get(key)
        if entry is not None and self._ends[key] <= self._clock.now():
            self.drop(key)
            return None
        return entry

    def renew(self, renewals: Mapping[str, Renewal]) -> None:
        """See store_ports.EntryStore."""
        now = self._clock.now()
        for key, (idle, stored_at, _) in renewals.items():
            entry = self._entries.get(key)
            if entry is not None and entry.idle is not None and entry.stored_at == stored_at:
                self._ends[key] = min(entry.stored_at + entry.lifetime, now + idle)

    async def get_many(self, keys: Sequence[str]) -> Lookups:
        """See store_ports.EntryStore. Yields to the event loop now and then; a clear meanwhile is as one after it."""
        generation = self._generation
        entries: list[StoredResponse | None] = []
        for begin in range(0, len(keys), _AT_ONCE):
            if begin:
                await asyncio.sleep(0)
            part = keys[begin : begin + _AT_ONCE]
            entries += map(self.held_many(part).get, part)
        return Lookups(entries=tuple(entries), generation=generation)

    async def peek_many(self, keys: Sequence[str]) -> Lookups:
        """See store_ports.EntryStore. It does not count as a use."""
        return Lookups(entries=tuple(map(self._fresh, keys)), generation=self._generation)

    async def put(self, entries: Entries, generation: str) -> bool:
        """See store_ports.EntryStore. Yields to the event loop now and then; a clear meanwhile ends it."""
        added = True
        for begin in range(0, len(entries), _AT_ONCE):
            if begin:
                await asyncio.sleep(0)
            if generation != self._generation:
                return False
            for key, entry in entries[begin : begin + _AT_ONCE]:  # all of them, also after one that is too large
                added = self.add(key, entry) and added
        return added

    def add(self, key: str, entry: StoredResponse) -> bool:
        """Add one entry, and evict the least recently used ones; return False where it is too large."""
        size = _size(entry)
        if size > self._capacity:
            return False
        self.drop(key)
        self._entries[key] = entry
        self._shelves.setdefault(key[:_SHELF_LETTERS], set()).add(key)
        ends = entry.stored_at + entry.lifetime
        self._ends[key] = ends if entry.idle is None else min(ends, self._clock.now() + entry.idle)
        self.size += size
        while self.size > self._capacity:
            self.drop(next(iter(self._entries)))
            self.evicted += 1
        return True

    async def delete(self, keys: Sequence[str], generation: str) -> int:
        """See store_ports.EntryStore."""
        return sum(self.drop(key) for key in keys) if generation == self._generation else 0

    async def page(self, cursor: str, limit: int) -> Page:
        """See store_ports.EntryStore. Ordered by key; the cursor is the last key of the page before, or any text."""
        await asyncio.sleep(0)
        found: list[Description] = []
        for key in self._keys_after(cursor):
            if len(found) == limit:
                return Page(entries=tuple(found), cursor=found[-1].key)
            if (entry := self._fresh(key)) is not None:
                found.append(described(key, entry, len(entry.body)))
        return Page(entries=tuple(found), cursor=None)

    async def purge(self, matches: Matches) -> int:
        """See store_ports.EntryStore. Yields to the event loop between shelves."""
        purged = 0
        for name in list(self._shelves):
            for key in list(self._shelves.get(name, ())):
                entry = self._fresh(key)
                if entry is not None and matches(described(key, entry, len(entry.body))):
                    purged += self.drop(key)
            await asyncio.sleep(0)
        return purged

    def _keys_after(self, cursor: str) -> Iterator[str]:
        for name in sorted(self._shelves):
            if name >= cursor[:_SHELF_LETTERS]:
                yield from sorted(key for key in self._shelves.get(name, ()) if key > cursor)

    async def clear(self) -> int:
        """See store_ports.EntryStore. All entries go at once; they are counted and freed in turns of the event loop."""
        now, cleared, ends = self._clock.now(), 0, self._ends
        entries = self._taken()
        self._generation = secrets.token_hex(16)
        while entries:
            for _ in range(min(len(entries), _AT_ONCE)):
                cleared += ends[entries.popitem()[0]] > now
            if entries:
                await asyncio.sleep(0)
        return cleared

    def empty(self) -> None:
        """Drop every entry. Many are freed in turns of the event loop."""
        _free(self._taken())

    def _taken(self) -> OrderedDict[str, StoredResponse]:
        """Return all entries; the store has none of them any more."""
        entries, self._entries = self._entries, OrderedDict()
        self._shelves, self._ends = {}, {}
        self.size = 0
        return entries

    async def count(self) -> KeyCount:
        """See store_ports.EntryStore. Yields to the event loop now and then."""
        seen = 0
        for name in list(self._shelves):
            keys = list(self._shelves.get(name, ()))
            seen += len(keys)
            if seen > _AT_ONCE:
                seen = len(keys)
                await asyncio.sleep(0)
            for key in keys:
                self._fresh(key)
        return KeyCount(keys=len(self._entries), age=0.0)

    def tiers(self, *, asking: bool) -> tuple[Tier, ...]:  # noqa: ARG002 - there is no one to ask
        """See store_ports.StoreGauges. Expired entries count until they are next read."""
        return (Tier(name=self._name, entries=len(self._entries), size=self.size, evicted=self.evicted),)

    def breakers(self) -> Mapping[str, bool]:
        """See store_ports.StoreGauges."""
        return {}

    def drop(self, key: str) -> bool:
        """Drop an entry; return whether there was one."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return False
        del self._ends[key]
        shelf = self._shelves[key[:_SHELF_LETTERS]]
        shelf.discard(key)
        if not shelf:
            del self._shelves[key[:_SHELF_LETTERS]]
        self.size -= _size(entry)
        return True


class MemoryValues:
    """See store_ports.ValueStore. A handful of small values: nothing bounds them."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}
        self._totals: dict[str, dict[str, int]] = {}

    async def save(self, name: str, value: bytes) -> bool:
        """See store_ports.ValueStore."""
        self._values[name] = value
        return True

    async def load(self, name: str) -> bytes | None:
        """See store_ports.ValueStore."""
        return self._values.get(name)

    async def set_default(self, name: str, value: bytes) -> bytes:
        """See store_ports.ValueStore."""
        return self._values.setdefault(name, value)

    async def add(self, name: str, deltas: Mapping[str, int], known: Mapping[str, int]) -> dict[str, int]:
        """See store_ports.ValueStore."""
        totals = self._totals[name] = {**known, **self._totals.get(name, {})}
        for field, delta in deltas.items():
            totals[field] = totals.get(field, 0) + delta
        return dict(totals)


def _free(entries: OrderedDict[str, StoredResponse]) -> None:
    """Free entries that nothing else holds, some in each turn of the event loop."""
    for _ in range(min(len(entries), _AT_ONCE)):
        entries.popitem()
    if entries:
        asyncio.get_running_loop().call_soon(_free, entries)


def _size(entry: StoredResponse) -> int:
    """Return the bytes that an entry takes, without the names of models and operations: those are few, and shared."""
    lines = sum(len(name) + len(value) for name, value in entry.fields)
    fingerprints = sum(_FINGERPRINT_BYTES + len(name) for name in entry.fingerprints)
    return len(entry.body) + len(entry.pieces) + len(entry.namespace) + lines + fingerprints + _ENTRY_BYTES
