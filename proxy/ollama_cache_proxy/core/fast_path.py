"""The fast path: serves a request that is byte for byte like a recent hit, without parsing it.

A hit that was served the ordinary way is noted under the bytes of its request. The note holds while no model's name has
come to stand for another digest, the store has that very entry, and the entry is fresh; then the response is the one
that parsing would lead to. It is returned immediately where the entry is in memory, else after asking the store. Every
other request is parsed, and its hit noted again. Hits are counted here, and reported to the observers as one fact a
second.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Final, TypeAlias

from ollama_cache_proxy.core.facts import Exchange, Observer, Repeated
from ollama_cache_proxy.core.questions import Neighbours, Question
from ollama_cache_proxy.policy.fields import hit_fields
from ollama_cache_proxy.policy.lifetimes import Renewal
from ollama_cache_proxy.policy.messages import ResponseHead, StoredResponse, rendered
from ollama_cache_proxy.policy.reuse import Hit, lasting, ttl, ttl_at
from ollama_cache_proxy.policy.status import CacheStatus

CAPACITY: Final = 12 * 1024 * 1024
"""Bytes that all notes may take."""
MAX_BYTES: Final = 64 * 1024
"""Bytes of a request, and of a response's body, that are worth a note."""
REPORT_EVERY: Final = 1.0
"""Seconds."""
_MAX_UNREPORTED: Final = 10_000
"""Hits of one note."""
_NOTE_BYTES: Final = 1024
"""Bytes that a note takes, with the heads of its request and response."""
_END_OF_HEAD: Final = b"\r\n\r\n"
_Version: TypeAlias = tuple[float, float, int]
"""What tells an entry from others under its key: when it was stored, how long it took, its size in bytes."""


@dataclass(slots=True, eq=False)
class _Note:
    """What is known of a hit that was served the ordinary way."""

    request_head: bytes
    key: str
    version: _Version
    edition: int
    """That of the models when the hit was noted."""
    exchange: Exchange
    """The fact that was reported for the hit."""
    name: bytes
    """What it is noted under."""
    renewals: Mapping[str, Renewal]
    """What it takes to renew the entry, if a hit does."""
    audited: bool
    """Whether hits of this request are drawn for the audit."""
    limit: int = _MAX_UNREPORTED
    """How many hits are served until they are reported, or until the next one is the one that the audit has drawn."""
    drawn: bool = False
    """Whether that limit is the audit's."""
    age: int = -1
    """Seconds; the Age that `head` tells."""
    head: bytes = b""
    """The head of the response."""
    seconds: list[float] = field(default_factory=list)
    """How long each hit since then took, of those not yet reported."""
    passed: int = 0
    """How many of those the audit has been told of."""


