"""Request targets (RFC 9112, section 3.2)."""

from __future__ import annotations


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


def split(target: str) -> tuple[str, str | None]:
    """Return the target in origin-form, and the authority of an absolute-form, which replaces Host; else None."""
    scheme, found, rest = target.partition("://")
    if not found or scheme.lower() not in ("http", "https"):
        return target, None
    end = min((at for mark in "/?" if (at := rest.find(mark)) >= 0), default=len(rest))
    path = rest[end:]
    return path if path.startswith("/") else "/" + path, rest[:end]
