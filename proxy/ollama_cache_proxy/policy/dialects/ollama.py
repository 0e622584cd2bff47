"""Ollama's own form (`api/types.go`): JSON objects; streams have one on each line, with `done` in the last one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
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
    cached,
    count,
    has_error,
    last_member,
    object_at,
    objects,
    split,
    unless_empty,
)
from ollama_cache_proxy.policy.steps import Steps

WHOLE_TYPES: Final = JSON_TYPES
STREAM_TYPE: Final = b"application/x-ndjson"
STREAM_DIRECTIVES: Final = ()
failed = has_error

_COMPLETE: Final = frozenset({"stop", "length"})
_MEASURED: Final = b'"total_duration":'
_SPACED: Final = re.compile(rb'"total_duration"\s*:')
"""As some other servers write it."""
_COUNT: Final = b'_count"'
_COUNTS: Final = frozenset({"prompt_eval_count", "eval_count"})
_DONE: Final = re.compile(rb'"done"\s*:\s*true')
_A_SECOND: Final = 1e9
"""In nanoseconds, the unit of Go's durations."""


def whole(document: dict[str, Any]) -> Storing:
    """See Dialect."""
    reason = document.get("done_reason")
    if document.get("done") is not True or not isinstance(reason, str) or reason not in _COMPLETE:
        return INCOMPLETE
    return Storable(prompt_tokens=count(document, "prompt_eval_count"), output_tokens=count(document, "eval_count"))


def vectors(document: dict[str, Any], member: str) -> Vectors:
    """See Dialect. `embedding`, of /api/embeddings, is one vector; `embeddings` are several."""
    found = document.get(member)
    return Vectors(
        found=[found] if member == "embedding" else found, prompt_tokens=count(document, "prompt_eval_count")
    )


def stream(body: bytes) -> Steps[Storing]:
    """See Dialect. Each line is whole, none is an error, and the last one is the only end."""
    wrong = ended = False
    last: dict[str, Any] = _OPEN
    for lines in split(body, b"\n"):
        read = objects(lines)
        if not read:
            return INCOMPLETE
        wrong = wrong or any(map(has_error, read))
        ended = ended or any(document.get("done") is not False for document in (last, *read[:-1]))
        last = read[-1]
        yield
    if wrong:
        return ANSWER_ERROR
    return INCOMPLETE if ended else whole(last)


_OPEN: Final[dict[str, Any]] = {"done": False}
"""A line that is not the end."""


def ends(chunk: bytes) -> bool:
    """See Dialect."""
    if _DONE.search(chunk) is None:  # which may also be in the arguments of a tool call
        return False
    last = objects((chunk.rstrip(b"\n").rpartition(b"\n")[2],))
    return bool(last) and last[0].get("done") is True


def usage(tail: bytes) -> Usage | None:
    """See Dialect. Read from `api.Metrics`, in which what is zero is left out.

    Cached tokens are told since 0.33.3, there also 0 of them. A model's own text cannot contain that name, since quotes
    are escaped there.
    """
    document = _measures(tail)
    prompt = count(document, "prompt_eval_count")
    return unless_empty(
        Usage(
            prompt_tokens=prompt,
            cached_tokens=cached(document, "prompt_eval_cached_count", prompt),
            output_tokens=count(document, "eval_count"),
            prompt_seconds=_seconds(document, "prompt_eval_duration"),
            output_seconds=_seconds(document, "eval_duration"),
            load_seconds=_seconds(document, "load_duration"),
        )
    )


def _measures(tail: bytes) -> dict[str, Any]:
    """Return the object that holds the figures, as far as the last bytes have it.

    In Ollama's own form all of them follow `total_duration`; in another order, or without it, they are in what is said
    last, unless that is too long.
    """
    at = last_member(tail, _MEASURED, _SPACED)
    found = object_at(b"{" + tail[at:]) if at >= 0 else {}
    if not _COUNTS.isdisjoint(found) or _COUNT not in tail:
        return found
    read = objects((tail.rstrip(b"\n").rpartition(b"\n")[2],)) or objects((tail,))
    return read[0] if read else found


def _seconds(document: dict[str, Any], name: str) -> float | None:
    value = count(document, name)
    return None if value is None else value / _A_SECOND


def error(_status: int, message: str) -> bytes:
    """See Dialect."""
    return orjson.dumps({"error": message})


class _Lists:
    """The lists of `api.EmbedResponse`; gin sets its Content-Type."""

    content_type: Final = b"application/json; charset=utf-8"
    begin: Final = b'{"embeddings":[[]'

    def tokens(self, document: dict[str, Any]) -> Any:
        """See ListForm."""
        return document["prompt_eval_count"]

    def parts(self, model: bytes, vectors: Iterable[Text], measures: Measures) -> Sequence[Text]:
        """See ListForm."""
        numbers = (
            (b"total_duration", measures.total_duration),
            (b"load_duration", measures.load_duration),
            (b"prompt_eval_count", measures.tokens),
        )
        figures = b"".join(b',"%b":%d' % (name, number) for name, number in numbers if number)  # Go's omitempty
        rows = [part for text in vectors for part in (text, b",")]
        return (b'{"model":%b,"embeddings":[' % model, *rows[:-1], b"]%b}" % figures)


LISTS: Final = _Lists()
