"""Counts the connections that the listener closes for want of places, and says it once a minute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ollama_cache_proxy.core.ports import Clock
from ollama_cache_proxy.downstream.places import Closing
from ollama_cache_proxy.telemetry.log import Log

_SAY_EVERY: Final = 60.0
"""Seconds between two lines of one kind."""
_LINES: Final = {
    Closing.PLACES: "Under a tenth of the places for clients is free: idle connections are closed, longest idle first"
    " (max_connections, keep_alive)",
    Closing.FULL: "Every place for clients is in use: new ones get a 503 (max_connections, or ulimit -n)",
}


class Crowd:
    """Call it with the reason for each connection that is closed."""

    def __init__(self, count: Callable[[str], None], log: Log, clock: Clock) -> None:
        self._count = count
        self._log = log
        self._clock = clock
        self._say_at = dict.fromkeys(_LINES, float("-inf"))

    def __call__(self, reason: Closing) -> None:
        """Count it."""
        self._count(reason.value)
        now = self._clock.monotonic()
        if reason in _LINES and now >= self._say_at[reason]:
            self._say_at[reason] = now + _SAY_EVERY
            self._log.say(_LINES[reason], warning=True)
