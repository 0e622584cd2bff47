"""The store in Redis or Valkey, through redis-py. A fault of it costs a client nothing but the speed-up.

Keys: `ocp:1:generation` holds a random token, `ocp:1:e:⟨generation⟩:⟨key⟩` an entry, `ocp:1:⟨name⟩` a value that is no
entry, or a hash of totals. A lookup reads generation and entries in one command, with the generation that this process
saw last; where that is no longer the current one it looks again. An entry is written under the generation that its
request saw, so what was asked before a clear is never found after it. An absent generation (a new Redis, an eviction)
is replaced by a new one: that costs misses and revives nothing.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError, WatchError

from ollama_cache_proxy.core.ports import (
    Clock,
    Entries,
    Fault,
    Health,
    KeyCount,
    Lookup,
    Lookups,
    Matches,
    Observer,
    Page,
    Part,
    StoreCall,
    StoreFault,
    Tier,
)
from ollama_cache_proxy.core.tasks import Polling, Tasks
from ollama_cache_proxy.policy.breaker import Breaker
from ollama_cache_proxy.policy.messages import Description, StoredResponse
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.stores.entry_codec import decode, decode_description, described_by, encode
from ollama_cache_proxy.stores.redis.lane import RedisLane
from ollama_cache_proxy.stores.write_buffer import Unwritten

PREFIX: Final = "ocp:1:"
GENERATION: Final = PREFIX + "generation"

_TOKEN: Final = re.compile(rb"[0-9a-f]{32}")
_CONNECT: Final = 0.1
_CONNECT_TLS: Final = 0.25
_READ: Final = 0.25
_LOOKUP: Final = 0.3
_LOOKUP_EACH: Final = 0.002
_LOOKUP_MOST: Final = 1.0
_AT_ONCE: Final = 64
_WRITE: Final = 2.0
_SMALL: Final = 65_536
"""Bytes of an entry that goes over the lane."""
_CONNECTIONS: Final = 64
_WRITERS: Final = 8
_MAX_WAITING: Final = 128 * 1024 * 1024
_SCAN: Final = 1000
_TURNS: Final = 60
_EXACT_UP_TO: Final = 10_000
_RECOUNT: Final = 30.0
_COUNT_LASTS: Final = 300.0
"""Seconds for which a count, corrected, is good enough for who only watches."""
_RECOUNTED_WITHIN: Final = 0.02
_PREFIX_BYTES: Final = 2048
"""So many of a value's first bytes describe most entries."""
_CURSORS: Final = 2**64
_FAILURES: Final = (RedisError, OSError, TimeoutError, asyncio.IncompleteReadError)

T = TypeVar("T")


@record
class _Count:
    """What a look at every name found: the entries of `generation`, and how many names of others there were.

    `others` is None where entries of other generations were among them: those go. `at` is monotonic time.
    """

    generation: str
    keys: int
    others: int | None
    at: float

    def corrected(self, size: int) -> int:
        """How many entries there are when the database has grown or shrunk to `size` names."""
        return self.keys if self.others is None else max(0, size - self.others)


