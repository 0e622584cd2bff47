"""Renewing idle entries in Redis: hits are noted as they are served, and the server is told once a second, by EXPIRE.

Each EXPIRE is a write, which takes the entry out of every hot tier. So an entry is renewed only when a part of its idle
time has passed since this process renewed it last, and stays that much longer (policy/lifetimes.py).

The entry may have been replaced since it was served: EXPIRE then changes when Redis drops the new one, not what stands
in that one's bytes. It is served no longer than those say, and at worst it goes, or its room is free, at another time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final

from redis.exceptions import ResponseError

from ollama_cache_proxy.core.ports import Clock
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy.lifetimes import Renewal, renewed_every, renewed_for
from ollama_cache_proxy.policy.steps import batched
from ollama_cache_proxy.stores.redis.commands import Commands, permitted
from ollama_cache_proxy.stores.redis.guard import WRITE_WITHIN, Guard
from ollama_cache_proxy.stores.redis.lane import Lane

RENEW_EVERY: Final = 1.0
"""Seconds."""
_MOST: Final = 100_000
"""Entries that are noted in that time; those beyond are not renewed, unless their list is the one that passes it."""
_KNOWN: Final = 32_768
"""Entries of which it is known when they were renewed; others are renewed with the next hit."""
_NEVER: Final = (0.0, 0.0)


class Renewals:
    """Entries that were served, by key, until the server is told. `name_of` returns an entry's name in Redis."""

    def __init__(  # noqa: PLR0913 - RedisEntries makes it once
        self,
        lane: Lane,
        guard: Guard,
        commands: Commands,
        name_of: Callable[[str], str],
        *,
        clock: Clock,
        tasks: Tasks,
    ) -> None:
        self._lane = lane
        self._guard = guard
        self._commands = commands
        self._name_of = name_of
        self._clock = clock
        self._tasks = tasks
        self._served: dict[str, Renewal] = {}
        self._renewed: dict[str, tuple[float, float]] = {}
        """When each was stored, and the monotonic time before which it need not be renewed again."""
        self._timer: asyncio.TimerHandle | None = None

    def note(self, renewals: Mapping[str, Renewal]) -> None:
        """Note what was served."""
        if len(self._served) < _MOST:
            self._served.update(renewals)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(RENEW_EVERY, self._begin)

    def forget(self, keys: Iterable[str]) -> None:
        """Do not renew these entries for the hits so far: they are replaced or deleted."""
        for key in keys if self._served else ():
            self._served.pop(key, None)

    async def close(self) -> None:
        """Tell the server what it was not told yet, and nothing more."""
        if self._timer is not None:
            self._timer.cancel()
        await self._tell()

    def _begin(self) -> None:
        self._tasks.spawn(self._run(), "renew entries")

    async def _run(self) -> None:
        await self._tell()
        self._timer = None
        if self._served:
            self.note({})

    async def _tell(self) -> None:
        """Renew what was served, as far as it is due; what fails is renewed with the next hit."""
        served, self._served = self._served, {}
        for some in batched(served.items()):
            now = self._clock.monotonic()
            due = {key: renewal for key, renewal in some if self._is_due(key, renewal, now)}
            renew = partial(self._commands.run, ("EXPIRE", partial(self._expire, due)))
            if due and not await self._guard.read(
                "renew", partial(permitted, renew, otherwise=False), fallback=False, within=2 * WRITE_WITHIN
            ):
                return
            for key, (idle, stored, _) in due.items():
                self._renewed.pop(key, None)
                self._renewed[key] = (stored, now + renewed_every(idle))
            while len(self._renewed) > _KNOWN:
                del self._renewed[next(iter(self._renewed))]
            await asyncio.sleep(0)

    def _is_due(self, key: str, renewal: Renewal, now: float) -> bool:
        stored_at, due = self._renewed.get(key, _NEVER)
        return now >= due or stored_at != renewal[1]

    async def _expire(self, renewals: Mapping[str, Renewal]) -> bool:
        """Tell the server of these; one that takes no writes refuses it as one that does not permit it."""
        now = self._clock.now()
        times = {key: renewed_for(renewal, now) for key, renewal in renewals.items()}
        commands = [("EXPIRE", self._name_of(key), seconds) for key, seconds in times.items() if seconds]
        if not commands:
            return True
        replies = await self._lane.ask_all(commands, within=WRITE_WITHIN)
        refusal = next((reply for reply in replies if isinstance(reply, ResponseError)), None)
        if refusal is not None:
            self._commands.refuse("EXPIRE", refusal)
        return refusal is None
