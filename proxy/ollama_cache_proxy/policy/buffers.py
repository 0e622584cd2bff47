"""How many bytes of requests and answers are held in memory, and who may hold more.

What finds no room is not refused: it is passed on as it comes, which takes no memory, and is not cached.
"""

from __future__ import annotations

from typing import Final, Self

_FREE: Final = 65_536
"""Bytes that every exchange may hold uncounted: small questions find their answers however much others hold."""


class Buffers:
    """What all exchanges together hold, up to `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    def hold(self) -> Hold:
        """Begin an exchange that holds nothing yet."""
        return Hold(self)


class Hold:
    """What one exchange holds, until it and the flight that it began have both ended.

    `size` is in bytes; `refused` says that it once found no room.
    """

    def __init__(self, buffers: Buffers) -> None:
        self.size = 0
        self.refused = False
        self._buffers = buffers
        self._counted = 0
        self._users = 0

    def __enter__(self) -> Self:
        """Count whoever needs what is held."""
        self._users += 1
        return self

    def __exit__(self, *_: object) -> None:
        """Return all of it back when nobody needs it any more."""
        self._users -= 1
        if not self._users:
            self._buffers.held -= self._counted
            self.size = self._counted = 0

    def grow(self, size: int) -> bool:
        """Hold so many bytes more, where there is room for them."""
        counted = max(0, self.size + size - _FREE)
        more = counted - self._counted
        if more > 0 and self._buffers.held + more > self._buffers.limit:
            self.refused = True
            return False
        self._buffers.held += more
        self._counted = counted
        self.size += size
        return True
