"""Requests as Go's server reads them, in place of aiohttp's parser: bytes in, heads and bodies out.

The rules are those of Go 1.26: `net/http/server.go` (`readRequest`), `net/http/request.go`, `net/http/transfer.go`,
`net/http/internal/chunked.go`, `net/textproto/reader.go` and `net/url/url.go`. What Go refuses becomes a request with
the field `REFUSAL`, whose value is the status, and after a blank the text of the answer.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from aiohttp.http import HttpVersion, RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

REFUSAL: Final = b":refusal"
_MAX_HEAD: Final = (1 << 20) + 4096
_MAX_CHUNK_LINE: Final = 4096
_MAX_EXCESS: Final = 16 * 1024
"""Bytes of chunk lines beyond what their chunks allow."""
_LIMIT: Final = 1 << 16
_URL: Final = URL("/")
_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z ]+")
_VALUE: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_VERSION: Final = re.compile(rb"HTTP/([0-9])\.([0-9])")
_HOST: Final = re.compile(rb"[0-9A-Za-z!$%&()*+,\-.:;=\[\]'_~]*")
_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")
_SCHEME: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*:")
_BROKEN_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_USER: Final = re.compile(rb"[0-9A-Za-z\-._:~!$&'()*+,;=%@]*")
_AUTHORITY: Final = re.compile(rb"(?:\[[0-9A-Fa-f:.]*\]|[0-9A-Za-z\-._~!$&'()*+,;=<>\"\x80-\xff]*)(?::[0-9]*)?")
_SIZE: Final = re.compile(rb"[0-9A-Fa-f]{1,16}")
_BAD: Final = "400 Bad Request"
_ONE_ONE: Final = HttpVersion(1, 1)


class RefusedError(Exception):
    """Go refuses the request, with this status and text."""

    def __init__(self, text: str = _BAD) -> None:
        super().__init__(text)
        self.text = text


class _BrokenBodyError(Exception):
    """The body is not what its chunks say."""


class Body(StreamReader):
    """A body; `broken` once its chunks were none, so that nothing can follow it."""

    broken = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A request target; `path` is None for `*`, still escaped, and empty where the target has none."""

    path: bytes | None
    query: bytes | None = None
    host: bytes = b""
    before: bytes = b""
    """Scheme and authority, as they were sent."""

    @property
    def decoded(self) -> str:
        """The path as gin matches it."""
        return unquote_to_bytes(self.path or b"").decode("utf-8", "replace")


def read_target(raw: bytes) -> Target:
    """Return what Go makes of a target (`url.ParseRequestURI`); raise RefusedError."""
    if not raw or _CONTROL.search(raw):
        raise RefusedError
    if raw == b"*":
        return Target(path=None)
    scheme = _SCHEME.match(raw)
    rest, mark, query = raw[scheme.end() if scheme else 0 :].partition(b"?")
    asked = query if mark else None
    if not rest.startswith(b"/"):
        if scheme is None:
            raise RefusedError
        return Target(path=b"", query=asked)
    host = b""
    if scheme is not None and rest.startswith(b"//"):
        authority, slash, path = rest[2:].partition(b"/")
        user, _, host = authority.rpartition(b"@")
        rest = slash + path
        if not _USER.fullmatch(user) or not _AUTHORITY.fullmatch(host):
            raise RefusedError
    if _BROKEN_ESCAPE.search(rest):
        raise RefusedError
    before = raw[: len(raw) - len(rest) - len(mark + query)]
    return Target(path=rest, query=asked, host=host, before=before)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    method: bytes
    target: bytes
    version: HttpVersion
    fields: tuple[tuple[bytes, bytes], ...]
    host: bytes
    length: int | None
    """Bytes of the body; None for chunks."""
    close: bool


def _values(fields: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value for key, value in fields if key.lower() == name]


def contains_token(values: Iterable[bytes], token: bytes) -> bool:
    """Return whether one of these comma-separated values is the token (`HeaderValuesContainsToken`)."""
    return any(part.strip(b" \t").lower() == token for value in values for part in value.split(b","))


def expects_continue(value: str) -> bool:
    """Return whether an Expect asks for a 100 (`hasToken` in `net/http/header.go`)."""
    return re.search(r"(?:^|[ ,\t])100-continue(?:$|[ ,\t])", value, re.IGNORECASE) is not None


def _request_line(line: bytes) -> tuple[bytes, bytes, HttpVersion]:
    method, one, rest = line.partition(b" ")
    target, two, proto = rest.partition(b" ")
    version = _VERSION.fullmatch(proto)
    if not (one and two and version and _TOKEN.fullmatch(method)):
        raise RefusedError
    read_target(target)
    return method, target, HttpVersion(int(version[1]), int(version[2]))


