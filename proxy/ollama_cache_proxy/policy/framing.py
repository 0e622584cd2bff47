"""Length framing: no two different lists of parts give the same bytes."""

from __future__ import annotations


def frame(part: bytes) -> bytes:
    """Return a part after its length in eight bytes, the highest first."""
    return length(len(part)) + part


def length(size: int) -> bytes:
    """Return the length that stands before a part of `size` bytes."""
    return size.to_bytes(8, "big")


def frames(*parts: bytes) -> bytes:
    """Return all parts, each framed."""
    return b"".join(map(frame, parts))
