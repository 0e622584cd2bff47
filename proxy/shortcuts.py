"""The short way for hits: a request that is byte for byte like one that was a hit a moment ago, and still would be.

What the ordinary way found out is noted under the request's own bytes. It holds while the models are what they were,
the store is known to hold the very same entry, and that is fresh; then the answer is the one that the ordinary way
would give, without reading the request anew. Everything else goes the ordinary way, and is noted again. How often each
was answered is counted here, and told to the observers as one fact a second.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Final

from proxy.fetch import Neighbours, Question
from proxy.policy.fields import hit_fields
from proxy.policy.messages import ResponseHead, StoredResponse, rendered
from proxy.policy.reuse import Hit, lasting
from proxy.policy.status import CacheStatus
from proxy.ports import Exchange, Observer, Repeated

CAPACITY: Final = 12 * 1024 * 1024
"""Bytes of requests, and of heads of answers, that are noted."""
MOST: Final = 64 * 1024
"""Bytes of a request, and of a body, that are worth a note."""
EVERY: Final = 1.0
_UNTOLD: Final = 10_000
_OVERHEAD: Final = 1024
_END: Final = b"\r\n\r\n"


@dataclass(slots=True, eq=False)
class _Note:
    """What the ordinary way found: `exchange` is what it told, `head` the head of the answer at this `age`.

    `seconds` are the times of the exchanges since that were not yet told.
    """

    raw: bytes
    key: str
    entry: StoredResponse
    edition: int
    exchange: Exchange
    age: int = -1
    head: bytes = b""
    seconds: list[float] = field(default_factory=list)

    @property
    def size(self) -> int:
        return len(self.raw) + _OVERHEAD


class Shortcuts:
    """Notes, found by the bytes of a request. With `each`, every exchange is told by itself, as the log wants it."""

    def __init__(self, neighbours: Neighbours, *, each: bool) -> None:
        self._store = neighbours.store
        self._models = neighbours.models
        self._clock = neighbours.clock
        self._observe: Observer = neighbours.observe
        self._each = each
        self._notes: dict[bytes, _Note] = {}
        self._heads: Counter[bytes] = Counter()
        self._untold: set[_Note] = set()
        self._size = 0
        self._timer: asyncio.TimerHandle | None = None

    def note(self, raw: bytes | None, question: Question, hit: Hit, exchange: Exchange) -> None:
        """Note a hit that the ordinary way gave, and told of, where the next one like it can only be the same."""
        entry = hit.entry
        if raw is None or max(len(raw), len(entry.body)) > MOST or not lasting(question.wishes):
            return
        edition = self._models.edition(self._clock.monotonic())
        if edition is None or not question.identity.stability.unchanged():
            return
        if self._store.held(question.key) is not entry:  # the store has to be asked, or it is a joined list
            return
        self._forget(raw)
        note = _Note(raw=raw, key=question.key, entry=entry, edition=edition, exchange=exchange)
        self._notes[raw] = note
        self._heads[_head_of(raw)] += 1
        self._size += note.size
        while self._size > CAPACITY:
            self._forget(next(iter(self._notes)))

    def answer(self, raw: bytes) -> bytes | None:
        """Give the answer to a request, head included, or None where it has to go the ordinary way."""
        note = self._notes.get(raw)
        if note is None:
            return None
        begun = self._clock.monotonic()
        entry = note.entry
        if note.edition != self._models.edition(begun) or self._store.held(note.key) is not entry:
            self._forget(raw)
            return None
        age = max(0, int(self._clock.now() - entry.stored_at))
        if age != note.age:
            note.age, note.head = age, _head(entry, age, note.exchange.cache)
        answer = note.head + entry.body
        self._count(note, self._clock.monotonic() - begun)
        return answer

    def begins(self, data: bytes) -> bool:
        """Whether these bytes are the head of a request that is noted, so that its body is worth waiting for."""
        return data in self._heads

    def tell(self) -> None:
        """Tell the observers what was not told yet."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        untold, self._untold = self._untold, set()
        for note in untold:
            seconds, note.seconds = note.seconds, []
            self._observe(Repeated(exchange=note.exchange, seconds=seconds))

    def _count(self, note: _Note, seconds: float) -> None:
        if self._each:
            cache = replace(note.exchange.cache, ttl=note.entry.lifetime - note.age)
            self._observe(replace(note.exchange, cache=cache, seconds=seconds, first_byte=seconds))
            return
        if not note.seconds:
            self._untold.add(note)
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(EVERY, self.tell)
        note.seconds.append(seconds)
        if len(note.seconds) >= _UNTOLD:
            self.tell()

    def _forget(self, raw: bytes) -> None:
        note = self._notes.pop(raw, None)
        if note is None:
            return
        self._size -= note.size
        head = _head_of(raw)
        self._heads[head] -= 1
        if not self._heads[head]:
            del self._heads[head]


def _head(entry: StoredResponse, age: int, cache: CacheStatus) -> bytes:
    """Give the head of a hit, as the ordinary way writes it on a connection that stays open."""
    fields = hit_fields(entry.fields, len(entry.body), age, replace(cache, ttl=entry.lifetime - age))
    return rendered(ResponseHead(status=entry.status, reason=entry.reason, fields=fields))


def _head_of(raw: bytes) -> bytes:
    return raw[: raw.index(_END) + len(_END)]
