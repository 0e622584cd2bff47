"""Connections to one server over HTTP/1.1: aiohttp's protocol and parser, without the machinery of its sessions.

What a session does beside (redirects, cookies, codings, quoting, tracing) is what a proxy must not do, and takes most
of a small request's time. A connection on which something came that nobody had asked for is not used again: it would be
the next answer.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable
from typing import Final

from aiohttp.client_proto import ResponseHandler

from ollama_cache_proxy.core.ports import Take

_IDLE: Final = 15.0
"""Seconds for which a connection is kept that nobody uses."""
_UNSEEN: Final = 4
"""Reads of an answer that are kept until somebody wants to know where its chunks end."""
_CRLF: Final = b"\r\n"
_END_OF_HEAD: Final = b"\r\n\r\n"
_SIZE: Final = re.compile(rb"[0-9a-fA-F]{1,8}")
_SIZE_LINE: Final = 9
"""Bytes of a line that is not yet ended, at most."""
_BEGINS: Final = {len(begin) + size + len(_CRLF): begin for size in range(1, 0x1000) for begin in (b"%x\r\n" % size,)}
"""What a small chunk begins with, as Go writes it, by the bytes that all of it takes."""


class Chunks:
    """Where the chunks of an answer end (RFC 9112, section 7.1), all of which it is shown, its head first.

    Only the plainest form is followed: what has extensions, or is the last chunk, is lost sight of. `between` says that
    the next one begins with what comes next.
    """

    __slots__ = ("_ends", "_left", "_lost", "_rest", "_within", "between")

    def __init__(self) -> None:
        self._within = True
        self.between = False
        self._lost = False
        self._left = 0
        self._ends = False
        self._rest = b""

    def lose(self) -> None:
        """Know nothing any more."""
        self._lost, self.between = True, False

    def add(self, data: bytes) -> None:
        """Take in what came next."""
        if self._lost:
            return
        data = self._rest + data
        if self._within:
            head, ended, data = data.partition(_END_OF_HEAD)
            if not ended:
                self._rest = head
                return
            self._within = False
        at = 0
        while at < len(data):
            if self._left:
                step = min(self._left, len(data) - at)
                self._left -= step
                at += step
                continue
            end = data.find(_CRLF, at)
            if end < 0:
                break
            self._line(data[at:end])
            at = end + len(_CRLF)
        self._rest = data[at:]
        self._lost = self._lost or len(self._rest) > _SIZE_LINE
        self.between = not (self._lost or self._left or self._ends or self._rest)

    def _line(self, text: bytes) -> None:
        """Read the line that begins a chunk, or the empty one that ends it."""
        if self._ends:
            self._ends, self._lost = False, self._lost or bool(text)
        elif _SIZE.fullmatch(text) and (size := int(text, 16)):
            self._ends, self._left = True, size
        else:
            self._lost = True


def alone(data: bytes) -> bytes | None:
    """Give what a small chunk holds that these bytes are, all of them, written as Go writes one; None for all else."""
    begin = _BEGINS.get(len(data))
    if begin is None or not (data.startswith(begin) and data.endswith(_CRLF)):
        return None
    return data[len(begin) : -len(_CRLF)]


class Connection(ResponseHandler):
    """aiohttp's protocol. Reading is resumed only where it was paused, and not after every chunk.

    `arrived` is called when something came, or nothing will come any more: before the event loop goes on.
    """

    arrived: Callable[[], None] | None = None

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.begins()

    def begins(self) -> None:
        """Expect a new answer."""
        self._chunks = Chunks()
        self._unseen: list[bytes] = []
        self._take: Take | None = None
        self._take_next: Take | None = None

    def bypass_parser(self, take: Take, full: Callable[[], None]) -> None:
        """Give `take` each chunk that comes by itself, past the parser. When it wants no more, `full` is called."""
        self._take, self._full = take, full
        self._look()

    def parse_all(self) -> None:
        """Let the parser see all that comes, again."""
        self._take = self._take_next = None

    def _look(self) -> None:
        """See whether the parser is between two chunks, if that matters."""
        if self._take is None:
            return
        for data in self._unseen:
            self._chunks.add(data)
        self._unseen.clear()
        self._take_next = self._take if self._chunks.between else None

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._take_next is not None and (chunk := alone(data)) is not None:
            if not self._take_next(chunk, data):
                self.parse_all()
                self._full()
            return
        if len(self._unseen) < _UNSEEN:
            self._unseen.append(data)
        else:
            self._chunks.lose()
        self._look()
        super().data_received(data)
        if self.arrived is not None:
            self.arrived()

    def connection_lost(self, exc: BaseException | None) -> None:
        """See asyncio.Protocol."""
        super().connection_lost(exc)
        if self.arrived is not None:
            self.arrived()

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002 - aiohttp's signature
        """See BaseProtocol."""
        if self._reading_paused:
            super().resume_reading(resume_parser)


class Connections:
    """Opens connections, and keeps those that can be used again. `tls` is None for plain HTTP."""

    def __init__(self, host: str, port: int, *, tls: ssl.SSLContext | None) -> None:
        self._address = (host, port)
        self._tls = tls
        self._idle: list[tuple[Connection, float]] = []
        self._used: set[Connection] = set()
        self._timer: asyncio.TimerHandle | None = None

    def take(self) -> Connection | None:
        """Give the connection that was given back last, if there is one that still stands."""
        while self._idle:
            connection, _ = self._idle.pop()
            if connection.is_connected() and not connection.should_close:
                self._used.add(connection)
                return connection
            connection.close()
        return None

    async def open(self) -> Connection:
        """Open one; raises OSError."""
        loop = asyncio.get_running_loop()
        host, port = self._address
        _, connection = await loop.create_connection(
            lambda: Connection(loop), host, port, ssl=self._tls, server_hostname=host if self._tls else None
        )
        self._used.add(connection)
        return connection

    def give_back(self, connection: Connection) -> None:
        """Keep a connection whose last answer was read to its end."""
        self._used.discard(connection)
        if connection.should_close or not connection.is_connected():
            connection.close()
            return
        connection.begins()
        loop = asyncio.get_running_loop()
        self._idle.append((connection, loop.time()))
        if self._timer is None:
            self._timer = loop.call_later(_IDLE, self._tidy)

    def discard(self, connection: Connection) -> None:
        """Close a connection at once: what was asked over it is not wanted any more."""
        self._used.discard(connection)
        connection.close()

    def close(self) -> None:
        """Close all of them."""
        if self._timer is not None:
            self._timer.cancel()
        for connection in [*self._used, *(connection for connection, _ in self._idle)]:
            connection.abort()
        self._used.clear()
        self._idle.clear()

    def _tidy(self) -> None:
        loop = asyncio.get_running_loop()
        old = [connection for connection, since in self._idle if loop.time() - since >= _IDLE]
        self._idle = [(connection, since) for connection, since in self._idle if loop.time() - since < _IDLE]
        for connection in old:
            connection.close()
        self._timer = loop.call_later(_IDLE, self._tidy) if self._idle else None
