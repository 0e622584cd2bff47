"""The fast path: serves a request that selects the same response as a recent hit, without parsing it.

A hit that was served the ordinary way is noted under the bytes of its request, and under those that select a response:
the lines of its head that anything reads (policy/selecting_fields.py), and the body. The note holds while no model's
name has come to stand for another digest, the store has that very entry, and the entry is fresh; then the response is
the one that parsing would lead to. It is returned immediately where the entry is in memory, else after asking the
store. Every other request is parsed, and its hit noted again. Hits are counted here, and reported to the observers as
one fact a second.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from hashlib import sha256
from typing import Final, TypeAlias

from ollama_cache_proxy.core.delivery import hit_head, hit_outcome, tells_first_token
from ollama_cache_proxy.core.facts import Exchange, Observer, Repeated
from ollama_cache_proxy.core.fast_notes import MAX_UNREPORTED, Asked, Head, Note, version_of, written
from ollama_cache_proxy.core.known_questions import KnownQuestions, Posed
from ollama_cache_proxy.core.lookup_batches import LookupBatches
from ollama_cache_proxy.core.outcome import hit_fact
from ollama_cache_proxy.core.questions import Neighbours, Question, sampled
from ollama_cache_proxy.core.store_ports import Lookup
from ollama_cache_proxy.policy import chunked
from ollama_cache_proxy.policy.messages import PIECE, ResponseHead, StoredResponse, rendered
from ollama_cache_proxy.policy.replay_pace import Pace
from ollama_cache_proxy.policy.reuse import Hit, lasting, reuse, ttl, ttl_at
from ollama_cache_proxy.policy.selecting_fields import Read, SelectingFields
from ollama_cache_proxy.policy.status import CacheStatus
from ollama_cache_proxy.policy.trace import trace_id

CAPACITY: Final = 16 * 1024 * 1024
"""Bytes that all notes may take."""
MAX_BYTES: Final = 64 * 1024
"""Bytes of a request, and of a response's body, that are worth a note."""
_MOST_CHUNKS: Final = 1024
"""Chunks of a recorded stream that are framed at once."""
REPORT_EVERY: Final = 1.0
"""Seconds."""
_REPORTED_AT_ONCE: Final = 2000
"""Hits that are reported in one turn of the event loop."""
_MOST_ONCE: Final = 16_384
"""Keys."""
_MOST_NAMES: Final = 8
"""Names of one note."""
_OTHERS: Final = 16
"""Requests in a row that are known, but not by all their bytes, after which all bytes are seldom looked at."""
_LOOK_EVERY: Final = 64
"""Of so many such requests, one is looked at as a whole."""
_END_OF_HEAD: Final = b"\r\n\r\n"
_FRAMED: Final = re.compile(rb"(?!CONNECT )[A-Z]+ [^ ]+ HTTP/1\.1\r\n")
"""The beginning of a request that others may follow."""
_UNFRAMED: Final = re.compile(
    rb"\r\n(?:transfer[-_]encoding|upgrade|expect|connection[ \t]*:(?![ \t]*keep-alive[ \t]*(?:\r\n|$)))", re.IGNORECASE
)
"""What makes it uncertain where a request ends, or ends the connection."""
_COUNT: Final = re.compile(rb"\r\n[Cc]ontent-[Ll]ength:[ \t]*([0-9]{1,8})[ \t]*\r\n")
Each: TypeAlias = Callable[[Exchange, float], None]
"""Is told of one hit: an exchange, but for its times, and how many seconds it took."""


