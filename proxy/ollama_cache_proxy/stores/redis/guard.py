"""The boundary between the store and a server that may fail: deadlines, breakers, health, and a fact for each call.

Reads and writes have a breaker each: a server that is full, or a replica, still serves lookups.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeVar

from redis.exceptions import ResponseError

from ollama_cache_proxy.core.facts import Fault, Health, Observer, Part, StoreCall, StoreFault
from ollama_cache_proxy.core.ports import Clock
from ollama_cache_proxy.policy.breaker import Breaker
from ollama_cache_proxy.stores.redis.redis_client import FAILURES

READ_WITHIN: Final = 0.3
"""Seconds."""
WRITE_WITHIN: Final = 2.0
"""Seconds; also for large reads that no request waits for."""
_FAILURES_IN_A_ROW: Final = 5
_PAUSE: Final = 1.0
"""Seconds between two attempts while a breaker is open."""

T = TypeVar("T")


class Guard:
    """Runs operations; none of them raises when the server fails.

    `name` is the server's in log and health, without its password. `timed_out` is called when a deadline has passed.
    """

    def __init__(self, *, name: str, clock: Clock, observe: Observer, timed_out: Callable[[], None]) -> None:
        self.reads = Breaker(threshold=_FAILURES_IN_A_ROW, pause=_PAUSE)
        self.writes = Breaker(threshold=_FAILURES_IN_A_ROW, pause=_PAUSE)
        self._name = name
        self._clock = clock
        self._observe = observe
        self._timed_out = timed_out
        self._well: dict[Part, bool] = {}

    async def read(
        self, name: str, operation: Callable[[], Awaitable[T]], fallback: T, *, within: float = READ_WITHIN
    ) -> T:
        """Run a reading operation for up to `within` seconds; return its result, `fallback` where it failed."""
        return await self.run(Part.STORE, name, partial(_limited, within, operation), fallback)

    async def write(self, name: str, operation: Callable[[], Awaitable[T]]) -> T | None:
        """Run a writing operation; return its result, None where it failed."""
        return await self.run(Part.STORE_WRITES, name, partial(_limited, WRITE_WITHIN, operation), None)

    async def run(self, part: Part, name: str, operation: Callable[[], Awaitable[T]], fallback: T) -> T:
        """Run an operation that has its own deadline; return `fallback` where it failed or the breaker is open."""
        breaker = self.reads if part is Part.STORE else self.writes
        begun = self._clock.monotonic()
        if not breaker.allows(begun):
            return fallback
        try:
            result = await operation()
        except FAILURES as error:
            if isinstance(error, TimeoutError):
                self._timed_out()
            now = self._clock.monotonic()
            self._observe(StoreCall(operation=name, seconds=now - begun, failed=True))
            self._observe(StoreFault(kind=Fault.FAILED))
            breaker.failed(now)
            self._report_health(part, well=False, reason=_error_name(error))
            return fallback
        self._observe(StoreCall(operation=name, seconds=self._clock.monotonic() - begun, failed=False))
        breaker.succeeded()
        self._report_health(part, well=True)
        return result

    def _report_health(self, part: Part, *, well: bool, reason: str = "") -> None:
        if part is Part.STORE_WRITES and not well and self._well.get(Part.STORE) is False:
            return  # the fault is reported already
        known = self._well.get(part)
        self._well[part] = well
        if known is well or (known is None and part is Part.STORE_WRITES and well):
            return
        self._observe(Health(part=part, well=well, name=self._name, reason=reason))


async def _limited(seconds: float, operation: Callable[[], Awaitable[T]]) -> T:
    async with asyncio.timeout(seconds):
        return await operation()


def _error_name(error: BaseException) -> str:
    """Return the name of an error without its text, which may contain a password; Redis's first word is safe."""
    if type(error) is ResponseError:
        word = str(error).split(" ", 1)[0].strip(":")
        return word if word.isupper() and word.isalpha() else "ERR"
    return type(error).__name__
