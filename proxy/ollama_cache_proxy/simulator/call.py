"""One request and its response, written to the connection byte by byte."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from aiohttp import web

from ollama_cache_proxy.simulator import wire
from ollama_cache_proxy.simulator.state import State
from ollama_cache_proxy.simulator.wire import Fields, Head

DRAINED = 256 << 10
"""Bytes of an unread upload that the server reads before it responds; after a larger one it closes the connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A request as received: `target` as in the request line, `fields` as sent."""

    method: str
    target: str
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes


class Fault(Enum):
    """A fault that a test can inject instead of a response."""

    REFUSE = "the connection closes without a response"
    RESET_MID_BODY = "the head and half of the body, then a reset"
    JUNK = "bytes that are not HTTP"
    TWO_LENGTHS = "two different Content-Length fields"
    STATUS_500 = "a 500 with a JSON error"
    ERROR_LINE = "a stream that ends with an error line"
    NO_END = "a completion that ends without its last part, as after text that is no UTF-8"
    HANG = "no response, ever"


class ClientLeftError(Exception):
    """The client has closed the connection."""


class AlreadySent(web.StreamResponse):
    """A response for aiohttp that has already been sent."""

    def __init__(self, *, keep: bool) -> None:
        super().__init__()
        self._keep = keep

    @property
    def keep_alive(self) -> bool | None:
        """Whether the connection can serve another request."""
        return self._keep

    async def prepare(self, request: web.BaseRequest) -> None:
        """Write nothing."""

    async def write_eof(self, data: Any = b"") -> None:
        """Write nothing."""


@dataclass(slots=True, kw_only=True)
class Call:
    """A request that an endpoint handles."""

    simulator: State
    request: web.BaseRequest
    path: str
    parameter: str = ""
    body: bytes = b""
    fields: Fields = ()
    fault: Fault | None = None
    seconds: float | None = None
    """How long the response takes, None for the delays of the behaviour."""

    keep: bool = True
    finished: bool = False
    streaming: bool = field(default=False, init=False)

    def delay(self, usual: float) -> float:
        """Return the delay in seconds; `usual` is that of the behaviour."""
        return usual if self.seconds is None else self.seconds

    @property
    def http10(self) -> bool:
        """Whether the client speaks HTTP/1.0, which has no chunks."""
        return self.request.version < (1, 1)

    @property
    def transport(self) -> asyncio.Transport:
        """The connection. Raise ClientLeftError if it is closed."""
        transport = self.request.transport
        if transport is None or transport.is_closing():
            raise ClientLeftError
        return transport

    def header(self, name: str) -> str:
        """Return the first field of a name, empty if there is none."""
        return self.request.headers.get(name, "")

    async def read(self, limit: int | None = None) -> bytes:
        """Return the body, or its first bytes up to just over the limit."""
        content = self.request.content
        if self.header("Expect") and not content.is_eof() and not self.http10:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        parts: list[bytes] = []
        size = 0
        while (part := await content.readany()) and (limit is None or size <= limit):
            parts.append(part)
            size += len(part)
        self.keep = self.keep and not getattr(content, "broken", False)
        return b"".join(parts)

    def json(self, status: int, value: Any, *, content_type: str = wire.JSON) -> None:
        """Send a JSON response."""
        self.whole(status, wire.dumps(value).encode(), content_type)

    def error(self, status: int, message: str) -> None:
        """Send an error in Ollama's own form."""
        self.json(status, {"error": message})

    def whole(self, status: int, body: bytes = b"", content_type: str = "", *, fields: Fields = ()) -> None:
        """Send a whole response; without a content type there is no such field."""
        fields = (*self.fields, *fields, *((("Content-Type", content_type),) if content_type else ()))
        large = len(body) > wire.WHOLE_LIMIT
        is_head = self.request.method == "HEAD"
        bodiless = is_head or status == 204
        chunked = large and not self.http10 and not bodiless
        length = None if large or status == 204 else len(body)
        self.keep = self.keep and not (large and self.http10 and not is_head)
        head = Head(
            status=status,
            fields=fields,
            length=length,
            chunked=chunked,
            close=not self.keep,
            keep=self.keep and self.http10,
            http10=self.http10,
        )
        transport = self.transport
        if chunked:
            transport.write(head.render() + wire.chunk(body))
            transport.write(wire.LAST_CHUNK)
        else:
            transport.write(head.render() + (b"" if bodiless else body))
        self.finished = True

    def begin(self, status: int, content_type: str) -> None:
        """Send the head of a response whose body comes in parts."""
        self.keep = self.keep and not self.http10
        head = Head(
            status=status,
            fields=(*self.fields, ("Content-Type", content_type)),
            chunked=not self.http10,
            close=not self.keep,
            http10=self.http10,
        )
        self.transport.write(head.render())
        self.streaming = True

    async def part(self, data: bytes) -> None:
        """Send one part, then let other tasks run."""
        if data:  # an empty chunk would be the last
            self.transport.write(data if self.http10 else wire.chunk(data))
        await asyncio.sleep(0)

    def end(self) -> None:
        """End a response whose body came in parts."""
        if not self.http10:
            self.transport.write(wire.LAST_CHUNK)
        self.finished = True

    async def lines(self, content_type: str, rows: list[dict[str, Any]]) -> None:
        """Send a stream of JSON lines."""
        self.begin(200, content_type)
        for row in rows:
            await self.part(wire.dumps(row).encode() + b"\n")
        self.end()
