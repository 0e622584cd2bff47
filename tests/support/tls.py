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
EXPIRED = str(data("tls/expired.pem"))
"""Its own authority, of localhost and 127.0.0.1; it was valid on 1 January 2020."""
OTHER_HOST = str(data("tls/other-host.pem"))
"""Its own authority, of redis.example."""
OTHER_KEY = str(data("tls/other.key"))
"""The key of both."""


def trusting() -> ssl.SSLContext:
    """Give what a client needs that trusts the tests' authority."""
    return ssl.create_default_context(cafile=AUTHORITY)


@asynccontextmanager
async def tls_before(url: str, certificate: str = CERTIFICATE, *, mutual: bool = False) -> AsyncIterator[int]:
    """Listen with TLS on a port and hand on to the host and port of `url`; with `mutual` to clients with a certificate."""
    parts = urlsplit(url)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, KEY if certificate == CERTIFICATE else OTHER_KEY)
    if mutual:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(AUTHORITY)

    serving: set[asyncio.Task[None] | None] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while piece := await reader.read(65_536):
                writer.write(piece)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        inner_reader, inner_writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))
        except asyncio.CancelledError:
            return  # the end of the test; as a cancelled task, asyncio's own loop would report it
        finally:
            writer.transport.abort()
            inner_writer.transport.abort()
            serving.discard(asyncio.current_task())

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        left = [task for task in serving if task is not None]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await asyncio.sleep(0)  # an aborted transport of uvloop is closed in the next turn
