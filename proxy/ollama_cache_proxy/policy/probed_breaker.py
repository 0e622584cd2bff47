"""A circuit breaker whose probes are its owner's own: failures open it, and only successful probes close it again.

While it is closed, what requests see counts; while it is open no request is let through, and only what probes see
counts. Callers pass the time in, from any monotonic clock, in seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

_FORGIVEN: Final = 0.25
"""How much of a failure one success makes up for: one failure in five or more opens the breaker in the end."""
FIRST_GAP: Final = 0.1
LONGEST_GAP: Final = 1.0
"""Seconds between two probes; they double from one failed probe to the next."""
_STEADY: Final = 60.0
"""Seconds that a breaker stays closed before its opening anew says nothing about the last time."""
_MOST_NEEDED: Final = 8
"""Successful probes in a row."""


@dataclass(slots=True, kw_only=True)
class ProbedBreaker:
    """Closed at first. `threshold` failures in a row open it, and so do failures that are a fifth of all.

    One that opens again soon after it was closed takes twice as many successful probes as before, up to a bound. After
    it was closed one failure opens it, until some operations have succeeded.
    """

    threshold: int
    open: bool = False
    """Whether nothing but probes may be tried."""
    failures: float = 0.0
    """Failures that no success has made up for."""
    next_probe: float = math.inf
    """When the next probe is due; infinite while closed."""
    _gap: float = FIRST_GAP
    _needed: int = 1
    """Successful probes in a row that close it."""
    _seen: int = 0
    """Successful probes so far."""
    _closed_at: float = -math.inf

    def succeeded(self) -> None:
        """Note that an operation has succeeded; one that ends while the breaker is open says nothing."""
        self.failures = max(0.0, self.failures - _FORGIVEN)

    def failed(self, now: float, *, decisive: bool = False) -> bool:
        """Note that an operation has failed; return whether that opened the breaker, as a `decisive` failure does."""
        if self.open:
            return False
        self.failures += 1
        if self.failures < self.threshold and not decisive:
            return False
        again = now - self._closed_at < _STEADY
        self._needed = min(2 * self._needed, _MOST_NEEDED) if again else 1
        self.open, self._seen, self._gap, self.next_probe = True, 0, FIRST_GAP, now + FIRST_GAP
        return True

    def probed(self, now: float, *, well: bool) -> bool:
        """Note the result of a probe, which ends now; return whether it closed the breaker."""
        if not self.open:
            return False
        if not well:
            self._seen, self._gap = 0, min(2 * self._gap, LONGEST_GAP)
            self.next_probe = now + self._gap
            return False
        self._seen += 1
        if self._seen < self._needed:
            self._gap, self.next_probe = FIRST_GAP, now + FIRST_GAP
            return False
        self.open, self.failures, self.next_probe, self._closed_at = False, self.threshold - 1, math.inf, now
        return True
