"""Field lines: which are for one hop only, which are forwarded, which are replayed, and which Host is allowed.

Sources: RFC 9110, sections 7.6.1 (Connection) and 7.6.3 (Via); RFC 9112, section 3.3 (Host); Ollama's own rules for
Host and Origin (`server/routes.go`, 0.24 to 0.33).
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import replace
from functools import cache, lru_cache
from typing import Final
from urllib.parse import urlsplit

from ollama_cache_proxy.policy.host_names import HostNames
from ollama_cache_proxy.policy.messages import (
    STREAM_TYPES,
    Fields,
    Request,
    ResponseHead,
    first,
    members,
    values,
    without,
)
from ollama_cache_proxy.policy.reuse import OWN_REQUEST_FIELDS
from ollama_cache_proxy.policy.status import CACHE_NAME, CacheStatus, Detail, bypass

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    },
)
_NOT_REMOVABLE: Final = frozenset({b"content-length", b"host"})
"""Connection may not remove these: without them a message would be framed or routed differently."""

_NOT_FOR_CLIENTS: Final = HOP_BY_HOP | {b"x-cache"}
"""X-Cache is no list: of two proxies in a row, the one that the client has asked tells."""


_REPLAYED: Final = frozenset({b"content-type", b"date", b"vary", b"cache-control", b"expires"})
"""Not ETag and Last-Modified: nothing here answers a condition, and a joined list is a body of our own."""
_REPLAYED_PREFIX: Final = b"access-control-"


def end_to_end(fields: Fields, dropped: frozenset[bytes] = HOP_BY_HOP) -> Fields:
    """Return the fields without those for one hop only: the set that is `dropped`, and what Connection names."""
    names = [name.lower() for name, _ in fields]
    if b"connection" in names:
        dropped |= set(members(fields, b"connection")) - _NOT_REMOVABLE
    elif dropped.isdisjoint(names):
        return fields
    return tuple([line for line, name in zip(fields, names, strict=True) if name not in dropped])


def pseudonym(instance: str) -> bytes:
    """Return the name of one proxy in Via; `instance` tells it from others (RFC 9110, section 7.6.3)."""
    return f"{CACHE_NAME}-{instance}".encode()


def forwarded_request(fields: Fields, pseudonym: bytes) -> Fields:
    """Return the fields to send upstream: end-to-end, and with this proxy's `pseudonym` in Via.

    Left out are Host (the upstream has its own), Expect (it was answered here), the request fields of our own and an
    Origin that is the proxy itself.
    """
    return (*end_to_end(without_own_origin(fields), _NOT_FORWARDED), (b"Via", b"1.1 " + pseudonym))


_NOT_FORWARDED: Final = HOP_BY_HOP | OWN_REQUEST_FIELDS | {b"host", b"expect"}


def for_storing(request: Request) -> Request:
    """Return a request whose response may be stored: it asks for no content coding (RFC 9110, section 12.5.3).

    Clients differ in the codings that they take, and every response of ours to them is without one.
    """
    if first(request.fields, _ACCEPT_ENCODING) is None:
        return request
    return replace(request, fields=without(request.fields, _ACCEPT_ENCODING))


_ACCEPT_ENCODING: Final = b"accept-encoding"


def forwarded_head(head: ResponseHead, status: CacheStatus) -> ResponseHead:
    """Return the head for the client: the end-to-end fields, and those of the cache.

    Cache-Status is a list that begins with the cache nearest to the origin (RFC 9211, section 2), so ours comes last.
    """
    lines = (*end_to_end(head.fields, _NOT_FOR_CLIENTS), *about_cache(status))
    return ResponseHead(status=head.status, reason=head.reason, fields=lines)


def unbuffered(head: ResponseHead) -> ResponseHead:
    """Return the head with `X-Accel-Buffering: no` if it is that of a stream: nginx would hold it back by default."""
    kind = (first(head.fields, b"content-type") or b"").partition(b";")[0].strip().lower()
    if kind not in STREAM_TYPES or first(head.fields, b"x-accel-buffering") is not None:
        return head
    return replace(head, fields=(*head.fields, UNBUFFERED))


UNBUFFERED: Final = (b"X-Accel-Buffering", b"no")


def under_prefix(head: ResponseHead, prefix: str) -> ResponseHead:
    """Return the head of a redirect with `prefix` before its target, if that is a path; other heads as they are."""
    if not 300 <= head.status < 400:  # noqa: PLR2004 - redirects (RFC 9110, section 15.4)
        return head
    before = prefix.encode()
    lines = tuple(
        (name, before + value)
        if name.lower() == b"location" and value.startswith(b"/") and not value.startswith(b"//")
        else (name, value)
        for name, value in head.fields
    )
    return replace(head, fields=lines)


def about_cache(status: CacheStatus) -> Fields:
    """Return the cache's own fields: Cache-Status (RFC 9211) and X-Cache."""
    detail = status.detail
    if detail is not None and status is bypass(detail):  # of these there are few, and most relayed responses have one
        return _about_bypass(detail)
    return _about(status)


def _about(status: CacheStatus) -> Fields:
    return ((b"Cache-Status", status.render()), (b"X-Cache", status.result.encode()))


@cache
def _about_bypass(detail: Detail) -> Fields:
    return _about(bypass(detail))


def replayed(fields: Fields) -> Fields:
    """Return the fields of a response that are stored with its body and replayed with it.

    The Cache-Status of another cache is not among them: it tells of the request that was forwarded then.
    """
    found = [line for line in fields if (name := line[0].lower()) in _REPLAYED or name.startswith(_REPLAYED_PREFIX)]
    return tuple(found)


