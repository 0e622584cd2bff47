"""How long a response of the upstream is fresh: its lifetime, and the age that it had when it arrived.

RFC 9111, sections 4.2.1 (lifetime), 4.2.3 (age), 5.1 (Age), 5.2.2 (response directives) and 5.3 (Expires). What is
invalid or contradictory counts as not fresh, as section 4.2.1 advises. Of several lifetimes the shortest one holds:
that section lets s-maxage win over max-age, and both over Expires, but never asks a cache to store for so long.
"""

from __future__ import annotations

import re
from calendar import timegm
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from ollama_cache_proxy.policy.lifetimes import FOREVER, Lifetime, bounded
from ollama_cache_proxy.policy.messages import Fields
from ollama_cache_proxy.policy.record import record

LONGEST: Final = FOREVER
"""Seconds; a longer time counts as this one (section 1.2.2)."""


@record
class Freshness:
    """The freshness of a response that has just arrived."""

    lifetime: int
    """Seconds, counted from when the response was made."""
    age: float = 0.0
    """Seconds since then."""
    idle: int | None = None
    """Seconds without a hit after which it is not fresh any more; None where hits do not count."""

    @property
    def ttl(self) -> int:
        """How many whole seconds it is fresh from now on without a hit; 0 where it is not."""
        left = max(0, self.lifetime - int(self.age))
        return left if self.idle is None else min(left, self.idle)


def freshness(fields: Fields, *, limit: Lifetime, delay: float, now: float) -> Freshness:
    """Return the freshness of a response with these fields, for which the lifetime `limit` is allowed here.

    `delay` is how many seconds passed between the request and the end of the response; `now` is Unix time in seconds.
    A response that tells neither a lifetime nor an Age was made for this request: its age is 0, and the delay is the
    time that it took to make it. In any other case the delay is part of the age (section 4.2.3).
    """
    found: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        if (low := name.lower()) in _TELLING:
            found.setdefault(low, []).append(value)
    if not found:
        return Freshness(lifetime=limit.seconds, idle=limit.idle)
    told = _told_lifetime(fields, found.get(b"expires", ()), now)
    age = _age(found.get(b"age", ()))
    allowed = bounded(limit.seconds if told is None else min(limit.seconds, told), limit.idle)
    age_now = 0.0 if told is None and age is None else (age or 0) + max(0.0, delay)
    return Freshness(lifetime=allowed.seconds, age=age_now, idle=allowed.idle)


_TELLING: Final = frozenset({b"cache-control", b"expires", b"age"})


def _told_lifetime(fields: Fields, expires: Sequence[bytes], now: float) -> int | None:
    """Return the shortest lifetime that a response tells, in seconds; None where it tells none."""
    directives = response_directives(fields)
    told = [_argument(directives, name) for name in (b"s-maxage", b"max-age")]
    if expires:
        told.append(_until(expires, fields, now))
    return min((seconds for seconds in told if seconds is not None), default=None)


def _argument(directives: Sequence[tuple[bytes, bytes]], name: bytes) -> int | None:
    """Return the seconds that a directive tells, 0 where it tells several; None where it is not there."""
    arguments = {argument for found, argument in directives if found == name}
    if not arguments:
        return None
    return _delta_seconds(arguments.pop()) if len(arguments) == 1 else 0


def _until(expires: Sequence[bytes], fields: Fields, now: float) -> int:
    """Return the seconds from Date to Expires (section 5.3), 0 where there are several or it is invalid."""
    end = http_date(expires[0]) if len(set(expires)) == 1 else None
    dates = {value for name, value in fields if name.lower() == b"date"}
    date = http_date(dates.pop()) if len(dates) == 1 else None
    return 0 if end is None else max(0, min(LONGEST, int(end - (now if date is None else date))))


def _delta_seconds(argument: bytes) -> int:
    """Return the seconds that a directive's argument tells, 0 where it is not a number."""
    if _DIGITS.fullmatch(argument) is None:
        return 0
    digits = argument.lstrip(b"0") or b"0"
    return LONGEST if len(digits) > _MANY_DIGITS else min(LONGEST, int(digits))


_DIGITS: Final = re.compile(rb"[0-9]+")
_MANY_DIGITS: Final = 10


def _age(values: Sequence[bytes]) -> int | None:
    """Return the Age in seconds; of several the first counts, and what is no number is ignored (section 5.1)."""
    first = values[0].partition(b",")[0].strip() if values else b""
    return _delta_seconds(first) if _DIGITS.fullmatch(first) else None


def response_directives(fields: Fields) -> list[tuple[bytes, bytes]]:
    """Return the directives of Cache-Control over all its lines: names in lower case, and arguments without quotes.

    A comma within quotes does not end a directive. Where quotes are not closed, every comma ends one: then nothing
    that forbids to store can hide in them.
    """
    return [
        (name.strip().lower(), argument.strip().strip(b'"').strip())
        for key, value in fields
        if key.lower() == b"cache-control"
        for member in _members(value)
        for name, _, argument in [member.partition(b"=")]
        if name.strip()
    ]


def _members(value: bytes) -> list[bytes]:
    """Return the members of one line, with their quotes."""
    parts = [b""]
    for token in _TOKENS.finditer(value):
        if token.lastgroup == "open":
            return value.replace(b'"', b"").split(b",")
        if token.lastgroup == "comma":
            parts.append(b"")
        else:
            parts[-1] += token.group()
    return parts


_TOKENS: Final = re.compile(rb'(?P<quoted>"(?:[^"\\]|\\.)*+")|(?P<open>".*)|(?P<comma>,)|(?P<text>[^",]++)', re.DOTALL)


def http_date(value: bytes) -> float | None:
    """Return the Unix time of an HTTP date in any of its three forms (RFC 9110, section 5.6.7), None for anything else.

    Letters count without regard to case, and a zone other than GMT is invalid (RFC 9111, section 4.2).
    """
    for form in _DATES:
        match = form.fullmatch(value.strip())
        if match is not None:
            break
    else:
        return None
    part = {name: int(text) for name, text in match.groupdict().items() if name != "month"}
    year = part["year"] if len(match["year"]) == 4 else part["year"] + (1900 if part["year"] >= 70 else 2000)  # noqa: PLR2004 - RFC 850's years
    try:
        moment = datetime(  # noqa: DTZ001 - timegm takes it as GMT
            year,
            _MONTHS.index(match["month"].lower()) + 1,
            part["day"],
            part["hour"],
            part["minute"],
            min(part["second"], 59),
        )
    except ValueError:
        return None
    return float(timegm(moment.timetuple()))


_MONTHS: Final = tuple(b"jan feb mar apr may jun jul aug sep oct nov dec".split())
_MONTH: Final = rb"(?P<month>" + b"|".join(_MONTHS) + rb")"
_TIME: Final = rb"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-5][0-9]|60)"
_SHORT: Final = rb"(?:mon|tue|wed|thu|fri|sat|sun)"
_LONG: Final = rb"(?:monday|tuesday|wednesday|thursday|friday|saturday|sunday)"
_DATES: Final = tuple(
    re.compile(form, re.IGNORECASE)
    for form in (
        _SHORT + rb", (?P<day>[0-9]{2}) " + _MONTH + rb" (?P<year>[0-9]{4}) " + _TIME + rb" GMT",
        _LONG + rb", (?P<day>[0-9]{2})-" + _MONTH + rb"-(?P<year>[0-9]{2}) " + _TIME + rb" GMT",
        _SHORT + rb" " + _MONTH + rb" (?P<day>[ 0-9][0-9]) " + _TIME + rb" (?P<year>[0-9]{4})",
    )
)
