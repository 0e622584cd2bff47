"""Which hits are audited: a share of them, or so many a minute. The draw is deterministic by its seed.

Each hit of a share is drawn by itself, so the number of hits up to the next drawn one has a geometric distribution, and
a path that serves hits without asking may be told that number at any time.
"""

from __future__ import annotations

import math
import re
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

    def take(self, now: float, *, drawn: bool = False) -> bool:
        """Return whether the hit that was just served is audited; `drawn`: it is the one that `gap` told."""
        if self._rate.share:
            return drawn or self._rate.share >= 1 or self._draw() < self._rate.share
        if not self._is_due(now):
            return False
        self._due_at = now + _MINUTE / self._rate.a_minute
        return True

    def _is_due(self, now: float) -> bool:
        """Return whether the next hit is due, of a rate a minute; the first is after a part of the pause."""
        if self._due_at is None:
            self._due_at = now + self._draw() * _MINUTE / self._rate.a_minute
        return now >= self._due_at

    def gap(self, now: float) -> int:
        """Return which one of the next hits is audited, counted from 1; `NEVER` for none of them.

        Of a rate a minute the hit that is due is promised to one path at a time, and still has to be taken.
        """
        share = self._rate.share
        if share >= 1:
            return 1
        if share:
            return 1 + int(math.log(1 - self._draw()) / math.log1p(-share))
        if not self._is_due(now) or now - self._lent_at < _LEND:
            return NEVER
        self._lent_at = now
        return 1

    def places(self, count: int, now: float) -> list[int]:
        """Return which of so many hits that were just served are audited, from 0, in order."""
        if not self._rate.share:
            return [int(self._draw() * count)] if count and self.take(now) else []
        found: list[int] = []
        at = self.gap(now) - 1
        while at < count:
            found.append(at)
            at += self.gap(now)
        return found

    def _draw(self) -> float:
        """Return a number from 0 up to 1 (SplitMix64)."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        mixed = self._state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        return ((mixed ^ (mixed >> 31)) >> 11) / 2**53
