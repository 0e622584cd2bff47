"""What a request asks for whose bytes were never seen: the question of a recent hit in another form, or a new one.

A head that selects as one that was read before (policy/selecting_fields.py) tells the endpoint, the credentials and all
else that a key needs beside the body. So a body can be classified, and its key be made, where the parser has not seen
it. What comes of that is a hit that was noted, of the same question; or a question for the store, where those of this
head are mostly known; or nothing. Then the ordinary way decides, and takes over what was classified.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import Final, Generic, TypeAlias, TypeVar

from ollama_cache_proxy.core.questions import Neighbours, Question
from ollama_cache_proxy.policy import classify, document, embeddings, outline, template_dates
from ollama_cache_proxy.policy.classify import Candidate, PolicyOf
from ollama_cache_proxy.policy.endpoints import Endpoint, Policy
from ollama_cache_proxy.policy.key import begin_of, cache_key_within
from ollama_cache_proxy.policy.messages import Fields
from ollama_cache_proxy.policy.record import changed, record
from ollama_cache_proxy.policy.replay_pace import Pace

Note = TypeVar("Note")

_MOST_MODELS: Final = 64
"""Models of one head."""
_FEWEST: Final = 8
_MANY: Final = 64
_SELDOM: Final = 0.1
_TRIED: Final = 8
"""Of so many requests whose questions are mostly new, one is classified here."""
_OF_LATE: Final = 4096
"""More than clients that ask at once: a request of the ordinary way is counted before it is known what comes of it."""
_MOSTLY: Final = 0.8
"""The least share of known requests with which the store is asked before the parser: where it has no entry, it is asked
twice."""
_MOST_CLASSIFIED: Final = 256
"""Bodies that were classified and not yet taken over."""
_MOST_DOCUMENTS: Final = 8
"""Of one note: the same question with other fields that change no response, or in another order."""
_MOST_BYTES: Final = 16_384
"""Bytes of a body that is classified here."""


Place: TypeAlias = tuple[bytes, str, str]
"""What selects, the model as it is named, and the key."""


@record
class Posed:
    """A question that no parser has read, and the edition of the models that it holds for."""

    head: bytes
    """What selects."""
    question: Question
    edition: int
    begins: dict[bool, bytes] = field(default_factory=dict, compare=False)
    """What keys begin with, of streams and of whole responses."""

    def key(self, candidate: Candidate, fields: Fields) -> str:
        """Return the key of another candidate with the same head, whose fields for Ollama are these."""
        begin, scope = self.begins.get(candidate.stream), self.question.scope
        if begin is None:
            begin = self.begins[candidate.stream] = begin_of(candidate, scope, fields)
        return cache_key_within(begin, candidate, scope.version)


@dataclass(slots=True)
class _Way:
    """What the requests of one head have in common, and how many notes there are of them."""

    endpoint: Endpoint
    fields: Fields
    """Those for Ollama, of one of the requests: in the others the same ones are part of keys."""
    policy_of: PolicyOf
    questions: dict[str, Posed] = field(default_factory=dict)
    """The last one by model, as the requests name it."""
    notes: int = 0
    asked: int = 0
    """Requests of late whose questions no note was of."""
    answered: int = 0
    """Those of them that the store could answer."""

    @property
    def is_mostly_known(self) -> bool:
        """Whether the store is likely to know the next one."""
        return self.asked >= _FEWEST and self.answered >= _MOSTLY * self.asked

    @property
    def is_mostly_new(self) -> bool:
        """Whether the store is not likely to know the next one, so that its key is made for nothing."""
        return self.asked >= _MANY and self.answered < _SELDOM * self.asked

    def count(self, *, answered: bool = False) -> None:
        """Count a request whose question no note is of."""
        if self.asked >= _OF_LATE:
            self.asked, self.answered = self.asked // 2, self.answered // 2
        self.asked += 1
        self.answered += answered


class KnownQuestions(Generic[Note]):
    """Notes by their questions."""

    def __init__(self, neighbours: Neighbours) -> None:
        self._rules = neighbours.rules
        self._templates = neighbours.templates
        self._asks = neighbours.recorder is None  # a request is recorded as it was sent
        self._audit = neighbours.audit
        self._ways: dict[bytes, _Way] = {}
        self._notes: dict[Place, Note] = {}
        self._documents: dict[bytes, tuple[Note, int]] = {}  # with the number of strings in the body
        self._names: dict[Place, list[bytes]] = {}  # of documents
        self._classified: dict[tuple[str, bytes], tuple[Candidate, int]] = {}

    def learn(self, head: bytes, question: Question, note: Note, edition: int, *, posed: bool) -> Place | None:
        """Note a question with this head, or one that was `posed` here; return its place, None where it is not noted.

        A category may be reported as another than the one that the request names; such requests are left out.
        """
        candidate = question.candidate
        if question.directives.category or candidate.endpoint.multipart:
            return None
        way = self._ways.get(head)
        if way is None:
            policy_of = partial(self._rules.policy, candidate.endpoint, "")
            way = _Way(endpoint=candidate.endpoint, fields=question.request.fields, policy_of=policy_of)
            self._ways[head] = way
        if len(way.questions) >= _MOST_MODELS:
            way.questions.clear()
        before = way.questions.get(candidate.model)
        begins = before.begins if before is not None and before.question.scope == question.scope else {}
        last = Posed(head=head, question=changed(question, body=b""), edition=edition, begins=begins)
        way.questions[candidate.model] = last
        if not posed:
            way.answered = min(way.answered + 1, way.asked)
        place = head, candidate.model, question.key
        if place in self._notes:
            return None
        way.notes += 1
        self._notes[place] = note
        return place

    def forget(self, place: Place) -> None:
        """Drop a note, and what is known of its head with the last one of that."""
        del self._notes[place]
        for name in self._names.pop(place, ()):
            del self._documents[name]
        way = self._ways[place[0]]
        way.notes -= 1
        if not way.notes:
            del self._ways[place[0]]

    def find(self, head: bytes, body: bytes) -> Note | Posed | None:
        """Return the note of a request with this head and this whole body, or its question for the store, or None."""
        way = self._ways.get(head)
        if way is None or len(body) > _MOST_BYTES:
            return None
        named = _document(head, body) if self._documents else None  # else it is made where it is needed
        if named is not None:
            known = self._documents.get(named[0])
            if known is not None and known[1] == named[1]:
                return known[0]
        if way.is_mostly_new and way.asked % _TRIED:
            way.count()
            return None
        return self._find(way, head, body, named)

    def _find(self, way: _Way, head: bytes, body: bytes, named: tuple[bytes, int] | None) -> Note | Posed | None:
        """Return likewise what a body asks whose like was not seen; `named` is its `_document`, if that was made."""
        streams = self._rules.streams
        found = classify.by_body(way.endpoint, body, policy_of=way.policy_of, streams=streams, fields=way.fields)
        if not isinstance(found, Candidate):
            return None
        posed = way.questions.get(found.model)
        key = "" if posed is None else posed.key(found, way.fields)
        place = head, found.model, key
        note = self._notes.get(place)
        if note is None:
            if posed is not None and way.is_mostly_known and self._may_ask(posed.question, found, way.fields):
                question = changed(posed.question, body=body, candidate=found, key=key)
                return Posed(head=head, question=question, edition=posed.edition, begins=posed.begins)
            way.count()
            if len(self._classified) >= _MOST_CLASSIFIED:
                self._classified.clear()
            self._classified[way.endpoint.operation, body] = found, outline.counts(body).weight
            return None
        names, (name, strings) = self._names.setdefault(place, []), named or _document(head, body)
        if name and name not in self._documents and len(names) < _MOST_DOCUMENTS:
            names.append(name)
            self._documents[name] = note, strings
        return note

    def _may_ask(self, question: Question, candidate: Candidate, fields: Fields) -> bool:
        """Return whether the store's entry is all that a candidate needs: lists need one for each text, say."""
        return (
            self._asks
            and candidate.items == 1
            and (not candidate.stream or self._rules.pace_for(candidate.endpoint, fields) is Pace.AT_ONCE)
            and embeddings.text_list(candidate) is None
            and question.policy is not Policy.WRITE_ONLY
            and (self._templates is None or not template_dates.renders(candidate))
            and (self._audit is None or not self._audit.audits(candidate))
        )

    def asked(self, head: bytes, *, answered: bool) -> None:
        """Note whether the store could answer a question that `find` has returned."""
        way = self._ways.get(head)
        if way is not None:
            way.count(answered=answered)

    def take(self, endpoint: Endpoint, category: str, body: bytes) -> tuple[Candidate, int] | None:
        """Return what `find` has classified, and how many bytes of memory its values take, about."""
        return None if category or not self._classified else self._classified.pop((endpoint.operation, body), None)


def _document(head: bytes, body: bytes) -> tuple[bytes, int]:
    """Return the name of a request by its head and what its body says, and how many strings that has.

    The name is empty where that is not simple to tell.
    """
    written = document.rewritten(body)
    return (b"", 0) if written is None else (sha256(b"%b\r\n\r\n%b" % (head, written[0])).digest(), written[1])
