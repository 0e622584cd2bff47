"""The chunked transfer coding (RFC 9112, section 7.1), in its plainest form: as Go writes it.

That is a size in lower case without leading zeros, no extensions, CRLF after the size and the data. Chunks of that form
are written, split off and tracked here. All else, the last chunk and its trailers included, is left to a parser.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

END: Final = b"\r\n"
"""The end of a chunk."""
LAST: Final = b"0\r\n\r\n"
"""The last chunk, without trailers."""
FRAMING: Final = ((b"Transfer-Encoding", b"chunked"),)
"""The field of a head whose body is in chunks."""
_END_OF_HEAD: Final = b"\r\n\r\n"
_SIZE: Final = re.compile(rb"[0-9a-fA-F]{1,8}")
_SIZE_LINE: Final = 9
"""Bytes that a line may have and still be incomplete."""
_SMALL: Final = {len(begin) + size + len(END): begin for size in range(1, 0x1000) for begin in (b"%x\r\n" % size,)}
"""The size line of each small chunk, by the size in bytes of the whole chunk."""


def size_line(size: int) -> bytes:
    """Return the line that comes before `size` bytes of data; END comes after them."""
    return b"%x\r\n" % size


def framed(data: bytes, after: bytes = b"") -> bytes:
    """Return a chunk of the data, and `after` behind it. Empty data would be the last chunk, and is not allowed."""
    return b"%x\r\n%b\r\n%b" % (len(data), data, after)


def small_chunk(data: bytes) -> bytes | None:
    """Return the data of the small chunk that these bytes are; None where they are anything else."""
    begin = _SMALL.get(len(data))
    if begin is None or not (data.startswith(begin) and data.endswith(END)):
        return None
    return data[len(begin) : -len(END)]


def whole_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the data and the framed bytes of each whole chunk at the beginning of `data`."""
    at = 0
    while (line := data.find(END, at, at + _SIZE_LINE + 1)) > 0:
        text = data[at:line]
        size = int(text, 16) if _SIZE.fullmatch(text) else 0
        begin, end = line + len(END), line + len(END) + size
        if not size or text != b"%x" % size or not data.startswith(END, end):
            return
        yield data[begin:end], data[at : end + len(END)]
        at = end + len(END)


class Chunks:
    """Tracks where the chunks of a response end; it is fed the whole response, head first.

    `between` is true where the next byte begins a chunk. Sizes may have upper case and leading zeros here; at an
    extension or the last chunk, tracking ends.
    """

    __slots__ = ("_at_end", "_in_head", "_left", "_lost", "_rest", "between")

    def __init__(self) -> None:
        self._in_head = True
        self.between = False
        self._lost = False
        self._left = 0
        self._at_end = False
        self._rest = b""

    def lose(self) -> None:
        """End tracking."""
        self._lost, self.between = True, False

    def add(self, data: bytes) -> None:
        """Track the next bytes."""
        if self._lost:
            return
        data = self._rest + data
        if self._in_head:
            head, ended, data = data.partition(_END_OF_HEAD)
            if not ended:
                self._rest = head
                return
            self._in_head = False
        at = 0
        while at < len(data):
            if self._left:
                step = min(self._left, len(data) - at)
                self._left -= step
                at += step
                continue
            end = data.find(END, at)
            if end < 0:
                break
            self._line(data[at:end])
            at = end + len(END)
        self._rest = data[at:]
        self._lost = self._lost or len(self._rest) > _SIZE_LINE
        self.between = not (self._lost or self._left or self._at_end or self._rest)

    def _line(self, text: bytes) -> None:
        """Read the size line of a chunk, or the empty line that ends it."""
        if self._at_end:
            self._at_end, self._lost = False, self._lost or bool(text)
        elif _SIZE.fullmatch(text) and (size := int(text, 16)):
            self._at_end, self._left = True, size
        else:
            self._lost = True