class FastHits:
    """Notes, by the hash of a request's bytes. `report_each` makes each hit a fact of its own, as logs want it."""

    def __init__(self, neighbours: Neighbours, *, report_each: bool) -> None:
        self._store = neighbours.store
        self._models = neighbours.models
        self._clock = neighbours.clock
        self._tasks = neighbours.tasks
        self._observe: Observer = neighbours.observe
        self._unanswered = neighbours.unanswered
        self._audit = neighbours.audit
        self._forecaster = neighbours.forecaster
        self._report_each = report_each
        self._notes: dict[bytes, _Note] = {}
        self._heads: Counter[bytes] = Counter()
        self._unreported: set[_Note] = set()
        self._timer: asyncio.TimerHandle | None = None

    def note(self, raw: bytes | None, question: Question, hit: Hit, exchange: Exchange) -> None:
        """Note a hit that was served the ordinary way, unless the next such request could get another result."""
        entry = hit.entry
        if raw is None or max(len(raw), len(entry.body)) > MAX_BYTES or not lasting(question.directives):
            return
        edition = self._models.edition(self._clock.monotonic())
        if edition is None or not question.identity.stability.unchanged() or question.listing is not None:
            return
        name = _hash(raw)
        self._drop(name)
        request_head = _head_of(raw)
        note = _Note(
            request_head=request_head,
            key=question.key,
            version=_version(entry),
            edition=edition,
            exchange=exchange,
            name=name,
            renewals=question.renewals(hit),
            audited=self._audit is not None and self._audit.audits(question.candidate),
        )
        if note.audited and not self._draw(note):
            return
        self._notes[name] = note
        self._heads[request_head] += 1
        while len(self._notes) * _NOTE_BYTES > CAPACITY:
            self._drop(next(iter(self._notes)))

    def answer(self, raw: bytes) -> bytes | asyncio.Future[bytes | None] | None:
        """Return the response to a request, head included; None where the request has to be parsed.

        It is a future where the store has to be asked.
        """
        if not self._notes or len(raw) > MAX_BYTES or (note := self._notes.get(name := _hash(raw))) is None:
            return None
        begun = self._clock.monotonic()
        edition = self._models.edition(begun)
        if edition is None:
            return None
        if edition != note.edition:
            self._drop(name)
            return None
        entry = self._store.held(note.key)
        if entry is None:
            return self._tasks.spawn(self._look_up(name, note, begun), "look up a known request", endless=True)
        return self._answer(name, note, entry, begun)

    async def _look_up(self, name: bytes, note: _Note, begun: float) -> bytes | None:
        lookup = await self._store.get(note.key)
        if lookup.generation is None:
            self._unanswered.note(note.key, self._clock.monotonic())
            self._drop(name)
            return None
        entry = lookup.entry
        still = note.edition == self._models.edition(self._clock.monotonic())
        if entry is None or not still or ttl(entry, self._clock.now()) <= 0:
            self._drop(name)
            return None
        return self._answer(name, note, entry, begun)

    def _answer(self, name: bytes, note: _Note, entry: StoredResponse, begun: float) -> bytes | None:
        """Return the response if this is the entry that was noted, else None."""
        if _version(entry) != note.version:
            self._drop(name)
            return None
        age = max(0, int(self._clock.now() - entry.stored_at))
        if age != note.age:
            note.age, note.head = age, _head(entry, age, note.exchange.cache)
        if note.renewals:
            self._store.renew(note.renewals)
        self._count(note, entry, self._clock.monotonic() - begun)
        return note.head + entry.body

    def knows_head(self, data: bytes) -> bool:
        """See ports.FastPath. The body of such a request is worth waiting for."""
        return data in self._heads

    def report(self) -> None:
        """Report to the observers the hits that are not reported yet."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        unreported, self._unreported = self._unreported, set()
        for note in unreported:
            self._pass(note)
            seconds, note.seconds, note.passed = note.seconds, [], 0
            if seconds:
                self._observe(Repeated(exchange=note.exchange, seconds=seconds))
                if self._forecaster is not None:
                    self._forecaster.again(note.exchange, len(seconds))
            if note.audited and self._notes.get(note.name) is note and not self._draw(note):
                self._drop(note.name)

    def _draw(self, note: _Note) -> bool:
        """Set after how many hits the audit draws one; return False where it draws the next.

        A drawn hit goes the ordinary way, where the audit takes it in. Until then a hit costs nothing more than without
        an audit: the limit takes the place of the one after which hits are reported.
        """
        if self._audit is None:
            return True
        gap = self._audit.gap(note.key)
        if gap == 1:
            return False
        note.drawn = gap <= _MAX_UNREPORTED
        note.limit = min(gap - 1, _MAX_UNREPORTED)
        return True

    def _count(self, note: _Note, entry: StoredResponse, seconds: float) -> None:
        if self._report_each:
            if note.audited:
                self._count_down(note)
            cache = replace(note.exchange.cache, ttl=ttl_at(entry, note.age))
            self._observe(replace(note.exchange, cache=cache, seconds=seconds, first_byte=seconds))
            if self._forecaster is not None:
                self._forecaster.again(note.exchange, 1)
            return
        if not note.seconds:
            self._report_later(note)
        note.seconds.append(seconds)
        if len(note.seconds) >= note.limit:
            self._reach_limit(note)

    def _report_later(self, note: _Note) -> None:
        self._unreported.add(note)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(REPORT_EVERY, self.report)

    def _count_down(self, note: _Note) -> None:
        """Count a hit that was reported by itself, for the audit."""
        self._report_later(note)
        if self._audit is not None:
            self._audit.passed(note.key, 1)
        note.limit -= 1
        if note.limit <= 0:
            self._reach_limit(note)

    def _reach_limit(self, note: _Note) -> None:
        """Let the next hit be the audit's if it has drawn that, else report; where each is reported, draw again."""
        if note.drawn:
            self._drop(note.name)
        elif not self._report_each:
            self.report()
        elif not self._draw(note):
            self._drop(note.name)

    def _pass(self, note: _Note) -> None:
        """Tell the audit of the hits since it was told last."""
        if note.audited and self._audit is not None and len(note.seconds) > note.passed:
            self._audit.passed(note.key, len(note.seconds) - note.passed)
            note.passed = len(note.seconds)

    def _drop(self, name: bytes) -> None:
        note = self._notes.pop(name, None)
        if note is None:
            return
        self._pass(note)
        self._heads[note.request_head] -= 1
        if not self._heads[note.request_head]:
            del self._heads[note.request_head]


def _hash(raw: bytes) -> bytes:
    return sha256(raw).digest()


def _version(entry: StoredResponse) -> _Version:
    return entry.stored_at, entry.took, len(entry.body)


def _head(entry: StoredResponse, age: int, cache: CacheStatus) -> bytes:
    """Return the head of a hit, as the ordinary way writes it on a connection that stays open."""
    fields = hit_fields(entry.fields, len(entry.body), age, replace(cache, ttl=ttl_at(entry, age)))
    return rendered(ResponseHead(status=entry.status, reason=entry.reason, fields=fields))


def _head_of(raw: bytes) -> bytes:
    return raw[: raw.index(_END_OF_HEAD) + len(_END_OF_HEAD)]
