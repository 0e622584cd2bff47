"""How full the server is, polled in the background while gauges are read, and its breakers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from ollama_cache_proxy.core.store_ports import Tier
from ollama_cache_proxy.core.tasks import Polling, Tasks
from ollama_cache_proxy.stores.redis.commands import Commands, permitted
from ollama_cache_proxy.stores.redis.entry_count import EntryCount
from ollama_cache_proxy.stores.redis.guard import WRITE_WITHIN, Guard
from ollama_cache_proxy.stores.redis.redis_client import FAILURES, Client
from ollama_cache_proxy.stores.redis.scan import database_size


class RedisGauges:
    """See store_ports.StoreGauges."""

    def __init__(self, client: Client, guard: Guard, count: EntryCount, *, commands: Commands, tasks: Tasks) -> None:
        self._client = client
        self._guard = guard
        self._count = count
        self._commands = commands
        self._tier: Tier | None = None
        self._polling = Polling(self._measure, "ask how full the store is", tasks=tasks)

    def tiers(self, *, asking: bool) -> tuple[Tier, ...]:
        """See store_ports.StoreGauges. Polled in the background while it is asked for."""
        if not asking:
            return ()
        self._polling.want()
        return () if self._tier is None else (self._tier,)

    def breakers(self) -> Mapping[str, bool]:
        """See store_ports.StoreGauges."""
        guard = self._guard
        return {"read": guard.reads.open, "write": guard.writes.open, "delete": guard.deletes.open}

    async def _measure(self) -> None:
        """Ask how full the server is. A failure is no fault of the store: its user may lack the permission."""
        tier = None
        with suppress(*FAILURES):
            if not self._guard.reads.open:
                async with asyncio.timeout(WRITE_WITHIN):
                    used, evicted = await self._commands.run(("INFO", self._info))
                    size = await permitted(
                        lambda: self._commands.run(("DBSIZE", lambda: database_size(self._client))), None
                    )
                tier = Tier(name="redis", entries=self._count.estimate(size), size=used, evicted=evicted)
        self._tier = tier

    async def _info(self) -> tuple[int, int]:
        """Return how many bytes are used, and how many names were evicted, in all servers."""
        used = evicted = 0
        for server in self._client.servers():
            async with server.pipeline(transaction=False) as pipeline:
                pipeline.info("memory").info("stats")
                memory, stats = await pipeline.execute()
            used += memory["used_memory"]
            evicted += stats["evicted_keys"]
        return used, evicted
