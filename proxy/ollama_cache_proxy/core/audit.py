"""The audit: asks Ollama again for a sample of the hits, and compares what it says with what was served.

    drawn hit -> Check (audit_checks.py) -> queue -> quiet? loaded? -> ask -> same
                                                                         `-> ask again -> not reproducible, or wrong

A check waits until no client's request to Ollama is under way, ends at once when one comes, and is dropped `KEPT`
seconds after its hit. No client waits for it, and what is found is told as facts of its own: there is no hit, miss or
saving in it. A wrong entry is deleted.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from typing import Any, Final

from ollama_cache_proxy.core.audit_checks import Check, check_of_hit, checks_of_items, is_stored
from ollama_cache_proxy.core.audit_examination import Examination
from ollama_cache_proxy.core.audit_stays import Stays
from ollama_cache_proxy.core.facts import Audited, Observer, Unaudited
from ollama_cache_proxy.core.ports import Clock, Models, Runners, Siblings, Topic, Upstream
from ollama_cache_proxy.core.questions import Question
from ollama_cache_proxy.core.store_ports import EntryStore
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.core.traffic import Traffic
from ollama_cache_proxy.policy.audit_requests import is_audited
from ollama_cache_proxy.policy.audit_sampling import NEVER, Sampler
from ollama_cache_proxy.policy.classify import Candidate
from ollama_cache_proxy.policy.reuse import Hit

KEPT: Final = 55.0
"""Seconds after a hit until all that was kept of it is dropped."""
MAX_CHECKS: Final = 256
"""Checks that wait."""
MAX_BYTES: Final = 16 * 1024 * 1024
"""Bytes of all that wait: requests with their credentials, and what was served."""
_AT_ONCE: Final = 16
"""Texts of a list that are taken in before others go on."""
_MAX_KEYS: Final = 4096
"""Keys that are remembered as checked."""
CHECKED_FOR: Final = 60.0
"""Seconds for which the same entry is not checked again."""
QUIET: Final = 0.5
"""Seconds for which no client's request must have been under way: who sends several does so without a long pause."""
LONG: Final = 2048
"""Bytes of a request from which on it is long: Ollama computes one text to its end, also where that was cancelled."""
LONG_QUIET: Final = 10.0
"""Seconds of the same before a long request."""
LOOK: Final = 0.05
"""Seconds after which a waiting check looks again whether it may begin."""
_RETRY: Final = 1.0
"""Seconds after which a model is looked at again that was not loaded."""


