"""A reader of HTTP/1 that guesses nothing: what these bytes are by RFC 9112, or that they are nothing.

It is the measure for what the proxy sends on, to either side: where this reads no message, none may come out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(rb"(%b) ([\x21-\x7e]+) HTTP/1\.([01])" % TOKEN)
_FIELD = re.compile(
    rb"(%b):[ \t]*((?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?)[ \t]*" % TOKEN
)
_QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*"'
_CHUNK = re.compile(rb"([0-9A-Fa-f]+)(?:[ \t]*;[ \t]*%b(?:[ \t]*=[ \t]*(?:%b|%b))?)*" % (TOKEN, TOKEN, _QUOTED))
_ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)(.*)", re.DOTALL)
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(?::[0-9]*)?")

Lines = list[tuple[bytes, bytes]]


class End(Enum):
    """How the bytes end: after a whole message, in the middle of one, or with what can become none."""

    WHOLE = "whole"
    OPEN = "open"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Read:
    """One request as an origin server has it: the target without scheme and authority, the body without its framing."""

    method: bytes
    target: bytes
    body: bytes


class _OpenError(Exception):
    """More would have to come."""


class _WrongError(Exception):
    """Nothing that comes could mend it."""


def read(data: bytes) -> tuple[list[Read], End]:
    """Give the whole requests at the beginning of `data`, and how what follows them ends."""
    found: list[Read] = []
    try:
        while data or not found:
            while data.startswith(b"\r\n"):  # section 2.2
                data = data[2:]
            request, data, last = _one(data)
            found.append(request)
            if last:
                break
    except _OpenError:
        return found, End.OPEN
    except _WrongError:
        return found, End.WRONG
    return found, End.WHOLE


def head(data: bytes) -> tuple[bytes, bytes, bytes, Lines]:
    """Give method, target, minor version and fields of a head, without the empty line that ends it."""
    line, *lines = data.split(b"\r\n")
    match = _REQUEST_LINE.fullmatch(line)
    fields = [_FIELD.fullmatch(text) for text in lines]
    if match is None or not all(fields):
        raise _WrongError
    return match[1], match[2], match[3], [(field[1].lower(), field[2]) for field in fields if field]


def framed_once(data: bytes) -> bool:
    """Whether a head that ends in its empty line is well-formed, with one Host and no more than one framing."""
    try:
        _, _, _, fields = head(data.removesuffix(b"\r\n\r\n"))
    except _WrongError:
        return False
    return len(_values(fields, b"host")) == 1 and sum(name in _FRAMING for name, _ in fields) <= 1


_FRAMING = (b"content-length", b"transfer-encoding")


def _values(fields: Lines, name: bytes) -> list[bytes]:
    return [value for key, value in fields if key == name]


def _one(data: bytes) -> tuple[Read, bytes, bool]:
    text, ended, rest = data.partition(b"\r\n\r\n")
    if not ended:
        raise _OpenError if _may_go_on(data) else _WrongError
    method, target, minor, fields = head(text)
    hosts = _values(fields, b"host")
    if len(hosts) > 1 or (not hosts and minor == b"1") or not all(_HOST.fullmatch(host) for host in hosts):
        raise _WrongError
    body, rest = _body(fields, minor, rest)
    options = b",".join(_values(fields, b"connection")).lower().replace(b"\t", b" ").split(b",")
    options = [option.strip() for option in options]
    last = b"close" in options or (minor == b"0" and b"keep-alive" not in options)
    return Read(method, _origin_form(method, target), body), rest, last


def _may_go_on(data: bytes) -> bool:
    """Whether an unfinished head is well-formed as far as it goes."""
    lines = data.removesuffix(b"\r").split(b"\r\n")[:-1]
    try:
        if lines:
            head(b"\r\n".join(lines))
    except _WrongError:
        return False
    return True


def _origin_form(method: bytes, target: bytes) -> bytes:
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is not None:
        if not absolute[1] or not _HOST.fullmatch(absolute[1]):
            raise _WrongError
        path = absolute[2]
        return path if path.startswith(b"/") else b"/" + path
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
        return target
    raise _WrongError


def _body(fields: Lines, minor: bytes, rest: bytes) -> tuple[bytes, bytes]:
    codings, lengths = (_values(fields, name) for name in (b"transfer-encoding", b"content-length"))
    if codings:
        if lengths or minor == b"0" or len(codings) > 1 or codings[0].lower() != b"chunked":
            raise _WrongError
        return _chunks(rest)
    if not lengths:
        return b"", rest
    if len(lengths) > 1 or not re.fullmatch(rb"[0-9]+", lengths[0]):
        raise _WrongError
    length = int(lengths[0])
    if len(rest) < length:
        raise _OpenError
    return rest[:length], rest[length:]


def _chunks(rest: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        line, ended, rest = rest.partition(b"\r\n")
        if not ended:
            raise _OpenError
        match = _CHUNK.fullmatch(line)
        if match is None:
            raise _WrongError
        size = int(match[1], 16)
        if not size:
            return body, _trailers(rest)
        if not b"\r\n".startswith(rest[size : size + 2]):
            raise _WrongError
        if len(rest) < size + 2:
            raise _OpenError
        if rest[size : size + 2] != b"\r\n":
            raise _WrongError
        body, rest = body + rest[:size], rest[size + 2 :]


def _trailers(rest: bytes) -> bytes:
    while True:
        line, ended, rest = rest.partition(b"\r\n")
        if not ended:
            raise _OpenError
        if not line:
            return rest
        if not _FIELD.fullmatch(line):
            raise _WrongError


_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2}) ([^\0\r\n]*)")
_KEPT_FIELD = re.compile(rb"(%b):[ \t]*([^\0\r\n]*?)[ \t]*" % TOKEN)
"""Other control bytes in a value may be kept (RFC 9110, section 5.5)."""
_NO_BODY = (204, 304)
_EARLY = range(100, 200)


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, its field names in lower case; `rest` is what follows it."""

    status: int
    reason: bytes
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes
    rest: bytes


def answer(data: bytes, *, to_head: bool = False) -> Answer | End:
    """Give the final answer at the beginning of all the bytes of a connection that the upstream then closed."""
    try:
        status, reason, minor, fields, rest = _final_head(data)
        if to_head or status in _NO_BODY:
            body = b""
        elif any(name in _FRAMING for name, _ in fields):
            body, rest = _body(fields, minor, rest)
        else:
            body, rest = rest, b""
    except _OpenError:
        return End.OPEN
    except _WrongError:
        return End.WRONG
    return Answer(status, reason, tuple(fields), body, rest)


def _final_head(data: bytes) -> tuple[int, bytes, bytes, Lines, bytes]:
    """Give status, reason, minor version and fields after the interim answers, and what follows."""
    status = 100
    while status in _EARLY:
        text, ended, data = data.partition(b"\r\n\r\n")
        if not ended:
            raise _OpenError
        line, *lines = text.split(b"\r\n")
        match = _STATUS_LINE.fullmatch(line)
        found = [_KEPT_FIELD.fullmatch(text) for text in lines]
        if match is None or not all(found) or match[2] == b"101":
            raise _WrongError
        status = int(match[2])
    return status, match[3], match[1], [(field[1].lower(), field[2]) for field in found if field], data
