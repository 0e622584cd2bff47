"""A share of the time for work that nobody waits for; what it has not taken is saved up, to a bound: a token bucket."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class TimeBudget:
    """Allows work for `share` of the time, and for `most` seconds at once."""

    share: float
    most: float
    _left: float = field(init=False)
    _at: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._left = self.most

    def allows(self, now: float) -> bool:
        """Return whether work may begin at a monotonic time, in seconds."""
        if self._at is not None:
            self._left = min(self.most, self._left + self.share * (now - self._at))
        self._at = now
        return self._left > 0

    def took(self, seconds: float) -> None:
        """Note work that has been done; it may have been more than was left."""
        self._left -= seconds
