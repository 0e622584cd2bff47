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
    split,
    unless_empty,
)
from ollama_cache_proxy.policy.steps import Steps

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
    return _ended(_reasons((document,)), document.get("usage"))


def vectors(document: dict[str, Any], name: str) -> Vectors:
    """See Dialect. Each row has one."""
    rows = document.get(name)
    found = [member(row, "embedding") for row in rows] if isinstance(rows, list) else None
    return Vectors(found=found, prompt_tokens=count(as_object(document.get("usage")), "prompt_tokens"))


def stream(body: bytes) -> Steps[Storing]:
    """See Dialect (`ChatWriter`, `CompleteWriter`). Each event is JSON, none is an error, `[DONE]` is the end."""
    if not body.endswith(_LAST_EVENT):
        return INCOMPLETE
    wrong = False
    reasons: list[Any] = []
    told: Any = None
    for blocks in split(body.removesuffix(_LAST_EVENT), b"\n\n"):
        if not all(block.startswith(b"data: ") for block in blocks):
            return INCOMPLETE
        read = objects(block.removeprefix(b"data: ") for block in blocks)
        if not read:
            return INCOMPLETE
        wrong = wrong or any(map(has_error, read))
        reasons += _reasons(read)
        told = _last_usage(read, told)
        yield
    return ANSWER_ERROR if wrong else _ended(reasons, told)


def _reasons(documents: Sequence[dict[str, Any]]) -> list[Any]:
    """Return the reasons to end of all choices, None where there is none."""
    return [
        member(choice, "finish_reason")
        for document in documents
        if isinstance(choices := document.get("choices"), list)
        for choice in choices
    ]


def _last_usage(documents: Sequence[dict[str, Any]], before: Any) -> Any:
    """Return the last `usage`: CompleteWriter puts zeros into every part but the last."""
    return next((usage for document in reversed(documents) if (usage := document.get("usage")) is not None), before)


def _ended(reasons: Sequence[Any], usage: Any) -> Storing:
    """Return whether a response, whole or in parts, may be stored: it has one end, and a regular one."""
    if not reasons or reasons[-1] not in _FINISHED or any(reason is not None for reason in reasons[:-1]):
        return INCOMPLETE
    last = as_object(usage)
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
