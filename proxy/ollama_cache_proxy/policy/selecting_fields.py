"""Which lines of a request's head select its response (RFC 9111, section 4.1), read without a parser.

Two requests that differ in other lines alone get the same response: a trace, an id, the address of a client change
nothing. A line counts as such a one only if it is a field that every parser reads alike, and nothing here reads a field
of its name; everything else selects.
"""

from __future__ import annotations

import re
from typing import Final, TypeAlias

from ollama_cache_proxy.policy.classify import BARRED
from ollama_cache_proxy.policy.fields import HOP_BY_HOP
from ollama_cache_proxy.policy.messages import FIELD_NAME
from ollama_cache_proxy.policy.reuse import OWN_REQUEST_FIELDS
from ollama_cache_proxy.policy.trace import TRACE

SELECTING: Final = (
    HOP_BY_HOP
    | OWN_REQUEST_FIELDS
    | BARRED.keys()
    | {
        *(b"accept-encoding", b"cache-control", b"content-type", b"expect", b"host", b"origin"),
        *(b"pragma", b"user-agent", b"via"),
        # those of which aiohttp's parser refuses a second one, or which it acts upon (downstream/plain_head.py)
        *(b"content-location", b"content-range", b"etag", b"max-forwards", b"server", b"sec-websocket-key1"),
    }
)
"""The names of fields that something reads before a hit is sent, in lower case; credentials are among them, too."""
COUNT: Final = b"content-length"
"""It tells where the body ends."""
_OWN: Final = b"x-cache"
"""Names that begin with this select, whether they are known or not."""
_PLAIN: Final = bytes([0x09, *range(0x20, 0x7F)])
"""The bytes of a plain value."""
_MOST_LINES: Final = 100
_LONGEST: Final = 8000
"""Bytes of a line that is not compared: aiohttp's parser takes longer ones."""
_MOST_NAMES: Final = 1024
_MOST_BYTES: Final = 1 << 20
"""Bytes of the lines that are remembered."""
_LINE_END: Final = b"\r\n"
_OTHER, _SELECTS, _TRACES, _COUNTS, _INVALID = range(1, 6)
_LENGTH: Final = re.compile(rb"[ \t]*([0-9]{1,8})[ \t]*")
Read: TypeAlias = tuple[bytes, int, bytes]
"""What selects, the Content-Length in bytes, -1 where there is none, and the `traceparent` line."""


class SelectingFields:
    """Reads heads. `credentials` are the names of fields that carry credentials, in lower case, with `-` for `_`."""

    def __init__(self, credentials: frozenset[bytes]) -> None:
        self._selecting = SELECTING | credentials
        self._lines: dict[bytes, bytes] = {}  # of lines that were learnt, what selects: all of it, or nothing
        self._bytes = 0
        self._names: dict[bytes, int] = {}

    def read(self, head: bytes) -> Read | None:
        """Return what of a head, without its empty line, selects the response to a request with this body.

        None is returned where it has a line that is no plain field, or two of those that count the body's bytes or name
        the trace.
        """
        request_line, _, rest = head.partition(_LINE_END)
        lines = rest.split(_LINE_END)
        kept = list(map(self._lines.get, lines))  # None for lines that were not learnt
        length, trace = -1, b""
        for at, line in enumerate(lines):
            if kept[at] is not None:
                continue
            name, colon, value = line.partition(b":")
            kind = (self._names.get(name) or self._kind(name)) if colon else _INVALID
            if kind == _SELECTS:
                kept[at] = line
            elif kind == _INVALID or value.translate(None, _PLAIN) or len(line) > _LONGEST:
                return None
            elif kind == _COUNTS:
                counted = _LENGTH.fullmatch(value)
                if length >= 0 or counted is None:
                    return None
                length = int(counted[1])
            elif kind == _TRACES:
                if trace:
                    return None
                trace, kept[at] = line, TRACE
        if len(lines) > _MOST_LINES:
            return None
        return _LINE_END.join((request_line, *filter(None, kept))), length, trace

    def learn(self, head: bytes) -> None:
        """Remember the lines of a head that `read` has taken, so that those that come again are read sooner."""
        if self._bytes > _MOST_BYTES:
            self._lines.clear()
            self._bytes = 0
        for line in head.split(_LINE_END)[1:]:
            kind = self._names.get(line.partition(b":")[0])
            if kind in (_OTHER, _SELECTS) and line not in self._lines:
                self._lines[line] = line if kind == _SELECTS else b""
                self._bytes += len(line)

    def _kind(self, name: bytes) -> int:
        """Return what a name stands for, and remember it."""
        if FIELD_NAME.fullmatch(name) is None:
            return _INVALID
        low = name.lower()
        plain = low.replace(b"_", b"-")  # a guard in CGI or WSGI reads both alike
        selects = low in self._selecting or plain in self._selecting or plain.startswith(_OWN)
        kind = _SELECTS if selects else {TRACE: _TRACES, COUNT: _COUNTS}.get(low, _OTHER)
        if plain == COUNT != low:
            kind = _SELECTS
        if len(self._names) < _MOST_NAMES:
            self._names[name] = kind
        return kind
