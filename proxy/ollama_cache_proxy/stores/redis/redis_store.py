"""A server or a cluster as a store, composed of its parts."""

from __future__ import annotations

import asyncio
from functools import partial

from ollama_cache_proxy.core.facts import Observer
from ollama_cache_proxy.core.ports import Clock
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.stores.codecs import Codec
from ollama_cache_proxy.stores.redis.cluster_client import ClusterClient
from ollama_cache_proxy.stores.redis.cluster_generation import ClusterGeneration
from ollama_cache_proxy.stores.redis.commands import Commands
from ollama_cache_proxy.stores.redis.deletions import Deletions, KeptEntries
from ollama_cache_proxy.stores.redis.entry_count import EntryCount
from ollama_cache_proxy.stores.redis.generation import Generation, Generations
from ollama_cache_proxy.stores.redis.guard import LONGEST_WAIT, Guard
from ollama_cache_proxy.stores.redis.kept_folder import KeptFolder
from ollama_cache_proxy.stores.redis.prober import Prober
from ollama_cache_proxy.stores.redis.redis_client import Client
from ollama_cache_proxy.stores.redis.redis_entries import RedisEntries
from ollama_cache_proxy.stores.redis.redis_gauges import RedisGauges
from ollama_cache_proxy.stores.redis.redis_values import RedisValues
from ollama_cache_proxy.stores.redis.scan import Scan
from ollama_cache_proxy.stores.redis.shared_flights import RedisFlights


class RedisStore:
    """A server or a cluster as a store: its `entries`, `values`, `flights` and `gauges`.

    `name` is the server's in log and health, without its password. `longest` is how many seconds a request waits for
    a lookup at most. `codec` makes bytes of entries. `folder` is where a private server keeps it, None for any other.
    """

    def __init__(  # noqa: PLR0913 - the composition root names each once
        self,
        client: Client,
        *,
        name: str,
        clock: Clock,
        observe: Observer,
        tasks: Tasks,
        codec: Codec,
        longest: float = LONGEST_WAIT,
        folder: KeptFolder | None = None,
    ) -> None:
        guard = Guard(name=name, clock=clock, observe=observe, longest=longest)
        commands = Commands(clock=clock, observe=observe)
        generation: Generations
        if isinstance(client, ClusterClient):
            generation = ClusterGeneration(client, guard, commands, clock=clock, tasks=tasks)
        else:
            generation = Generation(client, guard, commands)
        scan = Scan(client, generation, commands, codec)
        count = EntryCount(guard, generation, scan, clock=clock, tasks=tasks)
        entries = RedisEntries if folder is None else partial(KeptEntries, deletions=Deletions(client.pool, folder))
        self.entries: RedisEntries = entries(
            client,
            guard,
            generation,
            scan=scan,
            count=count,
            commands=commands,
            codec=codec,
            clock=clock,
            observe=observe,
            tasks=tasks,
        )
        self.values = RedisValues(client, guard, commands)
        self.flights = RedisFlights(client, guard, commands, codec=codec, tasks=tasks)
        self.gauges = RedisGauges(client, guard, count, commands=commands, tasks=tasks)
        self.state = guard.state
        client.on_change.append(guard.look_again)
        self._client = client
        self._prober = Prober(client, guard, generation, commands, clock=clock)
        self._count = count
        self._tasks = tasks

    async def open(self, loaded: asyncio.Task[None] | None = None) -> None:
        """Probe the server from now on, and start counting: a large store is counted before the first question.

        `loaded` is that of Prober.begin. Raises nothing where no server answers.
        """
        await self._prober.begin(self._tasks, loaded)
        self._tasks.spawn(self._client.follow(), "follow the primary", endless=True)
        self._count.recount()
