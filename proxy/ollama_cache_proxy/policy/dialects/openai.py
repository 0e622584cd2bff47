"""OpenAI's form (`openai/openai.go`): choices, `usage`, and streams of events that end with `[DONE]`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any, Final

import orjson

from ollama_cache_proxy.policy.dialects.dialect import (
    ANSWER_ERROR,
    INCOMPLETE,
    JSON_TYPES,
    Measures,
    Storable,
    Storing,
    Text,
    Usage,
    Vectors,
    as_object,
    cached,
    count,
    has_error,
    last_usage,
    member,
    objects,
    unless_empty,
)

WHOLE_TYPES: Final = JSON_TYPES
STREAM_TYPE: Final = b"text/event-stream"
STREAM_DIRECTIVES: Final = ()
failed = has_error

_FINISHED: Final = ("stop", "length", "tool_calls")
_LAST_EVENT: Final = b"data: [DONE]\n\n"
_ERRORS: Final[dict[int, str]] = {
    HTTPStatus.BAD_REQUEST: "invalid_request_error",
    HTTPStatus.NOT_FOUND: "not_found_error",
}
"""As `NewError` names them; every other status is an `api_error`."""


def whole(document: dict[str, Any]) -> Storing:
    """See Dialect."""
    return _choices((document,))


def vectors(document: dict[str, Any], name: str) -> Vectors:
    """See Dialect. Each row has one."""
    rows = document.get(name)
    found = [member(row, "embedding") for row in rows] if isinstance(rows, list) else None
    return Vectors(found=found, prompt_tokens=count(as_object(document.get("usage")), "prompt_tokens"))


def stream(body: bytes) -> Storing:
    """See Dialect (`ChatWriter`, `CompleteWriter`). Each event is JSON, none is an error, `[DONE]` is the end."""
    if not body.endswith(_LAST_EVENT):
        return INCOMPLETE
    *blocks, rest = body.removesuffix(_LAST_EVENT).split(b"\n\n")
    if rest or not all(block.startswith(b"data: ") for block in blocks):
        return INCOMPLETE
    read = objects(block.removeprefix(b"data: ") for block in blocks)
    if any("error" in document for document in read):
        return ANSWER_ERROR
    return _choices(read)


def _choices(documents: Sequence[dict[str, Any]]) -> Storing:
    """Return whether a response, whole or in parts, may be stored: it has one end, and a regular one."""
    reasons = [
        member(choice, "finish_reason")
        for document in documents
        if isinstance(choices := document.get("choices"), list)
        for choice in choices
    ]
    if not reasons or reasons[-1] not in _FINISHED or any(reason is not None for reason in reasons[:-1]):
        return INCOMPLETE
    usages = [usage for document in documents if (usage := document.get("usage")) is not None]
    last = as_object(usages[-1] if usages else None)  # CompleteWriter puts zeros into every part but the last
    read, written = count(last, "prompt_tokens"), count(last, "completion_tokens")
    if reasons[-1] == "tool_calls" and read == written == 0:
        # Ollama 0.24 says so of any response with a call (`ToChatCompletion`), also where its end and counts are lost.
        return INCOMPLETE
    return Storable(prompt_tokens=read, output_tokens=written)


def ends(chunk: bytes) -> bool:
    """See Dialect."""
    return chunk.endswith(_LAST_EVENT)


def usage(tail: bytes) -> Usage | None:
    """See Dialect. Ollama has `prompt_tokens_details` since 0.33.3 (`openai.Usage`)."""
    figures = last_usage(tail)
    prompt = count(figures, "prompt_tokens")
    return unless_empty(
        Usage(
            prompt_tokens=prompt,
            cached_tokens=cached(as_object(figures.get("prompt_tokens_details")), "cached_tokens", prompt),
            output_tokens=count(figures, "completion_tokens"),
        )
    )


def error(status: int, message: str) -> bytes:
    """See Dialect (`openai.ErrorResponse`)."""
    kind = _ERRORS.get(status, "api_error")
    return orjson.dumps({"error": {"message": message, "type": kind, "param": None, "code": None}})


class _Lists:
    """The lists of `openai.EmbeddingList`; `EmbedWriter` sets its Content-Type and ends it with a line."""

    content_type: Final = b"application/json"
    begin: Final = b'{"data":[{"object":"embedding","embedding":[]'

    def tokens(self, document: dict[str, Any]) -> Any:
        """See ListForm."""
        return document["usage"]["prompt_tokens"]

    def parts(self, model: bytes, vectors: Iterable[Text], measures: Measures) -> Sequence[Text]:
        """See ListForm."""
        rows = [part for at, text in enumerate(vectors) for part in (_ROW_BEGINS, text, b',"index":%d}' % at, b",")]
        figures = b'{"prompt_tokens":%d,"total_tokens":%d}' % (measures.tokens, measures.tokens)
        return (b'{"object":"list","data":[', *rows[:-1], b'],"model":%b,"usage":%b}\n' % (model, figures))


_ROW_BEGINS: Final = b'{"object":"embedding","embedding":'

LISTS: Final = _Lists()
