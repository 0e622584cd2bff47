"""Keeps what was deleted, and what has expired, out of the files of a kept server; for the process that started it.

The server appends to its file: what was deleted stays there until the file is written anew. That is done after each
start, and after deletions, of whichever process: it is the number of deletions in the store that tells.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final

from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.stores.redis.key_layout import ANY, DELETIONS, GENERATION, START, entry_name
from ollama_cache_proxy.stores.redis.redis_client import FAILURES, is_cancelled

LOOK_EVERY: Final = 1.0
"""Seconds between two looks at the number of deletions."""
GATHERS: Final = 1.0
"""Seconds from a deletion that was seen to the scrub: others share it, and writes that were on their way have come."""
_RESTS: Final = 3.0
"""How many times as long as a scrub took there is none after it."""
_RESTS_AT_MOST: Final = 4.0
"""Seconds."""
_RESTS_AFTER_FAILURE: Final = 30.0
"""Seconds until the next where the server could not write the file, which may have filled the disk."""
_WITHIN: Final = 5.0
"""Seconds for one command."""
_WRITES: Final = 0.05
"""Seconds between two looks at whether the file is written."""
_NAMES: Final = 1000
"""Names in one command."""


class Scrubber:
    """Watches one server over `pool`, across its restarts."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._scrubbed: tuple[bytes | None, bytes | None] | None = None
        """The start of the server and the number of deletions that the last scrub began with."""
        self._watching: asyncio.Task[None] | None = None

    def begin(self, tasks: Tasks) -> None:
        """Watch from now on."""
        self._watching = tasks.spawn(self._watch(), "scrub the kept store", endless=True)

    async def close(self, within: float) -> None:
        """Watch no more. What is not scrubbed yet is, for up to `within` seconds; the rest is at the next start."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait((self._watching,), timeout=within)
        with suppress(*FAILURES):
            async with asyncio.timeout(within):
                if await self._seen() != self._scrubbed:
                    await self._scrub()

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            begun, written = loop.time(), True
            with suppress(*FAILURES):  # a server that is away is loaded again, and scrubbed then
                if await self._seen() != self._scrubbed:
                    await asyncio.sleep(GATHERS)
                    begun = loop.time()
                    written = await self._scrub()
            if is_cancelled():
                return
            rest = min(_RESTS * (loop.time() - begun), _RESTS_AT_MOST) if written else _RESTS_AFTER_FAILURE
            await asyncio.sleep(max(LOOK_EVERY, rest))

    async def _seen(self) -> tuple[bytes | None, bytes | None]:
        """Return the start of the server, and how many deletions there were."""
        async with asyncio.timeout(_WITHIN):
            start, number = await self._pool.mget(START, DELETIONS)
        return start, number

    async def _scrub(self) -> bool:
        """Scrub what was deleted so far; return whether the file could be written."""
        seen = await self._seen()
        if await self._appends():
            await self._remove_unreachable()
            if not await self._write_anew():
                return False
        self._scrubbed = seen
        return True

    async def _remove_unreachable(self) -> None:
        """Remove all entries of other generations than the current one; those that have expired are gone once seen."""
        cursor = 0
        while True:
            async with asyncio.timeout(_WITHIN):
                async with self._pool.pipeline(transaction=False) as pipeline:
                    pipeline.get(GENERATION)
                    pipeline.scan(cursor, match=entry_name(ANY, ANY), count=_NAMES)
                    generation, (cursor, names) = await pipeline.execute()
                own = entry_name((generation or b"").decode("latin-1"), "").encode("latin-1")
                others = [name for name in names if generation is None or not name.startswith(own)]
                if others:
                    await self._pool.unlink(*others)
            if not cursor:
                return

    async def _write_anew(self) -> bool:
        """Have the file written anew from what there is now; return whether that worked."""
        await self._until_written()  # what has begun before now may hold what is deleted now
        async with asyncio.timeout(_WITHIN):
            await self._pool.bgrewriteaof()
        return bool((await self._until_written())["aof_last_bgrewrite_status"] == "ok")

    async def _until_written(self) -> dict[str, Any]:
        """Wait until no file is being written; return the server's figures of persistence."""
        while True:
            found = await self._figures()
            if not any(found[name] for name in ("aof_rewrite_in_progress", "aof_rewrite_scheduled")):
                return found
            await asyncio.sleep(_WRITES)

    async def _appends(self) -> bool:
        """Return whether anything is kept: a server whose disk was full appends no more, and its files are gone."""
        return bool((await self._figures())["aof_enabled"])

    async def _figures(self) -> dict[str, Any]:
        async with asyncio.timeout(_WITHIN):
            found: dict[str, Any] = await self._pool.info("persistence")
        return found
