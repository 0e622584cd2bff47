"""The values that pass between a client, the proxy and Ollama.

Field lines keep their order, their spelling and their bytes (RFC 9110, section 5.3): a transparent proxy forwards what
it does not understand.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field
from typing import Final, TypeAlias

from ollama_cache_proxy.policy.hosts import Hosts
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.tickets import Ticket

Fields: TypeAlias = tuple[tuple[bytes, bytes], ...]


STREAM_TYPES: Final = frozenset({b"application/x-ndjson", b"text/event-stream"})
"""The Content-Types of Ollama's streams, without parameters."""
FIELD_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")  # RFC 9110, section 5.6.2
MAX_LENGTH: Final = 2**63 - 1
"""Bytes of a body; parsers misread a larger length."""


@record
class Request:
    """The head of a request. `target` is in origin-form, exactly as it was sent (RFC 9112, section 3.2.1)."""

    method: str
    target: str
    fields: Fields
    prefix: str = ""
    """The path prefix that was removed from the target (setting `path_prefix`)."""
    hosts: Hosts | None = None
    """Which of several Ollamas it is for; None where any may be chosen, and where there is one."""
    ticket: Ticket | None = None
    """What it waits with for Ollama; None where there are no lanes, and for what never waits."""


@record
class ResponseHead:
    """A status line and field lines; whether they include hop-by-hop fields depends on where the head comes from."""

    status: int
    reason: str
    fields: Fields


def rendered(head: ResponseHead, framing: Fields = (), *, minor: int = 1) -> bytes:
    """Return a head as bytes, with `framing` after its own fields; `minor` is the minor version of HTTP."""
    lines = [f"HTTP/1.{minor} {head.status} {head.reason}".encode("utf-8", "surrogateescape")]
    lines += [b"%b: %b" % line for line in (*head.fields, *framing)]
    return b"\r\n".join(lines) + b"\r\n\r\n"


_NONE: Final[Mapping[str, str]] = {}


@record
class EntryMetadata:
    """What is stored of a cache entry beside the response itself."""

    status: int
    stored_at: float
    """Unix time in seconds of when it was stored, less the age that it had then (RFC 9111, section 4.2.3)."""
    lifetime: int
    """The freshness lifetime, in seconds from then on (RFC 9111, section 4.2.1)."""
    took: float
    """Seconds that Ollama needed."""
    operation: str
    model: str
    category: str
    namespace: str
    prompt_tokens: int | None
    """None where the response did not tell; likewise `output_tokens`."""
    output_tokens: int | None
    idle: int | None = None
    """Seconds without a hit after which it ends before its lifetime does; None where hits do not count."""
    fingerprints: Mapping[str, str] = field(default_factory=lambda: _NONE)
    """Those of the request's fields, by name (`policy/fingerprints.py`); empty where they are not stored."""
    scope: str = ""
    """The mark of its scope (`policy/scope_marks.py`); empty where it was stored before there were marks."""
    imported: bool = False
    """Whether it came out of a pack, and not from the Ollama behind this proxy."""


@record
class StoredResponse(EntryMetadata):
    """One cache entry. `pieces` are the chunks of a stream (see `packed`); empty for a whole response."""

    reason: str
    fields: Fields
    body: bytes
    pieces: bytes = b""


PIECE: Final = struct.Struct(">II")


def packed(pieces: Iterable[tuple[int, int]]) -> bytes:
    """Return the chunks of a stream as bytes: for each the milliseconds since the request, and its size in bytes."""
    return b"".join(PIECE.pack(min(at, _MAX_MILLISECONDS), size) for at, size in pieces)


def unpacked(pieces: bytes) -> Iterator[tuple[int, int]]:
    """Yield what was packed. Raises struct.error for any other bytes."""
    return PIECE.iter_unpack(pieces)


_MAX_MILLISECONDS: Final = 2**32 - 1


@record
class Description(EntryMetadata):
    """A cache entry without its body: its key and metadata; `size` is that of the body in bytes."""

    key: str
    size: int
    streamed: bool


def described(key: str, entry: StoredResponse, size: int) -> Description:
    """Return the description of an entry whose body has `size` bytes; the body itself is not read."""
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
        idle=entry.idle,
        fingerprints=entry.fingerprints,
        scope=entry.scope,
        imported=entry.imported,
    )


def values(fields: Fields, name: bytes) -> list[bytes]:
    """Return all values of one field, in order; `name` is lower case."""
    return [value for key, value in fields if key.lower() == name]


def without(fields: Fields, *names: bytes) -> Fields:
    """Return the lines of all other fields, in order; `names` are lower case."""
    return tuple([line for line in fields if line[0].lower() not in names])


def first(fields: Fields, name: bytes) -> bytes | None:
    """Return the first value of one field, or None; `name` is lower case."""
    for key, value in fields:
        if key.lower() == name:
            return value
    return None


def members(fields: Fields, name: bytes) -> list[bytes]:
    """Return the members, in lower case, of a list field over all its lines (RFC 9110, section 5.6.1)."""
    return [member for value in values(fields, name) for part in value.split(b",") if (member := part.strip().lower())]
