"""Long computations in turns of the event loop, so that no request holds up others.

One long computation goes on at a time, in the order in which they came: two that took turns would take twice as long in
each, and both would end late. Whoever leaves meanwhile gives up its place.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final, TypeVar

from ollama_cache_proxy.policy.steps import Steps

T = TypeVar("T")

_TURN: Final = 0.002
"""Seconds of CPU after which no further step is taken in a turn. A step itself may take longer."""


class Turns:
    """Runs steps (policy/steps.py); one instance a process."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def run(self, steps: Steps[T]) -> T:
        """Return the result of a computation. Its first step is taken in a turn of its own."""
        async with self._lock:
            while True:
                await asyncio.sleep(0)
                ends = time.thread_time() + _TURN
                try:
                    while True:
                        next(steps)
                        if time.thread_time() >= ends:
                            break
                except StopIteration as end:
                    result: T = end.value
                    return result
