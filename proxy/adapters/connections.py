"""Connections to one server over HTTP/1.1: aiohttp's protocol and parser, without the machinery of its sessions.

What a session does beside (redirects, cookies, codings, quoting, tracing) is what a proxy must not do, and takes most
of a small request's time. A connection on which something came that nobody had asked for is not used again: it would be
the next answer.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Final

from aiohttp.client_proto import ResponseHandler

_IDLE: Final = 15.0
"""Seconds for which a connection is kept that nobody uses."""


class Connection(ResponseHandler):
    """aiohttp's protocol. Reading is resumed only where it was paused, and not after every chunk.

    `arrived` is called when something came, or nothing will come any more: before the event loop goes on.
    """

    arrived: Callable[[], None] | None = None

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
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
