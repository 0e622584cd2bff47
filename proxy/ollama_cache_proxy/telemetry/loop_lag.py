"""How late the event loop is: a timer that is due every tenth of a second, and by how much it comes late.

What holds the loop holds every client. A request costs nothing here; a hold shorter than the period may fall between
two looks, so that the histogram shows how often the loop is held, not each time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

EVERY: Final = 0.1
"""Seconds."""


class LoopLag:
    """Calls `observe` with the lag in seconds, about `1 / EVERY` times a second, from `start` until `close`."""

    def __init__(self, observe: Callable[[float], object]) -> None:
        self._observe = observe
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start looking, on the running loop."""
        loop = asyncio.get_running_loop()
        due = loop.time() + EVERY

        def look() -> None:
            self._observe(max(0.0, loop.time() - due))
            self.start()

        self._timer = loop.call_at(due, look)

    def close(self) -> None:
        """Stop looking."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
