"""One server as a store, composed of its parts."""

from __future__ import annotations

from redis.exceptions import InvalidResponse

from ollama_cache_proxy.core.facts import Observer
from ollama_cache_proxy.core.ports import Clock
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.stores.redis.commands import Commands, permitted
from ollama_cache_proxy.stores.redis.entry_count import EntryCount
from ollama_cache_proxy.stores.redis.generation import Generation
from ollama_cache_proxy.stores.redis.guard import Guard
from ollama_cache_proxy.stores.redis.redis_client import RedisClient
from ollama_cache_proxy.stores.redis.redis_entries import RedisEntries
from ollama_cache_proxy.stores.redis.redis_gauges import RedisGauges
from ollama_cache_proxy.stores.redis.redis_values import RedisValues
from ollama_cache_proxy.stores.redis.scan import Scan


class RedisStore:
    """One server as a store: its `entries`, `values` and `gauges`.

    `name` is the server's in log and health, without its password.
    """

    def __init__(self, client: RedisClient, *, name: str, clock: Clock, observe: Observer, tasks: Tasks) -> None:
        guard = Guard(name=name, clock=clock, observe=observe, timed_out=client.lane.renew)
        commands = Commands(clock=clock, observe=observe)
        generation = Generation(client, commands)
        scan = Scan(client, generation, commands)
        count = EntryCount(guard, generation, scan, clock=clock, tasks=tasks)
        self.entries = RedisEntries(
            client, guard, generation, scan=scan, count=count, commands=commands, observe=observe, tasks=tasks
        )
        self.values = RedisValues(client, guard, commands)
        self.gauges = RedisGauges(client, guard, count, commands=commands, tasks=tasks)
        self._commands = commands
        self._pool = client.pool
        self._guard = guard
        self._count = count

    async def open(self) -> None:
        """Probe the server, and start counting, so that a large store is counted before the first question.

        Raises nothing where no server answers.
        """
        await self.ping()
        self._count.recount()

    async def ping(self) -> bool:
        """Return whether the server answers; observed like every operation."""
        return await self._guard.read("ping", self._ping, None) is not None

    async def _ping(self) -> bool:
        """Return True for a refusal too, which is an answer. Raises InvalidResponse for anything but a PONG."""
        if await permitted(lambda: self._commands.run(("PING", self._pool.ping)), otherwise=True):
            return True
        raise InvalidResponse
