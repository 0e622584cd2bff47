"""The boundary between the store and a server that may fail: deadlines, breakers, health, and a fact for each call.

Lookups, writes and deletions have a breaker each: a server that is full, or a replica, still serves lookups, and a full
one can be cleared. While a breaker is open its operations are not tried at all: what closes it is a probe (prober.py).
Operations that no exchange waits for have no breaker, and say nothing about those that one does.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, TypeVar

from redis.exceptions import ResponseError

from ollama_cache_proxy.core.facts import LOADING, Fault, Health, Observer, Part, StoreCall, StoreFault
from ollama_cache_proxy.core.ports import Clock
from ollama_cache_proxy.core.store_ports import StoreState
from ollama_cache_proxy.policy.probed_breaker import ProbedBreaker
from ollama_cache_proxy.policy.wait import Wait
from ollama_cache_proxy.stores.redis.redis_client import FAILURES, NodeAwayError

WRITE_WITHIN: Final = 2.0
"""Seconds; also for large reads that no request waits for."""
LONGEST_WAIT: Final = 0.5
"""Seconds that a request waits for a lookup at most, unless the settings say otherwise."""
_FAILURES_IN_A_ROW: Final = 5
_IDLE: Final = 2.5
"""Seconds without a lookup after which there is a probe."""
_SEEN_WITHIN: Final = 5.0
"""Seconds for which what was seen last tells how the server is now."""

T = TypeVar("T")


class WriteRefused(Exception):  # noqa: N818 - what happened, and no fault of the lookup that finds out
    """A lookup would have to write first, and the server takes no writes.

    `error` is the server's reply; None where it was not asked, since that was known.
    """

    def __init__(self, error: ResponseError | None = None) -> None:
        super().__init__()
        self.error = error


class Guard:
    """Runs operations; none of them raises when the server fails.

    `name` is the server's in log and health, without its password. `longest` is how many seconds a request waits for a
    lookup at most. `opened` is set when a breaker opens.
    """

    def __init__(self, *, name: str, clock: Clock, observe: Observer, longest: float = LONGEST_WAIT) -> None:
        self.reads = ProbedBreaker(threshold=_FAILURES_IN_A_ROW)
        self.writes = ProbedBreaker(threshold=_FAILURES_IN_A_ROW)
        self.deletes = ProbedBreaker(threshold=_FAILURES_IN_A_ROW)
        self.wait = Wait(longest=longest)
        self.opened = asyncio.Event()
        self._recovered = asyncio.Event()
        self._name = name
        self._clock = clock
        self._observe = observe
        self._well: dict[Part, bool] = {}
        self._reasons: dict[Part, str] = {}
        self._answered_at = -math.inf

    @property
    def writable(self) -> bool:
        """Whether entries can be written, as far as is known."""
        return not (self.writes.open or self.reads.open)

    async def lookup(self, name: str, operation: Callable[[], Awaitable[T]], fallback: T) -> T:
        """Run a lookup that has its own deadline; return `fallback` where it failed or the server is away."""
        if self.reads.open:
            return fallback
        begun = self._clock.monotonic()
        try:
            result = await operation()
        except WriteRefused as refusal:
            self.refused_while_looking_up(refusal)
            result = fallback
        except NodeAwayError:
            self._observe_failure(name, begun)
            return fallback
        except FAILURES as error:
            self._observe_failure(name, begun)
            self.reads_failed(error)
            return fallback
        now = self._clock.monotonic()
        self._observe(StoreCall(operation=name, seconds=now - begun, failed=False))
        self.wait.note(now - begun)
        self._answered_at = now
        if self.reads.failures or not self._well.get(Part.STORE):  # seldom
            self._succeeded()
        return result

    def _succeeded(self) -> None:
        """Note that a lookup has succeeded. One that ends while the breaker is open says nothing."""
        if not self.reads.open:
            self.reads.succeeded()
            self._report_health(Part.STORE, well=True)

    async def read(
        self, name: str, operation: Callable[[], Awaitable[T]], fallback: T, *, within: float = WRITE_WITHIN
    ) -> T:
        """Run a reading operation that no exchange waits for; return `fallback` where it failed."""
        return fallback if self.reads.open else await self._run(name, operation, fallback, within=within)

    async def write(
        self, name: str, operation: Callable[[], Awaitable[T]], *, within: float | None = WRITE_WITHIN
    ) -> T | None:
        """Write entries; return the operation's result, None where it failed.

        `within` is in seconds, None for an operation that has its own deadline.
        """
        if not self.writable:
            return None
        return await self._run(name, operation, None, within=within, breaker=self.writes, part=Part.STORE_WRITES)

    async def write_value(self, name: str, operation: Callable[[], Awaitable[T]]) -> T | None:
        """Write what is no entry; return the operation's result, None where it failed."""
        return await self._run(name, operation, None, within=WRITE_WITHIN) if self.writable else None

    async def delete(self, name: str, operation: Callable[[], Awaitable[T]]) -> T | None:
        """Delete; return the operation's result, None where it failed."""
        if self.reads.open or self.deletes.open:
            return None
        return await self._run(name, operation, None, within=WRITE_WITHIN, breaker=self.deletes)

    async def recovery(self) -> None:
        """Wait for up to `WRITE_WITHIN` seconds until lookups and deletions work again: a person's request may wait."""
        with suppress(TimeoutError):
            async with asyncio.timeout(WRITE_WITHIN):
                while self.reads.open or self.deletes.open:
                    self._recovered.clear()
                    await self._recovered.wait()

    async def _run(  # noqa: PLR0913 - each of the above gives its own
        self,
        name: str,
        operation: Callable[[], Awaitable[T]],
        fallback: T,
        *,
        within: float | None,
        breaker: ProbedBreaker | None = None,
        part: Part | None = None,
    ) -> T:
        """Run an operation for up to `within` seconds, and note with its breaker, and as health, how it ended."""
        begun = self._clock.monotonic()
        try:
            result = await (operation() if within is None else _limited(within, operation))
        except WriteRefused as refusal:
            self.refused_while_looking_up(refusal)
            return fallback
        except NodeAwayError:
            self._observe_failure(name, begun)
            return fallback
        except FAILURES as error:
            self._observe_failure(name, begun)
            if breaker is not None:
                self._open(breaker, decisive=isinstance(error, ResponseError))
            if part is not None:
                self._report_health(part, well=False, reason=_error_name(error))
            return fallback
        self._observe(StoreCall(operation=name, seconds=self._clock.monotonic() - begun, failed=False))
        if breaker is not None and not breaker.open:
            breaker.succeeded()
            if part is not None:
                self._report_health(part, well=True)
        return result

    def loading(self) -> None:
        """Note that the server is still loading what it kept: it is away, and not probed, until `loaded`."""
        self._open(self.reads, decisive=True)
        self.reads.next_probe = math.inf
        self._report_health(Part.STORE, well=False, reason=LOADING)

    def loaded(self) -> None:
        """Note that the server may have loaded: a probe is due."""
        self.reads.next_probe = self._clock.monotonic()

    def look_again(self) -> None:
        """Have the server probed immediately: it may be another one."""
        self._answered_at = -math.inf
        if self.reads.open:
            self.reads.next_probe = self._clock.monotonic()
        self.opened.set()

    # What probes see, too.

    def reads_failed(self, error: Exception, *, decisive: bool = False) -> None:
        """Note that a lookup has failed."""
        self._open(self.reads, decisive=decisive)
        self._report_health(Part.STORE, well=False, reason=_error_name(error))

    def reads_probed(self, seconds: float) -> None:
        """Note that the probe of lookups was answered after so many seconds."""
        now = self._clock.monotonic()
        self._answered_at = now
        if not self.reads.open:
            self.wait.note(seconds)
        elif self.reads.probed(now, well=True):
            self.wait.begin(seconds)
            self._recovered.set()
        if not self.reads.open:
            self._report_health(Part.STORE, well=True)

    def reads_not_probed(self, error: Exception) -> None:
        """Note that the probe of lookups has failed, which says more than one lookup: it has more time."""
        self.reads.probed(self._clock.monotonic(), well=False)
        self.reads_failed(error, decisive=True)

    def writes_probed(self, error: Exception | None) -> None:
        """Note how the probe of writes ended; `error` is None where it has written."""
        self.writes.probed(self._clock.monotonic(), well=error is None)
        if error is not None or not self.writes.open:
            self._writes_done(error)

    def deletes_probed(self, error: Exception | None) -> None:
        """Note how the probe of deletions ended; `error` is None where it has deleted."""
        if self.deletes.probed(self._clock.monotonic(), well=error is None):
            self._recovered.set()

    def refused_while_looking_up(self, refusal: WriteRefused) -> None:
        """Note that a lookup found out that the server takes no writes."""
        if refusal.error is not None:
            self._open(self.writes, decisive=True)
            self._writes_done(refusal.error)

    def probe_due(self) -> float:
        """Return when the next probe is due, in monotonic time. While lookups fail, nothing else is probed."""
        if self.reads.open:
            return self.reads.next_probe
        return min(self.reads_due(), self.writes.next_probe, self.deletes.next_probe)

    def reads_due(self) -> float:
        """Return when the next probe of lookups is due, in monotonic time."""
        return self.reads.next_probe if self.reads.open else self._answered_at + _IDLE

    def state(self) -> StoreState:
        """Return how the server is, as the lookups, writes and probes of the last seconds tell."""
        answers = self._well.get(Part.STORE, False) and not self.reads.open
        reason = self._reasons.get(Part.STORE, "")
        if answers and self._clock.monotonic() - self._answered_at > _SEEN_WITHIN:
            answers, reason = False, TimeoutError.__name__
        if not answers:
            return StoreState(answers=False, stores=False, reason=reason)
        stores = self._well.get(Part.STORE_WRITES, True) and not self.writes.open
        reason = "" if stores else self._reasons.get(Part.STORE_WRITES, "")
        return StoreState(answers=True, stores=stores, reason=reason)

    def _open(self, breaker: ProbedBreaker, *, decisive: bool) -> None:
        if breaker.failed(self._clock.monotonic(), decisive=decisive):
            self.opened.set()

    def _observe_failure(self, name: str, begun: float) -> None:
        self._observe(StoreCall(operation=name, seconds=self._clock.monotonic() - begun, failed=True))
        self._observe(StoreFault(kind=Fault.FAILED))

    def _writes_done(self, error: Exception | None) -> None:
        self._report_health(Part.STORE_WRITES, well=error is None, reason="" if error is None else _error_name(error))

    def _report_health(self, part: Part, *, well: bool, reason: str = "") -> None:
        if part is Part.STORE_WRITES and not well and self._well.get(Part.STORE) is False:
            return  # the fault is reported already
        known = self._well.get(part)
        self._well[part] = well
        if known is well or (known is None and part is Part.STORE_WRITES and well):
            return
        self._reasons[part] = reason
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
