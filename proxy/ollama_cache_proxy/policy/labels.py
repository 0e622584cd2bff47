"""Names that clients choose, bounded: what they label must not grow with what they send."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

REST: Final = "other"
"""What every name beyond the bound is called."""


class Labels:
    """The first `limit` names stand for themselves, `known` ones first; all others are one."""

    def __init__(self, limit: int, known: Iterable[str] = ()) -> None:
        self._limit = limit
        self._names: set[str] = set()
        for name in known:
            self.of(name)

    def of(self, name: str) -> str:
        """Return the label for a name; nothing is its own label, and so is what all others are called."""
        if name in ("", REST) or name in self._names:
            return name
        if len(self._names) >= self._limit:
            return REST
        self._names.add(name)
        return name