class RedisStore:
    """See ports.Store. `name` says in log and health which server this is, without its password.

    `authority` is a PEM file with who may sign the certificate of a `rediss://` server, None the system's.
    """

    def __init__(  # noqa: PLR0913 - the composition root names each neighbour once
        self, url: str, *, name: str, clock: Clock, observe: Observer, tasks: Tasks, authority: str | None = None
    ) -> None:
        tls = urlsplit(url).scheme == "rediss"
        connect = _CONNECT_TLS if tls else _CONNECT
        pool = redis.BlockingConnectionPool.from_url(
            url,
            timeout=_CONNECT,
            max_connections=_CONNECTIONS,
            socket_connect_timeout=connect,
            socket_timeout=_READ,
            retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
            health_check_interval=0,
            **({"ssl_ca_certs": authority} if tls and authority else {}),
        )
        self._redis: Any = redis.Redis.from_pool(pool)
        self._lane = RedisLane(self.connection)
        self.name = name
        self._clock = clock
        self._observe = observe
        self._tasks = tasks
        self._generation = ""
        self._reads = Breaker(threshold=5, pause=1.0)
        self._writes = Breaker(threshold=5, pause=1.0)
        self._well: dict[Part, bool] = {}
        self._writers = asyncio.Semaphore(_WRITERS)
        self._waiting = 0
        self._unwritten = Unwritten()
        self._count: _Count | None = None
        self._counting: asyncio.Task[None] | None = None
        self._tier: Tier | None = None
        self._polling = Polling(self._measure, "ask how full the store is", tasks=tasks)

    async def ping(self) -> bool:
        """Say whether the server answers; observed like every operation."""
        return await self._read("ping", lambda: self._redis.ping(), None) is not None  # noqa: PLW0108 - a new awaitable each try

    def begin(self) -> None:
        """Begin to count, so that a large store is counted before someone asks; harmless where no server answers."""
        self._recount()

    async def close(self) -> None:
        """Close every connection."""
        await self._lane.close()
        with suppress(*_FAILURES):  # whoever closes too slowly is not waited for
            await self._redis.aclose()

    @property
    def watched(self) -> tuple[str, ...]:
        """The prefixes of the names of entries, and of the generation."""
        return (f"{PREFIX}e:", GENERATION)

    def connection(self) -> redis.Connection:
        """Give a new connection to the server, in RESP2, that nobody else uses."""
        pool = self._redis.connection_pool
        made: redis.Connection = pool.connection_class(**pool.connection_kwargs | {"protocol": 2})
        return made

    def keys_of(self, names: Sequence[bytes] | None) -> list[str] | None:
        """Give the keys of the entries with these names; None where the generation is among them, or all are meant."""
        if names is None or GENERATION.encode() in names:
            return None
        return [name.decode("latin-1").rpartition(":")[2] for name in names]

    def forget(self) -> None:
        """Find nothing that is not in Redis yet: another process has deleted what it meant."""
        self._unwritten.forget()

    def held(self, key: str) -> None:
        """See ports.Store. Nothing is known of Redis without asking."""

    async def get(self, key: str) -> Lookup:
        """See ports.Store."""
        found = await self._guarded(Part.STORE, "get", lambda: self._look((key,)), None)
        if found is None:
            return Lookup(entry=None, generation=None)
        generation, (value,) = found
        if value is None:
            return Lookup(entry=self._unwritten.get(_entry(generation, key)), generation=generation)
        return Lookup(entry=self._read_out((key,), found)[0], generation=generation)

    async def get_many(self, keys: Sequence[str]) -> Lookups:
        """See ports.Store. A long list takes several commands, and may take longer."""
        deadline = min(_LOOKUP + _LOOKUP_EACH * len(keys), _LOOKUP_MOST)
        found = await self._guarded(Part.STORE, "get", lambda: self._look(keys, deadline), None)
        if found is None:
            return Lookups(entries=(None,) * len(keys), generation=None)
        return Lookups(entries=self._read_out(keys, found), generation=found[0])

    def _read_out(
        self, keys: Sequence[str], found: tuple[str, list[bytes | None]]
    ) -> tuple[StoredResponse | None, ...]:
        """Give the entries of what was found under a generation, those on their way before it; damaged ones go."""
        generation, values = found
        entries = tuple(decode(key, value) if value else None for key, value in zip(keys, values, strict=True))
        damaged = [
            key for key, value, entry in zip(keys, values, entries, strict=True) if value is not None and not entry
        ]
        if damaged:
            self._observe(StoreFault(kind=Fault.DAMAGED))
            self._tasks.spawn(self.delete(damaged, generation), f"remove damaged {damaged[0][:8]}")
        if self._unwritten:
            newer = (self._unwritten.get(_entry(generation, key)) for key in keys)
            entries = tuple(new or entry for new, entry in zip(newer, entries, strict=True))
        return entries

    async def _look(self, keys: Sequence[str], within: float = _LOOKUP) -> tuple[str, list[bytes | None]]:
        """Give the current generation and the entries under it; one command, unless the generation is new to us."""
        if len(keys) <= _AT_ONCE:
            generation = self._generation
            names = [_entry(generation, key) for key in keys]
            current, *values = await self._lane.ask("MGET", GENERATION, *names, within=within, urgent=True)
            if current == generation.encode():
                return generation, values
        async with asyncio.timeout(within):
            return await self._look_well(keys)

    async def _look_well(self, keys: Sequence[str]) -> tuple[str, list[bytes | None]]:
        """Look in as many commands as it takes: the list is long, or the generation is new to us."""
        for _ in range(3):
            generation = self._generation
            names = [_entry(generation, key) for key in keys]
            current, *values = await self._lane.ask("MGET", GENERATION, *names[:_AT_ONCE], within=_LOOKUP_MOST)
            if current is None or _TOKEN.fullmatch(current) is None:  # none, or no token of ours: it could come again
                try:
                    current = await self._renewed()
                except WatchError:
                    continue
                except ResponseError as error:
                    await self._remove_foreign(GENERATION, error)
                    continue
            self._generation = current.decode("latin-1")
            if self._generation == generation:
                for start in range(_AT_ONCE, len(names), _AT_ONCE):
                    values += await self._redis.mget(names[start : start + _AT_ONCE])
                return generation, values
        return self._generation, [None] * len(keys)

    async def _renewed(self) -> bytes:
        """Begin a generation unless somebody just has; gives the current one. Raises WatchError where it changes."""
        async with self._redis.pipeline() as pipeline:
            await pipeline.watch(GENERATION)
            current: bytes | None = await pipeline.get(GENERATION)
            if current is not None and _TOKEN.fullmatch(current) is not None:
                return current
            fresh = secrets.token_hex(16)
            pipeline.multi()
            pipeline.set(GENERATION, fresh)
            await pipeline.execute()
            return fresh.encode()

    async def put(self, entries: Entries, generation: str) -> bool:
        """See ports.Store. Waits for its turn; over too many waiting bytes the entries are dropped."""
        named = {_entry(generation, key): entry for key, entry in entries}
        try:
            await self._unwritten.wait(named)
            return await self._put(entries, generation)
        finally:
            self._unwritten.written(named)

    async def _put(self, entries: Entries, generation: str) -> bool:
        values = [(_entry(generation, key), encode(key, entry), entry.lifetime) for key, entry in entries]
        size = sum(len(value) for _, value, _ in values)
        if self._waiting + size > _MAX_WAITING:
            self._observe(StoreFault(kind=Fault.DROPPED))
            return False
        self._waiting += size
        try:
            async with self._writers:
                for start in range(0, len(values), _AT_ONCE):
                    if not await self._set(values[start : start + _AT_ONCE]):
                        return False
        finally:
            self._waiting -= size
        return True

    async def _set(self, values: list[tuple[str, bytes, int]]) -> bool:
        """Write some entries in one round trip."""
        if len(values) == 1 and len(values[0][1]) <= _SMALL:
            return bool(await self._guarded(Part.STORE_WRITES, "set", lambda: self._set_small(*values[0]), None))

        async def write() -> bool:
            async with self._redis.pipeline(transaction=False) as pipeline:
                for name, value, lifetime in values:
                    pipeline.set(name, value, ex=lifetime)
                return all(await pipeline.execute())

        return bool(await self._write("set", write))

    async def _set_small(self, name: str, value: bytes, lifetime: int) -> bool:
        return bool(await self._lane.ask("SET", name, value, "EX", lifetime, within=_WRITE))

    async def touch(self, keys: Sequence[str], generation: str) -> None:
        """Let these entries count as used just now, which keeps them from being evicted."""
        for start in range(0, len(keys), _SCAN):
            names = [_entry(generation, key) for key in keys[start : start + _SCAN]]
            await self._read("touch", partial(self._redis.touch, *names), None)

    async def delete(self, keys: Sequence[str], generation: str) -> int | None:
        """See ports.Store."""
        await self._settled()
        return await self._unlink([_entry(generation, key) for key in keys])

    async def _settled(self) -> None:
        """Write what is on its way: who deletes and who counts means it too."""
        if self._unwritten:
            await self._unwritten.settle(_WRITE)

    async def _unlink(self, names: list[str]) -> int | None:
        """Give how many of these were there; None when the store failed."""
        return await self._write("delete", lambda: self._redis.unlink(*names)) if names else 0

    async def page(self, cursor: str, limit: int) -> Page | None:
        """See ports.Store. The cursor is SCAN's; among many names of others a page may hold fewer entries, or none."""
        if cursor and not (cursor.isascii() and cursor.isdigit() and int(cursor) < _CURSORS):
            raise ValueError(f"{cursor[:32]!r} is no cursor")
        await self._settled()
        return await self._read("page", lambda: self._page(int(cursor or "0"), limit), None, deadline=_WRITE)

    async def purge(self, matches: Matches) -> int | None:
        """See ports.Store. What was deleted before the store failed stays deleted."""
        await self._settled()
        generation = await self._read("get", self._current, None)
        if generation is None:
            return None
        purged = cursor = 0
        count = _AT_ONCE
        while True:
            turn = await self._read("page", partial(self._turn, generation, cursor, count), None, deadline=_WRITE)
            if turn is None:
                return None
            cursor, found = turn
            count = _AT_ONCE if found else _SCAN
            gone = await self._unlink([_entry(generation, entry.key) for entry in found if matches(entry)])
            if gone is None:
                return None
            purged += gone
            if not cursor:
                return purged

    async def _page(self, cursor: int, limit: int) -> Page:
        generation = await self._current()
        entries: list[Description] = []
        count = _AT_ONCE
        for _ in range(_TURNS):
            cursor, found = await self._turn(generation, cursor, count)
            entries += found
            if not cursor or len(entries) >= limit:
                break
            count = _AT_ONCE if found else _SCAN
        return Page(entries=tuple(entries), cursor=str(cursor) if cursor else None)

    async def _turn(self, generation: str, cursor: int, count: int) -> tuple[int, list[Description]]:
        """Look at about `count` names; give the next cursor, 0 at the end, and the entries that were among them."""
        cursor, names = await self._redis.scan(cursor, match=_entry(generation, "*"), count=count)
        start = len(_entry(generation, ""))
        return cursor, await self._describe(generation, [name.decode("latin-1")[start:] for name in names])

    async def _describe(self, generation: str, keys: list[str]) -> list[Description]:
        """Describe those entries that are there and whole as far as that can be seen."""
        values = await self._prefixes(generation, dict.fromkeys(keys, _PREFIX_BYTES))
        needed = {key: described_by(key, prefix) for key, (prefix, _) in values.items()}
        longer = {key: length for key, length in needed.items() if _PREFIX_BYTES < length <= values[key][1]}
        values |= await self._prefixes(generation, longer)
        found = (decode_description(key, prefix, total) for key, (prefix, total) in values.items())
        return [description for description in found if description is not None]

    async def _prefixes(self, generation: str, lengths: Mapping[str, int]) -> dict[str, tuple[bytes, int]]:
        """Give so many first bytes of each key's value, and the whole value's length; a foreign type is left out."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            for key, length in lengths.items():
                pipeline.getrange(_entry(generation, key), 0, length - 1)
                pipeline.strlen(_entry(generation, key))
            replies = await pipeline.execute(raise_on_error=False)
        values = zip(lengths, replies[::2], replies[1::2], strict=True)
        return {key: (prefix, total) for key, prefix, total in values if (type(prefix), type(total)) == (bytes, int)}

    async def _current(self) -> str:
        """Give the current generation."""
        return (await self._look(()))[0]

    async def save(self, name: str, value: bytes) -> bool:
        """See ports.Store."""
        return bool(await self._write("save", lambda: self._redis.set(PREFIX + name, value)))

    async def load(self, name: str) -> bytes | None:
        """See ports.Store."""
        return await self._read("load", lambda: self._redis.get(PREFIX + name), None)

    async def settle(self, name: str, value: bytes) -> bytes | None:
        """See ports.Store. Writes only where there is nothing to read."""
        found = await self.load(name)
        return found if found is not None else await self._write("save", lambda: self._settle(PREFIX + name, value))

    async def _settle(self, name: str, value: bytes) -> bytes | None:
        kept: bytes | None
        async with self._redis.pipeline() as pipeline:
            pipeline.set(name, value, nx=True).get(name)
            _, kept = await pipeline.execute()
        return kept

    async def add(self, name: str, deltas: Mapping[str, int], known: Mapping[str, int]) -> dict[str, int] | None:
        """See ports.Store. What failed may have been added all the same, where only the answer was lost."""
        begun = {field: known[field] for field in deltas if field in known}
        totals = await self._write("add", lambda: self._add(PREFIX + name, begun, deltas))
        if totals is None:
            return None
        lost = {field: total for field, total in known.items() if field not in totals}
        if lost:
            totals = await self._write("add", lambda: self._add(PREFIX + name, lost, {})) or lost | totals
        return totals

    async def _add(self, name: str, begun: Mapping[str, int], deltas: Mapping[str, int]) -> dict[str, int]:
        """Begin fields that are not there, add to fields, and give all of them, at once."""
        async with self._redis.pipeline() as pipeline:
            for field, total in begun.items():
                pipeline.hsetnx(name, field, total)
            for field, delta in deltas.items():
                pipeline.hincrby(name, field, delta)
            pipeline.hgetall(name)
            *_, fields = await pipeline.execute(raise_on_error=False)  # one damaged field must not cost the others
        if isinstance(fields, ResponseError):  # not ours, or no longer a hash: begin again
            await self._redis.unlink(name)
            return await self._add(name, begun, deltas)
        if isinstance(fields, RedisError):
            raise fields
        totals: dict[str, int] = {}
        for field, total in fields.items():
            with suppress(ValueError):
                totals[field.decode()] = int(total)
        return totals

    async def clear(self) -> int | None:
        """See ports.Store. The old generation's entries are removed in the background."""
        count = await self.count()
        fresh = secrets.token_hex(16)
        swapped = await self._write("clear", lambda: self._swap(fresh))
        if swapped is None:
            return None
        self._generation = fresh
        self._count = _Count(generation=fresh, keys=0, others=None, at=self._clock.monotonic())
        if swapped:
            self._tasks.spawn(self._sweep(swapped), "sweep the old generation")
        return count.keys if count is not None else 0

    async def _swap(self, fresh: str) -> str:
        """Make `fresh` the generation; gives the one before, or nothing."""
        try:
            old = await self._redis.set(GENERATION, fresh, get=True)
        except ResponseError as error:
            await self._remove_foreign(GENERATION, error)
            await self._redis.set(GENERATION, fresh)
            return ""
        return "" if old is None else old.decode("latin-1")

    async def _remove_foreign(self, name: str, error: ResponseError) -> None:
        """Remove what is not of the type that we keep under a name; raises any other error again."""
        if not str(error).startswith("WRONGTYPE"):
            raise error
        await self._redis.unlink(name)

    async def _sweep(self, generation: str) -> None:
        try:
            async for names in self._names(generation):
                if names:
                    await self._redis.unlink(*names)
        except _FAILURES:
            return  # what is left is never found, and goes with its lifetime
        if self._counting is not None:
            await asyncio.wait({self._counting})
        self._recount()

    async def count(self) -> KeyCount | None:
        """See ports.Store.

        Exact where that is found at once; else what the last look at every name found, corrected, with the look's age.
        """
        await self._settled()
        found = await self._read("count", self._count_some, None, deadline=_WRITE)
        if found is None:
            return None
        size, exact = found
        if exact is not None:
            return KeyCount(keys=exact, age=0.0)
        count = self._last_count()
        if count is None:
            await asyncio.wait({self._recount()}, timeout=_WRITE)
        elif self._clock.monotonic() - count.at > _RECOUNT / 2 or count.keys <= _EXACT_UP_TO < count.corrected(size):
            await asyncio.wait({self._recount()}, timeout=_RECOUNTED_WITHIN)
        count = self._last_count()
        if count is None:
            return None
        return KeyCount(keys=count.corrected(size), age=self._clock.monotonic() - count.at)

    async def _count_some(self) -> tuple[int, int | None]:
        """Give the database's size in names, and the count of the current generation if that is little work."""
        generation = await self._current()
        size = await self._redis.dbsize()
        if size > _TURNS * _SCAN:
            return size, None
        seen: set[bytes] = set()
        async with aclosing(self._names(generation)) as turns:
            async for names in turns:
                seen.update(names)
                if len(seen) > _EXACT_UP_TO:
                    return size, None
        return size, len(seen)

    def tiers(self, *, asking: bool) -> tuple[Tier, ...]:
        """See ports.Store. Asked for in the background while somebody wants it."""
        if not asking:
            return ()
        self._polling.want()
        return () if self._tier is None else (self._tier,)

    def breakers(self) -> Mapping[str, bool]:
        """See ports.Store."""
        return {"read": self._reads.open, "write": self._writes.open}

    async def _measure(self) -> None:
        """Ask how full the server is. That this fails is no fault of the store: its user may have no right to know."""
        tier = None
        with suppress(*_FAILURES, KeyError, TypeError):
            if not self._reads.open:
                async with asyncio.timeout(_LOOKUP), self._redis.pipeline(transaction=False) as pipeline:
                    pipeline.info("memory").info("stats").dbsize()
                    memory, stats, size = await pipeline.execute()
                tier = self._filled(memory["used_memory"], stats["evicted_keys"], size)
        self._tier = tier

    def _filled(self, used: int, evicted: int, size: int) -> Tier:
        """Describe a server with `size` names; their count is looked at anew where it is old."""
        count = self._last_count()
        if count is None or self._clock.monotonic() - count.at > _COUNT_LASTS:
            self._recount()
        entries = None if count is None else count.corrected(size)
        return Tier(name="redis", entries=entries, size=used, evicted=evicted)

    def _last_count(self) -> _Count | None:
        count = self._count
        return count if count is not None and count.generation == self._generation else None

    def _recount(self) -> asyncio.Task[None]:
        """Look at every name in the background, unless that is being done."""
        if self._counting is None or self._counting.done():
            self._counting = self._tasks.spawn(self._count_all(), "count entries", endless=True)
        return self._counting

    async def _count_all(self) -> None:
        keys = old = 0
        try:
            generation = await self._current()
            own = _entry(generation, "").encode()
            async for names in self._names("*"):
                mine = sum(name.startswith(own) for name in names)
                keys += mine
                old += len(names) - mine
            others = None if old else max(0, await self._redis.dbsize() - keys)
        except _FAILURES:
            return
        if generation == self._generation:
            self._count = _Count(generation=generation, keys=keys, others=others, at=self._clock.monotonic())

    async def _names(self, generation: str) -> AsyncGenerator[list[bytes], None]:
        """Go through the names of one generation's entries, or of all (`*`), some at a time; one may come twice."""
        cursor = 0
        while True:
            cursor, names = await self._redis.scan(cursor, match=_entry(generation, "*"), count=_SCAN)
            yield names
            if not cursor:
                return

    async def _read(
        self, name: str, operation: Callable[[], Awaitable[T]], fallback: T, *, deadline: float = _LOOKUP
    ) -> T:
        return await self._guarded(Part.STORE, name, partial(_within, deadline, operation), fallback)

    async def _write(self, name: str, operation: Callable[[], Awaitable[T]]) -> T | None:
        return await self._guarded(Part.STORE_WRITES, name, partial(_within, _WRITE, operation), None)

    async def _guarded(self, part: Part, name: str, operation: Callable[[], Awaitable[T]], fallback: T) -> T:
        """Run one operation, bounded in time by itself, within its part's breaker; a failure is the fallback."""
        breaker = self._reads if part is Part.STORE else self._writes
        begun = self._clock.monotonic()
        if not breaker.allows(begun):
            return fallback
        try:
            result = await operation()
        except _FAILURES as error:
            if isinstance(error, TimeoutError):
                self._lane.renew()
            now = self._clock.monotonic()
            self._observe(StoreCall(operation=name, seconds=now - begun, failed=True))
            self._observe(StoreFault(kind=Fault.FAILED))
            breaker.failed(now)
            self._told(part, well=False, reason=_kind(error))
            return fallback
        self._observe(StoreCall(operation=name, seconds=self._clock.monotonic() - begun, failed=False))
        breaker.succeeded()
        self._told(part, well=True)
        return result

    def _told(self, part: Part, *, well: bool, reason: str = "") -> None:
        if part is Part.STORE_WRITES and not well and self._well.get(Part.STORE) is False:
            return  # said already
        known = self._well.get(part)
        self._well[part] = well
        if known is well or (known is None and part is Part.STORE_WRITES and well):
            return
        self._observe(Health(part=part, well=well, name=self.name, reason=reason))


async def _within(seconds: float, operation: Callable[[], Awaitable[T]]) -> T:
    async with asyncio.timeout(seconds):
        return await operation()


def _entry(generation: str, key: str) -> str:
    return f"{PREFIX}e:{generation}:{key}"


def _kind(error: BaseException) -> str:
    """Name an error without its text, which can hold an address with a password; Redis's own first word is safe."""
    if type(error) is ResponseError:
        word = str(error).split(" ", 1)[0].strip(":")
        return word if word.isupper() and word.isalpha() else "ERR"
    return type(error).__name__
