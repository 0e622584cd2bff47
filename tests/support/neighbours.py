"""Servers that like the same ports as the proxy, as far as their first answers go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import TypeAlias, cast

Reply: TypeAlias = Callable[[str], bytes | Iterator[bytes] | None]
DRIP = 0.01
"""Seconds between two pieces of an answer that comes in pieces."""

NOT_FOUND = (
    404,
    "Content-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n",
    "404 page not found\n",
)


def _head_and_body(status: int, fields: str, body: str) -> bytes:
    length = "" if status == 204 else f"Content-Length: {len(body)}\r\n"
    return f"HTTP/1.1 {status} X\r\n{fields}{length}\r\n{body}".encode()


def gateway(path: str) -> bytes:
    """Answer as the gateway of Ollama's macOS application does (0.33, internal/proxy/claude_desktop.go)."""
    if path == "/_ollama/health":
        return _head_and_body(204, "X-Ollama-Claude-Gateway: 1\r\n", "")
    if path == "/v1/models":
        return _head_and_body(200, "Content-Type: application/json\r\n", '{"data":[]}')
    return _head_and_body(*NOT_FOUND)


def ollama(path: str) -> bytes:
    """Answer as Ollama does."""
    found = {"/": (200, "", "Ollama is running"), "/api/version": (200, "", '{"version":"0.33.0"}')}
    return _head_and_body(*found.get(path, NOT_FOUND))


def airplay(_path: str) -> bytes:
    """Answer as AirPlay Receiver does: it refuses, and says who it is."""
    return _head_and_body(403, "Server: AirTunes/775.3.1\r\nX-Apple-ProcessingTime: 0\r\n", "")


def look_alike(path: str) -> bytes:
    """Answer 200 to everything, with JSON that is none of the proxy's."""
    return _head_and_body(200, "Content-Type: application/json\r\n", '{"status":"ok"}' if path != "/" else "hello")


class _Connection(asyncio.Protocol):
    def __init__(self, answer: Reply, made: set[asyncio.Transport]) -> None:
        self._answer, self._made, self._read = answer, made, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop has its own
        self._made.add(self._transport)

    def data_received(self, data: bytes) -> None:
        self._read += data
        if b"\r\n\r\n" not in self._read:
            return
        found = self._answer(self._read.split(b" ")[1].decode())
        if isinstance(found, bytes):
            self._transport.write(found)
            self._transport.close()
        elif found is not None:
            self._drip(found)

    def _drip(self, pieces: Iterator[bytes]) -> None:
        if not self._transport.is_closing():
            self._transport.write(next(pieces))
            asyncio.get_running_loop().call_later(DRIP, self._drip, pieces)


@asynccontextmanager
async def listening(answer: Reply, port: int = 0) -> AsyncIterator[int]:
    """Answer each GET on loopback, one to a connection: raw bytes, pieces one by one, or nothing at all (None)."""
    made: set[asyncio.Transport] = set()
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(answer, made), "127.0.0.1", port)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for transport in made:
            transport.abort()
        await server.wait_closed()