def _fields(lines: list[bytes]) -> tuple[tuple[bytes, bytes], ...]:
    """Return the fields; a line that begins with white space goes on with the one before it."""
    found: list[bytes] = []
    for line in lines:
        if line[:1] in (b" ", b"\t"):
            if not found:
                raise RefusedError
            found[-1] += b" " + line.strip(b" \t")
        elif b":" not in line:
            raise RefusedError
        else:
            found.append(line.strip(b" \t"))
    pairs = []
    for line in found:
        name, _, value = line.partition(b":")
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise RefusedError
        pairs.append((name, value.lstrip(b" \t")))
    return tuple(pairs)


def _read_length(fields: tuple[tuple[bytes, bytes], ...], version: HttpVersion) -> int | None:
    """Return the length of the body, None for chunks (`parseTransferEncoding`, `fixLength`)."""
    codings, lengths = _values(fields, b"transfer-encoding"), _values(fields, b"content-length")
    chunked = bool(codings) and version >= _ONE_ONE
    if chunked and [value.lower() for value in codings] != [b"chunked"]:
        raise RefusedError("501 Not Implemented\nUnsupported transfer encoding")
    texts = {text.strip() for text in lengths}
    if len(texts) > 1 or any(not text.isdigit() or int(text) >= 1 << 63 for text in texts):
        raise RefusedError
    return None if chunked else int(texts.pop()) if texts else 0


def _hold(head: _Head, hosts: list[bytes]) -> None:
    """Apply the rules of `conn.readRequest`, in its order."""
    if head.version.major != 1:
        raise RefusedError("505 HTTP Version Not Supported: unsupported protocol version")
    if not hosts and head.version >= _ONE_ONE and head.method != b"CONNECT":
        raise RefusedError(f"{_BAD}: missing required Host header")
    if hosts and not _HOST.fullmatch(hosts[0]):
        raise RefusedError(f"{_BAD}: malformed Host header")
    if not all(_TOKEN.fullmatch(name) for name, _ in head.fields):
        raise RefusedError(f"{_BAD}: invalid header name")


def _read_head(line: tuple[bytes, bytes, HttpVersion], lines: list[bytes]) -> _Head:
    method, target, version = line
    fields = _fields(lines)
    hosts = _values(fields, b"host")
    if len(hosts) > 1:
        raise RefusedError
    connection = _values(fields, b"connection")
    close = contains_token(connection, b"close")
    if version < _ONE_ONE:
        close = close or not contains_token(connection, b"keep-alive")
    head = _Head(
        method=method,
        target=target,
        version=version,
        fields=fields,
        host=read_target(target).host or (hosts[0] if hosts else b""),
        length=_read_length(fields, version),
        close=close,
    )
    _hold(head, hosts)
    return head