def hit_fields(stored: Fields, length: int | None, age: int, status: CacheStatus) -> Fields:
    """Return the fields of a hit: as stored, with Age in seconds (RFC 9111, section 5.1).

    They have a Content-Length; a stream (`length` None) is framed where it is written.
    """
    framing = () if length is None else ((b"Content-Length", str(length).encode()),)
    return (
        *stored,
        *framing,
        (b"Age", str(age).encode()),
        *about_cache(status),
    )


def without_body_fields(fields: Fields) -> Fields:
    """Return the fields without those that describe the bytes of one body, for a message with another body."""
    return without(fields, *_BODY_FIELDS)


_BODY_FIELDS: Final = (
    *(b"content-length", b"content-digest", b"repr-digest", b"digest", b"content-md5"),
    *(b"etag", b"last-modified", b"content-location"),
)


def joined(fields: Fields, length: int, known_age: int | None) -> Fields:
    """Return the fields of a list that is joined from Ollama's response, whose `fields` these are, and stored items.

    `length` is that of the joined body in bytes; `known_age` the age in seconds of the oldest of the stored items, None
    where there are none. The Age of the list is that of its oldest part (RFC 9111, section 4).
    """
    lines = (*without_body_fields(fields), (b"Content-Length", str(length).encode()))
    if known_age is None:
        return lines
    told = first(fields, b"age") or b""
    age = max(known_age, int(told)) if _DIGITS.fullmatch(told) else known_age
    return (*without(lines, b"age"), (b"Age", str(age).encode()))


_DIGITS: Final = re.compile(rb"[0-9]{1,10}")


def with_host(fields: Fields, authority: str) -> Fields:
    """Return the fields with an absolute target's authority as their Host (RFC 9112, section 3.2.2)."""
    return ((b"Host", authority.encode("latin-1", "replace")), *without(fields, b"host"))


def looped(fields: Fields, pseudonym: bytes) -> bool:
    """Return whether the request has been through the proxy of this pseudonym before (RFC 9110, section 7.6.3)."""
    return any(pseudonym in member.split() for member in members(fields, b"via"))


def without_own_origin(fields: Fields) -> Fields:
    """Return the fields without an Origin that is the proxy as the client knows it: Ollama would refuse it."""
    host = first(fields, b"host") if first(fields, b"origin") is not None else None
    if host is None:
        return fields
    own = (b"http://" + host.lower(), b"https://" + host.lower())
    return tuple(line for line in fields if line[0].lower() != b"origin" or line[1].lower() not in own)


def is_own_origin(fields: Fields) -> bool:
    """Return whether the request has no Origin other than the proxy itself, as the client knows it."""
    return not values(without_own_origin(fields), b"origin")


def beside_foreign_host(fields: Fields) -> Fields:
    """Return what Ollama gives with the 403 for a Host that it does not allow: its answer to the Origin comes first.

    Which origins it allows is its setting; known here are those that it always allows (`envconfig/config.go`).
    """
    origin = first(fields, b"origin")
    if origin is None or is_own_origin(fields) or _LOCAL_ORIGIN.fullmatch(origin) is None:
        return ()
    return ((b"Access-Control-Allow-Origin", origin), (b"Vary", b"Origin"))


_LOCAL_ORIGIN: Final = re.compile(
    rb"https?://(?:localhost|127\.0\.0\.1|0\.0\.0\.0)(?::.*)?|(?:app|file|tauri|vscode-webview|vscode-file)://.*"
)


def allowed_host(fields: Fields, *, hostname: str, local_addresses: frozenset[str], more: HostNames) -> bool:
    """Return whether Ollama's rule for a listener on loopback, against DNS rebinding, or a setting allows the Host.

    `hostname` is the machine's own name; `local_addresses` are addresses of its interfaces, as text; `more` are the
    names of the setting.
    """
    host = (first(fields, b"host") or b"").decode("latin-1")
    return len(host) <= _MAX_HOST and _is_allowed(host, hostname, local_addresses, more)


@lru_cache(maxsize=256)
def _is_allowed(host: str, hostname: str, local_addresses: frozenset[str], more: HostNames) -> bool:
    name = _host_part(host)
    if more.include(name.lower()):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        name = name.lower()
        return name in ("", "localhost", hostname.lower()) or name.endswith((".localhost", ".local", ".internal"))
    if address.is_unspecified or str(address) in local_addresses:
        return True
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    address = mapped or address
    return address.is_loopback or _is_private(address)


_MAX_HOST: Final = 1024
"""Characters."""
_HOST_AND_PORT: Final = re.compile(r"(?:\[(?P<bracketed>[^\[\]]*)\]|(?P<plain>[^:\[\]]*)):[^:\[\]]*")

_PRIVATE: Final = tuple(
    ipaddress.ip_network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
)


def _is_private(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Return whether an address is of RFC 1918 or RFC 4193, as Go's netip does; Python's is_private has more."""
    return any(address.version == network.version and address in network for network in _PRIVATE)


def _host_part(host: str) -> str:
    """Return the host without a port, as Go's net.SplitHostPort does; what that refuses is returned unchanged."""
    match = _HOST_AND_PORT.fullmatch(host)
    return host if match is None else match["bracketed"] if match["bracketed"] is not None else match["plain"]


def authority(url: str) -> str:
    """Return the host and port of a URL, as a Host field has them."""
    return urlsplit(url).netloc.rpartition("@")[2]
