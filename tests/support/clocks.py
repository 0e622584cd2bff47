"""A clock that stands still unless a test moves it."""

from __future__ import annotations


class Clock:
    """`time` is both Unix time and monotonic time, in seconds."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time
