"""Waits for the answers of several servers that are asked at once: one that is away is not waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final, TypeVar

WITHIN: Final = 1.0
"""Seconds that servers have to answer."""
_OTHERS_WITHIN: Final = 0.2
"""Seconds that the others have after the first answer."""

Asked = TypeVar("Asked", bound=asyncio.Future[Any])


async def first_answers(asked: Iterable[Asked]) -> tuple[list[Asked], set[Asked]]:
    """Return those that ended in time, in that order, and those that did not; one that failed is no answer."""
    loop = asyncio.get_running_loop()
    ended: list[Asked] = []
    waiting, until = set(asked), loop.time() + WITHIN
    while waiting and (left := until - loop.time()) > 0:
        done, waiting = await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        ended += done
        if any(task.exception() is None for task in done):
            until = min(until, loop.time() + _OTHERS_WITHIN)
    return ended, waiting
