"""Entries on their way to a slower store: written a moment later, all at once, and found until then.

Written one by one, at once, each would cost the next request the time of its write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from ollama_cache_proxy.policy.messages import StoredResponse

MOMENT: Final = 0.002
"""Seconds."""


class Unwritten:
    """What waits to be written, by its name in the store."""

    def __init__(self) -> None:
        self._entries: dict[str, StoredResponse] = {}
        self._moment: asyncio.Event | None = None
        self._settled: asyncio.Event | None = None

    def __bool__(self) -> bool:
        """Whether anything is on its way."""
        return bool(self._entries)

    def get(self, name: str) -> StoredResponse | None:
        """Give an entry that is on its way."""
        return self._entries.get(name)

    async def wait(self, entries: Mapping[str, StoredResponse]) -> None:
        """Hold entries, and wait for the moment to write them; whoever does that says so (`written`)."""
        self._entries.update(entries)
        if self._moment is None:
            self._moment = asyncio.Event()
            asyncio.get_running_loop().call_later(MOMENT, self._write)
        await self._moment.wait()

    def written(self, entries: Mapping[str, StoredResponse]) -> None:
        """Let go of entries that are written, or will not be."""
        for name, entry in entries.items():
            if self._entries.get(name) is entry:
                del self._entries[name]
        if self._settled is not None:
            self._settled.set()

    def forget(self) -> None:
        """Give none of them any more; they are written all the same."""
        self._entries.clear()
        if self._settled is not None:
            self._settled.set()

    async def settle(self, within: float) -> None:
        """Have written at once what is here now, and wait for that up to `within` seconds."""
        names = set(self._entries)
        self._write()
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                while not names.isdisjoint(self._entries):
                    self._settled = self._settled or asyncio.Event()
                    self._settled.clear()
                    await self._settled.wait()

    def _write(self) -> None:
        if self._moment is not None:
            self._moment.set()
            self._moment = None
