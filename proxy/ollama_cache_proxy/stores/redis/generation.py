"""The generation of entries: a random token in the store, and a part of each entry's name. A clear replaces it.

A lookup reads the generation and the entries in one command, under the generation that this process read last; if that
is not the current one, it reads again. A generation that is absent (a new Redis, an eviction) or not a valid token is
replaced: that costs misses, and never brings an old entry back.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Sequence
from typing import Final

from redis.exceptions import ResponseError, WatchError

from ollama_cache_proxy.stores.redis.guard import READ_WITHIN
from ollama_cache_proxy.stores.redis.key_layout import GENERATION, entry_name
from ollama_cache_proxy.stores.redis.redis_client import RedisClient

LONGEST_LOOKUP: Final = 1.0
"""Seconds for a lookup of several commands."""
_TOKEN: Final = re.compile(rb"[0-9a-f]{32}")
_BYTES: Final = 16
"""Bytes of a token."""
_KEYS_PER_COMMAND: Final = 64
"""Entries that one command reads."""
_TRIES: Final = 3
"""Attempts to read entries under the current generation."""


class Generation:
    """Reads entries of the current generation, and begins new ones. `seen` is the one that was read last."""

    def __init__(self, client: RedisClient) -> None:
        self._pool = client.pool
        self._lane = client.lane
        self.seen = secrets.token_hex(_BYTES)  # equals no token in the store, not even an empty one

    async def lookup(self, keys: Sequence[str], within: float = READ_WITHIN) -> tuple[str, list[bytes | None]]:
        """Return the current generation and the values of its entries; one command, unless it has changed."""
        if len(keys) <= _KEYS_PER_COMMAND:
            seen = self.seen
            names = [entry_name(seen, key) for key in keys]
            current, *values = await self._lane.ask("MGET", GENERATION, *names, within=within, urgent=True)
            if current == seen.encode() and len(values) == len(keys):
                return seen, values
        async with asyncio.timeout(within):
            return await self._lookup_in_steps(keys)

    async def current(self) -> str:
        """Return the current generation."""
        return (await self.lookup(()))[0]

    async def replace(self) -> str:
        """Begin a new generation; return the old one, empty where there was no valid one."""
        fresh = secrets.token_hex(_BYTES)
        try:
            old = await self._pool.set(GENERATION, fresh, get=True)
        except ResponseError as error:
            await self._remove_foreign(error)
            await self._pool.set(GENERATION, fresh)
            old = None
        self.seen = fresh
        return "" if old is None else old.decode("latin-1")

    async def _lookup_in_steps(self, keys: Sequence[str]) -> tuple[str, list[bytes | None]]:
        """Look up with several commands: the list is long, or the generation has changed."""
        for _ in range(_TRIES):
            seen = self.seen
            names = [entry_name(seen, key) for key in keys]
            current, *values = await self._lane.ask(
                "MGET", GENERATION, *names[:_KEYS_PER_COMMAND], within=LONGEST_LOOKUP
            )
            if current is None or _TOKEN.fullmatch(current) is None:  # absent or invalid: it could come back
                try:
                    current = await self._renewed()
                except WatchError:
                    continue
                except ResponseError as error:
                    await self._remove_foreign(error)
                    continue
            self.seen = current.decode("latin-1")
            if self.seen == seen:
                for start in range(_KEYS_PER_COMMAND, len(names), _KEYS_PER_COMMAND):
                    values += await self._pool.mget(names[start : start + _KEYS_PER_COMMAND])
                return seen, values
        return self.seen, [None] * len(keys)

    async def _renewed(self) -> bytes:
        """Begin a generation unless another process just has; return the current one. Raises WatchError on a race."""
        async with self._pool.pipeline() as pipeline:
            await pipeline.watch(GENERATION)
            current: bytes | None = await pipeline.get(GENERATION)
            if current is not None and _TOKEN.fullmatch(current) is not None:
                return current
            fresh = secrets.token_hex(_BYTES)
            pipeline.multi()
            pipeline.set(GENERATION, fresh)
            await pipeline.execute()
            return fresh.encode()

    async def _remove_foreign(self, error: ResponseError) -> None:
        """Remove a generation that is of another type in Redis; raises any other error again."""
        if not str(error).startswith("WRONGTYPE"):
            raise error
        await self._pool.unlink(GENERATION)
