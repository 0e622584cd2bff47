"""Request targets (RFC 9112, section 3.2)."""

from __future__ import annotations


def origin_form(target: str) -> str:
    """Give the target as an origin server expects it: of an absolute-form, what follows the authority."""
    scheme, found, rest = target.partition("://")
    if not found or scheme.lower() not in ("http", "https"):
        return target
    slash = rest.find("/")
    query = rest.find("?")
    if slash < 0 or 0 <= query < slash:
        return "/" + rest[query:] if query >= 0 else "/"
    return rest[slash:]
