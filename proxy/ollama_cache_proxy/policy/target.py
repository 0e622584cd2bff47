"""Request targets (RFC 9112, section 3.2)."""

from __future__ import annotations

import re
from ipaddress import IPv6Address
from typing import Final


def without_prefix(target: str, prefix: str) -> str | None:
    """Return a target in origin-form without the path prefix that it begins with; None where it does not.

    `prefix` begins with a slash and does not end with one.
    """
    if not target.startswith(prefix):
        return None
    rest = target[len(prefix) :]
    if rest.startswith("/"):
        return rest
    return "/" + rest if rest[:1] in ("", "?") else None


def split(target: str) -> tuple[str, str | None] | None:
    """Return the target in origin-form, and the authority of an absolute-form, which replaces Host; else None.

    None in place of both means that the target is to be refused. Ollama's server reads an absolute-form by its path
    whatever its scheme is, also one without an authority (`url.ParseRequestURI` of Go 1.26, `readRequest` in
    `net/http/request.go`). Refused are, as by Ollama, authorities that are none; and what it takes, targets of other
    forms, which it redirects to "/", and authorities with user information (RFC 9110, section 4.2.4).
    """
    if target.startswith("/") or target == "*":
        return target, None
    scheme = _SCHEME.match(target)
    if scheme is None:
        return None
    before, mark, query = target[scheme.end() :].partition("?")
    if not before.startswith("/"):
        return None
    authority, path = "", before
    if before.startswith("//"):
        authority, slash, rest = before[2:].partition("/")
        path = slash + rest
    if not _is_authority(authority):
        return None
    return (path or "/") + mark + query, authority or None


_SCHEME: Final = re.compile("[A-Za-z][A-Za-z0-9+.-]*:")
_AUTHORITY: Final = re.compile(r"(?:\[(?P<address>[0-9A-Fa-f:.]+)\]|[A-Za-z0-9._~!$&'()*+,;=-]*)(?::[0-9]*)?")


def _is_authority(authority: str) -> bool:
    """Return whether this is a host with or without a port (RFC 3986, section 3.2), or empty."""
    match = _AUTHORITY.fullmatch(authority)
    if match is None or match["address"] is None:
        return match is not None
    try:
        IPv6Address(match["address"])
    except ValueError:
        return False
    return True


def cleaned(path: str) -> str:
    """Return a decoded path without empty and dot segments, and without a slash at its end, as servers merge them."""
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            del kept[-1:]
        elif segment not in ("", "."):
            kept.append(segment)
    return "/" + "/".join(kept)
