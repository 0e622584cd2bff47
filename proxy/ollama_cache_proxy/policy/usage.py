"""What the end of a response tells of Ollama's work: tokens, and Ollama's own durations.

Ollama's own form has them last, in whole responses and in the last line of a stream; the other dialects have a `usage`
near the end. So the last bytes of a response are enough: chunks that are relayed are neither parsed nor delayed.
"""

from __future__ import annotations

import re
from typing import Final

from ollama_cache_proxy.policy.endpoints import Endpoint, Kind
from ollama_cache_proxy.policy.messages import STREAM_TYPES, ResponseHead, first

_OK: Final = 200
_HEAD: Final = 4096
_TAIL: Final = 8192
"""Bytes, as _HEAD."""
_MAX_BYTES: Final = 2 * _TAIL
_CHUNK_OVERHEAD: Final = 64
"""Bytes that a chunk takes beside its data."""
_MODEL: Final = re.compile(rb'"model"\s*:\s*"([^"\\]{1,300})"')
_OUTPUT: Final = re.compile(
    rb'"(?:response|content|thinking|reasoning|text|delta|partial_json|arguments)"\s*:\s*"[^"]|"tool_calls"\s*:\s*\[\s*\{'
)


class Excerpt:
    """The first and the last bytes of a response, collected while it is relayed."""

    __slots__ = ("_head", "_parts", "_size")

    def __init__(self) -> None:
        self._head = b""
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, chunk: bytes) -> None:
        """Add the next chunk; at most 16 KiB of memory are held, whatever the sizes of the chunks."""
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
    """Return the model's name from the first or last bytes of a response; empty where it is not there."""
    found = _MODEL.search(excerpt.head) or _MODEL.search(excerpt.tail)
    return "" if found is None else found[1].decode("utf-8", "replace")


def uses_model(endpoint: Endpoint) -> bool:
    """Return whether an endpoint makes Ollama work with a model."""
    return endpoint.kind is not Kind.NONE


def streams_text(endpoint: Endpoint, head: ResponseHead) -> bool:
    """Return whether this is the head of a stream with output of a model."""
    if endpoint.kind not in (Kind.COMPLETION, Kind.CHAT) or head.status != _OK:
        return False
    kind = first(head.fields, b"content-type") or b""
    return kind.partition(b";")[0].strip().lower() in STREAM_TYPES


def has_output(chunk: bytes) -> bool:
    """Return whether a stream's chunk has output of the model: text, thinking, or a tool call."""
    return _OUTPUT.search(chunk) is not None
