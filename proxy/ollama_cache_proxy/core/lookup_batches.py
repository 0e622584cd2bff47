"""Lookups that begin in one turn of the event loop, as one: a store takes as long for some entries as for one.

Many clients that ask at once are read in one turn, and each lookup of its own would cost a task and a command.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from ollama_cache_proxy.core.store_ports import EntryStore, Lookup
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.policy.record import record

_IN_A_ROW: Final = 16
"""Responses that are made in one turn of the event loop."""

Found: TypeAlias = Callable[[Lookup], bytes | None]
"""Makes a response of what the store has; None where that is none."""


@record
class _Asked:
    key: str
    found: Found
    response: asyncio.Future[bytes | None]


class LookupBatches:
    """Asks a store."""

    def __init__(self, store: EntryStore, tasks: Tasks) -> None:
        self._store = store
        self._tasks = tasks
        self._asked: list[_Asked] = []

    def ask(self, key: str, found: Found) -> asyncio.Future[bytes | None]:
        """Return a future of what `found` makes of the store's entry; it is cancelled where something raises."""
        loop = asyncio.get_running_loop()
        if not self._asked:
            loop.call_soon(self._begin)
        response: asyncio.Future[bytes | None] = loop.create_future()
        self._asked.append(_Asked(key=key, found=found, response=response))
        return response

    def _begin(self) -> None:
        asked, self._asked = self._asked, []
        self._tasks.spawn(self._look_up(asked), "look up known requests", endless=True)

    async def _look_up(self, asked: Sequence[_Asked]) -> None:
        try:
            lookups = await self._store.get_many([one.key for one in asked])
            for number, (one, entry) in enumerate(zip(asked, lookups.entries, strict=True)):
                if number and not number % _IN_A_ROW:
                    await asyncio.sleep(0)
                if not one.response.done():  # its client is still there
                    one.response.set_result(one.found(Lookup(entry=entry, generation=lookups.generation)))
        finally:
            for one in asked:
                one.response.cancel()  # without effect where there is a result
