"""Which recent hit a request asks for again in other bytes: with its fields in another order, say, or more blanks.

A head that selects as one that was read before (policy/selecting_fields.py) tells the endpoint, the credentials and all
else that a key needs beside the body. So a body can be classified, and its key be made, where the parser has not seen
it. What comes of that is either a hit that was noted, of the same question, or nothing: then the ordinary way decides,
and takes over what was classified.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import Final, Generic, TypeAlias, TypeVar

from ollama_cache_proxy.core.questions import Question
from ollama_cache_proxy.policy import classify, document, outline
from ollama_cache_proxy.policy.classify import Candidate, PolicyOf
from ollama_cache_proxy.policy.endpoints import Endpoint
from ollama_cache_proxy.policy.key import Scope, cache_key
from ollama_cache_proxy.policy.messages import Fields
from ollama_cache_proxy.policy.rules import Rules

Note = TypeVar("Note")

_MOST_SCOPES: Final = 64
"""Models of one head."""
_MOST_CLASSIFIED: Final = 256
"""Bodies that were classified and not yet taken over."""
_MOST_DOCUMENTS: Final = 8
"""Of one note: the same question with other fields that change no response, or in another order."""
_MOST_BYTES: Final = 16_384
"""Bytes of a body that is classified here."""


Place: TypeAlias = tuple[bytes, str, str]
"""What selects, the model as it is named, and the key."""


@dataclass(slots=True)
class _Way:
    """What the requests of one head have in common, and how many notes there are of them."""

    endpoint: Endpoint
    fields: Fields
    """Those for Ollama, of one of the requests: in the others the same ones are part of keys."""
    policy_of: PolicyOf
    scopes: dict[str, Scope] = field(default_factory=dict)
    """By model, as the requests name it."""
    notes: int = 0


class KnownQuestions(Generic[Note]):
    """Notes by their questions."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._ways: dict[bytes, _Way] = {}
        self._notes: dict[Place, Note] = {}
        self._documents: dict[bytes, tuple[Note, int]] = {}  # with the number of strings in the body
        self._names: dict[Place, list[bytes]] = {}  # of documents
        self._classified: dict[tuple[str, bytes], tuple[Candidate, int]] = {}

    def learn(self, head: bytes, question: Question, note: Note) -> Place | None:
        """Note a question with this head; return its place for `forget`, None where it is not noted.

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
        if len(way.scopes) >= _MOST_SCOPES:
            way.scopes.clear()
        way.scopes[candidate.model] = question.scope
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

    def find(self, head: bytes, body: bytes) -> Note | None:
        """Return the note of a request with this head and this whole body; None where there is none."""
        way = self._ways.get(head)
        if way is None or len(body) > _MOST_BYTES:
            return None
        name, strings = b"", 0
        if (written := document.rewritten(body)) is not None:
            name, strings = sha256(b"%b\r\n\r\n%b" % (head, written[0])).digest(), written[1]
            known = self._documents.get(name)
            if known is not None and known[1] == strings:
                return known[0]
        return self._find(way, head, body, name, strings)

    def _find(self, way: _Way, head: bytes, body: bytes, name: bytes, strings: int) -> Note | None:
        """Return likewise the note of a body whose like was not seen; `name` is that of its document, if it has one."""
        streams = self._rules.streams
        found = classify.by_body(way.endpoint, body, policy_of=way.policy_of, streams=streams, fields=way.fields)
        if not isinstance(found, Candidate):
            return None
        scope = way.scopes.get(found.model)
        place = head, found.model, "" if scope is None else cache_key(found, scope, way.fields)
        note = self._notes.get(place)
        if note is None:
            if len(self._classified) >= _MOST_CLASSIFIED:
                self._classified.clear()
            self._classified[way.endpoint.operation, body] = found, outline.counts(body).weight
            return None
        names = self._names.setdefault(place, [])
        if name and name not in self._documents and len(names) < _MOST_DOCUMENTS:
            names.append(name)
            self._documents[name] = note, strings
        return note

    def take(self, endpoint: Endpoint, category: str, body: bytes) -> tuple[Candidate, int] | None:
        """Return what `find` has classified, and how many bytes of memory its values take, about."""
        return None if category or not self._classified else self._classified.pop((endpoint.operation, body), None)
