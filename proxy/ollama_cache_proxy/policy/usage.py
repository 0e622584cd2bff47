"""What Ollama says at the end of an answer of the work that it took: tokens, and its own durations.

Ollama's own form says it last, in whole answers and in the last line of a stream alike; OpenAI's, Anthropic's and that
of responses have a `usage` near the end. So the last bytes of an answer are enough, however it came: a chunk that
passes is neither parsed nor held up.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

import orjson

from ollama_cache_proxy.policy.endpoints import Endpoint, Kind
from ollama_cache_proxy.policy.messages import ResponseHead, first
from ollama_cache_proxy.policy.record import record

_OK: Final = 200
_HEAD: Final = 4096
_TAIL: Final = 8192
_MOST: Final = 2 * _TAIL
_CHUNK: Final = 64
"""Bytes that a chunk takes beside its own."""
_STREAMS: Final = frozenset({b"application/x-ndjson", b"text/event-stream"})
_NATIVE: Final = b'"total_duration":'
_USAGE: Final = b'"usage":{'
_MODEL: Final = re.compile(rb'"model":"([^"\\]{1,300})"')
_OUTPUT: Final = re.compile(
    rb'"(?:response|content|thinking|reasoning|text|delta|partial_json|arguments)":"[^"]|"tool_calls":\[\{'
)
_A_SECOND: Final = 1e9
"""In nanoseconds, as Go gives durations."""
_READER: Final = json.JSONDecoder()


@record
class Usage:
    """Tokens, and the seconds that Ollama spent on each part; None where it did not say.

    `prompt_seconds` went into reading the prompt, `output_seconds` into writing, `load_seconds` into loading the model.
    """

    prompt_tokens: int | None = None
    output_tokens: int | None = None
    prompt_seconds: float | None = None
    output_seconds: float | None = None
    load_seconds: float | None = None


_EMPTY: Final = Usage()


class Passing:
    """What is kept of an answer while it passes: its first bytes and its last ones."""

    __slots__ = ("_head", "_parts", "_size")

    def __init__(self) -> None:
        self._head = b""
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, chunk: bytes) -> None:
        """Look at the next chunk; up to 16 KiB of memory are kept, in whatever pieces they come."""
        self._parts.append(chunk)
        self._size += len(chunk) + _CHUNK
        if self._size > _MOST:
            self._trim()

    def _trim(self) -> None:
        self._head = self.head
        tail = b"".join((*self._parts[:-1], self._parts[-1][-_TAIL:]))[-_TAIL:]
        self._parts = [tail]
        self._size = len(tail) + _CHUNK

    @property
    def head(self) -> bytes:
        """The first bytes."""
        return self._head if len(self._head) == _HEAD else b"".join(self._parts)[:_HEAD]

    @property
    def tail(self) -> bytes:
        """The last bytes."""
        return b"".join(self._parts)[-_TAIL:]


def told(tail: bytes) -> Usage | None:
    """Give what the last bytes of a complete answer say; None where they say nothing.

    In the text that a model writes no such name can stand: there its quotes are escaped.
    """
    at = tail.rfind(_NATIVE)
    if at >= 0:
        return _native(_object(b"{" + tail[at:]))
    at = tail.rfind(_USAGE)
    return None if at < 0 else _usage(_object(tail[at + len(_USAGE) - 1 :]))


def model(passing: Passing) -> str:
    """Give the model's name as the answer has it; empty where it stands in no place that is looked at."""
    found = _MODEL.search(passing.head) or _MODEL.search(passing.tail)
    return "" if found is None else found[1].decode("utf-8", "replace")


def generates(endpoint: Endpoint) -> bool:
    """Whether an endpoint has Ollama work with a model, on what its answers tell."""
    return endpoint.kind is not Kind.NONE


def speaks(endpoint: Endpoint, head: ResponseHead) -> bool:
    """Whether this is the head of a stream in which a model says something."""
    if endpoint.kind not in (Kind.COMPLETION, Kind.CHAT) or head.status != _OK:
        return False
    kind = first(head.fields, b"content-type") or b""
    return kind.partition(b";")[0].strip().lower() in _STREAMS


def says(chunk: bytes) -> bool:
    """Whether a stream's chunk holds something of what the model says: text, thought, or the call of a tool."""
    return _OUTPUT.search(chunk) is not None


def _object(text: bytes) -> dict[str, Any]:
    """Read the object that a text begins with, whatever follows; empty where there is none."""
    try:
        found = orjson.loads(text)  # mostly nothing follows, and this is quicker
    except orjson.JSONDecodeError:
        pass
    else:
        return found if isinstance(found, dict) else {}
    try:
        found, _ = _READER.raw_decode(text.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _native(document: dict[str, Any]) -> Usage | None:
    """Read Ollama's own form (`api.Metrics`): what is zero is left out."""
    return _unless_empty(
        Usage(
            prompt_tokens=_count(document, "prompt_eval_count"),
            output_tokens=_count(document, "eval_count"),
            prompt_seconds=_seconds(document, "prompt_eval_duration"),
            output_seconds=_seconds(document, "eval_duration"),
            load_seconds=_seconds(document, "load_duration"),
        )
    )


def _usage(document: dict[str, Any]) -> Usage | None:
    """Read OpenAI's names, or those of Anthropic and of responses."""
    prompt, output = _count(document, "prompt_tokens"), _count(document, "completion_tokens")
    return _unless_empty(
        Usage(
            prompt_tokens=_count(document, "input_tokens") if prompt is None else prompt,
            output_tokens=_count(document, "output_tokens") if output is None else output,
        )
    )


def _unless_empty(usage: Usage) -> Usage | None:
    return None if usage == _EMPTY else usage


def _count(document: dict[str, Any], name: str) -> int | None:
    value = document.get(name)
    return value if type(value) is int and value >= 0 else None


def _seconds(document: dict[str, Any], name: str) -> float | None:
    value = _count(document, name)
    return None if value is None else value / _A_SECOND
