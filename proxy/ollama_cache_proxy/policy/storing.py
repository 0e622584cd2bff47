"""Whether an answer may be kept (RFC 9111, section 3, and what Ollama's own answers say of themselves)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final, TypeAlias

import orjson

from ollama_cache_proxy.policy.classify import Candidate
from ollama_cache_proxy.policy.endpoints import Endpoint, Kind
from ollama_cache_proxy.policy.messages import ResponseHead, members
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.status import Detail

OK: Final = 200
_FORBIDDEN: Final = frozenset({b"no-store", b"private", b"no-cache"})
_COMPLETE: Final = frozenset({"stop", "length"})
_FINISHED: Final = ("stop", "length", "tool_calls")


@record
class Storable:
    """The answer may be kept. Token counts are None where the answer does not name them."""

    prompt_tokens: int | None
    output_tokens: int | None


@record
class NotStorable:
    """The answer must not be kept, for this reason."""

    detail: Detail


Storing: TypeAlias = Storable | NotStorable


def storable(candidate: Candidate, head: ResponseHead, body: bytes) -> Storing:
    """Decide on a complete answer; `body` is all of it."""
    detail = by_head(candidate, head)
    if detail is not None:
        return NotStorable(detail=detail)
    openai = is_openai(candidate.endpoint)
    if candidate.stream:
        return _events(body) if openai else _lines(body)
    read = _all_objects((body,))
    if not read:
        return NotStorable(detail=Detail.INCOMPLETE)
    if "error" in read[0]:
        return NotStorable(detail=Detail.ANSWER_ERROR)
    if candidate.endpoint.kind is Kind.EMBEDDING:
        return _vectors(candidate, read[0])
    return _choices(read) if openai else _completion(read[0])


def is_openai(endpoint: Endpoint) -> bool:
    """Whether the endpoint speaks OpenAI's form: choices, usage, and streams of events."""
    return endpoint.path.startswith("/v1/")


def by_head(candidate: Candidate, head: ResponseHead) -> Detail | None:
    """Give the reason not to keep the answer that its head shows, or None."""
    found: dict[bytes, list[bytes]] = {}
    for name, value in head.fields:
        if (low := name.lower()) in _JUDGED:
            found.setdefault(low, []).append(value)
    content_type = found.pop(b"content-type", _NONE)[0].partition(b";")[0].strip().lower()
    expected = b"application/json"
    if candidate.stream:
        expected = b"text/event-stream" if is_openai(candidate.endpoint) else b"application/x-ndjson"
    if head.status != OK:
        return Detail.STATUS
    if content_type != expected:
        return Detail.CONTENT_TYPE
    return _barred(head, found) if found else None


_NONE: Final = [b""]
_JUDGED: Final = frozenset({b"content-type", b"content-encoding", b"set-cookie", b"cache-control", b"vary"})


def _barred(head: ResponseHead, found: Collection[bytes]) -> Detail | None:
    """Say which of the fields that were `found` forbids to keep the answer, or None."""
    rules = (
        (b"content-encoding" in found, Detail.RESPONSE_ENCODING),
        (b"set-cookie" in found, Detail.SET_COOKIE),
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


def ends(endpoint: Endpoint, chunk: bytes) -> bool:
    """Whether a stream's chunk is the last one of its answer: some clients leave when they have read that."""
    if is_openai(endpoint):
        return chunk.endswith(_LAST_EVENT)
    if b'"done":true' not in chunk:  # which may also stand in a tool's arguments
        return False
    last = _all_objects((chunk.rstrip(b"\n").rpartition(b"\n")[2],))
    return bool(last) and last[0].get("done") is True


def _lines(body: bytes) -> Storing:
    """Judge a stream of JSON lines: each one whole, no error among them, and the last one the only end."""
    *parts, rest = body.split(b"\n")
    read = _all_objects(parts)
    if rest or not read:
        return NotStorable(detail=Detail.INCOMPLETE)
    if any("error" in document for document in read):
        return NotStorable(detail=Detail.ANSWER_ERROR)
    if any(document.get("done") is not False for document in read[:-1]):
        return NotStorable(detail=Detail.INCOMPLETE)
    return _completion(read[-1])


_LAST_EVENT: Final = b"data: [DONE]\n\n"


def _events(body: bytes) -> Storing:
    """Judge a stream of events (`ChatWriter`, `CompleteWriter`): each one JSON, no error, `[DONE]` at the end."""
    if not body.endswith(_LAST_EVENT):
        return NotStorable(detail=Detail.INCOMPLETE)
    *events, rest = body.removesuffix(_LAST_EVENT).split(b"\n\n")
    if rest or not all(event.startswith(b"data: ") for event in events):
        return NotStorable(detail=Detail.INCOMPLETE)
    read = _all_objects(event.removeprefix(b"data: ") for event in events)
    if any("error" in document for document in read):
        return NotStorable(detail=Detail.ANSWER_ERROR)
    return _choices(read)


def _all_objects(parts: Iterable[bytes]) -> list[dict[str, Any]]:
    """Read JSON objects; nothing where one of them is none."""
    try:
        read = [orjson.loads(part) for part in parts]
    except orjson.JSONDecodeError:
        return []
    return read if all(isinstance(document, dict) for document in read) else []


def _choices(documents: Sequence[dict[str, Any]]) -> Storing:
    """Judge an answer in OpenAI's form, whole or in parts: it has an end, and one that is no accident."""
    reasons = [
        _member(choice, "finish_reason")
        for document in documents
        if isinstance(choices := document.get("choices"), list)
        for choice in choices
    ]
    if not reasons or reasons[-1] not in _FINISHED or any(reason is not None for reason in reasons[:-1]):
        return NotStorable(detail=Detail.INCOMPLETE)
    told = [usage for document in documents if (usage := document.get("usage")) is not None]
    usage = told[-1] if told else None  # CompleteWriter puts zeros into every part but the last
    return Storable(
        prompt_tokens=_count(usage, "prompt_tokens"),
        output_tokens=_count(usage, "completion_tokens"),
    )


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
