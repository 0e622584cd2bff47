"""Waiting for something to be so, instead of for some time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

STOOD_STILL: Final = 0.1
"""Seconds by which the event loop of a process that runs is not late."""
_TRIES: Final = 5


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Let everything else run until `condition` holds; fail after `seconds`."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for knows nothing of tests
            await asyncio.sleep(0.001)


async def undisturbed(measure: Callable[[int], Coroutine[Any, Any, T]]) -> T:
    """Measure again, up to five times, where the machine let this process stand still: that says nothing of the proxy.

    `measure` is called with the number of the try.
    """
    for number in range(_TRIES):
        watching = asyncio.create_task(_longest_lag())
        try:
            found = await measure(number)
            watching.cancel()
            if await watching < STOOD_STILL:
                break
        finally:
            watching.cancel()
    return found


async def _longest_lag() -> float:
    """Return, when it is cancelled, by how many seconds the event loop was late at most."""
    loop, longest = asyncio.get_running_loop(), 0.0
    last = loop.time()
    try:
        while True:
            await asyncio.sleep(0.005)
            longest, last = max(longest, loop.time() - last), loop.time()
    except asyncio.CancelledError:
        return max(longest, loop.time() - last)
