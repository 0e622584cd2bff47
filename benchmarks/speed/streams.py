"""Streams through a server: the delay of each chunk, and the CPU time of 1,000 chunks.

Stub and clients run in this process, on the core of the load, so that both ends of a chunk are timed by one clock.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final, cast

from benchmarks.speed.load import cpu
from benchmarks.speed.subjects import Subject

TOKENS: Final = 200
"""Chunks of a stream."""

INTERVAL: Final = 0.005
"""Seconds between two chunks."""

_HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
_BEGIN: Final = b'{"model":"tiny","created_at":"2026-01-01T00:00:00Z","message":{"role":"assistant","content":'
_LINE: Final = _BEGIN + b'" word"},"at":"%019d","done":false}\n'
_LAST: Final = _BEGIN + b'""},"done":true,"done_reason":"stop","prompt_eval_count":8,"eval_count":200}\n'
_BODY: Final = b'{"model":"tiny","messages":[{"role":"user","content":"hello"}]}'
_TAGS: Final = b'{"models":[{"name":"tiny:latest","model":"tiny:latest","digest":"d1"}]}'
_VERSION: Final = b'{"version":"0.24.0"}'


def chat(number: int) -> bytes:
    """Return the body of a chat whose answer is a stream."""
    return _BODY.replace(b"hello", b"hello %d" % number)


class Stub(asyncio.Protocol):
    """Responds to each POST with a stream of chunks that contain the time of their writing."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Treat each read as one request, since requests are small."""
        if data.startswith(b"GET"):
            body = _TAGS if b"/api/tags" in data else _VERSION
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        elif b"POST" in data:
            self.transport.write(_HEAD)
            asyncio.get_running_loop().call_later(INTERVAL, self.token, TOKENS)

    def token(self, left: int) -> None:
        """Write a chunk, and schedule the next one."""
        if self.transport.is_closing():
            return
        if not left:
            self.transport.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(_LAST), _LAST))
            return
        line = _LINE % time.perf_counter_ns()
        self.transport.write(b"%x\r\n%b\r\n" % (len(line), line))
        asyncio.get_running_loop().call_later(INTERVAL, self.token, left - 1)


async def serve() -> tuple[asyncio.Server, str]:
    """Start the stub in this process; return it and its URL."""
    server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


class Reader(asyncio.Protocol):
    """Sends one request, and records the delay of each chunk in milliseconds."""

    def __init__(self, host: str) -> None:
        self.times: list[float] = []
        self.reads: list[int] = []
        self.ended = asyncio.get_running_loop().create_future()
        self._host = host

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        head = f"POST /api/chat HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n"
        whole = head.encode() + b"Content-Length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
        cast("asyncio.Transport", transport).write(whole)

    def data_received(self, data: bytes) -> None:
        """Read the times of the chunks."""
        now = time.perf_counter_ns()
        stamps = data.split(b'"at":"')[1:]
        self.times += [(now - int(stamp[:19])) / 1e6 for stamp in stamps]
        if stamps:
            self.reads.append(len(stamps))
        if data.endswith(b"0\r\n\r\n") and not self.ended.done():
            self.ended.set_result(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Streamed:
    """One run: milliseconds from the stub to the client, chunks that arrived merged, CPU time of 1,000 chunks."""

    p50: float
    p99: float
    merged: int
    lost: int
    cpu: float


async def run(subject: Subject | None, url: str, streams: int) -> Streamed:
    """Run that many concurrent streams; without a subject directly from the stub."""
    loop = asyncio.get_running_loop()
    host, _, port = url.removeprefix("http://").rpartition(":")
    begun = cpu(subject.pid) if subject else 0.0
    opened = []
    for _ in range(streams):
        opened.append(await loop.create_connection(lambda: Reader(host), host, int(port)))
        await asyncio.sleep(INTERVAL / streams)
    readers = [reader for _, reader in opened]
    await asyncio.wait_for(asyncio.gather(*(reader.ended for reader in readers)), 60)
    used = (cpu(subject.pid) if subject else 0.0) - begun
    for transport, _ in opened:
        transport.close()
    times = sorted(seconds for reader in readers for seconds in reader.times)
    return Streamed(
        p50=times[len(times) // 2],
        p99=times[len(times) * 99 // 100],
        merged=sum(count - 1 for reader in readers for count in reader.reads),
        lost=streams * TOKENS - len(times),
        cpu=used / (len(times) / 1000) * 1000,
    )
