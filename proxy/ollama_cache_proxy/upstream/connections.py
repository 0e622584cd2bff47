"""A pool of HTTP/1.1 connections to one server: aiohttp's protocol and parser, without its client sessions.

A proxy must not do what a session adds (redirects, cookies, content codings, quoting, tracing), and that takes most of
the time of a small request. A connection that received unexpected data is not used again: the data would be taken for
the next response.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Final

from aiohttp import StreamReader
from aiohttp.client_proto import ResponseHandler

from ollama_cache_proxy.core.ports import Sink
from ollama_cache_proxy.policy.chunked import Chunks, small_chunk, whole_chunks

_IDLE_SECONDS: Final = 15.0
"""Seconds after which an unused connection is closed."""
_MAX_UNSCANNED: Final = 4
"""Reads of a response that are kept, to be scanned for chunk boundaries only if `skip_parser` is called."""


class Connection(ResponseHandler):
    """One connection: aiohttp's protocol, which resumes reading only if it was paused, and not after every chunk.

    `content` is the body that is being read. It is known here so that it fails when the parser fails: aiohttp would
    leave its reader waiting.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._reading_held = False
        self.expect_response()

    def expect_response(self) -> None:
        """Prepare for a new response."""
        self.content: StreamReader | None = None
        self._chunks = Chunks()
        self._unscanned: list[bytes] | None = []
        self._sink: Sink | None = None
        self._skipping: asyncio.Future[bool] | None = None

    def skip_parser(self, sink: Sink) -> asyncio.Future[bool] | None:
        """Hand incoming chunks to `sink` without parsing them; all parsed data must have been read before.

        Return a future; None if the next data cannot begin a chunk. The future is True when `sink` accepted every
        chunk and the parser has the rest, or the connection was lost; False when `sink` wants no more for now.
        """
        for data in self._unscanned or ():
            self._chunks.add(data)
        self._unscanned = None
        if not self._chunks.between:
            return None
        self._sink, self._skipping = sink, asyncio.get_running_loop().create_future()
        return self._skipping

    def parse_all(self) -> None:
        """Feed all data to the parser again."""
        self._sink = None

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        sink = self._sink
        if sink is not None:
            if (chunk := small_chunk(data)) is not None:
                if not sink(chunk, data):
                    self._end_skipping(took_all=False)
                return
            data = self._take_whole_chunks(data, sink)
            if not data:
                return
        if self._unscanned is None:
            self._chunks.add(data)
        elif len(self._unscanned) < _MAX_UNSCANNED:
            self._unscanned.append(data)
        else:
            self._chunks.lose()
        super().data_received(data)

    def _take_whole_chunks(self, data: bytes, sink: Sink) -> bytes:
        """Hand complete chunks to `sink`; return the bytes that are left for the parser."""
        at = 0
        for chunk, framed in whole_chunks(data):
            at += len(framed)
            if not sink(chunk, framed):
                self._end_skipping(took_all=False)
                return data[at:]
        if at < len(data):
            self._end_skipping(took_all=True)
        return data[at:]

    def _end_skipping(self, *, took_all: bool) -> None:
        self._sink = None
        if self._skipping is not None and not self._skipping.done():  # its waiter may have been cancelled
            self._skipping.set_result(took_all)

    def set_exception(self, exc: BaseException, exc_cause: BaseException | None = None) -> None:
        """See aiohttp's DataQueue. Fail the reader of the body too, not only the reader of the head."""
        super().set_exception(exc, *(() if exc_cause is None else (exc_cause,)))
        if self.content is not None and not self.content.is_eof():
            self.content.set_exception(exc)

    def connection_lost(self, exc: BaseException | None) -> None:
        """See asyncio.Protocol."""
        super().connection_lost(exc)
        if self._sink is not None:
            self._end_skipping(took_all=True)

    def pause_reading(self) -> None:
        """See aiohttp's BaseProtocol."""
        self._reading_held = True
        super().pause_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002 - aiohttp's signature
        """See aiohttp's BaseProtocol."""
        if self._reading_held:
            self._reading_held = False
            super().resume_reading(resume_parser)


class Connections:
    """A pool: opens connections and keeps those that can be used again. `tls` is None for plain HTTP."""

    def __init__(self, host: str, port: int, *, tls: ssl.SSLContext | None) -> None:
        self._address = (host, port)
        self._tls = tls
        self._idle: list[tuple[Connection, float]] = []
        self._in_use: set[Connection] = set()
        self._outdated: set[Connection] = set()  # those of them that were opened with another context
        self._timer: asyncio.TimerHandle | None = None

    @property
    def over_tls(self) -> bool:
        """Whether the server is spoken to over TLS."""
        return self._tls is not None

    def use_tls(self, tls: ssl.SSLContext) -> None:
        """Open connections with another context from now on; those that are open are not used again."""
        self._tls = tls
        self._outdated |= self._in_use
        self.close_idle()

    def close_idle(self) -> None:
        """Close the idle connections."""
        idle, self._idle = self._idle, []
        for connection, _ in idle:
            connection.close()

    def take_idle(self) -> Connection | None:
        """Return the idle connection that was released last and is still open; None if there is none."""
        while self._idle:
            connection, _ = self._idle.pop()
            if connection.is_connected() and not connection.should_close:
                self._in_use.add(connection)
                return connection
            connection.close()
        return None

    async def open(self) -> Connection:
        """Return a new connection; raise OSError if it cannot be opened."""
        loop = asyncio.get_running_loop()
        host, port = self._address
        tls = self._tls
        _, connection = await loop.create_connection(
            lambda: Connection(loop), host, port, ssl=tls, server_hostname=host if tls else None
        )
        self._in_use.add(connection)
        if tls is not self._tls:
            self._outdated.add(connection)
        return connection

    def release(self, connection: Connection) -> None:
        """Keep a connection for reuse; its last response was read to the end."""
        self._in_use.discard(connection)
        if connection.should_close or not connection.is_connected() or connection in self._outdated:
            self._outdated.discard(connection)
            connection.close()
            return
        connection.expect_response()
        loop = asyncio.get_running_loop()
        self._idle.append((connection, loop.time()))
        if self._timer is None:
            self._timer = loop.call_later(_IDLE_SECONDS, self._close_old)

    def discard(self, connection: Connection) -> None:
        """Close a connection whose response is no longer wanted."""
        self._in_use.discard(connection)
        self._outdated.discard(connection)
        connection.close()

    def close(self) -> None:
        """Close all connections."""
        if self._timer is not None:
            self._timer.cancel()
        for connection in [*self._in_use, *(connection for connection, _ in self._idle)]:
            connection.abort()
        self._in_use.clear()
        self._idle.clear()

    def _close_old(self) -> None:
        loop = asyncio.get_running_loop()
        old = [connection for connection, since in self._idle if loop.time() - since >= _IDLE_SECONDS]
        self._idle = [(connection, since) for connection, since in self._idle if loop.time() - since < _IDLE_SECONDS]
        for connection in old:
            connection.close()
        self._timer = loop.call_later(_IDLE_SECONDS, self._close_old) if self._idle else None
