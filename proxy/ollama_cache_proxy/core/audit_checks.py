"""What is kept of a hit that was drawn for the audit: how to ask Ollama again, and what was served.

It holds a request with its credentials, in memory alone; core/audit.py bounds how many there are, and for how long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import field, replace
from typing import Final

import orjson

from ollama_cache_proxy.core.facts import Audited, Unaudited
from ollama_cache_proxy.core.ports import Identity
from ollama_cache_proxy.core.questions import Listing, Question
from ollama_cache_proxy.policy import fields
from ollama_cache_proxy.policy.audit_comparison import Said, floats, said, vectors_in
from ollama_cache_proxy.policy.audit_requests import (
    RunnerOptions,
    body_of_text,
    is_greedy,
    runner_options,
    without_keep_alive,
)
from ollama_cache_proxy.policy.classify import is_embedding
from ollama_cache_proxy.policy.endpoints import Endpoint
from ollama_cache_proxy.policy.listing.items import Item, decode
from ollama_cache_proxy.policy.messages import Request, StoredResponse
from ollama_cache_proxy.policy.record import record

MAX_STORED: Final = 256 * 1024
"""Bytes of what was served that are compared; reading more would hold up the event loop."""
MAX_ASKED: Final = 16 * 1024
"""Bytes of a request: a client that comes may have to wait until Ollama has computed it to its end."""
_CHECK_BYTES: Final = 2048
"""Bytes that a part takes beside what was served."""


@record
class Part:
    """What was served from one entry: a vector in little-endian float32, or what a completion says."""

    key: str
    vector: bytes = b""
    said: Said = field(default_factory=dict)
    size: int = 0
    """Bytes of what was served."""
    served: int = 0
    """A hash of what was served, to tell it from what is stored under the key later."""


@record
class Check:
    """A drawn hit, or one text of a list."""

    at: float
    """Monotonic time of the hit, in seconds."""
    endpoint: Endpoint
    model: str
    """As requested."""
    identity: Identity
    request: Request = field(repr=False)
    """Its fields are those for Ollama, credentials included."""
    body: bytes = field(repr=False)
    stream: bool = False
    parts: tuple[Part, ...] = field(repr=False)
    generation: str
    tokens: int | None
    """Prompt tokens that were served; None where that is not known exactly."""
    options: RunnerOptions
    greedy: bool

    @property
    def size(self) -> int:
        """Bytes in memory, about."""
        lines = sum(len(name) + len(value) for name, value in self.request.fields)
        return len(self.body) + lines + sum(part.size + _CHECK_BYTES for part in self.parts)

    def left_out(self, why: Unaudited) -> Audited:
        """Return the fact that this was not audited."""
        return _left_out(self.endpoint, self.model, len(self.parts), why)


def _left_out(endpoint: Endpoint, model: str, count: int, why: Unaudited) -> Audited:
    return Audited(operation=endpoint.operation, model=model, left_out=count, why=why)


def check_of_hit(question: Question, entry: StoredResponse, now: float) -> Iterator[Check | Audited]:
    """Yield the check of a whole response, or the fact that it cannot be checked."""
    candidate = question.candidate
    endpoint, model = candidate.endpoint, candidate.model
    body = without_keep_alive(candidate, question.body)
    if len(entry.body) > MAX_STORED or len(body) > MAX_ASKED:
        yield _left_out(endpoint, model, 1, Unaudited.TOO_LARGE)
        return
    served = hash(entry.body)
    parts: tuple[Part, ...] = ()
    if is_embedding(endpoint):
        vectors = vectors_in(endpoint, entry.body) or ()
        parts = tuple(Part(key=question.key, vector=vector, size=len(vector), served=served) for vector in vectors)
    elif (says := said(entry.body, stream=candidate.stream)) is not None:
        parts = (Part(key=question.key, said=says, size=2 * len(entry.body), served=served),)
    if parts:
        yield _check(question, body, parts, entry.prompt_tokens, now)


def checks_of_items(
    question: Question, texts: Sequence[str], now: float, is_new: Callable[[str, int], bool]
) -> Iterator[Check | Audited]:
    """Yield a check of each of these known texts of a list, as far as `is_new` says so of key and hash.

    Each takes a few milliseconds; the caller lets others go on between two of them.
    """
    listing = question.listing
    if listing is None:
        return
    first = listing.known[texts[0]]
    keys = question.other_keys() if first.frame else listing.keys
    for text in texts:
        part = _part_of_item(keys[text], listing, text)
        if part is None or not is_new(part.key, part.served):
            continue
        body = body_of_text(question.candidate, text)
        if len(body) > MAX_ASKED:
            yield _left_out(question.candidate.endpoint, question.candidate.model, 1, Unaudited.TOO_LARGE)
            continue
        item = listing.known[text]
        yield _check(question, body, (part,), item.tokens or 0 if item.exact else None, now)


def _part_of_item(key: str, listing: Listing, text: str) -> Part | None:
    vector = _vector_of(listing.known[text])
    return None if vector is None else Part(key=key, vector=vector, size=len(vector), served=hash(vector))


def _vector_of(item: Item) -> bytes | None:
    return floats(orjson.loads(bytes(item.vector)))


def is_stored(check: Check, key: str, entry: StoredResponse) -> bool:
    """Return whether an entry is what was served under this key."""
    item = decode(entry.body)
    served = hash(entry.body) if item is None else hash(_vector_of(item))
    return any(part.key == key and part.served == served for part in check.parts)


def _check(question: Question, body: bytes, parts: tuple[Part, ...], tokens: int | None, now: float) -> Check:
    """Return the check that asks with this body, which is the client's or made from it."""
    candidate, request = question.candidate, question.request
    if body is not question.body:
        request = replace(request, fields=fields.without_body_fields(request.fields))
    return Check(
        at=now,
        endpoint=candidate.endpoint,
        model=candidate.model,
        identity=question.identity,
        request=fields.for_storing(request),
        body=body,
        stream=candidate.stream,
        parts=parts,
        generation=question.generation or "",
        tokens=tokens,
        options=runner_options(candidate.document),
        greedy=is_greedy(candidate),
    )
