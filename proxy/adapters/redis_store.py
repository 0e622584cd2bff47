"""The store in Redis or Valkey, through redis-py. A fault of it costs a client nothing but the speed-up.

Keys: `ocp:1:generation` holds a random token, `ocp:1:e:⟨generation⟩:⟨key⟩` an entry, `ocp:1:models:⟨Ollama⟩` the
digests that were seen last. A lookup reads both in one
command with the generation that this process saw last; where that is no longer the current one it looks again. An entry
is written under the generation that its request saw, so what was asked before a clear is never found after it. An
absent generation (a new Redis, an eviction) is replaced by a new one: that costs misses and revives nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from proxy.adapters.codec import decode, encode
from proxy.policy.breaker import Breaker
from proxy.ports import Clock, Entries, Fault, Health, KeyCount, Lookup, Lookups, Observer, Part, StoreFault
from proxy.tasks import Tasks

PREFIX: Final = "ocp:1:"
GENERATION: Final = PREFIX + "generation"

_CONNECT: Final = 0.1
_READ: Final = 0.25
_LOOKUP: Final = 0.3
_LOOKUP_EACH: Final = 0.002
_LOOKUP_MOST: Final = 1.0
_AT_ONCE: Final = 64
_WRITE: Final = 2.0
_CONNECTIONS: Final = 64
_WRITERS: Final = 8
_MAX_WAITING: Final = 128 * 1024 * 1024
_SCAN: Final = 1000
_EXACT_UP_TO: Final = 10_000
_TURNS_AT_ONCE: Final = 60
_RECOUNT: Final = 30.0
_FAILURES: Final = (RedisError, OSError, TimeoutError, asyncio.IncompleteReadError)

T = TypeVar("T")


class RedisStore:
    """See ports.Store. `name` says in log and health which server this is, without its password."""

    def __init__(self, url: str, *, name: str, clock: Clock, observe: Observer, tasks: Tasks) -> None:
        pool = redis.BlockingConnectionPool.from_url(
            url,
            timeout=_CONNECT,
            max_connections=_CONNECTIONS,
            socket_connect_timeout=_CONNECT,
            socket_timeout=_READ,
            retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
            health_check_interval=0,
        )
        self._redis: Any = redis.Redis.from_pool(pool)
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
        self._counted: tuple[int, float] | None = None
        self._counting: asyncio.Task[None] | None = None

    async def ping(self) -> bool:
        """Say whether the server answers; observed like every operation."""
        return await self._read(lambda: self._redis.ping(), None) is not None  # noqa: PLW0108 - a new awaitable each try

    async def close(self) -> None:
        """Close every connection."""
        await self._redis.aclose()

    async def get(self, key: str) -> Lookup:
        """See ports.Store."""
        found = await self.get_many((key,))
        return Lookup(entry=found.entries[0], generation=found.generation)

    async def get_many(self, keys: Sequence[str]) -> Lookups:
        """See ports.Store. A long list takes several commands, and may take longer."""
        deadline = min(_LOOKUP + _LOOKUP_EACH * len(keys), _LOOKUP_MOST)
        found = await self._read(lambda: self._look(keys), None, deadline=deadline)
        if found is None:
            return Lookups(entries=(None,) * len(keys), generation=None)
        generation, values = found
        entries = tuple(decode(key, value) if value else None for key, value in zip(keys, values, strict=True))
        damaged = [
            key for key, value, entry in zip(keys, values, entries, strict=True) if value is not None and not entry
        ]
        if damaged:
            self._observe(StoreFault(kind=Fault.DAMAGED))
            self._tasks.spawn(self.delete(damaged, generation), f"remove damaged {damaged[0][:8]}")
        return Lookups(entries=entries, generation=generation)

    async def _look(self, keys: Sequence[str]) -> tuple[str, list[bytes | None]]:
        """Give the current generation and the entries under it; one command, unless the generation is new to us."""
        for _ in range(3):
            generation = self._generation
            names = [_entry(generation, key) for key in keys]
            current, *values = await self._redis.mget(GENERATION, *names[:_AT_ONCE])
            if current is None:
                fresh = secrets.token_hex(16)
                await self._redis.set(GENERATION, fresh, nx=True)
                current = await self._redis.get(GENERATION) or fresh.encode()  # gone again: never find it, then
            self._generation = current.decode("latin-1")
            if self._generation == generation:
                for start in range(_AT_ONCE, len(names), _AT_ONCE):
                    values += await self._redis.mget(names[start : start + _AT_ONCE])
                return generation, values
        return self._generation, [None] * len(keys)

    async def put(self, entries: Entries, generation: str) -> bool:
        """See ports.Store. Waits for its turn; over too many waiting bytes the entries are dropped."""
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

        async def write() -> bool:
            if len(values) == 1:
                ((name, value, lifetime),) = values
                return bool(await self._redis.set(name, value, ex=lifetime))
            async with self._redis.pipeline(transaction=False) as pipeline:
                for name, value, lifetime in values:
                    pipeline.set(name, value, ex=lifetime)
                return all(await pipeline.execute())

        return bool(await self._write(write))

    async def delete(self, keys: Sequence[str], generation: str) -> None:
        """See ports.Store."""
        names = [_entry(generation, key) for key in keys]
        await self._write(lambda: self._redis.unlink(*names))

    async def save(self, name: str, value: bytes) -> bool:
        """See ports.Store."""
        return bool(await self._write(lambda: self._redis.set(PREFIX + name, value)))

    async def load(self, name: str) -> bytes | None:
        """See ports.Store."""
        return await self._read(lambda: self._redis.get(PREFIX + name), None)

    async def clear(self) -> int | None:
        """See ports.Store. The old generation's entries are removed in the background."""
        count = await self.count()
        fresh = secrets.token_hex(16)
        swapped = await self._write(lambda: self._swap(fresh))
        if swapped is None:
            return None
        self._generation = fresh
        self._counted = (0, self._clock.monotonic())
        if swapped:
            self._tasks.spawn(self._sweep(swapped), "sweep the old generation")
        return count.keys if count is not None else 0

    async def _swap(self, fresh: str) -> str:
        """Make `fresh` the generation; gives the one before, or nothing."""
        old = await self._redis.set(GENERATION, fresh, get=True)
        return "" if old is None else old.decode("latin-1")

    async def count(self) -> KeyCount | None:
        """See ports.Store. Exact up to 10,000 keys; beyond that at most 30 s old."""
        found = await self._read(self._count_some, None, deadline=_WRITE)
        if found is None:
            return None
        now = self._clock.monotonic()
        if found >= 0:
            self._counted = (found, now)
            return KeyCount(keys=found, age=0.0)
        if self._counting is None and (self._counted is None or now - self._counted[1] > _RECOUNT / 2):
            self._counting = self._tasks.spawn(self._count_all(), "count entries")
            self._counting.add_done_callback(self._counting_ended)
        if self._counted is None and self._counting is not None:
            await asyncio.wait({self._counting})
        if self._counted is None:
            return None
        keys, at = self._counted
        return KeyCount(keys=keys, age=self._clock.monotonic() - at)

    async def _count_some(self) -> int:
        """Give the count of the current generation, or -1 where that is too much to be looked through at once."""
        await self._look(())
        found = await self._scan(self._generation, None, at_once=True)
        return -1 if found is None else found

    async def _count_all(self) -> None:
        generation = self._generation
        try:
            keys = await self._scan(generation, None)
        except _FAILURES:
            return
        if keys is not None and generation == self._generation:
            self._counted = (keys, self._clock.monotonic())

    def _counting_ended(self, _task: asyncio.Task[None]) -> None:
        self._counting = None

    async def _sweep(self, generation: str) -> None:
        try:
            await self._scan(generation, lambda names: self._redis.unlink(*names))
        except _FAILURES:
            return  # what is left is never found, and goes with its lifetime

    async def _scan(
        self, generation: str, each: Callable[[list[bytes]], Awaitable[Any]] | None, *, at_once: bool = False
    ) -> int | None:
        """Go through the names of one generation; give how many there are, or None where `at_once` was too much.

        Others may keep names in the same database: those cost time too.
        """
        seen: set[bytes] = set()
        cursor = 0
        for turn in itertools.count():
            cursor, names = await self._redis.scan(cursor, match=_entry(generation, "*"), count=_SCAN)
            seen.update(names)
            if each is not None and names:
                await each(names)
            if not cursor:
                return len(seen)
            if at_once and (len(seen) > _EXACT_UP_TO or turn >= _TURNS_AT_ONCE):
                return None
        raise AssertionError  # a count does not end

    async def _read(self, operation: Callable[[], Awaitable[T]], fallback: T, *, deadline: float = _LOOKUP) -> T:
        return await self._guarded(Part.STORE, self._reads, operation, fallback, deadline)

    async def _write(self, operation: Callable[[], Awaitable[T]]) -> T | None:
        return await self._guarded(Part.STORE_WRITES, self._writes, operation, None, _WRITE)

    async def _guarded(
        self,
        part: Part,
        breaker: Breaker,
        operation: Callable[[], Awaitable[T]],
        fallback: T,
        deadline: float,
    ) -> T:
        """Run one operation within its deadline and its breaker; any failure gives the fallback."""
        if not breaker.allows(self._clock.monotonic()):
            return fallback
        try:
            async with asyncio.timeout(deadline):
                result = await operation()
        except _FAILURES as error:
            self._observe(StoreFault(kind=Fault.FAILED))
            breaker.failed(self._clock.monotonic())
            self._told(part, well=False, reason=_kind(error))
            return fallback
        breaker.succeeded()
        self._told(part, well=True)
        return result

    def _told(self, part: Part, *, well: bool, reason: str = "") -> None:
        known = self._well.get(part)
        self._well[part] = well
        if known is well or (known is None and part is Part.STORE_WRITES and well):
            return
        self._observe(Health(part=part, well=well, name=self.name, reason=reason))


def _entry(generation: str, key: str) -> str:
    return f"{PREFIX}e:{generation}:{key}"


def _kind(error: BaseException) -> str:
    """Name an error without its text, which can hold an address with a password; Redis's own first word is safe."""
    if type(error) is ResponseError:
        word = str(error).split(" ", 1)[0].strip(":")
        return word if word.isupper() and word.isalpha() else "ERR"
    return type(error).__name__
