"""The write buffer: entries that wait a moment to be written to a slower store together; lookups find them meanwhile.

Written one by one and immediately, each would delay the next request by the time of its write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from ollama_cache_proxy.policy.messages import StoredResponse

MOMENT: Final = 0.002
"""Seconds for which entries wait for more."""


class WriteBuffer:
    """Entries that wait to be written, by their names in the store."""

    def __init__(self) -> None:
        self._entries: dict[str, StoredResponse] = {}
        self._moment: asyncio.Event | None = None
        self._removed: asyncio.Event | None = None

    def __bool__(self) -> bool:
        """Return whether any entry is waiting or being written."""
        return bool(self._entries)

    def get(self, name: str) -> StoredResponse | None:
        """Return an entry that is waiting or being written, or None."""
        return self._entries.get(name)

    async def add(self, entries: Mapping[str, StoredResponse]) -> None:
        """Hold entries, and wait until they are to be written; then the caller writes and removes them."""
        self._entries.update(entries)
        if self._moment is None:
            self._moment = asyncio.Event()
            asyncio.get_running_loop().call_later(MOMENT, self._release)
        await self._moment.wait()

    def remove(self, entries: Mapping[str, StoredResponse]) -> None:
        """Remove entries that are written, or will not be; a newer one of the same name stays."""
        for name, entry in entries.items():
            if self._entries.get(name) is entry:
                del self._entries[name]
        if self._removed is not None:
            self._removed.set()

    def discard(self) -> None:
        """Drop all entries, since another process has deleted theirs. They are still written."""
        self._entries.clear()
        if self._removed is not None:
            self._removed.set()

    async def flush(self, within: float) -> None:
        """Let what is here now be written without delay, and wait for that up to `within` seconds."""
        names = set(self._entries)
        self._release()
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                while not names.isdisjoint(self._entries):
                    self._removed = self._removed or asyncio.Event()
                    self._removed.clear()
                    await self._removed.wait()

    def _release(self) -> None:
        if self._moment is not None:
            self._moment.set()
            self._moment = None
