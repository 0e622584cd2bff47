"""How many bytes of requests and responses are held in memory, and whether an exchange may hold more.

A request that finds no room is not refused: it is relayed as it arrives, which takes no memory, and is not cached.
"""

from __future__ import annotations

from typing import Final, Self

_FREE: Final = 65_536
"""Bytes that every exchange may hold uncounted: small requests can be hits however much others hold."""


class Buffers:
    """The bytes that all exchanges together hold, `limit` at most."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    def hold(self) -> Hold:
        """Return the hold of a new exchange."""
        return Hold(self)


class Hold:
    """The bytes that one exchange holds, until it and the flight that it began have both ended.

    `size` is in bytes; `refused` is true once there was no room.
    """

    def __init__(self, buffers: Buffers) -> None:
        self.size = 0
        self.refused = False
        self._buffers = buffers
        self._counted = 0
        self._users = 0

    def __enter__(self) -> Self:
        """Count a user of the hold: the exchange or its flight."""
        self._users += 1
        return self

    def __exit__(self, *_: object) -> None:
        """Release all bytes when the last user leaves."""
        self._users -= 1
        if not self._users:
            self._buffers.held -= self._counted
            self.size = self._counted = 0

    def grow(self, size: int) -> bool:
        """Hold `size` bytes more; return False where there is no room for them."""
        counted = max(0, self.size + size - _FREE)
        more = counted - self._counted
        if more > 0 and self._buffers.held + more > self._buffers.limit:
            self.refused = True
            return False
        self._buffers.held += more
        self._counted = counted
        self.size += size
        return True
