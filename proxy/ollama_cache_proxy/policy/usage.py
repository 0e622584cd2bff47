"""What Ollama says at the end of an answer of the work that it took: tokens, and its own durations.

Ollama's own form says it last, in whole answers and in the last line of a stream alike; OpenAI's, Anthropic's and that
of responses have a `usage` near the end. So the last bytes of an answer are enough, however it came: a chunk that
passes is neither parsed nor held up.
"""

from __future__ import annotations

import re
from typing import Final

from ollama_cache_proxy.policy.endpoints import Endpoint, Kind
from ollama_cache_proxy.policy.messages import ResponseHead, first

_OK: Final = 200
_HEAD: Final = 4096
_TAIL: Final = 8192
_MAX_BYTES: Final = 2 * _TAIL
_CHUNK_OVERHEAD: Final = 64
"""Bytes that a chunk takes beside its own."""
_STREAMS: Final = frozenset({b"application/x-ndjson", b"text/event-stream"})
_MODEL: Final = re.compile(rb'"model":"([^"\\]{1,300})"')
_OUTPUT: Final = re.compile(
    rb'"(?:response|content|thinking|reasoning|text|delta|partial_json|arguments)":"[^"]|"tool_calls":\[\{'
)


class Excerpt:
    """What is kept of an answer while it passes: its first bytes and its last ones."""

    __slots__ = ("_head", "_parts", "_size")

    def __init__(self) -> None:
        self._head = b""
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, chunk: bytes) -> None:
        """Look at the next chunk; up to 16 KiB of memory are kept, in whatever pieces they come."""
        self._parts.append(chunk)
        self._size += len(chunk) + _CHUNK_OVERHEAD
        if self._size > _MAX_BYTES:
            self._trim()

    def _trim(self) -> None:
        self._head = self.head
        tail = b"".join((*self._parts[:-1], self._parts[-1][-_TAIL:]))[-_TAIL:]
        self._parts = [tail]
        self._size = len(tail) + _CHUNK_OVERHEAD

    @property
    def head(self) -> bytes:
        """The first bytes."""
        return self._head if len(self._head) == _HEAD else b"".join(self._parts)[:_HEAD]

    @property
    def tail(self) -> bytes:
        """The last bytes."""
        return b"".join(self._parts)[-_TAIL:]


def model(excerpt: Excerpt) -> str:
    """Return the model's name as the answer has it; empty where it stands in no place that is looked at."""
    found = _MODEL.search(excerpt.head) or _MODEL.search(excerpt.tail)
    return "" if found is None else found[1].decode("utf-8", "replace")


def uses_model(endpoint: Endpoint) -> bool:
    """Return whether an endpoint has Ollama work with a model, on what its answers tell."""
    return endpoint.kind is not Kind.NONE


def streams_text(endpoint: Endpoint, head: ResponseHead) -> bool:
    """Return whether this is the head of a stream in which a model says something."""
    if endpoint.kind not in (Kind.COMPLETION, Kind.CHAT) or head.status != _OK:
        return False
    kind = first(head.fields, b"content-type") or b""
    return kind.partition(b";")[0].strip().lower() in _STREAMS


def has_output(chunk: bytes) -> bool:
    """Return whether a stream's chunk holds something of what the model says: text, thought, or the call of a tool."""
    return _OUTPUT.search(chunk) is not None
