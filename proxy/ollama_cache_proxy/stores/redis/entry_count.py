"""How many entries there are: counted exactly where that is little work, else by a scan in the background.

Between two scans, the count is corrected by how much the database has grown or shrunk, which one command tells.
"""

from __future__ import annotations

import asyncio
from typing import Final

from ollama_cache_proxy.core.ports import Clock
from ollama_cache_proxy.core.store_ports import KeyCount
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.stores.redis.commands import permitted
from ollama_cache_proxy.stores.redis.generation import Generations
from ollama_cache_proxy.stores.redis.guard import WRITE_WITHIN, Guard
from ollama_cache_proxy.stores.redis.redis_client import FAILURES
from ollama_cache_proxy.stores.redis.scan import Scan

_EXACT_UP_TO: Final = 10_000
"""Entries."""
_RECOUNT: Final = 30.0
"""Seconds for which a corrected count is good enough for a client; after half of them it is made anew."""
_COUNT_LASTS: Final = 300.0
"""Seconds for which it is good enough for gauges."""
_RECOUNTED_WITHIN: Final = 0.02
"""Seconds to wait for a new count where there is an old one."""
_REFUSED: Final[tuple[int | None, int | None]] = (-1, None)
"""In place of a count where the server refuses a command that counting takes."""


@record
class _Count:
    """The result of a scan of all names."""

    generation: str
    keys: int
    """Entries of the generation."""
    others: int | None
    """Names that are no entries; None where there were entries of other generations, which are being removed."""
    at: float
    """Monotonic time, in seconds."""

    def corrected(self, size: int | None) -> int:
        """Return the count for a database that has grown or shrunk to `size` names, None if that is not known."""
        return self.keys if self.others is None or size is None else max(0, size - self.others)


class EntryCount:
    """Counts the entries of the current generation."""

    def __init__(self, guard: Guard, generation: Generations, scan: Scan, *, clock: Clock, tasks: Tasks) -> None:
        self._guard = guard
        self._generation = generation
        self._scan = scan
        self._clock = clock
        self._tasks = tasks
        self._count: _Count | None = None
        self._counting: asyncio.Task[None] | None = None

    async def read(self) -> KeyCount | None:
        """Return the count; None where the server failed.

        It is exact where a short scan is enough; else that of the last full scan, corrected, with its age.
        """
        found = await self._guard.read(
            "count", lambda: permitted(lambda: self._scan.count(_EXACT_UP_TO), _REFUSED), None
        )
        if found is None:
            return None
        if found is _REFUSED:
            return KeyCount(keys=None, age=0.0)
        size, exact = found
        if exact is not None:
            return KeyCount(keys=exact, age=0.0)
        count = self._last()
        if count is None:
            await asyncio.wait({self.recount()}, timeout=WRITE_WITHIN)
        elif self._clock.monotonic() - count.at > _RECOUNT / 2 or count.keys <= _EXACT_UP_TO < count.corrected(size):
            await asyncio.wait({self.recount()}, timeout=_RECOUNTED_WITHIN)
        count = self._last()
        if count is None:
            return KeyCount(keys=None, age=0.0)
        return KeyCount(keys=count.corrected(size), age=self._clock.monotonic() - count.at)

    def estimate(self, size: int | None) -> int | None:
        """Return how many entries a database of `size` names has, as far as that is known without asking.

        An old count is made anew, for the next call.
        """
        count = self._last()
        if count is None or self._clock.monotonic() - count.at > _COUNT_LASTS:
            self.recount()
        return None if count is None else count.corrected(size)

    def cleared(self) -> None:
        """Note that the current generation has just begun, without entries."""
        self._count = _Count(generation=self._generation.seen, keys=0, others=None, at=self._clock.monotonic())

    def recount(self) -> asyncio.Task[None]:
        """Start a scan of all names in the background, unless one is running; return its task."""
        if self._counting is None or self._counting.done():
            self._counting = self._tasks.spawn(self._count_all(), "count entries", endless=True)
        return self._counting

    async def recount_after_removal(self) -> None:
        """Start a scan after the one that is running, which may have counted entries that are gone."""
        if self._counting is not None:
            await asyncio.wait({self._counting})
        self.recount()

    def _last(self) -> _Count | None:
        count = self._count
        return count if count is not None and count.generation == self._generation.seen else None

    async def _count_all(self) -> None:
        try:
            generation, keys, others = await self._scan.count_all()
        except FAILURES:
            return
        if generation == self._generation.seen:
            self._count = _Count(generation=generation, keys=keys, others=others, at=self._clock.monotonic())
