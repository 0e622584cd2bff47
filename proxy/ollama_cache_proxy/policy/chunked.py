"""The chunked transfer coding (RFC 9112, section 7.1), in the plainest form: as Go writes it.

That is a size in lower case and without zeros before it, no extension, CRLF at both ends. Chunks of that form are
written here, cut off where they stand whole, and followed. All else, the last chunk and its trailers too, is for a
parser to read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

END: Final = b"\r\n"
"""What ends a chunk."""
LAST: Final = b"0\r\n\r\n"
"""The last chunk, without trailers."""
_END_OF_HEAD: Final = b"\r\n\r\n"
_SIZE: Final = re.compile(rb"[0-9a-fA-F]{1,8}")
_SIZE_LINE: Final = 9
"""Bytes of a line that is not yet ended, at most."""
_SMALL: Final = {len(begin) + size + len(END): begin for size in range(1, 0x1000) for begin in (b"%x\r\n" % size,)}
"""What a small chunk begins with, by the bytes that all of it takes."""


def size_line(size: int) -> bytes:
    """Return what comes before so many bytes of data; END comes after them."""
    return b"%x\r\n" % size


def framed(data: bytes, after: bytes = b"") -> bytes:
    """Return a chunk that holds some data, which may not be empty: that would be the last one."""
    return b"%x\r\n%b\r\n%b" % (len(data), data, after)


def small_chunk(data: bytes) -> bytes | None:
    """Return what a small chunk holds that these bytes are, all of them; None for all else."""
    begin = _SMALL.get(len(data))
    if begin is None or not (data.startswith(begin) and data.endswith(END)):
        return None
    return data[len(begin) : -len(END)]


def whole_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Return the chunks that stand whole at the beginning of some bytes: what each holds, and all that it takes."""
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
    """Where the chunks of a response end, all of which it is shown, its head first.

    `between` says that the next one begins with what comes next. Sizes may have upper case and zeros here; what has
    extensions, or is the last chunk, is lost sight of.
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
        """Know nothing any more."""
        self._lost, self.between = True, False

    def add(self, data: bytes) -> None:
        """Take in what came next."""
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
        """Read the line that begins a chunk, or the empty one that ends it."""
        if self._at_end:
            self._at_end, self._lost = False, self._lost or bool(text)
        elif _SIZE.fullmatch(text) and (size := int(text, 16)):
            self._at_end, self._left = True, size
        else:
            self._lost = True
