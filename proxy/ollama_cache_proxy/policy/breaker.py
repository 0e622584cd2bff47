"""A circuit breaker as a plain state machine: after some failures in a row it allows only one probe per pause.

Callers pass the time in, from any monotonic clock, in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class Breaker:
    """Closed at first. `threshold` failures in a row open it; then one attempt every `pause` seconds is allowed."""

    threshold: int
    pause: float
    failures: int = 0
    next_probe: float = 0.0

    @property
    def open(self) -> bool:
        """Whether only probes get through."""
        return self.failures >= self.threshold

    def allows(self, now: float) -> bool:
        """Return whether an attempt may be made now; while open, True stands for the one probe of this pause."""
        if not self.open:
            return True
        if now < self.next_probe:
            return False
        self.next_probe = now + self.pause
        return True

    def succeeded(self) -> bool:
        """Note a success; return whether it closed the breaker."""
        closed = self.open
        self.failures = 0
        return closed

    def failed(self, now: float) -> bool:
        """Note a failure; return whether it opened the breaker."""
        self.failures += 1
        if self.failures == self.threshold:
            self.next_probe = now + self.pause
            return True
        return False
