"""An upstream made of bytes: it reads one request, records it as it came, and answers what the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

Script = Callable[["Conversation"], Awaitable[None]]


@dataclass(slots=True)
class Conversation:
    """One connection; `head` holds the bytes of the request's head, `body` what came of its body."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    head: bytes = b""
    body: bytes = b""

    @property
    def request_line(self) -> bytes:
        return self.head.split(b"\r\n", 1)[0]

    @property
    def lines(self) -> list[bytes]:
        return self.head.split(b"\r\n")[1:-2]

    def values(self, name: bytes) -> list[bytes]:
        pairs = (line.partition(b":") for line in self.lines)
        return [value.strip() for key, _, value in pairs if key.lower() == name.lower()]

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def read_body(self) -> bytes:
        if self.values(b"Transfer-Encoding"):
            while size := int(await self.reader.readline(), 16):
                self.body += (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readline()
        else:
            self.body = await self.reader.readexactly(int((self.values(b"Content-Length") or [b"0"])[0]))
        return self.body


@dataclass(slots=True)
class ByteUpstream:
    """The listening side. `seen` are the conversations so far; what the proxy looks at of itself is answered so.

    With an `authorization`, all that comes without it is a 401, and `looks` are the requests of the proxy's own.
    """

    script: Script
    url: str = ""
    authorization: str = ""
    refusal: str = "401 Unauthorized"
    seen: list[Conversation] = field(default_factory=list)
    looks: list[Conversation] = field(default_factory=list)
    connections: int = 0
    left: asyncio.Event = field(default_factory=asyncio.Event)


TAGS = b'{"models":[{"name":"tiny:latest","model":"tiny:latest","digest":"d1"},{"name":"all-minilm:latest","digest":"d2"}]}'
VERSION = b'{"version":"0.24.0"}'
LOADED = b'{"models":[]}'


def whole(body: bytes, *, status: str = "200 OK", kind: str = "application/json; charset=utf-8") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@asynccontextmanager
async def byte_upstream(script: Script, *, authorization: str = "") -> AsyncIterator[ByteUpstream]:
    upstream = ByteUpstream(script, authorization=authorization)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.connections += 1
        try:
            while True:
                talk = Conversation(reader, writer, head=await reader.readuntil(b"\r\n\r\n"))
                own = {b"/api/tags": TAGS, b"/api/version": VERSION, b"/api/ps": LOADED}
                is_own = talk.head.startswith(b"GET ") and talk.head.split()[1] in own
                (upstream.looks if is_own else upstream.seen).append(talk)
                if upstream.authorization and talk.values(b"Authorization") != [upstream.authorization.encode()]:
                    await talk.read_body()
                    await talk.write(whole(b"no", status=upstream.refusal, kind="text/plain"))
                    continue
                if is_own:
                    await talk.write(whole(own[talk.head.split()[1]]))
                    continue
                await script(talk)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            upstream.left.set()
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 20)
    upstream.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield upstream
    finally:
        server.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                await server.wait_closed()


def answering(data: bytes) -> Script:
    """Read the whole request, then answer these bytes."""

    async def script(talk: Conversation) -> None:
        await talk.read_body()
        await talk.write(data)

    return script
