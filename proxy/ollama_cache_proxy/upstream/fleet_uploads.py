"""One upload for several Ollamas, as it arrives: as fast as the slowest of those that still read it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Final

from ollama_cache_proxy.core.errors import ClientLeft, ProxyError

_AHEAD: Final = 4
"""Pieces by which those that read may be apart."""


class SharedUpload:
    """The pieces of a body, for each of several readers. Whoever stops early (see Reading.close) holds up nobody."""

    def __init__(self, body: AsyncIterator[bytes], readers: int) -> None:
        self._body = body
        self.readings: Sequence[Reading] = [Reading() for _ in range(readers)]

    async def hand_out(self) -> None:
        """Read the body to its end, or as long as somebody reads."""
        failure: ClientLeft | ProxyError | None = None
        try:
            async for piece in self._body:
                for reading in self.readings:
                    await reading.put(piece)
                if all(reading.closed for reading in self.readings):
                    return
        except (ClientLeft, ProxyError) as error:
            failure = error
        for reading in self.readings:
            await reading.put(failure)


class Reading(AsyncIterator[bytes]):
    """What one of them reads. It raises what reading the body raised."""

    def __init__(self) -> None:
        self._pieces: asyncio.Queue[bytes | ClientLeft | ProxyError | None] = asyncio.Queue(_AHEAD)
        self.closed = False

    async def put(self, piece: bytes | ClientLeft | ProxyError | None) -> None:
        """Add a piece, a failure, or None for the end; wait while there is no room."""
        if not self.closed:
            await self._pieces.put(piece)

    async def __anext__(self) -> bytes:
        """Return the next piece."""
        piece = await self._pieces.get()
        if piece is None:
            raise StopAsyncIteration
        if not isinstance(piece, bytes):
            raise piece
        return piece

    def close(self) -> None:
        """Take no more, and make room for whoever waits for it."""
        self.closed = True
        while not self._pieces.empty():
            self._pieces.get_nowait()
