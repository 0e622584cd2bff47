"""The values that pass between a client, the proxy and Ollama.

Field lines keep their order, their spelling and their bytes (RFC 9110, section 5.3): a transparent proxy sends on what
it did not understand.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field
from typing import Final, TypeAlias

from ollama_cache_proxy.policy.record import record

Fields: TypeAlias = tuple[tuple[bytes, bytes], ...]


MAX_LENGTH: Final = 2**63 - 1
"""Bytes of a body: what is over it, parsers read as something else."""


@record
class Request:
    """The head of a request. `target` is in origin-form, exactly as it was sent (RFC 9112, section 3.2.1)."""

    method: str
    target: str
    fields: Fields


@record
class ResponseHead:
    """A status line and its field lines, hop-by-hop fields included or not, as the holder says."""

    status: int
    reason: str
    fields: Fields


def rendered(head: ResponseHead, framing: Fields = (), *, minor: int = 1) -> bytes:
    """Return a head as bytes, `framing` behind its own fields; `minor` is that of the HTTP version."""
    lines = [f"HTTP/1.{minor} {head.status} {head.reason}".encode("utf-8", "surrogateescape")]
    lines += [b"%b: %b" % line for line in (*head.fields, *framing)]
    return b"\r\n".join(lines) + b"\r\n\r\n"


@record
class EntryMetadata:
    """What is stored of a cache entry beside the response itself."""

    status: int
    stored_at: float
    """Unix time, in seconds."""
    lifetime: int
    """The freshness lifetime, in seconds (RFC 9111, section 4.2.1)."""
    took: float
    """Seconds that Ollama needed."""
    operation: str
    model: str
    category: str
    namespace: str
    prompt_tokens: int | None
    """None where the response did not tell; likewise `output_tokens`."""
    output_tokens: int | None
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    """Those of the request's fields, by name (`policy/fingerprints.py`); empty where they are not stored."""


@record
class StoredResponse(EntryMetadata):
    """One cache entry. `pieces` are the chunks of a stream (see `packed`); empty for a whole response."""

    reason: str
    fields: Fields
    body: bytes
    pieces: bytes = b""


PIECE: Final = struct.Struct(">II")


def packed(pieces: Iterable[tuple[int, int]]) -> bytes:
    """Pack the chunks of a stream: for each the milliseconds since the request, and its size in bytes."""
    return b"".join(PIECE.pack(min(at, _MAX_MILLISECONDS), size) for at, size in pieces)


def unpacked(pieces: bytes) -> Iterator[tuple[int, int]]:
    """Return what was packed; raises struct.error where it was not."""
    return PIECE.iter_unpack(pieces)


_MAX_MILLISECONDS: Final = 2**32 - 1


@record
class Description(EntryMetadata):
    """A cache entry without its body: its metadata, its key, the size of its body in bytes."""

    key: str
    size: int
    streamed: bool


def described(key: str, entry: StoredResponse, size: int) -> Description:
    """Describe an entry whose body has `size` bytes; the entry's own may be left out."""
    return Description(
        key=key,
        size=size,
        streamed=bool(entry.pieces),
        status=entry.status,
        stored_at=entry.stored_at,
        lifetime=entry.lifetime,
        took=entry.took,
        operation=entry.operation,
        model=entry.model,
        category=entry.category,
        namespace=entry.namespace,
        prompt_tokens=entry.prompt_tokens,
        output_tokens=entry.output_tokens,
        fingerprints=entry.fingerprints,
    )


def values(fields: Fields, name: bytes) -> list[bytes]:
    """All the values of one field, in order; `name` is lower case."""
    return [value for key, value in fields if key.lower() == name]


def first(fields: Fields, name: bytes) -> bytes | None:
    """The first value of one field, or None; `name` is lower case."""
    for key, value in fields:
        if key.lower() == name:
            return value
    return None


def members(fields: Fields, name: bytes) -> list[bytes]:
    """The lower-case members of a comma-separated list field over all its lines (RFC 9110, section 5.6.1)."""
    return [member for value in values(fields, name) for part in value.split(b",") if (member := part.strip().lower())]
