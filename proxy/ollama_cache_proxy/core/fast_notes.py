"""What the fast path notes of hits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from ollama_cache_proxy.core.delivery import recorded_chunks
from ollama_cache_proxy.core.facts import Exchange
from ollama_cache_proxy.core.known_questions import Place
from ollama_cache_proxy.policy import chunked
from ollama_cache_proxy.policy.lifetimes import Renewal
from ollama_cache_proxy.policy.messages import StoredResponse
from ollama_cache_proxy.policy.record import record

MAX_UNREPORTED: Final = 10_000
"""Hits of one note."""
NOTE_BYTES: Final = 1792
"""Bytes that a note takes, with its names and the heads of its request and response, but without a body."""
Version: TypeAlias = tuple[float, float, int]
"""What tells an entry from others under its key: when it was stored, how long it took, its size in bytes."""


@record
class Asked:
    """A request whose question no note is of."""

    raw: bytes
    trace: bytes
    """Its `traceparent` line."""
    begun: float
    """Monotonic time, in seconds."""


@dataclass(slots=True, eq=False)
class Head:
    """A head that requests are known by, and how many notes there are of those."""

    text: bytes
    notes: int = 0


@dataclass(slots=True, eq=False)
class Note:
    """What is known of a hit that was served the ordinary way."""

    key: str
    version: Version
    edition: int
    """That of the models when the hit was noted."""
    exchange: Exchange
    """The fact that was reported for the hit."""
    told: Exchange
    """The fact to tell of each hit of this age, without its times, where each is told."""
    names: list[bytes]
    """What it is noted under."""
    heads: list[Head]
    """The heads that it is known by: as it was sent, and what of it selects a response."""
    renewals: Mapping[str, Renewal]
    """What it takes to renew the entry, if a hit does."""
    audited: bool
    """Whether hits of this request are drawn for the audit."""
    limit: int = MAX_UNREPORTED
    """How many hits are served until they are reported, or until the next one is the one that the audit has drawn."""
    drawn: bool = False
    """Whether that limit is the audit's."""
    age: int = -1
    """Seconds; the Age that `head` tells."""
    head: bytes = b""
    """The head of the response."""
    seconds: list[float] = field(default_factory=list)
    """How long each hit since then took, of those not yet reported."""
    passed: int = 0
    """How many of those the audit has been told of."""
    place: Place | None = None
    """Where it is among the known questions."""
    traced: bytes = b""
    """The `traceparent` line of the last hit, where each has one."""
    last: bytes = b""
    """The last name that a request had beside those."""
    body: bytes = b""
    """The chunks of a recorded stream, framed; empty where the entry's body is sent as it is."""

    @property
    def size(self) -> int:
        """The bytes that it takes."""
        return NOTE_BYTES + len(self.body)


def version_of(entry: StoredResponse) -> Version:
    """Return what tells an entry from others under its key."""
    return entry.stored_at, entry.took, len(entry.body)


def written(entry: StoredResponse) -> bytes:
    """Return a body as it is written: that of a recorded stream chunk for chunk, with the last chunk."""
    if not entry.pieces:
        return entry.body
    return b"".join([chunked.framed(chunk) for _, chunk in recorded_chunks(entry)]) + chunked.LAST
