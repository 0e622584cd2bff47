"""Request directives, and whether an entry may answer a request (RFC 9111, sections 4 and 5.2.1)."""

from __future__ import annotations

import re
from dataclasses import replace
from enum import Enum
from hashlib import sha256
from typing import Final, TypeAlias

from ollama_cache_proxy.policy.messages import EntryMetadata, Fields, StoredResponse, first, members
from ollama_cache_proxy.policy.record import record
from ollama_cache_proxy.policy.status import FwdReason

OWN_REQUEST_FIELDS: Final = frozenset({b"x-cache-ttl", b"x-cache-category", b"x-cache-namespace"})

_CATEGORY: Final = re.compile(rb"[a-z0-9-]{1,32}")
_MAX_NAMESPACE: Final = 128
"""Bytes."""
_SECONDS: Final = re.compile(rb"[0-9]{1,10}")


@record
class Directives:
    """A request's directives. Times are whole seconds.

    `max-stale` is accepted and has no effect, since nothing stale is ever served.
    """

    no_store: bool = False
    no_cache: bool = False
    only_if_cached: bool = False
    max_age: int | None = None
    min_fresh: int = 0
    ttl: int | None = None
    """None where the client asks for no lifetime."""
    ttl_ignored: bool = False
    """Whether X-Cache-TTL was sent, but is not a number or is over the limit."""
    no_cache_ignored: bool = False
    """Whether `no-cache` was sent, and a setting says that this client does not mean it."""
    category: str = ""
    namespace: str = ""


NO_DIRECTIVES: Final = Directives()


def lasting(directives: Directives) -> bool:
    """Return whether an entry that is a hit now stays one for as long as it is fresh."""
    return not (directives.no_store or directives.no_cache) and directives.max_age is None and directives.min_fresh == 0


def without_no_cache(directives: Directives) -> Directives:
    """Return the directives of a request whose `no-cache` is not heard; all others hold."""
    return replace(directives, no_cache=False, no_cache_ignored=True)


def read_directives(fields: Fields, *, max_ttl: int) -> Directives:
    """Return the directives in Cache-Control, Pragma and the three fields of our own.

    A directive whose argument is not a number is taken in its strictest sense (RFC 9111, section 4.2.1).
    """
    if _RELEVANT.isdisjoint([name.lower() for name, _ in fields]):
        return NO_DIRECTIVES
    given = members(fields, b"cache-control")
    ttl, ttl_ignored = _ttl(first(fields, b"x-cache-ttl"), max_ttl)
    category = first(fields, b"x-cache-category") or b""
    return Directives(
        no_store=b"no-store" in given or ttl == 0,
        no_cache=b"no-cache" in given or (not given and b"no-cache" in members(fields, b"pragma")),
        only_if_cached=b"only-if-cached" in given,
        max_age=_argument(given, b"max-age", strictest=0),
        min_fresh=_argument(given, b"min-fresh", strictest=2**31) or 0,
        ttl=ttl,
        ttl_ignored=ttl_ignored,
        category=category.decode() if _CATEGORY.fullmatch(category) else "other" if category else "",
        namespace=namespace(first(fields, b"x-cache-namespace") or b""),
    )


_RELEVANT: Final = OWN_REQUEST_FIELDS | {b"cache-control", b"pragma"}


def namespace(value: bytes) -> str:
    """Return the namespace in a field's value; of a long one its hash, since every entry has it."""
    return value.decode("latin-1") if len(value) <= _MAX_NAMESPACE else "sha256:" + sha256(value).hexdigest()


def _ttl(value: bytes | None, max_ttl: int) -> tuple[int | None, bool]:
    if value is None:
        return None, False
    if _SECONDS.fullmatch(value) and int(value) <= max_ttl:
        return int(value), False
    return None, True


def _argument(given: list[bytes], name: bytes, *, strictest: int) -> int | None:
    for directive in given:
        key, _, value = directive.partition(b"=")
        if key.strip() == name:
            value = value.strip().strip(b'"')
            return int(value) if _SECONDS.fullmatch(value) else strictest
    return None


@record
class Hit:
    """The entry is the response."""

    entry: StoredResponse
    age: int
    """Whole seconds."""
    ttl: int
    """For how many whole seconds it is fresh from now on, if there is no other hit."""
    estimated: bool = False
    """Whether the token count of a joined list is partly apportioned."""


@record
class Forward:
    """Ollama has to be asked."""

    reason: FwdReason


class Refuse(Enum):
    """No entry may be served, and the client does not want Ollama asked: 504 (section 5.2.1.7)."""

    ONLY_IF_CACHED = "only-if-cached"


Reuse: TypeAlias = Hit | Forward | Refuse


def reuse(entry: StoredResponse | None, directives: Directives, now: float) -> Reuse:
    """Return whether `entry` may be served at Unix time `now`, in seconds.

    Where the clock has gone back, the age is 0.
    """
    if entry is None:
        reason = FwdReason.REQUEST if directives.no_cache else FwdReason.MISS
    else:
        old = max(0, int(now - entry.stored_at))  # not by `age` and `ttl_at`: this runs for each text of a list
        left = entry.lifetime - old
        if entry.idle is not None and entry.idle < left:
            left = entry.idle
        if left <= 0 and not directives.no_cache:  # section 4.2
            reason = FwdReason.STALE
        elif (
            directives.no_cache  # section 5.2.1.4
            or (directives.max_age is not None and old > directives.max_age)  # section 5.2.1.1
            or left < directives.min_fresh  # section 5.2.1.3
        ):
            reason = FwdReason.REQUEST
        else:
            return Hit(entry=entry, age=old, ttl=left)
    return Refuse.ONLY_IF_CACHED if directives.only_if_cached else Forward(reason=reason)


def age(entry: EntryMetadata, now: float) -> int:
    """Return the age of an entry at Unix time `now`, in whole seconds."""
    return max(0, int(now - entry.stored_at))


def ttl(entry: EntryMetadata, now: float) -> int:
    """Return for how many whole seconds an entry is fresh after Unix time `now`; not above 0 where it is not.

    Of an idle one, which the store has not dropped, that is so if `now` is its last hit.
    """
    return ttl_at(entry, age(entry, now))


def ttl_at(entry: EntryMetadata, seconds: int) -> int:
    """Return likewise for how many seconds an entry is fresh when it is so many old."""
    left = entry.lifetime - seconds
    return left if entry.idle is None else min(left, entry.idle)
