"""Says what is at the other end of a Redis URL whenever the store is lost: what it looks like, and what to write."""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import Callable
from typing import Final

from ollama_cache_proxy.core.facts import Event, Health, Part
from ollama_cache_proxy.core.ports import Clock
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy.redis_url import RedisAddress
from ollama_cache_proxy.stores.redis.store_look import look

_AGAIN_AFTER: Final = 30.0
"""Seconds: a store that comes and goes is not looked at each time."""


class StoreTrouble:
    """An observer: looks at the server, in the background, when the store is lost, and says what it finds, once."""

    def __init__(
        self,
        address: RedisAddress,
        tls: ssl.SSLContext | None,
        *,
        say: Callable[[str], None],
        clock: Clock,
        tasks: Tasks,
    ) -> None:
        self._address = address
        self._tls = tls
        self._say = say
        self._clock = clock
        self._tasks = tasks
        self._looking: asyncio.Task[None] | None = None
        self._looked_at = -math.inf

    def __call__(self, event: Event) -> None:
        """Take in a fact."""
        if not isinstance(event, Health) or event.part is not Part.STORE or event.well:
            return
        now = self._clock.monotonic()
        if self._looking is None or (self._looking.done() and now - self._looked_at > _AGAIN_AFTER):
            self._looked_at = now
            self._looking = self._tasks.spawn(self._look(), "look at the store", endless=True)

    async def _look(self) -> None:
        found = await look(self._address, self._tls)
        if found is not None:
            self._say(f"Redis: {found.line(self._address.place)}")
