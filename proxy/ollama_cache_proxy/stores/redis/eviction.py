"""Whether the server may be given entries that do not expire: it has to drop some when it is full.

The start has asked already (service/eviction_check.py). This is for a server that was away then, or has changed since:
it is asked when such an entry is written, once in a while.
"""

from __future__ import annotations

import asyncio
import math
from typing import Final

from redis.exceptions import ResponseError

from ollama_cache_proxy.core.ports import Clock
from ollama_cache_proxy.policy.store_eviction import unbounded
from ollama_cache_proxy.stores.redis.commands import Commands
from ollama_cache_proxy.stores.redis.guard import WRITE_WITHIN
from ollama_cache_proxy.stores.redis.redis_client import RedisClient

OTHERWISE: Final = 90 * 86_400
"""Seconds for which an entry is kept that the server would never drop by itself."""
_ASK_EVERY: Final = 60.0
"""Seconds."""


class Eviction:
    """What the server said last."""

    def __init__(self, client: RedisClient, commands: Commands, *, clock: Clock) -> None:
        self._pool = client.pool
        self._commands = commands
        self._clock = clock
        self._asked_at = -math.inf
        self._evicts = False

    async def kept_for(self, seconds: int | None) -> int | None:
        """Return for how many seconds an entry is kept, None for until it is evicted. Raises what INFO may raise."""
        if seconds is not None:
            return seconds
        now = self._clock.monotonic()
        if now - self._asked_at >= _ASK_EVERY:
            self._evicts = await self._ask()
            self._asked_at = now
        return None if self._evicts else OTHERWISE

    async def _ask(self) -> bool:
        try:
            async with asyncio.timeout(WRITE_WITHIN):
                return not unbounded(await self._commands.run(("INFO", lambda: self._pool.info("memory"))))
        except ResponseError:
            return False
