"""Requests that repeat a field which Go's server takes twice (net/http), and aiohttp's parser once.

Such a field goes to the parser under another name, as do those that Go ignores and aiohttp does not, and has its own
again in what the simulator has received. Equal Content-Lengths become one (`fixLength` in Go's `net/http/transfer.go`);
a second Host stays a 400, as there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from aiohttp import web

_END_OF_HEAD: Final = b"\r\n\r\n"
_ONCE: Final = frozenset(
    {b"content-type", b"content-location", b"content-range", b"etag", b"max-forwards", b"server", b"user-agent"}
)
"""Fields of which aiohttp's parser refuses a second one (`SINGLETON_HEADERS`), but those that frame and route."""
_NEVER: Final = frozenset({b"upgrade", b"sec-websocket-key1"})
"""Fields that aiohttp's parser acts upon, and Go's server does not."""
_OTHER_NAME: Final = b"X-As-Sent-"


class Connection(web.RequestHandler):
    """A client connection.

    It looks at heads that arrive in one piece, as those of clients do. Once a request was chunked, pipelined or came in
    pieces, the connection is aiohttp's alone.
    """

    __slots__ = ("_body_left",)

    def __init__(self, server: web.Server, **options: Any) -> None:
        super().__init__(server, **options)
        self._body_left: int | None = 0
        """Bytes of the request's body that are still to come; None where that is not known."""

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if data and self._body_left is not None:  # aiohttp itself calls this without data, to go on reading
            if self._body_left:
                self._body_left = _less(self._body_left, len(data))
            else:
                data, self._body_left = _for_parser(data)
        super().data_received(data)


def as_sent(fields: Iterable[tuple[bytes, bytes]]) -> tuple[tuple[bytes, bytes], ...]:
    """Return the fields that the parser has read, under the names that were sent."""
    return tuple((name.removeprefix(_OTHER_NAME), value) for name, value in fields)


def _for_parser(data: bytes) -> tuple[bytes, int | None]:
    """Return the beginning of a request in a form for the parser, and how much of its body is still to come."""
    head, end, body = data.partition(_END_OF_HEAD)
    request_line, *lines = head.split(b"\r\n")
    seen: dict[bytes, bytes] = {}
    kept: list[bytes] = []
    for line in lines:
        name, _, value = line.partition(b":")
        low, value = name.lower(), value.strip(b" \t")
        if low == b"content-length" and seen.get(low) == value:
            continue
        kept.append(_OTHER_NAME + line if low in _NEVER or (low in _ONCE and low in seen) else line)
        seen.setdefault(low, value)
    length = seen.get(b"content-length", b"0")
    if not end or b"transfer-encoding" in seen or not length.isdigit():
        return data, None
    return b"\r\n".join([request_line, *kept]) + end + body, _less(int(length), len(body))


def _less(left: int, arrived: int) -> int | None:
    """Return how much of a body is still to come; None where another request follows at once."""
    return left - arrived if arrived <= left else None
