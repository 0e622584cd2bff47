"""TLS before what speaks none: a relay on loopback, and the certificates of the tests' own authority."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

from tests.support.servers import data

AUTHORITY = str(data("tls/ca.pem"))
CERTIFICATE = str(data("tls/server.pem"))
KEY = str(data("tls/server.key"))


def trusting() -> ssl.SSLContext:
    """Give what a client needs that trusts the tests' authority."""
    return ssl.create_default_context(cafile=AUTHORITY)


@asynccontextmanager
async def tls_before(url: str) -> AsyncIterator[int]:
    """Listen with TLS on a port and hand on to the host and port of `url`."""
    parts = urlsplit(url)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE, KEY)

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while piece := await reader.read(65_536):
                writer.write(piece)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection(parts.hostname, parts.port)
        await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
