"""The places of a listener: how many clients are connected, and which idle ones make room for others.

Idle connections are closed, longest idle first, when a client comes and under a tenth of the places is free. Nothing is
noted when a request comes or ends: each connection knows when it was used last, and stands in a heap by a time that is
never later than that. What comes out on top was idle for longest if its time is still right; else it goes back with the
right one.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from enum import StrEnum
from itertools import count
from typing import Final, Protocol

from ollama_cache_proxy.core.ports import Clock
from ollama_cache_proxy.policy import crowding

_MAX_LOOKS: Final = 1024
"""Connections that are looked at when one client comes: one or two milliseconds. The next look goes on from there."""
_MANY_LOOKS: Final = 128
_REST: Final = 0.02
"""Seconds until the next look, where so many were in vain: all connections are in use."""


class Closing(StrEnum):
    """Why the proxy has closed a connection that was idle, or new."""

    PLACES = "places"
    """It was idle, and others needed places."""
    KEEP_ALIVE = "keep-alive"
    """It was idle for as long as the setting allows."""
    FULL = "full"
    """It was new, all places were taken, and no connection was idle."""


class Occupant(Protocol):
    """A connection that has a place."""

    def idle_since(self) -> float | None:
        """Return since when it may be taken for idle, in monotonic seconds; None while it is in use.

        That may be in the future: a client that has just connected is about to send a request.
        """

    def leave(self) -> bool:
        """Close it; return False if it may not be closed: a request has arrived, or a response is still to be read."""


class Places:
    """The places of one listener. `closed` is called for each connection that is closed or refused here."""

    def __init__(self, places: int, *, clock: Clock, closed: Callable[[Closing], None]) -> None:
        self.places = places
        self.taken = 0
        self._clock = clock
        self._closed = closed
        self._leaving: set[Occupant] = set()
        self._by_use: list[tuple[float, int, Occupant]] = []
        self._gone: set[Occupant] = set()  # those of the heap that have left
        self._number = count()
        self._look_at = float("-inf")

    def take(self, occupant: Occupant) -> bool:
        """Give a new connection a place, if need be that of an idle one; return False if all are in use."""
        now = self._clock.monotonic()
        self._make_room(now)
        if self.taken - len(self._leaving) >= self.places:
            self._closed(Closing.FULL)
            return False
        self.taken += 1
        self._note(now, occupant)
        return True

    def free(self, occupant: Occupant) -> None:
        """Take back the place of a connection that is closed."""
        self.taken -= 1
        if occupant in self._leaving:
            self._leaving.discard(occupant)
            return
        self._gone.add(occupant)
        if len(self._gone) > max(64, self.taken):
            self._by_use = [entry for entry in self._by_use if entry[2] not in self._gone]
            heapq.heapify(self._by_use)
            self._gone.clear()

    def _note(self, since: float, occupant: Occupant) -> None:
        heapq.heappush(self._by_use, (since, next(self._number), occupant))

    def _make_room(self, now: float) -> None:
        """Close idle connections until a tenth of the places is free, the new one's counted as taken.

        Where many have been used since their times were noted, the longest idle one of those looked at makes room.
        """
        if now < self._look_at:
            return
        looks, closed = 0, False
        best: tuple[float, Occupant] | None = None
        while looks < _MAX_LOOKS and (least := self._least_idle()) is not None:
            if not self._by_use or self._by_use[0][0] >= now - least:
                break
            looks += 1
            noted, _, occupant = heapq.heappop(self._by_use)
            if occupant in self._gone:
                self._gone.discard(occupant)
                continue
            since = occupant.idle_since()
            if since is not None and noted < since < now:
                best = (since, occupant) if best is None or since < best[0] else best
                self._note(since, occupant)
            elif since is not None and since <= noted and self._close(occupant):
                closed = True
            else:
                self._note(now if since is None else max(since, now), occupant)
        if best is not None and not closed and self._least_idle() == 0.0 and self._close(best[1]):
            closed = True
            self._gone.add(best[1])
        if looks >= _MANY_LOOKS and not closed:
            self._look_at = now + _REST

    def _close(self, occupant: Occupant) -> bool:
        if not occupant.leave():
            return False
        self._leaving.add(occupant)
        self._closed(Closing.PLACES)
        return True

    def _least_idle(self) -> float | None:
        """Return for how long a connection must have been idle to make room for one more; None if it need not."""
        return crowding.least_idle(self.places, self.taken - len(self._leaving) + 1)