class FastHits:
    """Notes, by hashes of requests. `each` is told of each hit, as a log wants it; other observers of groups."""

    def __init__(self, neighbours: Neighbours, *, each: Each | None, questions: KnownQuestions[Note]) -> None:
        self._rules = neighbours.rules
        self._store = neighbours.store
        self._models = neighbours.models
        self._clock = neighbours.clock
        self._lookups = LookupBatches(neighbours.store, neighbours.tasks)
        self._observe: Observer = neighbours.observe
        self._unanswered = neighbours.unanswered
        self._audit = neighbours.audit
        self._forecaster = neighbours.forecaster
        self._each = each
        self._questions = questions
        self._fields = SelectingFields(neighbours.rules.credentials.names)
        self._notes: dict[bytes, Note] = {}  # by name
        self._all: dict[Note, None] = {}  # the oldest first
        self._size = 0  # of all notes, in bytes
        self._once: set[int] = set()  # hashes of keys that were asked for here, and not noted
        self._heads: dict[bytes, Head] = {}
        self._others = 0  # requests in a row that were known by what selects, not by all their bytes
        self._unreported: set[Note] = set()
        self._due: list[Note] = []  # of those that are being reported, the ones that are not yet
        self._timer: asyncio.TimerHandle | None = None

    def note(self, raw: bytes | None, question: Question, hit: Hit, exchange: Exchange, *, posed: bool = False) -> None:
        """Note a hit of the ordinary way, or of a question `posed` here, unless the next could have another result."""
        entry = hit.entry
        if raw is None or len(raw) > MAX_BYTES or not lasting(question.directives):
            return
        if not self._is_sent_at_once(question, entry):
            return
        edition = self._models.edition(self._clock.monotonic())
        if edition is None or not question.identity.stability.unchanged() or question.listing is not None:
            return
        heads, names, read = self._known_by(raw)
        for name in names:
            if (former := self._notes.get(name)) is not None:
                self._drop(former)
        note = Note(
            key=question.key,
            version=version_of(entry),
            edition=edition,
            exchange=exchange,
            told=exchange,
            names=names,
            heads=[],
            renewals=question.renewals(hit),
            audited=self._audit is not None and self._audit.audits(question.candidate),
            traced=b"" if read is None else read[2],
            body=written(entry) if entry.pieces else b"",
        )
        if note.audited and not self._draw(note):
            return
        note.heads += map(self._known, heads)
        if read is not None:
            note.place = self._questions.learn(note.heads[0].text, question, note, edition, posed=posed)
        self._all[note] = None
        self._notes.update(dict.fromkeys(names, note))
        self._size += note.size
        while self._size > CAPACITY:
            self._drop(next(iter(self._all)))

    def _known_by(self, raw: bytes) -> tuple[list[bytes], list[bytes], Read | None]:
        """Return the heads and names that a request is known by, and what of its head selects, if that can be told."""
        head, _, body = raw.partition(_END_OF_HEAD)
        whole, name = head + _END_OF_HEAD, _hash(raw)
        read = self._fields.read(head)
        if read is None or read[1] != len(body):
            return [whole], [name], None
        self._fields.learn(head)
        selecting, selected = read[0], _selected(read[0], body)
        if read[2]:  # a trace has other bytes each time
            return [selecting], [selected], read
        return [selecting, whole], [selected, name], read

    def _known(self, text: bytes) -> Head:
        """Return the head with this text, of one note more."""
        head = self._heads.setdefault(text, Head(text))
        head.notes += 1
        return head

    def answer(self, raw: bytes) -> bytes | asyncio.Future[bytes | None] | None:
        """Return the response to a request, head included; None where the request has to be parsed.

        It is a future where the store has to be asked.
        """
        if not self._notes or len(raw) > MAX_BYTES:
            return None
        trace = name = b""
        note = None
        if self._others < _OTHERS or not self._others % _LOOK_EVERY:
            note = self._notes.get(name := _hash(raw))
        if note is None:
            found, trace = self._selected(raw, name)
            self._others += found is not None
            if found is None and not name:
                found = self._notes.get(_hash(raw))
            if not isinstance(found, Note):
                return None if found is None else self._ask(found, raw, trace)
            note = found
        elif self._others:
            self._others = 0
        begun = self._clock.monotonic()
        edition = self._models.edition(begun)
        if edition != note.edition:
            if edition is not None:
                self._drop(note)
            return None
        entry = self._store.held(note.key)
        if entry is None:
            return self._lookups.ask(note.key, partial(self._found, note, begun, trace))
        return self._answer(note, entry, begun, trace)

    def _selected(self, raw: bytes, name: bytes) -> tuple[Note | Posed | None, bytes]:
        """Return the note of a request that is not known by all its bytes, or its question, and its trace.

        `name` is the hash of all its bytes; empty where that was not made.
        """
        head, _, body = raw.partition(_END_OF_HEAD)
        read = self._fields.read(head)
        if read is None or read[0] not in self._heads or read[1] != len(body):
            return None, b""
        selected = _selected(read[0], body)
        note = self._notes.get(selected) or self._questions.find(read[0], body)
        if isinstance(note, Note):
            self._note_also(note, selected if read[2] or not name else name)
        return note, read[2]

    def _ask(self, posed: Posed, raw: bytes, trace: bytes) -> bytes | asyncio.Future[bytes | None] | None:
        """Return the response to a question that no note is of, where the store has it; see `answer`."""
        asked = Asked(raw=raw, trace=trace, begun=self._clock.monotonic())
        if self._models.edition(asked.begun) != posed.edition:
            return None
        question = posed.question
        entry = self._store.held(question.key)
        if entry is not None:
            return self._served(question, entry, asked)
        return self._lookups.ask(question.key, partial(self._found_for, posed, asked))

    def _found_for(self, posed: Posed, asked: Asked, lookup: Lookup) -> bytes | None:
        """Return the response to a question that no note is of, if the store has one."""
        question = posed.question
        if lookup.generation is None:
            self._unanswered.note(question.key, self._clock.monotonic())
            return None
        response = None
        if lookup.entry is not None and posed.edition == self._models.edition(self._clock.monotonic()):
            response = self._served(question, lookup.entry, asked)
        self._questions.asked(posed.head, answered=response is not None)
        return response

    def _served(self, question: Question, entry: StoredResponse, asked: Asked) -> bytes | None:
        """Return the response if the entry is one, and do what the ordinary way does after a hit."""
        hit = reuse(entry, question.directives, self._clock.now())
        if not isinstance(hit, Hit) or not self._is_sent_at_once(question, entry):
            return None
        outcome = hit_outcome(question, hit)
        head = hit_head(self._rules, entry, hit.age, outcome.cache)
        seconds, size = self._clock.monotonic() - asked.begun, len(entry.body)
        exchange = hit_fact(question, outcome, seconds=seconds, size=size, trace=_trace(asked.trace))
        if entry.pieces and tells_first_token(question.candidate.endpoint, head, entry):
            exchange = replace(exchange, first_token=seconds)
        self._observe(exchange)
        if renewals := question.renewals(hit):
            self._store.renew(renewals)
        if self._forecaster is not None:
            sampled(self._forecaster.asked, question, self._rules, exchange)
        if self._comes_again(question.key):
            self.note(asked.raw, question, hit, exchange, posed=True)
        return _rendered(head, entry) + written(entry)

    def _is_sent_at_once(self, question: Question, entry: StoredResponse) -> bool:
        """Return whether a response is small enough, and is whole or a stream that is replayed without pauses."""
        if not entry.pieces or len(entry.body) > MAX_BYTES:
            return len(entry.body) <= MAX_BYTES
        if len(entry.pieces) > _MOST_CHUNKS * PIECE.size:
            return False
        return self._rules.pace_for(question.candidate.endpoint, question.request.fields) is Pace.AT_ONCE

    def _comes_again(self, key: str) -> bool:
        """Return whether this key was asked for lately: most of those that are asked for once never are again."""
        short = hash(key)
        if short in self._once:
            return True
        if len(self._once) >= _MOST_ONCE:
            self._once.clear()
        self._once.add(short)
        return False

    def _note_also(self, note: Note, name: bytes) -> None:
        """Note a request under another name, too, once that has come twice in a row."""
        if note.last != name:
            note.last = name
        elif name not in self._notes and len(note.names) < _MOST_NAMES:
            note.names.append(name)
            self._notes[name] = note

    def _found(self, note: Note, begun: float, trace: bytes, lookup: Lookup) -> bytes | None:
        """Return the response of a note, if the store still has it."""
        if lookup.generation is None:
            self._unanswered.note(note.key, self._clock.monotonic())
            self._drop(note)
            return None
        entry = lookup.entry
        still = note.edition == self._models.edition(self._clock.monotonic())
        if entry is None or not still or ttl(entry, self._clock.now()) <= 0:
            self._drop(note)
            return None
        return self._answer(note, entry, begun, trace)

    def _answer(self, note: Note, entry: StoredResponse, begun: float, trace: bytes) -> bytes | None:
        """Return the response if this is the entry that was noted, else None."""
        if version_of(entry) != note.version:
            self._drop(note)
            return None
        age = max(0, int(self._clock.now() - entry.stored_at))
        if age != note.age:
            cache = replace(note.exchange.cache, ttl=ttl_at(entry, age))
            note.age, note.head = age, self._head(entry, age, cache)
            if self._each is not None:
                note.told = replace(note.exchange, cache=cache)
        if note.renewals:
            self._store.renew(note.renewals)
        if trace:
            note.traced = trace
        self._count(note, self._clock.monotonic() - begun)
        return note.head + (note.body or entry.body)

    def _head(self, entry: StoredResponse, age: int, cache: CacheStatus) -> bytes:
        """Return the head of a hit, as the ordinary way writes it on a connection that stays open."""
        return _rendered(hit_head(self._rules, entry, age, cache), entry)

    def knows_head(self, data: bytes) -> bool:
        """See ports.FastPath. The body of such a request is worth waiting for."""
        if not self._heads or not data.endswith(_END_OF_HEAD):
            return False
        if data in self._heads:
            return True
        read = self._fields.read(data[: -len(_END_OF_HEAD)])
        return read is not None and read[1] > 0 and read[0] in self._heads

    def first(self, data: bytes) -> tuple[int, bool]:
        """See ports.FastPath."""
        end = data.find(_END_OF_HEAD)
        counted = _COUNT.search(data, 0, max(0, end) + 2)
        if counted is not None and end + len(_END_OF_HEAD) + int(counted[1]) == len(data):
            return len(data), False  # nothing is behind it, and nothing is missing
        read = self._fields.read(data[:end]) if end > 0 else None
        if read is None:
            return 0, False
        known = read[1] > 0 and read[0] in self._heads
        if not known and (_FRAMED.match(read[0]) is None or _UNFRAMED.search(read[0]) is not None):
            return 0, False
        return end + len(_END_OF_HEAD) + max(0, read[1]), known

    def report(self) -> None:
        """Report to the observers the hits that are not reported yet."""
        if self._timer is not None:
            self._timer.cancel()
        self._begin_reporting()
        while self._due:
            self._report(self._due.pop())

    def _begin_reporting(self) -> None:
        self._timer = None
        self._due += self._unreported
        self._unreported.clear()

    def _report_in_turns(self) -> None:
        """Report some hits in each turn of the event loop, so that no request waits for all of them."""
        self._begin_reporting()
        self._report_some()

    def _report_some(self) -> None:
        hits = 0
        while self._due and hits < _REPORTED_AT_ONCE:
            note = self._due.pop()
            hits += len(note.seconds)
            self._report(note)
        if self._due:
            asyncio.get_running_loop().call_soon(self._report_some)

    def _report(self, note: Note) -> None:
        self._pass(note)
        seconds, note.seconds, note.passed = note.seconds, [], 0
        if seconds:
            self._observe(Repeated(exchange=_traced(note), seconds=seconds))
            if self._forecaster is not None:
                self._forecaster.again(note.exchange, len(seconds))
        if note.audited and note in self._all and not self._draw(note):
            self._drop(note)

    def _draw(self, note: Note) -> bool:
        """Set after how many hits the audit draws one; return False where it draws the next.

        A drawn hit goes the ordinary way, where the audit takes it in. Until then a hit costs nothing more than without
        an audit: the limit takes the place of the one after which hits are reported.
        """
        if self._audit is None:
            return True
        gap = self._audit.gap(note.key)
        if gap == 1:
            return False
        note.drawn = gap <= MAX_UNREPORTED
        note.limit = min(gap - 1, MAX_UNREPORTED)
        return True

    def _count(self, note: Note, seconds: float) -> None:
        if self._each is not None:
            self._each(note.told, seconds)
        if not note.seconds:
            self._report_later(note)
        note.seconds.append(seconds)
        if len(note.seconds) >= note.limit:
            self._reach_limit(note)

    def _report_later(self, note: Note) -> None:
        self._unreported.add(note)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(REPORT_EVERY, self._report_in_turns)

    def _reach_limit(self, note: Note) -> None:
        """Let the next hit be the audit's if it has drawn that, else report."""
        if note.drawn:
            self._drop(note)
        else:
            self.report()

    def _pass(self, note: Note) -> None:
        """Tell the audit of the hits since it was told last."""
        if note.audited and self._audit is not None and len(note.seconds) > note.passed:
            self._audit.passed(note.key, len(note.seconds) - note.passed)
            note.passed = len(note.seconds)

    def _drop(self, note: Note) -> None:
        if note not in self._all:
            return
        del self._all[note]
        self._size -= note.size
        for name in note.names:
            del self._notes[name]
        if note.place is not None:
            self._questions.forget(note.place)
        self._pass(note)
        for head in note.heads:
            head.notes -= 1
            if not head.notes:
                del self._heads[head.text]


def _rendered(head: ResponseHead, entry: StoredResponse) -> bytes:
    return rendered(head, chunked.FRAMING if entry.pieces else ())


def _traced(note: Note) -> Exchange:
    """Return the fact to report for a hit: that of the note, with the hit's own trace."""
    return replace(note.exchange, trace=_trace(note.traced)) if note.traced else note.exchange


def _trace(line: bytes) -> str:
    """Return the trace id in a `traceparent` line, empty without one."""
    name, _, value = line.partition(b":")
    return trace_id(((name, value.strip(b" \t")),))


def _selected(head: bytes, body: bytes) -> bytes:
    """Return the name of a request by what of its head selects a response, and its body; it is longer than a hash."""
    return _hash(b"%b\r\n\r\n%b" % (head, body)) + b"s"


def _hash(raw: bytes) -> bytes:
    return sha256(raw).digest()
