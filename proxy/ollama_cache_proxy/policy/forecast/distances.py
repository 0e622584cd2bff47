"""Reuse distances: how many bytes of other keys have been asked for since a key was last.

A store that evicts the least recently used entry first knows a key as long as this distance is below its size. Keys
stand in the order of their last use, in buckets of about a sixtieth of all bytes, so a distance is as exact as half a
bucket.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import Final

_BUCKETS: Final = 64
_NEAREST: Final = 4
"""Buckets of the last `near` bytes, at most."""


class Distances:
    """The order of use of keys, which hold their places themselves: a place is a number, 0 is none.

    Keys among the last `near` bytes need not be moved when they are used.
    """

    def __init__(self, near: int) -> None:
        self.front = 1
        """Keys from this place on are among the last `near` bytes."""
        self.near = near
        self.total = 0
        """Bytes of all keys."""
        self._most = near // _NEAREST
        """Bytes of the newest bucket."""
        self._last: list[int] = [1]
        """The last place of each bucket, the oldest first."""
        self._bytes: list[int] = [0]
        self._behind: list[int] = [0]
        """The bytes that are newer than each bucket, but for those of the newest."""

    def distance(self, place: int) -> int:
        """Return the bytes that were used since that place was the newest; 0 for those at the front."""
        if place >= self.front:
            return 0
        index = bisect_left(self._last, place)
        return self._behind[index] + self._bytes[-1] + self._bytes[index] // 2

    def use(self, place: int, size: int) -> tuple[int, int]:
        """Count a key of `size` bytes as used now; return the bytes that were used since, and its new place."""
        index = bisect_left(self._last, place)
        distance = self._behind[index] + self._bytes[-1] + self._bytes[index] // 2
        self._bytes[index] -= size
        self._bytes[-1] += size
        place = self._last[-1]
        if self._bytes[-1] > self._most:
            self._begin_bucket()
        return distance, place

    def add(self, size: int) -> int:
        """Count a key of `size` bytes as used now; return its place."""
        self.total += size
        self._bytes[-1] += size
        place = self._last[-1]
        if self._bytes[-1] > self._most:
            self._begin_bucket()
        return place

    def remove(self, place: int, size: int) -> None:
        """Take a key of `size` bytes away from its place."""
        self.total -= size
        self._bytes[bisect_left(self._last, place)] -= size

    def _begin_bucket(self) -> None:
        self._most = max(self.total // _BUCKETS, self.near // _NEAREST)
        if len(self._last) > 2 * _BUCKETS:
            self._merge()
        self._last.append(self._last[-1] + 1)
        self._bytes.append(0)
        self._behind = [*accumulate(reversed(self._bytes), initial=0)][-2::-1]
        index = len(self._last) - 1
        while index and self._behind[index - 1] + self._bytes[index - 1] <= self.near:
            index -= 1
        self.front = self._last[index - 1] + 1 if index else 1

    def _merge(self) -> None:
        """Join neighbours that are small together."""
        most = self._most
        lasts, sizes = [self._last[0]], [self._bytes[0]]
        for last, size in zip(self._last[1:], self._bytes[1:], strict=True):
            if sizes[-1] + size <= most:
                lasts[-1], sizes[-1] = last, sizes[-1] + size
            else:
                lasts.append(last)
                sizes.append(size)
        self._last, self._bytes = lasts, sizes
