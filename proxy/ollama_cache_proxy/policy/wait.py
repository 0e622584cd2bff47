"""How long a request waits for the store: as long as answers usually take, and some more, within bounds.

The estimate is that of TCP's retransmission timer (RFC 6298, section 2): a smoothed time and a smoothed deviation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

_SHORTEST: Final = 0.25
"""Seconds that a request waits at least: a store that usually takes a millisecond may pause while it forks."""
_TIMES: Final = 2.0
"""How many times the usual time is waited for, and"""
_DEVIATIONS: Final = 4.0
"""how many deviations more."""
_TIME_GAIN: Final = 1 / 8
_DEVIATION_GAIN: Final = 1 / 4


@dataclass(slots=True, kw_only=True)
class Wait:
    """`seconds` is how long a request waits now, at most `longest`."""

    longest: float
    seconds: float = field(init=False)
    _usual: float = field(init=False, default=0.0)
    _deviation: float = field(init=False, default=0.0)
    _shortest: float = field(init=False)

    def __post_init__(self) -> None:
        self.seconds = self._shortest = min(_SHORTEST, self.longest)

    def begin(self, seconds: float) -> None:
        """Start anew with one answer that took so long: what was seen before says nothing about the store now."""
        self._usual, self._deviation = seconds, seconds / 2
        self.note(seconds)

    def note(self, seconds: float) -> None:
        """Note how long an answer took."""
        error = seconds - self._usual
        self._usual += error * _TIME_GAIN
        self._deviation += (abs(error) - self._deviation) * _DEVIATION_GAIN
        wanted = _TIMES * self._usual + _DEVIATIONS * self._deviation
        if wanted <= self._shortest:  # of a store that is near, always
            self.seconds = self._shortest
        else:
            self.seconds = min(self.longest, wanted)
