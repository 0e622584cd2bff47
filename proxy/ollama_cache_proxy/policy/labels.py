"""Names that clients choose, bounded in number, so that metrics and memory do not grow with what clients send."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

REST: Final = "other"
"""The label of every name beyond the bound."""


class Labels:
    """Labels for names: the first `limit` names are their own, `known` ones first; all others share REST."""

    def __init__(self, limit: int, known: Iterable[str] = ()) -> None:
        self._limit = limit
        self._names: set[str] = set()
        for name in known:
            self.of(name)

    def of(self, name: str) -> str:
        """Return the label for a name; the empty name and REST are their own."""
        if name in ("", REST) or name in self._names:
            return name
        if len(self._names) >= self._limit:
            return REST
        self._names.add(name)
        return name
