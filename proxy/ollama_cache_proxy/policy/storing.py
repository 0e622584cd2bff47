"""Whether a response may be stored: RFC 9111, section 3, and whether Ollama's response is complete."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Final

from ollama_cache_proxy.policy.classify import Candidate
from ollama_cache_proxy.policy.credentials import CREDENTIAL_FIELDS
from ollama_cache_proxy.policy.dialects.dialect import ANSWER_ERROR, INCOMPLETE, NotStorable, Storable, Storing, objects
from ollama_cache_proxy.policy.endpoints import Endpoint, Kind
from ollama_cache_proxy.policy.freshness import response_directives
from ollama_cache_proxy.policy.messages import ResponseHead, members
from ollama_cache_proxy.policy.outline import QUICK_BYTES, is_read_soon
from ollama_cache_proxy.policy.status import Detail
from ollama_cache_proxy.policy.steps import Steps, finish

OK: Final = 200
_FORBIDDEN: Final = frozenset({b"no-store", b"private", b"no-cache"})


def storable(candidate: Candidate, head: ResponseHead, body: bytes) -> Storing:
    """Return whether a complete response may be stored; `body` is all of its body."""
    detail = by_head(candidate, head)
    return by_body(candidate, body, items=candidate.items) if detail is None else NotStorable(detail=detail)


def storable_in_steps(candidate: Candidate, head: ResponseHead, body: bytes) -> Steps[Storing]:
    """Return what `storable` does, but `Detail.ANSWER_TOO_LARGE` for what would take long in one step.

    A stream is read in steps, each of whose lines is read in one; anything else is read in one.
    """
    detail = by_head(candidate, head)
    if detail is not None:
        return NotStorable(detail=detail)
    for text in _long_lines(body) if candidate.stream else (body,):
        if not (yield from is_read_soon(text)):
            return NotStorable(detail=Detail.ANSWER_TOO_LARGE)
    yield
    if candidate.stream:
        return (yield from candidate.endpoint.dialect.stream(body))
    return by_body(candidate, body, items=candidate.items)


def _long_lines(body: bytes) -> Iterator[bytes]:
    """Yield the lines that are so long that a look at them is needed."""
    begin = 0
    while len(body) - begin > QUICK_BYTES:
        end = body.rfind(b"\n", begin, begin + QUICK_BYTES)
        if end < 0:
            end = body.find(b"\n", begin + QUICK_BYTES)
            end = len(body) if end < 0 else end
            yield body[begin:end]
        begin = end + 1


def by_body(candidate: Candidate, body: bytes, *, items: int) -> Storing:
    """Return whether the body allows to store the response; embeddings must have so many vectors."""
    dialect = candidate.endpoint.dialect
    if candidate.stream:
        return finish(dialect.stream(body))
    if candidate.text:
        return Storable(prompt_tokens=None, output_tokens=None) if body.strip() else INCOMPLETE
    read = objects((body,))
    if not read:
        return INCOMPLETE
    if dialect.failed(read[0]):
        return ANSWER_ERROR
    if candidate.endpoint.kind is Kind.EMBEDDING:
        return _embeddings(candidate.endpoint, read[0], items)
    return dialect.whole(read[0])


def _embeddings(endpoint: Endpoint, document: dict[str, Any], items: int) -> Storing:
    """Return whether a response has as many vectors as the request has inputs, and none of them empty."""
    vectors = endpoint.dialect.vectors(document, endpoint.vectors)
    found = vectors.found
    if not isinstance(found, list) or len(found) != items or not all(map(_is_vector, found)):
        return NotStorable(detail=Detail.ANSWER_COUNT)
    return Storable(prompt_tokens=vectors.prompt_tokens, output_tokens=None)


def _is_vector(value: Any) -> bool:
    """Return whether this is a vector: numbers, lists of numbers (one for each token), or base64, and not empty.

    Where a model fails, some servers write null for what is no number.
    """
    if not isinstance(value, list):
        return isinstance(value, str) and bool(value)
    kinds = {*map(type, value)}
    if kinds == _ROWS:
        return all(row and {*map(type, row)} <= _NUMBERS for row in value)
    return bool(kinds) and kinds <= _NUMBERS


_NUMBERS: Final = frozenset({int, float})
_ROWS: Final = frozenset({list})


def by_head(candidate: Candidate, head: ResponseHead) -> Detail | None:
    """Return why the head forbids to store the response, or None."""
    found: dict[bytes, list[bytes]] = {}
    for name, value in head.fields:
        if (low := name.lower()) in _JUDGED:
            found.setdefault(low, []).append(value)
    content_type = found.pop(b"content-type", _NONE)[0].partition(b";")[0].strip().lower()
    if head.status != OK:
        return Detail.STATUS
    if not _is_expected(candidate, content_type):
        return Detail.CONTENT_TYPE
    return _barred(candidate, head, found) if found else None


def _is_expected(candidate: Candidate, content_type: bytes) -> bool:
    """Return whether the response has the media type of what was asked for."""
    dialect = candidate.endpoint.dialect
    if candidate.stream:
        return content_type == dialect.STREAM_TYPE
    if candidate.text and content_type in (_TEXT, _JSON):
        return content_type == _TEXT
    return content_type in dialect.WHOLE_TYPES


_TEXT: Final = b"text/plain"
_JSON: Final = b"application/json"


def for_one_client(candidate: Candidate, head: ResponseHead) -> bool:
    """Return whether a response is for the client alone that asked for it: others that wait for it must not get it.

    What may not be stored may not be shared either (RFC 9111, section 4).
    """
    found = {name.lower() for name, _ in head.fields} & _FOR_ONE_CLIENT
    return bool(found) and _barred(candidate, head, found) is not None


_NONE: Final = [b""]
_FOR_ONE_CLIENT: Final = frozenset({b"set-cookie", b"cache-control", b"vary"})
_JUDGED: Final = _FOR_ONE_CLIENT | {b"content-type", b"content-encoding"}
_HARMLESS: Final = frozenset(CREDENTIAL_FIELDS) | {b"origin", b"accept-encoding"}
"""What a response may depend on (Vary): the key holds it, and Accept-Encoding is never sent for a candidate."""


def _barred(candidate: Candidate, head: ResponseHead, found: Collection[bytes]) -> Detail | None:
    """Return which of the fields that were `found` forbids to store the response, or None."""
    forbidden = _FORBIDDEN.difference(candidate.endpoint.dialect.STREAM_DIRECTIVES) if candidate.stream else _FORBIDDEN
    rules = (
        (b"content-encoding" in found, Detail.RESPONSE_ENCODING),
        (b"set-cookie" in found, Detail.SET_COOKIE),
        (not forbidden.isdisjoint(_directive_names(head)), Detail.CACHE_CONTROL),  # RFC 9111, section 3
        (not _HARMLESS.issuperset(members(head.fields, b"vary")), Detail.VARY),  # section 4.1
    )
    return next((detail for broken, detail in rules if broken), None)


def _directive_names(head: ResponseHead) -> set[bytes]:
    return {name for name, _ in response_directives(head.fields)}
