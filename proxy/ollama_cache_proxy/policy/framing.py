"""Length framing: no two different lists of parts give the same bytes."""

from __future__ import annotations


def frame(part: bytes) -> bytes:
    """Return a part after its length in eight bytes, the highest first."""
    return len(part).to_bytes(8, "big") + part


def frames(*parts: bytes) -> bytes:
    """Return all parts, each framed."""
    return b"".join(map(frame, parts))
