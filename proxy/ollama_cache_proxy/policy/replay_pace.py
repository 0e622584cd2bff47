"""How a recorded stream is replayed."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Final


class Pace(Enum):
    """When the pieces of a recorded stream are written."""

    AT_ONCE = "at-once"
    """Chunk for chunk as it was recorded, without a pause."""
    RECORDED = "recorded"
    """Chunk for chunk, each as long after the request as it was when it was recorded."""
    LINE = "line"
    """Line for line, or event for event, with a short pause between two."""


_EVENTS: Final = b"text/event-stream"


def lines(data: bytes, stream_type: bytes) -> Iterator[bytes]:
    """Yield the lines of a stream of JSON, or its events, by the Content-Type of such streams; the last may be cut off.

    An event ends with an empty line (HTML, section 9.2.5; Ollama ends lines with LF).
    """
    end = b"\n\n" if stream_type == _EVENTS else b"\n"
    begin = 0
    while begin < len(data):
        at = data.find(end, begin)
        after = len(data) if at < 0 else at + len(end)
        yield data[begin:after]
        begin = after
