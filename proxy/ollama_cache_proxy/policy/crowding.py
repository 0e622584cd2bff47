"""How long a connection must have been idle to be closed for others, by how many places are free."""

from __future__ import annotations

from typing import Final

RESERVE: Final = 10
"""One of so many places is to be free; below that, idle connections are closed."""
SETTLED: Final = 1.0
"""Seconds of idleness after which no request is likely to be on its way, while there still is a place for a new client.
"""


def reserve(places: int) -> int:
    """Return how many places are to be free: a tenth, rounded up."""
    return -(-places // RESERVE)


def least_idle(places: int, wanted: int) -> float | None:
    """Return for how many seconds at least a connection must have been idle to be closed; None where none has to be.

    `wanted` is how many places are taken with that of a new client. Where there is none for it, any idle connection
    goes: the client would be refused for certain, while a request that crosses the close is only possible, and can be
    sent again.
    """
    free = places - wanted
    if free >= reserve(places):
        return None
    return SETTLED if free >= 0 else 0.0