class GoReader:
    """Stands in for aiohttp's parser on one connection."""

    def __init__(self, protocol: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._protocol = protocol
        self._loop = loop
        self._buffer = bytearray()
        self._line: tuple[bytes, bytes, HttpVersion] | None = None
        self._lines: list[bytes] = []
        self._head_size = 0
        self._last_method = b""
        self._body: Body | None = None
        self._left: int | None = 0
        """Bytes of the body, or of the chunk, that are still to come; None before a chunk's size."""
        self._chunked = self._close = False
        self._excess = 0
        self._trailer = False
        self._ended = False

    def feed_data(self, data: bytes) -> tuple[list[tuple[RawRequestMessage, Any]], bool, bytes]:
        """Return the heads that have been read, each with its body."""
        self._buffer += data
        read: list[tuple[RawRequestMessage, Any]] = []
        while not self._ended and (self._go_on_with_body() if self._body is not None else self._go_on_with_head(read)):
            pass
        if self._ended:
            self._buffer.clear()
        return read, False, b""

    def _take_line(self, limit: int) -> bytes | None:
        """Return the next line without its end, None if it is not all there. Raise RefusedError over the limit."""
        at = self._buffer.find(b"\n")
        if (at if at >= 0 else len(self._buffer)) > limit:
            raise RefusedError("431 Request Header Fields Too Large")
        if at < 0:
            return None
        line = bytes(self._buffer[:at])
        del self._buffer[: at + 1]
        return line

    def _go_on_with_head(self, read: list[tuple[RawRequestMessage, Any]]) -> bool:
        """Read one line; return whether there may be more to read."""
        try:
            if self._line is None and not self._lines and self._last_method == b"POST":
                self._skip_line_ends()
            line = self._take_line(_MAX_HEAD - self._head_size)
            if line is None:
                return False
            self._head_size += len(line) + 1
            line = line.removesuffix(b"\r")
            if self._line is None:
                self._line = _request_line(line)
            elif line:
                self._lines.append(line)
            else:
                read.append(self._begin(_read_head(self._line, self._lines)))
        except RefusedError as refused:
            self._ended = True
            read.append(
                (_message(b"GET", b"/", _ONE_ONE, ((REFUSAL, refused.text.encode()),), {}, close=True), EMPTY_PAYLOAD)
            )
        return True

    def _skip_line_ends(self) -> None:
        """Skip up to four bytes of line ends behind a POST, as old clients send them."""
        skipped = len(self._buffer[:4]) - len(self._buffer[:4].lstrip(b"\r\n"))
        del self._buffer[:skipped]
        self._last_method = b"" if self._buffer else self._last_method

    def _begin(self, head: _Head) -> tuple[RawRequestMessage, Any]:
        """Return a head with its body, which begins to be read."""
        self._line, self._lines, self._head_size, self._last_method = None, [], 0, head.method
        known: dict[str, list[str]] = {}
        for name, value in head.fields:
            known.setdefault(name.decode("latin-1").title(), []).append(value.decode("utf-8", "surrogateescape"))
        known["Host"] = [head.host.decode("utf-8", "surrogateescape")]
        message = _message(head.method, head.target, head.version, head.fields, known, close=head.close)
        expect = known.get("Expect", [""])[0]
        fails = bool(expect) and not expects_continue(expect)  # a 417, and nothing is read any more
        self._close = head.close
        if fails or head.length == 0:
            self._ended = fails or head.close
            return message, EMPTY_PAYLOAD
        self._body = body = Body(self._protocol, _LIMIT, loop=self._loop)
        self._left, self._chunked, self._excess, self._trailer = head.length, head.length is None, 0, False
        return message, body

    def _go_on_with_body(self) -> bool:
        """Read a piece of the body; return whether there may be more to read."""
        body = self._body
        assert body is not None  # noqa: S101 - for the type checker
        try:
            return self._chunk(body) if self._chunked else self._piece(body)
        except (_BrokenBodyError, RefusedError):
            body.broken = True
            self._ended = True
            self._end(body)
            return False

    def _piece(self, body: Body) -> bool:
        left = self._left or 0
        data = bytes(self._buffer[:left])
        del self._buffer[: len(data)]
        self._left = left - len(data)
        if data:
            body.feed_data(data)
        if not self._left and not self._chunked:
            self._end(body)
            return True
        return not self._left

    def _end(self, body: Body) -> None:
        self._body = None
        self._ended = self._ended or self._close
        body.feed_eof()

    def _chunk(self, body: Body) -> bool:
        """Read a chunk's size, its bytes, the line end behind them, or the trailer."""
        if self._trailer:
            return self._read_trailer(body)
        if self._left is None:
            line = self._take_line(_MAX_CHUNK_LINE)
            if line is None:
                return False
            self._left = self._size(line)
            self._trailer = self._left == 0
            return True
        if self._left:
            return self._piece(body)
        if len(self._buffer) < 2:
            return False
        if self._buffer[:2] != b"\r\n":
            raise _BrokenBodyError
        del self._buffer[:2]
        self._left = None
        return True

    def _size(self, line: bytes) -> int:
        if not line.endswith(b"\r") or b"\r" in line[:-1] or len(line) >= _MAX_CHUNK_LINE:
            raise _BrokenBodyError
        text = line[:-1].rstrip(b" \t").partition(b";")[0]
        if not _SIZE.fullmatch(text):
            raise _BrokenBodyError
        size = int(text, 16)
        self._excess = max(0, self._excess + len(line) + 1 - 16 - 2 * size)
        if self._excess > _MAX_EXCESS:
            raise _BrokenBodyError
        return size

    def _read_trailer(self, body: Body) -> bool:
        """Read the lines behind the last chunk, which are dropped."""
        if len(self._buffer) < 2:
            return False
        if self._buffer[:2] == b"\r\n":
            del self._buffer[:2]
            self._end(body)
            return True
        if self._buffer.find(b"\r\n\r\n") < 0:  # Go looks for it before it reads a line
            if len(self._buffer) > _MAX_CHUNK_LINE:
                raise _BrokenBodyError
            return False
        lines = []
        while line := (self._take_line(_MAX_HEAD) or b"").removesuffix(b"\r"):
            lines.append(line)
        _fields(lines)
        self._end(body)
        return True

    def pause_reading(self) -> None:
        """See aiohttp's parser; likewise the others."""

    def message_consumed(self) -> None:
        """Do nothing."""

    def feed_eof(self) -> None:
        """Do nothing: a body that breaks off shows when the connection is lost."""

    def set_upgraded(self, val: bool) -> None:  # noqa: FBT001 - aiohttp's signature
        """Do nothing."""


def _message(  # noqa: PLR0913 - what a head has
    method: bytes,
    target: bytes,
    version: HttpVersion,
    fields: tuple[tuple[bytes, bytes], ...],
    known: Mapping[str, list[str]],
    *,
    close: bool,
) -> RawRequestMessage:
    headers = CIMultiDictProxy(CIMultiDict([(name, value) for name, values in known.items() for value in values]))
    path = target.decode("utf-8", "surrogateescape")
    return RawRequestMessage(
        method.decode(), path, version, headers, fields, close, None, upgrade=False, chunked=False, url=_URL
    )
