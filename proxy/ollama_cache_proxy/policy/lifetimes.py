"""How long an entry lives: for a fixed time, as long as it is asked for, or until the store needs its room.

The kind is a property of the entry, and stands in its bytes. A hit renews an idle entry: the store keeps it for its
idle time from then on, and never beyond its lifetime, which counts from storing.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Final, TypeAlias

from ollama_cache_proxy.policy.messages import EntryMetadata
from ollama_cache_proxy.policy.record import record

FOREVER: Final = 2**31
"""Seconds: the lifetime of what only eviction ends. RFC 9111, 1.2.2, has no longer one."""
_RENEWALS: Final = 32
"""Renewals in an idle time at most: in Redis each one is a write, which takes the entry out of every hot tier."""


class LifetimeKind(StrEnum):
    """What ends an entry."""

    FIXED = "fixed"
    """Its lifetime, counted from storing."""
    IDLE = "idle"
    """Its idle time without a hit, and at last its lifetime."""
    UNTIL_EVICTED = "until-evicted"
    """The store, where it needs room."""


@record
class Lifetime:
    """How long a response may live, in seconds."""

    seconds: int
    """From when the response was made."""
    idle: int | None = None
    """From its last hit; None where hits do not count."""


Renewal: TypeAlias = tuple[int, float, int]
"""What it takes to renew an idle entry: its idle time, when it was stored (which tells it from others), its lifetime.

One is made for each item of a list that is a hit: a record would take five times as long.
"""


def lifetime(kind: LifetimeKind, ttl: int, max_lifetime: int) -> Lifetime:
    """Return the lifetime of this kind, for a time and a longest lifetime in seconds; a time of 0 is one of 0."""
    if kind is LifetimeKind.FIXED or ttl <= 0:
        return Lifetime(seconds=ttl)
    if kind is LifetimeKind.UNTIL_EVICTED:
        return Lifetime(seconds=FOREVER)
    return bounded(max_lifetime, ttl)


def bounded(seconds: int, idle: int | None) -> Lifetime:
    """Return a lifetime; an idle time that could not end before it has no meaning, and is left out."""
    return Lifetime(seconds=seconds, idle=None if idle is None or idle >= seconds else idle)


def kind_of(seconds: int, idle: int | None) -> LifetimeKind:
    """Return the kind of a lifetime in seconds with this idle time."""
    if idle is not None:
        return LifetimeKind.IDLE
    return LifetimeKind.UNTIL_EVICTED if seconds >= FOREVER else LifetimeKind.FIXED


def kept_for(entry: EntryMetadata) -> int | None:
    """Return for how many seconds a store keeps an entry that it is given; None: until it needs the room.

    An idle entry is kept a little longer than its idle time, so that it need not be renewed with each hit.
    """
    if entry.idle is None:
        return entry.lifetime if entry.lifetime < FOREVER else None
    return min(entry.lifetime, entry.idle + renewed_every(entry.idle))


def kept_from(entry: EntryMetadata, now: float) -> int | None:
    """Return the same of an entry that is given to the store at Unix time `now`, and may have been stored elsewhere."""
    kept = kept_for(entry)
    if kept is None or not entry.imported:
        return kept
    return max(1, min(kept, int(entry.stored_at + entry.lifetime - now)))


def renewals_of(entries: Iterable[tuple[str, EntryMetadata]]) -> dict[str, Renewal]:
    """Return by key what it takes to renew entries, of those that a hit renews."""
    return {key: (entry.idle, entry.stored_at, entry.lifetime) for key, entry in entries if entry.idle is not None}


def renewed_every(idle: int) -> int:
    """Return how many seconds after a renewal a hit is the next one, for an idle time in seconds."""
    return 1 + idle // _RENEWALS


def renewed_for(renewal: Renewal, now: float) -> int:
    """Return for how many seconds from Unix time `now` a renewed entry is kept; 0 where its lifetime is over."""
    idle, stored_at, seconds = renewal
    return max(0, min(idle + renewed_every(idle), int(stored_at + seconds - now)))
