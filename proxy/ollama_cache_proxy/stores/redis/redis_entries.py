"""Entries in Redis: looked up with one MGET over the lane, written after the response, found in the buffer meanwhile.

An entry is written under the generation of its request's lookup: what was asked before a clear is never found after it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from ollama_cache_proxy.core.facts import Fault, Observer, StoreFault
from ollama_cache_proxy.core.ports import Clock
from ollama_cache_proxy.core.store_ports import UNCOUNTED, Entries, KeyCount, Lookup, Lookups, Matches, Page, Uncounted
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy.lifetimes import Renewal
from ollama_cache_proxy.policy.messages import StoredResponse
from ollama_cache_proxy.stores.codecs import Codec
from ollama_cache_proxy.stores.redis.commands import Commands, permitted
from ollama_cache_proxy.stores.redis.entry_count import EntryCount
from ollama_cache_proxy.stores.redis.entry_writer import EntryWriter
from ollama_cache_proxy.stores.redis.eviction import Eviction
from ollama_cache_proxy.stores.redis.generation import LONGEST_LOOKUP, Generations
from ollama_cache_proxy.stores.redis.guard import WRITE_WITHIN, Guard
from ollama_cache_proxy.stores.redis.redis_client import FAILURES, Client
from ollama_cache_proxy.stores.redis.renewals import Renewals
from ollama_cache_proxy.stores.redis.scan import Scan, read_cursor
from ollama_cache_proxy.stores.write_buffer import WriteBuffer

_READ_WITHIN_PER_KEY: Final = 0.002
"""Seconds, added for each entry of a list."""
_AT_ONCE: Final = 1 << 20
"""Bytes of entries that are decoded in one turn of the event loop."""
_BESIDE: Final = 4096
"""Bytes that take as long to check as it takes to decode what is in an entry beside its body."""
_SCANS: Final = 5
"""Scans for one purge at most."""
_TOUCHES_PER_COMMAND: Final = 1000
"""Entries that one command touches."""


class RedisEntries:
    """See store_ports.EntryStore. `buffer` has the entries that are not in Redis yet."""

    def __init__(  # noqa: PLR0913 - RedisStore makes each part once
        self,
        client: Client,
        guard: Guard,
        generation: Generations,
        *,
        scan: Scan,
        count: EntryCount,
        commands: Commands,
        codec: Codec,
        clock: Clock,
        observe: Observer,
        tasks: Tasks,
    ) -> None:
        self.buffer = WriteBuffer()
        self.commands = commands
        self.renewals = Renewals(client.lists, guard, commands, self._name_of, clock=clock, tasks=tasks)
        self._client = client
        self._pool = client.pool
        self._layout = client.layout
        self._guard = guard
        self._codec = codec
        self._generation = generation
        eviction = Eviction(client, commands, clock=clock)
        self._writer = EntryWriter(client, guard, eviction, codec=codec, observe=observe, clock=clock)
        self._scan = scan
        self._count = count
        self._observe = observe
        self._tasks = tasks
        self._reading = False

    @property
    def writable(self) -> bool:
        """See store_ports.EntryStore."""
        return self._guard.writable

    def doubt(self) -> None:
        """Take the generation that was read last for an old one, since another process has begun one."""
        self._generation.doubt()
        if not self._reading:  # now, so that this process knows which one ended, should that come back
            self._reading = True
            self._tasks.spawn(self._read_generation(), "read the generation")

    async def _read_generation(self) -> None:
        self._reading = False
        await self._guard.read("get", self._generation.current, None)

    def held(self, key: str) -> None:
        """See store_ports.EntryStore. Always None: Redis has to be asked."""

    def renew(self, renewals: Mapping[str, Renewal]) -> None:
        """See store_ports.EntryStore."""
        self.renewals.note(renewals)

    def _name_of(self, key: str) -> str:
        """Return the name that an entry has now; a cleared one is renewed under a name that nothing has."""
        return self._layout.entry_name(self._generation.seen, key)

    async def get(self, key: str) -> Lookup:
        """See store_ports.EntryStore."""
        found = await self._guard.lookup("get", lambda: self._generation.lookup((key,)), None)
        if found is None:
            return Lookup(entry=None, generation=None)
        generation, (value,) = found
        if value is None:
            return Lookup(entry=self.buffer.get(self._layout.entry_name(generation, key)), generation=generation)
        if not self.buffer:
            entry = self._codec.decode(generation, key, value)
            if entry is not None:  # most of them
                return Lookup(entry=entry, generation=generation)
        return Lookup(entry=self._decoded((key,), found)[0], generation=generation)

    async def get_many(self, keys: Sequence[str]) -> Lookups:
        """See store_ports.EntryStore. A long list takes several commands, and may take longer."""
        wait = self._guard.wait.seconds
        within = max(wait, min(wait + _READ_WITHIN_PER_KEY * len(keys), LONGEST_LOOKUP))
        found = await self._guard.lookup("get", lambda: self._generation.lookup(keys, within), None)
        if found is None:
            return Lookups(entries=(None,) * len(keys), generation=None)
        if sum(map(len, filter(None, found[1]))) <= _AT_ONCE:
            return Lookups(entries=self._decoded(keys, found), generation=found[0])
        return Lookups(entries=await self._decoded_in_turns(keys, found), generation=found[0])

    async def peek_many(self, keys: Sequence[str]) -> Lookups:
        """See store_ports.EntryStore. To Redis it is a use like any other."""
        return await self.get_many(keys)

    async def _decoded_in_turns(
        self, keys: Sequence[str], found: tuple[str, list[bytes | None]]
    ) -> tuple[StoredResponse | None, ...]:
        """Return what `_decoded` does, some entries in each turn of the event loop."""
        generation, values = found
        entries: list[StoredResponse | None] = []
        begin = size = 0
        for end, value in enumerate(values, 1):
            size += _BESIDE + len(value or b"")
            if size >= _AT_ONCE or end == len(values):
                entries += self._decoded(keys[begin:end], (generation, values[begin:end]))
                begin, size = end, 0
                await asyncio.sleep(0)
        return tuple(entries)

    def _decoded(self, keys: Sequence[str], found: tuple[str, list[bytes | None]]) -> tuple[StoredResponse | None, ...]:
        """Return the entries in a lookup's result; those in the buffer come first, damaged ones are deleted.

        One of a proxy with another seal key is left to it: where both ask for the same, the later one replaces it.
        """
        generation, values = found
        decode = self._codec.decode
        entries = tuple(
            decode(generation, key, value) if value else None for key, value in zip(keys, values, strict=True)
        )
        unread = [
            (key, value)
            for key, value, entry in zip(keys, values, entries, strict=True)
            if value is not None and not entry
        ]
        damaged = [key for key, value in unread if not self._codec.foreign(value)]
        if len(damaged) < len(unread):
            self._observe(StoreFault(kind=Fault.FOREIGN))
        if damaged:
            self._observe(StoreFault(kind=Fault.DAMAGED))
            self._tasks.spawn(self.delete(damaged, generation), f"remove damaged {damaged[0][:8]}")
        if self.buffer:
            newer = (self.buffer.get(self._layout.entry_name(generation, key)) for key in keys)
            entries = tuple(new or entry for new, entry in zip(newer, entries, strict=True))
        return entries

    async def put(self, entries: Entries, generation: str) -> bool:
        """See store_ports.EntryStore. Waits for its turn; with too many bytes waiting, entries are dropped."""
        named = {self._layout.entry_name(generation, key): entry for key, entry in entries}
        self.renewals.forget(key for key, _ in entries)
        try:
            await self.buffer.add(named)
            return await self._writer.write(entries, generation)
        finally:
            self.buffer.remove(named)

    async def touch(self, keys: Sequence[str], generation: str) -> None:
        """Mark these entries as used just now, so that others are evicted first."""
        for start in range(0, len(keys), _TOUCHES_PER_COMMAND):
            names = [self._layout.entry_name(generation, key) for key in keys[start : start + _TOUCHES_PER_COMMAND]]
            touch = partial(self.commands.run, ("TOUCH", partial(self._pool.touch, *names)))
            await self._guard.read("touch", partial(permitted, touch, None), None)

    async def delete(self, keys: Sequence[str], generation: str) -> int | None:
        """See store_ports.EntryStore."""
        await self._recovery()
        await self._flush()
        return await self._unlink([self._layout.entry_name(generation, key) for key in keys])

    async def page(self, cursor: str, limit: int) -> Page | None:
        """See store_ports.EntryStore. The cursor is SCAN's; among many other names a page may have few entries."""
        start = read_cursor(cursor, len(self._client.servers()))
        await self._flush()
        page = partial(permitted, lambda: self._scan.page(start, limit), None)
        return await self._guard.read("page", page, None)

    async def purge(self, matches: Matches) -> int | None:
        """See store_ports.EntryStore. After a failure, what was deleted before it stays deleted.

        Where names have moved to another server meanwhile, it begins again: it may have missed some.
        """
        await self._recovery()
        await self._flush()
        purged = 0
        for _ in range(_SCANS):
            shape = await self._client.shape()
            gone = await self._purge(matches)
            if gone is None:
                return None
            purged += gone
            if await self._client.shape() == shape:
                return purged
        return None

    async def _purge(self, matches: Matches) -> int | None:
        """Delete what matches, in one scan; return how many there were, None when the server failed."""
        generation = await self._guard.read("get", self._generation.current, None)
        if generation is None:
            return None
        purged = cursor = 0
        sparse = False
        while True:
            await self._guard.recovery()
            turn = partial(self._scan.turn, generation, cursor, sparse=sparse)
            seen = await self._guard.read("page", partial(permitted, turn, None), None)
            if seen is None:
                return None
            cursor, found = seen
            sparse = not found
            gone = await self._unlink(
                [self._layout.entry_name(generation, entry.key) for entry in found if matches(entry)]
            )
            if gone is None:
                return None
            purged += gone
            if not cursor:
                return purged

    async def clear(self) -> int | Uncounted | None:
        """See store_ports.EntryStore. The old generation's entries are removed in the background."""
        await self._recovery()
        count = await self.count()
        old = await self._guard.delete("clear", self._generation.replace)
        if old is None:
            return None
        self._count.cleared()
        if old:
            self._tasks.spawn(self._sweep(old), "sweep the old generation")
        return UNCOUNTED if count is None or count.keys is None else count.keys

    async def count(self) -> KeyCount | None:
        """See store_ports.EntryStore."""
        await self._flush()
        return await self._count.read()

    async def _recovery(self) -> None:
        """Wait a moment for a server that is away. What it has refused is tried again: a person waits for it."""
        await self._guard.recovery()
        self.commands.ask_again()

    async def _flush(self) -> None:
        """Have the buffer written: a deletion and a count include its entries."""
        if self.buffer:
            await self.buffer.flush(WRITE_WITHIN)

    async def _unlink(self, names: list[str]) -> int | None:
        """Delete these names; return how many there were, None when the server failed."""
        delete = partial(permitted, lambda: self._scan.delete(names), None)
        return await self._guard.delete("delete", delete) if names else 0

    async def _sweep(self, generation: str) -> None:
        try:
            await self._scan.remove(generation)
        except FAILURES:
            return  # the rest is never found, and expires
        await self._count.recount_after_removal()
