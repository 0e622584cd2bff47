"""Anthropic's form (`anthropic/anthropic.go`): a message, and streams of named events that end with `message_stop`."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

import orjson

from ollama_cache_proxy.policy.dialects.dialect import (
    ANSWER_ERROR,
    INCOMPLETE,
    JSON_TYPES,
    Storable,
    Storing,
    Usage,
    as_object,
    cached,
    count,
    events,
    has_error,
    last_event,
    last_usage,
    member,
    no_vectors,
    split,
    unless_empty,
)
from ollama_cache_proxy.policy.steps import Steps

WHOLE_TYPES: Final = JSON_TYPES
STREAM_TYPE: Final = b"text/event-stream"
STREAM_DIRECTIVES: Final = (b"no-cache",)
LISTS: Final = None
vectors = no_vectors
failed = has_error

_LAST: Final = b"message_stop"
_STOPPED: Final = ("end_turn", "max_tokens", "tool_use")
_ERRORS: Final[dict[int, str]] = {
    HTTPStatus.BAD_REQUEST: "invalid_request_error",
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.FORBIDDEN: "permission_error",
    HTTPStatus.NOT_FOUND: "not_found_error",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
    HTTPStatus.SERVICE_UNAVAILABLE: "overloaded_error",
}
"""As `NewError` names them; every other status is an `api_error`."""


def whole(document: dict[str, Any]) -> Storing:
    """See Dialect."""
    if document.get("type") != "message" or not _stopped(document.get("stop_reason"), document.get("content")):
        return INCOMPLETE
    storable = _storable(document.get("usage"))
    if document.get("stop_reason") == "tool_use" and storable.prompt_tokens == storable.output_tokens == 0:
        # Ollama says so of any response with a call (`mapStopReason`), also where its end, with the counts, is lost.
        return INCOMPLETE
    return storable


def stream(body: bytes) -> Steps[Storing]:
    """See Dialect. `message_delta` says why it stopped, and how many tokens it took; `message_stop` is the end."""
    names: list[bytes] = []
    delta: dict[str, Any] | None = None
    for blocks in split(body, b"\n\n"):
        read = events(blocks)
        if not read:
            return INCOMPLETE
        names += [name for name, _ in read]
        delta = next((document for name, document in reversed(read) if name == b"message_delta"), delta)
        yield
    if b"error" in names:
        return ANSWER_ERROR
    if names[-1:] != [_LAST] or names.count(_LAST) != 1 or delta is None:
        return INCOMPLETE
    if not _stopped(member(delta.get("delta"), "stop_reason"), b"content_block_start" in names):
        return INCOMPLETE
    return _storable(delta.get("usage"))


def _stopped(reason: Any, content: Any) -> bool:
    """Return whether this is a regular end. Ollama says `stop_sequence`, without content, of a load and an unload."""
    return reason in _STOPPED or (reason == "stop_sequence" and bool(content))


def _storable(usage: Any) -> Storable:
    told = _figures(as_object(usage))
    return Storable(prompt_tokens=told.prompt_tokens, output_tokens=told.output_tokens)


def _figures(usage: dict[str, Any]) -> Usage:
    """Return the figures of a `usage`.

    `input_tokens` is the whole prompt where no cached tokens are told (`ToMessagesResponse`, up to 0.33.2), and without
    the cached ones where they are (`UsageFromMetrics`, since 0.33.3). Anthropic's own API counts likewise.
    """
    prompt = count(usage, "input_tokens")
    if prompt is not None:
        prompt += sum(count(usage, name) or 0 for name in ("cache_read_input_tokens", "cache_creation_input_tokens"))
    return Usage(
        prompt_tokens=prompt,
        cached_tokens=cached(usage, "cache_read_input_tokens", prompt),
        output_tokens=count(usage, "output_tokens"),
    )


def ends(chunk: bytes) -> bool:
    """See Dialect."""
    return last_event(chunk) == _LAST


def usage(tail: bytes) -> Usage | None:
    """See Dialect."""
    return unless_empty(_figures(last_usage(tail)))


def error(status: int, message: str) -> bytes:
    """See Dialect (`anthropic.ErrorResponse`, without the id that Ollama makes up for each)."""
    kind = _ERRORS.get(status, "api_error")
    return orjson.dumps({"type": "error", "error": {"type": kind, "message": message}})