class Audit:
    """See questions.Auditor. `upstream` is Ollama itself, past `traffic`, which sees the clients' requests."""

    def __init__(  # noqa: PLR0913 - the composition root names each neighbour once
        self,
        sampler: Sampler,
        *,
        completions: bool,
        upstream: Upstream,
        traffic: Traffic,
        runners: Runners,
        models: Models,
        store: EntryStore,
        clock: Clock,
        observe: Observer,
        tasks: Tasks,
        siblings: Siblings | None = None,
    ) -> None:
        self._sampler = sampler
        self._completions = completions
        self._traffic = traffic
        stays = Stays(runners, self._may_begin, clock=clock, tasks=tasks)
        self._examination = Examination(
            upstream, runners=runners, stays=stays, models=models, traffic=traffic, clock=clock
        )
        self._store = store
        self._clock = clock
        self._observe = observe
        self._tasks = tasks
        self._siblings = siblings
        self._waiting: deque[Check] = deque()
        self._size = 0
        self._checked: OrderedDict[str, tuple[int, float]] = OrderedDict()
        """By key: a hash of what was served, and the monotonic time until which that is not checked again."""
        self._work: asyncio.Task[None] | None = None
        self._running: asyncio.Task[tuple[Audited | None, list[str]]] | None = None
        self._sibling_audits = False
        self._told_to_stop = False
        self._stopped_at = float("-inf")
        """Monotonic time at which a sibling was last known to serve a client's request."""
        traffic.on_request = self._make_way

    # Drawing.

    def audits(self, candidate: Candidate) -> bool:
        """See questions.Auditor."""
        return is_audited(candidate, completions=self._completions)

    def gap(self, key: str) -> int:
        """See questions.Auditor. An entry that was just checked is not drawn."""
        now = self._clock.monotonic()
        checked = self._checked.get(key)
        return NEVER if checked is not None and now < checked[1] else self._sampler.gap(key, now)

    def passed(self, key: str, hits: int) -> None:
        """See questions.Auditor."""
        self._sampler.passed(key, hits)

    def hit(self, question: Question, hit: Hit) -> None:
        """See questions.Auditor."""
        if not self.audits(question.candidate):
            return
        if question.listing is not None and question.listing.known_texts == question.texts:
            self.items(question)
            return
        if self._sampler.take(question.key, self._clock.monotonic()):
            self._take_in(check_of_hit(question, hit.entry, self._clock.monotonic()))

    def items(self, question: Question) -> None:
        """See questions.Auditor."""
        listing = question.listing
        if listing is None or not self.audits(question.candidate):
            return
        known = [text for text in listing.text_list.texts if text in listing.known]
        places = self._sampler.places(len(known), self._clock.monotonic())
        texts = list(dict.fromkeys(known[place] for place in places))
        if texts:
            checks = checks_of_items(question, texts, self._clock.monotonic(), self._is_new)
            if len(texts) <= _AT_ONCE:
                self._take_in(checks)
            else:
                self._tasks.spawn(self._take_in_slowly(checks), "take in texts to audit", endless=True)

    async def _take_in_slowly(self, checks: Iterator[Check | Audited]) -> None:
        """Queue the checks of many texts, and let others go on between two."""
        for check in checks:
            self._take_in((check,))
            if len(self._waiting) >= MAX_CHECKS:
                return  # the others could not wait either
            await asyncio.sleep(0)

    def _is_new(self, key: str, served: int) -> bool:
        """Return whether what was served under a key is not being checked, and was not a moment ago."""
        checked = self._checked.get(key)
        return checked is None or checked[0] != served or self._clock.monotonic() >= checked[1]

    def _take_in(self, checks: Iterable[Check | Audited]) -> None:
        """Queue checks, as far as there is room; report hits that cannot be checked."""
        for check in checks:
            if isinstance(check, Audited):
                self._observe(check)
            elif not all(self._is_new(part.key, part.served) for part in check.parts):
                continue
            elif len(self._waiting) >= MAX_CHECKS or self._size + check.size > MAX_BYTES:
                self._observe(check.left_out(Unaudited.FULL))
            else:
                for part in check.parts:
                    self._checked[part.key] = part.served, self._clock.monotonic() + CHECKED_FOR
                _bound(self._checked)
                self._waiting.append(check)
                self._size += check.size
        if self._waiting and self._work is None:
            self._work = self._tasks.spawn(self._check_all(), "audit hits", endless=True)

    # Checking.

    async def _check_all(self) -> None:
        """Check what waits, one after the other, until nothing does."""
        try:
            while self._waiting:
                self._drop_late()
                if not self._waiting:
                    break
                if not await self._may_begin():
                    await self._clock.sleep(LOOK)
                    continue
                check = self._pop()
                if check is None:
                    await self._clock.sleep(LOOK)
                    continue
                if not await self._checks(check):
                    self._waiting.append(check)
                    self._size += check.size
                    await self._clock.sleep(LOOK if self._is_busy() else _RETRY / len(self._waiting))
        finally:
            self._work = None

    async def _checks(self, check: Check) -> bool:
        """Check; return False where that was interrupted, or where the model is not loaded as it would have to be."""
        left = max(0.0, check.at + KEPT - self._clock.monotonic())
        self._running = self._tasks.spawn(self._examined(check, left), "audit a hit", endless=True)
        try:
            await asyncio.wait({self._running})
            if self._running.cancelled():
                return False
            found, wrong = self._running.result()
        finally:
            self._running.cancel()
            self._running = None
        if found is None:
            return False
        if wrong and (still := [key for key in wrong if not await self._is_newer(check, key)]):
            await self._store.delete(still, check.generation)
        if found.why is Unaudited.LATE or wrong:
            self._forget(check)
        self._observe(found)
        return True

    async def _examined(self, check: Check, seconds: float) -> tuple[Audited | None, list[str]]:
        try:
            async with asyncio.timeout(seconds):
                return await self._examination.of(check)
        except TimeoutError:
            return check.left_out(Unaudited.LATE), []

    async def _is_newer(self, check: Check, key: str) -> bool:
        """Return whether something else is stored under a key than what was served."""
        entry = (await self._store.get(key)).entry
        return entry is not None and not is_stored(check, key, entry)

    async def _may_begin(self) -> bool:
        """Return whether no client's request to Ollama is under way, in any process of this proxy."""
        if self._siblings is not None and not self._is_busy():
            self._told_to_stop = False
            await self._siblings.send_and_wait(Topic.AUDIT_BEGINS)
        return not (self._told_to_stop or self._is_busy())

    def _is_busy(self) -> bool:
        return self._traffic.asking > 0 or self._clock.monotonic() - self._traffic.ended_at < QUIET

    def _make_way(self) -> None:
        """Stop for a client's request, here and where a sibling audits."""
        if self._running is not None:
            self._running.cancel()
        if self._sibling_audits and self._siblings is not None:
            self._sibling_audits = False
            self._siblings.send(Topic.AUDIT_STOPS)

    async def sibling_begins(self, _: None) -> None:
        """Note that a sibling is about to audit; have it stop if a client's request is under way here."""
        self._sibling_audits = True
        if self._is_busy():
            self._make_way()

    async def sibling_stops(self, _: None) -> None:
        """Stop for a client's request that a sibling serves."""
        self._told_to_stop = True
        self._stopped_at = self._clock.monotonic()
        if self._running is not None:
            self._running.cancel()

    def _drop_late(self) -> None:
        """Drop what was kept for too long."""
        now = self._clock.monotonic()
        while self._waiting and (late := min(self._waiting, key=lambda check: check.at)).at + KEPT <= now:
            self._waiting.remove(late)
            self._size -= late.size
            self._forget(late)
            self._observe(late.left_out(Unaudited.LATE))

    def _pop(self) -> Check | None:
        """Return the first that may be asked for, if any; a long request has to wait for a longer pause."""
        paused_at = max(self._traffic.ended_at, self._stopped_at)
        now = self._clock.monotonic()
        for at, check in enumerate(self._waiting):
            if len(check.body) < LONG or now - max(paused_at, check.at) >= LONG_QUIET:
                del self._waiting[at]
                self._size -= check.size
                return check
        return None

    def _forget(self, check: Check) -> None:
        """Forget that something was to be checked: its next drawn hit is."""
        for part in check.parts:
            self._checked.pop(part.key, None)


def _bound(table: OrderedDict[str, Any]) -> None:
    while len(table) > _MAX_KEYS:
        table.popitem(last=False)
