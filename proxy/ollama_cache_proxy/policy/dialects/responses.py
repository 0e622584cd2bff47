"""OpenAI's form of responses (`openai/responses.go`): a `response`, and streams that end with `response.completed`."""

from __future__ import annotations

from typing import Any, Final

from ollama_cache_proxy.policy.dialects import openai
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
    last_event,
    last_usage,
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
error = openai.error

_LAST: Final = b"response.completed"
_FAILED: Final = (b"error", b"response.failed")


def failed(document: dict[str, Any]) -> bool:
    """See Dialect. Each response has an `error`, which is null unless it failed."""
    return document.get("error") is not None


def whole(document: dict[str, Any]) -> Storing:
    """See Dialect. Ollama says `completed` of a load too, and where it lost the end: then all counts are 0."""
    if document.get("object") != "response" or document.get("status") != "completed":
        return INCOMPLETE
    figures = as_object(document.get("usage"))
    read, written = count(figures, "input_tokens"), count(figures, "output_tokens")
    return INCOMPLETE if read == written == 0 else Storable(prompt_tokens=read, output_tokens=written)


def stream(body: bytes) -> Steps[Storing]:
    """See Dialect. The last event holds the whole response."""
    names: list[bytes] = []
    final: dict[str, Any] = {}
    for blocks in split(body, b"\n\n"):
        read = events(blocks)
        if not read:
            return INCOMPLETE
        names += [name for name, _ in read]
        final = read[-1][1]
        yield
    if any(name in _FAILED for name in names):
        return ANSWER_ERROR
    if names[-1:] != [_LAST] or names.count(_LAST) != 1:
        return INCOMPLETE
    last = as_object(final.get("response"))
    return ANSWER_ERROR if failed(last) else whole(last)


def ends(chunk: bytes) -> bool:
    """See Dialect."""
    return last_event(chunk) == _LAST


def usage(tail: bytes) -> Usage | None:
    """See Dialect. 0 cached tokens may mean that they are not told (`ToResponse`): up to 0.33.2 there is always 0."""
    figures = last_usage(tail)
    prompt = count(figures, "input_tokens")
    told = cached(as_object(figures.get("input_tokens_details")), "cached_tokens", prompt)
    return unless_empty(
        Usage(prompt_tokens=prompt, cached_tokens=told or None, output_tokens=count(figures, "output_tokens"))
    )
