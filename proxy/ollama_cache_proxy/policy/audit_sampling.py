"""Which hits are audited: a share of them, or so many a minute. The draw is deterministic by its seed.

Of a share p, the hits of each entry are counted down to the one that is drawn. From one to the next there are evenly
between 1 and 2/p - 1 hits: 1/p on average, and at 1 % never more than 199. The first one is drawn as if hits had been
counted for ever, so that every hit is drawn with probability p, also where few entries are hit twice.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from typing import Final

from ollama_cache_proxy.policy.record import record

NEVER: Final = 2**62
"""More hits than there will be."""
_SHARE: Final = re.compile(r"(100|[1-9]?[0-9](?:\.[0-9]{1,4})?)%")
_A_MINUTE: Final = re.compile(r"([1-9][0-9]{0,3}) a minute")
_LEND: Final = 1.0
"""Seconds after which another path may take the hit that is due, if the one that was told of it had none."""
_MINUTE: Final = 60.0
"""Seconds."""
_MASK: Final = 2**64 - 1
_MAX_KEYS: Final = 4096
"""Keys whose hits are counted down. One that was forgotten begins anew, like one that has not been hit."""


@record
class Rate:
    """How many hits are audited: a `share` of them, above 0 and up to 1, or so many `a_minute`."""

    share: float = 0.0
    a_minute: float = 0.0

    def of_worker(self, workers: int) -> Rate:
        """Return the rate of one of so many workers: a share is of its own hits, a rate a minute is divided."""
        return Rate(share=self.share, a_minute=self.a_minute / workers)


def read_rate(text: str) -> Rate | None:
    """Return the rate that a setting's text names, None for `off`; raise ValueError for any other text."""
    if text == "off":
        return None
    found = _SHARE.fullmatch(text)
    if found is not None and float(found[1]) > 0:
        return Rate(share=float(found[1]) / 100)
    found = _A_MINUTE.fullmatch(text)
    if found is not None:
        return Rate(a_minute=int(found[1]))
    message = "must be off, a share of the hits such as 1% (0.0001% to 100%), or such as 4 a minute (1 to 9999)"
    raise ValueError(message)


class Sampler:
    """Draws the hits to audit. Times are monotonic, in seconds."""

    def __init__(self, rate: Rate, *, seed: int) -> None:
        self._rate = rate
        self._state = seed & _MASK
        self._due_at: float | None = None
        self._lent_at = float("-inf")
        self._left: OrderedDict[str, int] = OrderedDict()
        """By key, which one of its next hits is drawn, counted from 1."""
        self._next_place = 0
        """Likewise of the texts of lists, which are counted together; 0 before the first."""

    def take(self, key: str, now: float) -> bool:
        """Return whether the hit of this key that was just served is audited."""
        if self._rate.share:
            left = self._left_of(key) - 1
            self._left[key] = left or self._gap()
            return not left
        if not self._is_due(now):
            return False
        self._due_at = now + _MINUTE / self._rate.a_minute
        return True

    def _is_due(self, now: float) -> bool:
        """Return whether the next hit is due, of a rate a minute; the first is after a part of the pause."""
        if self._due_at is None:
            self._due_at = now + self._draw() * _MINUTE / self._rate.a_minute
        return now >= self._due_at

    def gap(self, key: str, now: float) -> int:
        """Return which one of the next hits of this key is audited, counted from 1; `NEVER` for none of them.

        Of a rate a minute the hit that is due is promised to one path at a time, and still has to be taken.
        """
        if self._rate.share:
            return self._left_of(key)
        if not self._is_due(now) or now - self._lent_at < _LEND:
            return NEVER
        self._lent_at = now
        return 1

    def passed(self, key: str, hits: int) -> None:
        """Count hits of this key that were served without `take`; the one that is drawn still has to be taken."""
        if self._rate.share:
            self._left[key] = max(1, self._left_of(key) - hits)

    def places(self, count: int, now: float) -> list[int]:
        """Return which of so many texts of a list that were just served are audited, from 0, in order."""
        if not self._rate.share:
            return [int(self._draw() * count)] if count and self.take("", now) else []
        found: list[int] = []
        place = self._next_place or self._first_gap()
        while place <= count:
            found.append(place - 1)
            place += self._gap()
        self._next_place = place - count
        return found

    def _left_of(self, key: str) -> int:
        left = self._left.get(key)
        if left is None:
            left = self._left[key] = self._first_gap()
            if len(self._left) > _MAX_KEYS:
                self._left.popitem(last=False)
        else:
            self._left.move_to_end(key)
        return left

    def _gap(self) -> int:
        """Return a gap of 1 to 2/p - 1 hits; where that is no whole number, up to one of its neighbours."""
        return 1 + int(self._draw() * int(2 / self._rate.share - 1 + self._draw()))

    def _first_gap(self) -> int:
        """Return how much is left of the gap around some hit: a longer gap is around more of them."""
        longest = math.ceil(2 / self._rate.share - 1)
        gap = self._gap()
        while self._draw() * longest >= gap:
            gap = self._gap()
        return 1 + int(self._draw() * gap)

    def _draw(self) -> float:
        """Return a number from 0 up to 1 (SplitMix64)."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        mixed = self._state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        return ((mixed ^ (mixed >> 31)) >> 11) / 2**53
