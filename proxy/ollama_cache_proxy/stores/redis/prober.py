"""The proxy's own probes of the server, so that no request has to find out whether it is well.

While lookups fail, and when there were none for a while, a key of the proxy's own is looked up as those of requests
are. While writes are refused that key is written, and while deletions fail it is deleted; else nothing is written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import Final

from ollama_cache_proxy.core.ports import Clock
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.stores.redis.commands import Commands
from ollama_cache_proxy.stores.redis.generation import Generations
from ollama_cache_proxy.stores.redis.guard import WRITE_WITHIN, Guard, WriteRefused
from ollama_cache_proxy.stores.redis.lane import CONNECT_WITHIN
from ollama_cache_proxy.stores.redis.redis_client import FAILURES, Client, NodeAwayError

_LASTS: Final = 60
"""Seconds until the key expires."""
_NODES: Final = 5
"""Nodes of a cluster that one probe asks at most."""
_START_WITHIN: Final = 1.0
"""Seconds that the start of the proxy waits for the first probe."""


class Prober:
    """Probes over a connection of its own, and tells the guard."""

    def __init__(
        self, client: Client, guard: Guard, generation: Generations, commands: Commands, *, clock: Clock
    ) -> None:
        self._lane = client.probes
        self._layout = client.layout
        self._used = client.lane
        self._guard = guard
        self._generation = generation
        self._commands = commands
        self._clock = clock

    async def begin(self, tasks: Tasks, loaded: asyncio.Task[None] | None = None) -> None:
        """Probe from now on; returns after the first probe, or when that takes too long: then the server is away.

        Where the server is still loading, `loaded` is a task that ends when it has: there is no probe before.
        """
        if loaded is not None:
            self._guard.loading()
            tasks.spawn(
                self._probe_when_due(tasks.spawn(self._start_after(loaded), "probe the store", endless=True)),
                "probe the store",
                endless=True,
            )
            return
        first = tasks.spawn(self._start(), "probe the store", endless=True)
        await asyncio.wait({first}, timeout=_START_WITHIN)
        if not first.done():
            self._guard.reads_failed(TimeoutError(), decisive=True)
        tasks.spawn(self._probe_when_due(first), "probe the store", endless=True)

    async def _start_after(self, loaded: asyncio.Task[None]) -> None:
        await asyncio.wait((loaded,))
        self._guard.loaded()
        await self._start()

    async def _start(self) -> None:
        """Probe, and open the connection that requests will use."""
        await asyncio.gather(self.probe(), self._used.ready(), return_exceptions=True)

    async def _probe_when_due(self, first: asyncio.Task[None]) -> None:
        await asyncio.wait({first})
        while True:
            await self._until_due()
            await self.probe()

    async def _until_due(self) -> None:
        while (seconds := self._guard.probe_due() - self._clock.monotonic()) > 0:
            self._guard.opened.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._guard.opened.wait()

    async def probe(self) -> None:
        """Probe what is due."""
        guard = self._guard
        if guard.reads_due() <= self._clock.monotonic():
            await self._probe_reads()
        if guard.reads.open:
            return
        now, name = self._clock.monotonic(), self._layout.probe_name(self._generation.probe_key)
        if guard.writes.next_probe <= now:
            asked = self._lane.ask("SET", name, b"1", "EX", _LASTS, within=WRITE_WITHIN)
            guard.writes_probed(await _failure(asked))
        if guard.deletes.next_probe <= now:
            asked = self._commands.run(
                ("UNLINK", lambda: self._lane.ask("UNLINK", name, within=WRITE_WITHIN)),
                ("DEL", lambda: self._lane.ask("DEL", name, within=WRITE_WITHIN)),
            )
            guard.deletes_probed(await _failure(asked))

    async def _probe_reads(self) -> None:
        """Look the key up. Requests are let through again only when the connection that they use is open, too."""
        guard = self._guard
        try:
            await self._lane.ready()
            seconds = await self._look_up_somewhere()
            if guard.reads.open:
                await self._used.ready()
        except FAILURES as error:
            guard.reads_not_probed(error)
        else:
            guard.reads_probed(seconds)

    async def _look_up_somewhere(self) -> float:
        """Return how many seconds a lookup takes. One node of a cluster that does not answer says nothing of others."""
        for _ in range(_NODES - 1):
            with suppress(NodeAwayError):
                return await self._look_up()
        return await self._look_up()

    async def _look_up(self) -> float:
        """Return how many seconds a lookup takes, of one command as it usually is."""
        generation, within = self._generation, self._guard.wait.longest
        begun, seen, key = self._clock.monotonic(), generation.seen, generation.probe_key
        try:
            await generation.lookup((key,), within, lane=self._lane, longest=CONNECT_WITHIN)
            if generation.seen != seen:
                begun = self._clock.monotonic()
                await generation.lookup((key,), within, lane=self._lane)
        except WriteRefused as refusal:
            self._guard.refused_while_looking_up(refusal)
        return self._clock.monotonic() - begun


async def _failure(asked: Awaitable[object]) -> Exception | None:
    try:
        await asked
    except FAILURES as error:
        return error
    return None
