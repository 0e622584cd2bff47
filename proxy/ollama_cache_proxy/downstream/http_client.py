"""The client's side of one exchange: aiohttp's server has read the request's head, this module writes the response.

Responses are written as bytes, head included, because aiohttp would rename, add and reorder fields. A client must never
take a partial response for a complete one, so a response that ends early ends with a reset.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final, cast

from aiohttp import web
from aiohttp.http import HttpVersion11

from ollama_cache_proxy.core.errors import ClientLeft, stalled
from ollama_cache_proxy.core.ports import Reserve
from ollama_cache_proxy.downstream.client_connection import ClientConnection, Owner, reset, still_open
from ollama_cache_proxy.downstream.refusals import expects_continue
from ollama_cache_proxy.policy import chunked
from ollama_cache_proxy.policy.messages import Fields, ResponseHead, rendered

_NO_BODY_STATUS: Final = frozenset({204, 304})
_JOIN_UP_TO: Final = 65_536
"""Bytes: a body up to this size is copied into one write with its head or framing; a larger one is not copied."""
_SLICE: Final = 1 << 20
"""Bytes of a response that are written in one call at most."""
_PIECE: Final = 65_536
"""Bytes of a request body that are read in one call at most."""
_PIECE_OF_CHUNKS: Final = 16_384
"""Likewise, of one that is chunked."""


class HttpClient:
    """See ports.Client. Writes one response to the transport."""

    def __init__(self, request: web.BaseRequest, owner: Owner) -> None:
        self._request = request
        self._owner = owner
        self._writer = request.writer
        self._transport = request.transport
        self._connection = cast("ClientConnection", request.protocol)
        self._number = self._connection.gate.serving
        self._buffered: list[bytes] = []
        self._http10 = request.version < HttpVersion11
        expect = request.headers.get("Expect")
        self._expects = expect is not None and not self._http10 and expects_continue(expect)
        self._chunked = False
        self._bodyless = False
        stopped = self._connection.stopped and "Upgrade" in request.headers  # the parser drops what follows
        ambiguous = self._http10 and "Transfer-Encoding" in request.headers  # RFC 9112, section 6.1
        self.keep_alive = request.keep_alive and not stopped and not ambiguous
        self.first_byte_at: float | None = None
        self.sent = 0
        self.ended = False
        self._stalled = False

    @property
    def raw(self) -> bytes | None:
        """See ports.Client. None for a request that closes its connection, is HTTP/1.0 or had an `Expect` field."""
        plain = self.keep_alive and not self._http10 and "Expect" not in self._request.headers
        return self._connection.gate.raw(self._number) if plain else None

    @property
    def address(self) -> str:
        """See ports.Client."""
        peer = None if self._transport is None else self._transport.get_extra_info("peername")
        return str(peer[0]) if isinstance(peer, tuple) else ""

    def drop_raw(self) -> None:
        """Drop the bytes of the request."""
        self._connection.gate.drop_raw(self._number)

    # The request's body.

    async def body(self, limit: int, reserve: Reserve) -> bytes | None:
        length = self._request.content_length
        if length is not None and length > limit:
            return None
        size = 0
        while chunk := await self._read():
            self._buffered.append(chunk)
            size += len(chunk)
            if size > limit or not reserve(len(chunk)):
                return None
        if not reserve(size):  # joining copies it, and what is parsed from it later takes about as much
            return None
        whole = self._buffered[0] if len(self._buffered) == 1 else b"".join(self._buffered)
        self._buffered = [whole]
        return whole

    def stream(self) -> AsyncIterator[bytes] | None:
        return self._stream() if self._buffered or self._request.body_exists else None

    async def _stream(self) -> AsyncIterator[bytes]:
        self._buffered.reverse()
        while self._buffered:
            yield self._buffered.pop()
        while chunk := await self._read():
            yield chunk

    async def _read(self) -> bytes:
        content = self._request.content
        if content.at_eof():
            return b""
        if self._expects:
            self._expects = False
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
        piece = _PIECE
        if self._request.content_length is None:  # it may be in chunks of a byte, each of which takes time
            piece = _PIECE_OF_CHUNKS
            await asyncio.sleep(0)
        try:
            if content.is_eof():
                return content.read_nowait(piece)
            async with asyncio.timeout(self._owner.body_timeout):
                return await content.read(piece)
        except TimeoutError as error:
            self.keep_alive = False
            self._stalled = True
            raise stalled(self._owner.body_timeout) from error
        except (OSError, web.RequestPayloadError) as error:
            self.keep_alive = False
            raise ClientLeft from error

    # The response.

    async def begin(self, head: ResponseHead, length: int | None) -> None:
        self._write(self._head(head, length))
        await self.flush()

    async def write(self, chunk: bytes) -> None:
        if not self.put(chunk, None):
            await self.flush()

    def put(self, chunk: bytes, framed: bytes | None) -> bool:
        transport = self._transport
        if transport is None or transport.is_closing():  # inline, because this runs for every chunk
            return False
        if self._bodyless:
            return not self._connection.congested
        self.sent += len(chunk)
        if framed is not None and self._chunked:
            transport.write(framed)
        else:
            for piece in self._framed(chunk):
                transport.write(piece)
        return not self._connection.congested

    def _framed(self, chunk: bytes, after: bytes = b"") -> tuple[bytes, ...]:
        """Return a chunk, framed if the body is chunked, in pieces to write; a large chunk is not copied."""
        if not self._chunked:
            return (chunk,)
        if len(chunk) <= _JOIN_UP_TO:
            return (chunked.framed(chunk, after),)
        return chunked.size_line(len(chunk)), chunk, chunked.END + after

    async def finish(self, last: bytes = b"") -> None:
        if last and not self._bodyless:
            self.sent += len(last)
            for piece in self._framed(last, chunked.LAST):
                self._write(piece)
        elif self._chunked:
            with suppress(ClientLeft):
                self._write(chunked.LAST)
        self._end()

    async def send(self, head: ResponseHead, body: bytes) -> None:
        lines = self._head(head, len(body))
        if self._bodyless or not body:
            self._write(lines)
        elif len(body) <= _JOIN_UP_TO:
            self.sent += len(body)
            self._write(lines + body)
        else:
            self._write(lines)
            await self._write_slices(body)
        self._end()
        if self._connection.congested:
            await self.flush()

    async def _write_slices(self, body: bytes) -> None:
        """Write a large body as the client takes it: asyncio's loop copies what it cannot send immediately."""
        if len(body) <= _SLICE:
            self.sent += len(body)
            self._write(body)
            return
        view = memoryview(body)
        for begin in range(0, len(body), _SLICE):
            if self._connection.congested:
                await self.flush()
            part = view[begin : begin + _SLICE]
            self.sent += len(part)
            self._write(part)

    def _end(self) -> None:
        """Mark the response as complete; if the connection stays open, the next one may follow."""
        self.ended = True
        if self.keep_alive:
            self._connection.responded()

    def refuse(self, response: bytes) -> None:
        """Send a complete response and close the connection after it."""
        self.keep_alive = False
        self.ended = True
        self._write(response)

    def close(self) -> None:
        """Close the connection if the client stalled in the middle of its request body."""
        if self._stalled and self._transport is not None:
            self._transport.close()

    def close_after_response(self) -> None:
        self.keep_alive = False

    def abort(self) -> None:
        self.keep_alive = False
        self.ended = True
        reset(self._transport)

    def _head(self, head: ResponseHead, length: int | None) -> bytes:
        """Choose the framing of the response (RFC 9112, section 6), and return its head as bytes."""
        self._bodyless = self._request.method == "HEAD" or head.status in _NO_BODY_STATUS
        self._chunked = length is None and not self._bodyless and not self._http10
        if self._owner.draining or not self._request.content.is_eof() or (self._http10 and length is None):
            self.keep_alive = False
        framing: Fields = chunked.FRAMING if self._chunked else ()
        if not self.keep_alive:
            framing += ((b"Connection", b"close"),)
        elif self._http10:
            framing += ((b"Connection", b"keep-alive"),)
        self.first_byte_at = self._owner.clock.monotonic()
        return rendered(head, framing, minor=0 if self._http10 else 1)

    async def flush(self) -> None:
        """Wait until the client has read enough; raise ClientLeft if it has closed."""
        if still_open(self._transport) is None:
            raise ClientLeft
        if not self._connection.congested:
            return
        try:
            await self._writer.drain()
        except ConnectionError as error:
            raise ClientLeft from error

    def _write(self, data: bytes | memoryview) -> None:
        transport = still_open(self._transport)
        if transport is None:
            raise ClientLeft
        transport.write(data)
