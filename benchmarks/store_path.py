"""The way to Redis as a process of its own, on which things go wrong as its standard input says: `make chaos`.

The line `be NAME` makes it so (see `Path`), for connections that are open too; `be through` heals it. It ends with its
input.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import Enum
from random import Random
from typing import Final

from tests.support.odd_servers import HTTP

SLOW: Final = 0.2
"""Seconds that each piece of commands takes on a slow path."""
DROPPED: Final = 1 / 20
"""The share of connections that a path drops."""
_ALERT: Final = b"\x15\x03\x03\x00\x02\x02\x0a"
"""What a TLS server says to what is no TLS: a fatal alert, unexpected_message (RFC 8446, section 6)."""
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER, on for no time: closing sends a reset (socket(7))."""


class Path(Enum):
    """What becomes of connections to Redis."""

    THROUGH = "through"
    SPEAKS_TLS = "speaks-tls"
    RESETS = "resets"
    UNREAD = "unread"
    SPEAKS_HTTP = "speaks-http"
    SILENT = "silent"
    SLOW = "slow"
    DROPS = "drops"


_RELAYS: Final = (Path.THROUGH, Path.SLOW, Path.DROPS)


class Way:
    """Relays connections to a Redis on loopback, or does to them what `path` says."""

    def __init__(self, redis: int, source: Random) -> None:
        self.path = Path.THROUGH
        self._redis, self._source = redis, source
        self._open: set[asyncio.StreamWriter] = set()

    def be(self, path: Path) -> None:
        """Change it; connections end where what they were is no relay, or what they are to be is none."""
        ends = self.path not in _RELAYS or path not in _RELAYS
        self.path = path
        for writer in tuple(self._open) if ends else ():
            _reset(writer)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection."""
        self._open.add(writer)
        try:
            with suppress(OSError):
                await self._behave(reader, writer)
        finally:
            self._open.discard(writer)
            writer.close()

    async def _behave(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        match self.path:
            case Path.RESETS:
                _reset(writer)
            case Path.SPEAKS_TLS | Path.SPEAKS_HTTP:
                await reader.read(1 << 16)
                writer.write(_ALERT if self.path is Path.SPEAKS_TLS else HTTP)
                await writer.drain()
            case Path.UNREAD:
                await reader.read(1)
                writer.write(b"+OK\r\n")
                await writer.drain()
                _reset(writer)
            case Path.SILENT:
                while await reader.read(1 << 16):
                    pass
            case _:
                await self._relay(reader, writer)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, to_redis = await asyncio.open_connection("127.0.0.1", self._redis)
        dropped = self._source.random() < DROPPED
        self._open.add(to_redis)
        try:

            async def before_commands() -> None:
                if self.path is Path.SLOW:
                    await asyncio.sleep(SLOW)
                elif self.path is Path.DROPS and (dropped or self._source.random() < DROPPED):
                    _reset(writer)

            back = asyncio.ensure_future(_copied(behind, writer, _at_once))
            await _copied(reader, to_redis, before_commands)
            to_redis.close()
            await back
        finally:
            self._open.discard(to_redis)
            to_redis.close()


async def _at_once() -> None:
    """Wait for nothing."""


async def _copied(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, before: Callable[[], Awaitable[None]]
) -> None:
    """Copy what comes until its end; `before` is awaited before each piece."""
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            await before()
            writer.write(data)
            await writer.drain()
    writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with suppress(OSError, ValueError):  # it may be closed already
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


async def main(port: int, redis: int) -> None:
    """Serve until the input ends; answer each of its lines with `done`."""
    way = Way(redis, Random(port))  # noqa: S311 - not secret
    server = await asyncio.start_server(way.serve, "127.0.0.1", port)
    sys.stderr.write(f"The way to Redis begins at {port}\n")
    sys.stderr.flush()
    while line := await asyncio.to_thread(sys.stdin.readline):
        way.be(Path(line.split()[1]))
        sys.stdout.write("done\n")
        sys.stdout.flush()
    way.be(Path.RESETS)
    server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--redis", type=int, required=True)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.port, arguments.redis))
