"""Keys for which the fast path has just asked the store in vain: the same request, parsed, is not looked up again."""

from __future__ import annotations

from typing import Final

_LASTS: Final = 1.0
"""Seconds after which a client that has not come back has left."""
_MOST: Final = 1024
"""Keys."""


class Unanswered:
    """Lookups that the store did not answer. `now` is monotonic time, in seconds."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def __bool__(self) -> bool:
        """Return whether there may be any."""
        return bool(self._until)

    def note(self, key: str, now: float) -> None:
        """Note that the store did not answer for this key."""
        if len(self._until) >= _MOST:
            self._until.clear()
        self._until[key] = now + _LASTS

    def take(self, key: str, now: float) -> bool:
        """Return whether the store did not answer for this key a moment ago, and forget it."""
        return self._until.pop(key, now) > now
