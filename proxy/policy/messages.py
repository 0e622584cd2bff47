"""The values that pass between a client, the proxy and Ollama.

Field lines keep their order, their spelling and their bytes (RFC 9110, section 5.3): a transparent proxy sends on what
it did not understand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

Fields: TypeAlias = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The head of a request. `target` is in origin-form, exactly as it was sent (RFC 9112, section 3.2.1)."""

    method: str
    target: str
    fields: Fields


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseHead:
    """A status line and its field lines, hop-by-hop fields included or not, as the holder says."""

    status: int
    reason: str
    fields: Fields


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResponse:
    """One cache entry.

    `stored_at` is Unix time in seconds, `lifetime` the freshness lifetime in seconds (RFC 9111, section 4.2.1), `took`
    the seconds Ollama needed. Token counts are None where the answer did not name them.
    """

    status: int
    reason: str
    fields: Fields
    body: bytes
    stored_at: float
    lifetime: int
    took: float
    operation: str
    model: str
    category: str
    namespace: str
    prompt_tokens: int | None
    output_tokens: int | None


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
