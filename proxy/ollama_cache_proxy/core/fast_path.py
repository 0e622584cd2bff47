"""The short way for hits: a request that is byte for byte like one that was a hit a moment ago, and still would be.

What the ordinary way found out is noted under the request's own bytes. It holds while the models are what they were,
the store has the very same entry, and that is fresh; then the answer is the one that the ordinary way would give,
without reading the request anew. It is there at once where the entry is held in memory, else the store is asked.
Everything else goes the ordinary way, and is noted again. How often each was answered is counted here, and told to the
observers as one fact a second.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Final, TypeAlias

from ollama_cache_proxy.core.facts import Exchange, Observer, Repeated
from ollama_cache_proxy.core.questions import Neighbours, Question
from ollama_cache_proxy.policy.fields import hit_fields
from ollama_cache_proxy.policy.messages import ResponseHead, StoredResponse, rendered
from ollama_cache_proxy.policy.reuse import Hit, lasting
from ollama_cache_proxy.policy.status import CacheStatus

CAPACITY: Final = 12 * 1024 * 1024
"""Bytes that notes may take."""
MOST: Final = 64 * 1024
"""Bytes of a request, and of a body, that are worth a note."""
EVERY: Final = 1.0
_UNTOLD: Final = 10_000
_SIZE: Final = 1024
"""Bytes that a note takes, with the heads of its request and of its answer."""
_END: Final = b"\r\n\r\n"
_Mark: TypeAlias = tuple[float, float, int]


@dataclass(slots=True, eq=False)
class _Note:
    """What the ordinary way found: `exchange` is what it told, `head` the head of the answer at this `age`.

    `begin` is the head of the request, `mark` tells the entry from others under its key. `seconds` are the times of the
    exchanges since that were not yet told.
    """

    begin: bytes
    key: str
    mark: _Mark
    edition: int
    exchange: Exchange
    age: int = -1
    head: bytes = b""
    seconds: list[float] = field(default_factory=list)


class FastHits:
    """Notes, found by a hash of a request's bytes. With `each`, each exchange is told by itself, as logs want it."""

    def __init__(self, neighbours: Neighbours, *, each: bool) -> None:
        self._store = neighbours.store
        self._models = neighbours.models
        self._clock = neighbours.clock
        self._tasks = neighbours.tasks
        self._observe: Observer = neighbours.observe
        self._each = each
        self._notes: dict[bytes, _Note] = {}
        self._begins: Counter[bytes] = Counter()
        self._untold: set[_Note] = set()
        self._timer: asyncio.TimerHandle | None = None

    def note(self, raw: bytes | None, question: Question, hit: Hit, exchange: Exchange) -> None:
        """Note a hit that the ordinary way gave, and told of, where the next one like it can only be the same."""
        entry = hit.entry
        if raw is None or max(len(raw), len(entry.body)) > MOST or not lasting(question.directives):
            return
        edition = self._models.edition(self._clock.monotonic())
        if edition is None or not question.identity.stability.unchanged() or question.listing is not None:
            return
        name = _name(raw)
        self._forget(name)
        begin = _head_of(raw)
        self._notes[name] = _Note(begin=begin, key=question.key, mark=_mark(entry), edition=edition, exchange=exchange)
        self._begins[begin] += 1
        while len(self._notes) * _SIZE > CAPACITY:
            self._forget(next(iter(self._notes)))

    def answer(self, raw: bytes) -> bytes | asyncio.Future[bytes | None] | None:
        """Give the answer to a request, head included, or None where it has to go the ordinary way.

        Where the store has to be asked, that is known later.
        """
        if not self._notes or len(raw) > MOST or (note := self._notes.get(name := _name(raw))) is None:
            return None
        begun = self._clock.monotonic()
        edition = self._models.edition(begun)
        if edition is None:
            return None
        if edition != note.edition:
            self._forget(name)
            return None
        entry = self._store.held(note.key)
        if entry is None:
            return self._tasks.spawn(self._look_up(name, note, begun), "look up a known request", endless=True)
        return self._answer(name, note, entry, begun)

    async def _look_up(self, name: bytes, note: _Note, begun: float) -> bytes | None:
        entry = (await self._store.get(note.key)).entry
        still = note.edition == self._models.edition(self._clock.monotonic())
        if entry is None or not still or entry.stored_at + entry.lifetime <= self._clock.now():
            self._forget(name)
            return None
        return self._answer(name, note, entry, begun)

    def _answer(self, name: bytes, note: _Note, entry: StoredResponse, begun: float) -> bytes | None:
        """Give the answer, where this is the entry that was noted."""
        if _mark(entry) != note.mark:
            self._forget(name)
            return None
        age = max(0, int(self._clock.now() - entry.stored_at))
        if age != note.age:
            note.age, note.head = age, _head(entry, age, note.exchange.cache)
        self._count(note, entry, self._clock.monotonic() - begun)
        return note.head + entry.body

    def begins(self, data: bytes) -> bool:
        """Whether these bytes are the head of a request that is noted, so that its body is worth waiting for."""
        return data in self._begins

    def tell(self) -> None:
        """Tell the observers what was not told yet."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        untold, self._untold = self._untold, set()
        for note in untold:
            seconds, note.seconds = note.seconds, []
            self._observe(Repeated(exchange=note.exchange, seconds=seconds))

    def _count(self, note: _Note, entry: StoredResponse, seconds: float) -> None:
        if self._each:
            cache = replace(note.exchange.cache, ttl=entry.lifetime - note.age)
            self._observe(replace(note.exchange, cache=cache, seconds=seconds, first_byte=seconds))
            return
        if not note.seconds:
            self._untold.add(note)
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(EVERY, self.tell)
        note.seconds.append(seconds)
        if len(note.seconds) >= _UNTOLD:
            self.tell()

    def _forget(self, name: bytes) -> None:
        note = self._notes.pop(name, None)
        if note is None:
            return
        self._begins[note.begin] -= 1
        if not self._begins[note.begin]:
            del self._begins[note.begin]


def _name(raw: bytes) -> bytes:
    return sha256(raw).digest()


def _mark(entry: StoredResponse) -> _Mark:
    return entry.stored_at, entry.took, len(entry.body)


def _head(entry: StoredResponse, age: int, cache: CacheStatus) -> bytes:
    """Give the head of a hit, as the ordinary way writes it on a connection that stays open."""
    fields = hit_fields(entry.fields, len(entry.body), age, replace(cache, ttl=entry.lifetime - age))
    return rendered(ResponseHead(status=entry.status, reason=entry.reason, fields=fields))


def _head_of(raw: bytes) -> bytes:
    return raw[: raw.index(_END) + len(_END)]
