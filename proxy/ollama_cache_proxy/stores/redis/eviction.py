"""Whether the server may be given entries that do not expire: it has to drop some when it is full.

The start has asked already (service/eviction_check.py). This is for a server that was away then, or has changed since:
it is asked when such an entry is written, once in a while.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from typing import Any, Final

from redis.exceptions import ResponseError

from ollama_cache_proxy.core.ports import Clock
from ollama_cache_proxy.policy.store_eviction import unbounded
from ollama_cache_proxy.stores.redis.commands import Commands
from ollama_cache_proxy.stores.redis.guard import WRITE_WITHIN
from ollama_cache_proxy.stores.redis.redis_client import Client

OTHERWISE: Final = 90 * 86_400
"""Seconds for which an entry is kept that the server would never drop by itself."""
_ASK_EVERY: Final = 60.0
"""Seconds."""


class Eviction:
    """What the server said last."""

    def __init__(self, client: Client, commands: Commands, *, clock: Clock) -> None:
        self._client = client
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
                about = await self._commands.run(("INFO", self._about))
                return not any(map(unbounded, about))
        except ResponseError:
            return False

    async def _about(self) -> list[Mapping[str, Any]]:
        """Return the section "memory" of INFO, of every server."""
        return [await server.info("memory") for server in self._client.servers()]
