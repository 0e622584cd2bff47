"""Whether other processes use the same store: each counts on in a hash of theirs, once a second.

Only in company is it worth a round trip to ask who else is about to ask Ollama for the same. What counts is that a
number changes, so no clocks are compared. The number of a process that has ended as it should is negative; that of one
that was killed stands still. Whoever starts counts on before it looks, so of two that start one knows of the other.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Mapping
from typing import Final

from redis.exceptions import ResponseError

from ollama_cache_proxy.stores.redis.commands import Commands
from ollama_cache_proxy.stores.redis.guard import WRITE_WITHIN, Guard
from ollama_cache_proxy.stores.redis.key_layout import PROCESSES
from ollama_cache_proxy.stores.redis.redis_client import Client, is_cancelled

LOOK_EVERY: Final = 1.0
"""Seconds."""
GONE_AFTER: Final = 4.0
"""Seconds without a change of its number after which another process is taken for gone."""
_LASTS: Final = 60
"""Seconds for which the hash outlives the last process."""
_MOST: Final = 1000
"""Processes after which the hash is begun anew: those that have ended are never taken out one by one."""
_TOKEN_BYTES: Final = 8
_LEFT: Final = -(1 << 62)
"""What is added to the number of a process that ends."""


class Company:
    """The other processes, as far as they have been seen."""

    def __init__(self, client: Client, guard: Guard, commands: Commands) -> None:
        self._lane = client.lists
        self._guard = guard
        self._commands = commands
        self._own = secrets.token_hex(_TOKEN_BYTES)
        self._seen: dict[bytes, bytes] = {}
        self._changed_at = math.inf
        """When a number of another process changed last, in the loop's time: inf before the first look, -inf: never."""
        self._looked_at = -math.inf

    @property
    def alone(self) -> bool:
        """Whether no other process uses the store, as far as the store has told of late."""
        return self._looked_at - self._changed_at > GONE_AFTER and self._now() - self._looked_at < GONE_AFTER

    async def follow(self) -> None:
        """Look for others, and show that this one is there, until cancelled."""
        while not is_cancelled():
            found = await self._guard.read("processes", self._look, None)
            if found is not None:
                self._take_in(found)
            await asyncio.sleep(LOOK_EVERY)

    async def leave(self) -> None:
        """Tell the others that this process ends. Nothing looks for others any more."""
        if self._looked_at > -math.inf and self._commands.refused("HINCRBY") is None:
            leaving = (("HINCRBY", PROCESSES, self._own, _LEFT), ("EXPIRE", PROCESSES, _LASTS))
            await self._guard.read("processes", lambda: self._lane.ask_all(leaving, within=LOOK_EVERY), None)

    async def _look(self) -> Mapping[bytes, bytes] | None:
        """Count on, and return the numbers of all processes; None where the server does not let this one."""
        if self._commands.refused("HINCRBY") or self._commands.refused("HGETALL"):
            return None
        commands = (
            ("HINCRBY", PROCESSES, self._own, 1),
            ("HGETALL", PROCESSES),
            ("EXPIRE", PROCESSES, _LASTS),
        )
        counted, found, _ = await self._lane.ask_all(commands, within=WRITE_WITHIN)
        for reply in (counted, found):
            if isinstance(reply, ResponseError):
                return None
        if len(found) > 2 * _MOST:
            await self._lane.ask("DEL", PROCESSES, within=WRITE_WITHIN)
        return dict(zip(found[::2], found[1::2], strict=True))

    def _take_in(self, found: Mapping[bytes, bytes]) -> None:
        here = {name: number for name, number in found.items() if not number.startswith(b"-")}
        here.pop(self._own.encode(), None)
        self._looked_at = self._now()
        lost = self._seen.keys() - found.keys()  # by the server, while they may still be there
        if lost or any(self._seen.get(name) != number for name, number in here.items()):
            self._changed_at = self._looked_at
        elif not here and (self._seen or self._changed_at == math.inf):
            self._changed_at = -math.inf  # all have left, or nobody was there
        self._seen = here

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
