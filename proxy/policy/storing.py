"""Whether an answer may be kept (RFC 9111, section 3, and what Ollama's own answers say of themselves)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import orjson

from proxy.policy.classify import Candidate
from proxy.policy.endpoints import Kind
from proxy.policy.messages import ResponseHead, first, members
from proxy.policy.status import Detail

OK: Final = 200
_FORBIDDEN: Final = frozenset({b"no-store", b"private", b"no-cache"})
_COMPLETE: Final = frozenset({"stop", "length"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Storable:
    """The answer may be kept. Token counts are None where the answer does not name them."""

    prompt_tokens: int | None
    output_tokens: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NotStorable:
    """The answer must not be kept, for this reason."""

    detail: Detail


Storing: TypeAlias = Storable | NotStorable


def storable(candidate: Candidate, head: ResponseHead, body: bytes) -> Storing:
    """Decide on a complete answer; `body` is all of it."""
    detail = by_head(head)
    if detail is not None:
        return NotStorable(detail=detail)
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return NotStorable(detail=Detail.INCOMPLETE)
    if not isinstance(document, dict):
        return NotStorable(detail=Detail.INCOMPLETE)
    if "error" in document:
        return NotStorable(detail=Detail.ANSWER_ERROR)
    if candidate.endpoint.kind is Kind.EMBEDDING:
        return _vectors(candidate, document)
    return _completion(document)


def by_head(head: ResponseHead) -> Detail | None:
    """Give the reason not to keep the answer that its head shows, or None."""
    content_type = (first(head.fields, b"content-type") or b"").partition(b";")[0].strip().lower()
    rules = (
        (head.status != OK, Detail.STATUS),
        (content_type != b"application/json", Detail.CONTENT_TYPE),
        (first(head.fields, b"content-encoding") is not None, Detail.RESPONSE_ENCODING),
        (first(head.fields, b"set-cookie") is not None, Detail.SET_COOKIE),
        (not _FORBIDDEN.isdisjoint(_directive_names(head)), Detail.CACHE_CONTROL),  # RFC 9111, section 3
        (not set(members(head.fields, b"vary")) <= {b"origin"}, Detail.VARY),  # section 4.1: the key holds Origin
    )
    return next((detail for broken, detail in rules if broken), None)


def _directive_names(head: ResponseHead) -> set[bytes]:
    return {member.partition(b"=")[0].strip() for member in members(head.fields, b"cache-control")}


def _completion(document: dict[str, Any]) -> Storing:
    reason = document.get("done_reason")
    if document.get("done") is not True or not isinstance(reason, str) or reason not in _COMPLETE:
        return NotStorable(detail=Detail.INCOMPLETE)
    return Storable(prompt_tokens=_count(document, "prompt_eval_count"), output_tokens=_count(document, "eval_count"))


def _vectors(candidate: Candidate, document: dict[str, Any]) -> Storing:
    vectors: Any
    usage: Any
    match candidate.endpoint.operation:
        case "embed":
            vectors, usage, name = document.get("embeddings"), document, "prompt_eval_count"
        case "v1-embeddings":
            rows = document.get("data")
            vectors = [_member(row, "embedding") for row in rows] if isinstance(rows, list) else None
            usage, name = document.get("usage"), "prompt_tokens"
        case _:
            vectors, usage, name = [document.get("embedding")], document, "prompt_eval_count"
    if not isinstance(vectors, list) or len(vectors) != candidate.items or not all(map(_is_vector, vectors)):
        return NotStorable(detail=Detail.ANSWER_COUNT)
    return Storable(prompt_tokens=_count(usage, name), output_tokens=None)


def _is_vector(value: Any) -> bool:
    """Whether this is a vector: numbers, or the base64 text of some; never nothing."""
    return isinstance(value, list | str) and bool(value)


def _member(document: Any, name: str) -> Any:
    return document.get(name) if isinstance(document, dict) else None


def _count(document: Any, name: str) -> int | None:
    value = _member(document, name)
    return value if type(value) is int and value >= 0 else None
