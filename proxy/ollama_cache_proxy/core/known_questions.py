"""Which recent hit a request asks for again in other bytes: with its fields in another order, say, or more blanks.

A head that selects as one that was read before (policy/selecting_fields.py) tells the endpoint, the credentials and all
else that a key needs beside the body. So a body can be classified, and its key be made, where the parser has not seen
it. What comes of that is either a hit that was noted, of the same question, or nothing: then the ordinary way decides,
and takes over what was classified.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Final, Generic, TypeVar

from ollama_cache_proxy.core.questions import Question
from ollama_cache_proxy.policy import classify, outline
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
_MOST_BYTES: Final = 16_384
"""Bytes of a body that is classified here."""


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
        self._notes: dict[tuple[bytes, str, str], Note] = {}
        self._classified: dict[tuple[str, bytes], tuple[Candidate, int]] = {}

    def learn(self, head: bytes, question: Question, note: Note) -> tuple[bytes, str, str] | None:
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

    def forget(self, place: tuple[bytes, str, str]) -> None:
        """Drop a note, and what is known of its head with the last one of that."""
        del self._notes[place]
        way = self._ways[place[0]]
        way.notes -= 1
        if not way.notes:
            del self._ways[place[0]]

    def find(self, head: bytes, body: bytes) -> Note | None:
        """Return the note of a request with this head and this whole body; None where there is none."""
        way = self._ways.get(head)
        if way is None or len(body) > _MOST_BYTES or (counts := outline.quick(body)) is None:
            return None
        streams = self._rules.streams
        found = classify.by_body(way.endpoint, body, policy_of=way.policy_of, streams=streams, fields=way.fields)
        if not isinstance(found, Candidate):
            return None
        scope = way.scopes.get(found.model)
        note = None
        if scope is not None:
            note = self._notes.get((head, found.model, cache_key(found, scope, way.fields)))
        if note is None:
            if len(self._classified) >= _MOST_CLASSIFIED:
                self._classified.clear()
            self._classified[way.endpoint.operation, body] = found, counts.weight
        return note

    def take(self, endpoint: Endpoint, category: str, body: bytes) -> tuple[Candidate, int] | None:
        """Return what `find` has classified, and how many bytes of memory its values take, about."""
        return None if category or not self._classified else self._classified.pop((endpoint.operation, body), None)
